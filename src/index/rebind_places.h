/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The places of the merged lower view as an index knows them from before a copy: parent's number +
 * name -> number. From the rows of its map, and from what entries keep (overlay.place), which is
 * there also without a map. 32 bytes of memory a place; names stay where they are and are read
 * there again, since only their hashes are kept. Private to src/index; one thread.
 */
#ifndef RVL_INDEX_REBIND_PLACES_H
#define RVL_INDEX_REBIND_PLACES_H

#include "index/entry.h"

struct rvl_old_place {
	uint64_t hash; /* of parent's number and name */
	uint64_t number;
	uint32_t generation; /* 0: not known */
	uint8_t type; /* DT_*; 0: not known */
	bool has_other_names; /* the object was a hard link */
	bool is_from_entry; /* and in no row of the map */
	bool has_entry; /* one that says so too */
	bool is_seen; /* something is still there */
	bool is_kept; /* and has the number: set by who finds it */
};

struct rvl_old_places;

/* old: an index opened to look. *ret_has_map: its map has every object. */
int rvl_old_places_read(struct rvl_index *old, bool *ret_has_map, struct rvl_old_places **ret);
/* Accepts NULL. */
void rvl_old_places_free(struct rvl_old_places *places);

/*
 * What was at a place, which counts as seen from now on, borrowed: by the map (*ret_row), and by an entry of
 * which the map does not know that (*ret_entry); NULL: nothing. -ENOENT: neither.
 */
int rvl_old_places_find(struct rvl_old_places *places, uint64_t parent, const char *name,
			struct rvl_old_place **ret_row, struct rvl_old_place **ret_entry);
/* An object in upper that says that it was copied up from this place, whose number is a counter's, and
 * not this one, and which the map does not know. -ENOENT. */
int rvl_old_places_copy(struct rvl_old_places *places, uint64_t parent, const char *name,
			uint64_t except, struct rvl_id *ret);

/* All places, in no order to rely on. */
size_t rvl_old_places_count(const struct rvl_old_places *places);
struct rvl_old_place *rvl_old_places_at(struct rvl_old_places *places, size_t i);

/* The place that an entry keeps; also its type and, if it is known, its generation. -ENODATA:
 * none. */
int rvl_old_place_of_entry(struct rvl_index *old, uint64_t number, struct rvl_name_at *ret,
			   struct rvl_old_place *ret_about);
/* The handle of the lower object that an entry keeps; the same. -ENODATA: none, or it is damaged. */
int rvl_old_place_origin(struct rvl_index *old, uint64_t number, struct rvl_handle *ret,
			 struct rvl_old_place *ret_about);

/*
 * Path in the merged lower view of a place, for people: "/a/b". Owned by the caller; NULL: not to
 * be told.
 */
char *rvl_old_places_path(struct rvl_old_places *places, const struct rvl_old_place *place);

#endif
