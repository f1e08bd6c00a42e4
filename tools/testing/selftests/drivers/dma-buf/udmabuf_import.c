// SPDX-License-Identifier: GPL-2.0
/*
 * udmabuf, imported by drivers of the kernel: vgem, which maps the pages for its
 * device and passes mmap() on to the exporter, and vkms, which in addition reads
 * them through dma_buf_vmap() when it composes a frame.
 *
 * Needs both modules and root.  A machine that lacks them fails.
 */
#include "udmabuf_drm.h"

#include <poll.h>
#include <sys/sysmacros.h>

#include "../../kselftest_harness.h"

/* Every memfd is two huge pages, whatever it is made of. */
#define MEMFD_PAGES	(2 * H)
#define MOST_PAGES	(2 * HUGE / 4096)	/* that it can be, on any machine */

/* Marks: what the memfd has at first, and what tests write. */
#define SEED		1
#define NEW_SEED	2

/* Which pages of the memfd a buffer is made of.  All but WHOLE have HEIGHT pages. */
enum layout {
	WHOLE,
	INSIDE,		/* one range, at an offset in a huge page */
	SCATTERED,
	REVERSED,	/* from the second huge page down into the first */
	PARTS,		/* of both huge pages, one across the border */
	REPEATED,	/* some pages named more than once */
};

/* A range of pages of a memfd. */
struct part {
	unsigned int first;
	unsigned int nr;
};

/**
 * struct buffer - a udmabuf, and all that it was made from
 * @memfd: where the pages come from
 * @map: all of the memfd
 * @fd: the dma-buf
 * @nr: number of pages of the dma-buf
 * @page: for each page of the dma-buf, which page of the memfd it is
 */
struct buffer {
	int memfd;
	char *map;
	int fd;
	unsigned int nr;
	unsigned int page[MOST_PAGES];
};

/* Buffers */

static unsigned int layout_parts(enum layout layout, struct part *part)
{
	const struct part parts[] = {
		{ 3, 4 }, { H - 5, 9 }, { 2 * H - 2, 2 }, { H - 12, 1 },
	};
	/*
	 * No page more than twice: DMA_API_DEBUG counts eight mappings of a page
	 * and no more, and a test maps a buffer three times.
	 */
	const struct part repeated[] = {
		{ 9, 1 }, { 9, 1 }, { H + 8, 3 }, { 20, 3 }, { H + 9, 4 }, { H - 1, 2 },
		{ H - 1, 2 },
	};
	unsigned int n;

	switch (layout) {
	case WHOLE:
		part[0] = (struct part) { 0, MEMFD_PAGES };
		return 1;
	case INSIDE:
		part[0] = (struct part) { 37, HEIGHT };
		return 1;
	case SCATTERED:
		for (n = 0; n < HEIGHT; n++)
			part[n] = (struct part) { (7 + 61 * n) % MEMFD_PAGES, 1 };
		return n;
	case REVERSED:
		for (n = 0; n < HEIGHT; n++)
			part[n] = (struct part) { H + 7 - n, 1 };
		return n;
	case PARTS:
		memcpy(part, parts, sizeof(parts));
		return ARRAY_SIZE(parts);
	case REPEATED:
		memcpy(part, repeated, sizeof(repeated));
		return ARRAY_SIZE(repeated);
	}
	return 0;
}

/* A dma-buf of the pages of @b's memfd.  What @b says of its pages is set, too. */
static int buffer_export(struct buffer *b, int dev, enum layout layout)
{
	struct udmabuf_create_item items[HEIGHT];
	struct part parts[HEIGHT];
	unsigned int n = layout_parts(layout, parts);
	int fd;

	b->nr = 0;
	for (unsigned int i = 0; i < n; i++) {
		items[i] = (struct udmabuf_create_item) {
			.memfd = b->memfd,
			.offset = parts[i].first * PAGE,
			.size = parts[i].nr * PAGE,
		};
		for (unsigned int j = 0; j < parts[i].nr; j++)
			b->page[b->nr++] = parts[i].first + j;
	}
	if (n == 1)
		fd = udmabuf_create(dev, b->memfd, items[0].offset, items[0].size);
	else
		fd = udmabuf_create_list(dev, items, n);
	if (fd < 0)
		die("udmabuf");
	return fd;
}

static void buffer_make(struct buffer *b, int dev, enum memory memory,
			enum layout layout)
{
	void *map;

	b->memfd = memfd_filled(memory, MEMFD_PAGES * PAGE, SEED, &map);
	b->map = map;
	b->fd = buffer_export(b, dev, layout);
}

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

static void buffer_unmap(struct buffer *b)
{
	if (b->map)
		munmap(b->map, MEMFD_PAGES * PAGE);
	b->map = NULL;
}

static void buffer_drop(struct buffer *b)
{
	buffer_unmap(b);
	close_fd(&b->fd);
	close_fd(&b->memfd);
}

/* Whether @p, a mapping of the buffer, has the marks of its pages. */
static bool buffer_is(const struct buffer *b, const char *p, uint64_t seed)
{
	for (unsigned int i = 0; i < b->nr; i++)
		if (!page_is(p + i * PAGE, seed, b->page[i]))
			return false;
	return true;
}

/* Gives the pages new marks through @p, a mapping of the buffer. */
static void buffer_mark(const struct buffer *b, char *p, uint64_t seed)
{
	for (unsigned int i = 0; i < b->nr; i++)
		mark_page(p + i * PAGE, seed, b->page[i]);
}

/* Whether the buffer's pages in the memfd have marks of @seed, and no others do. */
static bool memfd_is(const struct buffer *b, uint64_t seed)
{
	bool in_buffer[MOST_PAGES] = {};

	for (unsigned int i = 0; i < b->nr; i++)
		in_buffer[b->page[i]] = true;
	for (unsigned int i = 0; i < MEMFD_PAGES; i++)
		if (!page_is(b->map + i * PAGE, in_buffer[i] ? seed : SEED, i))
			return false;
	return true;
}

static int sync_buffer(int fd, uint64_t flags)
{
	struct dma_buf_sync sync = { .flags = flags };

	return ioctl(fd, DMA_BUF_IOCTL_SYNC, &sync);
}

/* Number of devices attached to a dma-buf; -1 if it is not listed. */
static long attachments(int fd)
{
	static const char path[] = "/sys/kernel/debug/dma_buf/bufinfo";
	FILE *f = fopen(path, "r");
	unsigned long ino;
	bool found = false;
	struct stat st;
	char line[256];
	long n = -1;

	if (!f || fstat(fd, &st))
		die(path);
	while (n < 0 && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%*u %*x %*x %*d udmabuf %lu", &ino) == 1)
			found = ino == st.st_ino;
		else if (found)
			sscanf(line, "Total %ld devices attached", &n);
	}
	fclose(f);
	return n;
}

/*
 * DRM releases some objects from a work item, a moment after the system call has returned:
 * a framebuffer, for example, that is on the screen when its file is closed.
 */
static void held_wait(const struct held *before)
{
	struct held now = held();

	for (int i = 0; i < 100 && memcmp(&now, before, sizeof(now)); i++) {
		usleep(20000);
		now = held();
	}
}

/* DRM */

/**
 * struct import - a dma-buf in a DRM device
 * @handle: its handle; 0 if the import failed, with errno
 * @offset: where in the device's file it can be mapped
 */
struct import {
	uint32_t handle;
	uint64_t offset;
};

/*
 * The offset of the next object of @size in the device's file.  The kernel gives every
 * object an offset there, but reports it only for objects that are not imported.  So
 * create one of these, read its offset and free it.
 */
static uint64_t drm_next_offset(int drm, size_t size)
{
	struct drm_mode_create_dumb dumb = {
		.width = PAGE / 4,
		.height = size / PAGE,
		.bpp = 32,
	};
	struct drm_mode_map_dumb map = {};

	if (drm_ioctl(drm, DRM_IOCTL_MODE_CREATE_DUMB, &dumb) || dumb.size != size)
		die("DRM_IOCTL_MODE_CREATE_DUMB");
	map.handle = dumb.handle;
	if (drm_ioctl(drm, DRM_IOCTL_MODE_MAP_DUMB, &map) ||
	    drm_close_handle(drm, dumb.handle))
		die("DRM_IOCTL_MODE_MAP_DUMB");
	return map.offset;
}

static struct import import_make(int drm, int dmabuf)
{
	struct import import = {
		.offset = drm_next_offset(drm, lseek(dmabuf, 0, SEEK_END)),
	};

	drm_import(drm, dmabuf, &import.handle);
	return import;
}

static void *drm_map(int drm, uint64_t offset, size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, drm, offset);

	if (p == MAP_FAILED)
		die("mmap of an object");
	return p;
}

/* A look at the buffer through a mapping of the import that lasts no longer. */
static bool import_is(const struct buffer *b, int drm, struct import import,
		      uint64_t seed)
{
	char *p = drm_map(drm, import.offset, b->nr * PAGE);
	bool same = buffer_is(b, p, seed);

	munmap(p, b->nr * PAGE);
	return same;
}

/* Screens */

/**
 * struct screen - vkms's virtual monitor
 * @drm: the device, of which we are master
 * @screen: which that is
 * @crc: path of the CRTC's directory in debugfs
 */
struct screen {
	int drm;
	struct vkms_screen screen;
	char crc[64];
};

static void screen_open(struct screen *s)
{
	struct stat st;
	char path[96];

	s->drm = drm_open("vkms");
	s->screen = vkms_screen(s->drm);
	if (fstat(s->drm, &st))
		die("vkms");
	snprintf(s->crc, sizeof(s->crc), "/sys/kernel/debug/dri/%u/crtc-0/crc",
		 minor(st.st_rdev));
	snprintf(path, sizeof(path), "%s/control", s->crc);
	write_file(path, "auto");
}

/* 0: show nothing. */
static void screen_show(struct screen *s, uint32_t fb)
{
	if (vkms_show_fb(s->drm, &s->screen, fb))
		die("DRM_IOCTL_MODE_SETCRTC");
}

static uint32_t screen_add(struct screen *s, uint32_t handle)
{
	uint32_t fb;

	if (vkms_add_fb(s->drm, handle, &fb))
		die("DRM_IOCTL_MODE_ADDFB2");
	return fb;
}

static int screen_remove(struct screen *s, uint32_t fb)
{
	return drm_ioctl(s->drm, DRM_IOCTL_MODE_RMFB, &fb);
}

/*
 * The checksum of a frame that shows @fb as it is now.  The commit waits until the
 * composition of frames before it is over, and while nobody reads checksums no
 * frame is composed: so the first one read is of a frame composed after that.
 */
static uint32_t screen_crc(struct screen *s, uint32_t fb)
{
	char path[96], line[64] = "";
	struct pollfd data = { .events = POLLIN };
	unsigned int crc;

	screen_show(s, fb);
	snprintf(path, sizeof(path), "%s/data", s->crc);
	data.fd = open(path, O_RDONLY);
	if (data.fd < 0)
		die(path);
	errno = ETIMEDOUT;
	if (poll(&data, 1, 20000) != 1 ||
	    read(data.fd, line, sizeof(line) - 1) <= 0 ||
	    sscanf(line, "%*x %x", &crc) != 1)
		die("checksum of a frame");
	close(data.fd);
	return crc;
}

/* A framebuffer in memory of vkms's own, for comparison. */
static uint32_t screen_dumb(struct screen *s, uint32_t **pixels)
{
	struct drm_mode_create_dumb dumb = {
		.width = WIDTH,
		.height = LINES,
		.bpp = 32,
	};
	struct drm_mode_map_dumb map = {};
	uint32_t fb;

	if (drm_ioctl(s->drm, DRM_IOCTL_MODE_CREATE_DUMB, &dumb) || dumb.pitch != 4 * WIDTH)
		die("DRM_IOCTL_MODE_CREATE_DUMB");
	map.handle = dumb.handle;
	if (drm_ioctl(s->drm, DRM_IOCTL_MODE_MAP_DUMB, &map))
		die("DRM_IOCTL_MODE_MAP_DUMB");
	*pixels = drm_map(s->drm, map.offset, dumb.size);
	fb = screen_add(s, dumb.handle);
	drm_close_handle(s->drm, dumb.handle);
	return fb;
}

/* Every memory, cut in every way */

FIXTURE(buffer) {
	struct held before;
	struct buffer b;
	struct screen screen;
	int dev;
	int vgem;
};

FIXTURE_VARIANT(buffer) {
	enum memory memory;
	enum layout layout;
};

FIXTURE_VARIANT_ADD(buffer, SHMEM_WHOLE) { SHMEM, WHOLE };
FIXTURE_VARIANT_ADD(buffer, SHMEM_INSIDE) { SHMEM, INSIDE };
FIXTURE_VARIANT_ADD(buffer, SHMEM_SCATTERED) { SHMEM, SCATTERED };
FIXTURE_VARIANT_ADD(buffer, SHMEM_REVERSED) { SHMEM, REVERSED };
FIXTURE_VARIANT_ADD(buffer, SHMEM_PARTS) { SHMEM, PARTS };
FIXTURE_VARIANT_ADD(buffer, SHMEM_REPEATED) { SHMEM, REPEATED };
FIXTURE_VARIANT_ADD(buffer, THP_WHOLE) { THP, WHOLE };
FIXTURE_VARIANT_ADD(buffer, THP_INSIDE) { THP, INSIDE };
FIXTURE_VARIANT_ADD(buffer, THP_SCATTERED) { THP, SCATTERED };
FIXTURE_VARIANT_ADD(buffer, THP_REVERSED) { THP, REVERSED };
FIXTURE_VARIANT_ADD(buffer, THP_PARTS) { THP, PARTS };
FIXTURE_VARIANT_ADD(buffer, THP_REPEATED) { THP, REPEATED };
FIXTURE_VARIANT_ADD(buffer, HUGETLB_WHOLE) { HUGETLB, WHOLE };
FIXTURE_VARIANT_ADD(buffer, HUGETLB_INSIDE) { HUGETLB, INSIDE };
FIXTURE_VARIANT_ADD(buffer, HUGETLB_SCATTERED) { HUGETLB, SCATTERED };
FIXTURE_VARIANT_ADD(buffer, HUGETLB_REVERSED) { HUGETLB, REVERSED };
FIXTURE_VARIANT_ADD(buffer, HUGETLB_PARTS) { HUGETLB, PARTS };
FIXTURE_VARIANT_ADD(buffer, HUGETLB_REPEATED) { HUGETLB, REPEATED };

FIXTURE_SETUP(buffer)
{
	long runs, pinned;

	self->screen.drm = -1;
	if (variant->memory == THP && !has_thp())
		SKIP(return, NO_THP);
	want_huge_pages();
	vkms_on_one_cpu();
	self->before = held();
	self->dev = udmabuf_open();
	self->vgem = drm_open("vgem");
	buffer_make(&self->b, self->dev, variant->memory, variant->layout);

	/* Without huge pages most of what is tested here would not be. */
	if (variant->memory != SHMEM && variant->layout == INSIDE) {
		udmabuf_stat(&runs, &pinned);
		ASSERT_EQ(runs, 1);
		ASSERT_EQ(pinned, variant->memory == THP ? HUGE : self->b.nr * PAGE);
	}
}

FIXTURE_TEARDOWN(buffer)
{
	buffer_drop(&self->b);
	close_fd(&self->screen.drm);
	close_fd(&self->vgem);
	close_fd(&self->dev);
	held_wait(&self->before);
	EXPECT_HELD(self->before);
}

TEST_F(buffer, mmap_of_import)
{
	struct buffer *b = &self->b;
	struct import import;
	char *p;

	ASSERT_EQ(attachments(b->fd), 0);
	import = import_make(self->vgem, b->fd);
	ASSERT_NE(import.handle, 0);
	EXPECT_EQ(attachments(b->fd), 1);

	p = drm_map(self->vgem, import.offset, b->nr * PAGE);
	EXPECT_TRUE(buffer_is(b, p, SEED));
	EXPECT_TRUE(memfd_is(b, SEED));

	buffer_mark(b, p, NEW_SEED);
	EXPECT_TRUE(memfd_is(b, NEW_SEED));

	mark_pages(b->map, SEED, MEMFD_PAGES);
	EXPECT_TRUE(buffer_is(b, p, SEED));

	munmap(p, b->nr * PAGE);
	EXPECT_EQ(drm_close_handle(self->vgem, import.handle), 0);
	EXPECT_EQ(attachments(b->fd), 0);
}

TEST_F(buffer, sync_while_imported)
{
	static const uint64_t directions[] = {
		DMA_BUF_SYNC_READ, DMA_BUF_SYNC_WRITE, DMA_BUF_SYNC_RW,
	};
	struct buffer *b = &self->b;
	struct import import = import_make(self->vgem, b->fd);
	uint64_t seed = NEW_SEED;
	char *p, *imported;

	ASSERT_NE(import.handle, 0);
	p = map_shared(b->fd, b->nr * PAGE, PROT_READ | PROT_WRITE);
	imported = drm_map(self->vgem, import.offset, b->nr * PAGE);

	for (size_t i = 0; i < ARRAY_SIZE(directions); i++, seed++) {
		EXPECT_EQ(sync_buffer(b->fd, DMA_BUF_SYNC_START | directions[i]), 0);
		buffer_mark(b, p, seed);
		EXPECT_EQ(sync_buffer(b->fd, DMA_BUF_SYNC_END | directions[i]), 0);
		EXPECT_TRUE(buffer_is(b, imported, seed));
		EXPECT_TRUE(memfd_is(b, seed));
	}

	/* Brackets with no access in them may nest, and end in any order. */
	EXPECT_EQ(sync_buffer(b->fd, DMA_BUF_SYNC_START | DMA_BUF_SYNC_READ), 0);
	EXPECT_EQ(sync_buffer(b->fd, DMA_BUF_SYNC_START | DMA_BUF_SYNC_WRITE), 0);
	EXPECT_EQ(sync_buffer(b->fd, DMA_BUF_SYNC_END | DMA_BUF_SYNC_READ), 0);
	EXPECT_EQ(sync_buffer(b->fd, DMA_BUF_SYNC_END | DMA_BUF_SYNC_WRITE), 0);

	munmap(p, b->nr * PAGE);
	munmap(imported, b->nr * PAGE);
	EXPECT_EQ(drm_close_handle(self->vgem, import.handle), 0);
	EXPECT_EQ(sync_buffer(b->fd, DMA_BUF_SYNC_START | DMA_BUF_SYNC_RW), 0);
	EXPECT_EQ(sync_buffer(b->fd, DMA_BUF_SYNC_END | DMA_BUF_SYNC_RW), 0);
}

/*
 * An importer that goes away leaves the pages as the CPU wrote them last: between the
 * start and the end of a SYNC, and through the memfd with no SYNC at all.  This can
 * fail where the device has a copy of the pages: with swiotlb=force.
 */
TEST_F(buffer, detach_keeps_what_the_cpu_wrote)
{
	struct buffer *b = &self->b;
	uint32_t handle;
	char *p;

	p = map_shared(b->fd, b->nr * PAGE, PROT_READ | PROT_WRITE);
	ASSERT_EQ(drm_import(self->vgem, b->fd, &handle), 0);
	EXPECT_EQ(sync_buffer(b->fd, DMA_BUF_SYNC_START | DMA_BUF_SYNC_RW), 0);
	buffer_mark(b, p, NEW_SEED);
	EXPECT_EQ(drm_close_handle(self->vgem, handle), 0);
	EXPECT_EQ(attachments(b->fd), 0);
	EXPECT_TRUE(memfd_is(b, NEW_SEED));
	EXPECT_EQ(sync_buffer(b->fd, DMA_BUF_SYNC_END | DMA_BUF_SYNC_RW), 0);
	EXPECT_TRUE(memfd_is(b, NEW_SEED));

	ASSERT_EQ(drm_import(self->vgem, b->fd, &handle), 0);
	mark_pages(b->map, SEED, MEMFD_PAGES);
	EXPECT_EQ(drm_close_handle(self->vgem, handle), 0);
	EXPECT_TRUE(buffer_is(b, p, SEED));
	EXPECT_TRUE(memfd_is(b, SEED));
	munmap(p, b->nr * PAGE);
}

/* The same pages: as one dma-buf in two devices, and as another one beside it. */
TEST_F(buffer, two_importers)
{
	struct buffer *b = &self->b;
	struct import in_vgem, in_vkms, second;
	int vkms, fd;
	char *p;

	vkms = drm_open("vkms");
	self->screen.drm = vkms;
	fd = buffer_export(b, self->dev, variant->layout);
	in_vgem = import_make(self->vgem, b->fd);
	in_vkms = import_make(vkms, b->fd);
	second = import_make(self->vgem, fd);
	ASSERT_NE(in_vgem.handle, 0);
	ASSERT_NE(in_vkms.handle, 0);
	ASSERT_NE(second.handle, 0);
	EXPECT_NE(second.handle, in_vgem.handle);
	EXPECT_EQ(attachments(b->fd), 2);
	EXPECT_EQ(attachments(fd), 1);

	p = drm_map(vkms, in_vkms.offset, b->nr * PAGE);
	EXPECT_EQ(sync_buffer(fd, DMA_BUF_SYNC_START | DMA_BUF_SYNC_RW), 0);
	EXPECT_EQ(sync_buffer(b->fd, DMA_BUF_SYNC_START | DMA_BUF_SYNC_RW), 0);
	buffer_mark(b, p, NEW_SEED);
	EXPECT_EQ(sync_buffer(b->fd, DMA_BUF_SYNC_END | DMA_BUF_SYNC_RW), 0);
	EXPECT_EQ(sync_buffer(fd, DMA_BUF_SYNC_END | DMA_BUF_SYNC_RW), 0);
	EXPECT_TRUE(memfd_is(b, NEW_SEED));
	EXPECT_TRUE(import_is(b, self->vgem, in_vgem, NEW_SEED));
	EXPECT_TRUE(import_is(b, self->vgem, second, NEW_SEED));

	/* One importer drops the buffer: the others keep it. */
	EXPECT_EQ(drm_close_handle(self->vgem, in_vgem.handle), 0);
	EXPECT_EQ(attachments(b->fd), 1);
	EXPECT_TRUE(buffer_is(b, p, NEW_SEED));
	munmap(p, b->nr * PAGE);
	EXPECT_EQ(drm_close_handle(vkms, in_vkms.handle), 0);
	EXPECT_EQ(attachments(b->fd), 0);
	EXPECT_TRUE(import_is(b, self->vgem, second, NEW_SEED));
	EXPECT_EQ(drm_close_handle(self->vgem, second.handle), 0);
	close(fd);
}

/*
 * vkms reads what it shows through a vmap of the buffer: linear where the buffer is
 * one run of pages, else made page by page.  A pixel tells which page was mapped.
 */
TEST_F_TIMEOUT(buffer, frame_from_vmap, 120)
{
	const size_t words = PAGE / 4;
	const struct {
		size_t word;
		unsigned int page;
	} pixels[] = {
		{ 0, 0 },			/* first of the first page */
		{ words / 2, HEIGHT / 2 },
		{ words - 1, HEIGHT - 1 },	/* last of the last page */
	};
	struct screen *s = &self->screen;
	struct buffer *b = &self->b;
	uint32_t fb, dumb_fb, crc, changed;
	struct import import;
	uint32_t *dumb, *pixel;

	screen_open(s);
	import = import_make(s->drm, b->fd);
	ASSERT_NE(import.handle, 0);
	fb = screen_add(s, import.handle);
	EXPECT_EQ(drm_close_handle(s->drm, import.handle), 0);
	dumb_fb = screen_dumb(s, &dumb);

	for (unsigned int n = 0; n < HEIGHT; n++)
		memcpy(dumb + n * words, b->map + b->page[n] * PAGE, PAGE);
	crc = screen_crc(s, dumb_fb);
	EXPECT_EQ(screen_crc(s, fb), crc);

	for (size_t i = 0; i < ARRAY_SIZE(pixels); i++) {
		pixel = (uint32_t *)(b->map + b->page[pixels[i].page] * PAGE) +
			pixels[i].word;
		*pixel ^= 0x404040;
		for (unsigned int n = 0; n < HEIGHT; n++)
			memcpy(dumb + n * words, b->map + b->page[n] * PAGE, PAGE);
		changed = screen_crc(s, dumb_fb);
		EXPECT_NE(changed, crc);
		EXPECT_EQ(screen_crc(s, fb), changed);
		*pixel ^= 0x404040;
		EXPECT_EQ(screen_crc(s, fb), crc);
	}

	screen_show(s, 0);
	EXPECT_EQ(screen_remove(s, fb), 0);
	EXPECT_EQ(screen_remove(s, dumb_fb), 0);
	munmap(dumb, HEIGHT * PAGE);
	EXPECT_EQ(attachments(b->fd), 0);
}

/* How it ends */

FIXTURE(end) {
	struct held before;
	struct buffer b;
	struct screen screen;
	int dev;
	int vgem;
};

FIXTURE_VARIANT(end) {
	enum memory memory;
};

FIXTURE_VARIANT_ADD(end, SHMEM) { SHMEM };
FIXTURE_VARIANT_ADD(end, THP) { THP };
FIXTURE_VARIANT_ADD(end, HUGETLB) { HUGETLB };

FIXTURE_SETUP(end)
{
	self->screen.drm = -1;
	if (variant->memory == THP && !has_thp())
		SKIP(return, NO_THP);
	want_huge_pages();
	vkms_on_one_cpu();
	self->before = held();
	self->dev = udmabuf_open();
	self->vgem = drm_open("vgem");
	buffer_make(&self->b, self->dev, variant->memory, PARTS);
}

FIXTURE_TEARDOWN(end)
{
	buffer_drop(&self->b);
	close_fd(&self->screen.drm);
	close_fd(&self->vgem);
	close_fd(&self->dev);
	held_wait(&self->before);
	EXPECT_HELD(self->before);
}

/* The handle, the dma-buf and the memfd may be closed in any order. */
TEST_F_TIMEOUT(end, any_order, 60)
{
	static const char * const orders[] = {
		"hdm", "hmd", "dhm", "dmh", "mhd", "mdh",
	};
	struct buffer *b = &self->b;
	struct import import;
	char *p;

	for (size_t i = 0; i < ARRAY_SIZE(orders); i++) {
		if (b->memfd < 0)
			buffer_make(b, self->dev, variant->memory, PARTS);
		import = import_make(self->vgem, b->fd);
		ASSERT_NE(import.handle, 0);
		buffer_unmap(b);

		for (const char *c = orders[i]; *c; c++) {
			/* The others still lead to the pages. */
			if (import.handle)
				EXPECT_TRUE(import_is(b, self->vgem, import, SEED));
			if (b->fd >= 0) {
				EXPECT_EQ(attachments(b->fd), import.handle ? 1 : 0);
				p = map_shared(b->fd, b->nr * PAGE, PROT_READ);
				EXPECT_TRUE(buffer_is(b, p, SEED));
				munmap(p, b->nr * PAGE);
			}
			switch (*c) {
			case 'h':
				EXPECT_EQ(drm_close_handle(self->vgem, import.handle), 0);
				import.handle = 0;
				break;
			case 'd':
				close_fd(&b->fd);
				break;
			case 'm':
				close_fd(&b->memfd);
				break;
			}
		}
		EXPECT_EQ(held().pins, self->before.pins) {
			TH_LOG("closed in the order %s", orders[i]);
		}
		EXPECT_EQ(held().buffers, self->before.buffers);
	}
}

/* A mapping of the import, alone, keeps all of it. */
TEST_F(end, mapping_last)
{
	struct buffer *b = &self->b;
	struct import import = import_make(self->vgem, b->fd);
	char *p;

	ASSERT_NE(import.handle, 0);
	p = drm_map(self->vgem, import.offset, b->nr * PAGE);
	EXPECT_EQ(drm_close_handle(self->vgem, import.handle), 0);
	buffer_drop(b);
	close_fd(&self->vgem);

	EXPECT_EQ(held().buffers, self->before.buffers + 1);
	EXPECT_TRUE(buffer_is(b, p, SEED));
	buffer_mark(b, p, NEW_SEED);
	EXPECT_TRUE(buffer_is(b, p, NEW_SEED));
	munmap(p, b->nr * PAGE);
}

/* The device's file goes, and the handles with it. */
TEST_F(end, device_file_closed)
{
	struct buffer *b = &self->b;

	ASSERT_NE(import_make(self->vgem, b->fd).handle, 0);
	close_fd(&self->vgem);
	EXPECT_EQ(attachments(b->fd), 0);
}

TEST_F(end, imported_twice)
{
	struct buffer *b = &self->b;
	struct import import = import_make(self->vgem, b->fd);

	ASSERT_NE(import.handle, 0);
	EXPECT_EQ(import_make(self->vgem, b->fd).handle, import.handle);
	EXPECT_EQ(attachments(b->fd), 1);
	EXPECT_EQ(drm_close_handle(self->vgem, import.handle), 0);
	EXPECT_EQ(attachments(b->fd), 0);
	EXPECT_EQ(drm_close_handle(self->vgem, import.handle), -EINVAL);
}

/* DRM looks up what it has imported by file: two files, two attachments. */
TEST_F(end, imported_through_two_files)
{
	struct buffer *b = &self->b;
	int other = drm_open("vgem");
	struct import import = import_make(self->vgem, b->fd);
	struct import second = import_make(other, b->fd);

	ASSERT_NE(import.handle, 0);
	ASSERT_NE(second.handle, 0);
	EXPECT_EQ(attachments(b->fd), 2);
	EXPECT_EQ(drm_close_handle(self->vgem, import.handle), 0);
	EXPECT_EQ(attachments(b->fd), 1);
	EXPECT_TRUE(import_is(b, other, second, SEED));
	close(other);
	EXPECT_EQ(attachments(b->fd), 0);
}

/* All is closed while the frame is on the screen; the device's file comes last. */
TEST_F(end, on_the_screen)
{
	struct screen *s = &self->screen;
	struct buffer *b = &self->b;
	struct import import;
	uint32_t fb, crc;

	screen_open(s);
	import = import_make(s->drm, b->fd);
	ASSERT_NE(import.handle, 0);
	fb = screen_add(s, import.handle);
	crc = screen_crc(s, fb);

	EXPECT_EQ(drm_close_handle(s->drm, import.handle), 0);
	EXPECT_EQ(attachments(b->fd), 1);
	buffer_drop(b);
	EXPECT_EQ(screen_crc(s, fb), crc);
	EXPECT_EQ(held().buffers, self->before.buffers + 1);
}

/* The framebuffer is removed while it is on the screen. */
TEST_F(end, removed_from_the_screen)
{
	struct screen *s = &self->screen;
	struct buffer *b = &self->b;
	struct import import;
	uint32_t fb;

	screen_open(s);
	import = import_make(s->drm, b->fd);
	ASSERT_NE(import.handle, 0);
	fb = screen_add(s, import.handle);
	screen_crc(s, fb);
	EXPECT_EQ(screen_remove(s, fb), 0);
	EXPECT_EQ(attachments(b->fd), 1);
	EXPECT_EQ(drm_close_handle(s->drm, import.handle), 0);
	EXPECT_EQ(attachments(b->fd), 0);
}

/* Two framebuffers of one buffer, vmapped both while one takes over from the other. */
TEST_F(end, two_framebuffers)
{
	struct screen *s = &self->screen;
	struct buffer *b = &self->b;
	struct import import;
	uint32_t fb, other, crc;

	screen_open(s);
	import = import_make(s->drm, b->fd);
	ASSERT_NE(import.handle, 0);
	fb = screen_add(s, import.handle);
	other = screen_add(s, import.handle);
	EXPECT_EQ(drm_close_handle(s->drm, import.handle), 0);

	crc = screen_crc(s, fb);
	EXPECT_EQ(screen_crc(s, other), crc);
	EXPECT_EQ(screen_remove(s, fb), 0);
	EXPECT_EQ(screen_crc(s, other), crc);
	screen_show(s, 0);
	EXPECT_EQ(screen_remove(s, other), 0);
	EXPECT_EQ(attachments(b->fd), 0);
}

/* No more access than the memfd's descriptor had */

FIXTURE(readonly) {
	struct held before;
	struct buffer b;
	int dev;
	int memfd;
	int fd;
};

FIXTURE_VARIANT(readonly) {
	enum memory memory;
	bool list;
};

FIXTURE_VARIANT_ADD(readonly, SHMEM) { SHMEM, false };
FIXTURE_VARIANT_ADD(readonly, HUGETLB) { HUGETLB, false };
FIXTURE_VARIANT_ADD(readonly, SHMEM_one_item) { SHMEM, true };
FIXTURE_VARIANT_ADD(readonly, HUGETLB_one_item) { HUGETLB, true };

FIXTURE_SETUP(readonly)
{
	struct udmabuf_create_item items[2] = {};
	char path[32];

	want_huge_pages();
	vkms_on_one_cpu();
	self->before = held();
	self->dev = udmabuf_open();
	buffer_make(&self->b, self->dev, variant->memory, WHOLE);
	close_fd(&self->b.fd);

	snprintf(path, sizeof(path), "/proc/self/fd/%d", self->b.memfd);
	self->memfd = open(path, O_RDONLY | O_CLOEXEC);
	ASSERT_GE(self->memfd, 0);

	items[0].memfd = self->b.memfd;
	items[0].size = HUGE;
	items[1].memfd = self->memfd;
	items[1].offset = HUGE;
	items[1].size = HUGE;
	if (variant->list)
		self->fd = udmabuf_create_list(self->dev, items, 2);
	else
		self->fd = udmabuf_create(self->dev, self->memfd, 0, 2 * HUGE);
	ASSERT_GE(self->fd, 0);
}

FIXTURE_TEARDOWN(readonly)
{
	close_fd(&self->fd);
	close_fd(&self->memfd);
	buffer_drop(&self->b);
	close_fd(&self->dev);
	held_wait(&self->before);
	EXPECT_HELD(self->before);
}

/* Both drivers map what they import so that their device could write. */
static void expect_refused(struct __test_metadata *_metadata, const char *driver,
			   int fd)
{
	int drm = drm_open(driver);

	for (int i = 0; i < 2; i++) {
		errno = 0;
		EXPECT_EQ(import_make(drm, fd).handle, 0);
		EXPECT_EQ(errno, EACCES);
		EXPECT_EQ(attachments(fd), 0);
	}
	close(drm);
}

TEST_F(readonly, not_imported)
{
	char *p;

	expect_refused(_metadata, "vgem", self->fd);
	expect_refused(_metadata, "vkms", self->fd);

	/* It is no worse for having been refused. */
	p = map_shared(self->fd, self->b.nr * PAGE, PROT_READ);
	EXPECT_TRUE(buffer_is(&self->b, p, SEED));
	mark_pages(self->b.map, NEW_SEED, MEMFD_PAGES);
	EXPECT_TRUE(buffer_is(&self->b, p, NEW_SEED));
	munmap(p, self->b.nr * PAGE);
	EXPECT_EQ(sync_buffer(self->fd, DMA_BUF_SYNC_START | DMA_BUF_SYNC_READ), 0);
	EXPECT_EQ(sync_buffer(self->fd, DMA_BUF_SYNC_END | DMA_BUF_SYNC_READ), 0);
}

/* A dma-buf of the same pages that may be written is not held back. */
TEST_F(readonly, writable_beside_it)
{
	int drm = drm_open("vgem");
	int fd = buffer_export(&self->b, self->dev, WHOLE);
	struct import import = import_make(drm, fd);

	EXPECT_NE(import.handle, 0);
	EXPECT_EQ(attachments(fd), 1);
	expect_refused(_metadata, "vgem", self->fd);
	if (import.handle)
		EXPECT_TRUE(import_is(&self->b, drm, import, SEED));
	close(fd);
	close(drm);
}

TEST_HARNESS_MAIN
