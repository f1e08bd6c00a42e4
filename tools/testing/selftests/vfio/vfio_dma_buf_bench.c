// SPDX-License-Identifier: GPL-2.0
/*
 * What dma-bufs of a BAR cost: exporting one, attaching to it and mapping it, revoking and
 * restoring it, and how that grows; and what a reset costs that has none to revoke.
 *
 * Prints a line of JSON for each case, in nanoseconds: on a machine whose clock counts
 * instructions, that is what they are.  The argument is "reset" for that case alone, which
 * a kernel without the feature can run as well.
 *
 * Revoking is measured as switching memory off through configuration space, which takes
 * nothing else but the case "none", and restoring as switching it on.  The device has no
 * IOMMU, whose page tables are not what is looked at.
 */
#include "vfio_util.h"

#include <sys/resource.h>
#include <time.h>

#define TURNS	9
#define MANY	1000

/* A cost is the median of so many. */
struct cost {
	uint64_t turns[TURNS];
	int n;
};

struct costs {
	struct cost export;
	struct cost attach;
	struct cost map;
	struct cost revoke;
	struct cost restore;
};

static struct vfio vfio;
static char edu[16];

static uint64_t nanoseconds(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return t.tv_sec * 1000000000ULL + t.tv_nsec;
}

static uint64_t now(void)
{
	return nanoseconds(CLOCK_MONOTONIC);
}

static void add(struct cost *cost, uint64_t since)
{
	cost->turns[cost->n++] = now() - since;
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static uint64_t median(struct cost *cost)
{
	qsort(cost->turns, cost->n, sizeof(cost->turns[0]), compare);
	return cost->n ? cost->turns[cost->n / 2] : 0;
}

static void good(int ret, const char *what)
{
	errno = ret < 0 ? -ret : errno;
	if (ret < 0)
		die(what);
}

static void print(const char *name, unsigned long n, struct costs *costs)
{
	printf("{\"case\": \"%s-%lu\", \"export\": %lu, \"attach\": %lu, \"map\": %lu, "
	       "\"revoke\": %lu, \"restore\": %lu}\n", name, n, median(&costs->export),
	       median(&costs->attach), median(&costs->map), median(&costs->revoke),
	       median(&costs->restore));
	fflush(stdout);
}

/* The command register's values: no reading it in between. */
static uint32_t command_on, command_off;

static void revoke_and_restore(struct costs *costs)
{
	uint64_t start = now();

	good(vfio_config_write(&vfio, PCI_COMMAND, 2, command_off), "memory off");
	add(&costs->revoke, start);
	start = now();
	good(vfio_config_write(&vfio, PCI_COMMAND, 2, command_on), "memory on");
	add(&costs->restore, start);
}

/* One buffer, mapped by an importer that takes any length of segment. */
static void one_turn(struct costs *costs, const struct vfio_region_dma_range *ranges,
		     uint32_t count)
{
	uint64_t start = now();
	int dmabuf, importer;

	dmabuf = export_ranges(&vfio, RAM_BAR, O_RDWR | O_CLOEXEC, ranges, count);
	add(&costs->export, start);
	good(dmabuf, "export");
	start = now();
	importer = importer_attach_limited(edu, dmabuf, 0, 0, 1U << 31);
	add(&costs->attach, start);
	good(importer, "attach");
	start = now();
	good(importer_map(importer), "map");
	add(&costs->map, start);
	revoke_and_restore(costs);
	close(importer);
	close(dmabuf);
}

static void ranges_case(const char *name, unsigned long n,
			const struct vfio_region_dma_range *ranges, uint32_t count)
{
	struct costs costs = {};

	/* Once without measuring: slabs are made, and code is found. */
	one_turn(&(struct costs) {}, ranges, count);
	for (int i = 0; i < TURNS; i++)
		one_turn(&costs, ranges, count);
	print(name, n, &costs);
}

static void ranges_cases(void)
{
	struct vfio_region_dma_range ranges[MANY];

	for (int i = 0; i < MANY; i++)
		ranges[i] = (struct vfio_region_dma_range) { 2 * i * PAGE, PAGE };
	for (int n = 1; n <= MANY; n *= 10)
		ranges_case("ranges", n, ranges, n);
	for (unsigned long size = PAGE; size <= RAM_SIZE; size *= 16) {
		ranges[0] = (struct vfio_region_dma_range) { 0, size };
		ranges_case("size", size, ranges, 1);
	}
	ranges[0] = (struct vfio_region_dma_range) { 0, RAM_SIZE };
	ranges_case("size", RAM_SIZE, ranges, 1);
}

/* Buffers that nobody has mapped. */
static void buffers_case(int n)
{
	static int fds[MANY];
	struct costs costs = {};

	for (int i = 0; i < n; i++) {
		fds[i] = export_range(&vfio, RAM_BAR, 0, PAGE);
		good(fds[i], "export");
	}
	revoke_and_restore(&(struct costs) {});
	for (int i = 0; i < TURNS; i++)
		revoke_and_restore(&costs);
	for (int i = 0; i < n; i++)
		close(fds[i]);
	print("buffers", n, &costs);
}

static long faults(void)
{
	struct rusage usage;

	good(getrusage(RUSAGE_SELF, &usage), "getrusage");
	return usage.ru_minflt;
}

/* The whole BAR, mapped by the CPU: touching every page, and losing it. */
static void mapped_case(const char *name, int fd, off_t offset, size_t size)
{
	struct costs costs = {};
	struct cost touch = {};
	long had = 0;

	for (int i = 0; i < TURNS; i++) {
		char *map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, offset);
		uint64_t start;

		if (map == MAP_FAILED)
			die("mmap");
		had = faults();
		start = now();
		for (size_t at = 0; at < size; at += PAGE)
			*(volatile char *)(map + at);
		add(&touch, start);
		had = faults() - had;
		revoke_and_restore(&costs);
		munmap(map, size);
	}
	printf("{\"case\": \"mapped-%s\", \"pages\": %lu, \"faults\": %ld, "
	       "\"touch\": %lu, \"revoke\": %lu}\n", name, size / PAGE, had,
	       median(&touch), median(&costs.revoke));
	fflush(stdout);
}

static void mapped_cases(void)
{
	struct vfio_region_info info = { .argsz = sizeof(info), .index = RAM_BAR };
	int whole = export_range(&vfio, RAM_BAR, 0, RAM_SIZE);
	int shifted = export_range(&vfio, RAM_BAR, PAGE, RAM_SIZE - PAGE);

	good(whole, "export");
	good(shifted, "export");
	good(ioctl(vfio.fd, VFIO_DEVICE_GET_REGION_INFO, &info), "region");
	mapped_case("vfio", vfio.fd, info.offset, RAM_SIZE);
	mapped_case("dmabuf", whole, 0, RAM_SIZE);
	/* No huge entries: neither address nor offset agree with the BAR. */
	mapped_case("dmabuf-small", shifted, 0, RAM_SIZE - PAGE);
	close(whole);
	close(shifted);
}

/* In time of the processor's: most of a reset is sleep. */
static void reset_case(void)
{
	struct cost cost = {};

	good(vfio_reset(&vfio), "reset");
	for (int i = 0; i < TURNS; i++) {
		uint64_t start = nanoseconds(CLOCK_THREAD_CPUTIME_ID);

		good(vfio_reset(&vfio), "reset");
		cost.turns[cost.n++] = nanoseconds(CLOCK_THREAD_CPUTIME_ID) - start;
	}
	printf("{\"case\": \"reset\", \"reset\": %lu}\n", median(&cost));
}

int main(int argc, char **argv)
{
	vfio_get(&vfio, RAM, NOIOMMU);
	reset_case();
	if (argc == 2 && !strcmp(argv[1], "reset"))
		return 0;

	if (!device_find(EDU, edu))
		die("no device at " EDU);
	device_bind(edu, "dma_buf_test_importer");
	command_on = vfio_config_read(&vfio, PCI_COMMAND, 2) | PCI_COMMAND_MEMORY;
	command_off = command_on & ~PCI_COMMAND_MEMORY;
	buffers_case(0);
	for (int n = 1; n <= MANY; n *= 10)
		buffers_case(n);
	ranges_cases();
	mapped_cases();
	vfio_close(&vfio);
	return 0;
}
