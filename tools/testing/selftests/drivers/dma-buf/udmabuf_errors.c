// SPDX-License-Identifier: GPL-2.0
/*
 * Bad input to /dev/udmabuf: each gives the errno that include/uapi/linux/udmabuf.h
 * says, to 64-bit and to 32-bit callers alike, and nothing is left behind.
 */
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include "stalled_write.h"
#include "udmabuf_util.h"
#include "../../kselftest_harness.h"

#define PAGES	8
#define SIZE	(PAGES * PAGE)

FIXTURE(errors) {
	struct held before;
	int dev;
	int memfd;
	/* What is handed to the kernel; a 32-bit caller's pointers have 32 bits. */
	struct udmabuf_create *create;
	struct udmabuf_create_list *list;
};

FIXTURE_VARIANT(errors) {
	bool compat;
};

FIXTURE_VARIANT_ADD(errors, native) { .compat = false };
#ifdef __x86_64__
FIXTURE_VARIANT_ADD(errors, compat) { .compat = true };
#endif

/* Whole pages: room for a list of 1025 items. */
#define LIST_ROOM	(7 * PAGE)

FIXTURE_SETUP(errors)
{
	self->before = held();
	self->dev = udmabuf_open();
	self->memfd = memfd_filled(SHMEM, SIZE, 1, NULL);
	self->list = mmap((void *)0x10000000, LIST_ROOM, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	ASSERT_EQ(self->list, (void *)0x10000000);
	self->create = (void *)self->list;
}

FIXTURE_TEARDOWN(errors)
{
	munmap(self->list, LIST_ROOM);
	close(self->memfd);
	close(self->dev);
	EXPECT_HELD(self->before);
}

/* As the system call of this or of a 32-bit program; a descriptor or -errno. */
static int do_ioctl(bool compat, int fd, unsigned long cmd, void *arg)
{
	int ret;

#ifdef __x86_64__
	if (compat) {
		/* i386: eax = 54, ebx, ecx, edx.  The kernel clobbers r8 to r11. */
		asm volatile("int $0x80" : "=a" (ret)
			     : "0" (54), "b" (fd), "c" (cmd), "d" (arg)
			     : "memory", "r8", "r9", "r10", "r11");
		return ret;
	}
#endif
	ret = ioctl(fd, cmd, arg);
	return ret < 0 ? -errno : ret;
}

#define EXPECT_CREATE(memfd_, offset_, size_, err) do {			\
	*self->create = (struct udmabuf_create) {				\
		.memfd = (memfd_), .offset = (offset_), .size = (size_),	\
	};									\
	EXPECT_EQ(do_ioctl(variant->compat, self->dev, UDMABUF_CREATE,		\
			   self->create), -(err));				\
	EXPECT_EQ(held().pins, self->before.pins);				\
	EXPECT_EQ(held().buffers, self->before.buffers);			\
} while (0)

#define EXPECT_LIST(err) do {							\
	EXPECT_EQ(do_ioctl(variant->compat, self->dev, UDMABUF_CREATE_LIST,	\
			   self->list), -(err));				\
	EXPECT_EQ(held().pins, self->before.pins);				\
	EXPECT_EQ(held().buffers, self->before.buffers);			\
} while (0)

/* A list of @count good items of one page. */
static void good_list(FIXTURE_DATA(errors) *self, uint32_t count)
{
	self->list->flags = 0;
	self->list->count = count;
	for (uint32_t i = 0; i < count; i++)
		self->list->list[i] = (struct udmabuf_create_item) {
			.memfd = self->memfd,
			.offset = i % PAGES * PAGE,
			.size = PAGE,
		};
}

/* The calls that are to fail work when nothing is wrong: and for 32 bits, too. */
TEST_F(errors, none)
{
	int fd;

	*self->create = (struct udmabuf_create) {
		.memfd = self->memfd, .size = SIZE, .flags = 0xfffffffe,
	};
	fd = do_ioctl(variant->compat, self->dev, UDMABUF_CREATE, self->create);
	ASSERT_GE(fd, 0);
	EXPECT_EQ(fcntl(fd, F_GETFD), 0);
	close(fd);

	self->create->flags = UDMABUF_FLAGS_CLOEXEC | 0x8000;
	fd = do_ioctl(variant->compat, self->dev, UDMABUF_CREATE, self->create);
	ASSERT_GE(fd, 0);
	EXPECT_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
	close(fd);

	/* Padding is ignored, the largest count allowed is allowed. */
	good_list(self, 1024);
	self->list->list[7].__pad = 0xffffffff;
	self->list->flags = UDMABUF_FLAGS_CLOEXEC;
	fd = do_ioctl(variant->compat, self->dev, UDMABUF_CREATE_LIST, self->list);
	ASSERT_GE(fd, 0);
	EXPECT_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
	EXPECT_EQ(lseek(fd, 0, SEEK_END), 1024 * PAGE);
	close(fd);
}

TEST_F(errors, offset_and_size)
{
	EXPECT_CREATE(self->memfd, 1, PAGE, EINVAL);
	EXPECT_CREATE(self->memfd, PAGE / 2, PAGE, EINVAL);
	EXPECT_CREATE(self->memfd, 0, PAGE - 1, EINVAL);
	EXPECT_CREATE(self->memfd, 0, PAGE + 1, EINVAL);
	EXPECT_CREATE(self->memfd, 0, 0, EINVAL);
	EXPECT_CREATE(self->memfd, PAGE, 0, EINVAL);

	/* Past the end, by a page and by a lot, and where sums overflow. */
	EXPECT_CREATE(self->memfd, 0, SIZE + PAGE, EINVAL);
	EXPECT_CREATE(self->memfd, SIZE, PAGE, EINVAL);
	EXPECT_CREATE(self->memfd, SIZE - PAGE, 2 * PAGE, EINVAL);
	EXPECT_CREATE(self->memfd, 1ULL << 62, PAGE, EINVAL);
	EXPECT_CREATE(self->memfd, (1ULL << 63) - PAGE, PAGE, EINVAL);
	EXPECT_CREATE(self->memfd, 1ULL << 63, PAGE, EINVAL);
	EXPECT_CREATE(self->memfd, -(uint64_t)PAGE, PAGE, EINVAL);
	EXPECT_CREATE(self->memfd, -(uint64_t)PAGE, 2 * PAGE, EINVAL);
	EXPECT_CREATE(self->memfd, PAGE, -(uint64_t)PAGE, EINVAL);
	EXPECT_CREATE(self->memfd, 0, -(uint64_t)PAGE, EINVAL);
}

static long blocks(int fd)
{
	struct stat st;

	if (fstat(fd, &st))
		die("fstat");
	return st.st_blocks;
}

/*
 * A wrong descriptor, or a wrong range of its memfd, is noticed before any
 * memfd is given pages: those of the good item before it, or those up to its end.
 */
TEST_F(errors, nothing_populated)
{
	const struct { enum memory memory; size_t size; } memfds[] = {
		{ SHMEM, SIZE }, { HUGETLB, HUGE },
	};
	int unsealed = memfd_create("unsealed", MFD_ALLOW_SEALING | MFD_CLOEXEC);

	want_huge_pages();
	self->before.free_huge = held().free_huge;
	ASSERT_EQ(ftruncate(unsealed, SIZE), 0);
	for (size_t i = 0; i < ARRAY_SIZE(memfds); i++) {
		int memfd = memfd_new(memfds[i].memory, memfds[i].size);
		size_t size = memfds[i].size;

		EXPECT_CREATE(memfd, 0, size + PAGE, EINVAL);
		EXPECT_CREATE(memfd, size - PAGE, 2 * PAGE, EINVAL);
		for (int bad = 0; bad < 4; bad++) {
			good_list(self, 3);
			for (int j = 0; j < 3; j++)
				self->list->list[j].memfd = memfd;
			switch (bad) {
			case 0:
				self->list->list[2].offset = size;
				EXPECT_LIST(EINVAL);
				break;
			case 1:
				self->list->list[2].memfd = unsealed;
				EXPECT_LIST(EINVAL);
				break;
			case 2:
				self->list->list[2].memfd = self->dev;
				EXPECT_LIST(EBADFD);
				break;
			case 3:
				self->list->list[2].memfd = 4000;
				EXPECT_LIST(EBADFD);
				break;
			}
		}
		EXPECT_EQ(blocks(memfd), 0);
		close(memfd);
	}
	EXPECT_EQ(blocks(unsealed), 0);
	close(unsealed);
}

TEST_F(errors, size_limit)
{
	int memfd = memfd_new(SHMEM, 65UL << 20);
	long limit = udmabuf_parameter("size_limit_mb", 64);
	int fd;

	EXPECT_CREATE(memfd, 0, (64UL << 20) + PAGE, EINVAL);
	fd = udmabuf_create(self->dev, memfd, PAGE, 64UL << 20);
	EXPECT_GE(fd, 0);
	close(fd);

	/* Two items, each within the limit. */
	good_list(self, 2);
	for (int i = 0; i < 2; i++) {
		self->list->list[i].memfd = memfd;
		self->list->list[i].offset = 0;
		self->list->list[i].size = (32UL << 20) + i * PAGE;
	}
	EXPECT_LIST(EINVAL);

	/* By default there is none. */
	udmabuf_parameter("size_limit_mb", limit);
	EXPECT_EQ(limit, INT_MAX);
	fd = udmabuf_create(self->dev, memfd, 0, 65UL << 20);
	EXPECT_GE(fd, 0);
	close(fd);
	close(memfd);
}

TEST_F(errors, list_limit)
{
	good_list(self, 1025);
	EXPECT_LIST(EINVAL);
	self->list->count = UINT_MAX;
	EXPECT_LIST(EINVAL);
	self->list->count = 0;
	EXPECT_LIST(EINVAL);
}

/*
 * With the limits as high as they can be set, what stops a count or a size is
 * arithmetic that does not overflow, and memory that there is not.
 */
TEST_F(errors, integer_limits)
{
	long lists = udmabuf_parameter("list_limit", INT_MAX);
	long sizes = udmabuf_parameter("size_limit_mb", INT_MAX);
	static const uint32_t counts[] = {
		INT_MAX, INT_MAX / 24 + 1, 0x0aaaaaab, 0x55555556, 0x7ffffffe,
	};
	/* As long as files get. */
	const uint64_t longest = (sizeof(long) == 8 ? LONG_MAX - PAGE + 1 :
				  (uint64_t)LONG_MAX * PAGE);
	int sparse;

	good_list(self, 1);
	for (size_t i = 0; i < ARRAY_SIZE(counts); i++) {
		int err;

		self->list->count = counts[i];
		err = do_ioctl(variant->compat, self->dev, UDMABUF_CREATE_LIST,
			       self->list);
		EXPECT_TRUE(err == -ENOMEM || err == -EFAULT);
	}
	self->list->count = (uint32_t)INT_MAX + 1;
	EXPECT_LIST(EINVAL);

	/* Sizes around what fits a buffer. */
	sparse = memfd_new(SHMEM, 0);
	ASSERT_EQ(ftruncate(sparse, longest), 0);
	EXPECT_CREATE(sparse, 0, (uint64_t)UINT_MAX * PAGE + PAGE, EINVAL);
	EXPECT_CREATE(sparse, 0, longest, EINVAL);
	EXPECT_CREATE(sparse, longest, PAGE, EINVAL);

	/* Sizes whose sum in pages overflows 32 and 64 bits. */
	good_list(self, 1024);
	for (int i = 0; i < 1024; i++) {
		self->list->list[i].memfd = sparse;
		self->list->list[i].offset = 0;
		self->list->list[i].size = (uint64_t)PAGE << 22;
	}
	EXPECT_LIST(EINVAL);
	for (int i = 0; i < 1024; i++)
		self->list->list[i].size = 1ULL << 62;
	EXPECT_LIST(EINVAL);
	close(sparse);
	udmabuf_parameter("list_limit", lists);
	udmabuf_parameter("size_limit_mb", sizes);
}

/* A good item at the front does not save a bad one, nor does it stay pinned. */
TEST_F(errors, one_bad_item)
{
	for (int at = 0; at < 3; at++) {
		good_list(self, 3);
		self->list->list[at].memfd = 4000;
		EXPECT_LIST(EBADFD);
		good_list(self, 3);
		self->list->list[at].memfd = self->dev;
		EXPECT_LIST(EBADFD);
		good_list(self, 3);
		self->list->list[at].size = 0;
		EXPECT_LIST(EINVAL);
		good_list(self, 3);
		self->list->list[at].offset = SIZE;
		EXPECT_LIST(EINVAL);
		good_list(self, 3);
		self->list->list[at].offset = 7;
		EXPECT_LIST(EINVAL);
	}
}

TEST_F(errors, descriptors)
{
	int path = open("/", O_PATH);
	int null = open("/dev/null", O_RDWR);
	int pipes[2];

	ASSERT_EQ(pipe(pipes), 0);
	EXPECT_CREATE(-1, 0, PAGE, EBADFD);
	EXPECT_CREATE(INT_MAX, 0, PAGE, EBADFD);
	EXPECT_CREATE(4000, 0, PAGE, EBADFD);
	EXPECT_CREATE(self->dev, 0, PAGE, EBADFD);
	EXPECT_CREATE(null, 0, PAGE, EBADFD);
	EXPECT_CREATE(path, 0, PAGE, EBADFD);
	EXPECT_CREATE(pipes[0], 0, PAGE, EBADFD);
	close(path);
	close(null);
	close(pipes[0]);
	close(pipes[1]);
}

/* A dma-buf is not a memfd, not even ours. */
TEST_F(errors, dma_buf)
{
	int fd = udmabuf_create(self->dev, self->memfd, 0, PAGE);

	ASSERT_GE(fd, 0);
	EXPECT_EQ(udmabuf_create(self->dev, fd, 0, PAGE), -1);
	EXPECT_EQ(errno, EBADFD);
	close(fd);
}

static int sealed_memfd(unsigned int seals)
{
	int fd = memfd_create("sealed", MFD_ALLOW_SEALING | MFD_CLOEXEC);

	if (fd < 0 || ftruncate(fd, SIZE) || fcntl(fd, F_ADD_SEALS, seals))
		die("memfd");
	return fd;
}

TEST_F(errors, seals)
{
	static const struct { unsigned int seals; int err; } cases[] = {
		{ 0, EINVAL },
		{ F_SEAL_GROW, EINVAL },
		{ F_SEAL_SHRINK | F_SEAL_WRITE, EINVAL },
		{ F_SEAL_SHRINK | F_SEAL_FUTURE_WRITE, EINVAL },
		{ F_SEAL_WRITE, EINVAL },
	};
	int plain = open("/dev/shm", O_TMPFILE | O_RDWR, 0600);
	int memfd, fd;

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		memfd = sealed_memfd(cases[i].seals);
		EXPECT_CREATE(memfd, 0, PAGE, cases[i].err);
		close(memfd);
	}
	memfd = sealed_memfd(F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
	fd = udmabuf_create(self->dev, memfd, 0, PAGE);
	EXPECT_GE(fd, 0);
	close(fd);
	close(memfd);

	/* A file of tmpfs is a file of shmem, but has no seals. */
	ASSERT_GE(plain, 0);
	ASSERT_EQ(ftruncate(plain, SIZE), 0);
	EXPECT_CREATE(plain, 0, PAGE, EINVAL);
	close(plain);
}

TEST_F(errors, hugetlb)
{
	int memfd;

	want_huge_pages();
	self->before.free_huge = held().free_huge;
	memfd = memfd_new(HUGETLB, HUGE);
	EXPECT_CREATE(memfd, HUGE, PAGE, EINVAL);
	EXPECT_CREATE(memfd, HUGE - PAGE, 2 * PAGE, EINVAL);
	EXPECT_CREATE(memfd, 0, HUGE + PAGE, EINVAL);
	close(memfd);
}

TEST_F(errors, bad_addresses)
{
	char *end = (char *)self->list + LIST_ROOM;	/* nothing is there */
	struct udmabuf_create_list *last;

	EXPECT_EQ(do_ioctl(variant->compat, self->dev, UDMABUF_CREATE, NULL), -EFAULT);
	EXPECT_EQ(do_ioctl(variant->compat, self->dev, UDMABUF_CREATE_LIST, NULL),
		  -EFAULT);
	EXPECT_EQ(do_ioctl(variant->compat, self->dev, UDMABUF_CREATE, end - 8),
		  -EFAULT);

	/* The head can be read, the items cannot, or not all. */
	last = (void *)(end - sizeof(*last) - sizeof(last->list[0]));
	last->flags = 0;
	last->count = 2;
	last->list[0] = (struct udmabuf_create_item) {
		.memfd = self->memfd, .size = PAGE,
	};
	EXPECT_EQ(do_ioctl(variant->compat, self->dev, UDMABUF_CREATE_LIST, last),
		  -EFAULT);
}

TEST_F(errors, unknown_ioctls)
{
	EXPECT_EQ(do_ioctl(variant->compat, self->dev, _IO('u', 0x42), self->create),
		  -ENOTTY);
	EXPECT_EQ(do_ioctl(variant->compat, self->dev, UDMABUF_CREATE + 2, self->create),
		  -ENOTTY);
	EXPECT_EQ(do_ioctl(variant->compat, self->dev, _IOR('u', 0x42, long),
			   self->create), -ENOTTY);
}

/* If no descriptor is left for the dma-buf, the buffer is freed again. */
TEST_F(errors, no_descriptor_left)
{
	struct rlimit old, few;
	int err;

	ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &old), 0);
	few = old;
	few.rlim_cur = 0;	/* no new ones; those that are open stay */
	ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &few), 0);
	*self->create = (struct udmabuf_create) {
		.memfd = self->memfd, .size = SIZE,
	};
	err = do_ioctl(variant->compat, self->dev, UDMABUF_CREATE, self->create);
	ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &old), 0);
	EXPECT_EQ(err, -EMFILE);
}

/*
 * A fatal signal in the middle of a large creation ends it.  The memory would take
 * seconds to allocate and clear: far longer than from the signal to the exit.
 */
TEST_F_TIMEOUT(errors, fatal_signal, 300)
{
	long limit = udmabuf_parameter("size_limit_mb", 1024);
	int memfd = memfd_new(SHMEM, 1UL << 30);
	struct timespec pause = { .tv_nsec = 50 * 1000 * 1000 };
	int status, ready[2];
	struct stat st;
	pid_t pid;

	ASSERT_EQ(pipe(ready), 0);
	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid) {
		if (write(ready[1], "", 1) == 1)
			udmabuf_create(self->dev, memfd, 0, 1UL << 30);
		_exit(0);
	}
	ASSERT_EQ(read(ready[0], &status, 1), 1);
	/* Until pinning has begun; then at once. */
	do {
		nanosleep(&pause, NULL);
		ASSERT_EQ(fstat(memfd, &st), 0);
	} while (!st.st_blocks);
	kill(pid, SIGKILL);
	ASSERT_EQ(waitpid(pid, &status, 0), pid);
	EXPECT_TRUE(WIFSIGNALED(status));
	ASSERT_EQ(fstat(memfd, &st), 0);
	EXPECT_LT(st.st_blocks * 512L, 1L << 30);
	EXPECT_EQ(held().pins, self->before.pins);

	/* That no pin is left is what allows this seal. */
	EXPECT_EQ(fcntl(memfd, F_ADD_SEALS, F_SEAL_WRITE), 0);
	close(memfd);
	close(ready[0]);
	close(ready[1]);
	udmabuf_parameter("size_limit_mb", limit);
}

/*
 * Another process can have the lock of a memfd's inode as long as it likes.  A task that waits
 * for it can be killed.
 */
TEST_F(errors, killed_while_written)
{
	struct stalled_write writer;
	int status, tries;
	pid_t pid;

	ASSERT_TRUE(stalled_write_begin(&writer, self->memfd));
	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid) {
		udmabuf_create(self->dev, self->memfd, 0, SIZE);
		_exit(0);
	}
	usleep(200000);
	EXPECT_EQ(waitpid(pid, &status, WNOHANG), 0);
	kill(pid, SIGKILL);
	for (tries = 0; tries < 100 && waitpid(pid, &status, WNOHANG) != pid; tries++)
		usleep(50000);
	EXPECT_LT(tries, 100);
	stalled_write_end(&writer);
	if (tries == 100)
		waitpid(pid, &status, 0);
}

/*
 * One page can be listed over and over, in buffer after buffer: it is refused before
 * the page's count overflows, half way there.
 */
TEST_F_TIMEOUT(errors, too_many_pins, 600)
{
	struct rlimit files = { 4096, 4096 };
	int fds[2048], n = 0, err = 0;

	if (variant->compat)
		return;	/* the page does not know who pins it */
	ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &files), 0);
	good_list(self, 1024);
	for (int i = 0; i < 1024; i++)
		self->list->list[i].offset = 0;
	while (n < 2048) {
		fds[n] = do_ioctl(false, self->dev, UDMABUF_CREATE_LIST, self->list);
		if (fds[n] < 0) {
			err = fds[n];
			break;
		}
		n++;
	}
	EXPECT_EQ(err, -ENOMEM);
	EXPECT_GE(n, 1000);
	EXPECT_EQ(held().pins, self->before.pins + 1024L * n);
	/* Its neighbour can be pinned as before. */
	self->list->count = 1;
	self->list->list[0].offset = PAGE;
	fds[n] = do_ioctl(false, self->dev, UDMABUF_CREATE_LIST, self->list);
	EXPECT_GE(fds[n], 0);
	while (n >= 0)
		close(fds[n--]);
}

/**
 * struct sealer - a thread that seals memfds while others make buffers of them
 * @memfd: the memfd to seal
 * @sealed: whether the seal was set
 */
struct sealer {
	int memfd;
	int sealed;
};

static void *sealer_run(void *arg)
{
	struct sealer *s = arg;

	s->sealed = !fcntl(s->memfd, F_ADD_SEALS, F_SEAL_WRITE);
	return NULL;
}

/* Either the seal is set or there is a buffer to write through, never both. */
TEST_F_TIMEOUT(errors, seal_races_with_creation, 300)
{
	int both = 0;

	for (int i = 0; i < 60; i++) {
		struct sealer s = { .memfd = memfd_new(SHMEM, 2000 * PAGE) };
		pthread_t thread;
		int fd;

		ASSERT_EQ(pthread_create(&thread, NULL, sealer_run, &s), 0);
		fd = udmabuf_create(self->dev, s.memfd, 0, 2000 * PAGE);
		pthread_join(thread, NULL);
		both += fd >= 0 && s.sealed;
		if (fd >= 0)
			close(fd);
		close(s.memfd);
	}
	EXPECT_EQ(both, 0);
}

TEST_HARNESS_MAIN
