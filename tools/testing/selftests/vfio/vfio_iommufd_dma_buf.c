// SPDX-License-Identifier: GPL-2.0
/*
 * dma-bufs of a BAR in address spaces of iommufd: a device does DMA to another one's
 * BAR there. It stops when the exporter revokes the dma-buf, by the time that the
 * operation which revokes it returns, and goes on when the dma-buf is live again,
 * with no call by anybody.
 */
#include "vfio_ioas.h"

#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>

#include <linux/dma-heap.h>
#include <linux/udmabuf.h>

#include "../kselftest_harness.h"

#define MB	0x100000UL
#define MEMORY	(16 * MB)	/* IOVA of a page of this process's */
#define IOVA	(512 * MB)	/* of dma-bufs */

#define OURS	0xaaaaaaaaaaaaaaaaULL
#define RUN	0x1111111111111111ULL
#define NOTHING	0x7777777777777777ULL

/* Longer than the device takes for a copy. */
#define COPY_MS	300

/*
 * edu: does the DMA; its iommufd has all address spaces of the test
 * memory: mapped at MEMORY of edu.vfio.ioas
 * ram: the exporter; it has the same iommufd
 * bar: the same bytes as the exporter's BAR 2, by another device, or by itself
 * loop: what the device does when nothing else is asked of it
 */
FIXTURE(iommufd) {
	struct held before;
	struct edu edu;
	volatile uint64_t *memory;
	struct vfio ram;
	volatile uint64_t *bar;
	struct loop {
		pthread_t thread;
		bool runs;
		volatile bool stop;
		struct edu *edu;
		uint64_t iova;
	} loop;
};

static void ram_open(FIXTURE_DATA(iommufd) *self, const char *place)
{
	char name[16];
	int ret;

	if (!device_find(place, name))
		ksft_exit_fail_msg("no device at %s\n", place);
	device_bind(name, "vfio-pci");
	ret = vfio_open(&self->ram, name, CDEV, &self->edu.vfio);
	if (ret)
		ksft_exit_fail_msg("cannot open %s: %s\n", name, strerror(-ret));
}

FIXTURE_SETUP(iommufd)
{
	char witness[16];

	if (!device_find(WITNESS, witness) || !device_find(EDU, witness))
		SKIP(return, "no device at " WITNESS " or " EDU);
	self->before = held();
	edu_get(&self->edu, EDU);
	ram_open(self, RAM);
	ASSERT_TRUE(device_find(WITNESS, witness));
	self->bar = device_map(witness, RAM_BAR, RAM_SIZE);
	self->memory = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
			    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(self->memory, MAP_FAILED);
	ASSERT_EQ(ioas_map(self->edu.vfio.iommu, self->edu.vfio.ioas, (void *)self->memory,
			   PAGE, MEMORY, READ_WRITE), 0);
}

static void loop_stop(FIXTURE_DATA(iommufd) *self)
{
	if (!self->loop.runs)
		return;
	self->loop.stop = true;
	pthread_join(self->loop.thread, NULL);
	self->loop.runs = false;
}

FIXTURE_TEARDOWN(iommufd)
{
	loop_stop(self);
	vfio_close(&self->ram);
	edu_close(&self->edu);
	munmap((void *)self->memory, PAGE);
	munmap((void *)self->bar, RAM_SIZE);
	EXPECT_HELD(self->before);
}

static int map(FIXTURE_DATA(iommufd) *self, int fd, uint64_t start, uint64_t length,
	       uint64_t iova)
{
	return ioas_map_file(self->edu.vfio.iommu, self->edu.vfio.ioas, fd, start, length,
			     iova, READ_WRITE);
}

static int unmap(FIXTURE_DATA(iommufd) *self, uint64_t iova, uint64_t length)
{
	return ioas_unmap(self->edu.vfio.iommu, self->edu.vfio.ioas, iova, length);
}

/* A word to an IOVA, by DMA. */
static void put(FIXTURE_DATA(iommufd) *self, uint64_t iova, uint64_t value)
{
	self->memory[0] = value;
	edu_load(&self->edu, MEMORY, 8);
	edu_store(&self->edu, iova, 8);
}

/* A word from an IOVA, by DMA; NOTHING or 0, where nothing is mapped. */
static uint64_t get(FIXTURE_DATA(iommufd) *self, uint64_t iova)
{
	self->memory[1] = NOTHING;
	edu_load(&self->edu, MEMORY + 8, 8);
	edu_load(&self->edu, iova, 8);
	edu_store(&self->edu, MEMORY + 8, 8);
	return self->memory[1];
}

static uint64_t word(uint64_t n)
{
	return 0x0123456789abcdef * (n + 1);
}

static int export(FIXTURE_DATA(iommufd) *self, uint64_t offset, uint64_t length)
{
	int dmabuf = export_range(&self->ram, RAM_BAR, offset, length);

	if (dmabuf < 0)
		die("export");
	return dmabuf;
}

/* Where it goes to */

TEST_F(iommufd, both_ways)
{
	int dmabuf = export(self, MB, 4 * PAGE);

	ASSERT_EQ(map(self, dmabuf, 0, 4 * PAGE, IOVA), 0);
	/* The mapping has the dma-buf, not its descriptor. */
	close(dmabuf);
	for (int page = 0; page < 4; page += 3) {
		self->bar[(MB + page * PAGE) / 8 + 7] = word(page);
		put(self, IOVA + page * PAGE, word(10 + page));
		EXPECT_EQ(self->bar[(MB + page * PAGE) / 8], word(10 + page));
		EXPECT_EQ(get(self, IOVA + page * PAGE + 7 * 8), word(page));
	}

	/* Nothing before it and after it, and nothing when it is gone. */
	self->bar[MB / 8 - 1] = OURS;
	self->bar[(MB + 4 * PAGE) / 8] = OURS;
	self->bar[MB / 8] = OURS;
	put(self, IOVA - 8, word(1));
	put(self, IOVA + 4 * PAGE, word(1));
	EXPECT_EQ(unmap(self, IOVA, 4 * PAGE), 0);
	put(self, IOVA, word(1));
	EXPECT_EQ(self->bar[MB / 8 - 1], OURS);
	EXPECT_EQ(self->bar[(MB + 4 * PAGE) / 8], OURS);
	EXPECT_EQ(self->bar[MB / 8], OURS);
}

/* A part of the dma-buf, across the border of two ranges that are far apart. */
TEST_F(iommufd, part)
{
	const struct vfio_region_dma_range ranges[] = {
		{ 40 * PAGE, 4 * PAGE }, { 8 * PAGE, 4 * PAGE },
	};
	int dmabuf = export_ranges(&self->ram, RAM_BAR, O_RDWR, ranges, 2);

	ASSERT_GE(dmabuf, 0);
	ASSERT_EQ(map(self, dmabuf, 3 * PAGE, 2 * PAGE, IOVA), 0);
	close(dmabuf);
	put(self, IOVA, word(1));
	put(self, IOVA + 2 * PAGE - 8, word(2));
	EXPECT_EQ(self->bar[43 * PAGE / 8], word(1));
	EXPECT_EQ(self->bar[9 * PAGE / 8 - 1], word(2));
	self->bar[9 * PAGE / 8] = OURS;
	put(self, IOVA + 2 * PAGE, word(3));
	EXPECT_EQ(self->bar[9 * PAGE / 8], OURS);
}

/* In odd order, next to each other, and repeated. */
TEST_F(iommufd, many_ranges)
{
	const struct vfio_region_dma_range ranges[] = {
		{ 300 * PAGE, PAGE }, { 20 * PAGE, 5 * PAGE }, { 299 * PAGE, PAGE },
		{ 0, PAGE }, { PAGE, PAGE }, { 300 * PAGE, PAGE }, { 100 * PAGE, 2 * PAGE },
	};
	int dmabuf = export_ranges(&self->ram, RAM_BAR, O_RDWR, ranges, ARRAY_SIZE(ranges));
	uint64_t iova = IOVA;

	ASSERT_GE(dmabuf, 0);
	ASSERT_EQ(map(self, dmabuf, 0, 12 * PAGE, IOVA), 0);
	close(dmabuf);
	for (size_t i = 0; i < ARRAY_SIZE(ranges); i++) {
		put(self, iova + ranges[i].length - 8, word(i));
		EXPECT_EQ(self->bar[(ranges[i].offset + ranges[i].length) / 8 - 1], word(i));
		iova += ranges[i].length;
	}
	/* The range that was named twice has what came last, by both ways. */
	EXPECT_EQ(get(self, IOVA + PAGE - 8), word(5));
}

/* The whole BAR, in huge pages where it is aligned, and its last word. */
TEST_F(iommufd, whole_bar)
{
	int dmabuf = export(self, 0, RAM_SIZE);

	ASSERT_EQ(map(self, dmabuf, 0, RAM_SIZE, IOVA), 0);
	close(dmabuf);
	put(self, IOVA + RAM_SIZE - 8, word(1));
	EXPECT_EQ(self->bar[RAM_SIZE / 8 - 1], word(1));
	put(self, IOVA + 33 * MB + PAGE, word(2));
	EXPECT_EQ(self->bar[(33 * MB + PAGE) / 8], word(2));
}

/* IOVAs that the kernel picks suit the BAR's address. */
TEST_F(iommufd, iova_is_aligned)
{
	struct iommu_ioas_map_file arg = {
		.size = sizeof(arg),
		.flags = READ_WRITE,
		.ioas_id = self->edu.vfio.ioas,
		.fd = export(self, 6 * MB, 4 * MB),
		.start = 2 * MB,
		.length = 2 * MB,
	};

	ASSERT_EQ(ioctl(self->edu.vfio.iommu, IOMMU_IOAS_MAP_FILE, &arg), 0);
	close(arg.fd);
	EXPECT_EQ(arg.iova % (2 * MB), 0);
	put(self, arg.iova + 8, word(1));
	EXPECT_EQ(self->bar[8 * MB / 8 + 1], word(1));
}

/* Errors */

TEST_F(iommufd, errors)
{
	int dmabuf = export(self, 0, 4 * PAGE), pipes[2];
	int iommu = self->edu.vfio.iommu;
	uint32_t ioas = self->edu.vfio.ioas;
	struct held before;

	ASSERT_EQ(pipe(pipes), 0);
	before = held();
	EXPECT_EQ(map(self, dmabuf, 0, 5 * PAGE, IOVA), -EINVAL);
	EXPECT_EQ(map(self, dmabuf, 4 * PAGE, PAGE, IOVA), -EINVAL);
	EXPECT_EQ(map(self, dmabuf, -PAGE, 2 * PAGE, IOVA), -EOVERFLOW);
	EXPECT_EQ(map(self, dmabuf, UINT64_MAX, PAGE, IOVA), -EOVERFLOW);
	EXPECT_EQ(map(self, dmabuf, 8, PAGE, IOVA), -EINVAL);
	EXPECT_EQ(map(self, dmabuf, 0, PAGE + 8, IOVA), -EINVAL);
	EXPECT_EQ(map(self, dmabuf, 0, 0, IOVA), -EINVAL);
	EXPECT_EQ(map(self, dmabuf, 0, PAGE, IOVA + 8), -EINVAL);
	EXPECT_EQ(map(self, dmabuf, 0, PAGE, MEMORY), -EEXIST);
	EXPECT_EQ(map(self, -1, 0, PAGE, IOVA), -EBADF);
	EXPECT_EQ(map(self, pipes[0], 0, PAGE, IOVA), -EINVAL);
	EXPECT_EQ(ioas_map_file(iommu, ioas, dmabuf, 0, PAGE, IOVA, 0), -EINVAL);
	EXPECT_EQ(ioas_map_file(iommu, ioas, dmabuf, 0, PAGE, IOVA, READ_WRITE | 8),
		  -EOPNOTSUPP);
	EXPECT_EQ(ioas_map_file(iommu, 999, dmabuf, 0, PAGE, IOVA, READ_WRITE), -ENOENT);
	EXPECT_EQ(vfio_memory(&self->ram, false), 0);
	EXPECT_EQ(map(self, dmabuf, 0, PAGE, IOVA), -ENODEV);
	EXPECT_HELD(before);
	EXPECT_EQ(unmap(self, IOVA, PAGE), -ENOENT);

	/* None of this has spoiled anything. */
	EXPECT_EQ(vfio_memory(&self->ram, true), 0);
	EXPECT_EQ(map(self, dmabuf, 0, PAGE, IOVA), 0);
	close(dmabuf);
	close(pipes[0]);
	close(pipes[1]);
}

/* Exporters that do not give out physical ranges. */
TEST_F(iommufd, other_exporters)
{
	struct dma_heap_allocation_data data = { .len = PAGE, .fd_flags = O_RDWR };
	int heap = open("/dev/dma_heap/system", O_RDWR | O_CLOEXEC);

	if (heap < 0)
		SKIP(return, "no system heap");
	ASSERT_EQ(ioctl(heap, DMA_HEAP_IOCTL_ALLOC, &data), 0);
	EXPECT_EQ(map(self, data.fd, 0, PAGE, IOVA), -EOPNOTSUPP);
	close(data.fd);
	close(heap);
}

/* A mapping of a read-only dma-buf, and a copy of that, are read-only. */
TEST_F(iommufd, read_only)
{
	struct vfio_region_dma_range range = { MB, PAGE };
	int dmabuf = export_ranges(&self->ram, RAM_BAR, O_RDONLY, &range, 1);
	int iommu = self->edu.vfio.iommu;
	uint32_t ioas = self->edu.vfio.ioas, other = ioas_new(iommu);

	ASSERT_GE(dmabuf, 0);
	EXPECT_EQ(map(self, dmabuf, 0, PAGE, IOVA), -EACCES);
	ASSERT_EQ(ioas_map_file(iommu, ioas, dmabuf, 0, PAGE, IOVA,
				IOMMU_IOAS_MAP_READABLE), 0);
	close(dmabuf);
	EXPECT_EQ(ioas_copy(iommu, other, ioas, IOVA, PAGE, READ_WRITE), -EPERM);
	self->bar[MB / 8] = word(1);
	EXPECT_EQ(get(self, IOVA), word(1));
	put(self, IOVA, word(2));
	EXPECT_EQ(self->bar[MB / 8], word(1));
	/* The same when it has been away. */
	EXPECT_EQ(vfio_reset(&self->ram), 0);
	EXPECT_EQ(get(self, IOVA), word(1));
	put(self, IOVA, word(2));
	EXPECT_EQ(self->bar[MB / 8], word(1));
}

/* No mapping lets devices read what the descriptor cannot. */
TEST_F(iommufd, write_only)
{
	struct vfio_region_dma_range range = { MB, PAGE };
	int dmabuf = export_ranges(&self->ram, RAM_BAR, O_WRONLY, &range, 1);
	int iommu = self->edu.vfio.iommu;
	uint32_t ioas = self->edu.vfio.ioas;

	ASSERT_GE(dmabuf, 0);
	EXPECT_EQ(ioas_map_file(iommu, ioas, dmabuf, 0, PAGE, IOVA,
				IOMMU_IOAS_MAP_READABLE), -EACCES);
	EXPECT_EQ(ioas_map_file(iommu, ioas, dmabuf, 0, PAGE, IOVA,
				IOMMU_IOAS_MAP_WRITEABLE), -EACCES);
	EXPECT_EQ(map(self, dmabuf, 0, PAGE, IOVA), -EACCES);
	EXPECT_EQ(unmap(self, IOVA, PAGE), -ENOENT);
	close(dmabuf);
}

/* Memory, from udmabuf */

/* -1: there is no such driver. */
static int new_udmabuf(int memfd, uint64_t size)
{
	struct udmabuf_create create = { .memfd = memfd, .size = size };
	int dev = open("/dev/udmabuf", O_RDWR | O_CLOEXEC), dmabuf;

	if (dev < 0 && errno == ENOENT)
		return -1;
	if (dev < 0)
		die("/dev/udmabuf");
	dmabuf = ioctl(dev, UDMABUF_CREATE, &create);
	if (dmabuf < 0)
		die("udmabuf");
	close(dev);
	return dmabuf;
}

TEST_F(iommufd, memory)
{
	int memfd = memfd_create("iommufd", MFD_ALLOW_SEALING | MFD_CLOEXEC);
	int iommu = self->edu.vfio.iommu, readonly, dmabuf, ret;
	volatile uint64_t *p;
	char path[32];

	ASSERT_EQ(ftruncate(memfd, 8 * PAGE), 0);
	ASSERT_EQ(fcntl(memfd, F_ADD_SEALS, F_SEAL_SHRINK), 0);
	p = mmap(NULL, 8 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
	ASSERT_NE(p, MAP_FAILED);
	dmabuf = new_udmabuf(memfd, 8 * PAGE);
	ret = map(self, dmabuf, PAGE, 6 * PAGE, IOVA);
	close(dmabuf);
	if (dmabuf < 0 || ret == -EOPNOTSUPP) {
		close(memfd);
		SKIP(return, "no udmabuf that gives physical ranges");
	}
	ASSERT_EQ(ret, 0);
	p[PAGE / 8] = word(1);
	EXPECT_EQ(get(self, IOVA), word(1));
	put(self, IOVA + 6 * PAGE - 8, word(2));
	EXPECT_EQ(p[7 * PAGE / 8 - 1], word(2));

	snprintf(path, sizeof(path), "/proc/self/fd/%d", memfd);
	readonly = open(path, O_RDONLY | O_CLOEXEC);
	ASSERT_GE(readonly, 0);
	dmabuf = new_udmabuf(readonly, 8 * PAGE);
	EXPECT_EQ(map(self, dmabuf, 0, PAGE, IOVA + MB), -EACCES);
	EXPECT_EQ(ioas_map_file(iommu, self->edu.vfio.ioas, dmabuf, 0, PAGE, IOVA + MB,
				IOMMU_IOAS_MAP_READABLE), 0);
	p[0] = word(3);
	EXPECT_EQ(get(self, IOVA + MB), word(3));
	put(self, IOVA + MB, word(4));
	EXPECT_EQ(p[0], word(3));
	close(dmabuf);
	close(readonly);
	munmap((void *)p, 8 * PAGE);
	close(memfd);
}

/* Revocation under DMA that never rests */

#define LOOP		(PAGE + 64)		/* where it goes to in the dma-buf, ... */
#define LOOP_IN_BAR	(3 * PAGE + 64)		/* ... and where that is */

#define LOOP_RANGES \
	((struct vfio_region_dma_range[]) { { 8 * PAGE, PAGE }, { 3 * PAGE, PAGE } })

static void *loop(void *data)
{
	struct loop *loop = data;

	while (!loop->stop)
		edu_store(loop->edu, loop->iova, 8);
	return NULL;
}

/* Whether the device writes to the BAR within a few seconds. */
static bool is_running(FIXTURE_DATA(iommufd) *self)
{
	self->bar[LOOP_IN_BAR / 8] = OURS;
	for (int i = 0; i < 500 && self->bar[LOOP_IN_BAR / 8] == OURS; i++)
		sleep_ms(20);
	return self->bar[LOOP_IN_BAR / 8] == RUN;
}

static bool is_stopped(FIXTURE_DATA(iommufd) *self)
{
	self->bar[LOOP_IN_BAR / 8] = OURS;
	sleep_ms(COPY_MS);
	return self->bar[LOOP_IN_BAR / 8] == OURS;
}

/* PCI_COMMAND, without VFIO's knowledge. */
static void memory_behind_vfio(const struct vfio *vfio, bool on)
{
	char path[64];
	uint16_t command;
	int fd;

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/config", vfio->name);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0 || pread(fd, &command, 2, PCI_COMMAND) != 2)
		die(path);
	command = on ? command | PCI_COMMAND_MEMORY : command & ~PCI_COMMAND_MEMORY;
	if (pwrite(fd, &command, 2, PCI_COMMAND) != 2)
		die(path);
	close(fd);
}

/* Returns the dma-buf. */
static int loop_start(struct __test_metadata *_metadata, FIXTURE_DATA(iommufd) *self)
{
	int dmabuf = export_ranges(&self->ram, RAM_BAR, O_RDWR | O_CLOEXEC, LOOP_RANGES, 2);

	ASSERT_GE(dmabuf, 0);
	ASSERT_EQ(map(self, dmabuf, 0, 2 * PAGE, IOVA), 0);
	self->memory[0] = RUN;
	edu_load(&self->edu, MEMORY, 8);
	self->loop.edu = &self->edu;
	self->loop.iova = IOVA + LOOP;
	self->loop.stop = false;
	ASSERT_EQ(pthread_create(&self->loop.thread, NULL, loop, &self->loop), 0);
	self->loop.runs = true;
	EXPECT_TRUE(is_running(self));
	EXPECT_TRUE(is_running(self));
	return dmabuf;
}

/* Even where the device decodes its addresses, nothing gets there. */
TEST_F(iommufd, memory_bit)
{
	int dmabuf = loop_start(_metadata, self);

	for (int i = 0; i < 2; i++) {
		ASSERT_EQ(vfio_memory(&self->ram, false), 0);
		memory_behind_vfio(&self->ram, true);
		EXPECT_TRUE(is_stopped(self));
		memory_behind_vfio(&self->ram, false);
		ASSERT_EQ(vfio_memory(&self->ram, true), 0);
		EXPECT_TRUE(is_running(self));
	}
	close(dmabuf);
}

TEST_F(iommufd, device_reset)
{
	int dmabuf = loop_start(_metadata, self);

	close(dmabuf);
	ASSERT_EQ(vfio_reset(&self->ram), 0);
	EXPECT_TRUE(is_running(self));
	/* With memory off, as a guest's driver may ask for it. */
	ASSERT_EQ(vfio_memory(&self->ram, false), 0);
	ASSERT_EQ(vfio_reset(&self->ram), 0);
	memory_behind_vfio(&self->ram, true);
	EXPECT_TRUE(is_stopped(self));
	memory_behind_vfio(&self->ram, false);
	ASSERT_EQ(vfio_memory(&self->ram, true), 0);
	EXPECT_TRUE(is_running(self));
}

/* Fences tell of devices with a scatterlist: where only iommufd maps, none is waited for. */
TEST_F(iommufd, fence_of_another)
{
	int dmabuf = loop_start(_metadata, self), importer;
	char name[16];

	ASSERT_TRUE(device_find(REGISTERS, name));
	device_bind(name, "dma_buf_test_importer");
	importer = importer_attach(name, dmabuf, 0);
	ASSERT_GE(importer, 0);
	ASSERT_EQ(importer_fence(importer, 6000), 0);
	EXPECT_EQ(vfio_reset(&self->ram), 0);
	EXPECT_TRUE(is_running(self));
	close(importer);
	close(dmabuf);
}

TEST_F(iommufd, reset_from_outside)
{
	close(loop_start(_metadata, self));
	for (int i = 0; i < 3; i++) {
		ASSERT_EQ(device_write(self->ram.name, "reset", "1"), 0);
		EXPECT_TRUE(is_running(self));
	}
}

/* Permanently, and the device goes on: a mapping left over would be seen. */
TEST_F(iommufd, request)
{
	struct vfio_device_feature_dma_buf_revoke revoke = {};
	int dmabuf = loop_start(_metadata, self), other;

	revoke.dmabuf_fd = dmabuf;
	ASSERT_EQ(vfio_feature(&self->ram, VFIO_DEVICE_FEATURE_SET |
			       VFIO_DEVICE_FEATURE_DMA_BUF_REVOKE, &revoke,
			       sizeof(revoke)), 0);
	EXPECT_TRUE(is_stopped(self));
	EXPECT_EQ(map(self, dmabuf, 0, PAGE, IOVA + MB), -ENODEV);
	ASSERT_EQ(vfio_reset(&self->ram), 0);
	EXPECT_TRUE(is_stopped(self));
	EXPECT_EQ(unmap(self, IOVA, 2 * PAGE), 0);
	close(dmabuf);

	other = export_ranges(&self->ram, RAM_BAR, O_RDWR, LOOP_RANGES, 2);
	ASSERT_GE(other, 0);
	EXPECT_EQ(map(self, other, 0, 2 * PAGE, IOVA), 0);
	EXPECT_TRUE(is_running(self));
	close(other);
}

/* The device can be opened again at once: the mapping does not hold it up. */
TEST_F(iommufd, close_and_open)
{
	int dmabuf = loop_start(_metadata, self), fresh;

	vfio_close(&self->ram);
	ram_open(self, RAM);
	EXPECT_EQ(vfio_memory(&self->ram, true), 0);
	EXPECT_TRUE(is_stopped(self));
	EXPECT_EQ(map(self, dmabuf, 0, PAGE, IOVA + MB), -ENODEV);
	fresh = export_ranges(&self->ram, RAM_BAR, O_RDWR, LOOP_RANGES, 2);
	ASSERT_GE(fresh, 0);
	EXPECT_EQ(unmap(self, IOVA, 2 * PAGE), 0);
	EXPECT_EQ(map(self, fresh, 0, 2 * PAGE, IOVA), 0);
	EXPECT_TRUE(is_running(self));
	close(fresh);
	close(dmabuf);
}

/* Both devices of a bridge */
TEST_F(iommufd, hot_reset)
{
	struct vfio two;
	char name[16];
	int dmabuf;

	vfio_close(&self->ram);
	ram_open(self, PAIR_ONE);
	ASSERT_TRUE(device_find(PAIR_TWO, name));
	device_bind(name, "vfio-pci");
	ASSERT_EQ(vfio_open(&two, name, CDEV, &self->edu.vfio), 0);
	dmabuf = export(self, MB, PAGE);
	ASSERT_EQ(map(self, dmabuf, 0, PAGE, IOVA), 0);
	close(dmabuf);
	put(self, IOVA, word(1));
	EXPECT_EQ(vfio_hot_reset(&two, &two), 0);
	EXPECT_EQ(get(self, IOVA), word(1));
	put(self, IOVA, word(2));
	EXPECT_EQ(get(self, IOVA), word(2));
	vfio_close(&two);
}

/* FLR, power states and low power, with a device that has them */

#define LOW_POWER(what) (VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_LOW_POWER_##what)

TEST_F(iommufd, flr_and_power)
{
	unsigned int at;
	int dmabuf;

	vfio_close(&self->ram);
	ram_open(self, NVME);
	dmabuf = export(self, MB, PAGE);
	ASSERT_EQ(map(self, dmabuf, 0, PAGE, IOVA), 0);
	put(self, IOVA, word(1));
	EXPECT_EQ(get(self, IOVA), word(1));

	EXPECT_EQ(vfio_reset(&self->ram), 0);
	put(self, IOVA, word(2));
	EXPECT_EQ(get(self, IOVA), word(2));

	at = vfio_capability(&self->ram, PCI_CAP_ID_EXP);
	EXPECT_EQ(vfio_config_write(&self->ram, at + PCI_EXP_DEVCTL, 2,
				    vfio_config_read(&self->ram, at + PCI_EXP_DEVCTL, 2) |
				    PCI_EXP_DEVCTL_BCR_FLR), 0);
	put(self, IOVA, word(3));
	EXPECT_EQ(get(self, IOVA), word(3));

	ASSERT_EQ(vfio_set_power(&self->ram, 3), 0);
	EXPECT_EQ(map(self, dmabuf, 0, PAGE, IOVA + MB), -ENODEV);
	ASSERT_EQ(vfio_set_power(&self->ram, 0), 0);
	put(self, IOVA, word(4));
	EXPECT_EQ(get(self, IOVA), word(4));

	EXPECT_EQ(vfio_feature(&self->ram, LOW_POWER(ENTRY), NULL, 0), 0);
	EXPECT_EQ(map(self, dmabuf, 0, PAGE, IOVA + MB), -ENODEV);
	EXPECT_EQ(vfio_feature(&self->ram, LOW_POWER(EXIT), NULL, 0), 0);
	put(self, IOVA, word(5));
	EXPECT_EQ(get(self, IOVA), word(5));
	close(dmabuf);
}

/* Low power ends by itself when something wakes the device up: so does the revocation. */
TEST_F(iommufd, wakeup)
{
	struct vfio_device_low_power_entry_with_wakeup entry = {
		.wakeup_eventfd = eventfd(0, EFD_CLOEXEC),
	};
	struct pollfd poll_wakeup = { .fd = entry.wakeup_eventfd, .events = POLLIN };
	int dmabuf;

	vfio_close(&self->ram);
	ram_open(self, NVME);
	dmabuf = export(self, MB, PAGE);
	ASSERT_EQ(map(self, dmabuf, 0, PAGE, IOVA), 0);
	ASSERT_EQ(vfio_feature(&self->ram, LOW_POWER(ENTRY_WITH_WAKEUP), &entry,
			       sizeof(entry)), 0);
	EXPECT_EQ(map(self, dmabuf, 0, PAGE, IOVA + MB), -ENODEV);
	EXPECT_TRUE(device_wake_up(self->ram.name));
	EXPECT_EQ(poll(&poll_wakeup, 1, 5000), 1);
	put(self, IOVA, word(1));
	EXPECT_EQ(get(self, IOVA), word(1));
	close(entry.wakeup_eventfd);
	close(dmabuf);
}

/* The end of the device, and errors */

TEST_F(iommufd, unplug)
{
	struct pollfd asked = { .events = POLLIN };
	int dmabuf, ret;
	char name[16];

	vfio_close(&self->ram);
	ram_open(self, NVME);
	memcpy(name, self->ram.name, sizeof(name));
	dmabuf = export(self, MB, PAGE);
	ASSERT_EQ(map(self, dmabuf, 0, PAGE, IOVA), 0);
	put(self, IOVA, word(1));
	EXPECT_EQ(get(self, IOVA), word(1));
	asked.fd = vfio_eventfd(&self->ram, VFIO_PCI_REQ_IRQ_INDEX);
	ASSERT_TRUE(nvme_unplug());
	EXPECT_EQ(poll(&asked, 1, 30000), 1);
	/* The mapping does not keep the device. */
	vfio_close(&self->ram);
	EXPECT_TRUE(device_wait(name, false));
	EXPECT_NE(get(self, IOVA), word(1));
	EXPECT_EQ(map(self, dmabuf, 0, PAGE, IOVA + MB), -ENODEV);
	EXPECT_EQ(unmap(self, IOVA, PAGE), 0);
	close(asked.fd);
	close(dmabuf);

	nvme_plug();
	EXPECT_TRUE(device_wait(name, true));
	device_bind(name, "vfio-pci");
	/* The driver is bound a moment before the device has its file and can be opened. */
	for (int i = 0; i < 200; i++) {
		ret = vfio_open(&self->ram, name, CDEV, &self->edu.vfio);
		if (ret != -ENODEV && ret != -ENOENT)
			break;
		sleep_ms(20);
	}
	ASSERT_EQ(ret, 0);
	dmabuf = export(self, MB, PAGE);
	ASSERT_EQ(map(self, dmabuf, 0, PAGE, IOVA), 0);
	put(self, IOVA, word(2));
	EXPECT_EQ(get(self, IOVA), word(2));
	close(dmabuf);
}

static void *unbind_device(void *data)
{
	device_write(data, "driver/unbind", data);
	return NULL;
}

TEST_F(iommufd, unbind)
{
	int dmabuf = loop_start(_metadata, self);
	struct pollfd asked = { .events = POLLIN };
	pthread_t thread;
	char name[16];

	memcpy(name, self->ram.name, sizeof(name));
	asked.fd = vfio_eventfd(&self->ram, VFIO_PCI_REQ_IRQ_INDEX);
	ASSERT_EQ(pthread_create(&thread, NULL, unbind_device, name), 0);
	EXPECT_EQ(poll(&asked, 1, 20000), 1);
	EXPECT_TRUE(is_running(self));
	vfio_close(&self->ram);
	pthread_join(thread, NULL);
	/* The addresses are decoded, and nothing gets there. */
	memory_behind_vfio(&self->ram, true);
	EXPECT_TRUE(is_stopped(self));
	EXPECT_EQ(map(self, dmabuf, 0, PAGE, IOVA + MB), -ENODEV);
	close(asked.fd);
	close(dmabuf);
}

TEST_F(iommufd, aer)
{
	int dmabuf = loop_start(_metadata, self);

	ASSERT_TRUE(aer_inject("COMP_TIME"));	/* not fatal */
	EXPECT_TRUE(is_running(self));
	ASSERT_TRUE(aer_inject("DLP"));
	EXPECT_TRUE(is_stopped(self));
	EXPECT_EQ(map(self, dmabuf, 0, PAGE, IOVA + MB), -ENODEV);
	/* Recovery has reset the device, BARs included: it needs more than a reset now. */
	EXPECT_EQ(vfio_reset(&self->ram), 0);
	EXPECT_EQ(vfio_memory(&self->ram, true), 0);
	EXPECT_TRUE(is_running(self));
	close(dmabuf);
}

/* Address spaces that change while the dma-buf is live, and while it is revoked */

TEST_F(iommufd, copy)
{
	int iommu = self->edu.vfio.iommu, dmabuf = loop_start(_metadata, self);
	uint32_t first = self->edu.vfio.ioas, second = ioas_new(iommu);

	close(dmabuf);
	EXPECT_EQ(ioas_copy(iommu, second, first, MEMORY, PAGE, READ_WRITE), 0);
	EXPECT_EQ(ioas_copy(iommu, second, first, IOVA, 2 * PAGE, READ_WRITE), 0);
	/* The copy is a mapping of its own. */
	EXPECT_EQ(vfio_attach(&self->edu.vfio, second), 0);
	EXPECT_TRUE(is_running(self));
	EXPECT_EQ(unmap(self, IOVA, 2 * PAGE), 0);
	EXPECT_TRUE(is_running(self));
	ASSERT_EQ(vfio_reset(&self->ram), 0);
	EXPECT_TRUE(is_running(self));
	EXPECT_EQ(iommufd_destroy(iommu, first), 0);
	ASSERT_EQ(vfio_memory(&self->ram, false), 0);
	memory_behind_vfio(&self->ram, true);
	EXPECT_TRUE(is_stopped(self));
	memory_behind_vfio(&self->ram, false);
	ASSERT_EQ(vfio_memory(&self->ram, true), 0);
	EXPECT_TRUE(is_running(self));
}

TEST_F(iommufd, attach_after_mapping)
{
	int dmabuf;

	ASSERT_EQ(vfio_detach(&self->edu.vfio), 0);
	dmabuf = export(self, MB, PAGE);
	ASSERT_EQ(map(self, dmabuf, 0, PAGE, IOVA), 0);
	close(dmabuf);
	/* There is no domain now: nothing to unmap, nothing to map. */
	ASSERT_EQ(vfio_reset(&self->ram), 0);
	ASSERT_EQ(vfio_attach(&self->edu.vfio, self->edu.vfio.ioas), 0);
	put(self, IOVA, word(1));
	EXPECT_EQ(self->bar[MB / 8], word(1));
	ASSERT_EQ(vfio_detach(&self->edu.vfio), 0);
	ASSERT_EQ(vfio_attach(&self->edu.vfio, self->edu.vfio.ioas), 0);
	put(self, IOVA, word(2));
	EXPECT_EQ(self->bar[MB / 8], word(2));
}

TEST_F(iommufd, attach_while_revoked)
{
	int dmabuf = loop_start(_metadata, self);

	close(dmabuf);
	ASSERT_EQ(vfio_memory(&self->ram, false), 0);
	ASSERT_EQ(vfio_detach(&self->edu.vfio), 0);
	ASSERT_EQ(vfio_attach(&self->edu.vfio, self->edu.vfio.ioas), 0);
	memory_behind_vfio(&self->ram, true);
	EXPECT_TRUE(is_stopped(self));
	memory_behind_vfio(&self->ram, false);
	ASSERT_EQ(vfio_memory(&self->ram, true), 0);
	EXPECT_TRUE(is_running(self));

	/* And back while the device is in no address space. */
	ASSERT_EQ(vfio_memory(&self->ram, false), 0);
	ASSERT_EQ(vfio_detach(&self->edu.vfio), 0);
	ASSERT_EQ(vfio_memory(&self->ram, true), 0);
	EXPECT_TRUE(is_stopped(self));
	ASSERT_EQ(vfio_attach(&self->edu.vfio, self->edu.vfio.ioas), 0);
	EXPECT_TRUE(is_running(self));
}

TEST_F(iommufd, copy_and_replace_while_revoked)
{
	int iommu = self->edu.vfio.iommu, dmabuf = loop_start(_metadata, self);
	uint32_t first = self->edu.vfio.ioas, second = ioas_new(iommu);

	close(dmabuf);
	ASSERT_EQ(vfio_memory(&self->ram, false), 0);
	EXPECT_EQ(ioas_copy(iommu, second, first, IOVA, 2 * PAGE, READ_WRITE), 0);
	EXPECT_EQ(vfio_attach(&self->edu.vfio, second), 0);
	EXPECT_EQ(unmap(self, IOVA, 2 * PAGE), 0);
	EXPECT_EQ(iommufd_destroy(iommu, first), 0);
	ASSERT_EQ(vfio_memory(&self->ram, true), 0);
	EXPECT_TRUE(is_running(self));
}

TEST_F(iommufd, unmap_while_revoked)
{
	int dmabuf = loop_start(_metadata, self);

	ASSERT_EQ(vfio_memory(&self->ram, false), 0);
	EXPECT_EQ(unmap(self, IOVA, 2 * PAGE), 0);
	ASSERT_EQ(vfio_memory(&self->ram, true), 0);
	EXPECT_TRUE(is_stopped(self));
	EXPECT_EQ(map(self, dmabuf, 0, 2 * PAGE, IOVA), 0);
	EXPECT_TRUE(is_running(self));
	close(dmabuf);
}

TEST_F(iommufd, destroy_while_revoked)
{
	int iommu = self->edu.vfio.iommu, dmabuf = loop_start(_metadata, self);

	close(dmabuf);
	ASSERT_EQ(vfio_memory(&self->ram, false), 0);
	EXPECT_EQ(iommufd_destroy(iommu, self->edu.vfio.ioas), -EBUSY);
	ASSERT_EQ(vfio_detach(&self->edu.vfio), 0);
	EXPECT_EQ(iommufd_destroy(iommu, self->edu.vfio.ioas), 0);
	ASSERT_EQ(vfio_memory(&self->ram, true), 0);
	EXPECT_TRUE(is_stopped(self));
}

/* Neither half of a mapping can go alone, by whichever of its interfaces. */
TEST_F(iommufd, no_split)
{
	struct iommu_vfio_ioas compat = {
		.size = sizeof(compat),
		.ioas_id = self->edu.vfio.ioas,
		.op = IOMMU_VFIO_IOAS_SET,
	};
	struct vfio_iommu_type1_dma_unmap half = {
		.argsz = sizeof(half),
		.iova = IOVA,
		.size = PAGE,
	};
	int iommu = self->edu.vfio.iommu, dmabuf = export(self, MB, 2 * PAGE);

	ASSERT_EQ(map(self, dmabuf, 0, 2 * PAGE, IOVA), 0);
	close(dmabuf);
	EXPECT_EQ(unmap(self, IOVA, PAGE), -ENOENT);
	ASSERT_EQ(ioctl(iommu, IOMMU_VFIO_IOAS, &compat), 0);
	EXPECT_NE(ioctl(iommu, VFIO_IOMMU_UNMAP_DMA, &half), 0);
	put(self, IOVA, word(1));
	put(self, IOVA + PAGE, word(2));
	EXPECT_EQ(self->bar[MB / 8], word(1));
	EXPECT_EQ(self->bar[(MB + PAGE) / 8], word(2));
	compat.op = IOMMU_VFIO_IOAS_CLEAR;
	ASSERT_EQ(ioctl(iommu, IOMMU_VFIO_IOAS, &compat), 0);
}

/* Everything there is, closed in every order. */
TEST_F_TIMEOUT(iommufd, close_in_every_order, 600)
{
	for (int order = 0; order < 24; order++) {
		int left[4] = { 0, 1, 2, 3 }, n = order;
		int dmabuf = export(self, MB, PAGE);

		ASSERT_EQ(map(self, dmabuf, 0, PAGE, IOVA), 0);
		for (int i = 4; i; n /= i--) {
			int pick = n % i, what = left[pick];

			left[pick] = left[i - 1];
			switch (what) {
			case 0:
				close(dmabuf);
				break;
			case 1:
				vfio_close(&self->ram);
				break;
			case 2:		/* with its iommufd, but for what has it, too */
				close(self->edu.vfio.iommu);
				self->edu.vfio.iommu = -1;
				break;
			case 3:
				munmap((void *)self->edu.registers, 0x100000);
				self->edu.registers = NULL;
				close(self->edu.vfio.fd);
				self->edu.vfio.fd = -1;
				break;
			}
		}
		edu_get(&self->edu, EDU);
		ram_open(self, RAM);
	}
	ASSERT_EQ(ioas_map(self->edu.vfio.iommu, self->edu.vfio.ioas, (void *)self->memory,
			   PAGE, MEMORY, READ_WRITE), 0);
	close(loop_start(_metadata, self));
}

TEST_HARNESS_MAIN
