// SPDX-License-Identifier: GPL-2.0
/*
 * The HMM range helper, with pages that a server in user space brings through
 * userfaultfd
 *
 * While the server takes its time, mmap_lock is free. If it never answers, the task
 * that waits can be killed.
 *
 * Needs root, the module test_hmm_range and CONFIG_USERFAULTFD.
 */
#include "hmm_range_util.h"

#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>

#include "../kselftest_harness.h"

#define PAGES	8

static int populate_all(int fd, void *mem)
{
	return populate(fd, mem, PAGES, 0);
}

/* A task that changes mappings needs mmap_lock for writing. */
static bool mmap_lock_is_free(void)
{
	char *mem = map_anon(1);

	return mem != MAP_FAILED && !munmap(mem, PAGE);
}

/* Memory whose pages userfaultfd brings, mirrored, and a task that populates it. */
FIXTURE(uffd) {
	int fd;
	int uffd;
	char *mem;
	char *page;
	struct helper helper;
};

FIXTURE_SETUP(uffd)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = { .mode = UFFDIO_REGISTER_MODE_MISSING };

	self->fd = open_device();
	ASSERT_GE(self->fd, 0);
	self->mem = map_anon(PAGES);
	self->page = map_anon(1);
	ASSERT_NE(self->mem, MAP_FAILED);
	ASSERT_NE(self->page, MAP_FAILED);
	memset(self->page, 0x5a, PAGE);
	ASSERT_TRUE(start_helper(&self->helper));
	self->uffd = syscall(__NR_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	ASSERT_GE(self->uffd, 0);
	ASSERT_EQ(ioctl(self->uffd, UFFDIO_API, &api), 0);
	reg.range.start = (uintptr_t)self->mem;
	reg.range.len = PAGES * PAGE;
	ASSERT_EQ(ioctl(self->uffd, UFFDIO_REGISTER, &reg), 0);
	ASSERT_EQ(mirror_register(self->fd, self->mem, PAGES), 0);
	tell_helper(&self->helper, populate_all, self->fd, self->mem);
}

FIXTURE_TEARDOWN(uffd)
{
	EXPECT_EQ(stats(self->fd).mismatches, 0);
	close(self->uffd);
	end_helper(&self->helper);
	close(self->fd);
	munmap(self->mem, PAGES * PAGE);
	munmap(self->page, PAGE);
}

/* Waits for a fault; the address of its page, or NULL. */
static char *missing_page(int uffd)
{
	struct pollfd ready = { .fd = uffd, .events = POLLIN };
	struct uffd_msg msg;

	if (poll(&ready, 1, LONG_MS) != 1 ||
	    read(uffd, &msg, sizeof(msg)) != sizeof(msg) ||
	    msg.event != UFFD_EVENT_PAGEFAULT)
		return NULL;
	return (char *)(uintptr_t)(msg.arg.pagefault.address & ~(PAGE - 1));
}

static int bring_page(int uffd, const char *to, const char *from)
{
	struct uffdio_copy copy = {
		.dst = (uintptr_t)to, .src = (uintptr_t)from, .len = PAGE,
	};

	return ioctl(uffd, UFFDIO_COPY, &copy);
}

static bool serve(int uffd, const char *from, int pages)
{
	while (pages--) {
		char *page = missing_page(uffd);

		if (!page || bring_page(uffd, page, from))
			return false;
	}
	return true;
}

TEST_F(uffd, populate)
{
	char read[PAGE];

	ASSERT_TRUE(serve(self->uffd, self->page, PAGES));
	EXPECT_EQ(end_helper(&self->helper), 0);
	EXPECT_EQ(count(self->fd, self->mem, PAGES, VALID | WRITABLE), PAGES);
	ASSERT_EQ(device_read(self->fd, self->mem + PAGE, 1, read), 0);
	EXPECT_EQ(memcmp(read, self->page, PAGE), 0);
}

/* The range is hit, and pages that were brought go, while a fault waits. */
TEST_F(uffd, hit_meanwhile)
{
	char *page;

	ASSERT_TRUE(serve(self->uffd, self->page, 2));
	page = missing_page(self->uffd);
	ASSERT_EQ(page, self->mem + 2 * PAGE);
	EXPECT_TRUE(mmap_lock_is_free());
	ASSERT_EQ(madvise(self->mem, PAGES * PAGE, MADV_DONTNEED), 0);
	ASSERT_EQ(bring_page(self->uffd, page, self->page), 0);
	ASSERT_TRUE(serve(self->uffd, self->page, PAGES - 1));
	EXPECT_EQ(end_helper(&self->helper), 0);
	EXPECT_EQ(count(self->fd, self->mem, PAGES, VALID | WRITABLE), PAGES);
}

/* The mapping goes while a fault waits for its page. */
TEST_F(uffd, unmapped_meanwhile)
{
	struct uffdio_range range = { .start = (uintptr_t)self->mem, .len = PAGES * PAGE };

	ASSERT_EQ(missing_page(self->uffd), self->mem);
	ASSERT_EQ(munmap(self->mem, PAGES * PAGE), 0);
	ASSERT_EQ(ioctl(self->uffd, UFFDIO_WAKE, &range), 0);
	EXPECT_EQ(end_helper(&self->helper), -EFAULT);
}

TEST_F(uffd, is_killable)
{
	ASSERT_EQ(missing_page(self->uffd), self->mem);
	EXPECT_TRUE(mmap_lock_is_free());
	ASSERT_EQ(kill(self->helper.pid, SIGKILL), 0);
	EXPECT_EQ(end_helper(&self->helper), SIGKILL);
	EXPECT_EQ(stats(self->fd).waiting, 0);
	EXPECT_EQ(mirror_unregister(self->fd), 0);
	EXPECT_EQ(mirror_register(self->fd, self->mem, PAGES), 0);
}

/* The end of the server ends the wait, as it does for the process itself. */
TEST_F(uffd, server_exits)
{
	ASSERT_EQ(missing_page(self->uffd), self->mem);
	close(self->uffd);
	self->uffd = -1;
	EXPECT_EQ(end_helper(&self->helper), 0);
}

TEST_HARNESS_MAIN
