// SPDX-License-Identifier: GPL-2.0
/*
 * The HMM range helper, driven through a module that mirrors this process's pages
 *
 * The device has to see what the CPU maps, whatever is done to the mapping. A wait for a
 * range waits for invalidations that overlap it, and for no others.
 *
 * Needs root and the module test_hmm_range.
 */
#include "hmm_range_util.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/resource.h>

#include "../kselftest_harness.h"

/* An emulated machine with KASAN takes so long, on a busy host. */
#undef TEST_TIMEOUT_DEFAULT
#define TEST_TIMEOUT_DEFAULT	180

#define PAGES	16

/* As many trackers on one mm, and threads on one tracker. */
#define TRACKERS	1000
#define THREADS		8

#ifndef MAP_HUGE_SHIFT
#define MAP_HUGE_SHIFT		26
#endif

static void *map(size_t size, int prot, int flags, int fd)
{
	return mmap(NULL, size, prot, flags, fd, 0);
}

static void fill(char *mem, size_t pages, int seed)
{
	for (size_t i = 0; i < pages; i++)
		memset(mem + i * PAGE, seed + i, PAGE);
}

/* A page table of the device over PAGES pages of memory. */
FIXTURE(mirror) {
	int fd;
	char *mem;
	char *buffer;
};

FIXTURE_SETUP(mirror)
{
	self->fd = open_device();
	ASSERT_GE(self->fd, 0);
	self->mem = map_anon(PAGES);
	ASSERT_NE(self->mem, MAP_FAILED);
	self->buffer = malloc(PAGES * PAGE);
	ASSERT_NE(self->buffer, NULL);
	ASSERT_EQ(mirror_register(self->fd, self->mem, PAGES), 0);
}

FIXTURE_TEARDOWN(mirror)
{
	/* Whatever was compared with the page tables was the same. */
	EXPECT_EQ(stats(self->fd).mismatches, 0);
	close(self->fd);
	munmap(self->mem, PAGES * PAGE);
	free(self->buffer);
}

TEST_F(mirror, register_refuses)
{
	struct hmm_range_test_cmd none = { };
	int fd = open_device();

	ASSERT_GE(fd, 0);
	EXPECT_EQ(mirror_register(self->fd, self->mem, PAGES), -EBUSY);
	EXPECT_EQ(mirror_register(fd, self->mem, 0), -EINVAL);
	EXPECT_EQ(mirror_register(fd, self->mem + 1, 1), -EINVAL);
	EXPECT_EQ(mirror_register(fd, self->mem, HMM_RANGE_TEST_PAGES + 1), -EINVAL);
	EXPECT_EQ(mirror_register(fd, (void *)-PAGE, 2), -EINVAL);
	EXPECT_EQ(mirror_wait(fd, 0), -ENXIO);
	EXPECT_EQ(mirror_unregister(fd), -ENXIO);
	EXPECT_EQ(ioctl(self->fd, _IOW('h', 0xff, none), &none), -1);
	EXPECT_EQ(errno, ENOTTY);
	EXPECT_EQ(ioctl(self->fd, HMM_RANGE_TEST_POPULATE, NULL), -1);
	EXPECT_EQ(errno, EFAULT);
	EXPECT_EQ(mirror_register(fd, self->mem, 1), 0);
	EXPECT_EQ(mirror_unregister(fd), 0);
	EXPECT_EQ(mirror_register(fd, self->mem, 1), 0);
	close(fd);
}

TEST_F(mirror, outside_is_refused)
{
	EXPECT_EQ(populate(self->fd, self->mem - PAGE, 1, 0), -EINVAL);
	EXPECT_EQ(populate(self->fd, self->mem - PAGE, 2, 0), -EINVAL);
	EXPECT_EQ(populate(self->fd, self->mem + PAGES * PAGE, 1, 0), -EINVAL);
	EXPECT_EQ(populate(self->fd, self->mem, PAGES + 1, 0), -EINVAL);
	EXPECT_EQ(populate(self->fd, self->mem + 1, 1, 0), -EINVAL);
	EXPECT_EQ(populate(self->fd, self->mem, 0, 0), -EINVAL);
	EXPECT_EQ(count(self->fd, self->mem, PAGES, VALID), 0);
}

TEST_F(mirror, populate)
{
	fill(self->mem, PAGES, 1);
	ASSERT_EQ(populate(self->fd, self->mem, PAGES, 0), 0);
	EXPECT_EQ(count(self->fd, self->mem, PAGES, VALID | WRITABLE), PAGES);
	ASSERT_EQ(device_read(self->fd, self->mem, PAGES, self->buffer), 0);
	EXPECT_EQ(memcmp(self->mem, self->buffer, PAGES * PAGE), 0);
	EXPECT_EQ(stats(self->fd).compared, PAGES);
}

TEST_F(mirror, populate_a_part)
{
	uint8_t states[PAGES];

	ASSERT_EQ(populate(self->fd, self->mem + 3 * PAGE, 2, WRITABLE), 0);
	ASSERT_EQ(entries(self->fd, self->mem, PAGES, states), 0);
	for (int i = 0; i < PAGES; i++)
		EXPECT_EQ(states[i], i == 3 || i == 4 ? VALID | WRITABLE : 0);
}

TEST_F(mirror, snapshot)
{
	uint8_t states[PAGES];

	self->mem[2 * PAGE] = 1;
	ASSERT_EQ(munmap(self->mem + 4 * PAGE, PAGE), 0);
	ASSERT_EQ(mprotect(self->mem + 5 * PAGE, PAGE, PROT_NONE), 0);
	ASSERT_EQ(snapshot(self->fd, self->mem, PAGES, states), 0);
	EXPECT_EQ(states[1], 0);
	EXPECT_EQ(states[2], VALID | WRITABLE);
	EXPECT_EQ(states[3], 0);
	EXPECT_EQ(states[4], HMM_RANGE_TEST_ERROR);
	EXPECT_EQ(states[5], HMM_RANGE_TEST_ERROR);
	EXPECT_EQ(states[6], 0);
	/* It was read, not mirrored. */
	EXPECT_EQ(count(self->fd, self->mem, PAGES, VALID), 0);
}

TEST_F(mirror, write_faults)
{
	/* Of memory never touched, first for reading: the zero page. */
	ASSERT_EQ(populate(self->fd, self->mem, PAGES, 0), 0);
	EXPECT_EQ(count(self->fd, self->mem, PAGES, VALID), PAGES);
	memset(self->buffer, 0x5a, PAGES * PAGE);
	ASSERT_EQ(device_write(self->fd, self->mem, PAGES, self->buffer), 0);
	EXPECT_EQ(count(self->fd, self->mem, PAGES, VALID | WRITABLE), PAGES);
	EXPECT_EQ(memcmp(self->mem, self->buffer, PAGES * PAGE), 0);
	/* And the other way, through the same entries. */
	fill(self->mem, PAGES, 7);
	ASSERT_EQ(device_read(self->fd, self->mem, PAGES, self->buffer), 0);
	EXPECT_EQ(memcmp(self->mem, self->buffer, PAGES * PAGE), 0);
}

TEST_F(mirror, read_only_vma)
{
	fill(self->mem, PAGES, 1);
	ASSERT_EQ(mprotect(self->mem, PAGES * PAGE, PROT_READ), 0);
	EXPECT_EQ(populate(self->fd, self->mem, PAGES, WRITABLE), -EPERM);
	EXPECT_EQ(count(self->fd, self->mem, PAGES, VALID), 0);
	ASSERT_EQ(populate(self->fd, self->mem, PAGES, 0), 0);
	EXPECT_EQ(count(self->fd, self->mem, PAGES, VALID), PAGES);
	EXPECT_EQ(device_write(self->fd, self->mem, 1, self->buffer), -EPERM);
	EXPECT_EQ(self->mem[0], 1);
}

TEST_F(mirror, prot_none_and_holes)
{
	fill(self->mem, PAGES, 1);
	ASSERT_EQ(mprotect(self->mem + PAGE, PAGE, PROT_NONE), 0);
	ASSERT_EQ(munmap(self->mem + 3 * PAGE, PAGE), 0);
	EXPECT_EQ(populate(self->fd, self->mem + PAGE, 1, 0), -EFAULT);
	EXPECT_EQ(populate(self->fd, self->mem + PAGE, 1, WRITABLE), -EFAULT);
	EXPECT_EQ(populate(self->fd, self->mem + 3 * PAGE, 1, 0), -EFAULT);
	EXPECT_EQ(populate(self->fd, self->mem, PAGES, 0), -EFAULT);
	EXPECT_EQ(count(self->fd, self->mem, PAGES, VALID), 0);
	EXPECT_EQ(populate(self->fd, self->mem + 2 * PAGE, 1, 0), 0);
}

TEST_F(mirror, munmap_under_it)
{
	uint8_t states[PAGES];

	ASSERT_EQ(populate(self->fd, self->mem, PAGES, WRITABLE), 0);
	/* The first page, the last page, and one in the middle. */
	ASSERT_EQ(munmap(self->mem, PAGE), 0);
	ASSERT_EQ(munmap(self->mem + (PAGES - 1) * PAGE, PAGE), 0);
	ASSERT_EQ(munmap(self->mem + 5 * PAGE, PAGE), 0);
	ASSERT_EQ(entries(self->fd, self->mem, PAGES, states), 0);
	for (int i = 0; i < PAGES; i++)
		EXPECT_EQ(states[i],
			  i == 0 || i == 5 || i == PAGES - 1 ? 0 : VALID | WRITABLE);
}

/* What is next to the mirror is not its business. */
TEST(neighbours)
{
	char *mem = map_anon(3);
	int fd = open_device();

	ASSERT_NE(mem, MAP_FAILED);
	ASSERT_GE(fd, 0);
	fill(mem, 3, 1);
	ASSERT_EQ(mirror_register(fd, mem + PAGE, 1), 0);
	ASSERT_EQ(populate(fd, mem + PAGE, 1, WRITABLE), 0);
	ASSERT_EQ(madvise(mem, PAGE, MADV_DONTNEED), 0);
	ASSERT_EQ(madvise(mem + 2 * PAGE, PAGE, MADV_DONTNEED), 0);
	EXPECT_EQ(stats(fd).hits, 0);
	EXPECT_EQ(count(fd, mem + PAGE, 1, VALID | WRITABLE), 1);
	ASSERT_EQ(madvise(mem + PAGE, PAGE, MADV_DONTNEED), 0);
	EXPECT_EQ(stats(fd).hits, 1);
	EXPECT_EQ(count(fd, mem + PAGE, 1, VALID), 0);
	close(fd);
	munmap(mem, 3 * PAGE);
}

TEST_F(mirror, mremap_under_it)
{
	char *to = map_anon(PAGES);
	int fd = open_device();

	ASSERT_NE(to, MAP_FAILED);
	fill(self->mem, PAGES, 1);
	ASSERT_EQ(populate(self->fd, self->mem, PAGES, WRITABLE), 0);
	ASSERT_EQ(mirror_register(fd, to, PAGES), 0);
	ASSERT_EQ(populate(fd, to, PAGES, WRITABLE), 0);
	ASSERT_EQ(mremap(self->mem, PAGES * PAGE, PAGES * PAGE,
			 MREMAP_MAYMOVE | MREMAP_FIXED, to), to);
	EXPECT_EQ(count(self->fd, self->mem, PAGES, VALID), 0);
	EXPECT_EQ(count(fd, to, PAGES, VALID), 0);
	EXPECT_EQ(populate(self->fd, self->mem, PAGES, 0), -EFAULT);
	ASSERT_EQ(device_read(fd, to, PAGES, self->buffer), 0);
	EXPECT_EQ(memcmp(to, self->buffer, PAGES * PAGE), 0);
	EXPECT_EQ(self->buffer[PAGE], 2);
	close(fd);
	munmap(to, PAGES * PAGE);
}

TEST_F(mirror, mprotect_under_it)
{
	fill(self->mem, PAGES, 1);
	ASSERT_EQ(populate(self->fd, self->mem, PAGES, WRITABLE), 0);
	ASSERT_EQ(mprotect(self->mem, PAGES * PAGE, PROT_READ), 0);
	EXPECT_EQ(count(self->fd, self->mem, PAGES, VALID), 0);
	EXPECT_EQ(device_write(self->fd, self->mem, PAGES, self->buffer), -EPERM);
	ASSERT_EQ(mprotect(self->mem, PAGES * PAGE, PROT_READ | PROT_WRITE), 0);
	EXPECT_EQ(device_write(self->fd, self->mem, PAGES, self->buffer), 0);
}

/* A start at address 0 has its end, too. */
TEST_F(mirror, mprotect_at_0)
{
	char *zero = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	int fd = open_device();

	ASSERT_EQ(zero, NULL);
	ASSERT_EQ(mirror_register(fd, zero, 1), 0);
	ASSERT_EQ(populate(fd, zero, 1, WRITABLE), 0);
	ASSERT_EQ(mprotect(zero, PAGE, PROT_READ), 0);
	EXPECT_EQ(mirror_wait(fd, 0), 0);
	EXPECT_EQ(populate(fd, zero, 1, 0), 0);
	ASSERT_EQ(madvise(self->mem, PAGE, MADV_DONTNEED), 0);
	EXPECT_EQ(mirror_wait(self->fd, 0), 0);
	close(fd);
	munmap(zero, PAGE);
	EXPECT_EQ(mirror_unregister(self->fd), 0);
	EXPECT_EQ(mirror_register(self->fd, self->mem, PAGES), 0);
	EXPECT_EQ(mirror_wait(self->fd, 0), 0);
}

/* A child that shows what it sees of mem: exit status 0 if it is byte. */
static int child_sees(const char *mem, char byte)
{
	int status;
	pid_t pid = fork();

	if (!pid)
		_exit(mem[0] != byte);
	return waitpid(pid, &status, 0) == pid ? status : -1;
}

TEST_F(mirror, fork_and_cow)
{
	int status, go[2];
	pid_t pid;

	ASSERT_EQ(pipe(go), 0);
	fill(self->mem, PAGES, 1);
	ASSERT_EQ(populate(self->fd, self->mem, PAGES, WRITABLE), 0);
	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid) {
		/* Private pages stay what they were at the fork. */
		if (read(go[0], self->buffer, 1) != 1)
			_exit(2);
		_exit(self->mem[0] != 1);
	}
	/* They were made read-only for it: the device may not go on writing. */
	EXPECT_EQ(count(self->fd, self->mem, PAGES, VALID | WRITABLE), 0);
	ASSERT_EQ(populate(self->fd, self->mem, PAGES, 0), 0);
	EXPECT_EQ(count(self->fd, self->mem, PAGES, VALID), PAGES);
	memset(self->buffer, 0x77, PAGES * PAGE);
	ASSERT_EQ(device_write(self->fd, self->mem, PAGES, self->buffer), 0);
	EXPECT_EQ(self->mem[0], 0x77);
	ASSERT_EQ(write(go[1], "", 1), 1);
	ASSERT_EQ(waitpid(pid, &status, 0), pid);
	EXPECT_EQ(status, 0);

	/* The CPU breaks it, with the device reading. */
	ASSERT_EQ(child_sees(self->mem, 0x77), 0);
	ASSERT_EQ(populate(self->fd, self->mem, PAGES, 0), 0);
	self->mem[0] = 1;
	ASSERT_EQ(device_read(self->fd, self->mem, 1, self->buffer), 0);
	EXPECT_EQ(self->buffer[0], 1);
	close(go[0]);
	close(go[1]);
}

TEST_F(mirror, shmem)
{
	int memfd = memfd_create("hmm-range", 0);
	int fd = open_device();
	char *one, *two;

	ASSERT_EQ(ftruncate(memfd, PAGES * PAGE), 0);
	one = map(PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, memfd);
	two = map(PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, memfd);
	ASSERT_NE(one, MAP_FAILED);
	ASSERT_NE(two, MAP_FAILED);
	ASSERT_EQ(mirror_register(fd, one, PAGES), 0);
	memset(self->buffer, 0x33, PAGES * PAGE);
	ASSERT_EQ(device_write(fd, one, PAGES, self->buffer), 0);
	EXPECT_EQ(memcmp(two, self->buffer, PAGES * PAGE), 0);
	/* What others do to the file reaches the mirror. */
	ASSERT_EQ(fallocate(memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, PAGE), 0);
	EXPECT_EQ(count(fd, one, 1, VALID), 0);
	EXPECT_EQ(count(fd, one, PAGES, VALID | WRITABLE), PAGES - 1);
	ASSERT_EQ(device_read(fd, one, 1, self->buffer), 0);
	EXPECT_EQ(self->buffer[0], 0);
	/* Past the end of the file there is nothing. */
	ASSERT_EQ(ftruncate(memfd, PAGE), 0);
	EXPECT_EQ(count(fd, one + PAGE, PAGES - 1, VALID), 0);
	EXPECT_EQ(populate(fd, one + PAGE, 1, 0), -EFAULT);
	EXPECT_EQ(stats(fd).mismatches, 0);
	close(fd);
	munmap(one, PAGES * PAGE);
	munmap(two, PAGES * PAGE);
	close(memfd);
}

TEST_F(mirror, private_file)
{
	int file = open("/proc/self/exe", O_RDONLY);
	int fd = open_device();
	char was;
	char *mem;

	mem = map(2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, file);
	ASSERT_NE(mem, MAP_FAILED);
	ASSERT_EQ(mirror_register(fd, mem, 2), 0);
	ASSERT_EQ(device_read(fd, mem, 2, self->buffer), 0);
	EXPECT_EQ(memcmp(self->buffer, "\177ELF", 4), 0);
	EXPECT_EQ(count(fd, mem, 2, VALID), 2);
	/* A write is to a copy, of which the file sees nothing. */
	memset(self->buffer, 0x44, PAGE);
	ASSERT_EQ(device_write(fd, mem, 1, self->buffer), 0);
	EXPECT_EQ(mem[0], 0x44);
	ASSERT_EQ(pread(file, &was, 1, 0), 1);
	EXPECT_EQ(was, 0x7f);
	EXPECT_EQ(stats(fd).mismatches, 0);
	close(fd);
	munmap(mem, 2 * PAGE);
	close(file);
}

TEST_F(mirror, shared_file)
{
	char name[] = "/dev/shm/hmm-range-XXXXXX";
	int file = mkstemp(name);
	int fd = open_device();
	char *mem;

	ASSERT_GE(file, 0);
	unlink(name);
	ASSERT_EQ(ftruncate(file, PAGES * PAGE), 0);
	mem = map(PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file);
	ASSERT_NE(mem, MAP_FAILED);
	ASSERT_EQ(mirror_register(fd, mem, PAGES), 0);
	memset(self->buffer, 0x55, PAGES * PAGE);
	ASSERT_EQ(device_write(fd, mem, PAGES, self->buffer), 0);
	memset(self->buffer, 0, PAGES * PAGE);
	ASSERT_EQ(pread(file, self->buffer, PAGES * PAGE, 0), PAGES * PAGE);
	EXPECT_EQ(self->buffer[PAGES * PAGE - 1], 0x55);
	close(fd);
	munmap(mem, PAGES * PAGE);
	close(file);
}

/* An address that a huge page can be at, with room around it. */
static char *map_aligned(void **area)
{
	*area = map_anon(3 * HUGE / PAGE);
	return (char *)(((uintptr_t)*area + HUGE) & ~(HUGE - 1));
}

TEST(transparent_huge_page)
{
	uint8_t states[HUGE / PAGE + 2];
	char *buffer = malloc(HUGE);
	int fd = open_device();
	void *area;
	char *mem = map_aligned(&area);

	/* With pages of 64 KiB they are larger. */
	if (PAGE != 4096)
		SKIP(return, "transparent huge pages are larger than 2 MiB here");
	ASSERT_NE(area, MAP_FAILED);
	ASSERT_EQ(madvise(mem, HUGE, MADV_HUGEPAGE), 0);
	fill(mem, HUGE / PAGE, 1);
	ASSERT_EQ(mirror_register(fd, mem - PAGE, HUGE / PAGE + 2), 0);
	ASSERT_EQ(snapshot(fd, mem - PAGE, HUGE / PAGE + 2, states), 0);
	for (int i = 1; i <= HUGE / PAGE; i++)
		ASSERT_EQ(states[i], VALID | WRITABLE | HMM_RANGE_TEST_HUGE);
	EXPECT_EQ(states[0], 0);
	ASSERT_EQ(populate(fd, mem - PAGE, HUGE / PAGE + 2, WRITABLE), 0);
	EXPECT_EQ(count(fd, mem, HUGE / PAGE, VALID | WRITABLE), HUGE / PAGE);
	ASSERT_EQ(device_read(fd, mem, HUGE / PAGE, buffer), 0);
	EXPECT_EQ(memcmp(mem, buffer, HUGE), 0);

	/* It is split: all of it is told, and what is left is found again. */
	ASSERT_EQ(munmap(mem + HUGE / 2, PAGE), 0);
	EXPECT_EQ(count(fd, mem, HUGE / PAGE, VALID), 0);
	EXPECT_EQ(populate(fd, mem, HUGE / PAGE, 0), -EFAULT);
	ASSERT_EQ(populate(fd, mem, HUGE / PAGE / 2, 0), 0);
	ASSERT_EQ(device_read(fd, mem, HUGE / PAGE / 2, buffer), 0);
	EXPECT_EQ(memcmp(mem, buffer, HUGE / 2), 0);
	EXPECT_EQ(stats(fd).mismatches, 0);
	close(fd);
	munmap(area, 3 * HUGE);
	free(buffer);
}

TEST(hugetlb)
{
	char *buffer = malloc(HUGE);
	int fd = open_device();
	uint8_t state;
	char *mem;

	ASSERT_EQ(write_text("/proc/sys/vm/nr_hugepages", "4"), 0);
	mem = map(2 * HUGE, PROT_READ | PROT_WRITE,
		  MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | (21 << MAP_HUGE_SHIFT), -1);
	ASSERT_NE(mem, MAP_FAILED);
	ASSERT_EQ(mirror_register(fd, mem, 2 * HUGE / PAGE), 0);
	memset(buffer, 0x66, HUGE);
	ASSERT_EQ(device_write(fd, mem, HUGE / PAGE, buffer), 0);
	EXPECT_EQ(mem[0], 0x66);
	EXPECT_EQ(mem[HUGE - 1], 0x66);
	mem[HUGE - 1] = 1;
	/* One that is not mapped yet, whatever its size. */
	ASSERT_EQ(snapshot(fd, mem + HUGE, 1, &state), 0);
	EXPECT_EQ(state, 0);
	/* A part of a huge page. */
	ASSERT_EQ(device_read(fd, mem + HUGE - PAGE, 2, buffer), 0);
	EXPECT_EQ(buffer[PAGE - 1], 1);
	EXPECT_EQ(buffer[PAGE], 0);
	ASSERT_EQ(mprotect(mem, HUGE, PROT_READ), 0);
	EXPECT_EQ(count(fd, mem, HUGE / PAGE, VALID), 0);
	EXPECT_EQ(populate(fd, mem, 1, WRITABLE), -EPERM);
	ASSERT_EQ(munmap(mem, HUGE), 0);
	EXPECT_EQ(populate(fd, mem, 1, 0), -EFAULT);
	EXPECT_EQ(stats(fd).mismatches, 0);
	close(fd);
	munmap(mem + HUGE, HUGE);
	ASSERT_EQ(write_text("/proc/sys/vm/nr_hugepages", "0"), 0);
	free(buffer);
}

/* Pages of the same contents become one: the device is told, and writes to its own. */
TEST_F(mirror, ksm_under_it)
{
	struct timespec then;

	ASSERT_EQ(write_text("/sys/kernel/mm/ksm/sleep_millisecs", "0"), 0);
	ASSERT_EQ(write_text("/sys/kernel/mm/ksm/pages_to_scan", "1000"), 0);
	memset(self->mem, 0x42, PAGES * PAGE);
	ASSERT_EQ(populate(self->fd, self->mem, PAGES, WRITABLE), 0);
	ASSERT_EQ(madvise(self->mem, PAGES * PAGE, MADV_MERGEABLE), 0);
	ASSERT_EQ(write_text("/sys/kernel/mm/ksm/run", "1"), 0);
	clock_gettime(CLOCK_MONOTONIC, &then);
	while (count(self->fd, self->mem, PAGES, VALID | WRITABLE) && ms_since(&then) < LONG_MS)
		sleep_ms(20);
	EXPECT_EQ(count(self->fd, self->mem, PAGES, VALID | WRITABLE), 0);

	ASSERT_EQ(populate(self->fd, self->mem, PAGES, 0), 0);
	memset(self->buffer, 0x43, PAGE);
	ASSERT_EQ(device_write(self->fd, self->mem, 1, self->buffer), 0);
	EXPECT_EQ(self->mem[0], 0x43);
	EXPECT_EQ(self->mem[PAGE], 0x42);
	ASSERT_EQ(write_text("/sys/kernel/mm/ksm/run", "2"), 0);
	ASSERT_EQ(device_read(self->fd, self->mem, 2, self->buffer), 0);
	EXPECT_EQ(self->buffer[0], 0x43);
	EXPECT_EQ(self->buffer[PAGE], 0x42);
	ASSERT_EQ(write_text("/sys/kernel/mm/ksm/run", "0"), 0);
}

/* The process that is mirrored exits, and the mirror outlives it. */
TEST(exit_under_it)
{
	char *mem = map_anon(PAGES);
	int fd = open_device();
	int status;
	pid_t pid;

	ASSERT_NE(mem, MAP_FAILED);
	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid) {
		fill(mem, PAGES, 1);
		_exit(mirror_register(fd, mem, PAGES) ||
		      populate(fd, mem, PAGES, WRITABLE) ||
		      count(fd, mem, PAGES, VALID | WRITABLE) != PAGES);
	}
	ASSERT_EQ(waitpid(pid, &status, 0), pid);
	ASSERT_EQ(status, 0);
	EXPECT_EQ(count(fd, mem, PAGES, VALID), 0);
	EXPECT_EQ(mirror_wait(fd, LONG_MS), -EFAULT);
	EXPECT_EQ(populate(fd, mem, PAGES, 0), -EFAULT);
	EXPECT_EQ(stats(fd).mismatches, 0);
	EXPECT_EQ(mirror_unregister(fd), 0);
	close(fd);
	munmap(mem, PAGES * PAGE);
}

TEST(many_trackers)
{
	struct rlimit files = { TRACKERS + 100, TRACKERS + 100 };
	char *mem = map_anon(TRACKERS);
	int fds[TRACKERS];

	ASSERT_NE(mem, MAP_FAILED);
	ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &files), 0);
	for (int i = 0; i < TRACKERS; i++) {
		fds[i] = open_device();
		ASSERT_GE(fds[i], 0);
		ASSERT_EQ(mirror_register(fds[i], mem + i * PAGE, 1), 0);
		ASSERT_EQ(populate(fds[i], mem + i * PAGE, 1, WRITABLE), 0);
	}
	for (int i = 0; i < TRACKERS; i += 100)
		ASSERT_EQ(madvise(mem + i * PAGE, PAGE, MADV_DONTNEED), 0);
	for (int i = 0; i < TRACKERS; i++) {
		EXPECT_EQ(stats(fds[i]).hits, i % 100 == 0);
		EXPECT_EQ(count(fds[i], mem + i * PAGE, 1, VALID | WRITABLE), i % 100 != 0);
	}
	/* One that hits all. */
	ASSERT_EQ(madvise(mem, TRACKERS * PAGE, MADV_DONTNEED), 0);
	for (int i = 0; i < TRACKERS; i++) {
		EXPECT_EQ(count(fds[i], mem + i * PAGE, 1, VALID), 0);
		close(fds[i]);
	}
	munmap(mem, TRACKERS * PAGE);
}

struct task {
	pthread_t thread;
	int fd;
	char *mem;
	size_t pages;
	int result;
};

static void *populate_often(void *data)
{
	struct task *task = data;

	for (int i = 0; !task->result && i < 20; i++)
		task->result = populate(task->fd, task->mem, task->pages, WRITABLE);
	return NULL;
}

/* Many threads on one tracker, half of them on all of it, the others on a part. */
TEST_F(mirror, many_threads)
{
	struct task tasks[THREADS];

	for (int i = 0; i < THREADS; i++) {
		tasks[i] = (struct task){
			.fd = self->fd,
			.mem = self->mem + (i & 1 ? i * PAGE : 0),
			.pages = i & 1 ? 1 : PAGES,
		};
		ASSERT_EQ(pthread_create(&tasks[i].thread, NULL, populate_often, &tasks[i]), 0);
	}
	for (int i = 0; i < 20; i++)
		ASSERT_EQ(madvise(self->mem, PAGES * PAGE, MADV_DONTNEED), 0);
	for (int i = 0; i < THREADS; i++) {
		ASSERT_EQ(pthread_join(tasks[i].thread, NULL), 0);
		EXPECT_EQ(tasks[i].result, 0);
	}
	EXPECT_GE(stats(self->fd).commits, THREADS * 20);
}

/* madvise() holds mmap_lock for reading: it can be held up, and others go on. */
static void *dont_need(void *data)
{
	struct task *task = data;

	task->result = madvise(task->mem, task->pages * PAGE, MADV_DONTNEED);
	return NULL;
}

/* mprotect() holds it for writing. */
static void *protect(void *data)
{
	struct task *task = data;

	task->result = mprotect(task->mem, task->pages * PAGE, PROT_READ);
	return NULL;
}

static int populate_one(int fd, void *mem)
{
	return populate(fd, mem, 1, 0);
}

static int wait_long(int fd, void *mem)
{
	return mirror_wait(fd, 4 * LONG_MS);
}

static int unregister(int fd, void *mem)
{
	return mirror_unregister(fd);
}

/*
 * An invalidation that is in flight, all over a mirror: its callback sleeps until it is
 * told to go on.
 *
 * mmap_lock is held for reading meanwhile, so what would want it for writing, as a fork
 * and a new thread do, has to come before.
 */
FIXTURE(in_flight) {
	int fd;			/* stalled */
	char *mem;
	int other;		/* another mirror, of what is not being invalidated */
	char *elsewhere;
	int third;		/* not registered */
	struct helper helpers[2];
	struct task task;
};

static bool stalled(int fd)
{
	struct timespec then;

	clock_gettime(CLOCK_MONOTONIC, &then);
	while (!stats(fd).stalled && ms_since(&then) < LONG_MS)
		sleep_ms(1);
	return stats(fd).stalled;
}

FIXTURE_SETUP(in_flight)
{
	self->mem = map_anon(PAGES);
	self->elsewhere = map_anon(PAGES);
	ASSERT_NE(self->mem, MAP_FAILED);
	ASSERT_NE(self->elsewhere, MAP_FAILED);
	self->fd = open_device();
	self->other = open_device();
	self->third = open_device();
	ASSERT_GE(self->third, 0);
	ASSERT_TRUE(start_helper(&self->helpers[0]));
	ASSERT_TRUE(start_helper(&self->helpers[1]));
	ASSERT_EQ(mirror_register(self->fd, self->mem, PAGES), 0);
	ASSERT_EQ(mirror_register(self->other, self->elsewhere, PAGES), 0);
	ASSERT_EQ(populate(self->fd, self->mem, PAGES, WRITABLE), 0);
	ASSERT_EQ(set_stall(self->fd, HMM_RANGE_TEST_STALL), 0);
	self->task = (struct task){ .fd = self->fd, .mem = self->mem, .pages = PAGES };
	ASSERT_EQ(pthread_create(&self->task.thread, NULL, dont_need, &self->task), 0);
	ASSERT_TRUE(stalled(self->fd));
}

/* Lets the invalidation go on to its end. */
static void finish(FIXTURE_DATA(in_flight) *self)
{
	if (!self->task.mem)
		return;
	set_stall(self->fd, 0);
	pthread_join(self->task.thread, NULL);
	self->task.mem = NULL;
}

FIXTURE_TEARDOWN(in_flight)
{
	finish(self);
	/* The later one has the other's pipe open, too. */
	end_helper(&self->helpers[1]);
	end_helper(&self->helpers[0]);
	close(self->fd);
	close(self->other);
	close(self->third);
	munmap(self->mem, PAGES * PAGE);
	munmap(self->elsewhere, PAGES * PAGE);
}

TEST_F(in_flight, is_waited_for)
{
	struct timespec then;

	EXPECT_EQ(count(self->fd, self->mem, PAGES, VALID), 0);
	clock_gettime(CLOCK_MONOTONIC, &then);
	EXPECT_EQ(mirror_wait(self->fd, 100), -ETIMEDOUT);
	/* "At most" is told in ticks, and the first is under way: of 10 ms at most. */
	EXPECT_GE(ms_since(&then), 90);
	EXPECT_LT(ms_since(&then), LONG_MS);
	EXPECT_EQ(call(self->fd, HMM_RANGE_TEST_POPULATE, self->mem, 1, NULL, 0, 100),
		  -ETIMEDOUT);
	EXPECT_EQ(mirror_is_valid(self->fd), 0);
	finish(self);
	EXPECT_EQ(mirror_wait(self->fd, 0), 0);
	EXPECT_EQ(mirror_is_valid(self->fd), 1);
	EXPECT_EQ(populate(self->fd, self->mem, PAGES, 0), 0);
}

/* A range that was hit, twice, and is not being any more. */
TEST_F(in_flight, others_do_not_wait)
{
	for (int i = 0; i < 2; i++) {
		ASSERT_EQ(populate(self->other, self->elsewhere, PAGES, WRITABLE), 0);
		EXPECT_EQ(mirror_wait(self->other, 0), 0);
		EXPECT_EQ(mirror_is_valid(self->other), 1);
		ASSERT_EQ(madvise(self->elsewhere, PAGE, MADV_DONTNEED), 0);
		EXPECT_EQ(mirror_is_valid(self->other), 0);
		EXPECT_EQ(count(self->other, self->elsewhere, PAGES, VALID | WRITABLE),
			  PAGES - 1);
	}
	EXPECT_EQ(mirror_wait(self->fd, 0), -ETIMEDOUT);
}

/* One that is registered now, over the same memory, waits, and is right after that. */
TEST_F(in_flight, registered_meanwhile)
{
	int fd = self->third;

	ASSERT_EQ(mirror_register(fd, self->mem, PAGES), 0);
	EXPECT_EQ(mirror_wait(fd, 100), -ETIMEDOUT);
	finish(self);
	EXPECT_EQ(populate(fd, self->mem, PAGES, WRITABLE), 0);
	ASSERT_EQ(madvise(self->mem, PAGES * PAGE, MADV_DONTNEED), 0);
	EXPECT_EQ(count(fd, self->mem, PAGES, VALID), 0);
}

/* One that is elsewhere does not: not to be valid, not to be told, and not to go. */
TEST_F(in_flight, registered_elsewhere)
{
	int fd = self->third;

	for (int i = 0; i < 2; i++) {
		ASSERT_EQ(mirror_register(fd, self->elsewhere, PAGES), 0);
		EXPECT_EQ(mirror_wait(fd, 0), 0);
		EXPECT_EQ(populate(fd, self->elsewhere, PAGES, WRITABLE), 0);
		ASSERT_EQ(madvise(self->elsewhere, PAGE, MADV_DONTNEED), 0);
		EXPECT_EQ(count(fd, self->elsewhere, PAGES, VALID | WRITABLE), PAGES - 1);
		EXPECT_EQ(mirror_unregister(fd), 0);
	}
	EXPECT_EQ(mirror_unregister(self->other), 0);
	EXPECT_EQ(stats(self->fd).stalled, 1);
}

/* Has a helper make a call that sleeps, and returns when it does. */
static void have_wait(struct helper *helper, int (*call)(int fd, void *mem), int fd, void *mem)
{
	tell_helper(helper, call, fd, mem);
	while (!stats(fd).waiting)
		sleep_ms(1);
	/* It is in the call; asleep in it, soon. */
	sleep_ms(50);
}

TEST_F(in_flight, wait_is_killable)
{
	struct timespec then;

	have_wait(&self->helpers[0], wait_long, self->fd, NULL);
	clock_gettime(CLOCK_MONOTONIC, &then);
	ASSERT_EQ(kill(self->helpers[0].pid, SIGKILL), 0);
	EXPECT_EQ(end_helper(&self->helpers[0]), SIGKILL);
	EXPECT_LT(ms_since(&then), LONG_MS);
	EXPECT_EQ(stats(self->fd).stalled, 1);
	EXPECT_EQ(stats(self->fd).waiting, 0);
}

TEST_F(in_flight, wait_for_mmap_lock_is_killable)
{
	struct timespec then;

	finish(self);
	ASSERT_EQ(populate(self->fd, self->mem, PAGES, WRITABLE), 0);
	ASSERT_EQ(set_stall(self->fd, HMM_RANGE_TEST_STALL), 0);
	self->task.mem = self->mem;
	ASSERT_EQ(pthread_create(&self->task.thread, NULL, protect, &self->task), 0);
	ASSERT_TRUE(stalled(self->fd));

	have_wait(&self->helpers[0], populate_one, self->other, self->elsewhere);
	EXPECT_EQ(stats(self->other).waiting, 1);
	clock_gettime(CLOCK_MONOTONIC, &then);
	ASSERT_EQ(kill(self->helpers[0].pid, SIGKILL), 0);
	EXPECT_EQ(end_helper(&self->helpers[0]), SIGKILL);
	EXPECT_LT(ms_since(&then), LONG_MS);
	EXPECT_EQ(stats(self->fd).stalled, 1);
	EXPECT_EQ(stats(self->other).commits, 0);
}

TEST_F(in_flight, unregister_with_waiter)
{
	/* Over the same memory, but not itself the one that is stalled. */
	ASSERT_EQ(mirror_register(self->third, self->mem, PAGES), 0);
	have_wait(&self->helpers[0], wait_long, self->third, NULL);
	tell_helper(&self->helpers[1], unregister, self->third, NULL);
	sleep_ms(100);
	EXPECT_EQ(waitpid(self->helpers[0].pid, NULL, WNOHANG), 0);
	EXPECT_EQ(waitpid(self->helpers[1].pid, NULL, WNOHANG), 0);
	finish(self);
	EXPECT_EQ(end_helper(&self->helpers[1]), 0);
	EXPECT_EQ(end_helper(&self->helpers[0]), -ECANCELED);
	EXPECT_EQ(mirror_wait(self->third, 0), -ENXIO);
}

/*
 * The OOM reaper must not sleep: process_mrelease() is that, for a process that has
 * been killed and cannot end yet, as one of its threads is held up with the lock.
 */
TEST(reaper_does_not_block)
{
	char *mem = map_anon(PAGES);
	struct hmm_range_test_stats seen;
	int fd = open_device();
	struct timespec then;
	int pidfd, status;
	pid_t pid;

	ASSERT_NE(mem, MAP_FAILED);
	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid) {
		struct task task = { .fd = fd, .mem = mem, .pages = 1 };

		if (mirror_register(fd, mem, PAGES) || populate(fd, mem, PAGES, WRITABLE) ||
		    set_stall(fd, HMM_RANGE_TEST_STALL_LOCKED) ||
		    pthread_create(&task.thread, NULL, dont_need, &task))
			_exit(1);
		pause();
		_exit(1);
	}
	/* No mirror until the child has registered one. */
	clock_gettime(CLOCK_MONOTONIC, &then);
	while (ioctl(fd, HMM_RANGE_TEST_STATS, &seen) && ms_since(&then) < LONG_MS)
		sleep_ms(1);
	ASSERT_TRUE(stalled(fd));

	pidfd = syscall(__NR_pidfd_open, pid, 0);
	ASSERT_GE(pidfd, 0);
	ASSERT_EQ(kill(pid, SIGKILL), 0);
	clock_gettime(CLOCK_MONOTONIC, &then);
	EXPECT_EQ(syscall(__NR_process_mrelease, pidfd, 0), -1);
	EXPECT_EQ(errno, EAGAIN);
	EXPECT_LT(ms_since(&then), LONG_MS);
	EXPECT_GE(stats(fd).refused, 1);
	EXPECT_EQ(stats(fd).stalled, 1);
	ASSERT_EQ(set_stall(fd, 0), 0);
	ASSERT_EQ(waitpid(pid, &status, 0), pid);
	EXPECT_EQ(mirror_wait(fd, LONG_MS), -EFAULT);
	close(pidfd);
	close(fd);
	munmap(mem, PAGES * PAGE);
}

TEST_HARNESS_MAIN
