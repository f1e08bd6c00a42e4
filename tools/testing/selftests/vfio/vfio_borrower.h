/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A process that has a dma-buf of a BAR, but not the device: it got the descriptor by a
 * socket, has mapped it, and reads and writes it without pause.
 */
#ifndef VFIO_BORROWER_H
#define VFIO_BORROWER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* What one thread of the borrower's has done. */
struct borrower_access {
	uint32_t done;		/* accesses that got through */
	uint32_t refused;	/* SIGBUS */
};

/**
 * struct borrower - a borrower, as its lender sees it
 * @pid: the process
 * @access: of its reader and its writer; shared with it
 */
struct borrower {
	pid_t pid;
	struct borrower_access *access;
};

#define BORROWER_READS	0
#define BORROWER_WRITES	1

/*
 * Lends @size bytes of @dmabuf to a new process, which reads what is at @reads and
 * writes 1, 2, 3, ... to @writes (64 bits each), in mappings of their pages.
 */
void borrower_start(struct borrower *borrower, int dmabuf, size_t reads, size_t writes);
/* Ends it, if there is one. */
void borrower_end(struct borrower *borrower);
/* Waits until both threads have got through once more; false: they have not. */
bool borrower_gets_through(struct borrower *borrower);
/* Waits until both threads have had SIGBUS once more, and nothing else; false: not so. */
bool borrower_is_refused(struct borrower *borrower);
/* Page faults that it has had. */
long borrower_faults(const struct borrower *borrower);

#endif /* VFIO_BORROWER_H */
