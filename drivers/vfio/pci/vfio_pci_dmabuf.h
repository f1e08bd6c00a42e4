/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Shared by vfio_pci_dmabuf.c, which makes and maps dma-bufs, vfio_pci_dmabuf_revoke.c,
 * which revokes them and describes states and locks, and vfio_pci_dmabuf_notify.c, which
 * revokes those of many devices at once.
 */
#ifndef VFIO_PCI_DMABUF_H
#define VFIO_PCI_DMABUF_H

#include <linux/dma-buf.h>
#include <linux/dma-fence.h>
#include <linux/kref.h>
#include <linux/mutex.h>
#include <linux/wait.h>

#include "vfio_pci_priv.h"

/**
 * struct vfio_pci_dma_bufs - the buffers of one device
 * @lock: guards @list and @causes, and the buffers' causes against changes
 * @kref: held by the device and by each buffer
 * @pdev: the device, for the log
 * @device: in the list of all devices; under its lock
 * @list: the buffers that can still be live, or were busy when the device was closed
 * @causes: why the device's memory cannot be used: VFIO_PCI_REVOKED_*
 * @nr_disabling: operations on the device that keep VFIO_PCI_REVOKED_DISABLED set
 * @nr_busy: the buffers' counts of the same name, added up
 * @idle: woken when a buffer's count becomes 0
 */
struct vfio_pci_dma_bufs {
	struct mutex lock;	/* see above */
	struct kref kref;
	struct pci_dev *pdev;
	struct list_head device;
	struct list_head list;
	unsigned int causes;
	atomic_t nr_disabling;
	atomic_t nr_busy;
	wait_queue_head_t idle;
};

/**
 * struct vfio_pci_dma_buf - a dma-buf of ranges of a BAR
 * @bufs: the buffers of the device
 * @node: in their list, or empty; under their lock
 * @dmabuf: what the user has a descriptor of
 * @registered: the device, while the buffer holds a registration of it and vga_hold_memory();
 *	changed by xchg()
 * @causes: why it is revoked; 0: it is live. Changed under @bufs->lock and dma_resv
 * @nr_tables: number of scatterlists that importers have mapped; an importer's device may use
 *	one after it is unmapped, until fences signal. Under dma_resv
 * @nr_busy: all mappings, and 1 while @fence is pending or not known
 * @fence: the fences of the reservation object at the last revocation; NULL: none;
 *	ERR_PTR(-ENOMEM): not known yet. Under @bufs->lock, or of ->release() alone
 * @signaled: callback of @fence
 * @readonly: devices must not write to it; immutable, as are all that follow
 * @nr_ranges: number of @ranges
 * @ranges: what it consists of, in order, neighbors joined
 */
struct vfio_pci_dma_buf {
	struct vfio_pci_dma_bufs *bufs;
	struct list_head node;
	struct dma_buf *dmabuf;
	struct vfio_device *registered;
	unsigned int causes;
	unsigned int nr_tables;
	atomic_t nr_busy;
	struct dma_fence *fence;
	struct dma_fence_cb signaled;
	bool readonly;
	u32 nr_ranges;
	struct dma_buf_phys_range ranges[] __counted_by(nr_ranges);
};

/**
 * struct vfio_pci_dma_attach - an importer's attachment
 * @path: as dma_buf_mmio_path() returns it; immutable
 * @nr_maps: mappings by this importer; under dma_resv
 */
struct vfio_pci_dma_attach {
	int path;
	unsigned int nr_maps;
};

void vfio_pci_dma_bufs_put(struct vfio_pci_dma_bufs *bufs);
void vfio_pci_dma_buf_publish(struct vfio_pci_dma_buf *buf);
void vfio_pci_dma_buf_withdraw(struct vfio_pci_dma_buf *buf);
void vfio_pci_dma_buf_mapped(struct vfio_pci_dma_buf *buf,
			     struct vfio_pci_dma_attach *attach);
void vfio_pci_dma_buf_unmapped(struct vfio_pci_dma_buf *buf,
			       struct vfio_pci_dma_attach *attach);
int vfio_pci_dma_buf_request(struct vfio_pci_dma_buf *buf);
unsigned int vfio_pci_dma_bufs_change(struct vfio_pci_dma_bufs *bufs, unsigned int clear,
				      unsigned int set);
int vfio_pci_dma_bufs_wait_busy(struct vfio_pci_dma_bufs *bufs, const atomic_t *busy,
				unsigned long start, enum vfio_pci_revoke_wait how);
void vfio_pci_dma_bufs_add(struct vfio_pci_dma_bufs *bufs);
void vfio_pci_dma_bufs_remove(struct vfio_pci_dma_bufs *bufs);

static inline int vfio_pci_dma_bufs_wait(struct vfio_pci_dma_bufs *bufs, const atomic_t *busy,
					 unsigned long start, enum vfio_pci_revoke_wait how)
{
	if (!atomic_read(busy))
		return 0;
	return vfio_pci_dma_bufs_wait_busy(bufs, busy, start, how);
}

#endif /* VFIO_PCI_DMABUF_H */
