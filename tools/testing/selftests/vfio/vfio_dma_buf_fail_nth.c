// SPDX-License-Identifier: GPL-2.0
/*
 * dma-bufs of a BAR, with one allocation or one access to user memory after the other
 * failing: a step runs with its first such call made to fail, then with its second, and
 * so on, until it ran with none failing.  It must return an error that is documented, or
 * have done all of its work; it can be done again; and it leaves nothing behind.  What
 * else may go wrong is for the kernel's log to say.
 */
#include "vfio_ioas.h"

#include "../kselftest_harness.h"

/* More calls than any step has. */
#define MOST_CALLS	2000

#define FAULT(name, file, value) \
	{ "/sys/kernel/debug/" name "/" file, value }

/* No messages, and no allocation left out. */
static const char *const settings[][2] = {
	FAULT("failslab", "verbose", "0"),
	FAULT("failslab", "ignore-gfp-wait", "N"),
	FAULT("failslab", "cache-filter", "N"),
	FAULT("fail_page_alloc", "verbose", "0"),
	FAULT("fail_page_alloc", "ignore-gfp-wait", "N"),
	FAULT("fail_page_alloc", "ignore-gfp-highmem", "N"),
	FAULT("fail_page_alloc", "min-order", "0"),
	FAULT("fail_usercopy", "verbose", "0"),
	FAULT("fail_iommufd", "verbose", "0"),
};

static void write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		die(path);
	close(fd);
}

FIXTURE(fail_nth) {
	struct held before;
	struct vfio vfio;
	char edu[16];
	int nth;
	int dmabuf;
	int importer;
	struct edu device;		/* with an address space of iommufd */
	volatile uint64_t *memory;	/* in that, at MEMORY */
};

FIXTURE_VARIANT(fail_nth) {
	enum interface interface;
};

FIXTURE_VARIANT_ADD(fail_nth, group) { .interface = GROUP };
FIXTURE_VARIANT_ADD(fail_nth, cdev) { .interface = CDEV };

FIXTURE_SETUP(fail_nth)
{
	char name[16];

	if (!device_find(EDU, self->edu) || !device_find(NVME, name))
		SKIP(return, "no device at " EDU " or " NVME);
	for (size_t i = 0; i < ARRAY_SIZE(settings); i++)
		write_file(settings[i][0], settings[i][1]);
	device_bind(self->edu, "dma_buf_test_importer");
	self->before = held();
	vfio_get(&self->vfio, NVME, variant->interface);
	self->nth = open("/proc/self/fail-nth", O_RDWR | O_CLOEXEC);
	ASSERT_GE(self->nth, 0);
	self->dmabuf = -1;
	self->importer = -1;
}

FIXTURE_TEARDOWN(fail_nth)
{
	if (self->memory) {
		edu_close(&self->device);
		munmap((void *)self->memory, PAGE);
	}
	if (self->importer >= 0)
		close(self->importer);
	if (self->dmabuf >= 0)
		close(self->dmabuf);
	close(self->nth);
	vfio_close(&self->vfio);
	EXPECT_HELD(self->before);
}

/* The call that fails can be this write, but only once. */
static void set_nth(int nth, unsigned int value)
{
	char text[16];
	int len = snprintf(text, sizeof(text), "%u", value);

	if (pwrite(nth, text, len, 0) != len && pwrite(nth, text, len, 0) != len)
		die("/proc/self/fail-nth");
}

/* The step's result; @injected: a call was made to fail. */
static int attempt(FIXTURE_DATA(fail_nth) *self, int (*step)(FIXTURE_DATA(fail_nth) *),
		   unsigned int n, bool *injected)
{
	char text[16] = "1";
	int ret;

	set_nth(self->nth, n);
	ret = step(self);
	*injected = pread(self->nth, text, sizeof(text) - 1, 0) > 0 && !atoi(text);
	set_nth(self->nth, 0);
	return ret;
}

static int export_step(FIXTURE_DATA(fail_nth) *self)
{
	const struct vfio_region_dma_range ranges[] = {
		{ 0, PAGE }, { 4 * PAGE, PAGE }, { 2 * PAGE, PAGE },
	};
	/* No calloc() on the way: it is the kernel's turn to fail. */
	struct {
		struct vfio_device_feature feature;
		struct vfio_device_feature_dma_buf payload;
		struct vfio_region_dma_range ranges[3];
	} arg = {
		.feature = {
			.argsz = sizeof(arg),
			.flags = VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_DMA_BUF,
		},
		.payload = { .region_index = RAM_BAR, .open_flags = O_CLOEXEC | O_RDWR,
			     .nr_ranges = 3 },
	};

	memcpy(arg.ranges, ranges, sizeof(ranges));
	self->dmabuf = ioctl(self->vfio.fd, VFIO_DEVICE_FEATURE, &arg);
	return self->dmabuf < 0 ? -errno : 0;
}

/*
 * Runs @step until no call of its fails.  @undo looks whether a step that has worked has
 * done all, and one that has not, nothing; and brings back what was before.  Returns how
 * often it has not worked.
 */
static unsigned int sweep(struct __test_metadata *_metadata, FIXTURE_DATA(fail_nth) *self,
			  int (*step)(FIXTURE_DATA(fail_nth) *),
			  void (*undo)(struct __test_metadata *, FIXTURE_DATA(fail_nth) *, int))
{
	struct held before = held();
	unsigned int n, failed = 0;
	bool injected = true;
	int ret = 0;

	for (n = 1; injected && n < MOST_CALLS; n++) {
		ret = attempt(self, step, n, &injected);
		if (ret < 0) {
			failed++;
			EXPECT_TRUE(injected);
			/*
			 * EBUSY: that is how a BAR that cannot be claimed is reported;
			 * ENOENT, EINVAL: iommufd's, for an object and a domain.
			 */
			EXPECT_TRUE(ret == -ENOMEM || ret == -EFAULT || ret == -EIO ||
				    (ret == -EBUSY && step == export_step) ||
				    ((ret == -ENOENT || ret == -EINVAL) && self->memory))
				TH_LOG("call %u: %d", n, ret);
		}
		undo(_metadata, self, ret);
		EXPECT_HELD(before);
	}
	EXPECT_FALSE(injected);
	EXPECT_GE(ret, 0);
	TH_LOG("%u calls, %u of which the step failed for", n - 2, failed);
	return failed;
}

static void export_undo(struct __test_metadata *_metadata, FIXTURE_DATA(fail_nth) *self, int ret)
{
	if (ret)
		return;
	EXPECT_EQ(lseek(self->dmabuf, 0, SEEK_END), 3 * PAGE);
	close(self->dmabuf);
	self->dmabuf = -1;
}

TEST_F(fail_nth, export)
{
	EXPECT_GT(sweep(_metadata, self, export_step, export_undo), 0);
}

static int attach_step(FIXTURE_DATA(fail_nth) *self)
{
	struct dma_buf_importer_attach arg = { .dmabuf_fd = self->dmabuf };

	memcpy(arg.device, self->edu, sizeof(arg.device));
	return ioctl(self->importer, DMA_BUF_IMPORTER_ATTACH, &arg) ? -errno : 0;
}

static void attach_undo(struct __test_metadata *_metadata, FIXTURE_DATA(fail_nth) *self, int ret)
{
	EXPECT_EQ(ioctl(self->importer, DMA_BUF_IMPORTER_DETACH), ret ? -1 : 0);
}

TEST_F(fail_nth, attach)
{
	ASSERT_EQ(export_step(self), 0);
	self->importer = open("/dev/dma_buf_importer", O_RDWR | O_CLOEXEC);
	ASSERT_GE(self->importer, 0);
	EXPECT_GT(sweep(_metadata, self, attach_step, attach_undo), 0);
}

static void start(struct __test_metadata *_metadata, FIXTURE_DATA(fail_nth) *self)
{
	ASSERT_EQ(export_step(self), 0);
	self->importer = importer_attach(self->edu, self->dmabuf, 0);
	ASSERT_GE(self->importer, 0);
}

static int map_step(FIXTURE_DATA(fail_nth) *self)
{
	return importer_map(self->importer);
}

static void map_undo(struct __test_metadata *_metadata, FIXTURE_DATA(fail_nth) *self, int ret)
{
	EXPECT_EQ(importer_unmap(self->importer), ret ? -EINVAL : 0);
}

TEST_F(fail_nth, map)
{
	start(_metadata, self);
	EXPECT_GT(sweep(_metadata, self, map_step, map_undo), 0);
}

/* Revoking must not need what can fail: only the call to do it may. */
static int memory_step(FIXTURE_DATA(fail_nth) *self)
{
	uint16_t command = PCI_COMMAND_MASTER;
	off_t at = (off_t)VFIO_PCI_CONFIG_REGION_INDEX << 40 | PCI_COMMAND;

	return pwrite(self->vfio.fd, &command, 2, at) == 2 ? 0 : -errno;
}

static void memory_undo(struct __test_metadata *_metadata, FIXTURE_DATA(fail_nth) *self, int ret)
{
	struct dma_buf_importer_status status = importer_status(self->importer);

	EXPECT_EQ(status.is_mapped, !!ret);
	EXPECT_EQ(vfio_memory(&self->vfio, true), 0);
	if (!status.is_mapped)
		EXPECT_EQ(importer_map(self->importer), 0);
}

TEST_F(fail_nth, memory_off)
{
	start(_metadata, self);
	ASSERT_EQ(importer_map(self->importer), 0);
	EXPECT_GT(sweep(_metadata, self, memory_step, memory_undo), 0);
}

static int reset_step(FIXTURE_DATA(fail_nth) *self)
{
	return ioctl(self->vfio.fd, VFIO_DEVICE_RESET) ? -errno : 0;
}

/* Whether or not the device was reset, the dma-buf is live. */
static void reset_undo(struct __test_metadata *_metadata, FIXTURE_DATA(fail_nth) *self, int ret)
{
	if (!importer_status(self->importer).is_mapped)
		EXPECT_EQ(importer_map(self->importer), 0);
}

TEST_F(fail_nth, reset)
{
	start(_metadata, self);
	ASSERT_EQ(importer_map(self->importer), 0);
	sweep(_metadata, self, reset_step, reset_undo);
}

/* The same in an address space of iommufd that another device does DMA in */

#define MEMORY	0x1000000UL
#define IOVA	0x2000000UL

static void ioas_start(struct __test_metadata *_metadata, FIXTURE_DATA(fail_nth) *self)
{
	ASSERT_EQ(export_step(self), 0);
	edu_get(&self->device, EDU);
	self->memory = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
			    -1, 0);
	ASSERT_NE(self->memory, MAP_FAILED);
	ASSERT_EQ(ioas_map(self->device.vfio.iommu, self->device.vfio.ioas,
			   (void *)self->memory, PAGE, MEMORY, READ_WRITE), 0);
}

static int map_file_step(FIXTURE_DATA(fail_nth) *self)
{
	return ioas_map_file(self->device.vfio.iommu, self->device.vfio.ioas, self->dmabuf, 0,
			     3 * PAGE, IOVA, READ_WRITE);
}

static int attach_ioas_step(FIXTURE_DATA(fail_nth) *self)
{
	return vfio_attach(&self->device.vfio, self->device.vfio.ioas);
}

static int memory_on_step(FIXTURE_DATA(fail_nth) *self)
{
	uint16_t command = PCI_COMMAND_MASTER | PCI_COMMAND_MEMORY;
	off_t at = (off_t)VFIO_PCI_CONFIG_REGION_INDEX << 40 | PCI_COMMAND;

	return pwrite(self->vfio.fd, &command, 2, at) == 2 ? 0 : -errno;
}

/* Whether DMA reaches the BAR by the dma-buf's first page and by its last one. */
static unsigned int reaches(struct __test_metadata *_metadata, FIXTURE_DATA(fail_nth) *self)
{
	const uint64_t pages[] = { 0, 2 }, offsets[] = { 0, 2 * PAGE };
	static uint64_t word = 0x1122334455667788;
	unsigned int mask = 0;

	for (int i = 0; i < 2; i++) {
		word++;
		EXPECT_EQ(vfio_region_rw(&self->vfio, RAM_BAR, offsets[i], &word, 8, true), 0);
		self->memory[0] = 0;
		edu_load(&self->device, MEMORY, 8);
		edu_load(&self->device, IOVA + pages[i] * PAGE, 8);
		edu_store(&self->device, MEMORY, 8);
		mask |= (self->memory[0] == word) << i;
	}
	return mask;
}

static int unmap_file(FIXTURE_DATA(fail_nth) *self)
{
	return ioas_unmap(self->device.vfio.iommu, self->device.vfio.ioas, IOVA, 3 * PAGE);
}

static void map_file_undo(struct __test_metadata *_metadata, FIXTURE_DATA(fail_nth) *self,
			  int ret)
{
	/* When nothing but the answer fails, all of it is mapped. */
	if (!ret || ret == -EFAULT) {
		unsigned int mask = reaches(_metadata, self);

		EXPECT_TRUE(mask == 3 || (ret && !mask)) TH_LOG("mask %u", mask);
		EXPECT_EQ(unmap_file(self), mask ? 0 : -ENOENT);
	} else {
		EXPECT_EQ(unmap_file(self), -ENOENT);
	}
}

TEST_F_TIMEOUT(fail_nth, ioas_map_file, 300)
{
	ioas_start(_metadata, self);
	EXPECT_GT(sweep(_metadata, self, map_file_step, map_file_undo), 0);
}

/* Several tables of small pages: the IOVA is not aligned as the BAR is. */
#define LARGE		(8UL << 20)
#define LARGE_IOVA	(IOVA + PAGE)

static int map_large_step(FIXTURE_DATA(fail_nth) *self)
{
	return ioas_map_file(self->device.vfio.iommu, self->device.vfio.ioas, self->dmabuf, 0,
			     LARGE, LARGE_IOVA, READ_WRITE);
}

/* Where mapping has failed, no table has a part of it: memory can be mapped there. */
static void map_large_undo(struct __test_metadata *_metadata, FIXTURE_DATA(fail_nth) *self,
			   int ret)
{
	int iommu = self->device.vfio.iommu, unmapped;
	uint32_t ioas = self->device.vfio.ioas;

	unmapped = ioas_unmap(iommu, ioas, LARGE_IOVA, LARGE);
	EXPECT_TRUE(unmapped == (ret ? -ENOENT : 0) || (ret == -EFAULT && !unmapped))
		TH_LOG("map %d, unmap %d", ret, unmapped);
	ASSERT_EQ(ioas_map(iommu, ioas, (void *)self->memory, PAGE, LARGE_IOVA, READ_WRITE), 0);
	self->memory[1] = 0;
	edu_store(&self->device, LARGE_IOVA + 8, 8);
	EXPECT_EQ(self->memory[1], self->memory[0]);
	EXPECT_EQ(ioas_unmap(iommu, ioas, LARGE_IOVA, PAGE), 0);
}

TEST_F_TIMEOUT(fail_nth, ioas_map_tables, 300)
{
	ioas_start(_metadata, self);
	close(self->dmabuf);
	self->dmabuf = export_range(&self->vfio, RAM_BAR, 0, LARGE);
	ASSERT_GE(self->dmabuf, 0);
	/* The device has the word from here on. */
	self->memory[0] = 0x1122334455667788;
	edu_load(&self->device, MEMORY, 8);
	EXPECT_GT(sweep(_metadata, self, map_large_step, map_large_undo), 0);
}

static void attach_ioas_undo(struct __test_metadata *_metadata, FIXTURE_DATA(fail_nth) *self,
			     int ret)
{
	if (!ret)
		EXPECT_EQ(reaches(_metadata, self), 3);
	EXPECT_EQ(vfio_detach(&self->device.vfio), 0);
}

TEST_F_TIMEOUT(fail_nth, ioas_attach, 300)
{
	ioas_start(_metadata, self);
	ASSERT_EQ(map_file_step(self), 0);
	ASSERT_EQ(vfio_detach(&self->device.vfio), 0);
	EXPECT_GT(sweep(_metadata, self, attach_ioas_step, attach_ioas_undo), 0);
}

/* Nothing on the way down may fail; on the way up all of the mapping is there, or nothing. */
static void ioas_off_undo(struct __test_metadata *_metadata, FIXTURE_DATA(fail_nth) *self,
			  int ret)
{
	EXPECT_EQ(vfio_memory(&self->vfio, true), 0);
	EXPECT_EQ(reaches(_metadata, self), 3);
}

TEST_F_TIMEOUT(fail_nth, ioas_revoke, 300)
{
	ioas_start(_metadata, self);
	ASSERT_EQ(map_file_step(self), 0);
	EXPECT_GT(sweep(_metadata, self, memory_step, ioas_off_undo), 0);
}

static void ioas_on_undo(struct __test_metadata *_metadata, FIXTURE_DATA(fail_nth) *self,
			 int ret)
{
	unsigned int mask;

	if (!ret) {
		mask = reaches(_metadata, self);
		EXPECT_TRUE(mask == 0 || mask == 3) TH_LOG("mask %u", mask);
		EXPECT_EQ(vfio_memory(&self->vfio, false), 0);
	}
	EXPECT_EQ(vfio_memory(&self->vfio, true), 0);
	EXPECT_EQ(reaches(_metadata, self), 3);
	EXPECT_EQ(vfio_memory(&self->vfio, false), 0);
}

TEST_F_TIMEOUT(fail_nth, ioas_restore, 300)
{
	ioas_start(_metadata, self);
	ASSERT_EQ(map_file_step(self), 0);
	ASSERT_EQ(vfio_memory(&self->vfio, false), 0);
	EXPECT_GT(sweep(_metadata, self, memory_on_step, ioas_on_undo), 0);
}

TEST_HARNESS_MAIN
