// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Links: one more name of an object in upper. One step on disk (a link of the entry), so nothing is
 * logged; where a whiteout has the name, the link is made in work/ and renamed over it. An orphan
 * that gets a name again (O_TMPFILE) is none any more.
 */
#include "index/entry.h"
#include "overlay/copyup.h"
#include "overlay/debt.h"
#include "overlay/given.h"
#include "overlay/lookup.h"
#include "overlay/prot.h"
#include "overlay/remove.h"
#include "overlay/temp.h"

static int link_over_whiteout(struct rvl_node *node, const char *entry, int dirfd, const char *name)
{
	struct rvl_temp _cleanup_temp_ temp = {};
	struct rvl_index *index = node->ov->index;

	rvl_temp_begin(&temp, node->ov);
	if (linkat(index->inodes_fd, entry, temp.dirfd, temp.name, 0) < 0)
		return -errno;
	temp.is_named = true;
	return rvl_temp_publish(&temp, dirfd, name, 0);
}

static int link_locked(struct rvl_node *node, struct rvl_dir *dir, const char *name)
{
	struct rvl_upper_name _cleanup_upper_name_ upper = {};
	struct rvl_found _cleanup_found_ lower = {};
	struct rvl_overlay *ov = node->ov;
	char entry[RVL_ENTRY_PATH_SIZE];
	int r = rvl_upper_look(ov, dir->fd.fd.fd, name, &upper);

	if (r < 0)
		return r;
	if (upper.exists)
		return -EEXIST;
	if (!upper.is_whiteout) {
		r = rvl_lower_look(dir->node, name, NULL, &lower);
		if (r < 0)
			return r;
		if (lower.places.n)
			return -EEXIST;
	}
	if (!rvl_number_is_born(ov->index, node->id.number))
		r = rvl_set_impure(dir->node, dir->fd.fd.fd);
	if (r < 0)
		return r;
	pthread_rwlock_wrlock(&node->lock);
	rvl_entry_path(node->id.number, entry);
	if (atomic_load(&node->is_forgotten))
		r = -ESTALE; /* buried */
	else if (upper.is_whiteout)
		r = link_over_whiteout(node, entry, dir->fd.fd.fd, name);
	else if (linkat(ov->index->inodes_fd, entry, dir->fd.fd.fd, name, 0) < 0)
		r = errno == ENOENT ? -ESTALE : -errno;
	if (r == 0)
		rvl_node_end_orphan(node);
	pthread_rwlock_unlock(&node->lock);
	if (r < 0)
		return r;
	(void)rvl_node_set_place(node, dir->node->id.number, name);
	return 0;
}

int rvl_overlay_link(struct rvl_overlay *ov, uint64_t number, uint64_t parent, const char *name,
		     struct rvl_entry *ret)
{
	struct rvl_node _cleanup_node_ *node = NULL, _cleanup_node_ *dir = NULL;
	struct rvl_dir _cleanup_dir_ locked = {};
	int r = rvl_check_name(name);

	if (r == 0)
		r = rvl_check_writable(ov);
	if (r == 0)
		r = rvl_node_get(ov, number, &node);
	if (r == 0 && rvl_node_is_dir(node))
		r = -EPERM;
	if (r == 0)
		r = rvl_node_get_dir(ov, parent, &dir);
	if (r == 0)
		r = rvl_prot_check(dir, RVL_PROT_IMMUTABLE);
	if (r == 0)
		r = rvl_prot_check(node, RVL_PROT_ANY);
	if (r == 0)
		r = rvl_copy_up(node, RVL_COPY_UP_RENAME);
	if (r == 0)
		r = rvl_debt_pay(node);
	if (r == 0)
		r = rvl_dir_lock_write(dir, &locked);
	if (r == 0)
		r = link_locked(node, &locked, name);
	if (r == 0)
		r = rvl_node_stat(node, ret);
	if (r == 0)
		rvl_node_count_lookup(node);
	rvl_dir_unlock(&locked);
	if (r < 0 && node) /* it may be copied up */
		rvl_given_tell(node);
	return r;
}
