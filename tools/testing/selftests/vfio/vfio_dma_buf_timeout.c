// SPDX-License-Identifier: GPL-2.0
/*
 * Importers that are late.  What would make the device's memory inaccessible waits for them,
 * and nobody can refuse it: ioctls fail with EBUSY in bounded time, and leave the dma-buf
 * revoked; writes to configuration space go on waiting; what cannot fail goes on.  The
 * importer is named in the log; a waiter can be killed; many wait no longer than one; and
 * fences that come later than the revocation do not count.
 */
#include "vfio_util.h"

#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>

#include "../kselftest_harness.h"

#define TIMEOUT_MS	300
/* What a call may take: the wait, a reset, and a slow machine. */
#define BOUND_MS	(TIMEOUT_MS + 5000)

FIXTURE(timeout) {
	struct held before;
	struct vfio vfio;
	char edu[16];
	long timeout;
	int dmabuf;
	int importer;
	int log;
};

FIXTURE_VARIANT(timeout) {
	enum interface interface;
};

FIXTURE_VARIANT_ADD(timeout, group) { .interface = GROUP };
FIXTURE_VARIANT_ADD(timeout, cdev) { .interface = CDEV };

FIXTURE_SETUP(timeout)
{
	char name[16];

	if (!device_find(EDU, self->edu) || !device_find(NVME, name))
		SKIP(return, "no device at " EDU " or " NVME);
	device_bind(self->edu, "dma_buf_test_importer");
	self->before = held();
	self->timeout = vfio_parameter("revoke_timeout_ms", TIMEOUT_MS);
	EXPECT_EQ(self->timeout, 5000);
	vfio_get(&self->vfio, NVME, variant->interface);
	self->dmabuf = export_range(&self->vfio, RAM_BAR, PAGE, PAGE);
	ASSERT_GE(self->dmabuf, 0);
	self->importer = importer_attach(self->edu, self->dmabuf, DMA_BUF_IMPORTER_KEEP);
	ASSERT_GE(self->importer, 0);
	ASSERT_EQ(importer_map(self->importer), 0);
	self->log = log_open();
}

FIXTURE_TEARDOWN(timeout)
{
	close(self->importer);
	close(self->dmabuf);
	close(self->log);
	vfio_close(&self->vfio);
	vfio_parameter("revoke_timeout_ms", self->timeout);
	EXPECT_HELD(self->before);
}

/* The importer is named, and still has what it had. */
static void expect_kept(struct __test_metadata *_metadata, FIXTURE_DATA(timeout) *self)
{
	uint64_t data = 0x5a5a5a5a00000000, seen = 0;

	EXPECT_TRUE(log_has(self->log, self->edu));
	EXPECT_EQ(importer_status(self->importer).is_mapped, 1);
	EXPECT_EQ(importer_copy(self->importer, 0, &data, 8, DMA_BUF_IMPORTER_TO_SLICE), 0);
	EXPECT_EQ(vfio_region_rw(&self->vfio, RAM_BAR, PAGE, &seen, 8, false), 0);
	EXPECT_EQ(seen, data);
}

/* Nobody can map it any more, nor attach to it. */
static void expect_revoked(struct __test_metadata *_metadata, FIXTURE_DATA(timeout) *self)
{
	EXPECT_EQ(importer_attach(self->edu, self->dmabuf, 0), -ENODEV);
	if (!importer_status(self->importer).is_mapped)
		EXPECT_EQ(importer_map(self->importer), -ENODEV);
}

/* Each way; writes to configuration space first. */
enum way {
	FLR,
	MEMORY_OFF,
	D3HOT,
	RESET,
	LOW_POWER,
	HOT_RESET,
	REVOKE,
	WAYS,
};

static int write_bits(const struct vfio *vfio, unsigned int at, uint32_t bits)
{
	return vfio_config_write(vfio, at, 2, vfio_config_read(vfio, at, 2) | bits);
}

static int begin(const struct vfio *vfio, int dmabuf, enum way way)
{
	switch (way) {
	case RESET:
		return vfio_reset(vfio);
	case FLR:
		return write_bits(vfio, vfio_capability(vfio, PCI_CAP_ID_EXP) + PCI_EXP_DEVCTL,
				  PCI_EXP_DEVCTL_BCR_FLR);
	case MEMORY_OFF:
		return vfio_memory(vfio, false);
	case D3HOT:
		return write_bits(vfio, vfio_capability(vfio, PCI_CAP_ID_PM) + PCI_PM_CTRL, 3);
	case LOW_POWER:
		return vfio_feature(vfio, VFIO_DEVICE_FEATURE_SET |
				    VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY, NULL, 0);
	case REVOKE:
		return dmabuf_revoke(vfio, dmabuf);
	default:
		return vfio_hot_reset(vfio, vfio);
	}
}

static void end(const struct vfio *vfio, enum way way)
{
	if (way == MEMORY_OFF)
		vfio_memory(vfio, true);
	else if (way == D3HOT)
		vfio_config_write(vfio, vfio_capability(vfio, PCI_CAP_ID_PM) + PCI_PM_CTRL,
				  2, 0);
	else if (way == LOW_POWER)
		vfio_feature(vfio, VFIO_DEVICE_FEATURE_SET |
			     VFIO_DEVICE_FEATURE_LOW_POWER_EXIT, NULL, 0);
}

/* Whether the way has had its effect on the device, where that can be seen. */
static bool has_effect(const struct vfio *vfio, enum way way)
{
	unsigned int pm = vfio_capability(vfio, PCI_CAP_ID_PM) + PCI_PM_CTRL;

	if (way == MEMORY_OFF)
		return !(vfio_config_read(vfio, PCI_COMMAND, 2) & PCI_COMMAND_MEMORY);
	if (way == D3HOT)
		return (vfio_config_read(vfio, pm, 2) & PCI_PM_CTRL_STATE_MASK) == 3;
	return way == FLR;
}

/* ioctls fail, change nothing, and can be called again, as often as one likes. */
TEST_F_TIMEOUT(timeout, busy, 120)
{
	for (enum way way = RESET; way <= HOT_RESET; way++) {
		for (int i = 0; i < 2; i++) {
			uint64_t start = milliseconds();

			EXPECT_EQ(begin(&self->vfio, self->dmabuf, way), -EBUSY)
				TH_LOG("way %d", way);
			EXPECT_GE(milliseconds() - start, TIMEOUT_MS - 20);
			EXPECT_LT(milliseconds() - start, BOUND_MS);
			expect_kept(_metadata, self);
			expect_revoked(_metadata, self);
		}
		EXPECT_NE(vfio_config_read(&self->vfio, PCI_COMMAND, 2) & PCI_COMMAND_MEMORY,
			  0);
	}
	/*
	 * When the importer has unmapped, all of it works; the link of this device of QEMU's
	 * does not come up again after a hot reset, which has a test elsewhere.
	 */
	ASSERT_EQ(importer_unmap(self->importer), 0);
	expect_revoked(_metadata, self);
	for (enum way way = FLR; way < HOT_RESET; way++) {
		EXPECT_EQ(begin(&self->vfio, self->dmabuf, way), 0) TH_LOG("way %d", way);
		end(&self->vfio, way);
		EXPECT_EQ(importer_map(self->importer), 0) TH_LOG("way %d", way);
		EXPECT_EQ(importer_unmap(self->importer), 0);
	}
}

/* What begins an operation that was not finished is undone by one that leaves memory on. */
TEST_F(timeout, given_up)
{
	int other = importer_attach(self->edu, self->dmabuf, 0);

	ASSERT_GE(other, 0);
	EXPECT_EQ(vfio_reset(&self->vfio), -EBUSY);
	EXPECT_EQ(importer_map(other), -ENODEV);
	EXPECT_EQ(vfio_memory(&self->vfio, true), 0);
	EXPECT_EQ(importer_map(other), 0);
	expect_kept(_metadata, self);
	close(other);
}

/* An importer that does unmap is told once, and again when the memory is back. */
TEST_F(timeout, others_come_back)
{
	int other = importer_attach(self->edu, self->dmabuf, 0);

	ASSERT_GE(other, 0);
	ASSERT_EQ(importer_map(other), 0);
	EXPECT_EQ(vfio_reset(&self->vfio), -EBUSY);
	EXPECT_EQ(importer_status(other).notified, 1);
	EXPECT_EQ(importer_status(other).is_mapped, 0);
	EXPECT_EQ(importer_map(other), -ENODEV);
	EXPECT_EQ(vfio_reset(&self->vfio), -EBUSY);
	EXPECT_EQ(importer_status(other).notified, 1);
	ASSERT_EQ(importer_unmap(self->importer), 0);
	EXPECT_EQ(vfio_reset(&self->vfio), 0);
	EXPECT_EQ(importer_status(other).notified, 2);
	EXPECT_EQ(importer_map(other), 0);
	close(other);
}

/* Calls in threads and children */

struct call {
	const struct vfio *vfio;
	int dmabuf;
	enum way way;
	pthread_t thread;
	volatile pid_t tid;
	int ret;
	volatile bool done;
};

static void *call(void *data)
{
	struct call *call = data;

	call->tid = gettid();
	call->ret = begin(call->vfio, call->dmabuf, call->way);
	call->done = true;
	return NULL;
}

/* Writes to configuration space are not refused, however late the importer is. */
TEST_F_TIMEOUT(timeout, config, 120)
{
	for (enum way way = FLR; way <= D3HOT; way++) {
		struct call late = {
			.vfio = &self->vfio, .dmabuf = self->dmabuf, .way = way,
		};
		char state;

		ASSERT_EQ(pthread_create(&late.thread, NULL, call, &late), 0);
		sleep_ms(4 * TIMEOUT_MS);
		EXPECT_FALSE(late.done) TH_LOG("way %d", way);
		state = task_state(late.tid);
		EXPECT_NE(state, 'D') TH_LOG("way %d", way);
		/* The device is as it was, and others can use it meanwhile. */
		expect_kept(_metadata, self);
		expect_revoked(_metadata, self);

		ASSERT_EQ(importer_unmap(self->importer), 0);
		pthread_join(late.thread, NULL);
		EXPECT_EQ(late.ret, 0) TH_LOG("way %d", way);
		EXPECT_TRUE(has_effect(&self->vfio, way)) TH_LOG("way %d", way);
		end(&self->vfio, way);
		EXPECT_EQ(importer_map(self->importer), 0) TH_LOG("way %d", way);
	}
}

/* A waiter can be killed. The buffer stays revoked, and the device is usable. */
TEST_F_TIMEOUT(timeout, kill, 120)
{
	vfio_parameter("revoke_timeout_ms", 60000);
	for (enum way way = FLR; way < WAYS; way++) {
		uint64_t start;
		int status;
		pid_t pid = fork();

		ASSERT_GE(pid, 0);
		if (!pid) {
			begin(&self->vfio, self->dmabuf, way);
			_exit(1);
		}
		while (importer_status(self->importer).notified < 1 + 2U * way)
			sleep_ms(10);
		sleep_ms(200);
		EXPECT_NE(task_state(pid), 'D') TH_LOG("way %d", way);
		start = milliseconds();
		kill(pid, SIGKILL);
		ASSERT_EQ(waitpid(pid, &status, 0), pid);
		EXPECT_TRUE(WIFSIGNALED(status)) TH_LOG("way %d", way);
		EXPECT_LT(milliseconds() - start, 1000) TH_LOG("way %d", way);

		expect_revoked(_metadata, self);
		ASSERT_EQ(importer_unmap(self->importer), 0);
		expect_revoked(_metadata, self);
		EXPECT_EQ(vfio_reset(&self->vfio), 0);
		EXPECT_EQ(importer_map(self->importer), way == REVOKE ? -ENODEV : 0);
	}
}

/* However many wait, they wait at the same time. */
#define CALLERS	30

static void many(struct __test_metadata *_metadata, FIXTURE_DATA(timeout) *self, int expected)
{
	static const enum way ways[] = { RESET, REVOKE, LOW_POWER };
	struct call calls[CALLERS] = {};

	for (int i = 0; i < CALLERS; i++) {
		calls[i].vfio = &self->vfio;
		calls[i].dmabuf = self->dmabuf;
		calls[i].way = expected ? ways[i % 3] : RESET;
		ASSERT_EQ(pthread_create(&calls[i].thread, NULL, call, &calls[i]), 0);
	}
	for (int i = 0; i < CALLERS; i++) {
		pthread_join(calls[i].thread, NULL);
		EXPECT_EQ(calls[i].ret, expected) TH_LOG("call %d", i);
	}
}

TEST_F(timeout, many_callers_time_out)
{
	uint64_t start = milliseconds();

	vfio_parameter("revoke_timeout_ms", 2000);
	many(_metadata, self, -EBUSY);
	EXPECT_GE(milliseconds() - start, 1900);
	EXPECT_LT(milliseconds() - start, CALLERS * 2000 / 3);
}

/* All succeed after one wait, though the importer maps again as soon as it can. */
TEST_F_TIMEOUT(timeout, many_callers_succeed, 120)
{
	int late = importer_attach(self->edu, self->dmabuf,
				   DMA_BUF_IMPORTER_LATE | DMA_BUF_IMPORTER_REMAP);

	ASSERT_GE(late, 0);
	ASSERT_EQ(importer_unmap(self->importer), 0);
	vfio_parameter("revoke_timeout_ms", 60000);
	ASSERT_EQ(importer_map(late), 0);
	ASSERT_EQ(importer_loop(late, 0), 0);
	ASSERT_EQ(importer_fence(late, 3000), 0);
	many(_metadata, self, 0);
	close(late);
}

/* Fences without end */

struct fences {
	int importers[4];
	uint32_t milliseconds;
	uint32_t every;
	volatile bool stop;
	unsigned long added;
	pthread_t thread;
};

static void *add_fences(void *data)
{
	struct fences *fences = data;

	while (!fences->stop) {
		for (int i = 0; i < 4; i++)
			if (!importer_fence(fences->importers[i], fences->milliseconds))
				fences->added++;
		sleep_ms(fences->every);
	}
	return NULL;
}

/*
 * Importers that honor the rules: they unmap when the fence that they had at the revocation
 * has signaled.  But all the time somebody adds fences that take half as long again as an
 * operation waits.  Each operation is done when the fences of its first call have signaled.
 */
TEST_F_TIMEOUT(timeout, endless_fences, 240)
{
	const uint32_t wait = 1000, fence = 1500;
	struct fences fences = { .milliseconds = fence, .every = 100 };

	ASSERT_EQ(importer_unmap(self->importer), 0);
	vfio_parameter("revoke_timeout_ms", wait);
	for (int i = 0; i < 4; i++) {
		fences.importers[i] = importer_attach(self->edu, self->dmabuf,
						      DMA_BUF_IMPORTER_LATE);
		ASSERT_GE(fences.importers[i], 0);
	}
	for (enum way way = FLR; way < WAYS; way++) {
		uint64_t start, took;
		int busy = 0, ret;

		/* As above: after this, QEMU's NVMe device is no more. */
		if (way == HOT_RESET)
			continue;
		for (int i = 0; i < 4; i++)
			ASSERT_EQ(importer_map(fences.importers[i]), 0) TH_LOG("way %d", way);
		fences.stop = false;
		ASSERT_EQ(pthread_create(&fences.thread, NULL, add_fences, &fences), 0);
		sleep_ms(500);
		start = milliseconds();
		while ((ret = begin(&self->vfio, self->dmabuf, way)) == -EBUSY && busy < 20)
			busy++;
		took = milliseconds() - start;
		EXPECT_EQ(ret, 0) TH_LOG("way %d", way);
		EXPECT_LE(busy, 2) TH_LOG("way %d", way);
		EXPECT_LT(took, fence + BOUND_MS) TH_LOG("way %d", way);
		/* They still come. */
		EXPECT_EQ(importer_fence(fences.importers[0], fence), 0);
		fences.stop = true;
		pthread_join(fences.thread, NULL);
		end(&self->vfio, way);
	}
	EXPECT_GT(fences.added, 100);
	for (int i = 0; i < 4; i++)
		close(fences.importers[i]);
}

/* Both devices of a set that is reset at once. */
TEST_F_TIMEOUT(timeout, endless_fences_hot_reset, 120)
{
	struct fences fences = { .milliseconds = 1500, .every = 100 };
	struct vfio pair[2];
	int dmabufs[2], busy = 0, ret;
	char name[16];

	vfio_parameter("revoke_timeout_ms", 1000);
	vfio_get(&pair[0], PAIR_ONE, variant->interface);
	ASSERT_TRUE(device_find(PAIR_TWO, name));
	device_bind(name, "vfio-pci");
	ASSERT_EQ(vfio_open(&pair[1], name, variant->interface, &pair[0]), 0);
	for (int i = 0; i < 2; i++) {
		dmabufs[i] = export_range(&pair[i], RAM_BAR, 0, PAGE);
		ASSERT_GE(dmabufs[i], 0);
	}
	for (int i = 0; i < 4; i++) {
		fences.importers[i] = importer_attach(self->edu, dmabufs[i % 2],
						      DMA_BUF_IMPORTER_LATE);
		ASSERT_GE(fences.importers[i], 0);
		ASSERT_EQ(importer_map(fences.importers[i]), 0);
	}
	ASSERT_EQ(pthread_create(&fences.thread, NULL, add_fences, &fences), 0);
	sleep_ms(500);
	while ((ret = vfio_hot_reset(&pair[1], &pair[0])) == -EBUSY && busy < 20)
		busy++;
	fences.stop = true;
	pthread_join(fences.thread, NULL);
	EXPECT_EQ(ret, 0);
	EXPECT_LE(busy, 2);
	for (int i = 0; i < 4; i++) {
		EXPECT_EQ(importer_map(fences.importers[i]), 0);
		close(fences.importers[i]);
	}
	for (int i = 1; i >= 0; i--) {
		close(dmabufs[i]);
		vfio_close(&pair[i]);
	}
}

/* An importer instead of the one that keeps its mapping, with a fence for so long. */
static int fenced_importer(struct __test_metadata *_metadata, FIXTURE_DATA(timeout) *self,
			   uint32_t flags, uint32_t ms)
{
	int importer = importer_attach(self->edu, self->dmabuf, flags);

	ASSERT_GE(importer, 0);
	ASSERT_EQ(importer_unmap(self->importer), 0);
	ASSERT_EQ(importer_map(importer), 0);
	ASSERT_EQ(importer_fence(importer, ms), 0);
	return importer;
}

/* A fence that is late is as good as a mapping, even if the mapping is gone. */
TEST_F(timeout, fence)
{
	int other = fenced_importer(_metadata, self, 0, 4 * TIMEOUT_MS);
	uint64_t start;

	EXPECT_EQ(vfio_reset(&self->vfio), -EBUSY);
	start = milliseconds();
	while (vfio_reset(&self->vfio) == -EBUSY)
		ASSERT_LT(milliseconds() - start, BOUND_MS);
	close(other);
}

/* It is not forgotten if the dma-buf is restored before it signals. */
TEST_F(timeout, fence_of_a_restored_buffer)
{
	uint64_t start = milliseconds();
	int other = fenced_importer(_metadata, self, 0, 10000);

	EXPECT_EQ(vfio_reset(&self->vfio), -EBUSY);
	EXPECT_EQ(vfio_memory(&self->vfio, true), 0);
	EXPECT_EQ(importer_status(other).is_mapped, 0);
	while (vfio_reset(&self->vfio) == -EBUSY)
		ASSERT_LT(milliseconds() - start, 10000 + BOUND_MS);
	EXPECT_GE(milliseconds() - start, 9900);
	close(other);
}

/* Nor, after EBUSY, the fence of a released buffer, for which a later fence does not count. */
TEST_F(timeout, fence_of_a_released_buffer)
{
	uint64_t closed, start = milliseconds();
	int other = fenced_importer(_metadata, self, 0, 10000);

	EXPECT_EQ(vfio_reset(&self->vfio), -EBUSY);
	EXPECT_EQ(importer_fence(other, 30000), 0);
	/* The next reset waits for it, and not the task that drops the last reference. */
	closed = milliseconds();
	close(self->importer);
	close(other);
	close(self->dmabuf);
	EXPECT_LT(milliseconds() - closed, 4000);
	self->importer = -1;
	self->dmabuf = -1;
	while (vfio_reset(&self->vfio) == -EBUSY)
		ASSERT_LT(milliseconds() - start, 10000 + BOUND_MS);
	EXPECT_GE(milliseconds() - start, 9900);
	EXPECT_LT(milliseconds() - start, 10000 + BOUND_MS);
}

/* An importer that unmaps in time, though late, holds nothing up for longer. */
TEST_F(timeout, in_time)
{
	int other = fenced_importer(_metadata, self, DMA_BUF_IMPORTER_LATE, 1000);

	vfio_parameter("revoke_timeout_ms", 20000);
	EXPECT_EQ(vfio_reset(&self->vfio), 0);
	EXPECT_EQ(importer_status(other).is_mapped, 0);
	close(other);
}

/* What cannot fail goes on, and says which importer is late. */
TEST_F(timeout, sysfs_reset)
{
	uint64_t start = milliseconds();

	EXPECT_EQ(device_write(self->vfio.name, "reset", "1"), 0);
	EXPECT_LT(milliseconds() - start, BOUND_MS);
	EXPECT_TRUE(log_has(self->log, self->edu));
	EXPECT_EQ(importer_status(self->importer).notified, 2);
}

/* Nor does a close hang; and the next user has to wait until the importer has gone. */
TEST_F(timeout, close)
{
	uint64_t start = milliseconds();
	struct vfio again;
	char name[16], path[64];
	uint16_t command = 0;
	int fd;

	memcpy(name, self->vfio.name, sizeof(name));
	vfio_close(&self->vfio);
	EXPECT_LT(milliseconds() - start, BOUND_MS);
	EXPECT_TRUE(log_has(self->log, self->edu));
	EXPECT_EQ(importer_status(self->importer).is_mapped, 1);

	/* The device does not answer to what the importer may still be doing. */
	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/config", name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	ASSERT_GE(fd, 0);
	EXPECT_EQ(pread(fd, &command, 2, PCI_COMMAND), 2);
	close(fd);
	EXPECT_EQ(command & PCI_COMMAND_MEMORY, 0);

	EXPECT_EQ(vfio_open(&again, name, variant->interface, NULL), -EBUSY);
	EXPECT_EQ(vfio_open(&again, name, variant->interface, NULL), -EBUSY);
	ASSERT_EQ(importer_unmap(self->importer), 0);
	ASSERT_EQ(vfio_open(&again, name, variant->interface, NULL), 0);
	EXPECT_NE(vfio_config_read(&again, PCI_COMMAND, 2) & PCI_COMMAND_MEMORY, 0);
	EXPECT_EQ(importer_map(self->importer), -ENODEV);
	vfio_close(&again);
}

struct request {
	const char *name;
	volatile bool done;
};

static void *unbind_device(void *data)
{
	struct request *request = data;

	device_write(request->name, "driver/unbind", request->name);
	request->done = true;
	return NULL;
}

/* Unbinding the driver waits for the importer, even if nobody has the device open. */
TEST_F(timeout, unbind)
{
	struct request request = {};
	pthread_t thread;
	char name[16];

	memcpy(name, self->vfio.name, sizeof(name));
	request.name = name;
	vfio_close(&self->vfio);
	ASSERT_EQ(pthread_create(&thread, NULL, unbind_device, &request), 0);
	sleep_ms(1500);
	EXPECT_FALSE(request.done);
	ASSERT_EQ(importer_unmap(self->importer), 0);
	pthread_join(thread, NULL);
	EXPECT_TRUE(request.done);
}

/* So it does for a fence, though the mapping has gone: the next driver would not know of it. */
static void unbind_late(struct __test_metadata *_metadata, FIXTURE_DATA(timeout) *self,
			bool reset)
{
	int other = importer_attach(self->edu, self->dmabuf, 0);
	struct request request = {};
	uint64_t start;
	char name[16];

	ASSERT_GE(other, 0);
	ASSERT_EQ(importer_unmap(self->importer), 0);
	ASSERT_EQ(importer_map(other), 0);
	start = milliseconds();
	ASSERT_EQ(importer_fence(other, 10000), 0);
	memcpy(name, self->vfio.name, sizeof(name));
	request.name = name;
	if (reset)
		EXPECT_EQ(device_write(name, "reset", "1"), 0);
	vfio_close(&self->vfio);
	EXPECT_EQ(importer_status(other).is_mapped, 0);
	unbind_device(&request);
	EXPECT_GE(milliseconds() - start, 9900);
	close(other);
}

TEST_F(timeout, unbind_with_late_fence)
{
	unbind_late(_metadata, self, false);
}

/* The reset goes on after the timeout, and restores the dma-buf. */
TEST_F(timeout, unbind_with_late_fence_of_a_reset)
{
	unbind_late(_metadata, self, true);
}

/* 0: not a moment. */
TEST_F(timeout, none)
{
	vfio_parameter("revoke_timeout_ms", 0);
	EXPECT_EQ(vfio_reset(&self->vfio), -EBUSY);
	ASSERT_EQ(importer_unmap(self->importer), 0);
	EXPECT_EQ(vfio_reset(&self->vfio), 0);
}

TEST_HARNESS_MAIN
