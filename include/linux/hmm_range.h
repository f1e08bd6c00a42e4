/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Mirror a range of a process's pages in a device: register a tracker, wait until
 * the range is valid, read or fault its pages, commit.
 *
 * hmm_tracker_*() takes a tracker, hmm_range_*() a struct hmm_range that names one.
 * Documentation/mm/hmm-range.rst has the whole life of a range, as an example.
 */
#ifndef _LINUX_HMM_RANGE_H
#define _LINUX_HMM_RANGE_H

#include <linux/completion.h>
#include <linux/hmm.h>
#include <linux/mmu_notifier.h>
#include <linux/refcount.h>

struct hmm_tracker;

/**
 * struct hmm_tracker_ops - a driver's callbacks
 * @invalidate: The device must not use pages mapped in @range->start (inclusive) to
 *	@range->end (exclusive) when this returns; the two may lie outside of the tracker.
 *	The driver takes the lock that it commits under, removes its entries, and returns
 *	true. Where @may_block is false (the OOM reaper), it must not sleep: if it would
 *	have to, it returns false and has changed nothing. Where @may_block is true it
 *	returns true.
 *
 *	Called with locks of mm held (mmap_lock, or those of a reverse mapping): it must
 *	not allocate memory or take mmap_lock, nor do so under a lock that it takes. Calls
 *	for one tracker may run at the same time. hmm_tracker_unregister() makes one as
 *	well, for the whole tracker, with MMU_NOTIFY_CLEAR as the event.
 * @ignores: Optional. Returns true for an event that the driver began itself and
 *	handles where it began it: MMU_NOTIFY_MIGRATE or MMU_NOTIFY_EXCLUSIVE with
 *	the driver's own @range->owner. The range stays valid then, and @invalidate is
 *	not called. Called under the same locks as @invalidate; must not sleep.
 */
struct hmm_tracker_ops {
	bool (*invalidate)(struct hmm_tracker *tracker,
			   const struct mmu_notifier_range *range,
			   bool may_block);
	bool (*ignores)(struct hmm_tracker *tracker,
			const struct mmu_notifier_range *range);
};

/**
 * struct hmm_tracker - a range of an mm that a driver subscribes to
 *
 * The driver embeds it, and keeps it registered for as long as the device has entries
 * for pages of the range. The members belong to mm/hmm_range.c, except that a driver
 * points the notifier of a struct hmm_range to @notifier. Any number of tasks may work
 * on a tracker at a time, each with a struct hmm_range of its own.
 *
 * @notifier: the subscription; its interval tree node has the bounds. It keeps
 *	@notifier.mm, the struct, alive, not the address space
 * @ops: the driver's
 * @users: the registration, and each call that works on the tracker
 * @closing: hmm_tracker_unregister() has begun
 * @idle: @users is 0
 */
struct hmm_tracker {
	struct mmu_interval_notifier notifier;
	const struct hmm_tracker_ops *ops;
	refcount_t users;
	bool closing;
	struct completion idle;
};

int hmm_tracker_register(struct hmm_tracker *tracker, struct mm_struct *mm,
			 unsigned long start, unsigned long end,
			 const struct hmm_tracker_ops *ops);
void hmm_tracker_unregister(struct hmm_tracker *tracker);

int hmm_range_wait_until_valid(struct hmm_range *range, unsigned int timeout_ms);
int hmm_range_snapshot(struct hmm_range *range,
		       int (*commit)(struct hmm_range *range),
		       unsigned int timeout_ms);
int hmm_range_populate(struct hmm_range *range,
		       int (*commit)(struct hmm_range *range),
		       unsigned int timeout_ms);

/**
 * hmm_range_valid - test whether a range is still valid
 * @range: as filled by hmm_range_wait_until_valid(), hmm_range_snapshot() or
 *	hmm_range_populate()
 *
 * Drivers use only this, not mmu_interval_read_retry(): that relies on the seq being
 * set under the driver's lock, and a tracker's is set before its callback, without it.
 *
 * Context: under the lock that the tracker's invalidate callback takes. Call it once per
 * section: true holds until the lock is dropped, even if a second call returns false, as the
 * CPU's page tables change only after the callback has had the lock. Without the lock, true
 * means nothing, and false is final. mmap_lock does not matter.
 * Return: true if the last call for @range returned 0 and nothing has hit the tracker
 * since. hmm_tracker_unregister() is a hit, too.
 */
static inline bool hmm_range_valid(const struct hmm_range *range)
{
	return !mmu_interval_check_retry(range->notifier, range->notifier_seq);
}

#endif /* _LINUX_HMM_RANGE_H */
