/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Tables real object <-> number, both ways, for numbers that cannot be computed: claims (stamps
 * that a lower layer brought with it from when it was an upper), assigned numbers, and after a
 * rebind the numbers from before, with their generations. Private to src/index, but for what a
 * rebuild records (fsck.h).
 *
 * Where they are: new records in memory and in the journal inodes/assigned (one write(2) each, so
 * they survive the death of the process); when these are many, at rvl_reals_flush and at close in
 * the map's LMDB file, durable. Without a workdir: in memory only. Thread-safe; look-ups take a
 * read lock, and none where there are no tables (rvl_reals_is_empty).
 */
#ifndef RVL_INDEX_REAL_H
#define RVL_INDEX_REAL_H

#include "index/number.h"

/* What a real object is known by, in this mount and later ones: its inode number, or the hash that
 * takes its place where that does not last (rvl_real_of_lower), in the space of an instance. */
struct rvl_real_id {
	uint64_t ino;
	uint16_t instance;
};

/* In LMDB: key of `reals` and value of `owners` (instance, real ino; big-endian, so that neighbours
 * are neighbours); value of `reals` (number, generation). */
#define RVL_REAL_KEY_SIZE 10
#define RVL_REAL_VALUE_SIZE 12

#define RVL_REALS_PENDING_MAX 65536 /* records in memory and journal before they go to LMDB */

/* Loads the journal. The state must be open. */
int rvl_reals_open(struct rvl_index *index, struct rvl_reals **ret);
/* Does not flush. Accepts NULL. */
void rvl_reals_free(struct rvl_reals *reals);

/* true: no object has a recorded number, and the functions below need not be asked. */
bool rvl_reals_is_empty(const struct rvl_reals *reals);
/* The recorded number; generation 0: that of the birth time. -ENOENT: none is recorded. */
int rvl_real_number(struct rvl_index *index, const struct rvl_real_id *real, struct rvl_id *ret);
/* -ENOENT: no object has it by record. */
int rvl_real_owner(struct rvl_index *index, uint64_t number, struct rvl_real_id *ret);
/*
 * Record that `real` has this number and generation. When it returns 0 it can be shown. -EEXIST:
 * one of both is recorded already (with the other or another). If the disk is full the record holds
 * for this mount only, with a warning.
 */
int rvl_real_record(struct rvl_index *index, const struct rvl_real_id *real,
		    const struct rvl_id *id);
/* The same in place of a record that there is of `real`, whose inode has been given to another object. The
 * number must be one that was never used. */
int rvl_real_replace(struct rvl_index *index, const struct rvl_real_id *real,
		     const struct rvl_id *id);
/* Is there a record of it that is not in LMDB yet, so that what LMDB has may be replaced? */
bool rvl_real_is_pending(struct rvl_index *index, const struct rvl_real_id *real);
/* All records to LMDB, durable; the journal is emptied. */
int rvl_reals_flush(struct rvl_index *index);

/* One encode, one decode function of a journal's record. decode: -EUCLEAN. */
#define RVL_REAL_RECORD_SIZE 32
void rvl_real_record_encode(const struct rvl_real_id *real, const struct rvl_id *id,
			    uint8_t buf[RVL_REAL_RECORD_SIZE]);
int rvl_real_record_decode(const void *buf, size_t len, struct rvl_real_id *ret,
			   struct rvl_id *ret_id);

#endif
