// SPDX-License-Identifier: GPL-2.0
/* See vfio_util.h. */
#include "vfio_util.h"

#include <setjmp.h>
#include <signal.h>
#include <dirent.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <time.h>

#include <linux/iommufd.h>

#define SYSFS	"/sys/bus/pci/devices/"

static int result(int ret)
{
	return ret < 0 ? -errno : ret;
}

uint64_t milliseconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000ULL + t.tv_nsec / 1000000;
}

void sleep_ms(unsigned int ms)
{
	usleep(ms * 1000);
}

/* sysfs */

int write_text(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC), ret;

	if (fd < 0)
		return -errno;
	ret = write(fd, text, strlen(text)) < 0 ? -errno : 0;
	close(fd);
	return ret;
}

/* The entry of a directory whose name ends in @end. */
static bool child(const char *path, const char *end, char name[16])
{
	DIR *dir = opendir(path);
	struct dirent *entry;
	bool found = false;

	if (!dir)
		return false;
	while (!found && (entry = readdir(dir))) {
		if (strlen(entry->d_name) != strlen("0000:00:00.0") ||
		    strcmp(strrchr(entry->d_name, ':') ?: "", end))
			continue;
		memcpy(name, entry->d_name, sizeof("0000:00:00.0"));
		found = true;
	}
	closedir(dir);
	return found;
}

bool device_find(const char *place, char name[16])
{
	char path[256], end[8] = ":";

	/* VFIO_TEST_BUS: the bus of a switch, say, that places begin on. */
	snprintf(path, sizeof(path), "/sys/class/pci_bus/%.16s/device",
		 getenv("VFIO_TEST_BUS") ?: "0000:00");
	for (; *place; place += strcspn(place, "/"), place += *place == '/') {
		snprintf(end + 1, sizeof(end) - 1, "%.*s", (int)strcspn(place, "/"), place);
		if (!child(path, end, name))
			return false;
		strcat(strcat(path, "/"), name);
	}
	return true;
}

int device_write(const char *name, const char *attribute, const char *text)
{
	char path[128];

	snprintf(path, sizeof(path), SYSFS "%s/%s", name, attribute);
	return write_text(path, text);
}

/* The last part of what a link of the device's points to. */
static bool device_link(const char *name, const char *link, char *text, size_t size)
{
	char path[128], target[256];
	ssize_t len;

	snprintf(path, sizeof(path), SYSFS "%s/%s", name, link);
	len = readlink(path, target, sizeof(target) - 1);
	if (len < 0)
		return false;
	target[len] = '\0';
	snprintf(text, size, "%s", strrchr(target, '/') + 1);
	return true;
}

void device_bind(const char *name, const char *driver)
{
	char bound[64] = "";

	if (device_write(name, "driver_override", driver ?: "none"))
		die(name);
	if (device_link(name, "driver", bound, sizeof(bound))) {
		if (driver && !strcmp(bound, driver))
			return;
		device_write(name, "driver/unbind", name);
	}
	if (!driver)
		return;
	/* A device that has just been plugged in is there before drivers can have it. */
	for (int i = 0; i < 200; i++) {
		write_text("/sys/bus/pci/drivers_probe", name);
		if (device_link(name, "driver", bound, sizeof(bound)) && !strcmp(bound, driver))
			return;
		sleep_ms(10);
	}
	die(driver);
}

static bool runtime_suspended(const char *name)
{
	char path[128], status[32] = "";
	FILE *f;

	snprintf(path, sizeof(path), SYSFS "%s/power/runtime_status", name);
	f = fopen(path, "r");
	if (!f || !fgets(status, sizeof(status), f))
		die(path);
	fclose(f);
	return !strcmp(status, "suspended\n");
}

bool device_wake_up(const char *name)
{
	for (int i = 0; i < 100 && !runtime_suspended(name); i++)
		sleep_ms(10);
	return runtime_suspended(name) && !device_write(name, "power/control", "on") &&
	       !device_write(name, "power/control", "auto");
}

bool device_wait(const char *name, bool there)
{
	char path[64];

	snprintf(path, sizeof(path), SYSFS "%s", name);
	for (int i = 0; i < 2000; i++) {
		if (!access(path, F_OK) == there)
			return true;
		sleep_ms(10);
	}
	return false;
}

volatile void *device_map(const char *name, int bar, size_t size)
{
	char path[128];
	void *p;
	int fd;

	device_write(name, "enable", "1");
	snprintf(path, sizeof(path), SYSFS "%s/resource%d", name, bar);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		die(path);
	p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		die(path);
	close(fd);
	return p;
}

/* VFIO */

static int open_container(struct vfio *vfio, const struct vfio *with)
{
	char number[16], path[64];
	int ret;

	if (with)
		return 0;
	if (!device_link(vfio->name, "iommu_group", number, sizeof(number)))
		return -ENODEV;
	snprintf(path, sizeof(path), "/dev/vfio/noiommu-%s", number);
	if (!access(path, F_OK))
		vfio->interface = NOIOMMU;
	else
		snprintf(path, sizeof(path), "/dev/vfio/%s", number);
	vfio->group = open(path, O_RDWR | O_CLOEXEC);
	if (vfio->group < 0)
		return -errno;
	vfio->iommu = open("/dev/vfio/vfio", O_RDWR | O_CLOEXEC);
	if (vfio->iommu < 0)
		return -errno;
	ret = ioctl(vfio->group, VFIO_GROUP_SET_CONTAINER, &vfio->iommu);
	if (!ret)
		ret = ioctl(vfio->iommu, VFIO_SET_IOMMU, vfio->interface == NOIOMMU ?
			    VFIO_NOIOMMU_IOMMU : VFIO_TYPE1v2_IOMMU);
	return result(ret);
}

static int open_in_group(struct vfio *vfio, const struct vfio *with)
{
	int ret = open_container(vfio, with);

	if (ret)
		return ret;
	vfio->fd = ioctl(with ? with->group : vfio->group, VFIO_GROUP_GET_DEVICE_FD,
			 vfio->name);
	return vfio->fd < 0 ? -errno : 0;
}

static bool cdev_path(const char *name, char path[64])
{
	char directory[64];
	struct dirent *entry;
	bool found = false;
	DIR *dir;

	snprintf(directory, sizeof(directory), SYSFS "%s/vfio-dev", name);
	dir = opendir(directory);
	if (!dir)
		return false;
	while ((entry = readdir(dir)))
		if (!strncmp(entry->d_name, "vfio", 4)) {
			snprintf(path, 64, "/dev/vfio/devices/%.32s", entry->d_name);
			found = true;
		}
	closedir(dir);
	return found;
}

static int open_cdev(struct vfio *vfio, const struct vfio *with)
{
	struct vfio_device_bind_iommufd bind = { .argsz = sizeof(bind) };
	struct vfio_device_attach_iommufd_pt attach = { .argsz = sizeof(attach) };
	struct iommu_ioas_alloc ioas = { .size = sizeof(ioas) };
	char path[64];
	int iommu;

	if (!cdev_path(vfio->name, path))
		return -ENODEV;
	vfio->fd = open(path, O_RDWR | O_CLOEXEC);
	if (vfio->fd < 0)
		return -errno;
	if (!with) {
		vfio->iommu = open("/dev/iommu", O_RDWR | O_CLOEXEC);
		if (vfio->iommu < 0)
			return -errno;
	}
	iommu = with ? with->iommu : vfio->iommu;
	bind.iommufd = iommu;
	if (ioctl(vfio->fd, VFIO_DEVICE_BIND_IOMMUFD, &bind) ||
	    ioctl(iommu, IOMMU_IOAS_ALLOC, &ioas))
		return -errno;
	vfio->ioas = ioas.out_ioas_id;
	attach.pt_id = vfio->ioas;
	/* The second device of a group has to have the address space of the first. */
	if (!with && ioctl(vfio->fd, VFIO_DEVICE_ATTACH_IOMMUFD_PT, &attach))
		return -errno;
	return 0;
}

int vfio_open(struct vfio *vfio, const char *name, enum interface interface,
	      const struct vfio *with)
{
	int ret;

	*vfio = (struct vfio) {
		.interface = interface, .iommu = -1, .group = -1, .fd = -1,
	};
	snprintf(vfio->name, sizeof(vfio->name), "%s", name);
	ret = interface == CDEV ? open_cdev(vfio, with) : open_in_group(vfio, with);
	if (ret)
		vfio_close(vfio);
	return ret;
}

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

void vfio_close(struct vfio *vfio)
{
	close_fd(&vfio->fd);
	close_fd(&vfio->group);
	close_fd(&vfio->iommu);
}

void vfio_get(struct vfio *vfio, const char *place, enum interface interface)
{
	char name[16];
	int ret;

	if (!device_find(place, name))
		ksft_exit_fail_msg("no device at %s\n", place);
	device_bind(name, "vfio-pci");
	ret = vfio_open(vfio, name, interface, NULL);
	if (ret)
		ksft_exit_fail_msg("cannot open %s: %s\n", name, strerror(-ret));
}

static struct vfio_region_info region_info(const struct vfio *vfio, unsigned int region)
{
	struct vfio_region_info info = { .argsz = sizeof(info), .index = region };

	if (ioctl(vfio->fd, VFIO_DEVICE_GET_REGION_INFO, &info))
		die("region info");
	return info;
}

size_t vfio_region_size(const struct vfio *vfio, unsigned int region)
{
	return region_info(vfio, region).size;
}

off_t vfio_region_offset(const struct vfio *vfio, unsigned int region)
{
	return region_info(vfio, region).offset;
}

volatile void *vfio_map(const struct vfio *vfio, unsigned int region, size_t offset,
			size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, vfio->fd,
		       region_info(vfio, region).offset + offset);

	if (p == MAP_FAILED)
		die("mmap of a BAR");
	return p;
}

int vfio_region_rw(const struct vfio *vfio, unsigned int region, uint64_t offset,
		   void *data, size_t size, bool write)
{
	off_t at = region_info(vfio, region).offset + offset;
	ssize_t n = write ? pwrite(vfio->fd, data, size, at) :
			    pread(vfio->fd, data, size, at);

	return n < 0 ? -errno : n == (ssize_t)size ? 0 : -EIO;
}

uint32_t vfio_config_read(const struct vfio *vfio, unsigned int offset, size_t size)
{
	uint32_t value = 0;

	if (vfio_region_rw(vfio, VFIO_PCI_CONFIG_REGION_INDEX, offset, &value, size, false))
		die("reading configuration space");
	return value;
}

int vfio_config_write(const struct vfio *vfio, unsigned int offset, size_t size,
		      uint32_t value)
{
	return vfio_region_rw(vfio, VFIO_PCI_CONFIG_REGION_INDEX, offset, &value, size,
			      true);
}

unsigned int vfio_capability(const struct vfio *vfio, uint8_t id)
{
	unsigned int at = vfio_config_read(vfio, PCI_CAPABILITY_LIST, 1);

	while (at && vfio_config_read(vfio, at + PCI_CAP_LIST_ID, 1) != id)
		at = vfio_config_read(vfio, at + PCI_CAP_LIST_NEXT, 1);
	return at;
}

int vfio_memory(const struct vfio *vfio, bool on)
{
	uint32_t command = vfio_config_read(vfio, PCI_COMMAND, 2);

	return vfio_config_write(vfio, PCI_COMMAND, 2, on ?
				 command | PCI_COMMAND_MEMORY :
				 command & ~PCI_COMMAND_MEMORY);
}

int vfio_set_power(const struct vfio *vfio, unsigned int state)
{
	unsigned int at = vfio_capability(vfio, PCI_CAP_ID_PM);
	uint32_t control;

	if (!at)
		return -ENODEV;
	control = vfio_config_read(vfio, at + PCI_PM_CTRL, 2) & ~PCI_PM_CTRL_STATE_MASK;
	return vfio_config_write(vfio, at + PCI_PM_CTRL, 2, control | state);
}

int vfio_reset(const struct vfio *vfio)
{
	return result(ioctl(vfio->fd, VFIO_DEVICE_RESET));
}

int vfio_hot_reset(const struct vfio *vfio, const struct vfio *group)
{
	struct {
		struct vfio_pci_hot_reset head;
		__s32 groups[1];
	} reset = { .head.argsz = sizeof(reset) };

	if (vfio->interface != CDEV) {
		reset.head.count = 1;
		reset.groups[0] = group->group;
	}
	return result(ioctl(vfio->fd, VFIO_DEVICE_PCI_HOT_RESET, &reset));
}

int vfio_feature(const struct vfio *vfio, uint32_t flags, void *payload, size_t size)
{
	struct vfio_device_feature *feature = calloc(1, sizeof(*feature) + size);
	int ret;

	if (!feature)
		die("calloc");
	feature->argsz = sizeof(*feature) + size;
	feature->flags = flags;
	if (size)
		memcpy(feature->data, payload, size);
	ret = result(ioctl(vfio->fd, VFIO_DEVICE_FEATURE, feature));
	if (size)
		memcpy(payload, feature->data, size);
	free(feature);
	return ret;
}

int vfio_eventfd(const struct vfio *vfio, unsigned int irq)
{
	struct {
		struct vfio_irq_set head;
		__s32 fd;
	} set = {
		.head = {
			.argsz = sizeof(set),
			.flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER,
			.index = irq,
			.count = 1,
		},
		.fd = eventfd(0, EFD_CLOEXEC),
	};

	if (set.fd < 0 || ioctl(vfio->fd, VFIO_DEVICE_SET_IRQS, &set))
		die("eventfd");
	return set.fd;
}

static sigjmp_buf refused;

static void on_sigbus(int signal)
{
	siglongjmp(refused, signal);
}

bool reachable(volatile uint64_t *at, bool write)
{
	struct sigaction action = { .sa_handler = on_sigbus }, old;
	volatile bool got_through = false;

	sigaction(SIGBUS, &action, &old);
	if (!sigsetjmp(refused, 1)) {
		if (write)
			*at = 0xbad;
		else
			(void)*at;
		got_through = true;
	}
	sigaction(SIGBUS, &old, NULL);
	return got_through;
}

/* dma-bufs */

int export_ranges(const struct vfio *vfio, uint32_t region, uint32_t open_flags,
		  const struct vfio_region_dma_range *ranges, uint32_t count)
{
	struct vfio_device_feature_dma_buf *payload;
	size_t size = sizeof(*payload) + count * sizeof(*ranges);
	int ret;

	payload = calloc(1, size);
	if (!payload)
		die("calloc");
	payload->region_index = region;
	payload->open_flags = open_flags;
	payload->nr_ranges = count;
	if (count)
		memcpy(payload->dma_ranges, ranges, count * sizeof(*ranges));
	ret = vfio_feature(vfio, VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_DMA_BUF,
			   payload, size);
	free(payload);
	return ret;
}

int export_range(const struct vfio *vfio, uint32_t region, uint64_t offset,
		 uint64_t length)
{
	struct vfio_region_dma_range range = { .offset = offset, .length = length };

	return export_ranges(vfio, region, O_RDWR | O_CLOEXEC, &range, 1);
}

int dmabuf_revoke(const struct vfio *vfio, int dmabuf)
{
	struct vfio_device_feature_dma_buf_revoke request = { .dmabuf_fd = dmabuf };

	return vfio_feature(vfio, VFIO_DEVICE_FEATURE_SET |
			    VFIO_DEVICE_FEATURE_DMA_BUF_REVOKE, &request, sizeof(request));
}

/* The importer */

int importer_attach_limited(const char *device, int dmabuf, uint32_t flags,
			    uint32_t address_bits, uint32_t max_segment)
{
	struct dma_buf_importer_attach arg = {
		.dmabuf_fd = dmabuf,
		.flags = flags,
		.address_bits = address_bits,
		.max_segment = max_segment,
	};
	int fd = open("/dev/dma_buf_importer", O_RDWR | O_CLOEXEC), ret;

	if (fd < 0)
		die("/dev/dma_buf_importer");
	snprintf(arg.device, sizeof(arg.device), "%s", device);
	ret = result(ioctl(fd, DMA_BUF_IMPORTER_ATTACH, &arg));
	if (!ret)
		return fd;
	close(fd);
	return ret;
}

int importer_attach(const char *device, int dmabuf, uint32_t flags)
{
	return importer_attach_limited(device, dmabuf, flags, 0, 0);
}

int importer_map(int importer)
{
	return result(ioctl(importer, DMA_BUF_IMPORTER_MAP));
}

int importer_unmap(int importer)
{
	return result(ioctl(importer, DMA_BUF_IMPORTER_UNMAP));
}

static int copy(int importer, uint64_t offset, void *data, uint32_t length,
		uint32_t direction, bool force)
{
	struct dma_buf_importer_copy arg = {
		.offset = offset,
		.length = length,
		.direction = direction,
		.force = force,
		.data = (uintptr_t)data,
	};

	return result(ioctl(importer, DMA_BUF_IMPORTER_COPY, &arg));
}

int importer_copy(int importer, uint64_t offset, void *data, uint32_t length,
		  uint32_t direction)
{
	return copy(importer, offset, data, length, direction, false);
}

int importer_force(int importer, uint64_t offset, void *data, uint32_t length,
		   uint32_t direction)
{
	return copy(importer, offset, data, length, direction, true);
}

int importer_loop(int importer, uint64_t offset)
{
	__u64 arg = offset;

	return result(ioctl(importer, DMA_BUF_IMPORTER_LOOP, &arg));
}

int importer_stop(int importer)
{
	return result(ioctl(importer, DMA_BUF_IMPORTER_STOP));
}

int importer_fence(int importer, uint32_t milliseconds)
{
	__u32 arg = milliseconds;

	return result(ioctl(importer, DMA_BUF_IMPORTER_FENCE, &arg));
}

struct dma_buf_importer_status importer_status(int importer)
{
	struct dma_buf_importer_status status;

	if (ioctl(importer, DMA_BUF_IMPORTER_STATUS, &status))
		die("status of the importer");
	return status;
}

bool importer_copies(int importer, uint32_t copies)
{
	uint64_t end = milliseconds() + 10000;

	while (importer_status(importer).copies < copies) {
		if (milliseconds() > end)
			return false;
		sleep_ms(10);
	}
	return true;
}

int importer_segments(int importer, struct dma_buf_importer_segment *segments,
		      uint32_t room)
{
	struct dma_buf_importer_segments arg = {
		.count = room,
		.entries = (uintptr_t)segments,
	};

	if (ioctl(importer, DMA_BUF_IMPORTER_SEGMENTS, &arg))
		die("segments of the importer");
	return arg.count;
}

/* The machine */

static int qmp_open(void)
{
	static const char ports[] = "/sys/class/virtio-ports";
	char path[300], name[32] = "";
	struct dirent *entry;
	DIR *dir = opendir(ports);
	int fd = -1;

	while (dir && fd < 0 && (entry = readdir(dir))) {
		FILE *f;

		snprintf(path, sizeof(path), "%s/%.32s/name", ports, entry->d_name);
		f = fopen(path, "r");
		if (f && fgets(name, sizeof(name), f) && !strcmp(name, "monitor\n")) {
			snprintf(path, sizeof(path), "/dev/%s", entry->d_name);
			fd = open(path, O_RDWR | O_CLOEXEC);
		}
		if (f)
			fclose(f);
	}
	if (dir)
		closedir(dir);
	return fd;
}

/* Reads lines until one answers a command; true: it was done. */
static bool qmp_answer(FILE *in)
{
	char line[4096];

	while (fgets(line, sizeof(line), in)) {
		/* What an old-style command says is text, returned in any case. */
		if (!strncmp(line, "{\"return\"", 9) || !strncmp(line, "{\"error\"", 8))
			return !strcasestr(line, "error");
	}
	die("the monitor of QEMU");
}

bool qmp(const char *command)
{
	int fd = qmp_open();
	bool done;
	FILE *in;

	if (fd < 0)
		ksft_exit_fail_msg("the machine has no port to the monitor of QEMU\n");
	in = fdopen(fd, "r");
	if (!in)
		die("fdopen");
	/* Once would do, but there is no harm in asking again. */
	dprintf(fd, "{\"execute\":\"qmp_capabilities\"}\n");
	qmp_answer(in);
	dprintf(fd, "%s\n", command);
	done = qmp_answer(in);
	fclose(in);
	return done;
}

char task_state(pid_t tid)
{
	char path[32], state = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/stat", tid);
	f = fopen(path, "r");
	if (!f)
		return 0;
	/* The names of our threads have neither blanks nor brackets. */
	if (fscanf(f, "%*s %*s %c", &state) != 1)
		state = 0;
	fclose(f);
	return state;
}

int log_open(void)
{
	int log = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);

	if (log < 0 || lseek(log, 0, SEEK_END) < 0)
		die("/dev/kmsg");
	return log;
}

bool log_has(int log, const char *text)
{
	uint64_t end = milliseconds() + 1000;
	char record[4096];

	while (milliseconds() < end) {
		ssize_t len = read(log, record, sizeof(record) - 1);

		if (len < 0 && errno == EAGAIN)
			sleep_ms(20);
		if (len < 0)
			continue;
		record[len] = '\0';
		if (strstr(record, text))
			return true;
	}
	return false;
}

bool aer_inject(const char *error)
{
	char command[160];
	int log = log_open();
	bool recovered = false;

	snprintf(command, sizeof(command),
		 "{\"execute\":\"human-monitor-command\",\"arguments\":"
		 "{\"command-line\":\"pcie_aer_inject_error port11 %s\"}}", error);
	if (qmp(command))
		for (int i = 0; i < 20 && !recovered; i++)
			recovered = log_has(log, "device recovery successful");
	close(log);
	return recovered;
}

bool nvme_unplug(void)
{
	return qmp("{\"execute\":\"device_del\",\"arguments\":{\"id\":\"nvme\"}}");
}

void nvme_plug(void)
{
	for (int i = 0; i < 100; i++) {
		if (qmp("{\"execute\":\"device_add\",\"arguments\":{"
			"\"driver\":\"nvme\",\"id\":\"nvme\",\"serial\":\"p2p\","
			"\"cmb_size_mb\":64,\"bus\":\"port13\"}}"))
			break;
		sleep_ms(100);
	}
}

static long count_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	long n = 0;

	if (!dir)
		die("/proc/self/fd");
	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

/* Lines of a file that have @text. */
static long count_lines(const char *path, const char *text)
{
	FILE *f = fopen(path, "r");
	char line[512];
	long n = 0;

	if (!f)
		die(path);
	while (fgets(line, sizeof(line), f))
		n += !!strstr(line, text);
	fclose(f);
	return n;
}

struct held held_of(const char *exporter)
{
	static const char bufinfo[] = "/sys/kernel/debug/dma_buf/bufinfo";
	struct held h = { .fds = count_fds() };
	FILE *f = fopen(bufinfo, "r");
	char line[256], name[32];
	bool counts = false;
	long n;

	if (!f)
		die(bufinfo);
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%*u\t%*x\t%*x\t%*d\t%31s", name) == 1) {
			counts = strstr(name, exporter);
			h.buffers += counts;
		} else if (counts && strstr(line, "devices attached") &&
			   sscanf(line, "Total %ld", &n) == 1) {
			h.attachments += n;
		}
	}
	fclose(f);
	if (!access("/sys/kernel/debug/dma-api/dump", R_OK))
		h.mappings = count_lines("/sys/kernel/debug/dma-api/dump", " resource ");
	return h;
}

struct held held(void)
{
	return held_of("");
}

bool module_parameter(const char *module, const char *name, const char *value)
{
	char path[128];

	snprintf(path, sizeof(path), "/sys/module/%s/parameters/%s", module, name);
	return !write_text(path, value);
}

long vfio_parameter(const char *name, long value)
{
	char path[128];
	long old;
	FILE *f;

	snprintf(path, sizeof(path), "/sys/module/vfio_pci_core/parameters/%s", name);
	f = fopen(path, "r+");
	if (!f || fscanf(f, "%ld", &old) != 1)
		die(path);
	rewind(f);
	fprintf(f, "%ld\n", value);
	if (fclose(f))
		die(path);
	return old;
}
