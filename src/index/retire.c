// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The end of a map that a rebind made. It alone had the numbers of the lower objects that nobody
 * has touched, so when it is damaged or lost the instances of the lowers are retired: these objects
 * get numbers of new ones, and what was shown of them before is -ESTALE for ever. What is in upper
 * keeps its number, and the lower objects that it came from are found by place or handle, so that
 * their other names stay links of it.
 *
 * On disk it is a rebind: a new map beside the old one, then one rename of the state. A death
 * before that leaves the old state, which finds the map damaged again.
 */
#include "index/rebind.h"

#include <errno.h>

#include "base/counters.h"
#include "base/log.h"

static void ignore_note(void *arg, enum rvl_rebind_note what, uint64_t number, const char *path)
{
}

/* Two objects in upper say that they were copied up from one in lower: no names can be made here. */
static int refuse_split(void *arg, const struct rvl_rebind_split *split)
{
	return -ESTALE;
}

/* The layers are where they were: the handles that are kept are true. */
static int ignore_origin(void *arg, uint64_t number, const struct rvl_layer *layer, int dirfd,
			 const char *path)
{
	return 0;
}

/* Not asked without a map. */
static int is_not_seen(void *arg, uint64_t parent, const char *name)
{
	return 0;
}

int rvl_rebind_retire(const struct rvl_stack *stack)
{
	static const struct rvl_rebind_sink sink = { .note = ignore_note,
						     .split = refuse_split,
						     .origin = ignore_origin,
						     .is_seen = is_not_seen };
	const struct rvl_rebind_config config = { .stack = stack, .is_retiring = true };
	struct rvl_rebind_counts counts;
	struct rvl_rebind *rebind;
	int r = rvl_rebind_begin(&config, &rebind);

	if (r)
		return r;
	r = rvl_rebind_lowers(rebind, &sink, &counts);
	r = r ?: rvl_rebind_commit(rebind);
	rvl_rebind_free(rebind);
	if (r)
		return r;
	rvl_count(maps_retired);
	rvl_warn(
		"workdir=%s: the map, which alone had the inode numbers from before a rebind, was damaged "
		"or lost: the %llu untouched names of lower layers have new numbers, and handles of them "
		"from before are stale",
		stack->work_path, (unsigned long long)(counts.n_names - counts.n_kept));
	return 0;
}
