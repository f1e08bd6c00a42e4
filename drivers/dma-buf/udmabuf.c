// SPDX-License-Identifier: GPL-2.0
/*
 * udmabuf: pages of memfds, exported as a dma-buf
 *
 * Buffers
 *	The pages that its memfds had when it was made, and no others.  They are
 *	pinned once, at creation, and unpinned at release; nothing in between looks
 *	at the memfds again.
 *
 * Runs
 *	A buffer is an array of runs of physically contiguous pages, sorted by the
 *	place in the buffer where they begin.  A huge page costs as much as a small
 *	one, and a fault, a scatterlist or an unpin works run by run.
 *
 * Pins
 *	The pins that a buffer holds on a folio are as many as its runs that
 *	intersect the folio.  So the runs alone tell what to unpin.  A pinned folio
 *	is not split, migrated or reclaimed, so the walk at release finds the
 *	folios of creation.
 *
 * Limits
 *	The pages that a buffer is charged for count for the user who made it, until
 *	the buffer is released.
 *
 * Locks
 *	A memfd's inode lock (shared) is held from a look at the seals to the last
 *	pin that relies on it.  udmabuf.lock nests inside the dma-buf's reservation
 *	lock.  Of these, udmabuf_lock is innermost.  Runs do not change once the dma-buf
 *	exists, so faults, which come under mmap_lock or a VMA lock, take none of
 *	these.
 */
#define pr_fmt(fmt) "udmabuf: " fmt

#include <linux/capability.h>
#include <linux/cleanup.h>
#include <linux/cred.h>
#include <linux/debugfs.h>
#include <linux/dma-buf.h>
#include <linux/dma-mapping.h>
#include <linux/dma-resv.h>
#include <linux/fcntl.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/highmem.h>
#include <linux/hugetlb.h>
#include <linux/iosys-map.h>
#include <linux/list.h>
#include <linux/memfd.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/overflow.h>
#include <linux/pfn_runs.h>
#include <linux/pfn_t.h>
#include <linux/scatterlist.h>
#include <linux/sched/signal.h>
#include <linux/seq_file.h>
#include <linux/shmem_fs.h>
#include <linux/sizes.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/udmabuf.h>
#include <linux/uidgid.h>
#include <linux/user_namespace.h>
#include <linux/vmalloc.h>
#include <linux/xarray.h>

static int list_limit = 1024;
module_param(list_limit, int, 0644);
MODULE_PARM_DESC(list_limit,
		 "Most items in one UDMABUF_CREATE_LIST (default 1024, negative: no limit)");

static int size_limit_mb = INT_MAX;
module_param(size_limit_mb, int, 0644);
MODULE_PARM_DESC(size_limit_mb,
		 "Largest buffer, in MiB (default: no limit, negative: no limit)");

static int user_limit_mb;
module_param(user_limit_mb, int, 0644);
MODULE_PARM_DESC(user_limit_mb,
		 "Most memory that one user's buffers may be charged for, in MiB (default 0: half of the machine's, negative: no limit)");

/*
 * Limits of one hold of a memfd's inode lock: of folios, for those that exist; of bytes, for
 * folios that have to be allocated and cleared.
 */
#define UDMABUF_HOLD_FOLIOS	(PAGE_SIZE / sizeof(struct folio *))
#define UDMABUF_HOLD_BYTES	SZ_64M

/**
 * struct udmabuf_user - a user who has buffers; freed with the last of them
 * @uid: the user
 * @buffers: number of buffers; under udmabuf_lock
 * @pages: sum of their &udmabuf.pinned
 */
struct udmabuf_user {
	kuid_t uid;
	unsigned long buffers;
	atomic64_t pages;
};

/**
 * struct udmabuf - a buffer (&dma_buf.priv)
 * @runs: the pages, in order; immutable once the dma-buf exists
 * @nr_runs: number of runs in use
 * @max_runs: number of runs that @runs has room for
 * @nr_pages: sum of the runs' lengths
 * @readonly: a descriptor that the pages came from was not open for writing;
 *	immutable once the dma-buf exists
 * @lock: protects @mappings
 * @mappings: device mappings, &struct udmabuf_mapping
 * @node: in udmabuf_buffers, under udmabuf_lock
 * @user: the user that it counts for
 * @pinned: number of pages that are charged to @user, see udmabuf_charge_rest();
 *	immutable once the dma-buf exists
 * @pid: creator's thread group, in the initial PID namespace
 * @comm: creator's name
 */
struct udmabuf {
	struct pfn_run *runs;
	u32 nr_runs;
	u32 max_runs;
	u32 nr_pages;
	bool readonly;

	struct mutex lock;	/* protects mappings */
	struct list_head mappings;

	struct list_head node;
	struct udmabuf_user *user;
	u64 pinned;
	pid_t pid;
	char comm[TASK_COMM_LEN];
};

/**
 * struct udmabuf_mapping - the pages, mapped for one attachment's device
 * @sgt: the table for the importer
 * @dev: importer's device
 * @dir: direction of the mapping
 * @node: in &udmabuf.mappings
 */
struct udmabuf_mapping {
	struct sg_table sgt;
	struct device *dev;
	enum dma_data_direction dir;
	struct list_head node;
};

static LIST_HEAD(udmabuf_buffers);
static DEFINE_XARRAY(udmabuf_users);	/* struct udmabuf_user, by uid */
static DEFINE_MUTEX(udmabuf_lock);	/* protects both */

/* Users */

/*
 * The user that a new buffer counts for.  The owner of a user namespace can have
 * several uids in it: buffers that are made there count for the owner.  The uids in a
 * namespace that root owns are different users.
 */
static kuid_t udmabuf_current_user(void)
{
	const struct user_namespace *ns;
	kuid_t uid = current_uid();

	for (ns = current_user_ns(); ns->parent; ns = ns->parent)
		if (!uid_eq(ns->owner, GLOBAL_ROOT_UID))
			uid = ns->owner;
	return uid;
}

/* Counts one more buffer of the user.  Returns NULL if there is no memory. */
static struct udmabuf_user *udmabuf_get_user(kuid_t uid)
{
	struct udmabuf_user *user;

	guard(mutex)(&udmabuf_lock);
	user = xa_load(&udmabuf_users, __kuid_val(uid));
	if (!user) {
		/* Not accounted: reclaim for one cgroup must not hold up other users. */
		user = kzalloc(sizeof(*user), GFP_KERNEL);
		if (!user)
			return NULL;
		user->uid = uid;
		if (xa_err(xa_store(&udmabuf_users, __kuid_val(uid), user, GFP_KERNEL))) {
			kfree(user);
			return NULL;
		}
	}
	user->buffers++;
	return user;
}

static void udmabuf_put_user(struct udmabuf_user *user)
{
	guard(mutex)(&udmabuf_lock);
	if (--user->buffers)
		return;
	WARN_ON_ONCE(atomic64_read(&user->pages));
	xa_erase(&udmabuf_users, __kuid_val(user->uid));
	kfree(user);
}

static u64 udmabuf_user_limit(void)
{
	int mb = READ_ONCE(user_limit_mb);

	if (mb < 0)
		return U64_MAX;
	return mb ? (u64)mb << (20 - PAGE_SHIFT) : totalram_pages() / 2;
}

/*
 * Called before pages are pinned; for the rest of a large folio, just after the pin has
 * found it.
 */
static int udmabuf_charge(struct udmabuf *ub, u64 pages)
{
	s64 old = atomic64_read(&ub->user->pages);

	do {
		if (old + pages > udmabuf_user_limit() && !capable(CAP_IPC_LOCK))
			return -ENOMEM;
	} while (!atomic64_try_cmpxchg(&ub->user->pages, &old, old + pages));
	ub->pinned += pages;
	return 0;
}

static void udmabuf_uncharge(struct udmabuf *ub, u64 pages)
{
	ub->pinned -= pages;
	atomic64_sub(pages, &ub->user->pages);
}

/* Runs */

static int udmabuf_make_room(struct udmabuf *ub, u32 max)
{
	struct pfn_run *runs;

	runs = kvrealloc(ub->runs, array_size(max, sizeof(*runs)),
			 GFP_KERNEL_ACCOUNT | __GFP_NOWARN);
	if (!runs)
		return -ENOMEM;
	ub->runs = runs;
	ub->max_runs = max;
	return 0;
}

/* Frees the unused part of the array; if that fails, the array stays as it is. */
static void udmabuf_trim(struct udmabuf *ub)
{
	struct pfn_run *runs;

	if (ub->nr_runs == ub->max_runs)
		return;
	runs = kvmalloc_array(ub->nr_runs, sizeof(*runs),
			      GFP_KERNEL_ACCOUNT | __GFP_NOWARN);
	if (!runs)
		return;
	memcpy(runs, ub->runs, array_size(ub->nr_runs, sizeof(*runs)));
	kvfree(ub->runs);
	ub->runs = runs;
	ub->max_runs = ub->nr_runs;
}

/*
 * Adds pages at the end of the buffer.  Returns 1 if they went on where the last
 * run ended and became part of it, 0 if they are a run of their own, or -ENOMEM.
 */
static int udmabuf_append(struct udmabuf *ub, unsigned long pfn, u32 nr)
{
	u32 max;
	int ret;

	if (ub->nr_runs) {
		struct pfn_run *last = &ub->runs[ub->nr_runs - 1];

		if (last->pfn + last->nr == pfn) {
			last->nr += nr;
			ub->nr_pages += nr;
			return 1;
		}
	}
	if (ub->nr_runs == ub->max_runs) {
		if (check_add_overflow(ub->max_runs, max(ub->max_runs, 16U), &max))
			return -ENOMEM;
		ret = udmabuf_make_room(ub, max);
		if (ret)
			return ret;
	}
	ub->runs[ub->nr_runs++] = (struct pfn_run) {
		.first = ub->nr_pages,
		.nr = nr,
		.pfn = pfn,
	};
	ub->nr_pages += nr;
	return 0;
}

/*
 * Returns true if a piece has a pin too many: udmabuf_append() merged it into the last run,
 * and it does not begin its folio.  Such a piece continues a page of the same folio, for
 * which the run holds a pin already.
 */
static bool udmabuf_pin_is_spare(int merged, unsigned long first)
{
	return merged && first;
}

/* The run that @page of the buffer is in.  @page < nr_pages. */
static const struct pfn_run *udmabuf_find(const struct udmabuf *ub, u32 page)
{
	u32 lo = 0, hi = ub->nr_runs;

	while (hi - lo > 1) {
		u32 mid = lo + (hi - lo) / 2;

		if (ub->runs[mid].first <= page)
			lo = mid;
		else
			hi = mid;
	}
	return &ub->runs[lo];
}

static void udmabuf_free(struct udmabuf *ub)
{
	unpin_pfn_runs(ub->runs, ub->nr_runs);
	kvfree(ub->runs);
	udmabuf_uncharge(ub, ub->pinned);
	udmabuf_put_user(ub->user);
	mutex_destroy(&ub->lock);
	kfree(ub);
}

/* CPU mappings */

static u32 udmabuf_page_at(const struct vm_area_struct *vma, unsigned long addr)
{
	return vma->vm_pgoff + ((addr - vma->vm_start) >> PAGE_SHIFT);
}

/*
 * Fills the page table that the address belongs to, as far as the vma goes.  The
 * dma-buf core has checked that the buffer goes as far.
 */
static vm_fault_t udmabuf_fault(struct vm_fault *vmf)
{
	struct vm_area_struct *vma = vmf->vma;
	unsigned long start = max(vmf->address & PMD_MASK, vma->vm_start);
	unsigned long end = min((vmf->address & PMD_MASK) + PMD_SIZE, vma->vm_end);
	const struct udmabuf *ub = vma->vm_private_data;
	u32 page = udmabuf_page_at(vma, start);

	return vmf_insert_pfn_runs(vmf, start, end, udmabuf_find(ub, page), page);
}

#ifdef CONFIG_ARCH_SUPPORTS_PMD_PFNMAP
/*
 * Returns true if a huge entry can map the fault's address, with its first frame in @pfn:
 * its slot must lie in the vma, and its pages in one run with the slot's alignment.  The
 * result depends only on the vma and the slot, so all faults on a slot agree.
 */
static bool udmabuf_huge_frame(const struct vm_fault *vmf, unsigned int order,
			       unsigned long *pfn)
{
	const struct vm_area_struct *vma = vmf->vma;
	const struct udmabuf *ub = vma->vm_private_data;
	unsigned long size = PAGE_SIZE << order;
	unsigned long start = ALIGN_DOWN(vmf->address, size);
	const struct pfn_run *run;
	u32 page, done;

	if (start < vma->vm_start || vma->vm_end - start < size)
		return false;
	page = udmabuf_page_at(vma, start);
	run = udmabuf_find(ub, page);
	done = page - run->first;
	*pfn = run->pfn + done;
	return run->nr - done >= 1UL << order && IS_ALIGNED(*pfn, 1UL << order);
}

static vm_fault_t udmabuf_huge_fault(struct vm_fault *vmf, unsigned int order)
{
	bool write = vmf->flags & FAULT_FLAG_WRITE;
	unsigned long pfn;

	if (order == PMD_ORDER && udmabuf_huge_frame(vmf, order, &pfn))
		return vmf_insert_pfn_pmd(vmf, pfn_to_pfn_t(pfn), write);
#ifdef CONFIG_ARCH_SUPPORTS_PUD_PFNMAP
	if (order == PUD_ORDER && udmabuf_huge_frame(vmf, order, &pfn))
		return vmf_insert_pfn_pud(vmf, pfn_to_pfn_t(pfn), write);
#endif
	return VM_FAULT_FALLBACK;
}
#endif

static const struct vm_operations_struct udmabuf_vm_ops = {
	.fault = udmabuf_fault,
	/* Without special PMDs, get_user_pages_fast() would follow a huge entry. */
#ifdef CONFIG_ARCH_SUPPORTS_PMD_PFNMAP
	.huge_fault = udmabuf_huge_fault,
#endif
};

/*
 * Called for mmap() of the dma-buf's file, and by importers for mmap() of theirs,
 * which may be open for writing when the dma-buf's is not.
 *
 * VM_PFNMAP keeps get_user_pages() out.  Entries must not be copied on write: refuse
 * private mappings.  Test VM_MAYSHARE for that, as the shared mapping of a file that
 * is open only for reading lacks VM_SHARED.
 */
static int udmabuf_mmap(struct dma_buf *dmabuf, struct vm_area_struct *vma)
{
	struct udmabuf *ub = dmabuf->priv;

	if (!(vma->vm_flags & VM_MAYSHARE))
		return -EINVAL;
	if (ub->readonly) {
		if (vma->vm_flags & VM_WRITE)
			return -EACCES;
		vm_flags_clear(vma, VM_MAYWRITE);
	}
	vm_flags_set(vma, VM_PFNMAP | VM_DONTEXPAND | VM_DONTDUMP);
	vma->vm_ops = &udmabuf_vm_ops;
	vma->vm_private_data = ub;
	return 0;
}

static void *udmabuf_vmap_runs(const struct udmabuf *ub)
{
	struct page **pages;
	void *vaddr;
	u32 n = 0;

	pages = kvmalloc_array(ub->nr_pages, sizeof(*pages),
			       GFP_KERNEL | __GFP_NOWARN);
	if (!pages)
		return NULL;
	for (u32 i = 0; i < ub->nr_runs; i++)
		for (u32 j = 0; j < ub->runs[i].nr; j++)
			pages[n++] = pfn_to_page(ub->runs[i].pfn + j);
	vaddr = vmap(pages, n, VM_MAP, PAGE_KERNEL);
	kvfree(pages);
	return vaddr;
}

/* A run that ends in the linear map lies in it: highmem is above. */
static void *udmabuf_linear_address(const struct udmabuf *ub)
{
	const struct pfn_run *run = &ub->runs[0];

	if (ub->nr_runs > 1 || PageHighMem(pfn_to_page(run->pfn + run->nr - 1)))
		return NULL;
	return page_address(pfn_to_page(run->pfn));
}

static int udmabuf_vmap(struct dma_buf *dmabuf, struct iosys_map *map)
{
	const struct udmabuf *ub = dmabuf->priv;
	void *vaddr;

	if (ub->readonly)
		return -EACCES;
	vaddr = udmabuf_linear_address(ub) ?: udmabuf_vmap_runs(ub);
	if (!vaddr)
		return -ENOMEM;
	iosys_map_set_vaddr(map, vaddr);
	return 0;
}

static void udmabuf_vunmap(struct dma_buf *dmabuf, struct iosys_map *map)
{
	if (is_vmalloc_addr(map->vaddr))
		vunmap(map->vaddr);
}

/* Device mappings */

/**
 * struct udmabuf_segment_limits - what scatterlist entries a device can take
 * @max: longest entry, in pages
 * @boundary: no entry may cross a multiple of this, in pages; a power of two
 */
struct udmabuf_segment_limits {
	u32 max;
	unsigned long boundary;
};

/* The boundary of a device that has none: the end of what can be addressed. */
#define UDMABUF_NO_BOUNDARY	((ULONG_MAX >> PAGE_SHIFT) + 1)

static struct udmabuf_segment_limits udmabuf_segment_limits(struct device *dev)
{
	size_t max = min_t(size_t, dma_get_max_seg_size(dev),
			   dma_max_mapping_size(dev));

	return (struct udmabuf_segment_limits) {
		.max = max_t(size_t, max >> PAGE_SHIFT, 1),
		.boundary = (dma_get_seg_boundary(dev) >> PAGE_SHIFT) + 1,
	};
}

/* How many of the @left pages from @pfn on the next entry takes. */
static u32 udmabuf_segment(const struct udmabuf_segment_limits *limits,
			   unsigned long pfn, u32 left)
{
	unsigned long room;

	if (left == 1)
		return 1;
	room = limits->boundary - (pfn & (limits->boundary - 1));
	return min3((unsigned long)left, (unsigned long)limits->max, room);
}

/* Describes each run in an entry, from @sg on. */
static void udmabuf_describe_runs(const struct udmabuf *ub, struct scatterlist *sg)
{
	const struct pfn_run *end = ub->runs + ub->nr_runs;

	for (const struct pfn_run *run = ub->runs; run < end; run++) {
		sg_set_page(sg, pfn_to_page(run->pfn), run->nr << PAGE_SHIFT, 0);
		sg = sg_next(sg);
	}
}

/*
 * Describes the runs in entries that the device can take, from @sg on, or, if that is
 * NULL, only counts them.
 */
static u64 udmabuf_describe_cut(const struct udmabuf *ub,
				struct udmabuf_segment_limits limits,
				struct scatterlist *sg)
{
	const struct pfn_run *end = ub->runs + ub->nr_runs;
	u64 nents = 0;

	for (const struct pfn_run *run = ub->runs; run < end; run++) {
		unsigned long pfn = run->pfn;
		u32 nr, left = run->nr;

		for (; left; left -= nr, pfn += nr, nents++) {
			nr = udmabuf_segment(&limits, pfn, left);
			if (!sg)
				continue;
			sg_set_page(sg, pfn_to_page(pfn), nr << PAGE_SHIFT, 0);
			sg = sg_next(sg);
		}
	}
	return nents;
}

static int udmabuf_fill_sgt(const struct udmabuf *ub, struct sg_table *sgt,
			    const struct udmabuf_segment_limits *limits)
{
	u64 nents = ub->nr_runs;
	int ret;

	/* A device that could take the whole buffer in one entry cuts no run. */
	if (limits->max < ub->nr_pages || limits->boundary != UDMABUF_NO_BOUNDARY)
		nents = udmabuf_describe_cut(ub, *limits, NULL);
	if (nents > INT_MAX)
		return -ENOMEM;
	ret = sg_alloc_table(sgt, nents, GFP_KERNEL_ACCOUNT);
	if (ret)
		return ret;
	if (nents == ub->nr_runs)
		udmabuf_describe_runs(ub, sgt->sgl);
	else
		udmabuf_describe_cut(ub, *limits, sgt->sgl);
	return 0;
}

/*
 * Called once per attachment, as the dma-buf core keeps what we return until the
 * importer detaches.
 *
 * Two importers may map the same page, and so may a list that names a page twice.
 * The DMA API allows that only where mapping does not hand the page over: so do
 * not sync while mapping, but do it afterwards.
 */
static struct sg_table *udmabuf_map(struct dma_buf_attachment *attach,
				    enum dma_data_direction dir)
{
	struct udmabuf_segment_limits limits = udmabuf_segment_limits(attach->dev);
	struct udmabuf *ub = attach->dmabuf->priv;
	struct udmabuf_mapping *m;
	int ret;

	dma_resv_assert_held(attach->dmabuf->resv);

	if (ub->readonly && dir != DMA_TO_DEVICE)
		return ERR_PTR(-EACCES);

	m = kzalloc(sizeof(*m), GFP_KERNEL_ACCOUNT);
	if (!m)
		return ERR_PTR(-ENOMEM);
	m->dev = attach->dev;
	/*
	 * The CPU may write between a device's writes.  DMA_FROM_DEVICE would let a
	 * sync throw that away: a bounce buffer or a cache line that is invalidated.
	 */
	m->dir = dir == DMA_FROM_DEVICE ? DMA_BIDIRECTIONAL : dir;

	ret = udmabuf_fill_sgt(ub, &m->sgt, &limits);
	if (ret)
		goto err_free;
	ret = dma_map_sgtable(m->dev, &m->sgt, m->dir, DMA_ATTR_SKIP_CPU_SYNC);
	if (ret)
		goto err_free_table;
	/* Under one lock: end_cpu_access() syncs this mapping, or has run before. */
	scoped_guard(mutex, &ub->lock) {
		dma_sync_sgtable_for_device(m->dev, &m->sgt, m->dir);
		list_add(&m->node, &ub->mappings);
	}
	return &m->sgt;

err_free_table:
	sg_free_table(&m->sgt);
err_free:
	kfree(m);
	return ERR_PTR(ret);
}

/*
 * Does not sync for the CPU.  That would copy a bounce buffer, or invalidate cache
 * lines, over what the CPU has written since the last sync: through the memfd, or
 * between begin and end of CPU access, when the pages are the CPU's.  To see what the
 * device wrote, the CPU has to begin its access before the device is detached.
 */
static void udmabuf_unmap(struct dma_buf_attachment *attach,
			  struct sg_table *sgt, enum dma_data_direction dir)
{
	struct udmabuf_mapping *m = container_of(sgt, struct udmabuf_mapping, sgt);
	struct udmabuf *ub = attach->dmabuf->priv;

	scoped_guard(mutex, &ub->lock)
		list_del(&m->node);

	dma_unmap_sgtable(m->dev, &m->sgt, m->dir, DMA_ATTR_SKIP_CPU_SYNC);
	sg_free_table(&m->sgt);
	kfree(m);
}

/* The buffer is never revoked: nothing waits for this mapping, so it is not counted. */
static int udmabuf_map_phys(struct dma_buf_attachment *attach,
			    enum dma_data_direction dir, struct dma_buf_phys *phys)
{
	const struct udmabuf *ub = attach->dmabuf->priv;
	struct dma_buf_phys_range *ranges;

	dma_resv_assert_held(attach->dmabuf->resv);

	if (ub->readonly && dir != DMA_TO_DEVICE)
		return -EACCES;

	ranges = kvmalloc_array(ub->nr_runs, sizeof(*ranges),
				GFP_KERNEL_ACCOUNT | __GFP_NOWARN);
	if (!ranges)
		return -ENOMEM;
	for (u32 i = 0; i < ub->nr_runs; i++)
		ranges[i] = (struct dma_buf_phys_range) {
			.paddr = PFN_PHYS(ub->runs[i].pfn),
			.len = (u64)ub->runs[i].nr << PAGE_SHIFT,
		};
	*phys = (struct dma_buf_phys) {
		.nr_ranges = ub->nr_runs,
		.ranges = ranges,
	};
	return 0;
}

static void udmabuf_unmap_phys(struct dma_buf_attachment *attach,
			       struct dma_buf_phys *phys)
{
	kvfree(phys->ranges);
}

/*
 * Syncs each mapping with the direction that it was mapped with, as the DMA API expects:
 * @dir is that of the CPU's access.  Devices that still write have to finish first: the
 * core waits for their fences only after this.
 */
static int udmabuf_begin_cpu_access(struct dma_buf *dmabuf,
				    enum dma_data_direction dir)
{
	struct udmabuf *ub = dmabuf->priv;
	struct udmabuf_mapping *m;
	long ret;

	ret = dma_resv_wait_timeout(dmabuf->resv,
				    dma_resv_usage_rw(dir != DMA_FROM_DEVICE),
				    true, MAX_SCHEDULE_TIMEOUT);
	if (ret < 0)
		return ret;

	guard(mutex)(&ub->lock);
	list_for_each_entry(m, &ub->mappings, node)
		dma_sync_sgtable_for_cpu(m->dev, &m->sgt, m->dir);
	return 0;
}

static int udmabuf_end_cpu_access(struct dma_buf *dmabuf,
				  enum dma_data_direction dir)
{
	struct udmabuf *ub = dmabuf->priv;
	struct udmabuf_mapping *m;

	guard(mutex)(&ub->lock);
	list_for_each_entry(m, &ub->mappings, node)
		dma_sync_sgtable_for_device(m->dev, &m->sgt, m->dir);
	return 0;
}

static void udmabuf_release(struct dma_buf *dmabuf)
{
	struct udmabuf *ub = dmabuf->priv;

	scoped_guard(mutex, &udmabuf_lock)
		list_del(&ub->node);
	udmabuf_free(ub);
}

static void udmabuf_show_fdinfo(struct dma_buf *dmabuf, struct seq_file *s)
{
	const struct udmabuf *ub = dmabuf->priv;

	seq_printf(s, "pinned:\t%llu\n", ub->pinned << PAGE_SHIFT);
}

static const struct dma_buf_ops udmabuf_ops = {
	.cache_sgt_mapping = true,
	.huge_mappings = true,
	.map_dma_buf = udmabuf_map,
	.unmap_dma_buf = udmabuf_unmap,
	.map_phys = udmabuf_map_phys,
	.unmap_phys = udmabuf_unmap_phys,
	.begin_cpu_access = udmabuf_begin_cpu_access,
	.end_cpu_access = udmabuf_end_cpu_access,
	.mmap = udmabuf_mmap,
	.vmap = udmabuf_vmap,
	.vunmap = udmabuf_vunmap,
	.release = udmabuf_release,
	.show_fdinfo = udmabuf_show_fdinfo,
};

/* Creation: check what was asked for, pin it, export it */

/*
 * Checks counts against limits, and sums against overflow, before anything is allocated
 * or pinned.  Returns the number of pages.
 */
static s64 udmabuf_check_items(const struct udmabuf_create_item *items, u32 count)
{
	u64 limit = (u64)READ_ONCE(size_limit_mb) << (20 - PAGE_SHIFT);
	u64 pages = 0;

	limit = min3(limit, (u64)U32_MAX, (u64)SIZE_MAX >> PAGE_SHIFT);
	for (u32 i = 0; i < count; i++) {
		u64 end;

		if (!PAGE_ALIGNED(items[i].offset | items[i].size))
			return -EINVAL;
		if (!items[i].size ||
		    check_add_overflow(items[i].offset, items[i].size, &end) ||
		    end > LLONG_MAX)
			return -EINVAL;
		pages += items[i].size >> PAGE_SHIFT;
		if (pages > limit)
			return -EINVAL;
	}
	return pages ?: -EINVAL;
}

/*
 * Without F_SEAL_SHRINK, a truncation could take pages from the file that the dma-buf
 * goes on using.  A file that is sealed against writes must not be written through the
 * dma-buf.  Files of a tmpfs or hugetlbfs mount cannot get seals (F_SEAL_SEAL).
 */
static int udmabuf_check_memfd(struct file *memfd)
{
	long seals;

	if (!memfd || (!shmem_file(memfd) && !is_file_hugepages(memfd)))
		return -EBADFD;
	if (!(memfd->f_mode & FMODE_READ))
		return -EACCES;
	seals = memfd_fcntl(memfd, F_GET_SEALS, 0);
	if (seals < 0)
		return -EBADFD;
	if ((seals & (F_SEAL_SHRINK | F_SEAL_WRITE | F_SEAL_FUTURE_WRITE)) !=
	    F_SEAL_SHRINK)
		return -EINVAL;
	return 0;
}

/* A memfd that cannot shrink has these ranges from now on. */
static int udmabuf_check_ranges(struct file *memfd,
				const struct udmabuf_create_item *items, u32 nr)
{
	u64 size = i_size_read(file_inode(memfd));

	for (u32 i = 0; i < nr; i++)
		if (items[i].offset + items[i].size > size)
			return -EINVAL;
	return 0;
}

/* Neighbours that name the same descriptor share the look-up and the locking. */
static u32 udmabuf_same_memfd(const struct udmabuf_create_item *items, u32 count)
{
	u32 n = 1;

	while (n < count && items[n].memfd == items[0].memfd)
		n++;
	return n;
}

/*
 * Checks all items before any page is pinned, so that no memfd gets pages for a list with
 * an item that is refused.  A descriptor can refer to another file by the time of pinning,
 * and seals can be added: udmabuf_pin_hold() checks again.
 */
static int udmabuf_check_memfds(const struct udmabuf_create_item *items, u32 count)
{
	struct file *memfd;
	int ret = 0;

	for (u32 i = 0, n; i < count && !ret; i += n) {
		n = udmabuf_same_memfd(items + i, count - i);
		memfd = fget(items[i].memfd);
		ret = udmabuf_check_memfd(memfd) ?:
		      udmabuf_check_ranges(memfd, items + i, n);
		if (memfd)
			fput(memfd);
	}
	return ret;
}

/*
 * Writes through the dma-buf set no dirty bit that reclaim looks at.  A folio that was
 * clean when it was pinned would be taken for clean, and dropped, once it is unpinned.
 * A dirty folio stays dirty while it is pinned: reclaim leaves pinned folios alone.
 */
static void udmabuf_keep_dirty(const struct udmabuf *ub, struct folio *folio)
{
	if (!ub->readonly && unlikely(!folio_test_dirty(folio)))
		set_page_dirty_lock(&folio->page);
}

/* Keeps the small, contiguous folios from folios[0] on dirty.  Returns their number, >= 1. */
static long udmabuf_small_folios(const struct udmabuf *ub, struct folio **folios, long n)
{
	unsigned long pfn = folio_pfn(folios[0]);
	long i = 0;

	do {
		udmabuf_keep_dirty(ub, folios[i]);
		i++;
	} while (i < n && folio_pfn(folios[i]) == pfn + i && !folio_test_large(folios[i]));
	return i;
}

/**
 * struct udmabuf_pinner - how far the items of one memfd in a list have been pinned
 * @memfd: the items' file
 * @items: next item
 * @left: number of items from @items on
 * @start: where the range that @pos is in begins
 * @pos: next byte of the memfd to pin
 * @end: where the range that @pos is in ends
 * @folios: scratch space for UDMABUF_HOLD_FOLIOS pointers
 * @last: the last large folio
 * @is_list: there can be other ranges with pages of the same folios
 * @rests: number of pages of a large folio that are charged and not listed yet, by the
 *	folio's frame number
 */
struct udmabuf_pinner {
	struct file *memfd;
	const struct udmabuf_create_item *items;
	u32 left;
	u64 start;
	u64 pos;
	u64 end;
	struct folio **folios;
	const struct folio *last;
	bool is_list;
	struct xarray rests;
};

/*
 * A pin on a part of a huge page keeps all of it from being reclaimed.  The listed pages
 * are charged already.  Charge the folio's other pages, and uncharge those that a later
 * item lists.  So a folio is charged for all its pages, or for the listed ones if they
 * are more.
 *
 * @first: the page of the folio that p->pos is at.
 */
static int udmabuf_charge_rest(struct udmabuf *ub, struct udmabuf_pinner *p,
			       struct folio *folio, unsigned long first)
{
	unsigned long rest, nr, size = folio_nr_pages(folio);
	void *entry = NULL;
	int ret;

	/* Nothing is lost to reclaim: the page's pool and hugetlb cgroup bound it. */
	if (folio_test_hugetlb(folio))
		return 0;
	/* The previous piece ended inside this folio, and has charged all of it. */
	if (first && p->pos != p->start && folio == p->last)
		return 0;
	p->last = folio;
	nr = min_t(u64, size - first, (p->end - p->pos) >> PAGE_SHIFT);
	if (p->is_list)
		entry = xa_load(&p->rests, folio_pfn(folio));
	if (entry) {
		rest = xa_to_value(entry);
		udmabuf_uncharge(ub, min(rest, nr));
		rest -= min(rest, nr);
	} else {
		rest = size - nr;
		ret = udmabuf_charge(ub, rest);
		if (ret)
			return ret;
	}
	if (!p->is_list)
		return 0;
	return xa_err(xa_store(&p->rests, folio_pfn(folio), xa_mk_value(rest),
			       GFP_KERNEL_ACCOUNT));
}

/* Takes over the pin on a large folio, or a part of it, unless it fails. */
static int udmabuf_add_large(struct udmabuf *ub, struct udmabuf_pinner *p,
			     struct folio *folio, unsigned long first, u32 nr)
{
	int ret = udmabuf_charge_rest(ub, p, folio, first);

	if (ret)
		return ret;
	udmabuf_keep_dirty(ub, folio);
	ret = udmabuf_append(ub, folio_pfn(folio) + first, nr);
	if (ret >= 0 && udmabuf_pin_is_spare(ret, first))
		unpin_folio(folio);
	return ret;
}

static bool udmabuf_has_more(const struct udmabuf_pinner *p)
{
	return p->pos < p->end || p->left;
}

/* Items that go on where the one before them ended are one range. */
static void udmabuf_next_range(struct udmabuf_pinner *p)
{
	if (p->pos < p->end)
		return;
	p->start = p->items->offset;
	p->pos = p->start;
	p->end = p->start;
	while (p->left && p->items->offset == p->end) {
		p->end += p->items->size;
		p->items++;
		p->left--;
	}
}

/* How many of the next items are ranges of one page each, and which pages these are. */
static u32 udmabuf_single_pages(const struct udmabuf_pinner *p, pgoff_t *index, u32 max)
{
	const struct udmabuf_create_item *item = p->items;
	u32 n;

	max = min(max, p->left);
	for (n = 0; n < max; n++, item++) {
		if (item->size != PAGE_SIZE)
			break;
		if (n + 1 < p->left && item[1].offset == item->offset + PAGE_SIZE)
			break;
		index[n] = item->offset >> PAGE_SHIFT;
	}
	return n;
}

/*
 * Pins ranges of one page each, at most @max of them, as long as that takes no waiting.
 * Returns the number of pages; 0 if the next range is one for udmabuf_pin_piece().
 */
static long udmabuf_pin_single_pages(struct udmabuf *ub, struct udmabuf_pinner *p, u32 max)
{
	pgoff_t index[SWAP_CLUSTER_MAX];
	u32 n, i;
	int ret;

	if (p->pos < p->end)
		return 0;
	n = udmabuf_single_pages(p, index, min(max, ARRAY_SIZE(index)));
	n = memfd_pin_pages(p->memfd, index, n, p->folios);
	for (i = 0; i < n; i++) {
		struct folio *folio = p->folios[i];

		if (!folio_test_large(folio)) {
			udmabuf_keep_dirty(ub, folio);
			ret = udmabuf_append(ub, folio_pfn(folio), 1);
		} else {
			p->start = p->items[i].offset;
			p->pos = p->start;
			p->end = p->start + PAGE_SIZE;
			ret = udmabuf_add_large(ub, p, folio, index[i] - folio->index, 1);
			p->pos = p->end;
		}
		if (unlikely(ret < 0)) {
			unpin_folios(p->folios + i, n - i);
			return ret;
		}
	}
	p->items += n;
	p->left -= n;
	return n;
}

/*
 * Pins one piece of the range at hand: at most @max_folios folios and @max_bytes
 * bytes.  Returns the number of folios.
 */
static long udmabuf_pin_piece(struct udmabuf *ub, struct udmabuf_pinner *p,
			      unsigned int max_folios, u64 max_bytes)
{
	u64 end = min(p->end, p->pos + max_bytes);
	pgoff_t offset;
	long n, i, nr;
	int ret;

	n = memfd_pin_folios(p->memfd, p->pos, end - 1, p->folios, max_folios,
			     &offset);
	if (unlikely(n <= 0))
		return n ?: -EINVAL;

	for (i = 0; i < n; i += nr) {
		struct folio *folio = p->folios[i];
		u64 len;

		if (!folio_test_large(folio)) {
			nr = udmabuf_small_folios(ub, p->folios + i, n - i);
			len = (u64)nr << PAGE_SHIFT;
			ret = udmabuf_append(ub, folio_pfn(folio), nr);
		} else {
			nr = 1;
			len = min(folio_size(folio) - offset, end - p->pos);
			ret = udmabuf_add_large(ub, p, folio, offset >> PAGE_SHIFT,
						len >> PAGE_SHIFT);
		}
		if (unlikely(ret < 0)) {
			unpin_folios(p->folios + i, n - i);
			return ret;
		}
		p->pos += len;
		offset = 0;
	}
	return n;
}

/*
 * Pins under one hold of the inode lock.  memfd_add_seals() takes the lock exclusively,
 * so the seals do not change between the check and the pins.  After that it refuses
 * F_SEAL_WRITE because of the pins.  If it adds a seal against writes between two holds,
 * the check of the next hold fails.
 */
static int udmabuf_pin_hold(struct udmabuf *ub, struct udmabuf_pinner *p)
{
	unsigned int folios = UDMABUF_HOLD_FOLIOS;
	u64 start, cleared, bytes = UDMABUF_HOLD_BYTES;
	long ret;

	/* write() to the memfd has the lock while it waits for its source. */
	if (inode_lock_shared_killable(file_inode(p->memfd)))
		return -EINTR;
	ret = udmabuf_check_memfd(p->memfd);
	while (ret >= 0 && folios && bytes && udmabuf_has_more(p) &&
	       !fatal_signal_pending(current)) {
		ret = udmabuf_pin_single_pages(ub, p, folios);
		if (!ret) {
			udmabuf_next_range(p);
			start = p->pos;
			ret = udmabuf_pin_piece(ub, p, folios, bytes);
			/* The first and the last may have been cleared for a part of them. */
			if (ret > 0) {
				cleared = folio_size(p->folios[ret - 1]);
				if (ret > 1)
					cleared += folio_size(p->folios[0]);
				bytes -= min(bytes, max(p->pos - start, cleared));
			}
		}
		folios -= max(ret, 0L);
	}
	inode_unlock_shared(file_inode(p->memfd));
	return min(ret, 0L);
}

static int udmabuf_pin_memfd(struct udmabuf *ub, struct udmabuf_pinner *p)
{
	int ret;

	if (!(p->memfd->f_mode & FMODE_WRITE) || IS_APPEND(file_inode(p->memfd)))
		ub->readonly = true;

	while (udmabuf_has_more(p)) {
		ret = udmabuf_pin_hold(ub, p);
		if (ret)
			return ret;
		if (fatal_signal_pending(current))
			return -EINTR;
		cond_resched();
	}
	return 0;
}

static int udmabuf_pin_items(struct udmabuf *ub,
			     const struct udmabuf_create_item *items, u32 count)
{
	struct udmabuf_pinner p = {};
	int ret = 0;

	p.folios = kmalloc_array(UDMABUF_HOLD_FOLIOS, sizeof(*p.folios),
				 GFP_KERNEL);
	if (!p.folios)
		return -ENOMEM;
	xa_init_flags(&p.rests, XA_FLAGS_ACCOUNT);
	p.is_list = count > 1;

	for (u32 i = 0, n; i < count && !ret; i += n) {
		n = udmabuf_same_memfd(items + i, count - i);
		p.memfd = fget(items[i].memfd);
		if (!p.memfd) {
			ret = -EBADFD;
			break;
		}
		p.items = items + i;
		p.left = n;
		ret = udmabuf_pin_memfd(ub, &p);
		fput(p.memfd);
	}
	xa_destroy(&p.rests);
	kfree(p.folios);
	return ret;
}

/* The dma-buf owns the buffer from now on.  If there is no dma-buf, frees the buffer. */
static struct dma_buf *udmabuf_export(struct udmabuf *ub)
{
	DEFINE_DMA_BUF_EXPORT_INFO(exp_info);
	struct dma_buf *dmabuf;

	exp_info.ops = &udmabuf_ops;
	exp_info.size = (size_t)ub->nr_pages << PAGE_SHIFT;
	exp_info.flags = ub->readonly ? O_RDONLY : O_RDWR;
	exp_info.priv = ub;
	dmabuf = dma_buf_export(&exp_info);
	if (IS_ERR(dmabuf)) {
		udmabuf_free(ub);
		return dmabuf;
	}
	scoped_guard(mutex, &udmabuf_lock)
		list_add_tail(&ub->node, &udmabuf_buffers);
	return dmabuf;
}

/*
 * From dma_buf_fd() on the dma-buf belongs to user space, which may have closed it
 * before we return.
 */
static int udmabuf_install(struct dma_buf *dmabuf, u32 flags)
{
	int fd;

	if (IS_ERR(dmabuf))
		return PTR_ERR(dmabuf);
	fd = dma_buf_fd(dmabuf, flags & UDMABUF_FLAGS_CLOEXEC ? O_CLOEXEC : 0);
	if (fd < 0)
		dma_buf_put(dmabuf);
	return fd;
}

static struct udmabuf *udmabuf_alloc(void)
{
	struct udmabuf *ub = kzalloc(sizeof(*ub), GFP_KERNEL_ACCOUNT);

	if (!ub)
		return NULL;
	ub->user = udmabuf_get_user(udmabuf_current_user());
	if (!ub->user) {
		kfree(ub);
		return NULL;
	}
	mutex_init(&ub->lock);
	INIT_LIST_HEAD(&ub->mappings);
	ub->pid = task_tgid_nr(current);
	get_task_comm(ub->comm, current);
	return ub;
}

static int udmabuf_create(const struct udmabuf_create_item *items, u32 count,
			  u32 flags)
{
	s64 pages = udmabuf_check_items(items, count);
	struct udmabuf *ub;
	int ret;

	if (pages < 0)
		return pages;
	ret = udmabuf_check_memfds(items, count);
	if (ret)
		return ret;

	ub = udmabuf_alloc();
	if (!ub)
		return -ENOMEM;

	/* Room for a run an item, to begin with. */
	ret = udmabuf_charge(ub, pages) ?: udmabuf_make_room(ub, count);
	if (!ret)
		ret = udmabuf_pin_items(ub, items, count);
	if (ret) {
		udmabuf_free(ub);
		return ret;
	}
	udmabuf_trim(ub);
	return udmabuf_install(udmabuf_export(ub), flags);
}

/* /dev/udmabuf */

static int udmabuf_ioctl_create(const void __user *arg)
{
	struct udmabuf_create create;
	struct udmabuf_create_item item = {};

	if (copy_from_user(&create, arg, sizeof(create)))
		return -EFAULT;
	item.memfd = create.memfd;
	item.offset = create.offset;
	item.size = create.size;
	return udmabuf_create(&item, 1, create.flags);
}

static int udmabuf_ioctl_create_list(const struct udmabuf_create_list __user *arg)
{
	struct udmabuf_create_list head;
	struct udmabuf_create_item *items;
	size_t len;
	int ret;

	if (copy_from_user(&head, arg, sizeof(head)))
		return -EFAULT;
	if (!head.count || head.count > (u32)READ_ONCE(list_limit))
		return -EINVAL;

	/* A size that the administrator allowed is no reason for a warning. */
	len = array_size(head.count, sizeof(*items));
	items = kvmalloc(len, GFP_KERNEL_ACCOUNT | __GFP_NOWARN);
	if (!items)
		return -ENOMEM;
	if (copy_from_user(items, arg->list, len))
		ret = -EFAULT;
	else
		ret = udmabuf_create(items, head.count, head.flags);
	kvfree(items);
	return ret;
}

static long udmabuf_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	switch (cmd) {
	case UDMABUF_CREATE:
		return udmabuf_ioctl_create((void __user *)arg);
	case UDMABUF_CREATE_LIST:
		return udmabuf_ioctl_create_list((void __user *)arg);
	default:
		return -ENOTTY;
	}
}

static const struct file_operations udmabuf_fops = {
	.owner = THIS_MODULE,
	.unlocked_ioctl = udmabuf_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
};

static struct miscdevice udmabuf_misc = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "udmabuf",
	.fops = &udmabuf_fops,
};

/* debugfs: udmabuf/buffers */

static int udmabuf_buffers_show(struct seq_file *s, void *unused)
{
	const struct udmabuf *ub;

	seq_puts(s, "size\truns\tpinned\taccess\tuid\tuser_pinned\tpid\tcomm\n");
	guard(mutex)(&udmabuf_lock);
	list_for_each_entry(ub, &udmabuf_buffers, node) {
		seq_printf(s, "%llu\t%u\t%llu\t%s\t%u\t%llu\t%d\t",
			   (u64)ub->nr_pages << PAGE_SHIFT, ub->nr_runs,
			   ub->pinned << PAGE_SHIFT, ub->readonly ? "ro" : "rw",
			   from_kuid_munged(seq_user_ns(s), ub->user->uid),
			   (u64)atomic64_read(&ub->user->pages) << PAGE_SHIFT, ub->pid);
		seq_escape(s, ub->comm, " \t\n\\");
		seq_putc(s, '\n');
	}
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(udmabuf_buffers);

static struct dentry *udmabuf_debugfs;

static int __init udmabuf_init(void)
{
	int ret;

	ret = misc_register(&udmabuf_misc);
	if (ret) {
		pr_err("no device node: %d\n", ret);
		return ret;
	}
	udmabuf_debugfs = debugfs_create_dir("udmabuf", NULL);
	debugfs_create_file("buffers", 0400, udmabuf_debugfs, NULL,
			    &udmabuf_buffers_fops);
	return 0;
}
module_init(udmabuf_init);

static void __exit udmabuf_exit(void)
{
	debugfs_remove_recursive(udmabuf_debugfs);
	misc_deregister(&udmabuf_misc);
}
module_exit(udmabuf_exit);

#if IS_ENABLED(CONFIG_UDMABUF_KUNIT_TEST)
#include "tests/udmabuf_kunit.c"
#endif

MODULE_AUTHOR("Gerd Hoffmann <kraxel@redhat.com>");
MODULE_DESCRIPTION("Pages of memfds as dma-bufs");
MODULE_LICENSE("GPL");
MODULE_IMPORT_NS(DMA_BUF);
