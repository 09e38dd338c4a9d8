/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Data of files, read to the end. */
#ifndef RVL_CHECK_DATA_H
#define RVL_CHECK_DATA_H

/* Have two files, open for reading, the same data? 1, 0, or -errno. */
int rvl_is_same_data(int a, int b);
/* Has it zeros alone, written or a hole, or nothing? 1, 0, or -errno. Moves the offset of fd. */
int rvl_is_zeros(int fd);

#endif
