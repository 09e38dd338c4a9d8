/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The overlay in this process, without FUSE: what the programs that measure inside the server share. */
#ifndef RVL_BENCH_INSIDE_H
#define RVL_BENCH_INSIDE_H

#include "overlay/overlay.h"

struct inside {
	struct rvl_stack stack;
	struct rvl_index *index;
	struct rvl_overlay *ov;
};

static inline int inside_open(const char *lower, const char *upper, const char *work, struct inside *ret)
{
	const struct rvl_stack_config stack = {
		.lower = &lower, .n_lower = 1, .upper = upper, .work = work
	};
	struct rvl_index_config index = { .stack = &ret->stack };
	struct rvl_overlay_config overlay = { .stack = &ret->stack, .sync = RVL_SYNC_AUTO, .has_metacopy = true };
	int r = rvl_stack_open(&stack, &ret->stack);

	if (r == 0)
		r = rvl_index_open(&index, &ret->index);
	overlay.index = ret->index;
	return r < 0 ? r : rvl_overlay_open(&overlay, &ret->ov);
}

static inline void inside_close(struct inside *inside)
{
	rvl_overlay_close(inside->ov);
	rvl_index_close(inside->index);
	rvl_stack_release(&inside->stack);
}

#endif
