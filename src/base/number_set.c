// SPDX-License-Identifier: GPL-2.0-or-later
/* Linear probing, at most half full; what is taken out leaves no hole: those behind it move up. */
#include "base/number_set.h"

#include <errno.h>
#include <stdlib.h>

#include "base/hash.h"

#define SIZE_MIN 256

static size_t home_of(const struct rvl_number_set *set, uint64_t key)
{
	return rvl_hash(&key, sizeof(key)) & (set->size - 1);
}

static size_t slot_of(const struct rvl_number_set *set, uint64_t key)
{
	size_t i = home_of(set, key);

	while (set->v[i].key && set->v[i].key != key)
		i = (i + 1) & (set->size - 1);
	return i;
}

static int grow(struct rvl_number_set *set)
{
	struct rvl_number_set bigger = { .size = set->size ? set->size * 2 : SIZE_MIN };

	bigger.v = calloc(bigger.size, sizeof(*bigger.v));
	if (!bigger.v)
		return -ENOMEM;
	for (size_t i = 0; i < set->size; i++)
		if (set->v[i].key)
			bigger.v[slot_of(&bigger, set->v[i].key)] = set->v[i];
	bigger.n = set->n;
	free(set->v);
	*set = bigger;
	return 0;
}

int rvl_number_set_add(struct rvl_number_set *set, uint64_t key, uint64_t value, size_t max)
{
	int r = set->n * 2 >= set->size ? grow(set) : 0;
	size_t i;

	if (r || !key)
		return r;
	i = slot_of(set, key);
	if (!set->v[i].key) {
		if (set->n >= max)
			return -E2BIG;
		set->n++;
	}
	set->v[i].key = key;
	set->v[i].value = value;
	return 0;
}

uint64_t rvl_number_set_get(const struct rvl_number_set *set, uint64_t key)
{
	return set->n ? set->v[slot_of(set, key)].value : 0;
}

uint64_t rvl_number_set_take(struct rvl_number_set *set, uint64_t key)
{
	size_t hole, i, mask = set->size - 1;
	uint64_t value;

	if (!set->n || !key)
		return 0;
	hole = i = slot_of(set, key);
	value = set->v[hole].value;
	if (!set->v[hole].key)
		return 0;
	for (;;) {
		i = (i + 1) & mask;
		if (!set->v[i].key)
			break;
		/* may it lie in the hole? Not before its home. */
		if (((i - home_of(set, set->v[i].key)) & mask) < ((i - hole) & mask))
			continue;
		set->v[hole] = set->v[i];
		hole = i;
	}
	set->v[hole].key = set->v[hole].value = 0;
	set->n--;
	return value;
}

void rvl_number_set_release(struct rvl_number_set *set)
{
	free(set->v);
	*set = (struct rvl_number_set){ 0 };
}
