/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Rebinding: an index is made that of layers which are not the ones it was made on: copied to
 * another place, filesystem or machine, replaced by an image or a newer version, another list.
 *
 *   begin     the old index is read, a new one prepared in memory: identities, instances
 *   lowers    the lower view is walked: what is at a place of the old map gets its number and
 *             generation, recorded; then the new map is made, beside the old one
 *   commit    one rename of the state switches to both
 *
 * Until the commit nothing of this is in force, and a death or a free leaves the index as it was;
 * what it leaves behind goes at the next mount or rebind. What is in upper, and the entries, is the
 * caller's part (check/rebind.c). One thread; the caller holds the locks of the layers.
 */
#ifndef RVL_INDEX_REBIND_H
#define RVL_INDEX_REBIND_H

#include "index/index.h"
#include "index/number.h"

struct rvl_rebind;

struct rvl_rebind_config {
	const struct rvl_stack *stack; /* borrowed */
	bool is_clone; /* a new overlay: new uuid, new counters */
	bool is_dry_run; /* change nothing: the new map is in memory */
	/*
	 * The index was made again from upper, with these lowers: records of directories have the
	 * handles of their lower parts, and not their places, if they had been renamed.
	 */
	bool is_rebuilt;
	/* The old map is lost and all layers are at their place: -ESTALE where not all that was
	 * copied up is found in them again. */
	bool is_retiring;
	const _Atomic bool *stop; /* borrowed; becomes true: end the walk with -ECANCELED. May be NULL */
};

/* What is told of places. */
enum rvl_rebind_note {
	RVL_REBIND_GONE, /* nothing is there any more; its number leads to nothing */
	RVL_REBIND_OTHER_KIND, /* another kind of object is there: it has a new number */
	RVL_REBIND_JOINED, /* it is now a hard link of another object, and has that one's number */
};

/*
 * A name that is to become one in upper. Of a lower file that had several, and is alone now, or none of its
 * links; or that has become a link of another file, of which upper has one or the other (is_joined: the other).
 */
struct rvl_rebind_split {
	struct rvl_id id; /* from before */
	uint64_t parent;
	const char *name;
	const struct rvl_layer *layer;
	const char *path; /* in the layer */
	uint64_t ino; /* what is there */
	/* the name that has kept the number; first_layer NULL: this one has */
	const struct rvl_layer *first_layer;
	const char *first_path;
	uint64_t first_parent;
	const char *first_name;
	bool has_entry; /* it was copied up: the entry is the object */
	/* It has become a link of a file that is in upper, and was an object of its own, which is not: it is
	 * to be copied up, with its number. No first_layer. */
	bool is_joined;
};

struct rvl_rebind_sink {
	void *arg;
	/* path in the lower view; NULL: not to be told */
	void (*note)(void *arg, enum rvl_rebind_note what, uint64_t number, const char *path);
	/* Called in the middle of the walk: to be remembered only. */
	int (*split)(void *arg, const struct rvl_rebind_split *split);
	/*
	 * Where the lower object lies that an object in upper was copied up from: handles of it
	 * that are kept can be made true again. layer NULL: nowhere; at the commit, since it could not
	 * be undone.
	 */
	int (*origin)(void *arg, uint64_t number, const struct rvl_layer *layer, int dirfd,
		      const char *path);
	/* Does upper have this directory, and show what lower has at this name? 1, 0, -errno. */
	int (*is_seen)(void *arg, uint64_t parent, const char *name);
};

struct rvl_rebind_counts {
	uint64_t n_old; /* places of the old index, and what it knows by a handle alone */
	uint64_t n_kept; /* of these, still there and with their numbers */
	uint64_t n_gone, n_other_kind, n_joined, n_split;
	uint64_t n_unknown_generation; /* kept, but handles of them are not */
	uint64_t n_names; /* of the lower view as it is now */
};

/*
 * Errors, logged: -ENOENT: there is no index in the workdir; -ESTALE: upper and workdir are of two
 * overlays, or one of them is missing; -EINVAL: a volatile mount's mark; -EUCLEAN of the state;
 * -EPROTONOSUPPORT of state, log or upper's table.
 */
int rvl_rebind_begin(const struct rvl_rebind_config *config, struct rvl_rebind **ret);
/* Accepts NULL. */
void rvl_rebind_free(struct rvl_rebind *rebind);

/* The index as it will be: for entries and stamps. */
struct rvl_index *rvl_rebind_index(struct rvl_rebind *rebind);
/* Are upper and workdir at another place? Are the lowers walked? So it is where they are other ones, where the
 * map is lost, for some clones, and where nothing was moved and it was asked for all the same. Was the old
 * map complete? */
bool rvl_rebind_is_moved(const struct rvl_rebind *rebind);
bool rvl_rebind_walks_lowers(const struct rvl_rebind *rebind);
bool rvl_rebind_has_map(const struct rvl_rebind *rebind);

/*
 * What lies beside the objects of upper (index/companion.h) goes to the inodes that they have now;
 * before a stamp is asked for. Not for a dry run.
 */
int rvl_rebind_companions(struct rvl_rebind *rebind);
/* Walk the lowers and find the numbers of what is in them; nothing where rvl_rebind_walks_lowers says no. sink:
 * borrowed, up to the commit. -ECANCELED; -ESTALE when retiring (is_retiring); -ENOSPC, -EIO… of the layers. */
int rvl_rebind_lowers(struct rvl_rebind *rebind, const struct rvl_rebind_sink *sink,
		      struct rvl_rebind_counts *ret);
/*
 * After the walk: a number, not `except`, of a counter, whose entry's object says that it was copied up from
 * this place, and of which the old map did not know: a rebind that died may have begun it. -ENOENT: there is none.
 */
int rvl_rebind_copy_of(struct rvl_rebind *rebind, uint64_t parent, const char *name, uint64_t except,
		       struct rvl_id *ret);
/*
 * Before objects are made in upper: what they are numbered with is durable, in the state that is in
 * force: if there is no commit, nothing else ever gets these numbers.
 */
int rvl_rebind_reserve(struct rvl_rebind *rebind);
/* Durable when it returns 0. An error of the last steps (origins of what is gone, upper's table) leaves the overlay
 * bound. Not for a dry run. */
int rvl_rebind_commit(struct rvl_rebind *rebind);

/*
 * Without the map that an earlier rebind made, which is damaged or lost, and with all layers at
 * their place: retire its instances (retire.c). Warns of what was lost, and counts it. -ESTALE, not
 * logged: the layers are not those of the state; or something in upper was copied up from what is
 * not found again, so that its other names would part from it; errors of rvl_rebind_begin and
 * rvl_rebind_lowers.
 */
int rvl_rebind_retire(const struct rvl_stack *stack);

#endif
