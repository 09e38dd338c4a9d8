// SPDX-License-Identifier: GPL-2.0-or-later
/* What a change of data takes, see keep.h. */
#include "layer/keep.h"

#include <errno.h>

#include "layer/path.h"
#include "layer/xattr.h"

int rvl_kept_get(int fd, struct rvl_kept *ret)
{
	ret->capability_len = rvl_xattrat_get(fd, "", RVL_CAPABILITY_NAME, ret->capability,
					      sizeof(ret->capability));
	return rvl_path_statx(fd, "", RVL_STATX_MASK, &ret->st);
}

int rvl_kept_restore(int fd, const struct rvl_kept *kept)
{
	int r = 0;

	if (kept->st.stx_mode & (S_ISUID | S_ISGID) && fchmod(fd, kept->st.stx_mode & 07777))
		r = -errno;
	if (kept->capability_len > 0) {
		int error = rvl_xattrat_set(fd, "", RVL_CAPABILITY_NAME, kept->capability,
					    (size_t)kept->capability_len, 0);

		r = r && r != -EPERM ? r : error;
	}
	rvl_fd_restore_times(fd, &kept->st);
	return r == -EPERM ? 0 : r;
}
