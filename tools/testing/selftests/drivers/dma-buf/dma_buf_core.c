// SPDX-License-Identifier: GPL-2.0
/*
 * What the dma-buf core ensures for all exporters: that mappings are VM_PFNMAP, and
 * at an address that huge entries can be used at; that no mapping of huge entries which
 * was taken away comes back through fork(); and that a buffer is released with its file.
 *
 * Needs the module dma_buf_test_exporter and CONFIG_DMABUF_REQUIRE_PFNMAP.
 */
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/wait.h>

#include <linux/dma-heap.h>

#include "udmabuf_util.h"
#include "../../kselftest_harness.h"
#include "../../../../../drivers/dma-buf/tests/dma_buf_test_exporter.h"

#define SLOT	entry_size()
#define SIZE	(DMA_BUF_TEST_SLOTS * SLOT)

FIXTURE(core) {
	struct held before;
	int dev;
	int vmas;
};

FIXTURE_SETUP(core)
{
	self->before = held();
	self->dev = open("/dev/dma_buf_test", O_RDWR | O_CLOEXEC);
	ASSERT_GE(self->dev, 0);
	self->vmas = ioctl(self->dev, DMA_BUF_TEST_VMAS);
}

FIXTURE_TEARDOWN(core)
{
	EXPECT_EQ(ioctl(self->dev, DMA_BUF_TEST_VMAS), self->vmas);
	close(self->dev);
	EXPECT_HELD(self->before);
}

static int test_buffer(int dev, __u32 kind)
{
	return ioctl(dev, DMA_BUF_TEST_CREATE, &kind);
}

/* How many lines of the kernel's log have @text. */
static int log_lines(const char *text)
{
	int fd = open("/dev/kmsg", O_RDONLY | O_NONBLOCK), n = 0;
	char record[2048];
	ssize_t len;

	if (fd < 0)
		die("/dev/kmsg");
	while ((len = read(fd, record, sizeof(record) - 1)) > 0 ||
	       (len < 0 && errno == EPIPE)) {
		if (len < 0)
			continue;
		record[len] = '\0';
		n += !!strstr(record, text);
	}
	close(fd);
	return n;
}

/*
 * Refused and undone; the log names the exporter once, although it has two sets of
 * operations for these buffers.
 */
TEST_F(core, mapping_that_is_not_pfnmap)
{
	static const char text[] = "dma_buf_test_exporter: mmap is not VM_PFNMAP";

	for (int i = 0; i < 4; i++) {
		int fd = test_buffer(self->dev, i % 2 ? DMA_BUF_TEST_INSERT :
				     DMA_BUF_TEST_MIXEDMAP);

		ASSERT_GE(fd, 0);
		EXPECT_EQ(mmap(NULL, SIZE, PROT_READ, MAP_SHARED, fd, 0), MAP_FAILED);
		EXPECT_EQ(errno, EINVAL);
		EXPECT_EQ(ioctl(self->dev, DMA_BUF_TEST_VMAS), self->vmas);
		close(fd);
	}
	EXPECT_EQ(log_lines(text), 1);
}

/*
 * The same through an importer's mmap.  If the exporter leaves the vma's operations as
 * they are, the importer undoes its own mmap.
 */
TEST_F(core, import_that_is_not_pfnmap)
{
	for (__u32 kind = DMA_BUF_TEST_MIXEDMAP; kind <= DMA_BUF_TEST_INSERT; kind++) {
		int importer = open("/dev/dma_buf_test", O_RDWR | O_CLOEXEC);
		__u32 fd = test_buffer(self->dev, kind);
		void *map;

		ASSERT_GE(importer, 0);
		ASSERT_EQ(ioctl(importer, DMA_BUF_TEST_IMPORT, &fd), 0);
		close(fd);
		map = mmap(NULL, SIZE, PROT_READ, MAP_SHARED, importer, 0);
		if (kind == DMA_BUF_TEST_PFNMAP) {
			ASSERT_NE(map, MAP_FAILED);
			EXPECT_EQ(ioctl(self->dev, DMA_BUF_TEST_VMAS), self->vmas + 1);
			munmap(map, SIZE);
		} else {
			EXPECT_EQ(map, MAP_FAILED);
			EXPECT_EQ(errno, EINVAL);
		}
		EXPECT_EQ(ioctl(self->dev, DMA_BUF_TEST_VMAS), self->vmas);
		close(importer);
	}
}

TEST_F(core, mapping_that_is_pfnmap)
{
	int fd = test_buffer(self->dev, DMA_BUF_TEST_PFNMAP);
	char *map;

	ASSERT_GE(fd, 0);
	map = map_shared(fd, SIZE, PROT_READ | PROT_WRITE);
	map[0] = 1;
	EXPECT_EQ(map[SLOT], 1);
	EXPECT_EQ(ioctl(self->dev, DMA_BUF_TEST_VMAS), self->vmas + 1);
	munmap(map, SIZE);
	close(fd);
}

/* A huge entry and more: congruent with the offset; less: anywhere. */
TEST_F(core, address)
{
	const size_t offsets[] = { 0, PAGE, 7 * PAGE, SLOT, 2 * SLOT - PAGE };
	char *gap;
	int fd;

	if (!has_huge_entries())
		SKIP(return, NO_HUGE_ENTRIES);
	fd = test_buffer(self->dev, DMA_BUF_TEST_PFNMAP);
	gap = mmap(NULL, 3 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_GE(fd, 0);
	for (size_t i = 0; i < ARRAY_SIZE(offsets); i++) {
		size_t size = 3 * SLOT;
		char *map = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, offsets[i]);

		ASSERT_NE(map, MAP_FAILED);
		EXPECT_EQ(((uintptr_t)map - offsets[i]) % SLOT, 0);
		munmap(map, size);
	}
	munmap(gap, 3 * PAGE);
	close(fd);
}

/* A hint is used as it is, also where there is no room to align the address. */
TEST_F(core, hint)
{
	size_t size = 3 * SLOT;
	char *area, *hint, *map;
	int fd;

	if (!has_huge_entries())
		SKIP(return, NO_HUGE_ENTRIES);
	fd = test_buffer(self->dev, DMA_BUF_TEST_PFNMAP);
	ASSERT_GE(fd, 0);
	area = mmap(NULL, size + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(area, MAP_FAILED);
	hint = area + PAGE;
	ASSERT_EQ(munmap(hint, size), 0);
	map = mmap(hint, size, PROT_READ, MAP_SHARED, fd, 0);
	EXPECT_EQ(map, hint);

	/* Now the place is taken. */
	map = mmap(hint, size, PROT_READ, MAP_SHARED, fd, 0);
	ASSERT_NE(map, MAP_FAILED);
	EXPECT_NE(map, hint);
	EXPECT_EQ((uintptr_t)map % SLOT, 0);
	munmap(map, size);

	map = mmap(hint, size, PROT_READ, MAP_SHARED | MAP_FIXED, fd, PAGE);
	EXPECT_EQ(map, hint);
	map = mmap(hint, size, PROT_READ, MAP_SHARED | MAP_FIXED_NOREPLACE, fd, 0);
	EXPECT_EQ(map, MAP_FAILED);
	EXPECT_EQ(errno, EEXIST);
	munmap(area, size + 2 * PAGE);
	close(fd);
}

/*
 * Buffers that have no huge entries get no address that would allow for them: of two
 * mappings, one below the other, with offsets that differ by a page, at most one is
 * congruent with its offset by chance.
 */
TEST_F(core, address_of_others)
{
	int heap = open("/dev/dma_heap/system", O_RDWR | O_CLOEXEC);
	struct dma_heap_allocation_data data = {
		.len = 3 * SLOT,
		.fd_flags = O_RDWR | O_CLOEXEC,
	};
	char *maps[2];

	ASSERT_GE(heap, 0);
	ASSERT_EQ(ioctl(heap, DMA_HEAP_IOCTL_ALLOC, &data), 0);
	for (int i = 0; i < 2; i++) {
		maps[i] = mmap(NULL, 2 * SLOT, PROT_READ, MAP_SHARED, data.fd, i * PAGE);
		ASSERT_NE(maps[i], MAP_FAILED);
	}
	EXPECT_FALSE((uintptr_t)maps[0] % SLOT == 0 && (uintptr_t)maps[1] % SLOT == PAGE);
	munmap(maps[0], 2 * SLOT);
	munmap(maps[1], 2 * SLOT);
	close(data.fd);
	close(heap);
}

static sigjmp_buf fault_return;

static void on_fault(int sig)
{
	siglongjmp(fault_return, sig);
}

/* Slots of the mapping that can be read. */
static int readable(volatile char *map)
{
	volatile int n = 0;	/* must not be counted before the access */

	signal(SIGBUS, on_fault);
	for (volatile int i = 0; i < DMA_BUF_TEST_SLOTS; i++)
		if (!sigsetjmp(fault_return, 1)) {
			(void)map[i * SLOT];
			n++;
		}
	signal(SIGBUS, SIG_DFL);
	return n;
}

/* A revoked mapping cannot be read until it is restored. */
TEST_F(core, revoked)
{
	int fd = test_buffer(self->dev, DMA_BUF_TEST_PFNMAP);
	char *map;

	ASSERT_GE(fd, 0);
	map = map_shared(fd, SIZE, PROT_READ);
	EXPECT_EQ(readable(map), DMA_BUF_TEST_SLOTS);
	ASSERT_EQ(ioctl(self->dev, DMA_BUF_TEST_REVOKE, &fd), 0);
	EXPECT_EQ(readable(map), 0);
	ASSERT_EQ(ioctl(self->dev, DMA_BUF_TEST_RESTORE, &fd), 0);
	EXPECT_EQ(readable(map), DMA_BUF_TEST_SLOTS);
	munmap(map, SIZE);
	close(fd);
}

struct revoker {
	int dev;
	struct dma_buf_test_fork what;
	int ret;
	int error;
	volatile bool done;
};

static void *revoke_in_fork(void *arg)
{
	struct revoker *r = arg;

	r->ret = ioctl(r->dev, DMA_BUF_TEST_REVOKE_IN_FORK, &r->what);
	r->error = errno;
	r->done = true;
	return NULL;
}

/*
 * The exporter takes an entry away after fork() has read it and before fork() has its
 * lock: neither parent nor child can read it afterwards.
 */
TEST_F(core, fork_while_revoked)
{
	struct revoker r = { .dev = self->dev };
	pthread_t thread;
	int status, fd;
	pid_t pid;
	char *map;

	if (sysconf(_SC_NPROCESSORS_ONLN) < 2)
		SKIP(return, "needs two CPUs");
	if (!has_huge_entries())
		SKIP(return, NO_HUGE_ENTRIES);
	fd = test_buffer(self->dev, DMA_BUF_TEST_PFNMAP);
	ASSERT_GE(fd, 0);
	map = map_shared(fd, SIZE, PROT_READ);
	(void)*(volatile char *)map;
	r.what.fd = fd;
	r.what.address = (uintptr_t)map;
	ASSERT_EQ(pthread_create(&thread, NULL, revoke_in_fork, &r), 0);
	while (!ioctl(self->dev, DMA_BUF_TEST_HELD) && !r.done)
		;

	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid)
		_exit(readable(map));
	ASSERT_EQ(pthread_join(thread, NULL), 0);
	ASSERT_EQ(r.ret, 0) {
		TH_LOG("%s", strerror(r.error));
	}
	ASSERT_EQ(waitpid(pid, &status, 0), pid);
	ASSERT_TRUE(WIFEXITED(status));
	EXPECT_EQ(WEXITSTATUS(status), 0);
	EXPECT_EQ(readable(map), 0);
	munmap(map, SIZE);
	close(fd);
}

/* A descriptor with O_PATH: it refers to the dma-buf's name, and not to its file. */
static int path_only(int fd)
{
	char path[40];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return open(path, O_PATH | O_CLOEXEC);
}

/*
 * The exporter finds its buffer, and so its file, until the buffer is released. With the
 * buffer released late, KASAN reports the file's use after it was freed, where
 * CONFIG_SLUB_RCU_DEBUG lets it see that.
 */
TEST_F(core, released_with_its_file)
{
	static const char bufinfo[] = "/sys/kernel/debug/dma_buf/bufinfo";
	long lines = count_lines(bufinfo);
	int fd = test_buffer(self->dev, DMA_BUF_TEST_PFNMAP);
	int path = path_only(fd), again;
	char link[40], name[100] = "";

	ASSERT_GE(fd, 0);
	ASSERT_GE(path, 0);
	again = ioctl(self->dev, DMA_BUF_TEST_LAST);
	ASSERT_GE(again, 0);
	close(fd);
	fd = ioctl(self->dev, DMA_BUF_TEST_LAST);
	ASSERT_GE(fd, 0);
	close(fd);
	close(again);
	for (int i = 0; i < 10; i++) {
		EXPECT_EQ(ioctl(self->dev, DMA_BUF_TEST_LAST), -1);
		EXPECT_EQ(errno, ENOENT);
		usleep(100000);		/* for RCU, which frees files */
	}
	EXPECT_EQ(count_lines(bufinfo), lines);
	snprintf(link, sizeof(link), "/proc/self/fd/%d", path);
	EXPECT_GT(readlink(link, name, sizeof(name) - 1), 0);
	EXPECT_EQ(strncmp(name, "/dmabuf:", 8), 0) {
		TH_LOG("%s", name);
	}
	close(path);
}

/* A descriptor with O_PATH does not keep pages pinned. */
TEST_F(core, no_pins_by_path)
{
	int dev = udmabuf_open(), memfd = memfd_new(SHMEM, PAGE);
	int fd = udmabuf_create(dev, memfd, 0, PAGE), path = path_only(fd);

	ASSERT_GE(fd, 0);
	ASSERT_GE(path, 0);
	EXPECT_EQ(fcntl(memfd, F_ADD_SEALS, F_SEAL_WRITE), -1);
	EXPECT_EQ(errno, EBUSY);
	close(fd);
	EXPECT_EQ(fcntl(memfd, F_ADD_SEALS, F_SEAL_WRITE), 0);
	close(path);
	close(memfd);
	close(dev);
}

TEST_HARNESS_MAIN
