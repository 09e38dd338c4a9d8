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

/*
 * Clear setuid and setgid as a write or a change of owner does by someone without CAP_FSETID:
 * setgid without group execution stays if he is of the group (kernel: setattr_should_drop_sgid).
 * Directories keep theirs. is_chown_next: a chown(2) of the real file follows, which takes most of
 * that with it, in one step.
 */
int rvl_caller_kill_suidgid(fuse_req_t req, fuse_ino_t number, bool is_chown_next);
/* May he see and set trusted.* attributes (CAP_SYS_ADMIN)? */
bool rvl_caller_may_trusted(fuse_req_t req);

#endif
