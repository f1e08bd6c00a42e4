// SPDX-License-Identifier: GPL-2.0
/*
 * What mapping and unmapping in an address space of iommufd costs that a device is attached
 * to: memory by its address and by its memfd, and dma-bufs of a BAR, with what it takes to
 * revoke and restore such a mapping.
 *
 * Prints a line of JSON for each case, in nanoseconds: on a machine whose clock counts
 * instructions, that is what they are. Memory is by the page of 4 KiB. Each is the second
 * of two rounds; each run of pages that are next to each other in memory is mapped by a
 * call of its own, so their number is printed, too. With the argument "address" only memory
 * by its address is measured, which a kernel without IOMMU_IOAS_MAP_FILE can do as well.
 */
#include "vfio_ioas.h"

#include <time.h>

#define MB	0x100000UL
#define HUGE	(2 * MB)
#define SIZE	(32 * MB)
#define IOVA	(1024 * MB)
/* The number of a page's frame in its entry of pagemap. */
#define FRAME	((1ULL << 55) - 1)
/* More than the lists of free pages have in small pieces. */
#define USED	(256 * MB)

static struct vfio vfio;

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ULL + t.tv_nsec;
}

static void good(int ret, const char *what)
{
	errno = ret < 0 ? -ret : errno;
	if (ret < 0)
		die(what);
}

static void write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		die(path);
	close(fd);
}

/* In all, of mapping @p, or @length bytes of @fd where that is NULL. */
static void one_round(void *p, int fd, uint64_t length, uint64_t *map, uint64_t *unmap)
{
	uint64_t start = now();

	if (p)
		good(ioas_map(vfio.iommu, vfio.ioas, p, length, IOVA, READ_WRITE), "map");
	else
		good(ioas_map_file(vfio.iommu, vfio.ioas, fd, 0, length, IOVA, READ_WRITE),
		     "map of a file");
	*map = now() - start;
	start = now();
	good(ioas_unmap(vfio.iommu, vfio.ioas, IOVA, length), "unmap");
	*unmap = now() - start;
}

/* A memfd that is filled, and mapped. */
static int filled_memfd(const char *name, unsigned int flags, bool thp, char **map)
{
	char *p;
	int fd;

	fd = memfd_create(name, MFD_CLOEXEC | flags);
	if (fd < 0 || ftruncate(fd, SIZE))
		die("memfd");
	p = mmap(NULL, SIZE + HUGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	p = (char *)(((uintptr_t)p + HUGE - 1) & ~(HUGE - 1));
	if (mmap(p, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) != p)
		die("mmap");
	if (thp && madvise(p, SIZE, MADV_HUGEPAGE))
		die("madvise");
	memset(p, 1, SIZE);
	*map = p;
	return fd;
}

/*
 * One whose pages are in order and next to each other, as far as that is possible.  Pages
 * that were freed last are used first, in the reverse order: other memory takes those while
 * the memfd is filled.
 */
static int fresh_memfd(const char *name, unsigned int flags, bool thp, char **map)
{
	void *used;
	int fd;

	write_file("/proc/sys/vm/nr_hugepages", "0");
	sync();
	write_file("/proc/sys/vm/drop_caches", "3");
	write_file("/proc/sys/vm/compact_memory", "1");
	used = mmap(NULL, USED, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (used == MAP_FAILED || madvise(used, USED, MADV_NOHUGEPAGE) ||
	    madvise(used, USED, MADV_POPULATE_WRITE))
		die("memory");
	if (flags & MFD_HUGETLB)
		write_file("/proc/sys/vm/nr_hugepages", "16");
	fd = filled_memfd(name, flags, thp, map);
	munmap(used, USED);
	return fd;
}

/* Runs of pages that are next to each other in memory. */
static unsigned int count_runs(const char *p)
{
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	static uint64_t entries[SIZE / 4096];
	unsigned int runs = 1;

	if (fd < 0 || pread(fd, entries, SIZE / PAGE * 8, (uintptr_t)p / PAGE * 8) !=
	    SIZE / PAGE * 8)
		die("pagemap");
	close(fd);
	for (size_t i = 1; i < SIZE / PAGE; i++)
		runs += (entries[i] & FRAME) != (entries[i - 1] & FRAME) + 1;
	return runs;
}

static void memory(const char *name, unsigned int flags, bool thp, bool by_file)
{
	double pages = SIZE / PAGE;
	uint64_t map, unmap;
	unsigned int runs;
	char *p;
	int fd;

	fd = fresh_memfd(name, flags, thp, &p);
	runs = count_runs(p);
	for (int round = 0; round < 2; round++)
		one_round(p, -1, SIZE, &map, &unmap);
	printf("{\"case\": \"%s-address\", \"map\": %.1f, \"unmap\": %.1f, \"runs\": %u}\n",
	       name, map / pages, unmap / pages, runs);
	if (by_file) {
		for (int round = 0; round < 2; round++)
			one_round(NULL, fd, SIZE, &map, &unmap);
		printf("{\"case\": \"%s-file\", \"map\": %.1f, \"unmap\": %.1f, "
		       "\"runs\": %u}\n", name, map / pages, unmap / pages, runs);
	}
	fflush(stdout);
	munmap(p, SIZE);
	close(fd);
}

static void dmabuf(uint64_t size)
{
	int fd = export_range(&vfio, RAM_BAR, 0, size);
	uint64_t map, unmap, revoke, restore, start, none;

	good(fd, "export");
	for (int round = 0; round < 2; round++)
		one_round(NULL, fd, size, &map, &unmap);
	for (int round = 0; round < 2; round++) {
		start = now();
		good(vfio_memory(&vfio, false), "memory off");
		none = now() - start;
		good(vfio_memory(&vfio, true), "memory on");
	}
	good(ioas_map_file(vfio.iommu, vfio.ioas, fd, 0, size, IOVA, READ_WRITE), "map");
	for (int round = 0; round < 2; round++) {
		start = now();
		good(vfio_memory(&vfio, false), "memory off");
		revoke = now() - start;
		start = now();
		good(vfio_memory(&vfio, true), "memory on");
		restore = now() - start;
	}
	good(ioas_unmap(vfio.iommu, vfio.ioas, IOVA, size), "unmap");
	close(fd);
	printf("{\"case\": \"bar-%lu\", \"map\": %lu, \"unmap\": %lu, \"none\": %lu, "
	       "\"revoke\": %lu, \"restore\": %lu}\n", size, map, unmap, none, revoke,
	       restore);
	fflush(stdout);
}

int main(int argc, char **argv)
{
	bool by_file = argc < 2 || strcmp(argv[1], "address");

	write_file("/sys/kernel/mm/transparent_hugepage/shmem_enabled", "advise");
	vfio_get(&vfio, RAM, CDEV);
	memory("small", 0, false, by_file);
	memory("thp", 0, true, by_file);
	memory("hugetlb", MFD_HUGETLB, false, by_file);
	if (by_file) {
		dmabuf(PAGE);
		dmabuf(2 * MB);
		dmabuf(RAM_SIZE);
	}
	vfio_close(&vfio);
	return 0;
}
