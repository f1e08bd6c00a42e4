// SPDX-License-Identifier: GPL-2.0
/*
 * First and only process of the guest that scripts/demo looks at: shows two pictures, one
 * after the other, in one dumb buffer of the display.  It says when a picture is shown,
 * and reads a line before it goes on.  The pictures are files of WIDTH * HEIGHT
 * little-endian XRGB8888 pixels in the initramfs.
 */
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <drm/drm.h>
#include <drm/drm_mode.h>

#include "init.h"

#define CARD	"/dev/dri/card0"
#define WIDTH	1024
#define HEIGHT	768
#define LINE	(4 * WIDTH)

static int card;

static void drm_ioctl(unsigned long request, void *argument, const char *what)
{
	if (ioctl(card, request, argument))
		fail(what);
}

/* The first CRTC and the first connector: virtio-gpu has one of each, for one another. */
static struct drm_mode_crtc find_screen(__u32 *connector)
{
	static struct drm_mode_modeinfo modes[64];
	struct drm_mode_crtc crtc = {
		.set_connectors_ptr = (uintptr_t)connector,
		.count_connectors = 1,
		.mode_valid = 1,
	};
	struct drm_mode_card_res res = {
		.crtc_id_ptr = (uintptr_t)&crtc.crtc_id,
		.connector_id_ptr = (uintptr_t)connector,
		.count_crtcs = 1,
		.count_connectors = 1,
	};
	struct drm_mode_get_connector get = {};

	drm_ioctl(DRM_IOCTL_MODE_GETRESOURCES, &res,
		  "GETRESOURCES (wants CONFIG_DRM_VIRTIO_GPU_KMS)");
	get.connector_id = *connector;
	/* With no room for modes, the call looks for them first. */
	drm_ioctl(DRM_IOCTL_MODE_GETCONNECTOR, &get, "GETCONNECTOR");
	get = (struct drm_mode_get_connector) {
		.connector_id = *connector,
		.modes_ptr = (uintptr_t)modes,
		.count_modes = sizeof(modes) / sizeof(modes[0]),
	};
	drm_ioctl(DRM_IOCTL_MODE_GETCONNECTOR, &get, "GETCONNECTOR");
	for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
		crtc.mode = modes[i];
		if (modes[i].hdisplay == WIDTH && modes[i].vdisplay == HEIGHT)
			return crtc;
	}
	errno = ENODEV;
	fail("a connected screen with the mode of the pictures");
}

static char *create_buffer(struct drm_mode_fb_cmd *fb)
{
	struct drm_mode_create_dumb dumb = { .width = WIDTH, .height = HEIGHT, .bpp = 32 };
	struct drm_mode_map_dumb map = {};
	void *pixels;

	drm_ioctl(DRM_IOCTL_MODE_CREATE_DUMB, &dumb, "CREATE_DUMB");
	check(dumb.pitch == LINE, "the buffer's pitch");
	map.handle = dumb.handle;
	drm_ioctl(DRM_IOCTL_MODE_MAP_DUMB, &map, "MAP_DUMB");
	pixels = mmap(NULL, dumb.size, PROT_READ | PROT_WRITE, MAP_SHARED, card, map.offset);
	if (pixels == MAP_FAILED)
		fail("mmap of the dumb buffer");
	*fb = (struct drm_mode_fb_cmd) { .width = WIDTH, .height = HEIGHT, .pitch = LINE,
					 .bpp = 32, .depth = 24, .handle = dumb.handle };
	drm_ioctl(DRM_IOCTL_MODE_ADDFB, fb, "ADDFB");
	return pixels;
}

/* Reads a picture straight into the dumb buffer. */
static void draw(char *pixels, const char *file)
{
	int fd = open(file, O_RDONLY);

	if (fd < 0)
		fail(file);
	check(read(fd, pixels, LINE * HEIGHT) == LINE * HEIGHT, file);
	close(fd);
}

int main(void)
{
	struct drm_mode_fb_dirty_cmd dirty = {};
	struct drm_mode_crtc crtc;
	struct drm_mode_fb_cmd fb;
	__u32 connector;
	char *pixels;

	setlinebuf(stdout);
	puts("first process runs");
	mount_at("/dev", "devtmpfs");
	card = open(CARD, O_RDWR);
	if (card < 0)
		fail(CARD);
	crtc = find_screen(&connector);
	pixels = create_buffer(&fb);
	draw(pixels, "/picture1");
	crtc.fb_id = fb.fb_id;
	drm_ioctl(DRM_IOCTL_MODE_SETCRTC, &crtc, "SETCRTC");
	say_and_wait("picture 1 shown");
	draw(pixels, "/picture2");
	dirty.fb_id = fb.fb_id;
	drm_ioctl(DRM_IOCTL_MODE_DIRTYFB, &dirty, "DIRTYFB");
	say_and_wait("picture 2 shown");
	end_machine();
}
