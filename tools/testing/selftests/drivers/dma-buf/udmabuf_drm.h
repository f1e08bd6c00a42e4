/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the tests of udmabuf need of DRM: vgem and vkms as importers, and vkms's
 * screen, which shows one frame of HEIGHT pages, in lines of 4 KiB.
 */
#ifndef UDMABUF_DRM_H
#define UDMABUF_DRM_H

#include <sched.h>

#include <drm/drm.h>
#include <drm/drm_fourcc.h>
#include <drm/drm_mode.h>

#include "udmabuf_util.h"

#define WIDTH	1024
#ifndef HEIGHT
#define HEIGHT	16
#endif
#define LINES	(HEIGHT * PAGE / 4 / WIDTH)

/* At least 0, or -errno. */
static inline int drm_ioctl(int fd, unsigned long request, void *arg)
{
	int ret;

	do {
		ret = ioctl(fd, request, arg);
	} while (ret < 0 && errno == EINTR);
	return ret < 0 ? -errno : ret;
}

static inline bool drm_is(int fd, const char *driver)
{
	char name[32] = "";
	struct drm_version version = {
		.name = name,
		.name_len = sizeof(name) - 1,
	};

	return !drm_ioctl(fd, DRM_IOCTL_VERSION, &version) && !strcmp(name, driver);
}

static inline int drm_open(const char *driver)
{
	char path[32];
	int fd;

	for (int i = 0; i < 16; i++) {
		snprintf(path, sizeof(path), "/dev/dri/card%d", i);
		fd = open(path, O_RDWR | O_CLOEXEC);
		if (fd < 0)
			continue;
		if (drm_is(fd, driver))
			return fd;
		close(fd);
	}
	errno = ENODEV;
	die(driver);
}

/* *handle is 0 if the import failed. */
static inline int drm_import(int drm, int dmabuf, uint32_t *handle)
{
	struct drm_prime_handle prime = { .fd = dmabuf };
	int ret = drm_ioctl(drm, DRM_IOCTL_PRIME_FD_TO_HANDLE, &prime);

	*handle = prime.handle;
	return ret;
}

static inline int drm_close_handle(int drm, uint32_t handle)
{
	struct drm_gem_close close = { .handle = handle };

	return drm_ioctl(drm, DRM_IOCTL_GEM_CLOSE, &close);
}

/*
 * vkms waits for its vblank timer to end while it holds the lock that the timer's
 * function takes: when that runs on another CPU, both hang.  The timer runs on the CPU
 * that started it: start and stop it on one CPU, and keep DRM from stopping an unused
 * one from DRM's own timer.
 */
static inline void vkms_on_one_cpu(void)
{
	cpu_set_t cpu;

	CPU_ZERO(&cpu);
	CPU_SET(0, &cpu);
	if (sched_setaffinity(0, sizeof(cpu), &cpu))
		die("CPU 0");
	write_file("/sys/module/drm/parameters/vblankoffdelay", "0");
}

/**
 * struct vkms_screen - vkms's virtual monitor
 * @connector: its first connector
 * @crtc: its only CRTC
 */
struct vkms_screen {
	uint32_t connector;
	uint32_t crtc;
};

static inline struct vkms_screen vkms_screen(int drm)
{
	struct vkms_screen s = {};
	struct drm_mode_card_res res = {
		.crtc_id_ptr = (uintptr_t)&s.crtc,
		.connector_id_ptr = (uintptr_t)&s.connector,
		.count_crtcs = 1,
		.count_connectors = 1,
	};

	if (drm_ioctl(drm, DRM_IOCTL_MODE_GETRESOURCES, &res) || !s.crtc || !s.connector)
		die("vkms");
	return s;
}

/* A framebuffer of the pages that @handle stands for. */
static inline int vkms_add_fb(int drm, uint32_t handle, uint32_t *fb)
{
	struct drm_mode_fb_cmd2 cmd = {
		.width = WIDTH,
		.height = LINES,
		.pixel_format = DRM_FORMAT_XRGB8888,
		.handles = { handle },
		.pitches = { 4 * WIDTH },
	};
	int ret = drm_ioctl(drm, DRM_IOCTL_MODE_ADDFB2, &cmd);

	*fb = cmd.fb_id;
	return ret;
}

/* @fb is 0: show nothing. */
static inline int vkms_show_fb(int drm, const struct vkms_screen *s, uint32_t fb)
{
	struct drm_mode_crtc crtc = {
		.crtc_id = s->crtc,
		.fb_id = fb,
		.set_connectors_ptr = (uintptr_t)&s->connector,
		.count_connectors = fb ? 1 : 0,
		.mode_valid = fb ? 1 : 0,
		.mode = {
			.clock = 30 * (WIDTH + 3) * (LINES + 3) / 1000,	/* 30 Hz */
			.hdisplay = WIDTH,
			.hsync_start = WIDTH + 1,
			.hsync_end = WIDTH + 2,
			.htotal = WIDTH + 3,
			.vdisplay = LINES,
			.vsync_start = LINES + 1,
			.vsync_end = LINES + 2,
			.vtotal = LINES + 3,
			.name = "pages",
		},
	};

	return drm_ioctl(drm, DRM_IOCTL_MODE_SETCRTC, &crtc);
}

#endif /* UDMABUF_DRM_H */
