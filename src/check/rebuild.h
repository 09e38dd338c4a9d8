/* SPDX-License-Identifier: GPL-2.0-or-later */
/* repair --rebuild. Private to src/check. */
#ifndef RVL_CHECK_REBUILD_H
#define RVL_CHECK_REBUILD_H

#include "check/check.h"

/*
 * Make a new state where it is lost or damaged, for a rebind in any case; 0 also where there was nothing
 * to do. The passes that follow make the entries. Errors are logged: -EINVAL without upper and workdir;
 * -ESTALE: the state is lost, and the lower layers are not those that upper was used with.
 */
int rvl_rebuild(const struct rvl_check_config *config);

#endif
