// SPDX-License-Identifier: GPL-2.0-only
/*
 * IOMMU_IOAS_MAP_FILE with mock domains: every page is where it should be in every domain,
 * for memfds and for dma-bufs, which are revoked and restored; and with one call after
 * the other that may fail made to fail: then all is done, or nothing.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <unistd.h>

#include <linux/falloc.h>
#include <linux/udmabuf.h>
#include <linux/vfio.h>

#include "../drivers/dma-buf/stalled_write.h"
#include "../kselftest_harness.h"
#include "../../../../drivers/iommu/iommufd/iommufd_test.h"

#define PAGE	((unsigned long)getpagesize())
#define MB	0x100000UL
#define HUGE	(2 * MB)
#define IOVA	(64 * MB)
#define SIZE	(4 * MB)
#define RANGES	4
#define RANGE	(3 * PAGE)
#define DMABUF	(RANGES * RANGE)
#define MOST	3		/* domains */

/*
 * iommufd: with all that follows
 * idev: a device, in an address space of its own
 * ioas: the address space under test
 * domains: in it
 */
struct space {
	int iommufd;
	uint32_t idev;
	uint32_t ioas;
	uint32_t domains[MOST];
	int nr_domains;
};

static int result(int ret)
{
	return ret < 0 ? -errno : ret;
}

static int test_op(struct space *space, struct iommu_test_cmd *cmd)
{
	cmd->size = sizeof(*cmd);
	return result(ioctl(space->iommufd, IOMMU_TEST_CMD, cmd));
}

static uint32_t ioas_new(struct space *space)
{
	struct iommu_ioas_alloc alloc = { .size = sizeof(alloc) };

	return ioctl(space->iommufd, IOMMU_IOAS_ALLOC, &alloc) ? 0 : alloc.out_ioas_id;
}

static int destroy(struct space *space, uint32_t id)
{
	struct iommu_destroy destroy = { .size = sizeof(destroy), .id = id };

	return result(ioctl(space->iommufd, IOMMU_DESTROY, &destroy));
}

/* A domain more in an address space; @id: of that domain. */
static int domain_new(struct space *space, uint32_t ioas, uint32_t *id)
{
	struct iommu_hwpt_alloc alloc = {
		.size = sizeof(alloc),
		.dev_id = space->idev,
		.pt_id = ioas,
	};
	int ret = result(ioctl(space->iommufd, IOMMU_HWPT_ALLOC, &alloc));

	*id = alloc.out_hwpt_id;
	return ret;
}

static int domain_add(struct space *space)
{
	int ret = domain_new(space, space->ioas, &space->domains[space->nr_domains]);

	if (!ret)
		space->nr_domains++;
	return ret;
}

static int domain_remove(struct space *space)
{
	return destroy(space, space->domains[--space->nr_domains]);
}

static int map_at(struct space *space, int fd, uint64_t start, uint64_t length,
		  uint64_t iova)
{
	struct iommu_ioas_map_file map = {
		.size = sizeof(map),
		.flags = IOMMU_IOAS_MAP_FIXED_IOVA | IOMMU_IOAS_MAP_READABLE |
			 IOMMU_IOAS_MAP_WRITEABLE,
		.ioas_id = space->ioas,
		.fd = fd,
		.start = start,
		.length = length,
		.iova = iova,
	};

	return result(ioctl(space->iommufd, IOMMU_IOAS_MAP_FILE, &map));
}

static int map(struct space *space, int fd, uint64_t start, uint64_t length)
{
	return map_at(space, fd, start, length, IOVA);
}

static int unmap(struct space *space, uint64_t iova, uint64_t length)
{
	struct iommu_ioas_unmap unmap = {
		.size = sizeof(unmap),
		.ioas_id = space->ioas,
		.iova = iova,
		.length = length,
	};

	return result(ioctl(space->iommufd, IOMMU_IOAS_UNMAP, &unmap));
}

static int copy(struct space *space, uint32_t to, uint64_t iova, uint64_t length)
{
	struct iommu_ioas_copy copy = {
		.size = sizeof(copy),
		.flags = IOMMU_IOAS_MAP_FIXED_IOVA | IOMMU_IOAS_MAP_READABLE |
			 IOMMU_IOAS_MAP_WRITEABLE,
		.dst_ioas_id = to,
		.src_ioas_id = space->ioas,
		.length = length,
		.dst_iova = iova,
		.src_iova = iova,
	};

	return result(ioctl(space->iommufd, IOMMU_IOAS_COPY, &copy));
}

/* Splits what is mapped, as a container of VFIO's did. */
static int unmap_part(struct space *space, uint64_t iova, uint64_t length)
{
	struct vfio_iommu_type1_dma_unmap unmap = {
		.argsz = sizeof(unmap),
		.iova = iova,
		.size = length,
	};
	struct iommu_vfio_ioas compat = {
		.size = sizeof(compat),
		.ioas_id = space->ioas,
		.op = IOMMU_VFIO_IOAS_SET,
	};

	if (ioctl(space->iommufd, IOMMU_VFIO_IOAS, &compat) ||
	    ioctl(space->iommufd, VFIO_SET_IOMMU, VFIO_TYPE1_IOMMU))
		return -errno;
	return result(ioctl(space->iommufd, VFIO_IOMMU_UNMAP_DMA, &unmap));
}

/* Whether domains have the memory that is mapped at @p. */
static int check_memory(struct space *space, uint32_t domain, void *p, uint64_t length,
			uint64_t iova)
{
	struct iommu_test_cmd cmd = {
		.op = IOMMU_TEST_OP_MD_CHECK_MAP,
		.id = domain,
		.check_map = { .iova = iova, .length = length, .uptr = (uintptr_t)p },
	};

	return test_op(space, &cmd);
}

static void expect_memory(struct __test_metadata *_metadata, struct space *space, char *p,
			  uint64_t length)
{
	for (int i = 0; i < space->nr_domains; i++) {
		EXPECT_EQ(check_memory(space, space->domains[i], p, length, IOVA), 0)
			TH_LOG("domain %d", i);
	}
}

/* Mock dma-bufs */

static int dmabuf_new(struct space *space)
{
	struct iommu_test_cmd cmd = {
		.op = IOMMU_TEST_OP_DMABUF_NEW,
		.dmabuf_new = { .nr_ranges = RANGES, .range_len = RANGE },
	};

	return test_op(space, &cmd);
}

static int set_revoked(struct space *space, int fd, bool revoke)
{
	struct iommu_test_cmd cmd = {
		.op = IOMMU_TEST_OP_DMABUF_REVOKE,
		.dmabuf_revoke = { .fd = fd, .revoke = revoke },
	};

	return test_op(space, &cmd);
}

/* 0: all is mapped in that domain; -ENOENT: nothing is. */
static int check_dmabuf_at(struct space *space, uint32_t domain, int fd, uint64_t start,
			   uint64_t length, uint64_t iova)
{
	struct iommu_test_cmd cmd = {
		.op = IOMMU_TEST_OP_MD_CHECK_DMABUF,
		.id = domain,
		.check_dmabuf = {
			.fd = fd, .start = start, .length = length, .iova = iova,
		},
	};

	return test_op(space, &cmd);
}

/* The same for all domains; -EINVAL: they do not agree. */
static int check_dmabuf(struct space *space, int fd, uint64_t start, uint64_t length)
{
	int ret = check_dmabuf_at(space, space->domains[0], fd, start, length, IOVA);

	for (int i = 1; i < space->nr_domains; i++)
		if (check_dmabuf_at(space, space->domains[i], fd, start, length, IOVA) != ret)
			return -EINVAL;
	return ret;
}

static void space_open(struct space *space)
{
	struct iommu_test_cmd cmd = { .op = IOMMU_TEST_OP_MOCK_DOMAIN };

	memset(space, 0, sizeof(*space));
	space->iommufd = open("/dev/iommu", O_RDWR | O_CLOEXEC);
	cmd.id = ioas_new(space);
	if (test_op(space, &cmd))
		ksft_exit_fail_msg("no mock domain: %s\n", strerror(errno));
	space->idev = cmd.mock_domain.out_idev_id;
	space->ioas = ioas_new(space);
}

/* The first number behind @name in a file; @name is empty where there is no other text. */
static long number_in(const char *path, const char *name)
{
	FILE *f = fopen(path, "r");
	size_t length = strlen(name);
	char line[128];
	long n = -1;

	if (!f)
		ksft_exit_fail_msg("%s: %s\n", path, strerror(errno));
	while (n < 0 && fgets(line, sizeof(line), f))
		if (!strncmp(line, name, length))
			n = atol(line + length);
	fclose(f);
	return n;
}

/* Pins that are there: acquired and not released. */
static long pinned(void)
{
	int fd = open("/proc/sys/vm/stat_refresh", O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, "1", 1) < 0)
		ksft_exit_fail_msg("stat_refresh: %s\n", strerror(errno));
	close(fd);
	return number_in("/proc/vmstat", "nr_foll_pin_acquired ") -
	       number_in("/proc/vmstat", "nr_foll_pin_released ");
}

FIXTURE(map_file) {
	long pinned;
	struct space space;
};

FIXTURE_VARIANT(map_file) {
	int domains;
};

FIXTURE_VARIANT_ADD(map_file, no_domain) { 0 };
FIXTURE_VARIANT_ADD(map_file, one_domain) { 1 };
FIXTURE_VARIANT_ADD(map_file, two_domains) { 2 };

FIXTURE_SETUP(map_file)
{
	self->pinned = pinned();
	space_open(&self->space);
	for (int i = 0; i < variant->domains; i++)
		ASSERT_EQ(domain_add(&self->space), 0);
}

FIXTURE_TEARDOWN(map_file)
{
	EXPECT_EQ(close(self->space.iommufd), 0);
	EXPECT_EQ(pinned(), self->pinned);
}

/* memfds */

static char *memfd_map(int *fd, bool huge)
{
	char *p;

	*fd = memfd_create("iommufd", MFD_CLOEXEC | (huge ? MFD_HUGETLB : 0));
	if (*fd < 0 || ftruncate(*fd, SIZE))
		ksft_exit_fail_msg("memfd: %s\n", strerror(errno));
	p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, *fd, 0);
	if (p == MAP_FAILED)
		ksft_exit_fail_msg("mmap of a memfd: %s\n", strerror(errno));
	memset(p, 0x5a, SIZE);
	return p;
}

static const bool sizes[] = { false, true };

/* Mock domains map half pages: slices begin and end within pages. */
TEST_F(map_file, slices)
{
	const struct {
		uint64_t start, length;
	} slices[] = {
		{ 0, SIZE }, { 0, PAGE / 2 }, { PAGE / 2, PAGE / 2 }, { PAGE / 2, PAGE },
		{ PAGE / 2, SIZE - PAGE }, { HUGE - PAGE / 2, PAGE }, { HUGE - PAGE, 2 * PAGE },
		{ SIZE - PAGE / 2, PAGE / 2 },
	};
	struct space *space = &self->space;

	for (int huge = 0; huge < 2; huge++) {
		int fd;
		char *p = memfd_map(&fd, sizes[huge]);

		for (size_t i = 0; i < ARRAY_SIZE(slices); i++) {
			ASSERT_EQ(map(space, fd, slices[i].start, slices[i].length), 0);
			expect_memory(_metadata, space, p + slices[i].start, slices[i].length);
			ASSERT_EQ(unmap(space, IOVA, slices[i].length), 0);
		}
		munmap(p, SIZE);
		close(fd);
	}
}

/* Where the pages come from the memfd, another domain, and an access. */
TEST_F(map_file, domains_come_and_go)
{
	struct space *space = &self->space;

	for (int huge = 0; huge < 2; huge++) {
		int fd;
		char *p = memfd_map(&fd, sizes[huge]);

		ASSERT_EQ(map(space, fd, PAGE / 2, SIZE - PAGE), 0);
		for (int i = 0; i < 2; i++) {
			ASSERT_EQ(domain_add(space), 0);
			expect_memory(_metadata, space, p + PAGE / 2, SIZE - PAGE);
			ASSERT_EQ(domain_remove(space), 0);
			expect_memory(_metadata, space, p + PAGE / 2, SIZE - PAGE);
		}
		ASSERT_EQ(unmap(space, IOVA, SIZE - PAGE), 0);
		munmap(p, SIZE);
		close(fd);
	}
}

static long reserved_huge_pages(void)
{
	return number_in("/sys/kernel/mm/hugepages/hugepages-2048kB/resv_hugepages", "");
}

struct truncation {
	int fd;
	volatile bool stop;
};

static void *truncate_again_and_again(void *data)
{
	struct truncation *truncation = data;

	while (!truncation->stop)
		if (ftruncate(truncation->fd, 0) || ftruncate(truncation->fd, SIZE))
			ksft_exit_fail_msg("ftruncate: %s\n", strerror(errno));
	return NULL;
}

/* What is reserved for an absent huge page is not given back twice. */
TEST_F(map_file, truncated_meanwhile)
{
	struct truncation truncation = { memfd_create("iommufd", MFD_CLOEXEC | MFD_HUGETLB) };
	long before = reserved_huge_pages();
	pthread_t thread;
	int mapped = 0;

	ASSERT_EQ(ftruncate(truncation.fd, SIZE), 0);
	ASSERT_EQ(pthread_create(&thread, NULL, truncate_again_and_again, &truncation), 0);
	for (int i = 0; i < 300 || !mapped; i++)
		if (!map(&self->space, truncation.fd, 0, SIZE)) {
			mapped++;
			EXPECT_EQ(unmap(&self->space, IOVA, SIZE), 0);
		}
	truncation.stop = true;
	pthread_join(thread, NULL);
	EXPECT_EQ(ftruncate(truncation.fd, 0), 0);
	EXPECT_EQ(reserved_huge_pages(), before);
	close(truncation.fd);
}

/* Another process can have the lock of a memfd's inode as long as it likes. */
TEST_F_TIMEOUT(map_file, written_meanwhile, 30)
{
	struct space *space = &self->space;
	struct stalled_write writer;
	int fd;
	char *p = memfd_map(&fd, false);

	ASSERT_TRUE(stalled_write_begin(&writer, fd));
	EXPECT_EQ(map(space, fd, 0, SIZE), 0);
	expect_memory(_metadata, space, p, SIZE);
	ASSERT_EQ(domain_add(space), 0);
	EXPECT_EQ(domain_remove(space), 0);
	EXPECT_EQ(unmap(space, IOVA, SIZE), 0);
	stalled_write_end(&writer);
	munmap(p, SIZE);
	close(fd);
}

struct punching {
	int fd;
	char *p;
	volatile bool stop;
};

/* Single pages that come and go, at the start of a range that has room for a huge page. */
static void *punch_again_and_again(void *data)
{
	struct punching *punching = data;

	while (!punching->stop) {
		memset(punching->p, 1, HUGE / 8);
		if (fallocate(punching->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, HUGE))
			ksft_exit_fail_msg("fallocate: %s\n", strerror(errno));
	}
	return NULL;
}

/* A file of a tmpfs that has huge pages where they fit; -1 if there is none. */
static int huge_tmpfs_file(void)
{
	int fs = fsopen("tmpfs", FSOPEN_CLOEXEC), fd = -1, mount;

	if (!fsconfig(fs, FSCONFIG_SET_STRING, "huge", "always", 0) &&
	    !fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0)) {
		mount = fsmount(fs, FSMOUNT_CLOEXEC, 0);
		fd = openat(mount, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
		close(mount);
	}
	close(fs);
	return fd;
}

/*
 * Pages that are pinned leave the memfd, and a huge page takes their place and that of the
 * next page to be pinned.  No pin is lost.
 */
TEST_F_TIMEOUT(map_file, punched_meanwhile, 120)
{
	struct space *space = &self->space;
	struct punching punching = { huge_tmpfs_file() };
	long before = number_in("/proc/vmstat", "thp_file_alloc ");
	pthread_t thread;

	if (punching.fd < 0)
		SKIP(return, "no tmpfs with huge pages\n");
	if (number_in("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size", "") != HUGE)
		SKIP(return, "transparent huge pages are larger than 2 MiB here\n");
	ASSERT_EQ(ftruncate(punching.fd, SIZE), 0);
	punching.p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, punching.fd, 0);
	ASSERT_NE(punching.p, MAP_FAILED);
	ASSERT_EQ(madvise(punching.p, SIZE, MADV_NOHUGEPAGE), 0);
	ASSERT_EQ(pthread_create(&thread, NULL, punch_again_and_again, &punching), 0);
	for (int i = 0; i < 30; i++) {
		EXPECT_EQ(map(space, punching.fd, 0, HUGE + HUGE / 8), 0);
		EXPECT_EQ(unmap(space, IOVA, HUGE + HUGE / 8), 0);
	}
	punching.stop = true;
	pthread_join(thread, NULL);
	/* To be pinned: the thread has none, and the second half, which stays, has one. */
	if (space->nr_domains)
		EXPECT_GT(number_in("/proc/vmstat", "thp_file_alloc "), before + 1);
	munmap(punching.p, SIZE);
	close(punching.fd);
}

/*
 * A part is mapped before the memfd loses its pages, and the rest after that: each page
 * is given back as what it is.
 */
TEST_F(map_file, punched_between)
{
	struct space *space = &self->space;

	for (int huge = 0; huge < 2; huge++) {
		uint64_t part = 25 * PAGE, rest = SIZE - part;
		uint32_t domain, other = ioas_new(space);
		int fd;
		char *p = memfd_map(&fd, sizes[huge]);

		while (space->nr_domains)
			ASSERT_EQ(domain_remove(space), 0);
		ASSERT_EQ(map(space, fd, 0, SIZE), 0);
		ASSERT_EQ(copy(space, other, IOVA, part), 0);
		ASSERT_EQ(domain_new(space, other, &domain), 0);
		EXPECT_EQ(check_memory(space, domain, p, part, IOVA), 0);

		ASSERT_EQ(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, SIZE),
			  0);
		memset(p, 0xa5, SIZE);
		ASSERT_EQ(domain_add(space), 0);
		EXPECT_EQ(check_memory(space, space->domains[0], p + part, rest, IOVA + part),
			  0);
		EXPECT_EQ(check_memory(space, space->domains[0], p, PAGE, IOVA), -EINVAL);
		EXPECT_EQ(check_memory(space, domain, p, PAGE, IOVA), -EINVAL);

		ASSERT_EQ(destroy(space, domain), 0);
		ASSERT_EQ(domain_remove(space), 0);
		ASSERT_EQ(unmap(space, IOVA, SIZE), 0);
		ASSERT_EQ(destroy(space, other), 0);
		munmap(p, SIZE);
		close(fd);
	}
}

/* Accesses by the kernel */

static int access_new(struct space *space, bool pin, int *fd)
{
	struct iommu_test_cmd cmd = {
		.op = IOMMU_TEST_OP_CREATE_ACCESS,
		.id = space->ioas,
		.create_access.flags = pin ? MOCK_FLAGS_ACCESS_CREATE_NEEDS_PIN_PAGES : 0,
	};
	int ret = test_op(space, &cmd);

	*fd = cmd.create_access.out_access_fd;
	return ret;
}

static int access_pin(struct space *space, int access, void *p, uint64_t iova,
		      uint64_t length, uint32_t *id)
{
	struct iommu_test_cmd cmd = {
		.op = IOMMU_TEST_OP_ACCESS_PAGES,
		.id = access,
		.access_pages = {
			.flags = MOCK_FLAGS_ACCESS_WRITE,
			.iova = iova,
			.length = length,
			.uptr = (uintptr_t)p,
		},
	};
	int ret = test_op(space, &cmd);

	*id = cmd.access_pages.out_access_pages_id;
	return ret;
}

static int access_unpin(struct space *space, int access, uint32_t id)
{
	struct iommu_test_cmd cmd = {
		.op = IOMMU_TEST_OP_DESTROY_ACCESS_PAGES,
		.id = access,
		.destroy_access_pages.access_pages_id = id,
	};

	return test_op(space, &cmd);
}

static int access_rw(struct space *space, int access, void *data, uint64_t iova,
		     uint64_t length, uint32_t flags)
{
	struct iommu_test_cmd cmd = {
		.op = IOMMU_TEST_OP_ACCESS_RW,
		.id = access,
		.access_rw = {
			.flags = flags,
			.iova = iova,
			.length = length,
			.uptr = (uintptr_t)data,
		},
	};

	return test_op(space, &cmd);
}

TEST_F(map_file, access_pin)
{
	struct space *space = &self->space;

	for (int huge = 0; huge < 2; huge++) {
		uint32_t id, again;
		int fd, access;
		char *p = memfd_map(&fd, sizes[huge]);

		ASSERT_EQ(map(space, fd, 0, SIZE), 0);
		ASSERT_EQ(access_new(space, true, &access), 0);
		/* Over the end of a huge page; pages that a domain has, and does not have. */
		ASSERT_EQ(access_pin(space, access, p + HUGE - 8 * PAGE,
				     IOVA + HUGE - 8 * PAGE, 16 * PAGE, &id), 0);
		ASSERT_EQ(access_pin(space, access, p + HUGE - PAGE, IOVA + HUGE - PAGE,
				     25 * PAGE, &again), 0);
		ASSERT_EQ(domain_add(space), 0);
		expect_memory(_metadata, space, p, SIZE);
		ASSERT_EQ(access_unpin(space, access, id), 0);
		while (space->nr_domains)
			ASSERT_EQ(domain_remove(space), 0);
		ASSERT_EQ(access_unpin(space, access, again), 0);
		close(access);
		ASSERT_EQ(unmap(space, IOVA, SIZE), 0);
		munmap(p, SIZE);
		close(fd);
	}
}

TEST_F(map_file, access_rw)
{
	static const uint32_t ways[] = { 0, MOCK_ACCESS_RW_SLOW_PATH };
	struct space *space = &self->space;
	char data[3 * PAGE];

	for (int huge = 0; huge < 2; huge++) {
		int fd, access;
		char *p = memfd_map(&fd, sizes[huge]);

		ASSERT_EQ(map(space, fd, PAGE / 2, SIZE - PAGE), 0);
		ASSERT_EQ(access_new(space, false, &access), 0);
		/* What the process has mapped is not asked. */
		for (int i = 0; i < 2; i++) {
			memset(data, 0x11 * (i + 1), sizeof(data));
			ASSERT_EQ(access_rw(space, access, data, IOVA + HUGE - 100, 2 * PAGE,
					    ways[i] | MOCK_ACCESS_RW_WRITE), 0);
			EXPECT_EQ(memcmp(p + PAGE / 2 + HUGE - 100, data, 2 * PAGE), 0);
			EXPECT_EQ(p[PAGE / 2 + HUGE - 101], 0x5a);
			EXPECT_EQ(p[PAGE / 2 + HUGE - 100 + 2 * PAGE], 0x5a);
			memset(data, 0, sizeof(data));
			ASSERT_EQ(access_rw(space, access, data, IOVA + 8, 100, ways[i]), 0);
			EXPECT_EQ(memcmp(p + PAGE / 2 + 8, data, 100), 0);
		}
		close(access);
		ASSERT_EQ(unmap(space, IOVA, SIZE - PAGE), 0);
		munmap(p, SIZE);
		close(fd);
	}
}

TEST_F(map_file, split)
{
	struct space *space = &self->space;
	int fd;
	char *p = memfd_map(&fd, false);

	/* Before there are domains, which cannot be split that have huge pages. */
	while (space->nr_domains)
		ASSERT_EQ(domain_remove(space), 0);
	ASSERT_EQ(unmap_part(space, IOVA, PAGE), 0);
	for (int i = 0; i < variant->domains; i++)
		ASSERT_EQ(domain_add(space), 0);
	ASSERT_EQ(map(space, fd, 0, SIZE), 0);
	ASSERT_EQ(unmap_part(space, IOVA + MB, PAGE), 0);
	expect_memory(_metadata, space, p, MB);
	for (int i = 0; i < space->nr_domains; i++) {
		EXPECT_EQ(check_memory(space, space->domains[i], p + MB, PAGE, IOVA + MB),
			  -EINVAL);
		EXPECT_EQ(check_memory(space, space->domains[i], p + MB + PAGE,
				       SIZE - MB - PAGE, IOVA + MB + PAGE), 0);
	}
	munmap(p, SIZE);
	close(fd);
}

/* dma-bufs */

FIXTURE(dmabuf) {
	struct space space;
	int fd;
};

FIXTURE_VARIANT(dmabuf) {
	int domains;
};

FIXTURE_VARIANT_ADD(dmabuf, one_domain) { 1 };
FIXTURE_VARIANT_ADD(dmabuf, two_domains) { 2 };

FIXTURE_SETUP(dmabuf)
{
	space_open(&self->space);
	for (int i = 0; i < variant->domains; i++)
		ASSERT_EQ(domain_add(&self->space), 0);
	self->fd = dmabuf_new(&self->space);
	ASSERT_GE(self->fd, 0);
}

FIXTURE_TEARDOWN(dmabuf)
{
	EXPECT_EQ(close(self->space.iommufd), 0);
	/* Nothing is left of a mapping. */
	EXPECT_EQ(close(self->fd), 0);
}

TEST_F(dmabuf, slices)
{
	struct space *space = &self->space;

	for (uint64_t start = 0; start < DMABUF; start += PAGE)
		for (uint64_t length = PAGE; length <= DMABUF - start; length += PAGE) {
			ASSERT_EQ(map(space, self->fd, start, length), 0);
			EXPECT_EQ(check_dmabuf(space, self->fd, start, length), 0);
			ASSERT_EQ(unmap(space, IOVA, length), 0);
			EXPECT_EQ(check_dmabuf(space, self->fd, start, length), -ENOENT);
		}
	EXPECT_EQ(map(space, self->fd, DMABUF, PAGE), -EINVAL);
	EXPECT_EQ(map(space, self->fd, 0, DMABUF + PAGE), -EINVAL);
	EXPECT_EQ(map(space, self->fd, PAGE / 2, PAGE), -EINVAL);
	EXPECT_EQ(map(space, self->fd, 0, PAGE / 2), -EINVAL);
}

TEST_F(dmabuf, revoke_and_restore)
{
	struct space *space = &self->space;

	ASSERT_EQ(map(space, self->fd, PAGE, DMABUF - 2 * PAGE), 0);
	for (int i = 0; i < 3; i++) {
		ASSERT_EQ(set_revoked(space, self->fd, true), 0);
		EXPECT_EQ(check_dmabuf(space, self->fd, PAGE, DMABUF - 2 * PAGE), -ENOENT);
		EXPECT_EQ(map_at(space, self->fd, 0, PAGE, IOVA + MB), -ENODEV);
		ASSERT_EQ(set_revoked(space, self->fd, false), 0);
		EXPECT_EQ(check_dmabuf(space, self->fd, PAGE, DMABUF - 2 * PAGE), 0);
	}
}

/* All mappings of one buffer. */
TEST_F(dmabuf, two_mappings)
{
	struct space *space = &self->space;

	ASSERT_EQ(map(space, self->fd, 0, DMABUF), 0);
	ASSERT_EQ(map_at(space, self->fd, PAGE, RANGE, IOVA + MB), 0);
	for (int gone = 1; gone >= 0; gone--) {
		ASSERT_EQ(set_revoked(space, self->fd, gone), 0);
		EXPECT_EQ(check_dmabuf(space, self->fd, 0, DMABUF), gone ? -ENOENT : 0);
		EXPECT_EQ(check_dmabuf_at(space, space->domains[0], self->fd, PAGE, RANGE,
					  IOVA + MB), gone ? -ENOENT : 0);
	}
}

/* While it is live, and while it is revoked. */
TEST_F(dmabuf, domains_come_and_go)
{
	struct space *space = &self->space;

	ASSERT_EQ(map(space, self->fd, 0, DMABUF), 0);
	for (int gone = 0; gone < 2; gone++) {
		int expected = gone ? -ENOENT : 0;

		ASSERT_EQ(set_revoked(space, self->fd, gone), 0);
		ASSERT_EQ(domain_add(space), 0);
		EXPECT_EQ(check_dmabuf(space, self->fd, 0, DMABUF), expected);
		if (gone) {
			ASSERT_EQ(set_revoked(space, self->fd, false), 0);
			EXPECT_EQ(check_dmabuf(space, self->fd, 0, DMABUF), 0);
			ASSERT_EQ(set_revoked(space, self->fd, true), 0);
		}
		ASSERT_EQ(domain_remove(space), 0);
		EXPECT_EQ(check_dmabuf(space, self->fd, 0, DMABUF), expected);
	}
	while (space->nr_domains)
		ASSERT_EQ(domain_remove(space), 0);
	ASSERT_EQ(set_revoked(space, self->fd, false), 0);
	ASSERT_EQ(domain_add(space), 0);
	EXPECT_EQ(check_dmabuf(space, self->fd, 0, DMABUF), 0);
}

TEST_F(dmabuf, copy)
{
	struct space *space = &self->space;
	struct space elsewhere = *space;
	uint32_t other = ioas_new(space), domain;

	elsewhere.ioas = other;
	ASSERT_EQ(domain_new(space, other, &domain), 0);
	ASSERT_EQ(map(space, self->fd, 0, DMABUF), 0);
	for (int gone = 0; gone < 2; gone++) {
		ASSERT_EQ(set_revoked(space, self->fd, gone), 0);
		ASSERT_EQ(copy(space, other, IOVA, DMABUF), 0);
		EXPECT_EQ(check_dmabuf_at(space, domain, self->fd, 0, DMABUF, IOVA),
			  gone ? -ENOENT : 0);
		ASSERT_EQ(set_revoked(space, self->fd, !gone), 0);
		EXPECT_EQ(check_dmabuf_at(space, domain, self->fd, 0, DMABUF, IOVA),
			  gone ? 0 : -ENOENT);
		EXPECT_EQ(check_dmabuf(space, self->fd, 0, DMABUF), gone ? 0 : -ENOENT);
		ASSERT_EQ(unmap(&elsewhere, IOVA, DMABUF), 0);
		EXPECT_EQ(check_dmabuf(space, self->fd, 0, DMABUF), gone ? 0 : -ENOENT);
	}
}

TEST_F(dmabuf, unmap_while_revoked)
{
	struct space *space = &self->space;

	ASSERT_EQ(map(space, self->fd, 0, DMABUF), 0);
	ASSERT_EQ(set_revoked(space, self->fd, true), 0);
	ASSERT_EQ(unmap(space, IOVA, DMABUF), 0);
	ASSERT_EQ(set_revoked(space, self->fd, false), 0);
	EXPECT_EQ(check_dmabuf(space, self->fd, 0, DMABUF), -ENOENT);
	ASSERT_EQ(map(space, self->fd, 0, DMABUF), 0);
	EXPECT_EQ(check_dmabuf(space, self->fd, 0, DMABUF), 0);
}

/* Neither its pages nor its bytes. */
TEST_F(dmabuf, no_access)
{
	struct space *space = &self->space;
	int pins, reads;
	uint32_t id;
	char data[8];

	ASSERT_EQ(map(space, self->fd, 0, DMABUF), 0);
	ASSERT_EQ(access_new(space, true, &pins), 0);
	ASSERT_EQ(access_new(space, false, &reads), 0);
	EXPECT_EQ(access_pin(space, pins, NULL, IOVA, PAGE, &id), -EINVAL);
	EXPECT_EQ(access_rw(space, reads, data, IOVA, 8, 0), -EINVAL);
	EXPECT_EQ(access_rw(space, reads, data, IOVA, 8, MOCK_ACCESS_RW_WRITE), -EINVAL);
	EXPECT_EQ(access_rw(space, reads, data, IOVA, 8, MOCK_ACCESS_RW_SLOW_PATH), -EINVAL);
	close(pins);
	close(reads);
}

TEST_F(dmabuf, no_split)
{
	struct space *space = &self->space;

	while (space->nr_domains)
		ASSERT_EQ(domain_remove(space), 0);
	ASSERT_EQ(unmap_part(space, IOVA, PAGE), 0);
	for (int i = 0; i < variant->domains; i++)
		ASSERT_EQ(domain_add(space), 0);
	ASSERT_EQ(map(space, self->fd, 0, DMABUF), 0);
	EXPECT_EQ(unmap_part(space, IOVA + PAGE, PAGE), -EOPNOTSUPP);
	EXPECT_EQ(check_dmabuf(space, self->fd, 0, DMABUF), 0);
	/* That interface maps no huge pages, and the dma-buf is back all the same. */
	ASSERT_EQ(set_revoked(space, self->fd, true), 0);
	ASSERT_EQ(set_revoked(space, self->fd, false), 0);
	EXPECT_EQ(check_dmabuf(space, self->fd, 0, DMABUF), 0);
}

/* Dirty bits, of a mapping between two of memory */

#define BITS	((2 * PAGE + DMABUF) / (PAGE / 2))	/* mock domains map half pages */
#define MIDDLE	(IOVA + PAGE)

static int set_dirty_tracking(struct space *space, uint32_t domain, bool on)
{
	struct iommu_hwpt_set_dirty_tracking set = {
		.size = sizeof(set),
		.flags = on ? IOMMU_HWPT_DIRTY_TRACKING_ENABLE : 0,
		.hwpt_id = domain,
	};

	return result(ioctl(space->iommufd, IOMMU_HWPT_SET_DIRTY_TRACKING, &set));
}

/* A device has written to all of it, as far as the page tables know. */
static int mark_dirty(struct space *space, uint32_t domain, uint8_t *bits)
{
	struct iommu_test_cmd cmd = {
		.op = IOMMU_TEST_OP_DIRTY,
		.id = domain,
		.dirty = { .iova = IOVA, .length = 2 * PAGE + DMABUF, .page_size = PAGE / 2,
			   .uptr = (uintptr_t)bits },
	};

	memset(bits, 0xff, BITS / 8 + 1);
	return test_op(space, &cmd);
}

static int read_dirty(struct space *space, uint32_t domain, uint8_t *bits)
{
	struct iommu_hwpt_get_dirty_bitmap get = {
		.size = sizeof(get),
		.hwpt_id = domain,
		.iova = IOVA,
		.length = 2 * PAGE + DMABUF,
		.page_size = PAGE / 2,
		.data = (uintptr_t)bits,
	};

	memset(bits, 0, BITS / 8 + 1);
	return result(ioctl(space->iommufd, IOMMU_HWPT_GET_DIRTY_BITMAP, &get));
}

static void expect_dirty(struct __test_metadata *_metadata, const uint8_t *bits, bool memory,
			 bool middle)
{
	for (unsigned int i = 0; i < BITS; i++) {
		bool is_memory = i < 2 || i >= BITS - 2;

		EXPECT_EQ(bits[i / 8] >> i % 8 & 1, is_memory ? memory : middle)
			TH_LOG("bit %u", i);
	}
}

static uint32_t dirty_domain(struct __test_metadata *_metadata, struct space *space)
{
	struct iommu_hwpt_alloc alloc = {
		.size = sizeof(alloc),
		.flags = IOMMU_HWPT_ALLOC_DIRTY_TRACKING,
		.dev_id = space->idev,
		.pt_id = space->ioas,
	};
	char *p;
	int fd;

	ASSERT_EQ(ioctl(space->iommufd, IOMMU_HWPT_ALLOC, &alloc), 0);
	p = memfd_map(&fd, false);
	ASSERT_EQ(map_at(space, fd, 0, PAGE, IOVA), 0);
	ASSERT_EQ(map_at(space, fd, PAGE, PAGE, MIDDLE + DMABUF), 0);
	munmap(p, SIZE);
	close(fd);
	return alloc.out_hwpt_id;
}

/* A device's own memory is not reported, and its page tables are not looked at. */
TEST_F(dmabuf, dirty)
{
	struct space *space = &self->space;
	uint32_t domain = dirty_domain(_metadata, space);
	uint8_t bits[BITS / 8 + 1];

	ASSERT_EQ(map_at(space, self->fd, 0, DMABUF, MIDDLE), 0);
	for (int gone = 0; gone < 2; gone++) {
		ASSERT_EQ(set_revoked(space, self->fd, gone), 0);
		ASSERT_EQ(set_dirty_tracking(space, domain, true), 0);
		ASSERT_EQ(mark_dirty(space, domain, bits), 0);
		EXPECT_EQ(read_dirty(space, domain, bits), 0);
		expect_dirty(_metadata, bits, true, false);
		EXPECT_EQ(read_dirty(space, domain, bits), 0);
		expect_dirty(_metadata, bits, false, false);
		ASSERT_EQ(set_dirty_tracking(space, domain, false), 0);
	}
}

/* Of memory in a dma-buf any part may have been written to. */
TEST_F(dmabuf, dirty_memory)
{
	int memfd = memfd_create("dirty", MFD_ALLOW_SEALING | MFD_CLOEXEC);
	struct udmabuf_create create = { .memfd = memfd, .size = DMABUF };
	int udmabuf = open("/dev/udmabuf", O_RDWR | O_CLOEXEC), dmabuf;
	struct space *space = &self->space;
	uint8_t bits[BITS / 8 + 1];
	uint32_t domain;
	int ret;

	if (udmabuf < 0 && errno == ENOENT)
		SKIP(return, "no udmabuf that gives physical ranges");
	ASSERT_GE(udmabuf, 0);
	domain = dirty_domain(_metadata, space);
	ASSERT_EQ(ftruncate(memfd, DMABUF), 0);
	ASSERT_EQ(fcntl(memfd, F_ADD_SEALS, F_SEAL_SHRINK), 0);
	dmabuf = ioctl(udmabuf, UDMABUF_CREATE, &create);
	ASSERT_GE(dmabuf, 0);
	ret = map_at(space, dmabuf, 0, DMABUF, MIDDLE);
	if (ret == -EOPNOTSUPP)
		SKIP(return, "no udmabuf that gives physical ranges");
	ASSERT_EQ(ret, 0);
	ASSERT_EQ(set_dirty_tracking(space, domain, true), 0);
	ASSERT_EQ(mark_dirty(space, domain, bits), 0);
	for (int i = 0; i < 2; i++) {
		EXPECT_EQ(read_dirty(space, domain, bits), 0);
		expect_dirty(_metadata, bits, !i, true);
	}
	close(dmabuf);
	close(udmabuf);
	close(memfd);
}

/* Failures */

static const char *const settings[][2] = {
	{ "failslab/verbose", "0" },
	{ "failslab/ignore-gfp-wait", "N" },
	{ "fail_page_alloc/verbose", "0" },
	{ "fail_page_alloc/ignore-gfp-wait", "N" },
	{ "fail_page_alloc/ignore-gfp-highmem", "N" },
	{ "fail_iommufd/verbose", "0" },
	{ "fail_usercopy/verbose", "0" },
};

static int nth_open(void)
{
	char path[128];
	int fd;

	for (size_t i = 0; i < ARRAY_SIZE(settings); i++) {
		snprintf(path, sizeof(path), "/sys/kernel/debug/%s", settings[i][0]);
		fd = open(path, O_WRONLY | O_CLOEXEC);
		if (fd < 0 || write(fd, settings[i][1], strlen(settings[i][1])) < 0)
			ksft_exit_fail_msg("%s: %s\n", path, strerror(errno));
		close(fd);
	}
	fd = open("/proc/self/fail-nth", O_RDWR | O_CLOEXEC);
	if (fd < 0)
		ksft_exit_fail_msg("fail-nth: %s\n", strerror(errno));
	return fd;
}

/* The call that fails can be this write, but only once. */
static void nth_set(int nth, unsigned int n)
{
	char text[16];
	int len = snprintf(text, sizeof(text), "%u", n);

	if (pwrite(nth, text, len, 0) != len && pwrite(nth, text, len, 0) != len)
		ksft_exit_fail_msg("fail-nth: %s\n", strerror(errno));
}

/*
 * Runs @step with its @n-th call that can fail made to fail; false: it has not that many.
 */
static bool attempt(int nth, unsigned int n, int (*step)(struct space *, int),
		    struct space *space, int fd, int *ret)
{
	char text[16] = "1";
	bool injected;

	nth_set(nth, n);
	*ret = step(space, fd);
	injected = pread(nth, text, sizeof(text) - 1, 0) > 0 && !atoi(text);
	nth_set(nth, 0);
	return injected;
}

#define MOST_CALLS	3000

static int map_memfd_step(struct space *space, int fd)
{
	return map(space, fd, PAGE / 2, 32 * PAGE);
}

static int add_domain_step(struct space *space, int fd)
{
	return domain_add(space);
}

static int map_dmabuf_step(struct space *space, int fd)
{
	return map(space, fd, PAGE, DMABUF - PAGE);
}

static int revoke_step(struct space *space, int fd)
{
	return set_revoked(space, fd, true);
}

static int restore_step(struct space *space, int fd)
{
	return set_revoked(space, fd, false);
}

static bool may_fail_with(int ret)
{
	return ret == -ENOMEM || ret == -EFAULT || ret == -EINVAL || ret == -ENOENT;
}

TEST_F(map_file, fail_nth_map)
{
	struct space *space = &self->space;
	int nth = nth_open(), fd, ret = 0;
	char *p = memfd_map(&fd, false);
	unsigned int n;

	for (n = 1; n < MOST_CALLS && attempt(nth, n, map_memfd_step, space, fd, &ret); n++) {
		EXPECT_TRUE(!ret || may_fail_with(ret)) TH_LOG("call %u: %d", n, ret);
		if (!ret)
			expect_memory(_metadata, space, p + PAGE / 2, 32 * PAGE);
		/* A failure to say where it was mapped leaves it mapped. */
		ret = unmap(space, IOVA, 32 * PAGE);
		EXPECT_TRUE(!ret || ret == -ENOENT);
	}
	EXPECT_EQ(ret, 0);
	EXPECT_GT(n, 3);
	EXPECT_LT(n, MOST_CALLS);
	munmap(p, SIZE);
	close(fd);
	close(nth);
}

TEST_F(map_file, fail_nth_domain)
{
	struct space *space = &self->space;
	int nth = nth_open(), fd, before, ret = 0;
	char *p = memfd_map(&fd, true);
	unsigned int n;

	ASSERT_EQ(map_memfd_step(space, fd), 0);
	before = space->nr_domains;
	for (n = 1; n < MOST_CALLS && attempt(nth, n, add_domain_step, space, fd, &ret); n++) {
		expect_memory(_metadata, space, p + PAGE / 2, 32 * PAGE);
		if (space->nr_domains > before)
			ASSERT_EQ(domain_remove(space), 0);
	}
	EXPECT_EQ(ret, 0);
	expect_memory(_metadata, space, p + PAGE / 2, 32 * PAGE);
	EXPECT_GT(n, 3);
	EXPECT_LT(n, MOST_CALLS);
	munmap(p, SIZE);
	close(fd);
	close(nth);
}

TEST_F(dmabuf, fail_nth_map)
{
	struct space *space = &self->space;
	int nth = nth_open(), ret = 0;
	unsigned int n;

	for (n = 1; n < MOST_CALLS && attempt(nth, n, map_dmabuf_step, space, self->fd, &ret);
	     n++) {
		int there = check_dmabuf(space, self->fd, PAGE, DMABUF - PAGE);

		EXPECT_TRUE(there == -ENOENT || !there);
		EXPECT_TRUE(!ret || may_fail_with(ret)) TH_LOG("call %u: %d", n, ret);
		EXPECT_TRUE(ret || !there);
		EXPECT_EQ(unmap(space, IOVA, DMABUF - PAGE), there);
	}
	EXPECT_EQ(ret, 0);
	EXPECT_GT(n, 3);
	EXPECT_LT(n, MOST_CALLS);
	close(nth);
}

TEST_F(dmabuf, fail_nth_domain)
{
	struct space *space = &self->space;
	int nth = nth_open(), before = space->nr_domains, ret = 0;
	unsigned int n;

	ASSERT_EQ(map_dmabuf_step(space, self->fd), 0);
	for (int gone = 0; gone < 2; gone++) {
		ASSERT_EQ(set_revoked(space, self->fd, gone), 0);
		for (n = 1; n < MOST_CALLS &&
		     attempt(nth, n, add_domain_step, space, self->fd, &ret); n++) {
			EXPECT_EQ(check_dmabuf(space, self->fd, PAGE, DMABUF - PAGE),
				  gone ? -ENOENT : 0);
			if (space->nr_domains > before)
				ASSERT_EQ(domain_remove(space), 0);
		}
		EXPECT_EQ(ret, 0);
		EXPECT_GT(n, 3);
		EXPECT_LT(n, MOST_CALLS);
		ASSERT_EQ(domain_remove(space), 0);
	}
	close(nth);
}

/* Nothing on the way down may fail. On the way up all is there, or nothing. */
TEST_F(dmabuf, fail_nth_revoke_and_restore)
{
	struct space *space = &self->space;
	int nth = nth_open(), there, left = 0, ret = 0;
	unsigned int n;

	ASSERT_EQ(map_dmabuf_step(space, self->fd), 0);
	for (n = 1; n < MOST_CALLS && attempt(nth, n, revoke_step, space, self->fd, &ret); n++) {
		/* The ioctl may fail before it comes to that. */
		if (ret)
			ASSERT_EQ(set_revoked(space, self->fd, true), 0);
		EXPECT_EQ(check_dmabuf(space, self->fd, PAGE, DMABUF - PAGE), -ENOENT);
		ASSERT_EQ(set_revoked(space, self->fd, false), 0);
		EXPECT_EQ(check_dmabuf(space, self->fd, PAGE, DMABUF - PAGE), 0);
	}
	EXPECT_EQ(ret, 0);

	ASSERT_EQ(set_revoked(space, self->fd, true), 0);
	for (n = 1; n < MOST_CALLS && attempt(nth, n, restore_step, space, self->fd, &ret);
	     n++) {
		there = check_dmabuf(space, self->fd, PAGE, DMABUF - PAGE);
		EXPECT_TRUE(there == -ENOENT || !there);
		if (there)
			left++;
		/* Domains can be added in that state as well. */
		ASSERT_EQ(domain_add(space), 0);
		EXPECT_EQ(check_dmabuf(space, self->fd, PAGE, DMABUF - PAGE), there);
		ASSERT_EQ(domain_remove(space), 0);
		ASSERT_EQ(set_revoked(space, self->fd, true), 0);
	}
	EXPECT_EQ(ret, 0);
	EXPECT_EQ(check_dmabuf(space, self->fd, PAGE, DMABUF - PAGE), 0);
	EXPECT_GT(left, 2);
	EXPECT_LT(n, MOST_CALLS);
	close(nth);
}

TEST_HARNESS_MAIN
