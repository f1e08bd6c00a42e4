// SPDX-License-Identifier: GPL-2.0
/*
 * An exporter for tests of the dma-buf core: one kind of buffer maps what
 * get_user_pages() could reach, which the core has to notice; the other maps huge
 * entries, which can be revoked while the mapping is used and forked.
 */
#include <linux/cleanup.h>
#include <linux/dma-buf.h>
#include <linux/fcntl.h>
#include <linux/gfp.h>
#include <linux/huge_mm.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/pagemap.h>
#include <linux/pfn_t.h>
#include <linux/rwsem.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "dma_buf_test_exporter.h"

#define SLOT_SIZE	PMD_SIZE
#define SLOT_ORDER	(PMD_SHIFT - PAGE_SHIFT)

/**
 * struct test_buffer - what a dma-buf of ours stands for
 * @page: 2 MiB, in every slot of the buffer
 * @kind: DMA_BUF_TEST_MIXEDMAP or DMA_BUF_TEST_PFNMAP
 * @lock: taken for reading by faults, for writing to revoke
 * @revoked: no fault may map anything; under @lock
 */
struct test_buffer {
	struct page *page;
	u32 kind;
	struct rw_semaphore lock;	/* protects revoked */
	bool revoked;
};

static atomic_t test_vmas = ATOMIC_INIT(0);

static void test_vm_open(struct vm_area_struct *vma)
{
	atomic_inc(&test_vmas);
}

static void test_vm_close(struct vm_area_struct *vma)
{
	atomic_dec(&test_vmas);
}

static vm_fault_t test_fault(struct vm_fault *vmf)
{
	struct test_buffer *buffer = vmf->vma->vm_private_data;
	unsigned long page = vmf->pgoff % (1UL << SLOT_ORDER);

	guard(rwsem_read)(&buffer->lock);
	if (buffer->revoked)
		return VM_FAULT_SIGBUS;
	if (buffer->kind == DMA_BUF_TEST_MIXEDMAP)
		return vmf_insert_mixed(vmf->vma, vmf->address,
					page_to_pfn_t(buffer->page + page));
	return vmf_insert_pfn(vmf->vma, vmf->address, page_to_pfn(buffer->page) + page);
}

#ifdef CONFIG_ARCH_SUPPORTS_PMD_PFNMAP
static vm_fault_t test_huge_fault(struct vm_fault *vmf, unsigned int order)
{
	struct test_buffer *buffer = vmf->vma->vm_private_data;
	unsigned long start = vmf->address & PMD_MASK;

	if (order != PMD_ORDER || buffer->kind != DMA_BUF_TEST_PFNMAP ||
	    start < vmf->vma->vm_start || start + SLOT_SIZE > vmf->vma->vm_end ||
	    (linear_page_index(vmf->vma, start) << PAGE_SHIFT) % SLOT_SIZE)
		return VM_FAULT_FALLBACK;
	guard(rwsem_read)(&buffer->lock);
	if (buffer->revoked)
		return VM_FAULT_SIGBUS;
	return vmf_insert_pfn_pmd(vmf, page_to_pfn_t(buffer->page), false);
}
#endif

static const struct vm_operations_struct test_vm_ops = {
	.open = test_vm_open,
	.close = test_vm_close,
	.fault = test_fault,
#ifdef CONFIG_ARCH_SUPPORTS_PMD_PFNMAP
	.huge_fault = test_huge_fault,
#endif
};

static int test_mmap(struct dma_buf *dmabuf, struct vm_area_struct *vma)
{
	struct test_buffer *buffer = dmabuf->priv;

	if (!(vma->vm_flags & VM_MAYSHARE))
		return -EINVAL;
	vm_flags_set(vma, VM_DONTEXPAND | VM_DONTDUMP |
		     (buffer->kind == DMA_BUF_TEST_MIXEDMAP ? VM_MIXEDMAP : VM_PFNMAP));
	vma->vm_ops = &test_vm_ops;
	vma->vm_private_data = buffer;
	test_vm_open(vma);
	return 0;
}

/* Nobody imports it: a test of mappings by the CPU needs no device. */
static struct sg_table *test_map(struct dma_buf_attachment *attach,
				 enum dma_data_direction dir)
{
	return ERR_PTR(-EOPNOTSUPP);
}

static void test_unmap(struct dma_buf_attachment *attach, struct sg_table *sgt,
		       enum dma_data_direction dir)
{
}

static void test_release(struct dma_buf *dmabuf)
{
	struct test_buffer *buffer = dmabuf->priv;

	__free_pages(buffer->page, SLOT_ORDER);
	kfree(buffer);
}

static const struct dma_buf_ops test_ops = {
	.map_dma_buf = test_map,
	.unmap_dma_buf = test_unmap,
	.mmap = test_mmap,
	.release = test_release,
};

static int test_create(u32 kind)
{
	DEFINE_DMA_BUF_EXPORT_INFO(exp_info);
	struct test_buffer *buffer;
	struct dma_buf *dmabuf;
	int fd;

	if (kind != DMA_BUF_TEST_MIXEDMAP && kind != DMA_BUF_TEST_PFNMAP)
		return -EINVAL;
	buffer = kzalloc(sizeof(*buffer), GFP_KERNEL);
	if (!buffer)
		return -ENOMEM;
	buffer->kind = kind;
	init_rwsem(&buffer->lock);
	buffer->page = alloc_pages(GFP_KERNEL | __GFP_ZERO | __GFP_COMP, SLOT_ORDER);
	if (!buffer->page) {
		kfree(buffer);
		return -ENOMEM;
	}

	exp_info.ops = &test_ops;
	exp_info.size = DMA_BUF_TEST_SLOTS * SLOT_SIZE;
	exp_info.flags = O_RDWR;
	exp_info.priv = buffer;
	dmabuf = dma_buf_export(&exp_info);
	if (IS_ERR(dmabuf)) {
		__free_pages(buffer->page, SLOT_ORDER);
		kfree(buffer);
		return PTR_ERR(dmabuf);
	}
	fd = dma_buf_fd(dmabuf, O_CLOEXEC);
	if (fd < 0)
		dma_buf_put(dmabuf);
	return fd;
}

static int test_revoke(u32 fd, bool revoked)
{
	struct dma_buf *dmabuf = dma_buf_get(fd);
	struct test_buffer *buffer;

	if (IS_ERR(dmabuf))
		return PTR_ERR(dmabuf);
	if (dmabuf->ops != &test_ops) {
		dma_buf_put(dmabuf);
		return -EINVAL;
	}
	buffer = dmabuf->priv;
	scoped_guard(rwsem_write, &buffer->lock) {
		buffer->revoked = revoked;
		if (revoked)
			unmap_mapping_range(dmabuf->file->f_mapping, 0, 0, 1);
	}
	dma_buf_put(dmabuf);
	return 0;
}

static long test_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	u32 value;

	if (cmd == DMA_BUF_TEST_VMAS)
		return atomic_read(&test_vmas);
	if (get_user(value, (u32 __user *)arg))
		return -EFAULT;
	switch (cmd) {
	case DMA_BUF_TEST_CREATE:
		return test_create(value);
	case DMA_BUF_TEST_REVOKE:
		return test_revoke(value, true);
	case DMA_BUF_TEST_RESTORE:
		return test_revoke(value, false);
	default:
		return -ENOTTY;
	}
}

static const struct file_operations test_fops = {
	.owner = THIS_MODULE,
	.unlocked_ioctl = test_ioctl,
};

static struct miscdevice test_misc = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "dma_buf_test",
	.fops = &test_fops,
};
module_misc_device(test_misc);

MODULE_DESCRIPTION("Exporter for tests of the dma-buf core");
MODULE_LICENSE("GPL");
MODULE_IMPORT_NS(DMA_BUF);
MODULE_INFO(test, "Y");
