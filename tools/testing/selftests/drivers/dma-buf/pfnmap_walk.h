/* SPDX-License-Identifier: GPL-2.0 */
/*
 * System calls and files that walk the page tables of a process, each with the result
 * that is right for a VM_PFNMAP mapping: that nothing is mapped there, or an error.  A
 * walker that looks for a page behind a huge entry shows in the kernel's log.
 */
#ifndef PFNMAP_WALK_H
#define PFNMAP_WALK_H

/* For ARRAY_SIZE() */
#include "../../kselftest.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/fs.h>
#include <linux/mempolicy.h>
#include <linux/userfaultfd.h>

#define WALK_PAGE	((unsigned long)getpagesize())
/* What is looked at page by page: more takes long. */
#define WALK_MAX	(8UL << 20)

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE	25
#endif
#ifndef MADV_SOFT_OFFLINE
#define MADV_SOFT_OFFLINE	101
#endif

static inline size_t walk_max(size_t size)
{
	return size < WALK_MAX ? size : WALK_MAX;
}

/* Copies the lines of a file in /proc/self that are of the mapping at an address. */
static bool walk_lines(const char *path, const char *at, char *lines, size_t max)
{
	char line[512], begin[32];
	bool inside = false, found = false;
	FILE *f = fopen(path, "r");
	size_t n = 0;

	if (!f)
		return false;
	snprintf(begin, sizeof(begin), "%lx", (unsigned long)at);
	lines[0] = '\0';
	while (fgets(line, sizeof(line), f)) {
		/* Of a mapping's lines, the first alone begins with an address. */
		if (strspn(line, "0123456789abcdef") >= 5)
			inside = !strncmp(line, begin, strlen(begin));
		if (inside && n + strlen(line) < max)
			n += sprintf(lines + n, "%s", line);
		found |= inside;
	}
	fclose(f);
	return found;
}

static bool walk_smaps(char *at, size_t size)
{
	char lines[4096];

	return walk_lines("/proc/self/smaps", at, lines, sizeof(lines)) &&
	       strstr(lines, "\nRss:                   0 kB\n");
}

static bool walk_smaps_rollup(char *at, size_t size)
{
	char lines[4096];

	walk_lines("/proc/self/smaps_rollup", at, lines, sizeof(lines));
	return true;
}

static bool walk_numa_maps(char *at, size_t size)
{
	char lines[4096];

	return walk_lines("/proc/self/numa_maps", at, lines, sizeof(lines)) &&
	       !strstr(lines, " N0=") && !strstr(lines, " N1=");
}

static bool walk_pagemap(char *at, size_t size)
{
	size_t n = walk_max(size) / WALK_PAGE;
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	uint64_t *entries = calloc(n, sizeof(*entries));
	bool right = pread(fd, entries, n * 8, (uintptr_t)at / WALK_PAGE * 8) ==
		     (ssize_t)n * 8;

	for (size_t i = 0; i < n; i++)
		right &= !(entries[i] >> 62);
	free(entries);
	close(fd);
	return right;
}

static bool walk_pagemap_scan(char *at, size_t size)
{
	struct page_region region;
	struct pm_scan_arg arg = {
		.size = sizeof(arg),
		.start = (uintptr_t)at,
		.end = (uintptr_t)at + size,
		.vec = (uintptr_t)&region,
		.vec_len = 1,
		.category_anyof_mask = PAGE_IS_PRESENT | PAGE_IS_WRITTEN | PAGE_IS_FILE |
				       PAGE_IS_HUGE | PAGE_IS_SOFT_DIRTY,
		.return_mask = PAGE_IS_PRESENT,
	};
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	bool right = ioctl(fd, PAGEMAP_SCAN, &arg) == 0;

	close(fd);
	return right;
}

static bool walk_clear_refs(char *at, size_t size)
{
	bool right = true;

	for (char c = '1'; c <= '4'; c++) {
		int fd = open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC);

		right &= write(fd, &c, 1) == 1;
		close(fd);
	}
	return right;
}

static bool walk_mincore(char *at, size_t size)
{
	size_t n = walk_max(size) / WALK_PAGE;
	unsigned char *vec = malloc(n);
	bool right = !mincore(at, n * WALK_PAGE, vec) && !vec[0] &&
		     !memcmp(vec, vec + 1, n - 1);

	free(vec);
	return right;
}

static bool walk_madvise(char *at, size_t size)
{
	static const struct {
		int advice, error;
	} cases[] = {
		{ MADV_COLD, EINVAL }, { MADV_PAGEOUT, EINVAL }, { MADV_FREE, EINVAL },
		{ MADV_DONTNEED, EINVAL }, { MADV_COLLAPSE, EINVAL }, { MADV_MERGEABLE, 0 },
		{ MADV_POPULATE_READ, EINVAL }, { MADV_POPULATE_WRITE, EINVAL },
		{ MADV_HWPOISON, EFAULT }, { MADV_SOFT_OFFLINE, EFAULT },
	};
	bool right = true;

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		int ret = madvise(at, size, cases[i].advice);

		if (ret < 0)
			ret = errno;
		right &= ret == cases[i].error;
	}
	return right;
}

static bool walk_process_madvise(char *at, size_t size)
{
	struct iovec iov = { .iov_base = at, .iov_len = size };
	int pidfd = syscall(SYS_pidfd_open, getpid(), 0);
	bool right = true;

	for (int advice = MADV_COLD; advice <= MADV_PAGEOUT; advice++)
		right &= syscall(SYS_process_madvise, pidfd, &iov, 1, advice, 0) < 0 &&
			 errno == EINVAL;
	close(pidfd);
	return right;
}

static bool walk_move_pages(char *at, size_t size)
{
	void *pages[2] = { at, at + size - WALK_PAGE };
	int nodes[2] = { 0, 0 }, status[2] = { 0, 0 };
	bool right;

	right = !syscall(SYS_move_pages, 0, 2UL, pages, NULL, status, 0) &&
		status[0] < 0 && status[1] < 0;
	status[0] = 0;
	status[1] = 0;
	return syscall(SYS_move_pages, 0, 2UL, pages, nodes, status, MPOL_MF_MOVE) >= 0 &&
	       status[0] < 0 && status[1] < 0 && right;
}

/* Which node the memory is on is no matter. */
static bool walk_mbind(char *at, size_t size)
{
	bool right = true;

	for (unsigned long node = 1; node <= 2; node <<= 1) {
		right &= !syscall(SYS_mbind, at, size, MPOL_BIND, &node, 8UL,
				  MPOL_MF_STRICT);
		right &= !syscall(SYS_mbind, at, size, MPOL_BIND, &node, 8UL,
				  MPOL_MF_STRICT | MPOL_MF_MOVE);
	}
	return !syscall(SYS_mbind, at, size, MPOL_DEFAULT, NULL, 0UL, 0) && right;
}

static bool walk_get_mempolicy(char *at, size_t size)
{
	int node;

	return syscall(SYS_get_mempolicy, &node, NULL, 0UL, at,
		       MPOL_F_NODE | MPOL_F_ADDR) < 0 && errno == EFAULT;
}

static bool walk_mlock(char *at, size_t size)
{
	return !mlock(at, size) && !munlock(at, size);
}

static bool walk_gup(char *at, size_t size)
{
	struct iovec remote = { .iov_base = at, .iov_len = 8 };
	uint64_t data;
	struct iovec local = { .iov_base = &data, .iov_len = 8 };
	int fd = open("/proc/self/mem", O_RDWR | O_CLOEXEC);
	bool right;

	right = process_vm_readv(getpid(), &local, 1, &remote, 1, 0) < 0 &&
		errno == EFAULT;
	right &= pread(fd, &data, 8, (uintptr_t)at) < 0 && errno == EIO;
	close(fd);
	return right;
}

static bool walk_userfaultfd(char *at, size_t size)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = {
		.range = { .start = (uintptr_t)at, .len = size },
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};
	int fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	bool right = !ioctl(fd, UFFDIO_API, &api) && ioctl(fd, UFFDIO_REGISTER, &reg) < 0 &&
		     errno == EINVAL;

	close(fd);
	return right;
}

static bool walk_fork(char *at, size_t size)
{
	pid_t pid = fork();
	int status = -1;

	if (!pid)
		_exit(0);
	return waitpid(pid, &status, 0) == pid && !status;
}

static const struct walker {
	const char *name;
	bool (*right)(char *at, size_t size);
	bool numa;	/* only where the kernel has NUMA */
} walkers[] = {
	{ "smaps", walk_smaps },
	{ "smaps_rollup", walk_smaps_rollup },
	{ "numa_maps", walk_numa_maps, .numa = true },
	{ "pagemap", walk_pagemap },
	{ "PAGEMAP_SCAN", walk_pagemap_scan },
	{ "clear_refs", walk_clear_refs },
	{ "mincore", walk_mincore },
	{ "madvise", walk_madvise },
	{ "process_madvise", walk_process_madvise },
	{ "move_pages", walk_move_pages, .numa = true },
	{ "mbind", walk_mbind, .numa = true },
	{ "get_mempolicy", walk_get_mempolicy, .numa = true },
	{ "mlock", walk_mlock },
	{ "get_user_pages", walk_gup },
	{ "userfaultfd", walk_userfaultfd },
	{ "fork", walk_fork },
};

#define NR_WALKERS	ARRAY_SIZE(walkers)

/**
 * struct walk_stress - a mapping that comes and goes while it is walked
 * @fd: what to map
 * @at: where, in address space that is nobody else's
 * @size: how much
 * @offset: from where on
 * @walks: how many walks there have been
 * @stop: end walking
 */
struct walk_stress {
	int fd;
	char *at;
	size_t size;
	off_t offset;
	volatile unsigned long walks;
	volatile bool stop;
};

/* Each walker is at it so often, however long that takes. */
#define WALK_ROUNDS	4

static void *walk_all_the_time(void *arg)
{
	struct walk_stress *s = arg;

	while (!s->stop) {
		walkers[s->walks % NR_WALKERS].right(s->at, s->size);
		s->walks++;
	}
	return NULL;
}

/* Accesses to every 2 MiB and to the end, for writing if @write. */
static void walk_touch(const struct walk_stress *s, bool write)
{
	for (size_t i = 0; i < s->size; i += 2UL << 20) {
		volatile char *p = s->at + i;
		char c = *p;

		if (write)
			*p = c;
	}
	(void)*(volatile char *)(s->at + s->size - 1);
}

static bool walk_map(const struct walk_stress *s, size_t from, size_t to, bool mapped)
{
	char *at = s->at + from;

	return at == (mapped ?
		      mmap(at, to - from, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
			   s->fd, s->offset + from) :
		      mmap(at, to - from, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS |
			   MAP_NORESERVE | MAP_FIXED, -1, 0));
}

/*
 * Maps, faults, protects and unmaps, whole and in part, while another thread walks.
 * Returns whether all of that worked; leaves the address space mapped.
 */
static bool walk_under_stress(struct walk_stress *s)
{
	size_t half = s->size / 2 & ~(WALK_PAGE - 1);
	pthread_t thread;
	bool ok;

	if (pthread_create(&thread, NULL, walk_all_the_time, s))
		return false;
	do {
		ok = walk_map(s, 0, s->size, true);
		/* Walks split huge entries, faults bring them back. */
		for (int i = 0; ok && i < 50; i++)
			walk_touch(s, i % 2);
		ok = ok && !mprotect(s->at, s->size, PROT_NONE) &&
		     !mprotect(s->at, s->size, PROT_READ | PROT_WRITE);
		if (ok)
			walk_touch(s, true);
		ok = ok && walk_map(s, half, s->size, false) &&
		     walk_map(s, half, s->size, true);
		if (ok)
			walk_touch(s, true);
		ok = ok && walk_map(s, 0, s->size, false);
	} while (ok && s->walks < WALK_ROUNDS * NR_WALKERS);
	s->stop = true;
	pthread_join(thread, NULL);
	return walk_map(s, 0, s->size, true) && ok;
}

#endif /* PFNMAP_WALK_H */
