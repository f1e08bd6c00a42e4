// SPDX-License-Identifier: GPL-2.0-only
/*
 * VFIO PCI: ranges of a device's BARs as dma-bufs, for peer-to-peer DMA and for mapping by
 * processes that do not have the device.
 *
 * How they are revoked, the locks and the lifetimes are in vfio_pci_dmabuf_revoke.c.
 */
#include <linux/dma-buf-mapping.h>
#include <linux/dma-resv.h>
#include <linux/module.h>
#include <linux/pagemap.h>
#include <linux/sizes.h>
#include <linux/vfio.h>
#include <linux/vgaarb.h>

#include "vfio_pci_dmabuf.h"
#include "vfio_pci_priv.h"

MODULE_IMPORT_NS(DMA_BUF);

/* As many as fit in a megabyte: more than a BAR has uses. */
#define VFIO_PCI_DMA_BUF_MAX_RANGES	65536
/* The largest sum of ranges, unless the BAR is larger: it bounds an importer's page tables. */
#define VFIO_PCI_DMA_BUF_MAX_SIZE	(64ULL * SZ_1G)

/*
 * Refuses importers that can't do peer-to-peer, or have no move_notify: peer2peer is set only
 * for those with importer_ops.  One with page tables of its own does no DMA by attach->dev.
 */
static int vfio_pci_dma_buf_attach(struct dma_buf *dmabuf, struct dma_buf_attachment *attach)
{
	struct vfio_pci_dma_buf *buf = dmabuf->priv;
	struct vfio_pci_dma_attach *priv;
	int ret = 0;

	if (!attach->peer2peer)
		return -EOPNOTSUPP;
	if (READ_ONCE(buf->causes))
		return -ENODEV;
	if (!dma_buf_attachment_is_phys(attach))
		ret = dma_buf_mmio_path(buf->bufs->pdev, attach->dev);
	if (ret < 0)
		return ret;
	priv = kzalloc(sizeof(*priv), GFP_KERNEL_ACCOUNT);
	if (!priv)
		return -ENOMEM;
	priv->path = ret;
	attach->priv = priv;
	return 0;
}

static void vfio_pci_dma_buf_detach(struct dma_buf *dmabuf, struct dma_buf_attachment *attach)
{
	kfree(attach->priv);
}

/* These two make the exporter a dynamic one.  What is pinned could not be revoked. */
static int vfio_pci_dma_buf_pin(struct dma_buf_attachment *attach)
{
	return -EOPNOTSUPP;
}

static void vfio_pci_dma_buf_unpin(struct dma_buf_attachment *attach) {}

static int vfio_pci_dma_buf_may_map(struct vfio_pci_dma_buf *buf, enum dma_data_direction dir)
{
	dma_resv_assert_held(buf->dmabuf->resv);

	if (buf->causes)
		return -ENODEV;
	return buf->readonly && dir != DMA_TO_DEVICE ? -EACCES : 0;
}

static struct sg_table *vfio_pci_dma_buf_map(struct dma_buf_attachment *attach,
					     enum dma_data_direction dir)
{
	struct vfio_pci_dma_buf *buf = attach->dmabuf->priv;
	struct vfio_pci_dma_attach *priv = attach->priv;
	struct sg_table *sgt;
	int ret = vfio_pci_dma_buf_may_map(buf, dir);

	if (ret)
		return ERR_PTR(ret);
	sgt = dma_buf_map_mmio(buf->bufs->pdev, attach->dev, priv->path, buf->ranges,
			       buf->nr_ranges, dir);
	if (!IS_ERR(sgt)) {
		vfio_pci_dma_buf_mapped(buf, priv);
		buf->nr_tables++;
	}
	return sgt;
}

static void vfio_pci_dma_buf_unmap(struct dma_buf_attachment *attach, struct sg_table *sgt,
				   enum dma_data_direction dir)
{
	struct vfio_pci_dma_buf *buf = attach->dmabuf->priv;

	dma_buf_unmap_mmio(sgt, dir);
	buf->nr_tables--;
	vfio_pci_dma_buf_unmapped(buf, attach->priv);
}

static int vfio_pci_dma_buf_map_phys(struct dma_buf_attachment *attach,
				     enum dma_data_direction dir, struct dma_buf_phys *phys)
{
	struct vfio_pci_dma_buf *buf = attach->dmabuf->priv;
	int ret = vfio_pci_dma_buf_may_map(buf, dir);

	if (ret)
		return ret;
	*phys = (struct dma_buf_phys) {
		.nr_ranges = buf->nr_ranges,
		.mmio = true,
		.ranges = buf->ranges,
	};
	vfio_pci_dma_buf_mapped(buf, attach->priv);
	return 0;
}

static void vfio_pci_dma_buf_unmap_phys(struct dma_buf_attachment *attach,
					struct dma_buf_phys *phys)
{
	vfio_pci_dma_buf_unmapped(attach->dmabuf->priv, attach->priv);
}

/* Whether one entry of @order can map the fault's surroundings, and what it maps. */
static bool vfio_pci_dma_buf_frame(const struct vm_fault *vmf, unsigned int order,
				   unsigned long *pfn)
{
	const struct vfio_pci_dma_buf *buf = vmf->vma->vm_private_data;
	unsigned long size = PAGE_SIZE << order, addr = ALIGN_DOWN(vmf->address, size);
	const struct dma_buf_phys_range *range = buf->ranges;
	u64 skip;

	if (addr < vmf->vma->vm_start || vmf->vma->vm_end - addr < size)
		return false;
	for (skip = (u64)linear_page_index(vmf->vma, addr) << PAGE_SHIFT; skip >= range->len;
	     range++)
		skip -= range->len;
	*pfn = PHYS_PFN(range->paddr + skip);
	return IS_ALIGNED(*pfn, 1UL << order) && skip + size <= range->len;
}

/* memory_lock is not needed: VFIO sets a cause, under dma_resv, before it disables memory. */
static vm_fault_t vfio_pci_dma_buf_huge_fault(struct vm_fault *vmf, unsigned int order)
{
	struct vfio_pci_dma_buf *buf = vmf->vma->vm_private_data;
	vm_fault_t ret = VM_FAULT_SIGBUS;
	unsigned long pfn;

	if (!vfio_pci_dma_buf_frame(vmf, order, &pfn))
		return VM_FAULT_FALLBACK;

	/*
	 * An importer may hold the lock for long.  A fault from user mode returns on a signal,
	 * and is repeated.  Other callers would take VM_FAULT_NOPAGE for success.
	 */
	if (!(vmf->flags & FAULT_FLAG_USER))
		dma_resv_lock(buf->dmabuf->resv, NULL);
	else if (dma_resv_lock_interruptible(buf->dmabuf->resv, NULL))
		return VM_FAULT_NOPAGE;
	if (!buf->causes)
		ret = vfio_pci_insert_pfn(vmf, order, pfn);
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

	if (READ_ONCE(buf->causes))
		return -ENODEV;
	/* Not VM_SHARED: a shared mapping of a read-only descriptor lacks that. */
	if (!(vma->vm_flags & VM_MAYSHARE))
		return -EINVAL;
	/* mmap() has checked this, dma_buf_mmap() knows another file. */
	if (buf->readonly) {
		if (vma->vm_flags & VM_WRITE)
			return -EACCES;
		vm_flags_clear(vma, VM_MAYWRITE);
	}

	vma->vm_private_data = buf;
	vma->vm_ops = &vfio_pci_dma_buf_vm_ops;
	vma->vm_page_prot = pgprot_decrypted(pgprot_noncached(vma->vm_page_prot));
	vm_flags_set(vma, VM_ALLOW_ANY_UNCACHED | VM_IO | VM_PFNMAP |
			  VM_DONTEXPAND | VM_DONTDUMP);
	return 0;
}

static void vfio_pci_dma_buf_release(struct dma_buf *dmabuf)
{
	struct vfio_pci_dma_buf *buf = dmabuf->priv;

	vfio_pci_dma_buf_withdraw(buf);
	vfio_pci_dma_bufs_put(buf->bufs);
	kvfree(buf);
}

static const struct dma_buf_ops vfio_pci_dma_buf_ops = {
	.huge_mappings = true,
	.revocable = true,
	.attach = vfio_pci_dma_buf_attach,
	.detach = vfio_pci_dma_buf_detach,
	.pin = vfio_pci_dma_buf_pin,
	.unpin = vfio_pci_dma_buf_unpin,
	.map_dma_buf = vfio_pci_dma_buf_map,
	.unmap_dma_buf = vfio_pci_dma_buf_unmap,
	.map_phys = vfio_pci_dma_buf_map_phys,
	.unmap_phys = vfio_pci_dma_buf_unmap_phys,
	.mmap = vfio_pci_dma_buf_mmap,
	.release = vfio_pci_dma_buf_release,
};

/* Makes physical ranges of ranges of a BAR, each checked against it. */
static int vfio_pci_dma_buf_add_ranges(struct vfio_pci_dma_buf *buf, u64 *size,
				       const struct resource *bar,
				       const struct vfio_region_dma_range *ranges, u32 nr)
{
	u64 limit = max_t(u64, VFIO_PCI_DMA_BUF_MAX_SIZE, resource_size(bar));
	struct dma_buf_phys_range *last = NULL;

	for (u32 i = 0; i < nr; i++) {
		u64 offset = ranges[i].offset, len = ranges[i].length, end;

		if (!len || !PAGE_ALIGNED(offset) || !PAGE_ALIGNED(len))
			return -EINVAL;
		if (check_add_overflow(offset, len, &end))
			return -EOVERFLOW;
		if (end > resource_size(bar))
			return -EINVAL;
		if (check_add_overflow(*size, len, size) || *size > limit)
			return -EOVERFLOW;

		if (last && last->paddr + last->len == bar->start + offset) {
			last->len += len;
			continue;
		}
		buf->nr_ranges++;
		last = &buf->ranges[buf->nr_ranges - 1];
		last->paddr = bar->start + offset;
		last->len = len;
	}
	return 0;
}

static struct vfio_pci_dma_buf *
vfio_pci_dma_buf_alloc(struct vfio_pci_core_device *vdev,
		       const struct vfio_device_feature_dma_buf *req,
		       const struct vfio_region_dma_range *ranges, u64 *size)
{
	struct vfio_pci_dma_buf *buf;
	int ret;

	buf = kvzalloc(struct_size(buf, ranges, req->nr_ranges), GFP_KERNEL_ACCOUNT);
	if (!buf)
		return ERR_PTR(-ENOMEM);

	ret = vfio_pci_dma_buf_add_ranges(buf, size, &vdev->pdev->resource[req->region_index],
					  ranges, req->nr_ranges);
	if (ret) {
		kvfree(buf);
		return ERR_PTR(ret);
	}
	buf->readonly = (req->open_flags & O_ACCMODE) == O_RDONLY;
	buf->bufs = vdev->dma_bufs;
	kref_get(&buf->bufs->kref);
	return buf;
}

/* Consumes @buf, whatever it returns. */
static struct dma_buf *vfio_pci_dma_buf_export(struct vfio_pci_core_device *vdev,
					       struct vfio_pci_dma_buf *buf, u64 size,
					       u32 open_flags)
{
	DEFINE_DMA_BUF_EXPORT_INFO(info);
	struct dma_buf *dmabuf;
	int ret = -ENODEV;

	if (!vfio_device_try_get_registration(&vdev->vdev))
		goto err_free;
	buf->registered = &vdev->vdev;

	/* The arbiter would switch memory decode off without a word. */
	ret = vga_hold_memory(vdev->pdev);
	if (ret)
		goto err_unregister;

	info.ops = &vfio_pci_dma_buf_ops;
	info.size = size;
	info.flags = open_flags & O_ACCMODE;
	info.priv = buf;
	dmabuf = dma_buf_export(&info);
	if (IS_ERR(dmabuf)) {
		ret = PTR_ERR(dmabuf);
		goto err_unhold;
	}
	buf->dmabuf = dmabuf;
	vfio_pci_dma_buf_publish(buf);
	return dmabuf;

err_unhold:
	vga_unhold_memory(vdev->pdev);
err_unregister:
	vfio_device_put_registration(buf->registered);
err_free:
	vfio_pci_dma_bufs_put(buf->bufs);
	kvfree(buf);
	return ERR_PTR(ret);
}

static int vfio_pci_dma_buf_check(struct vfio_pci_core_device *vdev,
				  const struct vfio_device_feature_dma_buf *req)
{
	if (req->flags || !req->nr_ranges)
		return -EINVAL;
	if (req->open_flags & ~(O_CLOEXEC | O_ACCMODE) ||
	    (req->open_flags & O_ACCMODE) == O_ACCMODE)
		return -EINVAL;
	if (req->nr_ranges > VFIO_PCI_DMA_BUF_MAX_RANGES)
		return -E2BIG;
	if (req->region_index >= VFIO_PCI_ROM_REGION_INDEX ||
	    !pci_resource_len(vdev->pdev, req->region_index))
		return -ENODEV;
	if (!vdev->bar_mmap_supported[req->region_index])
		return -EINVAL;

	return vfio_pci_core_setup_barmap(vdev, req->region_index);
}

/* VFIO_DEVICE_FEATURE_DMA_BUF, described in include/uapi/linux/vfio.h */
int vfio_pci_feature_dma_buf(struct vfio_pci_core_device *vdev, u32 flags,
			     struct vfio_device_feature_dma_buf __user *arg, size_t argsz)
{
	struct vfio_region_dma_range *ranges;
	struct vfio_device_feature_dma_buf req;
	struct vfio_pci_dma_buf *buf;
	struct dma_buf *dmabuf;
	u64 size = 0;
	int ret;

	if (!vdev->dma_bufs)
		return -EOPNOTSUPP;
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
	buf = vfio_pci_dma_buf_alloc(vdev, &req, ranges, &size);
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
		return -EOPNOTSUPP;
	ret = vfio_check_feature(flags, argsz, VFIO_DEVICE_FEATURE_SET, sizeof(req));
	if (ret != 1)
		return ret;
	if (copy_from_user(&req, arg, sizeof(req)))
		return -EFAULT;

	dmabuf = dma_buf_get(req.dmabuf_fd);
	if (IS_ERR(dmabuf))
		return PTR_ERR(dmabuf);
	buf = dmabuf->priv;
	if (dmabuf->ops != &vfio_pci_dma_buf_ops || buf->bufs != vdev->dma_bufs)
		ret = -ENODEV;
	else
		ret = vfio_pci_dma_buf_request(buf);
	dma_buf_put(dmabuf);
	return ret;
}
