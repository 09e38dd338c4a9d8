/* SPDX-License-Identifier: GPL-2.0-or-later */
/* From a number to its node, from disk alone: entry, else map, else -ESTALE. */
#ifndef RVL_OVERLAY_DECODE_H
#define RVL_OVERLAY_DECODE_H

#include <stdbool.h>
#include <stdint.h>

struct rvl_node;
struct rvl_overlay;

/* The node with a reference. No lock may be held: ancestors are looked up, and locked, on the way.
 * -ESTALE: leads to nothing; -EUCLEAN: the entry is damaged. */
int rvl_decode(struct rvl_overlay *ov, uint64_t number, struct rvl_node **ret);

/*
 * Has a file from lower, of which upper has no name left, one that the tree shows? Else -ESTALE,
 * and it is buried. 0 also for objects that are not such, and without may_walk where the map is not
 * complete: the map is not built for this then. No lock may be held, and the kernel does not know
 * the object.
 */
int rvl_bury_if_unnamed(struct rvl_node *node, bool may_walk);

#endif
