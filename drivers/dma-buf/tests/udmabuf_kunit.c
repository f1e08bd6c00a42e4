// SPDX-License-Identifier: GPL-2.0
/*
 * KUnit tests of udmabuf's runs: how they grow, are found, are cut into
 * scatterlists, and what they say of pins.  Part of udmabuf.c, whose functions
 * are static.
 */
#include <kunit/device.h>
#include <kunit/test.h>
#include <linux/prandom.h>

#define TEST_ORDER	9
#define TEST_PAGES	BIT(TEST_ORDER)

/**
 * struct udmabuf_test - what a case starts with
 * @ub: an empty buffer
 * @page: TEST_PAGES contiguous pages, for frame numbers that exist
 * @pfn: the first one's frame number
 */
struct udmabuf_test {
	struct udmabuf ub;
	struct page *page;
	unsigned long pfn;
};

static int udmabuf_test_init(struct kunit *test)
{
	struct udmabuf_test *t = kunit_kzalloc(test, sizeof(*t), GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, t);
	t->page = alloc_pages(GFP_KERNEL, TEST_ORDER);
	KUNIT_ASSERT_NOT_NULL(test, t->page);
	t->pfn = page_to_pfn(t->page);
	test->priv = t;
	return 0;
}

static void udmabuf_test_exit(struct kunit *test)
{
	struct udmabuf_test *t = test->priv;

	if (!t)
		return;
	kvfree(t->ub.runs);
	if (t->page)
		__free_pages(t->page, TEST_ORDER);
}

/* Appends pages [@first, @first + @nr) of the test's block. */
static int append(struct kunit *test, unsigned long first, u32 nr)
{
	struct udmabuf_test *t = test->priv;
	int merged = udmabuf_append(&t->ub, t->pfn + first, nr);

	KUNIT_ASSERT_GE(test, merged, 0);
	return merged;
}

/* Pages that go on where the last run ended make it longer, others do not. */
static void udmabuf_append_test(struct kunit *test)
{
	struct udmabuf_test *t = test->priv;

	KUNIT_EXPECT_EQ(test, append(test, 10, 2), 0);
	KUNIT_EXPECT_EQ(test, append(test, 12, 1), 1);	/* next page */
	KUNIT_EXPECT_EQ(test, append(test, 13, 16), 1);	/* many */
	KUNIT_EXPECT_EQ(test, append(test, 28, 1), 0);	/* its own last page again */
	KUNIT_EXPECT_EQ(test, append(test, 27, 1), 0);	/* backwards */
	KUNIT_EXPECT_EQ(test, append(test, 28, 1), 1);
	KUNIT_EXPECT_EQ(test, append(test, 30, 1), 0);	/* a gap of one */

	KUNIT_ASSERT_EQ(test, t->ub.nr_runs, 4);
	KUNIT_EXPECT_EQ(test, t->ub.nr_pages, 2 + 1 + 16 + 1 + 1 + 1 + 1);
	KUNIT_EXPECT_EQ(test, t->ub.runs[0].nr, 19);
	KUNIT_EXPECT_EQ(test, t->ub.runs[1].first, 19);
	KUNIT_EXPECT_EQ(test, t->ub.runs[2].first, 20);
	KUNIT_EXPECT_EQ(test, t->ub.runs[2].nr, 2);
	KUNIT_EXPECT_EQ(test, t->ub.runs[3].first, 22);
	KUNIT_EXPECT_EQ(test, t->ub.runs[3].pfn, t->pfn + 30);
}

/* Growing and trimming change nothing but the room there is. */
static void udmabuf_trim_test(struct kunit *test)
{
	struct udmabuf_test *t = test->priv;
	u32 n = 0;

	for (u32 i = 0; i < 100; i++) {
		append(test, 2 * i, 1);
		KUNIT_ASSERT_GE(test, t->ub.max_runs, t->ub.nr_runs);
	}
	udmabuf_trim(&t->ub);
	KUNIT_EXPECT_EQ(test, t->ub.max_runs, 100);
	KUNIT_ASSERT_EQ(test, t->ub.nr_runs, 100);
	for (u32 i = 0; i < 100; i++)
		n += t->ub.runs[i].pfn == t->pfn + 2 * i &&
		     t->ub.runs[i].first == i && t->ub.runs[i].nr == 1;
	KUNIT_EXPECT_EQ(test, n, 100);
}

/*
 * With 1 to 33 runs, of lengths that differ, the run found for every page is the
 * one that has it: first and last pages of all runs are among them.
 */
static void udmabuf_find_test(struct kunit *test)
{
	static const u32 lengths[] = { 1, 3, 1, 1, 7, 2 };
	struct udmabuf_test *t = test->priv;

	for (u32 runs = 1; runs <= 33; runs++) {
		u32 nr = lengths[runs % ARRAY_SIZE(lengths)];
		u32 expected = 0;

		append(test, 14 * runs, nr);
		KUNIT_ASSERT_EQ(test, t->ub.nr_runs, runs);
		for (u32 page = 0; page < t->ub.nr_pages; page++) {
			const struct pfn_run *run = udmabuf_find(&t->ub, page);

			if (page == t->ub.runs[expected].first +
				    t->ub.runs[expected].nr)
				expected++;
			KUNIT_ASSERT_PTR_EQ(test, run, &t->ub.runs[expected]);
		}
		KUNIT_ASSERT_EQ(test, expected, runs - 1);
	}
}

/**
 * struct udmabuf_pin_case - items on a file whose folios have 2^order pages each
 * @name: what the case is about
 * @order: size of the folios
 * @items: ranges, in pages; a length of 0 ends them
 */
struct udmabuf_pin_case {
	const char *name;
	unsigned int order;
	struct { u32 first, nr; } items[6];
};

static const struct udmabuf_pin_case udmabuf_pin_cases[] = {
	{ "small folios, adjacent items", 0, { { 0, 4 }, { 4, 4 } } },
	{ "small folios, one page three times", 0, { { 5, 1 }, { 5, 1 }, { 5, 1 } } },
	{ "small folios, overlapping items", 0, { { 0, 4 }, { 2, 4 } } },
	{ "one huge folio", 4, { { 0, 16 } } },
	{ "parts of one folio, adjacent", 4, { { 3, 2 }, { 5, 1 }, { 6, 10 } } },
	{ "parts of one folio, with a gap", 4, { { 0, 2 }, { 3, 2 } } },
	{ "parts of one folio, reversed", 4, { { 8, 8 }, { 0, 8 } } },
	{ "one folio twice", 4, { { 0, 16 }, { 0, 16 } } },
	{ "across two folios, then on in the second", 4, { { 8, 16 }, { 24, 8 } } },
	{ "up to a folio's end, then the next folio", 4, { { 8, 8 }, { 16, 16 } } },
	{ "into a folio, back, and into it again", 4,
	  { { 16, 4 }, { 0, 4 }, { 20, 4 }, { 24, 1 } } },
	{ "four folios at once, then the middle ones", 2, { { 0, 16 }, { 6, 4 } } },
};

KUNIT_ARRAY_PARAM_DESC(udmabuf_pin, udmabuf_pin_cases, name);

/* Adds an item as pinning does: a pin and a piece for each folio it covers. */
static void add_item(struct kunit *test, unsigned int order, u32 first, u32 nr,
		     int *pins)
{
	u32 end = first + nr;

	while (first < end) {
		u32 start = round_down(first, 1U << order);
		u32 next = min(start + (1U << order), end);

		pins[first >> order]++;
		if (udmabuf_pin_is_spare(append(test, first, next - first),
					 first - start))
			pins[first >> order]--;
		first = next;
	}
}

/* The pins on each folio are as many as the runs that intersect it. */
static void expect_pins(struct kunit *test, unsigned int order, const int *pins)
{
	struct udmabuf_test *t = test->priv;

	for (u32 folio = 0; folio < TEST_PAGES >> order; folio++) {
		unsigned long start = t->pfn + (folio << order);
		int runs = 0;

		for (u32 i = 0; i < t->ub.nr_runs; i++)
			runs += t->ub.runs[i].pfn < start + (1U << order) &&
				t->ub.runs[i].pfn + t->ub.runs[i].nr > start;
		KUNIT_ASSERT_EQ_MSG(test, pins[folio], runs, "folio %u", folio);
	}
}

static void udmabuf_pin_test(struct kunit *test)
{
	const struct udmabuf_pin_case *c = test->param_value;
	int *pins = kunit_kcalloc(test, TEST_PAGES, sizeof(*pins), GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, pins);
	for (int i = 0; i < ARRAY_SIZE(c->items) && c->items[i].nr; i++) {
		add_item(test, c->order, c->items[i].first, c->items[i].nr, pins);
		expect_pins(test, c->order, pins);
	}
}

/* The same for random lists. */
static void udmabuf_pin_random_test(struct kunit *test)
{
	int *pins = kunit_kcalloc(test, TEST_PAGES, sizeof(*pins), GFP_KERNEL);
	struct rnd_state rnd;
	u32 first = 0;

	KUNIT_ASSERT_NOT_NULL(test, pins);
	prandom_seed_state(&rnd, 2026);
	for (int i = 0; i < 400; i++) {
		u32 nr = 1 + prandom_u32_state(&rnd) % 24;

		/* Half of the items go on where the one before them ended. */
		if (prandom_u32_state(&rnd) & 1 || first + nr > TEST_PAGES)
			first = prandom_u32_state(&rnd) % (TEST_PAGES - 24);
		add_item(test, 3, first, nr, pins);
		first += nr;
	}
	expect_pins(test, 3, pins);
}

/* As memfd_pin_folios() does: one pin is counted, whatever the folio's size. */
static void pin_large_folio(struct folio *folio)
{
	folio_get(folio);
	atomic_inc(&folio->_pincount);
	mod_node_page_state(folio_pgdat(folio), NR_FOLL_PIN_ACQUIRED, 1);
}

/* Unpinning visits every folio of a run once, whatever parts of it the run has. */
static void udmabuf_unpin_test(struct kunit *test)
{
	static const struct { u32 first, nr; } runs[] = {
		{ 0, 8 }, { 0, 1 }, { 7, 1 }, { 6, 2 }, { 3, 4 },
	};
	struct folio *folio = folio_alloc(GFP_KERNEL, 3);

	KUNIT_ASSERT_NOT_NULL(test, folio);
	for (int i = 0; i < ARRAY_SIZE(runs); i++) {
		struct pfn_run run = {
			.nr = runs[i].nr,
			.pfn = folio_pfn(folio) + runs[i].first,
		};

		pin_large_folio(folio);
		unpin_pfn_runs(&run, 1);
		KUNIT_EXPECT_EQ(test, atomic_read(&folio->_pincount), 0);
		KUNIT_EXPECT_EQ(test, folio_ref_count(folio), 1);
	}
	folio_put(folio);
}

/* Entries are as long as the limits let them be, and say what the runs say. */
static void udmabuf_sgt_test(struct kunit *test)
{
	static const struct udmabuf_segment_limits limits[] = {
		{ 1, 1UL << 20 }, { 2, 1UL << 20 }, { 3, 1UL << 20 }, { 16, 1UL << 20 },
		{ 63, 1UL << 20 }, { 64, 1UL << 20 }, { 65, 1UL << 20 },
		{ U32_MAX, UDMABUF_NO_BOUNDARY }, { 137, UDMABUF_NO_BOUNDARY },
		{ 136, UDMABUF_NO_BOUNDARY }, { 64, UDMABUF_NO_BOUNDARY },
		{ 65, 16 }, { 3, 4 }, { U32_MAX, 1 }, { 64, 64 },
	};
	static const u32 lengths[] = { 1, 4, 64, 65, 3 };
	struct udmabuf_test *t = test->priv;

	for (u32 i = 0, first = 0; i < ARRAY_SIZE(lengths); i++) {
		append(test, first, lengths[i]);
		first += lengths[i] + 1;
	}

	for (int i = 0; i < ARRAY_SIZE(limits); i++) {
		u32 run = 0, done = 0, entries = 0;
		struct scatterlist *sg;
		struct sg_table sgt;
		int j;

		KUNIT_ASSERT_EQ(test, udmabuf_fill_sgt(&t->ub, &sgt, &limits[i]), 0);
		for_each_sgtable_sg(&sgt, sg, j) {
			const struct pfn_run *r = &t->ub.runs[run];
			unsigned long pfn = page_to_pfn(sg_page(sg));
			u32 nr = sg->length >> PAGE_SHIFT;

			KUNIT_EXPECT_EQ(test, pfn, r->pfn + done);
			KUNIT_EXPECT_EQ(test, sg->offset, 0);
			KUNIT_ASSERT_GT(test, nr, 0);
			KUNIT_EXPECT_LE(test, nr, limits[i].max);
			KUNIT_EXPECT_EQ(test, pfn / limits[i].boundary,
					(pfn + nr - 1) / limits[i].boundary);
			done += nr;
			/* An entry ends with the run, at the maximum or at a boundary. */
			KUNIT_EXPECT_TRUE(test, done == r->nr || nr == limits[i].max ||
					  !((pfn + nr) % limits[i].boundary));
			entries++;
			if (done == r->nr) {
				done = 0;
				run++;
			}
		}
		KUNIT_EXPECT_EQ(test, run, ARRAY_SIZE(lengths));
		KUNIT_EXPECT_EQ(test, sgt.orig_nents, entries);
		sg_free_table(&sgt);
	}
}

/* A dma-buf of one folio of 8 pages. */
static struct dma_buf *folio_buffer(struct kunit *test)
{
	struct folio *folio = folio_alloc(GFP_KERNEL, 3);
	struct udmabuf *ub = udmabuf_alloc();
	struct dma_buf *dmabuf;

	KUNIT_ASSERT_NOT_NULL(test, folio);
	KUNIT_ASSERT_NOT_NULL(test, ub);
	KUNIT_ASSERT_EQ(test, udmabuf_append(ub, folio_pfn(folio), 8), 0);
	pin_large_folio(folio);
	folio_put(folio);
	dmabuf = udmabuf_export(ub);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, dmabuf);
	return dmabuf;
}

/*
 * The table that a SYNC walks while the buffer is mapped has the buffer's pages.  With
 * CONFIG_DMABUF_DEBUG, the table that the importer has does not.
 */
static void udmabuf_synced_table_test(struct kunit *test)
{
	struct device *dev = kunit_device_register(test, "udmabuf");
	struct dma_buf_attachment *attach;
	const struct udmabuf_mapping *m;
	struct sg_table *importers;
	struct dma_buf *dmabuf;
	struct udmabuf *ub;

	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, dev);
	KUNIT_ASSERT_EQ(test, dma_coerce_mask_and_coherent(dev, DMA_BIT_MASK(64)), 0);
	dmabuf = folio_buffer(test);
	ub = dmabuf->priv;
	attach = dma_buf_attach(dmabuf, dev);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, attach);
	importers = dma_buf_map_attachment_unlocked(attach, DMA_BIDIRECTIONAL);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, importers);

	m = list_first_entry(&ub->mappings, struct udmabuf_mapping, node);
	KUNIT_EXPECT_EQ(test, page_to_pfn(sg_page(m->sgt.sgl)), ub->runs[0].pfn);
	KUNIT_EXPECT_EQ(test, sg_dma_address(importers->sgl),
			sg_dma_address(m->sgt.sgl));
	KUNIT_EXPECT_EQ(test, sg_dma_len(importers->sgl),
			min(8 * PAGE_SIZE, dma_get_max_seg_size(dev)));
	if (IS_ENABLED(CONFIG_DMABUF_DEBUG))
		KUNIT_EXPECT_PTR_NE(test, sg_page(importers->sgl),
				    pfn_to_page(ub->runs[0].pfn));

	dma_buf_unmap_attachment_unlocked(attach, importers, DMA_BIDIRECTIONAL);
	dma_buf_detach(dmabuf, attach);
	KUNIT_EXPECT_TRUE(test, list_empty(&ub->mappings));
	dma_buf_put(dmabuf);
}

/* Numbers that a user may give: wrong ones are EINVAL. */
static void udmabuf_check_test(struct kunit *test)
{
	static const struct { u64 offset, size; s64 ret; } cases[] = {
		{ 0, PAGE_SIZE, 1 },
		{ 0, 0, -EINVAL },
		{ 1, PAGE_SIZE, -EINVAL },
		{ 0, PAGE_SIZE + 1, -EINVAL },
		{ LLONG_MAX - PAGE_SIZE + 1, PAGE_SIZE, -EINVAL },
		{ round_down(LLONG_MAX, PAGE_SIZE) - PAGE_SIZE, PAGE_SIZE, 1 },
		{ round_down(LLONG_MAX, PAGE_SIZE), PAGE_SIZE, -EINVAL },
		{ round_down(U64_MAX, PAGE_SIZE), PAGE_SIZE, -EINVAL },
		{ PAGE_SIZE, round_down(U64_MAX, PAGE_SIZE), -EINVAL },
		{ 0, round_down(U64_MAX, PAGE_SIZE), -EINVAL },
		{ 0, SZ_1G + PAGE_SIZE, -EINVAL },
		{ 0, SZ_1G, SZ_1G / PAGE_SIZE },
	};
	struct udmabuf_create_item two[2] = { { .size = SZ_1G } };
	int limit = size_limit_mb;

	size_limit_mb = 1024;
	for (int i = 0; i < ARRAY_SIZE(cases); i++) {
		struct udmabuf_create_item item = {
			.offset = cases[i].offset,
			.size = cases[i].size,
		};

		KUNIT_EXPECT_EQ_MSG(test, udmabuf_check_items(&item, 1),
				    cases[i].ret, "case %d", i);
	}
	KUNIT_EXPECT_EQ(test, udmabuf_check_items(two, 0), -EINVAL);
	KUNIT_EXPECT_EQ(test, udmabuf_check_items(two, 2), -EINVAL);
	two[1].size = PAGE_SIZE;
	KUNIT_EXPECT_EQ(test, udmabuf_check_items(two, 2), -EINVAL);
	two[0].size -= PAGE_SIZE;
	KUNIT_EXPECT_EQ(test, udmabuf_check_items(two, 2), SZ_1G / PAGE_SIZE);

	/* No limit but what a count of pages can hold. */
	size_limit_mb = INT_MAX;
	two[0].size = (u64)U32_MAX << PAGE_SHIFT;
	KUNIT_EXPECT_EQ(test, udmabuf_check_items(two, 1),
			IS_ENABLED(CONFIG_64BIT) ? (s64)U32_MAX : -EINVAL);
	KUNIT_EXPECT_EQ(test, udmabuf_check_items(two, 2), -EINVAL);
	size_limit_mb = limit;
}

static struct kunit_case udmabuf_test_cases[] = {
	KUNIT_CASE(udmabuf_append_test),
	KUNIT_CASE(udmabuf_trim_test),
	KUNIT_CASE(udmabuf_find_test),
	KUNIT_CASE_PARAM(udmabuf_pin_test, udmabuf_pin_gen_params),
	KUNIT_CASE(udmabuf_pin_random_test),
	KUNIT_CASE(udmabuf_unpin_test),
	KUNIT_CASE(udmabuf_sgt_test),
	KUNIT_CASE(udmabuf_synced_table_test),
	KUNIT_CASE(udmabuf_check_test),
	{}
};

static struct kunit_suite udmabuf_test_suite = {
	.name = "udmabuf",
	.init = udmabuf_test_init,
	.exit = udmabuf_test_exit,
	.test_cases = udmabuf_test_cases,
};

kunit_test_suite(udmabuf_test_suite);
