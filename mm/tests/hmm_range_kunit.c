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
#include <linux/completion.h>
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
#define CALLERS		64

/**
 * struct recorder - a tracker that writes down what it is told
 * @tracker: the tracker
 * @range: what is waited for and populated
 * @hits: calls of its callback
 * @event: of the last call
 * @may_block: what the last call was told
 * @may_sleep: whether the last call could, as far as the kernel is told
 * @valid: the range was valid in one
 * @refuses: says no where it must not block
 * @stalls: callbacks wait for @go, each for one complete()
 * @go: lets them go on
 * @stops: tells tasks that call in a loop to end
 * @commits: calls of its commit function
 * @busy: so many of them have the range hit first
 * @busy_event: by such an event, whose owner is the recorder
 * @error: what they return, if nothing was hit
 */
struct recorder {
	struct hmm_tracker tracker;
	struct hmm_range range;
	atomic_t hits;
	enum mmu_notifier_event event;
	bool may_block;
	bool may_sleep;
	bool valid;
	bool refuses;
	bool stalls;
	struct completion go;
	bool stops;
	int commits;
	int busy;
	enum mmu_notifier_event busy_event;
	int error;
};

/* On PREEMPT_RT, a callback that only takes a spinlock may sleep, even if it must not block. */
static bool may_sleep(void)
{
#ifdef CONFIG_DEBUG_ATOMIC_SLEEP
	return !current->non_block_count;
#else
	return true;
#endif
}

static bool recorder_invalidate(struct hmm_tracker *tracker,
				const struct mmu_notifier_range *range,
				bool may_block)
{
	struct recorder *recorder = container_of(tracker, struct recorder, tracker);

	atomic_inc(&recorder->hits);
	WRITE_ONCE(recorder->event, range->event);
	WRITE_ONCE(recorder->may_block, may_block);
	WRITE_ONCE(recorder->may_sleep, may_sleep());
	if (hmm_range_valid(&recorder->range))
		WRITE_ONCE(recorder->valid, true);
	if (READ_ONCE(recorder->stalls))
		wait_for_completion(&recorder->go);
	return may_block || !recorder->refuses;
}

/* As nouveau does: it makes pages exclusive to its device, and is told so. */
static bool recorder_ignores(struct hmm_tracker *tracker,
			     const struct mmu_notifier_range *range)
{
	return range->event == MMU_NOTIFY_EXCLUSIVE &&
	       range->owner == container_of(tracker, struct recorder, tracker);
}

static const struct hmm_tracker_ops recorder_ops = {
	.invalidate = recorder_invalidate,
	.ignores = recorder_ignores,
};

static int hits(const struct recorder *recorder)
{
	return atomic_read(&recorder->hits);
}

static void recorder_unregister(void *recorder)
{
	hmm_tracker_unregister(&((struct recorder *)recorder)->tracker);
}

static void register_recorder(struct kunit *test, struct recorder *recorder,
			      unsigned long start)
{
	int ret;

	KUNIT_ASSERT_NOT_NULL(test, recorder);
	recorder->range.notifier = &recorder->tracker.notifier;
	init_completion(&recorder->go);
	ret = hmm_tracker_register(&recorder->tracker, current->mm, start, start + SIZE,
				   &recorder_ops);
	KUNIT_ASSERT_EQ(test, ret, 0);
}

/* One that the test has unregistered and freed by sleep_in_unregister(). */
static struct recorder *mortal_recorder_at(struct kunit *test, unsigned long start)
{
	struct recorder *recorder = kzalloc(sizeof(*recorder), GFP_KERNEL);

	register_recorder(test, recorder, start);
	return recorder;
}

static struct recorder *recorder_at(struct kunit *test, unsigned long start)
{
	struct recorder *recorder = kunit_kzalloc(test, sizeof(*recorder), GFP_KERNEL);
	int ret;

	register_recorder(test, recorder, start);
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
	KUNIT_EXPECT_EQ(test, hits(a), edge->overlaps);
	KUNIT_EXPECT_EQ(test, hmm_range_valid(&a->range), !edge->overlaps);
	/* It was not valid in the driver's callback either. */
	KUNIT_EXPECT_FALSE(test, a->valid);
}

/* Passes if a range that overlaps, and no other, is waited for. */
static void overlap_waits(struct kunit *test)
{
	const struct edge *edge = test->param_value;
	struct recorder *a = recorder_at(test, AT(0));
	struct mmu_notifier_range range;

	start(&range, AT(0) + edge->start, AT(0) + edge->end);
	KUNIT_EXPECT_EQ(test, look(a), edge->overlaps ? -ETIMEDOUT : 0);
	KUNIT_EXPECT_EQ(test, hmm_range_valid(&a->range), !edge->overlaps);
	end(&range);
	KUNIT_EXPECT_EQ(test, look(a), 0);
	KUNIT_EXPECT_TRUE(test, hmm_range_valid(&a->range));
}

/* Passes if a hit that is over is not waited for, though another range is in flight. */
static void waits_not_for_others(struct kunit *test)
{
	struct recorder *a = recorder_at(test, AT(0));
	struct recorder *b = recorder_at(test, AT(1));
	struct mmu_notifier_range range;

	start(&range, AT(0), AT(0) + SIZE);
	hit(AT(1), AT(1) + SIZE);
	KUNIT_EXPECT_EQ(test, hits(b), 1);
	KUNIT_EXPECT_EQ(test, look(b), 0);
	KUNIT_EXPECT_EQ(test, look(a), -ETIMEDOUT);
	end(&range);
	KUNIT_EXPECT_EQ(test, look(a), 0);
}

/*
 * Passes if each hit is seen while another range is in flight all the time: three, as
 * the first may differ from what a new subscription has.
 */
static void each_hit_is_seen(struct kunit *test)
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
 * those that it overlaps, and does not tell it.
 */
static void registered_in_flight(struct kunit *test)
{
	struct recorder *a, *b;
	struct mmu_notifier_range range;

	recorder_at(test, AT(2));
	start(&range, AT(0), AT(0) + SIZE);
	a = recorder_at(test, AT(0));
	b = recorder_at(test, AT(1));
	KUNIT_EXPECT_EQ(test, hits(a), 0);
	KUNIT_EXPECT_EQ(test, look(a), -ETIMEDOUT);
	KUNIT_EXPECT_EQ(test, look(b), 0);
	hit(AT(1), AT(1) + 1);
	KUNIT_EXPECT_EQ(test, hits(b), 1);
	end(&range);
	KUNIT_EXPECT_EQ(test, look(a), 0);
}

/*
 * Passes if a tracker that is registered after another was hit, with that range still in
 * flight, is told at once, and waits for what overlaps it alone.
 */
static void insert_after_a_hit(struct kunit *test)
{
	struct recorder *b, *c;
	struct mmu_notifier_range elsewhere, range;

	recorder_at(test, AT(0));
	start(&elsewhere, AT(0), AT(0) + SIZE);
	b = recorder_at(test, AT(1));
	KUNIT_EXPECT_EQ(test, look(b), 0);
	KUNIT_EXPECT_TRUE(test, hmm_range_valid(&b->range));
	start(&range, AT(1), AT(1) + SIZE);
	KUNIT_EXPECT_EQ(test, hits(b), 1);
	KUNIT_EXPECT_FALSE(test, hmm_range_valid(&b->range));
	c = recorder_at(test, AT(1));
	KUNIT_EXPECT_EQ(test, look(b), -ETIMEDOUT);
	KUNIT_EXPECT_EQ(test, look(c), -ETIMEDOUT);
	end(&range);
	KUNIT_EXPECT_EQ(test, look(b), 0);
	KUNIT_EXPECT_EQ(test, look(c), 0);
	KUNIT_EXPECT_EQ(test, hits(c), 0);
	end(&elsewhere);
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
	KUNIT_EXPECT_EQ(test, hits(b), 1);
	KUNIT_EXPECT_FALSE(test, b->may_block);
	KUNIT_EXPECT_TRUE(test, b->may_sleep);
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
	KUNIT_EXPECT_EQ(test, look(recorder_at(test, AT(1))), 0);
}

/**
 * struct sleeper - a task that waits
 * @recorder: what its call is about
 * @range: of sleep_in_invalidation()
 * @task: the task
 * @entered: set before the call
 * @result: of the call
 * @done: completed after the call
 */
struct sleeper {
	struct recorder *recorder;
	struct mmu_notifier_range range;
	struct task_struct *task;
	bool entered;
	int result;
	struct completion done;
};

static int sleep_for(struct sleeper *sleeper, unsigned int timeout_ms)
{
	/* Of its own: the recorder may be freed as soon as its tracker is unregistered. */
	struct hmm_range range = sleeper->recorder->range;

	WRITE_ONCE(sleeper->entered, true);
	sleeper->result = hmm_range_wait_until_valid(&range, timeout_ms);
	complete(&sleeper->done);
	return 0;
}

static int sleep_until_valid(void *data)
{
	return sleep_for(data, LONG_MS);
}

static int sleep_for_longest(void *data)
{
	return sleep_for(data, UINT_MAX);
}

static int sleep_in_read_begin(void *data)
{
	struct sleeper *sleeper = data;

	WRITE_ONCE(sleeper->entered, true);
	mmu_interval_read_begin(&sleeper->recorder->tracker.notifier);
	complete(&sleeper->done);
	return 0;
}

static int only_unregister(void *data)
{
	struct sleeper *sleeper = data;

	WRITE_ONCE(sleeper->entered, true);
	hmm_tracker_unregister(&sleeper->recorder->tracker);
	complete(&sleeper->done);
	return 0;
}

static int sleep_in_unregister(void *data)
{
	struct sleeper *sleeper = data;

	WRITE_ONCE(sleeper->entered, true);
	hmm_tracker_unregister(&sleeper->recorder->tracker);
	/* Nobody looks at it any more, or KASAN tells. */
	kfree(sleeper->recorder);
	complete(&sleeper->done);
	return 0;
}

static int sleep_in_invalidation(void *data)
{
	struct sleeper *sleeper = data;

	WRITE_ONCE(sleeper->entered, true);
	mmu_notifier_invalidate_range_start(&sleeper->range);
	mmu_notifier_invalidate_range_end(&sleeper->range);
	complete(&sleeper->done);
	return 0;
}

static bool start_task(struct sleeper *sleeper, int (*function)(void *data),
		       struct recorder *recorder)
{
	sleeper->recorder = recorder;
	sleeper->entered = false;
	init_completion(&sleeper->done);
	sleeper->task = kthread_create(function, sleeper, "hmm_range_sleeper");
	if (IS_ERR(sleeper->task))
		return false;
	get_task_struct(sleeper->task);
	wake_up_process(sleeper->task);
	return true;
}

/* Returns when the task sleeps; false if it does not. */
static bool put_to_sleep(struct sleeper *sleeper, int (*function)(void *data),
			 struct recorder *recorder)
{
	unsigned long deadline = jiffies + LONG;

	if (!start_task(sleeper, function, recorder))
		return false;
	/* Its state is set before it leaves the CPU, and tests count context switches. */
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

/* Passes if a reader sleeps until the last of two ranges ends. */
static void sleeps_for_each(struct kunit *test)
{
	struct recorder *a = recorder_at(test, AT(0));
	struct mmu_notifier_range first, second;
	struct sleeper sleeper;

	start(&first, AT(0), AT(0) + SIZE);
	start(&second, AT(0), AT(0) + 1);
	KUNIT_EXPECT_TRUE(test, put_to_sleep(&sleeper, sleep_in_read_begin, a));
	end(&first);
	msleep(20);
	KUNIT_EXPECT_FALSE(test, completion_done(&sleeper.done));
	end(&second);
	KUNIT_EXPECT_TRUE(test, wakes_up(&sleeper));
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

/* Has a task invalidate, and returns when it sleeps in the callback of a recorder. */
static bool stall_walk(struct sleeper *sleeper, struct recorder *recorder,
		       unsigned long start, unsigned long end)
{
	WRITE_ONCE(recorder->stalls, true);
	init_range(&sleeper->range, start, end);
	return put_to_sleep(sleeper, sleep_in_invalidation, recorder);
}

static void go_on(struct recorder *recorder)
{
	WRITE_ONCE(recorder->stalls, false);
	complete(&recorder->go);
}

/*
 * Passes if trackers that are registered during a walk, behind it and ahead of it, wait
 * for its range, are not told by it, and are told by others at once.
 */
static void insert_during_a_walk(struct kunit *test)
{
	struct recorder *a = recorder_at(test, AT(1));
	struct recorder *last = recorder_at(test, AT(4));
	struct recorder *new[4];
	struct sleeper walk;
	int i;

	KUNIT_EXPECT_TRUE(test, stall_walk(&walk, a, AT(0), AT(4) + SIZE));
	for (i = 0; i < 4; i++) {
		/* Two at the place of the walk: beside it in the tree, on either side. */
		new[i] = recorder_at(test, AT(i < 2 ? 2 * i : 1));
		KUNIT_EXPECT_EQ(test, look(new[i]), -ETIMEDOUT);
	}
	hit(AT(2), AT(2) + SIZE);
	KUNIT_EXPECT_EQ(test, hits(new[1]), 1);
	KUNIT_EXPECT_EQ(test, hits(last), 0);
	KUNIT_EXPECT_EQ(test, look(recorder_at(test, AT(5))), 0);
	go_on(a);
	KUNIT_EXPECT_TRUE(test, wakes_up(&walk));
	KUNIT_EXPECT_EQ(test, hits(a), 1);
	KUNIT_EXPECT_EQ(test, hits(last), 1);
	for (i = 0; i < 4; i++) {
		KUNIT_EXPECT_EQ(test, hits(new[i]), i == 1);
		KUNIT_EXPECT_EQ(test, look(new[i]), 0);
	}
}

/*
 * Passes if a walk does not keep trackers that it is not at: one that it has told, the
 * next one, which it goes past then, and one that came during it.
 */
static void remove_during_a_walk(struct kunit *test)
{
	struct recorder *told = mortal_recorder_at(test, AT(0));
	struct recorder *a = recorder_at(test, AT(1));
	struct recorder *next = mortal_recorder_at(test, AT(2));
	struct recorder *last = recorder_at(test, AT(3));
	struct recorder *gone[] = { told, next, NULL };
	struct sleeper walk, unregisters;
	int i;

	KUNIT_EXPECT_TRUE(test, stall_walk(&walk, a, AT(0), AT(3) + SIZE));
	KUNIT_EXPECT_EQ(test, hits(told), 1);
	gone[2] = mortal_recorder_at(test, AT(1));
	for (i = 0; i < ARRAY_SIZE(gone); i++) {
		KUNIT_EXPECT_TRUE(test, start_task(&unregisters, sleep_in_unregister,
						   gone[i]));
		KUNIT_EXPECT_TRUE(test, wakes_up(&unregisters));
	}
	KUNIT_EXPECT_FALSE(test, completion_done(&walk.done));
	go_on(a);
	KUNIT_EXPECT_TRUE(test, wakes_up(&walk));
	KUNIT_EXPECT_EQ(test, hits(last), 1);
}

/*
 * Passes if the callbacks that run keep a tracker, each of them, and no callback comes
 * once it is being unregistered: the diagram in mmu_notifier.c.
 */
static void remove_waits_for_callbacks(struct kunit *test)
{
	struct recorder *a = mortal_recorder_at(test, AT(0));
	struct recorder *b = recorder_at(test, AT(0));
	struct sleeper one, other, unregisters;

	KUNIT_EXPECT_TRUE(test, stall_walk(&one, a, AT(0), AT(0) + 1));
	KUNIT_EXPECT_TRUE(test, stall_walk(&other, a, AT(0), AT(0) + SIZE));
	WRITE_ONCE(a->stalls, false);
	KUNIT_EXPECT_TRUE(test, put_to_sleep(&unregisters, sleep_in_unregister, a));
	KUNIT_EXPECT_EQ(test, hits(a), 3);
	hit(AT(0), AT(0) + SIZE);
	KUNIT_EXPECT_EQ(test, hits(a), 3);
	KUNIT_EXPECT_EQ(test, hits(b), 1);

	/* Either of them goes on. */
	complete(&a->go);
	msleep(20);
	KUNIT_EXPECT_FALSE(test, completion_done(&unregisters.done));
	complete(&a->go);
	KUNIT_EXPECT_TRUE(test, wakes_up(&unregisters));
	KUNIT_EXPECT_TRUE(test, wakes_up(&one));
	KUNIT_EXPECT_TRUE(test, wakes_up(&other));
	KUNIT_EXPECT_EQ(test, hits(b), 3);
}

/* Passes if a tracker goes that was hit, with the range in flight and its callback over. */
static void remove_in_flight(struct kunit *test)
{
	struct recorder *a = mortal_recorder_at(test, AT(0));
	struct mmu_notifier_range range;
	struct sleeper unregisters;

	start(&range, AT(0), AT(0) + SIZE);
	KUNIT_EXPECT_EQ(test, hits(a), 1);
	KUNIT_EXPECT_TRUE(test, start_task(&unregisters, sleep_in_unregister, a));
	KUNIT_EXPECT_TRUE(test, wakes_up(&unregisters));
	end(&range);
}

/* Passes if a walk that is refused half way keeps none of its trackers. */
static void remove_after_refusal(struct kunit *test)
{
	struct recorder *all[3];
	struct mmu_notifier_range range;
	struct sleeper unregisters;
	int i;

	for (i = 0; i < 3; i++)
		all[i] = mortal_recorder_at(test, AT(i));
	all[1]->refuses = true;
	init_range(&range, AT(0), AT(2) + SIZE);
	KUNIT_EXPECT_EQ(test, mmu_notifier_invalidate_range_start_nonblock(&range), -EAGAIN);
	KUNIT_EXPECT_EQ(test, hits(all[2]), 0);
	for (i = 0; i < 3; i++) {
		KUNIT_EXPECT_TRUE(test, start_task(&unregisters, sleep_in_unregister, all[i]));
		KUNIT_EXPECT_TRUE(test, wakes_up(&unregisters));
	}
}

static unsigned long switches(const struct sleeper *sleepers, int except)
{
	unsigned long sum = 0;
	int i;

	for (i = except + 1; i < MANY; i++)
		sum += READ_ONCE(sleepers[i].task->nvcsw);
	return sum;
}

/* Passes if the end of a range wakes the task that waits for it, once, and no other. */
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

/*
 * Passes if a range is waited for however many have started since: 2^30, when a signed
 * compare of 32 bits takes it for a later one; and so many that 32 bits have wrapped, which
 * an mm's first numbers are near to.
 */
static void starts_long_ago(struct kunit *test)
{
	struct recorder *a = recorder_at(test, AT(0));
	struct mmu_notifier_range range;
	int i;

	start(&range, AT(0), AT(0) + SIZE);
	KUNIT_EXPECT_LE(test, range.seq, U32_MAX);
	/* As if it had, then: each start takes two numbers. */
	range.seq -= 2 * BIT_ULL(30) + 2;
	KUNIT_EXPECT_EQ(test, look(a), -ETIMEDOUT);
	end(&range);
	KUNIT_EXPECT_EQ(test, look(a), 0);

	start(&range, AT(0), AT(0) + SIZE);
	for (i = 0; i < 2 * MANY; i++)
		hit(AT(1), AT(1) + SIZE);
	KUNIT_EXPECT_EQ(test, look(a), -ETIMEDOUT);
	end(&range);
	KUNIT_EXPECT_EQ(test, look(a), 0);
	KUNIT_EXPECT_TRUE(test, hmm_range_valid(&a->range));
	start(&range, AT(0), AT(0) + SIZE);
	KUNIT_EXPECT_GT(test, range.seq, U32_MAX);
	KUNIT_EXPECT_FALSE(test, hmm_range_valid(&a->range));
	end(&range);
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
	KUNIT_EXPECT_FALSE(test, hmm_range_valid(&a->range));
	end(&range);
	KUNIT_EXPECT_EQ(test, look(a), 0);
}

/*
 * Passes if a read that ends with an error leaves the caller's seq as it was: with the
 * new one, what the range has taken down would be valid again.
 */
static void refused_read_begin(struct kunit *test)
{
	struct recorder *a = recorder_at(test, AT(0));
	struct mmu_interval_notifier *notifier = &a->tracker.notifier;
	struct mmu_notifier_range range;
	unsigned long seq = 0;

	KUNIT_EXPECT_EQ(test, mmu_interval_read_begin_timeout(notifier, &seq, 0), 0);
	KUNIT_EXPECT_FALSE(test, mmu_interval_read_retry(notifier, seq));
	start(&range, AT(0), AT(0) + SIZE);
	KUNIT_EXPECT_EQ(test, mmu_interval_read_begin_timeout(notifier, &seq, 0), -ETIMEDOUT);
	KUNIT_EXPECT_TRUE(test, mmu_interval_read_retry(notifier, seq));
	end(&range);
	KUNIT_EXPECT_EQ(test, mmu_interval_read_begin_timeout(notifier, &seq, 0), 0);
	KUNIT_EXPECT_FALSE(test, mmu_interval_read_retry(notifier, seq));
}

/*
 * Passes if a range is not valid once the tracker is unregistered: a driver that populates
 * without a commit function may look only then. Nor is one that never was read.
 */
static void unregister_hits(struct kunit *test)
{
	struct recorder *a = recorder_at(test, AT(0));
	struct hmm_range unread = { .notifier = &a->tracker.notifier };

	KUNIT_EXPECT_EQ(test, look(a), 0);
	KUNIT_EXPECT_TRUE(test, hmm_range_valid(&a->range));
	kunit_release_action(test, recorder_unregister, a);
	/* The test's memory, the tracker with it, stays until its end. */
	KUNIT_EXPECT_EQ(test, hits(a), 1);
	KUNIT_EXPECT_TRUE(test, a->may_block);
	/* KFD takes MMU_NOTIFY_UNMAP for an munmap(). */
	KUNIT_EXPECT_EQ(test, a->event, MMU_NOTIFY_CLEAR);
	KUNIT_EXPECT_FALSE(test, hmm_range_valid(&a->range));
	KUNIT_EXPECT_FALSE(test, hmm_range_valid(&unread));
}

static int snapshot_without_pause(void *data)
{
	struct sleeper *sleeper = data;
	unsigned long pfns[PAGES];
	struct hmm_range range = {
		.notifier = &sleeper->recorder->tracker.notifier,
		.start = AT(0),
		.end = AT(0) + SIZE,
		.hmm_pfns = pfns,
	};

	/* All of them stop at once: one by one, each would wait for a turn of all others. */
	while (!READ_ONCE(sleeper->recorder->stops)) {
		hmm_range_snapshot(&range, NULL, 0);
		cond_resched();
	}
	complete(&sleeper->done);
	return 0;
}

/*
 * Passes if callers that overlap do not hold up an unregister. There are more tasks than
 * CPUs, so that some are always preempted in the middle of a call.
 */
static void unregister_with_callers(struct kunit *test)
{
	struct recorder *a = recorder_at(test, AT(0));
	struct sleeper unregisters, *callers;
	bool started, woke;
	int i;

	callers = kunit_kcalloc(test, CALLERS, sizeof(*callers), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, callers);
	for (i = 0; i < CALLERS; i++)
		if (!start_task(&callers[i], snapshot_without_pause, a))
			break;
	KUNIT_EXPECT_EQ(test, i, CALLERS);
	started = start_task(&unregisters, only_unregister, a);
	KUNIT_EXPECT_TRUE(test, started);
	if (started)
		kunit_remove_action(test, recorder_unregister, a);
	woke = started && wakes_up(&unregisters);
	KUNIT_EXPECT_TRUE(test, woke);
	if (woke)
		KUNIT_EXPECT_EQ(test, look(a), -ECANCELED);
	WRITE_ONCE(a->stops, true);
	while (i--)
		KUNIT_EXPECT_TRUE(test, wakes_up(&callers[i]));
	if (started && !woke)
		wait_for_completion(&unregisters.done);
}

/* Passes if a task that waits when the tracker is unregistered is out before it is gone. */
static void unregister_with_sleeper(struct kunit *test)
{
	struct sleeper waits, unregisters;
	struct mmu_notifier_range range;
	struct recorder *a = mortal_recorder_at(test, AT(0));

	start(&range, AT(0), AT(0) + SIZE);
	KUNIT_EXPECT_TRUE(test, put_to_sleep(&waits, sleep_until_valid, a));
	KUNIT_EXPECT_TRUE(test, put_to_sleep(&unregisters, sleep_in_unregister, a));
	KUNIT_EXPECT_FALSE(test, completion_done(&waits.done));
	end(&range);
	KUNIT_EXPECT_TRUE(test, wakes_up(&unregisters));
	KUNIT_EXPECT_TRUE(test, wakes_up(&waits));
	KUNIT_EXPECT_EQ(test, waits.result, -ECANCELED);
}

/* The same, of one that sleeps for a range that began before the tracker. */
static void unregister_with_sleeper_in_flight(struct kunit *test)
{
	struct sleeper waits, unregisters;
	struct mmu_notifier_range range;
	struct recorder *a;

	recorder_at(test, AT(1));
	start(&range, AT(0), AT(0) + SIZE);
	a = mortal_recorder_at(test, AT(0));
	KUNIT_EXPECT_TRUE(test, put_to_sleep(&waits, sleep_until_valid, a));
	KUNIT_EXPECT_TRUE(test, put_to_sleep(&unregisters, sleep_in_unregister, a));
	KUNIT_EXPECT_FALSE(test, completion_done(&waits.done));
	end(&range);
	KUNIT_EXPECT_TRUE(test, wakes_up(&unregisters));
	KUNIT_EXPECT_TRUE(test, wakes_up(&waits));
	KUNIT_EXPECT_EQ(test, waits.result, -ECANCELED);
}

/* Passes if an mm's exit is a hit, and later calls return -EFAULT. */
static void mm_gone(struct kunit *test)
{
	struct recorder recorder = { .range.notifier = &recorder.tracker.notifier };
	struct hmm_tracker other;
	struct mm_struct *mm = mm_alloc();
	struct mmu_notifier_range range;
	struct sleeper sleeper;
	unsigned long pfns[PAGES];
	int ret;

	KUNIT_ASSERT_NOT_NULL(test, mm);
	mmgrab(mm);
	ret = hmm_tracker_register(&recorder.tracker, mm, AT(0), AT(0) + SIZE, &recorder_ops);
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
	KUNIT_EXPECT_EQ(test, hits(&recorder), 2);
	mmu_notifier_invalidate_range_end(&range);
	KUNIT_EXPECT_TRUE(test, wakes_up(&sleeper));
	KUNIT_EXPECT_EQ(test, sleeper.result, -EFAULT);

	KUNIT_EXPECT_EQ(test, hmm_range_wait_until_valid(&recorder.range, LONG_MS), -EFAULT);
	recorder.range.start = AT(0);
	recorder.range.end = AT(0) + SIZE;
	recorder.range.hmm_pfns = pfns;
	KUNIT_EXPECT_EQ(test, hmm_range_snapshot(&recorder.range, NULL, LONG_MS), -EFAULT);
	KUNIT_EXPECT_EQ(test, -EFAULT, hmm_tracker_register(&other, mm, AT(0), AT(0) + SIZE,
							    &recorder_ops));
	hmm_tracker_unregister(&recorder.tracker);
	mmdrop(mm);
}

static int recorder_commit(struct hmm_range *range)
{
	struct recorder *recorder = container_of(range, struct recorder, range);
	struct mmu_notifier_range busy;

	recorder->commits++;
	if (recorder->busy) {
		recorder->busy--;
		mmu_notifier_range_init_owner(&busy, recorder->busy_event, 0, current->mm,
					      range->start, range->start + 1, recorder);
		mmu_notifier_invalidate_range_start(&busy);
		mmu_notifier_invalidate_range_end(&busy);
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
	KUNIT_EXPECT_FALSE(test, hmm_range_valid(&a->range));
}

/* Passes if a driver can make an event in its commit function, and ignore it. */
static void own_events(struct kunit *test)
{
	struct recorder *a = populated_recorder(test);
	struct recorder *b = recorder_at(test, a->range.start);
	struct mmu_notifier_range range;

	a->busy_event = MMU_NOTIFY_EXCLUSIVE;
	a->busy = INT_MAX;
	KUNIT_EXPECT_EQ(test, look(b), 0);
	KUNIT_EXPECT_EQ(test, 0, hmm_range_populate(&a->range, recorder_commit, LONG_MS));
	KUNIT_EXPECT_EQ(test, a->commits, 1);
	KUNIT_EXPECT_EQ(test, hits(a), 0);
	KUNIT_EXPECT_TRUE(test, hmm_range_valid(&a->range));
	/* One that is in flight is waited for, and after an error no range is valid. */
	mmu_notifier_range_init_owner(&range, MMU_NOTIFY_EXCLUSIVE, 0, current->mm,
				      a->range.start, a->range.end, a);
	mmu_notifier_invalidate_range_start(&range);
	KUNIT_EXPECT_TRUE(test, hmm_range_valid(&a->range));
	KUNIT_EXPECT_EQ(test, look(a), -ETIMEDOUT);
	KUNIT_EXPECT_FALSE(test, hmm_range_valid(&a->range));
	mmu_notifier_invalidate_range_end(&range);
	KUNIT_EXPECT_EQ(test, hits(a), 0);
	/* To another driver it is an event like any other. */
	KUNIT_EXPECT_EQ(test, hits(b), 2);
	KUNIT_EXPECT_FALSE(test, hmm_range_valid(&b->range));

	/* And its own of another kind is no exception. */
	a->busy_event = MMU_NOTIFY_MIGRATE;
	a->busy = 1;
	KUNIT_EXPECT_EQ(test, 0, hmm_range_populate(&a->range, recorder_commit, LONG_MS));
	KUNIT_EXPECT_EQ(test, a->commits, 3);
	KUNIT_EXPECT_EQ(test, hits(a), 1);
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

/* Passes if the longest time is not taken for none. */
static void longest_wait(struct kunit *test)
{
	struct recorder *a = recorder_at(test, AT(0));
	struct mmu_notifier_range range;
	struct sleeper sleeper;

	start(&range, AT(0), AT(0) + SIZE);
	KUNIT_EXPECT_TRUE(test, put_to_sleep(&sleeper, sleep_for_longest, a));
	KUNIT_EXPECT_FALSE(test, completion_done(&sleeper.done));
	end(&range);
	KUNIT_EXPECT_TRUE(test, wakes_up(&sleeper));
	KUNIT_EXPECT_EQ(test, sleeper.result, 0);
}

static DEFINE_SPINLOCK(kept_lock);

static int commit_and_keep(struct hmm_range *range) __acquires(&kept_lock)
{
	spin_lock(&kept_lock);
	return 0;
}

/*
 * Passes if a commit function may keep a lock under which nothing sleeps: the kernel's
 * log tells, with DEBUG_ATOMIC_SLEEP.
 */
static void commit_keeps_lock(struct kunit *test)
{
	struct recorder *a = populated_recorder(test);
	bool valid = false;
	int ret;

	ret = hmm_range_populate(&a->range, commit_and_keep, 0);
	if (!ret) {
		__acquire(&kept_lock);
		valid = hmm_range_valid(&a->range);
		spin_unlock(&kept_lock);
	}
	KUNIT_EXPECT_EQ(test, ret, 0);
	KUNIT_EXPECT_TRUE(test, valid);
}

static int populate(void *data)
{
	struct sleeper *sleeper = data;
	struct hmm_range range = sleeper->recorder->range;

	WRITE_ONCE(sleeper->entered, true);
	sleeper->result = hmm_range_populate(&range, NULL, LONG_MS);
	complete(&sleeper->done);
	return 0;
}

/*
 * Passes if a task that reads a piece of memory when the tracker is unregistered (it
 * sleeps there, for mmap_lock) does not go on with the next one.
 */
static void unregister_ends_a_walk(struct kunit *test)
{
	const unsigned long piece = 16UL << 20;	/* HMM_RANGE_PIECE */
	struct sleeper populates, unregisters;
	unsigned long pfns[2] = { };
	struct recorder *a;
	unsigned long addr;

	addr = kunit_vm_mmap(test, NULL, 0, 2 * piece, PROT_READ,
			     MAP_PRIVATE | MAP_ANONYMOUS, 0);
	KUNIT_ASSERT_NE(test, addr, 0);
	/* The last page of a piece, and the first one of the next. */
	addr = ALIGN(addr + 1, piece) - PAGE_SIZE;
	a = mortal_recorder_at(test, addr);
	a->range.start = addr;
	a->range.end = addr + 2 * PAGE_SIZE;
	a->range.default_flags = HMM_PFN_REQ_FAULT;
	a->range.hmm_pfns = pfns;

	mmap_write_lock(current->mm);
	KUNIT_EXPECT_TRUE(test, put_to_sleep(&populates, populate, a));
	KUNIT_EXPECT_TRUE(test, put_to_sleep(&unregisters, sleep_in_unregister, a));
	mmap_write_unlock(current->mm);
	KUNIT_EXPECT_TRUE(test, wakes_up(&unregisters));
	KUNIT_EXPECT_TRUE(test, wakes_up(&populates));
	KUNIT_EXPECT_EQ(test, populates.result, -ECANCELED);
	KUNIT_EXPECT_TRUE(test, pfns[0] & HMM_PFN_VALID);
	KUNIT_EXPECT_EQ(test, pfns[1], 0);
}

/* Passes if what is no range is refused, and what is one is registered. */
static void bad_arguments(struct kunit *test)
{
	struct recorder *a = populated_recorder(test);
	struct mmu_interval_notifier foreign = { };
	struct mm_struct *mm = current->mm;
	struct hmm_range good = a->range;
	struct hmm_range *range = &a->range;
	struct recorder other = { .range.notifier = &other.tracker.notifier };

#define REGISTER(start, end) hmm_tracker_register(&other.tracker, mm, start, end, &recorder_ops)
#define POPULATE() hmm_range_populate(range, NULL, 0)
	KUNIT_EXPECT_EQ(test, REGISTER(BASE, BASE), -EINVAL);
	KUNIT_EXPECT_EQ(test, REGISTER(BASE + PAGE_SIZE, BASE), -EINVAL);
	KUNIT_EXPECT_EQ(test, REGISTER(BASE + 1, BASE + PAGE_SIZE), -EINVAL);
	KUNIT_EXPECT_EQ(test, REGISTER(BASE, BASE + PAGE_SIZE + 1), -EINVAL);
	KUNIT_EXPECT_EQ(test, REGISTER(0, ULONG_MAX & PAGE_MASK), 0);
	hmm_tracker_unregister(&other.tracker);

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
	KUNIT_CASE(waits_not_for_others),
	KUNIT_CASE(each_hit_is_seen),
	KUNIT_CASE(waits_for_each),
	KUNIT_CASE(registered_in_flight),
	KUNIT_CASE(insert_after_a_hit),
	KUNIT_CASE(insert_during_a_walk),
	KUNIT_CASE(remove_during_a_walk),
	KUNIT_CASE(remove_waits_for_callbacks),
	KUNIT_CASE(remove_in_flight),
	KUNIT_CASE(remove_after_refusal),
	KUNIT_CASE(refused_by_interval),
	KUNIT_CASE(refused_by_list),
	KUNIT_CASE(newcomers),
	KUNIT_CASE(sleeps_for_each),
	KUNIT_CASE(newcomer_ends_first),
	KUNIT_CASE(wakes_only_concerned),
	KUNIT_CASE(starts_long_ago),
	KUNIT_CASE(wait_is_bounded),
	KUNIT_CASE(refused_read_begin),
	KUNIT_CASE(unregister_hits),
	KUNIT_CASE(unregister_with_callers),
	KUNIT_CASE(unregister_with_sleeper),
	KUNIT_CASE(unregister_with_sleeper_in_flight),
	KUNIT_CASE(mm_gone),
	KUNIT_CASE(populate_rounds),
	KUNIT_CASE(own_events),
	KUNIT_CASE(populate_is_bounded),
	KUNIT_CASE(longest_wait),
	KUNIT_CASE(commit_keeps_lock),
	KUNIT_CASE(unregister_ends_a_walk),
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
