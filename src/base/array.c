// SPDX-License-Identifier: GPL-2.0-or-later
#include "base/array.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_SIZE 16

int rvl_array_reserve(void *array, size_t *size, size_t n, size_t item_size, size_t max)
{
	size_t more = *size ? *size * 2 : FIRST_SIZE;
	size_t bytes;
	void *old, *v;

	if (n >= max)
		return -E2BIG;
	if (n < *size)
		return 0;
	memcpy(&old, array, sizeof(old));
	v = __builtin_mul_overflow(more, item_size, &bytes) ? NULL : realloc(old, bytes);
	if (!v)
		return -ENOMEM;
	memcpy(array, &v, sizeof(v));
	*size = more;
	return 0;
}
