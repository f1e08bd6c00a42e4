/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Somewhere to swap to, for tests: a RAM disk, whose pages do not move.  A loop device over
 * a memfd would wait for pages that are being moved, while that waits for memory.
 */
#ifndef UDMABUF_SWAP_H
#define UDMABUF_SWAP_H

#include <sys/swap.h>

#include "udmabuf_util.h"

#define SWAP_DEVICE	"/dev/ram0"

/* Swaps to so many bytes of the RAM disk, which gets all its pages now. */
static inline void swap_on(size_t size)
{
	int fd = open(SWAP_DEVICE, O_WRONLY | O_CLOEXEC);
	char *text = calloc(1, size);

	if (fd < 0 || !text)
		die(SWAP_DEVICE);
	((uint32_t *)text)[1024 / 4] = 1;			/* version */
	((uint32_t *)text)[1024 / 4 + 1] = size / PAGE - 1;	/* last page */
	memcpy(text + PAGE - 10, "SWAPSPACE2", 10);
	if (write(fd, text, size) != (ssize_t)size || fsync(fd) || swapon(SWAP_DEVICE, 0))
		die("swap");
	close(fd);
	free(text);
}

/* Returns whether all that was swapped out is back. */
static inline bool swap_off(void)
{
	return !swapoff(SWAP_DEVICE);
}

#endif /* UDMABUF_SWAP_H */
