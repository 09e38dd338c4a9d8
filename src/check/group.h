/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * All facts of one number, gathered by join.c and judged there and in judge.c. Private to
 * src/check.
 */
#ifndef RVL_CHECK_GROUP_H
#define RVL_CHECK_GROUP_H

#include "check/private.h"

struct rvl_found;

#define RVL_GROUP_OBJECTS_MAX 1024 /* objects with one stamp, of which more is for the next run */
#define RVL_GROUP_FACTS_MAX 64 /* upper directories with one lower part, stray files of one, likewise */

struct rvl_group_object {
	struct rvl_fact fact; /* of its first name */
	uint64_t n_names;
};

struct rvl_group {
	uint64_t number;
	bool has_entry;
	struct rvl_fact entry;
	struct rvl_group_object *objects; /* owned; by real inode number */
	unsigned n_objects;
	bool has_merged, has_own_merged;
	struct rvl_fact merged; /* own: of the lower directory with this number */
	struct rvl_fact *directories; /* owned; ORIGIN facts */
	unsigned n_directories;
	struct rvl_fact *strays; /* owned; one of each file */
	unsigned n_strays;
	uint64_t n_seen;
	struct rvl_fact seen; /* the first */
	uint64_t n_views;
	struct rvl_fact view; /* the first */
	bool has_place; /* an overlay.place of a file */
	bool has_stale_place;
	struct rvl_fact place; /* the first stale one */
	/* the run of VIEW, PLACE and ROW facts with one key */
	uint64_t key;
	bool has_key, key_has_view, key_has_row, key_has_place;
	struct rvl_fact key_place;
};

/* judge.c: an object that is there and has an entry. */
int rvl_judge_record(struct rvl_check *check, const struct rvl_group *group,
		     const struct rvl_group_object *object);
int rvl_judge_nlink(struct rvl_check *check, const struct rvl_group *group, uint64_t n_names);
/* An entry whose object has no name of its own. */
int rvl_judge_unnamed(struct rvl_check *check, const struct rvl_group *group);
int rvl_judge_place(struct rvl_check *check, const struct rvl_group *group);
int rvl_judge_directories(struct rvl_check *check, const struct rvl_group *group);
/* metacopy.c: copies of this lower object that do not lead to it. */
int rvl_judge_strays(struct rvl_check *check, const struct rvl_group *group);

/* What lower has at the path of a VIEW fact's item; ret is to be released. */
int rvl_look_in_view(struct rvl_check *check, uint64_t item, struct rvl_found *ret);
/*
 * Number of the directory that an item of upper lies in, as its stamp is at this moment; 0: none.
 */
uint64_t rvl_parent_number(struct rvl_check *check, uint64_t item);
/* The path of an item, or NULL (no memory, unreadable). Owned by the caller. */
char *rvl_item_path(struct rvl_check *check, uint64_t item);

#endif
