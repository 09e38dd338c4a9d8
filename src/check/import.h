/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Import: an upper that the kernel's overlayfs has used becomes ours, whole and for good
 * (docs/import.md).
 *
 *   kernel's index   what workdir/index/ has becomes entries of ours: hard links of copied-up files
 *                    by one rename each
 *   repair           the passes of check.h, which mend what is safe to mend: every object of upper
 *                    gets its number (by overlay.origin that of lower), stamp and entry
 *   removed objects  whiteouts in the kernel's index become tombstones
 *   end              the mark in the state goes: it can be mounted
 *
 * From its first change to its end the state is marked as the kernel's (RVL_STATE_KERNEL), and a
 * mount is refused; it may die anywhere and be run again. One thread; the caller holds the locks of
 * the layers (rvl_stack_lock).
 */
#ifndef RVL_CHECK_IMPORT_H
#define RVL_CHECK_IMPORT_H

#include "check/check.h"

/* What is told of an entry of the kernel's index, by its name there. */
enum rvl_import_told {
	RVL_IMPORT_UNKNOWN, /* it is none: left where it is */
	RVL_IMPORT_PARTED, /* what it was copied up from is not in lower: other names are parted */
	RVL_IMPORT_TAKEN, /* its number is another object's: it gets one of its own */
	RVL_IMPORT_UNNAMED, /* neither, and it has no other name: left where it is */
	RVL_IMPORT_TOLD_N
};

/* What it means, to go behind the name. */
const char *rvl_import_text(enum rvl_import_told what);

struct rvl_import_config {
	const struct rvl_stack *stack; /* borrowed */
	const struct rvl_check_sink *sink; /* borrowed; ask may be NULL */
	bool is_dry_run;
	const _Atomic bool *stop; /* as in check.h */
	void *arg; /* of told */
	void (*told)(void *arg, enum rvl_import_told what, const char *name);
};

struct rvl_import_result {
	uint64_t n_links; /* objects of the kernel's index that became entries */
	uint64_t n_dead; /* its whiteouts, and records of directories that are gone */
	uint64_t n_directories; /* its records of directories that are there */
	uint64_t n_told[RVL_IMPORT_TOLD_N];
	struct rvl_check_result check;
};

/*
 * Errors, logged: -EINVAL without upper and workdir, or after a volatile mount; -EBUSY: operations
 * were begun by a mount of ours and not finished; -ESTALE: the layers are not those of the index
 * (rebind), or the index is lost (repair --rebuild); -ENOSPC, -EROFS… of the media; -ECANCELED.
 */
int rvl_import_run(const struct rvl_import_config *config, struct rvl_import_result *ret);

#endif
