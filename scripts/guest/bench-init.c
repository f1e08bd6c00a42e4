// SPDX-License-Identifier: GPL-2.0
/*
 * First process of the machine that scripts/bench measures udmabuf in: mounts what the
 * benchmark needs, loads the importer, runs the benchmark with its output on the
 * second serial port, and ends the machine.
 */
#include <sys/syscall.h>
#include <sys/wait.h>

#include "init.h"

static int run(const char *path)
{
	int status;
	pid_t pid = fork();

	if (!pid) {
		int port = open("/dev/ttyS1", O_WRONLY);

		if (port >= 0 && dup2(port, 1) >= 0 && dup2(port, 2) >= 0)
			execl(path, path, NULL);
		_exit(1);
	}
	return pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status) ?
	       WEXITSTATUS(status) : -1;
}

int main(void)
{
	int module = open("/vgem.ko", O_RDONLY);

	mount_at("/dev", "devtmpfs");
	mount_at("/proc", "proc");
	mount_at("/sys", "sysfs");
	mount_at("/sys/kernel/debug", "debugfs");
	if (module < 0 || syscall(SYS_finit_module, module, "", 0))
		fail("vgem.ko");
	close(module);
	check(!run("/udmabuf_bench"), "the benchmark");
	puts("the benchmark is done");
	end_machine();
}
