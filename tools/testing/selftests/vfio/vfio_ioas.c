// SPDX-License-Identifier: GPL-2.0
/* See vfio_ioas.h. */
#include "vfio_ioas.h"

static int result(int ret)
{
	return ret < 0 ? -errno : ret;
}

uint32_t ioas_new(int iommufd)
{
	struct iommu_ioas_alloc alloc = { .size = sizeof(alloc) };

	if (ioctl(iommufd, IOMMU_IOAS_ALLOC, &alloc))
		die("IOMMU_IOAS_ALLOC");
	return alloc.out_ioas_id;
}

int ioas_map(int iommufd, uint32_t ioas, void *address, uint64_t length, uint64_t iova,
	     uint32_t flags)
{
	struct iommu_ioas_map map = {
		.size = sizeof(map),
		.flags = flags | IOMMU_IOAS_MAP_FIXED_IOVA,
		.ioas_id = ioas,
		.user_va = (uintptr_t)address,
		.length = length,
		.iova = iova,
	};

	return result(ioctl(iommufd, IOMMU_IOAS_MAP, &map));
}

int ioas_map_file(int iommufd, uint32_t ioas, int fd, uint64_t start, uint64_t length,
		  uint64_t iova, uint32_t flags)
{
	struct iommu_ioas_map_file map = {
		.size = sizeof(map),
		.flags = flags | IOMMU_IOAS_MAP_FIXED_IOVA,
		.ioas_id = ioas,
		.fd = fd,
		.start = start,
		.length = length,
		.iova = iova,
	};

	return result(ioctl(iommufd, IOMMU_IOAS_MAP_FILE, &map));
}

int ioas_copy(int iommufd, uint32_t to, uint32_t from, uint64_t iova, uint64_t length,
	      uint32_t flags)
{
	struct iommu_ioas_copy copy = {
		.size = sizeof(copy),
		.flags = flags | IOMMU_IOAS_MAP_FIXED_IOVA,
		.dst_ioas_id = to,
		.src_ioas_id = from,
		.length = length,
		.dst_iova = iova,
		.src_iova = iova,
	};

	return result(ioctl(iommufd, IOMMU_IOAS_COPY, &copy));
}

int ioas_unmap(int iommufd, uint32_t ioas, uint64_t iova, uint64_t length)
{
	struct iommu_ioas_unmap unmap = {
		.size = sizeof(unmap),
		.ioas_id = ioas,
		.iova = iova,
		.length = length,
	};

	return result(ioctl(iommufd, IOMMU_IOAS_UNMAP, &unmap));
}

int iommufd_destroy(int iommufd, uint32_t id)
{
	struct iommu_destroy destroy = { .size = sizeof(destroy), .id = id };

	return result(ioctl(iommufd, IOMMU_DESTROY, &destroy));
}

int vfio_attach(const struct vfio *vfio, uint32_t ioas)
{
	struct vfio_device_attach_iommufd_pt attach = {
		.argsz = sizeof(attach),
		.pt_id = ioas,
	};

	return result(ioctl(vfio->fd, VFIO_DEVICE_ATTACH_IOMMUFD_PT, &attach));
}

int vfio_detach(const struct vfio *vfio)
{
	struct vfio_device_detach_iommufd_pt detach = { .argsz = sizeof(detach) };

	return result(ioctl(vfio->fd, VFIO_DEVICE_DETACH_IOMMUFD_PT, &detach));
}

/* Registers of edu's DMA engine, and where its own bytes are for that. */
#define EDU_SOURCE	(0x80 / 8)
#define EDU_DESTINATION	(0x88 / 8)
#define EDU_COUNT	(0x90 / 8)
#define EDU_COMMAND	(0x98 / 8)
#define EDU_BYTES	0x40000
#define EDU_BAR_SIZE	0x100000

#define EDU_START	0x01
#define EDU_OUT		0x02

void edu_get(struct edu *edu, const char *place)
{
	uint32_t command;

	vfio_get(&edu->vfio, place, CDEV);
	command = vfio_config_read(&edu->vfio, PCI_COMMAND, 2);
	if (vfio_config_write(&edu->vfio, PCI_COMMAND, 2,
			      command | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER))
		die("bus mastering");
	edu->registers = vfio_map(&edu->vfio, 0, 0, EDU_BAR_SIZE);
}

void edu_close(struct edu *edu)
{
	if (edu->registers)
		munmap((void *)edu->registers, EDU_BAR_SIZE);
	edu->registers = NULL;
	vfio_close(&edu->vfio);
}

static void edu_dma(struct edu *edu, uint64_t source, uint64_t destination,
		    uint32_t length, uint64_t command)
{
	uint64_t end = milliseconds() + 30000;

	edu->registers[EDU_SOURCE] = source;
	edu->registers[EDU_DESTINATION] = destination;
	edu->registers[EDU_COUNT] = length;
	edu->registers[EDU_COMMAND] = command | EDU_START;
	while (edu->registers[EDU_COMMAND] & EDU_START) {
		if (milliseconds() > end)
			ksft_exit_fail_msg("edu does not come to the end of its DMA\n");
		sleep_ms(5);
	}
}

void edu_load(struct edu *edu, uint64_t iova, uint32_t length)
{
	edu_dma(edu, iova, EDU_BYTES, length, 0);
}

void edu_store(struct edu *edu, uint64_t iova, uint32_t length)
{
	edu_dma(edu, EDU_BYTES, iova, length, EDU_OUT);
}
