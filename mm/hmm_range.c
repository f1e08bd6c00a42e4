// SPDX-License-Identifier: GPL-2.0
/*
 * Mirror a range of a process's pages: register, wait until valid, read, commit.
 *
 * A tracker is a subscription of mm/mmu_notifier.c with the loop around it that
 * every driver would have to write. A range of it, a struct hmm_range, is
 *
 *   valid        range->notifier_seq is the tracker's seq: nothing has hit the tracker
 *                since it was read, and nothing was in flight then
 *   hit          the tracker's seq is another one: what was read is to be dropped
 *   gone         mm_users is 0: there is no address space left to read
 *   closing      hmm_tracker_unregister() has begun
 *
 * hmm_range_begin() leads from valid or hit to valid, or fails; a callback leads to
 * hit. Gone and closing are final. The end of a range is exclusive, as in struct
 * hmm_range.
 *
 * Locks: mmap_lock is taken here, for reading, and dropped before anything returns;
 * no function is called, calls back or returns with it held. The driver's lock is
 * known to the driver alone: it takes it in its commit function and in its
 * invalidate callback.
 *
 * The callback sets the seq without the driver's lock, so that no driver can forget
 * to. A commit under way either sees it, or is there to be taken down:
 *
 *   hmm_range_invalidate():              commit():
 *                                         driver's lock
 *                                         hmm_range_valid(): true
 *    seq = cur_seq
 *    ops->invalidate():                   program the device
 *                                         driver's unlock
 *      driver's lock
 *      take down what was programmed      [Required: nothing stays]
 *      driver's unlock
 *
 * If ops->invalidate() has the lock first, its unlock and commit()'s lock order the
 * seq before hmm_range_valid(), which is false. A task that reads the new seq before
 * the driver has heard of the range does not take it for valid: the range is in flight
 * until its end, after the driver's callback, and hmm_range_begin() sleeps until then.
 *
 * hmm_tracker_unregister() waits for the callers, then takes down what they have
 * committed, and removes the subscription last:
 *
 *   hmm_tracker_unregister():            hmm_range_wait_until_valid():
 *                                         users: 2
 *                                         sleeps
 *    closing = true
 *    users: 1, waits for idle
 *                                         woken: closing, so -ECANCELED
 *                                         users: 0, idle
 *                                         [Required: tracker not looked at]
 *    seq = HMM_RANGE_SEQ_GONE
 *    ops->invalidate()
 *    mmu_interval_notifier_remove()
 *
 * A task that has populated without a commit function is no user any more when it
 * takes the driver's lock. It finds the range not valid.
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
 * The most that is walked before mmap_lock is dropped once. A power of two, so that
 * huge pages of up to this size are not walked in two parts. Larger ones are (1 GiB,
 * or 512 MiB with pages of 64 KiB): a walk begins and ends at any page of them.
 */
#define HMM_RANGE_PIECE		SZ_16M

/* Seqs that no invalidation has: theirs are odd. */
#define HMM_RANGE_SEQ_NONE	0UL	/* a range that is not valid */
#define HMM_RANGE_SEQ_GONE	2UL	/* a tracker that is not told any more */

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
 * hmm_tracker_register - begin to be told about a range of an mm
 * @tracker: the driver's, not registered; from now on not to be moved or freed until
 *	hmm_tracker_unregister() has returned
 * @mm: the mm. The caller makes sure that the struct stays (it is its own, or it has
 *	used mmgrab() or mmget()); the tracker keeps it from then on.
 * @start: first address, a multiple of PAGE_SIZE
 * @end: first address that is not in the range any more, a multiple of PAGE_SIZE
 * @ops: the driver's callbacks, which may be called before this returns
 *
 * The range need not be mapped. A registered range is not valid by that:
 * invalidations that are in flight do not call the tracker, but a wait for it waits
 * for them.
 *
 * Context: process context, may sleep. mmap_lock is not held by the caller; it may
 * be taken for writing, and is not held on return. No lock is held that @ops takes.
 * Return:
 * * 0 - registered: hmm_tracker_unregister() has to be called, even if the mm has
 *   exited by then
 * * -EINVAL - @start or @end is not a multiple of PAGE_SIZE, or the range is empty
 * * -EFAULT - the address space of @mm is gone
 * * -ENOMEM - no memory for the mm's first subscription
 * * -EINTR - a signal came while the mm was made ready for its first subscription
 */
int hmm_tracker_register(struct hmm_tracker *tracker, struct mm_struct *mm,
			 unsigned long start, unsigned long end,
			 const struct hmm_tracker_ops *ops)
{
	int ret;

	if (!PAGE_ALIGNED(start | end) || start >= end)
		return -EINVAL;
	/* A subscription can only be made while there is an address space. */
	if (!mmget_not_zero(mm))
		return -EFAULT;

	tracker->ops = ops;
	tracker->closing = false;
	refcount_set(&tracker->users, 1);
	init_completion(&tracker->idle);
	ret = mmu_interval_notifier_insert(&tracker->notifier, mm, start,
					   end - start, &hmm_range_notifier_ops);
	/* No exit in here: the caller may hold a lock that its ->release takes. */
	mmput_async(mm);
	return ret;
}
EXPORT_SYMBOL_GPL(hmm_tracker_register);

/**
 * hmm_tracker_unregister - be told no more
 * @tracker: registered; to be unregistered once
 *
 * Other tasks may be in calls on the tracker. Those that wait return -ECANCELED when
 * the invalidations that they wait for are over, if their time is not before, and this
 * returns after them. A call may begin later only while the memory of the tracker
 * stays: hmm_range_wait_until_valid(), hmm_range_snapshot() and hmm_range_populate()
 * return -ECANCELED then, and do not keep this from returning.
 *
 * As pages may go from then on without a word, the invalidate callback is called once
 * more, for the whole range, allowed to block, with MMU_NOTIFY_CLEAR, after the last
 * commit function. What was read before is not valid any more: hmm_range_valid() is
 * false, for as long as the memory stays.
 *
 * Context: process context. Sleeps until the calls that are in progress have returned,
 * and then until the callbacks of the tracker that are running have. It waits for no
 * other callback, and for no invalidation's end. mmap_lock is not held by the caller,
 * nor any lock that the invalidate callback or a commit function takes.
 */
void hmm_tracker_unregister(struct hmm_tracker *tracker)
{
	struct interval_tree_node *node = &tracker->notifier.interval_tree;
	struct mmu_notifier_range range;

	/* The calls that are waited for take it. */
	might_lock_read(&tracker->notifier.mm->mmap_lock);

	/* Pairs with hmm_range_enter(): no caller gets in any more. */
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

/*
 * Makes an unregister wait for us; to be undone with hmm_range_leave(). Callers that
 * come one after the other must not keep users above 0 once it has begun.
 */
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

/*
 * Whether there is any use in going on. mm_users stays 0 once it is. A signal is
 * looked for here because rounds that never sleep see none.
 */
static int hmm_range_usable(struct hmm_tracker *tracker)
{
	if (READ_ONCE(tracker->closing))
		return -ECANCELED;
	if (!atomic_read(&tracker->notifier.mm->mm_users))
		return -EFAULT;
	return fatal_signal_pending(current) ? -EINTR : 0;
}

/*
 * Waits until nothing that overlaps is in flight, and reads the seq. A hit meanwhile
 * means another round. The deadline ends the rounds; each lasts no longer than the
 * ranges that were in flight at its start.
 */
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

/* What a caller of ours can get wrong. */
static int hmm_range_check(const struct hmm_range *range)
{
	const struct interval_tree_node *node = &range->notifier->interval_tree;

	if (range->notifier->ops != &hmm_range_notifier_ops)
		return -EINVAL;
	if (!PAGE_ALIGNED(range->start | range->end) ||
	    range->start >= range->end ||
	    range->start < node->start || range->end - 1 > node->last)
		return -EINVAL;
	/* When a round starts again, the array holds results, not requests. */
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

	/* Not over hmm_range_begin()'s sleep: an exit would have to wait for us. */
	if (!mmget_not_zero(mm))
		return -EFAULT;

	piece.default_flags = default_flags;
	while (!ret && piece.start < range->end) {
		piece.end = min(range->end - 1,
				piece.start | (HMM_RANGE_PIECE - 1)) + 1;
		ret = hmm_range_fault_unlocked(&piece);
		if (!ret && fatal_signal_pending(current))
			ret = -EINTR;
		piece.hmm_pfns += (piece.end - piece.start) >> PAGE_SHIFT;
		piece.start = piece.end;
	}
	/*
	 * We are a user of the tracker. If this is the last one of the mm, its exit
	 * calls ->release of the driver, which may unregister, and so wait for us.
	 */
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
		ret = hmm_range_begin(range, deadline);
		if (!ret)
			ret = hmm_range_walk(range, default_flags);
		if (!ret && commit)
			ret = commit(range);
		cond_resched();
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
 * hmm_range_wait_until_valid - wait until nothing that hits the range is in flight
 * @range: notifier is that of a registered tracker; on 0, notifier_seq is set, so that
 *	hmm_range_valid() is true until the tracker is hit
 * @timeout_ms: how long to wait at most, in milliseconds; 0: only look
 *
 * It waits for invalidations that overlap the tracker, and for no others.
 *
 * This is for a driver that reads pages by means of its own. hmm_range_snapshot()
 * and hmm_range_populate() do it by themselves.
 *
 * Context: process context, sleeps. mmap_lock is not held by the caller, not taken,
 * and not held on return. No lock is held that an invalidate callback takes.
 * Return:
 * * 0 - the range was valid at a moment during the call
 * * -ETIMEDOUT - it was not, in @timeout_ms
 * * -EINTR - a fatal signal is pending
 * * -EFAULT - the address space is gone
 * * -ECANCELED - the tracker is being unregistered
 * * -EINVAL - notifier is not that of a tracker
 *
 * After an error the range is not valid.
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
 * hmm_range_snapshot - read what is mapped in a range, and commit it
 * @range: as for hmm_range_populate(); default_flags does not matter
 * @commit: as for hmm_range_populate()
 * @timeout_ms: as for hmm_range_populate()
 *
 * As hmm_range_populate(), but without page faults: the entries of hmm_pfns say what
 * is there. One that has HMM_PFN_VALID is mapped. One that a fault could not map, such
 * as a hole, one that may not be read, or a device's memory, has HMM_PFN_ERROR. One
 * with neither is not mapped, or not without a fault, and the rest of it means nothing:
 * it need not be 0. @commit has to look at HMM_PFN_VALID.
 *
 * Context: as hmm_range_populate().
 * Return: as hmm_range_populate(), but not what a fault may end with: -EFAULT means
 * that the address space is gone, and there is no -EPERM.
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
 * @range: notifier is that of a registered tracker; start and end are multiples of
 *	PAGE_SIZE, inside of it; default_flags is HMM_PFN_REQ_FAULT, with
 *	HMM_PFN_REQ_WRITE if the pages are to be written to; pfn_flags_mask is 0;
 *	hmm_pfns has an entry for each page and dev_private_owner is as for
 *	hmm_range_fault(). hmm_pfns and notifier_seq are written.
 * @commit: called with the range filled, and no lock held: takes the lock that the
 *	tracker's invalidate callback takes; if hmm_range_valid(@range), programs the
 *	device and returns 0 or an error that ends the call; else returns -EBUSY,
 *	which starts again. NULL: the caller does as much after the return.
 * @timeout_ms: after so many milliseconds it does not wait for invalidations, or
 *	start again, any more. There is always one round.
 *
 * @timeout_ms does not bound the wait for mmap_lock, which a task that changes the
 * mappings holds for as long as it takes, nor page faults, which may wait for a disk,
 * a file server or userfaultfd. A fatal signal ends the former, and the latter as far
 * as it ends a fault of the process itself. A kernel thread has no signals: where
 * userfaultfd would have to bring a page, it gets -EFAULT.
 *
 * The pages are not pinned: an entry of hmm_pfns means something only under the
 * lock, with the range valid.
 *
 * Context: process context, sleeps. mmap_lock is not held by the caller; it is taken
 * for reading and dropped, once or more, and not held in @commit nor on return. No lock
 * is held that an invalidate callback takes. The mm need not be current's. If this turns
 * out to be the last user of the address space, a worker runs its exit, later.
 * Return:
 * * 0 - committed; with a NULL @commit: filled, see hmm_range_valid()
 * * -ETIMEDOUT - hit, or being invalidated, again and again for @timeout_ms
 * * -EINTR - a fatal signal is pending
 * * -EFAULT - the address space is gone, or a page could not be faulted in: there is
 *   none (a hole, PROT_NONE, device memory, past a file's end) or no memory for it
 * * -EPERM - HMM_PFN_REQ_WRITE and a mapping that must not be written to
 * * -ECANCELED - the tracker is being unregistered
 * * -EINVAL - @range is not as above
 * * another - as returned by @commit
 *
 * After an error the range is not valid.
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
