// SPDX-License-Identifier: GPL-2.0
/*
 * DMA to a dma-buf of a BAR really stops when the device's memory goes away, in each of
 * the ways that it can: a device copies to it in a loop, the memory goes, and after the
 * call that made it go, not one byte changes any more; the importer's mapping is gone,
 * and DMA by its addresses goes nowhere.  When the memory is back, so is the dma-buf.
 *
 * And so does access by another process, which has it mapped and reads and writes it all
 * the time.
 */
#include "vfio_util.h"
#include "vfio_receiver.h"

#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>

#include "../kselftest_harness.h"

/* The dma-buf: two ranges, out of order, so that offsets are not those of the BAR. */
#define FIRST		(8 * PAGE)
#define SECOND		(3 * PAGE)
#define SIZE		(2 * PAGE)
#define LOOP		(PAGE + 64)		/* where the loop copies to, ... */
#define LOOP_IN_BAR	(SECOND + 64)		/* ... and where that is */
#define LENT		(PAGE + 128)		/* where a process writes to, ... */
#define LENT_IN_BAR	(SECOND + 128)		/* ... and where that is */
#define FORCED		0xeeeeeeeeeeeeeeeeULL
#define OURS		0xaaaaaaaaaaaaaaaaULL

/* Longer than a copy of the device's takes, both ways. */
#define COPY_MS		250

/**
 * struct live - a dma-buf that DMA goes to
 * @vfio: the exporter
 * @bar: which of its
 * @dmabuf: the dma-buf
 * @importer: attached to it
 * @receiver: has it mapped
 * @faults: page faults of its that have been seen
 * @window: another way to the bytes, which does not go away; NULL: there is none
 * @notified: calls of move_notify that have been seen
 */
struct live {
	struct vfio vfio;
	unsigned int bar;
	int dmabuf;
	int importer;
	struct receiver receiver;
	long faults;
	volatile uint64_t *window;
	uint32_t notified;
};

FIXTURE(revoke) {
	struct held before;
	char edu[16];
	struct live live;
};

FIXTURE_VARIANT(revoke) {
	enum interface interface;
};

FIXTURE_VARIANT_ADD(revoke, group) { .interface = GROUP };
FIXTURE_VARIANT_ADD(revoke, cdev) { .interface = CDEV };

FIXTURE_SETUP(revoke)
{
	if (!device_find(EDU, self->edu))
		SKIP(return, "no device at " EDU);
	device_bind(self->edu, "dma_buf_test_importer");
	self->before = held();
	self->live = (struct live) {
		.vfio = { .iommu = -1, .group = -1, .fd = -1 },
		.dmabuf = -1,
		.importer = -1,
	};
}

static void live_close(struct live *live)
{
	receiver_end(&live->receiver);
	if (live->importer >= 0)
		close(live->importer);
	if (live->dmabuf >= 0)
		close(live->dmabuf);
	live->importer = -1;
	live->dmabuf = -1;
	if (live->window)
		munmap((void *)live->window, RAM_SIZE);
	live->window = NULL;
	vfio_close(&live->vfio);
}

FIXTURE_TEARDOWN(revoke)
{
	live_close(&self->live);
	EXPECT_HELD(self->before);
}

static void live_import(struct __test_metadata *_metadata, struct live *live,
			const char *edu, uint32_t flags)
{
	const struct vfio_region_dma_range ranges[] = { { FIRST, PAGE }, { SECOND, PAGE } };

	live->dmabuf = export_ranges(&live->vfio, live->bar, O_RDWR | O_CLOEXEC, ranges, 2);
	ASSERT_GE(live->dmabuf, 0);
	live->importer = importer_attach(edu, live->dmabuf, flags);
	ASSERT_GE(live->importer, 0);
	ASSERT_EQ(importer_map(live->importer), 0);
	ASSERT_EQ(importer_loop(live->importer, LOOP), 0);
	ASSERT_TRUE(importer_copies(live->importer, 1));
	receiver_start(&live->receiver, live->dmabuf, 0, LENT);
	ASSERT_TRUE(receiver_gets_through(&live->receiver));
	ASSERT_TRUE(receiver_gets_through(&live->receiver));
	live->faults = receiver_faults(&live->receiver);
}

static void live_start(struct __test_metadata *_metadata, FIXTURE_DATA(revoke) *self,
		       const char *place, enum interface interface, uint32_t flags)
{
	char witness[16];

	vfio_get(&self->live.vfio, place, interface);
	self->live.bar = RAM_BAR;
	if (!strcmp(place, RAM)) {
		ASSERT_TRUE(device_find(WITNESS, witness));
		self->live.window = device_map(witness, RAM_BAR, RAM_SIZE);
	}
	live_import(_metadata, &self->live, self->edu, flags);
	if (self->live.window) {
		/* Tests that find these bytes unchanged rely on this. */
		uint32_t copies = importer_status(self->live.importer).copies;

		EXPECT_NE(self->live.window[LOOP_IN_BAR / 8], 0);
		EXPECT_TRUE(importer_copies(self->live.importer, copies + 1));
	}
}

/* The importer was told, has unmapped, and does DMA no more. */
static void expect_stopped(struct __test_metadata *_metadata, struct live *live)
{
	struct dma_buf_importer_status status = importer_status(live->importer);
	uint64_t forced = FORCED;
	uint32_t copies = status.copies;

	EXPECT_EQ(status.is_mapped, 0);
	EXPECT_GT(status.notified, live->notified);
	live->notified = status.notified;
	if (live->window)
		live->window[LOOP_IN_BAR / 8] = OURS;
	sleep_ms(COPY_MS);
	EXPECT_EQ(importer_status(live->importer).copies, copies);
	if (live->window)
		EXPECT_EQ(live->window[LOOP_IN_BAR / 8], OURS);

	/* Without an IOMMU nothing stops a device that goes on. */
	if (live->vfio.interface == NOIOMMU)
		return;
	/* The IOMMU knows the addresses no more: the device thinks it is done. */
	EXPECT_EQ(importer_force(live->importer, LOOP, &forced, 8,
				 DMA_BUF_IMPORTER_TO_SLICE), 0);
	if (live->window)
		EXPECT_EQ(live->window[LOOP_IN_BAR / 8], OURS);
}

static void expect_revoked(struct __test_metadata *_metadata, struct live *live,
			   const char *edu)
{
	if (live->window)
		live->window[LENT_IN_BAR / 8] = OURS;
	expect_stopped(_metadata, live);
	EXPECT_EQ(importer_map(live->importer), -ENODEV);
	EXPECT_EQ(importer_attach(edu, live->dmabuf, 0), -ENODEV);
	EXPECT_TRUE(receiver_is_refused(&live->receiver));
	if (live->window)
		EXPECT_EQ(live->window[LENT_IN_BAR / 8], OURS);
}

/*
 * The importer was told again, can map again, and does DMA to the same place.  No other
 * mapping of the dma-buf has been left over from before.
 */
static void expect_restored(struct __test_metadata *_metadata, struct live *live)
{
	struct dma_buf_importer_status status = importer_status(live->importer);
	uint64_t seen = 0, forced = FORCED;

	EXPECT_GT(status.notified, live->notified);
	live->notified = status.notified;
	EXPECT_EQ(status.is_mapped, 0);
	EXPECT_EQ(importer_map(live->importer), 0);
	EXPECT_TRUE(importer_copies(live->importer, status.copies + 1));
	EXPECT_EQ(importer_stop(live->importer), 0);
	EXPECT_EQ(importer_copy(live->importer, LOOP, &forced, 8,
				DMA_BUF_IMPORTER_TO_SLICE), 0);
	EXPECT_EQ(vfio_region_rw(&live->vfio, live->bar, LOOP_IN_BAR, &seen, 8, false), 0);
	EXPECT_EQ(seen, FORCED);
	EXPECT_TRUE(receiver_gets_through(&live->receiver));
	/* Its mapping was gone meanwhile, even if that was too short for it to notice. */
	EXPECT_GT(receiver_faults(&live->receiver), live->faults);
	live->faults = receiver_faults(&live->receiver);
}

/* After a call that has taken the memory away, and brought it back. */
static void expect_cycled(struct __test_metadata *_metadata, struct live *live)
{
	uint32_t notified = live->notified;

	expect_stopped(_metadata, live);
	/* One call for the revocation, one for the return. */
	EXPECT_GE(live->notified, notified + 2);
	live->notified--;
	expect_restored(_metadata, live);
}

/* VFIO's own ways */

TEST_F(revoke, device_reset)
{
	live_start(_metadata, self, RAM, variant->interface, 0);
	ASSERT_EQ(vfio_reset(&self->live.vfio), 0);
	expect_cycled(_metadata, &self->live);
}

TEST_F(revoke, device_reset_by_flr)
{
	live_start(_metadata, self, NVME, variant->interface, 0);
	ASSERT_EQ(vfio_reset(&self->live.vfio), 0);
	expect_cycled(_metadata, &self->live);
}

/* Both devices of the set, whichever of them is asked. */
TEST_F(revoke, hot_reset)
{
	struct live two = { .bar = RAM_BAR };
	char name[16];

	ASSERT_TRUE(device_find(PAIR_TWO, name));
	device_bind(name, "vfio-pci");
	live_start(_metadata, self, PAIR_ONE, variant->interface, 0);
	ASSERT_EQ(vfio_open(&two.vfio, name, variant->interface, &self->live.vfio), 0);
	live_import(_metadata, &two, self->edu, 0);

	ASSERT_EQ(vfio_hot_reset(&two.vfio, &self->live.vfio), 0);
	expect_stopped(_metadata, &self->live);
	expect_stopped(_metadata, &two);
	self->live.notified--;
	two.notified--;
	expect_restored(_metadata, &self->live);
	expect_restored(_metadata, &two);
	live_close(&two);
}

/* Configuration space */

TEST_F(revoke, flr_pcie)
{
	unsigned int at;

	live_start(_metadata, self, NVME, variant->interface, 0);
	at = vfio_capability(&self->live.vfio, PCI_CAP_ID_EXP);
	ASSERT_NE(at, 0);
	ASSERT_NE(vfio_config_read(&self->live.vfio, at + PCI_EXP_DEVCAP, 4) &
		  PCI_EXP_DEVCAP_FLR, 0);
	ASSERT_EQ(vfio_config_write(&self->live.vfio, at + PCI_EXP_DEVCTL, 2,
				    vfio_config_read(&self->live.vfio, at + PCI_EXP_DEVCTL, 2) |
				    PCI_EXP_DEVCTL_BCR_FLR), 0);
	expect_cycled(_metadata, &self->live);
}

struct flr {
	const struct vfio *vfio;
	unsigned int at;
	int ret;
	volatile bool done;
};

static void *write_flr(void *data)
{
	struct flr *flr = data;

	flr->ret = vfio_config_write(flr->vfio, flr->at, 1, PCI_AF_CTRL_FLR);
	flr->done = true;
	return NULL;
}

/* No device of QEMU's has this capability: a module fakes it, the reset is a real one. */
TEST_F(revoke, flr_af)
{
	struct flr flr = { .vfio = &self->live.vfio };
	pthread_t thread;
	struct vfio *vfio = &self->live.vfio;
	char name[16];
	unsigned int at;
	long timeout;
	int keeper;

	ASSERT_TRUE(device_find(RAM, name));
	ASSERT_TRUE(module_parameter("vfio_pci_fake_caps", "device", name));
	live_start(_metadata, self, RAM, variant->interface, 0);
	at = vfio_capability(vfio, PCI_CAP_ID_AF);
	ASSERT_NE(at, 0);
	/* Any reset revokes, but only this write waits without a timeout. */
	keeper = importer_attach(self->edu, self->live.dmabuf, DMA_BUF_IMPORTER_KEEP);
	ASSERT_GE(keeper, 0);
	ASSERT_EQ(importer_map(keeper), 0);
	timeout = vfio_parameter("revoke_timeout_ms", 300);
	flr.at = at + PCI_AF_CTRL;
	ASSERT_EQ(pthread_create(&thread, NULL, write_flr, &flr), 0);
	sleep_ms(1500);
	EXPECT_FALSE(flr.done);
	EXPECT_EQ(importer_map(self->live.importer), -ENODEV);
	close(keeper);
	pthread_join(thread, NULL);
	EXPECT_EQ(flr.ret, 0);
	vfio_parameter("revoke_timeout_ms", timeout);
	expect_cycled(_metadata, &self->live);
	EXPECT_TRUE(module_parameter("vfio_pci_fake_caps", "device", "\n"));
}

TEST_F(revoke, memory_bit)
{
	live_start(_metadata, self, RAM, variant->interface, 0);
	for (int i = 0; i < 2; i++) {
		ASSERT_EQ(vfio_memory(&self->live.vfio, false), 0);
		expect_revoked(_metadata, &self->live, self->edu);
		/* What does not change anything does not tell anybody. */
		ASSERT_EQ(vfio_memory(&self->live.vfio, false), 0);
		EXPECT_EQ(importer_status(self->live.importer).notified, self->live.notified);
		ASSERT_EQ(vfio_memory(&self->live.vfio, true), 0);
		expect_restored(_metadata, &self->live);
		ASSERT_EQ(vfio_memory(&self->live.vfio, true), 0);
		EXPECT_EQ(importer_status(self->live.importer).notified, self->live.notified);
		EXPECT_EQ(importer_status(self->live.importer).is_mapped, 1);
		ASSERT_EQ(importer_loop(self->live.importer, LOOP), 0);
	}
}

/* A byte of PCI_COMMAND alone. */
TEST_F(revoke, memory_bit_by_byte)
{
	struct vfio *vfio = &self->live.vfio;
	uint32_t command;

	live_start(_metadata, self, RAM, variant->interface, 0);
	command = vfio_config_read(vfio, PCI_COMMAND, 1);
	ASSERT_EQ(vfio_config_write(vfio, PCI_COMMAND, 1, command & ~PCI_COMMAND_MEMORY), 0);
	expect_revoked(_metadata, &self->live, self->edu);
	ASSERT_EQ(vfio_config_write(vfio, PCI_COMMAND, 1, command | PCI_COMMAND_MEMORY), 0);
	expect_restored(_metadata, &self->live);
}

TEST_F(revoke, d3hot)
{
	live_start(_metadata, self, NVME, variant->interface, 0);
	ASSERT_EQ(vfio_set_power(&self->live.vfio, 3), 0);
	expect_revoked(_metadata, &self->live, self->edu);
	ASSERT_EQ(vfio_set_power(&self->live.vfio, 0), 0);
	expect_restored(_metadata, &self->live);
}

/*
 * D1 and D2, which no device of QEMU's has: a module fakes them.  Memory is as inaccessible as
 * in D3, by VFIO's own mapping and by read() as well.
 */
static void check_shallow_state(struct __test_metadata *_metadata, FIXTURE_DATA(revoke) *self,
				enum interface interface, unsigned int state)
{
	struct vfio *vfio = &self->live.vfio;
	volatile uint64_t *map;
	uint64_t word;
	char name[16];

	ASSERT_TRUE(device_find(RAM, name));
	ASSERT_TRUE(module_parameter("vfio_pci_fake_caps", "device", name));
	live_start(_metadata, self, RAM, interface, 0);
	map = vfio_map(vfio, RAM_BAR, 0, PAGE);
	EXPECT_TRUE(reachable(map, true));
	ASSERT_EQ(vfio_set_power(vfio, state), 0);
	EXPECT_EQ(vfio_config_read(vfio, vfio_capability(vfio, PCI_CAP_ID_PM) + PCI_PM_CTRL, 2) &
		  PCI_PM_CTRL_STATE_MASK, state);
	expect_revoked(_metadata, &self->live, self->edu);
	EXPECT_FALSE(reachable(map, false));
	EXPECT_FALSE(reachable(map, true));
	EXPECT_EQ(vfio_region_rw(vfio, RAM_BAR, 0, &word, 8, false), -EIO);
	EXPECT_EQ(vfio_region_rw(vfio, RAM_BAR, 0, &word, 8, true), -EIO);
	ASSERT_EQ(vfio_set_power(vfio, 0), 0);
	expect_restored(_metadata, &self->live);
	EXPECT_TRUE(reachable(map, true));
	munmap((void *)map, PAGE);
	EXPECT_TRUE(module_parameter("vfio_pci_fake_caps", "device", "\n"));
}

TEST_F(revoke, d1)
{
	check_shallow_state(_metadata, self, variant->interface, 1);
}

TEST_F(revoke, d2)
{
	check_shallow_state(_metadata, self, variant->interface, 2);
}

/* Two reasons at once: it is back when both are gone, in whichever order. */
TEST_F(revoke, d3hot_and_memory_bit)
{
	struct vfio *vfio = &self->live.vfio;

	live_start(_metadata, self, NVME, variant->interface, 0);
	ASSERT_EQ(vfio_memory(vfio, false), 0);
	expect_revoked(_metadata, &self->live, self->edu);
	ASSERT_EQ(vfio_set_power(vfio, 3), 0);
	ASSERT_EQ(vfio_set_power(vfio, 0), 0);
	EXPECT_EQ(importer_map(self->live.importer), -ENODEV);
	ASSERT_EQ(vfio_memory(vfio, true), 0);
	expect_restored(_metadata, &self->live);
}

/* A reset brings back neither memory that was switched off, nor its dma-bufs. */
TEST_F(revoke, reset_with_memory_off)
{
	struct vfio *vfio = &self->live.vfio;

	live_start(_metadata, self, RAM, variant->interface, 0);
	ASSERT_EQ(vfio_memory(vfio, false), 0);
	expect_revoked(_metadata, &self->live, self->edu);
	ASSERT_EQ(vfio_reset(vfio), 0);
	EXPECT_EQ(importer_map(self->live.importer), -ENODEV);
	ASSERT_EQ(vfio_memory(vfio, true), 0);
	expect_restored(_metadata, &self->live);
}

/* Runtime power management */

#define LOW_POWER(what) (VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_LOW_POWER_##what)

TEST_F(revoke, low_power)
{
	live_start(_metadata, self, NVME, variant->interface, 0);
	ASSERT_EQ(vfio_feature(&self->live.vfio, LOW_POWER(ENTRY), NULL, 0), 0);
	expect_revoked(_metadata, &self->live, self->edu);
	ASSERT_EQ(vfio_feature(&self->live.vfio, LOW_POWER(EXIT), NULL, 0), 0);
	expect_restored(_metadata, &self->live);
}

/* Being woken up by somebody else is not for the user. */
TEST_F(revoke, low_power_disturbed)
{
	const char *name = self->live.vfio.name;

	live_start(_metadata, self, NVME, variant->interface, 0);
	ASSERT_EQ(vfio_feature(&self->live.vfio, LOW_POWER(ENTRY), NULL, 0), 0);
	expect_revoked(_metadata, &self->live, self->edu);
	EXPECT_TRUE(device_wake_up(name));
	EXPECT_EQ(importer_map(self->live.importer), -ENODEV);
	ASSERT_EQ(vfio_feature(&self->live.vfio, LOW_POWER(EXIT), NULL, 0), 0);
	expect_restored(_metadata, &self->live);
}

/* But it is, and ends it, if a wake-up was asked for. */
TEST_F(revoke, low_power_wakeup)
{
	struct vfio_device_low_power_entry_with_wakeup entry = {
		.wakeup_eventfd = eventfd(0, EFD_CLOEXEC),
	};
	struct pollfd poll_wakeup = { .fd = entry.wakeup_eventfd, .events = POLLIN };
	const char *name = self->live.vfio.name;

	live_start(_metadata, self, NVME, variant->interface, 0);
	ASSERT_EQ(vfio_feature(&self->live.vfio, LOW_POWER(ENTRY_WITH_WAKEUP), &entry,
			       sizeof(entry)), 0);
	expect_revoked(_metadata, &self->live, self->edu);
	EXPECT_TRUE(device_wake_up(name));
	EXPECT_EQ(poll(&poll_wakeup, 1, 5000), 1);
	expect_restored(_metadata, &self->live);
	close(entry.wakeup_eventfd);
}

/* Memory that is switched off while the device is in low power stays off. */
TEST_F(revoke, low_power_and_memory_bit)
{
	struct vfio *vfio = &self->live.vfio;

	live_start(_metadata, self, NVME, variant->interface, 0);
	ASSERT_EQ(vfio_memory(vfio, false), 0);
	expect_revoked(_metadata, &self->live, self->edu);
	ASSERT_EQ(vfio_feature(vfio, LOW_POWER(ENTRY), NULL, 0), 0);
	ASSERT_EQ(vfio_feature(vfio, LOW_POWER(EXIT), NULL, 0), 0);
	EXPECT_EQ(importer_map(self->live.importer), -ENODEV);
	ASSERT_EQ(vfio_memory(vfio, true), 0);
	expect_restored(_metadata, &self->live);
}

/* System sleep, as far as it goes without the hardware: all devices are suspended. */

static bool fall_asleep(void)
{
	bool slept;

	if (!module_parameter("vfio_pci_fake_caps", "awake", "1") ||
	    !module_parameter("suspend", "pm_test_delay", "1") ||
	    write_text("/sys/power/pm_test", "platform"))
		return false;
	slept = !write_text("/sys/power/state", "freeze");
	write_text("/sys/power/pm_test", "none");
	module_parameter("vfio_pci_fake_caps", "awake", "0");
	return slept;
}

TEST_F_TIMEOUT(revoke, system_sleep, 120)
{
	live_start(_metadata, self, RAM, variant->interface, 0);
	ASSERT_TRUE(fall_asleep());
	expect_cycled(_metadata, &self->live);
}

/* What was off before is off afterwards. */
TEST_F_TIMEOUT(revoke, system_sleep_with_memory_off, 120)
{
	live_start(_metadata, self, RAM, variant->interface, 0);
	ASSERT_EQ(vfio_memory(&self->live.vfio, false), 0);
	expect_revoked(_metadata, &self->live, self->edu);
	ASSERT_TRUE(fall_asleep());
	EXPECT_EQ(importer_map(self->live.importer), -ENODEV);
	ASSERT_EQ(vfio_memory(&self->live.vfio, true), 0);
	expect_restored(_metadata, &self->live);
}

/* A late importer does not keep the system awake. */
TEST_F_TIMEOUT(revoke, system_sleep_with_late_importer, 120)
{
	long timeout = vfio_parameter("revoke_timeout_ms", 300);
	int keeper, log = log_open();

	live_start(_metadata, self, RAM, variant->interface, 0);
	keeper = importer_attach(self->edu, self->live.dmabuf, DMA_BUF_IMPORTER_KEEP);
	ASSERT_GE(keeper, 0);
	ASSERT_EQ(importer_map(keeper), 0);
	EXPECT_TRUE(fall_asleep());
	EXPECT_TRUE(log_has(log, "has not unmapped a revoked dma-buf"));
	EXPECT_EQ(importer_status(keeper).notified, 2);
	close(keeper);
	expect_cycled(_metadata, &self->live);
	close(log);
	vfio_parameter("revoke_timeout_ms", timeout);
}

/* However many devices have late importers, they are waited for together, and named. */
TEST_F_TIMEOUT(revoke, system_sleep_with_late_importers, 180)
{
	const char *const places[] = { RAM, NVME, PAIR_ONE, REGISTERS };
	int dmabufs[4], keepers[4], logs[4];
	struct vfio vfios[4];
	uint64_t before, took;
	long timeout;

	/* How long it takes without them. */
	before = milliseconds();
	ASSERT_TRUE(fall_asleep());
	before = milliseconds() - before;
	for (int i = 0; i < 4; i++) {
		vfio_get(&vfios[i], places[i], variant->interface);
		dmabufs[i] = export_range(&vfios[i], i < 3 ? RAM_BAR : 0, 0, PAGE);
		ASSERT_GE(dmabufs[i], 0);
		keepers[i] = importer_attach(self->edu, dmabufs[i], DMA_BUF_IMPORTER_KEEP);
		ASSERT_GE(keepers[i], 0);
		ASSERT_EQ(importer_map(keepers[i]), 0);
		logs[i] = log_open();
	}
	timeout = vfio_parameter("revoke_timeout_ms", 10000);
	took = milliseconds();
	EXPECT_TRUE(fall_asleep());
	took = milliseconds() - took;
	EXPECT_GE(took, 9900);
	EXPECT_LT(took, 2 * before + 20000);
	vfio_parameter("revoke_timeout_ms", timeout);
	for (int i = 0; i < 4; i++) {
		char text[200];

		snprintf(text, sizeof(text), "%s: importer %s has not", vfios[i].name,
			 self->edu);
		EXPECT_TRUE(log_has(logs[i], text)) TH_LOG("%s", text);
		EXPECT_EQ(importer_status(keepers[i]).notified, 2);
		close(keepers[i]);
		close(dmabufs[i]);
		close(logs[i]);
		vfio_close(&vfios[i]);
	}
}

/* Resets from outside */

TEST_F(revoke, sysfs_reset)
{
	live_start(_metadata, self, RAM, variant->interface, 0);
	ASSERT_EQ(device_write(self->live.vfio.name, "reset", "1"), 0);
	expect_cycled(_metadata, &self->live);
}

struct writer {
	const struct vfio *vfio;
	volatile bool stop;
	unsigned long writes;
	int error;
};

static void *write_config(void *data)
{
	struct writer *writer = data;

	while (!writer->stop) {
		uint32_t command = vfio_config_read(writer->vfio, PCI_COMMAND, 2);
		int ret = vfio_config_write(writer->vfio, PCI_COMMAND, 2,
					    command | PCI_COMMAND_MASTER | PCI_COMMAND_MEMORY);

		if (ret && !writer->error)
			writer->error = ret;
		writer->writes++;
	}
	return NULL;
}

/*
 * A write of configuration space waits for a reset from outside to finish, with locks
 * held: the reset must not wait for it.
 */
TEST_F(revoke, sysfs_reset_while_configuring)
{
	struct writer writer = { .vfio = &self->live.vfio };
	pthread_t thread;

	live_start(_metadata, self, RAM, variant->interface, DMA_BUF_IMPORTER_REMAP);
	ASSERT_EQ(pthread_create(&thread, NULL, write_config, &writer), 0);
	for (int i = 0; i < 4; i++) {
		unsigned long writes = writer.writes;

		EXPECT_EQ(device_write(self->live.vfio.name, "reset", "1"), 0);
		for (int n = 0; n < 500 && writer.writes < writes + 10; n++)
			sleep_ms(10);
		EXPECT_GE(writer.writes, writes + 10);
	}
	writer.stop = true;
	pthread_join(thread, NULL);
	EXPECT_EQ(writer.error, 0);
	EXPECT_GE(importer_status(self->live.importer).notified, 8);
	ASSERT_EQ(vfio_memory(&self->live.vfio, false), 0);
	EXPECT_EQ(importer_status(self->live.importer).is_mapped, 0);
}

/* The end of the device */

static void expect_dead(struct __test_metadata *_metadata, struct live *live, const char *edu)
{
	expect_revoked(_metadata, live, edu);
	importer_stop(live->importer);
	EXPECT_EQ(importer_status(live->importer).error, 0);
}

/* A new dma-buf of an open device can be mapped. */
static void expect_usable(struct __test_metadata *_metadata, const struct vfio *vfio,
			  const char *edu)
{
	int fresh = export_range(vfio, RAM_BAR, 0, PAGE), importer;

	ASSERT_GE(fresh, 0);
	importer = importer_attach(edu, fresh, 0);
	ASSERT_GE(importer, 0);
	EXPECT_EQ(importer_map(importer), 0);
	close(importer);
	close(fresh);
}

TEST_F(revoke, close)
{
	struct live *live = &self->live;

	live_start(_metadata, self, RAM, variant->interface, 0);
	vfio_close(&live->vfio);
	expect_dead(_metadata, live, self->edu);

	/* Permanently: when the device is opened again, it is not restored. */
	vfio_get(&live->vfio, RAM, variant->interface);
	EXPECT_EQ(importer_map(live->importer), -ENODEV);
	expect_usable(_metadata, &live->vfio, self->edu);
}

struct request {
	const char *name;
	const char *what;
	volatile bool done;
};

static void *unbind_device(void *data)
{
	struct request *request = data;

	device_write(request->name, "driver/unbind", request->name);
	request->done = true;
	return NULL;
}

/* Who has the device open is asked to close it; the dma-buf does not hold up anything. */
TEST_F(revoke, unbind)
{
	struct live *live = &self->live;
	struct request request = { .name = live->vfio.name };
	struct pollfd asked = { .events = POLLIN };
	pthread_t thread;

	live_start(_metadata, self, RAM, variant->interface, 0);
	asked.fd = vfio_eventfd(&live->vfio, VFIO_PCI_REQ_IRQ_INDEX);
	ASSERT_EQ(pthread_create(&thread, NULL, unbind_device, &request), 0);
	EXPECT_EQ(poll(&asked, 1, 20000), 1);
	EXPECT_FALSE(request.done);
	vfio_close(&live->vfio);
	expect_dead(_metadata, live, self->edu);
	pthread_join(thread, NULL);
	EXPECT_TRUE(request.done);
	EXPECT_EQ(importer_map(live->importer), -ENODEV);
	close(asked.fd);
}

TEST_F(revoke, unplug)
{
	struct live *live = &self->live;
	struct pollfd asked = { .events = POLLIN };
	char name[16];

	live_start(_metadata, self, NVME, variant->interface, 0);
	memcpy(name, live->vfio.name, sizeof(name));
	asked.fd = vfio_eventfd(&live->vfio, VFIO_PCI_REQ_IRQ_INDEX);
	ASSERT_TRUE(nvme_unplug());
	EXPECT_EQ(poll(&asked, 1, 30000), 1);
	vfio_close(&live->vfio);
	expect_dead(_metadata, live, self->edu);
	EXPECT_TRUE(device_wait(name, false));
	EXPECT_EQ(importer_map(live->importer), -ENODEV);
	close(asked.fd);

	/* Put it back, for the tests that come. */
	nvme_plug();
	EXPECT_TRUE(device_wait(name, true));
	EXPECT_EQ(importer_map(live->importer), -ENODEV);
}

/* Errors */

TEST_F(revoke, aer)
{
	struct live *live = &self->live;

	live_start(_metadata, self, RAM, variant->interface, 0);

	/* An error that is not fatal leaves the device's memory where it is. */
	ASSERT_TRUE(aer_inject("COMP_TIME"));
	EXPECT_EQ(importer_status(live->importer).is_mapped, 1);
	EXPECT_EQ(importer_status(live->importer).notified, 0);

	ASSERT_TRUE(aer_inject("DLP"));
	expect_revoked(_metadata, live, self->edu);

	/* Recovery has reset the device, BARs included: it needs more than a reset now. */
	EXPECT_EQ(vfio_reset(&live->vfio), 0);
	EXPECT_EQ(vfio_memory(&live->vfio, true), 0);
	expect_restored(_metadata, live);
}

/* As QEMU resets a device: with memory off. */
TEST_F(revoke, aer_reset_with_memory_off)
{
	struct live *live = &self->live;

	live_start(_metadata, self, RAM, variant->interface, 0);
	ASSERT_TRUE(aer_inject("DLP"));
	expect_revoked(_metadata, live, self->edu);

	EXPECT_EQ(vfio_memory(&live->vfio, false), 0);
	EXPECT_EQ(vfio_reset(&live->vfio), 0);
	EXPECT_EQ(importer_status(live->importer).is_mapped, 0);
	EXPECT_EQ(vfio_memory(&live->vfio, true), 0);
	expect_restored(_metadata, live);
}

/* An error while nobody has the device open takes its addresses, and is not forgotten. */
TEST_F(revoke, aer_while_closed)
{
	struct vfio *vfio = &self->live.vfio;
	char name[16];

	vfio_get(vfio, RAM, variant->interface);
	memcpy(name, vfio->name, sizeof(name));
	/* Or recovery would resume it, under pci_bus_sem, which lockdep complains about. */
	ASSERT_EQ(device_write(name, "power/control", "on"), 0);
	vfio_close(vfio);
	EXPECT_TRUE(aer_inject("DLP"));

	vfio_get(vfio, RAM, variant->interface);
	self->live.dmabuf = export_range(vfio, RAM_BAR, 0, PAGE);
	EXPECT_GE(self->live.dmabuf, 0);
	EXPECT_EQ(importer_attach(self->edu, self->live.dmabuf, 0), -ENODEV);
	EXPECT_EQ(vfio_reset(vfio), 0);
	EXPECT_EQ(vfio_memory(vfio, true), 0);
	EXPECT_EQ(importer_attach(self->edu, self->live.dmabuf, 0), -ENODEV);

	/* It is found with new ones. */
	live_close(&self->live);
	EXPECT_EQ(device_write(name, "remove", "1"), 0);
	EXPECT_TRUE(device_wait(name, false));
	EXPECT_EQ(device_write(self->edu, "rescan", "1"), 0);
	EXPECT_TRUE(device_wait(name, true));
	live_start(_metadata, self, RAM, variant->interface, 0);
}

/*
 * A close while an importer is late switches decode off, which is not the error's doing: the
 * close restores the addresses.
 */
TEST_F(revoke, aer_and_late_close)
{
	long timeout = vfio_parameter("revoke_timeout_ms", 100);
	struct vfio *vfio = &self->live.vfio;
	char name[16];
	int ret;

	live_start(_metadata, self, RAM, variant->interface, 0);
	memcpy(name, vfio->name, sizeof(name));
	ASSERT_EQ(importer_fence(self->live.importer, 8000), 0);
	ASSERT_TRUE(aer_inject("DLP"));
	vfio_close(vfio);
	for (int i = 0; i < 2000; i++) {
		ret = vfio_open(vfio, name, variant->interface, NULL);
		if (ret != -EBUSY)
			break;
		sleep_ms(10);
	}
	ASSERT_EQ(ret, 0);
	expect_usable(_metadata, vfio, self->edu);
	vfio_parameter("revoke_timeout_ms", timeout);
}

/* Importers that take their time */

/* DMA goes on until the importer's fence is signaled, and is waited for. */
TEST_F(revoke, late)
{
	uint64_t start;

	live_start(_metadata, self, RAM, variant->interface, DMA_BUF_IMPORTER_LATE);
	ASSERT_EQ(importer_fence(self->live.importer, 1500), 0);
	start = milliseconds();
	ASSERT_EQ(vfio_reset(&self->live.vfio), 0);
	EXPECT_GE(milliseconds() - start, 1300);
	expect_cycled(_metadata, &self->live);
}

/* The importer's mapping is gone at once, its DMA is not. */
TEST_F(revoke, late_fence)
{
	uint64_t start;

	live_start(_metadata, self, RAM, variant->interface, 0);
	ASSERT_EQ(importer_fence(self->live.importer, 1500), 0);
	start = milliseconds();
	ASSERT_EQ(vfio_memory(&self->live.vfio, false), 0);
	EXPECT_GE(milliseconds() - start, 1300);
	expect_revoked(_metadata, &self->live, self->edu);
	ASSERT_EQ(vfio_memory(&self->live.vfio, true), 0);
	expect_restored(_metadata, &self->live);
}

/* Fences that come before or after a mapping say nothing about DMA to the device. */
TEST_F(revoke, fence_of_no_mapping)
{
	uint64_t start;
	int other;

	live_start(_metadata, self, RAM, variant->interface, 0);
	other = importer_attach(self->edu, self->live.dmabuf, 0);
	ASSERT_GE(other, 0);
	ASSERT_EQ(importer_stop(self->live.importer), 0);
	ASSERT_EQ(importer_unmap(self->live.importer), 0);
	ASSERT_EQ(importer_fence(other, 3000), 0);
	start = milliseconds();
	EXPECT_EQ(vfio_memory(&self->live.vfio, false), 0);
	ASSERT_EQ(importer_fence(other, 3000), 0);
	EXPECT_EQ(vfio_memory(&self->live.vfio, false), 0);
	EXPECT_EQ(vfio_reset(&self->live.vfio), 0);
	EXPECT_LT(milliseconds() - start, 2500);
	close(other);
}

/* An importer that maps again as soon as it can succeeds, but not while it is revoked. */
TEST_F(revoke, eager)
{
	live_start(_metadata, self, RAM, variant->interface, DMA_BUF_IMPORTER_REMAP);
	for (int i = 0; i < 3; i++) {
		uint32_t copies;

		ASSERT_EQ(vfio_memory(&self->live.vfio, false), 0);
		expect_revoked(_metadata, &self->live, self->edu);
		ASSERT_EQ(vfio_memory(&self->live.vfio, true), 0);
		copies = importer_status(self->live.importer).copies;
		EXPECT_TRUE(importer_copies(self->live.importer, copies + 1));
		ASSERT_EQ(vfio_reset(&self->live.vfio), 0);
		EXPECT_TRUE(importer_copies(self->live.importer, copies + 2));
		self->live.notified = importer_status(self->live.importer).notified;
	}
}

/* Every buffer of the device, and every attachment of each. */
TEST_F(revoke, all_buffers)
{
	int dmabufs[8], importers[16];

	live_start(_metadata, self, RAM, variant->interface, 0);
	for (int i = 0; i < 16; i++) {
		if (i < 8)
			dmabufs[i] = export_range(&self->live.vfio, RAM_BAR, i * PAGE, PAGE);
		ASSERT_GE(dmabufs[i % 8], 0);
		importers[i] = importer_attach(self->edu, dmabufs[i % 8], 0);
		ASSERT_GE(importers[i], 0);
		ASSERT_EQ(importer_map(importers[i]), 0);
	}
	ASSERT_EQ(vfio_memory(&self->live.vfio, false), 0);
	for (int i = 0; i < 16; i++) {
		EXPECT_EQ(importer_status(importers[i]).is_mapped, 0);
		EXPECT_EQ(importer_status(importers[i]).notified, 1);
		EXPECT_EQ(importer_map(importers[i]), -ENODEV);
	}
	expect_revoked(_metadata, &self->live, self->edu);
	ASSERT_EQ(vfio_memory(&self->live.vfio, true), 0);
	for (int i = 0; i < 16; i++) {
		EXPECT_EQ(importer_map(importers[i]), 0);
		close(importers[i]);
	}
	for (int i = 0; i < 8; i++)
		close(dmabufs[i]);
	expect_restored(_metadata, &self->live);
}

TEST_HARNESS_MAIN
