// SPDX-License-Identifier: GPL-2.0-or-later
/* Steps: one line of words each, one change of the overlay each. */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "crash.h"

#define WORDS_MAX 4

static int kept_fd = -1; /* of "open" and "tmpfile", for the steps that follow */

void steps_close(void)
{
	if (kept_fd >= 0)
		close(kept_fd);
	kept_fd = -1;
}

unsigned steps_count(const char *list)
{
	unsigned n = 1;

	for (; (list = strchr(list, ';')); list++)
		n++;
	return n;
}

void step_get(const char *list, unsigned i, char *ret, size_t size)
{
	while (i-- > 0)
		list = strchr(list, ';') + 1;
	list += strspn(list, " ");
	snprintf(ret, size, "%.*s", (int)strcspn(list, ";"), list);
}

static int result(int r)
{
	return r < 0 ? -errno : 0;
}

static int close_after(int fd, int r)
{
	r = result(r);
	close(fd);
	return r;
}

/* Data are the server's when fsync has said so: until then the kernel may keep them. */
static int write_at(int fd, off_t offset, const char *text)
{
	ssize_t n = pwrite(fd, text, strlen(text), offset);

	if (n < 0)
		return -errno;
	return result(fsync(fd));
}

static int on_file(int dirfd, const char *step, char **words)
{
	int flags = strcmp(step, "opentrunc") == 0 ? O_WRONLY | O_TRUNC : O_RDWR;
	int fd = openat(dirfd, words[1], flags | O_CLOEXEC | O_NOFOLLOW), from, r;

	if (fd < 0)
		return -errno;
	if (strcmp(step, "opentrunc") == 0 || strcmp(step, "openwrite") == 0)
		return close_after(fd, 0);
	if (strcmp(step, "falloc") == 0)
		return close_after(fd, fallocate(fd, 0, 0, 20000));
	if (strcmp(step, "punch") == 0)
		return close_after(fd, fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
						 200));
	if (strcmp(step, "copyrange") == 0) {
		from = openat(dirfd, words[2], O_RDONLY | O_CLOEXEC);
		r = (int)copy_file_range(from, NULL, fd, NULL, 100, 0);
		close(from);
		return close_after(fd, r < 0 ? r : fsync(fd));
	}
	r = write_at(fd, 10, "written by a step");
	close(fd);
	return r;
}

static int on_flags(int dirfd, const char *name, unsigned add)
{
	int fd = openat(dirfd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	unsigned flags;

	if (fd < 0)
		return -errno;
	if (ioctl(fd, FS_IOC_GETFLAGS, &flags) < 0)
		return close_after(fd, -1);
	flags |= add;
	return close_after(fd, ioctl(fd, FS_IOC_SETFLAGS, &flags));
}

/* By path, since there are no *at calls for it on all systems. */
static int on_xattr(int dirfd, const char *step, const char *name)
{
	/* user::rw- user:17:r-- group::r-- mask::r-- other::--- */
	static const unsigned char acl[] = {
		2, 0,  0,   0,	 1,   0,   6,  0, 255, 255, 255, 255, 2,   0,	4,
		0, 17, 0,   0,	 0,   4,   0,  4, 0,   255, 255, 255, 255, 16,	0,
		4, 0,  255, 255, 255, 255, 32, 0, 0,   0,   255, 255, 255, 255,
	};
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "/proc/self/fd/%d/%s", dirfd, name);
	if (strcmp(step, "setxattr") == 0)
		return result(lsetxattr(path, "user.step", "done", 4, 0));
	if (strcmp(step, "settrusted") == 0)
		return result(lsetxattr(path, "trusted.step", "done", 4, 0));
	if (strcmp(step, "rmxattr") == 0)
		return result(lremovexattr(path, "user.colour"));
	if (strcmp(step, "acl") == 0)
		return result(lsetxattr(path, "system.posix_acl_access", acl, sizeof(acl), 0));
	return result(lsetxattr(path, "system.posix_acl_default", acl, sizeof(acl), 0));
}

static int make(int dirfd, const char *step, char **words)
{
	const char *name = words[1];
	int fd;

	if (strcmp(step, "mkdir") == 0)
		return result(mkdirat(dirfd, name, 0751));
	if (strcmp(step, "mkfifo") == 0)
		return result(mkfifoat(dirfd, name, 0642));
	if (strcmp(step, "mksock") == 0)
		return result(mknodat(dirfd, name, S_IFSOCK | 0642, 0));
	if (strcmp(step, "mkchr") == 0)
		return result(mknodat(dirfd, name, S_IFCHR | 0642, makedev(1, 5)));
	if (strcmp(step, "mkblk") == 0)
		return result(mknodat(dirfd, name, S_IFBLK | 0642, makedev(7, 99)));
	if (strcmp(step, "mkwht") == 0)
		return result(mknodat(dirfd, name, S_IFCHR | 0642, makedev(0, 0)));
	if (strcmp(step, "symlink") == 0)
		return result(symlinkat(words[2], dirfd, name));
	fd = openat(dirfd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC,
		    strcmp(step, "mksuid") == 0 ? 04642 : 0642);
	return fd < 0 ? -errno : close_after(fd, 0);
}

static int change(int dirfd, const char *step, char **words)
{
	const struct timespec times[2] = { { 1100000000, 1 }, { 1100000000, 2 } };
	const char *name = words[1];
	char path[PATH_MAX];

	if (strcmp(step, "chmod") == 0)
		return result(fchmodat(dirfd, name, 0604, 0));
	if (strcmp(step, "setuid") == 0)
		return result(fchmodat(dirfd, name, 04755, 0));
	if (strcmp(step, "chown") == 0)
		return result(fchownat(dirfd, name, 21, 22, AT_SYMLINK_NOFOLLOW));
	if (strcmp(step, "utimes") == 0)
		return result(utimensat(dirfd, name, times, AT_SYMLINK_NOFOLLOW));
	if (strcmp(step, "truncate") == 0) {
		snprintf(path, sizeof(path), "/proc/self/fd/%d/%s", dirfd, name);
		return result(truncate(path, strtol(words[2], NULL, 10)));
	}
	return on_flags(dirfd, name, FS_NODUMP_FL);
}

static int move(int dirfd, const char *step, char **words)
{
	unsigned flags = strcmp(step, "exchange") == 0 ? RENAME_EXCHANGE :
			 strcmp(step, "renwht") == 0   ? RENAME_WHITEOUT :
							 0;

	return result(renameat2(dirfd, words[1], dirfd, words[2], flags));
}

static int keep(int dirfd, const char *step, char **words)
{
	char proc[32];

	if (strcmp(step, "linkfd") == 0) {
		snprintf(proc, sizeof(proc), "/proc/self/fd/%d", kept_fd);
		return result(linkat(AT_FDCWD, proc, dirfd, words[1], AT_SYMLINK_FOLLOW));
	}
	if (strcmp(step, "writefd") == 0)
		return write_at(kept_fd, 5, "written through a descriptor");
	steps_close();
	if (strcmp(step, "closefd") == 0)
		return 0;
	kept_fd = strcmp(step, "tmpfile") == 0 ?
			  openat(dirfd, words[1], O_TMPFILE | O_RDWR | O_CLOEXEC, 0642) :
			  openat(dirfd, words[1], O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	return result(kept_fd);
}

static int remove_name(int dirfd, const char *step, char **words)
{
	return result(unlinkat(dirfd, words[1], strcmp(step, "rmdir") == 0 ? AT_REMOVEDIR : 0));
}

static int link_names(int dirfd, const char *step, char **words)
{
	return result(linkat(dirfd, words[1], dirfd, words[2], 0));
}

static int xattr(int dirfd, const char *step, char **words)
{
	return on_xattr(dirfd, step, words[1]);
}

static const struct {
	const char *name;
	int (*fn)(int dirfd, const char *step, char **words);
} steps[] = {
	{ "create", make },	 { "mkdir", make },	    { "mkfifo", make },
	{ "mksock", make },	 { "mkchr", make },	    { "mkblk", make },
	{ "mkwht", make },	 { "mksuid", make },	    { "symlink", make },
	{ "write", on_file },	 { "opentrunc", on_file },  { "openwrite", on_file },
	{ "falloc", on_file },	 { "punch", on_file },	    { "copyrange", on_file },
	{ "link", link_names },	 { "unlink", remove_name }, { "rmdir", remove_name },
	{ "rename", move },	 { "exchange", move },	    { "renwht", move },
	{ "chmod", change },	 { "chown", change },	    { "utimes", change },
	{ "truncate", change },	 { "flags", change },	    { "setxattr", xattr },
	{ "settrusted", xattr }, { "rmxattr", xattr },	    { "acl", xattr },
	{ "dacl", xattr },	 { "open", keep },	    { "tmpfile", keep },
	{ "linkfd", keep },	 { "writefd", keep },	    { "closefd", keep },
	{ "setuid", change },
};

int step_do(int dirfd, const char *text)
{
	char line[192], *save = NULL, *words[WORDS_MAX + 1] = { NULL };
	unsigned n = 0;

	snprintf(line, sizeof(line), "%s", text);
	for (char *word = strtok_r(line, " ", &save); word && n < WORDS_MAX;
	     word = strtok_r(NULL, " ", &save))
		words[n++] = word;
	for (unsigned i = 0; n > 0 && i < sizeof(steps) / sizeof(steps[0]); i++)
		if (strcmp(steps[i].name, words[0]) == 0)
			return steps[i].fn(dirfd, words[0], words);
	die("unknown step: %s", text);
}
