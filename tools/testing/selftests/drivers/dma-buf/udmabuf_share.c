// SPDX-License-Identifier: GPL-2.0
/*
 * What is in a udmabuf: the pages of its memfds, in the order asked for, whatever
 * their size, and shared in both directions; and what a hole that is punched into
 * a memfd does to it.
 */
#include "udmabuf_util.h"
#include "../../kselftest_harness.h"

#define PAGES	(3 * HUGE / PAGE)

/**
 * struct piece - one item of a list, in pages
 * @file: which of the fixture's memfds
 * @first: first page
 * @nr: number of pages
 */
struct piece {
	int file;
	size_t first;
	size_t nr;
};

FIXTURE(share) {
	struct held before;
	int dev;
	int memfd[2];
	char *mem[2];
};

FIXTURE_VARIANT(share) {
	enum memory memory;
};

FIXTURE_VARIANT_ADD(share, shmem) { .memory = SHMEM };
FIXTURE_VARIANT_ADD(share, thp) { .memory = THP };
FIXTURE_VARIANT_ADD(share, hugetlb) { .memory = HUGETLB };

FIXTURE_SETUP(share)
{
	if (variant->memory == THP && !has_thp())
		SKIP(return, NO_THP);
	want_huge_pages();
	self->before = held();
	self->dev = udmabuf_open();
	for (int i = 0; i < 2; i++)
		self->memfd[i] = memfd_filled(variant->memory, PAGES * PAGE, i + 1,
					      (void **)&self->mem[i]);
}

FIXTURE_TEARDOWN(share)
{
	for (int i = 0; i < 2; i++) {
		munmap(self->mem[i], PAGES * PAGE);
		close(self->memfd[i]);
	}
	close(self->dev);
	EXPECT_HELD(self->before);
}

/* Pages of the dma-buf that do not show what the memfd's page was marked with. */
static size_t wrong_pages(const char *map, const struct piece *pieces, size_t nr,
			  uint64_t seed)
{
	size_t page = 0, wrong = 0;

	for (size_t i = 0; i < nr; i++)
		for (size_t j = 0; j < pieces[i].nr; j++, page++)
			wrong += !page_is(map + page * PAGE, seed + pieces[i].file,
					  pieces[i].first + j);
	return wrong;
}

/* Makes the list, and checks every page of it, read and written from both sides. */
static void check_list(struct __test_metadata *_metadata, FIXTURE_DATA(share) *self,
		       const struct piece *pieces, size_t nr)
{
	struct udmabuf_create_item *items = calloc(nr, sizeof(*items));
	size_t pages = 0, page = 0, wrong = 0;
	char *map;
	int fd;

	ASSERT_NE(items, NULL);
	for (int i = 0; i < 2; i++)
		mark_pages(self->mem[i], 1 + i, PAGES);
	for (size_t i = 0; i < nr; i++) {
		items[i].memfd = self->memfd[pieces[i].file];
		items[i].offset = pieces[i].first * PAGE;
		items[i].size = pieces[i].nr * PAGE;
		pages += pieces[i].nr;
	}
	fd = udmabuf_create_list(self->dev, items, nr);
	free(items);
	ASSERT_GE(fd, 0);
	ASSERT_EQ(lseek(fd, 0, SEEK_END), pages * PAGE);
	map = map_shared(fd, pages * PAGE, PROT_READ | PROT_WRITE);

	EXPECT_EQ(wrong_pages(map, pieces, nr, 1), 0);

	/* Written through the memfds, seen through the dma-buf. */
	for (int i = 0; i < 2; i++)
		mark_pages(self->mem[i], 11 + i, PAGES);
	EXPECT_EQ(wrong_pages(map, pieces, nr, 11), 0);

	/* And the other way round. */
	for (size_t i = 0; i < nr; i++)
		for (size_t j = 0; j < pieces[i].nr; j++)
			mark_page(map + page++ * PAGE, 21 + pieces[i].file,
				  pieces[i].first + j);
	for (size_t i = 0; i < nr; i++)
		for (size_t j = 0; j < pieces[i].nr; j++)
			wrong += !page_is(self->mem[pieces[i].file] +
					  (pieces[i].first + j) * PAGE,
					  21 + pieces[i].file, pieces[i].first + j);
	EXPECT_EQ(wrong, 0);

	munmap(map, pages * PAGE);
	close(fd);
}

#define CHECK_LIST(...) do {							\
	const struct piece pieces_[] = { __VA_ARGS__ };			\
	check_list(_metadata, self, pieces_, ARRAY_SIZE(pieces_));		\
} while (0)

TEST_F_TIMEOUT(share, whole, 300)
{
	CHECK_LIST({ 0, 0, PAGES });
}

TEST_F(share, one_page)
{
	CHECK_LIST({ 0, 0, 1 });
	CHECK_LIST({ 0, H + 1, 1 });
	CHECK_LIST({ 0, PAGES - 1, 1 });
}

TEST_F(share, parts_of_huge_pages)
{
	CHECK_LIST({ 0, 1, H - 2 });
	CHECK_LIST({ 0, H - 12, 40 });
	CHECK_LIST({ 0, H - 1, H + 2 });
	CHECK_LIST({ 0, 7, 3 }, { 0, H + 7, 3 }, { 0, 2 * H + 7, 3 });
}

TEST_F(share, adjacent_items)
{
	CHECK_LIST({ 0, 3, 2 }, { 0, 5, 1 }, { 0, 6, H - 6 }, { 0, H, H });
}

TEST_F(share, reversed_items)
{
	CHECK_LIST({ 0, 2 * H, H }, { 0, H, H }, { 0, 0, H });
	CHECK_LIST({ 0, 9, 1 }, { 0, 8, 1 }, { 0, 7, 1 }, { 0, 6, 1 });
}

TEST_F(share, repeated_items)
{
	CHECK_LIST({ 0, 5, 1 }, { 0, 5, 1 }, { 0, 5, 1 });
	CHECK_LIST({ 0, H - 2, 4 }, { 0, H - 2, 4 });
}

TEST_F(share, overlapping_items)
{
	CHECK_LIST({ 0, 0, 20 }, { 0, 10, 20 }, { 0, 5, 10 });
	CHECK_LIST({ 0, H - 12, 30 }, { 0, H - 7, H + 20 });
}

TEST_F(share, two_memfds)
{
	CHECK_LIST({ 0, 0, 3 }, { 1, 3, 3 }, { 0, 3, 3 }, { 1, 0, H + 8 },
		   { 0, H - 2, 5 });
}

TEST_F_TIMEOUT(share, scattered_items, 300)
{
	static struct piece pieces[1024];

	for (size_t i = 0; i < ARRAY_SIZE(pieces); i++)
		pieces[i] = (struct piece){ i & 1, (i * 7) % PAGES, 1 };
	check_list(_metadata, self, pieces, ARRAY_SIZE(pieces));
}

/*
 * Huge pages make few runs, and parts of one that adjoin need one pin.  A folio that is
 * pinned in several places counts once; of one of hugetlb's, what is listed counts.
 */
TEST_F(share, runs_and_pins)
{
	const bool hugetlb = variant->memory == HUGETLB;
	struct udmabuf_create_item items[3] = {};
	long runs, pinned;
	int fd;

	if (variant->memory == SHMEM) {
		fd = udmabuf_create(self->dev, self->memfd[0], 0, PAGES * PAGE);
		ASSERT_GE(fd, 0);
		udmabuf_stat(&runs, &pinned);
		EXPECT_EQ(pinned, PAGES * PAGE);
		EXPECT_LE(runs, PAGES);
		EXPECT_EQ(held().pins, self->before.pins + (long)PAGES);
		close(fd);
		return;
	}

	fd = udmabuf_create(self->dev, self->memfd[0], 0, PAGES * PAGE);
	ASSERT_GE(fd, 0);
	udmabuf_stat(&runs, &pinned);
	EXPECT_LE(runs, 3);
	EXPECT_EQ(pinned, hugetlb ? PAGES * PAGE : 3 * HUGE);
	EXPECT_EQ(held().pins, self->before.pins + 3);
	close(fd);
	EXPECT_EQ(held().pins, self->before.pins);

	/* 3..4, 5 and 6..7 of one folio: one run, one pin. */
	for (int i = 0; i < 3; i++) {
		items[i].memfd = i == 1 ? self->memfd[0] : dup(self->memfd[0]);
		items[i].size = i == 1 ? PAGE : 2 * PAGE;
	}
	items[0].offset = 3 * PAGE;
	items[1].offset = 5 * PAGE;
	items[2].offset = 6 * PAGE;
	fd = udmabuf_create_list(self->dev, items, 3);
	ASSERT_GE(fd, 0);
	udmabuf_stat(&runs, &pinned);
	EXPECT_EQ(runs, 1);
	EXPECT_EQ(pinned, hugetlb ? 5 * PAGE : HUGE);
	EXPECT_EQ(held().pins, self->before.pins + 1);
	close(fd);

	/* 3..4, 0 and 6..7: three runs, three pins. */
	items[1].offset = 0;
	fd = udmabuf_create_list(self->dev, items, 3);
	ASSERT_GE(fd, 0);
	udmabuf_stat(&runs, &pinned);
	EXPECT_EQ(runs, 3);
	EXPECT_EQ(pinned, hugetlb ? 5 * PAGE : HUGE);
	EXPECT_EQ(held().pins, self->before.pins + 3);
	close(fd);
	close(items[0].memfd);
	close(items[2].memfd);
}

/* Pages that are not there yet are allocated, zeroed, and are the memfd's. */
TEST_F(share, not_there_yet)
{
	int memfd = memfd_new(variant->memory, PAGES * PAGE);
	int fd = udmabuf_create(self->dev, memfd, 0, PAGES * PAGE);
	char *map, *mem;

	ASSERT_GE(fd, 0);
	map = map_shared(fd, PAGES * PAGE, PROT_READ | PROT_WRITE);
	mem = map_shared(memfd, PAGES * PAGE, PROT_READ | PROT_WRITE);
	for (size_t i = 0; i < PAGES * PAGE; i += 64)
		if (map[i])
			ASSERT_EQ(map[i], 0);
	mark_pages(map, 5, PAGES);
	EXPECT_TRUE(page_is(mem, 5, 0));
	EXPECT_TRUE(page_is(mem + (PAGES - 1) * PAGE, 5, PAGES - 1));
	munmap(map, PAGES * PAGE);
	munmap(mem, PAGES * PAGE);
	close(fd);
	close(memfd);
}

/*
 * Pages that were written through the dma-buf alone stay in the memfd when the dma-buf
 * is gone and memory is reclaimed.  MADV_PAGEOUT reclaims a page that is not dirty by
 * dropping it.
 */
TEST_F(share, written_pages_are_kept)
{
	int memfd = memfd_new(variant->memory, PAGES * PAGE);
	int fd = udmabuf_create(self->dev, memfd, 0, PAGES * PAGE);
	char *map, *mem;
	size_t lost = 0;
	volatile char c;

	ASSERT_GE(fd, 0);
	map = map_shared(fd, PAGES * PAGE, PROT_READ | PROT_WRITE);
	mark_pages(map, 5, PAGES);
	munmap(map, PAGES * PAGE);
	close(fd);

	mem = map_shared(memfd, PAGES * PAGE, PROT_READ);
	for (size_t i = 0; i < PAGES; i++)
		c = mem[i * PAGE];
	(void)c;
	if (variant->memory != HUGETLB)
		ASSERT_EQ(madvise(mem, PAGES * PAGE, MADV_PAGEOUT), 0);
	for (size_t i = 0; i < PAGES; i++)
		lost += !page_is(mem + i * PAGE, 5, i);
	EXPECT_EQ(lost, 0);
	munmap(mem, PAGES * PAGE);
	close(memfd);
}

/*
 * Pages that fallocate() has put there, and nobody has used: a buffer of them has
 * nothing of what was in that memory before, and what it gets stays.
 */
TEST_F(share, fallocated)
{
	const char zeroes[64 << 10] = {};
	const size_t pages = 2 * HUGE / PAGE;
	int stale = memfd_filled(variant->memory, pages * PAGE, 5, NULL);
	int memfd = memfd_new(variant->memory, pages * PAGE), fd;
	size_t dirty = 0, lost = 0;
	char *map, *mem;

	close(stale);
	ASSERT_EQ(fallocate(memfd, 0, 0, pages * PAGE), 0);
	mem = map_shared(memfd, pages * PAGE, PROT_READ | PROT_WRITE);
	mark_page(mem + 7 * PAGE, 6, 7);

	fd = udmabuf_create(self->dev, memfd, 0, pages * PAGE);
	ASSERT_GE(fd, 0);
	map = map_shared(fd, pages * PAGE, PROT_READ | PROT_WRITE);
	EXPECT_TRUE(page_is(map + 7 * PAGE, 6, 7));
	for (size_t i = 0; i < pages; i++)
		dirty += i != 7 && memcmp(map + i * PAGE, zeroes, PAGE);
	EXPECT_EQ(dirty, 0);

	mark_pages(map, 7, pages);
	for (size_t i = 0; i < pages; i++)
		lost += !page_is(mem + i * PAGE, 7, i);
	EXPECT_EQ(lost, 0);
	munmap(map, pages * PAGE);
	munmap(mem, pages * PAGE);
	close(fd);
	close(memfd);
}

/* A hole over whole folios: the dma-buf keeps the old pages, the memfd gets new. */
TEST_F(share, hole_over_whole_folios)
{
	int fd = udmabuf_create(self->dev, self->memfd[0], 0, PAGES * PAGE);
	char *map;

	ASSERT_GE(fd, 0);
	map = map_shared(fd, PAGES * PAGE, PROT_READ | PROT_WRITE);
	EXPECT_TRUE(page_is(map + H * PAGE, 1, H));

	ASSERT_EQ(fallocate(self->memfd[0], FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			    HUGE, HUGE), 0);
	for (size_t i = H; i < 2 * H; i++) {
		ASSERT_TRUE(page_is(map + i * PAGE, 1, i));
		ASSERT_EQ(*(uint64_t *)(self->mem[0] + i * PAGE), 0);
	}
	mark_page(self->mem[0] + H * PAGE, 7, 0);
	EXPECT_TRUE(page_is(map + H * PAGE, 1, H));
	mark_page(map + (H + 1) * PAGE, 8, 0);
	EXPECT_EQ(*(uint64_t *)(self->mem[0] + (H + 1) * PAGE), 0);
	EXPECT_TRUE(page_is(self->mem[0], 1, 0));

	/* A new buffer has the memfd's new pages. */
	munmap(map, PAGES * PAGE);
	close(fd);
	fd = udmabuf_create(self->dev, self->memfd[0], HUGE, PAGE);
	ASSERT_GE(fd, 0);
	map = map_shared(fd, PAGE, PROT_READ);
	EXPECT_TRUE(page_is(map, 7, 0));
	munmap(map, PAGE);
	close(fd);
}

/*
 * A hole over a part of a huge folio: shmem zeroes the part in place, as it cannot
 * split a pinned folio, and both go on sharing it.  hugetlbfs leaves alone what is
 * not a whole huge page, but zeroes it as well.
 */
TEST_F(share, hole_over_a_part)
{
	int fd = udmabuf_create(self->dev, self->memfd[0], 0, PAGES * PAGE);
	char *map;

	ASSERT_GE(fd, 0);
	map = map_shared(fd, PAGES * PAGE, PROT_READ | PROT_WRITE);
	if (variant->memory == SHMEM) {
		/* Half of a page. */
		ASSERT_EQ(fallocate(self->memfd[0], FALLOC_FL_PUNCH_HOLE |
				    FALLOC_FL_KEEP_SIZE, 0, PAGE / 2), 0);
		EXPECT_EQ(*(uint64_t *)map, 0);
		EXPECT_EQ(((uint64_t *)map)[PAGE / 8 - 1], ~page_mark(1, 0));
	} else {
		ASSERT_EQ(fallocate(self->memfd[0], FALLOC_FL_PUNCH_HOLE |
				    FALLOC_FL_KEEP_SIZE, (H + 4) * PAGE, 8 * PAGE), 0);
		for (size_t i = H + 4; i < H + 12; i++)
			EXPECT_EQ(*(uint64_t *)(map + i * PAGE), 0);
		EXPECT_TRUE(page_is(map + (H + 3) * PAGE, 1, H + 3));
		EXPECT_TRUE(page_is(map + (H + 12) * PAGE, 1, H + 12));
		mark_page(self->mem[0] + (H + 5) * PAGE, 9, H + 5);
		EXPECT_TRUE(page_is(map + (H + 5) * PAGE, 9, H + 5));
	}
	mark_page(map, 9, 0);
	EXPECT_TRUE(page_is(self->mem[0], 9, 0));
	munmap(map, PAGES * PAGE);
	close(fd);
}

/* The holder of a dma-buf keeps its pages, and the right to write to them. */
TEST_F(share, truncate_and_seals_afterwards)
{
	int fd = udmabuf_create(self->dev, self->memfd[0], 0, PAGES * PAGE);

	ASSERT_GE(fd, 0);
	EXPECT_EQ(ftruncate(self->memfd[0], 0), -1);
	EXPECT_EQ(errno, EPERM);
	EXPECT_EQ(ftruncate(self->memfd[0], (PAGES + H) * PAGE), 0);

	/* Mapped for writing, then mapped by nobody, but pinned. */
	EXPECT_EQ(fcntl(self->memfd[0], F_ADD_SEALS, F_SEAL_WRITE), -1);
	EXPECT_EQ(errno, EBUSY);
	munmap(self->mem[0], PAGES * PAGE);
	EXPECT_EQ(fcntl(self->memfd[0], F_ADD_SEALS, F_SEAL_WRITE), -1);
	EXPECT_EQ(errno, EBUSY);

	/* And once the pins are gone it is allowed: no pin was left. */
	close(fd);
	EXPECT_EQ(fcntl(self->memfd[0], F_ADD_SEALS, F_SEAL_WRITE), 0);
	self->mem[0] = map_shared(self->memfd[0], PAGES * PAGE, PROT_READ);
}

/* Huge pages that no mapping has reserved: the counters stay right. */
FIXTURE(hugetlb) {
	struct held before;
	int dev;
};

FIXTURE_SETUP(hugetlb)
{
	want_huge_pages();
	self->before = held();
	self->dev = udmabuf_open();
}

FIXTURE_TEARDOWN(hugetlb)
{
	close(self->dev);
	EXPECT_HELD(self->before);
}

TEST_F(hugetlb, never_mapped)
{
	int memfd = memfd_new(HUGETLB, 2 * HUGE);
	int fd = udmabuf_create(self->dev, memfd, 0, 2 * HUGE);

	ASSERT_GE(fd, 0);
	EXPECT_EQ(held().reserved_huge, self->before.reserved_huge);
	EXPECT_EQ(held().free_huge, self->before.free_huge - 2);
	close(fd);
	EXPECT_EQ(held().free_huge, self->before.free_huge - 2);
	close(memfd);
	EXPECT_HELD(((struct held) {
		.pins = self->before.pins,
		.buffers = self->before.buffers,
		.fds = self->before.fds + 1,
		.free_huge = self->before.free_huge,
		.reserved_huge = self->before.reserved_huge,
	}));
}

/* Half of it was reserved by a mapping that touched nothing. */
TEST_F(hugetlb, half_mapped)
{
	int memfd = memfd_new(HUGETLB, 2 * HUGE);
	void *map = map_shared(memfd, HUGE, PROT_READ | PROT_WRITE);
	int fd;

	EXPECT_EQ(held().reserved_huge, self->before.reserved_huge + 1);
	fd = udmabuf_create(self->dev, memfd, 0, 2 * HUGE);
	ASSERT_GE(fd, 0);
	EXPECT_EQ(held().reserved_huge, self->before.reserved_huge);
	EXPECT_EQ(held().free_huge, self->before.free_huge - 2);
	munmap(map, HUGE);
	close(fd);
	close(memfd);
}

TEST_F(hugetlb, punched)
{
	int memfd = memfd_filled(HUGETLB, 2 * HUGE, 1, NULL);
	int fd;

	ASSERT_EQ(fallocate(memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
			    HUGE), 0);
	fd = udmabuf_create(self->dev, memfd, 0, 2 * HUGE);
	ASSERT_GE(fd, 0);
	EXPECT_EQ(held().reserved_huge, self->before.reserved_huge);
	close(fd);
	close(memfd);
}

/* More than there is: nothing of it stays. */
TEST_F(hugetlb, too_few_pages)
{
	long size = (self->before.free_huge + 2) * HUGE;
	long limit = udmabuf_parameter("size_limit_mb", size >> 20);
	int memfd = memfd_new(HUGETLB, size);
	int fd = udmabuf_create(self->dev, memfd, 0, size);

	EXPECT_EQ(fd, -1);
	EXPECT_EQ(errno, ENOMEM);
	EXPECT_EQ(held().pins, self->before.pins);
	EXPECT_EQ(held().reserved_huge, self->before.reserved_huge);
	close(memfd);
	udmabuf_parameter("size_limit_mb", limit);
}

TEST_HARNESS_MAIN
