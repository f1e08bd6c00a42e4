/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the tests of udmabuf share: memfds of each kind, buffers made of them,
 * and a look at what the kernel holds afterwards.
 *
 * Helpers assert with ksft_exit_fail_msg(): a machine on which a memfd cannot be
 * made is not one on which a test has passed.
 */
#ifndef UDMABUF_UTIL_H
#define UDMABUF_UTIL_H

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <linux/dma-buf.h>
#include <linux/memfd.h>
#include <linux/udmabuf.h>

#include "../../kselftest.h"

#define PAGE	((unsigned long)getpagesize())
#define HUGE	(2UL << 20)	/* also where a huge entry of a page table is larger */
#define H	(HUGE / PAGE)	/* pages of a huge page */

/* Where a memfd's pages come from. */
enum memory {
	SHMEM,		/* the smallest pages */
	THP,		/* shmem, transparent huge pages of 2 MiB */
	HUGETLB,	/* 2 MiB pages */
};

#define die(what) \
	ksft_exit_fail_msg("%s:%d: %s: %s\n", __FILE__, __LINE__, what, strerror(errno))

/* The value of a line "name value" or "name: value" of a file; -1 if there is none. */
static inline long file_value(const char *path, const char *name)
{
	char line[256];
	long value = -1;
	size_t len = strlen(name);
	FILE *f = fopen(path, "r");

	if (!f)
		die(path);
	while (value < 0 && fgets(line, sizeof(line), f))
		if (!strncmp(line, name, len) && (line[len] == ' ' || line[len] == ':'))
			value = strtol(line + len + 1, NULL, 10);
	fclose(f);
	return value;
}

/* All that a file has: a number. */
static inline long number_in(const char *path)
{
	FILE *f = fopen(path, "r");
	long n;

	if (!f || fscanf(f, "%ld", &n) != 1)
		die(path);
	fclose(f);
	return n;
}

/* The size of a huge entry of a page table: HUGE, or more where pages are large. */
static inline size_t entry_size(void)
{
	return number_in("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size");
}

/* shmem's transparent huge pages are as large as a huge entry. */
static inline bool has_thp(void)
{
	return entry_size() == HUGE;
}

#define NO_THP	"transparent huge pages are larger than 2 MiB here"

/* Mappings of page frames get huge entries, and addresses for them, on 64 bits alone. */
static inline bool has_huge_entries(void)
{
	return sizeof(long) == 8;
}

#define NO_HUGE_ENTRIES	"32 bits have no huge entries of page frames"

static inline bool has_numa(void)
{
	return !access("/proc/self/numa_maps", F_OK);
}

static inline int udmabuf_open(void)
{
	int fd = open("/dev/udmabuf", O_RDWR | O_CLOEXEC);

	if (fd < 0)
		die("/dev/udmabuf");
	return fd;
}

/* A memfd with F_SEAL_SHRINK, its pages not there yet; or -errno. */
static inline int memfd_try(enum memory memory, size_t size)
{
	unsigned int flags = MFD_ALLOW_SEALING | MFD_CLOEXEC;
	int fd, err;

	if (memory == HUGETLB)
		flags |= MFD_HUGETLB | MFD_HUGE_2MB;
	fd = memfd_create("udmabuf", flags);
	if (fd < 0)
		return -errno;
	if (!ftruncate(fd, size) && !fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK))
		return fd;
	err = errno;
	close(fd);
	return -err;
}

static inline int memfd_new(enum memory memory, size_t size)
{
	int fd = memfd_try(memory, size);

	errno = -fd;
	if (fd < 0)
		die("memfd");
	return fd;
}

static inline void *map_shared(int fd, size_t size, int prot)
{
	void *p = mmap(NULL, size, prot, MAP_SHARED, fd, 0);

	if (p == MAP_FAILED)
		die("mmap");
	return p;
}

/*
 * Every page says which it is: its first and last words do, so that a page taken
 * for another, or for one of another seed, is noticed.
 */
static inline uint64_t page_mark(uint64_t seed, size_t page)
{
	return (seed << 48) + page * 0x10001 + 1;
}

static inline void mark_page(void *p, uint64_t seed, size_t page)
{
	((uint64_t *)p)[0] = page_mark(seed, page);
	((uint64_t *)p)[PAGE / 8 - 1] = ~page_mark(seed, page);
}

static inline bool page_is(const void *p, uint64_t seed, size_t page)
{
	return ((const volatile uint64_t *)p)[0] == page_mark(seed, page) &&
	       ((const volatile uint64_t *)p)[PAGE / 8 - 1] == ~page_mark(seed, page);
}

static inline void mark_pages(void *p, uint64_t seed, size_t pages)
{
	for (size_t i = 0; i < pages; i++)
		mark_page((char *)p + i * PAGE, seed, i);
}

/* Maps at an address that huge pages can be mapped at. */
static inline void *map_aligned(int fd, size_t size, int prot)
{
	char *area = mmap(NULL, size + HUGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS,
			  -1, 0);
	char *at = (char *)(((uintptr_t)area + HUGE - 1) & ~(HUGE - 1));

	if (area == MAP_FAILED ||
	    mmap(at, size, prot, MAP_SHARED | MAP_FIXED, fd, 0) != at)
		die("mmap");
	if (at > area)
		munmap(area, at - area);
	if (at < area + HUGE)
		munmap(at + size, area + HUGE - at);
	return at;
}

/* 0, or -errno. */
static inline int try_write(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC), ret = 0;

	if (fd < 0)
		return -errno;
	if (write(fd, text, strlen(text)) != (ssize_t)strlen(text))
		ret = -errno;
	close(fd);
	return ret;
}

static inline void write_file(const char *path, const char *text)
{
	errno = -try_write(path, text);
	if (errno)
		die(path);
}

/* Free pages that CPUs keep for themselves. */
static inline long pages_of_cpus(void)
{
	FILE *f = fopen("/proc/zoneinfo", "r");
	char line[256];
	long n, sum = 0;

	if (!f)
		die("/proc/zoneinfo");
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, " count: %ld", &n) == 1)
			sum += n;
	fclose(f);
	return sum;
}

/* What is not free, in bytes, with nothing in caches. */
static inline long memory_used(void)
{
	sync();
	write_file("/proc/sys/vm/drop_caches", "3");
	write_file("/proc/sys/vm/stat_refresh", "1");
	return (file_value("/proc/meminfo", "MemTotal") -
		file_value("/proc/meminfo", "MemFree")) * 1024 - pages_of_cpus() * PAGE;
}

/* Lets memfds have what huge pages the tests want. */
static inline void want_huge_pages(void)
{
	write_file("/sys/kernel/mm/transparent_hugepage/shmem_enabled", "advise");
	if (file_value("/proc/meminfo", "HugePages_Total") < 32)
		write_file("/proc/sys/vm/nr_hugepages", "32");
	if (file_value("/proc/meminfo", "HugePages_Free") < 16)
		die("too few huge pages (2 MiB) are free");
}

/* A memfd whose pages are there, each marked; *map (if wanted) is its mapping. */
static inline int memfd_filled(enum memory memory, size_t size, uint64_t seed,
			       void **map)
{
	int fd = memfd_new(memory, size);
	void *p = map_aligned(fd, size, PROT_READ | PROT_WRITE);

	if (memory == THP && madvise(p, size, MADV_HUGEPAGE))
		die("MADV_HUGEPAGE");
	mark_pages(p, seed, size / PAGE);
	if (map)
		*map = p;
	else
		munmap(p, size);
	return fd;
}

/* -1 and errno, as the ioctl returns. */
static inline int udmabuf_create(int dev, int memfd, uint64_t offset, uint64_t size)
{
	struct udmabuf_create create = {
		.memfd = memfd,
		.flags = UDMABUF_FLAGS_CLOEXEC,
		.offset = offset,
		.size = size,
	};

	return ioctl(dev, UDMABUF_CREATE, &create);
}

static inline int udmabuf_create_list(int dev, const struct udmabuf_create_item *items,
				      uint32_t count)
{
	size_t len = sizeof(struct udmabuf_create_list) + count * sizeof(*items);
	struct udmabuf_create_list *list = malloc(len);
	int fd, err;

	if (!list)
		die("malloc");
	list->flags = UDMABUF_FLAGS_CLOEXEC;
	list->count = count;
	memcpy(list->list, items, count * sizeof(*items));
	fd = ioctl(dev, UDMABUF_CREATE_LIST, list);
	err = errno;
	free(list);
	errno = err;
	return fd;
}

/**
 * struct held - what the kernel holds on our behalf
 * @pins: folios pinned and not unpinned, in the whole machine
 * @buffers: lines of debugfs udmabuf/buffers
 * @fds: open descriptors of this process
 * @free_huge: HugePages_Free
 * @reserved_huge: HugePages_Rsvd
 */
struct held {
	long pins;
	long buffers;
	long fds;
	long free_huge;
	long reserved_huge;
};

static inline long count_lines(const char *path)
{
	FILE *f = fopen(path, "r");
	long n = 0;
	int c;

	if (!f)
		die(path);
	while ((c = getc(f)) != EOF)
		n += c == '\n';
	fclose(f);
	return n;
}

static inline long count_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	long n = 0;

	if (!dir)
		die("/proc/self/fd");
	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

static inline struct held held(void)
{
	int fd = open("/proc/sys/vm/stat_refresh", O_WRONLY);

	/* The counters are kept per CPU: without this, few pins show as none. */
	if (fd < 0 || write(fd, "1", 1) != 1)
		die("/proc/sys/vm/stat_refresh");
	close(fd);
	return (struct held) {
		.pins = file_value("/proc/vmstat", "nr_foll_pin_acquired") -
			file_value("/proc/vmstat", "nr_foll_pin_released"),
		.buffers = count_lines("/sys/kernel/debug/udmabuf/buffers"),
		.fds = count_fds(),
		.free_huge = file_value("/proc/meminfo", "HugePages_Free"),
		.reserved_huge = file_value("/proc/meminfo", "HugePages_Rsvd"),
	};
}

/*
 * Expects that the kernel holds what it held before.  A dma-buf is released after
 * the system call that dropped it has returned, but before the task runs again.
 */
#define EXPECT_HELD(before) do {						\
	struct held now_ = held();						\
	EXPECT_EQ(now_.pins, (before).pins);					\
	EXPECT_EQ(now_.buffers, (before).buffers);				\
	EXPECT_EQ(now_.fds, (before).fds);					\
	EXPECT_EQ(now_.free_huge, (before).free_huge);				\
	EXPECT_EQ(now_.reserved_huge, (before).reserved_huge);			\
} while (0)

/* Sets a parameter of the module, returns what it was. */
static inline long udmabuf_parameter(const char *name, long value)
{
	char path[128];
	long old;
	FILE *f;

	snprintf(path, sizeof(path), "/sys/module/udmabuf/parameters/%s", name);
	f = fopen(path, "r+");
	if (!f || fscanf(f, "%ld", &old) != 1)
		die(path);
	rewind(f);
	fprintf(f, "%ld\n", value);
	if (fclose(f))
		die(path);
	return old;
}

/* Runs and pinned bytes of the newest buffer of this process, from debugfs. */
static inline void udmabuf_stat(long *runs, long *pinned)
{
	char line[256];
	FILE *f = fopen("/sys/kernel/debug/udmabuf/buffers", "r");
	long size, r, p, pid;
	char access[8];

	if (!f)
		die("/sys/kernel/debug/udmabuf/buffers");
	*runs = *pinned = -1;
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "%ld %ld %ld %7s %*u %*u %ld", &size, &r, &p, access,
			   &pid) == 5 &&
		    pid == getpid()) {
			*runs = r;
			*pinned = p;
		}
	fclose(f);
}

#endif /* UDMABUF_UTIL_H */
