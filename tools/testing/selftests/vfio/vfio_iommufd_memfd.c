// SPDX-License-Identifier: GPL-2.0
/*
 * memfds in address spaces of iommufd, with DMA by a device: what it writes is in the
 * memfd, and the other way round, wherever the pages come from. What is pinned is
 * counted, and given back.
 */
#include "vfio_ioas.h"

#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <linux/capability.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/syscall.h>

#include "../kselftest_harness.h"

#define MB	0x100000UL
#define HUGE	(2 * MB)
#define IOVA	(512 * MB)
#define SIZE	(8 * MB)

/* Bytes of a memfd */
enum pages { SMALL, THP, HUGETLB };

FIXTURE(memfd) {
	struct held before;
	struct edu edu;
	long pinned;
	int fd;
	volatile uint64_t *p;
};

FIXTURE_VARIANT(memfd) {
	enum pages pages;
};

FIXTURE_VARIANT_ADD(memfd, small) { SMALL };
FIXTURE_VARIANT_ADD(memfd, thp) { THP };
FIXTURE_VARIANT_ADD(memfd, hugetlb) { HUGETLB };

static void write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		die(path);
	close(fd);
}

/* Pins that are there: acquired and not released. */
static long pinned(void)
{
	long n, acquired = 0, released = 0;
	char line[128];
	FILE *f;

	write_file("/proc/sys/vm/stat_refresh", "1");
	f = fopen("/proc/vmstat", "r");
	if (!f)
		die("/proc/vmstat");
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "nr_foll_pin_acquired %ld", &n) == 1)
			acquired = n;
		if (sscanf(line, "nr_foll_pin_released %ld", &n) == 1)
			released = n;
	}
	fclose(f);
	return acquired - released;
}

static int new_memfd(enum pages pages, uint64_t size)
{
	int fd = memfd_create("iommufd", MFD_CLOEXEC | MFD_ALLOW_SEALING |
			      (pages == HUGETLB ? MFD_HUGETLB : 0));

	if (fd < 0 || ftruncate(fd, size))
		die("memfd");
	return fd;
}

static volatile uint64_t *map_memfd(int fd, uint64_t size, bool huge)
{
	/* A place where huge pages fit. */
	char *p = mmap(NULL, size + HUGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		die("mmap");
	p = (char *)(((uintptr_t)p + HUGE - 1) & ~(HUGE - 1));
	if (mmap(p, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) != p)
		die("mmap");
	if (huge && madvise(p, size, MADV_HUGEPAGE))
		die("MADV_HUGEPAGE");
	return (volatile uint64_t *)p;
}

FIXTURE_SETUP(memfd)
{
	char name[16];

	if (!device_find(EDU, name))
		SKIP(return, "no device at " EDU);
	write_file("/proc/sys/vm/nr_hugepages", "8");
	write_file("/sys/kernel/mm/transparent_hugepage/shmem_enabled",
		   variant->pages == THP ? "advise" : "never");
	self->before = held();
	edu_get(&self->edu, EDU);
	self->pinned = pinned();
	self->fd = new_memfd(variant->pages, SIZE);
	self->p = map_memfd(self->fd, SIZE, variant->pages == THP);
}

FIXTURE_TEARDOWN(memfd)
{
	munmap((void *)self->p, SIZE);
	if (self->fd >= 0)
		close(self->fd);
	edu_close(&self->edu);
	EXPECT_EQ(pinned(), self->pinned);
	EXPECT_HELD(self->before);
	write_file("/proc/sys/vm/nr_hugepages", "0");
	write_file("/sys/kernel/mm/transparent_hugepage/shmem_enabled", "never");
}

static int map(FIXTURE_DATA(memfd) *self, uint64_t start, uint64_t length, uint64_t iova,
	       uint32_t flags)
{
	return ioas_map_file(self->edu.vfio.iommu, self->edu.vfio.ioas, self->fd, start,
			     length, iova, flags);
}

static int unmap(FIXTURE_DATA(memfd) *self, uint64_t iova, uint64_t length)
{
	return ioas_unmap(self->edu.vfio.iommu, self->edu.vfio.ioas, iova, length);
}

/* A word from one IOVA to another. */
static void dma(FIXTURE_DATA(memfd) *self, uint64_t from, uint64_t to)
{
	edu_load(&self->edu, from, 8);
	edu_store(&self->edu, to, 8);
}

static uint64_t word(uint64_t n)
{
	return 0x0123456789abcdef * (n + 1);
}

/* Pages that are there, and those that are not yet. */
TEST_F(memfd, both_ways)
{
	self->p[8] = word(1);
	self->p[(5 * MB + PAGE) / 8] = word(2);
	ASSERT_EQ(map(self, 0, SIZE, IOVA, READ_WRITE), 0);
	EXPECT_EQ(pinned() - self->pinned, (long)(SIZE / PAGE));
	dma(self, IOVA + 64, IOVA + SIZE - 8);
	EXPECT_EQ(self->p[SIZE / 8 - 1], word(1));
	dma(self, IOVA + 5 * MB + PAGE, IOVA + 3 * MB);
	EXPECT_EQ(self->p[3 * MB / 8], word(2));
	ASSERT_EQ(unmap(self, IOVA, SIZE), 0);
	EXPECT_EQ(pinned(), self->pinned);
	self->p[3 * MB / 8] = word(3);
	dma(self, IOVA, IOVA + 3 * MB);
	EXPECT_EQ(self->p[3 * MB / 8], word(3));
}

/* A slice that begins and ends within huge pages, at another IOVA than suits them. */
TEST_F(memfd, part)
{
	uint64_t start = MB + 3 * PAGE, length = 4 * MB;

	self->p[start / 8] = word(1);
	ASSERT_EQ(map(self, start, length, IOVA, READ_WRITE), 0);
	EXPECT_EQ(pinned() - self->pinned, (long)(length / PAGE));
	dma(self, IOVA, IOVA + length - 8);
	EXPECT_EQ(self->p[(start + length) / 8 - 1], word(1));
	self->p[start / 8 - 1] = word(2);
	dma(self, IOVA, IOVA - 8);
	EXPECT_EQ(self->p[start / 8 - 1], word(2));
	/* The same page in another mapping is pinned for that. */
	ASSERT_EQ(map(self, start, PAGE, IOVA + SIZE, READ_WRITE), 0);
	EXPECT_EQ(pinned() - self->pinned, (long)(length / PAGE + 1));
	EXPECT_EQ(unmap(self, IOVA, length), 0);
	EXPECT_EQ(pinned() - self->pinned, 1);
}

/* Pinned once, whatever address spaces it is in; domains come and go. */
TEST_F(memfd, copies_and_domains)
{
	int iommu = self->edu.vfio.iommu;
	uint32_t first = self->edu.vfio.ioas, second = ioas_new(iommu);

	self->p[0] = word(1);
	ASSERT_EQ(vfio_detach(&self->edu.vfio), 0);
	ASSERT_EQ(map(self, 0, SIZE, IOVA, READ_WRITE), 0);
	EXPECT_EQ(pinned(), self->pinned);
	ASSERT_EQ(vfio_attach(&self->edu.vfio, first), 0);
	EXPECT_EQ(pinned() - self->pinned, (long)(SIZE / PAGE));
	dma(self, IOVA, IOVA + 8);
	EXPECT_EQ(self->p[1], word(1));

	ASSERT_EQ(ioas_copy(iommu, second, first, IOVA, SIZE, READ_WRITE), 0);
	ASSERT_EQ(vfio_attach(&self->edu.vfio, second), 0);
	EXPECT_EQ(pinned() - self->pinned, (long)(SIZE / PAGE));
	EXPECT_EQ(iommufd_destroy(iommu, first), 0);
	dma(self, IOVA, IOVA + 16);
	EXPECT_EQ(self->p[2], word(1));
	ASSERT_EQ(vfio_detach(&self->edu.vfio), 0);
	EXPECT_EQ(pinned(), self->pinned);
	ASSERT_EQ(vfio_attach(&self->edu.vfio, second), 0);
	dma(self, IOVA, IOVA + 24);
	EXPECT_EQ(self->p[3], word(1));
	EXPECT_EQ(ioas_unmap(iommu, second, IOVA, SIZE), 0);
	EXPECT_EQ(pinned(), self->pinned);
}

/* Pinned pages stay mapped; the file has other pages from then on. */
TEST_F(memfd, holes_and_truncation)
{
	self->p[0] = word(1);
	self->p[HUGE / 8] = word(2);
	ASSERT_EQ(map(self, 0, SIZE, IOVA, READ_WRITE), 0);
	ASSERT_EQ(fallocate(self->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
			    HUGE), 0);
	EXPECT_EQ(self->p[0], 0);
	self->p[0] = word(3);
	dma(self, IOVA, IOVA + HUGE + 8);
	EXPECT_EQ(self->p[HUGE / 8 + 1], word(1));

	munmap((void *)self->p, SIZE);
	ASSERT_EQ(ftruncate(self->fd, 0), 0);
	ASSERT_EQ(ftruncate(self->fd, SIZE), 0);
	self->p = map_memfd(self->fd, SIZE, false);
	dma(self, IOVA + HUGE, IOVA + HUGE);
	EXPECT_EQ(self->p[HUGE / 8], 0);
	EXPECT_EQ(unmap(self, IOVA, SIZE), 0);
	EXPECT_EQ(pinned(), self->pinned);
}

/* The descriptor is not needed, nor the process's mapping. */
TEST_F(memfd, descriptor_closed)
{
	ASSERT_EQ(map(self, 0, SIZE, IOVA, READ_WRITE), 0);
	close(self->fd);
	self->fd = -1;
	self->p[0] = word(1);
	dma(self, IOVA, IOVA + SIZE / 2);
	EXPECT_EQ(self->p[SIZE / 2 / 8], word(1));
}

TEST_F(memfd, errors)
{
	EXPECT_EQ(map(self, 0, SIZE + PAGE, IOVA, READ_WRITE), -EINVAL);
	EXPECT_EQ(map(self, SIZE, PAGE, IOVA, READ_WRITE), -EINVAL);
	EXPECT_EQ(map(self, -PAGE, 2 * PAGE, IOVA, READ_WRITE), -EOVERFLOW);
	EXPECT_EQ(map(self, 0, 0, IOVA, READ_WRITE), -EINVAL);
	/* The domain's pages are the smallest that can be mapped. */
	EXPECT_EQ(map(self, 8, PAGE, IOVA, READ_WRITE), -EINVAL);
	EXPECT_EQ(map(self, 0, PAGE + 8, IOVA, READ_WRITE), -EINVAL);
	EXPECT_EQ(map(self, 0, PAGE, IOVA, 0), -EINVAL);
	EXPECT_EQ(map(self, 0, PAGE, IOVA, READ_WRITE | 8), -EOPNOTSUPP);
	EXPECT_EQ(pinned(), self->pinned);
	EXPECT_EQ(unmap(self, IOVA, PAGE), -ENOENT);
}

/* The file shrinks before its pages are pinned. */
TEST_F(memfd, truncated_before_attach)
{
	ASSERT_EQ(vfio_detach(&self->edu.vfio), 0);
	ASSERT_EQ(map(self, 0, SIZE, IOVA, READ_WRITE), 0);
	ASSERT_EQ(ftruncate(self->fd, SIZE / 2), 0);
	EXPECT_EQ(vfio_attach(&self->edu.vfio, self->edu.vfio.ioas), -EINVAL);
	EXPECT_EQ(pinned(), self->pinned);
	ASSERT_EQ(ftruncate(self->fd, SIZE), 0);
	EXPECT_EQ(vfio_attach(&self->edu.vfio, self->edu.vfio.ioas), 0);
}

/* A descriptor gives no more access than it has, and seals are kept. */
TEST_F(memfd, access)
{
	char path[32];
	int fd;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", self->fd);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	ASSERT_GE(fd, 0);
	EXPECT_EQ(ioas_map_file(self->edu.vfio.iommu, self->edu.vfio.ioas, fd, 0, PAGE, IOVA,
				READ_WRITE), -EACCES);
	EXPECT_EQ(ioas_map_file(self->edu.vfio.iommu, self->edu.vfio.ioas, fd, 0, PAGE, IOVA,
				IOMMU_IOAS_MAP_READABLE), 0);
	close(fd);
	self->p[0] = word(1);
	dma(self, IOVA, IOVA);
	ASSERT_EQ(map(self, PAGE, PAGE, IOVA + MB, READ_WRITE), 0);
	dma(self, IOVA, IOVA + MB);
	EXPECT_EQ(self->p[PAGE / 8], word(1));
	self->p[0] = word(2);
	dma(self, IOVA + MB, IOVA);
	EXPECT_EQ(self->p[0], word(2));

	fd = open(path, O_WRONLY | O_CLOEXEC);
	ASSERT_GE(fd, 0);
	EXPECT_EQ(ioas_map_file(self->edu.vfio.iommu, self->edu.vfio.ioas, fd, 0, PAGE,
				IOVA + SIZE, READ_WRITE), -EACCES);
	close(fd);
}

/* Not to write, as mmap() has it. To read is safe: no mprotect() can follow. */
TEST_F(memfd, append_only)
{
	int fd = memfd_create("log", MFD_CLOEXEC), flags = FS_APPEND_FL;
	const struct vfio *vfio = &self->edu.vfio;

	ASSERT_EQ(ftruncate(fd, PAGE), 0);
	ASSERT_EQ(ioctl(fd, FS_IOC_SETFLAGS, &flags), 0);
	EXPECT_EQ(mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), MAP_FAILED);
	EXPECT_EQ(errno, EACCES);
	EXPECT_EQ(ioas_map_file(vfio->iommu, vfio->ioas, fd, 0, PAGE, IOVA, READ_WRITE), -EACCES);
	EXPECT_EQ(ioas_map_file(vfio->iommu, vfio->ioas, fd, 0, PAGE, IOVA,
				IOMMU_IOAS_MAP_READABLE), 0);
	close(fd);
}

TEST_F(memfd, seals)
{
	ASSERT_EQ(vfio_detach(&self->edu.vfio), 0);
	ASSERT_EQ(munmap((void *)self->p, SIZE), 0);
	/* Nothing is pinned yet, but a writable mapping there is. */
	ASSERT_EQ(map(self, 0, PAGE, IOVA, READ_WRITE), 0);
	EXPECT_EQ(fcntl(self->fd, F_ADD_SEALS, F_SEAL_WRITE), -1);
	EXPECT_EQ(errno, EBUSY);
	ASSERT_EQ(unmap(self, IOVA, PAGE), 0);
	EXPECT_EQ(fcntl(self->fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE), 0);
	EXPECT_EQ(map(self, 0, PAGE, IOVA, READ_WRITE), -EPERM);
	EXPECT_EQ(fcntl(self->fd, F_ADD_SEALS, F_SEAL_WRITE), 0);
	EXPECT_EQ(map(self, 0, PAGE, IOVA, READ_WRITE), -EPERM);
	EXPECT_EQ(map(self, 0, PAGE, IOVA, IOMMU_IOAS_MAP_READABLE), 0);
	EXPECT_EQ(vfio_attach(&self->edu.vfio, self->edu.vfio.ioas), 0);
	close(self->fd);
	self->fd = new_memfd(variant->pages, SIZE);
	self->p = map_memfd(self->fd, SIZE, false);
}

static void drop_ipc_lock(void)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2];

	if (syscall(SYS_capget, &head, data))
		die("capget");
	data[0].effective &= ~(1U << CAP_IPC_LOCK);
	if (syscall(SYS_capset, &head, data))
		die("capset");
}

static void memlock(uint64_t bytes)
{
	struct rlimit limit = { bytes, RLIM_INFINITY };

	if (setrlimit(RLIMIT_MEMLOCK, &limit))
		die("RLIMIT_MEMLOCK");
}

/* Counted as pages of a process are: over the limit nothing is pinned. */
TEST_F(memfd, memlock)
{
	drop_ipc_lock();
	memlock(4 * MB);
	EXPECT_EQ(map(self, 0, 4 * MB + PAGE, IOVA, READ_WRITE), -ENOMEM);
	EXPECT_EQ(pinned(), self->pinned);
	EXPECT_EQ(map(self, 0, 4 * MB, IOVA, READ_WRITE), 0);
	EXPECT_EQ(map(self, 4 * MB, PAGE, IOVA + SIZE, READ_WRITE), -ENOMEM);
	EXPECT_EQ(unmap(self, IOVA, 4 * MB), 0);
	EXPECT_EQ(map(self, 4 * MB, PAGE, IOVA + SIZE, READ_WRITE), 0);
}

/* Larger than the scratch space is for. */
TEST_F_TIMEOUT(memfd, many_pages, 120)
{
	uint64_t size = variant->pages == HUGETLB ? SIZE : 192 * MB;
	int fd;

	fd = new_memfd(variant->pages, size);
	EXPECT_EQ(ioas_map_file(self->edu.vfio.iommu, self->edu.vfio.ioas, fd, 0, size, IOVA,
				READ_WRITE), 0);
	EXPECT_EQ(pinned() - self->pinned, (long)(size / PAGE));
	EXPECT_EQ(unmap(self, IOVA, size), 0);
	EXPECT_EQ(pinned(), self->pinned);
	close(fd);
}

TEST_HARNESS_MAIN
