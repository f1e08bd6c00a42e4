// SPDX-License-Identifier: GPL-2.0
/*
 * The HMM range helper, with one allocation or one access to user memory after the
 * other failing
 *
 * A step runs with its first such call made to fail, then with its second, and so on,
 * until it ran with none failing. Each time, it must return a documented error or have
 * done all of its work; after that, the same must work, and leave nothing behind. What
 * else may go wrong is for the kernel's log to say.
 *
 * Each run is a process of its own, as the first tracker of an mm takes more than the
 * others.
 *
 * Needs root, the module test_hmm_range and CONFIG_FAULT_INJECTION (and _DEBUG_FS,
 * _USERCOPY), CONFIG_FAILSLAB, CONFIG_FAIL_PAGE_ALLOC.
 */
#include "hmm_range_util.h"

#include <sys/syscall.h>
#include <sys/wait.h>

#include "../kselftest_harness.h"

/* An emulated machine with KASAN takes so long, on a busy host. */
#undef TEST_TIMEOUT_DEFAULT
#define TEST_TIMEOUT_DEFAULT	180

#define PAGES		4
/* More calls than any step has: one that goes on longer does not end. */
#define MOST_CALLS	500

#define FAILSLAB	"/sys/kernel/debug/failslab/"
#define FAIL_PAGE_ALLOC	"/sys/kernel/debug/fail_page_alloc/"

#define FAIL_USERCOPY	"/sys/kernel/debug/fail_usercopy/"

/* Without messages, and with no allocation left out. */
static const char * const settings[][2] = {
	{ FAILSLAB "verbose", "0" },
	{ FAIL_PAGE_ALLOC "verbose", "0" },
	{ FAIL_USERCOPY "verbose", "0" },
	{ FAILSLAB "ignore-gfp-wait", "N" },
	{ FAILSLAB "cache-filter", "N" },
	{ FAIL_PAGE_ALLOC "ignore-gfp-wait", "N" },
	{ FAIL_PAGE_ALLOC "ignore-gfp-highmem", "N" },
	{ FAIL_PAGE_ALLOC "min-order", "0" },
};

struct state {
	int fd;
	char *mem;
};

/* What a child tells: its step went well untouched, or with a failure, or did not. */
enum { UNTOUCHED, INJECTED, BROKEN };

static int fail_nth_file(void)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/task/%ld/fail-nth", syscall(SYS_gettid));
	return open(path, O_RDWR);
}

static int do_register(struct state *s)
{
	return mirror_register(s->fd, s->mem, PAGES);
}

static int do_populate(struct state *s)
{
	return populate(s->fd, s->mem, PAGES, WRITABLE);
}

static int do_snapshot(struct state *s)
{
	uint8_t states[PAGES];

	return snapshot(s->fd, s->mem, PAGES, states);
}

static int do_write(struct state *s)
{
	static char buffer[PAGES * (64 << 10)] = { 1 };		/* of any machine */

	return device_write(s->fd, s->mem, PAGES, buffer);
}

static int do_wait(struct state *s)
{
	return mirror_wait(s->fd, LONG_MS);
}

static int do_unregister(struct state *s)
{
	return mirror_unregister(s->fd);
}

/* Only what is documented. */
static bool is_allowed(int result)
{
	return !result || result == -ENOMEM || result == -EFAULT;
}

/* With the nth call failing, or the first ones, if any. */
static int attempt(int (*step)(struct state *s), bool registered, int n)
{
	struct state s = { .fd = open_device() };
	char left[16] = "";
	int fail = fail_nth_file();
	bool untouched;
	int result;

	s.mem = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (s.fd < 0 || fail < 0 || s.mem == MAP_FAILED ||
	    (registered && mirror_register(s.fd, s.mem, PAGES)))
		return BROKEN;

	snprintf(left, sizeof(left), "%d", n);
	if (pwrite(fail, left, strlen(left), 0) < 0)
		return BROKEN;
	result = step(&s);
	/* The call that fails can be this read, or the first of these writes. */
	memset(left, 0, sizeof(left));
	untouched = pread(fail, left, sizeof(left) - 1, 0) < 0 || atoi(left);
	if (pwrite(fail, "0", 1, 0) != 1 && pwrite(fail, "0", 1, 0) != 1)
		return BROKEN;

	/* After a failure, the same without one; after success, the opposite is due. */
	if (!is_allowed(result) || (result && step(&s)))
		return BROKEN;
	if (step == do_unregister && mirror_register(s.fd, s.mem, PAGES))
		return BROKEN;
	if (populate(s.fd, s.mem, PAGES, WRITABLE) || stats(s.fd).mismatches ||
	    mirror_unregister(s.fd))
		return BROKEN;
	return untouched ? UNTOUCHED : INJECTED;
}

static int in_child(int (*step)(struct state *s), bool registered, int n)
{
	int status;
	pid_t pid = fork();

	if (!pid)
		_exit(attempt(step, registered, n));
	if (waitpid(pid, &status, 0) != pid || !WIFEXITED(status))
		return BROKEN;
	return WEXITSTATUS(status);
}

FIXTURE(step) {
};

FIXTURE_VARIANT(step) {
	int (*step)(struct state *s);
	bool registered;	/* before it */
	int fewest;		/* calls that can fail in it */
};

FIXTURE_VARIANT_ADD(step, register) { do_register, false, 3 };
FIXTURE_VARIANT_ADD(step, populate) { do_populate, true, 3 };
FIXTURE_VARIANT_ADD(step, snapshot) { do_snapshot, true, 2 };
FIXTURE_VARIANT_ADD(step, write) { do_write, true, 3 };
FIXTURE_VARIANT_ADD(step, wait) { do_wait, true, 1 };
FIXTURE_VARIANT_ADD(step, unregister) { do_unregister, true, 0 };

FIXTURE_SETUP(step)
{
	for (size_t i = 0; i < ARRAY_SIZE(settings); i++)
		ASSERT_EQ(write_text(settings[i][0], settings[i][1]), 0);
}

FIXTURE_TEARDOWN(step)
{
}

TEST_F(step, fail_nth)
{
	int n, outcome = INJECTED;

	for (n = 0; n < MOST_CALLS && outcome == INJECTED; n++)
		outcome = in_child(variant->step, variant->registered, n + 1);
	EXPECT_EQ(outcome, UNTOUCHED)
		TH_LOG("with call %d failing", n);
	EXPECT_GT(n, variant->fewest)
		TH_LOG("%d calls were made to fail", n - 1);
	TH_LOG("%d calls were made to fail", n - 1);
}

TEST_HARNESS_MAIN
