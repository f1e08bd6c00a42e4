// SPDX-License-Identifier: GPL-2.0
/*
 * DMA to and from a dma-buf of a BAR really happens, at the right place: what a device
 * has written there is seen through VFIO's own mapping of the BAR, and the other way
 * round.
 */
#include "vfio_util.h"

#include "../kselftest_harness.h"

#define MB	0x100000UL
#define WINDOW	(512 * PAGE)	/* of the BAR that is mapped and looked at */

FIXTURE(dma) {
	struct held before;
	struct vfio vfio;
	char edu[16];
	volatile uint64_t *bar;
};

/*
 * edu: the importer; ram: the exporter, RAM or the like behind BAR 2
 * direct: there is no IOMMU, so that what the importer sees are addresses of the bus
 */
FIXTURE_VARIANT(dma) {
	enum interface interface;
	const char *edu;
	const char *ram;
	bool direct;
};

FIXTURE_VARIANT_ADD(dma, iommu) { GROUP, EDU, RAM, false };
FIXTURE_VARIANT_ADD(dma, nvme) { CDEV, EDU, NVME, false };
FIXTURE_VARIANT_ADD(dma, bridge) { NOIOMMU, EDU, RAM, true };
FIXTURE_VARIANT_ADD(dma, switch) { NOIOMMU, SWITCH_EDU, SWITCH_RAM, true };

FIXTURE_SETUP(dma)
{
	char name[16];

	if (!device_find(variant->ram, name) || !device_find(variant->edu, self->edu))
		SKIP(return, "no device at %s or %s", variant->ram, variant->edu);
	device_bind(self->edu, "dma_buf_test_importer");
	self->before = held();
	vfio_get(&self->vfio, variant->ram, variant->interface);
	self->bar = vfio_map(&self->vfio, RAM_BAR, 0, WINDOW);
	/* The words that tests look at though they are not written to. */
	for (size_t i = 0; i < WINDOW / 8; i += PAGE / 8) {
		self->bar[i] = 0;
		self->bar[i + PAGE / 8 - 1] = 0;
	}
}

FIXTURE_TEARDOWN(dma)
{
	munmap((void *)self->bar, WINDOW);
	vfio_close(&self->vfio);
	EXPECT_HELD(self->before);
}

/* A dma-buf, its importer, and the mapping of that. */
struct import {
	int dmabuf;
	int importer;
};

static int import_ranges(const struct vfio *vfio, const char *edu,
			 const struct vfio_region_dma_range *ranges, uint32_t count,
			 struct import *import)
{
	import->dmabuf = export_ranges(vfio, RAM_BAR, O_RDWR, ranges, count);
	if (import->dmabuf < 0)
		return import->dmabuf;
	import->importer = importer_attach(edu, import->dmabuf, 0);
	if (import->importer < 0)
		return import->importer;
	return importer_map(import->importer);
}

static void import_close(struct import *import)
{
	close(import->importer);
	close(import->dmabuf);
}

static uint64_t word(uint64_t n)
{
	return 0x0123456789abcdef * (n + 1);
}

TEST_F(dma, one_range)
{
	struct vfio_region_dma_range range = { MB, MB / 2 };
	size_t at[] = { 0, 7 * PAGE + 8, MB / 2 - 512 };
	struct import import;
	uint64_t data[64];

	ASSERT_EQ(import_ranges(&self->vfio, self->edu, &range, 1, &import), 0);
	for (size_t i = 0; i < ARRAY_SIZE(at); i++) {
		for (int n = 0; n < 64; n++)
			data[n] = word(i * 100 + n);
		ASSERT_EQ(importer_copy(import.importer, at[i], data, sizeof(data),
					DMA_BUF_IMPORTER_TO_SLICE), 0);
		for (int n = 0; n < 64; n++)
			ASSERT_EQ(self->bar[(MB + at[i]) / 8 + n], data[n]);
	}
	/* Nothing before and after. */
	EXPECT_EQ(self->bar[MB / 8 - 1], 0);
	EXPECT_EQ(self->bar[3 * MB / 16], 0);

	/* The other way. */
	for (int n = 0; n < 64; n++)
		self->bar[(MB + 5 * PAGE) / 8 + n] = ~word(n);
	ASSERT_EQ(importer_copy(import.importer, 5 * PAGE, data, sizeof(data),
				DMA_BUF_IMPORTER_FROM_SLICE), 0);
	for (int n = 0; n < 64; n++)
		ASSERT_EQ(data[n], ~word(n));
	import_close(&import);
}

/*
 * Writes a word into the first and another into the last bytes of each range of a
 * buffer, which must show there, or where a later range overlaps, what that one wrote.
 */
static void check_ranges(struct __test_metadata *_metadata, FIXTURE_DATA(dma) *self,
			 const struct vfio_region_dma_range *ranges, uint32_t count)
{
	struct import import;
	uint64_t offset = 0;
	uint64_t *expected = calloc(WINDOW / 8, 8);

	ASSERT_NE(expected, NULL);
	ASSERT_EQ(import_ranges(&self->vfio, self->edu, ranges, count, &import), 0);
	for (uint32_t i = 0; i < count; i++) {
		const struct vfio_region_dma_range *r = &ranges[i];
		uint64_t first = word(2 * i), last = word(2 * i + 1);

		ASSERT_EQ(importer_copy(import.importer, offset, &first, 8,
					DMA_BUF_IMPORTER_TO_SLICE), 0);
		ASSERT_EQ(importer_copy(import.importer, offset + r->length - 8, &last, 8,
					DMA_BUF_IMPORTER_TO_SLICE), 0);
		expected[r->offset / 8] = first;
		expected[(r->offset + r->length) / 8 - 1] = last;
		offset += r->length;
	}
	for (size_t i = 0; i < WINDOW / 8; i += PAGE / 8) {
		ASSERT_EQ(self->bar[i], expected[i]) TH_LOG("page %zu", i * 8 / PAGE);
		ASSERT_EQ(self->bar[i + PAGE / 8 - 1], expected[i + PAGE / 8 - 1])
			TH_LOG("end of page %zu", i * 8 / PAGE);
	}
	free(expected);
	import_close(&import);
}

TEST_F(dma, many_ranges)
{
	struct vfio_region_dma_range ranges[8];

	for (int i = 0; i < 8; i++)
		ranges[i] = (struct vfio_region_dma_range) {
			(i * i + 1) * 4 * PAGE, (i % 3 + 1) * PAGE,
		};
	check_ranges(_metadata, self, ranges, 8);
}

TEST_F(dma, ranges_out_of_order)
{
	const struct vfio_region_dma_range ranges[] = {
		{ 300 * PAGE, PAGE }, { 20 * PAGE, 5 * PAGE }, { 299 * PAGE, PAGE },
		{ 0, PAGE }, { 100 * PAGE, 40 * PAGE }, { PAGE, PAGE },
	};

	check_ranges(_metadata, self, ranges, ARRAY_SIZE(ranges));
}

TEST_F(dma, ranges_overlap)
{
	const struct vfio_region_dma_range ranges[] = {
		{ 10 * PAGE, 10 * PAGE }, { 15 * PAGE, 10 * PAGE }, { 10 * PAGE, 10 * PAGE },
		{ 12 * PAGE, PAGE }, { 12 * PAGE, PAGE },
	};

	check_ranges(_metadata, self, ranges, ARRAY_SIZE(ranges));
}

/* The same range many times over. */
TEST_F(dma, range_repeated)
{
	struct vfio_region_dma_range ranges[10];
	uint64_t data = word(3);
	struct import import;

	for (int i = 0; i < 10; i++)
		ranges[i] = (struct vfio_region_dma_range) { 7 * PAGE, PAGE };
	ASSERT_EQ(import_ranges(&self->vfio, self->edu, ranges, 10, &import), 0);
	ASSERT_EQ(importer_copy(import.importer, 9 * PAGE, &data, 8,
				DMA_BUF_IMPORTER_TO_SLICE), 0);
	EXPECT_EQ(self->bar[7 * PAGE / 8], data);
	import_close(&import);
}

/* One copy across the borders of ranges. */
TEST_F(dma, across_ranges)
{
	const struct vfio_region_dma_range ranges[] = {
		{ 9 * PAGE, PAGE }, { 3 * PAGE, PAGE },
	};
	struct import import;
	uint64_t data[64];

	for (int n = 0; n < 64; n++)
		data[n] = word(n);
	ASSERT_EQ(import_ranges(&self->vfio, self->edu, ranges, 2, &import), 0);
	ASSERT_EQ(importer_copy(import.importer, PAGE - 256, data, sizeof(data),
				DMA_BUF_IMPORTER_TO_SLICE), 0);
	for (int n = 0; n < 32; n++) {
		ASSERT_EQ(self->bar[(10 * PAGE - 256) / 8 + n], data[n]);
		ASSERT_EQ(self->bar[3 * PAGE / 8 + n], data[32 + n]);
	}
	import_close(&import);
}

/* Where the BAR is on the bus, as sysfs has it. */
static uint64_t bar_address(const char *name)
{
	unsigned long long start = 0;
	char path[128];
	FILE *f;

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/resource", name);
	f = fopen(path, "r");
	if (!f)
		die(path);
	for (int i = 0; i <= RAM_BAR; i++)
		if (fscanf(f, "%llx %*x %*x", &start) != 1)
			die(path);
	fclose(f);
	return start;
}

/* Segments of at most @most bytes, which in all are the ranges, in order. */
static void check_segments(struct __test_metadata *_metadata, FIXTURE_DATA(dma) *self,
			   bool direct, const struct vfio_region_dma_range *ranges,
			   uint32_t count, uint32_t limit, int expected)
{
	uint64_t most = limit ?: 65536, bar = bar_address(self->vfio.name), in_range = 0;
	struct dma_buf_importer_segment segments[2000];
	int dmabuf, importer, n;
	uint32_t range = 0;

	dmabuf = export_ranges(&self->vfio, RAM_BAR, O_RDWR, ranges, count);
	ASSERT_GE(dmabuf, 0);
	importer = importer_attach_limited(self->edu, dmabuf, 0, 0, limit);
	ASSERT_GE(importer, 0);
	ASSERT_EQ(importer_map(importer), 0);
	n = importer_segments(importer, segments, ARRAY_SIZE(segments));
	EXPECT_EQ(n, expected);
	for (int i = 0; i < n; i++) {
		uint64_t left = segments[i].length, address = segments[i].address;

		EXPECT_GT(left, 0);
		EXPECT_LE(left, most);
		EXPECT_EQ(left % PAGE, 0);
		/* A segment can go on from one range into the next one. */
		while (left) {
			uint64_t part;

			ASSERT_LT(range, count);
			part = ranges[range].length - in_range;
			part = part < left ? part : left;
			if (direct)
				EXPECT_EQ(address, bar + ranges[range].offset + in_range);
			address += part;
			left -= part;
			in_range += part;
			if (in_range == ranges[range].length) {
				in_range = 0;
				range++;
			}
		}
	}
	EXPECT_EQ(range, count);
	close(importer);
	close(dmabuf);
}

TEST_F(dma, segments)
{
	const struct vfio_region_dma_range one[] = { { MB, 256 * 1024 } };
	const struct vfio_region_dma_range neighbors[] = {
		{ 4 * PAGE, PAGE }, { 5 * PAGE, 2 * PAGE }, { 7 * PAGE, PAGE },
	};
	const struct vfio_region_dma_range gaps[] = {
		{ 4 * PAGE, PAGE }, { 6 * PAGE, 2 * PAGE }, { 4 * PAGE, PAGE },
	};
	const struct vfio_region_dma_range all[] = { { 0, RAM_SIZE } };

	if (PAGE != 4096)
		SKIP(return, "it counts segments of pages of 4 KiB");
	check_segments(_metadata, self, variant->direct, one, 1, 0, 4);
	check_segments(_metadata, self, variant->direct, one, 1, PAGE, 64);
	check_segments(_metadata, self, variant->direct, one, 1, 3 * PAGE, 22);
	check_segments(_metadata, self, variant->direct, one, 1, 1 << 30, 1);
	check_segments(_metadata, self, variant->direct, neighbors, 3, 0, 1);
	check_segments(_metadata, self, variant->direct, neighbors, 3, 2 * PAGE, 2);
	check_segments(_metadata, self, variant->direct, gaps, 3, 0, 3);
	check_segments(_metadata, self, variant->direct, all, 1, 0, 1024);
	check_segments(_metadata, self, variant->direct, all, 1, 1 << 31, 1);
}

/* All of the BAR is within reach. */
TEST_F(dma, whole_bar)
{
	struct vfio_region_dma_range range = { 0, RAM_SIZE };
	uint64_t data = word(7), back = 0;
	struct import import;

	ASSERT_EQ(import_ranges(&self->vfio, self->edu, &range, 1, &import), 0);
	ASSERT_EQ(importer_copy(import.importer, RAM_SIZE - 8, &data, 8,
				DMA_BUF_IMPORTER_TO_SLICE), 0);
	ASSERT_EQ(vfio_region_rw(&self->vfio, RAM_BAR, RAM_SIZE - 8, &back, 8, false), 0);
	EXPECT_EQ(back, data);
	import_close(&import);
}

/*
 * A device that cannot address the BAR is told so, and nothing is warned about; an
 * IOMMU gives it an address that it can.
 */
TEST_F(dma, address_bits)
{
	int dmabuf = export_range(&self->vfio, RAM_BAR, 0, MB), importer, ret;
	bool reachable = !variant->direct || !(bar_address(self->vfio.name) >> 31);

	ASSERT_GE(dmabuf, 0);
	importer = importer_attach_limited(self->edu, dmabuf, 0, 31, 0);
	ret = importer < 0 ? importer : importer_map(importer);
	EXPECT_EQ(ret, reachable ? 0 : -ERANGE);
	if (importer >= 0)
		close(importer);
	importer = importer_attach_limited(self->edu, dmabuf, 0, 64, 0);
	ASSERT_GE(importer, 0);
	EXPECT_EQ(importer_map(importer), 0);
	close(importer);
	close(dmabuf);
}

/* What mapping a BAR comes to that is named so many times, with a device that can take it. */
static int map_repeated(const struct vfio *vfio, const char *edu, uint32_t count)
{
	size_t bar = vfio_region_size(vfio, RAM_BAR);
	struct vfio_region_dma_range *ranges = calloc(count, sizeof(*ranges));
	int dmabuf, importer, ret;

	if (!ranges)
		die("calloc");
	for (uint32_t i = 0; i < count; i++)
		ranges[i] = (struct vfio_region_dma_range) { 0, bar };
	dmabuf = export_ranges(vfio, RAM_BAR, O_RDWR, ranges, count);
	free(ranges);
	if (dmabuf < 0)
		return dmabuf;
	importer = importer_attach_limited(edu, dmabuf, 0, 64, bar);
	ret = importer < 0 ? importer : importer_map(importer);
	if (importer >= 0)
		close(importer);
	close(dmabuf);
	return ret;
}

/* No buffer takes page tables for more than 64 GiB. */
TEST_F(dma, too_much_exported)
{
	uint32_t most = (64ULL << 30) / vfio_region_size(&self->vfio, RAM_BAR);

	EXPECT_EQ(map_repeated(&self->vfio, self->edu, most + 1), -EOVERFLOW);
	EXPECT_EQ(map_repeated(&self->vfio, self->edu, 2), 0);
}

/* Two buffers of one slice, and two attachments of one buffer: the same bytes. */
TEST_F(dma, aliases)
{
	struct vfio_region_dma_range range = { MB, MB };
	struct import one, two;
	int third;
	uint64_t data = word(1), seen = 0;

	ASSERT_EQ(import_ranges(&self->vfio, self->edu, &range, 1, &one), 0);
	ASSERT_EQ(import_ranges(&self->vfio, self->edu, &range, 1, &two), 0);
	third = importer_attach(self->edu, two.dmabuf, 0);
	ASSERT_GE(third, 0);
	ASSERT_EQ(importer_map(third), 0);
	ASSERT_EQ(importer_copy(one.importer, 64, &data, 8, DMA_BUF_IMPORTER_TO_SLICE), 0);
	ASSERT_EQ(importer_copy(two.importer, 64, &seen, 8, DMA_BUF_IMPORTER_FROM_SLICE), 0);
	EXPECT_EQ(seen, data);
	import_close(&two);
	/* One going does not take the others along. */
	seen = 0;
	ASSERT_EQ(importer_copy(third, 64, &seen, 8, DMA_BUF_IMPORTER_FROM_SLICE), 0);
	EXPECT_EQ(seen, data);
	close(third);
	seen = 0;
	ASSERT_EQ(importer_copy(one.importer, 64, &seen, 8, DMA_BUF_IMPORTER_FROM_SLICE), 0);
	EXPECT_EQ(seen, data);
	import_close(&one);
}

/* A file that is only good for reading limits devices as well as the processor. */
TEST_F(dma, read_only)
{
	struct vfio_region_dma_range range = { MB, PAGE };
	int dmabuf = export_ranges(&self->vfio, RAM_BAR, O_RDONLY, &range, 1), importer;
	uint64_t data = word(2), seen = 0;

	ASSERT_GE(dmabuf, 0);
	importer = importer_attach(self->edu, dmabuf, 0);
	ASSERT_GE(importer, 0);
	EXPECT_EQ(importer_map(importer), -EACCES);
	close(importer);

	importer = importer_attach(self->edu, dmabuf, DMA_BUF_IMPORTER_READ);
	ASSERT_GE(importer, 0);
	ASSERT_EQ(importer_map(importer), 0);
	self->bar[MB / 8] = data;
	ASSERT_EQ(importer_copy(importer, 0, &seen, 8, DMA_BUF_IMPORTER_FROM_SLICE), 0);
	EXPECT_EQ(seen, data);
	/* With an IOMMU, a device that breaks the rule does not get through. */
	if (!variant->direct) {
		data = ~data;
		EXPECT_EQ(importer_copy(importer, 0, &data, 8, DMA_BUF_IMPORTER_TO_SLICE), 0);
		EXPECT_EQ(self->bar[MB / 8], ~data);
	}
	close(importer);
	close(dmabuf);
}

#define EDU_LIVENESS	4	/* reads as the complement of what was written */

/* Not only RAM: a device's registers. */
TEST(registers)
{
	struct vfio vfio;
	char edu[16], name[16];
	uint32_t value = 0x12345678, seen = 0;
	int dmabuf, importer;

	if (!device_find(EDU, edu) || !device_find(REGISTERS, name))
		SKIP(return, "no device at " EDU " or " REGISTERS);
	device_bind(edu, "dma_buf_test_importer");
	vfio_get(&vfio, REGISTERS, CDEV);
	dmabuf = export_range(&vfio, 0, 0, PAGE);
	ASSERT_GE(dmabuf, 0);
	importer = importer_attach(edu, dmabuf, 0);
	ASSERT_GE(importer, 0);
	ASSERT_EQ(importer_map(importer), 0);
	ASSERT_EQ(importer_copy(importer, EDU_LIVENESS, &value, 4,
				DMA_BUF_IMPORTER_TO_SLICE), 0);
	ASSERT_EQ(vfio_region_rw(&vfio, 0, EDU_LIVENESS, &seen, 4, false), 0);
	EXPECT_EQ(seen, ~value);
	ASSERT_EQ(importer_copy(importer, EDU_LIVENESS, &seen, 4,
				DMA_BUF_IMPORTER_FROM_SLICE), 0);
	EXPECT_EQ(seen, ~value);
	close(importer);
	close(dmabuf);
	vfio_close(&vfio);
}

/* Where there is no way for the DMA to go, attaching is refused. */
TEST(no_way)
{
	char edu[16], name[16];
	struct vfio vfio;
	int dmabuf;

	if (!device_find(EDU, edu) || !device_find(SWITCH_RAM, name))
		SKIP(return, "no device at " EDU " or " SWITCH_RAM);
	device_bind(edu, "dma_buf_test_importer");
	vfio_get(&vfio, SWITCH_RAM, NOIOMMU);
	dmabuf = export_range(&vfio, RAM_BAR, 0, PAGE);
	ASSERT_GE(dmabuf, 0);
	EXPECT_EQ(importer_attach(edu, dmabuf, 0), -EREMOTEIO);
	close(dmabuf);
	vfio_close(&vfio);
}

TEST_HARNESS_MAIN
