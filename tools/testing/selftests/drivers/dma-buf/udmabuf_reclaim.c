// SPDX-License-Identifier: GPL-2.0
/*
 * Buffers are made of a memfd while pages are taken from it: by khugepaged, which copies
 * small pages into a huge one, and by reclaim, which writes them to swap.  A buffer that
 * was made has the pages that the memfd has afterwards, and pins them in the file.
 *
 * memfd_try_pin() relies on barriers as well.  Where an atomic operation is a full barrier,
 * as on x86, this cannot fail without them.
 */
#include <pthread.h>
#include <sched.h>
#include <time.h>

#include "udmabuf_swap.h"
#include "udmabuf_util.h"
#include "../../kselftest_harness.h"

#define ROUNDS		60
#define STEP_US		400	/* how much longer khugepaged has in each round */

#define PAGEOUT_SIZE	(16 * PAGE)
#define PAGEOUT_ROUNDS	300
#define PAGEOUT_STEPS	14
#define PAGEOUT_SECONDS	60
#define SWAP_SIZE	(64 * PAGEOUT_SIZE)

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE	25
#endif

#define OLD	1	/* seeds of marks */
#define NEW	2

FIXTURE(reclaim) {
	struct held before;
	int dev;
};

FIXTURE_SETUP(reclaim)
{
	want_huge_pages();
	self->before = held();
	self->dev = udmabuf_open();
}

FIXTURE_TEARDOWN(reclaim)
{
	close(self->dev);
	EXPECT_HELD(self->before);
}

/**
 * struct taker - a thread that has the kernel take pages from a memfd
 * @map: the memfd
 * @size: of the memfd
 * @advice: by which it is asked
 * @started: the thread runs
 * @stop: the thread is to end
 * @done: calls that did what they should
 */
struct taker {
	void *map;
	size_t size;
	int advice;
	bool started;
	bool stop;
	int done;
};

static void *take(void *arg)
{
	struct taker *t = arg;

	__atomic_store_n(&t->started, true, __ATOMIC_SEQ_CST);
	do {
		t->done += !madvise(t->map, t->size, t->advice);
	} while (!__atomic_load_n(&t->stop, __ATOMIC_SEQ_CST));
	return NULL;
}

/* Waits without sleeping: what is waited for is shorter than a tick. */
static void spin_us(long us)
{
	struct timespec start, now;

	clock_gettime(CLOCK_MONOTONIC, &start);
	do {
		clock_gettime(CLOCK_MONOTONIC, &now);
	} while ((now.tv_sec - start.tv_sec) * 1000000 +
		 (now.tv_nsec - start.tv_nsec) / 1000 < us);
}

/* Pages of the memfd that do not show what was written through the dma-buf. */
static size_t lost_pages(const char *map, size_t pages)
{
	size_t lost = 0;

	for (size_t i = 0; i < pages; i++)
		lost += !page_is(map + i * PAGE, NEW, i);
	return lost;
}

/*
 * Makes a buffer of a memfd of small pages while the thread is at work, writes through
 * it, and looks at the memfd.  Returns how many pages the two do not share, or -1 if a
 * seal that forbids writing could be set.  The thread is @us ahead.
 */
static long one_round(int dev, struct taker *t, long us)
{
	void *map, *buffer;
	int memfd = memfd_filled(SHMEM, t->size, OLD, &map);
	pthread_t thread;
	long lost;
	int fd;

	t->map = map;
	t->started = false;
	t->stop = false;
	t->done = 0;
	if (pthread_create(&thread, NULL, take, t))
		die("pthread_create");
	while (!__atomic_load_n(&t->started, __ATOMIC_SEQ_CST))
		sched_yield();
	spin_us(us);
	fd = udmabuf_create(dev, memfd, 0, t->size);
	if (fd < 0)
		die("udmabuf");
	buffer = map_shared(fd, t->size, PROT_READ | PROT_WRITE);
	mark_pages(buffer, NEW, t->size / PAGE);
	__atomic_store_n(&t->stop, true, __ATOMIC_SEQ_CST);
	pthread_join(thread, NULL);
	munmap(map, t->size);
	/*
	 * F_ADD_SEALS finds only pins of pages in the file.  Call it before pages are read,
	 * which would bring back one that was swapped out while pinned.
	 */
	if (!fcntl(memfd, F_ADD_SEALS, F_SEAL_WRITE)) {
		lost = -1;
	} else {
		map = map_shared(memfd, t->size, PROT_READ);
		lost = lost_pages(map, t->size / PAGE);
		munmap(map, t->size);
	}
	munmap(buffer, t->size);
	close(fd);
	close(memfd);
	return lost;
}

TEST_F_TIMEOUT(reclaim, collapse_races_with_creation, 600)
{
	struct taker t = { .size = HUGE, .advice = MADV_COLLAPSE };
	int done = 0;

	if (!has_thp())
		SKIP(return, NO_THP);
	for (int i = 0; i < ROUNDS; i++) {
		ASSERT_EQ(one_round(self->dev, &t, i * STEP_US), 0) {
			TH_LOG("round %d", i);
		}
		done += t.done;
	}
	/* At times it came first. */
	EXPECT_GT(done, 0);
}

static double seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec + now.tv_nsec / 1e9;
}

TEST_F_TIMEOUT(reclaim, pageout_races_with_creation, 240)
{
	struct taker t = { .size = PAGEOUT_SIZE, .advice = MADV_PAGEOUT };
	long before = file_value("/proc/vmstat", "pswpout"), swapped = 0;
	double end = seconds() + PAGEOUT_SECONDS;
	long lost = 0;
	int i;

	swap_on(SWAP_SIZE);

	/* From a microsecond to some milliseconds ahead: at times reclaim comes first. */
	for (i = 0; !lost && i < PAGEOUT_ROUNDS && (seconds() < end || swapped <= 0); i++) {
		lost = one_round(self->dev, &t, 1L << i % PAGEOUT_STEPS);
		swapped = file_value("/proc/vmstat", "pswpout") - before;
	}
	TH_LOG("%d rounds, %ld pages were swapped out", i, swapped);
	EXPECT_TRUE(swap_off());
	EXPECT_EQ(lost, 0);
	EXPECT_GT(swapped, 0);
}

TEST_HARNESS_MAIN
