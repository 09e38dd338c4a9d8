// SPDX-License-Identifier: GPL-2.0-or-later
/* What a change of data takes, see keep.h. */
#include "layer/keep.h"

#include "layer/path.h"
#include "layer/xattr.h"

#define CAPABILITY "security.capability"

int rvl_keep(int fd, struct rvl_kept *ret)
{
	ret->capability_len =
		rvl_xattrat_get(fd, "", CAPABILITY, ret->capability, sizeof(ret->capability));
	return rvl_path_statx(fd, "", RVL_STATX_MASK, &ret->st);
}

void rvl_keep_restore(int fd, const struct rvl_kept *kept)
{
	const struct timespec times[2] = {
		{ kept->st.stx_atime.tv_sec, kept->st.stx_atime.tv_nsec },
		{ kept->st.stx_mtime.tv_sec, kept->st.stx_mtime.tv_nsec },
	};

	if (kept->st.stx_mode & (S_ISUID | S_ISGID))
		(void)fchmod(fd, kept->st.stx_mode & 07777);
	if (kept->capability_len > 0)
		(void)rvl_xattrat_set(fd, "", CAPABILITY, kept->capability,
				      (size_t)kept->capability_len, 0);
	(void)futimens(fd, times);
}
