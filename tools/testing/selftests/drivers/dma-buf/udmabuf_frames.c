// SPDX-License-Identifier: GPL-2.0
/*
 * Windows that move: what a Wayland compositor does with wl_shm and udmabuf.
 *
 * usage: udmabuf_frames [FRAMES [FILE]]
 *
 * A client draws frames into a pool of buffers in a memfd, which it shares with a
 * compositor. For every frame the compositor makes a udmabuf of its buffer, imports
 * it in vkms, flips the screen to it, and drops the one before. vkms says the
 * checksum of what it scans out: it has to be that of a frame as the client drew it,
 * of this one or of the one before, and every frame has to be seen.
 *
 * The last frame's pixels are written to FILE. Needs vkms and root.
 */
#define HEIGHT	768

#include <poll.h>
#include <sys/socket.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>

#include "udmabuf_drm.h"

#define BUFFERS		3
#define FRAME		(HEIGHT * PAGE)
#define BOX		160

/* What goes over the socket: the client's with the first one's memfd, or a release. */
struct message {
	uint32_t buffer;
	uint32_t crc;
};

/* Checksums: of a line as vkms composes it, 16 bits for each of a, r, g and b */

static uint32_t crc_table[256];

static void crc_init(void)
{
	for (uint32_t i = 0; i < 256; i++) {
		crc_table[i] = i;
		for (int bit = 0; bit < 8; bit++)
			crc_table[i] = crc_table[i] >> 1 ^ (crc_table[i] & 1 ? 0xedb88320 : 0);
	}
}

/* A byte of a color, twice: times 257. */
static uint32_t crc_twice(uint32_t crc, uint32_t byte)
{
	crc = crc >> 8 ^ crc_table[(crc ^ byte) & 0xff];
	return crc >> 8 ^ crc_table[(crc ^ byte) & 0xff];
}

static uint32_t crc_frame(const uint32_t *pixels)
{
	uint32_t crc = 0;

	for (size_t i = 0; i < WIDTH * HEIGHT; i++) {
		crc = crc_twice(crc, 0xff);
		crc = crc_twice(crc, pixels[i] >> 16 & 0xff);
		crc = crc_twice(crc, pixels[i] >> 8 & 0xff);
		crc = crc_twice(crc, pixels[i] & 0xff);
	}
	return crc;
}

/* The client */

/* Where a box is that moves between 0 and end, and turns there. */
static unsigned int bounce(unsigned int at, unsigned int end)
{
	at %= 2 * end;
	return at < end ? at : 2 * end - at;
}

/* A box before a sky; every frame is another. */
static void draw(uint32_t *pixels, unsigned int frame)
{
	unsigned int left = bounce(9 * frame, WIDTH - BOX);
	unsigned int top = bounce(7 * frame, HEIGHT - BOX);

	for (unsigned int y = 0; y < HEIGHT; y++)
		for (unsigned int x = 0; x < WIDTH; x++)
			pixels[y * WIDTH + x] = (y / 6) << 16 | (x / 8) << 8 | 0x60;
	for (unsigned int y = top; y < top + BOX; y++)
		for (unsigned int x = left; x < left + BOX; x++)
			pixels[y * WIDTH + x] = 0xffc000 + (frame << 4 & 0xff) +
						((x - left) / 20 + (y - top) / 20) % 2 * 0x3f00;
}

/* If the compositor has ended, the client ends silently: the compositor reports why. */
static void send_message(int sock, struct message message, int fd)
{
	union {
		char space[CMSG_SPACE(sizeof(int))];
		struct cmsghdr header;
	} control = { .header = {
		.cmsg_len = CMSG_LEN(sizeof(int)),
		.cmsg_level = SOL_SOCKET,
		.cmsg_type = SCM_RIGHTS,
	} };
	struct iovec data = { &message, sizeof(message) };
	struct msghdr header = { .msg_iov = &data, .msg_iovlen = 1 };

	if (fd >= 0) {
		memcpy(CMSG_DATA(&control.header), &fd, sizeof(fd));
		header.msg_control = &control;
		header.msg_controllen = sizeof(control);
	}
	if (sendmsg(sock, &header, MSG_NOSIGNAL) != sizeof(message))
		_exit(1);
}

/* False at the end.  The descriptor that came along is in *fd. */
static bool receive_message(int sock, struct message *message, int *fd)
{
	union {
		char space[CMSG_SPACE(sizeof(int))];
		struct cmsghdr header;
	} control;
	struct iovec data = { message, sizeof(*message) };
	struct msghdr header = {
		.msg_iov = &data,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};
	ssize_t size = recvmsg(sock, &header, MSG_CMSG_CLOEXEC);

	if (size && size != sizeof(*message))
		die("recvmsg");
	if (size && fd && header.msg_controllen >= CMSG_LEN(sizeof(int)))
		memcpy(fd, CMSG_DATA(&control.header), sizeof(*fd));
	return size;
}

/* Draws into what is not on the screen, and never waits for anything else. */
static void client(int sock, unsigned int frames)
{
	int pool = memfd_new(SHMEM, BUFFERS * FRAME);
	char *map = map_shared(pool, BUFFERS * FRAME, PROT_READ | PROT_WRITE);
	struct message message;

	for (unsigned int i = 0; i < frames; i++) {
		uint32_t *pixels;

		if (i < BUFFERS)
			message.buffer = i;
		else if (!receive_message(sock, &message, NULL))
			_exit(1);
		pixels = (uint32_t *)(map + message.buffer * FRAME);
		draw(pixels, i);
		message.crc = crc_frame(pixels);
		send_message(sock, message, i ? -1 : pool);
	}
}

/* The compositor */

/**
 * struct screen - vkms's virtual monitor, on which frames move
 * @drm: the device, of which we are master
 * @screen: which that is
 * @crc: the checksums of what it scans out
 * @composed: how many of them were read
 */
struct screen {
	int drm;
	struct vkms_screen screen;
	int crc;
	unsigned int composed;
};

/**
 * struct frame - what is on the screen
 * @fb: its framebuffer, which keeps the import; 0: nothing is
 * @sent: the client's message: its buffer, and its checksum
 */
struct frame {
	uint32_t fb;
	struct message sent;
};

static void screen_open(struct screen *s)
{
	s->drm = drm_open("vkms");
	s->screen = vkms_screen(s->drm);
}

/* Shows the first frame: a screen that is off has no checksums. */
static void switch_on(struct screen *s, uint32_t fb)
{
	char directory[64], path[80];
	struct stat st;

	if (vkms_show_fb(s->drm, &s->screen, fb))
		die("DRM_IOCTL_MODE_SETCRTC");
	if (fstat(s->drm, &st))
		die("vkms");
	snprintf(directory, sizeof(directory), "/sys/kernel/debug/dri/%u/crtc-0/crc",
		 minor(st.st_rdev));
	snprintf(path, sizeof(path), "%s/control", directory);
	write_file(path, "auto");
	snprintf(path, sizeof(path), "%s/data", directory);
	s->crc = open(path, O_RDONLY | O_CLOEXEC);
	if (s->crc < 0)
		die(path);
}

static uint32_t next_crc(struct screen *s)
{
	struct pollfd data = { .fd = s->crc, .events = POLLIN };
	char line[64] = "";
	uint32_t crc;

	errno = ETIMEDOUT;
	if (poll(&data, 1, 60000) != 1 || read(s->crc, line, sizeof(line) - 1) <= 0 ||
	    sscanf(line, "%*x %x", &crc) != 1)
		die("checksum of a frame");
	s->composed++;
	return crc;
}

/* A udmabuf, imported, as a framebuffer: which is all that is kept. */
static uint32_t import(struct screen *s, int dev, int pool, uint32_t buffer)
{
	struct dma_buf_sync sync = { DMA_BUF_SYNC_START | DMA_BUF_SYNC_READ };
	int fd = udmabuf_create(dev, pool, buffer * FRAME, FRAME);
	uint32_t handle, fb;

	if (fd < 0)
		die("UDMABUF_CREATE");
	if (drm_import(s->drm, fd, &handle) || vkms_add_fb(s->drm, handle, &fb))
		die("import");
	if (ioctl(fd, DMA_BUF_IOCTL_SYNC, &sync))
		die("DMA_BUF_IOCTL_SYNC");
	sync.flags = DMA_BUF_SYNC_END | DMA_BUF_SYNC_READ;
	if (ioctl(fd, DMA_BUF_IOCTL_SYNC, &sync) || drm_close_handle(s->drm, handle))
		die("import");
	close(fd);
	return fb;
}

static void flip(struct screen *s, uint32_t fb)
{
	struct drm_mode_crtc_page_flip flip = {
		.crtc_id = s->screen.crtc,
		.fb_id = fb,
		.flags = DRM_MODE_PAGE_FLIP_EVENT,
	};
	struct drm_event_vblank event;

	if (drm_ioctl(s->drm, DRM_IOCTL_MODE_PAGE_FLIP, &flip) ||
	    read(s->drm, &event, sizeof(event)) != sizeof(event) ||
	    event.base.type != DRM_EVENT_FLIP_COMPLETE)
		die("DRM_IOCTL_MODE_PAGE_FLIP");
}

/* Waits until the frame is seen; false if anything but it and the one before was. */
static bool seen(struct screen *s, const struct frame *shown, const struct frame *before)
{
	uint32_t crc;

	while ((crc = next_crc(s)) != shown->sent.crc)
		if (!before->fb || crc != before->sent.crc)
			return false;
	return true;
}

static void drop(struct screen *s, const struct frame *frame)
{
	uint32_t fb = frame->fb;

	if (fb && drm_ioctl(s->drm, DRM_IOCTL_MODE_RMFB, &fb))
		die("DRM_IOCTL_MODE_RMFB");
}

static void write_frame(const char *path, int pool, uint32_t buffer)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
	char *map = map_shared(pool, BUFFERS * FRAME, PROT_READ);

	if (fd < 0 || write(fd, map + buffer * FRAME, FRAME) != (ssize_t)FRAME)
		die(path);
	close(fd);
	munmap(map, BUFFERS * FRAME);
}

/* How many frames of the client's were seen, one after the other and whole. */
static unsigned int compositor(int sock, struct screen *s, const char *file)
{
	struct frame before = {}, shown = {};
	int dev = udmabuf_open(), pool = -1;
	unsigned int frames = 0;

	while (receive_message(sock, &shown.sent, &pool)) {
		shown.fb = import(s, dev, pool, shown.sent.buffer);
		if (before.fb)
			flip(s, shown.fb);
		else
			switch_on(s, shown.fb);
		if (!seen(s, &shown, &before)) {
			ksft_print_msg("frame %u is not what the client drew\n", frames);
			break;
		}
		frames++;
		drop(s, &before);
		if (before.fb)
			send(sock, &before.sent, sizeof(before.sent), MSG_NOSIGNAL);
		before = shown;
	}
	if (file && before.fb)
		write_frame(file, pool, before.sent.buffer);
	close(s->crc);
	if (vkms_show_fb(s->drm, &s->screen, 0))
		die("DRM_IOCTL_MODE_SETCRTC");
	drop(s, &shown);
	close(pool);
	close(dev);
	return frames;
}

static double seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec + now.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
	unsigned int frames = argc > 1 ? atoi(argv[1]) : 16, shown;
	struct held before, after;
	struct screen s = {};
	int socks[2], status;
	double start;
	pid_t pid;

	ksft_print_header();
	ksft_set_plan(2);
	vkms_on_one_cpu();
	crc_init();
	before = held();
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, socks))
		die("socketpair");
	start = seconds();
	pid = fork();
	if (!pid) {
		close(socks[0]);
		client(socks[1], frames);
		_exit(0);
	}
	close(socks[1]);
	screen_open(&s);
	shown = compositor(socks[0], &s, argc > 2 ? argv[2] : NULL);
	close(s.drm);
	close(socks[0]);
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		die("the client");

	ksft_print_msg("%u frames of %ux%u shown, each by a udmabuf of its own,\n", shown,
		       WIDTH, HEIGHT);
	ksft_print_msg("%u scanned out, in %.1f s\n", s.composed, seconds() - start);
	ksft_test_result(shown == frames && !status,
			 "every frame that was scanned out is what the client drew\n");
	after = held();
	ksft_test_result(after.pins == before.pins && after.buffers == before.buffers,
			 "no pin and no buffer is left\n");
	ksft_finished();
}
