// SPDX-License-Identifier: GPL-2.0-only
/*
 * VFIO PCI: slices of a device's BARs as dma-bufs, for peer-to-peer DMA and for
 * mapping by processes that do not have the device.
 *
 * State.  A buffer carries a mask of reasons why it is revoked, and is live while
 * the mask is 0.  Whoever takes the device's memory away sets a reason and takes it
 * back afterwards; causes can so nest and overlap, and nobody has to ask whose reset
 * it was.  VFIO_PCI_REVOKED_OFF stands for the state of the device itself, memory
 * decode and power, and is worked out anew whenever memory_lock is given up in
 * vfio_pci_memory_give().  A buffer is added to the device's under memory_lock, so that
 * only reasons given without that lock have to be remembered for it.
 *
 * Owners.  The buffers of a device hang on a struct vfio_pci_dma_bufs, which each of
 * them and the device hold a reference on: a dma-buf's release can come long after
 * the device's close, and race with it.  While the device is open, and for as long
 * after it as an importer has not let go, a buffer holds a registration of the
 * vfio_device, so that unbinding the driver waits.  A struct vfio_pci_dma_map belongs
 * to the importer from map to unmap.
 *
 * Locks, outermost first:
 *
 *   vfio_pci_dma_bufs.requests		what users ask for
 *     mmap_lock or the vma's lock
 *       memory_lock			of the device
 *         vfio_pci_dma_bufs.lock	the lists, and reasons together with dma_resv
 *           dma_resv			of a buffer: reasons, maps, registered
 *             i_mmap_rwsem		zapping
 *
 * vfio_pci_dma_bufs.lock is never held over an access to config space.  With a reset
 * from outside that would be a deadlock which lockdep can't see:
 *
 *   CPU0: write to config space	CPU1: echo 1 > .../reset
 *
 *					pci_cfg_access_lock()
 *   down_write(memory_lock)
 *   pci_user_write_config_word()
 *     waits for CPU1
 *					->reset_prepare()
 *					  must not wait for memory_lock,
 *					  nor for a lock that CPU0 holds
 *
 * Lifetime.  A buffer on the list, seen under its lock, has a dma_buf that is not
 * freed, as ->release() needs the lock to unlink it.  The file may be gone by then
 * (an O_PATH descriptor keeps the dentry only), and the inode as well: so neither is
 * looked at through the dma_buf, and a buffer has a reference on the inode.
 *
 * What cannot fail: giving memory back, and closing.  Taking it away fails with
 * -EBUSY where an importer does not let go in time, unless the memory goes away
 * whatever we say (a reset from outside, an error, the device's end).
 *
 * Whoever has a dma-buf can add fences to it, without importing it.  So only the
 * fences that are there when a mapped buffer is revoked are waited for, not those
 * that come later or to a buffer that no device uses.
 *
 * A range is an offset and a length; a run has a first page and a length, and the run
 * after it begins where it ends.  Nothing here has an inclusive end.
 */
#include <linux/dma-buf.h>
#include <linux/dma-fence.h>
#include <linux/dma-map-ops.h>
#include <linux/dma-resv.h>
#include <linux/iommu-dma.h>
#include <linux/kref.h>
#include <linux/module.h>
#include <linux/pagemap.h>
#include <linux/pci-p2pdma.h>
#include <linux/pfn_t.h>
#include <linux/vfio.h>

#include "vfio_pci_priv.h"

MODULE_IMPORT_NS(DMA_BUF);

/* As many as fit in a megabyte: far more than a BAR has uses, and a bound. */
#define VFIO_PCI_DMA_BUF_MAX_RANGES	65536

/* What is never taken back. */
#define VFIO_PCI_REVOKED_FOR_GOOD	(VFIO_PCI_REVOKED_CLOSED | \
					 VFIO_PCI_REVOKED_BY_USER)

static unsigned int revoke_timeout_ms = 5000;
module_param(revoke_timeout_ms, uint, 0644);
MODULE_PARM_DESC(revoke_timeout_ms,
		 "How long importers of a dma-buf may take to let go of it when the device's memory goes away, in milliseconds (default 5000)");

/*
 * What is mapped for a device at once, page table entries and the entries of a
 * scatterlist: a list of ranges may name a BAR again and again.  A whole BAR can always
 * be mapped; 64 GiB in segments of 64 KiB.
 */
#define VFIO_PCI_DMA_BUF_MAX_MAPPED	(64ULL * SZ_1G)
#define VFIO_PCI_DMA_BUF_MAX_SEGMENTS	(1024 * 1024)

/**
 * struct vfio_pci_dma_bufs - the buffers of one device
 * @kref: held by the device and by each buffer
 * @pdev: the device, for the log
 * @requests: lets users' requests about buffers wait for each other
 * @lock: guards @list, @draining, and the buffers' reasons against changes
 * @list: the buffers that can still be live, or are still mapped; nothing is added
 *	while memory_lock is held for writing
 * @draining: the buffers with a fence that is to be waited for
 * @reasons: why the device's memory is away without memory_lock being held for it;
 *	see vfio_pci_dma_bufs_any()
 * @nr_maps: mappings by importers, in all buffers
 * @unmapped: woken when there are none left of a buffer's or of all
 */
struct vfio_pci_dma_bufs {
	struct kref kref;
	struct pci_dev *pdev;
	struct mutex requests;	/* see above */
	struct mutex lock;	/* see above */
	struct list_head list;
	struct list_head draining;
	atomic_t reasons;
	atomic_t nr_maps;
	wait_queue_head_t unmapped;
};

/**
 * struct vfio_pci_bar_run - a piece of a BAR
 * @first: page of the buffer that it begins with
 * @len: length in bytes, a multiple of the page size
 * @phys: the CPU's address of it
 */
struct vfio_pci_bar_run {
	u64 first;
	u64 len;
	phys_addr_t phys;
};

/**
 * struct vfio_pci_dma_buf - a buffer
 * @bufs: the device's buffers
 * @node: in their list, or empty; under their lock
 * @drain: in their draining, or empty; under their lock
 * @fence: of those who used it when it was revoked, while it is draining
 * @dmabuf: what the user has a descriptor of
 * @inode: its inode, whose mappings are zapped
 * @registered: the device while we hold a registration of it; under dma_resv, but
 *	for its release
 * @reasons: why it is revoked; changed under @bufs->lock and dma_resv
 * @maps: the importers' mappings; under dma_resv
 * @readonly: nobody may write to it; immutable
 * @bar_len: size of the BAR in bytes
 * @bus_offset: from the CPU's address to that on the PCI bus
 * @nr_runs: number of runs
 * @runs: what it consists of, in order, neighbours joined; immutable
 */
struct vfio_pci_dma_buf {
	struct vfio_pci_dma_bufs *bufs;
	struct list_head node;
	struct list_head drain;
	struct dma_fence *fence;
	struct dma_buf *dmabuf;
	struct inode *inode;
	struct vfio_device *registered;
	unsigned int reasons;
	struct list_head maps;
	bool readonly;
	u64 bar_len;
	u64 bus_offset;
	u32 nr_runs;
	struct vfio_pci_bar_run runs[] __counted_by(nr_runs);
};

/**
 * struct vfio_pci_dma_map - a buffer mapped for an importer's device
 * @sgt: what the importer sees
 * @node: in the buffer's maps
 * @dev: the importer's device
 * @ranges: what an importer with page tables of its own sees, instead of @sgt
 * @on_bus: the addresses are the bus's own: nothing to undo
 * @nr: how many addresses there are
 * @addr: the DMA address of each run
 */
struct vfio_pci_dma_map {
	struct sg_table sgt;
	struct list_head node;
	struct device *dev;
	struct dma_buf_phys_range *ranges;
	bool on_bus;
	u32 nr;
	dma_addr_t addr[];
};

/* The buffers of a device */

/**
 * vfio_pci_core_init_dma_bufs() - let a device's BARs be exported as dma-bufs
 * @vdev: the device, not registered yet
 *
 * For drivers whose regions 0 to 5 are the device's BARs, no more and no less, and
 * whose err_handler is, or calls, vfio_pci_core_err_handlers. Undone with the last
 * reference on the device.
 *
 * Context: may sleep.
 * Return: 0, or -ENOMEM.
 */
int vfio_pci_core_init_dma_bufs(struct vfio_pci_core_device *vdev)
{
	struct vfio_pci_dma_bufs *bufs = kzalloc(sizeof(*bufs), GFP_KERNEL);

	if (!bufs)
		return -ENOMEM;
	kref_init(&bufs->kref);
	bufs->pdev = pci_dev_get(vdev->pdev);
	mutex_init(&bufs->requests);
	mutex_init(&bufs->lock);
	INIT_LIST_HEAD(&bufs->list);
	INIT_LIST_HEAD(&bufs->draining);
	atomic_set(&bufs->reasons, VFIO_PCI_REVOKED_CLOSED);
	init_waitqueue_head(&bufs->unmapped);
	vdev->dma_bufs = bufs;
	return 0;
}
EXPORT_SYMBOL_GPL(vfio_pci_core_init_dma_bufs);

static void vfio_pci_dma_bufs_free(struct kref *kref)
{
	struct vfio_pci_dma_bufs *bufs =
		container_of(kref, struct vfio_pci_dma_bufs, kref);

	mutex_destroy(&bufs->lock);
	mutex_destroy(&bufs->requests);
	pci_dev_put(bufs->pdev);
	kfree(bufs);
}

void vfio_pci_dma_bufs_put(struct vfio_pci_dma_bufs *bufs)
{
	if (bufs)
		kref_put(&bufs->kref, vfio_pci_dma_bufs_free);
}

/* Revocation */

static void vfio_pci_dma_buf_drained(struct vfio_pci_dma_buf *buf)
{
	lockdep_assert_held(&buf->bufs->lock);

	dma_fence_put(buf->fence);
	buf->fence = NULL;
	list_del_init(&buf->drain);
}

/* Keeps in mind what the importers' devices are still doing. */
static void vfio_pci_dma_buf_drain(struct vfio_pci_dma_buf *buf)
{
	struct dma_resv *resv = buf->dmabuf->resv;

	lockdep_assert_held(&buf->bufs->lock);

	vfio_pci_dma_buf_drained(buf);
	if (dma_resv_get_singleton(resv, DMA_RESV_USAGE_BOOKKEEP, &buf->fence)) {
		/* Out of memory: wait here, for one time-out at most. */
		buf->fence = NULL;
		dma_resv_wait_timeout(resv, DMA_RESV_USAGE_BOOKKEEP, false,
				      msecs_to_jiffies(revoke_timeout_ms));
	}
	if (buf->fence)
		list_add_tail(&buf->drain, &buf->bufs->draining);
}

/*
 * The change is made, the CPU's mappings are zapped and the importers told under one
 * hold of dma_resv, which map and fault need too:
 *
 *   CPU0: revoke			CPU1: map, or fault
 *
 *					dma_resv_lock()
 *					reasons == 0: map
 *					dma_resv_unlock()
 *   dma_resv_lock()
 *   reasons |= why
 *   zap; move_notify()
 *     [sees what CPU1 has mapped]
 *   dma_resv_unlock()
 *					dma_resv_lock()
 *					reasons != 0: -ENODEV, SIGBUS
 */
static void vfio_pci_dma_buf_change(struct vfio_pci_dma_buf *buf,
				    unsigned int clear, unsigned int set)
{
	bool was_live, was_mapped;

	lockdep_assert_held(&buf->bufs->lock);

	dma_resv_lock(buf->dmabuf->resv, NULL);
	was_live = !buf->reasons;
	was_mapped = !list_empty(&buf->maps);
	buf->reasons = (buf->reasons & ~clear) | set;
	if (was_live && buf->reasons) {
		unmap_mapping_range(buf->inode->i_mapping, 0, 0, true);
		dma_buf_move_notify(buf->dmabuf);
		if (was_mapped)
			vfio_pci_dma_buf_drain(buf);
	} else if (!was_live && !buf->reasons) {
		vfio_pci_dma_buf_drained(buf);
		dma_buf_move_notify(buf->dmabuf);
	}
	dma_resv_unlock(buf->dmabuf->resv);
}

/*
 * Whether buffers have to be told of a change of the device's reasons.  Most resets
 * have none to tell, and pay no lock for it:
 *
 *   CPU0: lost, found			CPU1: publish
 *
 *   change bufs->reasons		add buf to bufs->list
 *   smp_mb()				smp_mb()
 *   list_empty()?			buf->reasons = bufs->reasons
 *
 * Either CPU0 finds the buffer, or that has the change from the beginning.
 */
static bool vfio_pci_dma_bufs_any(struct vfio_pci_dma_bufs *bufs)
{
	smp_mb__after_atomic(); /* pairs with vfio_pci_dma_buf_publish() */
	return !list_empty(&bufs->list);
}

/* Tells whether importers are left that may have to be waited for. */
static bool vfio_pci_dma_bufs_change(struct vfio_pci_dma_bufs *bufs,
				     unsigned int clear, unsigned int set)
{
	struct vfio_pci_dma_buf *buf;

	lockdep_assert_held(&bufs->lock);

	list_for_each_entry(buf, &bufs->list, node)
		vfio_pci_dma_buf_change(buf, clear, set);
	return atomic_read(&bufs->nr_maps) || !list_empty(&bufs->draining);
}

/*
 * The reason is not noted for buffers to come, as there will be none before it is taken
 * back: vfio_pci_dma_buf_publish().
 */
static bool vfio_pci_dma_bufs_revoke(struct vfio_pci_core_device *vdev, unsigned int why)
{
	struct vfio_pci_dma_bufs *bufs = vdev->dma_bufs;
	bool wait;

	lockdep_assert_held_write(&vdev->memory_lock);

	mutex_lock(&bufs->lock);
	wait = vfio_pci_dma_bufs_change(bufs, 0, why);
	mutex_unlock(&bufs->lock);
	return wait;
}

static unsigned long vfio_pci_revoke_deadline(void)
{
	return jiffies + msecs_to_jiffies(revoke_timeout_ms);
}

static unsigned long jiffies_until(unsigned long deadline)
{
	return time_before(jiffies, deadline) ? deadline - jiffies : 0;
}

/* A fence that has not signaled yet, with a reference; NULL: there is none. */
static struct dma_fence *vfio_pci_dma_bufs_fence(struct vfio_pci_dma_bufs *bufs)
{
	struct vfio_pci_dma_buf *buf, *next;
	struct dma_fence *fence = NULL;

	mutex_lock(&bufs->lock);
	list_for_each_entry_safe(buf, next, &bufs->draining, drain) {
		if (!dma_fence_is_signaled(buf->fence)) {
			fence = dma_fence_get(buf->fence);
			break;
		}
		vfio_pci_dma_buf_drained(buf);
	}
	mutex_unlock(&bufs->lock);
	return fence;
}

/*
 * Not under the lock: a fence may be a while, and releases need it.  Who else waits at
 * the same time finds the same fences, as they stay until they have signaled.
 */
static bool vfio_pci_dma_bufs_wait_fences(struct vfio_pci_dma_bufs *bufs,
					  unsigned long deadline)
{
	struct dma_fence *fence;
	bool done = true;

	while (done && (fence = vfio_pci_dma_bufs_fence(bufs))) {
		done = dma_fence_wait_timeout(fence, false, jiffies_until(deadline)) > 0;
		dma_fence_put(fence);
	}
	if (!done)
		dev_warn_ratelimited(&bufs->pdev->dev,
				     "a fence of a revoked dma-buf has not signaled in time\n");
	return done;
}

/* Names those that have not let go; the caller has seen to it that @buf stays. */
static void vfio_pci_dma_buf_blame(struct vfio_pci_dma_buf *buf)
{
	struct vfio_pci_dma_map *map;

	dma_resv_lock(buf->dmabuf->resv, NULL);
	list_for_each_entry(map, &buf->maps, node)
		dev_warn_ratelimited(&buf->bufs->pdev->dev,
				     "importer %s has not let go of a revoked dma-buf in time\n",
				     dev_name(map->dev));
	dma_resv_unlock(buf->dmabuf->resv);
}

static void vfio_pci_dma_bufs_blame(struct vfio_pci_dma_bufs *bufs)
{
	struct vfio_pci_dma_buf *buf;

	mutex_lock(&bufs->lock);
	list_for_each_entry(buf, &bufs->list, node)
		vfio_pci_dma_buf_blame(buf);
	mutex_unlock(&bufs->lock);
}

/*
 * Waits until importers have let go of all buffers, each of which has been revoked.
 * They have from now on.
 */
static int vfio_pci_dma_bufs_wait(struct vfio_pci_dma_bufs *bufs,
				  unsigned long deadline)
{
	if (vfio_pci_dma_bufs_wait_fences(bufs, deadline) &&
	    wait_event_timeout(bufs->unmapped, !atomic_read(&bufs->nr_maps),
			       jiffies_until(deadline)))
		return 0;
	vfio_pci_dma_bufs_blame(bufs);
	return -EBUSY;
}

/*
 * Whether the device answers at its BARs.  D1 and D2 leave memory undecoded as D3
 * does; in the low power state that a user asks for, the device may be suspended
 * at any time.
 */
static bool vfio_pci_memory_usable(struct vfio_pci_core_device *vdev)
{
	lockdep_assert_held(&vdev->memory_lock);

	return !vdev->pm_runtime_engaged && vdev->pdev->current_state == PCI_D0 &&
	       __vfio_pci_memory_enabled(vdev);
}

/*
 * What follows is asked at every reset.  Functions whose names begin with __ do the work
 * where there are buffers; apart, so that a device that has none does not even save
 * their registers.
 */

static noinline void __vfio_pci_dma_buf_restore(struct vfio_pci_core_device *vdev,
						unsigned int why)
{
	struct vfio_pci_dma_bufs *bufs = vdev->dma_bufs;
	unsigned int off = 0;

	mutex_lock(&bufs->lock);
	/* What has come back since is not over. */
	why &= ~atomic_read(&bufs->reasons);
	/* Not closed: the virtual config space, which is looked at, is there. */
	if (!(atomic_read_acquire(&bufs->reasons) & VFIO_PCI_REVOKED_CLOSED)) {
		why |= VFIO_PCI_REVOKED_OFF;
		if (!vfio_pci_memory_usable(vdev))
			off = VFIO_PCI_REVOKED_OFF;
	}
	vfio_pci_dma_bufs_change(bufs, why, off);
	mutex_unlock(&bufs->lock);
}

/**
 * vfio_pci_dma_buf_restore() - take back reasons why buffers are revoked
 * @vdev: the device
 * @why: the reasons; VFIO_PCI_REVOKED_OFF is set or cleared as the device's state is
 *
 * Buffers that no reason is left for are live again, and their importers are told.
 *
 * Context: may sleep. memory_lock is held for writing.
 */
void vfio_pci_dma_buf_restore(struct vfio_pci_core_device *vdev, unsigned int why)
{
	struct vfio_pci_dma_bufs *bufs = vdev->dma_bufs;

	lockdep_assert_held_write(&vdev->memory_lock);

	if (bufs && !list_empty(&bufs->list))
		__vfio_pci_dma_buf_restore(vdev, why);
}

static noinline int __vfio_pci_dma_buf_revoke(struct vfio_pci_core_device *vdev,
					      unsigned int why)
{
	int ret;

	if (!vfio_pci_dma_bufs_revoke(vdev, why))
		return 0;
	ret = vfio_pci_dma_bufs_wait(vdev->dma_bufs, vfio_pci_revoke_deadline());
	if (ret)
		__vfio_pci_dma_buf_restore(vdev, why);
	return ret;
}

/**
 * vfio_pci_dma_buf_revoke() - revoke all buffers of a device
 * @vdev: the device
 * @why: the reason
 *
 * On return nothing reaches the device's memory through a dma-buf any more: the
 * CPU's mappings are gone, and importers' devices have stopped and are unmapped.
 *
 * Context: may sleep, for revoke_timeout_ms at most. memory_lock is held for writing.
 * Return:
 * * 0 - done; vfio_pci_dma_buf_restore() undoes it.
 * * -EBUSY - an importer has not let go in time. It is named in the log, and the
 *   reason is taken back.
 */
int vfio_pci_dma_buf_revoke(struct vfio_pci_core_device *vdev, unsigned int why)
{
	lockdep_assert_held_write(&vdev->memory_lock);

	if (!vdev->dma_bufs || list_empty(&vdev->dma_bufs->list))
		return 0;
	return __vfio_pci_dma_buf_revoke(vdev, why);
}

/**
 * vfio_pci_dma_buf_revoke_set() - revoke all buffers of a set of devices
 * @dev_set: the devices
 * @why: the reason
 *
 * As vfio_pci_dma_buf_revoke(), but the importers of all devices are told first, so
 * that they let go at the same time. The reason stays set whatever is returned: the
 * caller calls vfio_pci_memory_give() for each device in any case.
 *
 * Context: may sleep, for revoke_timeout_ms at most. The lock of @dev_set is held, and
 * each device's memory_lock for writing.
 * Return: 0, or -EBUSY where an importer has not let go in time.
 */
int vfio_pci_dma_buf_revoke_set(struct vfio_device_set *dev_set, unsigned int why)
{
	struct vfio_pci_core_device *vdev;
	unsigned long deadline;
	bool wait = false;

	lockdep_assert_held(&dev_set->lock);

	list_for_each_entry(vdev, &dev_set->device_list, vdev.dev_set_list)
		if (vdev->dma_bufs)
			wait |= vfio_pci_dma_bufs_revoke(vdev, why);
	if (!wait)
		return 0;
	deadline = vfio_pci_revoke_deadline();
	list_for_each_entry(vdev, &dev_set->device_list, vdev.dev_set_list)
		if (vdev->dma_bufs && vfio_pci_dma_bufs_wait(vdev->dma_bufs, deadline))
			return -EBUSY;
	return 0;
}

static noinline void __vfio_pci_dma_buf_lost(struct vfio_pci_dma_bufs *bufs,
					     unsigned int why, bool was_closed)
{
	bool wait;

	mutex_lock(&bufs->lock);
	/* An open may have taken the reason back: no buffer has one that bufs has not. */
	atomic_or(why, &bufs->reasons);
	wait = vfio_pci_dma_bufs_change(bufs, 0, why);
	mutex_unlock(&bufs->lock);
	if (wait && !was_closed)
		vfio_pci_dma_bufs_wait(bufs, vfio_pci_revoke_deadline());
}

/**
 * vfio_pci_dma_buf_lost() - the device's memory goes away, whatever we say
 * @vdev: the device
 * @why: the reason
 *
 * For hooks that cannot fail. Importers that do not let go in time are named in the
 * log. Those that have not let go of a device which is closed have been, and are not
 * waited for again.
 *
 * Context: may sleep, for revoke_timeout_ms at most. Config space may be locked:
 * memory_lock must not be taken here, nor waited for.
 */
void vfio_pci_dma_buf_lost(struct vfio_pci_core_device *vdev, unsigned int why)
{
	struct vfio_pci_dma_bufs *bufs = vdev->dma_bufs;
	bool was_closed;

	if (!bufs)
		return;
	/* Fully ordered, for who looks at error_state. */
	was_closed = atomic_fetch_or(why, &bufs->reasons) & VFIO_PCI_REVOKED_CLOSED;
	if (vfio_pci_dma_bufs_any(bufs))
		__vfio_pci_dma_buf_lost(bufs, why, was_closed);
}

static noinline void __vfio_pci_dma_buf_found(struct vfio_pci_core_device *vdev,
					      unsigned int why)
{
	struct vfio_pci_dma_bufs *bufs = vdev->dma_bufs;

	if (down_read_trylock(&vdev->memory_lock)) {
		__vfio_pci_dma_buf_restore(vdev, why);
		up_read(&vdev->memory_lock);
		return;
	}
	mutex_lock(&bufs->lock);
	vfio_pci_dma_bufs_change(bufs, why, 0);
	mutex_unlock(&bufs->lock);
}

/**
 * vfio_pci_dma_buf_found() - what vfio_pci_dma_buf_lost() said is over
 * @vdev: the device
 * @why: the reason given there
 *
 * Looks at the device's state as well, if memory_lock can be had. If not, a writer has
 * it or waits for it, and will look in vfio_pci_memory_give().
 *
 * Context: may sleep, but does not wait for memory_lock.
 */
void vfio_pci_dma_buf_found(struct vfio_pci_core_device *vdev, unsigned int why)
{
	struct vfio_pci_dma_bufs *bufs = vdev->dma_bufs;

	if (!bufs)
		return;
	atomic_andnot(why, &bufs->reasons);
	if (vfio_pci_dma_bufs_any(bufs))
		__vfio_pci_dma_buf_found(vdev, why);
}

/* Whether a BAR holds the address that importers are given. */
static bool vfio_pci_bar_in_place(struct pci_dev *pdev, int bar)
{
	unsigned long flags = pci_resource_flags(pdev, bar);
	pci_bus_addr_t addr = pci_bus_address(pdev, bar);
	int pos = PCI_BASE_ADDRESS_0 + 4 * bar;
	u32 low, high = upper_32_bits(addr);

	/* A VF's can't be read; what is fixed, or has no address, need not have one. */
	if (!(flags & IORESOURCE_MEM) || pdev->is_virtfn ||
	    flags & (IORESOURCE_UNSET | IORESOURCE_PCI_FIXED))
		return true;
	pci_read_config_dword(pdev, pos, &low);
	if (flags & IORESOURCE_MEM_64)
		pci_read_config_dword(pdev, pos + 4, &high);
	return (low & (u32)PCI_BASE_ADDRESS_MEM_MASK) == lower_32_bits(addr) &&
	       high == upper_32_bits(addr);
}

/*
 * Whether the device is there, with its memory where the kernel has put it: an error
 * that the kernel has recovered from leaves it with BARs that are lost.  Opened after
 * that, it has them back when it has been removed and found again; if it was open, when
 * PCI_COMMAND is written.  Config space is not waited for: who keeps others from it may
 * wait for the locks that are held here.
 */
static bool vfio_pci_memory_in_place(struct pci_dev *pdev)
{
	u16 cmd;
	int i;

	if (READ_ONCE(pdev->error_state) != pci_channel_io_normal ||
	    !pci_device_is_present(pdev))
		return false;
	/* For a VF that was about its PF. */
	pci_read_config_word(pdev, PCI_COMMAND, &cmd);
	if (PCI_POSSIBLE_ERROR(cmd))
		return false;
	for (i = 0; i < PCI_STD_NUM_BARS; i++)
		if (!vfio_pci_bar_in_place(pdev, i))
			return false;
	return true;
}

/**
 * vfio_pci_error_over() - whether the device has come back from an error
 * @vdev: the device, reset or with its BARs written anew
 *
 * It has once it decodes memory, at the addresses that it should.
 *
 * Context: memory_lock is held for writing, no other lock of this file.
 * Return: VFIO_PCI_REVOKED_ERROR for vfio_pci_memory_give(), or 0.
 */
unsigned int vfio_pci_error_over(struct vfio_pci_core_device *vdev)
{
	struct vfio_pci_dma_bufs *bufs = vdev->dma_bufs;
	struct pci_dev *pdev = vdev->pdev;
	u16 cmd;

	if (!bufs || !(atomic_read(&bufs->reasons) & VFIO_PCI_REVOKED_ERROR))
		return 0;

	/*
	 * The next error may come at any time:
	 *
	 *   CPU0: error_over			CPU1: AER
	 *
	 *   reasons &= ~ERROR			error_state = frozen
	 *   smp_mb()				smp_mb()
	 *   error_state?			lost: reasons |= ERROR
	 *
	 * Either CPU0 sees it, or CPU1's reason comes last and stays, for buffers
	 * too: __vfio_pci_dma_buf_restore() looks.
	 */
	atomic_andnot(VFIO_PCI_REVOKED_ERROR, &bufs->reasons);
	smp_mb__after_atomic(); /* pairs with vfio_pci_dma_buf_lost() */
	if (vfio_pci_memory_in_place(pdev)) {
		pci_read_config_word(pdev, PCI_COMMAND, &cmd);
		if (pdev->no_command_memory || cmd & PCI_COMMAND_MEMORY)
			return VFIO_PCI_REVOKED_ERROR;
	}
	atomic_or(VFIO_PCI_REVOKED_ERROR, &bufs->reasons);
	return 0;
}

static void vfio_pci_dma_buf_unregister(struct vfio_pci_dma_buf *buf)
{
	if (buf->registered)
		vfio_device_put_registration(buf->registered);
	buf->registered = NULL;
}

/*
 * Whether importers of an earlier user's, which the log of the close names, can still
 * reach the device's addresses: it must not decode memory then, nor be opened.
 */
static bool vfio_pci_dma_buf_busy(struct vfio_pci_core_device *vdev)
{
	struct dma_fence *fence;
	bool busy;

	if (!vdev->dma_bufs)
		return false;
	fence = vfio_pci_dma_bufs_fence(vdev->dma_bufs);
	busy = fence || atomic_read(&vdev->dma_bufs->nr_maps);
	dma_fence_put(fence);
	return busy;
}

/**
 * vfio_pci_dma_buf_open_begin() - the device is to be opened, and reset
 * @vdev: the device, which is closed
 *
 * What it had to suffer while it was closed is over with that reset, but for a reset
 * from outside that goes on, and an error, which vfio_pci_dma_buf_open_end() looks for.
 * What comes from now on is not over either.
 *
 * Context: may sleep.
 * Return: 0, or -EBUSY where an importer of an earlier user's has not let go.
 */
int vfio_pci_dma_buf_open_begin(struct vfio_pci_core_device *vdev)
{
	struct vfio_pci_dma_bufs *bufs = vdev->dma_bufs;

	if (vfio_pci_dma_buf_busy(vdev))
		return -EBUSY;
	if (bufs)
		atomic_and(VFIO_PCI_REVOKED_CLOSED | VFIO_PCI_REVOKED_OUTSIDE,
			   &bufs->reasons);
	return 0;
}

/**
 * vfio_pci_dma_buf_open_end() - the device is open: buffers can be made
 * @vdev: the device, which has been reset if it can be, and has its virtual config space
 *
 * If an error goes on, or has taken the device's addresses, buffers begin as revoked
 * ones.
 *
 * Context: process.
 */
void vfio_pci_dma_buf_open_end(struct vfio_pci_core_device *vdev)
{
	struct vfio_pci_dma_bufs *bufs = vdev->dma_bufs;

	if (!bufs)
		return;
	smp_mb(); /* as in vfio_pci_error_over(): reasons were cleared in open_begin() */
	if (!vfio_pci_memory_in_place(vdev->pdev)) {
		atomic_or(VFIO_PCI_REVOKED_ERROR, &bufs->reasons);
		pci_notice_ratelimited(vdev->pdev,
				       "dma-bufs are revoked until an error is over\n");
	}
	smp_mb__before_atomic(); /* after vconfig: see __vfio_pci_dma_buf_restore() */
	atomic_andnot(VFIO_PCI_REVOKED_CLOSED, &bufs->reasons);
}

/**
 * vfio_pci_dma_buf_close() - revoke all buffers for good, as the device is closed
 * @vdev: the device
 *
 * A buffer that is still mapped when the wait is over keeps its registration of the
 * device until it is unmapped: see vfio_pci_dma_buf_busy().
 *
 * Context: may sleep, for revoke_timeout_ms at most. The device can't be opened
 * meanwhile.
 */
void vfio_pci_dma_buf_close(struct vfio_pci_core_device *vdev)
{
	struct vfio_pci_dma_bufs *bufs = vdev->dma_bufs;
	struct vfio_pci_dma_buf *buf, *next;

	lockdep_assert_held(&vdev->vdev.dev_set->lock);

	if (!bufs)
		return;
	vfio_pci_dma_buf_lost(vdev, VFIO_PCI_REVOKED_CLOSED);

	mutex_lock(&bufs->lock);
	list_for_each_entry_safe(buf, next, &bufs->list, node) {
		dma_resv_lock(buf->dmabuf->resv, NULL);
		if (list_empty(&buf->maps)) {
			vfio_pci_dma_buf_unregister(buf);
			list_del_init(&buf->node);
		}
		dma_resv_unlock(buf->dmabuf->resv);
	}
	mutex_unlock(&bufs->lock);
}

/**
 * vfio_pci_dma_buf_shut() - no memory decode while importers have not let go
 * @vdev: the device, which is being closed
 *
 * Both now, and when the state that pci_save_state() has saved is restored. Enabling
 * the device brings it back, which vfio_pci_dma_buf_busy() is asked before. A virtual
 * function's memory can't be switched off alone: it stays.
 *
 * Context: may sleep. The device is in D0.
 */
void vfio_pci_dma_buf_shut(struct vfio_pci_core_device *vdev)
{
	struct pci_dev *pdev = vdev->pdev;
	u16 cmd;

	if (!vfio_pci_dma_buf_busy(vdev))
		return;
	pci_read_config_word(pdev, PCI_COMMAND, &cmd);
	pci_write_config_word(pdev, PCI_COMMAND, cmd & ~PCI_COMMAND_MEMORY);
	pdev->saved_config_space[PCI_COMMAND / 4] &= ~PCI_COMMAND_MEMORY;
}

/* Device mappings */

/*
 * Which way a device's DMA takes to the BAR, or that there is none.  Importers that
 * can't do peer-to-peer are turned away, and so are those that do not let themselves
 * be told that the buffer is revoked (dma_buf_dynamic_attach() knows them by their
 * lack of importer_ops, and does not set peer2peer).
 */
static int vfio_pci_dma_buf_attach(struct dma_buf *dmabuf,
				   struct dma_buf_attachment *attach)
{
	struct vfio_pci_dma_buf *buf = dmabuf->priv;
	enum pci_p2pdma_map_type type;
	bool revoked;

	if (!attach->peer2peer)
		return -EOPNOTSUPP;

	dma_resv_lock(dmabuf->resv, NULL);
	revoked = buf->reasons;
	dma_resv_unlock(dmabuf->resv);
	if (revoked)
		return -ENODEV;

	/* Page tables of the importer's own: attach->dev does no DMA. */
	if (dma_buf_attachment_is_phys(attach))
		return 0;

	type = pci_p2pdma_path(buf->bufs->pdev, attach->dev);
	if (type == PCI_P2PDMA_MAP_NOT_SUPPORTED)
		return -EREMOTEIO;
	attach->priv = (void *)(uintptr_t)type;
	return 0;
}

/*
 * That there are these two makes us a dynamic exporter, whose importers are told when
 * it moves.  What would have to stay where it is can't be revoked.
 */
static int vfio_pci_dma_buf_pin(struct dma_buf_attachment *attach)
{
	return -EOPNOTSUPP;
}

static void vfio_pci_dma_buf_unpin(struct dma_buf_attachment *attach)
{
}

/*
 * Addresses that the DMA API does not translate have to be within the device's reach,
 * or it would warn, which a user could provoke.
 */
static bool vfio_pci_dma_reaches(struct device *dev, u64 addr, u64 len)
{
	return addr + len - 1 <= min_not_zero(dma_get_mask(dev), dev->bus_dma_limit);
}

static int vfio_pci_dma_map_run(struct vfio_pci_dma_map *map,
				const struct vfio_pci_dma_buf *buf, u32 i,
				enum dma_data_direction dir)
{
	const struct vfio_pci_bar_run *run = &buf->runs[i];
	struct device *dev = map->dev;
	u64 addr = run->phys;

	if (map->on_bus)
		addr += buf->bus_offset;
	if (map->on_bus || (!use_dma_iommu(dev) && !get_dma_ops(dev)))
		if (!vfio_pci_dma_reaches(dev, addr, run->len))
			return -ERANGE;

	if (map->on_bus) {
		map->addr[i] = addr;
		return 0;
	}
	/* Others may map the same addresses: nothing is handed over by mapping. */
	map->addr[i] = dma_map_resource(dev, run->phys, run->len, dir,
					DMA_ATTR_SKIP_CPU_SYNC);
	return dma_mapping_error(dev, map->addr[i]) ? -EIO : 0;
}

static void vfio_pci_dma_unmap_runs(struct vfio_pci_dma_map *map,
				    const struct vfio_pci_dma_buf *buf,
				    enum dma_data_direction dir)
{
	if (map->on_bus)
		return;
	while (map->nr--) {
		dma_unmap_resource(map->dev, map->addr[map->nr],
				   buf->runs[map->nr].len, dir,
				   DMA_ATTR_SKIP_CPU_SYNC);
		cond_resched();
	}
}

static int vfio_pci_dma_map_runs(struct vfio_pci_dma_map *map,
				 const struct vfio_pci_dma_buf *buf,
				 enum dma_data_direction dir)
{
	int ret;

	for (; map->nr < buf->nr_runs; map->nr++) {
		ret = vfio_pci_dma_map_run(map, buf, map->nr, dir);
		if (ret) {
			vfio_pci_dma_unmap_runs(map, buf, dir);
			return ret;
		}
		cond_resched();
	}
	return 0;
}

/* How much of what begins at @addr the next entry takes, as the device's limits are. */
static u32 vfio_pci_dma_segment(struct device *dev, dma_addr_t addr, u64 len)
{
	u64 max = min_t(u64, dma_get_max_seg_size(dev), U32_MAX);
	u64 boundary = dma_get_seg_boundary(dev);

	if (max > PAGE_SIZE)
		max = round_down(max, PAGE_SIZE);
	return min3(len - 1, max - 1, boundary - (addr & boundary)) + 1;
}

/*
 * Goes through the entries, and fills those from @sg on unless it is NULL.  A list of
 * ranges may name a whole BAR again and again: stops one after the most there may be.
 */
static u32 vfio_pci_dma_walk_segments(const struct vfio_pci_dma_map *map,
				      const struct vfio_pci_dma_buf *buf,
				      struct scatterlist *sg)
{
	u32 nents = 0;

	for (u32 i = 0; i < buf->nr_runs; i++) {
		dma_addr_t addr = map->addr[i];
		u64 left = buf->runs[i].len;

		while (left) {
			u32 len = vfio_pci_dma_segment(map->dev, addr, left);

			if (sg) {
				sg_set_page(sg, NULL, len, 0);
				sg_dma_address(sg) = addr;
				sg_dma_len(sg) = len;
				sg = sg_next(sg);
			}
			addr += len;
			left -= len;
			if (++nents > VFIO_PCI_DMA_BUF_MAX_SEGMENTS)
				return nents;
		}
	}
	return nents;
}

/*
 * There are no pages behind a BAR: the CPU's side of the scatterlist has no entries,
 * so that nobody walks it.
 */
static int vfio_pci_dma_fill_sgt(struct vfio_pci_dma_map *map,
				 const struct vfio_pci_dma_buf *buf)
{
	u32 nents = vfio_pci_dma_walk_segments(map, buf, NULL);
	int ret;

	if (nents > VFIO_PCI_DMA_BUF_MAX_SEGMENTS)
		return -E2BIG;
	ret = sg_alloc_table(&map->sgt, nents, GFP_KERNEL_ACCOUNT);
	if (ret)
		return ret;
	vfio_pci_dma_walk_segments(map, buf, map->sgt.sgl);
	map->sgt.orig_nents = 0;
	return 0;
}

static struct sg_table *vfio_pci_dma_buf_map(struct dma_buf_attachment *attach,
					     enum dma_data_direction dir)
{
	struct vfio_pci_dma_buf *buf = attach->dmabuf->priv;
	struct vfio_pci_dma_map *map;
	int ret;

	dma_resv_assert_held(attach->dmabuf->resv);

	if (buf->reasons)
		return ERR_PTR(-ENODEV);
	if (attach->dmabuf->size > max(buf->bar_len, VFIO_PCI_DMA_BUF_MAX_MAPPED))
		return ERR_PTR(-E2BIG);

	map = kvzalloc(struct_size(map, addr, buf->nr_runs), GFP_KERNEL_ACCOUNT);
	if (!map)
		return ERR_PTR(-ENOMEM);
	map->dev = attach->dev;
	map->on_bus = (uintptr_t)attach->priv == PCI_P2PDMA_MAP_BUS_ADDR;

	ret = vfio_pci_dma_map_runs(map, buf, dir);
	if (ret)
		goto err_free;
	ret = vfio_pci_dma_fill_sgt(map, buf);
	if (ret)
		goto err_unmap;

	list_add(&map->node, &buf->maps);
	atomic_inc(&buf->bufs->nr_maps);
	return &map->sgt;

err_unmap:
	vfio_pci_dma_unmap_runs(map, buf, dir);
err_free:
	kvfree(map);
	return ERR_PTR(ret);
}

/*
 * After the device's close the last mapping of a buffer gives back the registration
 * that was kept for it.
 */
static void vfio_pci_dma_buf_unmapped(struct vfio_pci_dma_buf *buf,
				      struct vfio_pci_dma_map *map)
{
	list_del(&map->node);
	kvfree(map);

	atomic_dec(&buf->bufs->nr_maps);
	if (!list_empty(&buf->maps))
		return;
	wake_up_all(&buf->bufs->unmapped);
	if (buf->reasons & VFIO_PCI_REVOKED_CLOSED)
		vfio_pci_dma_buf_unregister(buf);
}

/* The addresses are our own list's, not those of the entries, which are cut. */
static void vfio_pci_dma_buf_unmap(struct dma_buf_attachment *attach,
				   struct sg_table *sgt,
				   enum dma_data_direction dir)
{
	struct vfio_pci_dma_map *map = container_of(sgt, struct vfio_pci_dma_map, sgt);
	struct vfio_pci_dma_buf *buf = attach->dmabuf->priv;

	dma_resv_assert_held(attach->dmabuf->resv);

	vfio_pci_dma_unmap_runs(map, buf, dir);
	sgt->orig_nents = sgt->nents;
	sg_free_table(sgt);
	vfio_pci_dma_buf_unmapped(buf, map);
}

static int vfio_pci_dma_buf_map_phys(struct dma_buf_attachment *attach,
				     enum dma_data_direction dir,
				     struct dma_buf_phys *phys)
{
	struct vfio_pci_dma_buf *buf = attach->dmabuf->priv;
	struct vfio_pci_dma_map *map;

	dma_resv_assert_held(attach->dmabuf->resv);

	if (buf->reasons)
		return -ENODEV;
	if (buf->readonly && dir != DMA_TO_DEVICE)
		return -EACCES;

	map = kvzalloc(sizeof(*map), GFP_KERNEL_ACCOUNT);
	if (!map)
		return -ENOMEM;
	map->dev = attach->dev;
	map->ranges = kvmalloc_array(buf->nr_runs, sizeof(*map->ranges),
				     GFP_KERNEL_ACCOUNT);
	if (!map->ranges) {
		kvfree(map);
		return -ENOMEM;
	}
	for (u32 i = 0; i < buf->nr_runs; i++) {
		map->ranges[i].paddr = buf->runs[i].phys;
		map->ranges[i].len = buf->runs[i].len;
	}
	*phys = (struct dma_buf_phys) {
		.nr_ranges = buf->nr_runs,
		.mmio = true,
		.ranges = map->ranges,
	};

	list_add(&map->node, &buf->maps);
	atomic_inc(&buf->bufs->nr_maps);
	return 0;
}

static void vfio_pci_dma_buf_unmap_phys(struct dma_buf_attachment *attach,
					struct dma_buf_phys *phys)
{
	struct vfio_pci_dma_buf *buf = attach->dmabuf->priv;
	struct vfio_pci_dma_map *map;

	dma_resv_assert_held(attach->dmabuf->resv);

	list_for_each_entry(map, &buf->maps, node)
		if (map->ranges == phys->ranges)
			break;
	kvfree(map->ranges);
	vfio_pci_dma_buf_unmapped(buf, map);
}

/* CPU mappings */

static const struct vfio_pci_bar_run *
vfio_pci_dma_buf_find_run(const struct vfio_pci_dma_buf *buf, u64 page)
{
	u32 lo = 0, hi = buf->nr_runs;

	while (hi - lo > 1) {
		u32 mid = lo + (hi - lo) / 2;

		if (buf->runs[mid].first <= page)
			lo = mid;
		else
			hi = mid;
	}
	return &buf->runs[lo];
}

/* Whether one entry of @order can map the fault's surroundings, and what it maps. */
static bool vfio_pci_dma_buf_frame(const struct vm_fault *vmf, unsigned int order,
				   unsigned long *pfn)
{
	const struct vfio_pci_dma_buf *buf = vmf->vma->vm_private_data;
	unsigned long size = PAGE_SIZE << order;
	unsigned long addr = ALIGN_DOWN(vmf->address, size);
	const struct vfio_pci_bar_run *run;
	u64 page, skip;

	if (addr < vmf->vma->vm_start || vmf->vma->vm_end - addr < size)
		return false;
	page = linear_page_index(vmf->vma, addr);
	run = vfio_pci_dma_buf_find_run(buf, page);
	skip = page - run->first;
	*pfn = PHYS_PFN(run->phys) + skip;
	return IS_ALIGNED(*pfn, 1UL << order) &&
	       skip + (1UL << order) <= run->len >> PAGE_SHIFT;
}

static vm_fault_t vfio_pci_dma_buf_insert(struct vm_fault *vmf, unsigned int order,
					  unsigned long pfn)
{
	switch (order) {
	case 0:
		return vmf_insert_pfn(vmf->vma, vmf->address, pfn);
#ifdef CONFIG_ARCH_SUPPORTS_PMD_PFNMAP
	case PMD_ORDER:
		return vmf_insert_pfn_pmd(vmf, __pfn_to_pfn_t(pfn, PFN_DEV), false);
#endif
#ifdef CONFIG_ARCH_SUPPORTS_PUD_PFNMAP
	case PUD_ORDER:
		return vmf_insert_pfn_pud(vmf, __pfn_to_pfn_t(pfn, PFN_DEV), false);
#endif
	default:
		return VM_FAULT_FALLBACK;
	}
}

/*
 * memory_lock is not needed: what takes memory away under it revokes the buffer, and
 * that needs dma_resv.
 */
static vm_fault_t vfio_pci_dma_buf_huge_fault(struct vm_fault *vmf, unsigned int order)
{
	struct vfio_pci_dma_buf *buf = vmf->vma->vm_private_data;
	vm_fault_t ret = VM_FAULT_SIGBUS;
	unsigned long pfn;

	if (!vfio_pci_dma_buf_frame(vmf, order, &pfn))
		return VM_FAULT_FALLBACK;

	/*
	 * An importer may have it for a while: let signals through, then fault again.
	 * Others than the task itself, in user mode, take that for a fault that is done.
	 */
	if (!(vmf->flags & FAULT_FLAG_USER))
		dma_resv_lock(buf->dmabuf->resv, NULL);
	else if (dma_resv_lock_interruptible(buf->dmabuf->resv, NULL))
		return VM_FAULT_NOPAGE;
	if (!buf->reasons)
		ret = vfio_pci_dma_buf_insert(vmf, order, pfn);
	dma_resv_unlock(buf->dmabuf->resv);
	return ret;
}

static vm_fault_t vfio_pci_dma_buf_fault(struct vm_fault *vmf)
{
	return vfio_pci_dma_buf_huge_fault(vmf, 0);
}

static const struct vm_operations_struct vfio_pci_dma_buf_vm_ops = {
	.fault = vfio_pci_dma_buf_fault,
#ifdef CONFIG_ARCH_SUPPORTS_HUGE_PFNMAP
	.huge_fault = vfio_pci_dma_buf_huge_fault,
#endif
};

/* The same flags and cache mode as a mapping of the BAR itself has. */
static int vfio_pci_dma_buf_mmap(struct dma_buf *dmabuf, struct vm_area_struct *vma)
{
	struct vfio_pci_dma_buf *buf = dmabuf->priv;
	bool revoked;

	/* Not VM_SHARED: a shared mapping of a read-only descriptor lacks that. */
	if (!(vma->vm_flags & VM_MAYSHARE))
		return -EINVAL;
	/* mmap() has seen to it, dma_buf_mmap() knows another file. */
	if (!(dmabuf->file->f_mode & FMODE_WRITE)) {
		if (vma->vm_flags & VM_WRITE)
			return -EACCES;
		vm_flags_clear(vma, VM_MAYWRITE);
	}

	dma_resv_lock(dmabuf->resv, NULL);
	revoked = buf->reasons;
	dma_resv_unlock(dmabuf->resv);
	if (revoked)
		return -ENODEV;

	vma->vm_private_data = buf;
	vma->vm_ops = &vfio_pci_dma_buf_vm_ops;
	vma->vm_page_prot = pgprot_decrypted(pgprot_noncached(vma->vm_page_prot));
	vm_flags_set(vma, VM_ALLOW_ANY_UNCACHED | VM_IO | VM_PFNMAP |
			  VM_DONTEXPAND | VM_DONTDUMP);
	return 0;
}

/* The buffer's own life */

/*
 * Both this and vfio_pci_dma_buf_close() may find the buffer on the list, whichever
 * comes first gives the registration back:
 *
 *   CPU0: close			CPU1: last reference dropped
 *
 *					->release()
 *   mutex_lock(lock)
 *					  mutex_lock(lock) waits
 *   [buf and its dma_buf are still there]
 *   unregister; list_del_init
 *   mutex_unlock(lock)
 *					  [nothing left to give back]
 */
static void vfio_pci_dma_buf_release(struct dma_buf *dmabuf)
{
	struct vfio_pci_dma_buf *buf = dmabuf->priv;

	mutex_lock(&buf->bufs->lock);
	vfio_pci_dma_buf_unregister(buf);
	vfio_pci_dma_buf_drained(buf);
	list_del(&buf->node);
	mutex_unlock(&buf->bufs->lock);

	iput(buf->inode);
	vfio_pci_dma_bufs_put(buf->bufs);
	kvfree(buf);
}

static const struct dma_buf_ops vfio_pci_dma_buf_ops = {
	.huge_mappings = true,
	.attach = vfio_pci_dma_buf_attach,
	.pin = vfio_pci_dma_buf_pin,
	.unpin = vfio_pci_dma_buf_unpin,
	.map_dma_buf = vfio_pci_dma_buf_map,
	.unmap_dma_buf = vfio_pci_dma_buf_unmap,
	.map_phys = vfio_pci_dma_buf_map_phys,
	.unmap_phys = vfio_pci_dma_buf_unmap_phys,
	.mmap = vfio_pci_dma_buf_mmap,
	.release = vfio_pci_dma_buf_release,
};

/* Describes ranges of a BAR, each checked against it, as runs. */
static int vfio_pci_dma_buf_add_ranges(struct vfio_pci_dma_buf *buf, u64 *size,
				       const struct resource *bar,
				       const struct vfio_region_dma_range *ranges,
				       u32 nr_ranges)
{
	u64 bar_len = resource_size(bar);

	for (u32 i = 0; i < nr_ranges; i++) {
		u64 offset = ranges[i].offset, len = ranges[i].length, end;
		struct vfio_pci_bar_run *run = &buf->runs[buf->nr_runs];

		if (!len || !PAGE_ALIGNED(offset) || !PAGE_ALIGNED(len))
			return -EINVAL;
		if (check_add_overflow(offset, len, &end))
			return -EOVERFLOW;
		if (end > bar_len)
			return -EINVAL;

		if (buf->nr_runs && run[-1].phys + run[-1].len == bar->start + offset) {
			run[-1].len += len;
		} else {
			buf->nr_runs++;
			run->first = *size >> PAGE_SHIFT;
			run->phys = bar->start + offset;
			run->len = len;
		}
		if (check_add_overflow(*size, len, size) || *size > SSIZE_MAX)
			return -EOVERFLOW;
	}
	return 0;
}

static struct vfio_pci_dma_buf *
vfio_pci_dma_buf_alloc(struct vfio_pci_core_device *vdev, int bar,
		       const struct vfio_region_dma_range *ranges, u32 nr_ranges,
		       u64 *size)
{
	const struct resource *res = &vdev->pdev->resource[bar];
	struct vfio_pci_dma_buf *buf;
	int ret;

	buf = kvzalloc(struct_size(buf, runs, nr_ranges), GFP_KERNEL_ACCOUNT);
	if (!buf)
		return ERR_PTR(-ENOMEM);

	ret = vfio_pci_dma_buf_add_ranges(buf, size, res, ranges, nr_ranges);
	if (ret) {
		kvfree(buf);
		return ERR_PTR(ret);
	}
	INIT_LIST_HEAD(&buf->node);
	INIT_LIST_HEAD(&buf->drain);
	INIT_LIST_HEAD(&buf->maps);
	buf->bar_len = resource_size(res);
	buf->bus_offset = pci_bus_address(vdev->pdev, bar) - res->start;
	buf->bufs = vdev->dma_bufs;
	kref_get(&buf->bufs->kref);
	return buf;
}

/*
 * From here on the buffer is revoked with the device's others.  Who takes the memory
 * away holds memory_lock until it is back, or has noted it in reasons.  No one else has
 * the dma_buf yet, so dma_resv is not needed.
 */
static void vfio_pci_dma_buf_publish(struct vfio_pci_core_device *vdev,
				     struct vfio_pci_dma_buf *buf)
{
	down_read(&vdev->memory_lock);
	mutex_lock(&buf->bufs->lock);
	list_add_tail(&buf->node, &buf->bufs->list);
	smp_mb(); /* pairs with vfio_pci_dma_bufs_any() */
	buf->reasons = atomic_read(&buf->bufs->reasons);
	if (!vfio_pci_memory_usable(vdev))
		buf->reasons |= VFIO_PCI_REVOKED_OFF;
	mutex_unlock(&buf->bufs->lock);
	up_read(&vdev->memory_lock);
}

/* Takes @buf over, whatever comes of it. */
static struct dma_buf *vfio_pci_dma_buf_export(struct vfio_pci_core_device *vdev,
					       struct vfio_pci_dma_buf *buf, u64 size,
					       int open_flags)
{
	DEFINE_DMA_BUF_EXPORT_INFO(info);
	struct dma_buf *dmabuf;
	int ret = -ENODEV;

	if (!vfio_device_try_get_registration(&vdev->vdev))
		goto err_free;
	buf->registered = &vdev->vdev;
	buf->readonly = (open_flags & O_ACCMODE) == O_RDONLY;

	info.ops = &vfio_pci_dma_buf_ops;
	info.size = size;
	info.flags = open_flags & O_ACCMODE;
	info.priv = buf;
	dmabuf = dma_buf_export(&info);
	if (IS_ERR(dmabuf)) {
		ret = PTR_ERR(dmabuf);
		goto err_unregister;
	}
	buf->dmabuf = dmabuf;
	buf->inode = file_inode(dmabuf->file);
	ihold(buf->inode);
	vfio_pci_dma_buf_publish(vdev, buf);
	return dmabuf;

err_unregister:
	vfio_pci_dma_buf_unregister(buf);
err_free:
	vfio_pci_dma_bufs_put(buf->bufs);
	kvfree(buf);
	return ERR_PTR(ret);
}

static int vfio_pci_dma_buf_check(struct vfio_pci_core_device *vdev,
				  const struct vfio_device_feature_dma_buf *req)
{
	if (req->region_index >= VFIO_PCI_ROM_REGION_INDEX)
		return -ENODEV;
	if (req->flags || !req->nr_ranges)
		return -EINVAL;
	if (req->open_flags & ~(O_CLOEXEC | O_ACCMODE) ||
	    (req->open_flags & O_ACCMODE) == O_ACCMODE)
		return -EINVAL;
	if (req->nr_ranges > VFIO_PCI_DMA_BUF_MAX_RANGES)
		return -E2BIG;
	if (!vdev->bar_mmap_supported[req->region_index])
		return -EINVAL;

	return vfio_pci_core_setup_barmap(vdev, req->region_index);
}

/* VFIO_DEVICE_FEATURE_DMA_BUF, described in include/uapi/linux/vfio.h */
int vfio_pci_feature_dma_buf(struct vfio_pci_core_device *vdev, u32 flags,
			     struct vfio_device_feature_dma_buf __user *arg,
			     size_t argsz)
{
	struct vfio_region_dma_range *ranges;
	struct vfio_device_feature_dma_buf req;
	struct vfio_pci_dma_buf *buf;
	struct dma_buf *dmabuf;
	u64 size = 0;
	int ret;

	if (!vdev->dma_bufs)
		return -ENOTTY;
	ret = vfio_check_feature(flags, argsz, VFIO_DEVICE_FEATURE_GET, sizeof(req));
	if (ret != 1)
		return ret;
	if (copy_from_user(&req, arg, sizeof(req)))
		return -EFAULT;
	ret = vfio_pci_dma_buf_check(vdev, &req);
	if (ret)
		return ret;

	ranges = vmemdup_array_user(&arg->dma_ranges, req.nr_ranges, sizeof(*ranges));
	if (IS_ERR(ranges))
		return PTR_ERR(ranges);
	buf = vfio_pci_dma_buf_alloc(vdev, req.region_index, ranges, req.nr_ranges, &size);
	kvfree(ranges);
	if (IS_ERR(buf))
		return PTR_ERR(buf);

	dmabuf = vfio_pci_dma_buf_export(vdev, buf, size, req.open_flags);
	if (IS_ERR(dmabuf))
		return PTR_ERR(dmabuf);
	ret = dma_buf_fd(dmabuf, req.open_flags & O_CLOEXEC);
	if (ret < 0)
		dma_buf_put(dmabuf);
	return ret;
}

static int vfio_pci_dma_buf_change_for_good(struct vfio_pci_dma_buf *buf)
{
	int ret = -EBADFD;

	mutex_lock(&buf->bufs->lock);
	if (!(buf->reasons & VFIO_PCI_REVOKED_FOR_GOOD)) {
		vfio_pci_dma_buf_change(buf, 0, VFIO_PCI_REVOKED_BY_USER);
		ret = 0;
	}
	mutex_unlock(&buf->bufs->lock);
	return ret;
}

/*
 * Only @buf's, which the caller has a reference on: it is not drained, and not made live
 * again, by others while users' requests wait for each other.
 */
static bool vfio_pci_dma_buf_wait(struct vfio_pci_dma_buf *buf)
{
	unsigned long deadline = vfio_pci_revoke_deadline();
	struct dma_fence *fence;
	bool done = true;

	mutex_lock(&buf->bufs->lock);
	fence = dma_fence_get(buf->fence);
	mutex_unlock(&buf->bufs->lock);
	if (fence)
		done = dma_fence_wait_timeout(fence, false, jiffies_until(deadline)) > 0;
	dma_fence_put(fence);
	return done && wait_event_timeout(buf->bufs->unmapped,
					  list_empty_careful(&buf->maps),
					  jiffies_until(deadline));
}

/* Revokes one buffer for good, or not at all. */
static int vfio_pci_dma_buf_revoke_one(struct vfio_pci_dma_buf *buf)
{
	struct vfio_pci_dma_bufs *bufs = buf->bufs;
	int ret;

	lockdep_assert_held(&bufs->requests);

	ret = vfio_pci_dma_buf_change_for_good(buf);
	if (ret || vfio_pci_dma_buf_wait(buf))
		return ret;

	vfio_pci_dma_buf_blame(buf);
	mutex_lock(&bufs->lock);
	vfio_pci_dma_buf_change(buf, VFIO_PCI_REVOKED_BY_USER, 0);
	mutex_unlock(&bufs->lock);
	return -EBUSY;
}

/* VFIO_DEVICE_FEATURE_DMA_BUF_REVOKE, described in include/uapi/linux/vfio.h */
int vfio_pci_feature_revoke(struct vfio_pci_core_device *vdev, u32 flags,
			    struct vfio_device_feature_dma_buf_revoke __user *arg,
			    size_t argsz)
{
	struct vfio_device_feature_dma_buf_revoke req;
	struct vfio_pci_dma_buf *buf;
	struct dma_buf *dmabuf;
	int ret;

	if (!vdev->dma_bufs)
		return -ENOTTY;
	ret = vfio_check_feature(flags, argsz, VFIO_DEVICE_FEATURE_SET, sizeof(req));
	if (ret != 1)
		return ret;
	if (copy_from_user(&req, arg, sizeof(req)))
		return -EFAULT;

	dmabuf = dma_buf_get(req.dmabuf_fd);
	if (IS_ERR(dmabuf))
		return PTR_ERR(dmabuf);
	buf = dmabuf->priv;
	mutex_lock(&vdev->dma_bufs->requests);
	if (dmabuf->ops != &vfio_pci_dma_buf_ops || buf->bufs != vdev->dma_bufs)
		ret = -ENODEV;
	else
		ret = vfio_pci_dma_buf_revoke_one(buf);
	mutex_unlock(&vdev->dma_bufs->requests);
	dma_buf_put(dmabuf);
	return ret;
}
