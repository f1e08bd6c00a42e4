// SPDX-License-Identifier: GPL-2.0
/* See vfio_receiver.h. */
#include "vfio_receiver.h"
#include "vfio_util.h"

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

/* Between accesses, so that there is time for others on a slow machine. */
#define PAUSE_US	500

static void send_fd(int socket, int fd)
{
	char control[CMSG_SPACE(sizeof(fd))] = {};
	struct iovec byte = { .iov_base = "", .iov_len = 1 };
	struct msghdr message = {
		.msg_iov = &byte, .msg_iovlen = 1,
		.msg_control = control, .msg_controllen = sizeof(control),
	};
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);

	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(fd));
	memcpy(CMSG_DATA(header), &fd, sizeof(fd));
	if (sendmsg(socket, &message, 0) != 1)
		die("sendmsg");
}

static int receive_fd(int socket)
{
	char control[CMSG_SPACE(sizeof(int))], data;
	struct iovec byte = { .iov_base = &data, .iov_len = 1 };
	struct msghdr message = {
		.msg_iov = &byte, .msg_iovlen = 1,
		.msg_control = control, .msg_controllen = sizeof(control),
	};
	int fd = -1;

	if (recvmsg(socket, &message, 0) == 1 && CMSG_FIRSTHDR(&message))
		memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(fd));
	return fd;
}

static __thread sigjmp_buf refused;

/* An access that faults raises it in the thread that made the access. */
static void on_sigbus(int signal)
{
	siglongjmp(refused, signal);
}

struct thread {
	volatile uint64_t *word;
	struct receiver_access *access;
};

static void *read_for_ever(void *data)
{
	struct thread *thread = data;

	if (sigsetjmp(refused, 1))
		__atomic_add_fetch(&thread->access->refused, 1, __ATOMIC_SEQ_CST);
	for (;;) {
		usleep(PAUSE_US);
		(void)*thread->word;
		__atomic_add_fetch(&thread->access->done, 1, __ATOMIC_SEQ_CST);
	}
	return NULL;
}

static void *write_for_ever(void *data)
{
	struct thread *thread = data;
	volatile uint64_t value = 0;

	if (sigsetjmp(refused, 1))
		__atomic_add_fetch(&thread->access->refused, 1, __ATOMIC_SEQ_CST);
	for (;;) {
		usleep(PAUSE_US);
		*thread->word = ++value;
		__atomic_add_fetch(&thread->access->done, 1, __ATOMIC_SEQ_CST);
	}
	return NULL;
}

/* The page that has the word at @offset, mapped. */
static volatile uint64_t *map_word(int fd, size_t offset, int prot)
{
	char *page = mmap(NULL, PAGE, prot, MAP_SHARED, fd, offset / PAGE * PAGE);

	if (page == MAP_FAILED)
		_exit(2);
	return (volatile uint64_t *)(page + offset % PAGE);
}

static void borrow(int socket, struct receiver_access *access, size_t reads, size_t writes)
{
	struct sigaction action = { .sa_handler = on_sigbus };
	struct thread reader = { .access = &access[RECEIVER_READS] };
	struct thread writer = { .access = &access[RECEIVER_WRITES] };
	pthread_t thread;
	int fd;

	/* Nothing of the lender's but the socket. */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (dup2(socket, 3) != 3 || close_range(4, ~0U, 0))
		_exit(3);
	fd = receive_fd(3);
	close(3);
	reader.word = map_word(fd, reads, PROT_READ);
	writer.word = map_word(fd, writes, PROT_READ | PROT_WRITE);
	close(fd);
	sigaction(SIGBUS, &action, NULL);
	if (pthread_create(&thread, NULL, read_for_ever, &reader))
		_exit(4);
	write_for_ever(&writer);
}

void receiver_start(struct receiver *receiver, int dmabuf, size_t reads, size_t writes)
{
	int sockets[2];

	receiver->access = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
				MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (receiver->access == MAP_FAILED ||
	    socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets))
		die("receiver");
	receiver->pid = fork();
	if (receiver->pid < 0)
		die("fork");
	if (!receiver->pid)
		borrow(sockets[1], receiver->access, reads, writes);
	send_fd(sockets[0], dmabuf);
	close(sockets[0]);
	close(sockets[1]);
}

void receiver_end(struct receiver *receiver)
{
	if (!receiver->pid)
		return;
	kill(receiver->pid, SIGKILL);
	waitpid(receiver->pid, NULL, 0);
	munmap(receiver->access, PAGE);
	receiver->pid = 0;
}

static struct receiver_access look(const struct receiver *receiver, int which)
{
	return (struct receiver_access) {
		.done = __atomic_load_n(&receiver->access[which].done, __ATOMIC_SEQ_CST),
		.refused = __atomic_load_n(&receiver->access[which].refused,
					   __ATOMIC_SEQ_CST),
	};
}

static bool more(const struct receiver *receiver, int which, struct receiver_access than,
		 bool refused)
{
	for (int i = 0; i < 1000; i++) {
		struct receiver_access now = look(receiver, which);

		if (refused ? now.refused > than.refused : now.done > than.done)
			return true;
		sleep_ms(10);
	}
	return false;
}

bool receiver_gets_through(struct receiver *receiver)
{
	struct receiver_access reads = look(receiver, RECEIVER_READS);
	struct receiver_access writes = look(receiver, RECEIVER_WRITES);

	return more(receiver, RECEIVER_READS, reads, false) &&
	       more(receiver, RECEIVER_WRITES, writes, false);
}

/*
 * An access that was made before the memory went away may be counted after.  Once a
 * thread has been refused since, it has no such access left.
 */
bool receiver_is_refused(struct receiver *receiver)
{
	struct receiver_access before[2], after[2];

	for (int i = 0; i < 2; i++)
		if (!more(receiver, i, look(receiver, i), true))
			return false;
	for (int i = 0; i < 2; i++)
		before[i] = look(receiver, i);
	for (int i = 0; i < 2; i++)
		if (!more(receiver, i, before[i], true))
			return false;
	for (int i = 0; i < 2; i++) {
		after[i] = look(receiver, i);
		if (after[i].done != before[i].done)
			return false;
	}
	return true;
}

long receiver_faults(const struct receiver *receiver)
{
	long faults = -1;
	char path[32];
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/stat", receiver->pid);
	f = fopen(path, "r");
	/* Its name has neither blanks nor brackets. */
	if (!f || fscanf(f, "%*s %*s %*s %*s %*s %*s %*s %*s %*s %ld", &faults) != 1)
		die(path);
	fclose(f);
	return faults;
}
