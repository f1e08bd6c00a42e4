// SPDX-License-Identifier: GPL-2.0
/*
 * First and only process of the guest that scripts/demo looks at: shows two pictures, one
 * after the other, in one dumb buffer of the display.  It says when a picture is shown,
 * and reads a line before it goes on.  The pictures are files of WIDTH * HEIGHT
 * little-endian XRGB8888 pixels in the initramfs.
 */
#define HEIGHT	768
/* What it has for vkms is good for virtio-gpu, too. */
#include "drivers/dma-buf/udmabuf_drm.h"
#include "init.h"

static void *create_buffer(int card, uint32_t *fb)
{
	struct drm_mode_create_dumb dumb = { .width = WIDTH, .height = HEIGHT, .bpp = 32 };
	struct drm_mode_map_dumb map = {};
	void *pixels;

	if (drm_ioctl(card, DRM_IOCTL_MODE_CREATE_DUMB, &dumb))
		die("CREATE_DUMB");
	map.handle = dumb.handle;
	if (drm_ioctl(card, DRM_IOCTL_MODE_MAP_DUMB, &map))
		die("MAP_DUMB");
	pixels = mmap(NULL, dumb.size, PROT_READ | PROT_WRITE, MAP_SHARED, card, map.offset);
	if (pixels == MAP_FAILED || vkms_add_fb(card, dumb.handle, fb))
		die("mmap or ADDFB of the dumb buffer");
	return pixels;
}

int main(void)
{
	struct drm_mode_fb_dirty_cmd dirty = {};
	struct vkms_screen screen;
	ssize_t size = PAGE * HEIGHT;
	void *pixels;
	int card;

	begin_machine();
	puts("first process runs");
	card = drm_open("virtio_gpu");
	screen = vkms_screen(card);
	pixels = create_buffer(card, &dirty.fb_id);
	for (int i = 1; i <= 2; i++) {
		char text[32];
		int file;

		snprintf(text, sizeof(text), "/picture%d", i);
		file = open(text, O_RDONLY);
		if (read(file, pixels, size) != size)
			die(text);
		close(file);
		if (i == 1 ? vkms_show_fb(card, &screen, dirty.fb_id) :
			     drm_ioctl(card, DRM_IOCTL_MODE_DIRTYFB, &dirty))
			die("SETCRTC or DIRTYFB");
		snprintf(text, sizeof(text), "picture %d shown", i);
		say_and_wait(text);
	}
	return end_machine("passed");
}
