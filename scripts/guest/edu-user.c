// SPDX-License-Identifier: GPL-2.0
/*
 * First and only process of the guest that "scripts/demo --passthrough" gives devices to: uses
 * QEMU's "edu", which its machine has from another machine's VFIO, resets it, and uses it
 * again.  If there is an "ivshmem" as well, edu's DMA goes to that device's memory and back:
 * as it is, after its memory decoding was off, after its reset, and after a reset that nobody
 * here knows of.  The last line that it says is "passed".
 */
#include <assert.h>

/* Its devices are where the tests' are, and have no drivers either. */
#include "vfio/vfio_util.c"
#include "init.h"

#define WORDS		256	/* that DMA copies */

#define EDU_SOURCE	0x80
#define EDU_DESTINATION	0x88
#define EDU_COUNT	0x90
#define EDU_COMMAND	0x98	/* 1: into the buffer; 3: out of it; bit 0: running */
#define EDU_BUFFER	0x40000

#define REG(at)	(*(volatile uint64_t *)(registers + (at)))

static char edu[16], ivshmem[16];		/* names */
static int edu_config, ivshmem_config;		/* files */
static volatile char *registers, *ram;		/* mappings */
static uint64_t ram_bus;			/* the address of ivshmem's memory, for edu */

/* Returns the file of a device's configuration space; -1: there is no device. */
static int find(const char *place, char name[16])
{
	char path[64];

	if (!device_find(place, name))
		return -1;
	snprintf(path, sizeof(path), SYSFS "%s/config", name);
	return open(path, O_RDWR);
}

static void set_command(int config, uint16_t command)
{
	assert(pwrite(config, &command, 2, PCI_COMMAND) == 2);
}

static void start_edu(void)
{
	registers = device_map(edu, 0, 1 << 20);
	set_command(edu_config, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
}

static void start_ivshmem(void)
{
	ram = device_map(ivshmem, RAM_BAR, RAM_SIZE);
	assert(pread(ivshmem_config, &ram_bus, 8, PCI_BASE_ADDRESS_0 + 4 * RAM_BAR) == 8);
	ram_bus &= PCI_BASE_ADDRESS_MEM_MASK;
}

/* Where a device finds a page of ours, which is locked in memory. */
static uint64_t physical(const void *page)
{
	int fd = open("/proc/self/pagemap", O_RDONLY);
	uint64_t entry = 0;

	assert(pread(fd, &entry, 8, (uintptr_t)page / PAGE * 8) == 8);
	assert(entry >> 63);		/* present */
	close(fd);
	return (entry & ((1ULL << 55) - 1)) * PAGE;
}

static void dma(uint64_t source, uint64_t destination, uint32_t command)
{
	uint64_t end = milliseconds() + 30000;

	REG(EDU_SOURCE) = source;
	REG(EDU_DESTINATION) = destination;
	REG(EDU_COUNT) = 4 * WORDS;
	REG(EDU_COMMAND) = command;
	while (REG(EDU_COMMAND) & 1) {
		assert(milliseconds() < end);
		sleep_ms(10);
	}
}

/*
 * A page's contents into edu's buffer and out of it to another page: with @at, by way of
 * the other device's memory there, which is looked at and turned over.
 */
static void round_trip(uint32_t seed, volatile uint32_t *at, uint64_t bus)
{
	static uint32_t pages[2][1024] __attribute__((aligned(4096)));

	assert(!mlock(pages, sizeof(pages)));
	for (int i = 0; i < WORDS; i++) {
		pages[0][i] = seed + i;
		pages[1][i] = 0;
		if (at)
			at[i] = 0;
	}
	dma(physical(pages[0]), EDU_BUFFER, 1);
	if (at) {
		dma(EDU_BUFFER, bus, 3);
		for (int i = 0; i < WORDS; i++) {
			assert(at[i] == seed + i);
			at[i] = ~at[i];
		}
		dma(bus, EDU_BUFFER, 1);
	}
	dma(EDU_BUFFER, physical(pages[1]), 3);
	for (int i = 0; i < WORDS; i++)
		assert(pages[1][i] == (at ? ~(seed + i) : seed + i));
}

static void use_ram(uint32_t seed)
{
	const size_t places[] = { 0, PAGE, RAM_SIZE / 2 - PAGE, RAM_SIZE - PAGE };

	for (size_t i = 0; i < ARRAY_SIZE(places); i++)
		round_trip(seed + 0x10000 * i, (volatile uint32_t *)(ram + places[i]),
			   ram_bus + places[i]);
}

/*
 * DMA to memory that is not decoded changes nothing there, even if the machine that we are
 * in has the device decode it all the same.
 */
static void switch_ram(void)
{
	volatile uint32_t *word = (volatile uint32_t *)ram;
	uint32_t before = *word;

	set_command(ivshmem_config, 0);
	say_and_wait("waiting for decoding that we do not know of");
	dma(EDU_BUFFER, ram_bus, 3);
	say_and_wait("waiting for its end");
	set_command(ivshmem_config, PCI_COMMAND_MEMORY);
	assert(*word == before);
}

static void use_peer(void)
{
	start_ivshmem();
	use_ram(0x11);
	puts("used the other device's memory");
	for (int i = 0; i < 3; i++) {
		switch_ram();
		use_ram(0x22 + i);
	}
	puts("used it after its decoding was off");
	assert(!device_write(ivshmem, "reset", "1"));
	start_ivshmem();
	use_ram(0x33);
	assert(!device_write(edu, "reset", "1"));
	start_edu();
	use_ram(0x44);
	puts("used it after resets of both");
	for (int i = 0; i < 2; i++) {
		say_and_wait("waiting for a reset from outside");
		use_ram(0x55 + i);
	}
}

int main(void)
{
	begin_machine();
	edu_config = find(REGISTERS, edu);
	start_edu();
	round_trip(0x1234, NULL, 0);
	assert(!device_write(edu, "reset", "1"));
	start_edu();
	round_trip(0x5678, NULL, 0);
	puts("used it after its reset");
	ivshmem_config = find(RAM, ivshmem);
	if (ivshmem_config >= 0)
		use_peer();
	return end_machine("passed");
}
