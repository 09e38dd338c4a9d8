/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the passes found out, one small record each, brought together by number: a sort that needs
 * a fixed amount of memory (RVL_SORTER_RECORDS of them) and a file without a name for the rest, 40
 * bytes a record. Not thread-safe.
 */
#ifndef RVL_CHECK_SORTER_H
#define RVL_CHECK_SORTER_H

#include <stddef.h>
#include <stdint.h>

#define RVL_SORTER_RECORDS (1 << 20)

/* In the order in which those of one number come. */
enum rvl_fact_kind {
	RVL_FACT_ENTRY, /* what lies in the index; what: rvl_entry_kind; key: real inode number */
	RVL_FACT_OBJECT, /* a name in upper whose object has this stamp; key: real inode number */
	RVL_FACT_MERGED, /* lower part of an upper directory with this stamp; key: its number; item: its place */
	RVL_FACT_ORIGIN, /* an upper directory with this lower part; key: real inode number; parent: stamp */
	/* a metacopy file in upper with this stamp may not lead to its data; key: its real inode
	 * number; parent: item of what it leads to; what: rvl_stray */
	RVL_FACT_STRAY,
	RVL_FACT_SEEN, /* a lower name that the mount shows */
	/* the next three come together, by key: the hash of a place in the lower view */
	RVL_FACT_VIEW, /* a name in the merged lower view */
	RVL_FACT_PLACE, /* overlay.place says so */
	RVL_FACT_ROW, /* the map says so */
	/* rebuild_lower.c alone: an object in upper and the lower object it was copied up from. number, key: its
	 * stamp and the computed number of that, in either order; item, parent: inode number and instance of
	 * that; nlink: generation of the stamp; what: a claim says it, too */
	RVL_FACT_CANDIDATE,
	RVL_FACT_N
};

struct rvl_fact {
	uint64_t number;
	uint64_t key; /* see the kinds */
	uint64_t parent; /* number of the directory */
	uint64_t item; /* in the spool: the path */
	uint32_t nlink; /* of the real object */
	uint8_t kind; /* rvl_fact_kind */
	uint8_t type; /* S_IFMT >> 12 */
	uint8_t what; /* see the kinds */
	uint8_t is_damaged; /* ENTRY: the record of a directory cannot be read */
};

struct rvl_sorter;

/* max_records: in memory at a time; 0: RVL_SORTER_RECORDS. */
int rvl_sorter_new(size_t max_records, struct rvl_sorter **ret);
/* Accepts NULL. */
void rvl_sorter_free(struct rvl_sorter *sorter);
int rvl_sorter_add(struct rvl_sorter *sorter, const struct rvl_fact *fact);
/* After the last add: the records in order, one a call. 1: *ret is the next; 0: that was all. */
int rvl_sorter_next(struct rvl_sorter *sorter, struct rvl_fact *ret);
uint64_t rvl_sorter_count(const struct rvl_sorter *sorter);

#endif
