// SPDX-License-Identifier: GPL-2.0-only
/*
 * VFIO PCI: dma-bufs of virtual functions, whose memory goes away when the PCI core resets the
 * physical function.
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

/* Buffers of a virtual function that are busy, with a reference. */
static struct vfio_pci_dma_bufs *vfio_pci_dma_bufs_get_busy(struct pci_dev *parent)
{
	struct vfio_pci_dma_bufs *bufs, *busy = NULL;

	mutex_lock(&vfio_pci_vfs_lock);
	list_for_each_entry(bufs, &vfio_pci_vfs, vf) {
		if (pci_physfn(bufs->pdev) == parent && atomic_read(&bufs->nr_busy)) {
			kref_get(&bufs->kref);
			busy = bufs;
			break;
		}
	}
	mutex_unlock(&vfio_pci_vfs_lock);
	return busy;
}

/*
 * Tells the importers of all virtual functions first, so that they stop at the same time, and
 * waits for them without the lock, which others need.
 */
void vfio_pci_dma_buf_parent_reset(struct pci_dev *parent, unsigned long event)
{
	unsigned int set = event == PCI_RESET_PREPARE ? VFIO_PCI_REVOKED_PARENT : 0;
	struct vfio_pci_dma_bufs *bufs;
	unsigned long start = jiffies;
	int ret = 0;

	mutex_lock(&vfio_pci_vfs_lock);
	list_for_each_entry(bufs, &vfio_pci_vfs, vf)
		if (pci_physfn(bufs->pdev) == parent)
			vfio_pci_dma_bufs_change(bufs, VFIO_PCI_REVOKED_PARENT, set);
	mutex_unlock(&vfio_pci_vfs_lock);

	while (set && !ret && (bufs = vfio_pci_dma_bufs_get_busy(parent))) {
		ret = vfio_pci_dma_bufs_wait(bufs, &bufs->nr_busy, start, VFIO_PCI_WAIT_BOUNDED);
		vfio_pci_dma_bufs_put(bufs);
	}
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
