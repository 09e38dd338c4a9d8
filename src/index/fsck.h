/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What check and repair ask of the index beyond what a mount needs. The caller is the only user of
 * the index (it holds the locks of the layers); no function here is for several threads.
 */
#ifndef RVL_INDEX_FSCK_H
#define RVL_INDEX_FSCK_H

#include "index/map.h"
#include "index/real.h"
#include "index/state.h"
#include "layer/handle.h"

/* The files of the map, in inodes/. A rebind makes new ones beside those that are in force, and the
 * state says which these are. */
enum rvl_map_file { RVL_MAP_FILE_DATA, RVL_MAP_FILE_SEAL, RVL_MAP_FILE_JOURNAL, RVL_MAP_FILE_N };
#define RVL_MAP_FILE_NAME_SIZE 24
void rvl_map_file_name(uint32_t serial, enum rvl_map_file which, char ret[RVL_MAP_FILE_NAME_SIZE]);

/*
 * Read all of the map's file in a workdir that has a state. 0: sound; -ENOENT: there is no map;
 * -EUCLEAN: it is damaged; others tell nothing of the file: -EPROTONOSUPPORT, -ENOMEM, -EIO… LMDB
 * believes its pages, and may crash or not come back on damaged ones: call it in a process of its
 * own.
 */
int rvl_map_verify(const struct rvl_stack *stack);
/*
 * Of an index opened with is_live: look at a copy of the map's file as it is now, instead of the one
 * that the server writes to. copy_fd: an empty file, borrowed. Called again it is a newer copy.
 * -ENOENT: there is no map; -EAGAIN: it was written to while it was copied.
 */
int rvl_map_open_copy(struct rvl_index *index, int copy_fd);
/* Calls fn for each row that is in the file, until it returns non-zero, which is returned. */
typedef int rvl_map_scan_fn(void *arg, uint64_t number, const struct rvl_map_row *row);
int rvl_map_scan(struct rvl_index *index, rvl_map_scan_fn *fn, void *arg);
/*
 * Throw all rows away, not the claims and assigned numbers: the map is made again when it is
 * needed.
 */
int rvl_map_forget(struct rvl_index *index);

/*
 * Are the tables of claims and assigned numbers each other's inverse? *ret_wrong: how many records
 * are not; *ret_max: the highest number that the assigned counter gave out by record, 0 if none.
 * is_mend: what contradicts itself goes (the object then gets a number again), what is missing is
 * added, durable.
 */
int rvl_reals_check(struct rvl_index *index, bool is_mend, uint64_t *ret_wrong, uint64_t *ret_max);
/* Stamps of layers with a table for which there is no record. */
int rvl_claims_check(struct rvl_index *index, uint64_t *ret_missing);
/* Record them, as the first mount did. */
int rvl_claims_mend(struct rvl_index *index);

/* Would the counter give out this number again? */
bool rvl_counter_is_behind(const struct rvl_index *index, enum rvl_state_counter which,
			   uint64_t number);
/* A new instance for a counter, durable before it gives out a number; the old one is retired. */
int rvl_counter_renew(struct rvl_index *index, enum rvl_state_counter which);

/* What the one object of this type (S_IFMT bits) is known by that an origin opens in the lowers. -ENOENT:
 * there is none, or not one alone; -ENODATA: nothing that is recorded would last. uuids: of
 * rvl_identity_uuids. */
int rvl_real_of_origin(struct rvl_index *index, uint8_t (*uuids)[16],
		       const struct rvl_handle *origin, mode_t type, struct rvl_real_id *ret,
		       struct statx *ret_st);
/*
 * Can it be one of what was born here, though the state that gave it is lost? Of the objects of lower only
 * some that were assigned can, where there are no birth times.
 */
bool rvl_number_may_be_born(const struct rvl_index *index, const struct rvl_id *id);
/* The number that a real object has where no record says otherwise. false: none can be computed. */
bool rvl_number_compute(const struct rvl_index *index, const struct rvl_real_id *real, uint64_t *ret);

/*
 * For the index that is being made, before there is a state: records numbers of lower objects
 * (rvl_real_record) that would be computed otherwise. 1: there are some that nothing else tells, so they
 * are kept, and the loss of the map is to be noticed; 0: none; -errno.
 */
typedef int rvl_rebuild_record_fn(void *arg, struct rvl_index *index);
/*
 * A new state for layers whose state is lost: with the uuid and the instances of the table on
 * upper's root if that can be read, so that stamps and handles mean what they did, and with new
 * instances for the counters. used_ids: bitmap of instances that stamps in upper name. record: NULL
 * for a rebind, until whose end nobody else opens it. A damaged state is kept as state.damaged. The
 * state is the last step on disk; the overlay counts as not cleanly stopped. Errors are logged.
 */
int rvl_index_rebuild(const struct rvl_stack *stack,
		      const uint64_t used_ids[(RVL_INSTANCE_MAX + 1) / 64],
		      rvl_rebuild_record_fn *record, void *arg);

#endif
