// SPDX-License-Identifier: GPL-2.0
/*
 * A coverage-guided fuzzer of the interfaces around dma-bufs, for libFuzzer, and, where
 * REPLAY is defined, a program that runs what it has found.
 *
 * KCOV says which instructions of the kernel a program has reached; libFuzzer, which sees
 * only this process, is told by its "extra counters".  A report in the kernel's log ends
 * the process.  The program that runs is in the file $FUZZ_RUNNING, also after a crash of
 * the kernel, in the form that "replay" reads, which prints each that it runs.
 *
 *	call [fail N] [thread] A B C D E
 *
 * An empty line ends a program.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <linux/kcov.h>

#include "fuzz.h"

#define KCOV_WORDS	(256 << 10)

/* Of this thread, and of the other one. */
static unsigned long *kcov[2];
static int kmsg = -1;
static unsigned long calls_made, programs_run;

/* text */

static const struct fuzz_type *type_of(const struct fuzz_call *call)
{
	return &fuzz_types[call->type % fuzz_types_count];
}

/* The number of the allocation that fails in this call, or 0. */
static unsigned int failing(const struct fuzz_call *call)
{
	return (call->how & FUZZ_FAILS) == FUZZ_FAILS && !type_of(call)->faults ?
		call->how & FUZZ_FAIL : 0;
}

static void print_program(FILE *out, const struct fuzz_call *calls, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		fputs(type_of(&calls[i])->name, out);
		if (failing(&calls[i]))
			fprintf(out, " fail %u", failing(&calls[i]));
		if (calls[i].how & FUZZ_THREAD)
			fputs(" thread", out);
		for (unsigned int arg = 0; arg < FUZZ_ARGS; arg++)
			fprintf(out, " %u", calls[i].arg[arg]);
		fputc('\n', out);
	}
	fputc('\n', out);
}

/* running */

/* The Nth allocation of the next call fails, in this thread. */
static __thread int fail_nth_fd;

static void fail_nth(unsigned int n)
{
	char text[8];

	if (pwrite(fail_nth_fd, text, sprintf(text, "%u", n), 0) < 0 && n) {
		perror("fail-nth");
		exit(1);
	}
}

/* Of libFuzzer: a return from one that fails would end the process. */
static sigset_t alarms;

static void run_call(const struct fuzz_call *call)
{
	unsigned int fail = failing(call);

	if (fail) {
		pthread_sigmask(SIG_BLOCK, &alarms, NULL);
		fail_nth(fail);
	}
	type_of(call)->run(call->arg);
	if (fail) {
		fail_nth(0);
		pthread_sigmask(SIG_UNBLOCK, &alarms, NULL);
	}
	__atomic_fetch_add(&calls_made, 1, __ATOMIC_RELAXED);
}

/* The other thread has one call at a time. */
static const struct fuzz_call *other_call;
static sem_t begin, done;

/* libFuzzer has a timer, whose signal interrupts. */
static void wait_for(sem_t *sem)
{
	while (sem_wait(sem) && errno == EINTR)
		;
}

/* Coverage of the thread that calls this; NULL: not the kernel of "make fuzz". */
static unsigned long *trace(void)
{
	int fd = open("/sys/kernel/debug/kcov", O_RDWR | O_CLOEXEC);
	unsigned long *area = NULL;

	if (fd < 0)
		return NULL;
	if (!ioctl(fd, KCOV_INIT_TRACE, KCOV_WORDS))
		area = mmap(NULL, KCOV_WORDS * sizeof(*area), PROT_READ | PROT_WRITE,
			    MAP_SHARED, fd, 0);
	if (!area || area == MAP_FAILED || ioctl(fd, KCOV_ENABLE, KCOV_TRACE_PC) ||
	    madvise(area, KCOV_WORDS * sizeof(*area), MADV_DONTFORK)) {
		perror("kcov");
		exit(1);
	}
	return area;
}

static void *other_thread(void *unused)
{
	fail_nth_fd = open("/proc/thread-self/fail-nth", O_RDWR | O_CLOEXEC);
	kcov[1] = trace();
	sem_post(&done);
	for (;;) {
		wait_for(&begin);
		run_call(other_call);
		sem_post(&done);
	}
	return unused;
}

static void run_program(const struct fuzz_call *calls, size_t count)
{
	bool busy = false;

	fuzz_begin(calls, count);
	for (size_t i = 0; i < count; i++) {
		if (!(calls[i].how & FUZZ_THREAD)) {
			run_call(&calls[i]);
			continue;
		}
		if (busy)
			wait_for(&done);
		busy = true;
		other_call = &calls[i];
		sem_post(&begin);
	}
	if (busy)
		wait_for(&done);
	fuzz_clean();
	programs_run++;
}

/* Ends the process if the kernel has logged a report. */
static void look_at_log(void)
{
	static const char *const reports[] = {
		"WARNING:", "BUG:", "KASAN:", "UBSAN:", "Oops", "possible circular",
		"possible recursive", "inconsistent lock", "invalid wait context",
		"bad unlock balance", "refcount_t:", "blocked for more", "corruption",
		"rcu: INFO",
	};
	char line[2048];
	ssize_t n;

	while ((n = read(kmsg, line, sizeof(line) - 1)) > 0 || errno == EPIPE) {
		if (n < 0)
			continue;
		line[n] = '\0';
		for (size_t i = 0; i < sizeof(reports) / sizeof(*reports); i++) {
			if (!strstr(line, reports[i]))
				continue;
			printf("The kernel's log: %s", line);
			fflush(stdout);
			abort();
		}
	}
}

static void print_totals(void)
{
	fprintf(stderr, "%lu calls in %lu programs\n", calls_made, programs_run);
}

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	pthread_t thread;

	(void)argc;
	(void)argv;
	sigemptyset(&alarms);
	sigaddset(&alarms, SIGALRM);
	kmsg = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	lseek(kmsg, 0, SEEK_END);
	fuzz_open();
	sem_init(&begin, 0, 0);
	sem_init(&done, 0, 0);
	if (kmsg < 0 || pthread_create(&thread, NULL, other_thread, NULL)) {
		perror("/dev/kmsg, thread");
		exit(1);
	}
	wait_for(&done);
	fail_nth_fd = open("/proc/thread-self/fail-nth", O_RDWR | O_CLOEXEC);
	kcov[0] = trace();
	atexit(print_totals);
	return 0;
}

#ifndef REPLAY

#define COUNTERS	0x10000

/* Nothing here reads them: without volatile, the compiler drops them. */
__attribute__((section("__libfuzzer_extra_counters")))
static volatile uint8_t counters[COUNTERS];

/* Whether, not how often: loops make no program interesting. */
static void count(unsigned long what)
{
	counters[what * 0x9e3779b97f4a7c15UL >> 48] = 1;
}

/* What of the kernel was reached, and which call followed which. */
static void count_coverage(const struct fuzz_call *calls, size_t n)
{
	for (unsigned int thread = 0; thread < 2 && kcov[thread]; thread++) {
		unsigned long words = __atomic_load_n(kcov[thread], __ATOMIC_RELAXED);

		for (unsigned long i = 1; i <= words && i < KCOV_WORDS; i++)
			count(kcov[thread][i]);
	}
	for (size_t i = 1; i < n; i++)
		count(type_of(&calls[i - 1]) - fuzz_types +
		      fuzz_types_count * (type_of(&calls[i]) - fuzz_types));
}

/*
 * Into a file of the host's, which survives a crash of the kernel.  By one write, as a 9p call
 * takes as long as a program; padded with newlines, so that nothing of a longer one remains.
 */
static void write_down(const struct fuzz_call *calls, size_t count)
{
	static char text[FUZZ_CALLS * 64];
	static int fd = -2;
	FILE *out;

	if (fd == -2)
		fd = getenv("FUZZ_RUNNING") ?
		     open(getenv("FUZZ_RUNNING"), O_WRONLY | O_CREAT | O_CLOEXEC, 0644) : -1;
	if (fd < 0)
		return;
	memset(text, '\n', sizeof(text));
	out = fmemopen(text, sizeof(text), "r+");
	if (!out)
		return;
	print_program(out, calls, count);
	fclose(out);
	if (pwrite(fd, text, sizeof(text), 0) < 0)
		perror("FUZZ_RUNNING");
}

/* Whole calls are added, doubled and dropped: what follows them stays what it was. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed)
{
	const size_t call = sizeof(struct fuzz_call);
	size_t n = size / call, at = n ? rand_r(&seed) % n : 0;
	unsigned int how = rand_r(&seed) % 8;
	uint8_t *place = data + at * call;

	if (n > 1 && how == 0) {
		memmove(place, place + call, (n - at - 1) * call);
		return (n - 1) * call;
	}
	if (!n || (how < 4 && (n + 1) * call <= max_size)) {
		memmove(place + call, place, (n - at) * call);
		n++;
		/* A copy, or a new one: of any type, with small numbers, not to fail. */
		if (n == 1 || how > 1) {
			memset(place, 0, call);
			place[0] = rand_r(&seed) % fuzz_types_count;
			for (size_t i = 2; i < call; i += 2)
				place[i] = rand_r(&seed) % 8;
		}
	}
	LLVMFuzzerMutate(place, call, call);
	return n * call;
}

/* The first calls of one program, and the last ones of another. */
size_t LLVMFuzzerCustomCrossOver(const uint8_t *one, size_t one_size, const uint8_t *two,
				 size_t two_size, uint8_t *out, size_t max_size,
				 unsigned int seed);
size_t LLVMFuzzerCustomCrossOver(const uint8_t *one, size_t one_size, const uint8_t *two,
				 size_t two_size, uint8_t *out, size_t max_size,
				 unsigned int seed)
{
	const size_t call = sizeof(struct fuzz_call);
	size_t head = rand_r(&seed) % (one_size / call + 1) * call;
	size_t skip = rand_r(&seed) % (two_size / call + 1) * call;
	size_t rest = two_size / call * call - skip;

	if (rest > max_size - head)
		rest = (max_size - head) / call * call;
	memcpy(out, one, head);
	memcpy(out + head, two + skip, rest);
	return head + rest;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_call calls[FUZZ_CALLS];
	size_t n = size / sizeof(*calls);

	if (n > FUZZ_CALLS)
		n = FUZZ_CALLS;
	memcpy(calls, data, n * sizeof(*calls));
	if (getenv("FUZZ_PRINT")) {
		print_program(stdout, calls, n);
		return 0;
	}
	write_down(calls, n);
	for (unsigned int thread = 0; thread < 2 && kcov[thread]; thread++)
		__atomic_store_n(kcov[thread], 0, __ATOMIC_RELAXED);
	run_program(calls, n);
	count_coverage(calls, n);
	if (programs_run % 64 == 0)
		print_totals();
	look_at_log();
	return 0;
}

#else /* REPLAY */

static bool parse_call(const char *line, struct fuzz_call *call)
{
	char name[32];
	unsigned int fail = 0, arg[FUZZ_ARGS];
	int at = 0, n;

	memset(call, 0, sizeof(*call));
	if (sscanf(line, "%31s%n", name, &at) != 1)
		return false;
	while (call->type < fuzz_types_count && strcmp(fuzz_types[call->type].name, name))
		call->type++;
	if (call->type == fuzz_types_count)
		return false;
	if (sscanf(line + at, " fail %u%n", &fail, &n) == 1)
		at += n;
	if (!strncmp(line + at, " thread", 7)) {
		call->how |= FUZZ_THREAD;
		at += 7;
	}
	if (fail > FUZZ_FAIL)
		return false;
	if (fail)
		call->how |= FUZZ_FAILS | fail;
	if (sscanf(line + at, "%u %u %u %u %u", &arg[0], &arg[1], &arg[2], &arg[3],
		   &arg[4]) != FUZZ_ARGS)
		return false;
	for (n = 0; n < FUZZ_ARGS; n++)
		call->arg[n] = arg[n];
	return true;
}

/* Runs the programs of a text; or, with -b, writes each as libFuzzer's input. */
int main(int argc, char **argv)
{
	struct fuzz_call calls[FUZZ_CALLS];
	const char *directory = argc == 4 && !strcmp(argv[1], "-b") ? argv[2] : NULL;
	FILE *in = argc > 1 ? fopen(argv[argc - 1], "r") : NULL;
	unsigned int programs = 0;
	char line[256], path[256];
	size_t count = 0;
	bool more = true;

	if (!in) {
		fprintf(stderr, "usage: replay [-b DIRECTORY] PROGRAMS\n");
		return 2;
	}
	if (!directory)
		LLVMFuzzerInitialize(&argc, &argv);
	while (more) {
		more = fgets(line, sizeof(line), in);
		if (more && *line == '#')
			continue;
		if (more && *line != '\n') {
			if (count == FUZZ_CALLS || !parse_call(line, &calls[count])) {
				fprintf(stderr, "not a call, or one too many: %s", line);
				return 1;
			}
			count++;
			continue;
		}
		if (count && directory) {
			FILE *out;

			snprintf(path, sizeof(path), "%s/%u", directory, programs);
			out = fopen(path, "w");
			if (!out || fwrite(calls, sizeof(*calls), count, out) != count ||
			    fclose(out)) {
				perror(path);
				return 1;
			}
		} else if (count) {
			print_program(stdout, calls, count);
			fflush(stdout);
			run_program(calls, count);
			look_at_log();
		}
		programs += !!count;
		count = 0;
	}
	return 0;
}

#endif
