// SPDX-License-Identifier: GPL-2.0
/*
 * Runs a program that uses dma-bufs while the machine is short of memory, in a cgroup and
 * as a whole, swaps, reclaims, compacts, takes memory and CPUs offline and online, and
 * finds pages bad; then looks for what is left.
 *
 * usage: dma_buf_pressure [-c] [-x PROGRAM] SECONDS COMMAND [ARGUMENT...]
 *
 * -c: calm, nothing of that happens; is anything left after all that time?
 * -x: a program that does one thing more to the machine, and undoes it
 *
 * The command is to end after so many seconds. It runs in the cgroup, with PRESSURE in its
 * environment. Needs root and udmabuf and, without -c, swap, cgroups, a second CPU, memory
 * hotplug and hwpoison-inject: it names what is missing.
 */
#include <dirent.h>
#include <sys/resource.h>
#include <sys/time.h>

#include "pressure.h"
#include "udmabuf_error.h"
#include "udmabuf_swap.h"
#include "udmabuf_util.h"

#define CGROUP		"/sys/fs/cgroup"
#define GROUP		CGROUP "/dma_buf_pressure"
#define GROUP_LIMIT	"268435456"
#define SWAP_SIZE	(128UL << 20)

#define MEMORY		"/sys/devices/system/memory"
#define CPU		"/sys/devices/system/cpu/cpu1/online"

/* How long memory has to go offline, and how many blocks are asked to in a turn. */
#define OFFLINE_SECONDS	2
#define OFFLINE_TRIES	8

#define MOST_BLOCKS	64

/* What may be there afterwards that was not before, caches that are in use. */
#define MOST_KB		4096
#define MOST_CALM_KB	1024

/* What the cgroup may still be charged for, in bytes. */
#define MOST_CHARGED	(1024 * 1024)

#ifndef MADV_SOFT_OFFLINE
#define MADV_SOFT_OFFLINE	101
#endif

/* Disturbers */

static int out_of_memory_in_group(unsigned int *seed)
{
	pid_t pid = fork();

	if (pid)
		return killed(pid);
	if (try_write(GROUP "/cgroup.procs", "0"))
		_exit(1);
	eat();
	return 0;
}

static int out_of_memory(unsigned int *seed)
{
	pid_t pid = fork();

	if (!pid)
		eat();
	return killed(pid);
}

static int take_pages(unsigned int *seed)
{
	return try_write(GROUP "/memory.reclaim", "32M");
}

static int compact(unsigned int *seed)
{
	long before = file_value("/proc/vmstat", "compact_migrate_scanned");
	int ret = try_write("/proc/sys/vm/compact_memory", "1");

	/* It counts what kcompactd and page faults do meanwhile, too. */
	if (!ret && file_value("/proc/vmstat", "compact_migrate_scanned") == before)
		return -EAGAIN;
	return ret;
}

static int empty_caches(unsigned int *seed)
{
	return try_write("/proc/sys/vm/drop_caches", rand_r(seed) % 2 ? "1" : "2");
}

static int cpu(unsigned int *seed)
{
	int ret = try_write(CPU, "0");

	if (ret)
		return ret == -EBUSY ? -EAGAIN : ret;
	usleep(100000);
	/* Its threads take memory. */
	for (int i = 0; i < 100; i++) {
		ret = try_write(CPU, "1");
		if (ret != -ENOMEM && ret != -EAGAIN)
			break;
		usleep(100000);
	}
	return ret;
}

static void on_alarm(int sig)
{
}

/*
 * The blocks of memory at the beginning.  Those that are plugged later stay online_movable,
 * so that no page in them is pinned: unplugging would wait for it, and no signal ends that.
 */
static int blocks[MOST_BLOCKS];
static size_t nr_blocks;
static size_t movable;		/* the block that is always online_movable */

static void find_blocks(void)
{
	DIR *dir = opendir(MEMORY);
	struct dirent *entry;

	while (dir && nr_blocks < MOST_BLOCKS && (entry = readdir(dir)))
		nr_blocks += sscanf(entry->d_name, "memory%d", &blocks[nr_blocks]) == 1;
	if (dir)
		closedir(dir);
}

static const char *state_of(size_t block)
{
	static char path[64];

	snprintf(path, sizeof(path), MEMORY "/memory%d/state", blocks[block]);
	return path;
}

/*
 * The kernel tries until a signal comes, if pages are pinned.  The timer repeats: the kernel
 * may take the first signal while it still waits for a lock.
 */
static int offline(size_t block)
{
	struct itimerval none = {}, timer = {
		.it_value.tv_sec = OFFLINE_SECONDS,
		.it_interval.tv_sec = OFFLINE_SECONDS,
	};
	struct sigaction sa = { .sa_handler = on_alarm };
	int ret;

	sigaction(SIGALRM, &sa, NULL);
	setitimer(ITIMER_REAL, &timer, NULL);
	ret = try_write(state_of(block), "offline");
	setitimer(ITIMER_REAL, &none, NULL);
	return ret;
}

static int online(size_t block, const char *how)
{
	int ret;

	for (int i = 0; i < 100; i++) {
		ret = try_write(state_of(block), how);
		if (!ret)
			break;
		usleep(100000);
	}
	return ret;
}

/* Under pressure, each of the other blocks ends up with unmovable pages. */
static void find_movable(void)
{
	for (movable = 0; movable < nr_blocks; movable++) {
		if (offline(movable))
			continue;
		if (online(movable, "online_movable"))
			ksft_exit_fail_msg("memory%d stays offline\n", blocks[movable]);
		return;
	}
}

static int some_block(unsigned int *seed)
{
	for (int i = 0; i < OFFLINE_TRIES; i++) {
		size_t block = rand_r(seed) % nr_blocks;

		if (offline(block))
			continue;
		usleep(100000);
		return online(block, block == movable || rand_r(seed) % 2 ?
			      "online_movable" : "online");
	}
	return -EAGAIN;
}

/* Takes the frame of a page in use offline, checks the contents, and brings it back. */
static int poison_some(unsigned int *seed)
{
	enum memory kind = rand_r(seed) % 2 ? SHMEM : THP;
	size_t page = rand_r(seed) % (HUGE / PAGE);
	int memfd = memfd_try(kind, HUGE);
	uint64_t entry;
	char *map;

	if (memfd < 0)
		return memfd;
	map = map_shared(memfd, HUGE, PROT_READ | PROT_WRITE);
	if (kind == THP)
		madvise(map, HUGE, MADV_HUGEPAGE);
	mark_pages(map, 1, HUGE / PAGE);
	entry = entry_of("/proc/self/pagemap", (uintptr_t)map / PAGE + page);
	/* Moves the contents away from a suspect page. */
	if (madvise(map + page * PAGE, PAGE, MADV_SOFT_OFFLINE) || !(entry >> 63))
		entry = 0;
	for (size_t i = 0; i < HUGE / PAGE; i++)
		if (!page_is(map + i * PAGE, 1, i))
			return LOST;
	munmap(map, HUGE);
	close(memfd);
	entry &= (1ULL << 55) - 1;
	if (entry && frame_has(entry, KPF_HWPOISON))
		forget_error(entry);
	return entry ? 0 : -EAGAIN;
}

/* Another program, which is run again and again. */
static const char *other;

static int run_other(unsigned int *seed)
{
	return system(other) ? -EIO : 0;
}

/*
 * Memory does not go offline while another role has used up all memory: pages could not be
 * moved, and the kernel would try without end. Nor during MADV_SOFT_OFFLINE, which holds a
 * page and waits for the offlining, which waits for the page.
 */
static struct role disturbers[] = {
	{ "out of memory in a cgroup", out_of_memory_in_group, .pause_ms = 1000 },
	{ "out of memory", out_of_memory, .pause_ms = 3000, .alone = true },
	{ "reclaim", take_pages, .pause_ms = 200 },
	{ "compaction", compact, .pause_ms = 300 },
	{ "caches emptied", empty_caches, .pause_ms = 1000 },
	{ "CPU offline", cpu, .pause_ms = 500 },
	{ "memory offline", some_block, .pause_ms = 200, .alone = true },
	{ "pages moved off bad memory", poison_some, .pause_ms = 200, .alone = true },
	{ NULL, run_other, .pause_ms = 1000, .alone = true },		/* the last */
};

/* What is there before and after */

#define LEVELS		5
#define HUGE_PAGES	0

static const char *const level_names[LEVELS] = {
	"HugePages_Total", "MemTotal", "Mlocked", "Unevictable", "HardwareCorrupted",
};

/**
 * struct level - figures that have to be the same afterwards, or not much larger
 * @held: see there
 * @exact: of /proc/meminfo, by the names in level_names
 * @slab: SUnreclaim, in kB
 * @used: memory that is not free, in kB, with empty caches
 * @cpus: that are online
 */
struct level {
	struct held held;
	long exact[LEVELS];
	long slab;
	long used;
	long cpus;
};

/* Slabs give back what they have free, also what KASAN keeps from being used again. */
static void shrink_slabs(void)
{
	static const char slabs[] = "/sys/kernel/slab";
	DIR *dir = opendir(slabs);
	struct dirent *entry;
	char path[320];

	while (dir && (entry = readdir(dir))) {
		snprintf(path, sizeof(path), "%s/%s/shrink", slabs, entry->d_name);
		try_write(path, "1");
	}
	if (dir)
		closedir(dir);
}

static struct level level(void)
{
	struct level now;

	/* RCU and work items free memory later. */
	sleep(2);
	memory_used();
	shrink_slabs();
	now.used = memory_used() / 1024;
	now.held = held();
	now.slab = file_value("/proc/meminfo", "SUnreclaim");
	now.cpus = sysconf(_SC_NPROCESSORS_ONLN);
	for (size_t i = 0; i < LEVELS; i++)
		now.exact[i] = file_value("/proc/meminfo", level_names[i]);
	return now;
}

static void compare(const struct level *before, const struct level *now, long most)
{
	bool same = now->cpus == before->cpus;

	ksft_test_result(now->held.pins == before->held.pins &&
			 now->held.buffers == before->held.buffers &&
			 now->held.fds == before->held.fds,
			 "%ld pins, %ld buffers, %ld descriptors more\n",
			 now->held.pins - before->held.pins,
			 now->held.buffers - before->held.buffers,
			 now->held.fds - before->held.fds);
	for (size_t i = 0; i < LEVELS; i++) {
		if (now->exact[i] == before->exact[i])
			continue;
		ksft_print_msg("%s: %ld, now %ld\n", level_names[i], before->exact[i],
			       now->exact[i]);
		same = false;
	}
	ksft_test_result(same, "memory and CPUs are all there\n");
	ksft_test_result(now->slab - before->slab < most, "%ld kB more of slabs (from %ld)\n",
			 now->slab - before->slab, before->slab);
	ksft_test_result(now->used - before->used < most, "%ld kB more are used (of %ld)\n",
			 now->used - before->used, before->used);
}

/* The cgroup */

static void group_make(void)
{
	if (try_write(CGROUP "/cgroup.subtree_control", "+memory") ||
	    (mkdir(GROUP, 0755) && errno != EEXIST))
		die(GROUP);
	write_file(GROUP "/memory.max", GROUP_LIMIT);
}

/*
 * The cgroup has no process left. It is charged for caches, which are reclaimed, and for what
 * each CPU keeps in advance. Pages that were found bad may stay in its statistics.
 */
static void group_end(void)
{
	long kernel, anon, charged, kills = file_value(GROUP "/memory.events", "oom_kill");

	while (!try_write(GROUP "/memory.reclaim", "16M"))
		;
	write_file("/proc/sys/vm/drop_caches", "3");
	sleep(3);
	kernel = file_value(GROUP "/memory.stat", "kernel");
	anon = file_value(GROUP "/memory.stat", "anon");
	charged = number_in(GROUP "/memory.current");
	ksft_test_result(!anon && kernel < MOST_CHARGED && charged < MOST_CHARGED,
			 "charged: %ld bytes, anonymous %ld, kernel %ld\n", charged, anon,
			 kernel);
	ksft_test_result(kills > 0 && !rmdir(GROUP), "the cgroup goes, %ld were killed in it\n",
			 kills);
}

/* The command */

/* What the command says is a part of what we say. */
static pid_t indent(int fd)
{
	FILE *in = fdopen(fd, "r");
	char line[1024];
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (!pid) {
		while (fgets(line, sizeof(line), in)) {
			printf("    %s", line);
			fflush(stdout);
		}
		_exit(0);
	}
	fclose(in);
	return pid;
}

static pid_t command_start(char **argv, bool calm, pid_t *reader)
{
	int ends[2];
	pid_t pid;

	if (pipe2(ends, O_CLOEXEC))
		die("pipe");
	fflush(stdout);
	pid = fork();
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		dup2(ends[1], STDOUT_FILENO);
		setenv("KSFT_TAP_LEVEL", "1", 1);
		if (!calm) {
			setenv("PRESSURE", "1", 1);
			write_file(GROUP "/cgroup.procs", "0");
		}
		execvp(argv[0], argv);
		die(argv[0]);
	}
	close(ends[1]);
	*reader = indent(ends[0]);
	return pid;
}

static bool there(const char *path)
{
	if (!access(path, W_OK))
		return true;
	ksft_print_msg("no %s\n", path);
	return false;
}

int main(int argc, char **argv)
{
	size_t n = ARRAY_SIZE(disturbers) - 1;
	struct level before, after;
	unsigned int seconds;
	pid_t pid, reader;
	bool calm = false;
	long swapped = 0;
	char text[16];
	uint64_t end;
	int status;

	for (int option; (option = getopt(argc, argv, "+cx:")) != -1;) {
		calm |= option == 'c';
		if (option == 'x')
			other = optarg;
	}
	argv += optind;
	if (argc < optind + 2)
		ksft_exit_fail_msg("usage: see the source\n");
	seconds = atoi(*argv++);
	disturbers[n].name = other;
	n = calm ? 0 : other ? n + 1 : n;

	ksft_print_header();
	find_blocks();
	if (!calm && (!there(SWAP_DEVICE) || !there(CGROUP "/cgroup.procs") ||
		      !there(CPU) || !nr_blocks ||
		      !there("/sys/kernel/debug/hwpoison/unpoison-pfn")))
		ksft_exit_skip("the kernel lacks what it takes\n");
	ksft_set_plan(n + (calm ? 5 : 8));
	if (!calm) {
		oom_score(-1000);
		find_movable();
		swap_on(SWAP_SIZE);
		swapped = file_value("/proc/vmstat", "pswpout");
	}
	before = level();
	if (!calm) {
		group_make();
		roles_start(disturbers, n, seconds);
	}
	pid = command_start(argv, calm, &reader);
	end = pressure_ms() + (seconds + 2 * MOST_SECONDS) * 1000ULL;
	status = wait_until(pid, *argv, end);
	wait_until(reader, "its output", end);
	ksft_test_result(!status, "%s: status %#x\n", *argv, status);
	if (!calm) {
		roles_wait(disturbers, n, 0);
		swapped = file_value("/proc/vmstat", "pswpout") - swapped;
		ksft_test_result(swap_off() && swapped > 0,
				 "swapping ends; %ld pages were swapped out\n", swapped);
		group_end();
	}
	snprintf(text, sizeof(text), "%ld", before.exact[HUGE_PAGES]);
	write_file("/proc/sys/vm/nr_hugepages", text);
	after = level();
	compare(&before, &after, calm ? MOST_CALM_KB : MOST_KB);
	ksft_finished();
}
