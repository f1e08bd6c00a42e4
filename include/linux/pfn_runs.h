/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Runs of page frames: mapping them into a VM_PFNMAP vma, and unpinning them.
 */
#ifndef _LINUX_PFN_RUNS_H
#define _LINUX_PFN_RUNS_H

#include <linux/mm_types.h>

/**
 * struct pfn_run - contiguous frames; an array of such says where a buffer's pages are
 * @first: place of the first frame in the buffer, in pages: where the run before ends
 * @nr: how many there are, not 0
 * @pfn: the first one
 */
struct pfn_run {
	u32 first;
	u32 nr;
	unsigned long pfn;
};

vm_fault_t vmf_insert_pfn_runs(struct vm_fault *vmf, unsigned long start,
			       unsigned long end, const struct pfn_run *run, u32 page);
void unpin_pfn_runs(const struct pfn_run *runs, u32 nr_runs);

#endif /* _LINUX_PFN_RUNS_H */
