// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Rename. What is renamed is in upper first; then one renameat2 on upper does it, which also leaves
 * the whiteout where lower has something under the old name.
 *
 *   1 both directories, and the object (with EXCHANGE both), are copied up
 *   2 a directory with a lower part: overlay.redirect, absolute in the merged lower view (it says
 *     the same at the old place); one without, moving over a lower name: overlay.opaque
 *   3 a directory that is to be replaced is empty: made opaque, its whiteouts removed (still the
 *     same empty directory)
 *   4 log RENAME (and REMOVE for a file that is replaced)
 *   5 renameat2
 *   6 directories: overlay.path of the entry; what was replaced: as in remove.c
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "index/log.h"
#include "overlay/complete.h"
#include "overlay/copyup.h"
#include "overlay/debt.h"
#include "overlay/given.h"
#include "overlay/lookup.h"
#include "overlay/nlink.h"
#include "overlay/prot.h"
#include "overlay/remove.h"
#include "overlay/special.h"
#include "overlay/temp.h"

#define RETRIES 16

struct end {
	struct rvl_dir dir;
	const char *name;
	struct rvl_name found;
};

struct renaming {
	struct rvl_overlay *ov;
	struct end from, to;
	const struct rvl_cred *cred; /* borrowed; owner of the whiteout */
	unsigned flags;
	bool is_exchange;
	bool is_unfinished; /* the log record must stay */
	bool is_cleared; /* the directory to be replaced has no whiteouts any more */
	uint64_t *ret_moved; /* borrowed; two, as rvl_overlay_rename() gives them */
};

static void end_release(struct end *end, int r)
{
	/* the first steps may be done */
	if (r < 0 && end->found.node)
		rvl_given_tell(end->found.node);
	rvl_name_release(&end->found);
}

/* r: how it ended. */
static void release(struct renaming *rn, int r)
{
	/* before anything is told; the second may be locked through the first (one directory) */
	rvl_dir_unlock(&rn->from.dir);
	rvl_dir_unlock(&rn->to.dir);
	end_release(&rn->from, r);
	end_release(&rn->to, r);
}

/* Immutable and append-only objects and directories keep their names. */
static int check_protected(struct renaming *rn)
{
	int r = rvl_prot_check(rn->from.dir.node, RVL_PROT_ANY);

	if (r == 0)
		r = rvl_prot_check(rn->to.dir.node,
				   rn->to.found.node ? RVL_PROT_ANY : RVL_PROT_IMMUTABLE);
	if (r == 0)
		r = rvl_prot_check(rn->from.found.node, RVL_PROT_ANY);
	if (r == 0 && rn->to.found.node)
		r = rvl_prot_check(rn->to.found.node, RVL_PROT_ANY);
	return r;
}

static int check(struct renaming *rn)
{
	struct rvl_node *node = rn->from.found.node, *target = rn->to.found.node;
	int r;

	if (!node)
		return -ENOENT;
	r = check_protected(rn);
	if (r < 0)
		return r;
	if (rn->is_exchange && !target)
		return -ENOENT;
	if (rn->flags & RENAME_NOREPLACE && target)
		return -EEXIST;
	if (rvl_node_is_dir(node) && node->lower.n && rn->ov->config.redirect != RVL_REDIRECT_ON)
		return -EXDEV;
	if (rn->is_exchange) {
		if (rvl_node_is_dir(target) && target->lower.n &&
		    rn->ov->config.redirect != RVL_REDIRECT_ON)
			return -EXDEV;
		return 0;
	}
	if (target && rvl_node_is_dir(node) && !rvl_node_is_dir(target))
		return -ENOTDIR;
	if (target && !rvl_node_is_dir(node) && rvl_node_is_dir(target))
		return -EISDIR;
	return 0;
}

/* Is there anything to copy up, which the locks forbid? Returns the node. */
static struct rvl_node *needs_copy_up(const struct renaming *rn, unsigned *ret_flags)
{
	struct rvl_node *target = rn->to.found.node;

	*ret_flags = RVL_COPY_UP_RENAME;
	if (!rvl_copy_up_is_done(rn->from.found.node, *ret_flags))
		return rn->from.found.node;
	if (rn->is_exchange && target && !rvl_copy_up_is_done(target, *ret_flags))
		return target;
	if (!target || rvl_node_has_upper(target))
		return NULL;
	*ret_flags = RVL_COPY_UP_NO_PUBLISH;
	return !rvl_node_is_dir(target) && target->lower_nlink > 1 ? target : NULL;
}

/* The object's name must be upper's own before it can move. */
static int publish_name(struct end *end)
{
	struct rvl_node *node = end->found.node;
	int r;

	if (end->found.upper.exists)
		return 0;
	pthread_rwlock_wrlock(&node->lock);
	r = rvl_publish_alias(node, end->dir.node, end->dir.fd.fd.fd, end->name);
	pthread_rwlock_unlock(&node->lock);
	if (r == 0)
		r = rvl_upper_look(node->ov, end->dir.fd.fd.fd, end->name, &end->found.upper);
	return r;
}

/* Step 2, for an object that moves to `to`. */
static int prepare(struct renaming *rn, struct end *from, struct end *to)
{
	struct rvl_overlay *ov = rn->ov;
	struct rvl_node *node = from->found.node;
	_cleanup_free_ char *redirect = NULL;
	int dirfd = from->dir.fd.fd.fd;
	int r;

	if (!rvl_number_is_born(ov->index, node->id.number)) {
		r = rvl_set_impure(to->dir.node, to->dir.fd.fd.fd);
		if (r < 0)
			return r;
	}
	if (!rvl_node_is_dir(node))
		return 0;
	if (node->lower.n == 0) {
		if (from->found.upper.is_opaque || !to->found.has_lower)
			return 0;
		return rvl_xattr_set(&ov->stack->xattr, dirfd, from->name, RVL_XATTR_OPAQUE, "y",
				     1);
	}
	if (asprintf(&redirect, "/%s", node->view_path) < 0)
		return -ENOMEM;
	if (from->found.upper.redirect && strcmp(from->found.upper.redirect, redirect) == 0)
		return 0;
	r = rvl_xattr_set(&ov->stack->xattr, dirfd, from->name, RVL_XATTR_REDIRECT, redirect,
			  strlen(redirect));
	/* too long for the filesystem: the caller copies instead, as over filesystems */
	return r == -ENOSPC || r == -E2BIG || r == -ERANGE ? -EXDEV : r;
}

/* Step 3: an empty directory that is to be replaced. */
static int clear_target(struct renaming *rn)
{
	struct rvl_pinned _cleanup_pinned_ fd = {};
	struct end *to = &rn->to;
	int r = 0;

	if (rn->is_exchange || !to->found.node || !rvl_node_is_dir(to->found.node))
		return 0;
	if (to->found.upper.exists)
		r = rvl_pinned_dir(to->found.node, &fd);
	if (r == 0)
		r = rvl_dir_check_empty(to->found.node, to->found.upper.exists ? fd.fd.fd : -EBADF,
					to->found.upper.is_opaque);
	if (r == 0 && to->found.upper.exists) {
		r = rvl_dir_clear_whiteouts(to->found.node, fd.fd.fd);
		rn->is_cleared = r == 0;
	}
	return r;
}

/* There was no rename. */
static void restore_target(struct renaming *rn)
{
	struct rvl_pinned _cleanup_pinned_ fd = {};

	if (rn->is_cleared && rvl_pinned_dir(rn->to.found.node, &fd) == 0)
		rvl_dir_restore_whiteouts(rn->to.found.node, fd.fd.fd);
}

/* Step 5. */
static int rename_upper(struct renaming *rn)
{
	struct end *from = &rn->from, *to = &rn->to;
	int from_fd = from->dir.fd.fd.fd, to_fd = to->dir.fd.fd.fd;
	bool is_leaving = !rn->is_exchange && from->found.has_lower;
	struct rvl_temp _cleanup_temp_ whiteout = {};
	unsigned flags = 0;
	int r;

	if (rn->is_exchange || (to->found.upper.is_whiteout && rvl_node_is_dir(from->found.node)))
		flags = RENAME_EXCHANGE;
	else if (is_leaving && rn->ov->index->features.has_rename_whiteout)
		flags = RENAME_WHITEOUT;
	else if (is_leaving) {
		r = rvl_temp_whiteout(&whiteout, rn->ov);
		if (r < 0)
			return r;
	}
	if (renameat2(from_fd, from->name, to_fd, to->name, flags) < 0)
		return -errno;
	/* It is renamed: what follows is no reason to say otherwise. A whiteout that could not be
	 * put is recovered at the next mount, from the record that stays. */
	if (whiteout.ov && rvl_temp_publish(&whiteout, from_fd, from->name, RENAME_NOREPLACE) < 0)
		rn->is_unfinished = true;
	/* the whiteout of the new name has come to the old one, where it hides nothing */
	if (flags == RENAME_EXCHANGE && !rn->is_exchange && !is_leaving)
		(void)unlinkat(from_fd, from->name, 0);
	return 0;
}

static int moved(struct rvl_node *node, struct end *to)
{
	struct rvl_name_at at = { .parent = to->dir.node->id.number };
	int r = rvl_node_set_place(node, at.parent, to->name);

	if (r < 0 || !rvl_node_is_dir(node))
		return r;
	snprintf(at.name, sizeof(at.name), "%s", to->name);
	r = rvl_entry_set_path(node->ov->index, node->id.number, &at);
	rvl_complete_moved(node);
	if (r < 0)
		atomic_store(&node->ov->is_upper_walked, false);
	return r;
}

static int log_rename(struct renaming *rn, uint64_t *ret_id)
{
	struct rvl_log_record record = { .op = RVL_LOG_RENAME, .flags = rn->flags };

	record.number = rn->from.found.node->id.number;
	record.number2 = rn->to.found.node ? rn->to.found.node->id.number : 0;
	record.at.parent = rn->from.dir.node->id.number;
	record.to.parent = rn->to.dir.node->id.number;
	snprintf(record.at.name, sizeof(record.at.name), "%s", rn->from.name);
	snprintf(record.to.name, sizeof(record.to.name), "%s", rn->to.name);
	return rvl_log_begin(rn->ov->index->log, &record, ret_id);
}

/* Step 5, with the link count of a lower alias that is replaced set before. *ret_is_undone becomes
 * false if that had to be taken back and is wrong on disk. */
static int rename_and_count(struct renaming *rn, struct rvl_node *alias, bool *ret_is_undone)
{
	int r = 0;

	if (alias) {
		pthread_rwlock_wrlock(&alias->lock);
		r = rvl_nlink_add(alias, -1);
	}
	if (r == 0) {
		r = rename_upper(rn);
		if (r < 0 && alias)
			*ret_is_undone = rvl_nlink_undo(alias, -1) == 0;
	}
	if (alias)
		pthread_rwlock_unlock(&alias->lock);
	return r;
}

/* Steps 4 and 5. ret_target_id: of a file that is replaced, else 0. */
static int log_and_rename(struct renaming *rn, struct rvl_node *target, bool is_alias,
			  uint64_t *ret_id, uint64_t *ret_target_id)
{
	struct rvl_log *log = rn->ov->index->log;
	bool is_undone = true;
	int r = 0;

	*ret_target_id = 0;
	if (target && !rvl_node_is_dir(target))
		r = rvl_log_remove(target, rn->to.dir.node, rn->to.name, is_alias, ret_target_id);
	if (r == 0)
		r = log_rename(rn, ret_id);
	if (r == 0) {
		r = rename_and_count(rn, is_alias ? target : NULL, &is_undone);
		if (r < 0)
			rvl_log_end(log, *ret_id);
	}
	if (r < 0 && *ret_target_id && is_undone)
		rvl_log_end(log, *ret_target_id);
	return r;
}

/* What moves has its entry first, and so has a file that is replaced. */
static int pay_debts(struct renaming *rn)
{
	struct end *to = &rn->to;
	int r = rvl_debt_pay_at(rn->from.found.node, rn->from.dir.fd.fd.fd, rn->from.name);

	if (r == 0 && to->found.node && (rn->is_exchange || !rvl_node_is_dir(to->found.node)))
		r = rvl_debt_pay_at(to->found.node, to->dir.fd.fd.fd, to->name);
	return r;
}

static int rename_locked(struct renaming *rn)
{
	struct rvl_node *target = rn->is_exchange ? NULL : rn->to.found.node;
	bool is_alias = target && !rn->to.found.upper.exists && rvl_node_has_upper(target);
	struct rvl_user_whiteout whiteout = {};
	uint64_t id, target_id;
	int r = pay_debts(rn);

	if (r == 0)
		r = publish_name(&rn->from);
	if (r == 0 && rn->is_exchange)
		r = publish_name(&rn->to);
	if (r == 0)
		r = prepare(rn, &rn->from, &rn->to);
	if (r == 0 && rn->is_exchange)
		r = prepare(rn, &rn->to, &rn->from);
	if (r == 0)
		r = clear_target(rn);
	if (r == 0 && rn->flags & RENAME_WHITEOUT)
		r = rvl_user_whiteout_make(&rn->from.dir, rn->cred, rn->from.name, &whiteout);
	if (r == 0) {
		r = log_and_rename(rn, target, is_alias, &id, &target_id);
		if (r < 0)
			rvl_user_whiteout_drop(&whiteout);
	}
	if (r < 0) {
		restore_target(rn);
		return r;
	}
	if (whiteout.temp.ov) {
		r = rvl_user_whiteout_publish(&whiteout, &rn->from.dir, rn->from.name);
		if (r < 0)
			rvl_warn_limited("%s: its whiteout comes with the next mount: %s",
					 rn->from.name, strerror(-r));
	}
	r = moved(rn->from.found.node, &rn->to);
	if (rn->is_exchange)
		r = moved(rn->to.found.node, &rn->from) ?: r;
	if (target && rvl_node_is_dir(target))
		rvl_node_removed_dir(target);
	else if (target)
		rvl_node_name_gone(target, target_id);
	/* a path that could not be written is mended at use: the record stays for the next mount */
	if (r == 0 && !rn->is_unfinished)
		rvl_log_end(rn->ov->index->log, id);
	return 0;
}

static int try_rename(struct renaming *rn, struct rvl_node *from, struct rvl_node *to,
		      bool *ret_is_done)
{
	struct rvl_node *node;
	unsigned flags;
	int r = rvl_dir_lock_two(from, to, &rn->from.dir, &rn->to.dir);

	*ret_is_done = true;
	if (r == 0)
		r = rvl_lookup_name(&rn->from.dir, rn->from.name, &rn->from.found);
	if (r == 0)
		r = rvl_lookup_name(&rn->to.dir, rn->to.name, &rn->to.found);
	if (r == 0)
		r = check(rn);
	if (r < 0 || rn->from.found.node == rn->to.found.node)
		return r;
	node = needs_copy_up(rn, &flags);
	if (!node) {
		r = rename_locked(rn);
		if (r == 0)
			rn->ret_moved[0] = rn->from.found.node->id.number;
		if (r == 0 && rn->is_exchange)
			rn->ret_moved[1] = rn->to.found.node->id.number;
		return r;
	}
	*ret_is_done = false;
	rvl_dir_unlock(&rn->from.dir);
	rvl_dir_unlock(&rn->to.dir);
	return rvl_copy_up(node, flags);
}

static int rename_names(struct rvl_overlay *ov, const struct rvl_cred *cred, uint64_t parent,
			const char *name, uint64_t to_parent, const char *to_name, unsigned flags,
			uint64_t ret_moved[2])
{
	struct renaming rn = { .ov = ov,
			       .cred = cred,
			       .flags = flags,
			       .is_exchange = flags & RENAME_EXCHANGE,
			       .ret_moved = ret_moved };
	struct rvl_node _cleanup_node_ *from = NULL, _cleanup_node_ *to = NULL;
	bool is_done = false;
	int r = rvl_node_get_dir(ov, parent, &from);

	rn.from.name = name;
	rn.to.name = to_name;
	if (r == 0)
		r = rvl_node_get_dir(ov, to_parent, &to);
	for (unsigned i = 0; r == 0 && !is_done && i < RETRIES; i++) {
		r = try_rename(&rn, from, to, &is_done);
		release(&rn, r);
	}
	return r == 0 && !is_done ? -EIO : r;
}

int rvl_overlay_rename(struct rvl_overlay *ov, const struct rvl_cred *cred, uint64_t parent,
		       const char *name, uint64_t to_parent, const char *to_name, unsigned flags,
		       uint64_t ret_moved[2])
{
	int r;

	ret_moved[0] = ret_moved[1] = 0;
	if (flags & ~(unsigned)(RENAME_NOREPLACE | RENAME_EXCHANGE | RENAME_WHITEOUT) ||
	    (flags & RENAME_EXCHANGE && flags & (RENAME_NOREPLACE | RENAME_WHITEOUT)))
		return -EINVAL;
	r = rvl_check_name(name);
	if (r == 0)
		r = rvl_check_name(to_name);
	if (r == 0)
		r = rvl_check_writable(ov);
	if (r < 0)
		return r;
	return rename_names(ov, cred, parent, name, to_parent, to_name, flags, ret_moved);
}
