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

static inline void begin_machine(void)
{
	static const char *const mounts[][2] = {
		{ "/dev", "devtmpfs" }, { "/proc", "proc" }, { "/sys", "sysfs" },
		{ "/sys/kernel/debug", "debugfs" },
	};

	setlinebuf(stdout);
	for (int i = 0; i < 4; i++) {
		mkdir(mounts[i][0], 0755);
		if (mount(mounts[i][1], mounts[i][0], mounts[i][1], 0, NULL))
			err(1, "%s", mounts[i][0]);
	}
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
