/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The live filesystem from inside: what all files of overlay/ share. Each concern has its own
 * header next to its source; here are only the struct and the few helpers that everyone needs.
 */
#ifndef RVL_OVERLAY_PRIVATE_H
#define RVL_OVERLAY_PRIVATE_H

#include "base/cleanup.h"
#include "base/counters.h"
#include "base/log.h"
#include "base/number_set.h"
#include "base/refstr.h"
#include "overlay/fdcache.h"
#include "overlay/node.h"
#include "overlay/overlay.h"

/* Objects whose entry is still to be made (overlay/debt.h). */
#define RVL_DEBT_DIR_LOCKS 32

struct rvl_debts {
	pthread_mutex_t lock; /* guards the list; only a shard of the node cache is locked inside */
	pthread_cond_t changed; /* there is work, or the end has come */
	struct rvl_node *oldest, *newest; /* counted */
	unsigned n;
	uint64_t turn; /* how many were put into the list, ever */
	pthread_mutex_t dir_locks[RVL_DEBT_DIR_LOCKS]; /* by number: of directories */
	_Atomic unsigned n_held; /* dead files that a descriptor keeps */
};

struct rvl_overlay {
	struct rvl_overlay_config config;
	const struct rvl_stack *stack; /* borrowed */
	struct rvl_index *index; /* borrowed */
	uid_t uid; /* of the server's new files */
	gid_t gid; /* the same */
	struct rvl_node_cache *nodes; /* owned */
	struct rvl_fdcache *fds; /* owned */
	struct rvl_listings listings; /* lower listings that nodes keep */
	struct rvl_node *root; /* counted; never leaves memory */
	pthread_mutex_t identify_lock; /* one object at a time is given a stamp, or another number */
	int kernel_index_fd; /* owned; workdir/index of the kernel's overlayfs, -EBADF: none */
	pthread_mutex_t fetch_lock; /* fetches, and the recovery of one that was cut short */
	struct rvl_fetching *fetches; /* of data for metacopy files, going on now (metacopy.c) */
	pthread_mutex_t whiteout_lock; /* has_whiteout and what it says */
	bool has_whiteout; /* work/whiteout is there, to be linked */
	uint8_t (*layer_uuids)[16]; /* owned; of the filesystem of each layer, for origins */
	pthread_mutex_t walk_lock; /* one walk of upper for a directory at a time (mend.c) */
	_Atomic bool is_upper_walked; /* all directories' entries are in step with their places */
	bool is_recovering; /* the overlay is being opened */
	bool has_unmade; /* entries of new objects could not be made then (recover.c) */
	struct rvl_number_set unmade; /* owned; whose: their stamps are believed without them */
	struct rvl_completion *completion; /* owned; NULL: the index lacks nothing */
	struct rvl_debts debts;
	pthread_mutex_t map_lock; /* one thread builds the map, the others wait for it */
	_Atomic bool is_stopping; /* rvl_overlay_stop: walks end, and the thread that pays debts */
	_Atomic uint64_t n_changes; /* after which a notice may be due (overlay/given.h) */
};

/* -EINVAL, -ENAMETOOLONG */
int rvl_check_name(const char *name);
/* -EROFS */
int rvl_check_writable(const struct rvl_overlay *ov);

#endif
