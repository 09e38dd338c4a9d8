/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * From a name in a directory to its node: upper's object, if there is one, then what the lower view
 * has (parts.h).
 */
#ifndef RVL_OVERLAY_LOOKUP_H
#define RVL_OVERLAY_LOOKUP_H

#include "overlay/dirlock.h"
#include "overlay/parts.h"

/* All that a name is: for changes. */
struct rvl_name {
	struct rvl_node *node; /* counted */
	struct rvl_upper_name upper;
	bool has_lower;
};
/* The directory is locked for write. 0 also when the name is absent (node NULL). ret is to be
 * released, after an error too; before, it is zeroed. */
int rvl_lookup_name(struct rvl_dir *dir, const char *name, struct rvl_name *ret);
void rvl_name_release(struct rvl_name *name); /* accepts a zeroed one */

/*
 * The node of a name, with a reference, and stat for the reply, from what was read anyway where that
 * is still true for the asker (given.h); ret_entry may be NULL. The directory is locked (read or
 * write). -ENOENT: absent; -EUCLEAN: damaged, or its number is another object's; -ESTALE: what had
 * its number is dead.
 */
int rvl_lookup_entry_locked(struct rvl_dir *dir, pid_t asker, const char *name,
			    struct rvl_node **ret, struct rvl_entry *ret_entry);
/* The same for a listing, which leaves out what the kernel has already (given.h): then *ret_is_kept is
 * true, the entry is not filled, and the name does not count as looked up. */
int rvl_lookup_listed_locked(struct rvl_dir *dir, pid_t asker, const char *name, bool *ret_is_kept,
			     struct rvl_node **ret, struct rvl_entry *ret_entry);
/* The node alone, for who does not hold the lock: it is taken for read, and let go. */
int rvl_lookup(struct rvl_node *dir, const char *name, struct rvl_node **ret);

/*
 * Node of an upper non-directory found through its entry; stx as rvl_entry_look gave it. data: of a
 * metacopy file, where its data are (moved out of it; layer NULL: nowhere); NULL: it is none.
 * has_name: a name led here; else -ESTALE if it has no name left and is not open. -EAGAIN: another thread
 * has got the number into memory meanwhile, for something else or not in upper yet.
 */
int rvl_node_from_entry(struct rvl_overlay *ov, const struct rvl_id *id, const struct statx *stx,
			struct rvl_place *data, bool has_name, struct rvl_node **ret);

#endif
