/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What rebind.c (begin, commit) and rebind_walk.c (the lowers) share. Private to src/index. */
#ifndef RVL_INDEX_REBIND_PRIVATE_H
#define RVL_INDEX_REBIND_PRIVATE_H

#include "index/rebind.h"
#include "index/rebind_places.h"

struct rvl_rebind {
	struct rvl_rebind_config config;
	struct rvl_index *old, *next; /* owned */
	struct rvl_old_places *places; /* owned */
	void *firsts, *parted; /* owned; tsearch(3); of rebind_walk.c */
	uint64_t *lost; /* owned; numbers of objects in upper whose lower ones are gone */
	size_t n_lost, lost_size;
	uint8_t (*uuids)[16]; /* owned; of the filesystems of layers, by layer index */
	bool is_moved; /* upper or workdir is at another place */
	bool has_other_lowers; /* than the state names */
	bool has_map; /* the old map had every object */
	bool needs_map; /* a new map is made: the lowers are walked */
	/* The map is lost, or has not all, and the lowers are the same: handles of lower objects
	 * that entries keep are true, and tell what places cannot. */
	bool has_origins;
	const struct rvl_rebind_sink *sink; /* borrowed, from the walk to the commit */
	struct rvl_rebind_counts *counts; /* borrowed, during the walk */
};

/* Frees firsts, parted and lost. */
void rvl_rebind_walk_release(struct rvl_rebind *rebind);
/* After the commit: what is lost has no origin, by sink->origin, whose errors it returns. May be done again. */
int rvl_rebind_forget_lost(struct rvl_rebind *rebind);

#endif
