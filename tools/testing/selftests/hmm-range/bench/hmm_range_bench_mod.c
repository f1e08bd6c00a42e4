// SPDX-License-Identifier: GPL-2.0
/*
 * What interval notifiers and their readers cost, on this kernel
 *
 * The same source is built for a kernel with the range helper and for one without:
 * subscriptions and waits are those of mm/mmu_notifier.c, on both; pages are read with
 * the loop that drivers have, or with the helper where there is one.
 */
#include <linux/hmm.h>
#include <linux/ktime.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/mmu_notifier.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/delay.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/wait.h>

#if __has_include(<linux/hmm_range.h>)
#include <linux/hmm_range.h>
#define HAVE_HELPER
#endif

#include "hmm_range_bench.h"

#define TIMEOUT_MS	1000
#define PAGES		512

/* One subscription; usecs is how long its callback sleeps. */
struct sub {
	struct mmu_interval_notifier notifier;
	struct bench *bench;
	long usecs;
};

/* An open file: subscriptions, and the "page table" of the first one. */
struct bench {
	struct mutex lock;	/* the page table's */
	struct sub *subs;
	unsigned int count;
	wait_queue_head_t wq;
	atomic_t stalled;
	unsigned long pfns[PAGES];
	unsigned long table[PAGES];
#ifdef HAVE_HELPER
	struct hmm_tracker tracker;
	bool tracked;
#endif
};

static bool sub_invalidate(struct mmu_interval_notifier *notifier,
			   const struct mmu_notifier_range *range, unsigned long cur_seq)
{
	struct sub *sub = container_of(notifier, struct sub, notifier);
	struct bench *bench = sub->bench;
	long usecs = READ_ONCE(sub->usecs);

	mutex_lock(&bench->lock);
	mmu_interval_set_seq(notifier, cur_seq);
	mutex_unlock(&bench->lock);
	if (!usecs || !mmu_notifier_range_blockable(range))
		return true;

	atomic_inc(&bench->stalled);
	if (usecs < 0)
		wait_event(bench->wq, READ_ONCE(sub->usecs) >= 0);
	else
		usleep_range(usecs, usecs + 50);
	atomic_dec(&bench->stalled);
	return true;
}

static const struct mmu_interval_notifier_ops sub_ops = {
	.invalidate = sub_invalidate,
};

/* What both loops do once the range is valid: under the lock. */
static void program(struct bench *bench, const struct hmm_range *range)
{
	unsigned long n = (range->end - range->start) >> PAGE_SHIFT;
	unsigned long i;

	for (i = 0; i < n; i++)
		bench->table[i] = range->hmm_pfns[i];
}

/* The loop that every driver has, as in the base's lib/test_hmm.c. */
static int populate_by_hand(struct bench *bench, struct hmm_range *range)
{
	unsigned long timeout = jiffies + msecs_to_jiffies(TIMEOUT_MS);
	struct mm_struct *mm = range->notifier->mm;
	int ret;

	if (!mmget_not_zero(mm))
		return -EFAULT;
	for (;;) {
		if (time_after(jiffies, timeout)) {
			ret = -EBUSY;
			break;
		}
		range->notifier_seq = mmu_interval_read_begin(range->notifier);
		mmap_read_lock(mm);
		ret = hmm_range_fault(range);
		mmap_read_unlock(mm);
		if (ret) {
			if (ret == -EBUSY)
				continue;
			break;
		}
		mutex_lock(&bench->lock);
		if (mmu_interval_read_retry(range->notifier, range->notifier_seq)) {
			mutex_unlock(&bench->lock);
			continue;
		}
		program(bench, range);
		mutex_unlock(&bench->lock);
		break;
	}
	mmput(mm);
	return ret;
}

#ifdef HAVE_HELPER
static bool tracker_invalidate(struct hmm_tracker *tracker,
			       const struct mmu_notifier_range *range, bool may_block)
{
	struct bench *bench = container_of(tracker, struct bench, tracker);

	mutex_lock(&bench->lock);
	mutex_unlock(&bench->lock);
	return true;
}

static const struct hmm_tracker_ops tracker_ops = {
	.invalidate = tracker_invalidate,
};

static int commit(struct hmm_range *range)
{
	struct bench *bench = container_of(range->notifier, struct bench, tracker.notifier);
	int ret = -EBUSY;

	mutex_lock(&bench->lock);
	if (hmm_range_valid(range)) {
		program(bench, range);
		ret = 0;
	}
	mutex_unlock(&bench->lock);
	return ret;
}

static int populate_by_helper(struct bench *bench, struct hmm_range *range)
{
	int ret;

	if (!bench->tracked) {
		ret = hmm_tracker_register(&bench->tracker, current->mm, range->start,
					   range->end, &tracker_ops);
		if (ret)
			return ret;
		bench->tracked = true;
	}
	range->notifier = &bench->tracker.notifier;
	return hmm_range_populate(range, commit, TIMEOUT_MS);
}

/* The tracker is registered, populated and unregistered. */
static int fault_by_helper(struct bench *bench, struct hmm_range *range)
{
	int ret = populate_by_helper(bench, range);

	if (bench->tracked)
		hmm_tracker_unregister(&bench->tracker);
	bench->tracked = false;
	return ret;
}
#else
static int populate_by_helper(struct bench *bench, struct hmm_range *range)
{
	return -EOPNOTSUPP;
}

static int fault_by_helper(struct bench *bench, struct hmm_range *range)
{
	return -EOPNOTSUPP;
}
#endif

/* Times one way to read the pages of a command. */
static int bench_pages(struct bench *bench, struct bench_cmd *cmd,
		       struct mmu_interval_notifier *notifier,
		       int (*way)(struct bench *bench, struct hmm_range *range))
{
	struct hmm_range range = {
		.notifier = notifier,
		.start = cmd->addr,
		.end = cmd->addr + (cmd->npages << PAGE_SHIFT),
		.hmm_pfns = bench->pfns,
		.default_flags = HMM_PFN_REQ_FAULT | HMM_PFN_REQ_WRITE,
	};
	u64 begin;
	int ret;

	if (cmd->npages > PAGES)
		return -EINVAL;
	begin = ktime_get_ns();
	ret = way(bench, &range);
	cmd->ns = ktime_get_ns() - begin;
	return ret;
}

static int bench_populate(struct bench *bench, struct bench_cmd *cmd)
{
	if (!bench->count)
		return -EINVAL;
	return bench_pages(bench, cmd, &bench->subs[0].notifier,
			   cmd->helper ? populate_by_helper : populate_by_hand);
}

static int bench_subscribe(struct bench *bench, struct bench_cmd *cmd)
{
	unsigned int i;
	int ret;

	if (bench->subs || cmd->count > BENCH_MOST)
		return -EINVAL;
	bench->subs = kvcalloc(cmd->count, sizeof(*bench->subs), GFP_KERNEL);
	if (!bench->subs)
		return -ENOMEM;
	for (i = 0; i < cmd->count; i++) {
		struct sub *sub = &bench->subs[i];

		sub->bench = bench;
		ret = mmu_interval_notifier_insert(&sub->notifier, current->mm,
						   cmd->addr + i * cmd->stride,
						   cmd->npages << PAGE_SHIFT, &sub_ops);
		if (ret)
			return ret;
		bench->count++;
	}
	return 0;
}

/* What some drivers do for each fault: insert, wait, read, commit, remove. */
static int fault_by_hand(struct bench *bench, struct hmm_range *range)
{
	struct sub sub = { .bench = bench };
	int ret;

	ret = mmu_interval_notifier_insert(&sub.notifier, current->mm, range->start,
					   range->end - range->start, &sub_ops);
	if (ret)
		return ret;
	range->notifier = &sub.notifier;
	ret = populate_by_hand(bench, range);
	mmu_interval_notifier_remove(&sub.notifier);
	return ret;
}

static int bench_fault(struct bench *bench, struct bench_cmd *cmd)
{
	return bench_pages(bench, cmd, NULL, cmd->helper ? fault_by_helper : fault_by_hand);
}

static int bench_wait(struct bench *bench, struct bench_cmd *cmd)
{
	u64 begin = ktime_get_ns();

	mmu_interval_read_begin(&bench->subs[cmd->count].notifier);
	cmd->ns = ktime_get_ns() - begin;
	return 0;
}

static long bench_ioctl(struct file *file, unsigned int request, unsigned long arg)
{
	struct bench *bench = file->private_data;
	void __user *user = (void __user *)arg;
	struct bench_cmd cmd;
	int ret = 0;

	if (request == BENCH_STALLED)
		return atomic_read(&bench->stalled);
	if (request == BENCH_SIZE)
		return sizeof(struct mmu_notifier_range);
	if (copy_from_user(&cmd, user, sizeof(cmd)))
		return -EFAULT;
	if (request == BENCH_SUBSCRIBE)
		return bench_subscribe(bench, &cmd);
	if (request == BENCH_POPULATE) {
		ret = bench_populate(bench, &cmd);
	} else if (request == BENCH_FAULT) {
		ret = bench_fault(bench, &cmd);
	} else if (cmd.count >= bench->count) {
		ret = -EINVAL;
	} else if (request == BENCH_WAIT) {
		ret = bench_wait(bench, &cmd);
	} else if (request == BENCH_STALL) {
		WRITE_ONCE(bench->subs[cmd.count].usecs, cmd.usecs);
	} else if (request == BENCH_RELEASE) {
		WRITE_ONCE(bench->subs[cmd.count].usecs, 0);
		wake_up_all(&bench->wq);
	} else {
		ret = -ENOTTY;
	}
	if (!ret && copy_to_user(user, &cmd, sizeof(cmd)))
		ret = -EFAULT;
	return ret;
}

static int bench_open(struct inode *inode, struct file *file)
{
	struct bench *bench = kvzalloc(sizeof(*bench), GFP_KERNEL);

	if (!bench)
		return -ENOMEM;
	mutex_init(&bench->lock);
	init_waitqueue_head(&bench->wq);
	file->private_data = bench;
	return 0;
}

static int bench_release(struct inode *inode, struct file *file)
{
	struct bench *bench = file->private_data;
	unsigned int i;

#ifdef HAVE_HELPER
	if (bench->tracked)
		hmm_tracker_unregister(&bench->tracker);
#endif
	for (i = 0; i < bench->count; i++)
		mmu_interval_notifier_remove(&bench->subs[i].notifier);
	kvfree(bench->subs);
	kvfree(bench);
	return 0;
}

static const struct file_operations bench_fops = {
	.owner = THIS_MODULE,
	.open = bench_open,
	.release = bench_release,
	.unlocked_ioctl = bench_ioctl,
};

static struct miscdevice bench_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "hmm_range_bench",
	.fops = &bench_fops,
	.mode = 0600,
};

module_misc_device(bench_device);

MODULE_DESCRIPTION("Measures interval notifiers and the range helper");
MODULE_LICENSE("GPL");
MODULE_INFO(test, "Y");
