// SPDX-License-Identifier: GPL-2.0-only
/*
 * VFIO PCI: revoking the dma-bufs of many devices at once, by notifiers: when the PCI core
 * resets a physical function, which disables its virtual functions, and before system sleep.
 *
 * All buffers are revoked before the first wait, so that importers stop at the same time.  The
 * wait is without the lock, which others need.  A device that is bound meanwhile starts with
 * the cause.
 */
#include <linux/notifier.h>
#include <linux/pci.h>
#include <linux/pci-reset.h>
#include <linux/suspend.h>
#include <linux/xarray.h>

#include "vfio_pci_dmabuf.h"
#include "vfio_pci_priv.h"

static LIST_HEAD(vfio_pci_devices);
static DEFINE_XARRAY(vfio_pci_resets);	/* of physical functions, by their address */
static bool vfio_pci_sleeps;
static DEFINE_MUTEX(vfio_pci_devices_lock);	/* guards all of them */

void vfio_pci_dma_bufs_add(struct vfio_pci_dma_bufs *bufs)
{
	struct pci_dev *pdev = bufs->pdev;

	mutex_lock(&vfio_pci_devices_lock);
	if (vfio_pci_sleeps)
		bufs->causes |= VFIO_PCI_REVOKED_SUSPEND;
	if (pdev->is_virtfn && xa_load(&vfio_pci_resets, (unsigned long)pci_physfn(pdev)))
		bufs->causes |= VFIO_PCI_REVOKED_PARENT;
	list_add(&bufs->device, &vfio_pci_devices);
	mutex_unlock(&vfio_pci_devices_lock);
}

void vfio_pci_dma_bufs_remove(struct vfio_pci_dma_bufs *bufs)
{
	mutex_lock(&vfio_pci_devices_lock);
	list_del(&bufs->device);
	mutex_unlock(&vfio_pci_devices_lock);
}

/* @parent: a physical function, for its virtual ones; NULL: all devices */
static bool vfio_pci_dma_bufs_match(struct vfio_pci_dma_bufs *bufs, struct pci_dev *parent)
{
	return !parent || (bufs->pdev->is_virtfn && pci_physfn(bufs->pdev) == parent);
}

static void vfio_pci_dma_bufs_change_all(struct pci_dev *parent, unsigned int clear,
					 unsigned int set)
{
	struct vfio_pci_dma_bufs *bufs;

	lockdep_assert_held(&vfio_pci_devices_lock);

	list_for_each_entry(bufs, &vfio_pci_devices, device)
		if (vfio_pci_dma_bufs_match(bufs, parent))
			vfio_pci_dma_bufs_change(bufs, clear, set);
}

/* The buffers of a device that is busy, with a reference. */
static struct vfio_pci_dma_bufs *vfio_pci_dma_bufs_find_busy(struct pci_dev *parent)
{
	struct vfio_pci_dma_bufs *bufs, *busy = NULL;

	mutex_lock(&vfio_pci_devices_lock);
	list_for_each_entry(bufs, &vfio_pci_devices, device) {
		if (vfio_pci_dma_bufs_match(bufs, parent) && atomic_read(&bufs->nr_busy)) {
			kref_get(&bufs->kref);
			busy = bufs;
			break;
		}
	}
	mutex_unlock(&vfio_pci_devices_lock);
	return busy;
}

/* The time begins now: not before the importers' callbacks, nor the wait for a lock. */
static void vfio_pci_dma_bufs_wait_all(struct pci_dev *parent)
{
	unsigned long start = jiffies;
	struct vfio_pci_dma_bufs *bufs, *late = NULL;

	while (!late && (bufs = vfio_pci_dma_bufs_find_busy(parent))) {
		if (vfio_pci_dma_bufs_wait(bufs, &bufs->nr_busy, start, VFIO_PCI_WAIT_BOUNDED))
			late = bufs;
		vfio_pci_dma_bufs_put(bufs);
	}
	if (!late)
		return;
	/* The time is over: this only names the other devices' importers. */
	mutex_lock(&vfio_pci_devices_lock);
	list_for_each_entry(bufs, &vfio_pci_devices, device)
		if (bufs != late && vfio_pci_dma_bufs_match(bufs, parent))
			vfio_pci_dma_bufs_wait(bufs, &bufs->nr_busy, start,
					       VFIO_PCI_WAIT_BOUNDED);
	mutex_unlock(&vfio_pci_devices_lock);
}

void vfio_pci_dma_buf_parent_reset(struct pci_dev *parent, unsigned long event)
{
	if (!parent->is_physfn)
		return;
	mutex_lock(&vfio_pci_devices_lock);
	if (event == PCI_RESET_PREPARE) {
		/* Without memory, a virtual function that is bound meanwhile lacks the cause. */
		xa_store(&vfio_pci_resets, (unsigned long)parent, parent, GFP_NOIO);
		vfio_pci_dma_bufs_change_all(parent, 0, VFIO_PCI_REVOKED_PARENT);
	} else {
		xa_erase(&vfio_pci_resets, (unsigned long)parent);
		vfio_pci_dma_bufs_change_all(parent, VFIO_PCI_REVOKED_PARENT, 0);
	}
	mutex_unlock(&vfio_pci_devices_lock);
	if (event == PCI_RESET_PREPARE)
		vfio_pci_dma_bufs_wait_all(parent);
}

static int vfio_pci_reset_notify(struct notifier_block *nb, unsigned long event, void *data)
{
	vfio_pci_dma_buf_parent_reset(data, event);
	return NOTIFY_OK;
}

static struct notifier_block vfio_pci_reset_notifier = {
	.notifier_call = vfio_pci_reset_notify,
};

/*
 * Before processes are frozen and devices are suspended: importers can still stop.  The
 * system does not stay awake for one that is late.
 */
static int vfio_pci_sleep_notify(struct notifier_block *nb, unsigned long event, void *data)
{
	bool sleeps = event == PM_SUSPEND_PREPARE || event == PM_HIBERNATION_PREPARE ||
		      event == PM_RESTORE_PREPARE;

	mutex_lock(&vfio_pci_devices_lock);
	vfio_pci_sleeps = sleeps;
	if (sleeps)
		vfio_pci_dma_bufs_change_all(NULL, 0, VFIO_PCI_REVOKED_SUSPEND);
	else
		vfio_pci_dma_bufs_change_all(NULL, VFIO_PCI_REVOKED_SUSPEND, 0);
	mutex_unlock(&vfio_pci_devices_lock);
	if (sleeps)
		vfio_pci_dma_bufs_wait_all(NULL);
	return NOTIFY_OK;
}

static struct notifier_block vfio_pci_sleep_notifier = {
	.notifier_call = vfio_pci_sleep_notify,
};

void vfio_pci_dma_buf_init(void)
{
	pci_register_reset_notifier(&vfio_pci_reset_notifier);
	register_pm_notifier(&vfio_pci_sleep_notifier);
}

void vfio_pci_dma_buf_cleanup(void)
{
	unregister_pm_notifier(&vfio_pci_sleep_notifier);
	pci_unregister_reset_notifier(&vfio_pci_reset_notifier);
}
