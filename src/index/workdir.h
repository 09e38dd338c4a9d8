/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The directories inside the workdir: work/ and inodes/, and index/ of the kernel's overlayfs. */
#ifndef RVL_INDEX_WORKDIR_H
#define RVL_INDEX_WORKDIR_H

#include "layer/layer.h"

/*
 * Open a directory directly inside the workdir ("work", "inodes"). is_create: it is made, with mode
 * 0700; one that is there with mode 0, as the kernel's overlayfs makes it, gets that mode where the
 * process could not use it else. Returns a readable descriptor, owned by the caller; -ENOENT; other
 * errors are logged.
 */
int rvl_workdir_open(const struct rvl_stack *stack, const char *name, bool is_create);

/*
 * Is nothing in work/incompat/? Its name says what kind of mount left it. -EINVAL, logged: something is
 * (a volatile mount's mark): the upper may have lost data, as the kernel refuses
 * (fs/overlayfs/readdir.c, ovl_workdir_cleanup_recurse), also with "ro".
 */
int rvl_workdir_check_incompat(const struct rvl_stack *stack, int temp_fd);
/* Remove what is in work/, but not work/incompat/. -EINVAL too: as rvl_workdir_check_incompat. */
int rvl_workdir_empty(const struct rvl_stack *stack, int temp_fd);
/* Remove something of the workdir with all that is in it. -ELOOP: too deep. */
int rvl_workdir_remove(int fd, const char *name);
/* The mark of a volatile mount: work/incompat/volatile, as the kernel makes and never removes it. */
int rvl_workdir_mark_volatile(int temp_fd);

#endif
