/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the passes share. Private to src/check. */
#ifndef RVL_CHECK_PRIVATE_H
#define RVL_CHECK_PRIVATE_H

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/number_set.h"
#include "check/check.h"
#include "check/sorter.h"
#include "check/spool.h"
#include "index/entry.h"
#include "index/index.h"
#include "index/number.h"

#define RVL_WALK_DIRECTORIES_MAX (1 << 22) /* found and not yet walked */

/* Of each of the sets of numbers below. */
#define RVL_NUMBER_SET_MAX (1 << 20)

/* A link count that does not fit the names. It is judged when all else is: names may be hidden, or
 * shown twice, by a directory that is to be mended. */
struct rvl_late_nlink {
	uint64_t number, item;
	int64_t names, shown, most;
};
#define RVL_LATE_NLINKS_MAX (1 << 16)

/* A problem that the open of the index mends. */
struct rvl_deferred {
	enum rvl_problem_id id;
	char *detail; /* owned */
};
#define RVL_DEFERRED_MAX 8

struct rvl_check {
	const struct rvl_check_config *config; /* borrowed */
	const struct rvl_stack *stack; /* borrowed */
	uint8_t (*uuids)[16]; /* owned; of the filesystems of layers, by layer index */
	struct rvl_index
		*index; /* owned; NULL: there is none, only upper's own values are checked */
	struct rvl_spool *spool; /* owned */
	struct rvl_sorter *sorter; /* owned */
	struct rvl_secret secret; /* of listings in here */
	struct rvl_number_set pending; /* numbers that records of the log name */
	struct rvl_number_set known; /* real inode number in upper -> number, see STAMP_WRONG */
	struct rvl_number_set companions; /* real inode number -> rvl_companion_state */
	struct rvl_number_set merged; /* repair: real inode number of a directory -> item of its MERGED fact */
	bool is_merged_incomplete; /* it was full: what is not in it may be merged too */
	struct rvl_number_set suspects; /* online: hashes of what the first look found */
	bool is_second_look;
	struct rvl_check_result *result; /* borrowed */
	enum rvl_check_mode mode;
	bool is_silent; /* count, but tell nobody: a round after the first */
	uint64_t n_mended_in_round;
	struct rvl_problem problem; /* of begin, for end */
	char *problem_path, *problem_detail; /* owned */
	struct rvl_deferred deferred[RVL_DEFERRED_MAX];
	unsigned n_deferred;
	bool is_to_be_clean; /* NOT_CLEAN was found and is to be mended: told after the close */
	unsigned pass;
	uint64_t n_names; /* in this pass */
	uint64_t born_max; /* the highest number in use of the born counter's instance */
	uint64_t lost_dir; /* number of lost+found once it is there, else 0 */
	int lost_fd; /* owned */
	struct timespec begin; /* of these passes, by the clock that filesystems use */
	/* when the last mount had ended cleanly, by the clock of upper's filesystem; 0: it has not */
	struct statx_timestamp clean_end;
	struct rvl_late_nlink *late; /* owned */
	size_t n_late, late_size;
	bool is_tree_unsure; /* directories were found that show something else than they should */
	bool has_map; /* the map's file is there and sound */
	bool is_map_unusable; /* it is there and damaged */
	bool is_map_stale; /* its rows are out of step */
};

/* A pass begins. */
void rvl_check_pass(struct rvl_check *check, const char *title);
/* One more name; -ECANCELED when it is to end. */
int rvl_check_tick(struct rvl_check *check);

/*
 * A problem was found. path: in the overlay, or NULL; format: detail, or NULL. Returns true if it
 * is to be mended: the caller then does so and calls rvl_problem_end with the result.
 */
bool rvl_problem_begin(struct rvl_check *check, enum rvl_problem_id id, uint64_t number,
		       const char *path, const char *format, ...)
	__attribute__((format(printf, 5, 6)));
/* Returns 0, or an error for which there is no going on (-ENOSPC, -EROFS, -EIO…). */
int rvl_problem_end(struct rvl_check *check, int r);
/*
 * One that the open of the index mends, which is still to come; after rvl_problem_begin, with its
 * answer. True: it is told when the open has worked, or has not. False: it is to be left, so the run
 * only looks from here on, as an open for more would mend it.
 */
void rvl_problem_defer(struct rvl_check *check, bool is_to_be_mended);
/* state.c: has a volatile mount left its mark, or can that not be told? */
bool rvl_check_has_mark(const struct rvl_stack *stack);
/* One that is told and left alone. path, detail: or NULL. */
void rvl_problem_note(struct rvl_check *check, enum rvl_problem_id id, uint64_t number,
		      const char *path, const char *detail);

/* ---- passes, in their order ---- */

/* state.c: before the index is opened. *ret_has_index: false: never mounted, or lost and not to be
 * made again. */
int rvl_check_state(struct rvl_check *check, bool *ret_has_index);
/* state.c: the numbers that pending records name are not judged. */
int rvl_check_note_pending(struct rvl_check *check, struct rvl_log *log);
/* entries.c: everything in inodes/xx. */
int rvl_check_entries(struct rvl_check *check);
/* An inode of upper was met: its companion, if it has one, is not left over. */
enum rvl_companion_state { RVL_COMPANION_THERE = 1, RVL_COMPANION_MET };
void rvl_check_met(struct rvl_check *check, uint64_t ino);
/* Those that no inode was met for. After the tree. */
int rvl_check_companions(struct rvl_check *check);
/* walk.c: the tree that the mount shows; the lower view. */
int rvl_check_tree(struct rvl_check *check);
int rvl_check_view(struct rvl_check *check);
/* tables.c: the map's file, before the index is opened: what it is, and what is to be done about it;
 * its rows as facts, and what came of them; claims and assigned numbers; counters. */
int rvl_check_map_probe(struct rvl_check *check, const struct rvl_state *state, int inodes_fd);
int rvl_check_map_file(struct rvl_check *check, const struct rvl_state *state, int inodes_fd);
int rvl_check_map(struct rvl_check *check);
int rvl_check_map_rows(struct rvl_check *check);
int rvl_check_claims(struct rvl_check *check);
int rvl_check_counters(struct rvl_check *check);
/* join.c: the facts by number. */
int rvl_check_numbers(struct rvl_check *check);
/* judge.c: what they left for the end. */
int rvl_defer_nlink(struct rvl_check *check, const struct rvl_late_nlink *late);
int rvl_check_link_counts(struct rvl_check *check);

/* ---- common to several ---- */

/* Hash of a place, as facts have it. */
uint64_t rvl_place_hash(uint64_t parent, const char *name);
bool rvl_check_is_pending(const struct rvl_check *check, uint64_t number);
/* A number of the born counter is in use. */
void rvl_check_note_number(struct rvl_check *check, uint64_t number);

/* `what` of OBJECT and PLACE facts; ENTRY facts have a rvl_entry_kind there */
#define RVL_WHAT_MALFORMED 1 /* the stamp; the place */
#define RVL_WHAT_OPAQUE 2 /* the directory */
/* of a STRAY fact: where it leads */
enum rvl_stray {
	RVL_NOT_STRAY,
	RVL_STRAY_SUSPECT, /* to something of another number */
	RVL_STRAY_NOWHERE,
	RVL_STRAY_MALFORMED,
};

/* object.c: the private attributes of one upper object that is no whiteout. */
struct rvl_object {
	int dirfd; /* borrowed */
	const char *name;
	const char *path; /* in upper */
	const struct statx *st;
	uint64_t parent; /* number of its directory; 0: not known */
	uint64_t item;
	const struct rvl_places *lower; /* of its directory */
	/* results */
	struct rvl_id stamp; /* number 0: none that counts */
	bool is_stamp_damaged;
	bool is_opaque;
	enum rvl_stray stray;
	uint64_t leads_to; /* SUSPECT: item of the data that it leads to */
	char *redirect; /* owned; NULL: none */
};
/* Judges and mends values, adds facts. */
int rvl_check_object(struct rvl_check *check, struct rvl_object *object);
void rvl_object_release(struct rvl_object *object);

#endif
