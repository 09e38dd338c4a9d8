/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Attributes that were given to the kernel, which keeps them without a time limit.
 *
 * A change whose reply has no attributes (a directory's times and links by a change of its names, the
 * ctime of what is renamed) voids those that the kernel has when its reply comes (fs/fuse/dir.c,
 * fuse_dir_changed), but not an answer to LOOKUP, GETATTR or READDIRPLUS that is still on its way:
 * read before the change and taken after it, it would put the old ones back, for good. A notice
 * before the reply of the change makes such an answer too old (fs/fuse/inode.c, attr_version).
 *
 * It is due only where attributes were given since the last one, and not to the thread alone that
 * makes the change: a thread has taken its answers before it asks for something else. A GETATTR of
 * the directory by who is about to make a name in it is the common case, and needs none.
 *
 *   who gives     1 notes overlay->n_changes, or knows the node already
 *                 2 reads attributes that are near (only with 1 noted)
 *                 3 sets node->given_to
 *                 4 reads the attributes, unless 2 did and n_changes is as it was
 *   who changes   1 changes
 *                 2 counts n_changes up
 *                 3 takes given_to; a notice, if it was set to others
 *
 * So who changes and does not find given_to set is seen by who gives in his step 4.
 *
 * Some changes void nothing in the kernel, so that a notice is due to everybody (rvl_given_tell): those
 * beside the object of a request (the directories in which a copy-up publishes), an open that copies up,
 * and what was done before an error.
 *
 * A listing need not give again what the kernel still has (rvl_given_has).
 */
#ifndef RVL_OVERLAY_GIVEN_H
#define RVL_OVERLAY_GIVEN_H

#include "overlay/private.h"

static inline uint64_t rvl_given_begin(const struct rvl_overlay *ov)
{
	return atomic_load(&ov->n_changes);
}

/* Step 3 (which makes it unread, too) and the question of step 4: true if what was read since `begun` may be old. */
static inline bool rvl_given_set(struct rvl_node *node, pid_t asker, uint64_t begun)
{
	pid_t old = atomic_load(&node->given_to), new;

	do {
		new = asker > 0 && (old == 0 || old == asker) ? asker : RVL_GIVEN_TO_MANY;
	} while (old != new && !atomic_compare_exchange_weak(&node->given_to, &old, new));
	if (atomic_load_explicit(&node->is_read, memory_order_relaxed))
		atomic_store_explicit(&node->is_read, false, memory_order_relaxed);
	return atomic_load(&node->ov->n_changes) != begun;
}

/* Steps 2 and 3 of who changes: is a notice due? */
static inline bool rvl_given_changed(struct rvl_node *node, pid_t changer)
{
	pid_t old;

	atomic_fetch_add(&node->ov->n_changes, 1);
	old = atomic_exchange(&node->given_to, 0);
	return old != 0 && old != changer;
}

/*
 * Attributes of this node have changed, and no reply will make the kernel drop those that it keeps. Tells
 * it, if it has any. With no lock of a node; a copy-up's turn may be held.
 */
static inline void rvl_given_tell(struct rvl_node *node)
{
	const struct rvl_overlay_config *config = &node->ov->config;

	if (rvl_given_changed(node, 0) && config->tell_changed)
		config->tell_changed(config->context, node->id.number);
}

/* The kernel is about to read it, and will ask for the access time again (fuse_invalidate_atime). */
static inline void rvl_given_note_read(struct rvl_node *node)
{
	if (!atomic_load_explicit(&node->is_read, memory_order_relaxed))
		atomic_store_explicit(&node->is_read, true, memory_order_relaxed);
}

/*
 * Has the kernel this name, and attributes that it keeps? A guess: if it has not, it asks. Not of what
 * is in upper, whose attributes it voids with each write, nor of a file that it may know by another
 * name alone.
 */
static inline bool rvl_given_has(struct rvl_node *node)
{
	return !rvl_node_has_upper(node) && (rvl_node_is_dir(node) || node->lower_nlink == 1) &&
	       atomic_load_explicit(&node->given_to, memory_order_relaxed) != 0 &&
	       !atomic_load_explicit(&node->is_read, memory_order_relaxed) &&
	       rvl_node_is_known(node);
}

#endif
