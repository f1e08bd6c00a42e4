// SPDX-License-Identifier: GPL-2.0
/*
 * What takes pages from a memfd while buffers are made of it: khugepaged, which copies
 * small pages into a huge one.  A buffer that was made has the pages that the memfd has
 * afterwards.
 */
#include <pthread.h>
#include <sched.h>
#include <time.h>

#include "udmabuf_util.h"
#include "../../kselftest_harness.h"

#define PAGES		(HUGE / PAGE)
#define ROUNDS		60
#define STEP_US		400	/* how much longer the other one has in each round */

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
 * @advice: by which it is asked
 * @started: the thread runs
 * @stop: the thread is to end
 * @done: calls that did what they should
 */
struct taker {
	void *map;
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
		t->done += !madvise(t->map, HUGE, t->advice);
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
static size_t lost_pages(const char *map)
{
	size_t lost = 0;

	for (size_t i = 0; i < PAGES; i++)
		lost += !page_is(map + i * PAGE, NEW, i);
	return lost;
}

/*
 * Makes a buffer of a memfd of small pages while the thread is at work, writes through
 * it, and looks at the memfd.  Returns how many pages the two do not share, or -1 if a
 * seal that forbids writing was set.  The later the round, the further the thread is.
 */
static long one_round(int dev, struct taker *t, int round)
{
	void *map, *buffer;
	int memfd = memfd_filled(SHMEM, HUGE, OLD, &map);
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
	spin_us(round * STEP_US);
	fd = udmabuf_create(dev, memfd, 0, HUGE);
	if (fd < 0)
		die("udmabuf");
	buffer = map_shared(fd, HUGE, PROT_READ | PROT_WRITE);
	mark_pages(buffer, NEW, PAGES);
	__atomic_store_n(&t->stop, true, __ATOMIC_SEQ_CST);
	pthread_join(thread, NULL);
	lost = lost_pages(map);
	munmap(map, HUGE);
	if (!fcntl(memfd, F_ADD_SEALS, F_SEAL_WRITE))
		lost = -1;
	munmap(buffer, HUGE);
	close(fd);
	close(memfd);
	return lost;
}

TEST_F_TIMEOUT(reclaim, collapse_races_with_creation, 600)
{
	struct taker t = { .advice = MADV_COLLAPSE };
	int done = 0;

	for (int i = 0; i < ROUNDS; i++) {
		ASSERT_EQ(one_round(self->dev, &t, i), 0) {
			TH_LOG("round %d", i);
		}
		done += t.done;
	}
	/* At times it came first. */
	EXPECT_GT(done, 0);
}

TEST_HARNESS_MAIN
