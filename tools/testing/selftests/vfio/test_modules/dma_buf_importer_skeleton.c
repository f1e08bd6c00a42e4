// SPDX-License-Identifier: GPL-2.0
/*
 * The parts of a driver that has a dma-buf of vfio-pci mapped for its device, and gives it
 * back when it is revoked. Compiled only: there is no such device.
 *
 * Documentation/driver-api/vfio-pci-dma-buf.rst shows this.
 */
#include <linux/dma-buf.h>
#include <linux/dma-fence.h>
#include <linux/dma-resv.h>
#include <linux/module.h>
#include <linux/workqueue.h>

struct import {
	struct dma_buf_attachment *attach;
	struct sg_table *sgt;		/* NULL: not mapped; under dma_resv */
	struct dma_fence *idle;		/* signals when the device has stopped */
	struct work_struct unmap;
	/* Lets no new work begin, and returns a fence for what the device still does. */
	struct dma_fence *(*stop)(struct import *import);
};

static void import_unmap_locked(struct import *import)
{
	dma_resv_assert_held(import->attach->dmabuf->resv);

	if (import->sgt)
		dma_buf_unmap_attachment(import->attach, import->sgt, DMA_BIDIRECTIONAL);
	import->sgt = NULL;
}

static void import_unmap_work(struct work_struct *work)
{
	struct import *import = container_of(work, struct import, unmap);

	/* Without the reservation lock, which the exporter and others need meanwhile. */
	dma_fence_wait(import->idle, false);
	dma_resv_lock(import->attach->dmabuf->resv, NULL);
	import_unmap_locked(import);
	dma_fence_put(import->idle);
	import->idle = NULL;
	dma_resv_unlock(import->attach->dmabuf->resv);
}

static void import_move_notify(struct dma_buf_attachment *attach)
{
	struct import *import = attach->importer_priv;

	dma_resv_assert_held(attach->dmabuf->resv);

	/* Restored, or being revoked already. */
	if (!import->sgt || import->idle)
		return;
	import->idle = import->stop(import);
	if (dma_resv_reserve_fences(attach->dmabuf->resv, 1)) {
		/* No memory: wait here, for what the device itself bounds. */
		dma_fence_wait(import->idle, false);
	} else {
		dma_resv_add_fence(attach->dmabuf->resv, import->idle,
				   DMA_RESV_USAGE_BOOKKEEP);
	}
	queue_work(system_unbound_wq, &import->unmap);
}

/*
 * Before each use of the buffer. -ENODEV: it is revoked, try again when notified. -EBUSY: the
 * device has not stopped, try again at the end of import_unmap_work(): the buffer may have
 * been restored meanwhile, and there is no second notification.
 */
static int __maybe_unused import_map(struct import *import)
{
	struct sg_table *sgt;

	dma_resv_assert_held(import->attach->dmabuf->resv);

	if (import->idle)
		return -EBUSY;
	if (import->sgt)
		return 0;
	sgt = dma_buf_map_attachment(import->attach, DMA_BIDIRECTIONAL);
	if (IS_ERR(sgt))
		return PTR_ERR(sgt);
	import->sgt = sgt;
	return 0;
}

static const struct dma_buf_attach_ops import_ops = {
	.allow_peer2peer = true,
	.move_notify = import_move_notify,
};

static int __maybe_unused import_attach(struct import *import, struct dma_buf *dmabuf,
					struct device *dev)
{
	INIT_WORK(&import->unmap, import_unmap_work);
	import->attach = dma_buf_dynamic_attach(dmabuf, dev, &import_ops, import);
	return PTR_ERR_OR_ZERO(import->attach);
}

static void __maybe_unused import_detach(struct import *import)
{
	struct dma_buf *dmabuf = import->attach->dmabuf;

	dma_resv_lock(dmabuf->resv, NULL);
	import_move_notify(import->attach);
	dma_resv_unlock(dmabuf->resv);
	flush_work(&import->unmap);
	dma_buf_detach(dmabuf, import->attach);
}

MODULE_DESCRIPTION("Skeleton of an importer of dma-bufs that are revoked");
MODULE_LICENSE("GPL");
MODULE_IMPORT_NS(DMA_BUF);
MODULE_INFO(test, "Y");
