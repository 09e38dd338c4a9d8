/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The merged tree of layers that are not mounted, name by name, with numbers: from layers, stamps
 * and index alone, changing nothing.
 */
#ifndef RVL_TOOLS_VIEW_H
#define RVL_TOOLS_VIEW_H

#include "index/number.h"
#include "layer/merge.h"
#include "tools/layers.h"

struct rvl_view_object {
	struct rvl_id id; /* number 0: it has none yet (it was put into upper offline) */
	mode_t mode;
	bool is_upper;
	int upper_fd; /* owned; directory in upper: O_PATH; else -EBADF */
	bool is_opaque;
	struct rvl_places lower; /* owned; of a directory all, else the one place, if it is not in upper */
};
void rvl_view_object_release(struct rvl_view_object *object);

int rvl_view_root(const struct rvl_layers *layers, struct rvl_view_object *ret);
/* -ENOENT: there is no such name; -EUCLEAN: damaged. */
int rvl_view_child(const struct rvl_layers *layers, const struct rvl_view_object *dir,
		   const char *name, struct rvl_view_object *ret);

/* By a path from the root, with or without a leading slash; symlinks are not followed. */
int rvl_view_path(const struct rvl_layers *layers, const char *path, struct rvl_view_object *ret);

/*
 * Walks all, and calls fn with the path (without a leading slash; "" for the root) of each name of
 * a number, until it returns non-zero, which is returned. What is damaged is skipped with a
 * warning.
 */
typedef int rvl_view_fn(void *arg, const char *path, const struct rvl_view_object *object);
int rvl_view_find(const struct rvl_layers *layers, uint64_t number, rvl_view_fn *fn, void *arg);

#endif
