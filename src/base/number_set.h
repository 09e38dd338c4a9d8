/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A set of numbers, each with a value: open hashing, as large as its owner lets it grow. */
#ifndef RVL_BASE_NUMBER_SET_H
#define RVL_BASE_NUMBER_SET_H

#include <stddef.h>
#include <stdint.h>

struct rvl_number_set { /* zeroed: empty */
	struct {
		uint64_t key, value;
	} *v; /* owned; key 0: free */
	size_t n, size; /* size: a power of two, or 0 */
};

/* Add, or give a new value. key 0 is ignored; -E2BIG: it has `max` already; -ENOMEM. */
int rvl_number_set_add(struct rvl_number_set *set, uint64_t key, uint64_t value, size_t max);
/* 0: not in it (values are not 0). */
uint64_t rvl_number_set_get(const struct rvl_number_set *set, uint64_t key);
/* Take it out and return its value; 0: it was not in it. */
uint64_t rvl_number_set_take(struct rvl_number_set *set, uint64_t key);
void rvl_number_set_release(struct rvl_number_set *set);

#endif
