// SPDX-License-Identifier: GPL-2.0-or-later
/* The layers of a case. Names say where an object comes from: l lower, m merged, b born, c copied
 * up, a of which the attributes alone were; of hard links h. */
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "crash.h"

#define OLD_TIME 1000000000 /* tree.c shows such times, and no newer ones */

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
	return remove(path);
}

void world_remove(const char *path)
{
	if (nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS) < 0 && errno != ENOENT)
		die("%s: cannot be removed: %m", path);
}

static void must(int r, const char *what)
{
	if (r < 0)
		die("%s: %m", what);
}

static void make_dir(const char *dir, const char *name)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	must(mkdir(path, 0755), path);
}

static void make_file(const char *dir, const char *name, unsigned size)
{
	char path[PATH_MAX];
	FILE *file;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	file = fopen(path, "wx");
	if (!file)
		die("%s: %m", path);
	for (unsigned i = 0; i < size; i++)
		fputc("0123456789abcdef"[(i / 7 + strlen(name)) % 16], file);
	fclose(file);
	must(chmod(path, 0640), path);
	must(chown(path, 11, 12), path);
}

static void make_node(const char *dir, const char *name, mode_t mode, dev_t dev)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	must(mknod(path, mode, dev), path);
}

static void make_link(const char *dir, const char *from, const char *to)
{
	char a[PATH_MAX], b[PATH_MAX];

	snprintf(a, sizeof(a), "%s/%s", dir, from);
	snprintf(b, sizeof(b), "%s/%s", dir, to);
	must(link(a, b), b);
}

static int make_old(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
	const struct timespec times[2] = { { OLD_TIME, 5 }, { OLD_TIME, 6 } };

	return utimensat(AT_FDCWD, path, times, AT_SYMLINK_NOFOLLOW);
}

static void fill_lower(const char *top, const char *bottom)
{
	static const char *const dirs[] = { "ldir",    "ldir/sub", "ldir2",    "lempty",
					    "lempty2", "mdir",	   "mdir/sub", "memp",
					    "memp2",   "opq",	   "whdir",    "oemp" };
	static const char *const files[] = { "lf",	   "lf0",      "lhs/a",	   "ldir/x",
					     "ldir/sub/y", "ldir2/x",  "mdir/lf2", "memp/w",
					     "memp2/w",	   "opq/gone", "whdir/in", "cu",
					     "chs",	   "white",    "oemp/w",     "a",
					     "as",	   "ldir2/a" };
	char path[PATH_MAX];

	make_dir(bottom, "mdir");
	make_dir(bottom, "ldir");
	make_file(bottom, "mdir/deep", 900);
	make_file(bottom, "ldir/deep", 900);
	for (unsigned i = 0; i < sizeof(dirs) / sizeof(dirs[0]); i++)
		make_dir(top, dirs[i]);
	make_dir(top, "lhs");
	for (unsigned i = 0; i < sizeof(files) / sizeof(files[0]); i++)
		make_file(top, files[i], 300 + 400 * i);
	make_link(top, "lhs/a", "lh1");
	make_link(top, "lhs/a", "lh2");
	make_link(top, "chs", "ch1");
	make_link(top, "chs", "ch2");
	make_node(top, "lfifo", S_IFIFO | 0600, 0);
	make_node(top, "lchr", S_IFCHR | 0600, makedev(1, 3));
	snprintf(path, sizeof(path), "%s/lsym", top);
	must(symlink("lf", path), path);
	snprintf(path, sizeof(path), "%s/lf", top);
	must(setxattr(path, "user.colour", "red", 3, 0), path);
	snprintf(path, sizeof(path), "%s/ldir", top);
	must(setxattr(path, "user.colour", "blue", 4, 0), path);
	must(nftw(top, make_old, 16, FTW_DEPTH | FTW_PHYS), top);
	must(nftw(bottom, make_old, 16, FTW_DEPTH | FTW_PHYS), bottom);
}

void world_make(struct world *world, const char *name)
{
	snprintf(world->dir, sizeof(world->dir), "%.3000s/%.60s", options.base, name);
	snprintf(world->upper, sizeof(world->upper), "%.3100s/upper", world->dir);
	snprintf(world->work, sizeof(world->work), "%.3100s/work", world->dir);
	snprintf(world->mnt, sizeof(world->mnt), "%.3100s/mnt", world->dir);
	snprintf(world->log, sizeof(world->log), "%.3100s/log", world->dir);
	snprintf(world->lower[0], PATH_MAX, "%.3100s/lower0", world->dir);
	snprintf(world->lower[1], PATH_MAX, "%.3100s/lower1", world->dir);
	world_remove(world->dir);
	must(mkdir(world->dir, 0755), world->dir);
	must(mkdir(world->upper, 0755), world->upper);
	must(mkdir(world->work, 0755), world->work);
	must(mkdir(world->mnt, 0755), world->mnt);
	must(mkdir(world->lower[0], 0755), world->lower[0]);
	must(mkdir(world->lower[1], 0755), world->lower[1]);
	fill_lower(world->lower[0], world->lower[1]);
}

int world_setup(const char *mnt)
{
	static const char *const steps[] = {
		"create bf",	  "create bf2",	       "create bh1",
		"link bh1 bh2",	  "mkdir bdir",	       "create bdir/f",
		"mkdir bdir/sub", "create bdir/sub/g", "mkdir bempty",
		"mkdir bempty2",  "symlink bsym bf",   "mkfifo bfifo",
		"mkchr bchr",	  "mkwht bwht",	       "create mdir/bf",
		"unlink white",	  "unlink whdir/in",   "rmdir whdir",
		"unlink memp/w",  "unlink memp2/w",    "unlink opq/gone",
		"rmdir opq",	  "mkdir opq",	       "create opq/f",
		"unlink oemp/w",  "rmdir oemp",	       "mkdir oemp",
		"write cu",	  "write ch1",	       "write bf",
		"write bh1",	  "setxattr bf",       "rename bdir/sub bdir/moved",
		"chown a",	  "setuid as",	       "rename ldir2/a ar",
	};
	int fd = open(mnt, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int r = fd < 0 ? -errno : 0;

	for (unsigned i = 0; r == 0 && i < sizeof(steps) / sizeof(steps[0]); i++) {
		r = step_do(fd, steps[i]);
		if (r < 0)
			complain("setup: %s: %s", steps[i], strerror(-r));
	}
	steps_close();
	if (fd >= 0)
		close(fd);
	return r;
}
