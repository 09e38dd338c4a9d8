/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a request's own fields do not say of the process that made it: read from /proc. */
#ifndef RVL_SERVER_CALLER_H
#define RVL_SERVER_CALLER_H

#include <stdbool.h>

#include "server/fuse.h"

/*
 * May the caller keep setgid on an object of this group: is he of the group, or has he CAP_FSETID?
 * (kernel: in_group_or_capable). A caller of whom nothing can be read may if he is root.
 */
bool rvl_caller_may_setgid(fuse_req_t req, gid_t gid);

/* May he see and set trusted.* attributes (CAP_SYS_ADMIN)? */
bool rvl_caller_may_trusted(fuse_req_t req);

#endif
