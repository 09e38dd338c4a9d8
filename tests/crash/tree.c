// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * All that can be seen of a mount, as text that is the same for the same tree: a line a name, in
 * order. Numbers are not in it, since each world has others, but which names are links of one
 * object is; times are only where they are old (world.c), since now is never the same.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "crash.h"

#define RECENT 1500000000

static struct seen {
	uint64_t ino;
	char path[64];
} seen[OBJECTS_MAX];
static unsigned n_seen;

static void __attribute__((format(printf, 1, 2))) put(const char *format, ...)
{
	va_list args;
	int n;

	va_start(args, format);
	n = vsnprintf(shared->text + shared->text_len, TEXT_SIZE - shared->text_len, format, args);
	va_end(args);
	shared->text_len += (size_t)n;
	if (shared->text_len >= TEXT_SIZE)
		die("the tree is too large");
}

/* The first name of the same object. */
static const char *first_name(uint64_t ino, const char *path)
{
	for (unsigned i = 0; i < n_seen; i++)
		if (seen[i].ino == ino)
			return seen[i].path;
	if (n_seen == OBJECTS_MAX)
		die("too many objects");
	seen[n_seen].ino = ino;
	snprintf(seen[n_seen].path, sizeof(seen[0].path), "%s", path);
	return seen[n_seen++].path;
}

static bool put_xattrs(const char *full)
{
	char names[1024], value[512];
	ssize_t n = llistxattr(full, names, sizeof(names));

	if (n < 0 && errno == EOPNOTSUPP)
		return true;
	if (n < 0) {
		complain("%s: listxattr: %m", full);
		return false;
	}
	/* few, and in any order */
	for (int pass = 'a'; pass <= 'z'; pass++) {
		for (const char *name = names; name < names + n; name += strlen(name) + 1) {
			const char *last = strrchr(name, '.');
			ssize_t len;

			if (!last || last[1] != pass)
				continue;
			len = lgetxattr(full, name, value, sizeof(value));
			put(" %s=", name);
			for (ssize_t i = 0; i < len; i++)
				put("%02x", (unsigned char)value[i]);
		}
	}
	return true;
}

static bool put_content(const char *full, const struct stat *st)
{
	static char buf[64 << 10];
	uint64_t hash = 0xcbf29ce484222325;
	unsigned flags = 0;
	ssize_t n;
	int fd = open(full, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NOATIME);

	if (fd < 0) {
		complain("%s: open: %m", full);
		return false;
	}
	while ((n = read(fd, buf, sizeof(buf))) > 0)
		for (ssize_t i = 0; i < n; i++)
			hash = (hash ^ (unsigned char)buf[i]) * 0x100000001b3;
	if (n < 0)
		complain("%s: read: %m", full);
	(void)ioctl(fd, FS_IOC_GETFLAGS, &flags);
	close(fd);
	put(" size=%lld data=%016llx flags=%x", (long long)st->st_size, (unsigned long long)hash,
	    flags & (FS_IMMUTABLE_FL | FS_APPEND_FL | FS_NODUMP_FL | FS_NOATIME_FL | FS_SYNC_FL));
	return n == 0;
}

static bool walk(const char *full, const char *path);

static bool put_object(const char *full, const char *path, uint64_t d_ino)
{
	char target[PATH_MAX];
	struct stat st;
	ssize_t n;

	if (lstat(full, &st) < 0) {
		complain("%s: stat: %m", path);
		return false;
	}
	if (d_ino && d_ino != st.st_ino) {
		complain("%s: d_ino %llu, st_ino %llu", path, (unsigned long long)d_ino,
			 (unsigned long long)st.st_ino);
		return false;
	}
	if (!tree_has(st.st_ino)) {
		if (shared->inos.n == OBJECTS_MAX)
			die("too many objects");
		shared->inos.v[shared->inos.n++] = st.st_ino;
	}
	put("%s mode=%o owner=%u:%u", path, st.st_mode, st.st_uid, st.st_gid);
	if (!S_ISDIR(st.st_mode))
		put(" links=%lu first=%s rdev=%lx", (unsigned long)st.st_nlink,
		    first_name(st.st_ino, path), (unsigned long)st.st_rdev);
	if (st.st_mtime < RECENT)
		put(" mtime=%lld.%09ld", (long long)st.st_mtime, st.st_mtim.tv_nsec);
	if (!put_xattrs(full))
		return false;
	if (S_ISREG(st.st_mode) && !put_content(full, &st))
		return false;
	if (S_ISLNK(st.st_mode)) {
		n = readlink(full, target, sizeof(target) - 1);
		put(" target=%.*s", (int)(n < 0 ? 0 : n), target);
	}
	put("\n");
	return S_ISDIR(st.st_mode) ? walk(full, path) : true;
}

static bool walk(const char *full, const char *path)
{
	struct dirent **names;
	int n = scandir(full, &names, NULL, alphasort);
	bool is_good = n >= 0;

	if (n < 0)
		complain("%s: cannot be listed: %m", path);
	for (int i = 0; i < n; i++) {
		char child[PATH_MAX], name[PATH_MAX];

		if (strcmp(names[i]->d_name, ".") != 0 && strcmp(names[i]->d_name, "..") != 0) {
			snprintf(child, sizeof(child), "%.3500s/%s", full, names[i]->d_name);
			snprintf(name, sizeof(name), "%.3000s/%s", path, names[i]->d_name);
			is_good = is_good && put_object(child, name, names[i]->d_ino);
		}
		free(names[i]);
	}
	if (n >= 0)
		free(names);
	return is_good;
}

bool tree_has(uint64_t ino)
{
	for (unsigned i = 0; i < shared->inos.n; i++)
		if (shared->inos.v[i] == ino)
			return true;
	return false;
}

bool tree_read(const char *mnt)
{
	shared->text_len = 0;
	shared->inos.n = 0;
	n_seen = 0;
	return put_object(mnt, ".", 0);
}

/* ---- handles ---- */

bool tree_handles(const char *mnt)
{
	union {
		struct file_handle h;
		char room[sizeof(struct file_handle) + 128];
	} handle;
	char path[PATH_MAX];
	const char *line = shared->text;
	struct stat st;
	int mount_id;

	shared->n_objects = 0;
	for (; *line; line = strchr(line, '\n') + 1) {
		struct object *object = &shared->objects[shared->n_objects++];

		snprintf(object->path, sizeof(object->path), "%.*s", (int)strcspn(line, " "), line);
		snprintf(path, sizeof(path), "%.3500s/%s", mnt, object->path);
		handle.h.handle_bytes = sizeof(object->handle);
		if (lstat(path, &st) < 0 ||
		    name_to_handle_at(AT_FDCWD, path, &handle.h, &mount_id, 0) < 0) {
			complain("%s: no handle: %m", object->path);
			return false;
		}
		object->ino = st.st_ino;
		object->mode = st.st_mode;
		object->handle_type = handle.h.handle_type;
		object->handle_len = handle.h.handle_bytes;
		memcpy(object->handle, handle.h.f_handle, object->handle_len);
	}
	return true;
}

void tree_decode(const char *mnt)
{
	union {
		struct file_handle h;
		char room[sizeof(struct file_handle) + 128];
	} handle;
	int root = open(mnt, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	for (unsigned i = 0; i < shared->n_objects; i++) {
		struct object *object = &shared->objects[i];
		struct stat st;
		int fd;

		handle.h.handle_type = object->handle_type;
		handle.h.handle_bytes = object->handle_len;
		memcpy(handle.h.f_handle, object->handle, object->handle_len);
		fd = open_by_handle_at(root, &handle.h, O_PATH | O_CLOEXEC);
		object->is_found = fd >= 0 && fstat(fd, &st) == 0;
		object->error = object->is_found ? 0 : errno;
		if (object->is_found) {
			object->found_ino = st.st_ino;
			object->found_mode = st.st_mode;
		}
		if (fd >= 0)
			close(fd);
	}
	if (root >= 0)
		close(root);
}

bool tree_check_decoded(void)
{
	for (unsigned i = 0; i < shared->n_objects; i++) {
		const struct object *object = &shared->objects[i];
		bool is_there = tree_has(object->ino);

		if (is_there && object->is_found && object->found_ino == object->ino &&
		    (object->found_mode & S_IFMT) == (object->mode & S_IFMT))
			continue;
		if (!is_there && !object->is_found && object->error == ESTALE)
			continue;
		if (object->is_found)
			complain("%s: its handle opens %llu, %s; it is %llu, and %s", object->path,
				 (unsigned long long)object->found_ino,
				 (object->found_mode & S_IFMT) == (object->mode & S_IFMT) ?
					 "of that type" :
					 "of another type",
				 (unsigned long long)object->ino, is_there ? "there" : "gone");
		else
			complain("%s: its handle gives %s, and it is %s", object->path,
				 strerror(object->error), is_there ? "there" : "gone");
		return false;
	}
	return true;
}

/* Is the line that of the same object? A directory may have a new time where an old one is expected:
 * the last step of a copy-up beneath it is to put that back. */
static bool is_same_line(const char *line, const char *expected)
{
	size_t len = strcspn(line, "\n"), expected_len = strcspn(expected, "\n");
	const char *time = memmem(expected, expected_len, " mtime=", 7);
	size_t before, time_len;

	if (len == expected_len && memcmp(line, expected, len) == 0)
		return true;
	if (!time || !memmem(expected, expected_len, " mode=4", 7))
		return false;
	before = (size_t)(time - expected);
	time_len = 1 + strcspn(time + 1, " \n");
	return len == expected_len - time_len && memcmp(line, expected, before) == 0 &&
	       memcmp(line + before, time + time_len, len - before) == 0;
}

bool tree_is(const char *expected)
{
	const char *line = shared->text;

	if (!expected)
		return false;
	while (*line && *expected && is_same_line(line, expected)) {
		line = strchr(line, '\n') + 1;
		expected = strchr(expected, '\n') + 1;
	}
	return !*line && !*expected;
}

void tree_print_difference(const char *a, const char *b)
{
	unsigned shown = 0;

	for (int pass = 0; pass < 2; pass++) {
		const char *here = pass ? b : a, *there = pass ? a : b;

		for (const char *line = here; *line && shown < 12; line = strchr(line, '\n') + 1) {
			size_t len = strcspn(line, "\n");
			const char *found = there;

			while (*found && (strncmp(found, line, len) != 0 || found[len] != '\n'))
				found = strchr(found, '\n') + 1;
			if (!*found) {
				printf("    %c %.*s\n", pass ? '+' : '-', (int)len, line);
				shown++;
			}
		}
	}
}
