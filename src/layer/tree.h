/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Every name of a real tree, as it lies there: no rule of a stack is applied. One directory is open
 * at a time; those that wait are kept as paths (RVL_TREE_WAITING_MAX).
 */
#ifndef RVL_LAYER_TREE_H
#define RVL_LAYER_TREE_H

#include <sys/stat.h>

#define RVL_TREE_WAITING_MAX (1 << 22)

struct rvl_tree_name {
	int dirfd; /* borrowed, readable */
	const char *dir; /* path of the directory, "" for the root */
	const char *name;
	unsigned char type; /* DT_* as the directory says, maybe DT_UNKNOWN */
};

/* 0: go on; 1: the same, but do not enter the directory of this name; an error ends the walk. */
typedef int rvl_tree_visit_fn(void *arg, const struct rvl_tree_name *name);

/*
 * root_fd may be O_PATH. Names that are made or removed meanwhile may be visited or not. Errors: of
 * visit; of the filesystem, with *ret_path (NULL where there is none; owned by the caller, may be
 * NULL) the directory; -E2BIG.
 */
int rvl_tree_walk(int root_fd, rvl_tree_visit_fn *visit, void *arg, char **ret_path);

/* Path of a name: owned by the caller; NULL without memory. */
char *rvl_tree_path(const struct rvl_tree_name *name);

#endif
