/* SPDX-License-Identifier: GPL-2.0 */
/* What hmm_range_bench asks of its module. */
#ifndef HMM_RANGE_BENCH_H
#define HMM_RANGE_BENCH_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define BENCH_DEVICE	"/dev/hmm_range_bench"
#define BENCH_MOST	10000

/**
 * struct bench_cmd - what to do
 * @addr: BENCH_SUBSCRIBE: of the first subscription; the others are every @stride bytes.
 *	BENCH_POPULATE: of the first page, in the first subscription
 * @npages: pages of each, or to populate
 * @stride: bytes from one to the next
 * @count: how many subscriptions; which one to wait on, stall or release; rounds
 * @helper: populate with the helper; as every driver does it, otherwise
 * @usecs: BENCH_STALL: how long callbacks sleep; -1: until BENCH_RELEASE
 * @ns: out: how long it took
 */
struct bench_cmd {
	__u64 addr;
	__u64 npages;
	__u64 stride;
	__u32 count;
	__u32 helper;
	__s64 usecs;
	__u64 ns;
};

#define BENCH_SUBSCRIBE	_IOWR('B', 1, struct bench_cmd)
#define BENCH_POPULATE	_IOWR('B', 2, struct bench_cmd)
#define BENCH_WAIT	_IOWR('B', 3, struct bench_cmd)
#define BENCH_STALL	_IOWR('B', 4, struct bench_cmd)
#define BENCH_RELEASE	_IOWR('B', 5, struct bench_cmd)
/* Returns how many callbacks sleep now. */
#define BENCH_STALLED	_IO('B', 6)
/* addr, npages, helper: a subscription, or a tracker, for one populate. */
#define BENCH_FAULT	_IOWR('B', 7, struct bench_cmd)
/* Returns the size of struct mmu_notifier_range. */
#define BENCH_SIZE	_IO('B', 8)

#endif /* HMM_RANGE_BENCH_H */
