// SPDX-License-Identifier: GPL-2.0
/* The example of Documentation/userspace-api/vfio-pci-dma-buf.rst, run as a test. */
/* Documentation/userspace-api/vfio-pci-dma-buf.rst shows this. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/vfio.h>

#define SLICE	65536		/* a multiple of every page size that there is */

/* Opens /dev/vfio/devices/vfioN; -1 and errno if that can't be had. */
static int open_device(const char *path)
{
	struct vfio_device_bind_iommufd bind = {
		.argsz = sizeof(bind),
		.iommufd = open("/dev/iommu", O_RDWR | O_CLOEXEC),
	};
	int device = open(path, O_RDWR | O_CLOEXEC);

	if (ioctl(device, VFIO_DEVICE_BIND_IOMMUFD, &bind))
		return -1;
	return device;
}

/* A dma-buf of two slices of a BAR, its first and its third; -1 and errno if not. */
static int lend(int device, uint32_t bar)
{
	struct {
		struct vfio_device_feature header;
		struct vfio_device_feature_dma_buf request;
		struct vfio_region_dma_range ranges[2];
	} feature = {
		.header.argsz = sizeof(feature),
		.header.flags = VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_DMA_BUF,
		.request.region_index = bar,
		.request.open_flags = O_RDWR | O_CLOEXEC,
		.request.nr_ranges = 2,
		.ranges = {
			{ .offset = 0, .length = SLICE },
			{ .offset = 2 * SLICE, .length = SLICE },
		},
	};

	return ioctl(device, VFIO_DEVICE_FEATURE, &feature);
}

/* Ends the loan: on success nobody reaches the device by the dma-buf any more. */
static int take_back(int device, int dmabuf)
{
	struct {
		struct vfio_device_feature header;
		struct vfio_device_feature_dma_buf_revoke request;
	} feature = {
		.header.argsz = sizeof(feature),
		.header.flags = VFIO_DEVICE_FEATURE_SET |
				VFIO_DEVICE_FEATURE_DMA_BUF_REVOKE,
		.request.dmabuf_fd = dmabuf,
	};

	return ioctl(device, VFIO_DEVICE_FEATURE, &feature);
}

/* One byte of data that goes with the descriptor, or -1. */
static int send_fd(int socket, int fd)
{
	char control[CMSG_SPACE(sizeof(fd))] = {};
	struct iovec byte = { .iov_base = "", .iov_len = 1 };
	struct msghdr message = {
		.msg_iov = &byte, .msg_iovlen = 1,
		.msg_control = control, .msg_controllen = sizeof(control),
	};
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);

	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(fd));
	memcpy(CMSG_DATA(header), &fd, sizeof(fd));
	return sendmsg(socket, &message, 0);
}

static int receive_fd(int socket)
{
	char control[CMSG_SPACE(sizeof(int))], data;
	struct iovec byte = { .iov_base = &data, .iov_len = 1 };
	struct msghdr message = {
		.msg_iov = &byte, .msg_iovlen = 1,
		.msg_control = control, .msg_controllen = sizeof(control),
	};
	int fd = -1;

	if (recvmsg(socket, &message, 0) == 1 && CMSG_FIRSTHDR(&message))
		memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(fd));
	return fd;
}

static sigjmp_buf gone;

static void on_sigbus(int signal)
{
	siglongjmp(gone, signal);
}

/* The process that borrows: 0 if it could use the slices until they were taken back. */
static int borrow(int socket)
{
	int fd = receive_fd(socket);
	volatile uint32_t *slices = mmap(NULL, 2 * SLICE, PROT_READ | PROT_WRITE,
					 MAP_SHARED, fd, 0);
	char byte = 0;

	if (slices == MAP_FAILED)
		return 1;
	signal(SIGBUS, on_sigbus);
	if (sigsetjmp(gone, 1))
		return 2;			/* too early */

	slices[SLICE / sizeof(*slices)] = 4711;	/* the BAR's third slice */
	if (slices[SLICE / sizeof(*slices)] != 4711)
		return 3;

	/* "I have used it", and wait until the owner has taken it back. */
	if (write(socket, &byte, 1) != 1 || read(socket, &byte, 1) != 1)
		return 4;
	if (sigsetjmp(gone, 1))
		return 0;			/* as it should be */
	slices[0] = 1;
	return 5;
}

int main(int argc, char **argv)
{
	int device, fd, sockets[2], status;
	char byte;

	printf("TAP version 13\n1..1\n");

	device = argc == 3 ? open_device(argv[1]) : -1;
	fd = device >= 0 ? lend(device, argv[2][0] - '0') : -1;
	if (fd < 0 || socketpair(AF_UNIX, SOCK_STREAM, 0, sockets))
		goto failed;
	if (!fork()) {
		close(device);			/* it has the dma-buf, not the device */
		_exit(borrow(sockets[1]));
	}
	if (send_fd(sockets[0], fd) != 1 || read(sockets[0], &byte, 1) != 1)
		goto failed;
	if (take_back(device, fd))
		goto failed;
	if (write(sockets[0], &byte, 1) != 1 || wait(&status) < 0 || status)
		goto failed;

	printf("ok 1 a slice was lent, used, and taken back\n");
	return 0;

failed:
	printf("not ok 1 usage: %s /dev/vfio/devices/vfioN BAR: %s\n", argv[0],
	       strerror(errno));
	return 1;
}
