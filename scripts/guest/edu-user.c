// SPDX-License-Identifier: GPL-2.0
/*
 * First and only process of the guest that "scripts/check passthrough" gives devices to:
 * uses QEMU's "edu", which its machine has from another machine's VFIO, resets it, and uses
 * it again.  If there is an "ivshmem" as well, edu's DMA goes to that device's memory
 * and back: as it is, after its memory decoding was off, after its reset, and after a
 * reset that nobody here knows of.  The last line that it says is "passed", or begins
 * with "failed:".
 */
#include <dirent.h>
#include <stdint.h>
#include <sys/mman.h>
#include <time.h>

#include "init.h"

#define DEVICES		"/sys/bus/pci/devices"
#define PAGE		4096
#define WORDS		256	/* that DMA copies */
#define RAM_SIZE	(64UL << 20)

#define EDU_ID		0x00
#define EDU_LIVENESS	0x04	/* reads as the complement of what was written */
#define EDU_FACTORIAL	0x08
#define EDU_STATUS	0x20	/* bit 0: computing */
#define EDU_SOURCE	0x80
#define EDU_DESTINATION	0x88
#define EDU_COUNT	0x90
#define EDU_COMMAND	0x98	/* 1: into the buffer; 3: out of it; bit 0: running */
#define EDU_BUFFER	0x40000

#define COMMAND_MEMORY	2
#define COMMAND_MASTER	4

struct device {
	uint32_t id;
	unsigned int bar;	/* the one that is mapped */
	size_t size;		/* of it */
	uint64_t bus;		/* its address, for other devices */
	volatile char *map;
	char path[300];
};

static struct device edu = { .id = 0x11e81234, .bar = 0, .size = 1 << 20 };
static struct device ivshmem = { .id = 0x11101af4, .bar = 2, .size = RAM_SIZE };

static volatile uint32_t *reg(unsigned int at)
{
	return (volatile uint32_t *)(edu.map + at);
}

static void set64(unsigned int at, uint64_t value)
{
	*(volatile uint64_t *)(edu.map + at) = value;
}

/* Waits for the bits to be clear. */
static void wait_clear(unsigned int at, uint32_t bits, const char *what)
{
	for (int i = 0; i < 1000 && *reg(at) & bits; i++)
		nanosleep(&(struct timespec) { .tv_nsec = 10000000 }, NULL);
	check(!(*reg(at) & bits), what);
}

static int open_file(const struct device *device, const char *name, int flags)
{
	char path[400];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", device->path, name);
	fd = open(path, flags);
	if (fd < 0)
		fail(name);
	return fd;
}

static void write_file(const struct device *device, const char *name, const char *text)
{
	int fd = open_file(device, name, O_WRONLY);

	if (write(fd, text, strlen(text)) < 0)
		fail(name);
	close(fd);
}

static int find_device(struct device *device)
{
	DIR *dir = opendir(DEVICES);
	struct dirent *entry;
	uint32_t id = 0;

	if (!dir)
		fail(DEVICES);
	while (id != device->id && (entry = readdir(dir))) {
		int fd;

		if (entry->d_name[0] == '.')
			continue;
		snprintf(device->path, sizeof(device->path), DEVICES "/%s", entry->d_name);
		fd = open_file(device, "config", O_RDONLY);
		check(pread(fd, &id, 4, 0) == 4, "config");
		close(fd);
	}
	closedir(dir);
	return id == device->id;
}

static void set_command(const struct device *device, uint16_t command)
{
	int fd = open_file(device, "config", O_RDWR);

	if (pwrite(fd, &command, 2, 4) != 2)
		fail("config");
	close(fd);
}

static void start_device(struct device *device)
{
	unsigned long long start = 0;
	char name[16];
	FILE *lines;
	void *map;
	int fd;

	write_file(device, "enable", "1");
	set_command(device, COMMAND_MEMORY | COMMAND_MASTER);
	lines = fdopen(open_file(device, "resource", O_RDONLY), "r");
	for (unsigned int i = 0; i <= device->bar; i++)
		check(fscanf(lines, "%llx %*x %*x", &start) == 1, "resource");
	fclose(lines);
	device->bus = start;

	snprintf(name, sizeof(name), "resource%u", device->bar);
	fd = open_file(device, name, O_RDWR);
	map = mmap(NULL, device->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		fail(name);
	device->map = map;
	close(fd);
}

/* Where a device finds a page of ours, which is locked in memory. */
static uint64_t physical(const void *page)
{
	int fd = open("/proc/self/pagemap", O_RDONLY);
	uint64_t entry = 0;

	if (fd < 0 || pread(fd, &entry, 8, (uintptr_t)page / PAGE * 8) != 8)
		fail("pagemap");
	close(fd);
	check(entry >> 63, "page in memory");
	return (entry & ((1ULL << 55) - 1)) * PAGE;
}

static void dma(uint64_t source, uint64_t destination, uint32_t command)
{
	set64(EDU_SOURCE, source);
	set64(EDU_DESTINATION, destination);
	set64(EDU_COUNT, 4 * WORDS);
	*reg(EDU_COMMAND) = command;
	wait_clear(EDU_COMMAND, 1, "end of DMA");
}

/*
 * A page's contents into edu's buffer and out of it to another page: with @ram, by way of
 * the other device's memory there, which is looked at and turned over.
 */
static void copy(unsigned int seed, volatile uint32_t *ram, uint64_t ram_bus)
{
	static uint32_t pages[2][PAGE / 4] __attribute__((aligned(PAGE)));
	uint32_t turned = ram ? ~0 : 0;

	if (mlock(pages, sizeof(pages)))
		fail("mlock");
	for (unsigned int i = 0; i < WORDS; i++) {
		pages[0][i] = seed + i;
		pages[1][i] = 0;
		if (ram)
			ram[i] = 0;
	}
	dma(physical(pages[0]), EDU_BUFFER, 1);
	if (ram) {
		dma(EDU_BUFFER, ram_bus, 3);
		for (unsigned int i = 0; i < WORDS; i++) {
			check(ram[i] == seed + i, "what DMA has written to the other device");
			ram[i] = ~ram[i];
		}
		dma(ram_bus, EDU_BUFFER, 1);
	}
	dma(EDU_BUFFER, physical(pages[1]), 3);
	for (unsigned int i = 0; i < WORDS; i++)
		check(pages[1][i] == ((seed + i) ^ turned), "what DMA has copied");
}

static void use_device(unsigned int seed)
{
	check((*reg(EDU_ID) & 0xffff) == 0x00ed, "identification");
	*reg(EDU_LIVENESS) = seed;
	check(*reg(EDU_LIVENESS) == ~seed, "liveness");
	*reg(EDU_FACTORIAL) = 10;
	wait_clear(EDU_STATUS, 1, "end of computing");
	check(*reg(EDU_FACTORIAL) == 3628800, "10!");
	copy(seed, NULL, 0);
}

static void use_ram(unsigned int seed)
{
	static const size_t places[] = { 0, PAGE, RAM_SIZE / 2 - PAGE, RAM_SIZE - PAGE };

	for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++)
		copy(seed + 0x10000 * i, (volatile uint32_t *)(ivshmem.map + places[i]),
		     ivshmem.bus + places[i]);
}

/*
 * DMA to memory that is not decoded changes nothing there, even if the machine that we are
 * in has the device decode it all the same.
 */
static void switch_ram(void)
{
	volatile uint32_t *ram = (volatile uint32_t *)ivshmem.map;
	uint32_t before = *ram;

	set_command(&ivshmem, 0);
	say_and_wait("waiting for decoding that we do not know of");
	dma(EDU_BUFFER, ivshmem.bus, 3);
	say_and_wait("waiting for its end");
	set_command(&ivshmem, COMMAND_MEMORY);
	check(*ram == before, "memory that was not decoded");
}

static void use_peer(void)
{
	start_device(&ivshmem);
	use_ram(0x11);
	printf("used the other device's memory\n");
	for (unsigned int i = 0; i < 3; i++) {
		switch_ram();
		use_ram(0x22 + i);
	}
	printf("used it after its decoding was off\n");
	write_file(&ivshmem, "reset", "1");
	start_device(&ivshmem);
	use_ram(0x33);
	write_file(&edu, "reset", "1");
	start_device(&edu);
	use_ram(0x44);
	printf("used it after resets of both\n");
	for (unsigned int i = 0; i < 2; i++) {
		say_and_wait("waiting for a reset from outside");
		use_ram(0x55 + i);
	}
	printf("used it after resets from outside\n");
}

int main(void)
{
	setlinebuf(stdout);
	mount_at("/sys", "sysfs");
	mount_at("/proc", "proc");
	errno = ENODEV;
	if (!find_device(&edu))
		fail("edu");
	start_device(&edu);
	use_device(0x1234);
	printf("used %s\n", edu.path);
	write_file(&edu, "reset", "1");
	start_device(&edu);
	use_device(0x5678);
	printf("used it after its reset\n");
	if (find_device(&ivshmem))
		use_peer();
	printf("passed\n");
	end_machine();
}
