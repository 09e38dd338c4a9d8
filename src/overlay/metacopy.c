// SPDX-License-Identifier: GPL-2.0-or-later
/* Metacopy files in upper, see metacopy.h. */
#include "overlay/metacopy.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "layer/copy.h"
#include "layer/keep.h"
#include "layer/path.h"
#include "layer/sync.h"
#include "overlay/real.h"

static int copy(struct rvl_node *node, int from, int to, uint64_t size)
{
	uint64_t n = 0;
	int r = rvl_copy_data(from, to, size, &n);

	rvl_count_n(copy_up_bytes, n);
	if (r == 0 && node->ov->config.sync != RVL_SYNC_VOLATILE)
		r = rvl_sync_data(to, node->ov->config.sync == RVL_SYNC_AUTO &&
					      node->ov->index->features.has_ordered_data);
	return r;
}

int rvl_metacopy_fetch(struct rvl_node *node, bool is_empty)
{
	struct rvl_overlay *ov = node->ov;
	const struct rvl_xattr_names *names = &ov->stack->xattr;
	_cleanup_close_ int from = -EBADF, to = -EBADF;
	char path[RVL_ENTRY_PATH_SIZE];
	struct rvl_kept kept;
	int r;

	rvl_entry_path(node->id.number, path);
	to = rvl_retry_emfile(ov, rvl_path_open(ov->index->inodes_fd, path, O_RDWR, 0));
	if (to < 0)
		return to;
	r = rvl_kept_get(to, &kept);
	if (r < 0)
		return r;
	if (!is_empty && kept.st.stx_size) {
		from = rvl_lower_data_open(node, 0);
		if (from < 0) /* nothing was written: nothing to undo */
			return from == -EUCLEAN ? rvl_lower_data_differ(node) : from;
		r = copy(node, from, to, kept.st.stx_size);
	} else if (is_empty && ftruncate(to, 0) < 0) {
		r = -errno;
	}
	if (r == 0)
		r = rvl_kept_restore(to, &kept);
	if (r == 0)
		r = rvl_xattr_remove(names, to, "", RVL_XATTR_METACOPY);
	if (r < 0 && r != -ENODATA) {
		/* as it was: without data of its own, and without the room for them */
		if (ftruncate(to, 0) == 0 && ftruncate(to, (off_t)kept.st.stx_size) == 0)
			(void)rvl_kept_restore(to, &kept);
		return r;
	}
	(void)rvl_xattr_remove(names, to, "", RVL_XATTR_REDIRECT);
	atomic_store(&node->is_metacopy, false);
	rvl_fdcache_drop(ov->fds, node->id.number, RVL_FD_LOWER_DATA);
	return 0;
}

int rvl_metacopy_redirect(struct rvl_node *dir, const char *name, const char *own, char **ret)
{
	*ret = NULL;
	if (own && own[0] == '/')
		return 0;
	if (!dir->view_path)
		return -ENOENT;
	return asprintf(ret, "/%s%s%s", dir->view_path, dir->view_path[0] ? "/" : "",
			own ? own : name) < 0 ?
		       -ENOMEM :
		       0;
}

int rvl_metacopy_anchor(struct rvl_node *node)
{
	struct rvl_overlay *ov = node->ov;
	_cleanup_free_ char *own = NULL, *redirect = NULL;
	struct rvl_real _cleanup_real_ real = {};
	struct rvl_node _cleanup_node_ *dir = NULL;
	uint8_t value[RVL_NAME_AT_ENCODED_MAX];
	struct rvl_name_at at;
	ssize_t n;
	int r = rvl_real_get(node, &real);

	if (r == 0)
		r = rvl_redirect_get(ov->stack, real.dirfd, real.name, &own);
	if (r < 0)
		return r;
	if (own && own[0] == '/')
		goto done;
	n = rvl_real_xattr_get(node, &real, RVL_XATTR_PLACE, value, sizeof(value));
	r = n < 0 ? (int)n : rvl_name_at_decode(value, (size_t)n, &at);
	if (r == 0)
		r = rvl_node_get_dir(ov, at.parent, &dir);
	if (r == 0)
		r = rvl_metacopy_redirect(dir, at.name, own, &redirect);
	if (r == 0)
		r = rvl_xattr_set(&ov->stack->xattr, real.dirfd, real.name, RVL_XATTR_REDIRECT,
				  redirect, strlen(redirect));
	if (r < 0)
		return r;
done:
	atomic_store(&node->has_redirect, true);
	return 0;
}
