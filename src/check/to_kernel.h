/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The way back of an import: an upper of ours is made fit for the kernel's overlayfs, so that it
 * shows the same tree and the same hard links (docs/import.md).
 *
 *   import     what the kernel has left there is taken over first, and all is checked
 *   names      lower names of a hard link that is in upper become links there
 *   objects    of each file the entry becomes the kernel's index entry, or goes
 *   end        all is synced
 *
 * Stamps, records of directories, tombstones and the state stay: the kernel shows none of them, and
 * a later import finds all numbers again. Until then the state is marked (RVL_STATE_KERNEL) and a
 * mount is refused. It may die anywhere: run again it goes on, and an import undoes it. One thread;
 * the caller holds the locks of the layers.
 */
#ifndef RVL_CHECK_TO_KERNEL_H
#define RVL_CHECK_TO_KERNEL_H

#include "check/import.h"

/* What the kernel will show otherwise. */
enum rvl_to_kernel_told {
	RVL_KERNEL_DEVICE, /* a device 0:0 */
	RVL_KERNEL_AUFS, /* an AUFS whiteout in lower */
	RVL_KERNEL_BESIDE, /* attributes that its inode cannot carry */
	RVL_KERNEL_NUMBER, /* it came from lower, and will show a number of upper */
	RVL_KERNEL_UNNAMED, /* an object without a name */
	RVL_KERNEL_NO_DATA, /* attributes alone, whose data cannot be copied */
	RVL_KERNEL_REDIRECT, /* userxattr: a directory that was renamed */
	RVL_KERNEL_TOLD_N
};

/* What it means, to go behind the path. */
const char *rvl_to_kernel_text(enum rvl_to_kernel_told what);

struct rvl_to_kernel_config {
	struct rvl_import_config import;
	bool is_nfs_export; /* index all that was copied up, for nfs_export=on; no metacopy then */
	void *arg; /* of told */
	/* path in upper, or (AUFS) "lowerdir/path"; NULL where it has none */
	void (*told)(void *arg, enum rvl_to_kernel_told what, uint64_t number, const char *path);
};

struct rvl_to_kernel_result {
	struct rvl_import_result import;
	uint64_t n_linked; /* lower names that became links in upper */
	uint64_t n_links; /* files in the kernel's index */
	uint64_t n_directories, n_dead; /* likewise, with is_nfs_export */
	uint64_t n_copied; /* files that got their data */
	uint64_t n_metacopy; /* files with attributes alone: metacopy=on is needed */
	uint64_t n_told[RVL_KERNEL_TOLD_N];
};

/* Errors, logged: those of an import; -EUCLEAN: something is left to repair first. */
int rvl_to_kernel_run(const struct rvl_to_kernel_config *config, struct rvl_to_kernel_result *ret);

#endif
