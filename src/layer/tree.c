// SPDX-License-Identifier: GPL-2.0-or-later
/* The walk of a real tree, depth first, without recursion. */
#include "layer/tree.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "base/array.h"
#include "base/cleanup.h"
#include "layer/path.h"

struct walk {
	rvl_tree_visit_fn *visit;
	void *arg;
	int root_fd;
	char **waiting; /* owned, and its strings */
	size_t n, size;
};

char *rvl_tree_path(const struct rvl_tree_name *name)
{
	return rvl_path_join(name->dir, name->name);
}

/* Takes path over. */
static int push(struct walk *walk, char *path)
{
	int r = path ? rvl_array_reserve(&walk->waiting, &walk->size, walk->n,
					 sizeof(*walk->waiting), RVL_TREE_WAITING_MAX) :
		       -ENOMEM;

	if (r)
		free(path);
	else
		walk->waiting[walk->n++] = path;
	return r;
}

static bool is_directory(const struct rvl_tree_name *name)
{
	struct statx st;

	if (name->type != DT_UNKNOWN)
		return name->type == DT_DIR;
	return !rvl_path_statx(name->dirfd, name->name, STATX_TYPE, &st) && S_ISDIR(st.stx_mode);
}

static int visit_name(struct walk *walk, const struct rvl_tree_name *name)
{
	bool is_dir = is_directory(name);
	int r = walk->visit(walk->arg, name);

	if (r == 1)
		return 0;
	return r || !is_dir ? r : push(walk, rvl_tree_path(name));
}

static int read_directory(struct walk *walk, const char *path)
{
	int fd = rvl_path_open_noatime(walk->root_fd, path, O_RDONLY | O_DIRECTORY);
	_cleanup_closedir_ DIR *dir = NULL;
	const struct dirent *entry;
	int r = rvl_dir_stream(fd, &dir);

	while (!r && (r = rvl_dir_next(dir, &entry)) > 0) {
		const struct rvl_tree_name name = {
			.dirfd = fd, .dir = path, .name = entry->d_name, .type = entry->d_type
		};

		r = visit_name(walk, &name);
	}
	return r;
}

int rvl_tree_walk(int root_fd, rvl_tree_visit_fn *visit, void *arg, char **ret_path)
{
	struct walk walk = { .visit = visit, .arg = arg, .root_fd = root_fd };
	int r = push(&walk, strdup(""));

	if (ret_path)
		*ret_path = NULL;
	while (!r && walk.n) {
		_cleanup_free_ char *path = walk.waiting[--walk.n];

		r = read_directory(&walk, path);
		if (r && ret_path)
			*ret_path = rvl_take_ptr(path);
	}
	while (walk.n)
		free(walk.waiting[--walk.n]);
	free(walk.waiting);
	return r;
}
