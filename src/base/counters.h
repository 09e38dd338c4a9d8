/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the server counts, declared once with unit and help; `reverlayctl stat` and the manual are
 * made from this table. Relaxed atomics: they are read for people, nothing is decided by them.
 */
#ifndef RVL_BASE_COUNTERS_H
#define RVL_BASE_COUNTERS_H

#include <stdatomic.h>
#include <stdint.h>

/*      name                 unit      help */
#define RVL_COUNTERS(X)                                                                        \
	X(requests, "requests", "requests answered")                                           \
	X(lookups, "requests", "names looked up")                                              \
	X(decodes, "requests", "numbers resolved with no node in memory")                      \
	X(decodes_stale, "requests", "numbers that lead to nothing (ESTALE)")                  \
	X(nodes, "nodes", "objects in memory")                                                 \
	X(nodes_evicted, "nodes", "objects dropped from memory to keep the limit")             \
	X(map_names, "names", "names put into the map of the lower layers by this mount's walk") \
	X(map_is_complete, "yes or no", "1: the map was opened, and has every object of the lower layers") \
	X(copy_ups, "objects", "objects copied up")                                            \
	X(copy_up_bytes, "bytes", "data copied up")                                            \
	X(listings, "directories", "merged directory listings built")                          \
	X(listing_bytes, "bytes", "memory of the listings of lower directories that are kept") \
	X(stamped_on_sight, "objects", "upper objects without a valid stamp that were given one") \
	X(stamps_refused, "objects", "stamps not believed, since the index disagrees")         \
	X(damaged, "objects", "objects refused because of damaged metadata")                   \
	X(paths_mended, "entries", "stored paths that were out of step and mended at use")     \
	X(recovered, "operations", "unfinished operations completed or undone at mount")       \
	X(walked, "objects", "objects of upper looked at after an unclean stop of the machine") \
	X(completed, "entries", "index entries that this walk made or mended")

struct rvl_counters {
#define X(name, unit, help) _Atomic uint64_t name;
	RVL_COUNTERS(X)
#undef X
};

/* One per process: a server serves one mount. */
extern struct rvl_counters rvl_counters;

#define rvl_count(name) rvl_count_n(name, 1)
#define rvl_count_n(name, n) \
	atomic_fetch_add_explicit(&rvl_counters.name, (uint64_t)(n), memory_order_relaxed)

#endif
