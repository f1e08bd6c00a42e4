// SPDX-License-Identifier: GPL-2.0
/*
 * Everything at once, from many threads, for a while: dma-bufs of a BAR are exported,
 * attached to, mapped, copied to and closed, while the device is reset from inside and
 * from outside, its memory switched off and on, its configuration read and written, and
 * it is closed and opened again.
 *
 * Each call has to succeed or to return an error that it can return then; nothing may
 * be left over.  What else goes wrong is for the kernel's log to say.
 *
 * The argument VFIO_RACE_SECONDS of the environment says how long; 60 if there is none.
 */
#include "vfio_util.h"

#include <pthread.h>
#include <stdatomic.h>

#include "../kselftest_harness.h"

#define SECONDS		60
#define SHARED		4

/**
 * struct race - what the threads share
 * @lock: guards @device and @shared
 * @name: of the device
 * @edu: name of the device that imports
 * @interface: how it is opened
 * @device: the device's file; -1: it is closed
 * @shared: dma-bufs that a thread has exported and others import
 * @stop: the end
 * @revoked: attempts to map or attach that came while revoked, so that it was a race
 * @resets: by others, in reset_while_opened
 */
struct race {
	pthread_mutex_t lock;
	char name[16];
	char edu[16];
	enum interface interface;
	int device;
	int shared[SHARED];
	atomic_bool stop;
	atomic_uint revoked;
	atomic_uint resets;
};

/**
 * struct thread - one of the threads
 * @race: what they share
 * @run: one turn; returns 0, or -errno of a call that should not have failed so
 * @name: for the log
 * @flags: of the importer
 * @id: the thread
 * @seed: of its random numbers
 * @turns: how often @run has returned 0
 * @error: what it returned otherwise
 */
struct thread {
	struct race *race;
	int (*run)(struct thread *thread);
	const char *name;
	uint32_t flags;
	pthread_t id;
	unsigned int seed;
	unsigned long turns;
	int error;
};

static unsigned int below(struct thread *thread, unsigned int limit)
{
	return rand_r(&thread->seed) % limit;
}

/* A descriptor of our own, that nobody closes under us; -1, soon: there is none. */
static int take(struct race *race, const int *fd)
{
	int copy = -1;

	pthread_mutex_lock(&race->lock);
	if (*fd >= 0)
		copy = fcntl(*fd, F_DUPFD_CLOEXEC, 0);
	pthread_mutex_unlock(&race->lock);
	if (copy < 0)
		sleep_ms(1);
	return copy;
}

static void put(struct race *race, int *place, int fd)
{
	int old;

	pthread_mutex_lock(&race->lock);
	old = *place;
	*place = fd;
	pthread_mutex_unlock(&race->lock);
	if (old >= 0)
		close(old);
}

/* The device's file, as something that the helpers take. */
static bool take_device(struct thread *thread, struct vfio *vfio)
{
	*vfio = (struct vfio) {
		.interface = thread->race->interface,
		.iommu = -1,
		.group = -1,
		.fd = take(thread->race, &thread->race->device),
	};
	return vfio->fd >= 0;
}

static int export_some(struct thread *thread)
{
	struct vfio_region_dma_range ranges[4];
	unsigned int count = 1 + below(thread, 4);
	struct vfio vfio;
	int fd;

	if (!take_device(thread, &vfio))
		return 0;
	for (unsigned int i = 0; i < count; i++)
		ranges[i] = (struct vfio_region_dma_range) {
			below(thread, 64) * PAGE, (1 + below(thread, 8)) * PAGE,
		};
	fd = export_ranges(&vfio, RAM_BAR, O_RDWR | O_CLOEXEC, ranges, count);
	close(vfio.fd);
	if (fd < 0)
		return fd;
	put(thread->race, &thread->race->shared[below(thread, SHARED)], fd);
	return 0;
}

/* Not so bad: the dma-buf was revoked. */
static int forgive(struct thread *thread, int error)
{
	if (error != -ENODEV)
		return error;
	atomic_fetch_add(&thread->race->revoked, 1);
	return 0;
}

static int import_one(struct thread *thread)
{
	struct race *race = thread->race;
	int dmabuf = take(race, &race->shared[below(thread, SHARED)]), importer, ret;
	uint64_t data = 0;

	if (dmabuf < 0)
		return 0;
	importer = importer_attach(race->edu, dmabuf, thread->flags);
	close(dmabuf);
	if (importer < 0)
		return forgive(thread, importer);
	for (int i = 0; i < 20; i++) {
		ret = importer_map(importer);
		if (ret == -ENODEV)
			forgive(thread, ret);
		else if (ret && ret != -EBUSY)	/* EBUSY: it is mapped */
			break;
		ret = 0;
		if (i == 10 && below(thread, 8) == 0) {
			ret = importer_copy(importer, 0, &data, 8, DMA_BUF_IMPORTER_TO_SLICE);
			if (ret == -ENODATA)	/* it was unmapped again */
				ret = 0;
		}
		if (!ret && below(thread, 2)) {
			ret = importer_unmap(importer);
			if (ret == -EINVAL)
				ret = 0;
		}
		if (ret)
			break;
	}
	close(importer);
	return ret;
}

static int import_and_loop(struct thread *thread)
{
	struct race *race = thread->race;
	int dmabuf = take(race, &race->shared[below(thread, SHARED)]), importer, ret;

	if (dmabuf < 0)
		return 0;
	importer = importer_attach(race->edu, dmabuf, thread->flags | DMA_BUF_IMPORTER_REMAP);
	close(dmabuf);
	if (importer < 0)
		return forgive(thread, importer);
	if (below(thread, 2))
		importer_fence(importer, below(thread, 200));
	ret = importer_loop(importer, 0);
	sleep_ms(below(thread, 1000));
	if (!ret)
		ret = importer_status(importer).error;
	close(importer);
	return ret;
}

static int reset_inside(struct thread *thread)
{
	struct vfio vfio;
	int ret;

	if (!take_device(thread, &vfio))
		return 0;
	ret = vfio_reset(&vfio);
	close(vfio.fd);
	sleep_ms(below(thread, 500));
	return ret == -EAGAIN ? 0 : ret;	/* somebody else resets it */
}

static int reset_outside(struct thread *thread)
{
	int ret = device_write(thread->race->name, "reset", "1");

	sleep_ms(below(thread, 1000));
	return ret;
}

static int toggle(struct thread *thread)
{
	struct vfio vfio;
	int ret;

	if (!take_device(thread, &vfio))
		return 0;
	ret = vfio_memory(&vfio, false);
	sleep_ms(below(thread, 5));
	if (!ret)
		ret = vfio_memory(&vfio, true);
	close(vfio.fd);
	sleep_ms(below(thread, 100));
	return ret;
}

static int configure(struct thread *thread)
{
	struct vfio vfio;
	int ret;

	if (!take_device(thread, &vfio))
		return 0;
	ret = vfio_config_write(&vfio, PCI_CACHE_LINE_SIZE, 1,
				vfio_config_read(&vfio, PCI_CACHE_LINE_SIZE, 1));
	close(vfio.fd);
	return ret;
}

static int reopen(struct thread *thread)
{
	struct race *race = thread->race;
	struct vfio vfio;
	int ret;

	/*
	 * Those who have it open still (EBUSY; EINVAL from a character device), or who
	 * reset it (EAGAIN), do not do so for long.
	 */
	do {
		ret = vfio_open(&vfio, race->name, race->interface, NULL);
	} while ((ret == -EBUSY || ret == -EAGAIN ||
		  (ret == -EINVAL && race->interface == CDEV)) && !race->stop);
	if (ret)
		return race->stop ? 0 : ret;
	put(race, &race->device, fcntl(vfio.fd, F_DUPFD_CLOEXEC, 0));
	sleep_ms(500 + below(thread, 1500));
	put(race, &race->device, -1);
	vfio_close(&vfio);
	return 0;
}

static void *turns(void *data)
{
	struct thread *thread = data;

	while (!thread->race->stop && !thread->error) {
		thread->error = thread->run(thread);
		if (!thread->error)
			thread->turns++;
	}
	return NULL;
}

FIXTURE(race) {
	struct held before;
	struct race race;
	long timeout;
};

FIXTURE_VARIANT(race) {
	enum interface interface;
};

FIXTURE_VARIANT_ADD(race, group) { .interface = GROUP };
FIXTURE_VARIANT_ADD(race, cdev) { .interface = CDEV };

FIXTURE_SETUP(race)
{
	struct race *race = &self->race;

	if (!device_find(EDU, race->edu) || !device_find(RAM, race->name))
		SKIP(return, "no device at " EDU " or " RAM);
	device_bind(race->edu, "dma_buf_test_importer");
	device_bind(race->name, "vfio-pci");
	self->before = held();
	/* All unmap in the end, but in a crowd, on a slow machine, not soon. */
	self->timeout = vfio_parameter("revoke_timeout_ms", 60000);
	pthread_mutex_init(&race->lock, NULL);
	race->interface = variant->interface;
	race->device = -1;
	for (int i = 0; i < SHARED; i++)
		race->shared[i] = -1;
}

FIXTURE_TEARDOWN(race)
{
	vfio_parameter("revoke_timeout_ms", self->timeout);
	EXPECT_HELD(self->before);
}

TEST_F_TIMEOUT(race, all, 300)
{
	struct thread threads[] = {
		{ .run = reopen, .name = "reopen" },
		{ .run = export_some, .name = "export" },
		{ .run = export_some, .name = "export" },
		{ .run = import_one, .name = "import" },
		{ .run = import_one, .name = "import" },
		{ .run = import_one, .name = "import, late", .flags = DMA_BUF_IMPORTER_LATE },
		{ .run = import_and_loop, .name = "loop" },
		{ .run = import_and_loop, .name = "loop, late",
		  .flags = DMA_BUF_IMPORTER_LATE },
		{ .run = reset_inside, .name = "reset" },
		{ .run = reset_outside, .name = "sysfs reset" },
		{ .run = toggle, .name = "toggle" },
		{ .run = configure, .name = "configure" },
	};
	const char *seconds = getenv("VFIO_RACE_SECONDS");

	for (size_t i = 0; i < ARRAY_SIZE(threads); i++) {
		threads[i].race = &self->race;
		threads[i].seed = i + 1;
		ASSERT_EQ(pthread_create(&threads[i].id, NULL, turns, &threads[i]), 0);
	}
	/* Half of it for each of the two variants. */
	sleep_ms((seconds ? atoi(seconds) : SECONDS) * 500);
	self->race.stop = true;
	for (size_t i = 0; i < ARRAY_SIZE(threads); i++) {
		pthread_join(threads[i].id, NULL);
		EXPECT_EQ(threads[i].error, 0) TH_LOG("%s", threads[i].name);
		EXPECT_GT(threads[i].turns, 0) TH_LOG("%s", threads[i].name);
		TH_LOG("%s: %lu", threads[i].name, threads[i].turns);
	}
	/* It was a race. */
	EXPECT_GT(self->race.revoked, 0);
	put(&self->race, &self->race.device, -1);
	for (int i = 0; i < SHARED; i++)
		put(&self->race, &self->race.shared[i], -1);
	pthread_mutex_destroy(&self->race.lock);
}

static void *reset_again(void *data)
{
	struct race *race = data;

	/* With pauses, in which VFIO itself can reset the device. */
	for (unsigned int seed = gettid(); !race->stop; usleep(rand_r(&seed) % 20000))
		if (!device_write(race->name, "reset", "1"))
			race->resets++;
	return NULL;
}

/* The address of the RAM, as the device has it, or as the kernel has assigned it. */
static uint64_t ram_address(const char *name, bool assigned)
{
	unsigned long long address = 0;
	char path[64];
	FILE *file;

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/%s", name,
		 assigned ? "resource" : "config");
	file = fopen(path, "r");
	if (!file)
		return 0;
	if (assigned) {
		for (int bar = 0; bar <= RAM_BAR; bar++)
			if (fscanf(file, "%llx %*x %*x", &address) != 1)
				address = 0;
	} else if (fseek(file, PCI_BASE_ADDRESS_0 + 4 * RAM_BAR, SEEK_SET) ||
		   fread(&address, 8, 1, file) != 1) {
		address = 0;
	}
	fclose(file);
	return address & PCI_BASE_ADDRESS_MEM_MASK;
}

/* A reset by others while the device is opened or closed leaves the device its addresses. */
TEST_F_TIMEOUT(race, reset_while_opened, 300)
{
	const char *seconds = getenv("VFIO_RACE_SECONDS");
	uint64_t end = milliseconds() + (seconds ? atoi(seconds) : SECONDS) * 500;
	uint64_t address = ram_address(self->race.name, true);
	unsigned int opened = 0;
	pthread_t threads[2];

	ASSERT_NE(address, 0);
	ASSERT_EQ(ram_address(self->race.name, false), address);
	for (int i = 0; i < 2; i++)
		ASSERT_EQ(pthread_create(&threads[i], NULL, reset_again, &self->race), 0);
	/* On a busy host both take long. */
	while (milliseconds() < end ||
	       ((opened <= 10 || self->race.resets <= 10) && milliseconds() < end + 120000)) {
		struct vfio vfio;

		if (!vfio_open(&vfio, self->race.name, variant->interface, NULL)) {
			vfio_close(&vfio);
			opened++;
		}
	}
	self->race.stop = true;
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	EXPECT_EQ(ram_address(self->race.name, false), address);
	EXPECT_GT(opened, 10);
	EXPECT_GT(self->race.resets, 10);
	TH_LOG("opened %u times, %u resets", opened, self->race.resets);
}

/*
 * The first use of a BAR claims it for all: by mmap(), by a dma-buf, by reading.  The device
 * is one that is not reset when it is opened, which would take a second each time.
 */
struct claim {
	struct vfio *vfio;
	pthread_barrier_t *barrier;
	int (*use)(const struct vfio *vfio);
	pthread_t id;
	int ret;
};

static int use_mmap(const struct vfio *vfio)
{
	void *map = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, vfio->fd,
			 vfio_region_offset(vfio, RAM_BAR));

	if (map == MAP_FAILED)
		return -errno;
	munmap(map, PAGE);
	return 0;
}

static int use_dma_buf(const struct vfio *vfio)
{
	int fd = export_range(vfio, RAM_BAR, 0, PAGE);

	if (fd < 0)
		return fd;
	close(fd);
	return 0;
}

static int use_read(const struct vfio *vfio)
{
	uint64_t word;

	return vfio_region_rw(vfio, RAM_BAR, 0, &word, 8, false);
}

static void *use_bar(void *data)
{
	struct claim *claim = data;

	pthread_barrier_wait(claim->barrier);
	claim->ret = claim->use(claim->vfio);
	return NULL;
}

TEST_F_TIMEOUT(race, claim, 240)
{
	int (*uses[])(const struct vfio *vfio) = {
		use_mmap, use_dma_buf, use_read, use_mmap, use_dma_buf,
	};
	pthread_barrier_t barrier;
	int refused = 0;
	char name[16];

	ASSERT_TRUE(device_find(WITNESS, name));
	device_bind(name, "vfio-pci");
	ASSERT_EQ(pthread_barrier_init(&barrier, NULL, ARRAY_SIZE(uses)), 0);
	for (int round = 0; round < 150; round++) {
		struct claim claims[ARRAY_SIZE(uses)];
		struct vfio vfio;

		ASSERT_EQ(vfio_open(&vfio, name, variant->interface, NULL), 0);
		for (size_t i = 0; i < ARRAY_SIZE(uses); i++) {
			claims[i] = (struct claim) {
				.vfio = &vfio, .barrier = &barrier, .use = uses[i],
			};
			ASSERT_EQ(pthread_create(&claims[i].id, NULL, use_bar, &claims[i]), 0);
		}
		for (size_t i = 0; i < ARRAY_SIZE(uses); i++) {
			pthread_join(claims[i].id, NULL);
			refused += !!claims[i].ret;
		}
		vfio_close(&vfio);
	}
	EXPECT_EQ(refused, 0);
	pthread_barrier_destroy(&barrier);
	device_bind(name, NULL);
}

TEST_HARNESS_MAIN
