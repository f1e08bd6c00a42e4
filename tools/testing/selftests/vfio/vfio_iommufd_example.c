// SPDX-License-Identifier: GPL-2.0
/* The example of Documentation/userspace-api/vfio-pci-dma-buf.rst, run as a test. */
/* Documentation/userspace-api/vfio-pci-dma-buf.rst shows what follows. */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <linux/iommufd.h>
#include <linux/pci_regs.h>
#include <linux/vfio.h>

#define SIZE	0x10000		/* of what is shared of the BAR */
#define IOVA	0x40000000

/* Opens /dev/vfio/devices/vfioN; -1 and errno if that can't be had. */
static int open_device(int iommufd, const char *path)
{
	struct vfio_device_bind_iommufd bind = {
		.argsz = sizeof(bind),
		.iommufd = iommufd,
	};
	int device = open(path, O_RDWR | O_CLOEXEC);

	return ioctl(device, VFIO_DEVICE_BIND_IOMMUFD, &bind) ? -1 : device;
}

/* An address space that a device does its DMA in; 0 and errno if not. */
static uint32_t attach(int iommufd, int device)
{
	struct iommu_ioas_alloc alloc = { .size = sizeof(alloc) };
	struct vfio_device_attach_iommufd_pt pt = { .argsz = sizeof(pt) };

	if (ioctl(iommufd, IOMMU_IOAS_ALLOC, &alloc))
		return 0;
	pt.pt_id = alloc.out_ioas_id;
	/* That comes back as the id of the page table. */
	return ioctl(device, VFIO_DEVICE_ATTACH_IOMMUFD_PT, &pt) ? 0 : alloc.out_ioas_id;
}

/* A dma-buf of the beginning of a BAR; -1 and errno if not. */
static int export(int device, uint32_t bar)
{
	struct {
		struct vfio_device_feature header;
		struct vfio_device_feature_dma_buf request;
		struct vfio_region_dma_range range;
	} feature = {
		.header.argsz = sizeof(feature),
		.header.flags = VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_DMA_BUF,
		.request.region_index = bar,
		.request.open_flags = O_RDWR | O_CLOEXEC,
		.request.nr_ranges = 1,
		.range.length = SIZE,
	};

	return ioctl(device, VFIO_DEVICE_FEATURE, &feature);
}

/* Makes the BAR appear at IOVA, for the devices in the address space. */
static int map(int iommufd, uint32_t ioas, int dmabuf)
{
	struct iommu_ioas_map_file map = {
		.size = sizeof(map),
		.flags = IOMMU_IOAS_MAP_FIXED_IOVA | IOMMU_IOAS_MAP_READABLE |
			 IOMMU_IOAS_MAP_WRITEABLE,
		.ioas_id = ioas,
		.fd = dmabuf,
		.length = SIZE,
		.iova = IOVA,
	};

	return ioctl(iommufd, IOMMU_IOAS_MAP_FILE, &map);
}

static volatile void *map_bar(int device, uint32_t bar, size_t size)
{
	struct vfio_region_info info = { .argsz = sizeof(info), .index = bar };

	if (ioctl(device, VFIO_DEVICE_GET_REGION_INFO, &info))
		return MAP_FAILED;
	return mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, device, info.offset);
}

/* Copies a word by DMA, from one address to another; the device is QEMU's "edu". */
static int copy_word(int edu, uint64_t from, uint64_t to)
{
	const uint64_t steps[2][3] = { { from, 0x40000, 1 }, { 0x40000, to, 3 } };
	struct vfio_region_info info = {
		.argsz = sizeof(info),
		.index = VFIO_PCI_CONFIG_REGION_INDEX,
	};
	uint16_t command = PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER;
	volatile uint64_t *registers = map_bar(edu, 0, 0x100000);

	if (registers == MAP_FAILED || ioctl(edu, VFIO_DEVICE_GET_REGION_INFO, &info) ||
	    pwrite(edu, &command, 2, info.offset + PCI_COMMAND) != 2)
		return -1;
	for (int i = 0; i < 2; i++) {		/* by way of its own buffer */
		registers[0x80 / 8] = steps[i][0];
		registers[0x88 / 8] = steps[i][1];
		registers[0x90 / 8] = 8;
		registers[0x98 / 8] = steps[i][2];
		while (registers[0x98 / 8] & 1)
			usleep(1000);
	}
	return 0;
}

int main(int argc, char **argv)
{
	int iommufd = open("/dev/iommu", O_RDWR | O_CLOEXEC), one, two, dmabuf;
	volatile uint64_t *bar;
	uint32_t ioas;

	printf("TAP version 13\n1..1\n");
	if (argc != 4)
		goto failed;
	one = open_device(iommufd, argv[1]);
	two = open_device(iommufd, argv[2]);
	if (one < 0 || two < 0)
		goto failed;
	ioas = attach(iommufd, one);
	dmabuf = export(two, argv[3][0] - '0');
	if (!ioas || dmabuf < 0 || map(iommufd, ioas, dmabuf))
		goto failed;
	close(dmabuf);				/* the mapping has it */

	bar = map_bar(two, argv[3][0] - '0', SIZE);
	if (bar == MAP_FAILED)
		goto failed;
	bar[0] = 4711;
	bar[1] = 0;
	if (copy_word(one, IOVA, IOVA + 8) || bar[1] != 4711)
		goto failed;

	/* A reset takes the BAR away for a while, and nothing has to be mapped again. */
	if (ioctl(two, VFIO_DEVICE_RESET))
		goto failed;
	bar[0] = 4712;
	if (copy_word(one, IOVA, IOVA + 8) || bar[1] != 4712)
		goto failed;

	printf("ok 1 one device read and wrote another one's BAR\n");
	return 0;

failed:
	printf("not ok 1 usage: %s EDU DEVICE BAR, devices as /dev/vfio/devices/vfioN: %s\n",
	       argv[0], strerror(errno));
	return 1;
}
