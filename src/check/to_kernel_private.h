/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the parts of the way to the kernel share. Private to src/check. */
#ifndef RVL_CHECK_TO_KERNEL_PRIVATE_H
#define RVL_CHECK_TO_KERNEL_PRIVATE_H

#include <sys/stat.h>

#include "check/private.h"
#include "check/to_kernel.h"
#include "index/entry.h"

struct rvl_to_kernel {
	const struct rvl_to_kernel_config *config; /* borrowed */
	const struct rvl_stack *stack; /* borrowed */
	struct rvl_to_kernel_result *result; /* borrowed */
	struct rvl_index *index; /* owned */
	uint8_t (*uuids)[16]; /* owned; of the filesystems of layers */
	int kernel_fd; /* owned; workdir/index */
	uint64_t n_names; /* looked at in this pass */
	struct rvl_number_set seen; /* real inode numbers of files with several names */
};

static inline bool rvl_to_kernel_is_dry(const struct rvl_to_kernel *tk)
{
	return tk->config->import.is_dry_run;
}

void rvl_to_kernel_tell(struct rvl_to_kernel *tk, enum rvl_to_kernel_told what, uint64_t number,
			const char *path);
void rvl_to_kernel_pass(struct rvl_to_kernel *tk, const char *title);
/* One more name; -ECANCELED when it is to end. */
int rvl_to_kernel_tick(struct rvl_to_kernel *tk);

/* to_kernel_links.c: names that are only in lower, of objects that are in upper; and, for
 * nfs_export, whiteouts for removed objects that lower still has. */
int rvl_to_kernel_links(struct rvl_to_kernel *tk);
/*
 * Names of an entry's object that are shown and are no links in upper: overlay.nlink counts them.
 */
int rvl_to_kernel_lower_names(struct rvl_to_kernel *tk, uint64_t number, const struct statx *st);

/* to_kernel_object.c: one object of upper that is no whiteout. path: in upper. */
int rvl_to_kernel_object(struct rvl_to_kernel *tk, int dirfd, const char *name,
			 const struct statx *st, const char *path);
/* The kernel's index entry of a lower object is there, or is made: a whiteout. */
int rvl_to_kernel_whiteout(struct rvl_to_kernel *tk, const struct rvl_handle *lower);

#endif
