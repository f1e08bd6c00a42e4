// SPDX-License-Identifier: GPL-2.0
/*
 * The HMM range helper, with pages that a server in user space brings: through
 * userfaultfd, or as the contents of a file in FUSE
 *
 * While the server takes its time, mmap_lock is free. If it never answers, the task
 * that waits can be killed.
 *
 * Needs root, the module test_hmm_range, CONFIG_USERFAULTFD and CONFIG_FUSE_FS.
 */
#include "hmm_range_util.h"

#include <linux/fuse.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include "../kselftest_harness.h"

#define PAGES	8

static int populate_all(int fd, void *mem)
{
	return populate(fd, mem, PAGES, 0);
}

/* A task that changes mappings needs mmap_lock for writing. */
static bool mmap_lock_is_free(void)
{
	char *mem = map_anon(1);

	return mem != MAP_FAILED && !munmap(mem, PAGE);
}

/* Memory whose pages userfaultfd brings, mirrored, and a task that populates it. */
FIXTURE(uffd) {
	int fd;
	int uffd;
	char *mem;
	char *page;
	struct helper helper;
};

FIXTURE_SETUP(uffd)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = { .mode = UFFDIO_REGISTER_MODE_MISSING };

	self->fd = open_device();
	ASSERT_GE(self->fd, 0);
	self->mem = map_anon(PAGES);
	self->page = map_anon(1);
	ASSERT_NE(self->mem, MAP_FAILED);
	ASSERT_NE(self->page, MAP_FAILED);
	memset(self->page, 0x5a, PAGE);
	ASSERT_TRUE(start_helper(&self->helper));
	self->uffd = syscall(__NR_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	ASSERT_GE(self->uffd, 0);
	ASSERT_EQ(ioctl(self->uffd, UFFDIO_API, &api), 0);
	reg.range.start = (uintptr_t)self->mem;
	reg.range.len = PAGES * PAGE;
	ASSERT_EQ(ioctl(self->uffd, UFFDIO_REGISTER, &reg), 0);
	ASSERT_EQ(mirror_register(self->fd, self->mem, PAGES), 0);
	tell_helper(&self->helper, populate_all, self->fd, self->mem);
}

FIXTURE_TEARDOWN(uffd)
{
	EXPECT_EQ(stats(self->fd).mismatches, 0);
	close(self->uffd);
	end_helper(&self->helper);
	close(self->fd);
	munmap(self->mem, PAGES * PAGE);
	munmap(self->page, PAGE);
}

/* Waits for a fault; the address of its page, or NULL. */
static char *missing_page(int uffd)
{
	struct pollfd ready = { .fd = uffd, .events = POLLIN };
	struct uffd_msg msg;

	if (poll(&ready, 1, LONG_MS) != 1 ||
	    read(uffd, &msg, sizeof(msg)) != sizeof(msg) ||
	    msg.event != UFFD_EVENT_PAGEFAULT)
		return NULL;
	return (char *)(uintptr_t)(msg.arg.pagefault.address & ~(PAGE - 1));
}

static int bring_page(int uffd, const char *to, const char *from)
{
	struct uffdio_copy copy = {
		.dst = (uintptr_t)to, .src = (uintptr_t)from, .len = PAGE,
	};

	return ioctl(uffd, UFFDIO_COPY, &copy);
}

static bool serve(int uffd, const char *from, int pages)
{
	while (pages--) {
		char *page = missing_page(uffd);

		if (!page || bring_page(uffd, page, from))
			return false;
	}
	return true;
}

TEST_F(uffd, populate)
{
	char read[PAGE];

	ASSERT_TRUE(serve(self->uffd, self->page, PAGES));
	EXPECT_EQ(end_helper(&self->helper), 0);
	EXPECT_EQ(count(self->fd, self->mem, PAGES, VALID | WRITABLE), PAGES);
	ASSERT_EQ(device_read(self->fd, self->mem + PAGE, 1, read), 0);
	EXPECT_EQ(memcmp(read, self->page, PAGE), 0);
}

/* The range is hit, and pages that were brought go, while a fault waits. */
TEST_F(uffd, hit_meanwhile)
{
	char *page;

	ASSERT_TRUE(serve(self->uffd, self->page, 2));
	page = missing_page(self->uffd);
	ASSERT_EQ(page, self->mem + 2 * PAGE);
	EXPECT_TRUE(mmap_lock_is_free());
	ASSERT_EQ(madvise(self->mem, PAGES * PAGE, MADV_DONTNEED), 0);
	ASSERT_EQ(bring_page(self->uffd, page, self->page), 0);
	ASSERT_TRUE(serve(self->uffd, self->page, PAGES - 1));
	EXPECT_EQ(end_helper(&self->helper), 0);
	EXPECT_EQ(count(self->fd, self->mem, PAGES, VALID | WRITABLE), PAGES);
}

/* The mapping goes while a fault waits for its page. */
TEST_F(uffd, unmapped_meanwhile)
{
	struct uffdio_range range = { .start = (uintptr_t)self->mem, .len = PAGES * PAGE };

	ASSERT_EQ(missing_page(self->uffd), self->mem);
	ASSERT_EQ(munmap(self->mem, PAGES * PAGE), 0);
	ASSERT_EQ(ioctl(self->uffd, UFFDIO_WAKE, &range), 0);
	EXPECT_EQ(end_helper(&self->helper), -EFAULT);
}

TEST_F(uffd, is_killable)
{
	ASSERT_EQ(missing_page(self->uffd), self->mem);
	EXPECT_TRUE(mmap_lock_is_free());
	ASSERT_EQ(kill(self->helper.pid, SIGKILL), 0);
	EXPECT_EQ(end_helper(&self->helper), SIGKILL);
	EXPECT_EQ(stats(self->fd).waiting, 0);
	EXPECT_EQ(mirror_unregister(self->fd), 0);
	EXPECT_EQ(mirror_register(self->fd, self->mem, PAGES), 0);
}

/* The end of the server ends the wait, as it does for the process itself. */
TEST_F(uffd, server_exits)
{
	ASSERT_EQ(missing_page(self->uffd), self->mem);
	close(self->uffd);
	self->uffd = -1;
	EXPECT_EQ(end_helper(&self->helper), 0);
}

/* A file system with one file, all of whose contents never come. */
struct server {
	pthread_t thread;
	int fuse;
	bool asked;
};

static void reply(int fuse, uint64_t unique, int error, const void *data, size_t size)
{
	struct fuse_out_header header = {
		.len = sizeof(header) + size, .error = error, .unique = unique,
	};
	char message[256];

	memcpy(message, &header, sizeof(header));
	memcpy(message + sizeof(header), data, size);
	if (write(fuse, message, header.len) != header.len)
		perror("write to FUSE");
}

static const struct fuse_attr the_root = {
	.ino = FUSE_ROOT_ID, .mode = S_IFDIR | 0755, .nlink = 2,
};

static const struct fuse_attr the_file = {
	.ino = 2, .size = PAGES * PAGE, .mode = S_IFREG | 0444, .nlink = 1,
};

static void answer(struct server *server, const struct fuse_in_header *in)
{
	struct fuse_init_out init = {
		.major = FUSE_KERNEL_VERSION, .minor = FUSE_KERNEL_MINOR_VERSION,
		.flags = FUSE_ASYNC_READ, .max_write = PAGE,
	};
	struct fuse_entry_out entry = { .nodeid = 2, .attr = the_file };
	struct fuse_attr_out attr = {
		.attr = in->nodeid == FUSE_ROOT_ID ? the_root : the_file,
	};
	struct fuse_open_out opened = { };

	switch (in->opcode) {
	case FUSE_INIT:
		reply(server->fuse, in->unique, 0, &init, sizeof(init));
		break;
	case FUSE_LOOKUP:
		reply(server->fuse, in->unique, 0, &entry, sizeof(entry));
		break;
	case FUSE_GETATTR:
		reply(server->fuse, in->unique, 0, &attr, sizeof(attr));
		break;
	case FUSE_OPEN:
		reply(server->fuse, in->unique, 0, &opened, sizeof(opened));
		break;
	case FUSE_READ:
		__atomic_store_n(&server->asked, true, __ATOMIC_RELAXED);
		break;
	case FUSE_FORGET:
	case FUSE_BATCH_FORGET:
	case FUSE_INTERRUPT:
		break;
	default:
		reply(server->fuse, in->unique, -EOPNOTSUPP, NULL, 0);
	}
}

static void *serves(void *data)
{
	static char message[FUSE_MIN_READ_BUFFER + PAGE];
	struct server *server = data;

	/* Ends when the file system is unmounted, or its connection aborted. */
	while (read(server->fuse, message, sizeof(message)) > 0)
		answer(server, (struct fuse_in_header *)message);
	return NULL;
}

TEST(dead_file_server)
{
	struct server server = { .fuse = open("/dev/fuse", O_RDWR | O_CLOEXEC) };
	struct helper helper;
	struct timespec then;
	char options[100];
	int fd = open_device();
	int file;
	char *mem;

	ASSERT_GE(fd, 0);
	ASSERT_GE(server.fuse, 0);
	ASSERT_EQ(unshare(CLONE_NEWNS), 0);
	ASSERT_EQ(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), 0);
	snprintf(options, sizeof(options), "fd=%d,rootmode=40000,user_id=0,group_id=0",
		 server.fuse);
	ASSERT_EQ(mount("fuse", "/mnt", "fuse", 0, options), 0);
	ASSERT_EQ(pthread_create(&server.thread, NULL, serves, &server), 0);
	file = open("/mnt/file", O_RDONLY);
	ASSERT_GE(file, 0);
	mem = mmap(NULL, PAGES * PAGE, PROT_READ, MAP_SHARED, file, 0);
	ASSERT_NE(mem, MAP_FAILED);
	ASSERT_EQ(mirror_register(fd, mem, PAGES), 0);

	ASSERT_TRUE(start_helper(&helper));
	tell_helper(&helper, populate_all, fd, mem);
	clock_gettime(CLOCK_MONOTONIC, &then);
	while (!__atomic_load_n(&server.asked, __ATOMIC_RELAXED) && ms_since(&then) < LONG_MS)
		sleep_ms(1);
	EXPECT_TRUE(server.asked);
	sleep_ms(50);
	EXPECT_EQ(stats(fd).waiting, 1);
	EXPECT_TRUE(mmap_lock_is_free());
	ASSERT_EQ(kill(helper.pid, SIGKILL), 0);
	EXPECT_EQ(end_helper(&helper), SIGKILL);
	EXPECT_EQ(stats(fd).waiting, 0);
	EXPECT_EQ(mirror_unregister(fd), 0);

	/* Aborts the connection: nothing waits for the server any more. */
	ASSERT_EQ(umount2("/mnt", MNT_FORCE), -1);
	EXPECT_EQ(errno, EBUSY);
	munmap(mem, PAGES * PAGE);
	close(file);
	EXPECT_EQ(umount2("/mnt", 0), 0);
	pthread_join(server.thread, NULL);
	close(server.fuse);
	close(fd);
}

TEST_HARNESS_MAIN
