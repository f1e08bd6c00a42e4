/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Address spaces of iommufd, and an edu device of QEMU's that does DMA in them, driven
 * from here through VFIO.
 *
 * Where a function returns an int, it is at least 0, or -errno.
 */
#ifndef VFIO_IOAS_H
#define VFIO_IOAS_H

#include <linux/iommufd.h>

#include "vfio_util.h"

#define READ_WRITE	(IOMMU_IOAS_MAP_READABLE | IOMMU_IOAS_MAP_WRITEABLE)

uint32_t ioas_new(int iommufd);
/* At a fixed IOVA; @flags: IOMMU_IOAS_MAP_READABLE, _WRITEABLE. */
int ioas_map(int iommufd, uint32_t ioas, void *address, uint64_t length, uint64_t iova,
	     uint32_t flags);
int ioas_map_file(int iommufd, uint32_t ioas, int fd, uint64_t start, uint64_t length,
		  uint64_t iova, uint32_t flags);
/* To the same IOVA in another address space. */
int ioas_copy(int iommufd, uint32_t to, uint32_t from, uint64_t iova, uint64_t length,
	      uint32_t flags);
int ioas_unmap(int iommufd, uint32_t ioas, uint64_t iova, uint64_t length);
/* An address space, say; -EBUSY: a device is attached to it. */
int iommufd_destroy(int iommufd, uint32_t id);

/* Attaches a device to an address space, in place of the one that it is attached to. */
int vfio_attach(const struct vfio *vfio, uint32_t ioas);
int vfio_detach(const struct vfio *vfio);

/**
 * struct edu - the device
 * @vfio: opened as CDEV
 * @registers: its BAR 0
 */
struct edu {
	struct vfio vfio;
	volatile uint64_t *registers;
};

/* Opens the device, in an iommufd of its own, attached to vfio.ioas; or ends the test. */
void edu_get(struct edu *edu, const char *place);
void edu_close(struct edu *edu);
/* Bytes at an IOVA into the device, and out of it.  Each takes 100 ms. */
void edu_load(struct edu *edu, uint64_t iova, uint32_t length);
void edu_store(struct edu *edu, uint64_t iova, uint32_t length);

#endif /* VFIO_IOAS_H */
