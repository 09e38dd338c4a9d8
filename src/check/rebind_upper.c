// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Rebind, the walk of upper. The stamp of a name says which object it is, its entry should be that
 * inode (or lead to that directory):
 *
 *   no entry                     the index lost it: it is made
 *   entry is another inode       a copy without hard links: if both are equal the name becomes a
 *                                link of the entry. Names that are not equal wait for the end of
 *                                the walk: if then no name is the entry's, the first of them becomes the
 *                                object, and what the entry had goes to lost+found
 *   entry of a directory         path and handle are written anew where they differ
 *
 * Each change is one link or rename. The times of directories are put back.
 */
#include "check/rebind_private.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <search.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/array.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/stop.h"
#include "check/data.h"
#include "check/mend.h"
#include "index/entry.h"
#include "index/stamp.h"
#include "layer/merge.h"
#include "layer/path.h"

#define DIRECTORIES_MAX (1 << 24)
#define PROGRESS_NAMES 1000 /* between two calls of progress */
#define LOST_MAX 100 /* names that are tried */

struct dir {
	uint64_t number;
	char *path; /* owned */
};

/* A name whose contents are not those of its entry. */
struct unequal {
	uint64_t number;
	char *path; /* owned */
};

struct walk {
	struct rvl_check_rebind *rb;
	struct dir *waiting; /* owned, and their paths; not walked yet */
	size_t n, size;
	struct unequal *unequal; /* owned, and their paths */
	size_t n_unequal, unequal_size;
	/* the directory that is being walked */
	struct dir dir;
	int fd;
	bool is_changed;
	uint64_t n_names;
};

/* ---- directories by number ---- */

static int compare_dirs(const void *pa, const void *pb)
{
	const struct dir *a = pa, *b = pb;

	return a->number < b->number ? -1 : a->number > b->number;
}

static void free_dir(void *p)
{
	struct dir *dir = p;

	free(dir->path);
	free(dir);
}

void rvl_rebind_upper_release(struct rvl_check_rebind *rb)
{
	tdestroy(rb->dirs, free_dir);
	rb->dirs = NULL;
}

const char *rvl_rebind_upper_path(const struct rvl_check_rebind *rb, uint64_t number)
{
	const struct dir key = { .number = number };
	struct dir **found = tfind(&key, &rb->dirs, compare_dirs);

	return found ? (*found)->path : NULL;
}

int rvl_rebind_upper_add(struct rvl_check_rebind *rb, uint64_t number, const char *path)
{
	struct dir *dir = calloc(1, sizeof(*dir)), **there;

	if (!dir)
		return -ENOMEM;
	dir->number = number;
	dir->path = strdup(path);
	there = dir->path ? tsearch(dir, &rb->dirs, compare_dirs) : NULL;
	if (!there || *there != dir)
		free_dir(dir);
	return there ? 0 : -ENOMEM;
}

/* number 0: it has none that counts. Takes the path over. */
static int push(struct walk *walk, uint64_t number, char *path)
{
	int r = !path ? -ENOMEM : number ? rvl_rebind_upper_add(walk->rb, number, path) : 0;

	r = r	  ?:
		    rvl_array_reserve(&walk->waiting, &walk->size, walk->n, sizeof(*walk->waiting),
				      DIRECTORIES_MAX);
	if (r) {
		free(path);
		return r;
	}
	walk->waiting[walk->n++] = (struct dir){ .number = number, .path = path };
	return 0;
}

static char *path_of(const struct walk *walk, const char *name)
{
	return rvl_path_join(walk->dir.path, name);
}

static void tell(struct walk *walk, enum rvl_rebind_told what, uint64_t number, const char *name)
{
	_cleanup_free_ char *path = path_of(walk, name);

	rvl_rebind_tell(walk->rb, what, number, path);
}

/* ---- are they equal? ---- */

static int is_equal_data(int a_dirfd, const char *a, int b_dirfd, const char *b)
{
	_cleanup_close_ int a_fd = rvl_path_open_noatime(a_dirfd, a, O_RDONLY);
	_cleanup_close_ int b_fd = rvl_path_open_noatime(b_dirfd, b, O_RDONLY);

	if (a_fd < 0 || b_fd < 0)
		return a_fd < 0 ? a_fd : b_fd;
	return rvl_is_same_data(a_fd, b_fd);
}

static int is_equal_target(int a_dirfd, const char *a, int b_dirfd, const char *b)
{
	char a_target[PATH_MAX], b_target[PATH_MAX];
	_cleanup_close_ int a_fd = rvl_path_open(a_dirfd, a, O_PATH, 0);
	_cleanup_close_ int b_fd = rvl_path_open(b_dirfd, b, O_PATH, 0);
	ssize_t n, m;

	if (a_fd < 0 || b_fd < 0)
		return a_fd < 0 ? a_fd : b_fd;
	n = readlinkat(a_fd, "", a_target, sizeof(a_target));
	m = n < 0 ? -1 : readlinkat(b_fd, "", b_target, sizeof(b_target));
	if (n < 0 || m < 0)
		return -errno;
	return n == m && !memcmp(a_target, b_target, (size_t)n);
}

int rvl_rebind_is_equal(const struct rvl_stack *stack, int a_dirfd, const char *a, int b_dirfd,
			const char *b)
{
	struct statx x, y;
	int r = rvl_path_statx(a_dirfd, a, RVL_STATX_MASK, &x);

	r = r ?: rvl_path_statx(b_dirfd, b, RVL_STATX_MASK, &y);
	if (r)
		return r;
	if (x.stx_mode != y.stx_mode || x.stx_uid != y.stx_uid || x.stx_gid != y.stx_gid)
		return 0;
	switch (x.stx_mode & S_IFMT) {
	case S_IFREG:
		if (x.stx_size != y.stx_size)
			return 0;
		r = rvl_metacopy_get(stack, a_dirfd, a);
		if (r >= 0)
			r = r == rvl_metacopy_get(stack, b_dirfd, b);
		return r <= 0 ? r : is_equal_data(a_dirfd, a, b_dirfd, b);
	case S_IFLNK:
		return is_equal_target(a_dirfd, a, b_dirfd, b);
	case S_IFDIR:
		return 0;
	default:
		return x.stx_rdev_major == y.stx_rdev_major && x.stx_rdev_minor == y.stx_rdev_minor;
	}
}

/* ---- one name ---- */

static bool is_dry(const struct walk *walk)
{
	return walk->rb->config->is_dry_run;
}

/* Make a name a link of the entry: one rename over it. */
static int link_to_entry(struct rvl_index *index, uint64_t number, int dirfd, const char *name)
{
	char temp[RVL_TEMP_NAME_SIZE], entry[RVL_ENTRY_PATH_SIZE];

	rvl_entry_path(number, entry);
	rvl_index_temp_name(index, temp);
	if (linkat(index->inodes_fd, entry, index->temp_fd, temp, 0))
		return -errno;
	if (renameat(index->temp_fd, temp, dirfd, name)) {
		int r = -errno;

		unlinkat(index->temp_fd, temp, 0);
		return r;
	}
	return 0;
}

static int keep_unequal(struct walk *walk, uint64_t number, const char *name)
{
	struct unequal *unequal;
	int r = rvl_array_reserve(&walk->unequal, &walk->unequal_size, walk->n_unequal,
				  sizeof(*walk->unequal), DIRECTORIES_MAX);

	if (r)
		return r;
	unequal = &walk->unequal[walk->n_unequal];
	unequal->number = number;
	unequal->path = path_of(walk, name);
	if (!unequal->path)
		return -ENOMEM;
	walk->n_unequal++;
	return 0;
}

static int make_entry(struct walk *walk, const char *name, uint64_t number)
{
	walk->rb->result->n_entries++;
	return is_dry(walk) ? 0 : rvl_entry_link(walk->rb->index, walk->fd, name, number);
}

static int take_object(struct walk *walk, const char *name, const struct statx *st, uint64_t number)
{
	struct rvl_index *index = walk->rb->index;
	char path[RVL_ENTRY_PATH_SIZE];
	enum rvl_entry_kind kind;
	struct statx entry;
	int r = rvl_entry_look(index, number, &kind, &entry);

	if (r == -EUCLEAN) /* for check to tell, which can mend it */
		return 0;
	if (r || (kind == RVL_ENTRY_OBJECT && entry.stx_ino == st->stx_ino))
		return r;
	if (kind == RVL_ENTRY_NONE)
		return make_entry(walk, name, number);
	if (kind != RVL_ENTRY_OBJECT) {
		tell(walk, RVL_TOLD_DEAD, number, name);
		return 0;
	}
	rvl_entry_path(number, path);
	r = rvl_rebind_is_equal(index->stack, index->inodes_fd, path, walk->fd, name);
	if (r <= 0)
		return r ?: keep_unequal(walk, number, name);
	walk->rb->result->n_linked++;
	walk->is_changed = true;
	return is_dry(walk) ? 0 : link_to_entry(index, number, walk->fd, name);
}

static int take_directory(struct walk *walk, const char *name, uint64_t number)
{
	struct rvl_entry_directory entry;
	struct rvl_handle handle;
	int r = rvl_entry_get_directory(walk->rb->index, number, &entry);

	if (r == -ENOENT || r == -EUCLEAN) /* for check to tell, which can mend it */
		return 0;
	if (r)
		return r;
	rvl_handle_for_entry(walk->fd, name, &handle);
	if (handle.len == entry.upper.len &&
	    (!handle.len || rvl_handle_equal(&handle, &entry.upper)) &&
	    entry.path.parent == walk->dir.number && !strcmp(entry.path.name, name))
		return 0;
	entry.upper = handle;
	if (walk->dir.number) {
		entry.path.parent = walk->dir.number;
		snprintf(entry.path.name, sizeof(entry.path.name), "%s", name);
	}
	walk->rb->result->n_entries++;
	return is_dry(walk) ? 0 : rvl_entry_put_directory(walk->rb->index, number, &entry, true);
}

static int take_name(struct walk *walk, const char *name)
{
	struct rvl_index *index = walk->rb->index;
	bool is_dir;
	struct rvl_id id = { 0 };
	struct statx st;
	int r = rvl_path_statx(walk->fd, name, RVL_STATX_MASK, &st);

	if (r)
		return r == -ENOENT ? 0 : r;
	r = rvl_whiteout_check(index->stack, walk->fd, name, &st, true);
	if (r)
		return r < 0 ? r : 0;
	walk->rb->result->n_upper++;
	is_dir = S_ISDIR(st.stx_mode);
	r = rvl_stamp_get(index, walk->fd, name, st.stx_mode, st.stx_ino, &id);
	if (r && r != -ENODATA && r != -EUCLEAN)
		return r;
	if (r || id.number == RVL_NUMBER_ROOT)
		id.number = 0;
	r = 0;
	if (id.number)
		r = is_dir ? take_directory(walk, name, id.number) :
			     take_object(walk, name, &st, id.number);
	return r || !is_dir ? r : push(walk, id.number, path_of(walk, name));
}

/* ---- one directory ---- */

static int tick(struct walk *walk)
{
	const struct rvl_check_rebind_config *config = walk->rb->config;

	if (++walk->n_names % PROGRESS_NAMES == 0 && config->progress)
		config->progress(config->arg, walk->n_names);
	return rvl_stop_check(config->stop);
}

static int walk_names(struct walk *walk)
{
	_cleanup_closedir_ DIR *dir = NULL;
	const struct dirent *entry;
	int r = rvl_dir_stream(rvl_fd_reopen(walk->fd, O_RDONLY | O_DIRECTORY), &dir);

	while (!r && (r = rvl_dir_next(dir, &entry)) > 0)
		r = tick(walk) ?: take_name(walk, entry->d_name);
	return r;
}

static int walk_directory(struct walk *walk)
{
	int upper_fd = rvl_stack_upper(walk->rb->config->stack)->fd, r;
	_cleanup_close_ int fd = rvl_path_open(upper_fd, walk->dir.path, O_PATH | O_DIRECTORY, 0);
	struct statx st;

	if (fd < 0)
		return fd;
	walk->fd = fd;
	walk->is_changed = false;
	r = rvl_path_statx(fd, "", RVL_STATX_MASK, &st);
	r = r ?: walk_names(walk);
	if (walk->is_changed && !is_dry(walk))
		rvl_fd_restore_times(fd, &st);
	return r;
}

/* ---- names that are not equal to their entries ---- */

static int open_lost(struct walk *walk, bool is_made)
{
	int upper_fd = rvl_stack_upper(walk->rb->config->stack)->fd;

	char name[sizeof(RVL_LOST_NAME) + 12] = RVL_LOST_NAME;

	/* something else may have the name: a whiteout, say */
	for (unsigned i = 1;; i++) {
		int fd;

		if (is_made && mkdirat(upper_fd, name, 0700) && errno != EEXIST)
			return -errno;
		fd = rvl_path_open(upper_fd, name, O_PATH | O_DIRECTORY, 0);
		if ((fd != -ENOTDIR && fd != -ELOOP) || i == LOST_MAX)
			return fd;
		snprintf(name, sizeof(name), "%s.%u", RVL_LOST_NAME, i);
	}
}

/*
 * The name in lost+found for what an entry has: 1 if it is there already, from a run that died; 0 if it
 * is free.
 */
static int lost_name(int lost_fd, uint64_t number, const struct statx *entry, char ret[NAME_MAX + 1])
{
	char path[RVL_ENTRY_PATH_SIZE];
	struct statx st;
	int r;

	rvl_entry_path(number, path);
	snprintf(ret, NAME_MAX + 1, "%s", strchr(path, '#'));
	for (unsigned i = 1; (r = rvl_path_statx(lost_fd, ret, RVL_STATX_MASK, &st)) == 0; i++) {
		if (st.stx_ino == entry->stx_ino)
			return 1;
		snprintf(ret, NAME_MAX + 1, "%s.%u", strchr(path, '#'), i);
	}
	return r == -ENOENT ? 0 : r;
}

/* Is there a name beside that in lost+found? */
static int has_names(struct walk *walk, uint64_t number, const struct statx *entry)
{
	_cleanup_close_ int lost = open_lost(walk, false);
	char name[NAME_MAX + 1];
	int r = lost == -ENOENT ? 0 : lost < 0 ? lost : lost_name(lost, number, entry, name);

	return r < 0 ? r : entry->stx_nlink > (r ? 2 : 1);
}

static int remove_stamp(struct rvl_index *index, int dirfd, const char *name)
{
	static const enum rvl_xattr ours[] = { RVL_XATTR_PLACE, RVL_XATTR_ORIGIN, RVL_XATTR_NLINK,
					       RVL_XATTR_INO };
	struct statx st;
	int r = rvl_path_statx(dirfd, name, RVL_STATX_MASK, &st);

	for (unsigned i = 0; !r && i < sizeof(ours) / sizeof(ours[0]); i++) {
		r = rvl_upper_xattr_remove(index, dirfd, name, st.stx_mode, st.stx_ino, ours[i]);
		if (r == -ENODATA)
			r = 0;
	}
	return r;
}

/* No name is the entry's: what it has is kept in lost+found, and this name is the object. */
static int replace_entry(struct walk *walk, uint64_t number, const struct statx *entry, int dirfd,
			 const char *name)
{
	struct rvl_index *index = walk->rb->index;
	_cleanup_close_ int lost = open_lost(walk, true);
	char path[RVL_ENTRY_PATH_SIZE], kept[NAME_MAX + 1];
	int r = lost < 0 ? lost : lost_name(lost, number, entry, kept);

	rvl_entry_path(number, path);
	if (r == 0 && linkat(index->inodes_fd, path, lost, kept, 0))
		r = -errno;
	if (r < 0)
		return r;
	r = remove_stamp(index, lost, kept);
	r = r ?: rvl_entry_bury(index, number, false);
	return r ?: rvl_entry_link(index, dirfd, name, number);
}

static int settle_unequal(struct walk *walk, const struct unequal *unequal)
{
	const char *name = strrchr(unequal->path, '/');
	_cleanup_free_ char *dir =
		strndup(unequal->path, name ? (size_t)(name - unequal->path) : 0);
	int upper_fd = rvl_stack_upper(walk->rb->config->stack)->fd, r;
	_cleanup_close_ int fd = -EBADF;
	char path[RVL_ENTRY_PATH_SIZE];
	struct rvl_index *index = walk->rb->index;
	enum rvl_entry_kind kind;
	struct statx entry;

	name = name ? name + 1 : unequal->path;
	if (!dir)
		return -ENOMEM;
	fd = rvl_path_open(upper_fd, dir, O_PATH | O_DIRECTORY, 0);
	r = fd < 0 ? fd : rvl_entry_look(index, unequal->number, &kind, &entry);
	if (r)
		return r;
	rvl_entry_path(unequal->number, path);
	/* equal to a name that has become the object by now? */
	r = rvl_rebind_is_equal(index->stack, index->inodes_fd, path, fd, name);
	if (r < 0)
		return r;
	if (r > 0) {
		walk->rb->result->n_linked++;
		return is_dry(walk) ? 0 : link_to_entry(index, unequal->number, fd, name);
	}
	rvl_rebind_tell(walk->rb, RVL_TOLD_UNEQUAL, unequal->number, unequal->path);
	if (is_dry(walk))
		return 0;
	r = has_names(walk, unequal->number, &entry);
	if (r < 0)
		return r;
	return r ? remove_stamp(index, fd, name) :
		   replace_entry(walk, unequal->number, &entry, fd, name);
}

static int walk_all(struct walk *walk)
{
	int r = push(walk, RVL_NUMBER_ROOT, strdup(""));

	while (!r && walk->n) {
		walk->dir = walk->waiting[--walk->n];
		r = walk_directory(walk);
		if (r && r != -ECANCELED)
			rvl_error("upperdir=%s: /%s cannot be read: %s",
				  rvl_stack_upper(walk->rb->config->stack)->path, walk->dir.path,
				  strerror(-r));
		free(walk->dir.path);
	}
	for (size_t i = 0; !r && i < walk->n_unequal; i++)
		r = rvl_stop_check(walk->rb->config->stop) ?: settle_unequal(walk, &walk->unequal[i]);
	return r;
}

int rvl_rebind_upper(struct rvl_check_rebind *rb)
{
	struct walk walk = { .rb = rb };
	int r = walk_all(&walk);

	while (walk.n)
		free(walk.waiting[--walk.n].path);
	while (walk.n_unequal)
		free(walk.unequal[--walk.n_unequal].path);
	free(walk.waiting);
	free(walk.unequal);
	return r;
}
