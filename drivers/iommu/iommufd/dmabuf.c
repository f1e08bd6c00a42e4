// SPDX-License-Identifier: GPL-2.0-only
/*
 * dma-bufs in an IOAS
 *
 * An iopt_pages of a dma-buf pins nothing and stores no PFNs. The exporter keeps the
 * buffer in place while it is mapped by dma_buf_map_phys(). To revoke the buffer it
 * calls move_notify, which unmaps it.
 *
 * State. The pages are live, or they are not:
 *
 *   live		mapped by dma_buf_map_phys(), and every area of
 *			domains_itree is mapped in every domain of its IOAS
 *   not live		not mapped by dma_buf_map_phys(), and no area is mapped in any
 *			domain
 *
 * Creation makes them live or fails. Later, move_notify changes the state, and the
 * release of the pages unmaps them. Areas and domains are added and removed in either
 * state. While the pages are not live, an area only records its domains: move_notify
 * cannot read them from the IOAS, as the locks of an IOAS are taken before the
 * dma_resv.
 *
 * Locks. The state, and the areas' lists of domains, change under the buffer's
 * dma_resv and pages->mutex. io_pagetable.h has the order.
 */
#include <linux/dma-buf.h>
#include <linux/dma-resv.h>
#include <linux/iommu.h>
#include <linux/overflow.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>

#include "io_pagetable.h"

/**
 * struct iopt_dmabuf - the dma-buf of an iopt_pages
 * @attach: our attachment to it
 * @phys: what it consists of, while @live
 * @live: see above
 * @enabled: move_notify may change the state: not before the pages are complete,
 *	and not after the last area is gone
 * @mmio: what @phys says of that, also while the pages are not live; immutable
 * @addr: physical address of page 0 when the pages were created: a hint for the
 *	alignment of IOVAs
 */
struct iopt_dmabuf {
	struct dma_buf_attachment *attach;
	struct dma_buf_phys phys;
	bool live;
	bool enabled;
	bool mmio;
	phys_addr_t addr;
};

/**
 * struct iopt_dmabuf_domain - a domain that an area is in
 * @node: in &iopt_area.dmabuf_domains
 * @domain: the domain
 * @mapped: the area is mapped in it
 */
struct iopt_dmabuf_domain {
	struct hlist_node node;
	struct iommu_domain *domain;
	bool mapped;
};

/*
 * A lock class of its own: mmap_lock nests inside the mutex of other pages, and dma_resv
 * nests inside mmap_lock. The mutex of these pages nests inside dma_resv.
 */
static struct lock_class_key iopt_dmabuf_mutex_key;

static struct dma_resv *iopt_dmabuf_resv(struct iopt_pages *pages)
{
	return pages->dmabuf->attach->dmabuf->resv;
}

void iopt_dmabuf_lock(struct iopt_pages *pages)
{
	dma_resv_lock(iopt_dmabuf_resv(pages), NULL);
}

void iopt_dmabuf_unlock(struct iopt_pages *pages)
{
	dma_resv_unlock(iopt_dmabuf_resv(pages));
}

static void iopt_dmabuf_assert_held(struct iopt_pages *pages)
{
	dma_resv_assert_held(iopt_dmabuf_resv(pages));
	lockdep_assert_held(&pages->mutex);
}

/* A contiguous, aligned range goes to the driver as one, for its largest pages */
static int iopt_dmabuf_map_range(struct iopt_area *area, struct iommu_domain *domain,
				 unsigned long iova, phys_addr_t paddr, size_t len,
				 int prot)
{
	size_t step = READ_ONCE(area->iopt->disable_large_pages) ? PAGE_SIZE : len;
	size_t done;
	int rc;

	for (done = 0; done != len; done += step) {
		step = min(step, len - done);
		rc = iommu_map(domain, iova + done, paddr + done, step, prot,
			       GFP_KERNEL_ACCOUNT);
		if (rc)
			goto err_unmap;
		cond_resched();
	}
	return 0;

err_unmap:
	if (done)
		iommu_unmap(domain, iova, done);
	return rc;
}

static int iopt_dmabuf_map(struct iopt_pages *pages, struct iopt_area *area,
			   struct iopt_dmabuf_domain *entry)
{
	const struct dma_buf_phys *phys = &pages->dmabuf->phys;
	unsigned long iova = iopt_area_iova(area);
	u64 skip = pages->start + iopt_area_start_byte(area, iova);
	size_t left = iopt_area_length(area);
	int prot = area->iommu_prot;
	unsigned int i;
	int rc;

	if (WARN_ON(entry->mapped))
		return -EINVAL;
	if (iommufd_should_fail())
		return -ENOMEM;
	if (phys->mmio)
		prot = (prot & ~IOMMU_CACHE) | IOMMU_MMIO;

	for (i = 0; left; i++) {
		const struct dma_buf_phys_range *range = &phys->ranges[i];
		size_t len;

		if (WARN_ON(i == phys->nr_ranges)) {
			rc = -EINVAL;
			goto err_unmap;
		}
		if (skip >= range->len) {
			skip -= range->len;
			continue;
		}
		len = min(range->len - skip, (u64)left);
		rc = iopt_dmabuf_map_range(area, entry->domain, iova,
					   range->paddr + skip, len, prot);
		if (rc)
			goto err_unmap;
		iova += len;
		left -= len;
		skip = 0;
	}
	entry->mapped = true;
	return 0;

err_unmap:
	if (iova != iopt_area_iova(area))
		iommu_unmap(entry->domain, iopt_area_iova(area),
			    iova - iopt_area_iova(area));
	return rc;
}

/* The IOTLBs are flushed when this returns */
static void iopt_dmabuf_unmap(struct iopt_area *area, struct iopt_dmabuf_domain *entry)
{
	size_t len = iopt_area_length(area);

	if (!entry->mapped)
		return;
	entry->mapped = false;
	WARN_ON(iommu_unmap(entry->domain, iopt_area_iova(area), len) != len);
}

static struct iopt_area *iopt_dmabuf_first_area(struct iopt_pages *pages)
{
	struct interval_tree_node *node;

	node = interval_tree_iter_first(&pages->domains_itree, 0, ULONG_MAX);
	return node ? container_of(node, struct iopt_area, pages_node) : NULL;
}

static struct iopt_area *iopt_dmabuf_next_area(struct iopt_area *area)
{
	struct interval_tree_node *node;

	node = interval_tree_iter_next(&area->pages_node, 0, ULONG_MAX);
	return node ? container_of(node, struct iopt_area, pages_node) : NULL;
}

/* Makes the pages not live */
static void iopt_dmabuf_down(struct iopt_pages *pages)
{
	struct iopt_dmabuf *dmabuf = pages->dmabuf;
	struct iopt_dmabuf_domain *entry;
	struct iopt_area *area;

	iopt_dmabuf_assert_held(pages);

	if (!dmabuf->live)
		return;
	for (area = iopt_dmabuf_first_area(pages); area;
	     area = iopt_dmabuf_next_area(area))
		hlist_for_each_entry(entry, &area->dmabuf_domains, node)
			iopt_dmabuf_unmap(area, entry);
	dma_buf_unmap_phys(dmabuf->attach, &dmabuf->phys);
	dmabuf->live = false;
}

/* Makes the pages live, or fails and changes nothing */
static int iopt_dmabuf_up(struct iopt_pages *pages)
{
	struct iopt_dmabuf *dmabuf = pages->dmabuf;
	struct iopt_dmabuf_domain *entry;
	struct iopt_area *area;
	int rc;

	iopt_dmabuf_assert_held(pages);

	rc = dma_buf_map_phys(dmabuf->attach,
			      pages->writable ? DMA_BIDIRECTIONAL : DMA_TO_DEVICE,
			      &dmabuf->phys);
	if (rc)
		return rc;
	dmabuf->live = true;

	for (area = iopt_dmabuf_first_area(pages); area;
	     area = iopt_dmabuf_next_area(area)) {
		hlist_for_each_entry(entry, &area->dmabuf_domains, node) {
			rc = iopt_dmabuf_map(pages, area, entry);
			if (rc) {
				iopt_dmabuf_down(pages);
				return rc;
			}
		}
	}
	return 0;
}

/*
 * move_notify does not tell a revocation from a restoration: unmap the buffer, and try to
 * map it again. -ENODEV means that it is revoked; the exporter calls again when it is
 * live. After another error the pages are not live, as with a revoked buffer.
 */
static void iopt_dmabuf_move_notify(struct dma_buf_attachment *attach)
{
	struct iopt_pages *pages = attach->importer_priv;
	int rc;

	dma_resv_assert_held(attach->dmabuf->resv);

	mutex_lock(&pages->mutex);
	if (pages->dmabuf->enabled) {
		iopt_dmabuf_down(pages);
		rc = iopt_dmabuf_up(pages);
		if (rc && rc != -ENODEV)
			pr_warn_ratelimited("iommufd: a dma-buf of %s is live again, and could not be mapped: %d\n",
					    attach->dmabuf->exp_name, rc);
	}
	mutex_unlock(&pages->mutex);
}

static const struct dma_buf_attach_ops iopt_dmabuf_attach_ops = {
	.allow_peer2peer = true,
	.phys = true,
	.move_notify = iopt_dmabuf_move_notify,
};

/*
 * Adds a domain to those that the area is in. As all that follow, called with
 * iopt_pages_lock() held.
 */
int iopt_dmabuf_fill_domain(struct iopt_area *area, struct iopt_pages *pages,
			    struct iommu_domain *domain)
{
	struct iopt_dmabuf_domain *entry;
	int rc;

	iopt_dmabuf_assert_held(pages);

	entry = kzalloc(sizeof(*entry), GFP_KERNEL_ACCOUNT);
	if (!entry)
		return -ENOMEM;
	entry->domain = domain;
	if (pages->dmabuf->live) {
		rc = iopt_dmabuf_map(pages, area, entry);
		if (rc) {
			kfree(entry);
			return rc;
		}
	}
	hlist_add_head(&entry->node, &area->dmabuf_domains);
	return 0;
}

static void iopt_dmabuf_remove(struct iopt_area *area, struct iopt_dmabuf_domain *entry)
{
	iopt_dmabuf_unmap(area, entry);
	hlist_del(&entry->node);
	kfree(entry);
}

/* Undoes iopt_dmabuf_fill_domain() */
void iopt_dmabuf_unfill_domain(struct iopt_area *area, struct iopt_pages *pages,
			       struct iommu_domain *domain)
{
	struct iopt_dmabuf_domain *entry;

	iopt_dmabuf_assert_held(pages);

	hlist_for_each_entry(entry, &area->dmabuf_domains, node) {
		if (entry->domain == domain) {
			iopt_dmabuf_remove(area, entry);
			return;
		}
	}
	WARN_ON(1);
}

/* iopt_dmabuf_fill_domain() for all the domains of the IOAS, or none */
int iopt_dmabuf_fill_domains(struct iopt_area *area, struct iopt_pages *pages)
{
	struct iommu_domain *domain;
	unsigned long index;
	int rc;

	lockdep_assert_held(&area->iopt->domains_rwsem);

	xa_for_each(&area->iopt->domains, index, domain) {
		rc = iopt_dmabuf_fill_domain(area, pages, domain);
		if (rc) {
			iopt_dmabuf_unfill_domains(area, pages);
			return rc;
		}
	}
	return 0;
}

/* Removes the area from all the domains that it is in */
void iopt_dmabuf_unfill_domains(struct iopt_area *area, struct iopt_pages *pages)
{
	struct iopt_dmabuf_domain *entry;
	struct hlist_node *next;

	iopt_dmabuf_assert_held(pages);

	hlist_for_each_entry_safe(entry, next, &area->dmabuf_domains, node)
		iopt_dmabuf_remove(area, entry);
}

/* IOVAs should be aligned as the physical addresses are, for huge pages */
unsigned long iopt_dmabuf_addr_hint(struct iopt_pages *pages)
{
	return pages->dmabuf->addr;
}

/*
 * Reports a range of an area as dirty, without a look at the page tables: a walk of the
 * dirty bits holds iova_rwsem, but move_notify does not take that, and may free tables
 * during the walk. Devices may have written to any part of memory. A device's own memory
 * is not reported: VMMs do not migrate it by the IOMMU's dirty bits.
 */
void iopt_dmabuf_record_dirty(struct iopt_pages *pages, struct iommu_dirty_bitmap *dirty,
			      unsigned long iova, unsigned long length)
{
	if (pages->writable && !pages->dmabuf->mmio)
		iommu_dirty_bitmap_record(dirty, iova, length);
}

static phys_addr_t iopt_dmabuf_paddr(const struct dma_buf_phys *phys, u64 offset)
{
	unsigned int i;

	for (i = 0; i != phys->nr_ranges; i++) {
		if (offset < phys->ranges[i].len)
			return phys->ranges[i].paddr + offset;
		offset -= phys->ranges[i].len;
	}
	return 0;
}

static int iopt_dmabuf_enable(struct iopt_pages *pages)
{
	struct iopt_dmabuf *dmabuf = pages->dmabuf;
	int rc;

	iopt_pages_lock(pages);
	rc = iopt_dmabuf_up(pages);
	if (!rc) {
		dmabuf->addr = iopt_dmabuf_paddr(&dmabuf->phys, pages->start);
		dmabuf->mmio = dmabuf->phys.mmio;
		dmabuf->enabled = true;
	}
	iopt_pages_unlock(pages);
	return rc;
}

/**
 * iopt_alloc_dmabuf_pages() - a slice of a dma-buf as an iopt_pages
 * @dmabuf: the dma-buf; the pages take a reference
 * @dev: the importer's name in the log
 * @start: where the slice begins, in bytes
 * @length: its length in bytes
 * @writable: devices may write to it
 *
 * Context: may sleep; the dma_resv is not held.
 * Return: the pages, or
 * -EINVAL: @start or @length is not a multiple of the page size, or the slice reaches
 * beyond the end of the buffer;
 * -EOVERFLOW: @start and @length overflow;
 * -EOPNOTSUPP: the exporter does not give out physical ranges;
 * -ENODEV: the buffer is revoked;
 * -EACCES: the file of @dmabuf is not open for reading, or @writable is set, and it is
 * not open for writing or the exporter does not allow it;
 * -ENOMEM: out of memory; or what else the exporter's attach returns.
 */
struct iopt_pages *iopt_alloc_dmabuf_pages(struct dma_buf *dmabuf, struct device *dev,
					   unsigned long start,
					   unsigned long length, bool writable)
{
	struct dma_buf_attachment *attach;
	struct iopt_pages *pages;
	unsigned long end;
	int rc;

	if (!(dmabuf->file->f_mode & FMODE_READ) ||
	    (writable && !(dmabuf->file->f_mode & FMODE_WRITE)))
		return ERR_PTR(-EACCES);
	if (!PAGE_ALIGNED(start) || !PAGE_ALIGNED(length))
		return ERR_PTR(-EINVAL);
	if (check_add_overflow(start, length, &end))
		return ERR_PTR(-EOVERFLOW);
	if (end > dmabuf->size)
		return ERR_PTR(-EINVAL);

	pages = iopt_alloc_pages(start, length, writable);
	if (IS_ERR(pages))
		return pages;
	lockdep_set_class(&pages->mutex, &iopt_dmabuf_mutex_key);

	pages->dmabuf = kzalloc(sizeof(*pages->dmabuf), GFP_KERNEL_ACCOUNT);
	if (!pages->dmabuf) {
		rc = -ENOMEM;
		goto err_put;
	}
	attach = dma_buf_dynamic_attach(dmabuf, dev, &iopt_dmabuf_attach_ops, pages);
	if (IS_ERR(attach)) {
		rc = PTR_ERR(attach);
		goto err_free;
	}
	get_dma_buf(dmabuf);
	pages->dmabuf->attach = attach;
	rc = iopt_dmabuf_enable(pages);
	if (rc)
		goto err_put;
	return pages;

err_free:
	kfree(pages->dmabuf);
	pages->dmabuf = NULL;
err_put:
	iopt_put_pages(pages);
	return ERR_PTR(rc);
}

/* The last reference on the pages is gone, and with it all areas */
void iopt_release_dmabuf(struct iopt_pages *pages)
{
	struct dma_buf_attachment *attach = pages->dmabuf->attach;
	struct dma_buf *dmabuf = attach->dmabuf;

	iopt_pages_lock(pages);
	iopt_dmabuf_down(pages);
	pages->dmabuf->enabled = false;
	iopt_pages_unlock(pages);

	dma_buf_detach(dmabuf, attach);
	dma_buf_put(dmabuf);
	kfree(pages->dmabuf);
}

/* Teaches lockdep the whole lock order, so that it reports the first violation */
int __init iopt_dmabuf_prime_lockdep(void)
{
	struct io_pagetable *iopt;
	struct dma_resv resv;
	struct mutex mutex;	/* of the class of a dma-buf's iopt_pages.mutex */

	if (!IS_ENABLED(CONFIG_LOCKDEP))
		return 0;

	iopt = kzalloc(sizeof(*iopt), GFP_KERNEL);
	if (!iopt)
		return -ENOMEM;
	iopt_init_table(iopt);
	dma_resv_init(&resv);
	mutex_init(&mutex);
	lockdep_set_class(&mutex, &iopt_dmabuf_mutex_key);

	down_write(&iopt->domains_rwsem);
	down_write(&iopt->iova_rwsem);
	dma_resv_lock(&resv, NULL);
	mutex_lock(&mutex);
	might_alloc(GFP_KERNEL);
	mutex_unlock(&mutex);
	dma_resv_unlock(&resv);
	up_write(&iopt->iova_rwsem);
	up_write(&iopt->domains_rwsem);

	mutex_destroy(&mutex);
	dma_resv_fini(&resv);
	iopt_destroy_table(iopt);
	kfree(iopt);
	return 0;
}
