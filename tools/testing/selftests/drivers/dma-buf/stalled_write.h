/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A thread whose write() to a memfd waits for the page that it reads from, and holds the
 * inode's lock meanwhile: what any process can do that has the memfd.
 */
#ifndef STALLED_WRITE_H
#define STALLED_WRITE_H

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/userfaultfd.h>

/**
 * struct stalled_write - the thread
 * @memfd: that it writes to
 * @uffd: of @page
 * @page: where it reads, which is there only at the end
 */
struct stalled_write {
	int memfd;
	int uffd;
	char *page;
	pthread_t thread;
};

static inline void *stalled_write_run(void *data)
{
	struct stalled_write *writer = data;

	return (void *)(uintptr_t)write(writer->memfd, writer->page, getpagesize());
}

/* Returns once the lock is held; false if that cannot be. */
static inline bool stalled_write_begin(struct stalled_write *writer, int memfd)
{
	struct uffdio_register reg = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	struct uffdio_api api = { .api = UFFD_API };
	struct pollfd missing = { .events = POLLIN };

	writer->memfd = memfd;
	writer->page = mmap(NULL, getpagesize(), PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	writer->uffd = syscall(__NR_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	reg.range.start = (uintptr_t)writer->page;
	reg.range.len = getpagesize();
	missing.fd = writer->uffd;
	return writer->page != MAP_FAILED && !ioctl(writer->uffd, UFFDIO_API, &api) &&
	       !ioctl(writer->uffd, UFFDIO_REGISTER, &reg) &&
	       !pthread_create(&writer->thread, NULL, stalled_write_run, writer) &&
	       poll(&missing, 1, 10000) == 1;
}

static inline void stalled_write_end(struct stalled_write *writer)
{
	struct uffdio_zeropage zero = {
		.range = { .start = (uintptr_t)writer->page, .len = getpagesize() },
	};

	ioctl(writer->uffd, UFFDIO_ZEROPAGE, &zero);
	pthread_join(writer->thread, NULL);
	close(writer->uffd);
	munmap(writer->page, getpagesize());
}

#endif /* STALLED_WRITE_H */
