// SPDX-License-Identifier: GPL-2.0
/* The example of Documentation/userspace-api/udmabuf.rst, run as a test. */
/* Documentation/userspace-api/udmabuf.rst shows this. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <linux/dma-buf.h>
#include <linux/udmabuf.h>

#define UNIT	65536		/* a multiple of every page size that there is */
#define SIZE	(16 * UNIT)

/* Tells the kernel that the CPU begins, or ends, to access the buffer. */
static int cpu_access(int fd, __u64 flags)
{
	struct dma_buf_sync sync = { .flags = flags };
	int ret;

	do {
		ret = ioctl(fd, DMA_BUF_IOCTL_SYNC, &sync);
	} while (ret && (errno == EINTR || errno == EAGAIN));
	return ret;
}

/* A dma-buf with @size bytes of @memfd from @offset on; -1 and errno if not. */
static int share(int memfd, __u64 offset, __u64 size)
{
	struct udmabuf_create create = {
		.memfd = memfd,
		.flags = UDMABUF_FLAGS_CLOEXEC,
		.offset = offset,
		.size = size,
	};
	int dev = open("/dev/udmabuf", O_RDWR | O_CLOEXEC);
	int fd = -1;

	if (dev >= 0) {
		fd = ioctl(dev, UDMABUF_CREATE, &create);
		close(dev);
	}
	return fd;
}

int main(void)
{
	static const char text[] = "drawn by the guest";
	int memfd, fd;
	char *ram, *screen;

	printf("TAP version 13\n1..1\n");

	/* The guest's RAM, so to say. */
	memfd = memfd_create("ram", MFD_ALLOW_SEALING | MFD_CLOEXEC);
	if (memfd < 0 || ftruncate(memfd, SIZE) ||
	    fcntl(memfd, F_ADD_SEALS, F_SEAL_SHRINK))
		goto failed;
	ram = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);

	/* Its framebuffer: four units, from the third on. */
	fd = share(memfd, 2 * UNIT, 4 * UNIT);
	if (ram == MAP_FAILED || fd < 0)
		goto failed;
	memcpy(ram + 2 * UNIT, text, sizeof(text));

	/* All processes that get the descriptor see it. */
	screen = mmap(NULL, 4 * UNIT, PROT_READ, MAP_SHARED, fd, 0);
	if (screen == MAP_FAILED ||
	    cpu_access(fd, DMA_BUF_SYNC_START | DMA_BUF_SYNC_READ))
		goto failed;
	if (strcmp(screen, text))
		goto failed;
	if (cpu_access(fd, DMA_BUF_SYNC_END | DMA_BUF_SYNC_READ))
		goto failed;

	printf("ok 1 example\n");
	return 0;
failed:
	perror("udmabuf");
	printf("not ok 1 example\n");
	return 1;
}
