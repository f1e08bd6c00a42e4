// SPDX-License-Identifier: GPL-2.0
/*
 * What udmabuf does to the memory of a memfd: poisoned pages are refused, huge pages
 * are charged to a cgroup, and can be migrated once the buffer is gone.
 *
 * Wants two NUMA nodes, /sys/fs/cgroup mounted with memory_hugetlb_accounting, and the
 * module hwpoison-inject.
 */
#include <linux/mempolicy.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "udmabuf_error.h"
#include "udmabuf_fault.h"
#include "udmabuf_util.h"
#include "../../kselftest_harness.h"

FIXTURE(poisoned) {
	struct held before;
	int dev;
};

FIXTURE_SETUP(poisoned)
{
	want_huge_pages();
	self->before = held();
	self->dev = udmabuf_open();
}

FIXTURE_TEARDOWN(poisoned)
{
	close(self->dev);
	EXPECT_HELD(self->before);
}

/* -1 if the buffer was made, which is closed again; else the errno. */
static int refusal(int dev, int memfd, uint64_t offset, uint64_t size)
{
	int fd = udmabuf_create(dev, memfd, offset, size);

	if (fd < 0)
		return errno;
	close(fd);
	return -1;
}

/* A page is refused, and no other. */
TEST_F(poisoned, shmem)
{
	struct udmabuf_create_item items[2] = {
		{ .offset = 0, .size = 2 * PAGE },
		{ .offset = 4 * PAGE, .size = 2 * PAGE },
	};
	void *map;
	int memfd = memfd_filled(SHMEM, 16 * PAGE, 1, &map);
	uint64_t frame = poison((char *)map + 5 * PAGE);

	EXPECT_EQ(refusal(self->dev, memfd, 0, 16 * PAGE), EHWPOISON);
	EXPECT_EQ(refusal(self->dev, memfd, 5 * PAGE, PAGE), EHWPOISON);
	EXPECT_EQ(refusal(self->dev, memfd, 0, 5 * PAGE), -1);
	EXPECT_EQ(refusal(self->dev, memfd, 6 * PAGE, 10 * PAGE), -1);
	items[0].memfd = memfd;
	items[1].memfd = memfd;
	EXPECT_EQ(udmabuf_create_list(self->dev, items, 2), -1);
	EXPECT_EQ(errno, EHWPOISON);
	items[1].size = PAGE;
	close(udmabuf_create_list(self->dev, items, 2));
	munmap(map, 16 * PAGE);
	close(memfd);
	forget_error(frame);
}

/* A huge page that cannot be split, as it is pinned: a page of it, and no other. */
TEST_F(poisoned, thp)
{
	int memfd, fd;
	uint64_t frame;
	char *pinned;
	void *map;

	if (!has_thp())
		SKIP(return, NO_THP);
	memfd = memfd_filled(THP, HUGE, 1, &map);
	fd = udmabuf_create(self->dev, memfd, 0, HUGE);
	ASSERT_GE(fd, 0);
	pinned = map_shared(fd, HUGE, PROT_READ);
	frame = poison((char *)map + 5 * PAGE);
	ASSERT_TRUE(frame_has(frame, KPF_THP));

	EXPECT_EQ(refusal(self->dev, memfd, 0, HUGE), EHWPOISON);
	EXPECT_EQ(refusal(self->dev, memfd, 5 * PAGE, PAGE), EHWPOISON);
	EXPECT_EQ(refusal(self->dev, memfd, 4 * PAGE, 2 * PAGE), EHWPOISON);
	EXPECT_EQ(refusal(self->dev, memfd, 0, 5 * PAGE), -1);
	EXPECT_EQ(refusal(self->dev, memfd, 6 * PAGE, HUGE - 6 * PAGE), -1);
	/* The buffer that was made before keeps its pages. */
	EXPECT_TRUE(page_is(pinned + 4 * PAGE, 1, 4));

	munmap(pinned, HUGE);
	close(fd);
	munmap(map, HUGE);
	close(memfd);
	forget_error(frame);
}

/* All of a huge page of hugetlb, and no other. */
TEST_F(poisoned, hugetlb)
{
	void *map;
	int memfd = memfd_filled(HUGETLB, 2 * HUGE, 1, &map);
	uint64_t frame = poison((char *)map + HUGE);

	EXPECT_EQ(refusal(self->dev, memfd, 0, 2 * HUGE), EHWPOISON);
	EXPECT_EQ(refusal(self->dev, memfd, HUGE, HUGE), EHWPOISON);
	EXPECT_EQ(refusal(self->dev, memfd, HUGE + 9 * PAGE, PAGE), EHWPOISON);
	EXPECT_EQ(refusal(self->dev, memfd, 0, HUGE), -1);
	munmap(map, 2 * HUGE);
	close(memfd);
	forget_error(frame);
}

#define CGROUP	"/sys/fs/cgroup"
#define GROUP	CGROUP "/udmabuf_memory"

/* A cgroup that the test's process is in. */
FIXTURE(charged) {
	struct held before;
	int dev;
};

FIXTURE_SETUP(charged)
{
	want_huge_pages();
	self->before = held();
	self->dev = udmabuf_open();
	write_file(CGROUP "/cgroup.subtree_control", "+memory +hugetlb");
	if (mkdir(GROUP, 0755) && errno != EEXIST)
		die(GROUP);
	write_file(GROUP "/cgroup.procs", "0");
}

FIXTURE_TEARDOWN(charged)
{
	write_file(CGROUP "/cgroup.procs", "0");
	EXPECT_EQ(rmdir(GROUP), 0);
	close(self->dev);
	EXPECT_HELD(self->before);
}

TEST_F(charged, hugetlb_limit)
{
	int memfd = memfd_new(HUGETLB, 4 * HUGE), fd;
	char *map = map_shared(memfd, 4 * HUGE, PROT_READ | PROT_WRITE);

	write_file(GROUP "/hugetlb.2MB.max", "0");
	EXPECT_EQ(touch(map, true), SIGBUS);
	EXPECT_EQ(refusal(self->dev, memfd, 0, HUGE), ENOMEM);
	EXPECT_EQ(number_in(GROUP "/hugetlb.2MB.current"), 0);

	/* Refused at the third, the first two stay with the memfd. */
	write_file(GROUP "/hugetlb.2MB.max", "4194304");
	EXPECT_EQ(refusal(self->dev, memfd, 0, 3 * HUGE), ENOMEM);
	EXPECT_EQ(number_in(GROUP "/hugetlb.2MB.current"), 2 * HUGE);
	fd = udmabuf_create(self->dev, memfd, 0, 2 * HUGE);
	EXPECT_GE(fd, 0);
	EXPECT_EQ(number_in(GROUP "/hugetlb.2MB.current"), 2 * HUGE);
	close(fd);
	munmap(map, 4 * HUGE);
	close(memfd);
	EXPECT_EQ(number_in(GROUP "/hugetlb.2MB.current"), 0);
}

/* Never mapped, so that nothing is reserved: a failure leaves no reservation behind. */
TEST_F(charged, hugetlb_limit_without_reservation)
{
	int memfd = memfd_new(HUGETLB, HUGE);

	write_file(GROUP "/hugetlb.2MB.max", "0");
	EXPECT_EQ(refusal(self->dev, memfd, 0, HUGE), ENOMEM);
	close(memfd);
}

TEST_F(charged, hugetlb_in_memcg)
{
	int memfd = memfd_new(HUGETLB, 8 * HUGE);
	long before = number_in(GROUP "/memory.current"), after;

	EXPECT_EQ(refusal(self->dev, memfd, 0, 2 * HUGE), -1);
	after = number_in(GROUP "/memory.current");
	EXPECT_GE(after - before, 2 * HUGE);

	write_file(GROUP "/memory.max", "8388608");
	EXPECT_EQ(refusal(self->dev, memfd, 0, 8 * HUGE), ENOMEM);
	EXPECT_LE(number_in(GROUP "/memory.current"), 8388608);
	EXPECT_EQ(file_value(GROUP "/memory.events", "oom_kill"), 0);
	close(memfd);
	EXPECT_LT(number_in(GROUP "/memory.current"), 2 * HUGE);
}

/* The node that the page is on, or a negative errno. */
static int move(void *page, const int *to)
{
	int status = -1;

	if (syscall(SYS_move_pages, 0, 1UL, &page, to, &status, to ? MPOL_MF_MOVE : 0) < 0)
		die("move_pages");
	return status;
}

/* Pinned it stays where it is, then it goes where it is told to. */
TEST(hugetlb_moves)
{
	struct held before;
	int dev, memfd, fd, now, to;
	char *map;

	if (!has_numa())
		SKIP(return, "no NUMA");
	want_huge_pages();
	before = held();
	dev = udmabuf_open();
	memfd = memfd_new(HUGETLB, HUGE);
	fd = udmabuf_create(dev, memfd, 0, HUGE);
	ASSERT_GE(fd, 0);
	map = map_shared(memfd, HUGE, PROT_READ | PROT_WRITE);
	mark_page(map, 1, 0);
	now = move(map, NULL);
	ASSERT_GE(now, 0);
	to = !now;
	EXPECT_LT(move(map, &to), 0);
	EXPECT_EQ(move(map, NULL), now);
	close(fd);
	EXPECT_EQ(move(map, &to), to);
	EXPECT_EQ(move(map, NULL), to);
	EXPECT_TRUE(page_is(map, 1, 0));
	munmap(map, HUGE);
	close(memfd);
	close(dev);
	EXPECT_HELD(before);
}

TEST_HARNESS_MAIN
