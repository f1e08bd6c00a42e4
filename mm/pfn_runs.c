// SPDX-License-Identifier: GPL-2.0
/*
 * Mapping runs of page frames into a VM_PFNMAP vma, a page table at a time.
 *
 * vmf_insert_pfn() maps one page: it walks down the page table, takes and drops its
 * lock, and a mapping of n pages takes n faults.  A driver that knows what lies
 * around a fault can have a whole page table filled by the first one, under one
 * lock.
 */
#include <linux/mm.h>
#include <linux/pfn_runs.h>
#include <linux/pgtable.h>

#include "internal.h"

/* Sees to it that there is a table; __do_fault() may have brought one along. */
static vm_fault_t ensure_pte_table(struct vm_fault *vmf)
{
	if (likely(!pmd_none(*vmf->pmd)))
		return 0;
	if (vmf->prealloc_pte)
		pmd_install(vmf->vma->vm_mm, vmf->pmd, &vmf->prealloc_pte);
	else if (pte_alloc(vmf->vma->vm_mm, vmf->pmd))
		return VM_FAULT_OOM;
	return 0;
}

/* Maps @nr frames from @pfn on, but for what is mapped already. */
static void fill_ptes(struct vm_area_struct *vma, unsigned long addr, pte_t *pte,
		      unsigned long pfn, unsigned long nr)
{
	pgprot_t prot = vma->vm_page_prot;
	unsigned long i;

	for (i = 0; i < nr; i++, addr += PAGE_SIZE)
		if (likely(pte_none(ptep_get(pte + i))))
			set_pte_at(vma->vm_mm, addr, pte + i,
				   pte_mkspecial(pfn_pte(pfn + i, prot)));
}

/**
 * vmf_insert_pfn_runs() - map page frames around a fault
 * @vmf: the fault; its vma is VM_PFNMAP and shared
 * @start: where to begin, page-aligned
 * @end: where to end, page-aligned, more than @start
 * @next: tells the frames, from @start on; asked until they reach @end
 * @iter: handed to @next
 *
 * [@start, @end) lies in the vma, and in the one page table that the fault's address
 * belongs to.  Entries that are there stay as they are: of two faults that race, the
 * second finds the first one's.  What another driver's callback, or this one's at an
 * earlier time, has mapped there is not replaced.
 *
 * The frames must be those of memory (pfn_valid()) that stays the driver's while it
 * is mapped, and has the cache mode of normal memory: no memory type is looked up,
 * as vmf_insert_pfn() does.  No reference is taken.
 *
 * Context: from a vm_operations_struct's fault handler, under mmap_lock or the vma's
 * lock; may sleep to allocate.  Calls @next under the page table's lock, which is
 * held once for all of it.
 *
 * Return:
 * * %VM_FAULT_NOPAGE - the frames are mapped, or a huge entry has come in the place
 *   of the table: the access is to be tried again.
 * * %VM_FAULT_OOM - no memory for the table.
 */
vm_fault_t vmf_insert_pfn_runs(struct vm_fault *vmf, unsigned long start,
			       unsigned long end, pfn_run_next_t next, void *iter)
{
	struct vm_area_struct *vma = vmf->vma;
	unsigned long addr = start;
	spinlock_t *ptl;
	vm_fault_t ret;
	pte_t *pte;

	VM_WARN_ON_ONCE(start < vma->vm_start || end > vma->vm_end || start >= end);
	VM_WARN_ON_ONCE((start & PMD_MASK) != ((end - 1) & PMD_MASK) ||
			(start & PMD_MASK) != (vmf->address & PMD_MASK));
	VM_WARN_ON_ONCE(!(vma->vm_flags & VM_PFNMAP) || is_cow_mapping(vma->vm_flags));

	ret = ensure_pte_table(vmf);
	if (ret)
		return ret;
	pte = pte_offset_map_lock(vma->vm_mm, vmf->pmd, start, &ptl);
	if (!pte)
		return VM_FAULT_NOPAGE;

	arch_enter_lazy_mmu_mode();
	while (addr < end) {
		struct pfn_run run = next(iter);
		unsigned long nr = min(run.nr, (end - addr) >> PAGE_SHIFT);
		pte_t *at = pte + ((addr - start) >> PAGE_SHIFT);

		fill_ptes(vma, addr, at, run.pfn, nr);
		update_mmu_cache_range(vmf, vma, addr, at, nr);
		addr += nr << PAGE_SHIFT;
	}
	arch_leave_lazy_mmu_mode();
	pte_unmap_unlock(pte, ptl);
	return VM_FAULT_NOPAGE;
}
EXPORT_SYMBOL_GPL(vmf_insert_pfn_runs);
