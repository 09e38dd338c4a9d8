/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Check and repair of an overlay that is not mounted (docs/check.md): passes over upper, index and
 * lower, each of which adds facts; then the facts are brought together by number and judged.
 *
 * Memory is bounded by RVL_SORTER_RECORDS, the directories that wait to be walked
 * (RVL_WALK_DIRECTORIES_MAX) and the largest directory; what is more lies in temporary files.
 * One thread; the caller holds the locks of the layers (rvl_stack_lock), unless is_online.
 */
#ifndef RVL_CHECK_CHECK_H
#define RVL_CHECK_CHECK_H

#include "check/problem.h"
#include "layer/layer.h"

struct rvl_index;

enum rvl_check_mode {
	RVL_CHECK_LOOK, /* change nothing */
	RVL_CHECK_PREEN, /* mend what is safe to mend unasked */
	RVL_CHECK_ASK, /* sink->ask decides */
	RVL_CHECK_ALL, /* mend all */
};

/* Who is told. All borrow their arguments for the call. */
struct rvl_check_sink {
	void *arg;
	/* A pass begins. */
	void (*pass)(void *arg, unsigned pass, const char *title);
	/* A problem, with what was done about it. */
	void (*problem)(void *arg, const struct rvl_problem *problem);
	/* RVL_CHECK_ASK: mend it? */
	bool (*ask)(void *arg, const struct rvl_problem *problem);
	/* Now and then: names looked at in this pass so far. May be NULL. */
	void (*progress)(void *arg, uint64_t n_names);
};

struct rvl_check_config {
	const struct rvl_stack *stack; /* borrowed */
	const struct rvl_check_sink *sink; /* borrowed */
	enum rvl_check_mode mode;
	bool is_online; /* LOOK only: on a live mount, only what is still so at a second look counts */
	bool is_rebuild; /* make the index again if it is lost or its state damaged */
	bool is_rebind; /* make it again in any case, for a rebind that goes on with it */
	/*
	 * Finish what the log says was begun, on an index that was opened for repair (the live
	 * filesystem knows how). -errno; records that have to wait stay pending. NULL: all do.
	 */
	int (*recover)(const struct rvl_stack *stack, struct rvl_index *index);
	bool is_import; /* upper comes from the kernel's overlayfs (import.h) */
	const _Atomic bool *stop; /* becomes true: end soon, with -ECANCELED. May be NULL */
};

struct rvl_check_result {
	uint64_t n_objects; /* names in upper */
	uint64_t n_found[RVL_ERROR + 1]; /* by severity; those mended too */
	uint64_t n_mended;
	uint64_t n_left; /* warnings and errors that are still there */
};

/*
 * Run all passes. Errors (logged): -ESTALE the layers do not belong together; -EPROTONOSUPPORT a
 * newer format; -EROFS, -ENOSPC… of the media while mending; -ECANCELED. *ret is filled in as far
 * as it went.
 */
int rvl_check_run(const struct rvl_check_config *config, struct rvl_check_result *ret);

/*
 * Was it stopped cleanly, with nothing begun and unfinished, as far as its state and log say; and would
 * a mount take it, with these layers?
 */
bool rvl_check_is_clean(const struct rvl_stack *stack);

#endif
