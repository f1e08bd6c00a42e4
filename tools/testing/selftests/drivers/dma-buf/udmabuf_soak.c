// SPDX-License-Identifier: GPL-2.0
/*
 * A day's worth of frames through udmabuf: create, map, SYNC, read, unmap, close, over
 * and over.  Nothing may pile up: no pin, no memory, and no cost.
 *
 * usage: udmabuf_soak FRAMES_OF_ONE_PAGE FRAMES_OF_1080P
 *
 * Takes long, so it is no part of a test run: "scripts/bench soak" runs it, in a virtual machine
 * whose clock counts instructions.  Elsewhere the cost is time, and not so exact.
 */
#include <time.h>

#include "udmabuf_util.h"

/* Frames at the beginning and at the end whose cost is compared. */
#define SAMPLE	1000

/* Part of the frames that comes before the beginning. */
#define WARM_UP	50

#define MAX_PERMILLE	20
#define MAX_MEMORY	(1024 * 1024)

static uint64_t now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ULL + ts.tv_nsec;
}

static void frame(int dev, int memfd, size_t size)
{
	struct dma_buf_sync sync = { DMA_BUF_SYNC_START | DMA_BUF_SYNC_READ };
	int fd = udmabuf_create(dev, memfd, 0, size);
	const volatile char *map;

	if (fd < 0)
		die("create");
	map = map_shared(fd, size, PROT_READ);
	if (ioctl(fd, DMA_BUF_IOCTL_SYNC, &sync))
		die("sync");
	for (size_t i = 0; i < size; i += PAGE)
		(void)map[i];
	sync.flags = DMA_BUF_SYNC_END | DMA_BUF_SYNC_READ;
	if (ioctl(fd, DMA_BUF_IOCTL_SYNC, &sync))
		die("sync");
	munmap((void *)map, size);
	close(fd);
}

/* What a frame costs, of @n. */
static uint64_t frames(int dev, int memfd, size_t size, long n)
{
	uint64_t start = now();

	for (long i = 0; i < n; i++)
		frame(dev, memfd, size);
	return (now() - start) / n;
}

static void soak(const char *name, int dev, size_t size, long n)
{
	int memfd = memfd_filled(SHMEM, size, 1, NULL);
	uint64_t first, last;
	struct held before, after;
	long memory, permille;

	frames(dev, memfd, size, SAMPLE);
	before = held();
	memory = memory_used();

	/* memory_used() has emptied caches: frames cost more until these are full. */
	frames(dev, memfd, size, n / WARM_UP);
	first = frames(dev, memfd, size, SAMPLE);
	if (n > 2 * SAMPLE)
		frames(dev, memfd, size, n - 2 * SAMPLE);
	last = frames(dev, memfd, size, SAMPLE);

	memory = memory_used() - memory;
	after = held();
	permille = labs((long)(last - first)) * 1000 / (long)first;
	ksft_print_msg("%s: %ld frames; one of the first %d costs %llu, of the last %llu\n",
		       name, n, SAMPLE, (unsigned long long)first,
		       (unsigned long long)last);
	ksft_print_msg("%s: %ld bytes more memory, %ld pins\n", name, memory,
		       after.pins - before.pins);
	ksft_test_result(permille <= MAX_PERMILLE, "%s: cost\n", name);
	ksft_test_result(memory < MAX_MEMORY, "%s: memory\n", name);
	ksft_test_result(after.pins == before.pins && after.buffers == before.buffers &&
			 after.fds == before.fds, "%s: pins, buffers and descriptors\n",
			 name);
	close(memfd);
}

int main(int argc, char **argv)
{
	int dev = udmabuf_open();

	if (argc != 3)
		ksft_exit_fail_msg("usage: %s FRAMES_OF_ONE_PAGE FRAMES_OF_1080P\n",
				   argv[0]);
	ksft_print_header();
	ksft_set_plan(6);
	soak("one page", dev, PAGE, atol(argv[1]));
	soak("1080p", dev, 1920 * 1080 * 4, atol(argv[2]));
	ksft_finished();
}
