// SPDX-License-Identifier: GPL-2.0
/*
 * dma-bufs of BARs, mapped by the CPU: the right bytes, no more access than was given,
 * and none once they are revoked, be it by the device's memory going away or on request.
 * What takes memory away, each in turn with a mapping that is in use, is the business of
 * vfio_dma_buf_revoke.
 */
#include "vfio_util.h"
#include "vfio_receiver.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "../kselftest_harness.h"

#define RW	(PROT_READ | PROT_WRITE)
#define HUGE	(2UL << 20)
#define HUGE_ARE_LARGER	"transparent huge pages are larger than 2 MiB here"

FIXTURE(mapped) {
	struct held before;
	struct vfio vfio;
	volatile uint64_t *bar;		/* VFIO's own mapping of it */
	int dmabuf;			/* of pages 5, 2 and 3 of it */
};

FIXTURE_VARIANT(mapped) {
	enum interface interface;
};

FIXTURE_VARIANT_ADD(mapped, group) { .interface = GROUP };
FIXTURE_VARIANT_ADD(mapped, cdev) { .interface = CDEV };

#define PAGES	3
#define SIZE	(PAGES * PAGE)
static const unsigned int page_of_bar[PAGES] = { 5, 2, 3 };

/* The first word of a page. */
static volatile uint64_t *word(volatile void *map, unsigned int page)
{
	return (volatile uint64_t *)map + page * PAGE / 8;
}

FIXTURE_SETUP(mapped)
{
	const struct vfio_region_dma_range ranges[] = {
		{ 5 * PAGE, PAGE }, { 2 * PAGE, 2 * PAGE },
	};
	char name[16];

	if (!device_find(RAM, name))
		SKIP(return, "no device at " RAM);
	self->before = held();
	vfio_get(&self->vfio, RAM, variant->interface);
	self->bar = vfio_map(&self->vfio, RAM_BAR, 0, RAM_SIZE);
	self->dmabuf = export_ranges(&self->vfio, RAM_BAR, O_RDWR | O_CLOEXEC, ranges, 2);
	ASSERT_GE(self->dmabuf, 0);
	for (unsigned int i = 0; i < 8; i++)
		*word(self->bar, i) = 0x1000 + i;
}

FIXTURE_TEARDOWN(mapped)
{
	if (self->dmabuf >= 0)
		close(self->dmabuf);
	if (self->bar)
		munmap((void *)self->bar, RAM_SIZE);
	vfio_close(&self->vfio);
	EXPECT_HELD(self->before);
}

/* What is mapped */

TEST_F(mapped, is_the_bar)
{
	volatile void *map = mmap(NULL, SIZE, RW, MAP_SHARED, self->dmabuf, 0);

	ASSERT_NE(map, MAP_FAILED);
	for (unsigned int i = 0; i < PAGES; i++) {
		EXPECT_EQ(*word(map, i), 0x1000 + page_of_bar[i]);
		*word(map, i) = 0x2000 + i;
	}
	for (unsigned int i = 0; i < PAGES; i++)
		EXPECT_EQ(*word(self->bar, page_of_bar[i]), 0x2000 + i);
	EXPECT_EQ(*word(self->bar, 0), 0x1000);
	EXPECT_EQ(*word(self->bar, 4), 0x1004);
	EXPECT_EQ(munmap((void *)map, SIZE), 0);
}

TEST_F(mapped, from_an_offset_on)
{
	for (unsigned int first = 0; first < PAGES; first++) {
		volatile void *map = mmap(NULL, SIZE - first * PAGE, PROT_READ, MAP_SHARED,
					  self->dmabuf, first * PAGE);

		ASSERT_NE(map, MAP_FAILED);
		for (unsigned int i = first; i < PAGES; i++)
			EXPECT_EQ(*word(map, i - first), 0x1000 + page_of_bar[i]);
		EXPECT_EQ(munmap((void *)map, SIZE - first * PAGE), 0);
	}
}

TEST_F(mapped, in_parts)
{
	char *map = mmap(NULL, SIZE, RW, MAP_SHARED, self->dmabuf, 0), *moved;

	ASSERT_NE(map, MAP_FAILED);
	EXPECT_EQ(*word(map, 1), 0x1002);
	ASSERT_EQ(munmap(map + PAGE, PAGE), 0);
	EXPECT_EQ(*word(map, 0), 0x1005);
	EXPECT_EQ(*word(map, 2), 0x1003);
	ASSERT_EQ(mprotect(map, PAGE, PROT_READ), 0);
	EXPECT_EQ(*word(map, 0), 0x1005);

	moved = mremap(map + 2 * PAGE, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED,
		       map + PAGE);
	ASSERT_EQ(moved, map + PAGE);
	EXPECT_EQ(*word(map, 1), 0x1003);

	/* All of it is found when the memory goes away, and comes back with it. */
	ASSERT_EQ(vfio_memory(&self->vfio, false), 0);
	EXPECT_FALSE(reachable(word(map, 0), false));
	EXPECT_FALSE(reachable(word(map, 1), true));
	ASSERT_EQ(vfio_memory(&self->vfio, true), 0);
	EXPECT_EQ(*word(map, 0), 0x1005);
	EXPECT_EQ(*word(map, 1), 0x1003);
	EXPECT_EQ(munmap(map, 2 * PAGE), 0);
}

static void expect_refused(struct __test_metadata *_metadata, int fd, size_t size, int prot,
			   int flags, off_t offset, int error)
{
	void *map = mmap(NULL, size, prot, flags, fd, offset);

	EXPECT_EQ(map, MAP_FAILED) {
		munmap(map, size);
		return;
	}
	EXPECT_EQ(errno, error);
}

TEST_F(mapped, bad_input)
{
	char *map;

	expect_refused(_metadata, self->dmabuf, SIZE, RW, MAP_PRIVATE, 0, EINVAL);
	expect_refused(_metadata, self->dmabuf, SIZE, PROT_READ, MAP_PRIVATE, 0, EINVAL);
	expect_refused(_metadata, self->dmabuf, SIZE + PAGE, RW, MAP_SHARED, 0, EINVAL);
	expect_refused(_metadata, self->dmabuf, SIZE, RW, MAP_SHARED, PAGE, EINVAL);
	expect_refused(_metadata, self->dmabuf, PAGE, RW, MAP_SHARED, SIZE, EINVAL);
	expect_refused(_metadata, self->dmabuf, PAGE, RW, MAP_SHARED, 1L << 40, EINVAL);

	map = mmap(NULL, SIZE, RW, MAP_SHARED, self->dmabuf, 0);
	ASSERT_NE(map, MAP_FAILED);
	EXPECT_EQ(mremap(map, SIZE, SIZE + PAGE, MREMAP_MAYMOVE), MAP_FAILED);
	EXPECT_EQ(munmap(map, SIZE), 0);

	ASSERT_EQ(vfio_memory(&self->vfio, false), 0);
	expect_refused(_metadata, self->dmabuf, SIZE, RW, MAP_SHARED, 0, ENODEV);
	ASSERT_EQ(vfio_memory(&self->vfio, true), 0);
}

TEST_F(mapped, no_more_access_than_given)
{
	const struct vfio_region_dma_range range = { 0, PAGE };
	int reads = export_ranges(&self->vfio, RAM_BAR, O_RDONLY, &range, 1);
	int writes = export_ranges(&self->vfio, RAM_BAR, O_WRONLY, &range, 1);
	char *map;

	ASSERT_GE(reads, 0);
	ASSERT_GE(writes, 0);
	expect_refused(_metadata, reads, PAGE, RW, MAP_SHARED, 0, EACCES);
	expect_refused(_metadata, writes, PAGE, RW, MAP_SHARED, 0, EACCES);
	expect_refused(_metadata, writes, PAGE, PROT_WRITE, MAP_SHARED, 0, EACCES);
	map = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, reads, 0);
	ASSERT_NE(map, MAP_FAILED);
	EXPECT_EQ(*word(map, 0), 0x1000);
	EXPECT_EQ(mprotect(map, PAGE, RW), -1);
	EXPECT_EQ(errno, EACCES);
	ASSERT_EQ(vfio_memory(&self->vfio, false), 0);
	EXPECT_FALSE(reachable(word(map, 0), false));
	ASSERT_EQ(vfio_memory(&self->vfio, true), 0);
	munmap(map, PAGE);
	close(reads);
	close(writes);
}

/* Nobody gets a reference on what is mapped, nor its frames into an IOMMU. */
TEST_F(mapped, not_pinned)
{
	char *map = mmap(NULL, SIZE, RW, MAP_SHARED, self->dmabuf, 0);
	char copy[64];
	struct iovec here = { .iov_base = copy, .iov_len = sizeof(copy) };
	struct iovec there = { .iov_base = map, .iov_len = sizeof(copy) };
	int pipes[2];

	ASSERT_NE(map, MAP_FAILED);
	EXPECT_EQ(*word(map, 0), 0x1005);
	EXPECT_EQ(process_vm_readv(getpid(), &here, 1, &there, 1, 0), -1);
	EXPECT_EQ(errno, EFAULT);
	ASSERT_EQ(pipe(pipes), 0);
	EXPECT_EQ(vmsplice(pipes[1], &there, 1, 0), -1);
	EXPECT_EQ(errno, EFAULT);
	close(pipes[0]);
	close(pipes[1]);

	if (self->vfio.interface == GROUP) {
		struct vfio_iommu_type1_dma_map dma = {
			.argsz = sizeof(dma),
			.flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
			.vaddr = (uintptr_t)map,
			.iova = 1 << 20,
			.size = PAGE,
		};

		EXPECT_EQ(ioctl(self->vfio.iommu, VFIO_IOMMU_MAP_DMA, &dma), -1);
		EXPECT_EQ(errno, EFAULT);
		/* As opposed to VFIO's own mapping, which lives with the device. */
		dma.vaddr = (uintptr_t)self->bar;
		EXPECT_EQ(ioctl(self->vfio.iommu, VFIO_IOMMU_MAP_DMA, &dma), 0);
	}
	munmap(map, SIZE);
}

static long faults(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return usage.ru_minflt + usage.ru_majflt;
}

TEST_F(mapped, huge_entries)
{
	int whole, shifted;
	char *map;
	long before;

	if (PAGE != 4096)
		SKIP(return, HUGE_ARE_LARGER);
	whole = export_range(&self->vfio, RAM_BAR, 0, RAM_SIZE);
	shifted = export_range(&self->vfio, RAM_BAR, PAGE, 2 * HUGE);
	ASSERT_GE(whole, 0);
	ASSERT_GE(shifted, 0);
	map = mmap(NULL, RAM_SIZE, RW, MAP_SHARED, whole, 0);
	ASSERT_NE(map, MAP_FAILED);
	before = faults();
	for (size_t at = 0; at < RAM_SIZE; at += PAGE)
		*(volatile uint64_t *)(map + at) = at;
	EXPECT_LE(faults() - before, (long)(RAM_SIZE / HUGE) + 1);
	for (size_t at = 0; at < RAM_SIZE; at += 17 * PAGE)
		EXPECT_EQ(self->bar[at / 8], at);

	/* Split by what is less than one of them, revoked, and back. */
	ASSERT_EQ(mprotect(map, PAGE, PROT_READ), 0);
	ASSERT_EQ(munmap(map + HUGE + PAGE, PAGE), 0);
	EXPECT_EQ(*(volatile uint64_t *)(map + HUGE), HUGE);
	ASSERT_EQ(vfio_memory(&self->vfio, false), 0);
	for (size_t at = 0; at < HUGE; at += HUGE / 4)
		EXPECT_FALSE(reachable((volatile uint64_t *)(map + at), false));
	EXPECT_FALSE(reachable((volatile uint64_t *)(map + 3 * HUGE), true));
	ASSERT_EQ(vfio_memory(&self->vfio, true), 0);
	for (size_t at = 0; at < HUGE; at += 17 * PAGE)
		EXPECT_EQ(*(volatile uint64_t *)(map + at), at);
	EXPECT_EQ(*(volatile uint64_t *)(map + HUGE + 2 * PAGE), HUGE + 2 * PAGE);
	munmap(map, RAM_SIZE);

	/* Where the BAR and the offset do not agree, there can be none. */
	map = mmap(NULL, 2 * HUGE, RW, MAP_SHARED, shifted, 0);
	ASSERT_NE(map, MAP_FAILED);
	for (size_t at = 0; at < 2 * HUGE; at += 17 * PAGE)
		EXPECT_EQ(*(volatile uint64_t *)(map + at), at + PAGE);
	munmap(map, 2 * HUGE);
	close(whole);
	close(shifted);
}

/* An entry that comes in write-protected, to notice writes, is made writable. */
TEST_F_TIMEOUT(mapped, writes_after_clear_refs, 60)
{
	char *area = mmap(NULL, 2 * HUGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *at = (char *)(((uintptr_t)area + HUGE - 1) & ~(HUGE - 1));
	long before;
	int whole;

	if (PAGE != 4096)
		SKIP(return, HUGE_ARE_LARGER);
	whole = export_range(&self->vfio, RAM_BAR, 0, HUGE);
	ASSERT_GE(whole, 0);
	ASSERT_NE(area, MAP_FAILED);
	/* VFIO's own mapping, and the dma-buf's, where they can have a huge entry. */
	for (int i = 0; i < 2; i++) {
		void *map = i ? mmap(NULL, HUGE, RW, MAP_SHARED, whole, 0) :
			    (void *)vfio_map(&self->vfio, RAM_BAR, 0, HUGE);
		int refs = open("/proc/self/clear_refs", O_WRONLY);

		ASSERT_NE(map, MAP_FAILED);
		ASSERT_EQ(mremap(map, HUGE, HUGE, MREMAP_MAYMOVE | MREMAP_FIXED, at), at);
		ASSERT_EQ(write(refs, "4", 1), 1);
		close(refs);
		EXPECT_EQ(*word(at, 0), *word(self->bar, 0));
		before = faults();
		for (unsigned int page = 0; page < HUGE / PAGE; page++)
			*word(at, page) = 0x4000 * i + page;
		/* The program's own pages may have some. */
		EXPECT_LE(faults() - before, 3);
		for (unsigned int page = 0; page < HUGE / PAGE; page++)
			EXPECT_EQ(*word(self->bar, page), 0x4000 * i + page);
	}
	munmap(area, 2 * HUGE);
	close(whole);
}

/* Aliases */

TEST_F(mapped, every_mapping_of_a_buffer)
{
	int copy = dup(self->dmabuf);
	volatile void *one = mmap(NULL, SIZE, RW, MAP_SHARED, self->dmabuf, 0);
	volatile void *two = mmap(NULL, SIZE, RW, MAP_SHARED, copy, 0);

	ASSERT_NE(one, MAP_FAILED);
	ASSERT_NE(two, MAP_FAILED);
	EXPECT_EQ(*word(one, 0), *word(two, 0));
	ASSERT_EQ(dmabuf_revoke(&self->vfio, copy), 0);
	for (unsigned int i = 0; i < PAGES; i++) {
		EXPECT_FALSE(reachable(word(one, i), false));
		EXPECT_FALSE(reachable(word(two, i), true));
	}
	munmap((void *)one, SIZE);
	munmap((void *)two, SIZE);
	close(copy);
}

TEST_F(mapped, no_other_buffer)
{
	int other = export_range(&self->vfio, RAM_BAR, 5 * PAGE, PAGE);
	volatile void *map = mmap(NULL, PAGE, RW, MAP_SHARED, other, 0);

	ASSERT_NE(map, MAP_FAILED);
	ASSERT_EQ(dmabuf_revoke(&self->vfio, self->dmabuf), 0);
	EXPECT_EQ(*word(map, 0), 0x1005);
	EXPECT_EQ(*word(self->bar, 5), 0x1005);
	ASSERT_EQ(vfio_reset(&self->vfio), 0);
	EXPECT_EQ(*word(map, 0), *word(self->bar, 5));
	expect_refused(_metadata, self->dmabuf, SIZE, RW, MAP_SHARED, 0, ENODEV);
	ASSERT_EQ(dmabuf_revoke(&self->vfio, other), 0);
	EXPECT_FALSE(reachable(word(map, 0), false));
	EXPECT_TRUE(reachable(word(self->bar, 5), false));
	munmap((void *)map, PAGE);
	close(other);
}

/* A child has the mapping as well, whether it was made before or after a fault. */
TEST_F(mapped, fork)
{
	volatile void *map = mmap(NULL, SIZE, RW, MAP_SHARED, self->dmabuf, 0);
	int go[2], status;
	pid_t child;
	char byte;

	ASSERT_NE(map, MAP_FAILED);
	EXPECT_EQ(*word(map, 0), 0x1005);
	ASSERT_EQ(pipe(go), 0);
	child = fork();
	ASSERT_GE(child, 0);
	if (!child) {
		bool good = *word(map, 0) == 0x1005 && *word(map, 1) == 0x1002;

		*word(map, 1) = 0x3002;
		if (read(go[0], &byte, 1) != 1)
			_exit(2);
		_exit(!good || reachable(word(map, 0), false) ||
		      reachable(word(map, 1), true) || reachable(word(map, 2), true));
	}
	for (int i = 0; i < 500 && *word(map, 1) != 0x3002; i++)
		sleep_ms(10);
	EXPECT_EQ(*word(map, 1), 0x3002);
	ASSERT_EQ(vfio_memory(&self->vfio, false), 0);
	ASSERT_EQ(write(go[1], "", 1), 1);
	ASSERT_EQ(waitpid(child, &status, 0), child);
	EXPECT_EQ(status, 0);
	ASSERT_EQ(vfio_memory(&self->vfio, true), 0);
	EXPECT_EQ(*word(map, 1), 0x3002);
	munmap((void *)map, SIZE);
	close(go[0]);
	close(go[1]);
}

/* The end, in every order */

TEST_F(mapped, device_closed_under_it)
{
	volatile void *map = mmap(NULL, SIZE, RW, MAP_SHARED, self->dmabuf, 0);

	ASSERT_NE(map, MAP_FAILED);
	EXPECT_EQ(*word(map, 0), 0x1005);
	/* VFIO's own mapping keeps the device open; the dma-buf's does not. */
	munmap((void *)self->bar, RAM_SIZE);
	self->bar = NULL;
	vfio_close(&self->vfio);
	EXPECT_FALSE(reachable(word(map, 0), false));
	expect_refused(_metadata, self->dmabuf, SIZE, RW, MAP_SHARED, 0, ENODEV);

	vfio_get(&self->vfio, RAM, variant->interface);
	EXPECT_FALSE(reachable(word(map, 0), true));
	EXPECT_EQ(dmabuf_revoke(&self->vfio, self->dmabuf), -EBADFD);
	close(self->dmabuf);
	self->dmabuf = -1;
	EXPECT_FALSE(reachable(word(map, 0), true));
	munmap((void *)map, SIZE);
}

TEST_F(mapped, descriptor_closed_first)
{
	volatile void *map = mmap(NULL, SIZE, RW, MAP_SHARED, self->dmabuf, 0);

	ASSERT_NE(map, MAP_FAILED);
	close(self->dmabuf);
	self->dmabuf = -1;
	EXPECT_EQ(*word(map, 2), 0x1003);
	ASSERT_EQ(vfio_reset(&self->vfio), 0);
	EXPECT_TRUE(reachable(word(map, 2), false));
	vfio_close(&self->vfio);
	EXPECT_TRUE(reachable(word(self->bar, 3), false));	/* which keeps it open */
	EXPECT_TRUE(reachable(word(map, 2), false));
	munmap((void *)self->bar, RAM_SIZE);
	self->bar = NULL;
	EXPECT_FALSE(reachable(word(map, 2), false));
	munmap((void *)map, SIZE);
}

/* Revoking on request */

TEST_F(mapped, revoke_bad_input)
{
	struct vfio_device_feature_dma_buf_revoke request = { .dmabuf_fd = self->dmabuf };
	uint32_t number = VFIO_DEVICE_FEATURE_DMA_BUF_REVOKE;
	int null = open("/dev/null", O_RDWR), heap = open("/dev/udmabuf", O_RDWR);
	char name[16];
	struct vfio other;
	int others;

	EXPECT_EQ(vfio_feature(&self->vfio, VFIO_DEVICE_FEATURE_PROBE | number, NULL, 0), 0);
	EXPECT_EQ(vfio_feature(&self->vfio, VFIO_DEVICE_FEATURE_GET | number, &request,
			       sizeof(request)), -EINVAL);
	EXPECT_EQ(vfio_feature(&self->vfio, VFIO_DEVICE_FEATURE_SET | number, &request, 2),
		  -EINVAL);
	EXPECT_EQ(dmabuf_revoke(&self->vfio, -1), -EBADF);
	EXPECT_EQ(dmabuf_revoke(&self->vfio, 1000), -EBADF);
	EXPECT_EQ(dmabuf_revoke(&self->vfio, null), -EINVAL);
	EXPECT_EQ(dmabuf_revoke(&self->vfio, self->vfio.fd), -EINVAL);

	/* Another device's. */
	ASSERT_TRUE(device_find(NVME, name));
	vfio_get(&other, NVME, variant->interface);
	others = export_range(&other, RAM_BAR, 0, PAGE);
	ASSERT_GE(others, 0);
	EXPECT_EQ(dmabuf_revoke(&self->vfio, others), -ENODEV);
	EXPECT_EQ(dmabuf_revoke(&other, others), 0);
	EXPECT_EQ(dmabuf_revoke(&other, others), -EBADFD);
	close(others);
	vfio_close(&other);

	/* None of which has touched ours. */
	EXPECT_TRUE(vfio_memory(&self->vfio, true) == 0);
	EXPECT_EQ(dmabuf_revoke(&self->vfio, self->dmabuf), 0);
	EXPECT_EQ(dmabuf_revoke(&self->vfio, self->dmabuf), -EBADFD);
	close(null);
	if (heap >= 0)
		close(heap);
}

/* Importers lose it too, and one that is late does not keep it for the others. */
TEST_F(mapped, revoke_with_importers)
{
	long timeout = vfio_parameter("revoke_timeout_ms", 500);
	volatile void *map = mmap(NULL, SIZE, RW, MAP_SHARED, self->dmabuf, 0);
	int importer, stuck;
	char edu[16];

	ASSERT_NE(map, MAP_FAILED);
	ASSERT_TRUE(device_find(EDU, edu));
	device_bind(edu, "dma_buf_test_importer");
	importer = importer_attach(edu, self->dmabuf, 0);
	stuck = importer_attach(edu, self->dmabuf, DMA_BUF_IMPORTER_KEEP);
	ASSERT_GE(importer, 0);
	ASSERT_GE(stuck, 0);
	ASSERT_EQ(importer_map(importer), 0);
	ASSERT_EQ(importer_map(stuck), 0);

	/* It is revoked, whatever the call returns, and a reset does not change that. */
	for (int i = 0; i < 2; i++) {
		EXPECT_EQ(dmabuf_revoke(&self->vfio, self->dmabuf), -EBUSY);
		EXPECT_FALSE(reachable(word(map, 0), false));
		EXPECT_EQ(importer_status(importer).is_mapped, 0);
		EXPECT_EQ(importer_status(importer).notified, 1);
		EXPECT_EQ(importer_map(importer), -ENODEV);
		EXPECT_EQ(vfio_memory(&self->vfio, true), 0);
	}
	EXPECT_EQ(importer_unmap(stuck), 0);
	EXPECT_EQ(dmabuf_revoke(&self->vfio, self->dmabuf), -EBADFD);
	EXPECT_EQ(importer_status(importer).notified, 1);
	EXPECT_EQ(importer_map(importer), -ENODEV);
	EXPECT_FALSE(reachable(word(map, 0), false));
	close(stuck);
	close(importer);
	munmap((void *)map, SIZE);
	vfio_parameter("revoke_timeout_ms", timeout);
}

/* Another process */

TEST_F(mapped, lent_and_taken_back)
{
	struct receiver receiver = {};

	receiver_start(&receiver, self->dmabuf, 8, PAGE + 16);
	EXPECT_TRUE(receiver_gets_through(&receiver));
	EXPECT_NE(self->bar[(2 * PAGE + 16) / 8], 0);
	for (int i = 0; i < 3; i++) {
		ASSERT_EQ(vfio_memory(&self->vfio, false), 0);
		EXPECT_TRUE(receiver_is_refused(&receiver));
		ASSERT_EQ(vfio_memory(&self->vfio, true), 0);
		EXPECT_TRUE(receiver_gets_through(&receiver));
	}
	ASSERT_EQ(dmabuf_revoke(&self->vfio, self->dmabuf), 0);
	self->bar[(2 * PAGE + 16) / 8] = 0;
	EXPECT_TRUE(receiver_is_refused(&receiver));
	EXPECT_EQ(self->bar[(2 * PAGE + 16) / 8], 0);
	receiver_end(&receiver);
}

/* Races */

/*
 * Children fault and fork on while the memory goes away and comes back: when it has gone,
 * not one write of theirs arrives.
 */
TEST_F_TIMEOUT(mapped, races, 120)
{
	int whole = export_range(&self->vfio, RAM_BAR, 0, 4 * HUGE);
	uint64_t end = milliseconds() + 30000;
	struct receiver receivers[3] = {};
	volatile uint64_t *window;
	char *map, witness[16];
	pid_t forker;

	ASSERT_GE(whole, 0);
	ASSERT_TRUE(device_find(WITNESS, witness));
	window = device_map(witness, RAM_BAR, RAM_SIZE);
	map = mmap(NULL, 4 * HUGE, RW, MAP_SHARED, whole, 0);
	ASSERT_NE(map, MAP_FAILED);
	for (int i = 0; i < 3; i++)
		receiver_start(&receivers[i], whole, i * HUGE, i * HUGE + 8);
	/* They could not map it while it is revoked. */
	for (int i = 0; i < 3; i++)
		ASSERT_TRUE(receiver_gets_through(&receivers[i]));
	/* The forker's last child is waited for here: it has the mapping, too. */
	ASSERT_EQ(prctl(PR_SET_CHILD_SUBREAPER, 1), 0);
	forker = fork();
	ASSERT_GE(forker, 0);
	if (!forker) {
		/* Copies the entries of huge and of small pages, as they come and go. */
		for (;;) {
			pid_t child = fork();

			if (!child) {
				reachable((volatile uint64_t *)(map + 3 * HUGE), false);
				reachable((volatile uint64_t *)(map + 3 * HUGE + 8), true);
				_exit(0);
			}
			reachable((volatile uint64_t *)(map + 3 * HUGE), false);
			waitpid(child, NULL, 0);
		}
	}
	while (milliseconds() < end) {
		ASSERT_EQ(vfio_memory(&self->vfio, false), 0);
		for (int i = 0; i < 4; i++)
			window[(i * HUGE + 8) / 8] = 0;
		for (int i = 0; i < 3; i++)
			EXPECT_TRUE(receiver_is_refused(&receivers[i]));
		for (int i = 0; i < 4; i++)
			EXPECT_EQ(window[(i * HUGE + 8) / 8], 0);
		ASSERT_EQ(vfio_memory(&self->vfio, true), 0);
		for (int i = 0; i < 3; i++)
			EXPECT_TRUE(receiver_gets_through(&receivers[i]));
	}
	for (int i = 0; i < 3; i++)
		receiver_end(&receivers[i]);
	kill(forker, SIGKILL);
	while (wait(NULL) > 0)
		;
	munmap((void *)window, RAM_SIZE);
	munmap(map, 4 * HUGE);
	close(whole);
}

TEST_HARNESS_MAIN
