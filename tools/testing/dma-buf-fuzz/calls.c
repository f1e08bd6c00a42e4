// SPDX-License-Identifier: GPL-2.0
/*
 * The calls that a program is made of.
 *
 * An argument names a resource by its place in a table, modulo the table's size, or a
 * value by its place in a list of those that matter.  Two threads use the tables without
 * a lock: a descriptor that the other one closes is a race to be tried like others.
 */
#include <setjmp.h>
#include <signal.h>
#include <poll.h>
#include <sched.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <drm/drm.h>
#include <linux/dma-buf.h>
#include <linux/udmabuf.h>

#include "fuzz.h"
#include "../selftests/vfio/vfio_ioas.h"
/* A tree without the range helper has no mirrors. */
#if __has_include("../../../lib/test_hmm_range_uapi.h")
#include "../../../lib/test_hmm_range_uapi.h"
#endif

#define CHOOSE(list, n)	((list)[(n) % ARRAY_SIZE(list)])

/* A constant: what a program's numbers choose is the same on each machine. */
#undef PAGE
#define PAGE		4096UL
#define HUGE		(2UL << 20)
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE	25
#endif

/* Descriptors, by what made them. */
enum kind { MEMFD, UDMABUF, BAR, SYNC, IMPORTER, MIRROR, KINDS };
#define FDS		8	/* of a kind */
static int fds[KINDS][FDS];
static unsigned int next_fd[KINDS];

/* Mappings: each in a slot of its own, which is aligned to the largest page. */
#define SLOTS		8
#define SLOT		0x40000000UL
#define ARENA		((char *)0x200000000000UL)

#define HANDLES		8
static uint32_t handles[HANDLES];
static unsigned int next_handle;

#define IOASES		4
static uint32_t ioases[IOASES];
static unsigned int next_ioas;

/* What all programs share. */
static int udmabuf, drm;
static struct vfio vfio;
static unsigned int power;	/* where its capability is */
static char importer[16];
/*
 * Of this program.  Has it made the device other than it was, or taken it from its IOAS?
 * Has it used DRM?  Is there an importer that keeps what is revoked?
 */
static bool changed, moved, drew, keeps;

/* So far in this program: what takes long. */
static unsigned int resets, forks, walks, waits;

static bool once(unsigned int *times)
{
	return !__atomic_fetch_add(times, 1, __ATOMIC_RELAXED);
}

/* Mostly small: clearing memory is what takes most of the time. */
static const uint64_t sizes[] = {
	PAGE, 2 * PAGE, HUGE, 16 * PAGE, 2 * HUGE, HUGE + PAGE, 0, PAGE / 2, 3 * PAGE + 1,
	64 * PAGE, -PAGE, -1UL, 1UL << 32, 64UL << 20, PAGE, PAGE, PAGE, 2 * PAGE, 2 * PAGE,
	3 * PAGE, 3 * PAGE, 4 * PAGE, 4 * PAGE, 5 * PAGE, 5 * PAGE, 8 * PAGE, 8 * PAGE, 16 * PAGE,
	16 * PAGE, 16 * PAGE, 15 * PAGE, 9 * PAGE,
};

static const uint64_t offsets[] = {
	0, PAGE, 3 * PAGE, HUGE, HUGE - PAGE, 1, PAGE / 2, 15 * PAGE, -PAGE, 1UL << 40,
};

/* resources */

/* Each descriptor is closed once, and by one of the threads. */
static void set_fd(enum kind kind, unsigned int slot, int fd)
{
	int old = __atomic_exchange_n(&fds[kind][slot], fd, __ATOMIC_RELAXED);

	if (old >= 0)
		close(old);
}

static void add_fd(enum kind kind, int fd)
{
	unsigned int slot = __atomic_fetch_add(&next_fd[kind], 1, __ATOMIC_RELAXED) % FDS;

	if (fd >= 0)
		set_fd(kind, slot, fd);
}

/* One of a kind; now and then of another. */
static int get_fd(enum kind kind, uint16_t n)
{
	if (n >= 0xf000)
		kind = n % KINDS;
	return fds[kind % KINDS][n % FDS];
}

static int get_dmabuf(uint16_t n)
{
	return get_fd(n & 0x100 ? BAR : UDMABUF, n);
}

static char *slot(uint16_t n)
{
	return ARENA + n % SLOTS * SLOT;
}

/* Of a mapping or a file: not so much that all of it takes long. */
static size_t map_size(uint16_t n)
{
	uint64_t size = CHOOSE(sizes, n);

	return size > 2 * HUGE ? size % HUGE / 8 : size;
}

static __thread sigjmp_buf fault;
static __thread volatile sig_atomic_t touching;

static void on_fault(int signal)
{
	if (touching)
		siglongjmp(fault, signal);
	_exit(128 + signal);
}

/* memory that buffers are made of */

static void run_memfd(const uint16_t *arg)
{
	static const unsigned int flags[] = {
		MFD_ALLOW_SEALING, MFD_ALLOW_SEALING | MFD_HUGETLB, 0,
	};
	static const int seals[] = {
		F_SEAL_SHRINK, F_SEAL_SHRINK, F_SEAL_SHRINK | F_SEAL_GROW, 0,
		F_SEAL_SHRINK | F_SEAL_WRITE, F_SEAL_SHRINK | F_SEAL_FUTURE_WRITE,
	};
	int fd = memfd_create("fuzz", CHOOSE(flags, arg[0]));

	if (fd < 0)
		return;
	if (ftruncate(fd, map_size(arg[1])))
		(void)fd;
	fcntl(fd, F_ADD_SEALS, CHOOSE(seals, arg[2]));
	if (arg[3] & 1) {
		char path[32];
		int other;

		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		other = open(path, arg[3] & 2 ? O_RDONLY : O_WRONLY);
		close(fd);
		fd = other;
	}
	add_fd(MEMFD, fd);
}

static void run_fallocate(const uint16_t *arg)
{
	fallocate(get_fd(MEMFD, arg[0]),
		  arg[1] & 1 ? FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE : 0,
		  CHOOSE(offsets, arg[2]), map_size(arg[3]));
}

static void run_truncate(const uint16_t *arg)
{
	if (ftruncate(get_fd(MEMFD, arg[0]), map_size(arg[1])))
		return;
}

static void run_seal(const uint16_t *arg)
{
	/* Where a page is pinned, this waits for some 100 ms. */
	if (arg[1] & F_SEAL_WRITE && !once(&waits))
		return;
	fcntl(get_fd(MEMFD, arg[0]), F_ADD_SEALS, arg[1] & 0x1f);
}

/* udmabuf */

static void run_udmabuf(const uint16_t *arg)
{
	struct udmabuf_create create = {
		.memfd = get_fd(MEMFD, arg[0]),
		.flags = arg[1],
		.offset = CHOOSE(offsets, arg[2]),
		.size = CHOOSE(sizes, arg[3]),
	};

	add_fd(UDMABUF, ioctl(udmabuf, UDMABUF_CREATE, &create));
}

static void run_udmabuf_list(const uint16_t *arg)
{
	static __thread char memory[sizeof(struct udmabuf_create_list) +
				    16 * sizeof(struct udmabuf_create_item)];
	struct udmabuf_create_list *list = (void *)memory;

	list->flags = arg[0];
	list->count = arg[1] % 17;
	for (unsigned int i = 0; i < list->count; i++) {
		list->list[i] = (struct udmabuf_create_item) {
			.memfd = get_fd(MEMFD, arg[2] + (arg[4] & 1 ? i : 0)),
			.offset = CHOOSE(offsets, arg[3] + (arg[4] & 2 ? i % 5 : 0)),
			.size = CHOOSE(sizes, (arg[4] >> 4) + (arg[4] & 4 ? i : 0)),
		};
	}
	add_fd(UDMABUF, ioctl(udmabuf, UDMABUF_CREATE_LIST, list));
}

/* any dma-buf */

static void run_sync(const uint16_t *arg)
{
	struct dma_buf_sync sync = { .flags = arg[1] & 0x10 ? arg[1] : arg[1] & 7 };

	ioctl(get_dmabuf(arg[0]), DMA_BUF_IOCTL_SYNC, &sync);
}

static void run_export_sync(const uint16_t *arg)
{
	struct dma_buf_export_sync_file sync = { .flags = arg[1] & 3 };

	if (!ioctl(get_dmabuf(arg[0]), DMA_BUF_IOCTL_EXPORT_SYNC_FILE, &sync))
		add_fd(SYNC, sync.fd);
}

static void run_import_sync(const uint16_t *arg)
{
	struct dma_buf_import_sync_file sync = {
		.flags = arg[1] & 3, .fd = get_fd(SYNC, arg[2]),
	};

	ioctl(get_dmabuf(arg[0]), DMA_BUF_IOCTL_IMPORT_SYNC_FILE, &sync);
}

static void run_name(const uint16_t *arg)
{
	ioctl(get_dmabuf(arg[0]), DMA_BUF_SET_NAME_B,
	      arg[1] & 1 ? "fuzz" : "a name that is too long for a dma-buf to have it");
}

static void run_file(const uint16_t *arg)
{
	struct pollfd poll_fd = { .fd = get_fd(arg[2] % KINDS, arg[0]), .events = arg[3] };
	char path[64], text[1024];
	struct stat stat;
	int fd = poll_fd.fd;

	switch (arg[1] % 7) {
	case 0:
		poll(&poll_fd, 1, 0);
		break;
	case 1:
		lseek(fd, CHOOSE(offsets, arg[3]), arg[4] % 3);
		break;
	case 2:
		fstat(fd, &stat);
		break;
	case 3:
		snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
		fd = open(path, O_RDONLY);
		if (read(fd, text, sizeof(text)) < 0)
			*text = '\0';
		close(fd);
		break;
	case 4:
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		add_fd(arg[2] % KINDS, open(path, arg[3] & 1 ? O_PATH : O_RDWR));
		break;
	case 5:
		if (pread(fd, text, arg[4] % sizeof(text), CHOOSE(offsets, arg[3])) < 0)
			break;
		break;
	case 6:
		add_fd(arg[2] % KINDS, fcntl(fd, F_DUPFD_CLOEXEC, 0));
		break;
	}
}

static void run_close(const uint16_t *arg)
{
	set_fd(arg[0] % KINDS, arg[1] % FDS, -1);
}

/* mappings */

static const int protections[] = {
	PROT_READ | PROT_WRITE, PROT_READ, PROT_NONE, PROT_READ | PROT_EXEC,
};

static void run_mmap(const uint16_t *arg)
{
	int flags = arg[4] & 1 ? MAP_PRIVATE : MAP_SHARED;
	int fd = arg[4] & 2 ? get_fd(MEMFD, arg[0]) : get_dmabuf(arg[0]);

	if (arg[4] & 4)
		flags |= MAP_POPULATE;
	mmap(slot(arg[1]), map_size(arg[2]), CHOOSE(protections, arg[3] >> 8),
	     flags | MAP_FIXED, fd, CHOOSE(offsets, arg[3]));
}

static void run_mmap_anonymous(const uint16_t *arg)
{
	mmap(slot(arg[0]), map_size(arg[1]), CHOOSE(protections, arg[2]),
	     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
}

static void run_touch(const uint16_t *arg)
{
	volatile char *at = slot(arg[0]) + CHOOSE(offsets, arg[1]) % SLOT;
	volatile int pages = 1 + arg[3] % 32;

	touching = 1;
	if (!sigsetjmp(fault, 1))
		for (int i = 0; i < pages; i++, at += PAGE) {
			if (arg[2] & 1)
				*at = 1;
			else
				(void)*at;
		}
	touching = 0;
}

static void run_munmap(const uint16_t *arg)
{
	munmap(slot(arg[0]) + CHOOSE(offsets, arg[1]) % SLOT,
	       map_size(arg[2]));
}

static void run_mprotect(const uint16_t *arg)
{
	mprotect(slot(arg[0]) + CHOOSE(offsets, arg[1]) % SLOT,
		 map_size(arg[2]), CHOOSE(protections, arg[3]));
}

static void run_mremap(const uint16_t *arg)
{
	mremap(slot(arg[0]), map_size(arg[1]), map_size(arg[2]),
	       MREMAP_MAYMOVE | MREMAP_FIXED | (arg[4] & 1 ? MREMAP_DONTUNMAP : 0),
	       slot(arg[3]));
}

static void run_madvise(const uint16_t *arg)
{
	/* Not MADV_HWPOISON: memory does not come back from that. */
	static const int advice[] = {
		MADV_DONTNEED, MADV_REMOVE, MADV_DONTFORK, MADV_DOFORK, MADV_MERGEABLE,
		MADV_HUGEPAGE, MADV_NOHUGEPAGE, MADV_FREE, MADV_COLD, MADV_PAGEOUT,
		MADV_POPULATE_READ, MADV_POPULATE_WRITE, MADV_COLLAPSE, MADV_WILLNEED,
	};

	madvise(slot(arg[0]) + CHOOSE(offsets, arg[1]) % SLOT,
		map_size(arg[2]), CHOOSE(advice, arg[3]));
}

static void run_walk(const uint16_t *arg)
{
	static const char *const files[] = { "smaps", "numa_maps", "pagemap", "clear_refs" };
	char path[32], text[4096];
	int fd;

	if (arg[2] >> 13 || !once(&walks))
		return;
	snprintf(path, sizeof(path), "/proc/self/%s", CHOOSE(files, arg[0]));
	fd = open(path, O_RDWR);
	if (fd < 0)
		fd = open(path, arg[0] % 4 == 3 ? O_WRONLY : O_RDONLY);
	if (arg[0] % 4 == 3)
		arg[1] & 1 ? write(fd, "4", 1) : write(fd, "1", 1);
	else if (arg[0] % 4 == 2)
		pread(fd, text, 512, (uintptr_t)slot(arg[1]) / PAGE * 8);
	else
		/* The first are ours. */
		for (int i = 0; i < 3 && read(fd, text, sizeof(text)) > 0; i++)
			;
	close(fd);
}

static void run_mlock(const uint16_t *arg)
{
	if (arg[2] & 1)
		munlock(slot(arg[0]), map_size(arg[1]));
	else
		mlock2(slot(arg[0]), map_size(arg[1]), MLOCK_ONFAULT);
}

/* The child has all that this process has, for some milliseconds. */
static void run_fork(const uint16_t *arg)
{
	pid_t pid;

	if (arg[4] >> 13 || !once(&forks))
		return;
	pid = fork();
	if (!pid) {
		usleep(arg[4] % 32 * 1000);
		run_touch(arg);
		_exit(0);
	}
	if (pid > 0 && arg[4] & 32)
		waitpid(pid, NULL, 0);
}

/* importers */

static void run_drm_import(const uint16_t *arg)
{
	struct drm_prime_handle prime = { .fd = get_dmabuf(arg[0]) };

	drew = true;
	if (!ioctl(drm, DRM_IOCTL_PRIME_FD_TO_HANDLE, &prime))
		handles[__atomic_fetch_add(&next_handle, 1, __ATOMIC_RELAXED) % HANDLES] =
			prime.handle;
}

static void run_drm_export(const uint16_t *arg)
{
	struct drm_prime_handle prime = {
		.handle = handles[arg[0] % HANDLES], .flags = DRM_CLOEXEC | DRM_RDWR,
	};

	if (!ioctl(drm, DRM_IOCTL_PRIME_HANDLE_TO_FD, &prime))
		add_fd(UDMABUF, prime.fd);
}

static void run_drm_close(const uint16_t *arg)
{
	struct drm_gem_close close = { .handle = handles[arg[0] % HANDLES] };

	ioctl(drm, DRM_IOCTL_GEM_CLOSE, &close);
}

static void run_attach(const uint16_t *arg)
{
	static const uint32_t bits[] = { 0, 0, 0, 32, 12 };
	struct dma_buf_importer_attach attach = {
		.dmabuf_fd = get_dmabuf(arg[0]),
		.flags = arg[1] & 0x100 ? arg[1] : arg[1] & 0x7f,
		.address_bits = CHOOSE(bits, arg[2]),
		.max_segment = arg[3] & 1 ? PAGE << (arg[3] >> 12) : 0,
	};
	int fd = open("/dev/dma_buf_importer", O_RDWR | O_CLOEXEC);

	snprintf(attach.device, sizeof(attach.device), "%s", importer);
	ioctl(fd, DMA_BUF_IMPORTER_ATTACH, &attach);
	add_fd(IMPORTER, fd);
}

static void run_import(const uint16_t *arg)
{
	static const unsigned long calls[] = {
		DMA_BUF_IMPORTER_MAP, DMA_BUF_IMPORTER_UNMAP, DMA_BUF_IMPORTER_DETACH,
	};

	ioctl(get_fd(IMPORTER, arg[0]), CHOOSE(calls, arg[1]));
}

static void run_fence(const uint16_t *arg)
{
	uint32_t ms = arg[1] % 40;

	ioctl(get_fd(IMPORTER, arg[0]), DMA_BUF_IMPORTER_FENCE, &ms);
}

/* VFIO */

static void run_bar(const uint16_t *arg)
{
	struct vfio_region_dma_range ranges[4];

	for (unsigned int i = 0; i < ARRAY_SIZE(ranges); i++) {
		ranges[i].offset = CHOOSE(offsets, arg[1] + i);
		ranges[i].length = CHOOSE(sizes, arg[2] + (arg[4] & 1 ? i : 0));
	}
	add_fd(BAR, export_ranges(&vfio, arg[0] & 0x80 ? arg[0] : RAM_BAR,
				  arg[4] & 0x100 ? arg[4] : O_CLOEXEC |
				  (arg[4] & 2 ? O_RDONLY : O_RDWR),
				  ranges, arg[3] & 0x100 ? 0 : 1 + arg[3] % 4));
}

static void run_revoke(const uint16_t *arg)
{
	dmabuf_revoke(&vfio, get_fd(BAR, arg[0]));
}

static void run_feature(const uint16_t *arg)
{
	static const uint32_t features[] = {
		VFIO_DEVICE_FEATURE_DMA_BUF, VFIO_DEVICE_FEATURE_DMA_BUF_REVOKE,
		VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY, VFIO_DEVICE_FEATURE_LOW_POWER_EXIT,
	};
	uint64_t payload[8] = { arg[2], arg[3], arg[4] };

	changed = true;		/* it can have low power */
	vfio_feature(&vfio, CHOOSE(features, arg[0]) | (arg[1] & 7) << 16, payload,
		     arg[1] >> 8 & 63);
}

/* Where the device's regions are: asking each time may fail, as a call is told to. */
static off_t regions[VFIO_PCI_NUM_REGIONS];

static void region_rw(unsigned int region, uint64_t offset, void *data, size_t size, bool write)
{
	off_t place = regions[region] + offset;

	/* A write to config space, where offsets can lead, waits until importers have unmapped. */
	if (write && keeps && place >> 40 == VFIO_PCI_CONFIG_REGION_INDEX)
		return;
	if (write)
		changed = true;
	if (write)
		pwrite(vfio.fd, data, size, place);
	else
		pread(vfio.fd, data, size, place);
}

static void run_config(const uint16_t *arg)
{
	static const uint16_t places[] = {
		PCI_COMMAND, PCI_COMMAND, PCI_BASE_ADDRESS_0, PCI_BASE_ADDRESS_2,
		PCI_ROM_ADDRESS, PCI_STATUS, PCI_CAPABILITY_LIST,
	};
	uint32_t value = arg[2] | (uint32_t)arg[4] << 16;

	region_rw(VFIO_PCI_CONFIG_REGION_INDEX,
		  arg[0] & 0x8000 ? arg[0] % 4200 : CHOOSE(places, arg[0]), &value,
		  1 << arg[1] % 3, !(arg[3] & 1));
}

/* As the owner of a device would: memory decode off or on. */
static void run_memory(const uint16_t *arg)
{
	uint16_t command = PCI_COMMAND_MASTER | (arg[0] & 1 ? PCI_COMMAND_MEMORY : 0);

	region_rw(VFIO_PCI_CONFIG_REGION_INDEX, PCI_COMMAND, &command, 2, true);
}

/* D0 to D3, where the device has power management. */
static void run_power(const uint16_t *arg)
{
	uint16_t state = arg[0] & 3;

	if (power)
		region_rw(VFIO_PCI_CONFIG_REGION_INDEX, power + PCI_PM_CTRL, &state, 2, true);
}

static void run_region(const uint16_t *arg)
{
	char data[64] = "";

	region_rw(arg[0] % (VFIO_PCI_CONFIG_REGION_INDEX + 1), CHOOSE(offsets, arg[1]), data,
		  arg[2] % sizeof(data), arg[3] & 1);
}

static void run_map_bar(const uint16_t *arg)
{
	mmap(slot(arg[0]), map_size(arg[1]), PROT_READ | PROT_WRITE,
	     MAP_SHARED | MAP_FIXED, vfio.fd,
	     regions[RAM_BAR] + (off_t)CHOOSE(offsets, arg[2]));
}

static void run_reset(const uint16_t *arg)
{
	if (arg[1] & 15 || !once(&resets))
		return;
	changed = true;
	if (arg[0] & 1)
		vfio_hot_reset(&vfio, &vfio);
	else
		vfio_reset(&vfio);
}

/* iommufd */

static uint32_t ioas(uint16_t n)
{
	return n & 0x80 ? vfio.ioas : ioases[n % IOASES];
}

static void run_ioas(const uint16_t *arg)
{
	struct iommu_ioas_alloc alloc = { .size = sizeof(alloc) };

	(void)arg;
	unsigned int i = __atomic_fetch_add(&next_ioas, 1, __ATOMIC_RELAXED);

	if (i < IOASES && !ioctl(vfio.iommu, IOMMU_IOAS_ALLOC, &alloc))
		ioases[i] = alloc.out_ioas_id;
}

static uint64_t iova(uint16_t n)
{
	return (1UL << 32) + (n % 8) * 2 * HUGE + CHOOSE(offsets, n >> 8) % HUGE;
}

static void run_map_file(const uint16_t *arg)
{
	int fd = arg[0] & 0x200 ? get_fd(MEMFD, arg[0]) : get_dmabuf(arg[0]);

	ioas_map_file(vfio.iommu, ioas(arg[1]), fd, CHOOSE(offsets, arg[2] >> 8),
		      CHOOSE(sizes, arg[2]), iova(arg[3]),
		      arg[4] & 0x100 ? arg[4] : READ_WRITE);
}

static void run_map(const uint16_t *arg)
{
	ioas_map(vfio.iommu, ioas(arg[0]), slot(arg[1]) + CHOOSE(offsets, arg[2] >> 8) % SLOT,
		 CHOOSE(sizes, arg[2]), iova(arg[3]), READ_WRITE);
}

static void run_unmap(const uint16_t *arg)
{
	ioas_unmap(vfio.iommu, ioas(arg[0]), arg[1] & 1 ? 0 : iova(arg[2]),
		   arg[1] & 1 ? UINT64_MAX : CHOOSE(sizes, arg[3]));
}

static void run_copy(const uint16_t *arg)
{
	ioas_copy(vfio.iommu, ioas(arg[0]), ioas(arg[1]), iova(arg[2]),
		  CHOOSE(sizes, arg[3]), READ_WRITE);
}

static void run_destroy(const uint16_t *arg)
{
	iommufd_destroy(vfio.iommu, ioases[arg[0] % IOASES]);
}

static void run_attach_ioas(const uint16_t *arg)
{
	moved = true;
	if (arg[0] & 1)
		vfio_detach(&vfio);
	else
		vfio_attach(&vfio, ioas(arg[1]));
}

/* ranges of memory that a device follows */

#ifndef HMM_RANGE_TEST_DEVICE	/* which comes with another series */

static void run_mirror(const uint16_t *arg)
{
	(void)arg;
}

static void run_mirror_call(const uint16_t *arg)
{
	(void)arg;
}

#else

static void run_mirror(const uint16_t *arg)
{
	add_fd(MIRROR, open(HMM_RANGE_TEST_DEVICE, O_RDWR | O_CLOEXEC));
	(void)arg;
}

static void run_mirror_call(const uint16_t *arg)
{
	static const unsigned long calls[] = {
		HMM_RANGE_TEST_REGISTER, HMM_RANGE_TEST_POPULATE, HMM_RANGE_TEST_SNAPSHOT,
		HMM_RANGE_TEST_ENTRIES, HMM_RANGE_TEST_READ, HMM_RANGE_TEST_WRITE_PAGES,
		HMM_RANGE_TEST_WAIT, HMM_RANGE_TEST_IS_VALID, HMM_RANGE_TEST_UNREGISTER,
		HMM_RANGE_TEST_STATS,
	};
	static char buffer[64 * PAGE];
	struct hmm_range_test_cmd cmd = {
		.addr = (uintptr_t)slot(arg[2]) + CHOOSE(offsets, arg[3] >> 8) % SLOT,
		.npages = arg[3] & 0x80 ? CHOOSE(sizes, arg[3]) : 1 + arg[3] % 64,
		.ptr = (uintptr_t)buffer,
		.flags = arg[4] & 0x80 ? arg[4] : arg[4] & HMM_RANGE_TEST_WRITE,
		.timeout_ms = (arg[4] >> 8) % 32,
	};

	ioctl(get_fd(MIRROR, arg[0]), CHOOSE(calls, arg[1]), &cmd);
}

#endif

#define TYPE(name)	{ #name, run_##name, .faults = run_##name == run_touch }

const struct fuzz_type fuzz_types[] = {
	TYPE(memfd), TYPE(fallocate), TYPE(truncate), TYPE(seal), TYPE(udmabuf),
	TYPE(udmabuf_list), TYPE(sync), TYPE(export_sync), TYPE(import_sync), TYPE(name),
	TYPE(file), TYPE(close), TYPE(mmap), TYPE(mmap_anonymous), TYPE(touch),
	TYPE(munmap), TYPE(mprotect), TYPE(mremap), TYPE(madvise), TYPE(walk), TYPE(mlock),
	TYPE(fork), TYPE(drm_import), TYPE(drm_export), TYPE(drm_close), TYPE(attach),
	TYPE(import), TYPE(fence), TYPE(bar), TYPE(revoke), TYPE(feature), TYPE(config),
	TYPE(memory), TYPE(power), TYPE(region), TYPE(map_bar), TYPE(reset), TYPE(ioas),
	TYPE(map_file), TYPE(map), TYPE(unmap), TYPE(copy), TYPE(destroy),
	TYPE(attach_ioas),
	TYPE(mirror), TYPE(mirror_call),
};

const size_t fuzz_types_count = ARRAY_SIZE(fuzz_types);

/* before, between */

/* A device with RAM that no other process of ours has. */
static void open_device(void)
{
	static const char *const places[] = { NVME, RAM, PAIR_ONE };
	char name[16];

	/* A reset of one of the pair wants both. */
	if (device_find(PAIR_TWO, name))
		device_bind(name, "vfio-pci");
	for (unsigned int i = 0; i < ARRAY_SIZE(places); i++) {
		if (!device_find(places[i], name))
			continue;
		device_bind(name, "vfio-pci");
		if (!vfio_open(&vfio, name, CDEV, NULL))
			return;
	}
	ksft_exit_fail_msg("no device for VFIO: this machine needs \"--devices p2p\"\n");
}

static void open_drm(void)
{
	drm = open("/dev/dri/card0", O_RDWR | O_CLOEXEC);
	if (drm < 0)
		die("/dev/dri/card0");
}

void fuzz_open(void)
{
	struct sigaction action = { .sa_handler = on_fault, .sa_flags = SA_NODEFER };

	if (!device_find(EDU, importer))
		ksft_exit_fail_msg("no device that imports\n");
	udmabuf = open("/dev/udmabuf", O_RDWR | O_CLOEXEC);
	if (udmabuf < 0)
		die("/dev/udmabuf");
	open_drm();
	open_device();
	power = vfio_capability(&vfio, PCI_CAP_ID_PM);
	for (unsigned int i = 0; i <= VFIO_PCI_CONFIG_REGION_INDEX; i++)
		regions[i] = vfio_region_offset(&vfio, i);
	sigaction(SIGSEGV, &action, NULL);
	sigaction(SIGBUS, &action, NULL);
	memset(fds, -1, sizeof(fds));
}

void fuzz_begin(const struct fuzz_call *calls, size_t count)
{
	for (size_t i = 0; i < count; i++)
		if (fuzz_types[calls[i].type % fuzz_types_count].run == run_attach &&
		    calls[i].arg[1] & DMA_BUF_IMPORTER_KEEP)
			keeps = true;
}

void fuzz_clean(void)
{
	while (wait(NULL) > 0 || errno == EINTR)
		;
	/* Also handles that are in no table: a copy to us may have failed. */
	if (drew) {
		close(drm);
		open_drm();
	}
	memset(handles, 0, sizeof(handles));
	if (moved)
		vfio_attach(&vfio, vfio.ioas);
	ioas_unmap(vfio.iommu, vfio.ioas, 0, UINT64_MAX);
	for (unsigned int i = 0; i < IOASES; i++)
		if (ioases[i])
			iommufd_destroy(vfio.iommu, ioases[i]);
	memset(ioases, 0, sizeof(ioases));
	for (unsigned int kind = 0; kind < KINDS; kind++)
		for (unsigned int i = 0; i < FDS; i++)
			run_close((uint16_t []){ kind, i });
	munmap(ARENA, SLOTS * SLOT);
	keeps = false;
	if (changed) {
		vfio_feature(&vfio, VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_LOW_POWER_EXIT,
			     NULL, 0);
		run_power((uint16_t []){ 0 });
		run_memory((uint16_t []){ 1 });
	}
	changed = false;
	moved = false;
	drew = false;
	memset(next_fd, 0, sizeof(next_fd));
	next_handle = 0;
	next_ioas = 0;
	resets = 0;
	forks = 0;
	walks = 0;
	waits = 0;
}
