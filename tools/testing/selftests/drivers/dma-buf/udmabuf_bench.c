// SPDX-License-Identifier: GPL-2.0
/*
 * What a udmabuf costs, step by step.  Not a test: it says numbers, one line of JSON
 * each, and passes no judgement.
 *
 * Meant for a virtual machine whose clock counts instructions (QEMU -icount shift=0),
 * where a nanosecond is one.  It needs nothing of the driver but its interface, so
 * that any udmabuf can be measured.
 */
#include <sys/resource.h>
#include <time.h>

#include "udmabuf_drm.h"

#define ROUNDS	3

/* Buffers that memory is measured with: so many that a slab's rest does not matter. */
#define MANY	64

/* More than the lists of free pages have in small pieces. */
#define USED	(256UL << 20)

/* One page of every @stride of a file of @memory, in the order @reversed. */
struct bench_case {
	const char *name;
	enum memory memory;
	size_t size;
	size_t items;	/* 0: all of it, with UDMABUF_CREATE */
	size_t stride;
	bool reversed;
};

static const struct bench_case cases[] = {
	{ "shmem", SHMEM, 32UL << 20, 0, 0, false },
	{ "thp", THP, 32UL << 20, 0, 0, false },
	{ "hugetlb", HUGETLB, 32UL << 20, 0, 0, false },
	{ "list-stride2", SHMEM, 32UL << 20, 1024, 2, false },
	{ "list-adjacent", SHMEM, 32UL << 20, 1024, 1, false },
	{ "list-reversed", SHMEM, 32UL << 20, 1024, 1, true },
	{ "frame", SHMEM, 1920 * 1080 * 4, 0, 0, false },
	{ "frame thp", THP, 1920 * 1080 * 4, 0, 0, false },
	{ "shmem-4M", SHMEM, 4UL << 20, 0, 0, false },
	{ "shmem-16M", SHMEM, 16UL << 20, 0, 0, false },
	{ "shmem-64M", SHMEM, 64UL << 20, 0, 0, false },
	{ "shmem-256M", SHMEM, 256UL << 20, 0, 0, false },
	{ "shmem-1G", SHMEM, 1024UL << 20, 0, 0, false },
	{ "thp-4M", THP, 4UL << 20, 0, 0, false },
	{ "thp-16M", THP, 16UL << 20, 0, 0, false },
	{ "thp-64M", THP, 64UL << 20, 0, 0, false },
	{ "thp-256M", THP, 256UL << 20, 0, 0, false },
	{ "thp-1G", THP, 1024UL << 20, 0, 0, false },
};

enum step { CREATE, MMAP, TOUCH, MUNMAP, IMPORT, DROP, SYNC, CLOSE, FRAME, STEPS };

static const char * const step_names[STEPS] = {
	"create", "mmap", "touch", "munmap", "import", "drop", "sync", "close", "frame",
};

static uint64_t now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ULL + ts.tv_nsec;
}

static long faults(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return usage.ru_minflt + usage.ru_majflt;
}

static int create(int dev, int memfd, const struct bench_case *c,
		  struct udmabuf_create_list *list)
{
	int fd = c->items ? ioctl(dev, UDMABUF_CREATE_LIST, list) :
			    udmabuf_create(dev, memfd, 0, c->size);

	if (fd < 0)
		die("create");
	return fd;
}

/* Every page, once: five instructions each. */
static void touch(const volatile char *map, size_t size)
{
	for (size_t i = 0; i < size; i += PAGE)
		(void)map[i];
}

/* Slab and vmalloc memory, in bytes, with what was counted on each CPU so far. */
static long kernel_memory(void)
{
	write_file("/proc/sys/vm/stat_refresh", "1");
	return (file_value("/proc/meminfo", "Slab") +
		file_value("/proc/meminfo", "VmallocUsed")) * 1024;
}

/* Each step, measured on its own; *touches is the number of faults of TOUCH. */
static void measure(int dev, int vgem, int memfd, const struct bench_case *c,
		    struct udmabuf_create_list *list, size_t size,
		    uint64_t *cost, long *touches)
{
	struct dma_buf_sync start = { DMA_BUF_SYNC_START | DMA_BUF_SYNC_RW };
	struct dma_buf_sync end = { DMA_BUF_SYNC_END | DMA_BUF_SYNC_RW };
	struct drm_prime_handle prime = {};
	struct drm_gem_close drop = {};
	uint64_t t[STEPS + 1];
	long before;
	char *map;
	int fd;

	t[CREATE] = now();
	fd = create(dev, memfd, c, list);
	t[MMAP] = now();
	map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	before = faults();
	if (map == MAP_FAILED)
		die("mmap");
	t[TOUCH] = now();
	touch(map, size);
	t[MUNMAP] = now();
	*touches = faults() - before;
	cost[TOUCH] = t[MUNMAP] - t[TOUCH];
	cost[MMAP] = t[TOUCH] - t[MMAP];
	cost[CREATE] = t[MMAP] - t[CREATE];

	t[MUNMAP] = now();
	munmap(map, size);
	t[IMPORT] = now();
	cost[MUNMAP] = t[IMPORT] - t[MUNMAP];

	prime.fd = fd;
	t[IMPORT] = now();
	if (ioctl(vgem, DRM_IOCTL_PRIME_FD_TO_HANDLE, &prime))
		die("import");
	t[DROP] = now();
	cost[IMPORT] = t[DROP] - t[IMPORT];
	drop.handle = prime.handle;
	t[DROP] = now();
	if (ioctl(vgem, DRM_IOCTL_GEM_CLOSE, &drop))
		die("drop");
	t[SYNC] = now();
	cost[DROP] = t[SYNC] - t[DROP];

	t[SYNC] = now();
	if (ioctl(fd, DMA_BUF_IOCTL_SYNC, &start) || ioctl(fd, DMA_BUF_IOCTL_SYNC, &end))
		die("sync");
	t[CLOSE] = now();
	cost[SYNC] = t[CLOSE] - t[SYNC];
	close(fd);
	cost[CLOSE] = now() - t[CLOSE];
}

/*
 * What a compositor does with a frame that a client has drawn into a wl_shm pool and
 * that it reads with the CPU, from the first call to the last.
 */
static uint64_t measure_frame(int dev, int memfd, const struct bench_case *c,
			      struct udmabuf_create_list *list, size_t size)
{
	struct dma_buf_sync start = { DMA_BUF_SYNC_START | DMA_BUF_SYNC_READ };
	struct dma_buf_sync end = { DMA_BUF_SYNC_END | DMA_BUF_SYNC_READ };
	uint64_t begin = now();
	int fd = create(dev, memfd, c, list);
	void *map = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);

	if (map == MAP_FAILED || ioctl(fd, DMA_BUF_IOCTL_SYNC, &start))
		die("frame");
	touch(map, size);
	if (ioctl(fd, DMA_BUF_IOCTL_SYNC, &end))
		die("frame");
	munmap(map, size);
	close(fd);
	return now() - begin;
}

/* What many buffers hold, for one of them; -1 where that would take too long. */
static long metadata(int dev, int memfd, const struct bench_case *c,
		     struct udmabuf_create_list *list)
{
	int fds[MANY];
	long held;

	if (c->size > 32UL << 20)
		return -1;
	close(create(dev, memfd, c, list));
	held = kernel_memory();
	for (int i = 0; i < MANY; i++)
		fds[i] = create(dev, memfd, c, list);
	held = kernel_memory() - held;
	for (int i = 0; i < MANY; i++)
		close(fds[i]);
	return held / MANY;
}

/* Runs of the newest buffer, where the driver tells; -1 elsewhere. */
static long count_runs(int dev, int memfd, const struct bench_case *c,
		       struct udmabuf_create_list *list)
{
	long runs, pinned;
	int fd;

	if (access("/sys/kernel/debug/udmabuf/buffers", R_OK))
		return -1;
	fd = create(dev, memfd, c, list);
	udmabuf_stat(&runs, &pinned);
	close(fd);
	return runs;
}

/*
 * A memfd of the case, whose pages are in order and next to each other: where they are
 * does not depend on the cases before it.  Pages that were freed last are used first, in
 * the reverse order: other memory takes those while the memfd is filled.
 */
static int fresh_memfd(const struct bench_case *c)
{
	void *used, *map;
	int memfd;

	sync();
	write_file("/proc/sys/vm/drop_caches", "3");
	write_file("/proc/sys/vm/compact_memory", "1");
	used = mmap(NULL, USED, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (used == MAP_FAILED || madvise(used, USED, MADV_NOHUGEPAGE) ||
	    madvise(used, USED, MADV_POPULATE_WRITE))
		die("memory");
	memfd = memfd_filled(c->memory, c->size, 1, &map);
	munmap(map, c->size);
	munmap(used, USED);
	return memfd;
}

static void bench(int dev, int vgem, const struct bench_case *c)
{
	struct udmabuf_create_list *list = calloc(1, sizeof(*list) +
						  1024 * sizeof(list->list[0]));
	size_t size = c->items ? c->items * PAGE : c->size;
	uint64_t best[STEPS], cost[STEPS];
	int memfd = fresh_memfd(c);
	long touches = 0;

	if (!list)
		die("calloc");
	list->count = c->items;
	for (size_t i = 0; i < c->items; i++)
		list->list[i] = (struct udmabuf_create_item) {
			.memfd = memfd,
			.offset = (c->reversed ? c->items - 1 - i : i) * c->stride * PAGE,
			.size = PAGE,
		};
	for (int round = 0; round < ROUNDS; round++) {
		measure(dev, vgem, memfd, c, list, size, cost, &touches);
		cost[FRAME] = measure_frame(dev, memfd, c, list, size);
		for (int i = 0; i < STEPS; i++)
			if (!round || cost[i] < best[i])
				best[i] = cost[i];
	}
	printf("{\"case\": \"%s\", \"pages\": %lu, ", c->name,
	       (unsigned long)(size / PAGE));
	printf("\"runs\": %ld, \"faults\": %ld, \"metadata\": %ld",
	       count_runs(dev, memfd, c, list), touches, metadata(dev, memfd, c, list));
	for (int i = 0; i < STEPS; i++)
		printf(", \"%s\": %llu", step_names[i], (unsigned long long)best[i]);
	printf("}\n");
	fflush(stdout);
	free(list);
	close(memfd);
}

int main(void)
{
	int dev = udmabuf_open(), vgem = drm_open("vgem");

	write_file("/sys/kernel/mm/transparent_hugepage/shmem_enabled", "advise");
	write_file("/proc/sys/vm/nr_hugepages", "24");
	udmabuf_parameter("size_limit_mb", 1024);
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		if (cases[i].memory == HUGETLB &&
		    file_value("/proc/meminfo", "HugePages_Free") < 16)
			die("too few huge pages");
		bench(dev, vgem, &cases[i]);
	}
	return 0;
}
