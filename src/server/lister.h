/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Who lists a directory: does he look at what he lists (docs/decisions/0020)? find, tar and rm read
 * a directory to its end before they look at the first name, so the directory itself does not tell;
 * what the thread did with one before does. Names that were listed without attributes tell it: who
 * looks at them has to ask, unless the kernel knows them still.
 *
 * Only guesses: a wrong one costs time. Threads share what is known of them without a lock.
 */
#ifndef RVL_SERVER_LISTER_H
#define RVL_SERVER_LISTER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* In all: asker is the caller's thread (all that are 0, not known, are taken for one). Any thread. */

/* Are the names after `offset` to have attributes? */
bool rvl_lister_wants_attr(pid_t asker, uint64_t offset);

/* He was given names after `offset`, so many of them without attributes. */
void rvl_lister_has_listed(pid_t asker, uint64_t directory, uint64_t offset, unsigned n_without);

/* He has looked up a name of the directory, which is there. */
void rvl_lister_looks_up(pid_t asker, uint64_t directory);

#endif
