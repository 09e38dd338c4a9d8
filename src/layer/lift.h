/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Read-only objects of a server without privileges (a mount by fusermount3). Private attributes,
 * data that whoever opened the file before may write, and moves of directories need write permission
 * on the object. Its owner gives it to himself for the time of one call, which EACCES refused, and
 * takes back what he gave. A death in between leaves it to him.
 */
#ifndef RVL_LAYER_LIFT_H
#define RVL_LAYER_LIFT_H

#include <stdbool.h>
#include <sys/stat.h>

#define RVL_LIFTS_MAX 3

/* dirfd and a path beneath it, or "" and a descriptor (O_PATH will do). */
struct rvl_lift {
	int dirfd;
	const char *name;
};

/*
 * Calls fn(arg) while the n objects (others than symlinks) can be written by their owner, and returns
 * what it returns. -EACCES: one of them is not ours, or would lose its setgid; fn was not called.
 * Takes the lock of rvl_lift_lock.
 */
int rvl_lift_call(const struct rvl_lift *objects, unsigned n, int (*fn)(void *arg), void *arg);

/* Held by whoever changes a mode. A leaf. */
void rvl_lift_lock(void);
void rvl_lift_unlock(void);

/*
 * Who reads a mode that others are to see reads it between these two, again if the second says so:
 * else it may be a lifted one. Waits for a lift that is under way, so not with the lock.
 */
unsigned rvl_lift_read_begin(void);
bool rvl_lift_read_again(unsigned turn);

#endif
