// SPDX-License-Identifier: GPL-2.0
/*
 * First and only process of the guest that scripts/demo looks at: shows two
 * pictures, one after the other, in one dumb buffer of the display.
 *
 * It tells on standard output, which is the serial console, when a picture is
 * shown, and reads a line before it goes on.  The pictures are files of
 * WIDTH * HEIGHT little-endian XRGB8888 pixels in the initramfs.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <stdnoreturn.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <unistd.h>

#include <drm/drm.h>
#include <drm/drm_mode.h>

#define CARD	"/dev/dri/card0"
#define WIDTH	1024
#define HEIGHT	768
#define DEPTH	24
#define BPP	32

struct screen {
	int fd;			/* of the display device */
	__u32 connector;
	__u32 crtc;
	struct drm_mode_modeinfo mode;
	struct drm_mode_create_dumb dumb;
	void *pixels;		/* dumb.size bytes */
	__u32 fb;
};

/* The machine has no ACPI to power off with; a reboot is the end of QEMU. */
static noreturn void end_machine(void)
{
	fflush(stdout);
	reboot(RB_AUTOBOOT);
	for (;;)
		pause();
}

static noreturn void fail(const char *what)
{
	printf("failed: %s: %s\n", what, strerror(errno));
	end_machine();
}

static void drm_ioctl(const struct screen *screen, unsigned long request,
		      void *argument, const char *what)
{
	if (ioctl(screen->fd, request, argument))
		fail(what);
}

static void *ids(__u32 count)
{
	void *array = calloc(count + 1, sizeof(__u32));

	if (!array)
		fail("calloc");
	return array;
}

/* The first CRTC that an encoder can be driven by. */
static __u32 crtc_of(const struct screen *screen, __u32 encoder,
		     const __u32 *crtcs)
{
	struct drm_mode_get_encoder get = { .encoder_id = encoder };

	drm_ioctl(screen, DRM_IOCTL_MODE_GETENCODER, &get, "GETENCODER");
	if (!get.possible_crtcs) {
		errno = ENODEV;
		fail("a CRTC for the connector");
	}
	return crtcs[__builtin_ctz(get.possible_crtcs)];
}

/* Takes the connector if it is connected and has our mode. */
static int try_connector(struct screen *screen, __u32 id, const __u32 *crtcs)
{
	struct drm_mode_get_connector get = { .connector_id = id };
	struct drm_mode_modeinfo *modes;
	__u32 *encoders, i;

	/* With no room for modes, the call looks for them first. */
	drm_ioctl(screen, DRM_IOCTL_MODE_GETCONNECTOR, &get, "GETCONNECTOR");
	if (get.connection != 1 || !get.count_modes || !get.count_encoders)
		return 0;

	modes = calloc(get.count_modes, sizeof(*modes));
	if (!modes)
		fail("calloc");
	encoders = ids(get.count_encoders);
	get.modes_ptr = (uintptr_t)modes;
	get.encoders_ptr = (uintptr_t)encoders;
	get.count_props = 0;
	drm_ioctl(screen, DRM_IOCTL_MODE_GETCONNECTOR, &get, "GETCONNECTOR");

	for (i = 0; i < get.count_modes; i++) {
		if (modes[i].hdisplay != WIDTH || modes[i].vdisplay != HEIGHT)
			continue;
		screen->connector = id;
		screen->crtc = crtc_of(screen, encoders[0], crtcs);
		screen->mode = modes[i];
		return 1;
	}
	return 0;
}

static void find_connector(struct screen *screen)
{
	struct drm_mode_card_res get = {};
	__u32 *crtcs, *connectors, i;

	drm_ioctl(screen, DRM_IOCTL_MODE_GETRESOURCES, &get,
		  "GETRESOURCES (wants CONFIG_DRM_VIRTIO_GPU_KMS)");
	crtcs = ids(get.count_crtcs);
	connectors = ids(get.count_connectors);
	get.crtc_id_ptr = (uintptr_t)crtcs;
	get.connector_id_ptr = (uintptr_t)connectors;
	get.count_fbs = 0;
	get.count_encoders = 0;
	drm_ioctl(screen, DRM_IOCTL_MODE_GETRESOURCES, &get, "GETRESOURCES");

	for (i = 0; i < get.count_connectors; i++)
		if (try_connector(screen, connectors[i], crtcs))
			return;
	errno = ENODEV;
	fail("a connected screen with the mode of the pictures");
}

static void create_buffer(struct screen *screen)
{
	struct drm_mode_map_dumb map = {};

	screen->dumb.width = WIDTH;
	screen->dumb.height = HEIGHT;
	screen->dumb.bpp = BPP;
	drm_ioctl(screen, DRM_IOCTL_MODE_CREATE_DUMB, &screen->dumb,
		  "CREATE_DUMB");
	map.handle = screen->dumb.handle;
	drm_ioctl(screen, DRM_IOCTL_MODE_MAP_DUMB, &map, "MAP_DUMB");
	screen->pixels = mmap(NULL, screen->dumb.size, PROT_READ | PROT_WRITE,
			      MAP_SHARED, screen->fd, map.offset);
	if (screen->pixels == MAP_FAILED)
		fail("mmap of the dumb buffer");
}

/* Reads a picture straight into the dumb buffer, line by line. */
static void draw(const struct screen *screen, const char *file)
{
	const size_t line = WIDTH * BPP / 8;
	int fd = open(file, O_RDONLY);
	int y;

	if (fd < 0)
		fail(file);
	for (y = 0; y < HEIGHT; y++) {
		errno = EIO;	/* for a picture that is too short */
		if (read(fd, screen->pixels + y * screen->dumb.pitch, line) !=
		    (ssize_t)line)
			fail(file);
	}
	close(fd);
}

static void show(struct screen *screen)
{
	struct drm_mode_fb_cmd add = {
		.width = WIDTH,
		.height = HEIGHT,
		.pitch = screen->dumb.pitch,
		.bpp = BPP,
		.depth = DEPTH,
		.handle = screen->dumb.handle,
	};
	struct drm_mode_crtc set = {
		.set_connectors_ptr = (uintptr_t)&screen->connector,
		.count_connectors = 1,
		.crtc_id = screen->crtc,
		.mode_valid = 1,
		.mode = screen->mode,
	};

	drm_ioctl(screen, DRM_IOCTL_MODE_ADDFB, &add, "ADDFB");
	screen->fb = add.fb_id;
	set.fb_id = add.fb_id;
	drm_ioctl(screen, DRM_IOCTL_MODE_SETCRTC, &set, "SETCRTC");
}

static void show_again(struct screen *screen)
{
	struct drm_mode_fb_dirty_cmd dirty = { .fb_id = screen->fb };

	drm_ioctl(screen, DRM_IOCTL_MODE_DIRTYFB, &dirty, "DIRTYFB");
}

static void say_and_wait(const char *text)
{
	char line[64];

	puts(text);
	if (!fgets(line, sizeof(line), stdin))
		fail("a line on the console");
}

int main(void)
{
	struct screen screen = {};

	setlinebuf(stdout);
	puts("first process runs");
	if (mount("devtmpfs", "/dev", "devtmpfs", 0, NULL))
		fail("mount of devtmpfs");
	screen.fd = open(CARD, O_RDWR);
	if (screen.fd < 0)
		fail(CARD);

	find_connector(&screen);
	create_buffer(&screen);
	draw(&screen, "/picture1");
	show(&screen);
	say_and_wait("picture 1 shown");
	draw(&screen, "/picture2");
	show_again(&screen);
	say_and_wait("picture 2 shown");
	end_machine();
}
