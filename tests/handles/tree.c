// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The kinds of object, and how they are made. With several layers the directories are in all of them, the object in one,
 * and a directory in two, with a child in each: it is merged below already.
 */
#include "matrix.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define DEVICE_MAJOR 200

static int make_dir(int dirfd, const char *path)
{
	return mkdirat(dirfd, path, 0755) < 0 && errno != EEXIST ? -errno : 0;
}

int file_make(int dirfd, const char *path, const char *content)
{
	size_t len = strlen(content);
	int fd = openat(dirfd, path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	int r = 0;

	if (fd < 0)
		return -errno;
	if (write(fd, content, len) != (ssize_t)len)
		r = errno ? -errno : -EIO;
	return close(fd) < 0 ? -errno : r;
}

/* All directories from the root to the parent. */
static int make_parents(const struct cell *cell, int root)
{
	char path[PATH_SIZE], *p;
	int r;

	place_path(cell, IN_PARENT, path);
	for (p = strchr(path, '/'); p; p = strchr(p + 1, '/')) {
		*p = '\0';
		r = make_dir(root, path);
		if (r < 0)
			return r;
		*p = '/';
	}
	r = make_dir(root, path);
	return r < 0 ? r : make_dir(root, place_path(cell, IN_OTHER, path));
}

int tree_make(struct cell *cell, const int *roots, unsigned n_roots)
{
	struct name peer_file = { IN_OTHER, "peerf" }, peer_dir = { IN_OTHER, "peerd" };
	int root = roots[cell->id % n_roots], r = 0;
	char path[PATH_SIZE];

	for (unsigned i = 0; i < n_roots && r == 0; i++)
		r = make_parents(cell, roots[i]);
	if (r == 0)
		r = file_make(root, name_path(cell, &peer_file, path), "peer");
	if (r == 0)
		r = make_dir(root, name_path(cell, &peer_dir, path));
	if (r == 0) {
		strcat(path, "/inner");
		r = file_make(root, path, "inner");
	}
	return r;
}

static int make_directory(struct cell *cell, const int *roots, unsigned n_roots, const char *path)
{
	char child[PATH_SIZE + 16];
	int r = 0;

	for (unsigned i = 0; i < 2 && r == 0; i++) {
		int root = roots[(cell->id + 1 + i) % n_roots];

		if (!cell->kind->is_root)
			r = make_dir(root, path);
		snprintf(child, sizeof(child), "%s/child%s", path, i ? "2" : "");
		if (r == 0)
			r = file_make(root, child, cell->kind->is_root ? "root" : cell->content);
	}
	return r;
}

int object_make(struct cell *cell, const int *roots, unsigned n_roots)
{
	int root = roots[(cell->id + 1) % n_roots], r = 0;
	char path[PATH_SIZE], other[PATH_SIZE];

	name_path(cell, &cell->names[0], path);
	switch (cell->kind->type) {
	case S_IFDIR:
		return make_directory(cell, roots, n_roots, path);
	case S_IFREG:
		r = file_make(root, path, cell->content);
		break;
	case S_IFLNK:
		r = symlinkat(cell->content, root, path) < 0 ? -errno : 0;
		break;
	default:
		r = mknodat(root, path, cell->kind->type | 0644, makedev(DEVICE_MAJOR, cell->id & 0xff)) < 0 ? -errno :
													       0;
	}
	for (unsigned i = 1; i < cell->n_names && r == 0; i++)
		r = linkat(root, path, root, name_path(cell, &cell->names[i], other), 0) < 0 ? -errno : 0;
	return r;
}

int cell_make_lower(struct cell *cell, const int *roots, unsigned n_roots)
{
	int r = 0;

	if (!cell->kind->is_all_born)
		r = tree_make(cell, roots, n_roots);
	if (r == 0 && !cell->kind->is_born)
		r = object_make(cell, roots, n_roots);
	return r;
}

static int make_tmpfile(struct cell *cell)
{
	char path[PATH_SIZE], link[32];
	int root = cell->world->fd, r = 0;
	int fd = openat(root, place_path(cell, IN_PARENT, path), O_TMPFILE | O_RDWR | O_CLOEXEC, 0644);

	if (fd < 0)
		return -errno;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	if (write(fd, cell->content, strlen(cell->content)) < 0 ||
	    linkat(AT_FDCWD, link, root, name_path(cell, &cell->names[0], path), AT_SYMLINK_FOLLOW) < 0)
		r = -errno;
	close(fd);
	return r;
}

int cell_prepare(struct cell *cell)
{
	const int *root = &cell->world->fd;
	int r = 0;

	if (!cell->is_dry) {
		if (cell->kind->is_all_born)
			r = tree_make(cell, root, 1);
		if (r == 0 && cell->kind->is_tmpfile)
			r = make_tmpfile(cell);
		else if (r == 0 && cell->kind->is_born)
			r = object_make(cell, root, 1);
	}
	if (r == 0 && cell->kind->prepare)
		r = cell->kind->prepare(cell);
	return r;
}

const struct kind kinds[] = {
	{ "root", .type = S_IFDIR, .n_names = 1, .is_root = true },
	{ "root-child-file", .type = S_IFREG, .n_names = 1, .is_root_child = true },
	{ "root-child-dir", .type = S_IFDIR, .n_names = 1, .is_root_child = true },
	{ "file", .type = S_IFREG, .n_names = 1 },
	{ "file-deep", .type = S_IFREG, .n_names = 1, .is_deep = true },
	{ "file-2-links", .type = S_IFREG, .n_names = 2 },
	{ "file-3-links", .type = S_IFREG, .n_names = 3 },
	{ "file-8-links", .type = S_IFREG, .n_names = 8 },
	{ "symlink", .type = S_IFLNK, .n_names = 1 },
	{ "symlink-2-links", .type = S_IFLNK, .n_names = 2 },
	{ "fifo", .type = S_IFIFO, .n_names = 1 },
	{ "socket", .type = S_IFSOCK, .n_names = 1 },
	{ "chardev", .type = S_IFCHR, .n_names = 1 },
	{ "blockdev", .type = S_IFBLK, .n_names = 1 },
	{ "dir-lower", .type = S_IFDIR, .n_names = 1 },
	{ "dir-deep", .type = S_IFDIR, .n_names = 1, .is_deep = true },
	{ "dir-merged", .type = S_IFDIR, .n_names = 1, .prepare = event_write },
	{ "dir-renamed", .type = S_IFDIR, .n_names = 1, .prepare = event_rename },
	{ "dir-born", .type = S_IFDIR, .n_names = 1, .is_born = true },
	{ "dir-born-in-born", .type = S_IFDIR, .n_names = 1, .is_born = true, .is_all_born = true },
	{ "born", .type = S_IFREG, .n_names = 1, .is_born = true },
	{ "born-in-born", .type = S_IFREG, .n_names = 1, .is_born = true, .is_all_born = true },
	{ "born-3-links", .type = S_IFREG, .n_names = 3, .is_born = true },
	{ "born-symlink", .type = S_IFLNK, .n_names = 1, .is_born = true },
	{ "born-fifo", .type = S_IFIFO, .n_names = 1, .is_born = true },
	{ "born-chardev", .type = S_IFCHR, .n_names = 1, .is_born = true },
	{ "copied", .type = S_IFREG, .n_names = 1, .prepare = event_write },
	{ "copied-3-links", .type = S_IFREG, .n_names = 3, .prepare = event_write },
	{ "tmpfile", .type = S_IFREG, .n_names = 1, .is_born = true, .is_tmpfile = true },
};
const unsigned n_kinds = sizeof(kinds) / sizeof(kinds[0]);
