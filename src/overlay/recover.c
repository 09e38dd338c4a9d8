// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Recovery (docs/consistency.md): for each pending record, look at what is there and finish or
 * undo. Every step is idempotent, so a death in here is recovered by the next. Nothing is scanned.
 *
 *   CREATE    no entry: the half-made object goes, a whole one gets its entry; an entry without a
 *             name: it goes too
 *   COPY_UP   published: done; else the entry goes, the lower object is untouched
 *   LINK      the link count follows from whether the link is there
 *   REMOVE    the name is there: nothing; gone: as after a removal
 *   RENAME    moved: paths and whiteout; else nothing
 *   ORPHAN    nobody has it open any more: buried
 */
#include "overlay/recover.h"

#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "index/log.h"
#include "index/nlink.h"
#include "index/stamp.h"
#include "layer/path.h"
#include "overlay/lookup.h"
#include "overlay/temp.h"

struct recovery {
	struct rvl_overlay *ov;
	const struct rvl_log_record *record;
	enum rvl_entry_kind kind; /* of record->number's entry */
	struct statx entry; /* OBJECT */
};

/* What upper has at a place: the number of its stamp and its stat; 0 nothing (or a whiteout, or no
 * such directory). */
struct at {
	struct rvl_node *dir; /* counted */
	struct rvl_pinned fd;
	const char *name; /* borrowed */
	struct rvl_upper_name upper;
	uint64_t number;
};

static void at_release(struct at *at)
{
	rvl_pinned_put(&at->fd);
	rvl_node_put(rvl_take_ptr(at->dir));
	rvl_upper_name_release(&at->upper);
}
#define _cleanup_at_ __attribute__((cleanup(at_release)))

static int look_at(struct rvl_overlay *ov, const struct rvl_name_at *place, struct at *ret)
{
	struct rvl_id id = {};
	int r;

	*ret = (struct at){ .name = place->name };
	r = rvl_node_get_dir(ov, place->parent, &ret->dir);
	if (r == -ESTALE || r == -ENOENT || r == -ENOTDIR)
		return 0;
	if (r < 0 || !rvl_node_has_upper(ret->dir))
		return r;
	r = rvl_pinned_dir(ret->dir, &ret->fd);
	if (r == 0)
		r = rvl_upper_look(ov, ret->fd.fd.fd, place->name, &ret->upper);
	if (r < 0 || !ret->upper.exists)
		return r;
	r = rvl_stamp_get(ov->index, ret->fd.fd.fd, place->name, ret->upper.st.stx_mode,
			  ret->upper.st.stx_ino, &id);
	ret->number = id.number;
	return r == -ENODATA || r == -EUCLEAN ? 0 : r;
}

static int bury(struct recovery *rc, bool is_tombstone)
{
	return rvl_entry_bury(rc->ov->index, rc->record->number, is_tombstone);
}

static bool is_born(struct recovery *rc)
{
	return rvl_number_is_born(rc->ov->index, rc->record->number);
}

/* Does the number still lead to an object? A record may be older than changes that came after: its
 * end can have been lost. */
static bool is_alive(struct recovery *rc)
{
	struct rvl_node _cleanup_node_ *node = NULL;

	/* what cannot be told now is left alone */
	return rvl_node_get(rc->ov, rc->record->number, &node) != -ESTALE;
}

/* The same, and is it in upper? */
static bool is_in_upper(struct recovery *rc)
{
	struct rvl_node _cleanup_node_ *node = NULL;
	int r = rvl_node_get(rc->ov, rc->record->number, &node);

	return r == 0 ? rvl_node_has_upper(node) : r != -ESTALE;
}

/* Has a non-directory lost all its names? Then it is buried. */
static int bury_if_unnamed(struct recovery *rc)
{
	struct rvl_node _cleanup_node_ *node = NULL;
	int r;

	if (rc->kind != RVL_ENTRY_OBJECT)
		return 0;
	r = rvl_node_get(rc->ov, rc->record->number, &node);
	if (r == -ESTALE) /* decode says so: no link left */
		return bury(rc, !is_born(rc));
	return r;
}

/*
 * The link difference was `before`, and is one less when the step is done. Any other value is that
 * of a later change: the record is older than it, its end was lost.
 */
static int set_nlink(struct recovery *rc, int before, bool is_done)
{
	struct rvl_index *index = rc->ov->index;
	char path[RVL_ENTRY_PATH_SIZE], value[RVL_NLINK_VALUE_SIZE];
	char undone[RVL_NLINK_VALUE_SIZE], done[RVL_NLINK_VALUE_SIZE];
	size_t undone_len = rvl_nlink_format(before, undone);
	size_t done_len = rvl_nlink_format(before - 1, done);
	ssize_t n;

	rvl_entry_path(rc->record->number, path);
	n = rvl_upper_xattr_get(index, index->inodes_fd, path, rc->entry.stx_mode,
				rc->entry.stx_ino, RVL_XATTR_NLINK, value, sizeof(value));
	if (n == -ENODATA)
		return 0;
	if (n < 0)
		return n == -ERANGE ? 0 : (int)n;
	if (((size_t)n != undone_len || memcmp(value, undone, undone_len) != 0) &&
	    ((size_t)n != done_len || memcmp(value, done, done_len) != 0))
		return 0;
	return rvl_upper_xattr_set(index, index->inodes_fd, path, rc->entry.stx_mode,
				   rc->entry.stx_ino, RVL_XATTR_NLINK, is_done ? done : undone,
				   is_done ? done_len : undone_len);
}

static bool is_object_at(const struct recovery *rc, const struct at *at)
{
	return rc->kind == RVL_ENTRY_OBJECT && at->upper.exists &&
	       at->upper.st.stx_ino == rc->entry.stx_ino;
}

/* It has its stamp, which was the last step: it gets its entry. */
static int finish_create(struct recovery *rc, const struct at *at)
{
	struct rvl_overlay *ov = rc->ov;
	struct rvl_entry_directory entry = { .path = rc->record->at };

	if (!S_ISDIR(at->upper.st.stx_mode))
		return rvl_entry_link(ov->index, at->fd.fd.fd, at->name, rc->record->number);
	rvl_handle_of(ov, at->fd.fd.fd, at->name, &entry.upper);
	return rvl_entry_put_directory(ov->index, rc->record->number, &entry, false);
}

/* The whiteout that a user's RENAME_WHITEOUT leaves: it takes its name if the object that had it is
 * gone from there. */
static int recover_user_whiteout(struct recovery *rc, struct at *at)
{
	struct rvl_temp _cleanup_temp_ temp = {};
	struct rvl_index *index = rc->ov->index;
	char entry[RVL_ENTRY_PATH_SIZE];

	if (rc->kind != RVL_ENTRY_OBJECT || rc->entry.stx_nlink > 1)
		return 0;
	if (at->upper.exists || !at->fd.ov)
		return bury(rc, false);
	rvl_temp_begin(&temp, rc->ov);
	rvl_entry_path(rc->record->number, entry);
	if (linkat(index->inodes_fd, entry, temp.dirfd, temp.name, 0) < 0)
		return -errno;
	temp.is_named = true;
	return rvl_temp_publish(&temp, at->fd.fd.fd, at->name, 0);
}

static int recover_create(struct recovery *rc)
{
	struct at _cleanup_at_ at = {};
	bool is_half;
	int r = look_at(rc->ov, &rc->record->at, &at);

	if (r < 0)
		return r;
	if (rc->record->flags & RENAME_WHITEOUT)
		return recover_user_whiteout(rc, &at);
	if (rc->kind == RVL_ENTRY_OBJECT)
		return is_object_at(rc, &at) ? 0 : bury_if_unnamed(rc);
	if (rc->kind == RVL_ENTRY_DIRECTORY)
		return at.number == rc->record->number || is_alive(rc) ? 0 : bury(rc, false);
	if (!at.upper.exists)
		return 0;
	if (at.number == rc->record->number && rc->record->flags & RVL_LOG_STAMP_LAST)
		return finish_create(rc, &at);
	/* made and not stamped yet: empty, and with the mode of what is in the making */
	is_half = at.number == rc->record->number ||
		  (at.number == 0 && S_ISDIR(at.upper.st.stx_mode) &&
		   (at.upper.st.stx_mode & 07777) == RVL_TEMP_DIR_MODE) ||
		  (at.number == 0 && !S_ISDIR(at.upper.st.stx_mode) && at.upper.st.stx_size == 0 &&
		   (at.upper.st.stx_mode & 07777) == RVL_TEMP_MODE);
	if (!is_half || rc->record->flags & RVL_LOG_WHOLE)
		return 0;
	if (unlinkat(at.fd.fd.fd, at.name, S_ISDIR(at.upper.st.stx_mode) ? AT_REMOVEDIR : 0) < 0)
		return -errno;
	return 0;
}

static int recover_copy_up(struct recovery *rc)
{
	struct rvl_found _cleanup_found_ lower = {};
	struct at _cleanup_at_ at = {};
	int r = look_at(rc->ov, &rc->record->at, &at);

	if (r < 0 || rc->kind == RVL_ENTRY_NONE || rc->kind == RVL_ENTRY_TOMBSTONE)
		return r;
	if (rc->kind == RVL_ENTRY_DIRECTORY)
		return at.number == rc->record->number || is_in_upper(rc) ? 0 : bury(rc, false);
	/* a link beside the entry: it was published, wherever it is now */
	if (is_object_at(rc, &at) || rc->entry.stx_nlink > 1)
		return 0;
	/* Is the lower object still to be seen there? Then as if nothing had been; else it was an
	 * orphan. */
	if (at.dir && !at.upper.exists && !at.upper.is_whiteout)
		r = rvl_lower_look(at.dir, at.name, NULL, &lower);
	if (r < 0)
		return r;
	/* It was whole before it had an entry, and another name of it may have been written through
	 * that. */
	if (lower.places.n && lower.st.stx_nlink > 1)
		return set_nlink(rc, (int)lower.st.stx_nlink - 1, false);
	/* the name is gone: do others lead to it? decode counts the links */
	if (lower.places.n == 0)
		return bury_if_unnamed(rc);
	/* a copy of what is there; or another object, which was to make way (renumber.h) */
	r = rvl_entry_is_of_other_life(rc->ov->index, rc->record->number, &lower,
				       rc->ov->layer_uuids);
	return r != 0 ? (r < 0 ? r : 0) : bury(rc, false);
}

static int recover_link(struct recovery *rc)
{
	struct at _cleanup_at_ at = {};
	int r = look_at(rc->ov, &rc->record->at, &at);

	if (r < 0 || rc->kind != RVL_ENTRY_OBJECT)
		return r;
	return set_nlink(rc, (int)rc->record->flags, is_object_at(rc, &at));
}

/* Is this directory dead for certain? */
static bool is_removed(const struct recovery *rc, uint64_t directory)
{
	struct rvl_index *index = rc->ov->index;
	enum rvl_entry_kind kind;
	struct statx stx;

	return rvl_entry_look(index, directory, &kind, &stx) == 0 &&
	       (kind == RVL_ENTRY_TOMBSTONE ||
		(kind == RVL_ENTRY_NONE && rvl_number_is_born(index, directory) &&
		 !atomic_load(&index->is_incomplete)));
}

static int recover_remove(struct recovery *rc)
{
	bool is_alias = rc->record->number2;
	struct at _cleanup_at_ at = {};
	int r = look_at(rc->ov, &rc->record->at, &at);

	if (r < 0)
		return r;
	if (rc->kind == RVL_ENTRY_DIRECTORY)
		return at.number == rc->record->number || is_alive(rc) ? 0 : bury(rc, !is_born(rc));
	if (rc->kind != RVL_ENTRY_OBJECT)
		return 0;
	/* with its directory the name has gone, too; one that is only not found may be found later */
	if (is_alias && (at.dir || is_removed(rc, rc->record->at.parent)))
		r = set_nlink(rc, (int)rc->record->flags,
			      !at.dir || at.upper.exists || at.upper.is_whiteout);
	return r < 0 ? r : bury_if_unnamed(rc);
}

static int set_path(struct rvl_overlay *ov, uint64_t number, const struct rvl_name_at *place)
{
	int r = rvl_entry_set_path(ov->index, number, place);

	return r == -ENOENT ? 0 : r;
}

static int recover_rename(struct recovery *rc)
{
	const struct rvl_log_record *record = rc->record;
	struct at _cleanup_at_ from = {}, _cleanup_at_ to = {};
	struct rvl_temp _cleanup_temp_ whiteout = {};
	struct rvl_found _cleanup_found_ lower = {};
	bool is_exchange = record->flags & RENAME_EXCHANGE;
	struct recovery other = *rc;
	struct rvl_log_record other_record = { .number = record->number2 };
	int r = look_at(rc->ov, &record->to, &to);

	if (r == 0)
		r = look_at(rc->ov, &record->at, &from);
	if (r < 0 || to.number != record->number)
		return r;
	if (rc->kind == RVL_ENTRY_DIRECTORY)
		r = set_path(rc->ov, record->number, &record->to);
	if (r == 0 && !is_exchange && from.dir && !from.upper.exists && !from.upper.is_whiteout) {
		r = rvl_lower_look(from.dir, from.name, NULL, &lower);
		if (r == 0 && lower.places.n && from.fd.ov)
			r = rvl_temp_whiteout(&whiteout, rc->ov);
		if (r == 0 && whiteout.ov)
			r = rvl_temp_publish(&whiteout, from.fd.fd.fd, from.name, RENAME_NOREPLACE);
	}
	if (r < 0 || record->number2 == 0)
		return r;
	other.record = &other_record;
	r = rvl_entry_look(rc->ov->index, record->number2, &other.kind, &other.entry);
	if (r < 0 || other.kind != RVL_ENTRY_DIRECTORY)
		return r;
	return is_exchange ? set_path(rc->ov, record->number2, &record->at) :
			     bury(&other, !is_born(&other));
}

/* May the next mount have more luck? Then the record stays. */
static bool is_passing(int r)
{
	return r == -ENOSPC || r == -EDQUOT || r == -EIO || r == -ENOMEM || r == -EMFILE ||
	       r == -ENFILE || r == -EROFS;
}

static int recover(void *arg, const struct rvl_log_record *record)
{
	struct recovery rc = { .ov = arg, .record = record };
	int r = rvl_entry_look(rc.ov->index, record->number, &rc.kind, &rc.entry);

	/*
	 * What cannot be found for want of an entry looks as if it were gone: all waits for the next
	 * mount but what gives room. The link count of what came from lower may be one too low.
	 */
	if (rc.ov->has_unmade) {
		if (r == 0 && is_born(&rc) &&
		    (record->op == RVL_LOG_ORPHAN || record->op == RVL_LOG_REMOVE))
			(void)bury_if_unnamed(&rc);
		return 1;
	}
	if (r < 0)
		goto done;
	switch (record->op) {
	case RVL_LOG_CREATE:
		r = recover_create(&rc);
		break;
	case RVL_LOG_COPY_UP:
		r = recover_copy_up(&rc);
		break;
	case RVL_LOG_LINK:
		r = recover_link(&rc);
		break;
	case RVL_LOG_REMOVE:
		r = recover_remove(&rc);
		break;
	case RVL_LOG_RENAME:
		r = recover_rename(&rc);
		break;
	case RVL_LOG_ORPHAN:
		r = bury_if_unnamed(&rc);
		break;
	default:
		r = -EUCLEAN;
	}
done:
	rvl_count(recovered);
	if (r < 0)
		rvl_warn_limited("an unfinished operation on object %llu could not be recovered: %s; %s",
				 (unsigned long long)record->number, strerror(-r),
				 is_passing(r) ? "the next mount tries again" :
						 "see reverlayctl check");
	return is_passing(r);
}

/*
 * ---- whole objects without an entry, before all else ----
 * A place is found through the directories above it, which may themselves be without an entry as
 * yet: those of a directory that was moved below a newer one have older records. So in rounds: the
 * topmost of them is found in each.
 */

struct round {
	struct rvl_overlay *ov;
	unsigned n_done, n_left;
};

static int finish_owed(void *arg, const struct rvl_log_record *record)
{
	struct round *round = arg;
	struct recovery rc = { .ov = round->ov, .record = record };
	struct at _cleanup_at_ at = {};
	bool is_left;
	int r;

	if (record->op != RVL_LOG_CREATE || !(record->flags & RVL_LOG_STAMP_LAST))
		return 0;
	r = rvl_entry_look(rc.ov->index, record->number, &rc.kind, &rc.entry);
	if (r == 0 && rc.kind == RVL_ENTRY_NONE)
		r = look_at(rc.ov, &record->at, &at);
	if (r == 0 && at.upper.exists && at.number == record->number) {
		r = finish_create(&rc, &at);
		round->n_done += r == 0;
	}
	is_left = r == 0 && rc.kind == RVL_ENTRY_NONE && !at.dir;
	round->n_left += is_left;
	if (is_passing(r)) {
		rvl_warn_limited("a new object has no index entry yet, and gets none now: %s; until the next "
				 "mount operations that were not finished are left alone",
				 strerror(-r));
		rc.ov->has_unmade = true;
	}
	/* what else is wrong is told when its turn comes */
	return is_left || is_passing(r) ? rvl_number_set_add(&rc.ov->unmade, record->number, 1, SIZE_MAX) : 0;
}

int rvl_recover(struct rvl_overlay *ov)
{
	struct round round;
	int r;

	do {
		round = (struct round){ .ov = ov };
		r = rvl_log_each(ov->index->log, finish_owed, &round);
	} while (r == 0 && round.n_done && round.n_left);
	return r ?: rvl_log_replay(ov->index->log, recover, ov);
}
