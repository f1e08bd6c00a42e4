// SPDX-License-Identifier: GPL-2.0
/*
 * An exporter for tests of the dma-buf core: two kinds of buffers map what
 * get_user_pages() could reach, which the core has to notice; another one maps huge
 * entries, which can be revoked while the mapping is used and forked.  And an
 * importer, which passes mmap() on.
 */
#include <linux/capability.h>
#include <linux/cleanup.h>
#include <linux/delay.h>
#include <linux/dma-buf.h>
#include <linux/fcntl.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/gfp.h>
#include <linux/jiffies.h>
#include <linux/huge_mm.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
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
 * @kind: DMA_BUF_TEST_MIXEDMAP, _PFNMAP or _INSERT
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
	if (buffer->kind == DMA_BUF_TEST_INSERT)
		return vm_insert_page(vma, vma->vm_start, buffer->page);
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

static DEFINE_MUTEX(test_last_lock);
static struct dma_buf *test_last;	/* no reference; under test_last_lock */

static void test_release(struct dma_buf *dmabuf)
{
	struct test_buffer *buffer = dmabuf->priv;

	scoped_guard(mutex, &test_last_lock)
		if (test_last == dmabuf)
			test_last = NULL;
	__free_pages(buffer->page, SLOT_ORDER);
	kfree(buffer);
}

/* Two sets for one exporter, as drivers have them for kinds of memory. */
static const struct dma_buf_ops test_ops[2] = {
	[0 ... 1] = {
		.huge_mappings = true,
		.map_dma_buf = test_map,
		.unmap_dma_buf = test_unmap,
		.mmap = test_mmap,
		.release = test_release,
	},
};

static int test_create(u32 kind)
{
	DEFINE_DMA_BUF_EXPORT_INFO(exp_info);
	struct test_buffer *buffer;
	struct dma_buf *dmabuf;
	int fd;

	if (kind < DMA_BUF_TEST_MIXEDMAP || kind > DMA_BUF_TEST_INSERT)
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

	exp_info.ops = &test_ops[kind == DMA_BUF_TEST_INSERT];
	exp_info.size = DMA_BUF_TEST_SLOTS * SLOT_SIZE;
	exp_info.flags = O_RDWR;
	exp_info.priv = buffer;
	dmabuf = dma_buf_export(&exp_info);
	if (IS_ERR(dmabuf)) {
		__free_pages(buffer->page, SLOT_ORDER);
		kfree(buffer);
		return PTR_ERR(dmabuf);
	}
	scoped_guard(mutex, &test_last_lock)
		test_last = dmabuf;
	fd = dma_buf_fd(dmabuf, O_CLOEXEC);
	if (fd < 0)
		dma_buf_put(dmabuf);
	return fd;
}

/*
 * What vmwgfx does to find its dma-buf: release takes the lock as well, so under it a
 * dma-buf that is still here has a file, with or without references.
 */
static int test_last_fd(void)
{
	struct file *file = NULL;
	int fd;

	guard(mutex)(&test_last_lock);
	if (test_last)
		file = get_file_active(&test_last->file);
	if (!file)
		return -ENOENT;
	fd = dma_buf_fd(test_last, O_CLOEXEC);
	if (fd < 0)
		fput(file);
	return fd;
}

/* The buffer of a descriptor, with a reference on the dma-buf. */
static struct dma_buf *test_get(u32 fd)
{
	struct dma_buf *dmabuf = dma_buf_get(fd);

	if (!IS_ERR(dmabuf) && dmabuf->ops->release != test_release) {
		dma_buf_put(dmabuf);
		return ERR_PTR(-EINVAL);
	}
	return dmabuf;
}

static int test_revoke(u32 fd, bool revoked)
{
	struct dma_buf *dmabuf = test_get(fd);
	struct test_buffer *buffer;

	if (IS_ERR(dmabuf))
		return PTR_ERR(dmabuf);
	buffer = dmabuf->priv;
	scoped_guard(rwsem_write, &buffer->lock) {
		buffer->revoked = revoked;
		if (revoked)
			unmap_mapping_range(dmabuf->file->f_mapping, 0, 0, 1);
	}
	dma_buf_put(dmabuf);
	return 0;
}

#ifdef CONFIG_ARCH_SUPPORTS_PMD_PFNMAP
static atomic_t test_held = ATOMIC_INIT(0);

/*
 * Takes the lock of the huge entry at the address.  As long as it is held the entry
 * stays, and so does the table that it is in.
 */
static int test_lock_entry(const struct test_buffer *buffer, unsigned long address,
			   struct follow_pfnmap_args *args)
{
	int ret = -EFAULT;

	mmap_read_lock(current->mm);
	args->address = address;
	args->vma = vma_lookup(current->mm, address);
	if (args->vma && args->vma->vm_ops == &test_vm_ops &&
	    args->vma->vm_private_data == buffer)
		ret = follow_pfnmap_start(args);
	if (!ret && !pmd_special(*pmd_off(current->mm, address))) {
		follow_pfnmap_end(args);
		ret = -EINVAL;
	}
	mmap_read_unlock(current->mm);
	return ret;
}

/* From the vma's copy to the lock of its first entry, on a busy machine. */
#define FORK_DELAY_MS	300

/*
 * Clear the entry at the address, as unmap_mapping_range() does after it has found no
 * entry of the child:
 *
 *	fork()				here
 *					lock
 *	copy the vma, test_vm_open()	see that there is one more
 *	pmd = *src_pmd			give it time
 *	wait for the lock
 *					clear *src_pmd, unlock
 *	what becomes of pmd?
 *
 * fork() flushes the TLB.  The spinlocks of virtual machines do not show whether it
 * waits for the lock.
 */
static int test_clear_in_fork(const struct test_buffer *buffer, unsigned long address)
{
	unsigned long end = jiffies + 5 * HZ;
	int vmas = atomic_read(&test_vmas);
	struct follow_pfnmap_args args = {};
	int ret;

	address &= PMD_MASK;
	ret = test_lock_entry(buffer, address, &args);
	if (ret)
		return ret;
	atomic_inc(&test_held);
	while (atomic_read(&test_vmas) == vmas && time_before(jiffies, end))
		cpu_relax();
	if (atomic_read(&test_vmas) > vmas) {
		mdelay(FORK_DELAY_MS);
		pmdp_huge_get_and_clear(current->mm, address,
					pmd_off(current->mm, address));
	} else {
		ret = -ETIMEDOUT;
	}
	atomic_dec(&test_held);
	follow_pfnmap_end(&args);
	return ret;
}

static int test_revoke_in_fork(const void __user *arg)
{
	struct dma_buf_test_fork what;
	struct test_buffer *buffer;
	struct dma_buf *dmabuf;
	int ret;

	if (copy_from_user(&what, arg, sizeof(what)))
		return -EFAULT;
	dmabuf = test_get(what.fd);
	if (IS_ERR(dmabuf))
		return PTR_ERR(dmabuf);
	buffer = dmabuf->priv;
	scoped_guard(rwsem_write, &buffer->lock)
		buffer->revoked = true;
	ret = test_clear_in_fork(buffer, what.address);
	dma_buf_put(dmabuf);
	return ret;
}

static int test_is_held(void)
{
	return atomic_read(&test_held);
}
#else
static int test_revoke_in_fork(const void __user *arg)
{
	return -EOPNOTSUPP;
}

static int test_is_held(void)
{
	return 0;
}
#endif

/* The frame of memory that is mapped at an address of the calling process. */
static int test_frame_at(unsigned long address, unsigned long *frame)
{
	struct follow_pfnmap_args args = { .address = address };
	int ret = -EFAULT;

	mmap_read_lock(current->mm);
	args.vma = vma_lookup(current->mm, address);
	if (args.vma)
		ret = follow_pfnmap_start(&args);
	if (!ret) {
		*frame = args.pfn;
		if (!pfn_valid(args.pfn))
			ret = -EINVAL;
		follow_pfnmap_end(&args);
	}
	mmap_read_unlock(current->mm);
	return ret;
}

/* Poisons memory: for those who may do so by madvise(). */
static int test_memory_error(struct dma_buf_test_error __user *arg)
{
	struct dma_buf_test_error error;
	unsigned long frame;
	int ret;

	if (!IS_ENABLED(CONFIG_MEMORY_FAILURE))
		return -EOPNOTSUPP;
	if (!capable(CAP_SYS_ADMIN))
		return -EPERM;
	if (copy_from_user(&error, arg, sizeof(error)))
		return -EFAULT;
	ret = test_frame_at(error.address, &frame);
	if (ret)
		return ret;
	if (put_user(frame, &arg->frame))
		return -EFAULT;
	return memory_failure(frame, MF_ACTION_REQUIRED | MF_SW_SIMULATED);
}

/* The importer: its vmas are counted along with the exporter's. */

static const struct vm_operations_struct test_importer_vm_ops = {
	.open = test_vm_open,
	.close = test_vm_close,
};

static int test_import(struct file *file, u32 fd)
{
	struct dma_buf *dmabuf = test_get(fd);

	if (IS_ERR(dmabuf))
		return PTR_ERR(dmabuf);
	if (!cmpxchg(&file->private_data, NULL, dmabuf))
		return 0;
	dma_buf_put(dmabuf);
	return -EBUSY;
}

/* Counts mappings by its own vm_ops, and drops the count itself when the exporter refuses. */
static int test_importer_mmap(struct file *file, struct vm_area_struct *vma)
{
	struct dma_buf *dmabuf = READ_ONCE(file->private_data);
	int ret;

	if (!dmabuf)
		return -ENODEV;
	vma->vm_ops = &test_importer_vm_ops;
	test_vm_open(vma);
	ret = dma_buf_mmap(dmabuf, vma, vma->vm_pgoff);
	if (ret || vma->vm_ops != &test_importer_vm_ops)
		test_vm_close(vma);
	return ret;
}

static int test_open(struct inode *inode, struct file *file)
{
	file->private_data = NULL;	/* the misc device, until now */
	return 0;
}

static int test_file_release(struct inode *inode, struct file *file)
{
	if (file->private_data)
		dma_buf_put(file->private_data);
	return 0;
}

static long test_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	u32 value;

	if (cmd == DMA_BUF_TEST_VMAS)
		return atomic_read(&test_vmas);
	if (cmd == DMA_BUF_TEST_HELD)
		return test_is_held();
	if (cmd == DMA_BUF_TEST_LAST)
		return test_last_fd();
	if (cmd == DMA_BUF_TEST_REVOKE_IN_FORK)
		return test_revoke_in_fork((void __user *)arg);
	if (cmd == DMA_BUF_TEST_MEMORY_ERROR)
		return test_memory_error((struct dma_buf_test_error __user *)arg);
	if (get_user(value, (u32 __user *)arg))
		return -EFAULT;
	switch (cmd) {
	case DMA_BUF_TEST_CREATE:
		return test_create(value);
	case DMA_BUF_TEST_REVOKE:
		return test_revoke(value, true);
	case DMA_BUF_TEST_RESTORE:
		return test_revoke(value, false);
	case DMA_BUF_TEST_IMPORT:
		return test_import(file, value);
	default:
		return -ENOTTY;
	}
}

static const struct file_operations test_fops = {
	.owner = THIS_MODULE,
	.open = test_open,
	.release = test_file_release,
	.mmap = test_importer_mmap,
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
