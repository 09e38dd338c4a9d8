// SPDX-License-Identifier: GPL-2.0-or-later
/* What a change of data takes, see keep.h. */
#include "layer/keep.h"

#include "layer/path.h"
#include "layer/xattr.h"

int rvl_kept_get(int fd, struct rvl_kept *ret)
{
	ret->capability_len = rvl_xattrat_get(fd, "", RVL_CAPABILITY_NAME, ret->capability,
					      sizeof(ret->capability));
	return rvl_path_statx(fd, "", RVL_STATX_MASK, &ret->st);
}

void rvl_kept_restore(int fd, const struct rvl_kept *kept)
{
	if (kept->st.stx_mode & (S_ISUID | S_ISGID))
		(void)fchmod(fd, kept->st.stx_mode & 07777);
	if (kept->capability_len > 0)
		(void)rvl_xattrat_set(fd, "", RVL_CAPABILITY_NAME, kept->capability,
				      (size_t)kept->capability_len, 0);
	rvl_fd_restore_times(fd, &kept->st);
}
