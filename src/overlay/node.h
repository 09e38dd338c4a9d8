/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Nodes: objects in memory, found by number. Only a cache: whatever a node says can be found again
 * from disk, so any node that nobody holds may be dropped (decode.c brings it back), but not while
 * it is open, an orphan, or the root.
 *
 * Locks, in this order (docs/locking.md):
 *   node->lock of a directory   its names. Read: look-up, listing; write: every change. Several
 *                               directories: by number
 *   node->lock of another node  nlink_diff, log_id, held, the change to is_owed and to has_upper
 *   the shard's lock            the fields marked [cache]
 *
 * No node lock is held across a copy of data: is_copying keeps a second copier waiting instead.
 */
#ifndef RVL_OVERLAY_NODE_H
#define RVL_OVERLAY_NODE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "index/number.h"
#include "layer/listing.h"
#include "layer/merge.h"
#include "overlay/fdcache.h"
#include "overlay/listings.h"

struct rvl_overlay;

struct rvl_node {
	/* constant */
	struct rvl_overlay *ov; /* borrowed */
	struct rvl_id id;
	mode_t type; /* S_IFMT bits */
	/* the lower part. Directory: all its places; other: where its data and attributes are while
	 * !has_upper */
	struct rvl_places lower; /* owned */
	struct rvl_place data; /* of a metacopy file that was found as one: where the data is, path
				  counted; layer NULL if not */
	bool is_user_whiteout; /* a device 0:0 that a user made (overlay/special.h) */
	bool is_data_missing; /* metacopy, but no layer has the data: attributes only */
	const char *view_path; /* counted refstr; directory with a lower part: its path in the
				  merged lower view */
	unsigned lower_nlink; /* non-directory: st_nlink in lower */

	/* false -> true once, under lock; set with release after upper_ino, read with acquire */
	_Atomic bool has_upper;
	uint64_t upper_ino; /* st_ino of the upper object */
	bool is_unindexed; /* without an entry, on a read-only overlay: found by its name */
	/* names gone: a removed directory, an orphan */
	_Atomic bool is_dead;
	_Atomic bool is_forgotten; /* dead, and the kernel knows it no more */
	_Atomic bool is_metacopy; /* upper has the attributes alone, data are still to be had from
				     rvl_node_data() */
	_Atomic bool is_name_synced; /* an fsync has succeeded since upper got its name and its
					data: fdatasync is enough */
	_Atomic bool has_redirect; /* metacopy: an absolute overlay.redirect leads to the data,
				      whatever its names are */
	_Atomic bool is_impure; /* directory: overlay.impure is known to be set */
	/* non-directory in upper: visible links = st_nlink + nlink_diff; -1: the index link only */
	int nlink_diff;
	bool has_nlink_xattr;
	/* the thread to which its attributes were given, so that the answer may not have been taken
	 * yet; 0: none (overlay/given.h) */
	_Atomic pid_t given_to;
#define RVL_GIVEN_TO_MANY (-1) /* or not known to whom */
	_Atomic bool is_read; /* since given_to was last set: the kernel will ask for the access
				 time again. A hint */
	_Atomic int prot; /* overlay/prot.h */
	/*
	 * directory: changes with each default ACL that is set, so that what was read before is not
	 * taken as true after it
	 */
	_Atomic unsigned default_acl;
#define RVL_NO_DEFAULT_ACL 1U /* in default_acl: known to have none */
	/* owned; upper directory: as it was before its removal, for who has it open when its
	 * descriptor is no longer in the cache; set with the parent locked, read when is_dead */
	struct statx *removed;
	uint64_t log_id; /* the log record that keeps this orphan; 0: none */
	struct rvl_fd held; /* keeps an orphan that never had an entry; under lock */

	/* its entry is still to be made (overlay/debt.h): changed under lock, of a directory under
	 * debts.dir_locks; the others under debts.lock */
	_Atomic bool is_owed;
	struct rvl_node *debt_older, *debt_newer;
	uint64_t debt_turn; /* rvl_debts.turn when it was put into the list */
	uint64_t debt_log_id; /* the CREATE record */
	bool is_debt_whole; /* which needs no END */
	/* The link of an entry that was owed changed the ctime, which nobody asked for: while it is
	 * ctime_linked, ctime_shown is shown. Both are written once, before RVL_CTIME_KEPT is set. */
	_Atomic int ctime_state;
#define RVL_CTIME_LINKING 1 /* for a moment: the link is made, both are to be written */
#define RVL_CTIME_KEPT 2
	struct timespec ctime_shown, ctime_linked;

	/* directory: its listings (readdir.c, parts.c) */
	_Atomic uint64_t version; /* grows with each change of names; written under lock */
	struct rvl_listing_slot lower_listing; /* of the lower part */
	struct rvl_listing_slot merged_listing; /* its lock is before lower_listing.lock, and guards
						   the next two */
	uint64_t listing_version; /* of the one that is kept */
	pid_t listed_by; /* who began a pass with it last */
	_Atomic bool are_names_given; /* to the kernel since it was last told to drop its listing */
	_Atomic bool is_number_invented; /* a name was given with a number that was made up, since
					    the end of the last pass */

	pthread_rwlock_t lock;

	/* [cache] */
	struct rvl_node *hash_next;
	struct rvl_node *older, *newer; /* among the nodes that nobody holds */
	unsigned refs; /* 0: may be dropped, if it is not open, an orphan or the root */
	unsigned n_open; /* opens of the kernel */
	uint64_t n_lookups; /* replies to the kernel that named it, less what FORGET took back */
	bool is_uncounted; /* found again: the kernel has look-ups that n_lookups lacks */
	bool is_copying;
	/* where it is: a directory's place in the overlay; of a lower non-directory a place where
	 * it was seen */
	uint64_t parent;
	const char *name; /* counted refstr; NULL: none known */
};

static inline bool rvl_node_is_dir(const struct rvl_node *node)
{
	return S_ISDIR(node->type);
}

/* What the descriptor of its upper object is, if it is no directory. */
static inline enum rvl_fd_kind rvl_node_fd_kind(const struct rvl_node *node)
{
	return S_ISREG(node->type) ? RVL_FD_WRITE : RVL_FD_SPECIAL;
}

static inline bool rvl_node_has_upper(const struct rvl_node *node)
{
	return atomic_load_explicit(&node->has_upper, memory_order_acquire);
}

/* Where the data of a file are while upper has none; NULL: nowhere. */
static inline const struct rvl_place *rvl_node_data(const struct rvl_node *node)
{
	if (node->data.layer)
		return &node->data;
	return node->is_data_missing || node->lower.n == 0 ? NULL : &node->lower.v[0];
}

struct rvl_node_cache;
int rvl_node_cache_new(struct rvl_overlay *ov, unsigned limit, struct rvl_node_cache **ret);
void rvl_node_cache_free(struct rvl_node_cache *cache);

/* A node that is not in the cache yet, with one reference. NULL without memory. */
struct rvl_node *rvl_node_new(struct rvl_overlay *ov, const struct rvl_id *id, mode_t type);
/* One that was never inserted. Accepts NULL. */
void rvl_node_free(struct rvl_node *node);
/* Insert, or if the number is there already, free this one and return that. The caller has one
 * reference. */
struct rvl_node *rvl_node_insert(struct rvl_node *node);
/* From memory alone, with a reference; NULL if it is not there. */
struct rvl_node *rvl_node_find(struct rvl_overlay *ov, uint64_t number);
/* Was its node dropped while the kernel knew it for an object of lower? Then an entry of that number is
 * another object's. false: not so, or not known. */
bool rvl_node_was_lower(struct rvl_overlay *ov, uint64_t number);
/* The same, of an object in upper: another one in lower that has the number is not it. */
bool rvl_node_was_upper(struct rvl_overlay *ov, uint64_t number);
/* From memory or from disk (decode.c), with a reference. -ESTALE: leads to nothing. */
int rvl_node_get(struct rvl_overlay *ov, uint64_t number, struct rvl_node **ret);
/* The same, -ENOTDIR if it is none. */
int rvl_node_get_dir(struct rvl_overlay *ov, uint64_t number, struct rvl_node **ret);
/* Give a reference back. Accepts NULL. */
void rvl_node_put(struct rvl_node *node);
void rvl_node_ref(struct rvl_node *node);

/* Where it is: *ret_name is a refstr of the caller's, or NULL. */
void rvl_node_get_place(struct rvl_node *node, uint64_t *ret_parent, const char **ret_name);
/* Is its place in this directory? Not if it has no name. */
bool rvl_node_is_in(struct rvl_node *node, uint64_t parent);
/* name NULL: none. Best effort (kept as it was without memory, -ENOMEM). */
int rvl_node_set_place(struct rvl_node *node, uint64_t parent, const char *name);

/* Counts of the kernel. lookup/open add one; forget takes n look-ups back: the node, with a reference,
 * if it is in memory, and neither look-ups nor opens are left; else NULL. */
void rvl_node_count_lookup(struct rvl_node *node);
struct rvl_node *rvl_node_forget(struct rvl_overlay *ov, uint64_t number, uint64_t n);
void rvl_node_count_open(struct rvl_node *node);
void rvl_node_release(struct rvl_node *node);
bool rvl_node_is_known(struct rvl_node *node); /* look-ups or opens */
/* As lookup, of what the kernel asks for by its number, but false and not counted if it is dead: the
 * kernel asks for what it has no inode of (fs/fuse/inode.c, fuse_get_dentry), so nobody has it open,
 * and look-ups that are counted are those of a FORGET on its way. */
bool rvl_node_count_living(struct rvl_node *node);

/* One thread at a time copies a node up; the others wait in begin, and then look what there is
 * still to do. */
void rvl_node_copy_begin(struct rvl_node *node);
void rvl_node_copy_end(struct rvl_node *node);

/* Calls fn for each orphan in memory (no locks held, referenced): at the end of the mount. */
void rvl_node_each_orphan(struct rvl_overlay *ov, void (*fn)(struct rvl_node *));

/*
 * A directory and those above it, the first one first, up to but not with the first for which
 * is_end says true (the root at the latest). For walks that must not recurse: depth is in users'
 * hands.
 */
struct rvl_chain {
	struct rvl_node **v; /* owned; the nodes counted */
	size_t n;
};
int rvl_chain_read(struct rvl_node *dir, bool (*is_end)(struct rvl_node *), struct rvl_chain *ret);
void rvl_chain_release(struct rvl_chain *chain);
#define _cleanup_chain_ __attribute__((cleanup(rvl_chain_release)))

static inline void rvl_cleanup_node(struct rvl_node **node)
{
	rvl_node_put(*node);
}
#define _cleanup_node_ __attribute__((cleanup(rvl_cleanup_node)))

#endif
