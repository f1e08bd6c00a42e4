// SPDX-License-Identifier: GPL-2.0
/*
 * A device that mirrors pages of a process, as a GPU's driver would, with no other
 * means than mm/hmm_range.c. Documentation/mm/hmm-range.rst shows parts of this file;
 * tools/testing/selftests/hmm-range drives it.
 *
 * Its "page table" is an array with an entry for each page of the tracker. An entry
 * has no reference on the page: that it is there means that the CPU maps it, too.
 *
 * Locks: mirror_file.lock > mmap_lock > mirror.lock, the page table's lock. The invalidate
 * callback takes that, so nothing under it allocates or touches user memory.
 */
#include <linux/fs.h>
#include <linux/highmem.h>
#include <linux/hmm_range.h>
#include <linux/kref.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/overflow.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/wait.h>

#include "test_hmm_range_uapi.h"

/* A stalled callback goes on after this time, so that nothing hangs. */
#define STALL_TIMEOUT		(20 * HZ)
/* How often an entry is compared: the CPU may set its accessed bit meanwhile. */
#define COMPARE_TRIES		1000
/* Pages of one pass of an access. */
#define ACCESS_PAGES		64

/* [example: objects] */
/*
 * struct mirror - what the device knows of a range of a process
 * @tracker: the range
 * @ref: the file that registered it, and each ioctl that works on it
 * @lock: protects @entries and @seen; taken to commit and to invalidate
 * @entries: for each page of the range, the struct page with WRITABLE, or 0
 * @seen: the range as of the last successful wait
 * @stall: HMM_RANGE_TEST_STALL or _LOCKED
 * @unstall: where stalled callbacks sleep
 * @hits: these and the others are for struct hmm_range_test_stats
 */
struct mirror {
	struct hmm_tracker tracker;
	struct kref ref;
	struct mutex lock;	/* the page table's */
	unsigned long *entries;
	struct hmm_range seen;
	u32 stall;
	wait_queue_head_t unstall;
	atomic64_t hits;
	atomic64_t refused;
	atomic64_t stalled;
	atomic64_t waiting;
	atomic64_t commits;
	atomic64_t restarts;
	atomic64_t mismatches;
	atomic64_t compared;
};

/* One pass over pages of a mirror: what a commit function finds its mirror by. */
struct pass {
	struct hmm_range range;
	struct mirror *mirror;
};

/* [example: end] */
#define WRITABLE	1UL

/* The file's mirror, if there is one. */
struct mirror_file {
	struct mutex lock;	/* which one it is */
	struct mirror *mirror;
};

static unsigned long first_address(const struct mirror *mirror)
{
	return mirror->tracker.notifier.interval_tree.start;
}

static unsigned long last_address(const struct mirror *mirror)
{
	return mirror->tracker.notifier.interval_tree.last;
}

static unsigned long *entry_of(struct mirror *mirror, unsigned long addr)
{
	return &mirror->entries[(addr - first_address(mirror)) >> PAGE_SHIFT];
}

static struct page *entry_page(unsigned long entry)
{
	return (struct page *)(entry & ~WRITABLE);
}

static void stall(struct mirror *mirror)
{
	atomic64_inc(&mirror->stalled);
	wait_event_timeout(mirror->unstall, !READ_ONCE(mirror->stall), STALL_TIMEOUT);
	atomic64_dec(&mirror->stalled);
}

/* [example: invalidate] */
/* Takes down what is mirrored of a range that may be larger, or smaller. */
static void mirror_unmap(struct mirror *mirror, unsigned long start, unsigned long last)
{
	unsigned long addr;

	lockdep_assert_held(&mirror->lock);
	start = max(start & PAGE_MASK, first_address(mirror));
	last = min(last, last_address(mirror));
	for (addr = start; addr <= last; addr += PAGE_SIZE)
		*entry_of(mirror, addr) = 0;
}

static bool mirror_invalidate(struct hmm_tracker *tracker,
			      const struct mmu_notifier_range *range,
			      bool may_block)
{
	struct mirror *mirror = container_of(tracker, struct mirror, tracker);
	u32 stalls = may_block ? READ_ONCE(mirror->stall) : 0;

	atomic64_inc(&mirror->hits);
	if (may_block) {
		mutex_lock(&mirror->lock);
	} else if (!mutex_trylock(&mirror->lock)) {
		atomic64_inc(&mirror->refused);
		return false;
	}

	mirror_unmap(mirror, range->start, range->end - 1);
	if (stalls & HMM_RANGE_TEST_STALL_LOCKED)
		stall(mirror);
	mutex_unlock(&mirror->lock);
	if (stalls & HMM_RANGE_TEST_STALL)
		stall(mirror);
	return true;
}

static const struct hmm_tracker_ops mirror_ops = {
	.invalidate = mirror_invalidate,
};

/* [example: end] */

/*
 * Whether the CPU maps what the mirror does. With the lock held and the range valid,
 * an entry of the CPU's page tables can only gain rights: to take one away begins with
 * an invalidation, which waits for the lock. GUP-fast does not look at the zero page.
 */
static bool same_as_cpu(unsigned long addr, unsigned long entry)
{
	unsigned int flags = entry & WRITABLE ? FOLL_WRITE : 0;
	struct page *page;
	int tries;

	if (is_zero_pfn(page_to_pfn(entry_page(entry))))
		return true;
	for (tries = 0; tries < COMPARE_TRIES; tries++) {
		if (get_user_pages_fast_only(addr, 1, flags, &page) != 1)
			continue;
		put_page(page);
		return page == entry_page(entry);
	}
	return false;
}

static void mirror_compare(struct mirror *mirror, const struct hmm_range *range)
{
	unsigned long addr;

	lockdep_assert_held(&mirror->lock);
	if (current->mm != range->notifier->mm)
		return;
	for (addr = range->start; addr < range->end; addr += PAGE_SIZE) {
		atomic64_inc(&mirror->compared);
		if (!same_as_cpu(addr, *entry_of(mirror, addr)))
			atomic64_inc(&mirror->mismatches);
	}
}

/* [example: commit] */
/*
 * Programs the device: its entries for the range are what has been faulted in. All have
 * HMM_PFN_VALID, then; after hmm_range_snapshot(), only those that do may be looked at.
 */
static void mirror_map(struct mirror *mirror, const struct hmm_range *range)
{
	const unsigned long *pfn = range->hmm_pfns;
	unsigned long addr;

	lockdep_assert_held(&mirror->lock);
	for (addr = range->start; addr < range->end; addr += PAGE_SIZE, pfn++)
		*entry_of(mirror, addr) = (unsigned long)hmm_pfn_to_page(*pfn) |
					  (*pfn & HMM_PFN_WRITE ? WRITABLE : 0);
}

static int mirror_commit(struct hmm_range *range)
{
	struct mirror *mirror = container_of(range, struct pass, range)->mirror;
	int ret = 0;

	mutex_lock(&mirror->lock);
	if (hmm_range_valid(range)) {
		mirror_map(mirror, range);
		mirror_compare(mirror, range);
		atomic64_inc(&mirror->commits);
	} else {
		atomic64_inc(&mirror->restarts);
		ret = -EBUSY;
	}
	mutex_unlock(&mirror->lock);
	return ret;
}

static int mirror_populate(struct mirror *mirror, unsigned long addr,
			   unsigned long npages, bool write, unsigned int timeout_ms)
{
	struct pass pass = {
		.range = {
			.notifier = &mirror->tracker.notifier,
			.start = addr,
			.end = addr + (npages << PAGE_SHIFT),
			.default_flags = HMM_PFN_REQ_FAULT |
					 (write ? HMM_PFN_REQ_WRITE : 0),
		},
		.mirror = mirror,
	};
	int ret;

	pass.range.hmm_pfns = kvcalloc(npages, sizeof(unsigned long), GFP_KERNEL);
	if (!pass.range.hmm_pfns)
		return -ENOMEM;
	ret = hmm_range_populate(&pass.range, mirror_commit, timeout_ms);
	kvfree(pass.range.hmm_pfns);
	return ret;
}

/* [example: end] */

/* The range of a command, if it has pages and the addresses do not wrap. */
static int check_cmd(const struct hmm_range_test_cmd *cmd, u64 most)
{
	u64 last;

	if (!cmd->npages || cmd->npages > most || cmd->addr & ~PAGE_MASK ||
	    check_add_overflow(cmd->addr, (cmd->npages << PAGE_SHIFT) - 1, &last) ||
	    last >= ULONG_MAX)
		return -EINVAL;
	return 0;
}

/* The same, of a command to a mirror. */
static int check_part(struct mirror *mirror, const struct hmm_range_test_cmd *cmd, u64 most)
{
	int ret = check_cmd(cmd, most);

	if (ret)
		return ret;
	if (cmd->addr < first_address(mirror) ||
	    cmd->addr + (cmd->npages << PAGE_SHIFT) - 1 > last_address(mirror))
		return -EINVAL;
	return 0;
}

static int ioctl_wait(struct mirror *mirror, const struct hmm_range_test_cmd *cmd)
{
	struct hmm_range range = { .notifier = &mirror->tracker.notifier };
	int ret;

	ret = hmm_range_wait_until_valid(&range, cmd->timeout_ms);
	if (ret)
		return ret;
	mutex_lock(&mirror->lock);
	mirror->seen = range;
	mutex_unlock(&mirror->lock);
	return 0;
}

static int ioctl_is_valid(struct mirror *mirror)
{
	int ret;

	mutex_lock(&mirror->lock);
	ret = mirror->seen.notifier && hmm_range_valid(&mirror->seen);
	mutex_unlock(&mirror->lock);
	return ret;
}

static int ioctl_populate(struct mirror *mirror, const struct hmm_range_test_cmd *cmd)
{
	if (cmd->flags & ~HMM_RANGE_TEST_WRITE)
		return -EINVAL;
	/* Where the pages are, and whether there are any, the helper is to say. */
	if (check_cmd(cmd, HMM_RANGE_TEST_PAGES))
		return -EINVAL;
	return mirror_populate(mirror, cmd->addr, cmd->npages, cmd->flags, cmd->timeout_ms);
}

static u8 pfn_to_state(unsigned long pfn)
{
	/* The other bits mean nothing: a huge page that is not mapped yet has an order. */
	if (!(pfn & HMM_PFN_VALID))
		return pfn & HMM_PFN_ERROR ? HMM_RANGE_TEST_ERROR : 0;
	return HMM_RANGE_TEST_VALID |
	       (pfn & HMM_PFN_WRITE ? HMM_RANGE_TEST_WRITE : 0) |
	       (hmm_pfn_to_map_order(pfn) ? HMM_RANGE_TEST_HUGE : 0);
}

static int ioctl_snapshot(struct mirror *mirror, const struct hmm_range_test_cmd *cmd)
{
	struct hmm_range range = {
		.notifier = &mirror->tracker.notifier,
		.start = cmd->addr,
		.end = cmd->addr + (cmd->npages << PAGE_SHIFT),
	};
	u8 __user *to = u64_to_user_ptr(cmd->ptr);
	unsigned long i;
	int ret;

	ret = check_cmd(cmd, HMM_RANGE_TEST_BUFFER);
	if (ret)
		return ret;
	range.hmm_pfns = kvcalloc(cmd->npages, sizeof(unsigned long), GFP_KERNEL);
	if (!range.hmm_pfns)
		return -ENOMEM;
	ret = hmm_range_snapshot(&range, NULL, cmd->timeout_ms);
	for (i = 0; !ret && i < cmd->npages; i++)
		ret = put_user(pfn_to_state(range.hmm_pfns[i]), to + i);
	kvfree(range.hmm_pfns);
	return ret;
}

static int ioctl_entries(struct mirror *mirror, const struct hmm_range_test_cmd *cmd)
{
	u8 *states;
	unsigned long i;
	int ret;

	ret = check_part(mirror, cmd, HMM_RANGE_TEST_BUFFER);
	if (ret)
		return ret;
	states = kvzalloc(cmd->npages, GFP_KERNEL);
	if (!states)
		return -ENOMEM;

	mutex_lock(&mirror->lock);
	for (i = 0; i < cmd->npages; i++) {
		unsigned long entry = *entry_of(mirror, cmd->addr + (i << PAGE_SHIFT));

		if (entry)
			states[i] = HMM_RANGE_TEST_VALID |
				    (entry & WRITABLE ? HMM_RANGE_TEST_WRITE : 0);
	}
	mutex_unlock(&mirror->lock);

	if (copy_to_user(u64_to_user_ptr(cmd->ptr), states, cmd->npages))
		ret = -EFAULT;
	kvfree(states);
	return ret;
}

/*
 * The device's access to a page: only through an entry that is there, under the
 * lock, as hardware does through its TLB.
 */
static bool mirror_copy_page(struct mirror *mirror, unsigned long addr, void *buffer,
			     bool write)
{
	unsigned long entry = *entry_of(mirror, addr);
	struct page *page = entry_page(entry);

	lockdep_assert_held(&mirror->lock);
	if (!page || (write && !(entry & WRITABLE)))
		return false;
	if (write) {
		memcpy_to_page(page, 0, buffer, PAGE_SIZE);
		folio_mark_dirty(page_folio(page));
	} else {
		memcpy_from_page(buffer, page, 0, PAGE_SIZE);
	}
	return true;
}

/* As many pages as are mirrored, one after the other. */
static unsigned long mirror_copy(struct mirror *mirror, unsigned long addr,
				 unsigned long npages, void *buffer, bool write)
{
	unsigned long done;

	mutex_lock(&mirror->lock);
	for (done = 0; done < npages; done++)
		if (!mirror_copy_page(mirror, addr + (done << PAGE_SHIFT),
				      buffer + (done << PAGE_SHIFT), write))
			break;
	mutex_unlock(&mirror->lock);
	return done;
}

/* Access, fault, access again: until all is done, or timeout_ms are over. */
static int mirror_access(struct mirror *mirror, const struct hmm_range_test_cmd *cmd,
			 void *buffer, bool write)
{
	unsigned long deadline = jiffies + msecs_to_jiffies(cmd->timeout_ms);
	unsigned long done = 0;

	for (;;) {
		unsigned long addr = cmd->addr + (done << PAGE_SHIFT);
		unsigned long left;
		int ret;

		done += mirror_copy(mirror, addr, cmd->npages - done,
				    buffer + (done << PAGE_SHIFT), write);
		if (done == cmd->npages)
			return 0;
		if (time_after(jiffies, deadline))
			return -ETIMEDOUT;
		if (fatal_signal_pending(current))
			return -EINTR;

		addr = cmd->addr + (done << PAGE_SHIFT);
		left = min(cmd->npages - done, ACCESS_PAGES);
		ret = mirror_populate(mirror, addr, left, write, cmd->timeout_ms);
		if (ret)
			return ret;
	}
}

static int ioctl_access(struct mirror *mirror, const struct hmm_range_test_cmd *cmd, bool write)
{
	void __user *user = u64_to_user_ptr(cmd->ptr);
	size_t size = cmd->npages << PAGE_SHIFT;
	void *buffer;
	int ret;

	ret = check_part(mirror, cmd, HMM_RANGE_TEST_BUFFER);
	if (ret)
		return ret;
	buffer = kvmalloc(size, GFP_KERNEL);
	if (!buffer)
		return -ENOMEM;
	if (write && copy_from_user(buffer, user, size))
		ret = -EFAULT;
	if (!ret)
		ret = mirror_access(mirror, cmd, buffer, write);
	if (!ret && !write && copy_to_user(user, buffer, size))
		ret = -EFAULT;
	kvfree(buffer);
	return ret;
}

static int ioctl_set_stall(struct mirror *mirror, const struct hmm_range_test_cmd *cmd)
{
	if (cmd->flags & ~(HMM_RANGE_TEST_STALL | HMM_RANGE_TEST_STALL_LOCKED))
		return -EINVAL;
	WRITE_ONCE(mirror->stall, cmd->flags);
	wake_up_all(&mirror->unstall);
	return 0;
}

static int ioctl_stats(struct mirror *mirror, void __user *to)
{
	struct hmm_range_test_stats stats = {
		.hits = atomic64_read(&mirror->hits),
		.refused = atomic64_read(&mirror->refused),
		.stalled = atomic64_read(&mirror->stalled),
		.waiting = atomic64_read(&mirror->waiting),
		.commits = atomic64_read(&mirror->commits),
		.restarts = atomic64_read(&mirror->restarts),
		.mismatches = atomic64_read(&mirror->mismatches),
		.compared = atomic64_read(&mirror->compared),
	};

	return copy_to_user(to, &stats, sizeof(stats)) ? -EFAULT : 0;
}

static void mirror_free(struct kref *ref)
{
	struct mirror *mirror = container_of(ref, struct mirror, ref);

	kvfree(mirror->entries);
	kfree(mirror);
}

static void mirror_put(struct mirror *mirror)
{
	kref_put(&mirror->ref, mirror_free);
}

/* [example: register] */
static struct mirror *mirror_create(unsigned long addr, unsigned long npages)
{
	struct mirror *mirror;
	int ret = -ENOMEM;

	mirror = kzalloc(sizeof(*mirror), GFP_KERNEL);
	if (!mirror)
		return ERR_PTR(-ENOMEM);
	kref_init(&mirror->ref);
	mutex_init(&mirror->lock);
	init_waitqueue_head(&mirror->unstall);
	mirror->entries = kvcalloc(npages, sizeof(*mirror->entries), GFP_KERNEL);
	if (!mirror->entries)
		goto put;

	/* All that the callback looks at is there: it may be called at once. */
	ret = hmm_tracker_register(&mirror->tracker, current->mm, addr,
				   addr + (npages << PAGE_SHIFT), &mirror_ops);
	if (ret)
		goto put;
	return mirror;

put:
	mirror_put(mirror);
	return ERR_PTR(ret);
}

/* Others may be in calls on the mirror: they end, and theirs is the last reference. */
static void mirror_destroy(struct mirror *mirror)
{
	hmm_tracker_unregister(&mirror->tracker);
	mirror_put(mirror);
}

/* [example: end] */

static int ioctl_register(struct mirror_file *mf, const struct hmm_range_test_cmd *cmd)
{
	struct mirror *mirror;
	int ret = 0;

	if (check_cmd(cmd, HMM_RANGE_TEST_PAGES))
		return -EINVAL;
	mutex_lock(&mf->lock);
	if (mf->mirror) {
		ret = -EBUSY;
	} else {
		mirror = mirror_create(cmd->addr, cmd->npages);
		if (IS_ERR(mirror))
			ret = PTR_ERR(mirror);
		else
			mf->mirror = mirror;
	}
	mutex_unlock(&mf->lock);
	return ret;
}

static int ioctl_unregister(struct mirror_file *mf)
{
	struct mirror *mirror;

	mutex_lock(&mf->lock);
	mirror = mf->mirror;
	mf->mirror = NULL;
	mutex_unlock(&mf->lock);
	if (!mirror)
		return -ENXIO;
	/* The last callback is our own. */
	WRITE_ONCE(mirror->stall, 0);
	wake_up_all(&mirror->unstall);
	mirror_destroy(mirror);
	return 0;
}

/* What needs a mirror, and does not change which the file has. */
static int mirror_ioctl(struct mirror *mirror, unsigned int request,
			const struct hmm_range_test_cmd *cmd)
{
	switch (request) {
	case HMM_RANGE_TEST_WAIT:
		return ioctl_wait(mirror, cmd);
	case HMM_RANGE_TEST_POPULATE:
		return ioctl_populate(mirror, cmd);
	case HMM_RANGE_TEST_SNAPSHOT:
		return ioctl_snapshot(mirror, cmd);
	case HMM_RANGE_TEST_ENTRIES:
		return ioctl_entries(mirror, cmd);
	case HMM_RANGE_TEST_READ:
		return ioctl_access(mirror, cmd, false);
	case HMM_RANGE_TEST_WRITE_PAGES:
		return ioctl_access(mirror, cmd, true);
	case HMM_RANGE_TEST_SET_STALL:
		return ioctl_set_stall(mirror, cmd);
	default:
		return -ENOTTY;
	}
}

static struct mirror *mirror_get(struct mirror_file *mf)
{
	struct mirror *mirror;

	mutex_lock(&mf->lock);
	mirror = mf->mirror;
	if (mirror)
		kref_get(&mirror->ref);
	mutex_unlock(&mf->lock);
	return mirror;
}

static long fops_ioctl(struct file *file, unsigned int request, unsigned long arg)
{
	struct mirror_file *mf = file->private_data;
	struct hmm_range_test_cmd cmd = { };
	void __user *user = (void __user *)arg;
	struct mirror *mirror;
	long ret;

	if (request == HMM_RANGE_TEST_UNREGISTER)
		return ioctl_unregister(mf);
	if (_IOC_DIR(request) == _IOC_WRITE && _IOC_SIZE(request) == sizeof(cmd) &&
	    copy_from_user(&cmd, user, sizeof(cmd)))
		return -EFAULT;
	if (request == HMM_RANGE_TEST_REGISTER)
		return ioctl_register(mf, &cmd);

	mirror = mirror_get(mf);
	if (!mirror)
		return -ENXIO;
	if (request == HMM_RANGE_TEST_STATS) {
		ret = ioctl_stats(mirror, user);
	} else if (request == HMM_RANGE_TEST_IS_VALID) {
		ret = ioctl_is_valid(mirror);
	} else {
		atomic64_inc(&mirror->waiting);
		ret = mirror_ioctl(mirror, request, &cmd);
		atomic64_dec(&mirror->waiting);
	}
	mirror_put(mirror);
	return ret;
}

static int fops_open(struct inode *inode, struct file *file)
{
	struct mirror_file *mf = kzalloc(sizeof(*mf), GFP_KERNEL);

	if (!mf)
		return -ENOMEM;
	mutex_init(&mf->lock);
	file->private_data = mf;
	return 0;
}

static int fops_release(struct inode *inode, struct file *file)
{
	struct mirror_file *mf = file->private_data;

	ioctl_unregister(mf);
	kfree(mf);
	return 0;
}

static const struct file_operations fops = {
	.owner = THIS_MODULE,
	.open = fops_open,
	.release = fops_release,
	.unlocked_ioctl = fops_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
};

static struct miscdevice device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "hmm_range_test",
	.fops = &fops,
	.mode = 0600,
};

module_misc_device(device);

MODULE_DESCRIPTION("Mirrors pages of a process, to test mm/hmm_range.c");
MODULE_LICENSE("GPL");
MODULE_INFO(test, "Y");
