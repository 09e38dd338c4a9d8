/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * After an unclean stop of the machine the log may lack records of which the names survived: the
 * index is completed from the stamps of upper, in the background (docs/consistency.md). Until that
 * is done, a number that leads to nothing waits.
 */
#ifndef RVL_OVERLAY_COMPLETE_H
#define RVL_OVERLAY_COMPLETE_H

#include <stdbool.h>
#include <stdint.h>

struct rvl_overlay;
struct rvl_node;
struct rvl_completion;

/* *ret NULL: nothing to complete. */
int rvl_complete_new(struct rvl_overlay *ov, struct rvl_completion **ret);
/* Accepts NULL. No other thread uses it any more. */
void rvl_complete_free(struct rvl_completion *completion);

/* May a number that leads to nothing lead somewhere when the walk has ended? To be asked before it
 * is looked for. False for the walker itself. */
bool rvl_complete_is_going(struct rvl_overlay *ov);
/* Until it has ended. No locks held. */
void rvl_complete_wait(struct rvl_overlay *ov);

/*
 * A directory was renamed while the walk may go on: it is looked into once more, where it is now.
 */
void rvl_complete_moved(struct rvl_node *dir);

#endif
