// SPDX-License-Identifier: GPL-2.0
/*
 * dma-bufs of a virtual function's BAR are revoked when its physical function is reset, or
 * its driver goes: either takes the memory of all virtual functions away.
 */
#include "vfio_util.h"

#include <poll.h>
#include <pthread.h>

#include "../kselftest_harness.h"

#define TIMEOUT_MS	500

/* Memory of a virtual igb: where it leaves messages for the physical function. */
#define MAILBOX		0x800

FIXTURE(sriov) {
	struct held before;
	struct vfio vfio;
	char physical[16];
	char edu[16];
	long timeout;
	int dmabuf;
	int importer;
};

static int functions(const char *physical, const char *count)
{
	return device_write(physical, "sriov_numvfs", count);
}

FIXTURE_SETUP(sriov)
{
	if (!device_find(EDU, self->edu) || !device_find(PHYSICAL, self->physical))
		SKIP(return, "no device at " EDU " or " PHYSICAL);
	device_bind(self->edu, "dma_buf_test_importer");
	device_bind(self->physical, "vfio-pci");
	ASSERT_TRUE(module_parameter("vfio_pci", "enable_sriov", "1"));
	ASSERT_EQ(functions(self->physical, "2"), 0);
	self->before = held();
	self->timeout = vfio_parameter("revoke_timeout_ms", TIMEOUT_MS);
	/* By its character device, it needs no token of the physical function's. */
	vfio_get(&self->vfio, VIRTUAL, CDEV);
	self->dmabuf = export_range(&self->vfio, 0, 0, PAGE);
	ASSERT_GE(self->dmabuf, 0);
}

FIXTURE_TEARDOWN(sriov)
{
	close(self->importer);
	close(self->dmabuf);
	vfio_close(&self->vfio);
	vfio_parameter("revoke_timeout_ms", self->timeout);
	EXPECT_HELD(self->before);
	functions(self->physical, "0");
	module_parameter("vfio_pci", "enable_sriov", "0");
}

static void import(struct __test_metadata *_metadata, FIXTURE_DATA(sriov) *self, uint32_t flags)
{
	self->importer = importer_attach(self->edu, self->dmabuf, flags);
	ASSERT_GE(self->importer, 0);
	ASSERT_EQ(importer_map(self->importer), 0);
}

/* A word by DMA to the virtual function's memory and back. */
static uint32_t round_trip(struct __test_metadata *_metadata, FIXTURE_DATA(sriov) *self,
			   uint32_t word)
{
	uint32_t seen = 0;

	EXPECT_EQ(importer_copy(self->importer, MAILBOX, &word, 4,
				DMA_BUF_IMPORTER_TO_SLICE), 0);
	EXPECT_EQ(importer_copy(self->importer, MAILBOX, &seen, 4,
				DMA_BUF_IMPORTER_FROM_SLICE), 0);
	return seen;
}

TEST_F(sriov, reset)
{
	import(_metadata, self, 0);
	EXPECT_EQ(round_trip(_metadata, self, 4711), 4711);
	ASSERT_EQ(device_write(self->physical, "reset", "1"), 0);
	EXPECT_EQ(importer_status(self->importer).notified, 2);
	EXPECT_EQ(importer_status(self->importer).is_mapped, 0);
	/* The memory answers again once a driver of the physical function has set it up. */
	EXPECT_EQ(importer_map(self->importer), 0);
}

/* The reset waits for a late importer, with a bound. */
TEST_F(sriov, reset_with_late_importer)
{
	uint64_t start;
	int log = log_open();

	import(_metadata, self, DMA_BUF_IMPORTER_KEEP);
	start = milliseconds();
	ASSERT_EQ(device_write(self->physical, "reset", "1"), 0);
	EXPECT_GE(milliseconds() - start, TIMEOUT_MS - 20);
	EXPECT_TRUE(log_has(log, self->edu));
	EXPECT_EQ(importer_status(self->importer).notified, 2);
	close(log);
}

static void *reset_physical(void *data)
{
	device_write(data, "reset", "1");
	return NULL;
}

/* A virtual function that vfio-pci gets while the physical one is being reset. */
TEST_F(sriov, bound_during_reset)
{
	int dmabuf, importer;
	struct vfio second;
	pthread_t thread;
	char name[16];

	ASSERT_TRUE(device_find(VIRTUAL_TWO, name));
	device_bind(name, NULL);
	import(_metadata, self, DMA_BUF_IMPORTER_KEEP);
	vfio_parameter("revoke_timeout_ms", 30000);
	ASSERT_EQ(pthread_create(&thread, NULL, reset_physical, self->physical), 0);
	while (importer_status(self->importer).notified < 1)
		sleep_ms(10);
	vfio_get(&second, VIRTUAL_TWO, CDEV);
	dmabuf = export_range(&second, 0, 0, PAGE);
	ASSERT_GE(dmabuf, 0);
	EXPECT_EQ(importer_attach(self->edu, dmabuf, 0), -ENODEV);
	ASSERT_EQ(importer_unmap(self->importer), 0);
	pthread_join(thread, NULL);
	importer = importer_attach(self->edu, dmabuf, 0);
	ASSERT_GE(importer, 0);
	EXPECT_EQ(importer_map(importer), 0);
	close(importer);
	close(dmabuf);
	vfio_close(&second);
}

/* So does a reset that happens when the physical function's last user closes it. */
TEST_F(sriov, physical_function_closed)
{
	struct vfio physical;

	import(_metadata, self, 0);
	ASSERT_EQ(vfio_open(&physical, self->physical, CDEV, NULL), 0);
	EXPECT_EQ(importer_status(self->importer).notified, 2);
	EXPECT_EQ(importer_map(self->importer), 0);
	vfio_close(&physical);
	EXPECT_EQ(importer_status(self->importer).notified, 4);
	EXPECT_EQ(importer_map(self->importer), 0);
}

/* While an importer's callback takes its time, a driver can be bound to another device. */
TEST_F_TIMEOUT(sriov, slow_callback, 60)
{
	pthread_t thread;
	uint64_t start;
	char name[16];

	ASSERT_TRUE(device_find(VIRTUAL_TWO, name));
	device_bind(name, NULL);
	import(_metadata, self, DMA_BUF_IMPORTER_SLOW);
	ASSERT_EQ(pthread_create(&thread, NULL, reset_physical, self->physical), 0);
	sleep_ms(1000);
	start = milliseconds();
	device_bind(name, "vfio-pci");
	EXPECT_LT(milliseconds() - start, DMA_BUF_IMPORTER_SLOW_MS - 3000);
	/* After the callback: it had begun. */
	EXPECT_GE(importer_status(self->importer).notified, 1);
	pthread_join(thread, NULL);
	EXPECT_EQ(importer_status(self->importer).notified, 2);
}

static void *unbind_physical(void *data)
{
	device_write(data, "driver/unbind", data);
	return NULL;
}

/*
 * The driver of the physical function waits until the virtual one has been closed, which
 * revokes, before it takes the memory away.
 */
TEST_F(sriov, unbind)
{
	struct pollfd asked = { .events = POLLIN };
	struct dma_buf_importer_status status;
	pthread_t thread;

	import(_metadata, self, 0);
	asked.fd = vfio_eventfd(&self->vfio, VFIO_PCI_REQ_IRQ_INDEX);
	ASSERT_EQ(pthread_create(&thread, NULL, unbind_physical, self->physical), 0);
	EXPECT_EQ(poll(&asked, 1, 20000), 1);
	status = importer_status(self->importer);
	EXPECT_EQ(status.is_mapped, 1);
	vfio_close(&self->vfio);
	EXPECT_EQ(importer_status(self->importer).is_mapped, 0);
	EXPECT_EQ(importer_map(self->importer), -ENODEV);
	pthread_join(thread, NULL);
	close(asked.fd);
}

TEST_HARNESS_MAIN
