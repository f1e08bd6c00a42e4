// SPDX-License-Identifier: GPL-2.0
/*
 * A coverage-guided fuzzer of the interfaces around dma-bufs, for libFuzzer, and, where
 * REPLAY is defined, a program that runs what it has found.
 *
 * KCOV says which instructions of the kernel a program has reached; libFuzzer, which sees
 * only this process, is told by its "extra counters".  A report in the kernel's log ends
 * the process, after the program that caused it has been printed: what "replay" reads.
 *
 *	call [fail N] [thread] A B C D E
 *
 * An empty line ends a program.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
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

static unsigned long *kcov;
static int kmsg = -1;
static unsigned long calls_made, programs_run;

/* text */

static const struct fuzz_type *type_of(const struct fuzz_call *call)
{
	return &fuzz_types[call->type % fuzz_types_count];
}

static void print_program(FILE *out, const struct fuzz_call *calls, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		fputs(type_of(&calls[i])->name, out);
		if (calls[i].how & FUZZ_FAIL)
			fprintf(out, " fail %u", calls[i].how & FUZZ_FAIL);
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
static void fail_nth(unsigned int n)
{
	static __thread int fd = -1;
	char text[8];

	if (fd < 0)
		fd = open("/proc/thread-self/fail-nth", O_RDWR | O_CLOEXEC);
	if (pwrite(fd, text, sprintf(text, "%u", n), 0) < 0 && n) {
		perror("fail-nth");
		exit(1);
	}
}

static void run_call(const struct fuzz_call *call)
{
	unsigned int fail = call->how & FUZZ_FAIL;

	if (fail)
		fail_nth(fail);
	type_of(call)->run(call->arg);
	if (fail)
		fail_nth(0);
	__atomic_fetch_add(&calls_made, 1, __ATOMIC_RELAXED);
}

/* The other thread has one call at a time. */
static const struct fuzz_call *other_call;
static sem_t begin, done;

static void *other_thread(void *unused)
{
	for (;;) {
		sem_wait(&begin);
		run_call(other_call);
		sem_post(&done);
	}
	return unused;
}

static void run_program(const struct fuzz_call *calls, size_t count)
{
	bool busy = false;

	for (size_t i = 0; i < count; i++) {
		if (!(calls[i].how & FUZZ_THREAD)) {
			run_call(&calls[i]);
			continue;
		}
		if (busy)
			sem_wait(&done);
		busy = true;
		other_call = &calls[i];
		sem_post(&begin);
	}
	if (busy)
		sem_wait(&done);
	fuzz_clean();
	programs_run++;
}

/* Ends the process if the kernel has logged a report. */
static void look_at_log(const struct fuzz_call *calls, size_t count)
{
	static const char *const reports[] = {
		"WARNING:", "BUG:", "KASAN:", "UBSAN:", "Oops", "possible circular",
		"possible recursive", "inconsistent lock", "invalid wait context",
		"bad unlock balance", "refcount_t:", "blocked for more", "corruption",
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
			printf("The kernel's log: %s\nafter this program:\n\n", line);
			print_program(stdout, calls, count);
			fflush(stdout);
			abort();
		}
	}
}

static void print_totals(void)
{
	printf("%lu calls in %lu programs\n", calls_made, programs_run);
}

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	pthread_t thread;
	int fd;

	(void)argc;
	(void)argv;
	kmsg = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	lseek(kmsg, 0, SEEK_END);
	fuzz_open();
	sem_init(&begin, 0, 0);
	sem_init(&done, 0, 0);
	if (kmsg < 0 || pthread_create(&thread, NULL, other_thread, NULL)) {
		perror("/dev/kmsg, thread");
		exit(1);
	}
	atexit(print_totals);

	fd = open("/sys/kernel/debug/kcov", O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return 0;	/* not the kernel of "make fuzz": without guidance, then */
	if (!ioctl(fd, KCOV_INIT_TRACE, KCOV_WORDS))
		kcov = mmap(NULL, KCOV_WORDS * sizeof(*kcov), PROT_READ | PROT_WRITE,
			    MAP_SHARED, fd, 0);
	if (!kcov || kcov == MAP_FAILED || ioctl(fd, KCOV_ENABLE, KCOV_TRACE_PC)) {
		perror("kcov");
		exit(1);
	}
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
	unsigned long words = kcov ? __atomic_load_n(&kcov[0], __ATOMIC_RELAXED) : 0;

	for (unsigned long i = 1; i <= words && i < KCOV_WORDS; i++)
		count(kcov[i]);
	for (size_t i = 1; i < n; i++)
		count(type_of(&calls[i - 1]) - fuzz_types +
		      fuzz_types_count * (type_of(&calls[i]) - fuzz_types));
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
	if (kcov)
		__atomic_store_n(&kcov[0], 0, __ATOMIC_RELAXED);
	run_program(calls, n);
	count_coverage(calls, n);
	look_at_log(calls, n);
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
	call->how |= fail & FUZZ_FAIL;
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
			run_program(calls, count);
			look_at_log(calls, count);
		}
		programs += !!count;
		count = 0;
	}
	return 0;
}

#endif
