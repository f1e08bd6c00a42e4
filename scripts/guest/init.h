/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the first processes of machines without a root file system share.  They tell on
 * standard output, which is the serial console, how far they have got.  When one exits or
 * aborts, after a word on what is wrong, the kernel panics, which ends the machine, too.
 */
#include <err.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <unistd.h>

static inline void mount_at(const char *path, const char *type)
{
	mkdir(path, 0755);
	if (mount(type, path, type, 0, NULL))
		err(1, "%s", path);
}

static inline void say_and_wait(const char *text)
{
	puts(text);
	while (getchar() != '\n')
		;
}

/* A machine without ACPI cannot power off; a reboot is the end of QEMU as well. */
static inline int end_machine(const char *text)
{
	puts(text);
	return reboot(RB_AUTOBOOT);
}
