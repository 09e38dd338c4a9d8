/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Who lists a directory: does he look at what he lists (docs/decisions/0020)? find, tar and rm read
 * a directory to its end before they look at the first name, so the directory itself does not tell;
 * what the thread did with one before does.
 *
 * Only guesses: a wrong one costs time. Threads share what is known of them without a lock.
 */
#ifndef RVL_SERVER_LISTER_H
#define RVL_SERVER_LISTER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* Are the names after `offset` to have attributes? asker: the caller's thread (0: not known). Any
 * thread. */
bool rvl_lister_wants_attr(pid_t asker, uint64_t directory, uint64_t offset);

/* A name of the directory is looked up. Any thread. */
void rvl_lister_looks_up(pid_t asker, uint64_t directory);

#endif
