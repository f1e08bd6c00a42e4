/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A fuzzer of the interfaces around dma-bufs: programs of a few calls, that hand
 * descriptors, mappings and address spaces to each other.  See fuzz.c.
 */
#ifndef DMA_BUF_FUZZ_H
#define DMA_BUF_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FUZZ_ARGS	5
#define FUZZ_CALLS	24	/* of one program */

/* In struct fuzz_call.how: the other thread makes the call, while this one goes on. */
#define FUZZ_THREAD	0x80
/* If both bits are set, allocation number FUZZ_FAIL (0: none) of the call fails. */
#define FUZZ_FAILS	0x60
#define FUZZ_FAIL	0x1f

/**
 * struct fuzz_call - one call of a program, and its form in the fuzzer's input
 * @type: an index into fuzz_types, modulo their number
 * @how: FUZZ_THREAD, FUZZ_FAILS, FUZZ_FAIL
 * @arg: what the call makes of them
 */
struct fuzz_call {
	uint8_t type;
	uint8_t how;
	uint16_t arg[FUZZ_ARGS];
};

/**
 * struct fuzz_type - a kind of call
 * @name: in the text of a program
 * @run: makes the call; errors are as good as successes
 * @faults: it expects signals, whose delivery must not fail: that would end the process
 */
struct fuzz_type {
	const char *name;
	void (*run)(const uint16_t *arg);
	bool faults;
};

extern const struct fuzz_type fuzz_types[];
extern const size_t fuzz_types_count;

/* Opens what all programs share; ends the process if the machine has not got it. */
void fuzz_open(void);
/* Before a program. */
void fuzz_begin(const struct fuzz_call *calls, size_t count);
/* Between two programs: nothing that a program made is left. */
void fuzz_clean(void);

/* libFuzzer's own. */
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);

#endif /* DMA_BUF_FUZZ_H */
