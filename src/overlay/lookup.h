/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * From a name in a directory to its node, on top of the rules of the lower stack (layer/merge.h):
 * upper's object, if there is one, then what the lower view has.
 */
#ifndef RVL_OVERLAY_LOOKUP_H
#define RVL_OVERLAY_LOOKUP_H

#include "overlay/dirlock.h"

/* What upper has under a name. */
struct rvl_upper_name {
	bool exists; /* an object, not a whiteout */
	bool is_whiteout;
	struct statx st;
	int stamp_error; /* 0, -ENODATA (none), -EUCLEAN (malformed) */
	struct rvl_id stamp;
	/* read only for objects that are not in memory (their nodes say it) */
	bool is_opaque;
	bool is_metacopy;
	bool is_unindexed; /* no entry, and a read-only overlay makes none */
	char *redirect; /* owned; NULL: none */
};
void rvl_upper_name_release(struct rvl_upper_name *upper);
#define _cleanup_upper_name_ __attribute__((cleanup(rvl_upper_name_release)))
#define _cleanup_found_ __attribute__((cleanup(rvl_found_release)))

/* Look in upper alone. 0 also when absent. dirfd: of the upper directory, -EBADF: absent. */
int rvl_upper_look(struct rvl_overlay *ov, int dirfd, const char *name, struct rvl_upper_name *ret);
/* Look in the lower part of the directory alone (0 with places.n == 0 when absent). */
int rvl_lower_look(struct rvl_node *dir, const char *name, const char *redirect,
		   struct rvl_found *ret);

/* Has the lower part something visible under this name, so that a whiteout must take its place? 1,
 * 0, or -errno. */
int rvl_lower_has(struct rvl_node *dir, const char *name);

/* All that a name is: for changes. The directory is locked for write. 0 also when it is absent
 * (node NULL). */
struct rvl_name {
	struct rvl_node *node; /* counted */
	struct rvl_upper_name upper;
	bool has_lower;
};
int rvl_lookup_name(struct rvl_dir *dir, const char *name, struct rvl_name *ret);
void rvl_name_release(struct rvl_name *name); /* accepts a zeroed one */

/* The node of a name: -ENOENT absent. The directory is locked (read or write). */
int rvl_lookup_locked(struct rvl_dir *dir, const char *name, struct rvl_node **ret);
/* The same, and stat for the reply from what was read anyway. */
int rvl_lookup_entry_locked(struct rvl_dir *dir, pid_t asker, const char *name,
			    struct rvl_node **ret, struct rvl_entry *ret_entry);
/* Take the lock, look up, let go. */
int rvl_lookup(struct rvl_node *dir, const char *name, struct rvl_node **ret);

/*
 * Node of an upper non-directory found through its entry; stx as rvl_entry_look gave it. data: of a
 * metacopy file, where its data are (moved out of it; layer NULL: nowhere); NULL: it is none.
 * has_name: a name led here; else -ESTALE if it has no name left and is not open.
 */
int rvl_node_from_entry(struct rvl_overlay *ov, const struct rvl_id *id, const struct statx *stx,
			struct rvl_place *data, bool has_name, struct rvl_node **ret);

/*
 * The listing of the lower part, counted; NULL where there is none. It is kept within the limit of
 * listings.h. For a look-up the result is 0 always, and *ret NULL also where it cannot be read or
 * would cost more than asking the layers for one name.
 */
int rvl_lower_listing(struct rvl_node *dir, bool is_for_lookup, struct rvl_listing **ret);

#endif
