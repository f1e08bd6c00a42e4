// SPDX-License-Identifier: GPL-2.0
/*
 * DMA_BUF_IOCTL_SYNC of a udmabuf where the importer's device does not see the CPU's
 * caches: that they are cleaned and invalidated for all of the buffer, each at its time.
 *
 * An emulated machine has no caches, so no data would be wrong.  Kprobes count the bytes
 * of the functions that do the work: CONFIG_KPROBE_EVENTS, arm64.
 */
#include "vfio_util.h"

#include <linux/dma-buf.h>
#include <linux/udmabuf.h>

#include "../kselftest_harness.h"

#define TRACING		"/sys/kernel/tracing/"
#define PAGES		8
#define SIZE		(PAGES * PAGE)

FIXTURE(sync) {
	struct held before;
	char edu[16];
	char *mem;
	int memfd;
	int fd;
	int importer;
};

static void write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_TRUNC | O_CLOEXEC);

	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		die(path);
	close(fd);
}

/* Every second page of a memfd: a run each. */
static int new_udmabuf(int memfd)
{
	struct {
		struct udmabuf_create_list head;
		struct udmabuf_create_item items[PAGES];
	} list = { .head.count = PAGES };
	int dev = open("/dev/udmabuf", O_RDWR | O_CLOEXEC), fd;

	for (size_t i = 0; i < PAGES; i++) {
		list.items[i].memfd = memfd;
		list.items[i].offset = 2 * i * PAGE;
		list.items[i].size = PAGE;
	}
	fd = ioctl(dev, UDMABUF_CREATE_LIST, &list);
	close(dev);
	return fd;
}

FIXTURE_SETUP(sync)
{
	if (!device_find(EDU, self->edu))
		SKIP(return, "no device at " EDU);
	device_bind(self->edu, "dma_buf_test_importer");
	write_file(TRACING "kprobe_events",
		   "p:caches/to_device arch_sync_dma_for_device size=$arg2:u64 dir=$arg3:u32\n"
		   "p:caches/to_cpu arch_sync_dma_for_cpu size=$arg2:u64 dir=$arg3:u32\n");
	/* DMA_BIDIRECTIONAL. The IOMMU's page tables, which it only reads, are DMA_TO_DEVICE. */
	write_file(TRACING "events/caches/filter", "dir == 0");
	write_file(TRACING "events/caches/enable", "1");
	self->before = held();
	self->memfd = memfd_create("sync", MFD_ALLOW_SEALING | MFD_CLOEXEC);
	ASSERT_EQ(ftruncate(self->memfd, 2 * SIZE), 0);
	ASSERT_EQ(fcntl(self->memfd, F_ADD_SEALS, F_SEAL_SHRINK), 0);
	self->mem = mmap(NULL, 2 * SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, self->memfd, 0);
	ASSERT_NE(self->mem, MAP_FAILED);
	self->fd = new_udmabuf(self->memfd);
	ASSERT_GE(self->fd, 0);
}

FIXTURE_TEARDOWN(sync)
{
	munmap(self->mem, 2 * SIZE);
	close(self->memfd);
	close(self->fd);
	EXPECT_HELD(self->before);
	write_file(TRACING "events/caches/enable", "0");
	write_file(TRACING "kprobe_events", "");
}

/* Bytes that this process has had cleaned or invalidated one way. */
static size_t bytes(const char *way)
{
	FILE *f = fopen(TRACING "trace", "r");
	char line[512], task[16];
	size_t sum = 0;

	if (!f)
		die("trace");
	snprintf(task, sizeof(task), "-%d ", getpid());
	while (fgets(line, sizeof(line), f))
		if (line[0] != '#' && strstr(line, task) && strstr(line, way))
			sum += strtoul(strstr(line, " size=") + 6, NULL, 10);
	fclose(f);
	return sum;
}

#define EXPECT_BYTES(device, cpu) do {						\
	EXPECT_EQ(bytes(" to_device: "), device);				\
	EXPECT_EQ(bytes(" to_cpu: "), cpu);					\
	write_file(TRACING "trace", "");					\
} while (0)

static int cpu_access(int fd, uint64_t flags)
{
	struct dma_buf_sync sync = { .flags = flags };

	return ioctl(fd, DMA_BUF_IOCTL_SYNC, &sync);
}

TEST_F(sync, caches)
{
	int importer;

	write_file(TRACING "trace", "");
	ASSERT_EQ(cpu_access(self->fd, DMA_BUF_SYNC_START | DMA_BUF_SYNC_RW), 0);
	ASSERT_EQ(cpu_access(self->fd, DMA_BUF_SYNC_END | DMA_BUF_SYNC_RW), 0);
	EXPECT_BYTES(0, 0);
	importer = importer_attach(self->edu, self->fd, 0);
	ASSERT_GE(importer, 0);
	ASSERT_EQ(importer_map(importer), 0);
	EXPECT_BYTES(SIZE, 0);
	for (uint64_t way = DMA_BUF_SYNC_READ; way <= DMA_BUF_SYNC_RW; way++) {
		ASSERT_EQ(cpu_access(self->fd, DMA_BUF_SYNC_START | way), 0);
		EXPECT_BYTES(0, SIZE);
		ASSERT_EQ(cpu_access(self->fd, DMA_BUF_SYNC_END | way), 0);
		EXPECT_BYTES(SIZE, 0);
	}
	/* Nothing that could throw away what the CPU has written. */
	close(importer);
	EXPECT_BYTES(0, 0);
}

TEST_F(sync, words)
{
	int importer = importer_attach(self->edu, self->fd, 0);
	uint64_t *at = (uint64_t *)(self->mem + 2 * 3 * PAGE) + 1;
	uint64_t word = 0x1122334455667788, seen = 0;

	ASSERT_GE(importer, 0);
	ASSERT_EQ(importer_map(importer), 0);
	ASSERT_EQ(importer_copy(importer, 3 * PAGE + 8, &word, 8,
				DMA_BUF_IMPORTER_TO_SLICE), 0);
	ASSERT_EQ(cpu_access(self->fd, DMA_BUF_SYNC_START | DMA_BUF_SYNC_RW), 0);
	EXPECT_EQ(*at, word);
	*at = ~word;
	ASSERT_EQ(cpu_access(self->fd, DMA_BUF_SYNC_END | DMA_BUF_SYNC_RW), 0);
	ASSERT_EQ(importer_copy(importer, 3 * PAGE + 8, &seen, 8,
				DMA_BUF_IMPORTER_FROM_SLICE), 0);
	EXPECT_EQ(seen, ~word);
	close(importer);
}

TEST_HARNESS_MAIN
