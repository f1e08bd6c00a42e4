// SPDX-License-Identifier: GPL-2.0
/*
 * First process of the machine that scripts/bench measures in: mounts what the
 * benchmark needs, loads the importer, runs the benchmark with its output on the
 * second serial port, and ends the machine.
 *
 * The machine has no disk, network or file system of the host's, whose answers
 * would come sooner or later from one run to the next: so it does the same,
 * instruction for instruction, whenever it is started.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define PORT	"/dev/ttyS1"

static int mount_at(const char *path, const char *type)
{
	mkdir(path, 0755);
	if (!mount(type, path, type, 0, NULL))
		return 0;
	perror(path);
	return -1;
}

static int load(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd >= 0 && !syscall(SYS_finit_module, fd, "", 0))
		return close(fd);
	perror(path);
	return -1;
}

static int run(const char *path)
{
	int status;
	pid_t pid = fork();

	if (!pid) {
		int port = open(PORT, O_WRONLY);

		if (port >= 0 && dup2(port, 1) >= 0 && dup2(port, 2) >= 0)
			execl(path, path, NULL);
		perror(path);
		_exit(1);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFEXITED(status))
		return -1;
	return WEXITSTATUS(status);
}

int main(void)
{
	int failed = mount_at("/dev", "devtmpfs") || mount_at("/proc", "proc") ||
		     mount_at("/sys", "sysfs") ||
		     mount_at("/sys/kernel/debug", "debugfs") ||
		     load("/vgem.ko") || run("/udmabuf_bench");

	printf("%s\n", failed ? "the benchmark failed" : "the benchmark is done");
	fflush(stdout);
	reboot(RB_POWER_OFF);
	return 1;
}
