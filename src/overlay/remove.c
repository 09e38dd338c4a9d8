// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Removing names:
 *
 *   1 a lower file with several names is copied up first (entry only): its link count needs a place
 *   2 log REMOVE (with the link difference as it was)
 *   3 overlay.nlink, where a lower name goes
 *   4 the name: removed, or replaced by a whiteout in one rename where lower has something below it
 *   5 the last name gone: orphan until the kernel forgets it, then the entry becomes a tombstone or
 *     goes; the record ends
 */
#include "overlay/remove.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "index/log.h"
#include "index/stamp.h"
#include "layer/lift.h"
#include "layer/path.h"
#include "overlay/copyup.h"
#include "overlay/debt.h"
#include "overlay/given.h"
#include "overlay/nlink.h"
#include "overlay/prot.h"
#include "overlay/temp.h"

#define RETRIES 16

/* ---- orphans ---- */

void rvl_node_make_orphan(struct rvl_node *node, uint64_t log_id)
{
	if (node->log_id && node->log_id != log_id)
		rvl_log_end(node->ov->index->log, node->log_id);
	node->log_id = log_id;
	atomic_store(&node->is_dead, true);
}

void rvl_node_end_orphan(struct rvl_node *node)
{
	if (!atomic_load(&node->is_dead))
		return;
	atomic_store(&node->is_dead, false);
	atomic_store(&node->is_forgotten, false);
	if (node->log_id)
		rvl_log_end(node->ov->index->log, node->log_id);
	node->log_id = 0;
}

/* On a full disk what is removed gives room first, for the first tombstone too. */
static int bury_entry(struct rvl_node *node)
{
	struct rvl_index *index = node->ov->index;
	const bool is_tombstone = !rvl_number_is_born(index, node->id.number);
	int r = rvl_entry_bury(index, node->id.number, is_tombstone);

	if (r != -ENOSPC && r != -EDQUOT)
		return r;
	r = rvl_entry_bury(index, node->id.number, false);
	/* without one its names, which are gone, say that it is dead */
	if (r == 0 && is_tombstone)
		(void)rvl_entry_bury(index, node->id.number, true);
	return r;
}

static void bury(struct rvl_node *node)
{
	struct rvl_index *index = node->ov->index;
	int r;

	rvl_fdcache_drop(node->ov->fds, node->id.number, RVL_FD_LOWER_DATA);
	rvl_fdcache_drop(node->ov->fds, node->id.number, RVL_FD_READ);
	rvl_fdcache_drop(node->ov->fds, node->id.number, rvl_node_fd_kind(node));
	if (!rvl_node_has_upper(node) || (rvl_node_is_dir(node) && rvl_debt_cancel_dir(node)))
		return;
	r = bury_entry(node);
	if (r < 0)
		rvl_warn_limited("the index entry of removed object %llu could not be removed: %s",
				 (unsigned long long)node->id.number, strerror(-r));
	else if (!rvl_node_is_dir(node))
		rvl_companion_remove(index, node->type, node->upper_ino);
}

void rvl_node_bury(struct rvl_node *node)
{
	pthread_rwlock_wrlock(&node->lock);
	/* a descriptor keeps a removed directory on the disk */
	if (rvl_node_is_dir(node) && atomic_load(&node->is_dead))
		rvl_fdcache_drop(node->ov->fds, node->id.number, RVL_FD_UPPER_DIR);
	if (atomic_load(&node->is_dead) && node->log_id) {
		bury(node);
		rvl_log_end(node->ov->index->log, node->log_id);
		node->log_id = 0;
	}
	if (node->held.slot) {
		rvl_fdcache_drop(node->ov->fds, node->id.number, rvl_node_fd_kind(node));
		rvl_fdcache_unpin(node->ov->fds, &node->held);
		atomic_fetch_sub(&node->ov->debts.n_held, 1);
	}
	if (atomic_load(&node->is_dead))
		atomic_store(&node->is_forgotten, true);
	pthread_rwlock_unlock(&node->lock);
}

void rvl_node_bury_unnamed(struct rvl_node *node)
{
	pthread_rwlock_wrlock(&node->lock);
	if (!rvl_node_is_known(node)) {
		atomic_store(&node->is_dead, true);
		atomic_store(&node->is_forgotten, true);
		if (rvl_check_writable(node->ov) == 0)
			bury(node);
	}
	pthread_rwlock_unlock(&node->lock);
}

void rvl_node_name_gone(struct rvl_node *node, uint64_t log_id)
{
	bool has_upper;
	long left = 0;

	pthread_rwlock_wrlock(&node->lock);
	has_upper = rvl_node_has_upper(node);
	if (has_upper)
		left = rvl_nlink_visible(node);
	if (left == 0) {
		rvl_node_make_orphan(node, has_upper ? log_id : 0);
		/* the kernel, which gave the name, knows the object until FORGET; it may be open */
		if (has_upper)
			log_id = 0; /* goes with the orphan */
		else
			bury(node);
	}
	pthread_rwlock_unlock(&node->lock);
	/* where the count cannot be read, the next mount looks at what is left */
	if (log_id && left >= 0)
		rvl_log_end(node->ov->index->log, log_id);
}

void rvl_node_removed_dir(struct rvl_node *node)
{
	atomic_store(&node->is_dead, true);
	bury(node);
}

/* ---- files ---- */

struct removal {
	struct rvl_overlay *ov;
	struct rvl_dir dir;
	const char *name;
	struct rvl_name found;
};

/* The name goes: one step on disk. */
static int drop_name(struct removal *rm, int unlink_flags)
{
	int dirfd = rm->dir.fd.fd.fd;
	struct rvl_temp _cleanup_temp_ whiteout = {};
	int r;

	if (!rm->found.has_lower)
		return unlinkat(dirfd, rm->name, unlink_flags) < 0 ? -errno : 0;
	if (!rm->found.upper.exists)
		return rvl_make_whiteout(rm->ov, dirfd, rm->name);
	r = rvl_temp_whiteout(&whiteout, rm->ov);
	if (r < 0)
		return r;
	/* a directory cannot be replaced by a whiteout: they change places, and it goes with the
	 * temporary */
	return rvl_temp_publish(&whiteout, dirfd, rm->name,
				unlink_flags & AT_REMOVEDIR ? RENAME_EXCHANGE : 0);
}

int rvl_log_remove(struct rvl_node *node, struct rvl_node *dir, const char *name, bool is_alias,
		   uint64_t *ret_id)
{
	struct rvl_log_record record = { .op = RVL_LOG_REMOVE,
					 .number = node->id.number,
					 .number2 = is_alias };

	record.flags = (uint32_t)node->nlink_diff;
	record.at.parent = dir->id.number;
	snprintf(record.at.name, sizeof(record.at.name), "%s", name);
	return rvl_log_begin(node->ov->index->log, &record, ret_id);
}

/* A file whose entry was never made: with its name all goes. 1: it is done. */
static int unlink_owed(struct removal *rm)
{
	struct rvl_node *node = rm->found.node;
	struct rvl_fd fd;
	int r;

	pthread_rwlock_wrlock(&node->lock);
	r = rvl_debt_hold(node, rm->dir.fd.fd.fd, rm->name, &fd);
	if (r > 0) {
		r = drop_name(rm, 0);
		if (r == 0) {
			rvl_debt_cancel(node, &fd);
			r = 1;
		}
	}
	pthread_rwlock_unlock(&node->lock);
	rvl_fdcache_unpin(rm->ov->fds, &fd);
	return r;
}

static int unlink_locked(struct removal *rm)
{
	struct rvl_node *node = rm->found.node;
	bool is_alias = rvl_node_has_upper(node) && !rm->found.upper.exists, is_undone = true;
	uint64_t id;
	int r = unlink_owed(rm);

	if (r != 0)
		return r < 0 ? r : 0;
	r = rvl_log_remove(node, rm->dir.node, rm->name, is_alias, &id);
	if (r < 0)
		return r;
	pthread_rwlock_wrlock(&node->lock);
	if (is_alias)
		r = rvl_nlink_add(node, -1);
	if (r == 0) {
		r = drop_name(rm, 0);
		if (r < 0 && is_alias)
			is_undone = rvl_nlink_undo(node, -1) == 0;
	}
	pthread_rwlock_unlock(&node->lock);
	if (r < 0) {
		/* else it tells the next mount */
		if (is_undone)
			rvl_log_end(rm->ov->index->log, id);
		return r;
	}
	rvl_node_name_gone(node, id);
	return 0;
}

/* Everything that the name stands for, with the directory locked. */
static int look(struct removal *rm)
{
	int r = rvl_prot_check(rm->dir.node, RVL_PROT_ANY);

	if (r == 0)
		r = rvl_lookup_name(&rm->dir, rm->name, &rm->found);
	if (r == 0 && !rm->found.node)
		r = -ENOENT;
	return r < 0 ? r : rvl_prot_check(rm->found.node, RVL_PROT_ANY);
}

/* r: how it ended. */
static void release(struct removal *rm, int r)
{
	rvl_dir_unlock(&rm->dir);
	/* the first steps may be done */
	if (r < 0 && rm->found.node)
		rvl_given_tell(rm->found.node);
	rvl_name_release(&rm->found);
}

/* Does its link count need a place first (a lower file with several names)? */
static bool needs_copy_up(const struct rvl_node *node)
{
	return !rvl_node_has_upper(node) && !rvl_node_is_dir(node) && node->lower_nlink > 1;
}

static int try_unlink(struct removal *rm, struct rvl_node *dir, bool *ret_is_done)
{
	int r = rvl_dir_lock_write(dir, &rm->dir);

	*ret_is_done = true;
	if (r == 0)
		r = look(rm);
	if (r == 0 && rvl_node_is_dir(rm->found.node))
		r = -EISDIR;
	if (r < 0)
		return r;
	if (!needs_copy_up(rm->found.node))
		return unlink_locked(rm);
	/* not under the directory's lock: it copies data */
	*ret_is_done = false;
	rvl_dir_unlock(&rm->dir);
	return rvl_copy_up(rm->found.node, RVL_COPY_UP_NO_PUBLISH);
}

int rvl_overlay_unlink(struct rvl_overlay *ov, uint64_t parent, const char *name)
{
	struct removal rm = { .ov = ov, .name = name };
	struct rvl_node _cleanup_node_ *dir = NULL;
	bool is_done = false;
	int r = rvl_check_name(name);

	if (r == 0)
		r = rvl_check_writable(ov);
	if (r == 0)
		r = rvl_node_get_dir(ov, parent, &dir);
	for (unsigned i = 0; r == 0 && !is_done && i < RETRIES; i++) {
		r = try_unlink(&rm, dir, &is_done);
		release(&rm, r);
	}
	return r == 0 && !is_done ? -EIO : r;
}

/* ---- directories ---- */

int rvl_dir_keep_attributes(struct rvl_node *node, int upper_fd)
{
	unsigned turn;
	int r;

	if (!node->removed)
		node->removed = calloc(1, sizeof(*node->removed));
	if (!node->removed)
		return -ENOMEM;
	do {
		turn = rvl_lift_read_begin();
		r = rvl_path_statx(upper_fd, "", RVL_STATX_MASK, node->removed);
	} while (rvl_lift_read_again(turn));
	return r;
}

int rvl_dir_check_empty(struct rvl_node *node, int upper_fd, bool is_opaque)
{
	struct rvl_overlay *ov = node->ov;
	struct rvl_listing *lower, *merged = NULL;
	_cleanup_close_ int fd = -EBADF;
	int r = rvl_lower_listing(node, false, &lower);

	if (r < 0)
		return r;
	if (upper_fd < 0) {
		r = lower && lower->n ? -ENOTEMPTY : 0;
		rvl_listing_put(lower);
		return r;
	}
	fd = rvl_fd_reopen(upper_fd, O_RDONLY | O_DIRECTORY);
	if (fd < 0)
		r = fd;
	else
		r = rvl_listing_read_upper(ov->stack, fd, lower, is_opaque, &ov->index->secret,
					   &merged);
	if (r == 0 && merged->n)
		r = -ENOTEMPTY;
	rvl_listing_put(merged);
	rvl_listing_put(lower);
	return r < 0 ? r : rvl_dir_keep_attributes(node, upper_fd);
}

static int remove_whiteouts(int upper_fd)
{
	_cleanup_closedir_ DIR *names = NULL;
	const struct dirent *entry;
	int r = rvl_dir_stream(rvl_fd_reopen(upper_fd, O_RDONLY | O_DIRECTORY), &names);

	/* the directory was found empty in the merged view: these are whiteouts; unlink refuses
	 * directories */
	while (r == 0 && (r = rvl_dir_next(names, &entry)) > 0)
		r = unlinkat(dirfd(names), entry->d_name, 0) < 0 ? -errno : 0;
	return r;
}

void rvl_dir_restore_whiteouts(struct rvl_node *node, int upper_fd)
{
	struct rvl_listing *lower;
	int r = rvl_lower_listing(node, false, &lower);

	for (size_t i = 0; r == 0 && lower && i < lower->n; i++) {
		r = rvl_make_whiteout(node->ov, upper_fd, rvl_listing_text(lower, &lower->v[i]));
		if (r == -EEXIST)
			r = 0;
	}
	if (r < 0)
		rvl_warn_limited(
			"directory %llu shows again what was removed in it, until the next mount: %s",
			(unsigned long long)node->id.number, strerror(-r));
	rvl_listing_put(lower);
}

int rvl_dir_clear_whiteouts(struct rvl_node *node, int upper_fd)
{
	struct rvl_overlay *ov = node->ov;
	int r = rvl_xattr_set(&ov->stack->xattr, upper_fd, "", RVL_XATTR_OPAQUE, "y", 1);

	if (r < 0)
		return r;
	r = remove_whiteouts(upper_fd);
	if (r < 0)
		rvl_dir_restore_whiteouts(node, upper_fd);
	return r;
}

static int rmdir_locked(struct removal *rm)
{
	struct rvl_pinned _cleanup_pinned_ fd = {};
	uint64_t id;
	int r = 0;

	if (rm->found.upper.exists)
		r = rvl_pinned_dir(rm->found.node, &fd);
	if (r == 0)
		r = rvl_dir_check_empty(rm->found.node, rm->found.upper.exists ? fd.fd.fd : -EBADF,
					rm->found.upper.is_opaque);
	if (r == 0)
		r = rvl_log_remove(rm->found.node, rm->dir.node, rm->name, false, &id);
	if (r < 0)
		return r;
	r = drop_name(rm, AT_REMOVEDIR);
	if (r == -ENOTEMPTY || r == -EEXIST) {
		/* whiteouts of a lower that is not there any more */
		r = rvl_dir_clear_whiteouts(rm->found.node, fd.fd.fd);
		if (r == 0) {
			r = drop_name(rm, AT_REMOVEDIR);
			if (r < 0)
				rvl_dir_restore_whiteouts(rm->found.node, fd.fd.fd);
		}
	}
	if (r == 0)
		rvl_node_removed_dir(rm->found.node);
	rvl_log_end(rm->ov->index->log, id);
	return r;
}

int rvl_overlay_rmdir(struct rvl_overlay *ov, uint64_t parent, const char *name)
{
	struct removal rm = { .ov = ov, .name = name };
	struct rvl_node _cleanup_node_ *dir = NULL;
	int r = rvl_check_name(name);

	if (r == 0)
		r = rvl_check_writable(ov);
	if (r == 0)
		r = rvl_node_get_dir(ov, parent, &dir);
	if (r == 0)
		r = rvl_dir_lock_write(dir, &rm.dir);
	if (r == 0)
		r = look(&rm);
	if (r == 0 && !rvl_node_is_dir(rm.found.node))
		r = -ENOTDIR;
	if (r == 0)
		r = rmdir_locked(&rm);
	release(&rm, r);
	return r;
}
