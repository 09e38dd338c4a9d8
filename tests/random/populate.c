// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Fills a directory with a random tree to be a layer: files (also sparse), hard links between directories, symlinks,
 * deep directories, xattrs and ACLs, odd modes, devices, fifos, sockets; as an upper layer of a stack also whiteouts
 * and opaque directories. All times are old ones (RND_RECENT_S).
 */
#include "rnd.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

/* No mode to set: a symlink. */
#define NO_MODE ((mode_t)-1)

enum { DEPTH_MAX = 4, LINKS_MAX = 256, DEEP_CHAIN = 12 };

struct populate {
	struct rng rng;
	bool with_whiteouts;
	char *files[LINKS_MAX]; /* owned: paths from the top, for hard links */
	size_t file_count;
	int top;
};

static const mode_t file_modes[] = { 0644, 0644, 0600,	0666,  0777, 0755,
				     0444, 0000, 04755, 02755, 06711 };
static const mode_t dir_modes[] = { 0755, 0755, 0777, 0777, 01777, 02775, 0700, 0000, 0555 };

static int64_t old_time(struct rng *r)
{
	return 1000000000 + (int64_t)rng_below(r, 400000000);
}

/* @path is a magic link, which leads to a symlink itself; symlinks and special files take trusted.* only. */
static int put_xattrs(struct populate *p, const char *path, bool is_dir, bool is_file)
{
	uint8_t buf[256];

	if (rng_chance(&p->rng, 10)) {
		data_fill(buf, 20, rng_next(&p->rng));
		if (setxattr(path, "trusted.rvl", buf, 20, 0) < 0)
			return -errno;
	}
	if (!is_dir && !is_file)
		return 0;
	if (rng_chance(&p->rng, 25)) {
		size_t len = rng_below(&p->rng, 150);

		data_fill(buf, len, rng_next(&p->rng));
		if (setxattr(path, rng_chance(&p->rng, 50) ? "user.a" : "user.\xc3\xbc", buf, len,
			     0) < 0)
			return -errno;
	}
	if (rng_chance(&p->rng, 8)) {
		size_t len = acl_fill(buf, rng_next(&p->rng), 1 + (uint32_t)rng_below(&p->rng, 3));
		const char *name = is_dir && rng_chance(&p->rng, 50) ? "system.posix_acl_default" :
								       "system.posix_acl_access";

		if (setxattr(path, name, buf, len, 0) < 0)
			return -errno;
	}
	return 0;
}

/* Owner, mode, xattrs and times of what is named @name below @dirfd; times last. */
static int finish(struct populate *p, int dirfd, const char *name, mode_t mode)
{
	static const uid_t ids[] = { 0, 0, 1001, 1002 };
	struct stat st;
	char path[64];
	int fd, r;

	if (fchownat(dirfd, name, ids[rng_below(&p->rng, 4)], ids[rng_below(&p->rng, 4)],
		     AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	if (mode != NO_MODE && fchmodat(dirfd, name, mode, 0) < 0)
		return -errno;
	fd = openat(dirfd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	r = fstat(fd, &st) < 0 ? -errno :
				 put_xattrs(p, path, S_ISDIR(st.st_mode), S_ISREG(st.st_mode));
	close(fd);
	return r < 0 ? r : set_times(dirfd, name, old_time(&p->rng));
}

static int put_file(struct populate *p, int dirfd, const char *name)
{
	static const size_t sizes[] = { 0, 1, 100, 4096, 4097, 9000, 70000, 130000 };
	size_t len = sizes[rng_below(&p->rng, 8)];
	static uint8_t buf[130000];
	int fd = openat(dirfd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	int r = 0;

	if (fd < 0)
		return -errno;
	data_fill(buf, len, rng_next(&p->rng));
	if (len && pwrite(fd, buf, len, rng_chance(&p->rng, 20) ? 200000 : 0) < 0)
		r = -errno;
	if (rng_chance(&p->rng, 10) && ftruncate(fd, 300000) < 0)
		r = -errno;
	close(fd);
	return r < 0 ? r : finish(p, dirfd, name, file_modes[rng_below(&p->rng, 11)]);
}

static int put_special(struct populate *p, int dirfd, const char *name)
{
	static const struct {
		mode_t mode;
		unsigned int major, minor;
	} v[] = { { S_IFIFO | 0666, 0, 0 },
		  { S_IFSOCK | 0600, 0, 0 },
		  { S_IFCHR | 0666, 1, 3 },
		  { S_IFBLK | 0640, 120, 3 } };
	size_t i = rng_below(&p->rng, 4);

	if (mknodat(dirfd, name, v[i].mode, makedev(v[i].major, v[i].minor)) < 0)
		return -errno;
	return finish(p, dirfd, name, v[i].mode & 07777);
}

static int put_symlink(struct populate *p, int dirfd, const char *name)
{
	char target[64];

	snprintf(target, sizeof(target), rng_chance(&p->rng, 50) ? "%s" : "%s/b",
		 rnd_names[rng_below(&p->rng, 6)]);
	if (symlinkat(target, dirfd, name) < 0)
		return -errno;
	return finish(p, dirfd, name, NO_MODE);
}

static int put_link(struct populate *p, int dirfd, const char *name)
{
	const char *from;

	if (!p->file_count)
		return put_file(p, dirfd, name);
	from = p->files[rng_below(&p->rng, p->file_count)];
	return linkat(p->top, from, dirfd, name, 0) < 0 ? -errno : 0;
}

static int populate_dir(struct populate *p, int parent, const char *name, const char *path,
			int depth);

static int put_any(struct populate *p, int dirfd, const char *name, const char *path, int depth)
{
	uint64_t dice = rng_below(&p->rng, 100);
	char sub[PATH_MAX];

	snprintf(sub, sizeof(sub), "%s%s%s", path, *path ? "/" : "", name);
	if (p->with_whiteouts && dice < 8)
		return mknodat(dirfd, name, S_IFCHR, makedev(0, 0)) < 0 ? -errno : 0;
	if (dice < 16)
		return put_symlink(p, dirfd, name);
	if (dice < 24)
		return put_special(p, dirfd, name);
	if (dice < 34)
		return put_link(p, dirfd, name);
	if (dice < 65 && depth < DEPTH_MAX)
		return populate_dir(p, dirfd, name, sub, depth + 1);
	if (p->file_count < LINKS_MAX)
		p->files[p->file_count++] = strdup(sub);
	return put_file(p, dirfd, name);
}

static int populate_dir(struct populate *p, int parent, const char *name, const char *path,
			int depth)
{
	int fd, r = 0;

	if (mkdirat(parent, name, 0755) < 0 && errno != EEXIST)
		return -errno;
	fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	for (int i = 0; r >= 0 && i < RND_NAMES; i++)
		if (rng_chance(&p->rng, depth == 0 ? 75 : depth < 3 ? 50 : 30))
			r = put_any(p, fd, rnd_names[i], path, depth);
	if (r >= 0 && depth && p->with_whiteouts && rng_chance(&p->rng, 15) &&
	    fsetxattr(fd, "trusted.overlay.opaque", "y", 1, 0) < 0)
		r = -errno;
	close(fd);
	if (r < 0)
		return r;
	return finish(p, parent, name, depth ? dir_modes[rng_below(&p->rng, 9)] : 0777);
}

static int deep_chain(struct populate *p, int dirfd)
{
	int fd = dup(dirfd), r = 0;

	for (int i = 0; fd >= 0 && i < DEEP_CHAIN; i++) {
		int next;

		if (mkdirat(fd, "deep", 0777) < 0 && errno != EEXIST)
			r = -errno;
		next = openat(fd, "deep", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		close(fd);
		fd = next;
	}
	if (fd < 0)
		return -errno;
	if (r == 0)
		r = put_file(p, fd, "bottom");
	close(fd);
	return r;
}

/* Hard links stay within one top. */
static void forget_files(struct populate *p)
{
	for (size_t i = 0; i < p->file_count; i++)
		free(p->files[i]);
	p->file_count = 0;
}

static int populate_top(struct populate *p, int dirfd, const char *name)
{
	int fd, r;

	forget_files(p);
	if (mkdirat(dirfd, name, 0777) < 0 && errno != EEXIST)
		return -errno;
	p->top = fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	r = populate_dir(p, dirfd, name, "", 0);
	if (r >= 0)
		r = deep_chain(p, fd);
	close(fd);
	forget_files(p);
	return r < 0 ? r : set_times(dirfd, name, old_time(&p->rng));
}

int populate(const char *dir, uint64_t seed, bool with_whiteouts, unsigned int threads)
{
	struct populate p = { .rng = { seed }, .with_whiteouts = with_whiteouts };
	int fd, r = 0;

	umask(0);
	if (threads <= 1)
		return populate_top(&p, AT_FDCWD, dir);
	fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	for (unsigned int i = 0; r >= 0 && i < threads; i++) {
		char sub[16];

		snprintf(sub, sizeof(sub), "t%u", i);
		r = populate_top(&p, fd, sub);
	}
	if (r >= 0 && mkdirat(fd, "shared", 0777) < 0)
		r = -errno;
	close(fd);
	if (r >= 0 && chmod(dir, 0777) < 0)
		r = -errno;
	return r;
}
