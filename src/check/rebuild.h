/* SPDX-License-Identifier: GPL-2.0-or-later */
/* repair --rebuild. Private to src/check. */
#ifndef RVL_CHECK_REBUILD_H
#define RVL_CHECK_REBUILD_H

#include "check/check.h"
#include "layer/tree.h"

struct rvl_index;

/*
 * Make a new state where it is lost or damaged, for a rebind in any case; 0 also where there was nothing
 * to do. The passes that follow make the entries. Errors are logged: -EINVAL without upper and workdir;
 * -ESTALE: the state is lost, and the lower layers are not those that upper was used with.
 */
int rvl_rebuild(const struct rvl_check_config *config);

/*
 * rebuild_lower.c: as rvl_rebuild_record_fn, for what upper was copied up from. arg: the config. -ECANCELED;
 * errors of upper, logged; of temporary files, of the map.
 */
int rvl_rebuild_record(void *arg, struct rvl_index *index);

/*
 * Is this lower object where the lower view has what upper has under this name, by the redirects on the way
 * and its own? 1; 0; -ENODATA: it cannot be told.
 */
int rvl_rebuild_is_at_place(const struct rvl_stack *stack, const struct rvl_tree_name *name,
			    const struct statx *lower);

#endif
