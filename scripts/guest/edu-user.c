// SPDX-License-Identifier: GPL-2.0
/*
 * First and only process of the guest that scripts/passthrough gives devices to: uses
 * QEMU's "edu", which its machine has from another machine's VFIO, resets it, and uses
 * it again.  If there is an "ivshmem" as well, edu's DMA goes to that device's memory
 * and back: as it is, after its memory decoding was off, after its reset, and after a
 * reset that nobody here knows of.
 *
 * It tells on standard output, which is the serial console, how far it has got; the last
 * line is "passed", or begins with "failed:".
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <stdnoreturn.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define DEVICES		"/sys/bus/pci/devices"
#define PAGE		4096
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

/* The machine has no ACPI to power off with; a reboot is the end of QEMU. */
static noreturn void end_machine(void)
{
	fflush(stdout);
	reboot(RB_AUTOBOOT);
	for (;;)
		pause();
}

static noreturn void fail(const char *what)
{
	printf("failed: %s: %s\n", what, strerror(errno));
	end_machine();
}

static void check(int good, const char *what)
{
	if (good)
		return;
	errno = EIO;
	fail(what);
}

static uint32_t get(unsigned int at)
{
	return *(volatile uint32_t *)(edu.map + at);
}

static void set(unsigned int at, uint32_t value)
{
	*(volatile uint32_t *)(edu.map + at) = value;
}

static void set64(unsigned int at, uint64_t value)
{
	*(volatile uint64_t *)(edu.map + at) = value;
}

/* Waits for the bits to be clear. */
static void wait_clear(unsigned int at, uint32_t bits, const char *what)
{
	for (int i = 0; i < 1000 && get(at) & bits; i++)
		nanosleep(&(struct timespec) { .tv_nsec = 10000000 }, NULL);
	check(!(get(at) & bits), what);
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

/* Where a device finds a page of ours. */
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
	set64(EDU_COUNT, 1024);
	set(EDU_COMMAND, command);
	wait_clear(EDU_COMMAND, 1, "end of DMA");
}

static void use_device(unsigned int seed)
{
	uint32_t *pages = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS | MAP_LOCKED | MAP_POPULATE, -1, 0);

	if (pages == MAP_FAILED)
		fail("mmap");
	check((get(EDU_ID) & 0xffff) == 0x00ed, "identification");
	set(EDU_LIVENESS, seed);
	check(get(EDU_LIVENESS) == ~seed, "liveness");
	set(EDU_FACTORIAL, 10);
	wait_clear(EDU_STATUS, 1, "end of computing");
	check(get(EDU_FACTORIAL) == 3628800, "10!");
	for (int i = 0; i < 256; i++) {
		pages[i] = seed + i;
		pages[PAGE / 4 + i] = 0;
	}
	dma(physical(pages), EDU_BUFFER, 1);
	dma(EDU_BUFFER, physical((char *)pages + PAGE), 3);
	check(!memcmp(pages, (char *)pages + PAGE, 1024), "what DMA has copied");
	munmap(pages, 2 * PAGE);
}

/* Memory to a page of the other device's, and back. */
static void use_ram_at(size_t at, unsigned int seed)
{
	volatile uint32_t *ram = (volatile uint32_t *)(ivshmem.map + at);
	uint32_t *pages = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS | MAP_LOCKED | MAP_POPULATE, -1, 0);

	if (pages == MAP_FAILED)
		fail("mmap");
	for (int i = 0; i < 256; i++) {
		pages[i] = seed + i;
		pages[PAGE / 4 + i] = 0;
		ram[i] = 0;
	}
	dma(physical(pages), EDU_BUFFER, 1);
	dma(EDU_BUFFER, ivshmem.bus + at, 3);
	for (unsigned int i = 0; i < 256; i++)
		check(ram[i] == seed + i, "what DMA has written to the other device");
	for (int i = 0; i < 256; i++)
		ram[i] = ~ram[i];
	dma(ivshmem.bus + at, EDU_BUFFER, 1);
	dma(EDU_BUFFER, physical((char *)pages + PAGE), 3);
	for (unsigned int i = 0; i < 256; i++)
		check(pages[PAGE / 4 + i] == ~(seed + i),
		      "what DMA has read from the other device");
	munmap(pages, 2 * PAGE);
}

static void use_ram(unsigned int seed)
{
	static const size_t places[] = { 0, PAGE, RAM_SIZE / 2 - PAGE, RAM_SIZE - PAGE };

	for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++)
		use_ram_at(places[i], seed + 0x10000 * i);
}

static void wait_for_machine(const char *what)
{
	char line[64];

	printf("waiting for %s\n", what);
	if (!fgets(line, sizeof(line), stdin))
		fail("a line on the console");
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
	wait_for_machine("decoding that we do not know of");
	dma(EDU_BUFFER, ivshmem.bus, 3);
	wait_for_machine("its end");
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
		wait_for_machine("a reset from outside");
		use_ram(0x55 + i);
	}
	printf("used it after resets from outside\n");
}

int main(void)
{
	setlinebuf(stdout);
	mkdir("/sys", 0755);
	mkdir("/proc", 0755);
	if (mount("sysfs", "/sys", "sysfs", 0, NULL) || mount("proc", "/proc", "proc", 0, NULL))
		fail("mount");
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
