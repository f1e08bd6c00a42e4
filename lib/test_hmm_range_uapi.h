/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Interface of the module test_hmm_range. It is private to the module and its tests,
 * and so not with the other headers for user space.
 */
#ifndef _LIB_TEST_HMM_RANGE_UAPI_H
#define _LIB_TEST_HMM_RANGE_UAPI_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define HMM_RANGE_TEST_DEVICE	"/dev/hmm_range_test"

/* The most pages that a mirror can have, and that one call can read or write. */
#define HMM_RANGE_TEST_PAGES	262144
#define HMM_RANGE_TEST_BUFFER	4096

/* Access that is asked for, and the state of a page: bits of a byte at struct ...cmd.ptr. */
#define HMM_RANGE_TEST_VALID	0x01
#define HMM_RANGE_TEST_WRITE	0x02
#define HMM_RANGE_TEST_ERROR	0x04
/* The CPU maps it with an entry for more than a page. */
#define HMM_RANGE_TEST_HUGE	0x08

/* The invalidate callback sleeps before it returns; the second, with the lock held. */
#define HMM_RANGE_TEST_STALL		0x01
#define HMM_RANGE_TEST_STALL_LOCKED	0x02

/**
 * struct hmm_range_test_cmd - what to do
 * @addr: first address; a multiple of the page size
 * @npages: how many pages
 * @ptr: buffer of the caller, of a byte for each page, or of the pages' contents
 * @flags: HMM_RANGE_TEST_WRITE; HMM_RANGE_TEST_STALL or _LOCKED, or 0
 * @timeout_ms: passed to the helper
 */
struct hmm_range_test_cmd {
	__u64 addr;
	__u64 npages;
	__u64 ptr;
	__u32 flags;
	__u32 timeout_ms;
};

/**
 * struct hmm_range_test_stats - what a mirror has seen since it was registered
 * @hits: calls of the invalidate callback
 * @refused: of these, those that must not block, and would have had to
 * @stalled: callbacks that sleep now, because of HMM_RANGE_TEST_STALL
 * @waiting: tasks that are in a call of the helper now
 * @commits: successful ones
 * @restarts: commits that found the range not valid any more
 * @mismatches: pages committed that the CPU's page tables do not map, or not for
 *	writing, though the mirror does
 * @compared: pages compared with the page tables
 */
struct hmm_range_test_stats {
	__u64 hits;
	__u64 refused;
	__u64 stalled;
	__u64 waiting;
	__u64 commits;
	__u64 restarts;
	__u64 mismatches;
	__u64 compared;
};

/* addr, npages: mirror these pages of the caller. One mirror for each open file. */
#define HMM_RANGE_TEST_REGISTER		_IOW('h', 0x80, struct hmm_range_test_cmd)
#define HMM_RANGE_TEST_UNREGISTER	_IO('h', 0x81)
/* timeout_ms: wait until the whole of the mirror is valid. */
#define HMM_RANGE_TEST_WAIT		_IOW('h', 0x82, struct hmm_range_test_cmd)
/* Returns whether the mirror was not hit since the last successful WAIT. */
#define HMM_RANGE_TEST_IS_VALID		_IO('h', 0x83)
/* addr, npages, flags (WRITE), timeout_ms: fault in and mirror. */
#define HMM_RANGE_TEST_POPULATE		_IOW('h', 0x84, struct hmm_range_test_cmd)
/* addr, npages, timeout_ms: the CPU's view, to ptr, a byte for each page. */
#define HMM_RANGE_TEST_SNAPSHOT		_IOW('h', 0x85, struct hmm_range_test_cmd)
/* addr, npages: the mirror's view, to ptr, a byte for each page. */
#define HMM_RANGE_TEST_ENTRIES		_IOW('h', 0x86, struct hmm_range_test_cmd)
/* addr, npages, timeout_ms: access through the mirror, which is populated as needed. */
#define HMM_RANGE_TEST_READ		_IOW('h', 0x87, struct hmm_range_test_cmd)
#define HMM_RANGE_TEST_WRITE_PAGES	_IOW('h', 0x88, struct hmm_range_test_cmd)
/* flags: each callback sleeps from now on, for 20 seconds or until called with 0. */
#define HMM_RANGE_TEST_SET_STALL	_IOW('h', 0x89, struct hmm_range_test_cmd)
#define HMM_RANGE_TEST_STATS		_IOR('h', 0x8a, struct hmm_range_test_stats)

#endif /* _LIB_TEST_HMM_RANGE_UAPI_H */
