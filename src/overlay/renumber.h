/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A number that two objects have, since layers were changed while nothing was mounted: one of them gets
 * another.
 *
 *   upper's object was moved away      lower's shows again, and its number is that of upper's stamp
 *   lower gave an inode again          lower's new object has the number of what was copied up from the
 *                                      old one (another life: rvl_entry_is_of_other_life)
 *
 * The one that is met second is renumbered; where lower's is another life, and its birth time tells that it may
 * be (rvl_number_may_be_given_again), that one in any case.
 */
#ifndef RVL_OVERLAY_RENUMBER_H
#define RVL_OVERLAY_RENUMBER_H

#include "overlay/lookup.h"

/*
 * The number of the stamp is shown for an object in lower already: this one gets another number, stamp and
 * entry; the entry of the old one goes. A read-only overlay writes nothing: a number for this mount, and
 * upper->is_unindexed and has_other_entry are set. dir is locked; the node of the lower object, which is not
 * in upper, is held, or was dropped while the kernel knew it. *id: in, the number of the stamp; out, its
 * number now, also where another thread was first. Errors: of the entry and the stamp (-ENOSPC, -EIO…);
 * before the stamp nothing has changed.
 */
int rvl_renumber_upper(struct rvl_dir *dir, const char *name, struct rvl_upper_name *upper,
		       const struct rvl_found *lower, struct rvl_id *id);

/*
 * The other way round: a lower object whose number is shown, or taken, for another. It gets one of its own,
 * recorded. is_other_life: it is certain that the two are not one. -EEXIST: the number that it has is
 * recorded (by a rebind, a claim), and that is not certain. dir is locked. *id: in, its number; out, the new
 * one, on a read-only overlay for this mount. Places that cannot be put into the map are a warning.
 */
int rvl_renumber_lower(struct rvl_dir *dir, const char *name, const struct rvl_found *lower,
		       bool is_other_life, struct rvl_id *id);

/*
 * The number of a lower directory, or of a lower file with one name, which is about to be copied up, has an
 * entry, mostly that of another object. What has no name (a tombstone, what an attempt left, the record of a
 * directory that is gone) goes; any other object gets another number. In the turn to copy up the number's
 * node, with no directory locked: a directory that has the number is looked up. 0: the number has no entry any
 * more, or none that is in the way could be found; -errno of the entry, of that look-up, of upper.
 */
int rvl_free_number(struct rvl_overlay *ov, uint64_t number);

#endif
