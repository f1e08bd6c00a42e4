/* SPDX-License-Identifier: GPL-2.0 */
/* For tests: reports memory errors, as machine checks do, and takes them back. */
#ifndef UDMABUF_ERROR_H
#define UDMABUF_ERROR_H

#include <sys/ioctl.h>

#include "udmabuf_fault.h"
#include "udmabuf_util.h"
#include "../../../../../drivers/dma-buf/tests/dma_buf_test_exporter.h"

#define KPF_HWPOISON	19
#define KPF_THP		22

static inline uint64_t entry_of(const char *path, uint64_t index)
{
	int fd = open(path, O_RDONLY);
	uint64_t entry;

	if (fd < 0 || pread(fd, &entry, sizeof(entry), index * sizeof(entry)) !=
	    sizeof(entry))
		die(path);
	close(fd);
	return entry;
}

static inline bool frame_has(uint64_t frame, int flag)
{
	return entry_of("/proc/kpageflags", frame) >> flag & 1;
}

/* A page of a memfd that is mapped gets poisoned; returns its frame. */
static inline uint64_t poison(volatile char *p)
{
	struct sigaction sa = { .sa_handler = on_fault }, old;
	uint64_t entry;

	(void)*p;
	entry = entry_of("/proc/self/pagemap", (uintptr_t)p / PAGE);
	if (!(entry >> 63))
		die("a page is not there");
	entry &= (1ULL << 55) - 1;
	/* This process has read it, as far as the kernel knows: SIGBUS. */
	sigaction(SIGBUS, &sa, &old);
	if (!sigsetjmp(fault_return, 1))
		madvise((void *)p, PAGE, MADV_HWPOISON);
	sigaction(SIGBUS, &old, NULL);
	if (!frame_has(entry, KPF_HWPOISON))
		die("MADV_HWPOISON");
	return entry;
}

/* For a page that no memfd has any more; of a hugetlb page, the first frame. */
static inline void forget_error(uint64_t frame)
{
	char text[32];

	snprintf(text, sizeof(text), "%#llx", (unsigned long long)frame);
	/* Others that look for pages to move may have it for a moment. */
	for (int i = 0; i < 1000; i++) {
		if (try_write("/sys/kernel/debug/hwpoison/unpoison-pfn", text) != -EBUSY)
			break;
		usleep(10000);
	}
	if (frame_has(frame, KPF_HWPOISON))
		die("unpoison-pfn");
}

/* What the last SIGBUS of memory_error() said. */
static int memory_error_code;
static void *memory_error_address;

static void on_memory_error(int sig, siginfo_t *info, void *context)
{
	memory_error_code = info->si_code;
	memory_error_address = info->si_addr;
	siglongjmp(fault_return, sig);
}

/*
 * This process reads a byte of a mapping of a dma-buf, and the machine finds that the
 * page is bad: returns the page's frame.  The SIGBUS is not there if its code is 0.
 */
static inline uint64_t memory_error(void *p)
{
	struct sigaction sa = { .sa_sigaction = on_memory_error, .sa_flags = SA_SIGINFO },
			 old;
	static struct dma_buf_test_error error;		/* outlives a longjmp */
	int fd = open("/dev/dma_buf_test", O_RDWR | O_CLOEXEC);

	if (fd < 0)
		die("/dev/dma_buf_test");
	error.address = (uintptr_t)p;
	memory_error_code = 0;
	memory_error_address = NULL;
	sigaction(SIGBUS, &sa, &old);
	if (!sigsetjmp(fault_return, 1) &&
	    ioctl(fd, DMA_BUF_TEST_MEMORY_ERROR, &error) && errno != EBUSY &&
	    errno != EHWPOISON)
		die("DMA_BUF_TEST_MEMORY_ERROR");
	sigaction(SIGBUS, &old, NULL);
	close(fd);
	return error.frame;
}

#endif /* UDMABUF_ERROR_H */
