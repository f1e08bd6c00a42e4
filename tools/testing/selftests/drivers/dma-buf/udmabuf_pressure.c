// SPDX-License-Identifier: GPL-2.0
/*
 * Buffers are made of memfds, mapped, imported, inherited, dropped and left behind by
 * processes that are killed, for a time.  What memfds have stays what it is: each process
 * has some, and looks at them through the next buffer, whatever has happened to their
 * pages since.
 *
 * usage: udmabuf_pressure SECONDS [PAUSE_MS], by itself or under dma_buf_pressure.
 * Needs root, vgem and huge pages; hwpoison-inject for a role that is left out without it.
 */
#include "pressure.h"
#include "udmabuf_drm.h"
#include "udmabuf_error.h"
#include "udmabuf_util.h"

#define FILES	2
#define SIZE	HUGE
#define PAGES	(SIZE / PAGE)

/**
 * struct file - a memfd of one process
 * @memfd: 0: there is none
 * @seed: of the marks of its pages
 */
struct file {
	int memfd;
	uint64_t seed;
};

static struct file files[FILES];
static int dev;

static char *try_map(int fd)
{
	char *p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	return p == MAP_FAILED ? NULL : p;
}

static bool pages_are(const char *p, uint64_t seed)
{
	for (size_t i = 0; i < PAGES; i++)
		if (!page_is(p + i * PAGE, seed, i)) {
			ksft_print_msg("page %zu is not of %llu: %llx %llx\n", i,
				       (unsigned long long)seed,
				       ((unsigned long long *)(p + i * PAGE))[0],
				       ((unsigned long long *)(p + i * PAGE))[PAGE / 8 - 1]);
			return false;
		}
	return true;
}

static int make_file(struct file *file, enum memory memory, unsigned int *seed)
{
	int fd = memfd_try(memory, SIZE);
	char *map;

	if (fd < 0)
		return fd;
	map = try_map(fd);
	if (!map) {
		close(fd);
		return -ENOMEM;
	}
	if (memory == THP)
		madvise(map, SIZE, MADV_HUGEPAGE);
	file->seed = 1 + rand_r(seed) % 1000;
	mark_pages(map, file->seed, PAGES);
	munmap(map, SIZE);
	file->memfd = fd;
	return 0;
}

/* In one or in two items.  Returns the buffer, or -errno. */
static int make_buffer(int memfd, unsigned int *seed)
{
	uint64_t first = rand_r(seed) % PAGES * PAGE;
	struct udmabuf_create_item items[] = {
		{ .memfd = memfd, .offset = 0, .size = first },
		{ .memfd = memfd, .offset = first, .size = SIZE - first },
	};
	int fd = first ? udmabuf_create_list(dev, items, 2) :
			 udmabuf_create(dev, memfd, 0, SIZE);

	return fd < 0 ? -errno : fd;
}

/* A child sees through a mapping that it has inherited what its parent sees. */
static int check_in_child(const char *map, uint64_t seed)
{
	pid_t pid = fork();
	int status;

	if (!pid)
		_exit(pages_are(map, seed) ? 0 : 1);
	if (pid < 0)
		return -errno;
	if (waitpid(pid, &status, 0) != pid)
		return -errno;
	return status ? LOST : 0;
}

static int import(int fd)
{
	static int drm;
	uint32_t handle;
	int ret;

	if (!drm)
		drm = drm_open("vgem");
	ret = drm_import(drm, fd, &handle);
	return ret ?: drm_close_handle(drm, handle);
}

/* Reads the old marks, writes new ones, through a buffer. */
static int use_buffer(struct file *file, int fd, unsigned int *seed)
{
	char *map = try_map(fd);
	int ret = 0;

	if (!map)
		return -ENOMEM;
	if (!pages_are(map, file->seed))
		ret = LOST;
	if (!ret && rand_r(seed) % 4 == 0)
		ret = import(fd);
	file->seed++;
	mark_pages(map, file->seed, PAGES);
	if (!ret && rand_r(seed) % 4 == 0)
		ret = check_in_child(map, file->seed);
	munmap(map, SIZE);
	return ret;
}

static int turn(enum memory memory, unsigned int *seed)
{
	struct file *file = &files[rand_r(seed) % FILES];
	char *map;
	int fd, ret;

	ret = file->memfd ? 0 : make_file(file, memory, seed);
	if (ret)
		return ret;
	fd = make_buffer(file->memfd, seed);
	if (fd < 0)
		return fd;
	ret = use_buffer(file, fd, seed);
	map = try_map(file->memfd);
	if (map) {
		/* Pinned or not, the pages are those that were written to. */
		madvise(map, SIZE, MADV_PAGEOUT);
		if (!pages_are(map, file->seed))
			ret = LOST;
		close(fd);
		madvise(map, SIZE, MADV_PAGEOUT);
		munmap(map, SIZE);
	} else {
		close(fd);
	}
	if (rand_r(seed) % 8 == 0) {
		close(file->memfd);
		file->memfd = 0;
	}
	return ret;
}

static int small_pages(unsigned int *seed)
{
	return turn(SHMEM, seed);
}

static int transparent(unsigned int *seed)
{
	return turn(THP, seed);
}

/* Memory that goes offline takes free huge pages with it: ask for them again. */
static int huge_pages(unsigned int *seed)
{
	int fd = open("/proc/sys/vm/nr_hugepages", O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, "32", 2) != 2)
		return -EAGAIN;
	close(fd);
	return turn(HUGETLB, seed);
}

/* A process is killed that has a buffer, mapped and imported. */
static int kill_owner(unsigned int *seed)
{
	struct file file = {};
	pid_t pid = fork();

	if (pid)
		return killed(pid);
	oom_score(1000);
	if (!make_file(&file, rand_r(seed) % 2 ? SHMEM : THP, seed)) {
		int fd = make_buffer(file.memfd, seed);

		if (fd >= 0 && try_map(fd))
			import(fd);
	}
	if (!getenv("PRESSURE") || rand_r(seed) % 2)
		kill(getpid(), SIGKILL);
	eat();
	return 0;
}

/*
 * A page is poisoned that a buffer has, which keeps it; no other is made of it.  A small page:
 * a huge one that is pinned cannot be split, and its bad page becomes free with the others.
 * Then compaction moves something there (it does not look for PG_hwpoison), or the page
 * allocator drops all of 2 MiB.
 */
static int poison_page(unsigned int *seed)
{
	struct file file = {};
	size_t page = rand_r(seed) % PAGES;
	int fd, second, ret;
	uint64_t frame;
	char *map;

	ret = make_file(&file, SHMEM, seed);
	if (ret)
		return ret;
	map = try_map(file.memfd);
	fd = map ? make_buffer(file.memfd, seed) : -ENOMEM;
	if (fd >= 0) {
		frame = poison(map + page * PAGE);
		second = make_buffer(file.memfd, seed);
		if (second != -EHWPOISON)
			ret = second < 0 ? second : -EEXIST;
		if (second >= 0)
			close(second);
		close(fd);
	} else {
		ret = fd;
	}
	if (map)
		munmap(map, SIZE);
	close(file.memfd);
	if (fd >= 0)
		forget_error(frame);
	return ret;
}

int main(int argc, char **argv)
{
	struct role roles[] = {
		{ "4 KiB pages", small_pages },
		{ "transparent huge pages", transparent },
		{ "hugetlb", huge_pages },
		{ "killed owners", kill_owner, .pause_ms = 500 },
		{ "poisoned pages", poison_page, .pause_ms = 200 },
	};
	size_t n = ARRAY_SIZE(roles);
	unsigned int seconds = roles_arguments(argc, argv, roles, n);
	struct held before, after;

	if (access("/sys/kernel/debug/hwpoison/unpoison-pfn", W_OK))
		n--;
	ksft_print_header();
	ksft_set_plan(n + 1);
	oom_score(-1000);
	want_huge_pages();
	dev = udmabuf_open();
	before = held();
	roles_start(roles, n, seconds);
	roles_wait(roles, n, seconds);
	after = held();
	ksft_test_result(after.pins == before.pins && after.buffers == before.buffers &&
			 after.fds == before.fds, "%ld pins, %ld buffers are left\n",
			 after.pins - before.pins, after.buffers - before.buffers);
	ksft_finished();
}
