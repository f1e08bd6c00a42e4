// SPDX-License-Identifier: GPL-2.0
/*
 * Walks of the page tables over a mapping of a buffer, with small entries and with huge
 * ones of 2 MiB.  udmabuf_gigantic has the same with an entry of 1 GiB.
 *
 * Wants two NUMA nodes, and the modules dma_buf_test_exporter and hwpoison-inject.
 */
#include "pfnmap_walk.h"
#include "udmabuf_error.h"
#include "udmabuf_fault.h"
#include "udmabuf_util.h"
#include "../../kselftest_harness.h"

#define SIZE	(4 * HUGE)
/* Faults that the program's own pages may have. */
#define OWN_FAULTS	2

FIXTURE(walk) {
	struct held before;
	int dev;
	int memfd;
	int fd;
	char *map;
};

FIXTURE_VARIANT(walk) {
	enum memory memory;
};

FIXTURE_VARIANT_ADD(walk, small) { .memory = SHMEM };
FIXTURE_VARIANT_ADD(walk, huge) { .memory = HUGETLB };

FIXTURE_SETUP(walk)
{
	want_huge_pages();
	self->before = held();
	self->dev = udmabuf_open();
	self->memfd = memfd_filled(variant->memory, SIZE, 1, NULL);
	self->fd = udmabuf_create(self->dev, self->memfd, 0, SIZE);
	ASSERT_GE(self->fd, 0);
	self->map = map_aligned(self->fd, SIZE, PROT_READ | PROT_WRITE);
}

FIXTURE_TEARDOWN(walk)
{
	munmap(self->map, SIZE);
	close(self->fd);
	close(self->memfd);
	close(self->dev);
	EXPECT_HELD(self->before);
}

static size_t wrong(const char *map)
{
	size_t n = 0;

	for (size_t i = 0; i < SIZE / PAGE; i++)
		n += !page_is(map + i * PAGE, 1, i);
	return n;
}

TEST_F(walk, each)
{
	for (size_t i = 0; i < NR_WALKERS; i++) {
		EXPECT_EQ(wrong(self->map), 0);
		if (walkers[i].numa && !has_numa())
			continue;
		EXPECT_TRUE(walkers[i].right(self->map, SIZE)) {
			TH_LOG("%s", walkers[i].name);
		}
		/* Entries that are read-only to notice writes can be written. */
		for (size_t page = 0; page < SIZE / PAGE; page += 100)
			mark_page(self->map + page * PAGE, 1, page);
	}
	EXPECT_EQ(wrong(self->map), 0);
}

TEST_F_TIMEOUT(walk, while_it_comes_and_goes, 120)
{
	struct walk_stress stress = {
		.fd = self->fd,
		.at = self->map,
		.size = SIZE,
	};

	EXPECT_TRUE(walk_under_stress(&stress));
	EXPECT_EQ(wrong(self->map), 0);
}

/* An entry that comes in write-protected, to notice writes, is made writable. */
TEST_F_TIMEOUT(walk, writes_after_clear_refs, 60)
{
	size_t step = variant->memory == HUGETLB ? HUGE : PAGE;
	long before;

	write_file("/proc/self/clear_refs", "4");
	EXPECT_EQ(wrong(self->map), 0);
	before = minor_faults();
	for (size_t i = 0; i < SIZE; i += PAGE)
		mark_page(self->map + i, 2, i / PAGE);
	EXPECT_LE(minor_faults() - before, (long)(SIZE / step) + OWN_FAULTS);
	for (size_t i = 0; i < SIZE / PAGE; i++)
		EXPECT_TRUE(page_is(self->map + i * PAGE, 2, i));
}

/* The fault for the first write brings an entry that is writable. */
TEST_F_TIMEOUT(walk, first_writes_after_clear_refs, 60)
{
	long before;

	write_file("/proc/self/clear_refs", "4");
	before = minor_faults();
	for (size_t i = 0; i < SIZE; i += HUGE)
		mark_page(self->map + i, 1, i / PAGE);
	EXPECT_LE(minor_faults() - before, OWN_FAULTS + (long)(SIZE / HUGE) *
		  (variant->memory == HUGETLB ? 1 : 2));
	EXPECT_EQ(wrong(self->map), 0);
}

/* A page is poisoned, and read once more: SIGBUS, with its address. */
TEST_F(walk, memory_error)
{
	char *bad = self->map + HUGE + 5 * PAGE;
	uint64_t frame;

	EXPECT_EQ(wrong(self->map), 0);
	frame = memory_error(bad);
	EXPECT_EQ(memory_error(bad), frame);
	EXPECT_EQ(memory_error_code, BUS_MCEERR_AR);
	EXPECT_EQ(memory_error_address, bad);
	EXPECT_EQ(wrong(self->map), 0);
	munmap(self->map, SIZE);
	close(self->fd);
	close(self->memfd);
	self->fd = -1;
	self->memfd = -1;
	forget_error(variant->memory == HUGETLB ? frame & ~(HUGE / PAGE - 1) : frame);
}

TEST_HARNESS_MAIN
