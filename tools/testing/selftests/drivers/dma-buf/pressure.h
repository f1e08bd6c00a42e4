/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Processes that do one thing over and over, each for itself and all at once, for some
 * time: what uses buffers, and what disturbs it.
 */
#ifndef PRESSURE_H
#define PRESSURE_H

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../../kselftest.h"

/* How long one turn may take, and how much later than asked for a role may end. */
#define MOST_SECONDS	300

/* What a turn returns when data is not what it should be. */
#define LOST		(-EILSEQ)

/**
 * struct role - a process
 * @name: for the report
 * @turn: what it does: 0 if that worked; -ENOMEM or -EAGAIN if it was refused, which may
 *	be; any other value ends the role and is a failure
 * @pause_ms: between two turns
 * @alone: its turns are not at the same time as those of others of which this is said
 * @pid: the process
 * @count: what it has done; shared with it
 */
struct role {
	const char *name;
	int (*turn)(unsigned int *seed);
	unsigned int pause_ms;
	bool alone;
	pid_t pid;
	struct role_count {
		unsigned long turns;
		unsigned long refused;
		unsigned long longest_ms;
		int error;
	} *count;
};

static inline uint64_t pressure_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000ULL + t.tv_nsec / 1000000;
}

/* From -1000, never killed for lack of memory, to 1000, killed first. */
static inline void oom_score(int score)
{
	FILE *f = fopen("/proc/self/oom_score_adj", "w");

	if (!f || fprintf(f, "%d", score) < 0 || fclose(f))
		_exit(KSFT_FAIL);
}

/* Held for a turn of a role that is alone. */
static inline void role_lock(int file, short type)
{
	struct flock lock = { .l_type = type };

	if (fcntl(file, F_SETLKW, &lock))
		ksft_exit_fail_msg("no lock\n");
}

/* In the process of the role: until the end, and until it has done something. */
static inline void role_run(struct role *role, int lock, unsigned int seed, uint64_t end)
{
	struct role_count *count = role->count;

	while (!count->error &&
	       (pressure_ms() < end ||
		(!count->turns && pressure_ms() < end + MOST_SECONDS * 500))) {
		uint64_t start, took;
		int ret;

		if (role->alone)
			role_lock(lock, F_WRLCK);
		start = pressure_ms();
		ret = role->turn(&seed);
		took = pressure_ms() - start;
		if (role->alone)
			role_lock(lock, F_UNLCK);
		if (took > count->longest_ms)
			count->longest_ms = took;
		if (!ret)
			count->turns++;
		else if (ret == -ENOMEM || ret == -EAGAIN)
			count->refused++;
		else
			count->error = ret;
		usleep(role->pause_ms * 1000);
	}
}

static inline void roles_start(struct role *roles, size_t n, unsigned int seconds)
{
	uint64_t end = pressure_ms() + seconds * 1000ULL;
	struct role_count *counts = mmap(NULL, n * sizeof(*counts), PROT_READ | PROT_WRITE,
					 MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	int lock = memfd_create("alone", MFD_CLOEXEC);

	if (counts == MAP_FAILED || lock < 0)
		ksft_exit_fail_msg("no memory\n");
	fflush(stdout);
	for (size_t i = 0; i < n; i++) {
		roles[i].count = &counts[i];
		roles[i].pid = fork();
		if (roles[i].pid < 0)
			ksft_exit_fail_msg("no process\n");
		if (roles[i].pid)
			continue;
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		role_run(&roles[i], lock, i + 1, end);
		exit(0);
	}
	close(lock);
}

/*
 * Waits for a process until @end, and kills it then.  Its status; -1 if it was killed, and
 * the log has where it was.
 */
static inline int wait_until(pid_t pid, const char *name, uint64_t end)
{
	char path[64], line[128];
	int status;
	FILE *f;

	while (pressure_ms() < end) {
		if (waitpid(pid, &status, WNOHANG) == pid)
			return status;
		usleep(50000);
	}
	ksft_print_msg("%s does not end\n", name);
	snprintf(path, sizeof(path), "/proc/%d/stack", pid);
	f = fopen(path, "r");
	while (f && fgets(line, sizeof(line), f))
		ksft_print_msg("%s", line);
	if (f)
		fclose(f);
	kill(pid, SIGKILL);
	return -1;
}

/* A test result of each role. */
static inline void roles_wait(struct role *roles, size_t n, unsigned int seconds)
{
	uint64_t end = pressure_ms() + (seconds + MOST_SECONDS) * 1000ULL;

	for (size_t i = 0; i < n; i++) {
		struct role_count *count = roles[i].count;
		int status = wait_until(roles[i].pid, roles[i].name, end);

		if (status || count->error)
			ksft_print_msg("%s: status %#x, %s\n", roles[i].name, status,
				       count->error == LOST ? "data is lost" :
				       strerror(-count->error));
		ksft_test_result(!status && !count->error && count->turns &&
				 count->longest_ms < MOST_SECONDS * 1000,
				 "%s: %lu turns, %lu refused, the longest took %lu ms\n",
				 roles[i].name, count->turns, count->refused,
				 count->longest_ms);
	}
}

/* What is left of the arguments of a program: SECONDS [PAUSE_MS], of each role. */
static inline unsigned int roles_arguments(int argc, char **argv, struct role *roles,
					   size_t n)
{
	if (argc < 2)
		ksft_exit_fail_msg("usage: %s SECONDS [PAUSE_MS]\n", argv[0]);
	for (size_t i = 0; i < n && argc > 2; i++)
		roles[i].pause_ms += atoi(argv[2]);
	return atoi(argv[1]);
}

/* Takes memory until it is killed, or its parent is. */
static inline void eat(void)
{
	size_t size = 32UL << 20;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	oom_score(1000);
	for (;;) {
		char *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (p == MAP_FAILED)
			continue;
		madvise(p, size, MADV_HUGEPAGE);
		for (size_t i = 0; i < size; i += 4096)
			p[i] = 1;
	}
}

/* Whether a process that eats, and nothing else, was killed. */
static inline int killed(pid_t pid)
{
	int status;

	if (pid < 0)
		return -errno;
	if (waitpid(pid, &status, 0) != pid)
		return -errno;
	return WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL ? 0 : -ECHILD;
}

#endif /* PRESSURE_H */
