/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Passthrough (Linux 6.9, fs/fuse/passthrough.c, iomode.c): the kernel reads and writes a file that
 * is open itself, in the real one that it was told of.
 *
 * An inode is open in one way at a time, as the kernel demands: each open of it by passthrough, to
 * the same file, or each through the page cache. The first one decides, the others follow till
 * all are closed. Data in lower are never passed through: copy-up would change the file beneath.
 */
#ifndef RVL_SERVER_PASSTHROUGH_H
#define RVL_SERVER_PASSTHROUGH_H

#include <stdbool.h>
#include <stdint.h>

#include "server/fuse.h"

struct rvl_passthrough;
struct rvl_server;

/* Does nothing until it is enabled. *ret is owned by the caller. -ENOMEM. */
int rvl_passthrough_new(struct rvl_server *server, struct rvl_passthrough **ret);
/* Accepts NULL. */
void rvl_passthrough_free(struct rvl_passthrough *passthrough);

/* Once INIT is answered: NULL if files are passed through from now on, or why they are not. */
const char *rvl_passthrough_enable(struct rvl_passthrough *passthrough);

/*
 * An open of the object, as the overlay has just done it: counts it, and says in fi how the kernel
 * is to have it. uid: of the caller; is_new: it was just made, the kernel knows nothing of it yet.
 * -ENOMEM: not counted.
 */
int rvl_passthrough_open(struct rvl_passthrough *passthrough, uint64_t number, uid_t uid,
			 bool is_new, struct fuse_file_info *fi);
/* The end of one, with the flags of the open. */
void rvl_passthrough_release(struct rvl_passthrough *passthrough, uint64_t number, int flags);

/*
 * May its data and times be changing with no word to us? Stores through a shared mapping, which only an open
 * for reading and writing allows, and which outlives the close of the descriptor: till the kernel
 * forgets the inode, which the mapping holds.
 */
enum rvl_mapped {
	RVL_NOT_MAPPED,
	RVL_WAS_MAPPED, /* all are closed; a mapping may be left: attributes are kept for a moment only */
	RVL_MAY_BE_MAPPED, /* attributes must not be kept */
};
enum rvl_mapped rvl_passthrough_is_mapped(struct rvl_passthrough *passthrough, uint64_t number);
/* The kernel has forgotten the inode. */
void rvl_passthrough_forget(struct rvl_passthrough *passthrough, uint64_t number);

#endif
