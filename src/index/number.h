/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Numbers (docs/format.md): 64 bits, bit 63 zero, bits 62..48 the instance; used alike as st_ino,
 * d_ino and nodeid. Thread-safe: computed numbers take no lock; where any are assigned or claimed,
 * the tables of them are read first (real.h).
 */
#ifndef RVL_INDEX_NUMBER_H
#define RVL_INDEX_NUMBER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#include "index/index.h"

#define RVL_NUMBER_ROOT 1
#define RVL_INSTANCE_SHIFT 48
#define RVL_INSTANCE_MAX 0x7fff
#define RVL_REAL_INO_MASK ((1ULL << RVL_INSTANCE_SHIFT) - 1)

/* A number with its generation: what a handle holds, and what a stamp keeps. */
struct rvl_id {
	uint64_t number;
	uint32_t generation; /* 0 for the root only */
};

static inline bool rvl_number_is_valid(uint64_t number)
{
	return number != 0 && !(number >> 63);
}

/*
 * Number and generation of an object of a lower layer. stx needs TYPE, INO and BTIME; its st_dev
 * may differ from the layer's (btrfs subvolumes: instances of their own, made on first sight,
 * durable before the number is shown). dirfd, name: the object, read only where its own stamp
 * claims or st_dev are to be resolved.
 * Numbers that cannot be computed are assigned and recorded before this returns.
 * Errors: -EOVERFLOW: instances used up; of the map.
 */
int rvl_number_of_lower(struct rvl_index *index, const struct rvl_layer *layer, int dirfd,
			const char *name, const struct statx *stx, struct rvl_id *ret);

/* Has an object of the lower layers this number by a record (a claim, assigned, of a rebind)? 1, 0, or
 * -errno. */
int rvl_number_is_recorded(struct rvl_index *index, uint64_t number);

/*
 * The number that rvl_number_of_lower gives is another object's (upper's, which was moved offline
 * and left the lower one uncovered): this one gets one of its own, recorded for ever. If it has a record
 * that number is returned; but of another life of the inode, which the record is not of, it gets a new one.
 * Arguments and errors as there.
 */
int rvl_number_of_lower_anew(struct rvl_index *index, const struct rvl_layer *layer, int dirfd,
			     const char *name, const struct statx *stx, bool is_other_life,
			     struct rvl_id *ret);

/*
 * Number alone, from a directory entry (no system call). type: DT_*. -EAGAIN: not certain from the
 * entry (subvolume, inner st_dev, assigned and not yet seen): the caller stats and asks
 * rvl_number_of_lower.
 */
int rvl_number_of_dirent(struct rvl_index *index, const struct rvl_layer *layer, uint64_t ino,
			 uint8_t type, uint64_t *ret);

/*
 * The next number of this overlay's counter: never given out before, not even before a crash.
 * Lock-free but for each block of a million, which is reserved on disk (durable) before its first
 * use.
 */
int rvl_number_born(struct rvl_index *index, struct rvl_id *ret);

/* Was this number given out by this overlay's counter (rvl_number_born)? Then it is in no map. */
bool rvl_number_is_born(const struct rvl_index *index, uint64_t number);

/*
 * Generation of a lower object, of its birth time: what rvl_number_of_lower gives with a number. A
 * row of the map with generation 0 means this.
 */
uint32_t rvl_number_generation(const struct rvl_index *index, const struct statx *stx);

/*
 * Was a lower object born since the index was made, so that its inode may have been another's, which has been
 * copied up? By its birth time; without one, of a filesystem that tells the lives of an inode apart (and is
 * no image), it may have been. A clock that was set back makes it wrong.
 */
bool rvl_number_may_be_given_again(const struct rvl_index *index, const struct rvl_layer *layer,
				   const struct statx *stx);

/*
 * Number for an upper object without a valid stamp: that of its lower origin, if no entry has it
 * yet, else a born one. origin may be NULL.
 */
int rvl_number_for_unstamped(struct rvl_index *index, const struct rvl_id *origin, struct rvl_id *ret);

#endif
