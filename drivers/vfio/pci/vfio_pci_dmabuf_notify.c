// SPDX-License-Identifier: GPL-2.0-only
/*
 * VFIO PCI: revoking the dma-bufs of many devices at once, by notifiers: when the PCI core
 * resets a physical function, which disables its virtual functions, and before system sleep.
 *
 * All buffers are revoked before the first wait, so that importers stop at the same time.  Their
 * callbacks and the wait are without the lock, which others need.  A device that is bound
 * meanwhile starts with the cause.  The notifications of one physical function come one after
 * the other, under its device lock, and so do those of system sleep, under a lock of the system.
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

/*
 * Find the buffers of a device whose @cause differs from @set or, if @cause is 0, of a busy one,
 * after skipping @skip of them.  The caller gets a reference.
 */
static struct vfio_pci_dma_bufs *vfio_pci_dma_bufs_find(struct pci_dev *parent, unsigned int cause,
							bool set, unsigned int skip)
{
	struct vfio_pci_dma_bufs *bufs, *found = NULL;

	mutex_lock(&vfio_pci_devices_lock);
	list_for_each_entry(bufs, &vfio_pci_devices, device) {
		if (vfio_pci_dma_bufs_match(bufs, parent) &&
		    (cause ? !(READ_ONCE(bufs->causes) & cause) == set :
			     atomic_read(&bufs->nr_busy)) && !skip--) {
			kref_get(&bufs->kref);
			found = bufs;
			break;
		}
	}
	mutex_unlock(&vfio_pci_devices_lock);
	return found;
}

/*
 * The time begins now: not before the importers' callbacks, nor the wait for a lock.  When it
 * is over, the importers of the devices that are still busy are named.
 */
static void vfio_pci_dma_bufs_wait_all(struct pci_dev *parent)
{
	unsigned long start = jiffies;
	struct vfio_pci_dma_bufs *bufs;
	unsigned int nr_late = 0;

	while ((bufs = vfio_pci_dma_bufs_find(parent, 0, false, nr_late))) {
		if (vfio_pci_dma_bufs_wait(bufs, &bufs->nr_busy, start, VFIO_PCI_WAIT_BOUNDED))
			nr_late++;
		vfio_pci_dma_bufs_put(bufs);
	}
}

static void vfio_pci_dma_bufs_set_cause(struct pci_dev *parent, unsigned int cause, bool set)
{
	struct vfio_pci_dma_bufs *bufs;

	while ((bufs = vfio_pci_dma_bufs_find(parent, cause, set, 0))) {
		vfio_pci_dma_bufs_change(bufs, set ? 0 : cause, set ? cause : 0);
		vfio_pci_dma_bufs_put(bufs);
	}
	if (set)
		vfio_pci_dma_bufs_wait_all(parent);
}

void vfio_pci_dma_buf_parent_reset(struct pci_dev *parent, unsigned long event)
{
	bool resets = event == PCI_RESET_PREPARE;

	if (!parent->is_physfn)
		return;
	mutex_lock(&vfio_pci_devices_lock);
	if (resets)
		/* If this fails, a virtual function that is bound meanwhile lacks the cause. */
		xa_store(&vfio_pci_resets, (unsigned long)parent, parent, GFP_NOIO);
	else
		xa_erase(&vfio_pci_resets, (unsigned long)parent);
	mutex_unlock(&vfio_pci_devices_lock);
	vfio_pci_dma_bufs_set_cause(parent, VFIO_PCI_REVOKED_PARENT, resets);
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
	mutex_unlock(&vfio_pci_devices_lock);
	vfio_pci_dma_bufs_set_cause(NULL, VFIO_PCI_REVOKED_SUSPEND, sleeps);
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
	xa_destroy(&vfio_pci_resets);	/* a reset may be under way */
}
