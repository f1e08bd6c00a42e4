// SPDX-License-Identifier: GPL-2.0
/*
 * A buffer of one 1 GiB page, mapped by one entry: what has to take such an entry apart,
 * and that nothing of it is left where it was.
 *
 * Wants "hugepagesz=1G hugepages=1" on the kernel's command line.
 */
#include "udmabuf_error.h"
#include "udmabuf_fault.h"
#include "udmabuf_util.h"

#include <sys/wait.h>

#include "../../kselftest_harness.h"

#define GIB	(1024UL << 20)
/* Pages that are looked at: a few of each 2 MiB would take long. */
#define STEP	(37 * PAGE + 5 * HUGE)

FIXTURE(gigantic) {
	struct held before;
	long limit;
	int dev;
	int memfd;
	int fd;
	char *area;	/* address space, 4 GiB, aligned */
	char *map;	/* the buffer, at its beginning */
};

static char *reserve(size_t size)
{
	char *p = mmap(NULL, size + GIB, PROT_NONE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	char *aligned = (char *)(((uintptr_t)p + GIB - 1) & ~(GIB - 1));

	if (p == MAP_FAILED)
		die("mmap");
	munmap(p, aligned - p);
	munmap(aligned + size, p + GIB - aligned);
	return aligned;
}

/* One page, and a mark in each that is looked at. */
static int gigantic_memfd(char *at)
{
	int fd = memfd_create("udmabuf", MFD_ALLOW_SEALING | MFD_CLOEXEC |
			      MFD_HUGETLB | MFD_HUGE_1GB);

	if (fd < 0 || ftruncate(fd, GIB) || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK) ||
	    mmap(at, GIB, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) != at)
		die("a memfd of a page of 1 GiB");
	for (size_t i = 0; i < GIB; i += STEP)
		mark_page(at + i, 1, i / PAGE);
	return fd;
}

FIXTURE_SETUP(gigantic)
{
	self->before = held();
	self->limit = udmabuf_parameter("size_limit_mb", 1024);
	self->dev = udmabuf_open();
	self->area = reserve(4 * GIB);
	self->memfd = gigantic_memfd(self->area);
	self->fd = udmabuf_create(self->dev, self->memfd, 0, GIB);
	ASSERT_GE(self->fd, 0);
	self->map = mmap(self->area, GIB, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
			 self->fd, 0);
	ASSERT_EQ(self->map, self->area);
	*(volatile char *)(self->map + HUGE + PAGE) = 0;
}

FIXTURE_TEARDOWN(gigantic)
{
	munmap(self->area, 4 * GIB);
	close(self->fd);
	close(self->memfd);
	close(self->dev);
	udmabuf_parameter("size_limit_mb", self->limit);
	EXPECT_HELD(self->before);
}

/* Marks between two offsets of the buffer that are not right where @map has it. */
static size_t wrong(const char *map, size_t from, size_t to)
{
	size_t n = 0;

	for (size_t i = (from + STEP - 1) / STEP * STEP; i < to; i += STEP)
		n += !page_is(map + i, 1, i / PAGE);
	return n;
}

TEST_F_TIMEOUT(gigantic, one_fault, 120)
{
	/* Once before, not to count the faults of calling it. */
	long before = minor_faults();

	before = minor_faults();
	for (size_t i = 0; i < GIB; i += HUGE)
		(void)*(volatile char *)(self->map + i);
	EXPECT_EQ(minor_faults() - before, 0);
	EXPECT_EQ(wrong(self->map, 0, GIB), 0);
}

/* An entry that comes in write-protected, to notice writes, is made writable. */
TEST_F_TIMEOUT(gigantic, writes_after_clear_refs, 120)
{
	char *map = self->area + 2 * GIB;
	long before;

	ASSERT_EQ(mmap(map, GIB, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, self->fd,
		       0), map);
	write_file("/proc/self/clear_refs", "4");
	EXPECT_EQ(wrong(map, 0, GIB), 0);
	before = minor_faults();
	for (size_t i = 0; i < GIB; i += STEP)
		mark_page(map + i, 2, i / PAGE);
	/* The program's own pages may have some. */
	EXPECT_LE(minor_faults() - before, 3);
	for (size_t i = 0; i < GIB; i += STEP)
		EXPECT_TRUE(page_is(self->map + i, 2, i / PAGE));
}

/* Moved as a whole, to where an entry of 1 GiB can be, and to where it can't. */
TEST_F_TIMEOUT(gigantic, mremap, 120)
{
	char *aligned = self->area + 2 * GIB, *skewed = self->area + HUGE;

	ASSERT_EQ(mremap(self->map, GIB, GIB, MREMAP_MAYMOVE | MREMAP_FIXED, aligned),
		  aligned);
	EXPECT_EQ(touch(self->map + HUGE + PAGE, true), SIGSEGV);
	EXPECT_EQ(wrong(aligned, 0, GIB), 0);

	ASSERT_EQ(mremap(aligned, GIB, GIB, MREMAP_MAYMOVE | MREMAP_FIXED, skewed), skewed);
	EXPECT_EQ(touch(aligned + HUGE + PAGE, true), SIGSEGV);
	EXPECT_EQ(touch(aligned + GIB / 2, false), SIGSEGV);
	EXPECT_EQ(wrong(skewed, 0, GIB), 0);
}

/* Nothing is left of a mapping that was moved: its page can be used for anything. */
TEST_F_TIMEOUT(gigantic, mremap_and_free, 120)
{
	char *to = self->area + 2 * GIB, *anonymous;

	ASSERT_EQ(mremap(self->map, GIB, GIB, MREMAP_MAYMOVE | MREMAP_FIXED, to), to);
	EXPECT_EQ(touch(to, true), 0);
	munmap(to, GIB);
	close(self->fd);
	close(self->memfd);
	self->fd = -1;
	self->memfd = -1;
	anonymous = mmap(NULL, GIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS |
			 MAP_HUGETLB | MFD_HUGE_1GB, -1, 0);
	ASSERT_NE(anonymous, MAP_FAILED);
	EXPECT_EQ(touch(anonymous, true), 0);
	munmap(anonymous, GIB);
}

TEST_F_TIMEOUT(gigantic, mremap_a_part, 120)
{
	char *at = self->area + 2 * GIB, *from = self->map + GIB / 4;

	ASSERT_EQ(mremap(from, GIB / 2, GIB / 2, MREMAP_MAYMOVE | MREMAP_FIXED, at), at);
	EXPECT_EQ(touch(from, true), SIGSEGV);
	EXPECT_EQ(touch(from + GIB / 2 - PAGE, true), SIGSEGV);
	EXPECT_EQ(wrong(self->map, 0, GIB / 4), 0);
	EXPECT_EQ(wrong(at - GIB / 4, GIB / 4, 3 * GIB / 4), 0);
	EXPECT_EQ(wrong(self->map, 3 * GIB / 4, GIB), 0);
}

TEST_F_TIMEOUT(gigantic, munmap_a_part, 120)
{
	char *from = self->map + GIB / 2 + PAGE;

	ASSERT_EQ(munmap(from, HUGE), 0);
	EXPECT_EQ(touch(from, true), SIGSEGV);
	EXPECT_EQ(touch(from + HUGE - PAGE, false), SIGSEGV);
	EXPECT_EQ(touch(from - PAGE, true), 0);
	EXPECT_EQ(touch(from + HUGE, true), 0);
	EXPECT_EQ(wrong(self->map, 0, GIB / 2), 0);
	EXPECT_EQ(wrong(self->map, GIB / 2 + 2 * HUGE, GIB), 0);
}

TEST_F_TIMEOUT(gigantic, mprotect_a_part, 120)
{
	char *from = self->map + GIB / 2 + PAGE;

	ASSERT_EQ(mprotect(from, HUGE, PROT_READ), 0);
	EXPECT_EQ(touch(from, true), SIGSEGV);
	EXPECT_EQ(touch(from, false), 0);
	EXPECT_EQ(touch(from + HUGE - PAGE, true), SIGSEGV);
	EXPECT_EQ(touch(from - PAGE, true), 0);
	EXPECT_EQ(touch(from + HUGE, true), 0);
	EXPECT_EQ(wrong(self->map, 0, GIB), 0);
	ASSERT_EQ(mprotect(self->map, GIB, PROT_READ), 0);
	EXPECT_EQ(touch(self->map + HUGE + PAGE, true), SIGSEGV);
	EXPECT_EQ(wrong(self->map, 0, GIB), 0);
}

/* As a whole; that the kernel warns about it would be seen in its log. */
TEST_F_TIMEOUT(gigantic, mprotect_none, 120)
{
	ASSERT_EQ(mprotect(self->map, GIB, PROT_NONE), 0);
	EXPECT_EQ(touch(self->map + HUGE + PAGE, false), SIGSEGV);
	ASSERT_EQ(mprotect(self->map, GIB, PROT_READ | PROT_WRITE), 0);
	EXPECT_EQ(touch(self->map + HUGE + PAGE, true), 0);
	EXPECT_EQ(wrong(self->map, 0, GIB), 0);
}

/* A page is poisoned, and read once more: SIGBUS, and the entry stays in one piece. */
TEST_F_TIMEOUT(gigantic, memory_error, 120)
{
	char *bad = self->map + GIB / 2 + 5 * PAGE;
	uint64_t frame = memory_error(bad);
	long before;

	EXPECT_EQ(memory_error(bad), frame);
	EXPECT_EQ(memory_error_code, BUS_MCEERR_AR);
	EXPECT_EQ(memory_error_address, bad);
	touch(self->map, false);
	before = minor_faults();
	EXPECT_EQ(touch(self->map, false), 0);
	EXPECT_EQ(minor_faults() - before, 0);
	EXPECT_EQ(wrong(self->map, 0, GIB), 0);
	munmap(self->map, GIB);
	close(self->fd);
	close(self->memfd);
	self->fd = -1;
	self->memfd = -1;
	forget_error(frame & ~(GIB / PAGE - 1));
}

TEST_F_TIMEOUT(gigantic, fork, 120)
{
	pid_t pid = fork();
	int status;

	ASSERT_GE(pid, 0);
	if (!pid)
		_exit(wrong(self->map, 0, GIB) || munmap(self->map, HUGE) ||
		      touch(self->map, true) != SIGSEGV);
	ASSERT_EQ(waitpid(pid, &status, 0), pid);
	EXPECT_EQ(status, 0);
	EXPECT_EQ(wrong(self->map, 0, GIB), 0);
}

TEST_HARNESS_MAIN
