// SPDX-License-Identifier: GPL-2.0
/*
 * First and only process of the guest that scripts/passthrough gives a device to: uses
 * QEMU's "edu", which its machine has from another machine's VFIO, resets it, and uses
 * it again.
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

#define EDU_ID		0x00
#define EDU_LIVENESS	0x04	/* reads as the complement of what was written */
#define EDU_FACTORIAL	0x08
#define EDU_STATUS	0x20	/* bit 0: computing */
#define EDU_SOURCE	0x80
#define EDU_DESTINATION	0x88
#define EDU_COUNT	0x90
#define EDU_COMMAND	0x98	/* 1: into the buffer; 3: out of it; bit 0: running */
#define EDU_BUFFER	0x40000

static char device[300];
static volatile char *regs;

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
	return *(volatile uint32_t *)(regs + at);
}

static void set(unsigned int at, uint32_t value)
{
	*(volatile uint32_t *)(regs + at) = value;
}

static void set64(unsigned int at, uint64_t value)
{
	*(volatile uint64_t *)(regs + at) = value;
}

/* Waits for the bits to be clear. */
static void wait_clear(unsigned int at, uint32_t bits, const char *what)
{
	for (int i = 0; i < 1000 && get(at) & bits; i++)
		nanosleep(&(struct timespec) { .tv_nsec = 10000000 }, NULL);
	check(!(get(at) & bits), what);
}

static int open_file(const char *name, int flags)
{
	char path[400];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", device, name);
	fd = open(path, flags);
	if (fd < 0)
		fail(name);
	return fd;
}

static void write_file(const char *name, const char *text)
{
	int fd = open_file(name, O_WRONLY);

	if (write(fd, text, strlen(text)) < 0)
		fail(name);
	close(fd);
}

static void find_device(void)
{
	DIR *dir = opendir(DEVICES);
	struct dirent *entry;

	if (!dir)
		fail(DEVICES);
	while ((entry = readdir(dir))) {
		uint32_t id = 0;
		int fd;

		if (entry->d_name[0] == '.')
			continue;
		snprintf(device, sizeof(device), DEVICES "/%s", entry->d_name);
		fd = open_file("config", O_RDONLY);
		if (pread(fd, &id, 4, 0) == 4 && id == 0x11e81234)
			return;
		close(fd);
	}
	errno = ENODEV;
	fail("edu");
}

static void start_device(void)
{
	uint16_t command = 6;	/* memory, bus master */
	int fd = open_file("config", O_RDWR);

	write_file("enable", "1");
	if (pwrite(fd, &command, 2, 4) != 2)
		fail("config");
	close(fd);
	fd = open_file("resource0", O_RDWR);
	regs = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (regs == MAP_FAILED)
		fail("resource0");
	close(fd);
}

/* Where the device finds a page of ours. */
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

int main(void)
{
	mkdir("/sys", 0755);
	mkdir("/proc", 0755);
	if (mount("sysfs", "/sys", "sysfs", 0, NULL) || mount("proc", "/proc", "proc", 0, NULL))
		fail("mount");
	find_device();
	start_device();
	use_device(0x1234);
	printf("used %s\n", device);
	write_file("reset", "1");
	start_device();
	use_device(0x5678);
	printf("used it after its reset\n");
	printf("passed\n");
	end_machine();
}
