/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What each fuzzer is made of. Inputs get the right checksum first: without it nothing but the
 * check of that would be tried. */
#ifndef RVL_TESTS_FUZZ_H
#define RVL_TESTS_FUZZ_H

#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define FUZZ_CHECK(condition)                                                           \
	do {                                                                            \
		if (!(condition)) {                                                     \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
			abort();                                                        \
		}                                                                       \
	} while (0)

/* A piece of an input: its length in one byte, then the bytes; what is left where they are too few. */
static inline size_t fuzz_piece(const uint8_t **data, size_t *size, const uint8_t **ret)
{
	size_t len = *size ? **data : 0;

	if (*size) {
		(*data)++;
		(*size)--;
	}
	if (len > *size)
		len = *size;
	*ret = *data;
	*data += len;
	*size -= len;
	return len;
}

/* A filesystem in memory that no path leads to and that goes with the process; needs root. */
static inline int fuzz_filesystem(void)
{
	int fs = fsopen("tmpfs", FSOPEN_CLOEXEC), fd;

	FUZZ_CHECK(fs >= 0 && fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) == 0);
	fd = fsmount(fs, FSMOUNT_CLOEXEC, 0);
	FUZZ_CHECK(fd >= 0);
	return fd;
}

#endif
