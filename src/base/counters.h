/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the server counts, declared once with unit and help, which `reverlayctl stat` shows. Relaxed
 * atomics: they are read for people, nothing is decided by them.
 */
#ifndef RVL_BASE_COUNTERS_H
#define RVL_BASE_COUNTERS_H

#include <stdatomic.h>
#include <stdint.h>

/*      name                 unit      help */
#define RVL_COUNTERS(X)                                                                           \
	X(requests, "requests", "requests answered")                                              \
	X(passed_through, "opens", "files read and written by the kernel itself")                 \
	X(lookups, "requests", "names looked up")                                                 \
	X(decodes, "requests", "numbers resolved with no node in memory")                         \
	X(decodes_stale, "requests", "numbers that lead to nothing (ESTALE)")                     \
	X(nodes, "nodes", "objects in memory")                                                    \
	X(nodes_evicted, "nodes", "objects dropped from memory to keep the limit")                \
	X(map_names, "names", "names put into the map of the lower layers by this mount's walk")  \
	X(map_is_complete, "yes or no",                                                           \
	  "1: the map was opened, and has every object of the lower layers")                      \
	X(copy_ups, "objects", "objects copied up")                                               \
	X(copy_up_bytes, "bytes", "data copied up")                                               \
	X(listings, "directories", "merged directory listings built")                             \
	X(listed_attributes, "names", "names of listings given with the attributes")              \
	X(listing_bytes, "bytes", "memory of the listings of directories that are kept")          \
	X(stamped_on_sight, "objects", "upper objects without a valid stamp that were given one") \
	X(stamps_refused, "objects", "stamps not believed, since the index disagrees")            \
	X(maps_retired, "maps",                                                                   \
	  "maps of a rebind that were lost: untouched objects of lower layers have new numbers")  \
	X(damaged, "objects", "objects refused because of damaged metadata")                      \
	X(paths_mended, "entries", "stored paths that were out of step and mended at use")        \
	X(recovered, "operations", "unfinished operations completed or undone at mount")          \
	X(walked, "objects", "objects of upper looked at after an unclean stop of the machine")   \
	X(completed, "entries", "index entries that this walk made or mended")                    \
	X(notices, "notices",                                                                     \
	  "messages to the kernel that attributes or a listing are not to be used any more")      \
	X(req_lookup, "requests", "of them: LOOKUP")                                              \
	X(req_forget, "requests", "of them: FORGET")                                              \
	X(req_forget_multi, "requests", "of them: BATCH_FORGET, and FORGET read with it")         \
	X(req_getattr, "requests", "of them: GETATTR")                                            \
	X(req_statx, "requests", "of them: STATX")                                                \
	X(req_setattr, "requests", "of them: SETATTR")                                            \
	X(req_readlink, "requests", "of them: READLINK")                                          \
	X(req_mknod, "requests", "of them: MKNOD")                                                \
	X(req_mkdir, "requests", "of them: MKDIR")                                                \
	X(req_symlink, "requests", "of them: SYMLINK")                                            \
	X(req_link, "requests", "of them: LINK")                                                  \
	X(req_create, "requests", "of them: CREATE")                                              \
	X(req_tmpfile, "requests", "of them: TMPFILE")                                            \
	X(req_unlink, "requests", "of them: UNLINK")                                              \
	X(req_rmdir, "requests", "of them: RMDIR")                                                \
	X(req_rename, "requests", "of them: RENAME")                                              \
	X(req_open, "requests", "of them: OPEN")                                                  \
	X(req_release, "requests", "of them: RELEASE")                                            \
	X(req_read, "requests", "of them: READ")                                                  \
	X(req_write, "requests", "of them: WRITE")                                                \
	X(req_fsync, "requests", "of them: FSYNC")                                                \
	X(req_fallocate, "requests", "of them: FALLOCATE")                                        \
	X(req_lseek, "requests", "of them: LSEEK")                                                \
	X(req_copy_file_range, "requests", "of them: COPY_FILE_RANGE")                            \
	X(req_opendir, "requests", "of them: OPENDIR")                                            \
	X(req_readdirplus, "requests", "of them: READDIRPLUS")                                    \
	X(req_getxattr, "requests", "of them: GETXATTR")                                          \
	X(req_listxattr, "requests", "of them: LISTXATTR")                                        \
	X(req_setxattr, "requests", "of them: SETXATTR")                                          \
	X(req_removexattr, "requests", "of them: REMOVEXATTR")                                    \
	X(req_statfs, "requests", "of them: STATFS")                                              \
	X(req_ioctl, "requests", "of them: IOCTL")

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
