// SPDX-License-Identifier: GPL-2.0
/*
 * The VGA arbiter switches off the memory decode of a display device that shares its bus with
 * another one, when that is to own the VGA resources.  It must not do so to a device whose
 * memory others use through a dma-buf.
 */
#include "vfio_util.h"

#include <pthread.h>

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

/* The arbiter's file, for one device. */
static int arbiter_open(const char *name)
{
	int fd = open("/dev/vga_arbiter", O_RDWR | O_CLOEXEC);
	char command[64];

	if (fd < 0)
		die("/dev/vga_arbiter");
	snprintf(command, sizeof(command), "target PCI:%s", name);
	if (write(fd, command, strlen(command)) < 0)
		die(command);
	return fd;
}

/* The device gets the VGA resources, for a moment; this may wait for others. */
static void own_vga(const char *name)
{
	int fd = arbiter_open(name);

	if (write(fd, "lock io+mem", 11) < 0 || write(fd, "unlock io+mem", 13) < 0)
		die("lock");
	close(fd);
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

/* Now the arbiter has it last, and owning nothing, as it decodes nothing. */
static void plug_again(struct __test_metadata *_metadata, FIXTURE_DATA(vga) *self,
		       const char *name)
{
	uint16_t command = 0;
	char path[64];
	int fd;

	/* A driver's runtime power management may restore what is changed here. */
	device_bind(name, NULL);
	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/config", name);
	fd = open(path, O_RDWR | O_CLOEXEC);
	ASSERT_GE(fd, 0);
	ASSERT_EQ(pwrite(fd, &command, 2, PCI_COMMAND), 2);
	close(fd);
	ASSERT_EQ(device_write(name, "remove", "1"), 0);
	ASSERT_EQ(device_write(self->edu, "rescan", "1"), 0);
	ASSERT_EQ(access(path, F_OK), 0);
}

/* What it does to a device that nobody relies on; so there is no dma-buf of its memory. */
TEST_F(vga, switched_off)
{
	plug_again(_metadata, self, self->two);
	vfio_get(&self->vfio, DISPLAY_ONE, CDEV);
	EXPECT_TRUE(decodes_memory(self->one));
	EXPECT_EQ(export_range(&self->vfio, 0, 0, PAGE), -EBUSY);
	own_vga(self->two);
	EXPECT_FALSE(decodes_memory(self->one));
	EXPECT_EQ(export_range(&self->vfio, 0, 0, PAGE), -EBUSY);
	own_vga(self->one);
	EXPECT_TRUE(decodes_memory(self->one));
}

static void expect_round_trip(struct __test_metadata *_metadata, int importer, uint64_t word)
{
	uint64_t seen = 0;

	EXPECT_EQ(importer_copy(importer, 0, &word, 8, DMA_BUF_IMPORTER_TO_SLICE), 0);
	EXPECT_EQ(importer_copy(importer, 0, &seen, 8, DMA_BUF_IMPORTER_FROM_SLICE), 0);
	EXPECT_EQ(seen, word);
}

struct owner {
	const char *name;
	volatile bool owns;
};

static void *own_later(void *data)
{
	struct owner *owner = data;

	own_vga(owner->name);
	owner->owns = true;
	return NULL;
}

/*
 * A device that the arbiter did not switch off when its dma-buf was made, and does now, as
 * another one has been plugged in: that one waits.
 */
static void check_hold(struct __test_metadata *_metadata, FIXTURE_DATA(vga) *self,
		       bool close_device)
{
	struct owner owner = { .name = self->one };
	int dmabuf, importer;
	pthread_t thread;

	own_vga(self->two);
	vfio_get(&self->vfio, DISPLAY_TWO, CDEV);
	dmabuf = export_range(&self->vfio, 0, 0, PAGE);
	ASSERT_GE(dmabuf, 0);
	importer = importer_attach(self->edu, dmabuf, 0);
	ASSERT_GE(importer, 0);
	ASSERT_EQ(importer_map(importer), 0);

	plug_again(_metadata, self, self->one);
	EXPECT_EQ(export_range(&self->vfio, 0, 0, PAGE), -EBUSY);
	ASSERT_EQ(pthread_create(&thread, NULL, own_later, &owner), 0);
	sleep_ms(1000);
	EXPECT_FALSE(owner.owns);
	EXPECT_TRUE(decodes_memory(self->two));
	expect_round_trip(_metadata, importer, 0x1122334455667788);

	/* Its file alone keeps nobody waiting. */
	if (close_device) {
		vfio_close(&self->vfio);
		EXPECT_EQ(importer_map(importer), -ENODEV);
	}
	close(importer);
	if (!close_device)
		close(dmabuf);
	for (int i = 0; i < 500 && !owner.owns; i++)
		sleep_ms(10);
	EXPECT_TRUE(owner.owns);
	/* The end of a close restores what was before. */
	if (close_device)
		close(dmabuf);
	else
		EXPECT_FALSE(decodes_memory(self->two));
	pthread_join(thread, NULL);
	vfio_close(&self->vfio);
	plug_again(_metadata, self, self->two);
}

TEST_F(vga, held_until_release)
{
	check_hold(_metadata, self, false);
}

TEST_F(vga, held_until_close)
{
	check_hold(_metadata, self, true);
}

TEST_HARNESS_MAIN
