// SPDX-License-Identifier: GPL-2.0
/*
 * First process of the machine that scripts/bench measures udmabuf in: loads the importer,
 * runs the benchmark with its output on the second serial port, and ends the machine.
 */
#include <sys/syscall.h>
#include <sys/wait.h>

#include "init.h"

int main(void)
{
	int status;

	begin_machine();
	if (syscall(SYS_finit_module, open("/vgem.ko", O_RDONLY), "", 0))
		err(1, "vgem.ko");
	if (!fork()) {
		dup2(open("/dev/ttyS1", O_WRONLY), 1);
		dup2(1, 2);
		execl("/udmabuf_bench", "udmabuf_bench", NULL);
		_exit(1);
	}
	if (wait(&status) < 0 || status)
		errx(1, "the benchmark's status is %x", status);
	return end_machine("the benchmark is done");
}
