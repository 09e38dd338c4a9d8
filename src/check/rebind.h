/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Rebind of an overlay that is not mounted: after its layers were copied, moved or replaced the
 * index is made theirs, so that numbers, hard links and handles stay (docs/rebind.md).
 *
 *   upper    entries are made links of the objects again; names that were one object and are not
 *            any more, but equal, become one; handles that are kept are renewed
 *   lowers   numbers are found again by place (index/rebind.h)
 *   links    names of a lower file that the copy has split are linked in upper
 *   commit   one rename of the state
 *
 * It may die anywhere and be run again: what is done before the commit is true of the layers as
 * they are, and the index refuses to be mounted until then. One thread; the caller holds the locks
 * of the layers (rvl_stack_lock).
 */
#ifndef RVL_CHECK_REBIND_H
#define RVL_CHECK_REBIND_H

#include "index/rebind.h"

/* What is told, each with a path in the overlay or the lower view. */
enum rvl_rebind_told {
	RVL_TOLD_GONE, /* lower: nothing is at that place any more */
	RVL_TOLD_OTHER_KIND, /* lower: another kind of object is there, with a new number */
	RVL_TOLD_JOINED, /* lower: it is now a link of another object */
	RVL_TOLD_SPLIT, /* lower: it was a link of an object, and is not equal to it now */
	RVL_TOLD_UNEQUAL, /* upper: it has the stamp of another object, and other contents */
	RVL_TOLD_DEAD, /* upper: its stamp is that of a removed object */
	RVL_TOLD_N
};

/* What it means, to go behind "PATH: ". */
const char *rvl_rebind_text(enum rvl_rebind_told what);

struct rvl_check_rebind_config {
	const struct rvl_stack *stack; /* borrowed */
	bool is_clone;
	bool is_dry_run;
	void *arg; /* of told */
	void (*told)(void *arg, enum rvl_rebind_told what, uint64_t number, const char *path);
	/* Now and then, in the walk of upper: names so far. May be NULL. Of lower the log tells. */
	void (*progress)(void *arg, uint64_t n_names);
	/*
	 * Becomes true: end soon, with -ECANCELED. May be NULL. It is looked at at each name of upper and of
	 * the lowers, each hard link, and before the commit.
	 */
	const _Atomic bool *stop;
};

struct rvl_check_rebind_result {
	bool is_moved, has_other_lowers, has_map; /* see index/rebind.h */
	bool is_rebuilt; /* there was no index: it was made again from what is in upper */
	struct rvl_rebind_counts lower;
	uint64_t n_upper; /* names in upper */
	uint64_t n_entries; /* made, or made links of their objects again */
	uint64_t n_linked; /* names in upper that became links of one object again */
	uint64_t n_lower_linked; /* names in lower alone that became upper's (rvl_rebind_split) */
	uint64_t n_told[RVL_TOLD_N];
};

/*
 * Where the workdir has no index, but upper was used with one, the index is made again as by repair
 * --rebuild (check.h), and then bound. Errors, logged but the last: those of rvl_rebind_begin; -ENODATA: the
 * private attributes of upper were lost with the copy; -ENOSPC, -EIO… of the layers; -ECANCELED.
 */
int rvl_check_rebind(const struct rvl_check_rebind_config *config,
		     struct rvl_check_rebind_result *ret);

#endif
