/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the two parts of a rebind share. Private to src/index. */
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
	bool is_moved, has_other_lowers, has_map, needs_map;
	/* The map is lost, or has not all, and the lowers are the same: handles of lower objects
	 * that entries keep are true, and tell what places cannot. */
	bool has_origins;
	const struct rvl_rebind_sink *sink; /* borrowed, from the walk to the commit */
	struct rvl_rebind_counts *counts; /* borrowed, during the walk */
};

/* firsts, parted and lost. */
void rvl_rebind_walk_release(struct rvl_rebind *rebind);
/* After the commit: those that are lost have no origin. May be done again. */
int rvl_rebind_forget_lost(struct rvl_rebind *rebind);

#endif
