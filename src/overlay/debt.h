/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Owed entries. A new object has its name and its stamp when it is shown; its entry in the index
 * may follow: made by a thread of the server's (rvl_overlay_pay_debts), or by who needs it first.
 * Until then
 *
 *   its CREATE record of the log stands, so that recovery makes the entry after a death,
 *   its node stays in memory, so that its number is found,
 *   it has one name, and that is its node's place.
 *
 * What loses its name before never gets an entry: no file system call is spent on it.
 */
#ifndef RVL_OVERLAY_DEBT_H
#define RVL_OVERLAY_DEBT_H

#include "overlay/private.h"

void rvl_debts_init(struct rvl_debts *debts);
void rvl_debts_release(struct rvl_debts *debts);

/* The node's entry is owed from now on, by this record of the log (is_whole: it needs no END). Its
 * directory is locked. */
void rvl_debt_add(struct rvl_node *node, uint64_t log_id, bool is_whole);
/* There is room for one more: the oldest are paid if there are too many. No locks held. An error:
 * they cannot be (-ENOSPC). */
int rvl_debts_make_room(struct rvl_overlay *ov);

static inline bool rvl_is_owed(const struct rvl_node *node)
{
	return atomic_load_explicit(&node->is_owed, memory_order_acquire);
}

/* Make the entry, if it is owed. No locks held. */
int rvl_debt_pay(struct rvl_node *node);
/* The same, where the directory with its one name is locked: dirfd/name. */
int rvl_debt_pay_at(struct rvl_node *node, int dirfd, const char *name);
/* The same, and those of the directories above. */
int rvl_debt_pay_upwards(struct rvl_node *node);
/* All that are owed now. No locks held. Returns the first error, when all have been tried. */
int rvl_debts_pay_all(struct rvl_overlay *ov);
/* That of a directory, of those above, and of all that are in it. No locks held. */
int rvl_debts_pay_in(struct rvl_node *dir);

/*
 * A descriptor of an object that is owed and no directory: O_RDWR of a file, else O_PATH; the caller
 * unpins it. No lock of the object or its directory held for write. -ESTALE: it is not owed any more.
 */
int rvl_debt_open(struct rvl_node *node, struct rvl_fd *ret);

/*
 * The file dirfd/name is about to lose its name, the directory is locked for write, and so is the
 * node. 1: nothing is to be logged, and rvl_debt_cancel follows when the name is gone (*ret_fd, a
 * descriptor of the file, goes to it, or is unpinned); 0: it has an entry.
 */
int rvl_debt_hold(struct rvl_node *node, int dirfd, const char *name, struct rvl_fd *ret_fd);
/* It is dead, without an entry: reached by the descriptor until the kernel forgets it. */
void rvl_debt_cancel(struct rvl_node *node, struct rvl_fd *fd);
/* A directory has lost its name. Was its entry owed (and is no more)? */
bool rvl_debt_cancel_dir(struct rvl_node *node);

#endif
