/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What /dev/dma_buf_importer offers to the selftests of VFIO's dma-bufs.  Not an
 * interface for anybody else.
 *
 * An open file stands for one attachment of one dma-buf to one "edu" device of QEMU's.
 * The device copies at most DMA_BUF_IMPORTER_MAX bytes at a time, through a buffer of
 * its own, and takes 100 ms of the machine's time for each way.
 */
#ifndef DMA_BUF_TEST_IMPORTER_H
#define DMA_BUF_TEST_IMPORTER_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define DMA_BUF_IMPORTER_MAX	4080

/* The importer does not know of move_notify. */
#define DMA_BUF_IMPORTER_STATIC		0x01
/* It does, but cannot do peer-to-peer. */
#define DMA_BUF_IMPORTER_NO_P2P		0x02
/* It pins the dma-buf once it is attached; not with STATIC. */
#define DMA_BUF_IMPORTER_PIN		0x04
/* On move_notify it does not unmap; DMA goes on until UNMAP, DETACH or close. */
#define DMA_BUF_IMPORTER_KEEP		0x08
/* It unmaps not in move_notify, but from a work once the last FENCE is signaled. */
#define DMA_BUF_IMPORTER_LATE		0x10
/* The loop maps the dma-buf again whenever it is not mapped. */
#define DMA_BUF_IMPORTER_REMAP		0x20
/* It maps only for the device to read; the kernel does not stop a COPY the other way. */
#define DMA_BUF_IMPORTER_READ		0x40
/* Its move_notify takes a long time. */
#define DMA_BUF_IMPORTER_SLOW		0x80
#define DMA_BUF_IMPORTER_SLOW_MS	8000

/**
 * struct dma_buf_importer_attach - which device attaches to what, and how it behaves
 * @dmabuf_fd: the dma-buf
 * @flags: DMA_BUF_IMPORTER_*
 * @address_bits: that the device can address; 0: 64
 * @max_segment: bytes of a segment; 0: as PCI devices have it, 64 KiB
 * @device: PCI name, 0000:00:01.0
 */
struct dma_buf_importer_attach {
	__s32 dmabuf_fd;
	__u32 flags;
	__u32 address_bits;
	__u32 max_segment;
	char device[16];
};

/* In struct dma_buf_importer_copy.direction */
#define DMA_BUF_IMPORTER_TO_SLICE	1
#define DMA_BUF_IMPORTER_FROM_SLICE	2

/**
 * struct dma_buf_importer_copy - bytes to copy between memory and the dma-buf
 * @offset: in the dma-buf
 * @length: at most DMA_BUF_IMPORTER_MAX
 * @direction: DMA_BUF_IMPORTER_TO_SLICE or _FROM_SLICE
 * @force: use the addresses that the last mapping had, whether or not it is there
 * @pad: 0
 * @data: address of the bytes in the caller
 */
struct dma_buf_importer_copy {
	__u64 offset;
	__u32 length;
	__u32 direction;
	__u32 force;
	__u32 pad;
	__u64 data;
};

/**
 * struct dma_buf_importer_status - what has happened since ATTACH
 * @notified: calls of move_notify
 * @mapped: times that it was mapped
 * @unmapped: times that it was unmapped
 * @copies: copies that the loop has completed
 * @segments: of the last mapping
 * @is_mapped: now
 * @error: the first error of the loop, a negative errno; 0: none
 */
struct dma_buf_importer_status {
	__u32 notified;
	__u32 mapped;
	__u32 unmapped;
	__u32 copies;
	__u32 segments;
	__u32 is_mapped;
	__s32 error;
};

/* What the device sees of the dma-buf. */
struct dma_buf_importer_segment {
	__u64 address;
	__u64 length;
};

/**
 * struct dma_buf_importer_segments - the last mapping's scatterlist
 * @count: entries that there is room for at @entries; how many there are
 * @pad: 0
 * @entries: address of struct dma_buf_importer_segment in the caller
 */
struct dma_buf_importer_segments {
	__u32 count;
	__u32 pad;
	__u64 entries;
};

#define DMA_BUF_IMPORTER_ATTACH		_IOW('u', 0x70, struct dma_buf_importer_attach)
#define DMA_BUF_IMPORTER_DETACH		_IO('u', 0x71)
#define DMA_BUF_IMPORTER_MAP		_IO('u', 0x72)
#define DMA_BUF_IMPORTER_UNMAP		_IO('u', 0x73)
#define DMA_BUF_IMPORTER_COPY		_IOW('u', 0x74, struct dma_buf_importer_copy)
/*
 * Copies __u64 1, 2, 3, ... to the offset that is given as the argument, until STOP:
 * while the dma-buf is mapped, the device's DMA never rests.
 */
#define DMA_BUF_IMPORTER_LOOP		_IOW('u', 0x75, __u64)
#define DMA_BUF_IMPORTER_STOP		_IO('u', 0x76)
/* Adds a fence to the dma-buf that is signaled after so many milliseconds. */
#define DMA_BUF_IMPORTER_FENCE		_IOW('u', 0x77, __u32)
#define DMA_BUF_IMPORTER_STATUS		_IOR('u', 0x78, struct dma_buf_importer_status)
#define DMA_BUF_IMPORTER_SEGMENTS	_IOWR('u', 0x79, struct dma_buf_importer_segments)

#endif /* DMA_BUF_TEST_IMPORTER_H */
