// SPDX-License-Identifier: GPL-2.0
/*
 * First and only process of the guest that scripts/demo looks at: shows two pictures, one
 * after the other, in one dumb buffer of the display.  It says when a picture is shown,
 * and reads a line before it goes on.  The pictures are files of WIDTH * HEIGHT
 * little-endian XRGB8888 pixels in the initramfs.
 */
#define HEIGHT	768
/* What it has for vkms is good for virtio-gpu, too. */
#include "../../build/linux/tools/testing/selftests/drivers/dma-buf/udmabuf_drm.h"
#include "init.h"

static char *create_buffer(int card, uint32_t *fb)
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
	if (pixels == MAP_FAILED)
		die("mmap of the dumb buffer");
	if (vkms_add_fb(card, dumb.handle, fb))
		die("ADDFB");
	return pixels;
}

/* Reads a picture straight into the dumb buffer. */
static void draw(char *pixels, const char *file)
{
	int fd = open(file, O_RDONLY);

	if (read(fd, pixels, PAGE * HEIGHT) != PAGE * HEIGHT)
		die(file);
	close(fd);
}

int main(void)
{
	struct drm_mode_fb_dirty_cmd dirty = {};
	struct vkms_screen screen;
	char *pixels;
	int card;

	setlinebuf(stdout);
	puts("first process runs");
	mount_at("/dev", "devtmpfs");
	card = drm_open("virtio_gpu");
	screen = vkms_screen(card);
	pixels = create_buffer(card, &dirty.fb_id);
	draw(pixels, "/picture1");
	if (vkms_show_fb(card, &screen, dirty.fb_id))
		die("SETCRTC");
	say_and_wait("picture 1 shown");
	draw(pixels, "/picture2");
	if (drm_ioctl(card, DRM_IOCTL_MODE_DIRTYFB, &dirty))
		die("DIRTYFB");
	say_and_wait("picture 2 shown");
	return end_machine("passed");
}
