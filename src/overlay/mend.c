// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Mending a path. By the handle: it opens the directory, whose stamp must be the number; ".." gives
 * the parent, whose stamp gives the parent's number; the name is the one under which the parent
 * lists this inode.
 *
 * Where the handle opens nothing (a filesystem without handles, a server that may not use them) the
 * directories of upper are walked for the stamp. Each entry met that is out of step is mended on
 * the way, so that one whole walk is enough for the life of a mount: what it did not find is not
 * there, until a rename fails to write a path.
 */
#include "overlay/mend.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/array.h"
#include "index/stamp.h"
#include "layer/path.h"
#include "overlay/private.h"
#include "overlay/real.h"

#define WAITING_MAX (1 << 24) /* directories found and not walked yet */

/* ---- by the handle ---- */

static int stamp_of(struct rvl_overlay *ov, int fd, uint64_t *ret)
{
	const struct rvl_layer *upper = rvl_stack_upper(ov->stack);
	struct statx stx;
	struct rvl_id id;
	int r = rvl_path_statx(fd, "", STATX_TYPE | STATX_INO, &stx);

	if (r < 0)
		return r;
	if (stx.stx_ino == upper->ino) {
		*ret = RVL_NUMBER_ROOT;
		return 0;
	}
	r = rvl_stamp_get(ov->index, fd, "", S_IFDIR, stx.stx_ino, &id);
	if (r == 0)
		*ret = id.number;
	return r;
}

static int name_of(int parent_fd, uint64_t ino, char ret[NAME_MAX + 1])
{
	_cleanup_closedir_ DIR *names = NULL;
	const struct dirent *entry;
	int r = rvl_dir_stream(rvl_fd_reopen(parent_fd, O_RDONLY | O_DIRECTORY), &names);

	if (r < 0)
		return r;
	while (rvl_dir_next(names, &entry) > 0) {
		if (entry->d_ino != ino)
			continue;
		snprintf(ret, NAME_MAX + 1, "%s", entry->d_name);
		return 0;
	}
	return -ESTALE;
}

static int by_handle(struct rvl_overlay *ov, uint64_t number, const struct rvl_handle *handle,
		     struct rvl_name_at *ret)
{
	_cleanup_close_ int fd = -EBADF, parent_fd = -EBADF;
	struct rvl_name_at at = {};
	struct statx stx;
	uint64_t found = 0;
	int r;

	if (handle->len == 0)
		return -ESTALE;
	fd = rvl_handle_open(rvl_stack_upper(ov->stack)->fd, handle);
	if (fd < 0)
		return -ESTALE;
	r = rvl_path_statx(fd, "", STATX_TYPE | STATX_INO, &stx);
	if (r < 0 || !S_ISDIR(stx.stx_mode) || stamp_of(ov, fd, &found) < 0 || found != number)
		return -ESTALE;
	/* ".." of a directory inside upper: the parent's stamp, or that it is the root, says that
	 * it is inside. */
	parent_fd = openat(fd, "..", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (parent_fd < 0 || stamp_of(ov, parent_fd, &at.parent) < 0 || at.parent == number)
		return -ESTALE;
	r = name_of(parent_fd, stx.stx_ino, at.name);
	if (r == 0)
		*ret = at;
	return r;
}

/* ---- by a walk of upper ---- */

struct waiting {
	char *path; /* owned; from the root of upper */
	uint64_t number; /* 0: it has no stamp */
};

struct walk {
	struct rvl_overlay *ov;
	uint64_t wanted;
	struct rvl_name_at *ret;
	bool is_found;
	bool is_shallow; /* the children of one directory, which has got another number */
	struct waiting *v; /* owned */
	size_t n, room;
};

static int add_waiting(struct walk *walk, const char *above, const char *name, uint64_t number)
{
	struct waiting *dir;

	if (rvl_array_reserve(&walk->v, &walk->room, walk->n, sizeof(*walk->v), WAITING_MAX) < 0)
		return -ENOMEM;
	dir = &walk->v[walk->n];
	dir->path = rvl_path_join(above, name);
	if (!dir->path)
		return -ENOMEM;
	dir->number = number;
	walk->n++;
	return 0;
}

static void set_path(struct rvl_overlay *ov, uint64_t number, const struct rvl_name_at *at)
{
	/* best effort: a full disk stops no reader */
	if (!ov->config.is_read_only && rvl_entry_set_path(ov->index, number, at) == 0)
		rvl_count(paths_mended);
}

/* The directory above has got another number. What was not renamed in upper has its lower part at the same
 * place, so that is put right, too. */
static void set_path_and_place(struct rvl_overlay *ov, uint64_t number, struct rvl_entry_directory *entry,
		      const struct rvl_name_at *at)
{
	if (!entry->is_merged || !rvl_name_at_equal(&entry->place, &entry->path)) {
		set_path(ov, number, at);
		return;
	}
	entry->path = entry->place = *at;
	if (rvl_entry_put_directory(ov->index, number, entry, true) == 0)
		rvl_count(paths_mended);
}

/* A stamped directory at a place, with this real inode: is it what its entry means, and in step with it? */
static void compare(struct walk *walk, int dirfd, uint64_t number, uint64_t ino,
		    const struct rvl_name_at *at)
{
	struct rvl_node _cleanup_node_ *node = NULL;
	struct rvl_entry_directory entry;
	struct rvl_handle handle;

	if (rvl_entry_get_directory(walk->ov->index, number, &entry) < 0)
		return;
	rvl_handle_of(walk->ov, dirfd, at->name, &handle);
	/* a copy that was made offline has the stamp, too */
	if (entry.upper.len && !rvl_handle_equal(&entry.upper, &handle))
		return;
	/* its number may be that of another object, too, which has come back with the one above */
	if (walk->is_shallow && !entry.upper.len)
		return;
	if (number == walk->wanted) {
		*walk->ret = *at;
		walk->is_found = true;
		return;
	}
	if (rvl_name_at_equal(&entry.path, at))
		return;
	node = rvl_node_find(walk->ov, number);
	if (walk->is_shallow) {
		set_path_and_place(walk->ov, number, &entry, at);
		if (node && rvl_node_has_upper(node) && node->upper_ino == ino)
			(void)rvl_node_set_place(node, at->parent, at->name);
	} else if (!node) { /* what is in memory is kept in step by those who rename it */
		set_path(walk->ov, number, at);
	}
}

static int walk_name(struct walk *walk, const struct waiting *dir, int dirfd,
		     const struct dirent *entry)
{
	struct rvl_name_at at = { .parent = dir->number };
	struct rvl_id id = {};
	struct statx stx;

	if (entry->d_type != DT_DIR && entry->d_type != DT_UNKNOWN)
		return 0;
	/* what is mounted inside, gone or damaged is not looked into */
	if (rvl_path_statx(dirfd, entry->d_name, STATX_TYPE | STATX_INO, &stx) < 0 ||
	    !S_ISDIR(stx.stx_mode))
		return 0;
	if (rvl_stamp_get(walk->ov->index, dirfd, entry->d_name, stx.stx_mode, stx.stx_ino, &id) <
	    0)
		id.number = 0;
	snprintf(at.name, sizeof(at.name), "%s", entry->d_name);
	if (id.number && at.parent)
		compare(walk, dirfd, id.number, stx.stx_ino, &at);
	if (walk->is_found || walk->is_shallow)
		return 0;
	return add_waiting(walk, dir->path, entry->d_name, id.number);
}

static int walk_dir(struct walk *walk, int dirfd, const struct waiting *dir)
{
	_cleanup_closedir_ DIR *names = NULL;
	const struct dirent *entry;
	int fd = rvl_path_open(dirfd, dir->path, O_RDONLY | O_DIRECTORY, 0);
	int r = rvl_dir_stream(fd, &names);

	if (r < 0)
		return r == -EMFILE || r == -ENFILE || r == -ENOMEM ? r : 0;
	while (r == 0 && !walk->is_found && rvl_dir_next(names, &entry) > 0)
		r = walk_name(walk, dir, fd, entry);
	return r;
}

/* A directory, and all below it. */
static int walk_all(struct walk *walk, int dirfd, const char *name, uint64_t number)
{
	int r = add_waiting(walk, "", name, number);

	while (r == 0 && walk->n && !walk->is_found) {
		struct waiting dir = walk->v[--walk->n];

		r = walk_dir(walk, dirfd, &dir);
		free(dir.path);
	}
	while (walk->n)
		free(walk->v[--walk->n].path);
	free(walk->v);
	return r;
}

static int walk_upper(struct rvl_overlay *ov, uint64_t number, struct rvl_name_at *ret)
{
	struct walk walk = { .ov = ov, .wanted = number, .ret = ret };
	int r;

	rvl_debug("the directories of upper are walked for object %llu",
		  (unsigned long long)number);
	r = walk_all(&walk, rvl_stack_upper(ov->stack)->fd, "", RVL_NUMBER_ROOT);
	if (r == 0 && !walk.is_found)
		atomic_store(&ov->is_upper_walked, true);
	return r == 0 && !walk.is_found ? -ESTALE : r;
}

static int by_walk(struct rvl_overlay *ov, uint64_t number, struct rvl_name_at *ret)
{
	int r = -ESTALE;

	/* of use only if the path can be mended: by its stamp alone no look-up believes the place */
	if (ov->config.is_read_only)
		return r;
	pthread_mutex_lock(&ov->walk_lock);
	if (!atomic_load(&ov->is_upper_walked))
		r = walk_upper(ov, number, ret);
	pthread_mutex_unlock(&ov->walk_lock);
	return r;
}

int rvl_mend_path(struct rvl_overlay *ov, uint64_t number, struct rvl_entry_directory *dir)
{
	int r = by_handle(ov, number, &dir->upper, &dir->path);

	if (r < 0)
		r = by_walk(ov, number, &dir->path);
	if (r == 0)
		set_path(ov, number, &dir->path);
	return r;
}

void rvl_mend_children(struct rvl_overlay *ov, int dirfd, const char *name, uint64_t number)
{
	struct walk walk = { .ov = ov, .is_shallow = true };

	(void)walk_all(&walk, dirfd, name, number);
	/* records may be out of step now: the next number that is looked for is worth a walk again */
	atomic_store(&ov->is_upper_walked, false);
}
