/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Long work that is to be ended: by a flag, which any thread or a signal's handler sets. */
#ifndef RVL_BASE_STOP_H
#define RVL_BASE_STOP_H

#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>

/* -ECANCELED if it is to end, else 0. stop: or NULL. */
static inline int rvl_stop_check(const _Atomic bool *stop)
{
	return stop && atomic_load_explicit(stop, memory_order_relaxed) ? -ECANCELED : 0;
}

#endif
