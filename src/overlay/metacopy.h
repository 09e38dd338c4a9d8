/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Metacopy files in upper: attributes of their own, data still below. The format is the kernel's
 * (fs/overlayfs/copy_up.c, ovl_copy_up_metadata): a sparse file of the size of the data, with
 * overlay.metacopy; the data are those of the lower name that upper's hides, or where an
 * overlay.redirect says. Called by copyup.c with the node's copy-up begun, so one thread at a time.
 */
#ifndef RVL_OVERLAY_METACOPY_H
#define RVL_OVERLAY_METACOPY_H

#include "overlay/private.h"

/* The data come up, in place; is_empty: they are to be truncated at once, nothing is copied. The
 * steps are in docs/consistency.md. */
int rvl_metacopy_fetch(struct rvl_node *node, bool is_empty);

/*
 * Is the object of upper a metacopy file? As rvl_metacopy_get. What a fetch that was cut short has
 * taken is put back first, and *st, what its statx was, is read anew: so a look at an object that
 * is not in memory goes this way. May take ov->fetch_lock.
 */
int rvl_metacopy_look(struct rvl_overlay *ov, int dirfd, const char *name, struct statx *st);

/*
 * Who changes what a fetch puts back (owner, mode, times, ACL) waits for it. end takes what begin gave.
 * False: no fetch is going on, nor will one begin.
 */
bool rvl_metacopy_turn_begin(struct rvl_node *node);
void rvl_metacopy_turn_end(struct rvl_node *node, bool is_turn);

/*
 * overlay.redirect of a file at this place of the merged lower view: *ret is owned by the caller,
 * NULL where it has one already. own: its own overlay.redirect, or NULL. -ENOENT: the directory is
 * in no lower layer.
 */
int rvl_metacopy_redirect(struct rvl_node *dir, const char *name, const char *own, char **ret);

/* The file is to get another name: its overlay.redirect becomes absolute. An error: it cannot (it
 * needs its data then). */
int rvl_metacopy_anchor(struct rvl_node *node);

#endif
