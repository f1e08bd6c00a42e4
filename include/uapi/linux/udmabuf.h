/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * /dev/udmabuf: make dma-bufs out of the pages of memfds.
 *
 * An ioctl here returns a dma-buf file descriptor, or -1 with errno set to:
 *
 *  - EINVAL: an offset or a size is not a multiple of the page size, a size is
 *    0, there are no items, the module parameters list_limit or size_limit_mb
 *    are exceeded, a range ends past the end of its memfd, or the memfd is not
 *    sealed as it must be: F_SEAL_SHRINK set, F_SEAL_WRITE and
 *    F_SEAL_FUTURE_WRITE not set.
 *  - EBADFD: the descriptor is not open, or its file is not of shmem (tmpfs) or
 *    hugetlbfs.
 *  - EACCES: the descriptor is not open for reading.
 *  - EFAULT: the argument cannot be read.
 *  - EHWPOISON: a page has had a memory error.
 *  - ENOMEM: there is no memory for the pages or for the buffer, or a cgroup is at
 *    its limit; the user's buffers would be charged for more than the module parameter
 *    user_limit_mb allows; or one more pin could overflow a page's reference count.
 *  - ENOSPC: pages of shmem would exceed the limit of vm.overcommit_memory.
 *  - EIO: a page could not be read back from swap.
 *  - EINTR: a fatal signal came.
 *  - EMFILE, ENFILE: no file descriptor is left.
 *  - ENOTTY: no such ioctl.
 *
 * After an error nothing is pinned and no descriptor was made.  EINVAL, EBADFD, EACCES
 * and EFAULT leave the memfds as they are, unless a memfd changes during the call; after
 * the other errors, a memfd may have new pages.
 */
#ifndef _UAPI_LINUX_UDMABUF_H
#define _UAPI_LINUX_UDMABUF_H

#include <linux/ioctl.h>
#include <linux/types.h>

/*
 * Close the dma-buf's descriptor on execve(2).  All other bits of flags are
 * ignored.
 */
#define UDMABUF_FLAGS_CLOEXEC	0x01

/**
 * struct udmabuf_create - one range of one memfd
 * @memfd: in: file descriptor of the memfd.  The dma-buf may be written through
 *	only if this descriptor may, and its file is not append-only.
 * @flags: in: UDMABUF_FLAGS_*
 * @offset: in: where the range begins in the memfd, in bytes, page-aligned
 * @size: in: length of the range in bytes, page-aligned, not 0
 */
struct udmabuf_create {
	__u32 memfd;
	__u32 flags;
	__u64 offset;
	__u64 size;
};

/**
 * struct udmabuf_create_item - one of the ranges that make up a buffer
 * @memfd: in: file descriptor of the memfd
 * @__pad: ignored
 * @offset: in: where the range begins in the memfd, in bytes, page-aligned
 * @size: in: length of the range in bytes, page-aligned, not 0
 */
struct udmabuf_create_item {
	__u32 memfd;
	__u32 __pad;
	__u64 offset;
	__u64 size;
};

/**
 * struct udmabuf_create_list - ranges that make up a buffer, in this order
 * @flags: in: UDMABUF_FLAGS_*
 * @count: in: number of items in @list, from 1 to the module's list_limit
 * @list: in: the ranges.  They may overlap, repeat, and be of several memfds.
 *	One descriptor without write access, or of an append-only file, makes the
 *	whole buffer read-only.
 */
struct udmabuf_create_list {
	__u32 flags;
	__u32 count;
	struct udmabuf_create_item list[];
};

/**
 * UDMABUF_CREATE - make a dma-buf of one range of a memfd
 *
 * The pages are allocated if need be and stay pinned for as long as the dma-buf
 * lives.  The buffer is these pages, whatever happens to the memfd later.  A hole
 * punched over a whole folio (a small page or a huge page) leaves the folio to the
 * dma-buf, and the memfd gets a new one.  A hole over a part of a huge page zeroes
 * that part, and the memfd and the dma-buf go on sharing it.  CPU caches are left to
 * DMA_BUF_IOCTL_SYNC.
 *
 * Argument: &struct udmabuf_create.  Return: the dma-buf's file descriptor.
 */
#define UDMABUF_CREATE		_IOW('u', 0x42, struct udmabuf_create)

/**
 * UDMABUF_CREATE_LIST - make a dma-buf of a list of ranges of memfds
 *
 * Argument: &struct udmabuf_create_list.  Return: the dma-buf's file descriptor.
 */
#define UDMABUF_CREATE_LIST	_IOW('u', 0x43, struct udmabuf_create_list)

#endif /* _UAPI_LINUX_UDMABUF_H */
