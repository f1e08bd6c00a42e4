/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What /dev/dma_buf_test offers to the selftests of drivers/dma-buf.  Not an
 * interface for anybody else.
 */
#ifndef DMA_BUF_TEST_EXPORTER_H
#define DMA_BUF_TEST_EXPORTER_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define DMA_BUF_TEST_MIXEDMAP	1	/* breaks the rule: maps VM_MIXEDMAP */
#define DMA_BUF_TEST_PFNMAP	2	/* keeps it, with huge entries */
#define DMA_BUF_TEST_INSERT	3	/* breaks it, and leaves vm_ops as they are */

/* A dma-buf of DMA_BUF_TEST_SLOTS times the same huge page; returns its descriptor. */
#define DMA_BUF_TEST_CREATE	_IOW('u', 0x60, __u32)
/* Takes the CPU mappings of the dma-buf away: access is SIGBUS from then on. */
#define DMA_BUF_TEST_REVOKE	_IOW('u', 0x61, __u32)
/* Lets them be faulted in again. */
#define DMA_BUF_TEST_RESTORE	_IOW('u', 0x62, __u32)
/* Returns how many vmas were opened and not closed, of all dma-bufs and importers. */
#define DMA_BUF_TEST_VMAS	_IO('u', 0x63)

/**
 * struct dma_buf_test_fork - a mapping to revoke while it is forked
 * @fd: the dma-buf, of kind DMA_BUF_TEST_PFNMAP
 * @pad: 0
 * @address: of a slot that is mapped by a huge entry
 */
struct dma_buf_test_fork {
	__u32 fd;
	__u32 pad;
	__u64 address;
};

/*
 * Refuses all later faults, and clears only the entry at the address, while a task
 * that forks has read the entry and waits for its lock.
 * ETIMEDOUT: none has forked within five seconds.
 */
#define DMA_BUF_TEST_REVOKE_IN_FORK	_IOW('u', 0x64, struct dma_buf_test_fork)
/* Whether that lock is held now: time to fork. */
#define DMA_BUF_TEST_HELD	_IO('u', 0x65)
/* Has mmap() on this file map the dma-buf, as importers do.  Once a file. */
#define DMA_BUF_TEST_IMPORT	_IOW('u', 0x66, __u32)

/*
 * Returns one more descriptor of the dma-buf that was created last, by its file.
 * ENOENT: that dma-buf has been released, or its file is closed.
 */
#define DMA_BUF_TEST_LAST	_IO('u', 0x67)

/**
 * struct dma_buf_test_error - a memory error
 * @address: in: of a byte that any dma-buf has mapped into this process
 * @frame: out: the page frame that is mapped there
 */
struct dma_buf_test_error {
	__u64 address;
	__u64 frame;
};

/*
 * Does what a machine check does when this process has read a byte of bad memory.
 * Returns what memory_failure() returns; a SIGBUS may be pending.
 */
#define DMA_BUF_TEST_MEMORY_ERROR	_IOWR('u', 0x68, struct dma_buf_test_error)

#define DMA_BUF_TEST_SLOTS	16

#endif /* DMA_BUF_TEST_EXPORTER_H */
