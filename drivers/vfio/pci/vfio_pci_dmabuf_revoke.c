// SPDX-License-Identifier: GPL-2.0-only
/*
 * VFIO PCI: revoking the dma-bufs of a device's BARs.
 *
 * State.  A buffer has a mask of causes why it is revoked, and is live while the mask is 0.
 * It is the device's mask, plus what is permanent for this buffer.  Causes nest and overlap.
 *
 *   cause	set				cleared
 *   DISABLED	before VFIO disables memory	when no such operation is left, and memory
 *		or resets			is decoded, in D0, and not in low power
 *   RESET	reset_prepare()			reset_done()
 *   PARENT	a reset of the PF begins	it is over
 *   SUSPEND	system sleep			resume
 *   ERROR	AER, DPC, unplug		when the device decodes memory again, at the
 *						next open, or when close restores its
 *						state while importers are late
 *   NO_BARS	open after ERROR, memory not	not while the driver is bound
 *		decoded
 *   CLOSED	close				of the device: open; of a buffer: never
 *   REQUEST	REVOKE of one buffer		never
 *
 * Revocation is sticky: if an importer is late, an ioctl fails and other operations go on, but
 * the buffers stay revoked, nothing new is mapped, and fences that come later do not count.
 *
 * Busy.  A buffer is busy while an importer has it mapped, or while a fence is pending that
 * was there when it was revoked, even if it is live again.  Importers, and such a fence, hold a
 * reference on the dma_buf, so that ->release() has nothing to wait for, unless memory was
 * short.  All other waits are for the buffers to be idle; any number of callers wait together.
 * Ioctls and writes to config space hold no lock then.  Other operations hold their callers'
 * locks (of the device, of its set), so their wait ends at the timeout.  So does the wait of a
 * physical function's reset, which holds its memory_lock, for importers of virtual functions.
 *
 * Owners.  The device and each buffer hold a reference on the struct vfio_pci_dma_bufs, as a
 * dma-buf's release can race with the device's close.  Until the device is closed, and after
 * that while the buffer is busy, a buffer holds a registration of the vfio_device, so that
 * unbinding the driver waits, and vga_hold_memory(), so that the VGA arbiter does not switch
 * memory decode off.  The dma_buf of a buffer on the list, and its file, are not freed while
 * the list's lock is held: ->release() unlinks it.
 *
 * Locks, outermost first:
 *
 *   mmap_lock or the vma's lock
 *     memory_lock			of the device
 *       vfio_pci_devices_lock		all devices
 *         vfio_pci_dma_bufs.lock	the list; causes, together with dma_resv
 *           dma_resv			of a buffer: causes, mappings
 *             i_mmap_rwsem		zapping
 *
 * vfio_pci_devices_lock and vfio_pci_dma_bufs.lock are not held while waiting for config
 * space.  With a reset from outside that would be a deadlock which lockdep cannot see:
 *
 *   CPU0: write to config space	CPU1: echo 1 > .../reset
 *
 *					pci_cfg_access_lock()
 *   down_write(memory_lock)
 *   pci_user_write_config_word()
 *     waits for CPU1
 *					->reset_prepare(), ->reset_done()
 *					  must not wait for memory_lock,
 *					  nor for a lock that CPU0 holds
 */
#include <linux/dma-resv.h>
#include <linux/module.h>
#include <linux/pagemap.h>
#include <linux/vfio.h>
#include <linux/vgaarb.h>

#include "vfio_pci_dmabuf.h"
#include "vfio_pci_priv.h"

#define VFIO_PCI_REVOKED_PERMANENTLY	(VFIO_PCI_REVOKED_CLOSED | \
					 VFIO_PCI_REVOKED_REQUEST)

static unsigned int revoke_timeout_ms = 5000;
module_param(revoke_timeout_ms, uint, 0644);
MODULE_PARM_DESC(revoke_timeout_ms,
		 "How long an operation that revokes dma-bufs waits for their importers, in milliseconds (default 5000)");

/**
 * vfio_pci_core_init_dma_bufs() - let a device's BARs be exported as dma-bufs
 * @vdev: the device, not registered yet
 *
 * For drivers whose regions 0 to 5 are the device's BARs, no more and no less, and whose
 * err_handler is, or calls, vfio_pci_core_err_handlers. Undone with the last reference on
 * the device.
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
	mutex_init(&bufs->lock);
	INIT_LIST_HEAD(&bufs->list);
	bufs->causes = VFIO_PCI_REVOKED_CLOSED | VFIO_PCI_REVOKED_DISABLED;
	init_waitqueue_head(&bufs->idle);
	vdev->dma_bufs = bufs;
	vfio_pci_dma_bufs_add(bufs);
	return 0;
}
EXPORT_SYMBOL_GPL(vfio_pci_core_init_dma_bufs);

void vfio_pci_core_uninit_dma_bufs(struct vfio_pci_core_device *vdev)
{
	if (!vdev->dma_bufs)
		return;
	vfio_pci_dma_bufs_remove(vdev->dma_bufs);
	vfio_pci_dma_bufs_put(vdev->dma_bufs);
}

static void vfio_pci_dma_bufs_free(struct kref *kref)
{
	struct vfio_pci_dma_bufs *bufs = container_of(kref, struct vfio_pci_dma_bufs, kref);

	mutex_destroy(&bufs->lock);
	pci_dev_put(bufs->pdev);
	kfree(bufs);
}

void vfio_pci_dma_bufs_put(struct vfio_pci_dma_bufs *bufs)
{
	kref_put(&bufs->kref, vfio_pci_dma_bufs_free);
}

static void vfio_pci_dma_buf_get_busy(struct vfio_pci_dma_buf *buf)
{
	atomic_inc(&buf->bufs->nr_busy);
	atomic_inc(&buf->nr_busy);
}

/* Drops what the buffer holds of the device: it is idle, or released.  Called in any context. */
static void vfio_pci_dma_buf_unregister(struct vfio_pci_dma_buf *buf)
{
	struct vfio_device *device = xchg(&buf->registered, NULL);

	if (!device)
		return;
	vga_unhold_memory(buf->bufs->pdev);
	vfio_device_put_registration(device);
}

static void vfio_pci_dma_buf_put_busy(struct vfio_pci_dma_buf *buf)
{
	bool idle = atomic_dec_and_test(&buf->nr_busy);

	/* vfio_pci_dma_buf_update() keeps it busy while it sets CLOSED: the last put sees that. */
	if (idle && READ_ONCE(buf->causes) & VFIO_PCI_REVOKED_CLOSED)
		vfio_pci_dma_buf_unregister(buf);
	if (atomic_dec_and_test(&buf->bufs->nr_busy) || idle)
		wake_up_all(&buf->bufs->idle);
}

void vfio_pci_dma_buf_mapped(struct vfio_pci_dma_buf *buf, struct vfio_pci_dma_attach *attach)
{
	dma_resv_assert_held(buf->dmabuf->resv);

	attach->nr_maps++;
	vfio_pci_dma_buf_get_busy(buf);
}

void vfio_pci_dma_buf_unmapped(struct vfio_pci_dma_buf *buf, struct vfio_pci_dma_attach *attach)
{
	dma_resv_assert_held(buf->dmabuf->resv);

	attach->nr_maps--;
	vfio_pci_dma_buf_put_busy(buf);
}

/* Called in any context: ->release(), if this is the last reference, is called later. */
static void vfio_pci_dma_buf_signaled(struct dma_fence *fence, struct dma_fence_cb *cb)
{
	struct vfio_pci_dma_buf *buf = container_of(cb, struct vfio_pci_dma_buf, signaled);

	vfio_pci_dma_buf_put_busy(buf);
	dma_buf_put(buf->dmabuf);
}

static void vfio_pci_dma_buf_put_fence(struct vfio_pci_dma_buf *buf)
{
	struct dma_fence *fence = buf->fence;

	buf->fence = NULL;
	if (IS_ERR(fence)) {
		vfio_pci_dma_buf_put_busy(buf);
		return;
	}
	if (fence && dma_fence_remove_callback(fence, &buf->signaled))
		vfio_pci_dma_buf_signaled(fence, &buf->signaled);
	dma_fence_put(fence);
}

/*
 * The dma_buf cannot be in ->release(): the caller has a reference, or an importer has that is
 * attached.  If there is no memory for the singleton, fences that come later count as well,
 * until vfio_pci_dma_bufs_retry() or ->release().
 */
static void vfio_pci_dma_buf_get_fence(struct vfio_pci_dma_buf *buf)
{
	int ret;

	dma_resv_assert_held(buf->dmabuf->resv);

	/* A waiter must not see it idle in between. */
	vfio_pci_dma_buf_get_busy(buf);
	vfio_pci_dma_buf_put_fence(buf);
	ret = dma_resv_get_singleton(buf->dmabuf->resv, DMA_RESV_USAGE_BOOKKEEP, &buf->fence);
	if (ret) {
		buf->fence = ERR_PTR(ret);
		return;
	}
	get_dma_buf(buf->dmabuf);
	if (!buf->fence ||	/* or it has signaled meanwhile */
	    dma_fence_add_callback(buf->fence, &buf->signaled, vfio_pci_dma_buf_signaled))
		vfio_pci_dma_buf_signaled(buf->fence, &buf->signaled);
}

/*
 * Maps and faults take dma_resv as well: those that come before are undone here, later ones
 * see the causes.  Fences matter only if an importer has a scatterlist of the buffer.  A fence
 * of an earlier revocation counts until it signals.
 */
static void vfio_pci_dma_buf_update(struct vfio_pci_dma_buf *buf, unsigned int cause)
{
	bool was_live, has_fences, hold;

	lockdep_assert_held(&buf->bufs->lock);

	dma_resv_lock(buf->dmabuf->resv, NULL);
	was_live = !buf->causes;
	has_fences = buf->nr_tables;
	/* Busy until the fences count.  On close, put_busy() unregisters a buffer that is idle. */
	hold = has_fences ||
	       (buf->bufs->causes & VFIO_PCI_REVOKED_CLOSED && READ_ONCE(buf->registered));
	if (hold)
		vfio_pci_dma_buf_get_busy(buf);
	WRITE_ONCE(buf->causes, (buf->causes & VFIO_PCI_REVOKED_PERMANENTLY) |
				buf->bufs->causes | cause);
	if (was_live && buf->causes) {
		unmap_mapping_range(file_inode(buf->dmabuf->file)->i_mapping, 0, 0, true);
		dma_buf_move_notify(buf->dmabuf);
		if (has_fences)
			vfio_pci_dma_buf_get_fence(buf);
	} else if (!was_live && !buf->causes) {
		dma_buf_move_notify(buf->dmabuf);
	}
	if (hold)
		vfio_pci_dma_buf_put_busy(buf);
	dma_resv_unlock(buf->dmabuf->resv);
}

/* Out of line: most operations are on devices that have no buffers. */
static noinline void vfio_pci_dma_bufs_update_all(struct vfio_pci_dma_bufs *bufs)
{
	struct vfio_pci_dma_buf *buf;

	list_for_each_entry(buf, &bufs->list, node)
		vfio_pci_dma_buf_update(buf, 0);
}

static void vfio_pci_dma_bufs_update(struct vfio_pci_dma_bufs *bufs, unsigned int causes)
{
	WRITE_ONCE(bufs->causes, causes);	/* see vfio_pci_dma_bufs_find() */
	if (!list_empty(&bufs->list))
		vfio_pci_dma_bufs_update_all(bufs);
}

/* Returns the causes that there were before. */
unsigned int vfio_pci_dma_bufs_change(struct vfio_pci_dma_bufs *bufs, unsigned int clear,
				      unsigned int set)
{
	unsigned int before;

	mutex_lock(&bufs->lock);
	before = bufs->causes;
	vfio_pci_dma_bufs_update(bufs, (before & ~clear) | set);
	mutex_unlock(&bufs->lock);
	return before;
}

/* From here on the new buffer is revoked with the others. */
void vfio_pci_dma_buf_publish(struct vfio_pci_dma_buf *buf)
{
	mutex_lock(&buf->bufs->lock);
	list_add_tail(&buf->node, &buf->bufs->list);
	vfio_pci_dma_buf_update(buf, 0);
	mutex_unlock(&buf->bufs->lock);
}

/*
 * The last reference on the dma_buf has been dropped.  If there was no memory to find out which
 * fences count, wait for all of them, as the device may use the memory until then.  No message
 * reports these fences.
 */
void vfio_pci_dma_buf_withdraw(struct vfio_pci_dma_buf *buf)
{
	mutex_lock(&buf->bufs->lock);
	list_del(&buf->node);
	mutex_unlock(&buf->bufs->lock);
	if (IS_ERR(buf->fence))
		dma_resv_wait_timeout(buf->dmabuf->resv, DMA_RESV_USAGE_BOOKKEEP, false,
				      MAX_SCHEDULE_TIMEOUT);
	vfio_pci_dma_buf_put_fence(buf);
	vfio_pci_dma_buf_unregister(buf);
}

/* Looks again at the fences of buffers for which there was no memory. */
static void vfio_pci_dma_bufs_retry(struct vfio_pci_dma_bufs *bufs)
{
	struct vfio_pci_dma_buf *buf;

	mutex_lock(&bufs->lock);
	list_for_each_entry(buf, &bufs->list, node) {
		/* ->release() may have begun: then there is no reference to take. */
		if (!IS_ERR(buf->fence) || !get_file_active(&buf->dmabuf->file))
			continue;
		dma_resv_lock(buf->dmabuf->resv, NULL);
		vfio_pci_dma_buf_get_fence(buf);
		dma_resv_unlock(buf->dmabuf->resv);
		dma_buf_put(buf->dmabuf);
	}
	mutex_unlock(&bufs->lock);
}

/* Names the importers that are late. */
static void vfio_pci_dma_bufs_warn(struct vfio_pci_dma_bufs *bufs)
{
	struct device *dev = &bufs->pdev->dev;
	struct dma_buf_attachment *attach;
	struct vfio_pci_dma_buf *buf;

	mutex_lock(&bufs->lock);
	list_for_each_entry(buf, &bufs->list, node) {
		dma_resv_lock(buf->dmabuf->resv, NULL);
		list_for_each_entry(attach, &buf->dmabuf->attachments, node) {
			const struct vfio_pci_dma_attach *priv = attach->priv;

			if (buf->causes && priv->nr_maps)
				dev_warn_ratelimited(dev, "importer %s has not unmapped a revoked dma-buf in time\n",
						     dev_name(attach->dev));
		}
		if (buf->causes && !IS_ERR_OR_NULL(buf->fence) &&
		    !dma_fence_is_signaled(buf->fence))
			dev_warn_ratelimited(dev, "a fence of a revoked dma-buf has not signaled in time\n");
		dma_resv_unlock(buf->dmabuf->resv);
	}
	mutex_unlock(&bufs->lock);
}

/*
 * Waits until @busy, the count of a buffer or of all, is 0.
 *
 *				after the timeout	fatal signal	can be frozen
 *   VFIO_PCI_WAIT_CALL		-EBUSY			-EINTR		yes
 *   VFIO_PCI_WAIT_CONFIG	logs, and waits on	-EINTR		yes
 *   VFIO_PCI_WAIT_BOUNDED	-EBUSY			waits on	no
 *
 * The timeout is revoke_timeout_ms, from @start.  A task that can be frozen holds no lock.
 */
int vfio_pci_dma_bufs_wait_busy(struct vfio_pci_dma_bufs *bufs, const atomic_t *busy,
				unsigned long start, enum vfio_pci_revoke_wait how)
{
	unsigned long deadline = start + msecs_to_jiffies(revoke_timeout_ms);
	unsigned int state = TASK_IDLE;
	long left;

	if (how != VFIO_PCI_WAIT_BOUNDED)
		state |= TASK_FREEZABLE;
	if (how == VFIO_PCI_WAIT_CALL || how == VFIO_PCI_WAIT_CONFIG)
		state |= TASK_WAKEKILL;
	while (atomic_read(busy)) {
		left = clamp_t(long, deadline - jiffies, 0, HZ);
		left = ___wait_event(bufs->idle, ___wait_cond_timeout(!atomic_read(busy)),
				     state, 0, left, __ret = schedule_timeout(__ret));
		if (left)
			return left < 0 ? -EINTR : 0;
		vfio_pci_dma_bufs_retry(bufs);
		if (time_before(jiffies, deadline))
			continue;
		vfio_pci_dma_bufs_warn(bufs);
		if (how != VFIO_PCI_WAIT_CONFIG)
			return -EBUSY;
		deadline = jiffies + max_t(unsigned long, HZ, msecs_to_jiffies(revoke_timeout_ms));
	}
	return 0;
}

/*
 * Memory is to be disabled.  On success nothing reaches it through a dma-buf any more, until
 * vfio_pci_dma_buf_restore(), which the caller has to call.  On failure the buffers stay
 * revoked, and the caller changes nothing: -EBUSY if an importer is late (not for
 * VFIO_PCI_WAIT_CONFIG), -EINTR if the task is being killed.  No lock is held.
 */
int vfio_pci_dma_buf_disable(struct vfio_pci_core_device *vdev, enum vfio_pci_revoke_wait how)
{
	struct vfio_pci_dma_bufs *bufs = vdev->dma_bufs;
	int ret;

	if (!bufs)
		return 0;
	atomic_inc(&bufs->nr_disabling);
	vfio_pci_dma_bufs_change(bufs, 0, VFIO_PCI_REVOKED_DISABLED);
	ret = vfio_pci_dma_bufs_wait(bufs, &bufs->nr_busy, jiffies, how);
	if (ret)
		atomic_dec(&bufs->nr_disabling);
	return ret;
}

/* Memory may come back: pairs with vfio_pci_dma_buf_restore(), but revokes nothing. */
void vfio_pci_dma_buf_enable(struct vfio_pci_core_device *vdev)
{
	if (vdev->dma_bufs)
		atomic_inc(&vdev->dma_bufs->nr_disabling);
}

/* Instead of vfio_pci_dma_buf_restore(), if nothing was done: the buffers stay revoked. */
void vfio_pci_dma_buf_abort(struct vfio_pci_core_device *vdev)
{
	if (vdev->dma_bufs)
		atomic_dec(&vdev->dma_bufs->nr_disabling);
}

static bool vfio_pci_accessible(struct pci_dev *pdev)
{
	return READ_ONCE(pdev->error_state) == pci_channel_io_normal &&
	       pci_device_is_present(pdev);
}

/*
 * Recovery from an error resets a device without notice to its driver; memory decode is off
 * then.  An error that is not seen here yet changes the causes later.
 */
static bool vfio_pci_recovered(struct pci_dev *pdev)
{
	u16 cmd;

	if (!vfio_pci_accessible(pdev))
		return false;
	pci_read_config_word(pdev, PCI_COMMAND, &cmd);
	return !PCI_POSSIBLE_ERROR(cmd) && (pdev->no_command_memory || cmd & PCI_COMMAND_MEMORY);
}

/* The operation is over.  If no other goes on, and memory can be used, its cause is cleared. */
void vfio_pci_dma_buf_restore(struct vfio_pci_core_device *vdev)
{
	struct vfio_pci_dma_bufs *bufs = vdev->dma_bufs;
	unsigned int causes;

	lockdep_assert_held_write(&vdev->memory_lock);

	if (!bufs)
		return;
	mutex_lock(&bufs->lock);
	causes = bufs->causes;
	if (atomic_dec_and_test(&bufs->nr_disabling)) {
		causes |= VFIO_PCI_REVOKED_DISABLED;
		/* Not closed: the virtual config space, which is looked at, is there. */
		if (!(causes & VFIO_PCI_REVOKED_CLOSED) && !vdev->pm_runtime_engaged &&
		    __vfio_pci_memory_enabled(vdev))
			causes &= ~VFIO_PCI_REVOKED_DISABLED;
	}
	if (causes & VFIO_PCI_REVOKED_ERROR && vfio_pci_recovered(bufs->pdev))
		causes &= ~VFIO_PCI_REVOKED_ERROR;
	if (causes != bufs->causes)
		vfio_pci_dma_bufs_update(bufs, causes);
	mutex_unlock(&bufs->lock);
}

/*
 * As vfio_pci_dma_buf_disable() for all devices, whose memory_lock is held, without the wait.
 * Returns the buffers of one device that is busy, for vfio_pci_dma_buf_wait_set(), which drops
 * the reference and nr_disabling; NULL if all are idle.
 */
struct vfio_pci_dma_bufs *vfio_pci_dma_buf_disable_set(struct vfio_device_set *dev_set)
{
	struct vfio_pci_dma_bufs *bufs, *busy = NULL;
	struct vfio_pci_core_device *vdev;

	lockdep_assert_held(&dev_set->lock);

	list_for_each_entry(vdev, &dev_set->device_list, vdev.dev_set_list) {
		bufs = vdev->dma_bufs;
		if (!bufs)
			continue;
		atomic_inc(&bufs->nr_disabling);
		vfio_pci_dma_bufs_change(bufs, 0, VFIO_PCI_REVOKED_DISABLED);
		if (!busy && atomic_read(&bufs->nr_busy)) {
			kref_get(&bufs->kref);
			busy = bufs;
		}
	}
	return busy;
}

/* @start: when the importers were told first.  Returns 0: try again; -EBUSY or -EINTR. */
int vfio_pci_dma_buf_wait_set(struct vfio_pci_dma_bufs *busy, unsigned long start)
{
	int ret = vfio_pci_dma_bufs_wait(busy, &busy->nr_busy, start, VFIO_PCI_WAIT_CALL);

	if (!ret && fatal_signal_pending(current))
		ret = -EINTR;
	else if (!ret && time_after(jiffies, start + msecs_to_jiffies(revoke_timeout_ms)))
		ret = -EBUSY;
	atomic_dec(&busy->nr_disabling);
	vfio_pci_dma_bufs_put(busy);
	return ret;
}

/*
 * For causes that cannot be refused.  After the importers' callbacks, it waits for up to
 * revoke_timeout_ms.  If the device is closed that is already done.  The caller may have locked
 * config space, so memory_lock must not be acquired here.
 */
void vfio_pci_dma_buf_revoke(struct vfio_pci_core_device *vdev, unsigned int cause)
{
	struct vfio_pci_dma_bufs *bufs = vdev->dma_bufs;

	if (bufs && !(vfio_pci_dma_bufs_change(bufs, 0, cause) & VFIO_PCI_REVOKED_CLOSED))
		vfio_pci_dma_bufs_wait(bufs, &bufs->nr_busy, jiffies, VFIO_PCI_WAIT_BOUNDED);
}

/* A reset from outside is over.  memory_lock must not be acquired here either. */
void vfio_pci_dma_buf_reset_done(struct vfio_pci_core_device *vdev)
{
	if (vdev->dma_bufs)
		vfio_pci_dma_bufs_change(vdev->dma_bufs, VFIO_PCI_REVOKED_RESET, 0);
}

/*
 * Called before the device is enabled, with power.  If the device decodes memory, an error is
 * over.  If not, recovery is taken to have reset it while it was closed, so that it has lost
 * its addresses.  -EAGAIN: others reset it, and memory decode is off during that as well.
 */
int vfio_pci_dma_buf_open_begin(struct vfio_pci_core_device *vdev)
{
	struct vfio_pci_dma_bufs *bufs = vdev->dma_bufs;
	unsigned int causes;

	if (!bufs)
		return 0;
	vfio_pci_dma_bufs_retry(bufs);
	if (atomic_read(&bufs->nr_busy))
		return -EBUSY;
	mutex_lock(&bufs->lock);
	causes = bufs->causes;
	if (causes & VFIO_PCI_REVOKED_ERROR) {
		if (!pci_cfg_access_trylock(bufs->pdev)) {
			mutex_unlock(&bufs->lock);
			return -EAGAIN;
		}
		causes &= ~VFIO_PCI_REVOKED_ERROR;
		if (!vfio_pci_recovered(bufs->pdev))
			causes |= VFIO_PCI_REVOKED_NO_BARS;
		WRITE_ONCE(bufs->causes, causes);
		pci_cfg_access_unlock(bufs->pdev);
	}
	if (causes & VFIO_PCI_REVOKED_NO_BARS)
		pci_notice_ratelimited(bufs->pdev,
				       "after an error: no dma-bufs until the device is removed and rescanned\n");
	mutex_unlock(&bufs->lock);
	return 0;
}

/* The device is open, and has its virtual config space: buffers can be made. */
void vfio_pci_dma_buf_open_end(struct vfio_pci_core_device *vdev)
{
	if (!vdev->dma_bufs)
		return;
	vfio_pci_lock_memory(vdev);
	vfio_pci_dma_bufs_change(vdev->dma_bufs, VFIO_PCI_REVOKED_CLOSED, 0);
	vfio_pci_unlock_memory(vdev);
}

/*
 * The device is closed.  A buffer that is still busy when the wait is over keeps its
 * registration until it is idle; until then the device cannot be opened.
 */
void vfio_pci_dma_buf_close(struct vfio_pci_core_device *vdev)
{
	struct vfio_pci_dma_bufs *bufs = vdev->dma_bufs;
	struct vfio_pci_dma_buf *buf, *next;

	lockdep_assert_held(&vdev->vdev.dev_set->lock);

	if (!bufs)
		return;
	vfio_pci_dma_buf_revoke(vdev, VFIO_PCI_REVOKED_CLOSED);

	mutex_lock(&bufs->lock);
	list_for_each_entry_safe(buf, next, &bufs->list, node)
		if (!atomic_read(&buf->nr_busy))
			list_del_init(&buf->node);
	mutex_unlock(&bufs->lock);
}

/*
 * Switches off the memory decode of a device that is closed while importers are late, also in
 * its saved state.  A virtual function has no memory decode of its own.  The saved state has
 * the addresses: clear ERROR, or the next open would take them for lost, as decode is off.
 */
void vfio_pci_dma_buf_disable_decode(struct vfio_pci_core_device *vdev)
{
	struct pci_dev *pdev = vdev->pdev;
	u16 cmd;

	if (!vdev->dma_bufs || !atomic_read(&vdev->dma_bufs->nr_busy))
		return;
	if (vdev->pci_saved_state && vfio_pci_accessible(pdev))
		vfio_pci_dma_bufs_change(vdev->dma_bufs, VFIO_PCI_REVOKED_ERROR, 0);
	pci_read_config_word(pdev, PCI_COMMAND, &cmd);
	pci_write_config_word(pdev, PCI_COMMAND, cmd & ~PCI_COMMAND_MEMORY);
	pdev->saved_config_space[PCI_COMMAND / 4] &= ~PCI_COMMAND_MEMORY;
}

/*
 * Revokes one buffer permanently.  -EBADFD: it was before, and is idle; -EBUSY: it is revoked,
 * but an importer is late; -EINTR: the task is being killed.
 */
int vfio_pci_dma_buf_request(struct vfio_pci_dma_buf *buf)
{
	struct vfio_pci_dma_bufs *bufs = buf->bufs;
	int ret = 0;

	mutex_lock(&bufs->lock);
	if (buf->causes & VFIO_PCI_REVOKED_PERMANENTLY && !atomic_read(&buf->nr_busy))
		ret = -EBADFD;
	else
		vfio_pci_dma_buf_update(buf, VFIO_PCI_REVOKED_REQUEST);
	mutex_unlock(&bufs->lock);
	return ret ?: vfio_pci_dma_bufs_wait(bufs, &buf->nr_busy, jiffies, VFIO_PCI_WAIT_CALL);
}
