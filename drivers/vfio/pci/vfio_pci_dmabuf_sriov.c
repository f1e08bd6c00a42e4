// SPDX-License-Identifier: GPL-2.0-only
/*
 * VFIO PCI: dma-bufs of virtual functions, whose memory goes away when the physical function
 * is reset, by VFIO or by a driver of its own.
 */
#include <linux/notifier.h>
#include <linux/pci.h>
#include <linux/pci-reset.h>

#include "vfio_pci_dmabuf.h"
#include "vfio_pci_priv.h"

/* The virtual functions' buffers. */
static LIST_HEAD(vfio_pci_vfs);
static DEFINE_MUTEX(vfio_pci_vfs_lock);

void vfio_pci_dma_bufs_add(struct vfio_pci_dma_bufs *bufs)
{
	INIT_LIST_HEAD(&bufs->vf);
	mutex_lock(&vfio_pci_vfs_lock);
	if (bufs->pdev->is_virtfn)
		list_add(&bufs->vf, &vfio_pci_vfs);
	mutex_unlock(&vfio_pci_vfs_lock);
}

void vfio_pci_dma_bufs_remove(struct vfio_pci_dma_bufs *bufs)
{
	mutex_lock(&vfio_pci_vfs_lock);
	list_del(&bufs->vf);
	mutex_unlock(&vfio_pci_vfs_lock);
}

/*
 * Tells the importers of all virtual functions first, so that they stop at the same time.  A
 * virtual function that is unbound meanwhile waits for the lock.
 */
void vfio_pci_dma_buf_parent_reset(struct pci_dev *parent, unsigned long event)
{
	struct vfio_pci_dma_bufs *bufs;
	unsigned long start = jiffies;

	mutex_lock(&vfio_pci_vfs_lock);
	list_for_each_entry(bufs, &vfio_pci_vfs, vf) {
		if (pci_physfn(bufs->pdev) != parent)
			continue;
		vfio_pci_dma_bufs_change(bufs, VFIO_PCI_REVOKED_PARENT,
					 event == PCI_RESET_PREPARE ?
					 VFIO_PCI_REVOKED_PARENT : 0);
	}
	list_for_each_entry(bufs, &vfio_pci_vfs, vf)
		if (pci_physfn(bufs->pdev) == parent && event == PCI_RESET_PREPARE)
			vfio_pci_dma_bufs_wait(bufs, &bufs->nr_busy, start,
					       VFIO_PCI_WAIT_BOUNDED);
	mutex_unlock(&vfio_pci_vfs_lock);
}

static int vfio_pci_reset_notify(struct notifier_block *nb, unsigned long event, void *data)
{
	vfio_pci_dma_buf_parent_reset(data, event);
	return NOTIFY_OK;
}

static struct notifier_block vfio_pci_reset_notifier = {
	.notifier_call = vfio_pci_reset_notify,
};

void vfio_pci_dma_buf_init(void)
{
	pci_register_reset_notifier(&vfio_pci_reset_notifier);
}

void vfio_pci_dma_buf_cleanup(void)
{
	pci_unregister_reset_notifier(&vfio_pci_reset_notifier);
}
