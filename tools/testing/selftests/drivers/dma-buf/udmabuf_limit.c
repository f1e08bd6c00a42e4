// SPDX-License-Identifier: GPL-2.0
/*
 * How much one user's buffers may pin: what counts, for whom, and until when.
 *
 * The tests are root all the time, as far as files are concerned, and change the real
 * uid, which is the one that counts, and CAP_IPC_LOCK, which exempts.  Where it matters
 * that a process has no privilege, a child gives up all of them.
 */
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <linux/capability.h>

#include "udmabuf_drm.h"
#include "../../kselftest_harness.h"

#define LIMIT_MB	8
#define LIMIT		(LIMIT_MB * 1024L * 1024)

/* Users that own nothing else. */
#define USER		4711
#define OTHER_USER	4712
#define SUB_UID		471100
#define CONTAINER_UID	471200

static void set_real_uid(uid_t uid)
{
	if (setresuid(uid, 0, 0))
		die("setresuid");
}

/* With it, a process may pin more than the limit. */
static void set_ipc_lock(bool on)
{
	struct __user_cap_header_struct header = {
		.version = _LINUX_CAPABILITY_VERSION_3,
	};
	struct __user_cap_data_struct data[2];

	if (syscall(SYS_capget, &header, data))
		die("capget");
	if (on)
		data[0].effective |= 1U << CAP_IPC_LOCK;
	else
		data[0].effective &= ~(1U << CAP_IPC_LOCK);
	if (syscall(SYS_capset, &header, data))
		die("capset");
}

/* What all buffers of a user pin, in bytes, as debugfs says; 0 without buffers. */
static long user_pinned(uid_t uid)
{
	static const char path[] = "/sys/kernel/debug/udmabuf/buffers";
	long pinned, found = 0;
	FILE *f = fopen(path, "r");
	char line[256];
	unsigned int u;

	if (!f)
		die(path);
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "%*d %*d %*d %*s %u %ld", &u, &pinned) == 2 && u == uid)
			found = pinned;
	fclose(f);
	return found;
}

static long blocks(int fd)
{
	struct stat st;

	if (fstat(fd, &st))
		die("fstat");
	return st.st_blocks;
}

FIXTURE(limit) {
	struct held before;
	int dev;
	int memfd;	/* LIMIT bytes, not there yet */
	long old;
};

FIXTURE_SETUP(limit)
{
	want_huge_pages();
	self->before = held();
	self->dev = udmabuf_open();
	self->memfd = memfd_new(SHMEM, LIMIT);
	self->old = udmabuf_parameter("user_limit_mb", LIMIT_MB);
	set_real_uid(USER);
	set_ipc_lock(false);
}

FIXTURE_TEARDOWN(limit)
{
	set_real_uid(0);
	set_ipc_lock(true);
	udmabuf_parameter("user_limit_mb", self->old);
	EXPECT_EQ(user_pinned(USER), 0);
	EXPECT_EQ(user_pinned(OTHER_USER), 0);
	close(self->memfd);
	close(self->dev);
	EXPECT_HELD(self->before);
}

/* Not a page more than the limit, and no page is allocated for what is refused. */
TEST_F(limit, one_user)
{
	int one = memfd_new(SHMEM, PAGE);
	int fd, refused;

	fd = udmabuf_create(self->dev, self->memfd, 0, LIMIT);
	ASSERT_GE(fd, 0);
	EXPECT_EQ(user_pinned(USER), LIMIT);
	refused = udmabuf_create(self->dev, one, 0, PAGE);
	EXPECT_EQ(refused, -1);
	EXPECT_EQ(errno, ENOMEM);
	EXPECT_EQ(blocks(one), 0);
	EXPECT_EQ(user_pinned(USER), LIMIT);
	close(fd);

	EXPECT_EQ(user_pinned(USER), 0);
	fd = udmabuf_create(self->dev, one, 0, PAGE);
	ASSERT_GE(fd, 0);
	EXPECT_EQ(user_pinned(USER), PAGE);
	EXPECT_EQ(udmabuf_create(self->dev, self->memfd, 0, LIMIT), -1);
	EXPECT_EQ(errno, ENOMEM);
	close(fd);
	close(one);
}

TEST_F(limit, two_users)
{
	int fds[2];

	fds[0] = udmabuf_create(self->dev, self->memfd, 0, LIMIT);
	ASSERT_GE(fds[0], 0);
	set_real_uid(OTHER_USER);
	fds[1] = udmabuf_create(self->dev, self->memfd, 0, LIMIT);
	ASSERT_GE(fds[1], 0);
	EXPECT_EQ(udmabuf_create(self->dev, self->memfd, 0, PAGE), -1);
	EXPECT_EQ(errno, ENOMEM);
	EXPECT_EQ(user_pinned(USER), LIMIT);
	EXPECT_EQ(user_pinned(OTHER_USER), LIMIT);

	/* Any process may close it. */
	close(fds[0]);
	EXPECT_EQ(user_pinned(USER), 0);
	EXPECT_EQ(user_pinned(OTHER_USER), LIMIT);
	close(fds[1]);
}

static void send_fd(int socket, int fd)
{
	char control[CMSG_SPACE(sizeof(fd))] = {};
	struct iovec iov = { "", 1 };
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1,
		.msg_control = control, .msg_controllen = sizeof(control),
	};
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);

	cmsg->cmsg_level = SOL_SOCKET;
	cmsg->cmsg_type = SCM_RIGHTS;
	cmsg->cmsg_len = CMSG_LEN(sizeof(fd));
	memcpy(CMSG_DATA(cmsg), &fd, sizeof(fd));
	if (sendmsg(socket, &msg, 0) != 1)
		die("sendmsg");
}

static int receive_fd(int socket)
{
	char control[CMSG_SPACE(sizeof(int))] = {};
	char byte;
	struct iovec iov = { &byte, 1 };
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1,
		.msg_control = control, .msg_controllen = sizeof(control),
	};
	struct cmsghdr *cmsg;
	int fd;

	if (recvmsg(socket, &msg, MSG_CMSG_CLOEXEC) != 1)
		return -1;
	cmsg = CMSG_FIRSTHDR(&msg);
	if (!cmsg || cmsg->cmsg_type != SCM_RIGHTS)
		return -1;
	memcpy(&fd, CMSG_DATA(cmsg), sizeof(fd));
	return fd;
}

/* A process of USER's without any privilege: makes a buffer, sends it, and is gone. */
static int make_and_leave(int dev, int memfd, int socket, size_t size)
{
	int status, fd;
	pid_t pid;

	fflush(NULL);
	pid = fork();
	if (pid < 0)
		die("fork");
	if (!pid) {
		if (setresuid(USER, USER, USER))
			_exit(100);
		fd = udmabuf_create(dev, memfd, 0, size);
		if (fd < 0)
			_exit(errno);
		send_fd(socket, fd);
		_exit(0);
	}
	if (waitpid(pid, &status, 0) != pid || !WIFEXITED(status))
		die("waitpid");
	return WEXITSTATUS(status);
}

/*
 * The user's last process is gone.  The buffer counts for as long as anything keeps it:
 * a message that nobody has received, a descriptor, a mapping, an importer.
 */
TEST_F(limit, user_has_left)
{
	int sockets[2], fd, vgem = drm_open("vgem");
	uint32_t handle;
	void *map;

	set_real_uid(0);
	set_ipc_lock(true);
	ASSERT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets), 0);
	ASSERT_EQ(make_and_leave(self->dev, self->memfd, sockets[1], LIMIT), 0);
	EXPECT_EQ(user_pinned(USER), LIMIT);
	EXPECT_EQ(make_and_leave(self->dev, self->memfd, sockets[1], PAGE), ENOMEM);
	fd = receive_fd(sockets[0]);
	ASSERT_GE(fd, 0);
	EXPECT_EQ(user_pinned(USER), LIMIT);

	map = map_shared(fd, LIMIT, PROT_READ);
	ASSERT_EQ(drm_import(vgem, fd, &handle), 0);
	close(fd);
	EXPECT_EQ(user_pinned(USER), LIMIT);
	munmap(map, LIMIT);
	EXPECT_EQ(user_pinned(USER), LIMIT);
	EXPECT_EQ(make_and_leave(self->dev, self->memfd, sockets[1], PAGE), ENOMEM);
	EXPECT_EQ(drm_close_handle(vgem, handle), 0);
	EXPECT_EQ(user_pinned(USER), 0);
	EXPECT_EQ(user_pinned(0), 0);

	/* The same user again, who has all of the limit. */
	EXPECT_EQ(make_and_leave(self->dev, self->memfd, sockets[1], LIMIT), 0);
	EXPECT_EQ(user_pinned(USER), LIMIT);
	close(sockets[0]);
	close(sockets[1]);
	EXPECT_EQ(user_pinned(USER), 0);
	close(vgem);
}

/* Exempt from the limit, but counted: others of the user's that are not are refused. */
TEST_F(limit, cap_ipc_lock)
{
	int fds[3];

	fds[0] = udmabuf_create(self->dev, self->memfd, 0, LIMIT);
	ASSERT_GE(fds[0], 0);
	set_ipc_lock(true);
	fds[1] = udmabuf_create(self->dev, self->memfd, 0, LIMIT);
	ASSERT_GE(fds[1], 0);
	EXPECT_EQ(user_pinned(USER), 2 * LIMIT);
	set_ipc_lock(false);
	close(fds[0]);
	EXPECT_EQ(udmabuf_create(self->dev, self->memfd, 0, PAGE), -1);
	EXPECT_EQ(errno, ENOMEM);
	close(fds[1]);
	fds[2] = udmabuf_create(self->dev, self->memfd, 0, PAGE);
	EXPECT_GE(fds[2], 0);
	close(fds[2]);
}

/**
 * struct in_namespace - a child that makes buffers in a user namespace of its own
 * @ready: it has one
 * @mapped: it has got its uids
 * @made: it has got the buffers that it can have
 * @done: it may exit
 * @pid: the child
 */
struct in_namespace {
	int ready[2];
	int mapped[2];
	int made[2];
	int done[2];
	pid_t pid;
};

static void tell(int pipe[2], char what)
{
	if (write(pipe[1], &what, 1) != 1)
		die("write");
}

static int hear(int pipe[2])
{
	char what;

	return read(pipe[0], &what, 1) == 1 ? what : -1;
}

/*
 * The child of @owner is @uid in its namespace, with all capabilities there if that is
 * 0.  It makes a buffer of LIMIT bytes, and tries to make another one of a page.
 * Returns the errno of that, or 100 if the first one failed.
 */
static int namespace_start(struct in_namespace *n, int dev, int memfd, uid_t owner,
			   const char *map, uid_t uid)
{
	char path[64];
	int fd;

	if (pipe(n->ready) || pipe(n->mapped) || pipe(n->made) || pipe(n->done))
		die("pipe");
	fflush(NULL);
	n->pid = fork();
	if (n->pid < 0)
		die("fork");
	if (!n->pid) {
		if (setresuid(owner, owner, owner) || unshare(CLONE_NEWUSER))
			_exit(1);
		tell(n->ready, 1);
		hear(n->mapped);
		if (setresuid(uid, uid, uid))
			_exit(1);
		fd = udmabuf_create(dev, memfd, 0, LIMIT);
		if (fd < 0)
			tell(n->made, 100);
		else
			tell(n->made, udmabuf_create(dev, memfd, 0, PAGE) < 0 ? errno : 0);
		hear(n->done);
		_exit(0);
	}
	if (hear(n->ready) != 1)
		die("unshare");
	snprintf(path, sizeof(path), "/proc/%d/uid_map", n->pid);
	write_file(path, map);
	tell(n->mapped, 1);
	return hear(n->made);
}

static void namespace_end(struct in_namespace *n)
{
	tell(n->done, 1);
	if (waitpid(n->pid, NULL, 0) != n->pid)
		die("waitpid");
	for (int i = 0; i < 2; i++) {
		close(n->ready[i]);
		close(n->mapped[i]);
		close(n->made[i]);
		close(n->done[i]);
	}
}

/*
 * Neither the capabilities of a user namespace nor the uids that are mapped into it
 * give its owner more.  Uids of a namespace that root made are users of their own.
 */
TEST_F(limit, user_namespaces)
{
	struct in_namespace n, another;
	char map[64];

	set_real_uid(0);
	set_ipc_lock(true);
	snprintf(map, sizeof(map), "0 %d 1\n1 %d 2\n", USER, SUB_UID);
	for (uid_t uid = 0; uid < 3; uid++) {
		EXPECT_EQ(namespace_start(&n, self->dev, self->memfd, USER, map, uid),
			  ENOMEM);
		EXPECT_EQ(user_pinned(USER), LIMIT);
		EXPECT_EQ(user_pinned(SUB_UID), 0);
		EXPECT_EQ(user_pinned(SUB_UID + 1), 0);
		/* Nor do two namespaces. */
		EXPECT_EQ(namespace_start(&another, self->dev, self->memfd, USER, map, 1),
			  100);
		namespace_end(&another);
		namespace_end(&n);
		EXPECT_EQ(user_pinned(USER), 0);
	}

	snprintf(map, sizeof(map), "0 %d 2\n", CONTAINER_UID);
	EXPECT_EQ(namespace_start(&n, self->dev, self->memfd, 0, map, 0), ENOMEM);
	EXPECT_EQ(namespace_start(&another, self->dev, self->memfd, 0, map, 1), ENOMEM);
	EXPECT_EQ(user_pinned(CONTAINER_UID), LIMIT);
	EXPECT_EQ(user_pinned(CONTAINER_UID + 1), LIMIT);
	EXPECT_EQ(user_pinned(0), 0);
	namespace_end(&n);
	namespace_end(&another);
	EXPECT_EQ(user_pinned(CONTAINER_UID), 0);
}

/* Items in pages, and the pages that they count for. */
struct counted {
	enum memory memory;
	long pages;
	struct { unsigned int first, nr; } items[6];
};

/* The same in debugfs, for buffer and user, and in fdinfo. */
TEST_F(limit, overlapping_and_repeated_items)
{
	const struct counted counted[] = {
		/* Small pages count as often as they are listed. */
		{ SHMEM, 4, { { 0, 4 } } },
		{ SHMEM, 8, { { 0, 4 }, { 2, 4 } } },
		{ SHMEM, 3, { { 5, 1 }, { 5, 1 }, { 5, 1 } } },
		/* Huge pages count in full, whatever parts of them are listed, */
		{ THP, H, { { 3, 2 } } },
		{ THP, H, { { 3, 2 }, { 5, 1 }, { 6, 10 } } },
		{ THP, 2 * H, { { 3, 2 }, { H + 12, 1 } } },
		{ THP, 2 * H, { { H - 12, 24 } } },
		{ THP, H, { { 0, H } } },
		{ THP, 2 * H, { { 0, 2 * H } } },
		{ THP, H, { { 8, 8 }, { 0, 8 } } },
		{ THP, H, { { 0, 1 }, { 2, 1 }, { 4, 1 } } },
		{ THP, 2 * H, { { 0, 1 }, { H + 8, 1 }, { 7, 1 }, { H + 10, 2 } } },
		/* until more is listed than they have. */
		{ THP, 2 * H, { { 0, H }, { 0, H } } },
		{ THP, H + 1, { { 0, H }, { 3, 1 } } },
		{ THP, H + 1, { { 3, 1 }, { 0, H } } },
		{ THP, H + 8, { { 0, H - 8 }, { 0, 16 } } },
		{ THP, 2 * H + 8, { { 0, H - 8 }, { 0, 16 }, { H, 1 } } },
		/* Of hugetlb's, only what is listed. */
		{ HUGETLB, 2, { { 3, 2 } } },
		{ HUGETLB, 24, { { H - 12, 24 } } },
		{ HUGETLB, 2 * H, { { 0, 2 * H } } },
		{ HUGETLB, 3, { { 0, 1 }, { 2, 1 }, { 4, 1 } } },
	};

	for (size_t i = 0; i < ARRAY_SIZE(counted); i++) {
		const struct counted *c = &counted[i];
		struct udmabuf_create_item items[6];
		long runs, pinned, before;
		unsigned int n = 0;
		char path[64];
		int memfd, fd;

		if (c->memory == THP && !has_thp())
			continue;
		memfd = memfd_filled(c->memory, 2 * HUGE, 1, NULL);
		for (; n < 6 && c->items[n].nr; n++)
			items[n] = (struct udmabuf_create_item) {
				.memfd = memfd,
				.offset = c->items[n].first * PAGE,
				.size = c->items[n].nr * PAGE,
			};
		fd = udmabuf_create_list(self->dev, items, n);
		ASSERT_GE(fd, 0);
		udmabuf_stat(&runs, &pinned);
		snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
		before = user_pinned(USER);
		EXPECT_EQ(pinned, c->pages * (long)PAGE) {
			TH_LOG("case %zu", i);
		}
		EXPECT_EQ(before, pinned);
		EXPECT_EQ(file_value(path, "pinned"), pinned);
		close(fd);
		close(memfd);
		EXPECT_EQ(user_pinned(USER), 0);
	}
}

/* A page of each of five huge pages is more than four of them. */
TEST_F(limit, rest_of_huge_pages)
{
	struct udmabuf_create_item items[4];
	int keep, memfd, fd;

	if (!has_thp())
		SKIP(return, NO_THP);
	memfd = memfd_filled(THP, 4 * HUGE, 1, NULL);
	keep = udmabuf_create(self->dev, self->memfd, 0, PAGE);
	ASSERT_GE(keep, 0);
	for (int i = 0; i < 4; i++)
		items[i] = (struct udmabuf_create_item) {
			.memfd = memfd, .offset = i * HUGE, .size = PAGE,
		};
	EXPECT_EQ(udmabuf_create_list(self->dev, items, 4), -1);
	EXPECT_EQ(errno, ENOMEM);
	EXPECT_EQ(held().pins, self->before.pins + 1);
	EXPECT_EQ(user_pinned(USER), PAGE);
	fd = udmabuf_create_list(self->dev, items, 3);
	EXPECT_GE(fd, 0);
	EXPECT_EQ(user_pinned(USER), 3 * HUGE + PAGE);
	close(fd);
	close(keep);
	close(memfd);
}

/* A creation that fails counts for nothing: one without pages, one without a descriptor. */
TEST_F(limit, errors_half_way)
{
	int keep = udmabuf_create(self->dev, self->memfd, 0, PAGE);
	long pages = file_value("/proc/meminfo", "HugePages_Free");
	struct udmabuf_create_item items[2];
	struct rlimit old, none;
	int huge, all;

	ASSERT_GE(keep, 0);
	/* All huge pages but one are another file's: the second one is not to be had. */
	all = memfd_filled(HUGETLB, (pages - 1) * HUGE, 1, NULL);
	huge = memfd_new(HUGETLB, 2 * HUGE);
	for (int i = 0; i < 2; i++)
		items[i] = (struct udmabuf_create_item) {
			.memfd = huge, .offset = i * HUGE, .size = PAGE,
		};
	EXPECT_EQ(udmabuf_create_list(self->dev, items, 2), -1);
	EXPECT_EQ(errno, ENOMEM);
	EXPECT_EQ(held().pins, self->before.pins + 1);
	EXPECT_EQ(user_pinned(USER), PAGE);
	close(all);
	close(huge);

	ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &old), 0);
	none = old;
	none.rlim_cur = 0;
	ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
	EXPECT_EQ(udmabuf_create(self->dev, self->memfd, 0, PAGE), -1);
	EXPECT_EQ(errno, EMFILE);
	ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &old), 0);
	EXPECT_EQ(user_pinned(USER), PAGE);
	close(keep);
}

/* 0: half of the memory; negative: all that there is. */
TEST_F(limit, parameter)
{
	long half = file_value("/proc/meminfo", "MemTotal") / 2 * 1024;
	int sparse = memfd_new(SHMEM, half + 64 * HUGE);
	int fd;

	udmabuf_parameter("user_limit_mb", 0);
	fd = udmabuf_create(self->dev, self->memfd, 0, LIMIT);
	EXPECT_GE(fd, 0);
	EXPECT_EQ(udmabuf_create(self->dev, sparse, 0, half / PAGE * PAGE), -1);
	EXPECT_EQ(errno, ENOMEM);
	EXPECT_EQ(blocks(sparse), 0);
	close(fd);

	udmabuf_parameter("user_limit_mb", 1);
	EXPECT_EQ(udmabuf_create(self->dev, self->memfd, 0, LIMIT), -1);
	EXPECT_EQ(errno, ENOMEM);
	udmabuf_parameter("user_limit_mb", -1);
	fd = udmabuf_create(self->dev, self->memfd, 0, LIMIT);
	EXPECT_GE(fd, 0);
	close(fd);
	close(sparse);
}

#define THREADS		4
#define ROUNDS		2000
#define RACE_LIMIT_MB	(256 * PAGE >> 20)
#define RACE_SIZE	(96 * PAGE)	/* 3/8 of it: small, so that they meet often */

/**
 * struct racer - threads that make and close buffers of RACE_SIZE bytes
 * @dev: /dev/udmabuf
 * @memfd: where the pages come from
 * @alive: buffers that there are now
 * @most: the most that there were
 * @made: all that were made
 */
struct racer {
	int dev;
	int memfd;
	int alive;
	int most;
	int made;
};

static void *race(void *arg)
{
	struct racer *r = arg;

	for (int i = 0; i < ROUNDS; i++) {
		int fd = udmabuf_create(r->dev, r->memfd, 0, RACE_SIZE), alive;

		if (fd < 0)
			continue;
		alive = __atomic_add_fetch(&r->alive, 1, __ATOMIC_SEQ_CST);
		if (alive > __atomic_load_n(&r->most, __ATOMIC_SEQ_CST))
			__atomic_store_n(&r->most, alive, __ATOMIC_SEQ_CST);
		__atomic_add_fetch(&r->made, 1, __ATOMIC_SEQ_CST);
		__atomic_sub_fetch(&r->alive, 1, __ATOMIC_SEQ_CST);
		close(fd);
	}
	return NULL;
}

/* There is never more than the limit, however many try at once. */
TEST_F_TIMEOUT(limit, racing_threads, 300)
{
	struct racer r = { .dev = self->dev, .memfd = self->memfd };
	pthread_t threads[THREADS];

	udmabuf_parameter("user_limit_mb", RACE_LIMIT_MB);
	for (int i = 0; i < THREADS; i++)
		ASSERT_EQ(pthread_create(&threads[i], NULL, race, &r), 0);
	for (int i = 0; i < THREADS; i++)
		ASSERT_EQ(pthread_join(threads[i], NULL), 0);
	EXPECT_GE(r.made, 1);
	EXPECT_LE(r.most, 2);
	EXPECT_EQ(user_pinned(USER), 0);
}

TEST_HARNESS_MAIN
