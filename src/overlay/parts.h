/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The two parts of a directory, each looked into alone: upper's, and the lower view of it
 * (layer/merge.h). What a name is, all in all, is lookup.h's.
 */
#ifndef RVL_OVERLAY_PARTS_H
#define RVL_OVERLAY_PARTS_H

#include "overlay/private.h"

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
	bool is_unindexed; /* its number has no entry, and a read-only overlay makes none */
	bool has_other_entry; /* the same, but one of its links is the entry of another number */
	char *redirect; /* owned; NULL: none */
};
void rvl_upper_name_release(struct rvl_upper_name *upper);
#define _cleanup_upper_name_ __attribute__((cleanup(rvl_upper_name_release)))
#define _cleanup_found_ __attribute__((cleanup(rvl_found_release)))

/*
 * Look in upper alone. 0 also when absent. dirfd: of the upper directory, -EBADF: there is none. In
 * two steps: what one stat and the stamp say, which is enough where the object is in memory; and,
 * of one that exists, what more it takes to make a node. -EUCLEAN: malformed. The caller releases
 * ret, after an error too.
 */
int rvl_upper_stat(struct rvl_overlay *ov, int dirfd, const char *name, struct rvl_upper_name *ret);
int rvl_upper_details(struct rvl_overlay *ov, int dirfd, const char *name,
		      struct rvl_upper_name *ret);
/* Both. */
int rvl_upper_look(struct rvl_overlay *ov, int dirfd, const char *name, struct rvl_upper_name *ret);
/* Look in the lower part alone (0 with places.n == 0 when absent). redirect: as for
 * rvl_merge_lookup. The caller releases ret. */
int rvl_lower_look(struct rvl_node *dir, const char *name, const char *redirect,
		   struct rvl_found *ret);

/* Has the lower part something visible under this name, so that a whiteout must take its place? 1,
 * 0, or -errno. */
int rvl_lower_has(struct rvl_node *dir, const char *name);

/*
 * The listing of the lower part, counted; NULL where there is none. It is kept within the limit of
 * listings.h. For a look-up the result is 0 always, and *ret NULL also where it cannot be read or
 * would cost more than asking the layers for one name.
 */
int rvl_lower_listing(struct rvl_node *dir, bool is_for_lookup, struct rvl_listing **ret);

#endif
