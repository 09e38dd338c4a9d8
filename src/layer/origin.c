// SPDX-License-Identifier: GPL-2.0-or-later
#include "layer/origin.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <string.h>

#include "base/cleanup.h"
#include "layer/path.h"

static bool is_same_object(const struct statx *a, const struct statx *b)
{
	return a->stx_ino == b->stx_ino && rvl_statx_dev(a) == rvl_statx_dev(b);
}

bool rvl_origin_may_be_of(const struct rvl_handle *handle, const uint8_t uuid[16])
{
	static const uint8_t none[16];

	return !memcmp(handle->uuid, none, 16) || !memcmp(uuid, none, 16) ||
	       !memcmp(handle->uuid, uuid, 16);
}

int rvl_origin_find_in(const struct rvl_layer *layer, const struct rvl_handle *handle, mode_t type,
		       struct statx *ret_st)
{
	_cleanup_close_ int fd = rvl_handle_open(layer->fd, handle);
	struct rvl_handle now;

	if (fd == -EPERM)
		return -EPERM;
	if (fd < 0 || rvl_path_statx(fd, "", RVL_STATX_MASK, ret_st) < 0 ||
	    (ret_st->stx_mode & S_IFMT) != (type & S_IFMT) || !ret_st->stx_nlink ||
	    (S_ISDIR(type) && !rvl_layer_may_have_dir(layer, fd)))
		return -ESTALE;
	/* some filesystems look at no more than the inode number */
	if (rvl_handle_get(fd, "", NULL, &now) || now.type != handle->type ||
	    now.len != handle->len || memcmp(now.fid, handle->fid, now.len))
		return -ESTALE;
	return rvl_take_fd(&fd);
}

int rvl_origin_find(const struct rvl_stack *stack, uint8_t (*uuids)[16],
		    const struct rvl_handle *handle, mode_t type,
		    const struct rvl_layer **ret_layer, struct statx *ret_st)
{
	_cleanup_close_ int found = -EBADF;
	int error = -ESTALE;

	for (unsigned i = 1; i < stack->n; i++) {
		const struct rvl_layer *layer = &stack->layers[i];
		struct statx st;
		int fd;

		/* a handle of a file opens the same by each layer of a filesystem */
		if (!rvl_origin_may_be_of(handle, uuids[i]) ||
		    (!S_ISDIR(type) && rvl_stack_first_of_filesystem(stack, i) != i))
			continue;
		fd = rvl_origin_find_in(layer, handle, type, &st);
		if (fd < 0) {
			error = fd == -EPERM ? -EPERM : error;
			continue;
		}
		if (found < 0) {
			found = fd;
			*ret_layer = layer;
			*ret_st = st;
			continue;
		}
		rvl_close(fd);
		if (!is_same_object(&st, ret_st))
			return -ENOTUNIQ;
		/* subvolumes of one filesystem open each other's objects */
		if (rvl_statx_dev(&st) == (uint64_t)layer->dev)
			*ret_layer = layer;
	}
	return found >= 0 ? rvl_take_fd(&found) : error;
}

int rvl_origin_is_other_life(const struct rvl_handle *origin, const struct rvl_place *now,
			     uint8_t (*uuids)[16])
{
	_cleanup_close_ int fd = -EBADF;
	struct rvl_handle handle;

	/* generations of FUSE are what its server says today; of images there are none */
	if (now->layer->fs_magic == FUSE_SUPER_MAGIC)
		return 0;
	fd = rvl_path_open(now->layer->fd, now->path, O_PATH, 0);
	if (fd < 0)
		return fd;
	return !rvl_handle_get(fd, "", uuids ? uuids[now->layer->index] : NULL, &handle) &&
	       rvl_handle_is_other_life(origin, &handle);
}
