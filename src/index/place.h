/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Places in the merged lower view that are known by a path. */
#ifndef RVL_INDEX_PLACE_H
#define RVL_INDEX_PLACE_H

#include "index/entry.h"
#include "index/index.h"

/*
 * Where a merged directory of upper with this overlay.redirect (valid: layer/merge.h) is in lower.
 * place: in, where it is in the overlay; out, its place. 0 or -errno; -ENOENT: the way leads nowhere.
 */
int rvl_place_of_redirect(struct rvl_index *index, const char *redirect, struct rvl_name_at *place);

#endif
