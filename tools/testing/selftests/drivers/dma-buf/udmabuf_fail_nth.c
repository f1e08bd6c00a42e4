// SPDX-License-Identifier: GPL-2.0
/*
 * udmabuf, with one allocation or one access to user memory after the other failing
 *
 * A step runs with its first such call made to fail, then with its second, and so
 * on, until it ran with none failing.  It must return a documented error or have
 * done all of its work, and leave nothing behind.  The kernel's log tells of
 * warnings, locks held and uses after free: so this is worth most with KASAN, lockdep
 * and kmemleak.
 *
 * One failure is not enough where the kernel has a second way to allocate, as
 * kvmalloc() and kvrealloc() do: so all is done once more with the allocations after
 * the first that failed failing, too.
 *
 * Needs root, the modules vgem and vkms, and a kernel with CONFIG_FAULT_INJECTION
 * (and _DEBUG_FS, _USERCOPY), CONFIG_FAILSLAB and CONFIG_FAIL_PAGE_ALLOC.
 */
#include "udmabuf_drm.h"

#include <sys/wait.h>

#include "../../kselftest_harness.h"

/* More calls than any step has: one that goes on longer does not end. */
#define MOST_CALLS	2000

/* How many allocations of each kind fail in a row: a few, as some are tried again. */
#define IN_A_ROW	"8"

#define SEED		1

/* A small buffer, in pages: as many as a frame has lines. */
#define PAGES		HEIGHT

/*
 * A large one.  Its items are more than fit into a page, and so are its runs, which
 * are as many: so kvmalloc() has to do without its first choice, too.
 */
#define ITEMS		300

/* Descriptors that a process has without having to allocate: NR_OPEN_DEFAULT. */
#define FIRST_FDS	64

#define FAILSLAB	"/sys/kernel/debug/failslab/"
#define FAIL_PAGE_ALLOC	"/sys/kernel/debug/fail_page_alloc/"
#define FAIL_USERCOPY	"/sys/kernel/debug/fail_usercopy/"

/*
 * How injection has to be set: without messages, and with no allocation left out.
 * With the task filter on, the probability is that of a task with make-it-fail.
 */
static const struct setting {
	const char *path;
	const char *value;
} settings[] = {
	{ FAILSLAB "verbose", "0" },
	{ FAILSLAB "task-filter", "Y" },
	{ FAILSLAB "probability", "100" },
	{ FAILSLAB "times", IN_A_ROW },
	{ FAILSLAB "cache-filter", "N" },
	{ FAILSLAB "ignore-gfp-wait", "N" },
	{ FAIL_PAGE_ALLOC "verbose", "0" },
	{ FAIL_PAGE_ALLOC "task-filter", "Y" },
	{ FAIL_PAGE_ALLOC "probability", "100" },
	{ FAIL_PAGE_ALLOC "times", IN_A_ROW },
	{ FAIL_PAGE_ALLOC "min-order", "0" },
	{ FAIL_PAGE_ALLOC "ignore-gfp-wait", "N" },
	{ FAIL_PAGE_ALLOC "ignore-gfp-highmem", "N" },
	{ FAIL_USERCOPY "verbose", "0" },
	{ FAIL_USERCOPY "probability", "0" },
};

#define NR_SETTINGS	ARRAY_SIZE(settings)

/**
 * struct state - what a step works on; descriptors that are not open are -1
 * @dev: /dev/udmabuf
 * @memfd: where the pages come from
 * @fd: the dma-buf
 * @size: its size
 * @items: list for UDMABUF_CREATE_LIST
 * @drm: the device that the step imports into
 * @keeper: keeps vkms open, and has to be open when @drm is closed: the last to
 *	close it brings the console back, which takes a while
 * @holder: another device, which has the buffer imported all the time
 * @screen: of vkms
 * @fb: framebuffer
 * @text: what debugfs says about the buffers
 * @spare: descriptors that only use up numbers; 0: none
 */
struct state {
	int dev;
	int memfd[2];
	int fd;
	size_t size;
	struct udmabuf_create_item items[ITEMS];
	int drm;
	int keeper;
	int holder;
	struct vkms_screen screen;
	uint32_t fb;
	char text[1024];
	int spare[FIRST_FDS];
};

/**
 * struct attempt - one run of a step
 * @result: at least 0, or -errno
 * @injected: a call was made to fail
 */
struct attempt {
	int result;
	bool injected;
};

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

static void close_spare(struct state *s)
{
	for (int i = 0; i < FIRST_FDS; i++)
		if (s->spare[i] > 0)
			close_fd(&s->spare[i]);
}

static void close_memfds(struct state *s)
{
	close_fd(&s->memfd[0]);
	close_fd(&s->memfd[1]);
}

static void read_text(const char *path, char *text, size_t size)
{
	int fd = open(path, O_RDONLY);
	ssize_t n = fd < 0 ? -1 : read(fd, text, size - 1);

	if (n < 0)
		die(path);
	text[n] = 0;
	close(fd);
}

/* Injection */

/**
 * struct injection - what is to fail
 * @nth: the call that fails first; 0: none
 * @in_a_row: allocations after that fail, too
 */
struct injection {
	unsigned int nth;
	bool in_a_row;
};

/*
 * If the step makes fewer calls than are counted down, the call that fails can be this
 * write or the read below.  Only one fails.
 */
static void proc_write(int fd, const char *text)
{
	ssize_t len = strlen(text);

	if (pwrite(fd, text, len, 0) != len && pwrite(fd, text, len, 0) != len)
		die("/proc/self");
}

static bool proc_is_zero(int fd)
{
	char text[16] = "";

	return pread(fd, text, sizeof(text) - 1, 0) > 0 && !atoi(text);
}

/*
 * make-it-fail has no effect until fail-nth has counted down, and then fails all
 * allocations of the task as often as "times" says.
 */
static struct attempt attempt(struct state *s, int (*run)(struct state *),
			      struct injection what)
{
	int nth = open("/proc/self/fail-nth", O_RDWR | O_CLOEXEC);
	int row = open("/proc/self/make-it-fail", O_WRONLY | O_CLOEXEC);
	struct attempt a;
	char text[16];

	if (nth < 0 || row < 0)
		die("/proc/self");
	snprintf(text, sizeof(text), "%u", what.nth);
	if (what.nth && what.in_a_row)
		proc_write(row, "1");
	proc_write(nth, text);
	a.result = run(s);
	a.injected = what.nth && proc_is_zero(nth);
	proc_write(row, "0");
	proc_write(nth, "0");
	close(row);
	close(nth);
	return a;
}

/* In a child, which a fault that the kernel cannot resolve may kill: -EINTR. */
static struct attempt attempt_in_child(struct state *s, int (*run)(struct state *),
				       struct injection what)
{
	struct attempt *shared, a;
	int status;
	pid_t pid;

	shared = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
		      -1, 0);
	if (shared == MAP_FAILED)
		die("mmap");
	fflush(NULL);
	pid = fork();
	if (pid < 0)
		die("fork");
	if (!pid) {
		*shared = attempt(s, run, what);
		_exit(0);
	}
	if (waitpid(pid, &status, 0) != pid)
		die("waitpid");
	a = *shared;
	if (!WIFEXITED(status) || WEXITSTATUS(status))
		a.result = -EINTR;
	munmap(shared, PAGE);
	return a;
}

/* What may have stayed behind */

/**
 * struct left - what there is in the kernel
 * @held: pins, buffers, descriptors, huge pages
 * @dmabufs: dma-bufs of udmabuf
 * @attachments: devices attached to any dma-buf
 */
struct left {
	struct held held;
	long dmabufs;
	long attachments;
};

static struct left left(void)
{
	static const char path[] = "/sys/kernel/debug/dma_buf/bufinfo";
	struct left l = { .held = held() };
	FILE *f = fopen(path, "r");
	char line[256];
	long n;

	if (!f)
		die(path);
	while (fgets(line, sizeof(line), f)) {
		if (strstr(line, "\tudmabuf\t"))
			l.dmabufs++;
		else if (sscanf(line, "Total %ld devices attached", &n) == 1)
			l.attachments += n;
	}
	fclose(f);
	return l;
}

static void expect_left(struct __test_metadata *_metadata, const struct left *before)
{
	struct left now = left();

	EXPECT_EQ(now.dmabufs, before->dmabufs);
	EXPECT_EQ(now.attachments, before->attachments);
	EXPECT_HELD(before->held);
}

/* Creation */

static void no_step(struct state *s)
{
}

static void shmem_new(struct state *s)
{
	s->size = 4 * PAGE;
	s->memfd[0] = memfd_new(SHMEM, s->size);
}

static void shmem_filled(struct state *s)
{
	s->size = PAGES * PAGE;
	s->memfd[0] = memfd_filled(SHMEM, s->size, SEED, NULL);
}

static void hugetlb_new(struct state *s)
{
	s->size = 2 * HUGE;
	s->memfd[0] = memfd_new(HUGETLB, s->size);
}

static void hugetlb_filled(struct state *s)
{
	s->size = 2 * HUGE;
	s->memfd[0] = memfd_filled(HUGETLB, s->size, SEED, NULL);
}

/*
 * Takes the descriptors that a process has room for at first, but two, which the
 * attempt's own files get: to make one more, the table has to grow.  In a child, as
 * it does not shrink again.
 */
static void descriptors_used_up(struct state *s)
{
	shmem_filled(s);
	for (int i = 0; i < FIRST_FDS; i++) {
		s->spare[i] = fcntl(s->dev, F_DUPFD_CLOEXEC, 0);
		if (s->spare[i] < 0)
			die("descriptors");
		if (s->spare[i] == FIRST_FDS - 3)
			return;
	}
}

static int create(struct state *s)
{
	s->fd = udmabuf_create(s->dev, s->memfd[0], 0, s->size);
	return s->fd < 0 ? -errno : 0;
}

/* Every second page, backwards, of one memfd and then of another. */
static void list_filled(struct state *s)
{
	for (int i = 0; i < 2; i++)
		s->memfd[i] = memfd_filled(SHMEM, ITEMS * PAGE, SEED + i, NULL);
	for (int i = 0; i < ITEMS; i++)
		s->items[i] = (struct udmabuf_create_item) {
			.memfd = s->memfd[i >= ITEMS / 2],
			.offset = (ITEMS - 2 - 2 * i % ITEMS) * PAGE,
			.size = PAGE,
		};
	s->size = ITEMS * PAGE;
}

/*
 * Two pages that do not follow on, and a huge one of another memfd, none of them
 * there yet: when the second or the third cannot be had, others are pinned already.
 */
static void list_new(struct state *s)
{
	const size_t offsets[] = { 0, 2 * PAGE, 0 };

	s->memfd[0] = memfd_new(SHMEM, 4 * PAGE);
	s->memfd[1] = memfd_new(HUGETLB, HUGE);
	for (int i = 0; i < 3; i++)
		s->items[i] = (struct udmabuf_create_item) {
			.memfd = s->memfd[i / 2],
			.offset = offsets[i],
			.size = i < 2 ? PAGE : HUGE,
		};
}

static int create_list_new(struct state *s)
{
	s->fd = udmabuf_create_list(s->dev, s->items, 3);
	return s->fd < 0 ? -errno : 0;
}

static int create_list(struct state *s)
{
	s->fd = udmabuf_create_list(s->dev, s->items, ITEMS);
	return s->fd < 0 ? -errno : 0;
}

/* A dma-buf that was made is a whole one: writes to it are in the memfd. */
static bool create_worked(struct state *s)
{
	size_t last = s->size / PAGE - 1;
	char *p = map_shared(s->fd, s->size, PROT_READ | PROT_WRITE);
	char *q = map_shared(s->memfd[0], s->size, PROT_READ);
	bool same;

	mark_page(p, SEED, 0);
	mark_page(p + last * PAGE, SEED, last);
	same = page_is(q, SEED, 0) && page_is(q + last * PAGE, SEED, last);
	munmap(p, s->size);
	munmap(q, s->size);
	return same;
}

static bool create_list_worked(struct state *s)
{
	char *p = map_shared(s->fd, s->size, PROT_READ);
	bool same = true;

	for (int i = 0; i < ITEMS; i++)
		same = same && page_is(p + i * PAGE, SEED + (i >= ITEMS / 2),
				       s->items[i].offset / PAGE);
	munmap(p, s->size);
	return same;
}

static void close_buffer(struct state *s)
{
	close_fd(&s->fd);
}

static void close_buffer_and_memfds(struct state *s)
{
	close_fd(&s->fd);
	close_memfds(s);
}

/* CPU mappings */

static void buffer_shmem(struct state *s)
{
	shmem_filled(s);
	/* Backwards, so that every page is a run. */
	for (int i = 0; i < PAGES; i++)
		s->items[i] = (struct udmabuf_create_item) {
			.memfd = s->memfd[0],
			.offset = (PAGES - 1 - i) * PAGE,
			.size = PAGE,
		};
	s->fd = udmabuf_create_list(s->dev, s->items, PAGES);
	if (s->fd < 0)
		die("udmabuf");
}

static void buffer_hugetlb(struct state *s)
{
	hugetlb_filled(s);
	if (create(s))
		die("udmabuf");
}

/* Where this process has mapped nothing, so that there are no page tables yet. */
#define EMPTY_PLACE	((void *)(sizeof(long) == 8 ? 1UL << 45 : 1UL << 31))

/*
 * A fault that lacks memory is tried again, when the failure is over: so a mapping
 * that was made works.
 */
static int map_and_touch(struct state *s)
{
	char *p = mmap(EMPTY_PLACE, s->size, PROT_READ | PROT_WRITE,
		       MAP_SHARED | MAP_FIXED_NOREPLACE, s->fd, 0);
	size_t pages = s->size / PAGE;

	if (p == MAP_FAILED)
		return -errno;
	for (size_t i = 0; i < pages; i += pages / PAGES) {
		size_t at = s->size == PAGES * PAGE ? PAGES - 1 - i : i;

		if (!page_is(p + i * PAGE, SEED, at))
			return -EIO;
		mark_page(p + i * PAGE, SEED, at);
	}
	return 0;
}

/* Importers */

/*
 * The buffer is imported into a second device all the time.  DMA_API_DEBUG has a
 * record of each page that is mapped; when it cannot allocate one it says so in the
 * log and switches itself off.  For pages already mapped it need not.
 */
static void hold_in(struct state *s, const char *driver)
{
	uint32_t handle;

	s->holder = drm_open(driver);
	if (drm_import(s->holder, s->fd, &handle))
		die(driver);
}

static void vgem_setup(struct state *s)
{
	buffer_shmem(s);
	hold_in(s, "vkms");
}

static void vgem_open(struct state *s)
{
	s->drm = drm_open("vgem");
}

static int vgem_import(struct state *s)
{
	uint32_t handle;

	return drm_import(s->drm, s->fd, &handle);
}

/* Also drops handles that a failed copy to user memory did not report. */
static void drm_close(struct state *s)
{
	close_fd(&s->drm);
}

static void vkms_setup(struct state *s)
{
	buffer_shmem(s);
	hold_in(s, "vgem");
	s->keeper = drm_open("vkms");
	s->screen = vkms_screen(s->keeper);
	if (drm_ioctl(s->keeper, DRM_IOCTL_DROP_MASTER, NULL))
		die("vkms");
}

static void vkms_open(struct state *s)
{
	s->drm = drm_open("vkms");
}

static int vkms_import(struct state *s)
{
	uint32_t handle;
	int ret = drm_import(s->drm, s->fd, &handle);

	return ret ?: vkms_add_fb(s->drm, handle, &s->fb);
}

static void vkms_setup_fb(struct state *s)
{
	vkms_setup(s);
	vkms_open(s);
	if (vkms_import(s))
		die("framebuffer");
}

static int vkms_show(struct state *s)
{
	return vkms_show_fb(s->drm, &s->screen, s->fb);
}

static void vkms_hide(struct state *s)
{
	if (vkms_show_fb(s->drm, &s->screen, 0))
		die("DRM_IOCTL_MODE_SETCRTC");
}

static int sync_cpu(struct state *s)
{
	struct dma_buf_sync sync = { .flags = DMA_BUF_SYNC_START | DMA_BUF_SYNC_RW };

	if (ioctl(s->fd, DMA_BUF_IOCTL_SYNC, &sync))
		return -errno;
	sync.flags = DMA_BUF_SYNC_END | DMA_BUF_SYNC_RW;
	return ioctl(s->fd, DMA_BUF_IOCTL_SYNC, &sync) ? -errno : 0;
}

/* debugfs */

#define BUFFERS	"/sys/kernel/debug/udmabuf/buffers"

static void buffers_setup(struct state *s)
{
	buffer_shmem(s);
	read_text(BUFFERS, s->text, sizeof(s->text));
	if (!strchr(s->text, '\n') || !strchr(strchr(s->text, '\n') + 1, '\n'))
		die("no line for the buffer");
}

static int buffers_read(struct state *s)
{
	int fd = open(BUFFERS, O_RDONLY | O_CLOEXEC);
	char text[sizeof(s->text)];
	ssize_t n, len = 0;
	int err;

	if (fd < 0)
		return -errno;
	do {
		n = read(fd, text + len, sizeof(text) - 1 - len);
		err = errno;
		len += n > 0 ? n : 0;
	} while (n > 0);
	close(fd);
	if (n < 0)
		return -err;
	text[len] = 0;
	return strcmp(text, s->text) ? -EIO : 0;
}

/* The sweep */

#define MOST_ERRORS	2

FIXTURE(fail_nth) {
	char old[NR_SETTINGS][16];
	struct held before;
	struct state s;
};

/**
 * struct _fixture_variant_fail_nth - a step
 * @setup: once
 * @before: before each attempt
 * @run: the attempt, the only thing that runs with injection
 * @worked: whether an attempt that says so has done its work
 * @after: after each attempt
 * @in_child: the attempt is made by a child
 * @errors: what the attempt may return, and each of which some attempt must; EFAULT
 *	comes of arguments and results that cannot be copied, ENOMEM of the rest
 */
FIXTURE_VARIANT(fail_nth) {
	void (*setup)(struct state *s);
	void (*before)(struct state *s);
	int (*run)(struct state *s);
	bool (*worked)(struct state *s);
	void (*after)(struct state *s);
	bool in_child;
	int errors[MOST_ERRORS];
};

FIXTURE_VARIANT_ADD(fail_nth, create) {
	.setup = no_step,
	.before = shmem_new,
	.run = create,
	.worked = create_worked,
	.after = close_buffer_and_memfds,
	.errors = { ENOMEM, EFAULT },
};

FIXTURE_VARIANT_ADD(fail_nth, create_filled) {
	.setup = shmem_filled,
	.before = no_step,
	.run = create,
	.worked = create_worked,
	.after = close_buffer,
	.errors = { ENOMEM, EFAULT },
};

FIXTURE_VARIANT_ADD(fail_nth, create_hugetlb) {
	.setup = no_step,
	.before = hugetlb_new,
	.run = create,
	.worked = create_worked,
	.after = close_buffer_and_memfds,
	.errors = { ENOMEM, EFAULT },
};

FIXTURE_VARIANT_ADD(fail_nth, create_hugetlb_filled) {
	.setup = hugetlb_filled,
	.before = no_step,
	.run = create,
	.worked = create_worked,
	.after = close_buffer,
	.errors = { ENOMEM, EFAULT },
};

FIXTURE_VARIANT_ADD(fail_nth, create_descriptor) {
	.setup = descriptors_used_up,
	.before = no_step,
	.run = create,
	.after = no_step,
	.in_child = true,
	.errors = { ENOMEM, EFAULT },
};

FIXTURE_VARIANT_ADD(fail_nth, create_list_new) {
	.setup = no_step,
	.before = list_new,
	.run = create_list_new,
	.after = close_buffer_and_memfds,
	.errors = { ENOMEM, EFAULT },
};

FIXTURE_VARIANT_ADD(fail_nth, create_list) {
	.setup = list_filled,
	.before = no_step,
	.run = create_list,
	.worked = create_list_worked,
	.after = close_buffer,
	.errors = { ENOMEM, EFAULT },
};

FIXTURE_VARIANT_ADD(fail_nth, mmap_shmem) {
	.setup = buffer_shmem,
	.before = no_step,
	.run = map_and_touch,
	.after = no_step,
	.in_child = true,
	.errors = { ENOMEM },
};

FIXTURE_VARIANT_ADD(fail_nth, mmap_hugetlb) {
	.setup = buffer_hugetlb,
	.before = no_step,
	.run = map_and_touch,
	.after = no_step,
	.in_child = true,
	.errors = { ENOMEM },
};

FIXTURE_VARIANT_ADD(fail_nth, import_vgem) {
	.setup = vgem_setup,
	.before = vgem_open,
	.run = vgem_import,
	.after = drm_close,
	.errors = { ENOMEM, EFAULT },
};

FIXTURE_VARIANT_ADD(fail_nth, import_vkms) {
	.setup = vkms_setup,
	.before = vkms_open,
	.run = vkms_import,
	.after = drm_close,
	.errors = { ENOMEM, EFAULT },
};

FIXTURE_VARIANT_ADD(fail_nth, vmap) {
	.setup = vkms_setup_fb,
	.before = no_step,
	.run = vkms_show,
	.after = vkms_hide,
	.errors = { ENOMEM, EFAULT },
};

FIXTURE_VARIANT_ADD(fail_nth, sync) {
	.setup = vgem_setup,
	.before = no_step,
	.run = sync_cpu,
	.after = no_step,
	.errors = { EFAULT },
};

FIXTURE_VARIANT_ADD(fail_nth, debugfs) {
	.setup = buffers_setup,
	.before = no_step,
	.run = buffers_read,
	.after = no_step,
	.errors = { ENOMEM, EFAULT },
};

FIXTURE_SETUP(fail_nth)
{
	struct state *s = &self->s;

	*s = (struct state) {
		.dev = -1,
		.memfd = { -1, -1 },
		.fd = -1,
		.drm = -1,
		.keeper = -1,
		.holder = -1,
	};
	if (access("/proc/self/fail-nth", W_OK))
		SKIP(return, "no CONFIG_FAULT_INJECTION");

	want_huge_pages();
	vkms_on_one_cpu();
	for (size_t i = 0; i < NR_SETTINGS; i++) {
		read_text(settings[i].path, self->old[i], sizeof(self->old[i]));
		write_file(settings[i].path, settings[i].value);
	}
	self->before = held();
	s->dev = udmabuf_open();
	variant->setup(s);
}

FIXTURE_TEARDOWN(fail_nth)
{
	struct state *s = &self->s;

	close_spare(s);
	close_fd(&s->drm);
	close_fd(&s->holder);
	close_fd(&s->keeper);
	close_buffer_and_memfds(s);
	close_fd(&s->dev);
	EXPECT_HELD(self->before);
	/* Backwards: the task filter has to be on until the probability is low. */
	for (size_t i = NR_SETTINGS; i-- > 0;)
		write_file(settings[i].path, self->old[i]);
}

/* Whether an attempt may end with @result; notes in @seen which of @errors it is. */
static bool documented(const int *errors, int result, bool *seen)
{
	if (result >= 0)
		return true;
	for (size_t i = 0; i < MOST_ERRORS; i++)
		if (result == -errors[i]) {
			seen[i] = true;
			return true;
		}
	return false;
}

/*
 * The attempt with no failure at all, which comes first, shows that the step works,
 * and touches what memory of this process it needs: a page fault has calls that can
 * fail, too, and once it is resolved they are not there for the next attempt.
 */
static void sweep(struct __test_metadata *_metadata, FIXTURE_DATA(fail_nth) * self,
		  const FIXTURE_VARIANT(fail_nth) * variant, bool in_a_row)
{
	struct state *s = &self->s;
	struct injection what = { .nth = 0, .in_a_row = in_a_row };
	bool seen[MOST_ERRORS] = {};
	struct left before = left();
	struct attempt a;

	for (; what.nth <= MOST_CALLS; what.nth++) {
		if (in_a_row) {
			write_file(FAILSLAB "times", IN_A_ROW);
			write_file(FAIL_PAGE_ALLOC "times", IN_A_ROW);
		}
		variant->before(s);
		if (variant->in_child)
			a = attempt_in_child(s, variant->run, what);
		else
			a = attempt(s, variant->run, what);
		EXPECT_TRUE(documented(variant->errors, a.result, seen)) {
			TH_LOG("call %u fails: %s", what.nth, strerror(-a.result));
		}
		if (a.result >= 0 && variant->worked)
			EXPECT_TRUE(variant->worked(s));
		variant->after(s);

		expect_left(_metadata, &before);
		ASSERT_EQ(_metadata->exit_code, KSFT_PASS) {
			TH_LOG("with call %u failing", what.nth);
		}
		if (what.nth && !a.injected)
			break;
		if (!what.nth)
			ASSERT_EQ(a.result, 0);
	}

	/* Injection took place, came to an end, and then the step worked. */
	EXPECT_GT(what.nth, 1);
	EXPECT_LE(what.nth, MOST_CALLS);
	EXPECT_EQ(a.result, 0);
	for (size_t i = 0; i < MOST_ERRORS; i++)
		EXPECT_TRUE(seen[i] || !variant->errors[i]);
}

TEST_F_TIMEOUT(fail_nth, one_call, 300)
{
	sweep(_metadata, self, variant, false);
}

TEST_F_TIMEOUT(fail_nth, calls_in_a_row, 300)
{
	sweep(_metadata, self, variant, true);
}

TEST_HARNESS_MAIN
