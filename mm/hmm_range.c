// SPDX-License-Identifier: GPL-2.0
/*
 * Mirror a range of a process's pages: register, wait until valid, read, commit.
 *
 * A struct hmm_range is valid if its notifier_seq is the seq of its tracker.
 * hmm_range_begin() makes it valid, with no invalidation in flight. An invalidation that
 * the driver does not ignore gives the tracker a new seq: a hit. An address space is gone
 * when mm_users is 0, a tracker closing when hmm_tracker_unregister() has begun; both are
 * final.
 *
 * Locks: mmap_lock is taken here, for reading, and not held in the commit function nor on
 * return. The driver's functions take its lock; this file never does.
 *
 * The seq is set here, without the driver's lock, so that no driver can forget to. A
 * commit either sees the new seq, or its entries are there to be removed:
 *
 *   hmm_range_invalidate():              commit():
 *                                         driver's lock
 *                                         hmm_range_valid(): true
 *    seq = cur_seq
 *    ops->invalidate():                   program the device
 *                                         driver's unlock
 *      driver's lock
 *      remove the device's entries        [Required: none is left]
 *      driver's unlock
 *
 * If ops->invalidate() gets the lock first, its unlock and commit()'s lock order the
 * seq before hmm_range_valid(), which is false.
 *
 *   hmm_tracker_unregister():            hmm_range_wait_until_valid():
 *                                         users: 2, sleeps
 *    closing = true, users: 1
 *    waits for idle
 *                                         woken: closing, so -ECANCELED
 *                                         users: 0, idle
 *    seq = HMM_RANGE_SEQ_GONE             [Required: no access to the tracker]
 *    ops->invalidate()
 *    mmu_interval_notifier_remove()
 */
#include <linux/hmm_range.h>
#include <linux/export.h>
#include <linux/kernel.h>
#include <linux/mm.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/sizes.h>

#include "internal.h"

/*
 * The longest walk under one mmap_lock section. A power of two: only huge pages that are
 * larger are split between walks, which may begin at any page of them.
 */
#define HMM_RANGE_PIECE		SZ_16M

/* Invalidations have odd seqs. */
#define HMM_RANGE_SEQ_NONE	0UL	/* of a range that is not valid */
#define HMM_RANGE_SEQ_GONE	2UL	/* of an unregistered tracker */

static struct hmm_tracker *to_tracker(struct mmu_interval_notifier *notifier)
{
	return container_of(notifier, struct hmm_tracker, notifier);
}

static bool hmm_range_invalidate(struct mmu_interval_notifier *notifier,
				 const struct mmu_notifier_range *range,
				 unsigned long cur_seq)
{
	struct hmm_tracker *tracker = to_tracker(notifier);

	if (tracker->ops->ignores && tracker->ops->ignores(tracker, range))
		return true;
	mmu_interval_set_seq(notifier, cur_seq);
	return tracker->ops->invalidate(tracker, range,
					mmu_notifier_range_blockable(range));
}

static const struct mmu_interval_notifier_ops hmm_range_notifier_ops = {
	.invalidate = hmm_range_invalidate,
};

/**
 * hmm_tracker_register - subscribe to the invalidations of a range of an mm
 * @tracker: not registered; not moved or freed until hmm_tracker_unregister() returns
 * @mm: the caller keeps the struct alive during the call, the tracker from then on
 * @start: first address, a multiple of PAGE_SIZE
 * @end: first address after the range, a multiple of PAGE_SIZE
 * @ops: the driver's callbacks, which may be called before this returns
 *
 * The range need not be mapped, and registration does not make it valid.
 *
 * Context: process context, may sleep. The caller holds neither mmap_lock, which may be
 * taken for writing and is dropped again, nor a lock that @ops takes.
 * Return:
 * * 0 - the caller has to call hmm_tracker_unregister(), even if the mm exits before
 * * -EINVAL - @start or @end is not aligned, or the range is empty
 * * -EFAULT - the address space of @mm is gone
 * * -ENOMEM, -EINTR - no memory, or a signal, during the mm's first subscription
 */
int hmm_tracker_register(struct hmm_tracker *tracker, struct mm_struct *mm,
			 unsigned long start, unsigned long end,
			 const struct hmm_tracker_ops *ops)
{
	int ret;

	if (!PAGE_ALIGNED(start | end) || start >= end)
		return -EINVAL;
	/* Without an address space there can be no subscription. */
	if (!mmget_not_zero(mm))
		return -EFAULT;

	tracker->ops = ops;
	tracker->closing = false;
	refcount_set(&tracker->users, 1);
	init_completion(&tracker->idle);
	ret = mmu_interval_notifier_insert(&tracker->notifier, mm, start,
					   end - start, &hmm_range_notifier_ops);
	/* Not mmput(): the caller may hold a lock that its ->release takes. */
	mmput_async(mm);
	return ret;
}
EXPORT_SYMBOL_GPL(hmm_tracker_register);

/**
 * hmm_tracker_unregister - end the subscription of a tracker
 * @tracker: registered; must be unregistered once
 *
 * Tasks that wait in a call on the tracker return -ECANCELED when the invalidations that
 * they wait for end, or -ETIMEDOUT at their timeout. Tasks that read pages return -ECANCELED
 * at the next multiple of 16 MiB. Later calls return it at once, as long as the driver keeps
 * the memory of the tracker. After the last commit function, the invalidate callback is
 * called once more: for the whole range, with MMU_NOTIFY_CLEAR, allowed to block. From then
 * on hmm_range_valid() is false.
 *
 * A page fault in progress is not interrupted. If its page comes from a server
 * (userfaultfd, FUSE), this waits until the server answers, or the faulting task is killed,
 * which a kernel thread cannot be.
 *
 * Context: process context. Sleeps until the calls in progress have returned, as above, and
 * then until the running callbacks of the tracker have. Without calls in progress it does not
 * wait for other callbacks or the end of an invalidation. The caller holds neither mmap_lock
 * nor a lock that the invalidate callback or a commit function takes.
 */
void hmm_tracker_unregister(struct hmm_tracker *tracker)
{
	struct interval_tree_node *node = &tracker->notifier.interval_tree;
	struct mmu_notifier_range range;

	might_lock_read(&tracker->notifier.mm->mmap_lock);

	/* Pairs with hmm_range_enter(). */
	WRITE_ONCE(tracker->closing, true);
	if (!refcount_dec_and_test(&tracker->users))
		wait_for_completion(&tracker->idle);

	mmu_notifier_range_init(&range, MMU_NOTIFY_CLEAR,
				MMU_NOTIFIER_RANGE_BLOCKABLE, tracker->notifier.mm,
				node->start, node->last + 1);
	mmu_interval_set_seq(&tracker->notifier, HMM_RANGE_SEQ_GONE);
	tracker->ops->invalidate(tracker, &range, true);
	mmu_interval_notifier_remove(&tracker->notifier);
}
EXPORT_SYMBOL_GPL(hmm_tracker_unregister);

/* Refuses callers once closing: overlapping callers could keep users above 0 for ever. */
static int hmm_range_enter(struct hmm_tracker *tracker)
{
	if (READ_ONCE(tracker->closing) || !refcount_inc_not_zero(&tracker->users))
		return -ECANCELED;
	return 0;
}

static void hmm_range_leave(struct hmm_tracker *tracker)
{
	if (refcount_dec_and_test(&tracker->users))
		complete(&tracker->idle);
}

static unsigned long jiffies_until(unsigned long deadline)
{
	unsigned long now = jiffies;

	return time_before(now, deadline) ? deadline - now : 0;
}

/* Checked between steps: rounds and walks that do not sleep have no other place to end. */
static int hmm_range_usable(struct hmm_tracker *tracker)
{
	if (READ_ONCE(tracker->closing))
		return -ECANCELED;
	if (!atomic_read(&tracker->notifier.mm->mm_users))
		return -EFAULT;
	return fatal_signal_pending(current) ? -EINTR : 0;
}

/* Each wait ends with the invalidations that are in flight when it begins. */
static int hmm_range_begin(struct hmm_range *range, unsigned long deadline)
{
	struct hmm_tracker *tracker = to_tracker(range->notifier);
	unsigned long left;
	int ret;

	for (;;) {
		left = jiffies_until(deadline);
		ret = hmm_range_usable(tracker) ?:
		      mmu_interval_read_begin_timeout(range->notifier,
						      &range->notifier_seq, left) ?:
		      hmm_range_usable(tracker);
		if (ret)
			return ret;
		if (hmm_range_valid(range))
			return 0;
		if (!left)
			return -ETIMEDOUT;
		cond_resched();
	}
}

static int hmm_range_check(const struct hmm_range *range)
{
	const struct interval_tree_node *node = &range->notifier->interval_tree;

	if (range->notifier->ops != &hmm_range_notifier_ops)
		return -EINVAL;
	if (!PAGE_ALIGNED(range->start | range->end) ||
	    range->start >= range->end ||
	    range->start < node->start || range->end - 1 > node->last)
		return -EINVAL;
	/* From the second round on, hmm_pfns holds results, not requests. */
	if (range->pfn_flags_mask)
		return -EINVAL;
	return 0;
}

/* Fills range->hmm_pfns. -EBUSY: hit meanwhile. */
static int hmm_range_walk(const struct hmm_range *range, unsigned long default_flags)
{
	struct mm_struct *mm = range->notifier->mm;
	struct hmm_range piece = *range;
	int ret = 0;

	/* Not held in hmm_range_begin(), whose sleep an exit must end. */
	if (!mmget_not_zero(mm))
		return -EFAULT;

	piece.default_flags = default_flags;
	while (!ret && piece.start < range->end) {
		piece.end = min(range->end - 1,
				piece.start | (HMM_RANGE_PIECE - 1)) + 1;
		ret = hmm_range_fault_unlocked(&piece) ?:
		      hmm_range_usable(to_tracker(range->notifier));
		piece.hmm_pfns += (piece.end - piece.start) >> PAGE_SHIFT;
		piece.start = piece.end;
	}
	/* Not mmput(): ->release may unregister, and so wait for this call. */
	mmput_async(mm);
	return ret;
}

/* Rounds of waiting, reading and committing, until one is not hit. */
static int hmm_range_rounds(struct hmm_range *range, unsigned long default_flags,
			    int (*commit)(struct hmm_range *range),
			    unsigned int timeout_ms)
{
	unsigned long deadline = jiffies + msecs_to_jiffies(timeout_ms);
	int ret;

	do {
		/* Not after the commit, which may have kept the driver's lock. */
		cond_resched();
		ret = hmm_range_begin(range, deadline);
		if (!ret)
			ret = hmm_range_walk(range, default_flags);
		if (!ret && commit)
			ret = commit(range);
	} while (ret == -EBUSY && jiffies_until(deadline));
	return ret == -EBUSY ? -ETIMEDOUT : ret;
}

static int hmm_range_run(struct hmm_range *range, unsigned long default_flags,
			 int (*commit)(struct hmm_range *range),
			 unsigned int timeout_ms)
{
	int ret;

	ret = hmm_range_check(range) ?: hmm_range_enter(to_tracker(range->notifier));
	if (!ret) {
		ret = hmm_range_rounds(range, default_flags, commit, timeout_ms);
		hmm_range_leave(to_tracker(range->notifier));
	}
	if (ret)
		range->notifier_seq = HMM_RANGE_SEQ_NONE;
	return ret;
}

/**
 * hmm_range_wait_until_valid - wait until no invalidation of a range is in flight
 * @range: notifier is that of a registered tracker; notifier_seq is written
 * @timeout_ms: the longest wait, in milliseconds; 0: do not wait; UINT_MAX: the longest
 *	that jiffies can count, 12 days or more
 *
 * For a driver that reads pages by means of its own. It waits for invalidations that
 * overlap the tracker, and for no others. After an error the range is not valid.
 *
 * Context: process context, sleeps. The caller holds neither mmap_lock nor a lock that an
 * invalidate callback takes.
 * Return:
 * * 0 - hmm_range_valid() is true until the tracker is hit
 * * -ETIMEDOUT - hit again and again, or being invalidated, for @timeout_ms
 * * -EINTR - a fatal signal is pending
 * * -EFAULT - the address space is gone
 * * -ECANCELED - the tracker is being unregistered
 * * -EINVAL - notifier is not that of a tracker
 */
int hmm_range_wait_until_valid(struct hmm_range *range, unsigned int timeout_ms)
{
	struct hmm_tracker *tracker = to_tracker(range->notifier);
	int ret = -EINVAL;

	if (range->notifier->ops == &hmm_range_notifier_ops)
		ret = hmm_range_enter(tracker);
	if (!ret) {
		ret = hmm_range_begin(range, jiffies + msecs_to_jiffies(timeout_ms));
		hmm_range_leave(tracker);
	}
	if (ret)
		range->notifier_seq = HMM_RANGE_SEQ_NONE;
	return ret;
}
EXPORT_SYMBOL_GPL(hmm_range_wait_until_valid);

/**
 * hmm_range_snapshot - read the mapped pages of a range, and commit them
 * @range: as for hmm_range_populate(), but default_flags is ignored
 * @commit: as for hmm_range_populate()
 * @timeout_ms: as for hmm_range_populate()
 *
 * Does not fault. An entry of hmm_pfns with HMM_PFN_VALID is mapped. One with HMM_PFN_ERROR
 * is one that a fault could not map: a hole, no permission to read, device memory. One with
 * neither needs a fault, and its other bits are undefined.
 *
 * Context: as hmm_range_populate().
 * Return: as hmm_range_populate(), without -EPERM; -EFAULT: the address space is gone.
 */
int hmm_range_snapshot(struct hmm_range *range,
		       int (*commit)(struct hmm_range *range),
		       unsigned int timeout_ms)
{
	return hmm_range_run(range, 0, commit, timeout_ms);
}
EXPORT_SYMBOL_GPL(hmm_range_snapshot);

/**
 * hmm_range_populate - fault a range in, and commit it
 * @range: notifier is that of a registered tracker; start and end (exclusive) are
 *	multiples of PAGE_SIZE inside it; default_flags is HMM_PFN_REQ_FAULT, with
 *	HMM_PFN_REQ_WRITE if the device writes; pfn_flags_mask is 0; dev_private_owner is
 *	as for hmm_range_fault(); hmm_pfns has an entry for each page. hmm_pfns and
 *	notifier_seq are written.
 * @commit: called with the range filled, and no lock held. Takes the lock that the
 *	invalidate callback takes. If hmm_range_valid(@range), programs the device and
 *	returns 0, or an error that ends the call; else returns -EBUSY, which starts
 *	another round. Where it returns 0, it may keep the lock, which may be a spinlock.
 *	NULL: the caller does this after the return.
 * @timeout_ms: milliseconds after which no wait for invalidations goes on, and no other
 *	round starts; 0: one round, and no wait; UINT_MAX: 12 days or more
 *
 * @timeout_ms does not bound the wait for mmap_lock, which a task that changes mappings
 * holds for as long as it takes, nor page faults, which may wait for a disk, a file server
 * or userfaultfd. A fatal signal ends the wait for mmap_lock, and a fault where it ends a
 * fault of the process itself. A kernel thread has no signals, and gets -EFAULT where
 * userfaultfd would have to bring a page.
 *
 * The pages are not pinned: entries of hmm_pfns are meaningful only under the driver's
 * lock, with the range valid. After an error the range is not valid.
 *
 * Context: process context, sleeps. The caller holds neither mmap_lock, which is taken for
 * reading and dropped, once or more, nor a lock that an invalidate callback takes. The mm
 * need not be current's. If its last reference is dropped here, a worker runs its exit.
 * Return:
 * * 0 - committed; with a NULL @commit: filled, see hmm_range_valid()
 * * -ETIMEDOUT, -EINTR, -ECANCELED - as hmm_range_wait_until_valid()
 * * -EFAULT - the address space is gone, or a page could not be faulted in: there is
 *   none (a hole, PROT_NONE, device memory, past a file's end) or no memory for it
 * * -EPERM - HMM_PFN_REQ_WRITE, and a mapping without write permission
 * * -EINVAL - @range is not as above
 * * another - as returned by @commit
 */
int hmm_range_populate(struct hmm_range *range,
		       int (*commit)(struct hmm_range *range),
		       unsigned int timeout_ms)
{
	if (range->default_flags != HMM_PFN_REQ_FAULT &&
	    range->default_flags != (HMM_PFN_REQ_FAULT | HMM_PFN_REQ_WRITE)) {
		range->notifier_seq = HMM_RANGE_SEQ_NONE;
		return -EINVAL;
	}
	return hmm_range_run(range, range->default_flags, commit, timeout_ms);
}
EXPORT_SYMBOL_GPL(hmm_range_populate);
