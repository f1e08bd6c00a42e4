// SPDX-License-Identifier: GPL-2.0
/*
 * VFIO_DEVICE_FEATURE_DMA_BUF: what is accepted, what is refused with which error,
 * and that nothing is left behind.
 */
#include "vfio_util.h"

#include <limits.h>
#include <sys/resource.h>

#include "../kselftest_harness.h"

#define GET	(VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_DMA_BUF)
#define HEAD	(sizeof(struct vfio_device_feature) + \
		 sizeof(struct vfio_device_feature_dma_buf))

/* As many ranges as the figures speak of; so many have to be possible. */
#define MANY	1000

FIXTURE(export) {
	struct held before;
	struct vfio vfio;
	char edu[16];
};

FIXTURE_VARIANT(export) {
	enum interface interface;
};

FIXTURE_VARIANT_ADD(export, group) { .interface = GROUP };
FIXTURE_VARIANT_ADD(export, cdev) { .interface = CDEV };

FIXTURE_SETUP(export)
{
	char name[16];

	if (!device_find(RAM, name) || !device_find(EDU, self->edu))
		SKIP(return, "no device at " RAM " or " EDU);
	device_bind(self->edu, "dma_buf_test_importer");
	self->before = held();
	vfio_get(&self->vfio, RAM, variant->interface);
}

FIXTURE_TEARDOWN(export)
{
	vfio_close(&self->vfio);
	EXPECT_HELD(self->before);
}

TEST_F(export, nothing)
{
}

TEST_F(export, probe)
{
	struct vfio_device_feature_dma_buf none = {};

	EXPECT_EQ(vfio_feature(&self->vfio, GET | VFIO_DEVICE_FEATURE_PROBE, NULL, 0), 0);
	EXPECT_EQ(vfio_feature(&self->vfio, VFIO_DEVICE_FEATURE_PROBE |
			       VFIO_DEVICE_FEATURE_DMA_BUF, NULL, 0), 0);
	EXPECT_EQ(vfio_feature(&self->vfio, VFIO_DEVICE_FEATURE_SET |
			       VFIO_DEVICE_FEATURE_PROBE | VFIO_DEVICE_FEATURE_DMA_BUF,
			       NULL, 0), -EINVAL);
	EXPECT_EQ(vfio_feature(&self->vfio, VFIO_DEVICE_FEATURE_SET |
			       VFIO_DEVICE_FEATURE_DMA_BUF, &none, sizeof(none)), -EINVAL);
}

/* Mainline's programs count the ranges in argsz, or do not: both have to work. */
TEST_F(export, argsz)
{
	union {
		struct vfio_device_feature feature;
		char bytes[HEAD + sizeof(struct vfio_region_dma_range) + 8];
	} arg = {};
	struct vfio_device_feature_dma_buf *payload = (void *)arg.feature.data;
	int fd;

	arg.feature.flags = GET;
	payload->region_index = RAM_BAR;
	payload->open_flags = O_CLOEXEC;
	payload->nr_ranges = 1;
	payload->dma_ranges[0].length = PAGE;

	static const size_t good[] = { HEAD, HEAD + 1, sizeof(arg) - 8, sizeof(arg) };

	for (int i = 0; i < 4; i++) {
		arg.feature.argsz = good[i];
		fd = ioctl(self->vfio.fd, VFIO_DEVICE_FEATURE, &arg);
		EXPECT_GE(fd, 0) TH_LOG("argsz %zu", good[i]);
		close(fd);
	}
	for (size_t size = 0; size < HEAD; size++) {
		arg.feature.argsz = size;
		EXPECT_EQ(ioctl(self->vfio.fd, VFIO_DEVICE_FEATURE, &arg), -1);
		EXPECT_EQ(errno, EINVAL) TH_LOG("argsz %zu", size);
	}
}

#define WHOLE	(64ULL << 10)	/* whole pages, on any machine */

static const struct bad {
	const char *what;
	uint32_t region;
	uint32_t open_flags;
	uint32_t flags;
	uint32_t nr_ranges;
	uint64_t offset;
	uint64_t length;
	int error;
} bad[] = {
	{ "region is the ROM", VFIO_PCI_ROM_REGION_INDEX, O_RDWR, 0, 1, 0, WHOLE, ENODEV },
	{ "region is configuration space", VFIO_PCI_CONFIG_REGION_INDEX, O_RDWR, 0, 1, 0,
	  WHOLE, ENODEV },
	{ "region 9", VFIO_PCI_NUM_REGIONS, O_RDWR, 0, 1, 0, WHOLE, ENODEV },
	{ "region -1", -1, O_RDWR, 0, 1, 0, WHOLE, ENODEV },
	{ "BAR smaller than a page", 0, O_RDWR, 0, 1, 0, WHOLE, EINVAL },
	{ "BAR that is not there", 4, O_RDWR, 0, 1, 0, WHOLE, ENODEV },
	{ "second half of a 64-bit BAR", RAM_BAR + 1, O_RDWR, 0, 1, 0, WHOLE, ENODEV },
	{ "flags 1", RAM_BAR, O_RDWR, 1, 1, 0, WHOLE, EINVAL },
	{ "flags 1 << 31", RAM_BAR, O_RDWR, 1U << 31, 1, 0, WHOLE, EINVAL },
	{ "no ranges", RAM_BAR, O_RDWR, 0, 0, 0, WHOLE, EINVAL },
	{ "2^32 - 1 ranges", RAM_BAR, O_RDWR, 0, UINT_MAX, 0, WHOLE, E2BIG },
	{ "access mode 3", RAM_BAR, O_ACCMODE, 0, 1, 0, WHOLE, EINVAL },
	{ "O_APPEND", RAM_BAR, O_RDWR | O_APPEND, 0, 1, 0, WHOLE, EINVAL },
	{ "O_PATH", RAM_BAR, O_RDWR | O_PATH, 0, 1, 0, WHOLE, EINVAL },
	{ "O_DIRECT", RAM_BAR, O_RDWR | O_DIRECT, 0, 1, 0, WHOLE, EINVAL },
	{ "O_CREAT", RAM_BAR, O_RDWR | O_CREAT, 0, 1, 0, WHOLE, EINVAL },
	{ "open_flags 1 << 31", RAM_BAR, 1U << 31, 0, 1, 0, WHOLE, EINVAL },
	{ "length 0", RAM_BAR, O_RDWR, 0, 1, 0, 0, EINVAL },
	{ "length 0 at the end", RAM_BAR, O_RDWR, 0, 1, RAM_SIZE, 0, EINVAL },
	{ "length of a part of a page", RAM_BAR, O_RDWR, 0, 1, 0, 512, EINVAL },
	{ "length and a byte", RAM_BAR, O_RDWR, 0, 1, 0, WHOLE + 1, EINVAL },
	{ "offset of a part of a page", RAM_BAR, O_RDWR, 0, 1, 512, WHOLE, EINVAL },
	{ "offset 1", RAM_BAR, O_RDWR, 0, 1, 1, WHOLE, EINVAL },
	{ "behind the end", RAM_BAR, O_RDWR, 0, 1, RAM_SIZE, WHOLE, EINVAL },
	{ "across the end", RAM_BAR, O_RDWR, 0, 1, RAM_SIZE - WHOLE, 2 * WHOLE, EINVAL },
	{ "more than all", RAM_BAR, O_RDWR, 0, 1, 0, RAM_SIZE + WHOLE, EINVAL },
	{ "offset 2^63", RAM_BAR, O_RDWR, 0, 1, 1ULL << 63, WHOLE, EINVAL },
	{ "length 2^63", RAM_BAR, O_RDWR, 0, 1, 0, 1ULL << 63, EINVAL },
	{ "sum is 0", RAM_BAR, O_RDWR, 0, 1, -WHOLE, WHOLE, EOVERFLOW },
	{ "sum overflows", RAM_BAR, O_RDWR, 0, 1, -WHOLE, 2 * WHOLE, EOVERFLOW },
};

static int export_bad(const struct vfio *vfio, const struct bad *b)
{
	/* Room for the ranges that some say they have: only their number is wrong. */
	size_t size = sizeof(struct vfio_device_feature_dma_buf) +
		      4 * sizeof(struct vfio_region_dma_range);
	struct vfio_device_feature_dma_buf *payload = calloc(1, size);
	int ret;

	if (!payload)
		die("calloc");
	payload->region_index = b->region;
	payload->open_flags = b->open_flags;
	payload->flags = b->flags;
	payload->nr_ranges = b->nr_ranges;
	payload->dma_ranges[0].offset = b->offset;
	payload->dma_ranges[0].length = b->length;
	ret = vfio_feature(vfio, GET, payload, size);
	free(payload);
	return ret;
}

TEST_F(export, bad_input)
{
	struct held before = held();

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		EXPECT_EQ(export_bad(&self->vfio, &bad[i]), -bad[i].error)
			TH_LOG("%s", bad[i].what);
	}
	EXPECT_HELD(before);
}

/* A good range does not make a bad one good, wherever it is. */
TEST_F(export, one_bad_range_of_many)
{
	const struct vfio_region_dma_range wrong[] = {
		{ 0, 0 }, { 1, PAGE }, { 0, PAGE - 1 }, { RAM_SIZE, PAGE }, { PAGE, RAM_SIZE },
	};
	struct vfio_region_dma_range ranges[5];

	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++)
		for (int at = 0; at < 5; at++) {
			for (int r = 0; r < 5; r++)
				ranges[r] = (struct vfio_region_dma_range) { r * PAGE, PAGE };
			ranges[at] = wrong[i];
			EXPECT_EQ(export_ranges(&self->vfio, RAM_BAR, O_RDWR, ranges, 5),
				  -EINVAL) TH_LOG("wrong[%zu] at %d", i, at);
		}
}

/* The ranges end, or the whole argument does, where memory does. */
TEST_F(export, fault)
{
	char *p = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
		       -1, 0);
	size_t sizes[] = { 0, 8, sizeof(struct vfio_device_feature), HEAD - 4, HEAD,
			   HEAD + 16, HEAD + 24 };

	ASSERT_NE(p, MAP_FAILED);
	munmap(p + PAGE, PAGE);
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		struct vfio_device_feature feature = {
			.argsz = HEAD + 2 * sizeof(struct vfio_region_dma_range),
			.flags = GET,
		};
		struct vfio_device_feature_dma_buf payload = {
			.region_index = RAM_BAR,
			.nr_ranges = 2,
		};
		char *at = p + PAGE - sizes[i];

		for (size_t n = 0; n < sizes[i] && n < sizeof(feature); n++)
			at[n] = ((char *)&feature)[n];
		for (size_t n = sizeof(feature); n < sizes[i] && n < HEAD; n++)
			at[n] = ((char *)&payload)[n - sizeof(feature)];
		EXPECT_EQ(ioctl(self->vfio.fd, VFIO_DEVICE_FEATURE, at), -1);
		EXPECT_EQ(errno, EFAULT) TH_LOG("%zu bytes", sizes[i]);
	}
	munmap(p, PAGE);
}

TEST_F(export, too_many_open_files)
{
	struct rlimit limit, low;
	int fd;

	ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
	fd = dup(self->vfio.fd);
	close(fd);
	low = limit;
	low.rlim_cur = fd;
	ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &low), 0);
	EXPECT_EQ(export_range(&self->vfio, RAM_BAR, 0, PAGE), -EMFILE);
	ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
	EXPECT_EQ(export_range(&self->vfio, RAM_BAR, 0, PAGE), fd);
	close(fd);
}

TEST_F(export, open_flags)
{
	static const uint32_t modes[] = { O_RDONLY, O_WRONLY, O_RDWR };
	struct vfio_region_dma_range range = { PAGE, PAGE };

	for (int i = 0; i < 6; i++) {
		uint32_t mode = modes[i / 2], cloexec = i % 2 ? O_CLOEXEC : 0;
		int fd = export_ranges(&self->vfio, RAM_BAR, mode | cloexec, &range, 1);

		ASSERT_GE(fd, 0);
		EXPECT_EQ(fcntl(fd, F_GETFL) & O_ACCMODE, mode);
		EXPECT_EQ(fcntl(fd, F_GETFD), cloexec ? FD_CLOEXEC : 0);
		close(fd);
	}
}

TEST_F(export, size)
{
	struct vfio_region_dma_range ranges[] = {
		{ RAM_SIZE - 3 * PAGE, 3 * PAGE }, { 0, RAM_SIZE }, { PAGE, PAGE },
	};
	int fd = export_ranges(&self->vfio, RAM_BAR, O_RDWR, ranges, 3);

	ASSERT_GE(fd, 0);
	EXPECT_EQ(lseek(fd, 0, SEEK_END), RAM_SIZE + 4 * PAGE);
	close(fd);
}

TEST_F(export, many_ranges)
{
	struct vfio_region_dma_range ranges[MANY];
	int fit = RAM_SIZE / PAGE / 2 - 1, many = fit < MANY ? fit : MANY, fd;

	for (int i = 0; i < many; i++)
		ranges[i] = (struct vfio_region_dma_range) { (many - i) * 2 * PAGE, PAGE };
	fd = export_ranges(&self->vfio, RAM_BAR, O_RDWR, ranges, many);
	ASSERT_GE(fd, 0);
	EXPECT_EQ(lseek(fd, 0, SEEK_END), many * PAGE);
	close(fd);
}

/* Any number of times, all alive at once. */
TEST_F(export, many_buffers)
{
	int fds[200];

	for (int i = 0; i < 200; i++) {
		fds[i] = export_range(&self->vfio, RAM_BAR, i % 7 * PAGE, PAGE);
		ASSERT_GE(fds[i], 0);
	}
	EXPECT_EQ(held().buffers, self->before.buffers + 200);
	for (int i = 0; i < 200; i++)
		close(fds[i * 77 % 200]);
}

/* An importer that cannot be told to unmap may not have it. */
TEST_F(export, importers_refused)
{
	int fd = export_range(&self->vfio, RAM_BAR, 0, PAGE), importer;

	ASSERT_GE(fd, 0);
	EXPECT_EQ(importer_attach(self->edu, fd, DMA_BUF_IMPORTER_STATIC), -EOPNOTSUPP);
	EXPECT_EQ(importer_attach(self->edu, fd, DMA_BUF_IMPORTER_NO_P2P), -EOPNOTSUPP);
	EXPECT_EQ(importer_attach(self->edu, fd, DMA_BUF_IMPORTER_PIN), -EOPNOTSUPP);
	EXPECT_EQ(importer_attach(self->edu, fd,
				  DMA_BUF_IMPORTER_PIN | DMA_BUF_IMPORTER_STATIC), -EINVAL);
	EXPECT_EQ(held().attachments, self->before.attachments);
	/* None of that has done any harm. */
	importer = importer_attach(self->edu, fd, 0);
	ASSERT_GE(importer, 0);
	EXPECT_EQ(importer_map(importer), 0);
	close(importer);
	close(fd);
}

/* Of a device that does not decode memory: born revoked. */
TEST_F(export, memory_off)
{
	int fd, importer;

	ASSERT_EQ(vfio_memory(&self->vfio, false), 0);
	fd = export_range(&self->vfio, RAM_BAR, 0, PAGE);
	ASSERT_GE(fd, 0);
	EXPECT_EQ(importer_attach(self->edu, fd, 0), -ENODEV);
	ASSERT_EQ(vfio_memory(&self->vfio, true), 0);
	importer = importer_attach(self->edu, fd, 0);
	ASSERT_GE(importer, 0);
	EXPECT_EQ(importer_map(importer), 0);
	close(importer);
	close(fd);
}

/* What no dma-buf's file does, this one does not do. */
TEST_F(export, no_file)
{
	int fd = export_range(&self->vfio, RAM_BAR, 0, PAGE);
	char byte = 0;

	ASSERT_GE(fd, 0);
	EXPECT_EQ(read(fd, &byte, 1), -1);
	EXPECT_EQ(write(fd, &byte, 1), -1);
	EXPECT_EQ(ftruncate(fd, 0), -1);
	close(fd);
}

/* A device that is open, but has not been bound to an iommufd, is not the caller's. */
TEST(cdev_not_bound)
{
	char name[16], link[64], path[64] = "";
	struct vfio vfio;

	if (!device_find(RAM, name))
		SKIP(return, "no device at " RAM);
	vfio_get(&vfio, RAM, CDEV);
	snprintf(link, sizeof(link), "/proc/self/fd/%d", vfio.fd);
	ASSERT_GT(readlink(link, path, sizeof(path) - 1), 0);
	vfio_close(&vfio);
	vfio.fd = open(path, O_RDWR | O_CLOEXEC);
	ASSERT_GE(vfio.fd, 0);
	EXPECT_EQ(export_range(&vfio, RAM_BAR, 0, PAGE), -EINVAL);
	close(vfio.fd);
}

TEST_HARNESS_MAIN
