/* SPDX-License-Identifier: GPL-2.0-or-later */
/* From a number to its node, from disk alone (design section 5): entry, else map, else -ESTALE. */
#ifndef RVL_OVERLAY_DECODE_H
#define RVL_OVERLAY_DECODE_H

#include <stdint.h>

struct rvl_node;
struct rvl_overlay;

/* The node with a reference. No lock may be held: ancestors are looked up, and locked, on the way.
 * -ESTALE: leads to nothing; -EUCLEAN: the entry is damaged. */
int rvl_decode(struct rvl_overlay *ov, uint64_t number, struct rvl_node **ret);

#endif
