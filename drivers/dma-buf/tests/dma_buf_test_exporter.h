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

/* A dma-buf of DMA_BUF_TEST_SLOTS times the same 2 MiB; returns its descriptor. */
#define DMA_BUF_TEST_CREATE	_IOW('u', 0x60, __u32)
/* Takes the CPU mappings of the dma-buf away: access is SIGBUS from then on. */
#define DMA_BUF_TEST_REVOKE	_IOW('u', 0x61, __u32)
/* Lets them be faulted in again. */
#define DMA_BUF_TEST_RESTORE	_IOW('u', 0x62, __u32)
/* Returns how many vmas were opened and not closed, of all dma-bufs. */
#define DMA_BUF_TEST_VMAS	_IO('u', 0x63)

#define DMA_BUF_TEST_SLOTS	16

#endif /* DMA_BUF_TEST_EXPORTER_H */
