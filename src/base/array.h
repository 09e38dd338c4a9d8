/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Arrays that grow by doubling. Not thread-safe. */
#ifndef RVL_BASE_ARRAY_H
#define RVL_BASE_ARRAY_H

#include <stddef.h>

/*
 * Room for one item more than the n that are in *array (a pointer to items of item_size bytes, owned
 * by the caller, from malloc(3) or NULL), which has room for *size. Nothing is changed by an error:
 * -ENOMEM; -E2BIG: there are max items.
 */
int rvl_array_reserve(void *array, size_t *size, size_t n, size_t item_size, size_t max);

#endif
