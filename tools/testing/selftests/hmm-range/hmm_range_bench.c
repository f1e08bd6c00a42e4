// SPDX-License-Identifier: GPL-2.0
/*
 * What the range helper costs, and how long a reader waits: a line of JSON for each case
 *
 * usage: hmm_range_bench instructions|waits|threads. The first is for one CPU whose clock
 * counts instructions, the others for two or more that really run at once. The program is the
 * same for a kernel without the helper, and leaves out what that does not have. Needs
 * root and the module in bench/, built for the kernel that runs.
 */
#include "bench/hmm_range_bench.h"

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
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE		4096UL
#define PAGES		512
#define ROUNDS		20
#define CALLS		1000

/* The waits: how many, between how long invalidations of other parts. */
#define WAITS		50
#define BUSY_USECS	5000
#define INVALIDATORS	2

#define MANY		100

/* Threads that invalidate at once, at most, and how long they do. */
#define THREADS		8
#define THREADS_USECS	2000000

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static uint64_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000ULL + time.tv_nsec;
}

static int open_bench(void)
{
	int fd = open(BENCH_DEVICE, O_RDWR);

	if (fd < 0)
		die(BENCH_DEVICE);
	return fd;
}

/* Memory at a multiple of 2 MiB, of small pages. */
static char *map(size_t pages)
{
	size_t size = pages * PAGE + (2UL << 20);
	char *mem = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (mem == MAP_FAILED || madvise(mem, size, MADV_NOHUGEPAGE))
		die("mmap");
	return (char *)(((uintptr_t)mem + (2UL << 20) - 1) & ~((2UL << 20) - 1));
}

static void subscribe(int fd, char *mem, unsigned int count, size_t pages, size_t stride)
{
	struct bench_cmd cmd = {
		.addr = (uintptr_t)mem, .npages = pages, .stride = stride, .count = count,
	};

	if (ioctl(fd, BENCH_SUBSCRIBE, &cmd))
		die("BENCH_SUBSCRIBE");
}

static void dont_need(char *mem, size_t pages)
{
	if (madvise(mem, pages * PAGE, MADV_DONTNEED))
		die("madvise");
}

static int smaller(const void *a, const void *b)
{
	uint64_t one = *(const uint64_t *)a, other = *(const uint64_t *)b;

	return one < other ? -1 : one > other;
}

/* The median round; a tick of the clock may be in some. */
static void bench_populate(const char *name, bool faults, bool helper)
{
	int fd = open_bench();
	char *mem = map(PAGES);
	uint64_t rounds[ROUNDS];

	subscribe(fd, mem, 1, PAGES, 0);
	memset(mem, 1, PAGES * PAGE);
	for (int i = -2; i < ROUNDS; i++) {
		struct bench_cmd cmd = {
			.addr = (uintptr_t)mem, .npages = PAGES, .helper = helper,
		};

		if (faults)
			dont_need(mem, PAGES);
		if (ioctl(fd, BENCH_POPULATE, &cmd)) {
			if (errno == EOPNOTSUPP)
				return;
			die("BENCH_POPULATE");
		}
		if (i >= 0)
			rounds[i] = cmd.ns;
	}
	qsort(rounds, ROUNDS, sizeof(*rounds), smaller);
	printf("{\"case\": \"%s\", \"ns\": %lu}\n", name, rounds[ROUNDS / 2]);
	close(fd);
	munmap(mem, PAGES * PAGE);
}

/* An madvise() that hits none of so many; in a child, whose mm has no others. */
static void bench_invalidate(unsigned int trackers)
{
	char *mem, *page;
	uint64_t begin, rounds[ROUNDS];
	int status;

	fflush(stdout);
	if (fork()) {
		if (wait(&status) < 0 || status)
			die("a child failed");
		return;
	}
	/* A page between two of them, in the middle. */
	mem = map(2 * (trackers + 1));
	page = mem + (trackers / 2 * 2 + 1) * PAGE;
	if (trackers)
		subscribe(open_bench(), mem, trackers, 1, 2 * PAGE);
	for (int i = -2; i < ROUNDS; i++) {
		begin = now();
		for (int n = 0; n < CALLS; n++)
			dont_need(page, 1);
		if (i >= 0)
			rounds[i] = now() - begin;
	}
	qsort(rounds, ROUNDS, sizeof(*rounds), smaller);
	printf("{\"case\": \"invalidate-%u\", \"ns\": %.1f}\n", trackers,
	       (double)rounds[ROUNDS / 2] / CALLS);
	fflush(stdout);
	_exit(0);
}

static char *busy_pages;
static bool stop;

static void *invalidates(void *data)
{
	while (!__atomic_load_n(&stop, __ATOMIC_RELAXED))
		dont_need(busy_pages + (uintptr_t)data * PAGE, 1);
	return NULL;
}

/*
 * Two threads invalidate pages of their own, with a driver that takes its time; a third
 * has its range hit, once, and waits until it can read it.
 */
/* Their subscriptions are those from the second on. */
static void start_invalidators(int fd, pthread_t threads[INVALIDATORS])
{
	for (uintptr_t i = 0; i < INVALIDATORS; i++) {
		struct bench_cmd cmd = { .count = 1 + i, .usecs = BUSY_USECS };

		if (ioctl(fd, BENCH_STALL, &cmd) ||
		    pthread_create(&threads[i], NULL, invalidates, (void *)i))
			die("an invalidator");
	}
	usleep(10 * BUSY_USECS);
}

static void stop_invalidators(pthread_t threads[INVALIDATORS])
{
	stop = true;
	for (int i = 0; i < INVALIDATORS; i++)
		pthread_join(threads[i], NULL);
	stop = false;
}

static void bench_wait(void)
{
	pthread_t threads[INVALIDATORS];
	uint64_t most = 0, sum = 0;
	int fd = open_bench();
	char *mem = map(16);

	busy_pages = mem + PAGE;
	subscribe(fd, mem, 1 + INVALIDATORS, 1, PAGE);
	start_invalidators(fd, threads);
	for (int i = 0; i < WAITS; i++) {
		struct bench_cmd cmd = { .count = 0 };

		dont_need(mem, 1);
		if (ioctl(fd, BENCH_WAIT, &cmd))
			die("BENCH_WAIT");
		sum += cmd.ns;
		most = cmd.ns > most ? cmd.ns : most;
	}
	stop_invalidators(threads);
	printf("{\"case\": \"wait\", \"waits\": %d, \"mean_us\": %lu, \"most_us\": %lu}\n",
	       WAITS, sum / WAITS / 1000, most / 1000);
	close(fd);
}

/* Nothing is printed where the kernel has no helper to do them with. */
static void time_faults(const char *name, int fd, char *page, bool helper)
{
	uint64_t rounds[WAITS];

	for (int i = 0; i < WAITS; i++) {
		struct bench_cmd cmd = {
			.addr = (uintptr_t)page, .npages = 1, .helper = helper,
		};

		dont_need(page, 1);
		if (ioctl(fd, BENCH_FAULT, &cmd)) {
			if (errno == EOPNOTSUPP)
				return;
			die("BENCH_FAULT");
		}
		rounds[i] = cmd.ns;
	}
	qsort(rounds, WAITS, sizeof(*rounds), smaller);
	printf("{\"case\": \"%s\", \"median_us\": %lu, \"most_us\": %lu}\n", name,
	       rounds[WAITS / 2] / 1000, rounds[WAITS - 1] / 1000);
}

/*
 * A subscription for one fault of one page, and a tracker for one: alone, and while two
 * threads invalidate.
 */
static void bench_fault(void)
{
	pthread_t threads[INVALIDATORS];
	int fd = open_bench();
	char *mem = map(16), *page = mem + 8 * PAGE;

	busy_pages = mem + PAGE;
	subscribe(fd, mem, 1 + INVALIDATORS, 1, PAGE);
	time_faults("fault-idle", fd, page, false);
	time_faults("fault-idle-tracker", fd, page, true);
	start_invalidators(fd, threads);
	time_faults("fault-busy", fd, page, false);
	time_faults("fault-busy-tracker", fd, page, true);
	stop_invalidators(threads);
	close(fd);
}

static uint64_t calls[THREADS];

static void *counts(void *data)
{
	uintptr_t i = (uintptr_t)data;

	while (!__atomic_load_n(&stop, __ATOMIC_RELAXED)) {
		dont_need(busy_pages + i * PAGE, 1);
		calls[i]++;
	}
	return NULL;
}

/*
 * How many madvise() calls a number of threads make in a second, each for a page of its
 * own: with a subscription that none hits, and with one for each page.
 */
static void bench_threads(unsigned int count, bool hit)
{
	pthread_t threads[THREADS];
	int fd = open_bench();
	char *mem = map(2 * THREADS);
	uint64_t sum = 0, begin;

	busy_pages = mem;
	subscribe(fd, hit ? mem : mem + THREADS * PAGE, hit ? count : 1, 1, PAGE);
	memset(calls, 0, sizeof(calls));
	stop = false;
	for (uintptr_t i = 0; i < count; i++)
		if (pthread_create(&threads[i], NULL, counts, (void *)i))
			die("a thread");
	begin = now();
	usleep(THREADS_USECS);
	__atomic_store_n(&stop, true, __ATOMIC_RELAXED);
	for (unsigned int i = 0; i < count; i++)
		pthread_join(threads[i], NULL);
	for (unsigned int i = 0; i < count; i++)
		sum += calls[i];
	printf("{\"case\": \"threads-%u-%s\", \"calls\": %lu}\n", count,
	       hit ? "hit" : "missed", (unsigned long)(sum * 1e9 / (now() - begin)));
	fflush(stdout);
	stop = false;
	close(fd);
}

static int many_fd;
static char *many_pages;
static unsigned int many_done;

/*
 * All threads are there before the first invalidation: mmap_lock is held for reading
 * while one sleeps, and to make a thread takes it for writing.
 */
static enum { CREATE, INVALIDATE, WAIT, END } stage;

static void sleep_until(int wanted)
{
	while ((int)__atomic_load_n(&stage, __ATOMIC_RELAXED) < wanted)
		usleep(10000);
}

static void *many_invalidates(void *data)
{
	sleep_until(INVALIDATE);
	dont_need(many_pages + (uintptr_t)data * 2 * PAGE, 1);
	return NULL;
}

static void *many_waits(void *data)
{
	struct bench_cmd cmd = { .count = (uintptr_t)data };

	sleep_until(WAIT);
	if (ioctl(many_fd, BENCH_WAIT, &cmd))
		die("BENCH_WAIT");
	__atomic_add_fetch(&many_done, 1, __ATOMIC_RELAXED);
	sleep_until(END);
	return NULL;
}

static void set_stage(int next)
{
	__atomic_store_n(&stage, next, __ATOMIC_RELAXED);
}

static void many_threads(pthread_t *threads, void *(*function)(void *data))
{
	pthread_attr_t attr;

	/* Small ones, which are kept when they end, not unmapped. */
	if (pthread_attr_init(&attr) || pthread_attr_setstacksize(&attr, 65536))
		die("pthread_attr");
	for (uintptr_t i = 0; i < MANY; i++)
		if (pthread_create(&threads[i], &attr, function, (void *)i))
			die("a thread");
}

/* As many ranges in flight as tasks that wait, each for one: how many an end wakes. */
static void bench_wakeups(void)
{
	pthread_t invalidators[MANY], waiters[MANY];
	unsigned int before, woken, most = 0, first = MANY;

	many_fd = open_bench();
	many_pages = map(2 * MANY);
	subscribe(many_fd, many_pages, MANY, 1, 2 * PAGE);
	many_threads(invalidators, many_invalidates);
	many_threads(waiters, many_waits);
	for (unsigned int i = 0; i < MANY; i++) {
		struct bench_cmd cmd = { .count = i, .usecs = -1 };

		if (ioctl(many_fd, BENCH_STALL, &cmd))
			die("BENCH_STALL");
	}
	set_stage(INVALIDATE);
	while (ioctl(many_fd, BENCH_STALLED) != MANY)
		usleep(1000);
	set_stage(WAIT);
	usleep(1000000);

	for (unsigned int i = 0; i < MANY; i++) {
		struct bench_cmd cmd = { .count = i };

		before = __atomic_load_n(&many_done, __ATOMIC_RELAXED);
		if (ioctl(many_fd, BENCH_RELEASE, &cmd))
			die("BENCH_RELEASE");
		usleep(50000);
		woken = __atomic_load_n(&many_done, __ATOMIC_RELAXED) - before;
		most = woken > most ? woken : most;
		if (woken && first == MANY)
			first = i + 1;
	}
	printf("{\"case\": \"wakeups\", \"most_by_one_end\": %u, \"ends_before_first\": %u}\n",
	       most, first);
	fflush(stdout);
	set_stage(END);
	for (int i = 0; i < MANY; i++)
		if (pthread_join(invalidators[i], NULL) || pthread_join(waiters[i], NULL))
			die("pthread_join");
	close(many_fd);
}

int main(int argc, char **argv)
{
	static const unsigned int trackers[] = { 0, 1, 100, 10000 };

	if (argc > 1 && !strcmp(argv[1], "instructions")) {
		bench_populate("populate-present-by-hand", false, false);
		bench_populate("populate-present-helper", false, true);
		bench_populate("populate-faults-by-hand", true, false);
		bench_populate("populate-faults-helper", true, true);
		for (size_t i = 0; i < sizeof(trackers) / sizeof(*trackers); i++)
			bench_invalidate(trackers[i]);
		printf("{\"case\": \"size\", \"bytes\": %d}\n",
		       ioctl(open_bench(), BENCH_SIZE));
	} else if (argc > 1 && !strcmp(argv[1], "waits")) {
		bench_fault();
		bench_wait();
		bench_wakeups();
	} else if (argc > 1 && !strcmp(argv[1], "threads")) {
		for (unsigned int count = 2; count <= THREADS; count *= 2) {
			bench_threads(count, false);
			bench_threads(count, true);
		}
	} else {
		fprintf(stderr, "usage: hmm_range_bench instructions|waits|threads\n");
		return 1;
	}
	return 0;
}
