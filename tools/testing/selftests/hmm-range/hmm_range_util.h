/* SPDX-License-Identifier: GPL-2.0 */
/* What the tests of hmm-range have in common: calls to the module test_hmm_range. */
#ifndef HMM_RANGE_UTIL_H
#define HMM_RANGE_UTIL_H

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../../../../lib/test_hmm_range_uapi.h"

#define PAGE		((unsigned long)getpagesize())
#define HUGE		(2UL << 20)

#define VALID		HMM_RANGE_TEST_VALID
#define WRITABLE	HMM_RANGE_TEST_WRITE

#ifndef __NR_pidfd_open
#define __NR_pidfd_open		434
#endif
#ifndef __NR_process_mrelease
#define __NR_process_mrelease	448
#endif

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

static inline char *map_anon(size_t pages)
{
	return mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
		    -1, 0);
}

static inline long ms_since(const struct timespec *then)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (now.tv_sec - then->tv_sec) * 1000 + (now.tv_nsec - then->tv_nsec) / 1000000;
}

static inline void sleep_ms(int ms)
{
	usleep(ms * 1000);
}

/* The pages of the mirror that are in a state; the others are not mirrored. */
static inline int count(int fd, const void *addr, size_t pages, uint8_t state)
{
	uint8_t states[HMM_RANGE_TEST_BUFFER];
	int n = 0;

	if (entries(fd, addr, pages, states))
		return -1;
	for (size_t i = 0; i < pages; i++) {
		if (states[i] == state)
			n++;
		else if (states[i])
			return -1;
	}
	return n;
}

/* Another process, which makes one call for us when it is told to. */
struct helper {
	pid_t pid;
	int pipe;
};

struct request {
	int (*call)(int fd, void *mem);
	int fd;
	void *mem;
};

static inline bool start_helper(struct helper *helper)
{
	struct request request;
	int ends[2];

	if (pipe(ends))
		return false;
	helper->pid = fork();
	if (!helper->pid) {
		close(ends[1]);
		if (read(ends[0], &request, sizeof(request)) != sizeof(request))
			_exit(0);
		_exit(-request.call(request.fd, request.mem));
	}
	close(ends[0]);
	helper->pipe = ends[1];
	return helper->pid > 0;
}

static inline void tell_helper(struct helper *helper, int (*call)(int fd, void *mem), int fd,
			       void *mem)
{
	struct request request = { .call = call, .fd = fd, .mem = mem };

	if (write(helper->pipe, &request, sizeof(request)) != sizeof(request))
		perror("tell_helper");
}

/* The call's result, or the signal that killed the helper; 0 if it was told nothing. */
static inline int end_helper(struct helper *helper)
{
	int status;

	if (!helper->pid)
		return 0;
	close(helper->pipe);
	if (waitpid(helper->pid, &status, 0) != helper->pid)
		return -1;
	helper->pid = 0;
	return WIFEXITED(status) ? -WEXITSTATUS(status) : WTERMSIG(status);
}

#endif /* HMM_RANGE_UTIL_H */
