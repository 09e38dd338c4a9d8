/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What import and its way back share. Private to src/check. */
#ifndef RVL_CHECK_IMPORT_PRIVATE_H
#define RVL_CHECK_IMPORT_PRIVATE_H

#include "check/import.h"
#include "index/index.h"

#define RVL_KERNEL_INDEX "index" /* in the workdir (OVL_INDEXDIR_NAME) */

struct rvl_import {
	const struct rvl_import_config *config; /* borrowed */
	struct rvl_import_result *result; /* borrowed */
	struct rvl_index *index; /* owned */
	uint8_t (*uuids)[16]; /* owned; of the filesystems of layers, by layer index */
	int kernel_fd; /* owned; workdir/index */
	uint64_t n_names; /* looked at, for progress */
	uint64_t n_buried; /* numbers that got a tombstone */
};

/*
 * import_index.c: all of workdir/index. is_after: every object of upper has its entry: what has none
 * is dead.
 */
int rvl_import_index(struct rvl_import *import, bool is_after);

#endif
