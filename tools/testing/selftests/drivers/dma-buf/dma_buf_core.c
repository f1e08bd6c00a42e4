// SPDX-License-Identifier: GPL-2.0
/*
 * What the dma-buf core sees to for all exporters: that mappings are VM_PFNMAP, and
 * at an address that huge entries can be used at; and that no mapping of huge entries
 * which was taken away comes back through fork().
 *
 * Needs the module dma_buf_test_exporter and CONFIG_DMABUF_REQUIRE_PFNMAP.
 */
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/wait.h>

#include "udmabuf_util.h"
#include "../../kselftest_harness.h"
#include "../../../../../drivers/dma-buf/tests/dma_buf_test_exporter.h"

#define SIZE	(DMA_BUF_TEST_SLOTS * HUGE)

FIXTURE(core) {
	struct held before;
	int dev;
	int vmas;
};

FIXTURE_SETUP(core)
{
	self->before = held();
	self->dev = open("/dev/dma_buf_test", O_RDWR | O_CLOEXEC);
	ASSERT_GE(self->dev, 0);
	self->vmas = ioctl(self->dev, DMA_BUF_TEST_VMAS);
}

FIXTURE_TEARDOWN(core)
{
	EXPECT_EQ(ioctl(self->dev, DMA_BUF_TEST_VMAS), self->vmas);
	close(self->dev);
	EXPECT_HELD(self->before);
}

static int test_buffer(int dev, __u32 kind)
{
	return ioctl(dev, DMA_BUF_TEST_CREATE, &kind);
}

/* How many lines of the kernel's log have @text. */
static int log_lines(const char *text)
{
	int fd = open("/dev/kmsg", O_RDONLY | O_NONBLOCK), n = 0;
	char record[2048];
	ssize_t len;

	if (fd < 0)
		die("/dev/kmsg");
	while ((len = read(fd, record, sizeof(record) - 1)) > 0 ||
	       (len < 0 && errno == EPIPE)) {
		if (len < 0)
			continue;
		record[len] = '\0';
		n += !!strstr(record, text);
	}
	close(fd);
	return n;
}

/* Refused, what the exporter did undone, and said once for the exporter. */
TEST_F(core, mapping_that_is_not_pfnmap)
{
	static const char text[] = "dma_buf_test_exporter: mmap is not VM_PFNMAP";

	for (int i = 0; i < 3; i++) {
		int fd = test_buffer(self->dev, DMA_BUF_TEST_MIXEDMAP);

		ASSERT_GE(fd, 0);
		EXPECT_EQ(mmap(NULL, SIZE, PROT_READ, MAP_SHARED, fd, 0), MAP_FAILED);
		EXPECT_EQ(errno, EINVAL);
		EXPECT_EQ(ioctl(self->dev, DMA_BUF_TEST_VMAS), self->vmas);
		close(fd);
	}
	EXPECT_EQ(log_lines(text), 1);
}

TEST_F(core, mapping_that_is_pfnmap)
{
	int fd = test_buffer(self->dev, DMA_BUF_TEST_PFNMAP);
	char *map;

	ASSERT_GE(fd, 0);
	map = map_shared(fd, SIZE, PROT_READ | PROT_WRITE);
	map[0] = 1;
	EXPECT_EQ(map[HUGE], 1);
	EXPECT_EQ(ioctl(self->dev, DMA_BUF_TEST_VMAS), self->vmas + 1);
	munmap(map, SIZE);
	close(fd);
}

/* 2 MiB and more: congruent with the offset; less: anywhere. */
TEST_F(core, address)
{
	static const size_t offsets[] = { 0, PAGE, 7 * PAGE, HUGE, HUGE + 511 * PAGE };
	int fd = test_buffer(self->dev, DMA_BUF_TEST_PFNMAP);
	char *gap = mmap(NULL, 3 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	ASSERT_GE(fd, 0);
	for (size_t i = 0; i < ARRAY_SIZE(offsets); i++) {
		size_t size = 3 * HUGE;
		char *map = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, offsets[i]);

		ASSERT_NE(map, MAP_FAILED);
		EXPECT_EQ(((uintptr_t)map - offsets[i]) % HUGE, 0);
		munmap(map, size);
	}
	munmap(gap, 3 * PAGE);
	close(fd);
}

/**
 * struct race - what the two sides of a fork and the revoking thread share
 * @go: the revoking thread may begin
 * @revoked: it has returned from the ioctl
 */
struct race {
	volatile int go;
	volatile int revoked;
};

struct revoker {
	struct race *race;
	int dev;
	__u32 fd;
	int delay;
	int error;
};

static void *revoker_run(void *arg)
{
	struct revoker *r = arg;

	while (!r->race->go)
		;
	for (volatile int i = 0; i < r->delay; i++)
		;
	r->error = ioctl(r->dev, DMA_BUF_TEST_REVOKE, &r->fd);
	r->race->revoked = 1;
	return NULL;
}

static sigjmp_buf fault_return;

static void on_fault(int sig)
{
	siglongjmp(fault_return, sig);
}

/* Slots of the mapping that can be read. */
static int readable(volatile char *map)
{
	volatile int n = 0;	/* must not be counted before the access */

	signal(SIGBUS, on_fault);
	for (volatile int i = 0; i < DMA_BUF_TEST_SLOTS; i++)
		if (!sigsetjmp(fault_return, 1)) {
			(void)map[i * HUGE];
			n++;
		}
	signal(SIGBUS, SIG_DFL);
	return n;
}

/* A child that is forked while a buffer is revoked cannot read it afterwards. */
TEST_F_TIMEOUT(core, fork_while_revoked, 300)
{
	struct race *race = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
				 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int fd = test_buffer(self->dev, DMA_BUF_TEST_PFNMAP);
	struct revoker r = { .race = race, .dev = self->dev, .fd = fd };
	int stale = 0, status;
	char *map;

	ASSERT_GE(fd, 0);
	map = map_shared(fd, SIZE, PROT_READ);
	for (int i = 0; i < 150; i++) {
		pthread_t thread;
		pid_t pid;

		ASSERT_EQ(ioctl(self->dev, DMA_BUF_TEST_RESTORE, &r.fd), 0);
		ASSERT_EQ(readable(map), DMA_BUF_TEST_SLOTS);
		*race = (struct race){};
		r.delay = i % 30 * 200;
		ASSERT_EQ(pthread_create(&thread, NULL, revoker_run, &r), 0);
		race->go = 1;
		pid = fork();
		ASSERT_GE(pid, 0);
		if (!pid) {
			while (!race->revoked)
				;
			_exit(readable(map));
		}
		pthread_join(thread, NULL);
		ASSERT_EQ(waitpid(pid, &status, 0), pid);
		ASSERT_TRUE(WIFEXITED(status));
		stale += WEXITSTATUS(status);
		ASSERT_EQ(r.error, 0);
		ASSERT_EQ(readable(map), 0);
	}
	EXPECT_EQ(stale, 0);
	munmap(map, SIZE);
	munmap(race, PAGE);
	close(fd);
}

TEST_HARNESS_MAIN
