/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Idle CPUs are kept awake while requests follow each other closely (docs/decisions/0019): the caller
 * and the server wake each other twice for each request, and to wake a CPU that is halted is the
 * dearest part of it.
 *
 * The kernel is asked for it (PM QoS, /dev/cpu_dma_latency), and forgets it with the descriptor, so
 * with the server however it ends.
 */
#ifndef RVL_SERVER_AWAKE_H
#define RVL_SERVER_AWAKE_H

#include <stdbool.h>

struct rvl_awake;

/* Opens the device and starts a thread, which sleeps while few requests come. -errno of either. The
 * caller owns *ret. */
int rvl_awake_new(struct rvl_awake **ret);
/* The CPUs are let go. No request may come any more. Accepts NULL. */
void rvl_awake_free(struct rvl_awake *awake);

/* A request has come. NULL: nothing is kept awake. Any thread; takes no lock but to begin. */
void rvl_awake_request(struct rvl_awake *awake);

/* Are they kept awake now? For tests. */
bool rvl_awake_is_on(const struct rvl_awake *awake);

#endif
