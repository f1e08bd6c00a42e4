// SPDX-License-Identifier: GPL-2.0
/*
 * Runs of page frames: mapping them into a VM_PFNMAP vma, and unpinning them.
 *
 * vmf_insert_pfn() maps one page: it walks down the page table, takes and drops its
 * lock, and a mapping of n pages takes n faults.  A driver that knows what lies
 * around a fault can have a whole page table filled by the first one, under one
 * lock.  In the same way unpin_folio() updates a node's statistics for each folio,
 * where it could be done once for many.
 */
#include <linux/mm.h>
#include <linux/pfn_runs.h>
#include <linux/pgtable.h>

#include "internal.h"

/* Ensures that a PTE table exists; uses the one that __do_fault() preallocated. */
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

/* Maps consecutive frames, the first one by @entry.  Skips entries that are not empty. */
static void fill_ptes(struct vm_area_struct *vma, unsigned long addr, pte_t *pte,
		      pte_t entry, unsigned long nr)
{
	do {
		if (likely(pte_none(ptep_get(pte)))) {
			set_pte_at(vma->vm_mm, addr, pte, entry);
			update_mmu_cache(vma, addr, pte);
		}
		entry = pte_next_pfn(entry);
		addr += PAGE_SIZE;
		pte++;
	} while (--nr);
}

/*
 * Writable entries are dirty: nobody looks at that bit of a special entry, and where the
 * processor does not set it, as on some of arm64, the first write to each page would fault.
 */
static pte_t run_pte(unsigned long pfn, pgprot_t prot)
{
	pte_t entry = pte_mkspecial(pfn_pte(pfn, prot));

	return pte_write(entry) ? pte_mkdirty(entry) : entry;
}

/**
 * vmf_insert_pfn_runs() - map page frames around a fault
 * @vmf: the fault; its vma is VM_PFNMAP and shared
 * @start: where to begin, page-aligned
 * @end: where to end, page-aligned, more than @start
 * @run: the run that @page is in; the next runs follow it
 * @page: the page of the buffer to map at @start
 *
 * [@start, @end) lies in the vma, and in the one page table that the fault's address
 * belongs to; the runs from @run on go as far.  Entries that are not empty stay as they
 * are: of two faults that race, the second changes nothing.
 *
 * The frames must be those of memory (pfn_valid()) that stays the driver's while it
 * is mapped, and has the cache mode of normal memory: unlike vmf_insert_pfn(), this
 * looks up no memory type.  No reference is taken.
 *
 * Context: from a vm_operations_struct's fault handler, under mmap_lock or the vma's
 * lock; may sleep to allocate.  Takes the page table's lock, once for all of it.
 *
 * Return:
 * * %VM_FAULT_NOPAGE - the frames are mapped, or a huge entry has come in the place
 *   of the table: the access is to be tried again.
 * * %VM_FAULT_OOM - no memory for the table.
 */
vm_fault_t vmf_insert_pfn_runs(struct vm_fault *vmf, unsigned long start,
			       unsigned long end, const struct pfn_run *run, u32 page)
{
	struct vm_area_struct *vma = vmf->vma;
	pgprot_t prot = vma->vm_page_prot;
	unsigned long nr, left = (end - start) >> PAGE_SHIFT;
	unsigned long done = page - run->first;
	pte_t *table, *pte;
	spinlock_t *ptl;	/* the page table's */
	vm_fault_t ret;

	VM_WARN_ON_ONCE(start < vma->vm_start || end > vma->vm_end || start >= end);
	VM_WARN_ON_ONCE((start & PMD_MASK) != ((end - 1) & PMD_MASK) ||
			(start & PMD_MASK) != (vmf->address & PMD_MASK));
	VM_WARN_ON_ONCE(!(vma->vm_flags & VM_PFNMAP) || is_cow_mapping(vma->vm_flags));
	VM_WARN_ON_ONCE(done >= run->nr);

	ret = ensure_pte_table(vmf);
	if (ret)
		return ret;
	table = pte_offset_map_lock(vma->vm_mm, vmf->pmd, start, &ptl);
	if (!table)
		return VM_FAULT_NOPAGE;

	arch_enter_lazy_mmu_mode();
	for (pte = table; left; left -= nr, pte += nr, done = 0, run++) {
		nr = min(run->nr - done, left);
		fill_ptes(vma, start + (pte - table) * PAGE_SIZE, pte,
			  run_pte(run->pfn + done, prot), nr);
	}
	arch_leave_lazy_mmu_mode();
	pte_unmap_unlock(table, ptl);
	return VM_FAULT_NOPAGE;
}
EXPORT_SYMBOL_GPL(vmf_insert_pfn_runs);

/**
 * unpin_pfn_runs() - unpin the folios that runs of frames intersect
 * @runs: the runs
 * @nr_runs: how many there are
 *
 * Drops one pin on a folio for each run that intersects it, however many of the
 * folio's frames the run has: what memfd_pin_folios() takes for one range.  The
 * folios must not have been split since, which the pins themselves prevent.
 *
 * Context: may sleep.
 */
void unpin_pfn_runs(const struct pfn_run *runs, u32 nr_runs)
{
	struct pglist_data *pgdat = NULL;
	unsigned int folios = 0;

	for (const struct pfn_run *run = runs; run < runs + nr_runs; run++) {
		unsigned long pfn = run->pfn, end = run->pfn + run->nr;

		while (pfn < end) {
			struct folio *folio = pfn_folio(pfn);
			int refs = 1;

			if (folio_pgdat(folio) != pgdat || folios == SWAP_CLUSTER_MAX) {
				if (folios)
					mod_node_page_state(pgdat, NR_FOLL_PIN_RELEASED,
							    folios);
				pgdat = folio_pgdat(folio);
				folios = 0;
				cond_resched();
			}
			folios++;
			pfn = folio_pfn(folio) + folio_nr_pages(folio);
			if (folio_has_pincount(folio))
				atomic_dec(&folio->_pincount);
			else
				refs = GUP_PIN_COUNTING_BIAS;
			folio_put_refs(folio, refs);
		}
	}
	if (folios)
		mod_node_page_state(pgdat, NR_FOLL_PIN_RELEASED, folios);
}
EXPORT_SYMBOL_GPL(unpin_pfn_runs);
