/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the tests of VFIO's dma-bufs share: devices, dma-bufs of their BARs, an importer
 * that does DMA to them, and a look at what the kernel holds afterwards.
 *
 * Where a function returns an int, it is at least 0, or -errno.  What every test needs
 * and cannot be had ends the test with die().
 */
#ifndef VFIO_UTIL_H
#define VFIO_UTIL_H

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <linux/pci_regs.h>
#include <linux/vfio.h>

#include "../kselftest.h"
#include "../../../../drivers/dma-buf/tests/dma_buf_test_importer.h"

#define PAGE	((unsigned long)getpagesize())

#define die(what) \
	ksft_exit_fail_msg("%s:%d: %s: %s\n", __FILE__, __LINE__, what, strerror(errno))

/*
 * The devices that the tests expect, by slot and function on each bus on the way.  They
 * are emulated by QEMU, with options that give each a port of its own:
 *
 *  -device edu,dma_mask=18446744073709551615,addr=0x10
 *  -device pcie-root-port,id=port11,addr=0x11,chassis=17
 *  -device ivshmem-plain,memdev=...,bus=port11
 *
 * and so on.  A test is skipped where a device is missing.
 */
#define EDU		"10.0"			/* imports */
#define RAM		"11.0/00.0"		/* 64 MiB behind BAR 2; no FLR, no PM */
#define WITNESS		"12.0"			/* the same bytes behind its BAR 2 */
#define NVME		"13.0/00.0"		/* 64 MiB behind BAR 2; FLR, PM */
#define PAIR_ONE	"15.0/00.0"		/* as RAM, but with */
#define PAIR_TWO	"15.0/00.1"		/* one reset for both */
#define REGISTERS	"16.0/00.0"		/* edu; registers behind BAR 0 */
#define PHYSICAL	"17.0/00.0"		/* igb, with virtual functions: */
#define VIRTUAL		"17.0/10.0"		/* registers behind BAR 0 */
#define VIRTUAL_TWO	"17.0/10.2"
/* Display devices; RAM behind BAR 0: */
#define DISPLAY_ONE	"18.0"			/* the arbiter may switch its memory off */
#define DISPLAY_TWO	"19.0"
/* Behind a switch: */
#define SWITCH_EDU	"11.0/00.0/00.0/00.0"
#define SWITCH_RAM	"11.0/00.0/01.0/00.0"

#define RAM_BAR		2
#define RAM_SIZE	(64UL << 20)

/* How a device is opened. */
enum interface {
	GROUP,		/* container, group, type 1 IOMMU; where there is none: NOIOMMU */
	CDEV,		/* character device, iommufd */
	NOIOMMU,	/* group without an IOMMU */
};

/**
 * struct vfio - a device that is open
 * @name: in sysfs
 * @interface: how it was opened
 * @iommu: container or iommufd; -1: the device shares another's
 * @group: -1: none, or another's
 * @ioas: the address space that was made for it, with CDEV
 * @fd: the device
 */
struct vfio {
	char name[16];
	enum interface interface;
	int iommu;
	int group;
	uint32_t ioas;
	int fd;
};

/* sysfs */

/* Writes a device's name by its place; false: there is none. */
bool device_find(const char *place, char name[16]);
/* Has @driver take the device, away from any other; NULL: none. */
void device_bind(const char *name, const char *driver);
/* Writes to the device's file @attribute. */
int device_write(const char *name, const char *attribute, const char *text);
/* Waits for runtime suspend, then has the device powered for a moment, by somebody else. */
bool device_wake_up(const char *name);
/* Waits until the device is there, or is not; false: it takes too long. */
bool device_wait(const char *name, bool there);
/* Maps the file resource@bar of a device that has no driver. */
volatile void *device_map(const char *name, int bar, size_t size);

/* VFIO */

/* Opens a device, which vfio-pci has; @with: another of the same group or iommufd. */
int vfio_open(struct vfio *vfio, const char *name, enum interface interface,
	      const struct vfio *with);
void vfio_close(struct vfio *vfio);
/* Finds, binds and opens, or ends the test. */
void vfio_get(struct vfio *vfio, const char *place, enum interface interface);

volatile void *vfio_map(const struct vfio *vfio, unsigned int region, size_t offset,
			size_t size);
size_t vfio_region_size(const struct vfio *vfio, unsigned int region);
/* In the device's file. */
off_t vfio_region_offset(const struct vfio *vfio, unsigned int region);
int vfio_region_rw(const struct vfio *vfio, unsigned int region, uint64_t offset,
		   void *data, size_t size, bool write);
uint32_t vfio_config_read(const struct vfio *vfio, unsigned int offset, size_t size);
int vfio_config_write(const struct vfio *vfio, unsigned int offset, size_t size,
		      uint32_t value);
/* The offset of a capability; 0: there is none. */
unsigned int vfio_capability(const struct vfio *vfio, uint8_t id);
int vfio_memory(const struct vfio *vfio, bool on);
/* Writes the power state: 0 to 3. */
int vfio_set_power(const struct vfio *vfio, unsigned int state);
int vfio_reset(const struct vfio *vfio);
int vfio_hot_reset(const struct vfio *vfio, const struct vfio *group);
/* A device feature; flags: VFIO_DEVICE_FEATURE_GET, _SET, _PROBE and the number. */
int vfio_feature(const struct vfio *vfio, uint32_t flags, void *payload, size_t size);
/* An eventfd that the kernel signals for the given interrupt index. */
int vfio_eventfd(const struct vfio *vfio, unsigned int irq);

/* Whether an access to a mapping succeeds, or is SIGBUS. */
bool reachable(volatile uint64_t *at, bool write);

/* dma-bufs */

/* Returns the dma-buf. */
int export_ranges(const struct vfio *vfio, uint32_t region, uint32_t open_flags,
		  const struct vfio_region_dma_range *ranges, uint32_t count);
int export_range(const struct vfio *vfio, uint32_t region, uint64_t offset,
		 uint64_t length);

/* Revokes it permanently. */
int dmabuf_revoke(const struct vfio *vfio, int dmabuf);

/* The importer */

/* Returns its file; -errno of attaching. */
int importer_attach(const char *device, int dmabuf, uint32_t flags);
int importer_attach_limited(const char *device, int dmabuf, uint32_t flags,
			    uint32_t address_bits, uint32_t max_segment);
int importer_map(int importer);
int importer_unmap(int importer);
int importer_copy(int importer, uint64_t offset, void *data, uint32_t length,
		  uint32_t direction);
/* By the addresses of the last mapping, be it there or not. */
int importer_force(int importer, uint64_t offset, void *data, uint32_t length,
		   uint32_t direction);
int importer_loop(int importer, uint64_t offset);
int importer_stop(int importer);
int importer_fence(int importer, uint32_t milliseconds);
struct dma_buf_importer_status importer_status(int importer);
/* Waits until the loop has copied @copies times; false: it has not, in ten seconds. */
bool importer_copies(int importer, uint32_t copies);
/* Returns how many there are. */
int importer_segments(int importer, struct dma_buf_importer_segment *segments,
		      uint32_t room);

/* The machine */

/* A command of QEMU's monitor protocol, in JSON; false: it was refused. */
bool qmp(const char *command);
/*
 * Has the port of RAM report an error, as QEMU's devices report none of their own; true: the
 * kernel has recovered from it.
 */
bool aer_inject(const char *error);
/* Has NVME unplugged, once the kernel is done with it; and plugged in again. */
bool nvme_unplug(void);
void nvme_plug(void);
/* As in /proc: R, S, D, ...; 0: there is no such thread. */
char task_state(pid_t tid);
/* The kernel's log from now on, for log_has(). */
int log_open(void);
/* Whether a line that was logged since has @text; waits for it for a second. */
bool log_has(int log, const char *text);

/**
 * struct held - what there is in the kernel
 * @buffers: dma-bufs
 * @attachments: of devices to them
 * @mappings: of addresses that are no memory, for DMA; needs CONFIG_DMA_API_DEBUG
 * @fds: of this process
 */
struct held {
	long buffers;
	long attachments;
	long mappings;
	long fds;
};

struct held held(void);
/* The same, with the dma-bufs of one exporter alone. */
struct held held_of(const char *exporter);

#define EXPECT_HELD(before) do {						\
	struct held now_ = held();						\
	EXPECT_EQ(now_.buffers, (before).buffers);				\
	EXPECT_EQ(now_.attachments, (before).attachments);			\
	EXPECT_EQ(now_.mappings, (before).mappings);				\
	EXPECT_EQ(now_.fds, (before).fds);					\
} while (0)

int write_text(const char *path, const char *text);
/* Sets a parameter of a module, built in or not; false: it was refused. */
bool module_parameter(const char *module, const char *name, const char *value);
/* Sets a parameter of vfio-pci-core; returns what it was. */
long vfio_parameter(const char *name, long value);

uint64_t milliseconds(void);
void sleep_ms(unsigned int ms);

#endif /* VFIO_UTIL_H */
