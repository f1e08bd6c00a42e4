/* SPDX-License-Identifier: GPL-2.0 */
/* What the tests of hmm-range have in common: calls to the module test_hmm_range. */
#ifndef HMM_RANGE_UTIL_H
#define HMM_RANGE_UTIL_H

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../../../../lib/test_hmm_range_uapi.h"

#define PAGE		4096UL
#define HUGE		(2UL << 20)

#define VALID		HMM_RANGE_TEST_VALID
#define WRITABLE	HMM_RANGE_TEST_WRITE

/* Longer than anything takes that is not stuck. */
#define LONG_MS		15000

/* The ioctl's result, or -errno. */
static inline int call(int fd, unsigned long request, const void *addr, size_t npages,
		       const void *ptr, uint32_t flags, uint32_t timeout_ms)
{
	struct hmm_range_test_cmd cmd = {
		.addr = (uintptr_t)addr,
		.npages = npages,
		.ptr = (uintptr_t)ptr,
		.flags = flags,
		.timeout_ms = timeout_ms,
	};
	int ret = ioctl(fd, request, &cmd);

	return ret < 0 ? -errno : ret;
}

static inline int mirror_register(int fd, const void *addr, size_t npages)
{
	return call(fd, HMM_RANGE_TEST_REGISTER, addr, npages, NULL, 0, 0);
}

static inline int mirror_unregister(int fd)
{
	return ioctl(fd, HMM_RANGE_TEST_UNREGISTER) ? -errno : 0;
}

static inline int mirror_wait(int fd, uint32_t timeout_ms)
{
	return call(fd, HMM_RANGE_TEST_WAIT, NULL, 0, NULL, 0, timeout_ms);
}

static inline int mirror_is_valid(int fd)
{
	int ret = ioctl(fd, HMM_RANGE_TEST_IS_VALID);

	return ret < 0 ? -errno : ret;
}

static inline int populate(int fd, const void *addr, size_t npages, uint32_t flags)
{
	return call(fd, HMM_RANGE_TEST_POPULATE, addr, npages, NULL, flags, LONG_MS);
}

static inline int snapshot(int fd, const void *addr, size_t npages, uint8_t *states)
{
	return call(fd, HMM_RANGE_TEST_SNAPSHOT, addr, npages, states, 0, LONG_MS);
}

static inline int entries(int fd, const void *addr, size_t npages, uint8_t *states)
{
	return call(fd, HMM_RANGE_TEST_ENTRIES, addr, npages, states, 0, 0);
}

static inline int device_read(int fd, const void *addr, size_t npages, void *to)
{
	return call(fd, HMM_RANGE_TEST_READ, addr, npages, to, 0, LONG_MS);
}

static inline int device_write(int fd, const void *addr, size_t npages, const void *from)
{
	return call(fd, HMM_RANGE_TEST_WRITE_PAGES, addr, npages, from, 0, LONG_MS);
}

static inline int set_stall(int fd, uint32_t flags)
{
	return call(fd, HMM_RANGE_TEST_SET_STALL, NULL, 0, NULL, flags, 0);
}

static inline struct hmm_range_test_stats stats(int fd)
{
	struct hmm_range_test_stats stats = { };

	if (ioctl(fd, HMM_RANGE_TEST_STATS, &stats))
		perror("HMM_RANGE_TEST_STATS");
	return stats;
}

static inline int open_device(void)
{
	int fd = open(HMM_RANGE_TEST_DEVICE, O_RDWR | O_CLOEXEC);

	if (fd < 0)
		perror(HMM_RANGE_TEST_DEVICE);
	return fd;
}

static inline int write_text(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);
	ssize_t n = fd < 0 ? -1 : write(fd, text, strlen(text));

	if (fd >= 0)
		close(fd);
	return n == (ssize_t)strlen(text) ? 0 : -1;
}

#endif /* HMM_RANGE_UTIL_H */
