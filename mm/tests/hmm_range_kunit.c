// SPDX-License-Identifier: GPL-2.0
/*
 * KUnit tests of mm/hmm_range.c, and of the waiting in mm/mmu_notifier.c below it.
 *
 * The invalidations are the tests' own: they call the start and the end, of any range
 * and in any order, and so make the races that the comments there draw, one step
 * after the other. What is tested between a start and its end is expected, not
 * asserted: the range is on the stack, and has to come to its end.
 */
#include <kunit/test.h>
#include <linux/delay.h>
#include <linux/hmm_range.h>
#include <linux/kthread.h>
#include <linux/mman.h>
#include <linux/sched/mm.h>
#include <linux/sched/task.h>
#include <linux/slab.h>

/* Where trackers are, unless they have to have memory: nothing is mapped there. */
#define BASE		0x10000000UL
#define PAGES		4
#define SIZE		(PAGES * PAGE_SIZE)
/* The n-th tracker's address. There is room in between. */
#define AT(n)		(BASE + (n) * 2 * SIZE)

/* Longer than anything takes that is not stuck. */
#define LONG_MS		20000
#define LONG		(LONG_MS * HZ / 1000)

#define MANY		100

/**
 * struct recorder - a tracker that writes down what it is told
 * @tracker: the tracker
 * @range: what is waited for and populated
 * @hits: calls of its callback
 * @may_block: what the last call was told
 * @refuses: says no where it must not block
 * @commits: calls of its commit function
 * @busy: so many of them have the range hit first
 * @error: what they return, if nothing was hit
 */
struct recorder {
	struct hmm_range_tracker tracker;
	struct hmm_range range;
	int hits;
	bool may_block;
	bool refuses;
	int commits;
	int busy;
	int error;
};

static bool recorder_invalidate(struct hmm_range_tracker *tracker,
				const struct mmu_notifier_range *range,
				bool may_block)
{
	struct recorder *recorder = container_of(tracker, struct recorder, tracker);

	recorder->hits++;
	recorder->may_block = may_block;
	return may_block || !recorder->refuses;
}

static const struct hmm_range_ops recorder_ops = {
	.invalidate = recorder_invalidate,
};

static void recorder_unregister(void *recorder)
{
	hmm_range_unregister(&((struct recorder *)recorder)->tracker);
}

static struct recorder *recorder_at(struct kunit *test, unsigned long start)
{
	struct recorder *recorder = kunit_kzalloc(test, sizeof(*recorder), GFP_KERNEL);
	int ret;

	KUNIT_ASSERT_NOT_NULL(test, recorder);
	recorder->range.notifier = &recorder->tracker.notifier;
	ret = hmm_range_register(&recorder->tracker, current->mm, start, start + SIZE,
				 &recorder_ops);
	KUNIT_ASSERT_EQ(test, ret, 0);
	ret = kunit_add_action_or_reset(test, recorder_unregister, recorder);
	KUNIT_ASSERT_EQ(test, ret, 0);
	return recorder;
}

/* 0 or -ETIMEDOUT, at once. */
static int look(struct recorder *recorder)
{
	return hmm_range_wait_until_valid(&recorder->range, 0);
}

static void init_range(struct mmu_notifier_range *range, unsigned long start,
		       unsigned long end)
{
	mmu_notifier_range_init(range, MMU_NOTIFY_CLEAR, 0, current->mm, start, end);
}

static void start(struct mmu_notifier_range *range, unsigned long start, unsigned long end)
{
	init_range(range, start, end);
	mmu_notifier_invalidate_range_start(range);
}

static void end(struct mmu_notifier_range *range)
{
	mmu_notifier_invalidate_range_end(range);
}

static void hit(unsigned long from, unsigned long to)
{
	struct mmu_notifier_range range;

	start(&range, from, to);
	end(&range);
}

/* The edges of a tracker: what a range of them is to do. */
static const struct edge {
	const char *name;
	long start;
	long end;
	bool overlaps;
} edges[] = {
	{ "ends before the first byte", -(long)PAGE_SIZE, 0, false },
	{ "ends with the first byte", -(long)PAGE_SIZE, 1, true },
	{ "is the first byte", 0, 1, true },
	{ "is in the middle", PAGE_SIZE, 2 * PAGE_SIZE, true },
	{ "is the last byte", SIZE - 1, SIZE, true },
	{ "begins with the last byte", SIZE - 1, SIZE + PAGE_SIZE, true },
	{ "begins after the last byte", SIZE, SIZE + 1, false },
	{ "is all and more", -(long)PAGE_SIZE, SIZE + PAGE_SIZE, true },
};

KUNIT_ARRAY_PARAM_DESC(edge, edges, name);

/* Passes if a range that overlaps, and no other, is told and makes invalid. */
static void overlap_hits(struct kunit *test)
{
	const struct edge *edge = test->param_value;
	struct recorder *a = recorder_at(test, AT(0));

	KUNIT_EXPECT_EQ(test, look(a), 0);
	hit(AT(0) + edge->start, AT(0) + edge->end);
	KUNIT_EXPECT_EQ(test, a->hits, edge->overlaps);
	KUNIT_EXPECT_EQ(test, hmm_range_valid(&a->range), !edge->overlaps);
}

/* Passes if a range that overlaps, and no other, is waited for. */
static void overlap_waits(struct kunit *test)
{
	const struct edge *edge = test->param_value;
	struct recorder *a = recorder_at(test, AT(0));
	struct mmu_notifier_range range;

	start(&range, AT(0) + edge->start, AT(0) + edge->end);
	KUNIT_EXPECT_EQ(test, look(a), edge->overlaps ? -ETIMEDOUT : 0);
	end(&range);
	KUNIT_EXPECT_EQ(test, look(a), 0);
	KUNIT_EXPECT_TRUE(test, hmm_range_valid(&a->range));
}

/* Passes if a hit that is over is not waited for, though the epoch goes on. */
static void waits_not_for_the_epoch(struct kunit *test)
{
	struct recorder *a = recorder_at(test, AT(0));
	struct recorder *b = recorder_at(test, AT(1));
	struct mmu_notifier_range range;

	start(&range, AT(0), AT(0) + SIZE);
	hit(AT(1), AT(1) + SIZE);
	KUNIT_EXPECT_EQ(test, b->hits, 1);
	KUNIT_EXPECT_EQ(test, look(b), 0);
	KUNIT_EXPECT_EQ(test, look(a), -ETIMEDOUT);
	end(&range);
	KUNIT_EXPECT_EQ(test, look(a), 0);
}

/*
 * Passes if a second hit in one epoch is seen: the first diagram in mmu_notifier.c,
 * with three hits, as the first may differ from what a new subscription has.
 */
static void second_hit_in_epoch(struct kunit *test)
{
	struct recorder *b = recorder_at(test, AT(1));
	struct mmu_notifier_range range;
	int i;

	recorder_at(test, AT(0));
	start(&range, AT(0), AT(0) + SIZE);
	for (i = 0; i < 3; i++) {
		KUNIT_EXPECT_EQ(test, look(b), 0);
		KUNIT_EXPECT_TRUE(test, hmm_range_valid(&b->range));
		hit(AT(1), AT(1) + 1);
		KUNIT_EXPECT_FALSE(test, hmm_range_valid(&b->range));
	}
	end(&range);
	KUNIT_EXPECT_FALSE(test, hmm_range_valid(&b->range));
}

/* Passes if two that overlap are both waited for, whichever ends first. */
static void waits_for_each(struct kunit *test)
{
	struct recorder *a = recorder_at(test, AT(0));
	struct mmu_notifier_range first, second;

	start(&first, AT(0), AT(0) + 1);
	start(&second, AT(0), AT(0) + SIZE);
	end(&first);
	KUNIT_EXPECT_EQ(test, look(a), -ETIMEDOUT);
	start(&first, AT(0), AT(0) + 1);
	end(&second);
	KUNIT_EXPECT_EQ(test, look(a), -ETIMEDOUT);
	end(&first);
	KUNIT_EXPECT_EQ(test, look(a), 0);
}

/*
 * Passes if a range that was in flight before the tracker was there is waited for by
 * those that it overlaps. Nothing was hit, so the tree is not frozen.
 */
static void registered_in_flight(struct kunit *test)
{
	struct recorder *a, *b;
	struct mmu_notifier_range range;

	recorder_at(test, AT(2));
	start(&range, AT(0), AT(0) + SIZE);
	a = recorder_at(test, AT(0));
	b = recorder_at(test, AT(1));
	KUNIT_EXPECT_EQ(test, a->hits, 0);
	KUNIT_EXPECT_EQ(test, look(a), -ETIMEDOUT);
	KUNIT_EXPECT_EQ(test, look(b), 0);
	hit(AT(1), AT(1) + 1);
	KUNIT_EXPECT_EQ(test, b->hits, 1);
	end(&range);
	KUNIT_EXPECT_EQ(test, look(a), 0);
}

/*
 * Passes if a tracker that is registered while the tree is frozen is not taken for
 * valid before ranges tell it: the second diagram in mmu_interval_read_begin().
 */
static void deferred_waits_for_the_epoch(struct kunit *test)
{
	struct recorder *b;
	struct mmu_notifier_range epoch, range;

	recorder_at(test, AT(0));
	start(&epoch, AT(0), AT(0) + SIZE);
	b = recorder_at(test, AT(1));
	KUNIT_EXPECT_EQ(test, look(b), -ETIMEDOUT);
	start(&range, AT(1), AT(1) + SIZE);
	KUNIT_EXPECT_EQ(test, b->hits, 0);
	KUNIT_EXPECT_EQ(test, look(b), -ETIMEDOUT);
	end(&range);
	KUNIT_EXPECT_EQ(test, look(b), -ETIMEDOUT);
	end(&epoch);
	KUNIT_EXPECT_EQ(test, look(b), 0);
	hit(AT(1), AT(1) + SIZE);
	KUNIT_EXPECT_EQ(test, b->hits, 1);
}

/* Passes if a tracker can go before it ever was in the tree. */
static void deferred_and_gone(struct kunit *test)
{
	struct recorder *b;
	struct mmu_notifier_range epoch;

	recorder_at(test, AT(0));
	start(&epoch, AT(0), AT(0) + SIZE);
	b = recorder_at(test, AT(1));
	kunit_release_action(test, recorder_unregister, b);
	end(&epoch);
	/* The last word of unregister, and no other. */
	KUNIT_EXPECT_EQ(test, b->hits, 1);
	hit(AT(1), AT(1) + SIZE);
	KUNIT_EXPECT_EQ(test, b->hits, 1);
}

/* Passes if a range that an interval refuses is not in flight any more. */
static void refused_by_interval(struct kunit *test)
{
	struct recorder *a = recorder_at(test, AT(0));
	struct recorder *b = recorder_at(test, AT(1));
	struct mmu_notifier_range range;

	b->refuses = true;
	init_range(&range, AT(0), AT(1) + SIZE);
	KUNIT_EXPECT_EQ(test, mmu_notifier_invalidate_range_start_nonblock(&range), -EAGAIN);
	KUNIT_EXPECT_EQ(test, b->hits, 1);
	KUNIT_EXPECT_FALSE(test, b->may_block);
	KUNIT_EXPECT_EQ(test, look(a), 0);
	KUNIT_EXPECT_EQ(test, look(b), 0);

	hit(AT(1), AT(1) + 1);
	KUNIT_EXPECT_TRUE(test, b->may_block);

	b->refuses = false;
	init_range(&range, AT(1), AT(1) + SIZE);
	KUNIT_EXPECT_EQ(test, mmu_notifier_invalidate_range_start_nonblock(&range), 0);
	KUNIT_EXPECT_EQ(test, look(b), -ETIMEDOUT);
	end(&range);
	KUNIT_EXPECT_EQ(test, look(b), 0);
}

static int refuse_to_start(struct mmu_notifier *notifier,
			   const struct mmu_notifier_range *range)
{
	return mmu_notifier_range_blockable(range) ? 0 : -EAGAIN;
}

static const struct mmu_notifier_ops refuse_ops = {
	.invalidate_range_start = refuse_to_start,
};

/* Passes if a range that a listed notifier refuses is not in flight any more. */
static void refused_by_list(struct kunit *test)
{
	struct recorder *a = recorder_at(test, AT(0));
	struct mmu_notifier notifier = { .ops = &refuse_ops };
	struct mmu_notifier_range range;
	int i;

	KUNIT_ASSERT_EQ(test, mmu_notifier_register(&notifier, current->mm), 0);
	for (i = 0; i < 2; i++) {
		init_range(&range, AT(0), AT(0) + SIZE);
		KUNIT_EXPECT_EQ(test, -EAGAIN,
				mmu_notifier_invalidate_range_start_nonblock(&range));
		KUNIT_EXPECT_EQ(test, look(a), 0);
		KUNIT_EXPECT_TRUE(test, hmm_range_valid(&a->range));
		hit(AT(0), AT(0) + SIZE);
		KUNIT_EXPECT_EQ(test, look(a), 0);
	}
	mmu_notifier_unregister(&notifier, current->mm);
	/* The tree can change: it is not frozen for good. */
	KUNIT_EXPECT_EQ(test, look(recorder_at(test, AT(1))), 0);
}

/**
 * struct sleeper - a task that waits
 * @recorder: for what
 * @task: the task
 * @entered: it is about to
 * @result: what came of it
 * @done: it has
 */
struct sleeper {
	struct recorder *recorder;
	struct task_struct *task;
	bool entered;
	int result;
	struct completion done;
};

static int sleep_until_valid(void *data)
{
	struct sleeper *sleeper = data;

	WRITE_ONCE(sleeper->entered, true);
	sleeper->result = hmm_range_wait_until_valid(&sleeper->recorder->range, LONG_MS);
	complete(&sleeper->done);
	return 0;
}

static int sleep_in_read_begin(void *data)
{
	struct sleeper *sleeper = data;

	WRITE_ONCE(sleeper->entered, true);
	mmu_interval_read_begin(&sleeper->recorder->tracker.notifier);
	complete(&sleeper->done);
	return 0;
}

static int sleep_in_unregister(void *data)
{
	struct sleeper *sleeper = data;

	WRITE_ONCE(sleeper->entered, true);
	hmm_range_unregister(&sleeper->recorder->tracker);
	/* Nobody looks at it any more, or KASAN tells. */
	kfree(sleeper->recorder);
	complete(&sleeper->done);
	return 0;
}

/* Returns when the task sleeps; false if it does not. */
static bool put_to_sleep(struct sleeper *sleeper, int (*function)(void *data),
			 struct recorder *recorder)
{
	unsigned long deadline = jiffies + LONG;

	sleeper->recorder = recorder;
	sleeper->entered = false;
	init_completion(&sleeper->done);
	sleeper->task = kthread_create(function, sleeper, "hmm_range_sleeper");
	if (IS_ERR(sleeper->task))
		return false;
	get_task_struct(sleeper->task);
	wake_up_process(sleeper->task);
	/* Its state alone is set before it has left the CPU, and that is counted. */
	while (!READ_ONCE(sleeper->entered) ||
	       !wait_task_inactive(sleeper->task, TASK_UNINTERRUPTIBLE)) {
		if (time_after(jiffies, deadline))
			return false;
		usleep_range(100, 200);
	}
	return true;
}

static bool wakes_up(struct sleeper *sleeper)
{
	bool woke = wait_for_completion_timeout(&sleeper->done, LONG);

	put_task_struct(sleeper->task);
	return woke;
}

/* Passes if ranges that start later do not keep a reader. */
static void newcomers(struct kunit *test)
{
	struct recorder *a = recorder_at(test, AT(0));
	struct mmu_notifier_range first, second;
	struct sleeper sleeper;

	start(&first, AT(0), AT(0) + SIZE);
	KUNIT_EXPECT_TRUE(test, put_to_sleep(&sleeper, sleep_in_read_begin, a));
	start(&second, AT(0), AT(0) + SIZE);
	KUNIT_EXPECT_FALSE(test, completion_done(&sleeper.done));
	end(&first);
	KUNIT_EXPECT_TRUE(test, wakes_up(&sleeper));
	end(&second);
}

/* Passes if the end of a newcomer does not let a reader out early. */
static void newcomer_ends_first(struct kunit *test)
{
	struct recorder *a = recorder_at(test, AT(0));
	struct mmu_notifier_range first;
	struct sleeper sleeper;

	start(&first, AT(0), AT(0) + SIZE);
	KUNIT_EXPECT_TRUE(test, put_to_sleep(&sleeper, sleep_in_read_begin, a));
	hit(AT(0), AT(0) + SIZE);
	msleep(20);
	KUNIT_EXPECT_FALSE(test, completion_done(&sleeper.done));
	end(&first);
	KUNIT_EXPECT_TRUE(test, wakes_up(&sleeper));
}

/* Passes if the tasks that wait for a frozen tree are woken when it thaws. */
static void deferred_sleeps(struct kunit *test)
{
	struct mmu_notifier_range epoch, range;
	struct sleeper sleeper;

	recorder_at(test, AT(0));
	start(&epoch, AT(0), AT(0) + SIZE);
	start(&range, AT(1), AT(1) + SIZE);
	KUNIT_EXPECT_TRUE(test, put_to_sleep(&sleeper, sleep_until_valid,
					     recorder_at(test, AT(1))));
	end(&range);
	msleep(20);
	KUNIT_EXPECT_FALSE(test, completion_done(&sleeper.done));
	end(&epoch);
	KUNIT_EXPECT_TRUE(test, wakes_up(&sleeper));
	KUNIT_EXPECT_EQ(test, sleeper.result, 0);
}

static unsigned long switches(const struct sleeper *sleepers, int except)
{
	unsigned long sum = 0;
	int i;

	for (i = except + 1; i < MANY; i++)
		sum += READ_ONCE(sleepers[i].task->nvcsw);
	return sum;
}

/* Passes if the end of a range wakes who waits for it, once, and nobody else. */
static void wakes_only_concerned(struct kunit *test)
{
	struct mmu_notifier_range *ranges;
	struct sleeper *sleepers;
	struct recorder **all;
	unsigned long before;
	int i;

	ranges = kunit_kcalloc(test, MANY, sizeof(*ranges), GFP_KERNEL);
	sleepers = kunit_kcalloc(test, MANY, sizeof(*sleepers), GFP_KERNEL);
	all = kunit_kcalloc(test, MANY, sizeof(*all), GFP_KERNEL);
	KUNIT_ASSERT_TRUE(test, ranges && sleepers && all);
	for (i = 0; i < MANY; i++)
		all[i] = recorder_at(test, AT(i));

	for (i = 0; i < MANY; i++) {
		start(&ranges[i], AT(i), AT(i) + SIZE);
		if (!put_to_sleep(&sleepers[i], sleep_until_valid, all[i]))
			KUNIT_FAIL(test, "sleeper %d does not sleep", i);
	}
	for (i = 0; i < MANY; i++) {
		before = switches(sleepers, i);
		end(&ranges[i]);
		KUNIT_EXPECT_TRUE(test, wakes_up(&sleepers[i]));
		KUNIT_EXPECT_EQ(test, sleepers[i].result, 0);
		KUNIT_EXPECT_EQ(test, switches(sleepers, i), before);
	}
}

/* Passes if a wait ends after its time, without sleeping if it has none. */
static void wait_is_bounded(struct kunit *test)
{
	struct recorder *a = recorder_at(test, AT(0));
	struct mmu_notifier_range range;
	unsigned long before, sleeps;

	start(&range, AT(0), AT(0) + SIZE);
	sleeps = current->nvcsw;
	KUNIT_EXPECT_EQ(test, look(a), -ETIMEDOUT);
	KUNIT_EXPECT_EQ(test, current->nvcsw, sleeps);
	before = jiffies;
	KUNIT_EXPECT_EQ(test, hmm_range_wait_until_valid(&a->range, 50), -ETIMEDOUT);
	KUNIT_EXPECT_GE(test, jiffies - before, msecs_to_jiffies(50));
	KUNIT_EXPECT_LT(test, jiffies - before, LONG);
	end(&range);
	KUNIT_EXPECT_EQ(test, look(a), 0);
}

/*
 * Passes if what was read is not valid once the tracker is unregistered: who populates
 * without a commit function may look only then. Nor is what never was read.
 */
static void unregister_hits(struct kunit *test)
{
	struct recorder *a = recorder_at(test, AT(0));
	struct hmm_range unread = { .notifier = &a->tracker.notifier };

	KUNIT_EXPECT_EQ(test, look(a), 0);
	KUNIT_EXPECT_TRUE(test, hmm_range_valid(&a->range));
	kunit_release_action(test, recorder_unregister, a);
	/* The test's memory, the tracker with it, stays until its end. */
	KUNIT_EXPECT_EQ(test, a->hits, 1);
	KUNIT_EXPECT_TRUE(test, a->may_block);
	KUNIT_EXPECT_FALSE(test, hmm_range_valid(&a->range));
	KUNIT_EXPECT_FALSE(test, hmm_range_valid(&unread));
}

/* Passes if who waits when the tracker is unregistered is out before it is gone. */
static void unregister_with_sleeper(struct kunit *test)
{
	struct sleeper waits, unregisters;
	struct mmu_notifier_range range;
	struct recorder *a;

	a = kzalloc(sizeof(*a), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, a);
	a->range.notifier = &a->tracker.notifier;
	KUNIT_ASSERT_EQ(test, 0, hmm_range_register(&a->tracker, current->mm, AT(0),
						    AT(0) + SIZE, &recorder_ops));

	start(&range, AT(0), AT(0) + SIZE);
	KUNIT_EXPECT_TRUE(test, put_to_sleep(&waits, sleep_until_valid, a));
	KUNIT_EXPECT_TRUE(test, put_to_sleep(&unregisters, sleep_in_unregister, a));
	KUNIT_EXPECT_FALSE(test, completion_done(&waits.done));
	end(&range);
	KUNIT_EXPECT_TRUE(test, wakes_up(&unregisters));
	KUNIT_EXPECT_TRUE(test, wakes_up(&waits));
	KUNIT_EXPECT_EQ(test, waits.result, -ECANCELED);
}

/*
 * The same, of one that sleeps for a range that began before the tracker: the tree
 * is not frozen, so the subscription by itself would go without waiting.
 */
static void unregister_with_sleeper_in_flight(struct kunit *test)
{
	struct sleeper waits, unregisters;
	struct mmu_notifier_range range;
	struct recorder *a;

	recorder_at(test, AT(1));
	a = kzalloc(sizeof(*a), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, a);
	a->range.notifier = &a->tracker.notifier;

	start(&range, AT(0), AT(0) + SIZE);
	KUNIT_EXPECT_EQ(test, 0, hmm_range_register(&a->tracker, current->mm, AT(0),
						    AT(0) + SIZE, &recorder_ops));
	KUNIT_EXPECT_TRUE(test, put_to_sleep(&waits, sleep_until_valid, a));
	KUNIT_EXPECT_TRUE(test, put_to_sleep(&unregisters, sleep_in_unregister, a));
	KUNIT_EXPECT_FALSE(test, completion_done(&waits.done));
	end(&range);
	KUNIT_EXPECT_TRUE(test, wakes_up(&unregisters));
	KUNIT_EXPECT_TRUE(test, wakes_up(&waits));
	KUNIT_EXPECT_EQ(test, waits.result, -ECANCELED);
}

/* Passes if an mm's end is told, and everything after that says so. */
static void mm_gone(struct kunit *test)
{
	struct recorder recorder = { .range.notifier = &recorder.tracker.notifier };
	struct hmm_range_tracker other;
	struct mm_struct *mm = mm_alloc();
	struct mmu_notifier_range range;
	struct sleeper sleeper;
	unsigned long pfns[PAGES];
	int ret;

	KUNIT_ASSERT_NOT_NULL(test, mm);
	mmgrab(mm);
	ret = hmm_range_register(&recorder.tracker, mm, AT(0), AT(0) + SIZE, &recorder_ops);
	KUNIT_EXPECT_EQ(test, ret, 0);
	if (ret) {
		mmput(mm);
		mmdrop(mm);
		return;
	}

	mmu_notifier_range_init(&range, MMU_NOTIFY_CLEAR, 0, mm, AT(0), AT(0) + SIZE);
	mmu_notifier_invalidate_range_start(&range);
	KUNIT_EXPECT_TRUE(test, put_to_sleep(&sleeper, sleep_until_valid, &recorder));
	mmput(mm);
	KUNIT_EXPECT_EQ(test, recorder.hits, 2);
	mmu_notifier_invalidate_range_end(&range);
	KUNIT_EXPECT_TRUE(test, wakes_up(&sleeper));
	KUNIT_EXPECT_EQ(test, sleeper.result, -EFAULT);

	KUNIT_EXPECT_EQ(test, hmm_range_wait_until_valid(&recorder.range, LONG_MS), -EFAULT);
	recorder.range.start = AT(0);
	recorder.range.end = AT(0) + SIZE;
	recorder.range.hmm_pfns = pfns;
	KUNIT_EXPECT_EQ(test, hmm_range_snapshot(&recorder.range, NULL, LONG_MS), -EFAULT);
	KUNIT_EXPECT_EQ(test, -EFAULT, hmm_range_register(&other, mm, AT(0), AT(0) + SIZE,
							  &recorder_ops));
	hmm_range_unregister(&recorder.tracker);
	mmdrop(mm);
}

static int recorder_commit(struct hmm_range *range)
{
	struct recorder *recorder = container_of(range, struct recorder, range);

	recorder->commits++;
	if (recorder->busy) {
		recorder->busy--;
		hit(range->start, range->start + 1);
	}
	return hmm_range_valid(range) ? recorder->error : -EBUSY;
}

/* A recorder with memory of the test's mm, and what it takes to populate it. */
static struct recorder *populated_recorder(struct kunit *test)
{
	struct recorder *a;
	unsigned long addr;

	addr = kunit_vm_mmap(test, NULL, 0, SIZE, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS, 0);
	KUNIT_ASSERT_NE(test, addr, 0);
	a = recorder_at(test, addr);
	a->range.start = addr;
	a->range.end = addr + SIZE;
	a->range.default_flags = HMM_PFN_REQ_FAULT | HMM_PFN_REQ_WRITE;
	a->range.hmm_pfns = kunit_kcalloc(test, PAGES, sizeof(unsigned long), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, a->range.hmm_pfns);
	return a;
}

/* Passes if a hit before the commit means one more round, and an error none. */
static void populate_rounds(struct kunit *test)
{
	struct recorder *a = populated_recorder(test);
	int i;

	KUNIT_EXPECT_EQ(test, hmm_range_snapshot(&a->range, recorder_commit, 0), 0);
	for (i = 0; i < PAGES; i++)
		KUNIT_EXPECT_EQ(test, a->range.hmm_pfns[i] & (HMM_PFN_VALID | HMM_PFN_ERROR), 0);

	a->commits = 0;
	a->busy = 3;
	KUNIT_EXPECT_EQ(test, hmm_range_populate(&a->range, recorder_commit, LONG_MS), 0);
	KUNIT_EXPECT_EQ(test, a->commits, 4);
	for (i = 0; i < PAGES; i++)
		KUNIT_EXPECT_EQ(test, a->range.hmm_pfns[i] >> (BITS_PER_LONG - 3), 6);

	a->commits = 0;
	a->error = -ENOSPC;
	KUNIT_EXPECT_EQ(test, -ENOSPC,
			hmm_range_populate(&a->range, recorder_commit, LONG_MS));
	KUNIT_EXPECT_EQ(test, a->commits, 1);
}

/* Passes if there is one round with no time for more, and an end to many. */
static void populate_is_bounded(struct kunit *test)
{
	struct recorder *a = populated_recorder(test);
	struct mmu_notifier_range range;
	unsigned long before = jiffies;

	a->busy = 1;
	KUNIT_EXPECT_EQ(test, -ETIMEDOUT, hmm_range_populate(&a->range, recorder_commit, 0));
	KUNIT_EXPECT_EQ(test, a->commits, 1);
	KUNIT_EXPECT_EQ(test, 0, hmm_range_populate(&a->range, recorder_commit, 0));

	a->busy = INT_MAX;
	KUNIT_EXPECT_EQ(test, -ETIMEDOUT, hmm_range_populate(&a->range, recorder_commit, 50));
	KUNIT_EXPECT_GE(test, jiffies - before, msecs_to_jiffies(50));

	a->commits = 0;
	start(&range, a->range.end - 1, a->range.end);
	KUNIT_EXPECT_EQ(test, -ETIMEDOUT, hmm_range_populate(&a->range, recorder_commit, 50));
	KUNIT_EXPECT_EQ(test, a->commits, 0);
	end(&range);
	KUNIT_EXPECT_LT(test, jiffies - before, LONG);
}

/* Passes if what is no range is refused, and what is one is registered. */
static void bad_arguments(struct kunit *test)
{
	struct recorder *a = populated_recorder(test);
	struct mmu_interval_notifier foreign = { };
	struct mm_struct *mm = current->mm;
	struct hmm_range good = a->range;
	struct hmm_range *range = &a->range;
	struct hmm_range_tracker tracker;

#define REGISTER(start, end) hmm_range_register(&tracker, mm, start, end, &recorder_ops)
#define POPULATE() hmm_range_populate(range, NULL, 0)
	KUNIT_EXPECT_EQ(test, REGISTER(BASE, BASE), -EINVAL);
	KUNIT_EXPECT_EQ(test, REGISTER(BASE + PAGE_SIZE, BASE), -EINVAL);
	KUNIT_EXPECT_EQ(test, REGISTER(BASE + 1, BASE + PAGE_SIZE), -EINVAL);
	KUNIT_EXPECT_EQ(test, REGISTER(BASE, BASE + PAGE_SIZE + 1), -EINVAL);
	KUNIT_EXPECT_EQ(test, REGISTER(0, ULONG_MAX & PAGE_MASK), 0);
	hmm_range_unregister(&tracker);

	KUNIT_EXPECT_EQ(test, POPULATE(), 0);
	range->start -= PAGE_SIZE;
	KUNIT_EXPECT_EQ(test, POPULATE(), -EINVAL);
	*range = good;
	range->end += PAGE_SIZE;
	KUNIT_EXPECT_EQ(test, POPULATE(), -EINVAL);
	*range = good;
	range->end = range->start;
	KUNIT_EXPECT_EQ(test, POPULATE(), -EINVAL);
	*range = good;
	range->start++;
	KUNIT_EXPECT_EQ(test, POPULATE(), -EINVAL);
	*range = good;
	range->pfn_flags_mask = HMM_PFN_REQ_FAULT;
	KUNIT_EXPECT_EQ(test, POPULATE(), -EINVAL);
	*range = good;
	range->default_flags = 0;
	KUNIT_EXPECT_EQ(test, POPULATE(), -EINVAL);
	range->default_flags = HMM_PFN_REQ_WRITE;
	KUNIT_EXPECT_EQ(test, POPULATE(), -EINVAL);
	*range = good;
	range->notifier = &foreign;
	KUNIT_EXPECT_EQ(test, POPULATE(), -EINVAL);
	KUNIT_EXPECT_EQ(test, hmm_range_wait_until_valid(range, 0), -EINVAL);
	*range = good;

	kunit_release_action(test, recorder_unregister, a);
	KUNIT_EXPECT_EQ(test, POPULATE(), -ECANCELED);
	KUNIT_EXPECT_EQ(test, hmm_range_wait_until_valid(range, 0), -ECANCELED);
#undef POPULATE
#undef REGISTER
}

/* Gives the test's task an mm. */
static int attach_mm(struct kunit *test)
{
	return kunit_vm_mmap(test, NULL, 0, PAGE_SIZE, PROT_READ,
			     MAP_PRIVATE | MAP_ANONYMOUS, 0) ? 0 : -ENOMEM;
}

static struct kunit_case hmm_range_cases[] = {
	KUNIT_CASE_PARAM(overlap_hits, edge_gen_params),
	KUNIT_CASE_PARAM(overlap_waits, edge_gen_params),
	KUNIT_CASE(waits_not_for_the_epoch),
	KUNIT_CASE(second_hit_in_epoch),
	KUNIT_CASE(waits_for_each),
	KUNIT_CASE(registered_in_flight),
	KUNIT_CASE(deferred_waits_for_the_epoch),
	KUNIT_CASE(deferred_and_gone),
	KUNIT_CASE(deferred_sleeps),
	KUNIT_CASE(refused_by_interval),
	KUNIT_CASE(refused_by_list),
	KUNIT_CASE(newcomers),
	KUNIT_CASE(newcomer_ends_first),
	KUNIT_CASE(wakes_only_concerned),
	KUNIT_CASE(wait_is_bounded),
	KUNIT_CASE(unregister_hits),
	KUNIT_CASE(unregister_with_sleeper),
	KUNIT_CASE(unregister_with_sleeper_in_flight),
	KUNIT_CASE(mm_gone),
	KUNIT_CASE(populate_rounds),
	KUNIT_CASE(populate_is_bounded),
	KUNIT_CASE(bad_arguments),
	{}
};

static struct kunit_suite hmm_range_suite = {
	.name = "hmm_range",
	.init = attach_mm,
	.test_cases = hmm_range_cases,
};

kunit_test_suite(hmm_range_suite);

MODULE_DESCRIPTION("Tests of mm/hmm_range.c");
MODULE_LICENSE("GPL");
