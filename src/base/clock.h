/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The time of a clock as one number. */
#ifndef RVL_BASE_CLOCK_H
#define RVL_BASE_CLOCK_H

#include <stdint.h>
#include <time.h>

#define RVL_NS_PER_S 1000000000ULL

/* Nanoseconds; clock: one that every kernel has (CLOCK_MONOTONIC, …_COARSE). */
static inline uint64_t rvl_now_ns(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return (uint64_t)now.tv_sec * RVL_NS_PER_S + (uint64_t)now.tv_nsec;
}

#endif
