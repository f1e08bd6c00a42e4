/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A process that has a dma-buf of a BAR, but not the device: it got the descriptor by a
 * socket, has mapped it, and reads and writes it without pause.
 */
#ifndef VFIO_RECEIVER_H
#define VFIO_RECEIVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* What one thread of the receiver's has done. */
struct receiver_access {
	uint32_t done;		/* accesses that got through */
	uint32_t refused;	/* SIGBUS */
};

/**
 * struct receiver - a receiver, as its lender sees it
 * @pid: the process
 * @access: of its reader and its writer; shared with it
 */
struct receiver {
	pid_t pid;
	struct receiver_access *access;
};

#define RECEIVER_READS	0
#define RECEIVER_WRITES	1

/*
 * Lends @size bytes of @dmabuf to a new process, which reads what is at @reads and
 * writes 1, 2, 3, ... to @writes (64 bits each), in mappings of their pages.
 */
void receiver_start(struct receiver *receiver, int dmabuf, size_t reads, size_t writes);
/* Ends it, if there is one. */
void receiver_end(struct receiver *receiver);
/* Waits until both threads have got through once more; false: they have not. */
bool receiver_gets_through(struct receiver *receiver);
/* Waits until both threads have had SIGBUS once more, and nothing else; false: not so. */
bool receiver_is_refused(struct receiver *receiver);
/* Page faults that it has had. */
long receiver_faults(const struct receiver *receiver);

#endif /* VFIO_RECEIVER_H */
