/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The map (inodes/map.mdb, LMDB): number -> all places in the merged lower view (parent's number +
 * name), with the generation. Rows come from the walk of the lower view, and one by one from nodes
 * that are dropped from memory while the kernel still knows them. Thread-safe (LMDB: many readers,
 * one writer; rows put one by one are gathered and written in one transaction). The same file holds
 * claims and assigned numbers (real.h).
 */
#ifndef RVL_INDEX_MAP_H
#define RVL_INDEX_MAP_H

#include "index/entry.h"

#define RVL_MAP_ROWS_MAX (1 << 20) /* places of one number that are looked at */

struct rvl_map_row {
	uint32_t generation; /* 0: not known, that of the object found there (rvl_number_generation) */
	uint8_t type; /* DT_*; DT_UNKNOWN: not known */
	struct rvl_name_at at;
};

/*
 * Add a row (idempotent). It is found by rvl_map_get at once, and in the file at the latest at
 * rvl_map_flush.
 */
int rvl_map_put(struct rvl_index *index, uint64_t number, const struct rvl_map_row *row);
/* All rows that were put go to the file. */
int rvl_map_flush(struct rvl_index *index);

/*
 * Calls fn for each row of a number until it returns non-zero, which is returned; 0 at the end;
 * -ENOENT without rows. No lock is held while fn runs: it may use the map. -EUCLEAN: the file is
 * damaged.
 */
typedef int rvl_map_row_fn(void *arg, const struct rvl_map_row *row);
int rvl_map_get(struct rvl_index *index, uint64_t number, rvl_map_row_fn *fn, void *arg);

/* Are all objects of the lower view in it? */
bool rvl_map_is_complete(struct rvl_index *index);
/*
 * Did the walk that completed it leave names out, since what is above them is damaged or forbidden?
 */
bool rvl_map_has_gaps(struct rvl_index *index);

/* The map as it is. */
struct rvl_map_info {
	uint64_t n_names; /* rows, in the file and in memory */
	uint64_t n_bytes; /* that the map takes there */
	bool is_complete;
	bool is_in_memory; /* at least partly: no workdir, read-only, or no room on the disk */
};
int rvl_map_get_info(struct rvl_index *index, struct rvl_map_info *ret);

/*
 * Walk the merged lower view and put every name. Runs in the calling thread until done, or *stop is
 * true after a directory; may be called again to go on, and what was put until then stays. Progress
 * goes to the counters, and every few seconds to the log. Returns 0 also when it was stopped:
 * rvl_map_is_complete tells. Where the disk is full the map is kept in memory. Errors: of the
 * layers, of memory. One walk at a time: a second caller waits for the first.
 */
int rvl_map_build(struct rvl_index *index, const _Atomic bool *stop);

#endif
