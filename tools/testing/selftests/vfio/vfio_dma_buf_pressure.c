// SPDX-License-Identifier: GPL-2.0
/*
 * Ranges of a BAR are exported, mapped by processes and by a device, revoked, permanently and
 * temporarily, and left behind by processes that are killed; memfds and these ranges are
 * mapped and unmapped in an IOAS.  Another device that has the same bytes shows what is
 * really written.
 *
 * usage: vfio_dma_buf_pressure SECONDS [PAUSE_MS], by itself or under
 * drivers/dma-buf/dma_buf_pressure.  Needs the devices RAM, WITNESS, EDU and REGISTERS of
 * vfio_util.h.
 */
#include "vfio_ioas.h"

#include <setjmp.h>

#include "../drivers/dma-buf/pressure.h"

/* Each process has a part of the BAR for itself. */
#define PART	0x100000UL
#define WORDS	(PART / 8)

#define IOVA	0x20000000UL

static struct vfio ram;
static char edu[16];
static volatile uint64_t *witness;

/* The part of the process, and what it has written there last. */
static uint64_t part, last;

static uint64_t word(size_t i)
{
	return last << 32 | i;
}

static sigjmp_buf refusal;

static void on_sigbus(int sig)
{
	siglongjmp(refusal, sig);
}

/* Writes all of a mapping; false: it was revoked meanwhile. */
static bool write_part(volatile uint64_t *map)
{
	struct sigaction action = { .sa_handler = on_sigbus }, old;
	volatile bool done = false;

	sigaction(SIGBUS, &action, &old);
	if (!sigsetjmp(refusal, 1)) {
		for (size_t i = 0; i < WORDS; i += 64)
			map[i] = word(i);
		done = true;
	}
	sigaction(SIGBUS, &old, NULL);
	return done;
}

static bool part_is_written(void)
{
	for (size_t i = 0; i < WORDS; i += 64)
		if (witness[part / 8 + i] != word(i))
			return false;
	return true;
}

static void take_part(unsigned int *seed)
{
	if (!part)
		part = *seed % (RAM_SIZE / PART) * PART;
	last++;
}

/* ENODEV: all are revoked. ENODATA: and unmapped, before the device began. */
static int forgive(int ret)
{
	return ret == -ENODEV || ret == -ENODATA ? 0 : ret;
}

/* A child, which has the mapping as well, and tries it when @end is closed. */
static pid_t child_with(volatile uint64_t *map, int *end)
{
	int ends[2];
	pid_t pid;
	char c;

	if (pipe2(ends, O_CLOEXEC))
		return -1;
	pid = fork();
	if (!pid) {
		close(ends[1]);
		_exit(read(ends[0], &c, 1) || reachable(map, false));
	}
	close(ends[0]);
	*end = ends[1];
	return pid;
}

/* 0 also if it was killed. */
static int child_ends(pid_t pid, int end)
{
	int status = 0;

	close(end);
	if (pid > 0)
		waitpid(pid, &status, 0);
	return WIFEXITED(status) && WEXITSTATUS(status) ? -EEXIST : 0;
}

/* A mapping can be written to until the dma-buf is revoked, and not after that. */
static int map_and_revoke(unsigned int *seed)
{
	volatile uint64_t *map;
	int fd, end = -1, in_child, ret = 0;
	pid_t child = -1;

	take_part(seed);
	fd = export_range(&ram, RAM_BAR, part, PART);
	if (fd < 0)
		return fd;
	map = mmap(NULL, PART, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED) {
		ret = -errno;
		close(fd);
		return forgive(ret);
	}
	if (write_part(map) && !part_is_written())
		ret = LOST;
	if (!ret && rand_r(seed) % 4 == 0)
		child = child_with(map, &end);
	if (!ret)
		ret = dmabuf_revoke(&ram, fd);
	if (!ret && reachable(map, false))
		ret = -EEXIST;
	in_child = child_ends(child, end);
	munmap((void *)map, PART);
	close(fd);
	return ret ?: in_child;
}

/* A device writes through its mapping. */
static int import_with(int fd, uint32_t flags)
{
	int importer = importer_attach(edu, fd, flags), ret;
	uint64_t data[8];

	if (importer < 0)
		return forgive(importer);
	ret = importer_map(importer);
	if (!ret) {
		for (size_t i = 0; i < ARRAY_SIZE(data); i++)
			data[i] = word(i);
		ret = importer_copy(importer, 0, data, sizeof(data),
				    DMA_BUF_IMPORTER_TO_SLICE);
		for (size_t i = 0; !ret && i < ARRAY_SIZE(data); i++)
			if (witness[part / 8 + i] != word(i))
				ret = LOST;
	}
	if (!ret) {
		ret = dmabuf_revoke(&ram, fd);
		/* An importer cannot map a dma-buf that is revoked permanently. */
		if (!ret && importer_map(importer) != -ENODEV)
			ret = -EEXIST;
	}
	close(importer);
	return forgive(ret);
}

static int import(unsigned int *seed)
{
	int fd, ret;

	take_part(seed);
	fd = export_range(&ram, RAM_BAR, part, PART);
	if (fd < 0)
		return fd;
	ret = import_with(fd, rand_r(seed) % 2 ? DMA_BUF_IMPORTER_LATE : 0);
	close(fd);
	return ret;
}

/* All are revoked temporarily. */
static int revoke_all(unsigned int *seed)
{
	int ret;

	if (rand_r(seed) % 4 == 0)
		return vfio_reset(&ram);
	ret = vfio_memory(&ram, false);
	usleep(rand_r(seed) % 5000);
	return ret ?: vfio_memory(&ram, true);
}

/* A process is killed that has a dma-buf, mapped by itself and by a device. */
static int kill_owner(unsigned int *seed)
{
	pid_t pid;
	int fd;

	take_part(seed);
	pid = fork();
	if (pid)
		return killed(pid);
	oom_score(1000);
	fd = export_range(&ram, RAM_BAR, part, PART);
	if (fd >= 0) {
		int importer = importer_attach(edu, fd, 0);
		void *map = mmap(NULL, PART, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

		if (map != MAP_FAILED)
			write_part(map);
		if (importer >= 0 && !importer_map(importer))
			importer_loop(importer, 0);
	}
	if (!getenv("PRESSURE") || rand_r(seed) % 2)
		kill(getpid(), SIGKILL);
	eat();
	return 0;
}

/* A device of our own, that does DMA in an IOAS. */
static struct edu ours;

/* Into the first page, by way of the device, from the second. */
static int dma_in_memfd(volatile uint64_t *map)
{
	map[PAGE / 8] = word(1);
	edu_load(&ours, IOVA + PAGE, 8);
	edu_store(&ours, IOVA, 8);
	return map[0] == word(1) ? 0 : LOST;
}

/* A memfd that is swapped and moved before and after, but not while it is mapped. */
static int map_memfd(unsigned int *seed)
{
	int fd = memfd_create("pressure", MFD_CLOEXEC), ret;
	int iommufd = ours.vfio.iommu;
	volatile uint64_t *map;

	take_part(seed);
	if (fd < 0)
		return -errno;
	map = ftruncate(fd, PART) ? MAP_FAILED :
	      mmap(NULL, PART, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED) {
		close(fd);
		return -ENOMEM;
	}
	for (size_t i = 0; i < WORDS; i += PAGE / 8)
		map[i + 7] = word(i);
	madvise((void *)map, PART, MADV_PAGEOUT);
	ret = ioas_map_file(iommufd, ours.vfio.ioas, fd, 0, PART, IOVA, READ_WRITE);
	if (!ret) {
		madvise((void *)map, PART, MADV_PAGEOUT);
		ret = dma_in_memfd(map);
		ret = ioas_unmap(iommufd, ours.vfio.ioas, IOVA, PART) ?: ret;
	}
	for (size_t i = 0; !ret && i < WORDS; i += PAGE / 8)
		if (map[i + 7] != word(i))
			ret = LOST;
	munmap((void *)map, PART);
	close(fd);
	return ret;
}

/* A dma-buf in an IOAS, revoked there temporarily by others, and then permanently. */
static int map_dma_buf(unsigned int *seed)
{
	int fd, ret, iommufd = ours.vfio.iommu;

	take_part(seed);
	fd = export_range(&ram, RAM_BAR, part, PART);
	if (fd < 0)
		return fd;
	ret = ioas_map_file(iommufd, ours.vfio.ioas, fd, 0, PART, IOVA, READ_WRITE);
	if (!ret) {
		ret = dmabuf_revoke(&ram, fd);
		ret = ioas_unmap(iommufd, ours.vfio.ioas, IOVA, PART) ?: ret;
	}
	close(fd);
	return forgive(ret);
}

static int map_files(unsigned int *seed)
{
	return rand_r(seed) % 2 ? map_memfd(seed) : map_dma_buf(seed);
}

int main(int argc, char **argv)
{
	struct role roles[] = {
		{ "mapped and revoked", map_and_revoke },
		{ "imported and revoked", import },
		{ "imported and revoked, again", import },
		{ "all revoked", revoke_all, .pause_ms = 300 },
		{ "killed owners", kill_owner, .pause_ms = 500 },
		{ "files in an IOAS", map_files },
	};
	unsigned int seconds = roles_arguments(argc, argv, roles, ARRAY_SIZE(roles));
	struct held before, after;
	char name[16];
	long timeout;

	ksft_print_header();
	if (!device_find(RAM, name) || !device_find(WITNESS, name) ||
	    !device_find(REGISTERS, name) || !device_find(EDU, edu))
		ksft_exit_skip("no device at " RAM ", " WITNESS ", " REGISTERS " or " EDU "\n");
	ksft_set_plan(ARRAY_SIZE(roles) + 1);
	oom_score(-1000);
	device_bind(edu, "dma_buf_test_importer");
	device_find(WITNESS, name);
	device_bind(name, NULL);
	witness = device_map(name, RAM_BAR, RAM_SIZE);
	timeout = vfio_parameter("revoke_timeout_ms", 60000);
	vfio_get(&ram, RAM, GROUP);
	vfio_memory(&ram, true);
	edu_get(&ours, REGISTERS);
	before = held_of("vfio");
	roles_start(roles, ARRAY_SIZE(roles), seconds);
	roles_wait(roles, ARRAY_SIZE(roles), seconds);
	after = held_of("vfio");
	ksft_test_result(!memcmp(&before, &after, sizeof(before)),
			 "%ld dma-bufs, %ld attachments, %ld mappings more\n",
			 after.buffers - before.buffers, after.attachments - before.attachments,
			 after.mappings - before.mappings);
	edu_close(&ours);
	vfio_close(&ram);
	vfio_parameter("revoke_timeout_ms", timeout);
	ksft_finished();
}
