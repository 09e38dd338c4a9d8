/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The end of names and of objects. An object whose last name is gone while the kernel still knows
 * it is an orphan: its entry leads to it, and a log record says so, until the last close and
 * forget; then it is buried: a tombstone for what came from lower, nothing for what was born here.
 */
#ifndef RVL_OVERLAY_REMOVE_H
#define RVL_OVERLAY_REMOVE_H

#include "overlay/lookup.h"

/* It has no name (any more). log_id: of the record that keeps it, which is ended with it. Under the
 * node's lock, or on a node that nobody else has yet. */
void rvl_node_make_orphan(struct rvl_node *node, uint64_t log_id);
/* It has a name again. Under the node's lock. */
void rvl_node_end_orphan(struct rvl_node *node);
/* Nobody knows it any more: if it is an orphan, bury it. */
void rvl_node_bury(struct rvl_node *node);
/* The same for one whose names were found to be gone (decode.h, rvl_bury_if_unnamed), unless somebody
 * knows it. */
void rvl_node_bury_unnamed(struct rvl_node *node);

/* A name of a non-directory went. If it was the last one, what is in upper is an orphan until the
 * kernel forgets it; what is only in lower is dead, its whiteout says so. Ends the log record, now or
 * with the orphan. Takes the node's lock. */
void rvl_node_name_gone(struct rvl_node *node, uint64_t log_id);
/* Log REMOVE for a name of a node. is_alias: a lower name of an object that is in upper under
 * others. */
int rvl_log_remove(struct rvl_node *node, struct rvl_node *dir, const char *name, bool is_alias,
		   uint64_t *ret_id);
/* A directory is gone. */
void rvl_node_removed_dir(struct rvl_node *node);

/*
 * Is the merged directory empty? 0, or -ENOTEMPTY. If it is, and upper has it, its attributes are
 * kept (rvl_dir_keep_attributes). upper_fd: of its upper part (is_opaque), -EBADF: it has none. The
 * caller sees to it that nobody adds names.
 */
int rvl_dir_check_empty(struct rvl_node *node, int upper_fd, bool is_opaque);
/*
 * Make an empty upper directory really empty: opaque first, then its whiteouts go. The node goes on
 * knowing its lower part: a directory that stays after all gets them back.
 */
int rvl_dir_clear_whiteouts(struct rvl_node *node, int upper_fd);
void rvl_dir_restore_whiteouts(struct rvl_node *node, int upper_fd);
/* Of a directory that has no name, or is about to lose it: nothing on disk leads to it then but a
 * descriptor, which the cache may drop. */
int rvl_dir_keep_attributes(struct rvl_node *node, int upper_fd);

#endif
