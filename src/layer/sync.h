/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Syncing data before a name leads to them. */
#ifndef RVL_LAYER_SYNC_H
#define RVL_LAYER_SYNC_H

#include <stdbool.h>

/*
 * Are data that were written out (rvl_sync_data) on disk whenever a later change of names in the
 * same filesystem is? So on xfs, and on ext4 with a journal in it, ordered data and barriers.
 * fd: any object of it. What cannot be told is false.
 */
bool rvl_has_ordered_data(int fd);

/*
 * The data of a file before a name leads to it. is_ordered: of its filesystem; then they are
 * written out, and the journal, which keeps the order, is not waited for; else fsync(2), as also
 * where the kernel has no sync_file_range(2). -errno of either.
 */
int rvl_sync_data(int fd, bool is_ordered);

#endif
