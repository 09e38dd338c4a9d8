// SPDX-License-Identifier: GPL-2.0-or-later
/* The two questions that a look-up has to ask of the disk about whiteouts by name. */
#include "layer/aufs.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>

#include "layer/path.h"

static int exists(int dirfd, const char *path)
{
	struct statx stx;
	int r;

	/* One system call, also for "NAME/.wh..wh..opq": the caller has seen that NAME is a
	 * directory, and nothing but the existence is learned. */
	r = statx(dirfd, path, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT, STATX_TYPE, &stx);
	if (r == 0)
		return 1;
	if (errno == ENOENT || errno == ENOTDIR || errno == ENAMETOOLONG || errno == EACCES)
		return 0;
	return -errno;
}

int rvl_aufs_is_whited_out(int dirfd, const char *name)
{
	char path[NAME_MAX + 1];

	if (rvl_aufs_is_reserved(name))
		return 0;
	if (snprintf(path, sizeof(path), RVL_AUFS_PREFIX "%s", name) >= (int)sizeof(path))
		return 0; /* too long to be whited out so */
	return exists(dirfd, path);
}

int rvl_aufs_is_opaque(int dirfd, const char *name)
{
	char path[NAME_MAX + sizeof(RVL_AUFS_OPAQUE) + 2];

	if (snprintf(path, sizeof(path), "%s/" RVL_AUFS_OPAQUE, name) >= (int)sizeof(path))
		return 0;
	return exists(dirfd, path);
}
