// SPDX-License-Identifier: GPL-2.0
/*
 * Threads that invalidate and threads that populate, all on the same memory
 *
 * At the end of every commit, with the device's lock still held, the module compares
 * what it mirrors with the CPU's page tables. No page may differ, ever.
 *
 * The roles: threads that populate; threads that change the mappings in each way there
 * is; drivers that register a mirror for each fault; and processes that the OOM reaper
 * takes apart.
 *
 * usage: hmm_range_stress [seconds]; 20 if it does not say. Needs root and the module
 * test_hmm_range.
 */
#include "hmm_range_util.h"

#include <malloc.h>
#include <pthread.h>
#include <signal.h>

#include "../kselftest.h"

#define PAGES		1024
#define MIRRORS		3
#define SECONDS		20

static char *mem;
static int mirrors[MIRRORS];
static time_t until;

/* Calls that did what they should, and those that ended in a way that they may not. */
static unsigned long populated, refused, changed, wrong;
/* Of the mirrors that lasted for one fault, and of the processes that were reaped. */
static unsigned long faults, reaped, mismatches, compared;

static time_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec;
}

static void add(unsigned long *counter)
{
	__atomic_add_fetch(counter, 1, __ATOMIC_RELAXED);
}

/* A part of the memory: not larger than what a huge page has. */
static char *some(unsigned int *seed, size_t *pages)
{
	size_t first = rand_r(seed) % PAGES;

	*pages = 1 + rand_r(seed) % (rand_r(seed) % 4 ? 8 : 512);
	if (*pages > PAGES - first)
		*pages = PAGES - first;
	return mem + first * PAGE;
}

/*
 * Whatever others do at the time, a populate ends in one of these ways: a mapping
 * may be moved away for a moment, or be one that must not be written to; and
 * mirrors[0] may not be there, or be on its way out.
 */
static void *populates(void *data)
{
	unsigned int seed = (uintptr_t)data;

	while (now() < until) {
		int fd = mirrors[rand_r(&seed) % MIRRORS];
		uint32_t flags = rand_r(&seed) % 2 ? WRITABLE : 0;
		size_t pages;
		char *part = some(&seed, &pages);

		switch (populate(fd, part, pages, flags)) {
		case 0:
			add(&populated);
			break;
		case -EPERM:
		case -EFAULT:
		case -ETIMEDOUT:
			add(&refused);
			break;
		case -ENXIO:
		case -ECANCELED:
			if (fd != mirrors[0])
				add(&wrong);
			break;
		default:
			add(&wrong);
		}
	}
	return NULL;
}

static int map_again(char *part, size_t size)
{
	return mmap(part, size, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == part ? 0 : -1;
}

static int change(unsigned int *seed, char *part, size_t size)
{
	switch (rand_r(seed) % 9) {
	case 0:
	case 1:
		return madvise(part, size, MADV_DONTNEED);
	case 2:
		return mprotect(part, size, PROT_READ);
	case 3:
	case 4:
		return mprotect(part, size, PROT_READ | PROT_WRITE);
	case 5:
		return map_again(part, size);
	case 6:
		return munmap(part, size) ?: map_again(part, size);
	case 7:
		return madvise(part, size, MADV_PAGEOUT);
	default:
		return madvise(part, size, rand_r(seed) % 2 ? MADV_HUGEPAGE :
							      MADV_NOHUGEPAGE);
	}
}

static void *invalidates(void *data)
{
	unsigned int seed = (uintptr_t)data;

	while (now() < until) {
		size_t pages;
		char *part = some(&seed, &pages);

		/* ENOMEM: where another thread has made a hole. */
		if (!change(&seed, part, pages * PAGE))
			add(&changed);
		else if (errno != ENOMEM)
			add(&wrong);
	}
	return NULL;
}

/*
 * Moves memory away and back: at its old place there is a hole meanwhile. EFAULT: another
 * thread has made one already.
 */
static void *moves(void *data)
{
	unsigned int seed = (uintptr_t)data;
	char *aside = mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	while (now() < until) {
		char *page = mem + rand_r(&seed) % PAGES * PAGE;

		if (mremap(page, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, aside) != aside)
			add(errno == EFAULT ? &refused : &wrong);
		else if (mremap(aside, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, page) != page)
			add(&wrong);
		else
			add(&changed);
	}
	return NULL;
}

/* Forks, which makes all private pages read-only, and has others move them about. */
static void *forks(void *data)
{
	while (now() < until) {
		pid_t pid = fork();

		if (!pid)
			_exit(0);
		if (pid < 0 || waitpid(pid, NULL, 0) != pid)
			add(&wrong);
		if (write_text("/proc/sys/vm/compact_memory", "1"))
			add(&wrong);
		sleep(1);
	}
	return NULL;
}

/* One mirror is unregistered, and registered, under the threads that use it. */
static void *registers(void *data)
{
	while (now() < until) {
		if (stats(mirrors[0]).mismatches || mirror_unregister(mirrors[0]))
			add(&wrong);
		if (mirror_register(mirrors[0], mem, PAGES))
			add(&wrong);
		usleep(2000);
	}
	return NULL;
}

/* A mirror for each fault, as some drivers do: insert, wait, populate, remove. */
static void *faults_alone(void *data)
{
	unsigned int seed = (uintptr_t)data;
	int fd = open_device();

	while (now() < until) {
		struct hmm_range_test_stats seen;
		size_t pages;
		char *part = some(&seed, &pages);
		int ret;

		if (mirror_register(fd, part, pages))
			add(&wrong);
		ret = mirror_wait(fd, LONG_MS);
		if (ret && ret != -ETIMEDOUT)
			add(&wrong);
		ret = populate(fd, part, pages, rand_r(&seed) % 2 ? WRITABLE : 0);
		if (!ret)
			add(&faults);
		else if (ret != -EPERM && ret != -EFAULT && ret != -ETIMEDOUT)
			add(&wrong);
		seen = stats(fd);
		__atomic_add_fetch(&mismatches, seen.mismatches, __ATOMIC_RELAXED);
		__atomic_add_fetch(&compared, seen.compared, __ATOMIC_RELAXED);
		if (mirror_unregister(fd))
			add(&wrong);
	}
	close(fd);
	return NULL;
}

/* Mirrors its own memory and changes it, until it is killed. */
static void live(int fd)
{
	char *own = map_anon(PAGES);

	if (own == MAP_FAILED || mirror_register(fd, own, PAGES))
		_exit(1);
	for (;;) {
		if (populate(fd, own, PAGES, WRITABLE) ||
		    madvise(own, PAGES / 2 * PAGE, MADV_DONTNEED))
			_exit(1);
	}
}

/* Has processes end under the OOM reaper, or rather process_mrelease(), which is it. */
static void *reaps(void *data)
{
	while (now() < until) {
		int fd = open_device(), pidfd, status;
		pid_t pid = fork();

		if (!pid)
			live(fd);
		usleep(20000);
		pidfd = syscall(__NR_pidfd_open, pid, 0);
		if (pid < 0 || pidfd < 0 || kill(pid, SIGKILL)) {
			add(&wrong);
			return NULL;
		}
		/* ESRCH: it was gone. EAGAIN: its mirror was being written to. */
		if (!syscall(__NR_process_mrelease, pidfd, 0))
			add(&reaped);
		else if (errno != ESRCH && errno != EAGAIN)
			add(&wrong);
		if (waitpid(pid, &status, 0) != pid || !WIFSIGNALED(status) ||
		    stats(fd).mismatches)
			add(&wrong);
		close(pidfd);
		close(fd);
	}
	return NULL;
}

static void *(*const roles[])(void *) = {
	populates, populates, populates, invalidates, invalidates, invalidates, moves,
	forks, registers, faults_alone, faults_alone, reaps,
};

static pthread_barrier_t all_there;

static void *begin(void *data)
{
	pthread_barrier_wait(&all_there);
	return roles[(uintptr_t)data - 1](data);
}

int main(int argc, char **argv)
{
	pthread_t threads[ARRAY_SIZE(roles)];
	unsigned long restarts = 0, hits = 0;

	ksft_print_header();
	ksft_set_plan(4);
	/*
	 * The C library must not map a heap or a stack into a hole in the memory, which is
	 * mapped again: there is one heap, and all threads are there before the first hole.
	 */
	mallopt(M_ARENA_MAX, 1);
	pthread_barrier_init(&all_there, NULL, ARRAY_SIZE(roles));
	mem = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
		   -1, 0);
	if (mem == MAP_FAILED)
		ksft_exit_fail_msg("no memory\n");
	for (int i = 0; i < MIRRORS; i++) {
		mirrors[i] = open_device();
		if (mirrors[i] < 0 || mirror_register(mirrors[i], mem, PAGES))
			ksft_exit_fail_msg("no mirror %d\n", i);
	}

	until = now() + (argc > 1 ? atoi(argv[1]) : SECONDS);
	for (size_t i = 0; i < ARRAY_SIZE(roles); i++)
		if (pthread_create(&threads[i], NULL, begin, (void *)(i + 1)))
			ksft_exit_fail_msg("no thread\n");
	for (size_t i = 0; i < ARRAY_SIZE(roles); i++)
		pthread_join(threads[i], NULL);

	for (int i = 0; i < MIRRORS; i++) {
		struct hmm_range_test_stats seen = stats(mirrors[i]);

		mismatches += seen.mismatches;
		compared += seen.compared;
		restarts += seen.restarts;
		hits += seen.hits;
		close(mirrors[i]);
	}
	ksft_print_msg("%lu populated, %lu refused, %lu changes\n", populated, refused, changed);
	ksft_print_msg("%lu restarts, %lu pages compared\n", restarts, compared);
	ksft_print_msg("%lu faults with a mirror of their own, %lu processes reaped\n", faults,
		       reaped);
	ksft_test_result(!mismatches, "the mirror is what the CPU maps (%lu pages are not)\n",
			 mismatches);
	ksft_test_result(!wrong, "every call ended as it may (%lu did not)\n", wrong);
	ksft_test_result(populated && changed && compared && faults && reaped,
			 "there was work\n");
	ksft_test_result(hits, "the mirrors were hit (%lu times)\n", hits);
	ksft_finished();
}
