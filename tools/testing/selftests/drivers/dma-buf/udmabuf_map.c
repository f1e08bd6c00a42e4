// SPDX-License-Identifier: GPL-2.0
/*
 * CPU mappings of a udmabuf: which are allowed, what they show, what becomes of
 * them in mremap(), mprotect() and fork(), who may not reach the pages behind them,
 * and that they outlive the descriptors they were made of.
 */
#include <pthread.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include <linux/loop.h>

#include "udmabuf_fault.h"
#include "udmabuf_util.h"
#include "../../kselftest_harness.h"

#define PAGES	(2 * HUGE / PAGE)
#define SIZE	(PAGES * PAGE)

FIXTURE(map) {
	struct held before;
	int dev;
	int memfd;
	int fd;
	char *mem;
};

FIXTURE_VARIANT(map) {
	enum memory memory;
	bool scattered;
};

FIXTURE_VARIANT_ADD(map, shmem) { .memory = SHMEM };
FIXTURE_VARIANT_ADD(map, shmem_reversed) { .memory = SHMEM, .scattered = true };
FIXTURE_VARIANT_ADD(map, thp) { .memory = THP };
FIXTURE_VARIANT_ADD(map, thp_reversed) { .memory = THP, .scattered = true };
FIXTURE_VARIANT_ADD(map, hugetlb) { .memory = HUGETLB };

/* Which page of the memfd is at a page of the dma-buf. */
static size_t source(bool scattered, size_t page)
{
	return scattered ? PAGES - 1 - page : page;
}

FIXTURE_SETUP(map)
{
	struct udmabuf_create_item items[PAGES];

	if (variant->memory == THP && !has_thp())
		SKIP(return, NO_THP);
	want_huge_pages();
	self->before = held();
	self->dev = udmabuf_open();
	self->memfd = memfd_filled(variant->memory, SIZE, 1, (void **)&self->mem);
	for (size_t i = 0; i < PAGES; i++)
		items[i] = (struct udmabuf_create_item) {
			.memfd = self->memfd,
			.offset = source(variant->scattered, i) * PAGE,
			.size = PAGE,
		};
	self->fd = udmabuf_create_list(self->dev, items, PAGES);
	ASSERT_GE(self->fd, 0);
}

FIXTURE_TEARDOWN(map)
{
	munmap(self->mem, SIZE);
	close(self->memfd);
	if (self->fd >= 0)
		close(self->fd);
	close(self->dev);
	EXPECT_HELD(self->before);
}

/* Pages at @map, from page @first of the dma-buf on, that are not what they should. */
static size_t wrong(bool scattered, const char *map, size_t first, size_t nr)
{
	size_t n = 0;

	for (size_t i = 0; i < nr; i++)
		n += !page_is(map + i * PAGE, 1, source(scattered, first + i));
	return n;
}

static bool smaps_says(const void *addr, const char *field, const char *value)
{
	char line[512], want[32];
	bool found = false, here = false;
	FILE *f = fopen("/proc/self/smaps", "r");

	if (!f)
		die("/proc/self/smaps");
	snprintf(want, sizeof(want), "%lx-", (unsigned long)addr);
	while (fgets(line, sizeof(line), f)) {
		if (!strncmp(line, want, strlen(want)))
			here = true;
		if (here && !strncmp(line, field, strlen(field))) {
			found = strstr(line, value);
			break;
		}
	}
	fclose(f);
	return found;
}

TEST_F(map, is_pfnmap)
{
	char *map = map_shared(self->fd, SIZE, PROT_READ | PROT_WRITE);

	EXPECT_EQ(touch(map, true), 0);
	EXPECT_TRUE(smaps_says(map, "VmFlags:", " pf"));
	EXPECT_TRUE(smaps_says(map, "VmFlags:", " de"));
	EXPECT_TRUE(smaps_says(map, "VmFlags:", " dd"));
	EXPECT_FALSE(smaps_says(map, "VmFlags:", " mm"));
	munmap(map, SIZE);
}

TEST_F(map, parts_with_an_offset)
{
	const struct { size_t first, nr; } parts[] = {
		{ 0, 1 }, { 1, 1 }, { 5, H + 20 }, { H - 1, 2 }, { H, H },
		{ PAGES - 1, 1 }, { 3, PAGES - 3 },
	};

	for (size_t i = 0; i < ARRAY_SIZE(parts); i++) {
		size_t len = parts[i].nr * PAGE;
		char *map = mmap(NULL, len, PROT_READ, MAP_SHARED, self->fd,
				 parts[i].first * PAGE);

		ASSERT_NE(map, MAP_FAILED);
		EXPECT_EQ(wrong(variant->scattered, map, parts[i].first,
				parts[i].nr), 0);
		munmap(map, len);
	}
}

/* At addresses that agree with the offset modulo 2 MiB, or just do not. */
TEST_F(map, any_address)
{
	const long skew[] = { 0, 1, H - 1, 7 };
	char *area = map_aligned(self->fd, SIZE, PROT_READ);
	char *room = mmap(NULL, SIZE + 3 * HUGE, PROT_NONE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *at = (char *)(((uintptr_t)room + HUGE - 1) & ~(HUGE - 1));

	EXPECT_EQ(wrong(variant->scattered, area, 0, PAGES), 0);
	munmap(area, SIZE);
	for (size_t i = 0; i < ARRAY_SIZE(skew); i++) {
		char *map = mmap(at + skew[i] * PAGE, SIZE, PROT_READ | PROT_WRITE,
				 MAP_SHARED | MAP_FIXED, self->fd, 0);

		ASSERT_EQ(map, at + skew[i] * PAGE);
		/* Begin with a fault in the middle. */
		EXPECT_EQ(touch(map + SIZE / 2 + 5 * PAGE, true), 0);
		EXPECT_EQ(wrong(variant->scattered, map, 0, PAGES), 0);
		mmap(map, SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
		     -1, 0);
	}
	munmap(room, SIZE + 3 * HUGE);
}

/*
 * One fault for each page table at the most, and where the pages are huge and in order,
 * no page table for them: the entries are huge.
 */
TEST_F(map, huge_entries)
{
	bool huge = has_huge_entries() && variant->memory != SHMEM && !variant->scattered;
	char *map = map_shared(self->fd, SIZE, PROT_READ | PROT_WRITE);
	uintptr_t entry = entry_size(), at = (uintptr_t)map;
	struct rusage before, after;
	long tables;

	/* The address is one that the kernel chose. */
	if (entry == HUGE && has_huge_entries())
		EXPECT_EQ(at % HUGE, 0);
	EXPECT_EQ(touch(self->mem, false), 0);
	tables = file_value("/proc/self/status", "VmPTE");
	getrusage(RUSAGE_SELF, &before);
	for (size_t i = 0; i < SIZE; i += PAGE)
		((volatile char *)map)[i] = 0;
	getrusage(RUSAGE_SELF, &after);
	tables = file_value("/proc/self/status", "VmPTE") - tables;

	EXPECT_EQ(after.ru_minflt - before.ru_minflt,
		  (at + SIZE - 1) / entry - at / entry + 1);
	/* Huge entries need no table, but perhaps one of the next level. */
	if (entry == HUGE)
		EXPECT_EQ(tables < (long)(SIZE / HUGE * 4), huge);
	munmap(map, SIZE);
}

TEST_F(map, private_refused)
{
	EXPECT_EQ(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, self->fd, 0), MAP_FAILED);
	EXPECT_EQ(errno, EINVAL);
	EXPECT_EQ(mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, self->fd, 0),
		  MAP_FAILED);
	EXPECT_EQ(errno, EINVAL);
}

TEST_F(map, past_the_end_refused)
{
	EXPECT_EQ(mmap(NULL, SIZE + PAGE, PROT_READ, MAP_SHARED, self->fd, 0),
		  MAP_FAILED);
	EXPECT_EQ(errno, EINVAL);
	EXPECT_EQ(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, self->fd, SIZE), MAP_FAILED);
	EXPECT_EQ(errno, EINVAL);
	EXPECT_EQ(mmap(NULL, 2 * PAGE, PROT_READ, MAP_SHARED, self->fd, SIZE - PAGE),
		  MAP_FAILED);
	EXPECT_EQ(errno, EINVAL);
	EXPECT_EQ(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, self->fd,
		       (off_t)1 << 62),
		  MAP_FAILED);
}

TEST_F(map, mremap)
{
	char *map = map_shared(self->fd, SIZE, PROT_READ | PROT_WRITE);
	char *moved, *again;

	EXPECT_EQ(wrong(variant->scattered, map, 0, PAGES), 0);
	EXPECT_EQ(mremap(map, SIZE, SIZE + PAGE, MREMAP_MAYMOVE), MAP_FAILED);
	EXPECT_EQ(errno, EFAULT);

	/* Moved to an address that is skewed by a page. */
	moved = mmap(NULL, SIZE + 2 * HUGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS,
		     -1, 0);
	again = (char *)(((uintptr_t)moved + HUGE - 1) & ~(HUGE - 1)) + PAGE;
	ASSERT_EQ(mremap(map, SIZE, SIZE, MREMAP_MAYMOVE | MREMAP_FIXED, again), again);
	EXPECT_EQ(wrong(variant->scattered, again, 0, PAGES), 0);
	EXPECT_EQ(touch(map, false), SIGSEGV);

	/* Shrunk. */
	ASSERT_EQ(mremap(again, SIZE, SIZE / 2, 0), again);
	EXPECT_EQ(wrong(variant->scattered, again, 0, PAGES / 2), 0);
	munmap(again, SIZE / 2);
	munmap(moved, SIZE + 2 * HUGE);
}

TEST_F(map, mprotect)
{
	char *map = map_aligned(self->fd, SIZE, PROT_READ | PROT_WRITE);
	size_t end = 3 + PAGES * 6 / 10;

	EXPECT_EQ(wrong(variant->scattered, map, 0, PAGES), 0);
	ASSERT_EQ(mprotect(map + 3 * PAGE, (end - 3) * PAGE, PROT_READ), 0);
	EXPECT_EQ(touch(map + 3 * PAGE, true), SIGSEGV);
	EXPECT_EQ(touch(map + (end - 1) * PAGE, true), SIGSEGV);
	EXPECT_EQ(touch(map + 2 * PAGE, true), 0);
	EXPECT_EQ(touch(map + end * PAGE, true), 0);
	EXPECT_EQ(wrong(variant->scattered, map, 0, PAGES), 0);

	ASSERT_EQ(mprotect(map, SIZE, PROT_NONE), 0);
	EXPECT_EQ(touch(map + (end + 9) * PAGE, false), SIGSEGV);
	ASSERT_EQ(mprotect(map, SIZE, PROT_READ | PROT_WRITE), 0);
	EXPECT_EQ(touch(map + 3 * PAGE, true), 0);
	EXPECT_EQ(wrong(variant->scattered, map, 0, PAGES), 0);
	munmap(map, SIZE);
}

/* A hole in the mapping, and a mapping thrown away and faulted in again. */
TEST_F(map, munmap_a_part_and_zap)
{
	char *map = map_aligned(self->fd, SIZE, PROT_READ | PROT_WRITE);

	EXPECT_EQ(wrong(variant->scattered, map, 0, PAGES), 0);
	munmap(map + 20 * PAGE, 10 * PAGE);
	EXPECT_EQ(touch(map + 20 * PAGE, false), SIGSEGV);
	EXPECT_EQ(touch(map + 29 * PAGE, false), SIGSEGV);
	EXPECT_EQ(wrong(variant->scattered, map, 0, 20), 0);
	EXPECT_EQ(wrong(variant->scattered, map + 30 * PAGE, 30, PAGES - 30), 0);

	/* madvise(2) may refuse this for a VM_PFNMAP mapping: then nothing changes. */
	madvise(map + H * PAGE, H * PAGE, MADV_DONTNEED);
	EXPECT_EQ(wrong(variant->scattered, map + 30 * PAGE, 30, PAGES - 30), 0);
	munmap(map, SIZE);
}

TEST_F(map, fork)
{
	char *map = map_aligned(self->fd, SIZE, PROT_READ | PROT_WRITE);
	int status;
	pid_t pid;

	/* One half is there before the fork, the other is not. */
	EXPECT_EQ(wrong(variant->scattered, map, 0, PAGES / 2), 0);
	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid) {
		if (wrong(variant->scattered, map, 0, PAGES))
			_exit(1);
		mark_page(map, 3, 3);
		mark_page(map + SIZE - PAGE, 3, 4);
		_exit(0);
	}
	ASSERT_EQ(waitpid(pid, &status, 0), pid);
	EXPECT_EQ(status, 0);
	EXPECT_TRUE(page_is(map, 3, 3));
	EXPECT_TRUE(page_is(map + SIZE - PAGE, 3, 4));
	EXPECT_TRUE(page_is(self->mem + source(variant->scattered, 0) * PAGE, 3, 3));
	munmap(map, SIZE);
}

TEST_F(map, readonly_mapping)
{
	char *map = map_aligned(self->fd, SIZE, PROT_READ);

	EXPECT_EQ(wrong(variant->scattered, map, 0, PAGES), 0);
	EXPECT_EQ(touch(map, true), SIGSEGV);
	EXPECT_EQ(touch(map + SIZE - 1, true), SIGSEGV);

	/* It is the mapping that is read-only, not the buffer. */
	ASSERT_EQ(mprotect(map, SIZE, PROT_READ | PROT_WRITE), 0);
	EXPECT_EQ(touch(map, true), 0);
	EXPECT_EQ(touch(map + SIZE - 1, true), 0);
	munmap(map, SIZE);
}

/* The mapping keeps the pages, in whichever order all else goes. */
TEST_F(map, close_while_mapped)
{
	char *map = map_shared(self->fd, SIZE, PROT_READ | PROT_WRITE);

	close(self->fd);
	self->fd = -1;
	EXPECT_EQ(wrong(variant->scattered, map, 0, PAGES), 0);
	mark_page(map, 4, 4);
	EXPECT_TRUE(page_is(self->mem + source(variant->scattered, 0) * PAGE, 4, 4));
	munmap(map, SIZE);
}

TEST_F(map, close_memfd_first)
{
	char *map = map_shared(self->fd, SIZE, PROT_READ | PROT_WRITE);

	munmap(self->mem, SIZE);
	close(self->memfd);
	EXPECT_EQ(wrong(variant->scattered, map, 0, PAGES), 0);
	close(self->fd);
	self->fd = -1;
	mark_page(map + SIZE - PAGE, 4, 4);
	EXPECT_TRUE(page_is(map + SIZE - PAGE, 4, 4));
	munmap(map, SIZE);

	self->memfd = memfd_filled(variant->memory, SIZE, 1, (void **)&self->mem);
}

struct toucher {
	pthread_t thread;
	char *map;
	size_t start;
	bool scattered;
	size_t wrong;
};

static void *toucher_run(void *arg)
{
	struct toucher *t = arg;

	for (size_t i = 0; i < PAGES; i++) {
		size_t page = (t->start + i * 77) % PAGES;

		t->wrong += wrong(t->scattered, t->map + page * PAGE, page, 1);
	}
	return NULL;
}

/* Threads that fault on the same tables at once, again and again. */
TEST_F_TIMEOUT(map, racing_faults, 300)
{
	struct toucher t[4];

	for (int round = 0; round < 20; round++) {
		char *map = round & 1 ? map_aligned(self->fd, SIZE, PROT_READ) :
					map_shared(self->fd, SIZE, PROT_READ);

		for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
			t[i] = (struct toucher) {
				.map = map,
				.start = i * 300 % PAGES,
				.scattered = variant->scattered,
			};
			ASSERT_EQ(pthread_create(&t[i].thread, NULL, toucher_run,
						 &t[i]), 0);
		}
		for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
			pthread_join(t[i].thread, NULL);
			EXPECT_EQ(t[i].wrong, 0);
		}
		munmap(map, SIZE);
	}
}

/*
 * Nobody gets at the pages through get_user_pages(): not for direct I/O, in either
 * direction, not to gift them to a pipe, not from another process.
 */
TEST_F(map, no_get_user_pages)
{
	char *map = map_aligned(self->fd, SIZE, PROT_READ | PROT_WRITE);
	char *copy = aligned_alloc(PAGE, PAGE);
	struct iovec remote = { map, PAGE }, local = { copy, PAGE };
	int pipes[2];

	ASSERT_NE(copy, NULL);
	EXPECT_EQ(wrong(variant->scattered, map, 0, PAGES), 0);

	ASSERT_EQ(pipe(pipes), 0);
	EXPECT_EQ(vmsplice(pipes[1], &remote, 1, 0), -1);
	EXPECT_EQ(errno, EFAULT);
	EXPECT_EQ(process_vm_readv(getpid(), &local, 1, &remote, 1, 0), -1);
	EXPECT_EQ(errno, EFAULT);
	EXPECT_EQ(process_vm_writev(getpid(), &local, 1, &remote, 1, 0), -1);
	EXPECT_EQ(errno, EFAULT);

	/* Where the mapping has huge entries, these must not be followed either. */
	remote.iov_base = map + HUGE + 5 * PAGE;
	EXPECT_EQ(vmsplice(pipes[1], &remote, 1, 0), -1);
	EXPECT_EQ(errno, EFAULT);

	/* The same calls work on memory that is the process's own. */
	remote.iov_base = self->mem;
	EXPECT_EQ(vmsplice(pipes[1], &remote, 1, SPLICE_F_NONBLOCK), PAGE);
	EXPECT_EQ(process_vm_readv(getpid(), &local, 1, &remote, 1, 0), PAGE);

	close(pipes[0]);
	close(pipes[1]);
	free(copy);
	munmap(map, SIZE);
}

/* A block device of SIZE bytes, open for direct I/O, or -1; *loop is to be closed. */
static int loop_device(int *loop)
{
	int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
	int backing = memfd_create("loop", MFD_CLOEXEC);
	int nr = ioctl(control, LOOP_CTL_GET_FREE);
	char path[32];

	snprintf(path, sizeof(path), "/dev/loop%d", nr);
	*loop = open(path, O_RDWR | O_CLOEXEC);
	if (control < 0 || backing < 0 || ftruncate(backing, SIZE) || *loop < 0 ||
	    ioctl(*loop, LOOP_SET_FD, backing))
		die("loop device");
	close(backing);
	close(control);
	return open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
}

/* Direct I/O cannot use a mapping, in neither direction. */
TEST_F(map, no_direct_io)
{
	char *map = map_aligned(self->fd, SIZE, PROT_READ | PROT_WRITE);
	int loop, file = loop_device(&loop);

	ASSERT_GE(file, 0);
	EXPECT_EQ(touch(map, true), 0);
	EXPECT_EQ(pwrite(file, self->mem, PAGE, 0), PAGE);
	EXPECT_EQ(pread(file, self->mem, PAGE, 0), PAGE);
	EXPECT_EQ(pwrite(file, map, PAGE, 0), -1);
	EXPECT_EQ(errno, EFAULT);
	EXPECT_EQ(pread(file, map, PAGE, 0), -1);
	EXPECT_EQ(errno, EFAULT);
	EXPECT_EQ(ioctl(loop, LOOP_CLR_FD), 0);
	close(file);
	close(loop);
	munmap(map, SIZE);
}

TEST_HARNESS_MAIN
