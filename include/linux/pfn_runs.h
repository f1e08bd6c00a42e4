/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Runs of page frames: mapping them into a VM_PFNMAP vma, and unpinning them.
 */
#ifndef _LINUX_PFN_RUNS_H
#define _LINUX_PFN_RUNS_H

#include <linux/mm_types.h>

/**
 * struct pfn_run - frames that are contiguous
 * @pfn: the first one
 * @nr: how many there are, not 0
 */
struct pfn_run {
	unsigned long pfn;
	unsigned long nr;
};

/**
 * typedef pfn_run_next_t - tells what comes next
 * @iter: the caller's iterator, as given to vmf_insert_pfn_runs() or
 *	unpin_pfn_runs()
 *
 * Context: may be called under a page table lock: may not sleep.
 * Return: the frames that follow those of the call before.
 */
typedef struct pfn_run (*pfn_run_next_t)(void *iter);

vm_fault_t vmf_insert_pfn_runs(struct vm_fault *vmf, unsigned long start,
			       unsigned long end, pfn_run_next_t next, void *iter);
void unpin_pfn_runs(unsigned long nr, pfn_run_next_t next, void *iter);

#endif /* _LINUX_PFN_RUNS_H */
