/* SPDX-License-Identifier: GPL-2.0-or-later */
/* One writer: upper and workdir are locked while they are mounted or repaired. */
#ifndef RVL_LAYER_LOCK_H
#define RVL_LAYER_LOCK_H

#include "layer/layer.h"

/*
 * flock(2) LOCK_EX on upper and workdir (descriptors of their own, owned by ret_fds), waiting up to
 * timeout_ms for a server whose mount is gone, with one message when it starts to wait. Also looks
 * into /proc/self/mountinfo for a kernel overlay that has the same upper or workdir. -EBUSY,
 * message logged with the path and the holder where it can be found.
 */
int rvl_stack_lock(const struct rvl_stack *stack, int timeout_ms, int ret_fds[2]);

#endif
