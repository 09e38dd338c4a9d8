/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What each fuzzer is made of. Inputs get the right checksum first: without it nothing but the
 * check of that would be tried. */
#ifndef RVL_TESTS_FUZZ_H
#define RVL_TESTS_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define FUZZ_CHECK(condition)                                                           \
	do {                                                                            \
		if (!(condition)) {                                                     \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
			abort();                                                        \
		}                                                                       \
	} while (0)

#endif
