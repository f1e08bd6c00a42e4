// SPDX-License-Identifier: GPL-2.0
/*
 * No more access than the descriptor had: a memfd opened read-only gives a dma-buf
 * that nobody can write through, one opened write-only gives none.
 *
 * Refusals of importers are in udmabuf_import.
 */
#include <linux/fs.h>

#include "udmabuf_util.h"
#include "../../kselftest_harness.h"

#define PAGES	4
#define SIZE	(PAGES * PAGE)

FIXTURE(access) {
	struct held before;
	int dev;
	int memfd;
	int readonly;
	char *mem;
};

static int reopen(int fd, int flags)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return open(path, flags | O_CLOEXEC);
}

FIXTURE_SETUP(access)
{
	self->before = held();
	self->dev = udmabuf_open();
	self->memfd = memfd_filled(SHMEM, SIZE, 1, (void **)&self->mem);
	self->readonly = reopen(self->memfd, O_RDONLY);
	ASSERT_GE(self->readonly, 0);
}

FIXTURE_TEARDOWN(access)
{
	munmap(self->mem, SIZE);
	close(self->readonly);
	close(self->memfd);
	close(self->dev);
	EXPECT_HELD(self->before);
}

static void check_readonly(struct __test_metadata *_metadata, int fd)
{
	char *map;
	int again;

	EXPECT_EQ(fcntl(fd, F_GETFL) & O_ACCMODE, O_RDONLY);
	EXPECT_EQ(mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0),
		  MAP_FAILED);
	EXPECT_EQ(errno, EACCES);
	EXPECT_EQ(mmap(NULL, SIZE, PROT_WRITE, MAP_SHARED, fd, 0), MAP_FAILED);
	EXPECT_EQ(errno, EACCES);
	EXPECT_EQ(mmap(NULL, SIZE, PROT_READ, MAP_PRIVATE, fd, 0), MAP_FAILED);
	EXPECT_EQ(errno, EINVAL);

	map = map_shared(fd, SIZE, PROT_READ);
	for (size_t i = 0; i < PAGES; i++)
		EXPECT_TRUE(page_is(map + i * PAGE, 1, i));
	EXPECT_EQ(mprotect(map, SIZE, PROT_READ | PROT_WRITE), -1);
	EXPECT_EQ(errno, EACCES);
	EXPECT_EQ(mprotect(map, SIZE, PROT_WRITE), -1);
	EXPECT_EQ(errno, EACCES);

	/* The descriptor cannot be opened again, for writing or at all. */
	again = reopen(fd, O_RDWR);
	EXPECT_EQ(again, -1);
	if (again >= 0)
		close(again);
	/* Nor can its mode be changed. */
	EXPECT_EQ(fcntl(fd, F_SETFL, O_RDWR), 0);
	EXPECT_EQ(fcntl(fd, F_GETFL) & O_ACCMODE, O_RDONLY);
	munmap(map, SIZE);
}

TEST_F(access, readonly)
{
	int fd = udmabuf_create(self->dev, self->readonly, 0, SIZE);

	ASSERT_GE(fd, 0);
	check_readonly(_metadata, fd);
	close(fd);
}

/* What was written to such a file stays as it is. */
TEST_F(access, append_only)
{
	int flags = FS_APPEND_FL, fd;

	ASSERT_EQ(ioctl(self->memfd, FS_IOC_SETFLAGS, &flags), 0);
	fd = udmabuf_create(self->dev, self->memfd, 0, SIZE);
	ASSERT_GE(fd, 0);
	check_readonly(_metadata, fd);
	close(fd);
}

/* One item is enough, wherever in the list it is. */
TEST_F(access, one_readonly_item)
{
	for (size_t at = 0; at < PAGES; at++) {
		struct udmabuf_create_item items[PAGES] = {};
		int fd;

		for (size_t i = 0; i < PAGES; i++) {
			items[i].memfd = i == at ? self->readonly : self->memfd;
			items[i].offset = i * PAGE;
			items[i].size = PAGE;
		}
		fd = udmabuf_create_list(self->dev, items, PAGES);
		ASSERT_GE(fd, 0);
		check_readonly(_metadata, fd);
		close(fd);
	}
}

TEST_F(access, readwrite)
{
	int fd = udmabuf_create(self->dev, self->memfd, 0, SIZE);
	char *map;

	ASSERT_GE(fd, 0);
	EXPECT_EQ(fcntl(fd, F_GETFL) & O_ACCMODE, O_RDWR);
	map = map_shared(fd, SIZE, PROT_READ | PROT_WRITE);
	mark_page(map, 2, 2);
	EXPECT_TRUE(page_is(self->mem, 2, 2));
	munmap(map, SIZE);
	close(fd);
}

TEST_F(access, writeonly)
{
	struct udmabuf_create_item items[2] = {};
	int writeonly = reopen(self->memfd, O_WRONLY);

	ASSERT_GE(writeonly, 0);
	EXPECT_EQ(udmabuf_create(self->dev, writeonly, 0, SIZE), -1);
	EXPECT_EQ(errno, EACCES);

	items[0].memfd = self->memfd;
	items[0].size = PAGE;
	items[1].memfd = writeonly;
	items[1].size = PAGE;
	EXPECT_EQ(udmabuf_create_list(self->dev, items, 2), -1);
	EXPECT_EQ(errno, EACCES);
	close(writeonly);
}

/* A sync says what the CPU does; on a read-only buffer it may only read. */
TEST_F(access, sync)
{
	struct dma_buf_sync sync = { .flags = DMA_BUF_SYNC_START | DMA_BUF_SYNC_READ };
	int fd = udmabuf_create(self->dev, self->readonly, 0, SIZE);

	ASSERT_GE(fd, 0);
	EXPECT_EQ(ioctl(fd, DMA_BUF_IOCTL_SYNC, &sync), 0);
	sync.flags = DMA_BUF_SYNC_END | DMA_BUF_SYNC_READ;
	EXPECT_EQ(ioctl(fd, DMA_BUF_IOCTL_SYNC, &sync), 0);
	close(fd);
}

TEST_HARNESS_MAIN
