// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What must be true of a cell: its handle opens the object, by content, number and type, and writes to it show under every
 * name; or, if the object is gone, the handle is stale. The handle is used before any name is looked up, so that nothing but
 * the handle leads to it after a remount.
 */
#include "matrix.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define STALE_TRIES 200 /* RELEASE and FORGET are sent in the background: after the last close it may take a moment */
#define STALE_PAUSE_MS 10

static const char *error_name(int number)
{
	const char *name = strerrorname_np(number);

	return name ? name : "?";
}

static int handle_at(int dirfd, const char *path, union handle *ret)
{
	int mount_id;

	memset(ret, 0, sizeof(*ret));
	ret->head.handle_bytes = MAX_HANDLE_SZ;
	return name_to_handle_at(dirfd, path, &ret->head, &mount_id, 0) < 0 ? -errno : 0;
}

/* fs/fuse/inode.c, fuse_encode_fh: the high half of the nodeid, the low one, the generation. */
static uint64_t number_of(const union handle *handle)
{
	uint32_t half[2];

	memcpy(half, handle->head.f_handle, sizeof(half));
	return (uint64_t)half[0] << 32 | half[1];
}

int cell_take(struct cell *cell)
{
	char path[PATH_SIZE];
	struct stat st;
	int r;

	name_path(cell, &cell->names[0], path);
	r = handle_at(cell->world->fd, path, &cell->handle);
	if (r < 0)
		return cell_fail(cell, "name_to_handle_at %s: %s", path, error_name(-r));
	if (fstatat(cell->world->fd, path, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return cell_fail(cell, "stat %s: %s", path, error_name(errno));
	cell->ino = st.st_ino;
	cell->is_taken = true;
	if (cell->handle.head.handle_type != FUSE_HANDLE_TYPE || number_of(&cell->handle) != st.st_ino)
		return cell_fail(cell, "handle of type %#x with number %llu, st_ino is %llu",
				 cell->handle.head.handle_type, (unsigned long long)number_of(&cell->handle),
				 (unsigned long long)st.st_ino);
	return 0;
}

static int open_handle(struct cell *cell, int flags, const char *what)
{
	int fd = open_by_handle_at(cell->world->fd, &cell->handle.head, flags | O_CLOEXEC);

	return fd >= 0 ? fd : cell_fail(cell, "open_by_handle_at for %s: %s", what, error_name(errno));
}

static int check_stat(struct cell *cell, const struct stat *st, const char *what)
{
	if (st->st_ino != cell->ino)
		return cell_fail(cell, "%s: st_ino %llu instead of %llu", what, (unsigned long long)st->st_ino,
				 (unsigned long long)cell->ino);
	if ((st->st_mode & S_IFMT) != cell->kind->type)
		return cell_fail(cell, "%s: mode %o instead of type %o", what, st->st_mode, cell->kind->type);
	if (!cell->kind->is_root && !S_ISLNK(st->st_mode) && (st->st_mode & 07777) != cell->mode)
		return cell_fail(cell, "%s: mode %o instead of %o", what, st->st_mode & 07777, cell->mode);
	if (!cell->kind->is_root && st->st_uid != cell->uid)
		return cell_fail(cell, "%s: uid %u instead of %u", what, st->st_uid, cell->uid);
	if (!S_ISDIR(st->st_mode) && st->st_nlink != cell->n_names)
		return cell_fail(cell, "%s: st_nlink %lu instead of %u", what, (unsigned long)st->st_nlink,
				 cell->n_names);
	if ((S_ISCHR(st->st_mode) || S_ISBLK(st->st_mode)) && minor(st->st_rdev) != (cell->id & 0xff))
		return cell_fail(cell, "%s: device %u:%u", what, major(st->st_rdev), minor(st->st_rdev));
	return 0;
}

static int check_bytes(struct cell *cell, int fd, const char *wanted, const char *what)
{
	char buf[2 * CONTENT_SIZE];
	ssize_t n = pread(fd, buf, sizeof(buf) - 1, 0);

	if (n < 0)
		return cell_fail(cell, "%s: read: %s", what, error_name(errno));
	buf[n] = '\0';
	if (strcmp(buf, wanted) != 0)
		return cell_fail(cell, "%s: content \"%.60s\" instead of \"%.60s\"", what, buf, wanted);
	return 0;
}

static int check_file_at(struct cell *cell, int dirfd, const char *name, const char *wanted, const char *what)
{
	int fd = openat(dirfd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC), r;

	if (fd < 0)
		return cell_fail(cell, "%s: open %.40s: %s", what, name, error_name(errno));
	r = check_bytes(cell, fd, wanted, what);
	close(fd);
	return r;
}

/* ---- by handle ---- */

static int check_link_target(struct cell *cell, int fd, const char *path, const char *what)
{
	char buf[PATH_SIZE];
	ssize_t n = readlinkat(fd, path, buf, sizeof(buf) - 1);

	if (n < 0)
		return cell_fail(cell, "%s: readlink: %s", what, error_name(errno));
	buf[n] = '\0';
	if (strcmp(buf, cell->content) != 0)
		return cell_fail(cell, "%s: target %.60s instead of %.60s", what, buf, cell->content);
	return 0;
}

static int check_path_of(struct cell *cell, int fd)
{
	char link[32], path[PATH_SIZE], wanted[2 * PATH_SIZE], found[2 * PATH_SIZE];
	ssize_t n;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	n = readlink(link, found, sizeof(found) - 1);
	if (n < 0)
		return cell_fail(cell, "readlink %s: %s", link, error_name(errno));
	found[n] = '\0';
	if (cell->kind->is_root)
		snprintf(wanted, sizeof(wanted), "%s", cell->world->path);
	else
		snprintf(wanted, sizeof(wanted), "%s/%s", cell->world->path, name_path(cell, &cell->names[0], path));
	if (strcmp(found, wanted) != 0)
		return cell_fail(cell, "path is %.100s instead of %.100s", found, wanted);
	return 0;
}

static int check_parent(struct cell *cell, int fd)
{
	char path[PATH_SIZE];
	struct stat up, wanted;

	if (fstatat(fd, "..", &up, 0) < 0)
		return cell_fail(cell, "stat of \"..\": %s", error_name(errno));
	if (fstatat(cell->world->fd, place_path(cell, cell->names[0].place, path), &wanted, 0) < 0)
		return cell_fail(cell, "stat %s: %s", path, error_name(errno));
	if (up.st_ino != wanted.st_ino)
		return cell_fail(cell, "\"..\" is %llu instead of %llu", (unsigned long long)up.st_ino,
				 (unsigned long long)wanted.st_ino);
	return 0;
}

/* A directory is connected: its path is right, its children open, ".." leads up, and a file can be made in it. */
static int check_dir(struct cell *cell)
{
	const char *child = cell->kind->is_root ? "root" : cell->content;
	char made[32];
	int fd = open_handle(cell, O_RDONLY | O_DIRECTORY, "reading"), r;

	if (fd < 0)
		return -1;
	r = cell->n_names ? check_path_of(cell, fd) : 0;
	if (r == 0 && cell->has_child)
		r = check_file_at(cell, fd, "child", child, "child of the handle");
	if (r == 0 && cell->has_child)
		r = check_file_at(cell, fd, "child2", child, "second child of the handle");
	if (r == 0 && cell->n_names && !cell->kind->is_root)
		r = check_parent(cell, fd);
	if (r == 0 && cell->n_names) {
		snprintf(made, sizeof(made), "made%u.%u", cell->id, ++cell->n_made);
		r = file_make(fd, made, "by handle");
		if (r < 0)
			r = cell_fail(cell, "create by handle: %s", error_name(-r));
		else
			r = check_file_at(cell, fd, made, "by handle", "made by handle");
	}
	close(fd);
	return r;
}

static int check_regular(struct cell *cell)
{
	int fd = open_handle(cell, O_RDONLY, "reading"), r;

	if (fd < 0)
		return -1;
	r = check_bytes(cell, fd, cell->content, "handle");
	close(fd);
	if (r < 0)
		return r;
	fd = open_handle(cell, O_RDWR | O_APPEND, "writing");
	if (fd < 0)
		return -1;
	if (write(fd, "h", 1) != 1)
		r = cell_fail(cell, "write by handle: %s", error_name(errno));
	strcat(cell->content, "h");
	if (r == 0)
		r = check_bytes(cell, fd, cell->content, "handle after a write");
	close(fd);
	return r;
}

static int check_handle(struct cell *cell)
{
	int fd = open_handle(cell, O_PATH, "O_PATH"), r = 0;
	struct stat st;

	if (fd < 0)
		return -1;
	if (fstat(fd, &st) < 0)
		r = cell_fail(cell, "fstat of the handle: %s", error_name(errno));
	else
		r = check_stat(cell, &st, "handle");
	if (r == 0 && S_ISLNK(cell->kind->type))
		r = check_link_target(cell, fd, "", "handle");
	close(fd);
	if (r == 0 && S_ISREG(cell->kind->type))
		r = check_regular(cell);
	if (r == 0 && S_ISDIR(cell->kind->type))
		r = check_dir(cell);
	return r;
}

/* ---- by name ---- */

static int check_name(struct cell *cell, const struct name *name)
{
	char path[PATH_SIZE], what[64], made[PATH_SIZE + 32];
	union handle handle;
	struct stat st;
	int r;

	snprintf(what, sizeof(what), "name %s", name->leaf);
	name_path(cell, name, path);
	if (fstatat(cell->world->fd, path, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return cell_fail(cell, "%s: stat: %s", what, error_name(errno));
	r = check_stat(cell, &st, what);
	if (r == 0 && S_ISREG(cell->kind->type))
		r = check_file_at(cell, cell->world->fd, path, cell->content, what);
	if (r == 0 && S_ISLNK(cell->kind->type))
		r = check_link_target(cell, cell->world->fd, path, what);
	if (r == 0 && S_ISDIR(cell->kind->type)) {
		snprintf(made, sizeof(made), "%s/made%u.%u", path, cell->id, cell->n_made);
		r = check_file_at(cell, cell->world->fd, made, "by handle", "made by handle, by name");
	}
	if (r < 0)
		return r;
	r = handle_at(cell->world->fd, path, &handle);
	if (r < 0)
		return cell_fail(cell, "%s: name_to_handle_at: %s", what, error_name(-r));
	if (memcmp(&handle, &cell->handle, sizeof(handle.head) + handle.head.handle_bytes) != 0)
		return cell_fail(cell, "%s: another handle than before", what);
	return 0;
}

static int check_reborn(struct cell *cell)
{
	char path[PATH_SIZE];
	struct stat st;

	name_path(cell, &cell->reborn, path);
	if (fstatat(cell->world->fd, path, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return cell_fail(cell, "made again: stat: %s", error_name(errno));
	if (st.st_ino == cell->ino)
		return cell_fail(cell, "made again: the number of the dead object");
	if (S_ISREG(st.st_mode))
		return check_file_at(cell, cell->world->fd, path, "reborn", "made again");
	return 0;
}

/* ---- gone ---- */

static void check_stale(struct cell *cell)
{
	int fd = -1;

	for (unsigned i = 0; i < STALE_TRIES; i++) {
		fd = open_by_handle_at(cell->world->fd, &cell->handle.head, O_PATH | O_CLOEXEC);
		if (fd < 0)
			break;
		close(fd);
		poll(NULL, 0, STALE_PAUSE_MS);
	}
	if (fd >= 0)
		cell_fail(cell, "gone, but the handle opens something");
	else if (errno != ESTALE)
		cell_fail(cell, "gone: %s instead of ESTALE", error_name(errno));
}

/* Under any of its names. */
static bool is_in_upper(const struct cell *cell)
{
	char path[PATH_SIZE], full[2 * PATH_SIZE];
	struct stat st;

	for (unsigned i = 0; i < cell->n_names; i++) {
		snprintf(full, sizeof(full), "%s/%s", cell->world->upper, name_path(cell, &cell->names[i], path));
		if (lstat(full, &st) == 0)
			return true;
	}
	return false;
}

void cell_lose(struct cell *cell)
{
	if (cell->is_failed || !cell->is_taken || cell->n_names == 0 || is_in_upper(cell))
		return;
	check_stale(cell);
	cell->is_lost |= cell->n_names < cell->kind->n_names;
	if (!cell->is_failed)
		cell_take(cell);
}

void cell_check(struct cell *cell)
{
	int r = 0;

	if (cell->is_failed || cell->is_lost)
		return;
	if (cell_exists(cell))
		r = check_handle(cell);
	for (unsigned i = 0; i < cell->n_names && r == 0; i++)
		r = check_name(cell, &cell->names[i]);
	cell_close(cell);
	if (r == 0 && cell->n_names == 0)
		check_stale(cell);
	if (!cell->is_failed && cell->is_reborn)
		check_reborn(cell);
}
