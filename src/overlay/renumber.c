// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Renumbering, see renumber.h. All that gives or takes a number is done with identify_lock; the steps on
 * disk are rvl_entry_renumber's (docs/consistency.md).
 */
#include "overlay/renumber.h"

#include <dirent.h>
#include <stdio.h>
#include <string.h>

#include "index/map.h"
#include "index/nlink.h"
#include "index/stamp.h"
#include "layer/path.h"
#include "overlay/identify.h"
#include "overlay/mend.h"

/* ---- the upper object ---- */

/* With identify_lock. */
static int renumber_upper(struct rvl_dir *dir, const char *name, const struct rvl_upper_name *upper,
			  const struct rvl_found *lower, struct rvl_id *id)
{
	const bool is_dir = S_ISDIR(upper->st.stx_mode);
	struct rvl_overlay *ov = dir->node->ov;
	struct rvl_entry_directory record;
	const uint64_t old = id->number;
	int dirfd = dir->fd.fd.fd;
	/* another thread may have met it meanwhile */
	int r = rvl_stamp_get(ov->index, dirfd, name, upper->st.stx_mode, upper->st.stx_ino, id);

	if (r < 0 || id->number != old)
		return r;
	if (is_dir)
		rvl_identify_record(dir, name, upper, lower, &record);
	r = rvl_entry_renumber(ov->index, old, dirfd, name, &upper->st, is_dir ? &record : NULL,
			       id);
	if (r == 0 && is_dir)
		rvl_mend_children(ov, dirfd, name, id->number);
	if (r == 0)
		rvl_warn_limited("%s: its number %llu is that of another object in lower; it gets "
				 "number %llu",
				 name, (unsigned long long)old, (unsigned long long)id->number);
	return r;
}

int rvl_renumber_upper(struct rvl_dir *dir, const char *name, struct rvl_upper_name *upper,
		       const struct rvl_found *lower, struct rvl_id *id)
{
	struct rvl_overlay *ov = dir->node->ov;
	int r;

	if (ov->config.is_read_only) {
		upper->is_unindexed = upper->has_other_entry = true;
		return rvl_identify_for_mount(dir, name, upper, id);
	}
	pthread_mutex_lock(&ov->identify_lock);
	r = renumber_upper(dir, name, upper, lower, id);
	pthread_mutex_unlock(&ov->identify_lock);
	return r;
}

/* ---- the lower object ---- */

/* A directory that was moved without its lower part merges with nothing any more. */
static int part_directory(struct rvl_index *index, uint64_t number)
{
	struct rvl_entry_directory entry;
	int r = rvl_entry_get_directory(index, number, &entry);

	if (r < 0 || !entry.is_merged)
		return r == -EUCLEAN ? 0 : r; /* check has a word for what is damaged */
	entry.is_merged = false;
	return rvl_entry_put_directory(index, number, &entry, true);
}

struct places {
	struct rvl_index *index;
	const struct rvl_id *id;
	uint8_t type;
	struct rvl_name_at not_this; /* no name: none is left out */
};

/* The place that what an entry is of was copied up from; none: no name. */
static void read_place(struct rvl_index *index, uint64_t number, struct rvl_name_at *ret)
{
	uint8_t value[RVL_NAME_AT_ENCODED_MAX];
	char path[RVL_ENTRY_PATH_SIZE];
	struct statx st;
	ssize_t n = -ENODATA;

	rvl_entry_path(number, path);
	if (rvl_path_statx(index->inodes_fd, path, STATX_TYPE | STATX_INO, &st) == 0)
		n = rvl_upper_xattr_get(index, index->inodes_fd, path, st.stx_mode, st.stx_ino,
					RVL_XATTR_PLACE, value, sizeof(value));
	if (n < 0 || rvl_name_at_decode(value, (size_t)n, ret))
		*ret = (struct rvl_name_at){};
}

static int put_place(void *arg, const struct rvl_map_row *row)
{
	const struct places *places = arg;
	struct rvl_map_row own = *row;

	if (row->type != DT_UNKNOWN && row->type != places->type)
		return 0;
	if (rvl_name_at_equal(&row->at, &places->not_this))
		return 0;
	own.generation = places->id->generation;
	return rvl_map_put(places->index, places->id->number, &own);
}

/*
 * Into the map: the name where it is met and, if its former number was that of another life, all names that
 * lower has of that by the map: they are those of the object that has the inode now, but for the one that
 * upper's was copied up from. A later rebind goes by them.
 */
static int put_places(struct rvl_dir *dir, const char *name, const struct rvl_found *lower,
		      bool is_other_life, uint64_t old, const struct rvl_id *id)
{
	struct rvl_map_row row = { .generation = id->generation,
				   .type = IFTODT(lower->st.stx_mode),
				   .at.parent = dir->node->id.number };
	struct places places = { .index = dir->node->ov->index, .id = id, .type = row.type };
	int r;

	snprintf(row.at.name, sizeof(row.at.name), "%s", name);
	r = rvl_map_put(places.index, id->number, &row);
	if (r < 0 || !is_other_life)
		return r;
	read_place(places.index, old, &places.not_this);
	r = rvl_map_get(places.index, old, put_place, &places);
	return r == -ENOENT ? 0 : r;
}

/* With identify_lock. */
static int renumber_lower(struct rvl_dir *dir, const char *name, const struct rvl_found *lower,
			  bool is_other_life, struct rvl_id *id)
{
	const struct rvl_place *top = &lower->places.v[0];
	struct rvl_overlay *ov = dir->node->ov;
	const uint64_t old = id->number;
	/* another of its names may have been met by another thread meanwhile */
	int r = rvl_number_of_lower(ov->index, top->layer, top->layer->fd, top->path, &lower->st,
				    id);

	if (r < 0 || id->number != old)
		return r;
	if (S_ISDIR(lower->st.stx_mode) && !is_other_life && !ov->config.is_read_only)
		r = part_directory(ov->index, old);
	if (r == 0)
		r = rvl_number_of_lower_anew(ov->index, top->layer, top->layer->fd, top->path,
					     &lower->st, is_other_life, id);
	if (r == 0 && id->number == old)
		r = -EEXIST;
	if (r < 0)
		return r;
	rvl_warn_limited("%s: its number %llu was another object's; it gets number %llu", name,
			 (unsigned long long)old, (unsigned long long)id->number);
	if (ov->config.is_read_only)
		return 0;
	r = put_places(dir, name, lower, is_other_life, old, id);
	if (r < 0)
		rvl_warn_limited("the places of object %llu could not be kept in the map: %s",
				 (unsigned long long)id->number, strerror(-r));
	return 0;
}

int rvl_renumber_lower(struct rvl_dir *dir, const char *name, const struct rvl_found *lower,
		       bool is_other_life, struct rvl_id *id)
{
	struct rvl_overlay *ov = dir->node->ov;
	int r;

	pthread_mutex_lock(&ov->identify_lock);
	r = renumber_lower(dir, name, lower, is_other_life, id);
	pthread_mutex_unlock(&ov->identify_lock);
	return r;
}

/* ---- who has the entry of a number that is needed ---- */

/* An entry's object has no other link. Do names of lower still show it (it was changed, its name in upper removed,
 * others in lower are left), so that its data must not go? 1, also where that cannot be told; 0; -errno. */
static int is_served_by_entry(struct rvl_index *index, const char *path, const struct statx *st)
{
	struct rvl_nlink nlink;
	int r = rvl_nlink_get(index, index->inodes_fd, path, st->stx_mode, st->stx_ino, &nlink);

	if (r <= 0)
		return r == -EUCLEAN ? 1 : r;
	return nlink.is_lower || nlink.diff >= 0;
}

static bool is_entry_of(struct rvl_index *index, uint64_t number, uint64_t ino)
{
	enum rvl_entry_kind kind;
	struct statx st;

	return rvl_entry_look(index, number, &kind, &st) == 0 && kind == RVL_ENTRY_OBJECT &&
	       st.stx_ino == ino;
}

/* With identify_lock. */
static int free_object(struct rvl_index *index, uint64_t number, const struct statx *st)
{
	char path[RVL_ENTRY_PATH_SIZE];
	struct rvl_id id;
	int r;

	rvl_entry_path(number, path);
	if (st->stx_nlink == 1) {
		r = is_served_by_entry(index, path, st);
		if (r <= 0)
			return r < 0 ? r : rvl_entry_bury(index, number, false);
	}
	/* it was given another one before, and a death left this entry */
	if (rvl_stamp_get(index, index->inodes_fd, path, st->stx_mode, st->stx_ino, &id) == 0 &&
	    id.number != number && is_entry_of(index, id.number, st->stx_ino))
		return rvl_entry_bury(index, number, false);
	r = rvl_entry_renumber(index, number, index->inodes_fd, path, st, NULL, &id);
	if (r == 0)
		rvl_warn_limited("number %llu is that of another object in lower; what upper had of "
				 "it gets number %llu",
				 (unsigned long long)number, (unsigned long long)id.number);
	return r;
}

/*
 * Look up what is at a directory's recorded place. If it is that directory it gets another number, since the
 * node of this one is another's (rvl_renumber_upper). 1: the record is still there; 0; -errno.
 */
static int look_up_record(struct rvl_overlay *ov, uint64_t number, const struct rvl_name_at *at)
{
	struct rvl_node _cleanup_node_ *dir = NULL, _cleanup_node_ *node = NULL;
	enum rvl_entry_kind kind;
	struct statx st;
	int r = rvl_node_get_dir(ov, at->parent, &dir);

	if (r == 0)
		r = rvl_lookup(dir, at->name, &node);
	if (r < 0 && r != -ENOENT && r != -ENOTDIR && r != -ESTALE && r != -EUCLEAN)
		return r;
	r = rvl_entry_look(ov->index, number, &kind, &st);
	return r < 0 ? r : kind == RVL_ENTRY_DIRECTORY;
}

/* A record that is damaged, or leads to no directory of upper that has its number, is nobody's, and goes:
 * by its stamp alone no directory would be believed. */
static int free_record(struct rvl_overlay *ov, uint64_t number)
{
	struct rvl_entry_directory record;
	int r = rvl_entry_get_directory(ov->index, number, &record);

	if (r == 0)
		r = look_up_record(ov, number, &record.path);
	if (r > 0) {
		r = rvl_mend_path(ov, number, &record);
		if (r == 0)
			r = look_up_record(ov, number, &record.path);
	}
	return r > 0 || r == -ESTALE || r == -EUCLEAN ? rvl_entry_bury(ov->index, number, false) :
							r;
}

int rvl_free_number(struct rvl_overlay *ov, uint64_t number)
{
	enum rvl_entry_kind kind;
	struct statx st;
	int r;

	pthread_mutex_lock(&ov->identify_lock);
	r = rvl_entry_look(ov->index, number, &kind, &st);
	if (r == 0 && kind == RVL_ENTRY_TOMBSTONE)
		r = rvl_entry_bury(ov->index, number, false);
	else if (r == 0 && kind == RVL_ENTRY_OBJECT)
		r = free_object(ov->index, number, &st);
	pthread_mutex_unlock(&ov->identify_lock);
	return r == 0 && kind == RVL_ENTRY_DIRECTORY ? free_record(ov, number) : r;
}
