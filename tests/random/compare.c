// SPDX-License-Identifier: GPL-2.0-or-later
/* Compares one object of the mount with its counterpart of the oracle: attributes, number, xattrs, content. */
#include "rnd.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>

enum {
	XATTR_BYTES_MAX = 65536,
	RECENT_SLACK_S = 20, /* both sides act within this time */
};

static void proc_path(char *buf, size_t len, int fd)
{
	snprintf(buf, len, "/proc/self/fd/%d", fd);
}

static bool is_special(mode_t mode)
{
	return !S_ISREG(mode) && !S_ISDIR(mode) && !S_ISLNK(mode);
}

static int compare_mtime(struct world *w, const struct stat *o, const struct stat *m,
			 const char *what)
{
	int64_t os = o->st_mtim.tv_sec, ms = m->st_mtim.tv_sec;

	if (is_special(o->st_mode) || ident_mtime_is_loose(o->st_ino))
		return 0; /* DIFF_SPECIAL_MTIME, DIFF_MMAP_MTIME, DIFF_XFS_RENAME_MTIME */
	if (S_ISDIR(o->st_mode) && o->st_nlink == 0)
		return 0; /* DIFF_DEAD_DIR_MTIME */
	if (os < RND_RECENT_S ? os == ms && o->st_mtim.tv_nsec == m->st_mtim.tv_nsec :
				ms >= os - RECENT_SLACK_S && ms <= os + RECENT_SLACK_S)
		return 0;
	return rnd_fail(w, "mtime", "%s: mtime: oracle %lld.%09ld, mount %lld.%09ld", what,
			(long long)os, o->st_mtim.tv_nsec, (long long)ms, m->st_mtim.tv_nsec);
}

static int compare_nlink(struct world *w, const struct stat *o, const struct stat *m,
			 const char *what)
{
	if (S_ISDIR(o->st_mode) || o->st_nlink == m->st_nlink)
		return 0;
	if (m->st_nlink == o->st_nlink + ident_bias(o->st_ino))
		return 0; /* DIFF_HIDDEN_LINKS */
	if (o->st_nlink == 0 && diff_ok(DIFF_K_UNLINKED_NLINK))
		return 0;
	return rnd_fail(w, "nlink", "%s: nlink: oracle %lu (and %u hidden in layers), mount %lu",
			what, (unsigned long)o->st_nlink, ident_bias(o->st_ino),
			(unsigned long)m->st_nlink);
}

static int compare_stat(struct world *w, const struct stat *o, const struct stat *m,
			const char *what)
{
	static _Atomic dev_t mount_dev;
	dev_t dev = mount_dev;

	if (diff_mode(o->st_mode) != diff_mode(m->st_mode))
		return rnd_fail(w, "mode", "%s: mode: oracle %o, mount %o", what, o->st_mode,
				m->st_mode);
	if (o->st_uid != m->st_uid || o->st_gid != m->st_gid)
		return rnd_fail(w, "owner", "%s: owner: oracle %u:%u, mount %u:%u", what, o->st_uid,
				o->st_gid, m->st_uid, m->st_gid);
	if (!S_ISDIR(o->st_mode) && o->st_size != m->st_size)
		return rnd_fail(w, "size", "%s: size: oracle %lld, mount %lld", what,
				(long long)o->st_size, (long long)m->st_size);
	if (o->st_rdev != m->st_rdev)
		return rnd_fail(w, "rdev", "%s: rdev: oracle %llx, mount %llx", what,
				(unsigned long long)o->st_rdev, (unsigned long long)m->st_rdev);
	if (compare_nlink(w, o, m, what) < 0 || compare_mtime(w, o, m, what) < 0)
		return -1;
	/* One st_dev for all; after a remount it may be another one, and the root is looked at first. */
	if (w->step == 0 || dev == 0)
		mount_dev = dev = m->st_dev;
	if (dev != m->st_dev)
		return rnd_fail(w, "dev", "%s: st_dev %llx, but %llx elsewhere on the mount", what,
				(unsigned long long)m->st_dev, (unsigned long long)dev);
	return 0;
}

/*
 * What the kernel has kept of an object, m, is what the filesystem says when it is asked (but DIFF_BLOCKS of files).
 * Where other threads change things this cannot be told.
 */
static int compare_kept(struct world *w, int mfd, const struct stat *m, const char *what)
{
	struct statx now;

	if (cfg.threads > 1)
		return 0;
	if (statx(mfd, "", AT_EMPTY_PATH | AT_STATX_FORCE_SYNC, STATX_BASIC_STATS, &now) < 0)
		return rnd_fail(w, "stat", "%s: statx on the mount: %m", what);
	if (now.stx_ctime.tv_sec != m->st_ctim.tv_sec || now.stx_ctime.tv_nsec != m->st_ctim.tv_nsec)
		return rnd_fail(w, "kept", "%s: ctime: kept %lld.%09ld, asked for %lld.%09u", what,
				(long long)m->st_ctim.tv_sec, m->st_ctim.tv_nsec,
				(long long)now.stx_ctime.tv_sec, now.stx_ctime.tv_nsec);
	if (now.stx_mtime.tv_sec != m->st_mtim.tv_sec || now.stx_mtime.tv_nsec != m->st_mtim.tv_nsec)
		return rnd_fail(w, "kept", "%s: mtime: kept %lld.%09ld, asked for %lld.%09u", what,
				(long long)m->st_mtim.tv_sec, m->st_mtim.tv_nsec,
				(long long)now.stx_mtime.tv_sec, now.stx_mtime.tv_nsec);
	if (now.stx_mode != m->st_mode || now.stx_nlink != m->st_nlink || now.stx_uid != m->st_uid ||
	    now.stx_gid != m->st_gid || now.stx_size != (uint64_t)m->st_size ||
	    (S_ISDIR(m->st_mode) && now.stx_blocks != (uint64_t)m->st_blocks))
		return rnd_fail(w, "kept",
				"%s: kept, asked for: mode %o %o, links %lu %u, owner %u:%u %u:%u, size %lld %lld, "
				"blocks %lld %lld",
				what, m->st_mode, now.stx_mode, (unsigned long)m->st_nlink, now.stx_nlink,
				m->st_uid, m->st_gid, now.stx_uid, now.stx_gid, (long long)m->st_size,
				(long long)now.stx_size, (long long)m->st_blocks, (long long)now.stx_blocks);
	return 0;
}

static int name_compare(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Splits a list of names, leaves out labels of security modules, sorts. Returns the count. */
static size_t xattr_split(char *list, ssize_t len, char **v, size_t cap)
{
	size_t n = 0;

	for (char *s = list; s < list + len && n < cap; s += strlen(s) + 1)
		if (strcmp(s, "security.selinux"))
			v[n++] = s;
	qsort(v, n, sizeof(*v), name_compare);
	return n;
}

static int compare_xattr_value(struct world *w, const char *op, const char *mp, const char *name,
			       const char *what)
{
	uint8_t *a = w->buf, *b = w->buf2;
	ssize_t n = getxattr(op, name, a, XATTR_BYTES_MAX),
		m = getxattr(mp, name, b, XATTR_BYTES_MAX);

	if (n == m && (n <= 0 || !memcmp(a, b, (size_t)n)))
		return 0;
	return rnd_fail(w, "xattr", "%s: xattr %s: oracle %zd bytes, mount %zd bytes%s", what, name,
			n, m, n == m ? ", other content" : "");
}

static int compare_xattrs(struct world *w, int ofd, int mfd, const char *what)
{
	enum { MAX = 512 };
	char *ov[MAX], *mv[MAX], op[64], mp[64];
	char *ol = malloc(XATTR_BYTES_MAX), *ml = malloc(XATTR_BYTES_MAX);
	size_t on, mn, i;
	ssize_t n, m;
	int r = 0;

	proc_path(op, sizeof(op), ofd);
	proc_path(mp, sizeof(mp), mfd);
	n = ol && ml ? listxattr(op, ol, XATTR_BYTES_MAX) : -1;
	m = ol && ml ? listxattr(mp, ml, XATTR_BYTES_MAX) : -1;
	if (n < 0 || m < 0) {
		r = n == m ? 0 :
			     rnd_fail(w, "xattr", "%s: listxattr: oracle %zd, mount %zd (%m)", what,
				      n, m);
		goto out;
	}
	on = xattr_split(ol, n, ov, MAX);
	mn = xattr_split(ml, m, mv, MAX);
	for (i = 0; i < on && i < mn && !strcmp(ov[i], mv[i]); i++)
		;
	if (i < on || i < mn) {
		r = rnd_fail(w, "xattr",
			     "%s: xattr names: oracle %zu, mount %zu; first to differ: %s, %s",
			     what, on, mn, i < on ? ov[i] : "-", i < mn ? mv[i] : "-");
		goto out;
	}
	for (i = 0; i < on && r == 0; i++)
		r = compare_xattr_value(w, op, mp, ov[i], what);
out:
	free(ol);
	free(ml);
	return r;
}

static int compare_open_data(struct world *w, int o, int m, const char *what)
{
	for (off_t at = 0;;) {
		ssize_t n = pread(o, w->buf, RND_BUF_BYTES, at),
			k = pread(m, w->buf2, RND_BUF_BYTES, at);
		size_t i = 0;

		if (n != k)
			return rnd_fail(w, "data",
					"%s: read at %lld: oracle %zd bytes, mount %zd (%s)", what,
					(long long)at, n, k, k < 0 ? strerror(errno) : "");
		if (n <= 0)
			return 0;
		if (memcmp(w->buf, w->buf2, (size_t)n)) {
			while (w->buf[i] == w->buf2[i])
				i++;
			return rnd_fail(w, "data",
					"%s: content differs at byte %lld: oracle %02x, mount %02x",
					what, (long long)at + (long long)i, w->buf[i], w->buf2[i]);
		}
		at += n;
	}
}

static int compare_data(struct world *w, int ofd, int mfd, const char *what)
{
	char op[64], mp[64];
	int o, m, r;

	proc_path(op, sizeof(op), ofd);
	proc_path(mp, sizeof(mp), mfd);
	o = open(op, O_RDONLY | O_CLOEXEC | O_NOATIME);
	m = open(mp, O_RDONLY | O_CLOEXEC | O_NOATIME);
	if (o < 0 || m < 0)
		r = (o < 0) == (m < 0) ? 0 :
					 rnd_fail(w, "data", "%s: open to read fails: %m", what);
	else
		r = compare_open_data(w, o, m, what);
	if (o >= 0)
		close(o);
	if (m >= 0)
		close(m);
	return r;
}

static int compare_target(struct world *w, int ofd, int mfd, const char *what)
{
	char a[PATH_MAX], b[PATH_MAX];
	ssize_t n = readlinkat(ofd, "", a, sizeof(a)), m = readlinkat(mfd, "", b, sizeof(b));

	if (n == m && n >= 0 && !memcmp(a, b, (size_t)n))
		return 0;
	return rnd_fail(w, "symlink", "%s: target: oracle \"%.*s\", mount \"%.*s\"", what,
			n < 0 ? 0 : (int)n, a, m < 0 ? 0 : (int)m, b);
}

int compare_fds(struct world *w, int ofd, int mfd, const char *what, uint32_t check)
{
	struct stat o, m;

	if (fstat(ofd, &o) < 0)
		return rnd_fail(w, "oracle", "%s: fstat on the oracle: %m", what);
	if (fstat(mfd, &m) < 0)
		return rnd_fail(w, "stat", "%s: fstat on the mount: %m", what);
	if (compare_kept(w, mfd, &m, what) < 0 || compare_stat(w, &o, &m, what) < 0 || ident_check(w, &o, &m, ofd, what) < 0)
		return -1;
	if (S_ISLNK(o.st_mode) && compare_target(w, ofd, mfd, what) < 0)
		return -1;
	if ((check & CHECK_XATTR) && compare_xattrs(w, ofd, mfd, what) < 0)
		return -1;
	if ((check & CHECK_DATA) && S_ISREG(o.st_mode) && compare_data(w, ofd, mfd, what) < 0)
		return -1;
	return 0;
}

int compare_path(struct world *w, const struct op *o, const char *path, uint32_t check)
{
	int obase = o->base < 0 ? w->ora.root : w->ora.fd[o->base];
	int mbase = o->base < 0 ? w->mnt.root : w->mnt.fd[o->base];
	int ofd = openat(obase, path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	int oerr = ofd < 0 ? errno : 0;
	int mfd = openat(mbase, path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	int merr = mfd < 0 ? errno : 0, r = 0;

	if (oerr != merr)
		r = rnd_fail(w, "lookup", "\"%.3000s\": look-up: oracle %s, mount %s", path,
			     strerror(oerr), strerror(merr));
	else if (oerr == 0)
		r = compare_fds(w, ofd, mfd, path, check);
	if (ofd >= 0)
		close(ofd);
	if (mfd >= 0)
		close(mfd);
	return r;
}

/* Content is read through the slot's own descriptors: they must see what was written by other ways. */
int compare_slot(struct world *w, int slot, uint32_t check)
{
	int o = w->ora.fd[slot], m = w->mnt.fd[slot], flags = o < 0 ? 0 : fcntl(o, F_GETFL);
	bool is_readable = !(flags & O_PATH) && (flags & O_ACCMODE) != O_WRONLY;
	char what[32];
	struct stat st;

	snprintf(what, sizeof(what), "fd%d", slot);
	if ((o < 0) != (m < 0))
		return rnd_fail(w, "slot", "%s: open on one side only", what);
	if (o < 0)
		return 0;
	if (compare_fds(w, o, m, what, check & ~(uint32_t)(is_readable ? CHECK_DATA : 0)) < 0)
		return -1;
	if (!is_readable || !(check & CHECK_DATA) || fstat(o, &st) < 0 || !S_ISREG(st.st_mode))
		return 0;
	if (w->slot_rdonly[slot] && diff_ok(DIFF_K_STALE_FD))
		return 0;
	return compare_open_data(w, o, m, what);
}
