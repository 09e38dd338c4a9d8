/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Copying what an object is made of: data (reflink, copy_file_range, or read/write; holes kept). */
#ifndef RVL_LAYER_COPY_H
#define RVL_LAYER_COPY_H

#include <stdint.h>

/*
 * Copy size bytes from the start of from_fd to the start of to_fd (empty). FICLONE first, else
 * extent by extent (SEEK_DATA/SEEK_HOLE) with copy_file_range, else read/write. The target gets
 * exactly size bytes (a trailing hole by ftruncate). -EIO if the source is shorter than size.
 * ret_bytes (may be NULL): bytes of data copied, without holes; 0 when the extents are shared.
 * Errors: -EIO; -ENOSPC, -EDQUOT… of the filesystems. After an error the target has any content.
 */
int rvl_copy_data(int from_fd, int to_fd, uint64_t size, uint64_t *ret_bytes);

#endif
