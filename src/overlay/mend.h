/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Mending at use: the stored path of an upper directory that is out of step with its handle. */
#ifndef RVL_OVERLAY_MEND_H
#define RVL_OVERLAY_MEND_H

#include "index/entry.h"

struct rvl_overlay;

/* Find the upper directory by its handle, else by a walk of upper for its stamp, and from it parent
 * and name; write them to the entry and to dir->path. No lock is held. -ESTALE: no directory inside
 * upper is it; others: of memory and descriptors. */
int rvl_mend_path(struct rvl_overlay *ov, uint64_t number, struct rvl_entry_directory *dir);

/* The upper directory dirfd/name has got another number, this one: it is written to the records of the directories
 * in it, as parent of the path, and of the place in lower where that is the same. Best effort, errors are not
 * told: a path that is left is mended at use, a place by reverlayctl check. */
void rvl_mend_children(struct rvl_overlay *ov, int dirfd, const char *name, uint64_t number);

#endif
