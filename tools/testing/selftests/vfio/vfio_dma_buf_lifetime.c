// SPDX-License-Identifier: GPL-2.0
/*
 * What belongs to a dma-buf of a BAR can go in any order: the dma-buf, the device's
 * file, an attachment, a mapping, the driver; and what is left then works, or is
 * refused, and goes as well.
 */
#include "vfio_util.h"

#include <pthread.h>
#include <sys/wait.h>

#include "../kselftest_harness.h"

#define CYCLES	1500

FIXTURE(lifetime) {
	struct held before;
	struct vfio vfio;
	char name[16];
	char edu[16];
};

FIXTURE_VARIANT(lifetime) {
	enum interface interface;
};

FIXTURE_VARIANT_ADD(lifetime, group) { .interface = GROUP };
FIXTURE_VARIANT_ADD(lifetime, cdev) { .interface = CDEV };

FIXTURE_SETUP(lifetime)
{
	if (!device_find(EDU, self->edu) || !device_find(RAM, self->name))
		SKIP(return, "no device at " EDU " or " RAM);
	device_bind(self->edu, "dma_buf_test_importer");
	self->before = held();
	vfio_get(&self->vfio, RAM, variant->interface);
}

FIXTURE_TEARDOWN(lifetime)
{
	vfio_close(&self->vfio);
	EXPECT_HELD(self->before);
}

/* The three that can be closed, by bit. */
#define DEVICE		1
#define DMABUF		2
#define IMPORTER	4

static void close_one(struct vfio *vfio, int dmabuf, int importer, int what)
{
	if (what == DEVICE)
		vfio_close(vfio);
	else if (what == DMABUF)
		close(dmabuf);
	else
		close(importer);
}

TEST_F(lifetime, every_order)
{
	static const int orders[][3] = {
		{ DEVICE, DMABUF, IMPORTER }, { DEVICE, IMPORTER, DMABUF },
		{ DMABUF, DEVICE, IMPORTER }, { DMABUF, IMPORTER, DEVICE },
		{ IMPORTER, DEVICE, DMABUF }, { IMPORTER, DMABUF, DEVICE },
	};

	vfio_close(&self->vfio);
	for (size_t i = 0; i < ARRAY_SIZE(orders); i++)
		for (int mapped = 0; mapped < 2; mapped++) {
			struct vfio vfio;
			int dmabuf, importer;

			ASSERT_EQ(vfio_open(&vfio, self->name, variant->interface, NULL), 0);
			dmabuf = export_range(&vfio, RAM_BAR, 0, PAGE);
			ASSERT_GE(dmabuf, 0);
			importer = importer_attach(self->edu, dmabuf, 0);
			ASSERT_GE(importer, 0);
			if (mapped)
				ASSERT_EQ(importer_map(importer), 0);
			for (int n = 0; n < 3; n++)
				close_one(&vfio, dmabuf, importer, orders[i][n]);
			EXPECT_HELD(self->before);
		}
}

/* An importer's attachment keeps a dma-buf alive whose descriptors are all closed. */
TEST_F(lifetime, importer_keeps)
{
	int dmabuf = export_range(&self->vfio, RAM_BAR, 0, PAGE), importer;
	uint64_t data = 0x77, seen = 0;

	ASSERT_GE(dmabuf, 0);
	importer = importer_attach(self->edu, dmabuf, 0);
	ASSERT_GE(importer, 0);
	close(dmabuf);
	ASSERT_EQ(importer_map(importer), 0);
	ASSERT_EQ(importer_copy(importer, 0, &data, 8, DMA_BUF_IMPORTER_TO_SLICE), 0);
	ASSERT_EQ(vfio_region_rw(&self->vfio, RAM_BAR, 0, &seen, 8, false), 0);
	EXPECT_EQ(seen, data);
	ASSERT_EQ(vfio_reset(&self->vfio), 0);
	EXPECT_EQ(importer_status(importer).is_mapped, 0);
	EXPECT_EQ(importer_map(importer), 0);
	close(importer);
}

/*
 * With nothing but an O_PATH descriptor, the dma-buf's file is gone, and may be another
 * file already, when its device is reset and closed, and its driver unbound.
 */
TEST_F(lifetime, only_a_path)
{
	char path[64];
	int paths[4];

	for (int i = 0; i < 4; i++) {
		int dmabuf = export_range(&self->vfio, RAM_BAR, 0, PAGE);

		ASSERT_GE(dmabuf, 0);
		snprintf(path, sizeof(path), "/proc/self/fd/%d", dmabuf);
		paths[i] = open(path, O_PATH | O_CLOEXEC);
		ASSERT_GE(paths[i], 0);
		close(dmabuf);
	}
	/* Let other files have the memory of those. */
	for (int i = 0; i < 100; i++)
		close(open("/dev/null", O_RDONLY | O_CLOEXEC));
	EXPECT_EQ(vfio_memory(&self->vfio, false), 0);
	EXPECT_EQ(vfio_memory(&self->vfio, true), 0);
	close(paths[0]);
	EXPECT_EQ(vfio_reset(&self->vfio), 0);
	close(paths[1]);
	vfio_close(&self->vfio);
	close(paths[2]);
	device_bind(self->name, NULL);
	device_bind(self->name, "vfio-pci");
	close(paths[3]);
}

/* A child that has inherited the descriptors is as good an owner as its parent. */
TEST_F(lifetime, inherited)
{
	int dmabuf = export_range(&self->vfio, RAM_BAR, 0, PAGE), status = -1;
	pid_t pid;

	ASSERT_GE(dmabuf, 0);
	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid) {
		int importer;

		/* Until the parent has closed its own. */
		sleep_ms(300);
		importer = importer_attach(self->edu, dmabuf, 0);
		_exit(importer < 0 || importer_map(importer) || vfio_reset(&self->vfio) ||
		      importer_status(importer).notified != 2);
	}
	close(dmabuf);
	vfio_close(&self->vfio);
	ASSERT_EQ(waitpid(pid, &status, 0), pid);
	EXPECT_EQ(status, 0);
}

/* A process that dies leaves nothing. */
TEST_F(lifetime, killed)
{
	int status = 0;
	pid_t pid;

	vfio_close(&self->vfio);
	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid) {
		struct vfio vfio;
		int importer = -1;

		if (!vfio_open(&vfio, self->name, variant->interface, NULL))
			importer = importer_attach(self->edu,
						   export_range(&vfio, RAM_BAR, 0, PAGE), 0);
		if (importer >= 0 && !importer_map(importer) && !importer_loop(importer, 0) &&
		    importer_copies(importer, 1))
			kill(getpid(), SIGKILL);
		_exit(1);
	}
	ASSERT_EQ(waitpid(pid, &status, 0), pid);
	EXPECT_TRUE(WIFSIGNALED(status));
}

TEST_F_TIMEOUT(lifetime, many_cycles, 120)
{
	for (int i = 0; i < CYCLES; i++) {
		int dmabuf = export_range(&self->vfio, RAM_BAR, i % 16 * PAGE, PAGE), importer;

		ASSERT_GE(dmabuf, 0);
		importer = importer_attach(self->edu, dmabuf, 0);
		ASSERT_GE(importer, 0);
		ASSERT_EQ(importer_map(importer), 0);
		if (i % 8 == 0) {
			ASSERT_EQ(vfio_memory(&self->vfio, false), 0);
			ASSERT_EQ(importer_status(importer).is_mapped, 0);
			ASSERT_EQ(vfio_memory(&self->vfio, true), 0);
			ASSERT_EQ(importer_map(importer), 0);
		}
		if (i % 4 < 2)
			ASSERT_EQ(importer_unmap(importer), 0);
		if (i % 2)
			close(importer);
		close(dmabuf);
		if (i % 2 == 0)
			close(importer);
	}
}

TEST_F_TIMEOUT(lifetime, many_opens, 120)
{
	int kept[20];

	vfio_close(&self->vfio);
	for (int i = 0; i < 20; i++) {
		struct vfio vfio;

		ASSERT_EQ(vfio_open(&vfio, self->name, variant->interface, NULL), 0);
		kept[i] = export_range(&vfio, RAM_BAR, 0, PAGE);
		ASSERT_GE(kept[i], 0);
		if (i % 3 == 2) {
			close(kept[i - 1]);
			kept[i - 1] = -1;
		}
		vfio_close(&vfio);
	}
	for (int i = 0; i < 20; i++) {
		if (kept[i] < 0)
			continue;
		EXPECT_EQ(importer_attach(self->edu, kept[i], 0), -ENODEV);
		close(kept[i]);
	}
}

/* Closing at once. */

struct closing {
	pthread_barrier_t *barrier;
	int fd;
};

static void *close_at_once(void *data)
{
	struct closing *closing = data;

	pthread_barrier_wait(closing->barrier);
	close(closing->fd);
	return NULL;
}

TEST_F_TIMEOUT(lifetime, close_at_once, 120)
{
	pthread_barrier_t barrier;

	vfio_close(&self->vfio);
	ASSERT_EQ(pthread_barrier_init(&barrier, NULL, 3), 0);
	for (int i = 0; i < 60; i++) {
		struct closing closing[3];
		pthread_t threads[3];
		struct vfio vfio;

		ASSERT_EQ(vfio_open(&vfio, self->name, variant->interface, NULL), 0);
		closing[0].fd = export_range(&vfio, RAM_BAR, 0, PAGE);
		ASSERT_GE(closing[0].fd, 0);
		closing[1].fd = importer_attach(self->edu, closing[0].fd, 0);
		ASSERT_GE(closing[1].fd, 0);
		if (i % 2)
			ASSERT_EQ(importer_map(closing[1].fd), 0);
		closing[2].fd = vfio.fd;
		vfio.fd = -1;
		for (int n = 0; n < 3; n++) {
			closing[n].barrier = &barrier;
			ASSERT_EQ(pthread_create(&threads[n], NULL, close_at_once,
						 &closing[n]), 0);
		}
		for (int n = 0; n < 3; n++)
			pthread_join(threads[n], NULL);
		vfio_close(&vfio);
		EXPECT_HELD(self->before);
	}
	pthread_barrier_destroy(&barrier);
}

/* The importer's driver goes while it has the dma-buf mapped. */
TEST_F(lifetime, importer_unbound)
{
	int dmabuf = export_range(&self->vfio, RAM_BAR, 0, PAGE), importer;

	ASSERT_GE(dmabuf, 0);
	importer = importer_attach(self->edu, dmabuf, 0);
	ASSERT_GE(importer, 0);
	ASSERT_EQ(importer_map(importer), 0);
	ASSERT_EQ(importer_loop(importer, 0), 0);
	device_bind(self->edu, NULL);
	EXPECT_EQ(importer_map(importer), -ENOTCONN);
	EXPECT_EQ(vfio_reset(&self->vfio), 0);
	device_bind(self->edu, "dma_buf_test_importer");
	close(importer);
	close(dmabuf);
}

TEST_HARNESS_MAIN
