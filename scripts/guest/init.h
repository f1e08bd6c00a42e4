/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the first processes of machines without a root file system share.  They tell on
 * standard output, which is the serial console, how far they have got; a line that begins
 * with "failed:" is the last one.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdnoreturn.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <unistd.h>

/* A machine without ACPI cannot power off; a reboot is the end of QEMU as well. */
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

static inline void check(int good, const char *what)
{
	if (good)
		return;
	errno = EIO;
	fail(what);
}

static inline void mount_at(const char *path, const char *type)
{
	mkdir(path, 0755);
	if (mount(type, path, type, 0, NULL))
		fail(path);
}

static inline void say_and_wait(const char *text)
{
	char line[64];

	puts(text);
	if (!fgets(line, sizeof(line), stdin))
		fail("a line on the console");
}
