// SPDX-License-Identifier: GPL-2.0-or-later
/* What may happen to an object between the taking of its handle and its use. Each says what it means for the model. */
#include "matrix.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int not_for(struct cell *cell, const char *why)
{
	cell->na = why;
	return NA;
}

static bool is_dir(const struct cell *cell)
{
	return S_ISDIR(cell->kind->type);
}

static void forget_name(struct cell *cell, unsigned at)
{
	cell->n_names--;
	memmove(&cell->names[at], &cell->names[at + 1], (cell->n_names - at) * sizeof(cell->names[0]));
}

static int append_fd(int fd)
{
	int r = 0;

	if (fd < 0)
		return -errno;
	if (write(fd, "+", 1) != 1)
		r = -errno;
	return close(fd) < 0 ? -errno : r;
}

/* ---- changes of the object in place ---- */

static int write_by(struct cell *cell, unsigned which)
{
	char path[PATH_SIZE], inner[PATH_SIZE + 32];

	if (cell->n_names <= which)
		return not_for(cell, which ? "no other name" : "no name");
	if (!is_dir(cell) && !S_ISREG(cell->kind->type))
		return not_for(cell, "no data");
	if (!is_dir(cell))
		strcat(cell->content, "+");
	cell->n_made++;
	if (cell->is_dry)
		return 0;
	name_path(cell, &cell->names[which], path);
	if (!is_dir(cell))
		return append_fd(openat(cell->world->fd, path, O_WRONLY | O_APPEND | O_CLOEXEC));
	snprintf(inner, sizeof(inner), "%s/made%u.%u", path, cell->id, cell->n_made);
	return file_make(cell->world->fd, inner, "made");
}

int event_write(struct cell *cell)
{
	return write_by(cell, 0);
}

static int write_handle(struct cell *cell)
{
	int fd, r;

	if (!cell_exists(cell))
		return not_for(cell, "gone");
	if (is_dir(cell) && cell->n_names == 0)
		return not_for(cell, "removed directory");
	if (!is_dir(cell) && !S_ISREG(cell->kind->type))
		return not_for(cell, "no data");
	if (!is_dir(cell))
		strcat(cell->content, "+");
	cell->n_made++;
	if (cell->is_dry)
		return 0;
	if (!is_dir(cell))
		return append_fd(open_by_handle_at(cell->world->fd, &cell->handle.head,
							 O_WRONLY | O_APPEND | O_CLOEXEC));
	fd = open_by_handle_at(cell->world->fd, &cell->handle.head, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	char name[32];
	snprintf(name, sizeof(name), "made%u.%u", cell->id, cell->n_made);
	r = file_make(fd, name, "made");
	close(fd);
	return r;
}

static int change_attributes(struct cell *cell, unsigned which)
{
	char path[PATH_SIZE];

	if (cell->n_names <= which)
		return not_for(cell, which ? "no other name" : "no name");
	if (S_ISLNK(cell->kind->type))
		cell->uid += 1000;
	else
		cell->mode ^= 0020;
	if (cell->is_dry)
		return 0;
	name_path(cell, &cell->names[which], path);
	if (S_ISLNK(cell->kind->type))
		return fchownat(cell->world->fd, path, cell->uid, (gid_t)-1, AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
	return fchmodat(cell->world->fd, path, cell->mode, 0) < 0 ? -errno : 0;
}

static int event_chmod(struct cell *cell)
{
	return change_attributes(cell, 0);
}

static int event_other_name(struct cell *cell)
{
	return S_ISREG(cell->kind->type) ? write_by(cell, 1) : change_attributes(cell, 1);
}

static int event_fchmod_open(struct cell *cell)
{
	if (!cell->is_open || !S_ISREG(cell->kind->type))
		return not_for(cell, "not open");
	cell->mode ^= 0020;
	if (cell->is_dry)
		return 0;
	return fchmod(cell->fd, cell->mode) < 0 ? -errno : 0;
}

static int event_chmod_parent(struct cell *cell)
{
	char path[PATH_SIZE];

	if (cell->kind->is_root)
		return not_for(cell, "the root");
	if (cell->kind->is_root_child)
		return not_for(cell, "in the root");
	if (cell->is_dry)
		return 0;
	return fchmodat(cell->world->fd, place_path(cell, IN_PARENT, path), 0775, 0) < 0 ? -errno : 0;
}

/* ---- names come and move ---- */

static int event_link(struct cell *cell)
{
	struct name new = { .place = IN_OTHER };
	char from[PATH_SIZE], to[PATH_SIZE];

	if (is_dir(cell))
		return not_for(cell, "directory");
	if (cell->n_names == 0)
		return not_for(cell, "no name");
	snprintf(new.leaf, sizeof(new.leaf), "new%u", cell->n_made++);
	name_path(cell, &cell->names[0], from);
	name_path(cell, &new, to);
	cell->names[cell->n_names++] = new;
	if (cell->is_dry)
		return 0;
	return linkat(cell->world->fd, from, cell->world->fd, to, 0) < 0 ? -errno : 0;
}

static int move_to(struct cell *cell, const struct name *new)
{
	char from[PATH_SIZE], to[PATH_SIZE];

	if (cell->kind->is_root)
		return not_for(cell, "the root");
	if (cell->n_names == 0)
		return not_for(cell, "no name");
	name_path(cell, &cell->names[0], from);
	name_path(cell, new, to);
	cell->names[0] = *new;
	if (cell->is_dry)
		return 0;
	return renameat(cell->world->fd, from, cell->world->fd, to) < 0 ? -errno : 0;
}

int event_rename(struct cell *cell)
{
	struct name new = cell->names[0];

	snprintf(new.leaf, sizeof(new.leaf), "ren%u.%u", cell->id, cell->n_made++);
	return move_to(cell, &new);
}

static int event_move(struct cell *cell)
{
	struct name new = { .place = IN_OTHER };

	if (cell->n_names && cell->names[0].place == IN_OTHER)
		new.place = IN_PARENT;
	snprintf(new.leaf, sizeof(new.leaf), "moved%u", cell->n_made++);
	return move_to(cell, &new);
}

static int rename_dir(struct cell *cell, char *leaf, const char *dir)
{
	char from[PATH_SIZE], to[PATH_SIZE];

	if (cell->kind->is_root)
		return not_for(cell, "the root");
	if (cell->kind->is_root_child)
		return not_for(cell, "in the root");
	snprintf(from, sizeof(from), "%.*s/%s", PATH_SIZE - 20, dir, leaf);
	snprintf(leaf, 12, "d%u", cell->n_made++);
	snprintf(to, sizeof(to), "%.*s/%s", PATH_SIZE - 20, dir, leaf);
	if (cell->is_dry)
		return 0;
	return renameat(cell->world->fd, from, cell->world->fd, to) < 0 ? -errno : 0;
}

static int event_rename_parent(struct cell *cell)
{
	char dir[PATH_SIZE];

	place_path(cell, IN_PARENT, dir);
	*strrchr(dir, '/') = '\0';
	return rename_dir(cell, cell->parent, dir);
}

static int event_rename_ancestor(struct cell *cell)
{
	char dir[PATH_SIZE];

	return rename_dir(cell, cell->ancestor, place_path(cell, IN_CELL, dir));
}

static int exchange_with(struct cell *cell, const char *peer)
{
	struct name new = { .place = IN_OTHER };
	char from[PATH_SIZE], to[PATH_SIZE];

	if (cell->kind->is_root)
		return not_for(cell, "the root");
	if (cell->n_names == 0)
		return not_for(cell, "no name");
	snprintf(new.leaf, sizeof(new.leaf), "%s", peer);
	name_path(cell, &cell->names[0], from);
	name_path(cell, &new, to);
	if (strcmp(from, to) == 0)
		return not_for(cell, "exchanged already");
	cell->names[0] = new;
	if (cell->is_dry)
		return 0;
	return renameat2(cell->world->fd, from, cell->world->fd, to, RENAME_EXCHANGE) < 0 ? -errno : 0;
}

static int event_exchange(struct cell *cell)
{
	return exchange_with(cell, is_dir(cell) ? "peerd" : "peerf");
}

static int event_exchange_type(struct cell *cell)
{
	return exchange_with(cell, is_dir(cell) ? "peerf" : "peerd");
}

/* ---- names go ---- */

static int empty_dir(struct cell *cell, const char *path)
{
	int fd, r = 0;
	struct dirent *entry;
	DIR *d;

	cell->has_child = false;
	if (cell->is_dry)
		return 0;
	fd = openat(cell->world->fd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	d = fdopendir(fd);
	if (!d) {
		close(fd);
		return -ENOMEM;
	}
	while (r == 0 && (entry = readdir(d)))
		if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
			r = unlinkat(fd, entry->d_name, 0) < 0 ? -errno : 0;
	closedir(d);
	return r;
}

static int drop_name(struct cell *cell, unsigned at)
{
	char path[PATH_SIZE];
	int r = 0;

	name_path(cell, &cell->names[at], path);
	forget_name(cell, at);
	if (is_dir(cell))
		r = empty_dir(cell, path);
	if (r < 0 || cell->is_dry)
		return r;
	return unlinkat(cell->world->fd, path, is_dir(cell) ? AT_REMOVEDIR : 0) < 0 ? -errno : 0;
}

static int event_unlink_one(struct cell *cell)
{
	return cell->n_names < 2 ? not_for(cell, "no other name") : drop_name(cell, 0);
}

static int event_unlink_other(struct cell *cell)
{
	return cell->n_names < 2 ? not_for(cell, "no other name") : drop_name(cell, cell->n_names - 1);
}

static int event_unlink_last(struct cell *cell)
{
	int r = 0;

	if (cell->kind->is_root)
		return not_for(cell, "the root");
	if (cell->n_names == 0)
		return not_for(cell, "no name");
	while (cell->n_names && r == 0)
		r = drop_name(cell, 0);
	return r;
}

static int event_unlink_open(struct cell *cell)
{
	int flags = is_dir(cell) ? O_RDONLY | O_DIRECTORY : S_ISREG(cell->kind->type) ? O_RDONLY : O_PATH | O_NOFOLLOW;
	char path[PATH_SIZE];
	int r;

	if (!cell->kind->is_root && cell->n_names && !cell->is_dry) {
		name_path(cell, &cell->names[0], path);
		cell->fd = openat(cell->world->fd, path, flags | O_CLOEXEC);
		if (cell->fd < 0)
			return -errno;
	}
	r = event_unlink_last(cell);
	if (r == 0)
		cell->is_open = true;
	return r;
}

static int make_again(struct cell *cell, const char *path)
{
	mode_t type = cell->kind->type;
	int root = cell->world->fd;

	switch (type) {
	case S_IFREG:
		return file_make(root, path, "reborn");
	case S_IFDIR:
		return mkdirat(root, path, 0755) < 0 ? -errno : 0;
	case S_IFLNK:
		return symlinkat("reborn", root, path) < 0 ? -errno : 0;
	default:
		return mknodat(root, path, type | 0644, 0x0102) < 0 ? -errno : 0;
	}
}

static int event_recreate(struct cell *cell)
{
	struct name name = cell->names[0];
	char path[PATH_SIZE];
	int r;

	r = event_unlink_last(cell);
	if (r != 0)
		return r;
	cell->is_reborn = true;
	cell->reborn = name;
	return cell->is_dry ? 0 : make_again(cell, name_path(cell, &name, path));
}

/* Another object is renamed over it: it loses this name. */
static int event_replaced(struct cell *cell)
{
	struct name spare = { .place = IN_OTHER };
	char from[PATH_SIZE], to[PATH_SIZE];
	int r = 0;

	if (cell->kind->is_root)
		return not_for(cell, "the root");
	if (cell->n_names == 0)
		return not_for(cell, "no name");
	snprintf(spare.leaf, sizeof(spare.leaf), "spare%u", cell->n_made++);
	name_path(cell, &spare, from);
	name_path(cell, &cell->names[0], to);
	cell->is_reborn = true;
	cell->reborn = cell->names[0];
	forget_name(cell, 0);
	if (is_dir(cell))
		r = empty_dir(cell, to);
	if (cell->is_dry || r < 0)
		return r;
	r = make_again(cell, from);
	if (r < 0)
		return r;
	return renameat(cell->world->fd, from, cell->world->fd, to) < 0 ? -errno : 0;
}

static int event_close(struct cell *cell)
{
	if (!cell->is_open)
		return not_for(cell, "not open");
	cell_close(cell);
	return 0;
}

const struct event events[] = {
	{ "nothing", LOCAL, NULL },
	{ "drop-caches", DROP_CACHES, NULL },
	{ "remount", REMOUNT, NULL },
	{ "kill", KILL, NULL },
	{ "write", LOCAL, event_write },
	{ "write-by-handle", LOCAL, write_handle },
	{ "chmod", LOCAL, event_chmod },
	{ "fchmod-open", LOCAL, event_fchmod_open },
	{ "link", LOCAL, event_link },
	{ "by-other-name", LOCAL, event_other_name },
	{ "chmod-parent", LOCAL, event_chmod_parent },
	{ "rename", LOCAL, event_rename },
	{ "rename-parent", LOCAL, event_rename_parent },
	{ "rename-ancestor", LOCAL, event_rename_ancestor },
	{ "move", LOCAL, event_move },
	{ "exchange", LOCAL, event_exchange },
	{ "exchange-other-type", LOCAL, event_exchange_type },
	{ "unlink-one", LOCAL, event_unlink_one },
	{ "unlink-another", LOCAL, event_unlink_other },
	{ "unlink-open", LOCAL, event_unlink_open },
	{ "close", LOCAL, event_close },
	{ "unlink-last", LOCAL, event_unlink_last },
	{ "recreate", LOCAL, event_recreate },
	{ "replaced", LOCAL, event_replaced },
};
const unsigned n_events = sizeof(events) / sizeof(events[0]);
