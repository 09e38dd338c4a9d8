// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Builds the oracle: the merged view of a stack of layers as a plain tree, by the rules of the overlay format
 * (Linux Documentation/filesystems/overlayfs.rst) and independent of any overlay: topmost name wins, a directory merges
 * with those of the same name below it until something else, a whiteout or an opaque directory ends it.
 */
#include "rnd.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

struct link_seen {
	dev_t dev;
	ino_t ino;
	nlink_t nlink, seen;
	char *path; /* owned: first name in the oracle */
};

struct merge {
	int root; /* the oracle */
	struct link_seen *links; /* owned */
	size_t link_count;
};

static void proc_path(char *buf, int fd)
{
	snprintf(buf, 64, "/proc/self/fd/%d", fd);
}

static bool is_whiteout(const struct stat *st)
{
	return S_ISCHR(st->st_mode) && st->st_rdev == makedev(0, 0);
}

static bool is_opaque(int fd)
{
	char path[64], v = 0;

	proc_path(path, fd);
	return getxattr(path, "trusted.overlay.opaque", &v, 1) == 1 && v == 'y';
}

static int copy_xattrs(int from, int to)
{
	char fp[64], tp[64], list[8192], value[65536];
	ssize_t n;

	proc_path(fp, from);
	proc_path(tp, to);
	n = listxattr(fp, list, sizeof(list));
	if (n < 0)
		return errno == EOPNOTSUPP ? 0 : -errno;
	for (char *s = list; s < list + n; s += strlen(s) + 1) {
		ssize_t k;

		if (!strncmp(s, "trusted.overlay.", 16) || !strcmp(s, "security.selinux"))
			continue;
		k = getxattr(fp, s, value, sizeof(value));
		if (k < 0 || setxattr(tp, s, value, (size_t)k, 0) < 0)
			return -errno;
	}
	return 0;
}

static int copy_data(int from, int to)
{
	static char buf[1 << 16];
	char fp[64], tp[64];
	int f, t, r = 0;
	ssize_t n;

	proc_path(fp, from);
	proc_path(tp, to);
	f = open(fp, O_RDONLY | O_CLOEXEC | O_NOATIME);
	t = open(tp, O_WRONLY | O_CLOEXEC);
	if (f < 0 || t < 0)
		r = -errno;
	while (r == 0 && (n = read(f, buf, sizeof(buf))) > 0)
		if (write(t, buf, (size_t)n) != n)
			r = -errno;
	if (f >= 0)
		close(f);
	if (t >= 0)
		close(t);
	return r;
}

/* All but the type and the content. */
static int copy_attributes(int from, int dirfd, const char *name, const struct stat *st)
{
	const struct timespec ts[2] = { st->st_atim, st->st_mtim };
	int to = openat(dirfd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	char path[64];
	int r;

	if (to < 0)
		return -errno;
	proc_path(path, to);
	r = fchownat(dirfd, name, st->st_uid, st->st_gid, AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
	if (r == 0 && !S_ISLNK(st->st_mode) && chmod(path, st->st_mode & 07777) < 0)
		r = -errno;
	if (r == 0)
		r = copy_xattrs(from, to);
	if (r == 0 && utimensat(dirfd, name, ts, AT_SYMLINK_NOFOLLOW) < 0)
		r = -errno;
	close(to);
	return r;
}

/* 1: linked to an earlier name; 0: to be copied. */
static int link_earlier(struct merge *g, const struct stat *st, int dirfd, const char *name,
			const char *path)
{
	struct link_seen *l;

	if (st->st_nlink < 2)
		return 0;
	for (size_t i = 0; i < g->link_count; i++) {
		l = &g->links[i];
		if (l->dev != st->st_dev || l->ino != st->st_ino)
			continue;
		l->seen++;
		return linkat(g->root, l->path, dirfd, name, 0) < 0 ? -errno : 1;
	}
	l = reallocarray(g->links, g->link_count + 1, sizeof(*l));
	if (!l)
		return -ENOMEM;
	g->links = l;
	l[g->link_count++] =
		(struct link_seen){ st->st_dev, st->st_ino, st->st_nlink, 1, strdup(path) };
	return 0;
}

static int copy_object(struct merge *g, int from, const struct stat *st, int dirfd,
		       const char *name, const char *path)
{
	char target[PATH_MAX];
	int r = link_earlier(g, st, dirfd, name, path), to;
	ssize_t n;

	if (r != 0)
		return r < 0 ? r : 0;
	if (S_ISLNK(st->st_mode)) {
		n = readlinkat(from, "", target, sizeof(target) - 1);
		if (n < 0)
			return -errno;
		target[n] = 0;
		if (symlinkat(target, dirfd, name) < 0)
			return -errno;
	} else if (mknodat(dirfd, name, (st->st_mode & S_IFMT) | 0600, st->st_rdev) < 0) {
		return -errno;
	}
	if (S_ISREG(st->st_mode)) {
		to = openat(dirfd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
		r = to < 0 ? -errno : copy_data(from, to);
		if (to >= 0)
			close(to);
	}
	return r < 0 ? r : copy_attributes(from, dirfd, name, st);
}

static int merge_dir(struct merge *g, const int *layers, size_t n, int dst, const char *path);

/* One name over all layers of its directory. */
static int merge_name(struct merge *g, const int *layers, size_t n, int dst, const char *path,
		      const char *name)
{
	int below[RND_LAYERS_MAX], r = 0, to;
	struct stat top = { 0 }, st;
	char *sub = NULL;
	size_t count = 0;

	for (size_t i = 0; i < n; i++) {
		int fd = openat(layers[i], name, O_PATH | O_NOFOLLOW | O_CLOEXEC);

		if (fd < 0 || fstat(fd, &st) < 0) {
			if (fd >= 0)
				close(fd);
			continue;
		}
		if (is_whiteout(&st) || (count && !S_ISDIR(st.st_mode))) {
			close(fd);
			break;
		}
		if (!count)
			top = st;
		below[count++] = fd;
		if (!S_ISDIR(st.st_mode) || is_opaque(fd))
			break;
	}
	if (count == 0)
		return 0;
	if (asprintf(&sub, "%s%s%s", path, *path ? "/" : "", name) < 0)
		return -ENOMEM;
	if (!S_ISDIR(top.st_mode)) {
		r = copy_object(g, below[0], &top, dst, name, sub);
	} else if (mkdirat(dst, name, 0700) < 0) {
		r = -errno;
	} else {
		to = openat(dst, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		r = to < 0 ? -errno : merge_dir(g, below, count, to, sub);
		if (to >= 0)
			close(to);
		if (r == 0)
			r = copy_attributes(below[0], dst, name, &top);
	}
	if (r < 0)
		fprintf(stderr, "rvl-random: merge of %s: %s\n", sub, strerror(-r));
	for (size_t i = 0; i < count; i++)
		close(below[i]);
	free(sub);
	return r;
}

static int merge_dir(struct merge *g, const int *layers, size_t n, int dst, const char *path)
{
	struct name_list l = { 0 };
	int r = 0;

	for (size_t i = 0; i < n && r >= 0; i++) {
		int fd = openat(layers[i], ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

		r = fd < 0 ? -errno : name_list_read(&l, fd, 32768);
		if (fd >= 0)
			close(fd);
	}
	name_list_sort(&l);
	for (size_t i = 0; i < l.n && r >= 0; i++)
		if (i == 0 || strcmp(l.v[i].name, l.v[i - 1].name))
			r = merge_name(g, layers, n, dst, path, l.v[i].name);
	name_list_free(&l);
	return r < 0 ? r : 0;
}

static void note_hidden_links(struct merge *g)
{
	struct stat st;

	for (size_t i = 0; i < g->link_count; i++) {
		struct link_seen *l = &g->links[i];

		if (l->seen < l->nlink && fstatat(g->root, l->path, &st, AT_SYMLINK_NOFOLLOW) == 0)
			ident_set_bias(st.st_ino, (unsigned int)(l->nlink - l->seen));
		free(l->path);
	}
	free(g->links);
}

int merge_layers(const char *const *layers, size_t n, const char *dst)
{
	int fds[RND_LAYERS_MAX], r = 0;
	struct merge g = { 0 };
	struct stat st;
	size_t i;

	umask(0);
	for (i = 0; i < n && r == 0; i++) {
		fds[i] = open(layers[i], O_PATH | O_DIRECTORY | O_CLOEXEC);
		if (fds[i] < 0) {
			r = -errno;
			break;
		}
	}
	g.root = open(dst, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (g.root < 0)
		r = -errno;
	if (r == 0)
		r = merge_dir(&g, fds, n, g.root, "");
	if (r == 0 && fstat(fds[0], &st) == 0)
		r = copy_attributes(fds[0], AT_FDCWD, dst, &st);
	note_hidden_links(&g);
	while (i > 0)
		close(fds[--i]);
	if (g.root >= 0)
		close(g.root);
	return r;
}
