// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Directories under lock, with the descriptor of their upper part. The descriptor is had before the
 * lock is taken, since finding it may need the directory's ancestors (docs/locking.md); if the
 * directory is copied up between the two, both are taken anew.
 */
#include "overlay/dirlock.h"

#include "overlay/copyup.h"

#define LOCK_RETRIES 16

static void lock_for_change(struct rvl_node *node)
{
	pthread_rwlock_wrlock(&node->lock);
	/* also where the change fails, which may be after its first steps */
	atomic_fetch_add(&node->version, 1);
}

static int lock_dir(struct rvl_node *node, bool is_write, struct rvl_dir *ret)
{
	for (unsigned i = 0; i < LOCK_RETRIES; i++) {
		bool had_upper = rvl_node_has_upper(node);
		int r = 0;

		*ret = (struct rvl_dir){ .node = node, .fd.fd = RVL_FD_NONE };
		if (had_upper)
			r = rvl_pinned_dir(node, &ret->fd);
		if (r < 0)
			return r;
		if (is_write)
			lock_for_change(node);
		else
			pthread_rwlock_rdlock(&node->lock);
		ret->is_locked = true;
		if (atomic_load(&node->is_dead)) {
			rvl_dir_unlock(ret);
			return -ENOENT;
		}
		if (had_upper == rvl_node_has_upper(node))
			return 0;
		rvl_dir_unlock(ret);
	}
	return -EIO;
}

int rvl_dir_lock_read(struct rvl_node *node, struct rvl_dir *ret)
{
	return lock_dir(node, false, ret);
}

int rvl_dir_lock_write(struct rvl_node *node, struct rvl_dir *ret)
{
	int r = rvl_copy_up(node, 0);

	return r < 0 ? r : lock_dir(node, true, ret);
}

int rvl_dir_lock_two(struct rvl_node *a, struct rvl_node *b, struct rvl_dir *ret_a,
		     struct rvl_dir *ret_b)
{
	struct rvl_dir *first = ret_a, *second = ret_b;
	int r;

	*ret_a = (struct rvl_dir){ .node = a, .fd.fd = RVL_FD_NONE };
	*ret_b = (struct rvl_dir){ .node = b, .fd.fd = RVL_FD_NONE };
	r = rvl_copy_up(a, 0);
	if (r == 0)
		r = rvl_copy_up(b, 0);
	if (r == 0)
		r = rvl_pinned_dir(a, &ret_a->fd);
	if (r == 0)
		r = rvl_pinned_dir(b, &ret_b->fd);
	if (r < 0)
		goto fail;
	if (a->id.number > b->id.number) {
		first = ret_b;
		second = ret_a;
	}
	lock_for_change(first->node);
	first->is_locked = true;
	if (a != b) {
		lock_for_change(second->node);
		second->is_locked = true;
	}
	if (!atomic_load(&a->is_dead) && !atomic_load(&b->is_dead))
		return 0;
	r = -ENOENT;
fail:
	rvl_dir_unlock(ret_a);
	rvl_dir_unlock(ret_b);
	return r;
}

void rvl_dir_unlock(struct rvl_dir *dir)
{
	if (dir->is_locked)
		pthread_rwlock_unlock(&dir->node->lock);
	dir->is_locked = false;
	rvl_pinned_put(&dir->fd);
}
