// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Mending a path: the handle opens the directory, its stamp must be the number, ".." gives the
 * parent, whose stamp gives the parent's number; the name is the one under which the parent lists
 * this inode.
 */
#include "overlay/mend.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "index/stamp.h"
#include "layer/path.h"
#include "overlay/private.h"

static int stamp_of(struct rvl_overlay *ov, int fd, uint64_t *ret)
{
	const struct rvl_layer *upper = rvl_stack_upper(ov->stack);
	struct statx stx;
	struct rvl_id id;
	int r = rvl_path_statx(fd, "", STATX_TYPE | STATX_INO, &stx);

	if (r < 0)
		return r;
	if (stx.stx_ino == upper->ino) {
		*ret = RVL_NUMBER_ROOT;
		return 0;
	}
	r = rvl_stamp_get(ov->index, fd, "", S_IFDIR, stx.stx_ino, &id);
	if (r == 0)
		*ret = id.number;
	return r;
}

static int name_of(int parent_fd, uint64_t ino, char ret[NAME_MAX + 1])
{
	_cleanup_closedir_ DIR *d = NULL;
	struct dirent *entry;
	int fd = rvl_fd_reopen(parent_fd, O_RDONLY | O_DIRECTORY);

	if (fd < 0)
		return fd;
	d = fdopendir(fd);
	if (!d) {
		rvl_close(fd);
		return -ENOMEM;
	}
	while ((entry = readdir(d))) {
		if (entry->d_ino != ino || strcmp(entry->d_name, ".") == 0 ||
		    strcmp(entry->d_name, "..") == 0)
			continue;
		snprintf(ret, NAME_MAX + 1, "%s", entry->d_name);
		return 0;
	}
	return -ESTALE;
}

int rvl_mend_path(struct rvl_overlay *ov, uint64_t number, struct rvl_entry_directory *dir)
{
	_cleanup_close_ int fd = -EBADF, parent_fd = -EBADF;
	struct rvl_name_at at = {};
	struct statx stx;
	uint64_t found;
	int r;

	if (dir->upper.len == 0)
		return -ESTALE;
	fd = rvl_handle_open(rvl_stack_upper(ov->stack)->fd, &dir->upper);
	if (fd < 0)
		return -ESTALE;
	r = rvl_path_statx(fd, "", STATX_TYPE | STATX_INO, &stx);
	if (r < 0 || !S_ISDIR(stx.stx_mode) || stamp_of(ov, fd, &found) < 0 || found != number)
		return -ESTALE;
	/* ".." of a directory inside upper: the parent's stamp, or that it is the root, says that
	 * it is inside. */
	parent_fd = openat(fd, "..", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (parent_fd < 0 || stamp_of(ov, parent_fd, &at.parent) < 0 || at.parent == number)
		return -ESTALE;
	r = name_of(parent_fd, stx.stx_ino, at.name);
	if (r < 0)
		return r;
	dir->path = at;
	if (!ov->config.is_read_only && rvl_entry_set_path(ov->index, number, &at) == 0)
		rvl_count(paths_mended);
	return 0;
}
