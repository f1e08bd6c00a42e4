// SPDX-License-Identifier: GPL-2.0
/*
 * An importer for tests of dma-bufs in devices' memory: it drives the DMA engine of
 * "edu", a device that QEMU emulates, so that DMA really happens, and really stops.
 *
 * Objects: an &engine is an edu device; an &importer is an open file, which can have
 * one dma-buf attached to one engine.  engines_lock keeps an engine from going while
 * a file attaches to it; when it goes, it takes the attachments of all files along.
 *
 * Locks, outermost first: engines_lock > importer.lock > dma_resv > engine.lock.
 * A DMA runs under engine.lock, and so does every change of importer.sgt: when
 * move_notify, which has the dma_resv, gets engine.lock, no DMA is under way, and
 * none starts any more.  Nothing is allocated under engine.lock, and no dma_resv is
 * taken, as exporters wait for move_notify.
 */
#include <linux/delay.h>
#include <linux/dma-buf.h>
#include <linux/dma-fence.h>
#include <linux/dma-mapping.h>
#include <linux/dma-resv.h>
#include <linux/io.h>
#include <linux/io-64-nonatomic-lo-hi.h>
#include <linux/iopoll.h>
#include <linux/kthread.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/slab.h>
#include <linux/timer.h>
#include <linux/uaccess.h>
#include <linux/workqueue.h>

#include "dma_buf_test_importer.h"

#define EDU_SOURCE	0x80
#define EDU_DESTINATION	0x88
#define EDU_COUNT	0x90
#define EDU_COMMAND	0x98
#define EDU_RUN		1
#define EDU_OUT		2	/* of the device's buffer; else into it */
#define EDU_BUFFER	0x40000

#define EDU_TIMEOUT_US	(5 * USEC_PER_SEC)
#define MAX_SEGMENT	SZ_64K

/**
 * struct engine - an edu device
 * @node: in engines
 * @importers: attached to it; under engines_lock
 * @pdev: the device
 * @regs: its BAR 0
 * @lock: held while a DMA is under way
 * @page: for data on its way; under @lock
 * @page_address: where the device finds @page
 */
struct engine {
	struct list_head node;
	struct list_head importers;
	struct pci_dev *pdev;
	void __iomem *regs;
	struct mutex lock;	/* serializes DMA and changes of importer.sgt */
	void *page;
	dma_addr_t page_address;
};

/**
 * struct importer - an open file
 * @node: in engine.importers; under engines_lock
 * @lock: serializes ioctls
 * @engine: what it is attached to; NULL: it is not
 * @attach: the attachment; dmabuf and flags go with it
 * @dmabuf: of which there is a reference
 * @flags: DMA_BUF_IMPORTER_*
 * @sgt: the mapping; changed under dma_resv and engine.lock, read under either
 * @segments: of the last mapping, kept when it has gone; as @sgt
 * @loop: task that copies; under @lock
 * @loop_offset: where it copies to
 * @late: unmaps for DMA_BUF_IMPORTER_LATE
 * @pinned: by this importer; under dma_resv
 * @detaching: no more work; under dma_resv
 * @fence: the last one that was added; under dma_resv
 * @fence_context: of all that are
 * @fences: number of the last one
 * @notified: see &struct dma_buf_importer_status
 * @mapped: see there
 * @unmapped: see there
 * @copies: see there
 * @error: see there
 * @nr_segments: of @segments
 */
struct importer {
	struct list_head node;
	struct mutex lock;	/* one ioctl at a time */
	struct engine *engine;
	struct dma_buf_attachment *attach;
	struct dma_buf *dmabuf;
	u32 flags;
	struct sg_table *sgt;
	struct dma_buf_importer_segment *segments;
	struct task_struct *loop;
	u64 loop_offset;
	struct work_struct late;
	bool pinned;
	bool detaching;
	struct late_fence *fence;
	u64 fence_context;
	u64 fences;
	u32 notified;
	u32 mapped;
	u32 unmapped;
	u32 copies;
	int error;
	u32 nr_segments;
};

/**
 * struct late_fence - a fence that a timer signals
 * @base: the fence; it holds a reference on the module, which has its operations
 * @lock: for @base
 * @timer: signals, and drops a reference
 */
struct late_fence {
	struct dma_fence base;
	spinlock_t lock;	/* the fence's own */
	struct timer_list timer;
};

static LIST_HEAD(engines);
static DEFINE_MUTEX(engines_lock);

/* The device */

static int engine_run(struct engine *engine, u64 source, u64 destination, u32 count,
		      u32 command)
{
	u32 value;

	lockdep_assert_held(&engine->lock);
	writeq(source, engine->regs + EDU_SOURCE);
	writeq(destination, engine->regs + EDU_DESTINATION);
	writeq(count, engine->regs + EDU_COUNT);
	writel(command | EDU_RUN, engine->regs + EDU_COMMAND);
	return readl_poll_timeout(engine->regs + EDU_COMMAND, value, !(value & EDU_RUN),
				  2000, EDU_TIMEOUT_US);
}

/* Between the device's buffer and the slice, segment by segment. */
static int engine_slice(struct importer *importer, u64 offset, u32 length, bool out)
{
	struct engine *engine = importer->engine;
	u64 buffer = EDU_BUFFER;

	for (u32 i = 0; i < importer->nr_segments && length; i++) {
		struct dma_buf_importer_segment *segment = &importer->segments[i];
		u32 part;
		u64 bus;
		int ret;

		if (offset >= segment->length) {
			offset -= segment->length;
			continue;
		}
		part = min_t(u64, length, segment->length - offset);
		bus = segment->address + offset;
		ret = out ? engine_run(engine, buffer, bus, part, EDU_OUT) :
			    engine_run(engine, bus, buffer, part, 0);
		if (ret)
			return ret;
		offset = 0;
		buffer += part;
		length -= part;
	}
	return length ? -EINVAL : 0;
}

/* Between the engine's page and the slice. */
static int engine_copy(struct importer *importer, u64 offset, u32 length, bool out)
{
	struct engine *engine = importer->engine;
	int ret;

	if (out) {
		ret = engine_run(engine, engine->page_address, EDU_BUFFER, length, 0);
		return ret ?: engine_slice(importer, offset, length, true);
	}
	ret = engine_slice(importer, offset, length, false);
	return ret ?: engine_run(engine, EDU_BUFFER, engine->page_address, length, EDU_OUT);
}

/* Mapping */

static enum dma_data_direction importer_direction(const struct importer *importer)
{
	return importer->flags & DMA_BUF_IMPORTER_READ ? DMA_TO_DEVICE : DMA_BIDIRECTIONAL;
}

static struct dma_buf_importer_segment *segments_of(struct sg_table *sgt)
{
	struct dma_buf_importer_segment *segments;
	struct scatterlist *sg;
	unsigned int i;

	segments = kvcalloc(sgt->nents, sizeof(*segments), GFP_KERNEL);
	if (!segments)
		return NULL;
	for_each_sgtable_dma_sg(sgt, sg, i) {
		segments[i].address = sg_dma_address(sg);
		segments[i].length = sg_dma_len(sg);
	}
	return segments;
}

static int importer_map_locked(struct importer *importer)
{
	struct dma_buf_importer_segment *segments;
	struct sg_table *sgt;

	dma_resv_assert_held(importer->dmabuf->resv);
	if (importer->sgt)
		return -EBUSY;
	sgt = dma_buf_map_attachment(importer->attach, importer_direction(importer));
	if (IS_ERR(sgt))
		return PTR_ERR(sgt);
	segments = segments_of(sgt);
	if (!segments) {
		dma_buf_unmap_attachment(importer->attach, sgt,
					 importer_direction(importer));
		return -ENOMEM;
	}

	mutex_lock(&importer->engine->lock);
	swap(importer->segments, segments);
	importer->nr_segments = sgt->nents;
	importer->sgt = sgt;
	importer->mapped++;
	mutex_unlock(&importer->engine->lock);
	kvfree(segments);
	return 0;
}

/* @attach, as move_notify can come before importer->attach is set. */
static void importer_unmap_locked(struct importer *importer,
				  struct dma_buf_attachment *attach)
{
	struct sg_table *sgt;

	dma_resv_assert_held(attach->dmabuf->resv);
	mutex_lock(&importer->engine->lock);
	sgt = importer->sgt;
	importer->sgt = NULL;
	if (sgt)
		importer->unmapped++;
	mutex_unlock(&importer->engine->lock);
	if (sgt)
		dma_buf_unmap_attachment(attach, sgt, importer_direction(importer));
}

static int importer_map(struct importer *importer)
{
	int ret;

	dma_resv_lock(importer->dmabuf->resv, NULL);
	ret = importer_map_locked(importer);
	dma_resv_unlock(importer->dmabuf->resv);
	return ret;
}

static int importer_unmap(struct importer *importer)
{
	bool was_mapped;

	dma_resv_lock(importer->dmabuf->resv, NULL);
	was_mapped = importer->sgt;
	importer_unmap_locked(importer, importer->attach);
	dma_resv_unlock(importer->dmabuf->resv);
	return was_mapped ? 0 : -EINVAL;
}

static void importer_move_notify(struct dma_buf_attachment *attach)
{
	struct importer *importer = attach->importer_priv;

	dma_resv_assert_held(attach->dmabuf->resv);
	importer->notified++;
	if (importer->flags & DMA_BUF_IMPORTER_SLOW)
		msleep(DMA_BUF_IMPORTER_SLOW_MS);
	if (importer->flags & DMA_BUF_IMPORTER_KEEP)
		return;
	if (!(importer->flags & DMA_BUF_IMPORTER_LATE))
		importer_unmap_locked(importer, attach);
	else if (importer->sgt && !importer->detaching)
		schedule_work(&importer->late);
}

static void importer_late(struct work_struct *work)
{
	struct importer *importer = container_of(work, struct importer, late);
	struct dma_fence *fence = NULL;

	dma_resv_lock(importer->dmabuf->resv, NULL);
	if (importer->fence)
		fence = dma_fence_get(&importer->fence->base);
	dma_resv_unlock(importer->dmabuf->resv);

	/* Without the lock: others, who have it, may wait for this fence as well. */
	if (fence)
		dma_fence_wait(fence, false);
	dma_fence_put(fence);

	dma_resv_lock(importer->dmabuf->resv, NULL);
	importer_unmap_locked(importer, importer->attach);
	dma_resv_unlock(importer->dmabuf->resv);
}

static const struct dma_buf_attach_ops importer_ops = {
	.allow_peer2peer = true,
	.move_notify = importer_move_notify,
};

static const struct dma_buf_attach_ops importer_no_p2p_ops = {
	.move_notify = importer_move_notify,
};

/* Fences */

static const char *late_fence_name(struct dma_fence *fence)
{
	return KBUILD_MODNAME;
}

static void late_fence_release(struct dma_fence *fence)
{
	dma_fence_free(fence);
	module_put(THIS_MODULE);
}

static const struct dma_fence_ops late_fence_ops = {
	.get_driver_name = late_fence_name,
	.get_timeline_name = late_fence_name,
	.release = late_fence_release,
};

static void late_fence_timer(struct timer_list *timer)
{
	struct late_fence *fence = from_timer(fence, timer, timer);

	dma_fence_signal(&fence->base);
	dma_fence_put(&fence->base);
}

/* All that can fail comes before the fence can be seen: it is signaled for sure. */
static int importer_fence(struct importer *importer, u32 milliseconds)
{
	struct dma_resv *resv = importer->dmabuf->resv;
	struct late_fence *fence, *old;
	int ret;

	fence = kzalloc(sizeof(*fence), GFP_KERNEL);
	if (!fence)
		return -ENOMEM;
	dma_resv_lock(resv, NULL);
	ret = dma_resv_reserve_fences(resv, 1);
	if (ret) {
		dma_resv_unlock(resv);
		kfree(fence);
		return ret;
	}
	__module_get(THIS_MODULE);
	spin_lock_init(&fence->lock);
	timer_setup(&fence->timer, late_fence_timer, 0);
	dma_fence_init(&fence->base, &late_fence_ops, &fence->lock,
		       importer->fence_context, ++importer->fences);
	dma_resv_add_fence(resv, &fence->base, DMA_RESV_USAGE_BOOKKEEP);
	dma_fence_get(&fence->base);		/* the timer's */
	mod_timer(&fence->timer, jiffies + msecs_to_jiffies(milliseconds));
	old = importer->fence;
	importer->fence = fence;
	dma_resv_unlock(resv);
	if (old)
		dma_fence_put(&old->base);
	return 0;
}

static void importer_drop_fence(struct importer *importer)
{
	if (importer->fence)
		dma_fence_put(&importer->fence->base);
	importer->fence = NULL;
}

/* The loop */

static bool importer_loop_copy(struct importer *importer, u64 number)
{
	struct engine *engine = importer->engine;
	bool mapped;
	int ret = 0;

	mutex_lock(&engine->lock);
	mapped = importer->sgt;
	if (mapped) {
		*(u64 *)engine->page = number;
		ret = engine_copy(importer, importer->loop_offset, sizeof(number), true);
	}
	if (mapped && !ret)
		importer->copies++;
	else if (ret && !importer->error)
		importer->error = ret;
	mutex_unlock(&engine->lock);
	return mapped && !ret;
}

static int importer_loop(void *data)
{
	struct importer *importer = data;

	while (!kthread_should_stop()) {
		if (importer_loop_copy(importer, importer->copies + 1)) {
			cond_resched();
			continue;
		}
		if (importer->flags & DMA_BUF_IMPORTER_REMAP)
			importer_map(importer);
		usleep_range(1000, 2000);
	}
	return 0;
}

static int importer_start(struct importer *importer, u64 offset)
{
	struct task_struct *task;

	if (importer->loop)
		return -EBUSY;
	if (offset % sizeof(u64) || offset >= importer->dmabuf->size)
		return -EINVAL;
	importer->loop_offset = offset;
	task = kthread_run(importer_loop, importer, "dma-buf importer");
	if (IS_ERR(task))
		return PTR_ERR(task);
	importer->loop = task;
	return 0;
}

static int importer_stop(struct importer *importer)
{
	if (!importer->loop)
		return -EINVAL;
	kthread_stop(importer->loop);
	importer->loop = NULL;
	return 0;
}

/* Attaching */

static struct engine *engine_find(const char *name)
{
	struct engine *engine;

	lockdep_assert_held(&engines_lock);
	list_for_each_entry(engine, &engines, node)
		if (!strcmp(pci_name(engine->pdev), name))
			return engine;
	return NULL;
}

static int engine_limits(struct engine *engine, u32 address_bits, u32 max_segment)
{
	struct device *dev = &engine->pdev->dev;

	dma_set_max_seg_size(dev, max_segment ?: MAX_SEGMENT);
	return dma_set_mask(dev, DMA_BIT_MASK(address_bits ?: 64));
}

static int importer_pin(struct importer *importer)
{
	int ret;

	dma_resv_lock(importer->dmabuf->resv, NULL);
	ret = dma_buf_pin(importer->attach);
	importer->pinned = !ret;
	dma_resv_unlock(importer->dmabuf->resv);
	return ret;
}

static struct dma_buf_attachment *importer_attach_dmabuf(struct importer *importer)
{
	struct device *dev = &importer->engine->pdev->dev;

	if (importer->flags & DMA_BUF_IMPORTER_STATIC)
		return dma_buf_attach(importer->dmabuf, dev);
	return dma_buf_dynamic_attach(importer->dmabuf, dev,
				      importer->flags & DMA_BUF_IMPORTER_NO_P2P ?
				      &importer_no_p2p_ops : &importer_ops, importer);
}

static void importer_detach(struct importer *importer)
{
	struct dma_buf *dmabuf = importer->dmabuf;

	importer_stop(importer);
	dma_resv_lock(dmabuf->resv, NULL);
	importer_unmap_locked(importer, importer->attach);
	if (importer->pinned)
		dma_buf_unpin(importer->attach);
	importer->pinned = false;
	importer->detaching = true;
	dma_resv_unlock(dmabuf->resv);
	cancel_work_sync(&importer->late);

	dma_buf_detach(dmabuf, importer->attach);
	importer_drop_fence(importer);
	list_del(&importer->node);
	kvfree(importer->segments);
	importer->segments = NULL;
	importer->nr_segments = 0;
	importer->engine = NULL;
	importer->attach = NULL;
	importer->dmabuf = NULL;
	dma_buf_put(dmabuf);
}

static int importer_attach(struct importer *importer,
			   const struct dma_buf_importer_attach *arg)
{
	struct dma_buf_attachment *attach;
	struct engine *engine;
	struct dma_buf *dmabuf;
	int ret;

	lockdep_assert_held(&engines_lock);
	if (importer->engine)
		return -EBUSY;
	engine = engine_find(arg->device);
	if (!engine)
		return -ENXIO;
	ret = engine_limits(engine, arg->address_bits, arg->max_segment);
	if (ret)
		return ret;
	dmabuf = dma_buf_get(arg->dmabuf_fd);
	if (IS_ERR(dmabuf))
		return PTR_ERR(dmabuf);

	importer->engine = engine;
	importer->dmabuf = dmabuf;
	importer->flags = arg->flags;
	importer->detaching = false;
	importer->notified = 0;
	importer->mapped = 0;
	importer->unmapped = 0;
	importer->copies = 0;
	importer->error = 0;
	attach = importer_attach_dmabuf(importer);
	if (IS_ERR(attach)) {
		importer->engine = NULL;
		importer->dmabuf = NULL;
		dma_buf_put(dmabuf);
		return PTR_ERR(attach);
	}
	importer->attach = attach;
	list_add(&importer->node, &engine->importers);
	ret = importer->flags & DMA_BUF_IMPORTER_PIN ? importer_pin(importer) : 0;
	if (ret)
		importer_detach(importer);
	return ret;
}

/* ioctls */

static int ioctl_attach(struct importer *importer, void __user *user)
{
	struct dma_buf_importer_attach arg;
	int ret;

	if (copy_from_user(&arg, user, sizeof(arg)))
		return -EFAULT;
	if (strnlen(arg.device, sizeof(arg.device)) == sizeof(arg.device))
		return -EINVAL;
	if (arg.address_bits > 64)
		return -EINVAL;
	/* dma_buf_pin() is for importers with move_notify, and warns of others. */
	if (arg.flags & DMA_BUF_IMPORTER_PIN && arg.flags & DMA_BUF_IMPORTER_STATIC)
		return -EINVAL;
	mutex_lock(&engines_lock);
	mutex_lock(&importer->lock);
	ret = importer_attach(importer, &arg);
	mutex_unlock(&importer->lock);
	mutex_unlock(&engines_lock);
	return ret;
}

static int ioctl_detach(struct importer *importer)
{
	int ret = -ENOTCONN;

	mutex_lock(&engines_lock);
	mutex_lock(&importer->lock);
	if (importer->engine) {
		importer_detach(importer);
		ret = 0;
	}
	mutex_unlock(&importer->lock);
	mutex_unlock(&engines_lock);
	return ret;
}

static int importer_copy(struct importer *importer,
			 const struct dma_buf_importer_copy *arg, void *data)
{
	bool out = arg->direction == DMA_BUF_IMPORTER_TO_SLICE;
	struct engine *engine = importer->engine;
	int ret = -ENODATA;

	mutex_lock(&engine->lock);
	if (importer->sgt || (arg->force && importer->segments)) {
		if (out)
			memcpy(engine->page, data, arg->length);
		ret = engine_copy(importer, arg->offset, arg->length, out);
		if (!ret && !out)
			memcpy(data, engine->page, arg->length);
	}
	mutex_unlock(&engine->lock);
	return ret;
}

/* No user memory is touched with a lock held: its faults may need more than we know. */
static int ioctl_copy(struct importer *importer, void __user *user)
{
	struct dma_buf_importer_copy arg;
	void __user *bytes;
	int ret = -ENOTCONN;
	void *data;

	if (copy_from_user(&arg, user, sizeof(arg)))
		return -EFAULT;
	if (!arg.length || arg.length > DMA_BUF_IMPORTER_MAX || arg.pad ||
	    (arg.direction != DMA_BUF_IMPORTER_TO_SLICE &&
	     arg.direction != DMA_BUF_IMPORTER_FROM_SLICE))
		return -EINVAL;
	bytes = u64_to_user_ptr(arg.data);
	data = memdup_user(bytes, arg.length);
	if (IS_ERR(data))
		return PTR_ERR(data);

	mutex_lock(&importer->lock);
	if (importer->engine)
		ret = importer_copy(importer, &arg, data);
	mutex_unlock(&importer->lock);
	if (!ret && arg.direction == DMA_BUF_IMPORTER_FROM_SLICE &&
	    copy_to_user(bytes, data, arg.length))
		ret = -EFAULT;
	kfree(data);
	return ret;
}

static int ioctl_status(struct importer *importer, void __user *user)
{
	struct dma_buf_importer_status status = {};

	mutex_lock(&importer->lock);
	if (importer->engine) {
		/* Both locks, for values of one moment. */
		dma_resv_lock(importer->dmabuf->resv, NULL);
		mutex_lock(&importer->engine->lock);
		status.notified = importer->notified;
		status.mapped = importer->mapped;
		status.unmapped = importer->unmapped;
		status.copies = importer->copies;
		status.segments = importer->nr_segments;
		status.is_mapped = !!importer->sgt;
		status.error = importer->error;
		mutex_unlock(&importer->engine->lock);
		dma_resv_unlock(importer->dmabuf->resv);
	}
	mutex_unlock(&importer->lock);
	return copy_to_user(user, &status, sizeof(status)) ? -EFAULT : 0;
}

/* A copy of the segments, as the loop may map again at any time. */
static void *importer_segments(struct importer *importer, u32 *count)
{
	void *segments;

	dma_resv_lock(importer->dmabuf->resv, NULL);
	*count = importer->nr_segments;
	segments = kvmemdup(importer->segments,
			    array_size(*count, sizeof(*importer->segments)), GFP_KERNEL);
	dma_resv_unlock(importer->dmabuf->resv);
	return segments;
}

static int ioctl_segments(struct importer *importer, void __user *user)
{
	struct dma_buf_importer_segments arg;
	void *segments = NULL;
	u32 room;
	int ret = 0;

	if (copy_from_user(&arg, user, sizeof(arg)))
		return -EFAULT;
	room = arg.count;
	arg.count = 0;
	mutex_lock(&importer->lock);
	if (importer->engine && importer->nr_segments) {
		segments = importer_segments(importer, &arg.count);
		ret = segments ? 0 : -ENOMEM;
	}
	mutex_unlock(&importer->lock);
	if (!ret && (copy_to_user(user, &arg, sizeof(arg)) ||
		     copy_to_user(u64_to_user_ptr(arg.entries), segments,
				  array_size(min(room, arg.count),
					     sizeof(struct dma_buf_importer_segment)))))
		ret = -EFAULT;
	kvfree(segments);
	return ret;
}

static long importer_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct importer *importer = file->private_data;
	void __user *user = (void __user *)arg;
	u64 offset = 0;
	u32 ms = 0;
	int ret;

	switch (cmd) {
	case DMA_BUF_IMPORTER_ATTACH:
		return ioctl_attach(importer, user);
	case DMA_BUF_IMPORTER_DETACH:
		return ioctl_detach(importer);
	case DMA_BUF_IMPORTER_COPY:
		return ioctl_copy(importer, user);
	case DMA_BUF_IMPORTER_STATUS:
		return ioctl_status(importer, user);
	case DMA_BUF_IMPORTER_SEGMENTS:
		return ioctl_segments(importer, user);
	case DMA_BUF_IMPORTER_LOOP:
		if (copy_from_user(&offset, user, sizeof(offset)))
			return -EFAULT;
		break;
	case DMA_BUF_IMPORTER_FENCE:
		if (copy_from_user(&ms, user, sizeof(ms)))
			return -EFAULT;
		break;
	}

	mutex_lock(&importer->lock);
	if (!importer->engine)
		ret = -ENOTCONN;
	else if (cmd == DMA_BUF_IMPORTER_MAP)
		ret = importer_map(importer);
	else if (cmd == DMA_BUF_IMPORTER_UNMAP)
		ret = importer_unmap(importer);
	else if (cmd == DMA_BUF_IMPORTER_LOOP)
		ret = importer_start(importer, offset);
	else if (cmd == DMA_BUF_IMPORTER_STOP)
		ret = importer_stop(importer);
	else if (cmd == DMA_BUF_IMPORTER_FENCE)
		ret = importer_fence(importer, ms);
	else
		ret = -ENOTTY;
	mutex_unlock(&importer->lock);
	return ret;
}

static int importer_open(struct inode *inode, struct file *file)
{
	struct importer *importer = kzalloc(sizeof(*importer), GFP_KERNEL);

	if (!importer)
		return -ENOMEM;
	mutex_init(&importer->lock);
	INIT_WORK(&importer->late, importer_late);
	importer->fence_context = dma_fence_context_alloc(1);
	file->private_data = importer;
	return 0;
}

static int importer_release(struct inode *inode, struct file *file)
{
	struct importer *importer = file->private_data;

	ioctl_detach(importer);
	kfree(importer);
	return 0;
}

static const struct file_operations importer_fops = {
	.owner = THIS_MODULE,
	.open = importer_open,
	.release = importer_release,
	.unlocked_ioctl = importer_ioctl,
};

static struct miscdevice importer_misc = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "dma_buf_importer",
	.fops = &importer_fops,
};

/* The PCI driver */

static int engine_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct engine *engine;
	int ret;

	ret = pcim_enable_device(pdev);
	if (ret)
		return ret;
	ret = dma_set_mask_and_coherent(&pdev->dev, DMA_BIT_MASK(64));
	if (ret)
		return ret;
	engine = devm_kzalloc(&pdev->dev, sizeof(*engine), GFP_KERNEL);
	if (!engine)
		return -ENOMEM;
	engine->pdev = pdev;
	mutex_init(&engine->lock);
	INIT_LIST_HEAD(&engine->importers);
	engine->regs = pcim_iomap_region(pdev, 0, KBUILD_MODNAME);
	if (IS_ERR(engine->regs))
		return PTR_ERR(engine->regs);
	engine->page = dmam_alloc_coherent(&pdev->dev, PAGE_SIZE, &engine->page_address,
					   GFP_KERNEL);
	if (!engine->page)
		return -ENOMEM;
	pci_set_master(pdev);
	pci_set_drvdata(pdev, engine);

	mutex_lock(&engines_lock);
	list_add_tail(&engine->node, &engines);
	mutex_unlock(&engines_lock);
	return 0;
}

static void engine_remove(struct pci_dev *pdev)
{
	struct engine *engine = pci_get_drvdata(pdev);
	struct importer *importer, *next;

	mutex_lock(&engines_lock);
	list_del(&engine->node);
	list_for_each_entry_safe(importer, next, &engine->importers, node) {
		mutex_lock(&importer->lock);
		importer_detach(importer);
		mutex_unlock(&importer->lock);
	}
	mutex_unlock(&engines_lock);
	pci_clear_master(pdev);
}

static const struct pci_device_id engine_ids[] = {
	{ PCI_DEVICE(0x1234, 0x11e8) },
	{ }
};
MODULE_DEVICE_TABLE(pci, engine_ids);

static struct pci_driver engine_driver = {
	.name = KBUILD_MODNAME,
	.id_table = engine_ids,
	.probe = engine_probe,
	.remove = engine_remove,
};

static int __init importer_init(void)
{
	int ret = misc_register(&importer_misc);

	if (ret)
		return ret;
	ret = pci_register_driver(&engine_driver);
	if (ret)
		misc_deregister(&importer_misc);
	return ret;
}
module_init(importer_init);

static void __exit importer_exit(void)
{
	pci_unregister_driver(&engine_driver);
	misc_deregister(&importer_misc);
}
module_exit(importer_exit);

MODULE_DESCRIPTION("Importer for tests of dma-bufs in devices' memory");
MODULE_LICENSE("GPL");
MODULE_IMPORT_NS(DMA_BUF);
MODULE_INFO(test, "Y");
