// SPDX-License-Identifier: GPL-2.0-or-later
/* Compares whole trees, and takes the fingerprint of a layer. */
#include "rnd.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>

static int list_dir(int dirfd, struct name_list *l)
{
	int fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int r;

	if (fd < 0)
		return -errno;
	r = name_list_read(l, fd, 32768);
	name_list_drop_ghosts(l, fd);
	close(fd);
	name_list_sort(l);
	return r;
}

static void keep_own(struct name_list *l, const char *own)
{
	size_t kept = 0;

	for (size_t i = 0; own && i < l->n; i++)
		if (!strncmp(l->v[i].name, own, strlen(own)))
			l->v[kept++] = l->v[i];
	if (own)
		l->n = kept;
}

static int compare_names(struct world *w, const struct name_list *o, const struct name_list *m,
			 const char *where)
{
	size_t i, j;

	for (i = 0; i + 1 < m->n; i++)
		if (!strcmp(m->v[i].name, m->v[i + 1].name))
			return rnd_fail(w, "readdir", "%s: \"%s\" is listed twice", where,
					m->v[i].name);
	for (i = 0, j = 0; i < o->n || j < m->n; i++, j++) {
		int c = i == o->n ? 1 : j == m->n ? -1 : strcmp(o->v[i].name, m->v[j].name);

		if (c < 0)
			return rnd_fail(w, "readdir", "%s: \"%s\" is missing on the mount", where,
					o->v[i].name);
		if (c > 0)
			return rnd_fail(w, "readdir", "%s: \"%s\" is on the mount only", where,
					m->v[j].name);
	}
	return 0;
}

static int check_entry(struct world *w, int ofd, int mfd, const struct name_entry *e,
		       const char *where)
{
	int o = openat(ofd, e->name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	int m = openat(mfd, e->name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	char *what = NULL;
	struct stat st;
	int r = 0;

	if (asprintf(&what, "%s/%s", where, e->name) < 0)
		abort();
	if (o < 0 || m < 0)
		r = rnd_fail(w, "lookup", "%s: listed, but cannot be opened on the %s: %m", what,
			     o < 0 ? "oracle" : "mount");
	else if (fstat(m, &st) < 0)
		r = rnd_fail(w, "stat", "%s: %m", what);
	else if (e->ino != st.st_ino && !diff_ok(DIFF_K_D_INO))
		r = rnd_fail(w, "d_ino", "%s: d_ino %llu, st_ino %llu", what,
			     (unsigned long long)e->ino, (unsigned long long)st.st_ino);
	else if (e->type != IFTODT(st.st_mode))
		r = rnd_fail(w, "d_type", "%s: d_type %u, mode %o", what, e->type, st.st_mode);
	else
		r = compare_fds(w, o, m, what, CHECK_ALL);
	w->objects++;
	if (r == 0 && S_ISDIR(st.st_mode))
		r = tree_check(w, o, m, what, NULL);
	if (o >= 0)
		close(o);
	if (m >= 0)
		close(m);
	free(what);
	return r;
}

int tree_check(struct world *w, int ofd, int mfd, const char *where, const char *own)
{
	struct name_list o = { 0 }, m = { 0 };
	int a = list_dir(ofd, &o), b = list_dir(mfd, &m), r = 0;

	keep_own(&o, own);
	keep_own(&m, own);
	if (a < 0 || b < 0)
		r = rnd_fail(w, "readdir", "%s: list: oracle %s, mount %s", where, strerror(-a),
			     strerror(-b));
	else
		r = compare_names(w, &o, &m, where);
	for (size_t i = 0; r == 0 && i < m.n; i++)
		r = check_entry(w, ofd, mfd, &m.v[i], where);
	name_list_free(&o);
	name_list_free(&m);
	return r;
}

/* ---- fingerprint ---- */

static int hash_object(int fd, uint64_t *h)
{
	static uint8_t buf[1 << 16];
	char path[64], list[4096];
	struct stat st;
	ssize_t n;
	int f;

	if (fstat(fd, &st) < 0)
		return -errno;
	/* ctime as well: a layer must not even be touched; atime too where the filesystem keeps it */
	const int64_t v[] = { (int64_t)st.st_ino, st.st_mode,		st.st_uid,
			      st.st_gid,	  (int64_t)st.st_nlink, (int64_t)st.st_rdev,
			      st.st_mtim.tv_sec,  st.st_mtim.tv_nsec,	st.st_ctim.tv_sec,
			      st.st_ctim.tv_nsec };

	*h = data_hash(*h, v, sizeof(v));
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	n = listxattr(path, list, sizeof(list));
	for (char *s = list; n > 0 && s < list + n; s += strlen(s) + 1) {
		ssize_t k = getxattr(path, s, buf, sizeof(buf));

		*h = data_hash(*h, s, strlen(s));
		*h = data_hash(*h, buf, k > 0 ? (size_t)k : 0);
	}
	if (!S_ISREG(st.st_mode))
		return 0;
	f = open(path, O_RDONLY | O_NOATIME | O_CLOEXEC);
	if (f < 0)
		return -errno;
	while ((n = read(f, buf, sizeof(buf))) > 0)
		*h = data_hash(*h, buf, (size_t)n);
	close(f);
	return 0;
}

int tree_fingerprint(int dirfd, uint64_t *ret_hash)
{
	struct name_list l = { 0 };
	int r = hash_object(dirfd, ret_hash);

	if (r == 0)
		r = list_dir(dirfd, &l);
	for (size_t i = 0; r >= 0 && i < l.n; i++) {
		int fd = openat(dirfd, l.v[i].name, O_PATH | O_NOFOLLOW | O_CLOEXEC);

		*ret_hash = data_hash(*ret_hash, l.v[i].name, strlen(l.v[i].name));
		if (fd < 0)
			r = -errno;
		else
			r = l.v[i].type == DT_DIR ? tree_fingerprint(fd, ret_hash) :
						    hash_object(fd, ret_hash);
		if (fd >= 0)
			close(fd);
	}
	name_list_free(&l);
	return r < 0 ? r : 0;
}
