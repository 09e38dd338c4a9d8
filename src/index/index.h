/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The reverse mapping: everything below workdir/inodes, opened and closed as one.
 *
 *   state      who this overlay is, its instances and counter      state.h
 *   number     real object -> number and generation                number.h
 *   stamp      the number kept on the upper object itself          stamp.h
 *   entry      number -> upper object (inodes/xx/#n)               entry.h
 *   map        number -> place in the merged lower view (LMDB)     map.h
 *   log        what is begun and not finished                      log.h
 *
 * An index may be without a workdir (a read-only overlay): then state and map are in memory, for
 * this mount only. Thread-safe as each header says. Lock order: docs/locking.md.
 */
#ifndef RVL_INDEX_INDEX_H
#define RVL_INDEX_INDEX_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/hash.h"
#include "layer/layer.h"

struct rvl_state;
struct rvl_log;
struct rvl_map;
struct rvl_numbers;
struct rvl_reals;

struct rvl_index {
	const struct rvl_stack *stack;	     /* borrowed, must outlive the index */
	struct rvl_upper_features features;  /* of upper; zeroed without */
	int inodes_fd;			     /* owned; workdir/inodes, -EBADF without workdir */
	int temp_fd;			     /* owned; workdir/work, -EBADF without upper */
	_Atomic int companions_fd;	     /* owned; inodes/c, -EBADF until the first is needed */
	struct rvl_secret secret;	     /* key of directory offsets */
	uint8_t uuid[16];		     /* of the overlay */
	struct rvl_state *state;	     /* owned */
	struct rvl_numbers *numbers;	     /* owned */
	struct rvl_log *log;		     /* owned; NULL without upper */
	struct rvl_map *map;		     /* owned */
	struct rvl_reals *reals;	     /* owned; claims and assigned numbers */
	bool is_persistent;		     /* has a workdir */
	bool is_writable;		     /* has a workdir, and may change what is in it */
	bool is_volatile;		     /* no fsync */
	bool is_prepared; /* being made by a rebind beside the one in force: the state is not saved */
	bool is_map_lost; /* that of a rebind; while it is opened */
	bool stays_unclean; /* a close is not to mark it clean: a repair that left something */
	pthread_mutex_t companions_lock; /* the making of inodes/c */
	pthread_mutex_t tombstone_lock;	 /* replacing the shared tombstone at EMLINK */
	_Atomic bool is_incomplete; /* the machine stopped under a mount: entries may be missing */
	_Atomic uint64_t temp_serial; /* names of temporary objects */
};

struct rvl_index_config {
	const struct rvl_stack *stack; /* borrowed */
	bool is_rebind; /* -ESTALE, since the layers are not those of the index, is not logged: the caller binds it again */
	bool is_read_only;	/* -o ro: nothing is written, the state must be there or stays in memory */
	bool is_offline;	/* a tool: do not bind, do not mark unclean, change nothing */
	bool is_repair; /* a tool that changes: as a mount, but an unclean stop stays known until the close */
	bool is_rebuilding; /* for the rebind that has made the index again: RVL_STATE_REBUILT is no refusal */
	bool is_import; /* for an import: RVL_STATE_KERNEL is no refusal, and is set when this may write */
	/* with is_offline: a server has it open, so the map's file is not touched (fsck.h has a way to read it) */
	bool is_live;
	bool is_volatile;	/* no fsync of state, log, map */
	bool is_silent; /* rvl_index_admit: a refusal is not logged */
};

/*
 * Open (or create, at the first mount) the index of a stack: load and check the state, empty work/,
 * bind the layers to instances (importing tables and claims of stamped lowers), probe upper, open
 * log and map.
 * Errors, message already logged, with the option, both places and the remedy:
 * -EPROTONOSUPPORT newer format; -ESTALE layers are not those of this index (names `reverlayctl rebind`) or the
 * upper has an instance table but the workdir no index (names `reverlayctl rebind` and
 * `reverlayctl repair --rebuild`, and when which);
 * -EBUSY: upper was handed to the kernel's overlayfs (names `reverlayctl import`);
 * -ESTALE too: a rebind that made the index again has not ended;
 * -EUCLEAN state damaged; others of the filesystem.
 */
int rvl_index_open(const struct rvl_index_config *config, struct rvl_index **ret);
/*
 * May the index be opened so? What an open refuses before it changes anything, asked alone, for who
 * changes something before the open. 0; -ENOENT: there is none (the upper may have a table);
 * -EUCLEAN: its state is damaged; neither is logged. Others as rvl_index_open.
 */
int rvl_index_admit(const struct rvl_index_config *config);
/* One message for all that a newer version has written. option: "workdir" or "upperdir". */
void rvl_index_tell_newer(const char *option, const char *path, const char *what);
/* All stamps have their entries again: the next mount need not look for them. */
void rvl_index_completed(struct rvl_index *index);
/* Writes counter and the clean mark. Accepts NULL. */
void rvl_index_close(struct rvl_index *index);

/* The state in the workdir of a stack. -ENOENT: none; others are logged. */
int rvl_index_load_state(const struct rvl_stack *stack, struct rvl_state **ret);

/*
 * For a rebind: an index on this state, which is not that of the stack's layers (yet), and is taken
 * over also when this fails. It can be asked for entries, stamps and rows. With is_read_only it
 * changes nothing; else work/ is emptied. Private to src/index, as the next two.
 */
int rvl_index_prepare(const struct rvl_stack *stack, bool is_read_only, struct rvl_state *state,
		      struct rvl_index **ret);
/* What is needed to number objects, too; after the state was bound to the layers. */
struct rvl_binding;
int rvl_index_prepare_numbers(struct rvl_index *index, const struct rvl_binding *binding);
/* Why the state cannot be loaded; nothing for 0 and -ENOENT. */
void rvl_index_tell_state(const struct rvl_stack *stack, int r);
/* Save index->state. The caller holds its lock where there are threads. Private to src/index. */
int rvl_index_save_state(struct rvl_index *index);

/* A fresh name in work/ ("#<hex>"), never used before by this process. */
#define RVL_TEMP_NAME_SIZE 24
void rvl_index_temp_name(struct rvl_index *index, char ret[RVL_TEMP_NAME_SIZE]);

#endif
