// SPDX-License-Identifier: GPL-2.0
/*
 * The VGA arbiter switches off the memory decode of a display device that shares its bus with
 * another one, when that is to own the VGA resources.  It must not do so to a device whose
 * memory others use through a dma-buf.
 */
#include "vfio_util.h"

#include "../kselftest_harness.h"

FIXTURE(vga) {
	struct held before;
	struct vfio vfio;
	char one[16];
	char two[16];
	char edu[16];
};

FIXTURE_SETUP(vga)
{
	if (!device_find(DISPLAY_ONE, self->one) || !device_find(DISPLAY_TWO, self->two) ||
	    !device_find(EDU, self->edu))
		SKIP(return, "no device at " DISPLAY_ONE " or " DISPLAY_TWO);
	device_bind(self->edu, "dma_buf_test_importer");
	self->vfio.fd = -1;
	self->vfio.iommu = -1;
	self->vfio.group = -1;
	self->before = held();
}

FIXTURE_TEARDOWN(vga)
{
	vfio_close(&self->vfio);
	EXPECT_HELD(self->before);
}

/* Has the arbiter give a device its VGA resources, for a moment; -errno. */
static int vga_own(const char *name)
{
	int fd = open("/dev/vga_arbiter", O_RDWR | O_CLOEXEC), ret = 0;
	char command[64];

	if (fd < 0)
		die("/dev/vga_arbiter");
	snprintf(command, sizeof(command), "target PCI:%s", name);
	if (write(fd, command, strlen(command)) < 0)
		die(command);
	if (write(fd, "trylock io+mem", 14) < 0)
		ret = -errno;
	else if (write(fd, "unlock io+mem", 13) < 0)
		ret = -errno;
	close(fd);
	return ret;
}

static bool decodes_memory(const char *name)
{
	uint16_t command = 0;
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/config", name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || pread(fd, &command, 2, PCI_COMMAND) != 2)
		die(path);
	close(fd);
	return command & PCI_COMMAND_MEMORY;
}

/* Where the arbiter may do so, there is no dma-buf. */
TEST_F(vga, refused)
{
	vfio_get(&self->vfio, DISPLAY_ONE, CDEV);
	EXPECT_TRUE(decodes_memory(self->one));
	EXPECT_EQ(export_range(&self->vfio, 0, 0, PAGE), -EBUSY);
}

/* A dma-buf that is there is not affected by whatever the arbiter is asked to do. */
TEST_F(vga, held)
{
	const char *const names[] = { DISPLAY_ONE, DISPLAY_TWO };
	const char *const others[] = { self->two, self->one };
	int exported = 0;

	for (int i = 0; i < 2; i++) {
		uint64_t data = 0x1122334455667788, seen = 0;
		int dmabuf, importer;

		vfio_get(&self->vfio, names[i], CDEV);
		dmabuf = export_range(&self->vfio, 0, 0, PAGE);
		if (dmabuf < 0) {
			EXPECT_EQ(dmabuf, -EBUSY);
			vfio_close(&self->vfio);
			continue;
		}
		exported++;
		importer = importer_attach(self->edu, dmabuf, 0);
		ASSERT_GE(importer, 0);
		ASSERT_EQ(importer_map(importer), 0);
		vga_own(others[i]);
		EXPECT_TRUE(decodes_memory(self->vfio.name));
		EXPECT_EQ(importer_copy(importer, 0, &data, 8, DMA_BUF_IMPORTER_TO_SLICE), 0);
		EXPECT_EQ(importer_copy(importer, 0, &seen, 8,
					DMA_BUF_IMPORTER_FROM_SLICE), 0);
		EXPECT_EQ(seen, data);
		close(importer);
		close(dmabuf);
		vfio_close(&self->vfio);
	}
	/* The arbiter never does so to the one that came last. */
	EXPECT_EQ(exported, 1);
}

TEST_HARNESS_MAIN
