// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Private clones of mounts (open_tree(2), mount_setattr(2)) and questions about the mount table
 * (/proc/self/mountinfo, see proc(5)).
 */
#include "layer/mount.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/sysmacros.h>

#include "base/cleanup.h"

#define MOUNTS_MAX 1000000 /* lines of mountinfo that are read */

static void cleanup_fclose(FILE **f)
{
	if (*f)
		fclose(*f);
}

int rvl_mount_clone(int fd, uint64_t attributes)
{
	/* No peer of a shared mount: what is mounted there later must not appear here. */
	struct mount_attr all = {
		.attr_set = attributes,
		.attr_clr = MOUNT_ATTR__ATIME | MOUNT_ATTR_NODIRATIME,
		.propagation = MS_PRIVATE,
	};
	struct mount_attr unlocked = { .attr_set = attributes & MOUNT_ATTR_RDONLY,
				       .propagation = MS_PRIVATE };
	int clone = open_tree(fd, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH), r;

	if (clone < 0)
		return -errno;
	r = mount_setattr(clone, "", AT_EMPTY_PATH, &all, sizeof(all));
	/* In a user namespace the atime flags of an inherited mount are locked. */
	if (r < 0)
		r = mount_setattr(clone, "", AT_EMPTY_PATH, &unlocked, sizeof(unlocked));
	if (r < 0) {
		r = -errno;
		rvl_close(clone);
		return r;
	}
	return clone;
}

/* Undo \040 and its like, in place. */
static void unescape(char *s)
{
	char *out = s;

	while (*s) {
		if (s[0] == '\\' && s[1] >= '0' && s[1] <= '3' && s[2] >= '0' && s[2] <= '7' &&
		    s[3] >= '0' && s[3] <= '7') {
			*out++ = (char)((s[1] - '0') * 64 + (s[2] - '0') * 8 + (s[3] - '0'));
			s += 4;
		} else {
			*out++ = *s++;
		}
	}
	*out = '\0';
}

/* Cuts the n-th field (from 0) out of a line, which is changed. NULL if there are fewer. */
static char *field(char *line, unsigned n)
{
	char *save = NULL, *f = strtok_r(line, " \n", &save);

	while (f && n-- > 0)
		f = strtok_r(NULL, " \n", &save);
	return f;
}

int rvl_mount_find_inside(const char *path, char **ret)
{
	__attribute__((cleanup(cleanup_fclose))) FILE *f = fopen("/proc/self/mountinfo", "re");
	_cleanup_free_ char *line = NULL;
	size_t size = 0, len = strlen(path);

	if (!f)
		return 0;
	while (len > 0 && path[len - 1] == '/')
		len--;
	for (unsigned i = 0; i < MOUNTS_MAX && getline(&line, &size, f) >= 0; i++) {
		char *point = field(line, 4);

		if (!point)
			continue;
		unescape(point);
		if (strncmp(point, path, len) != 0 || point[len] != '/' || point[len + 1] == '\0')
			continue;
		*ret = strdup(point);
		return *ret ? 1 : -ENOMEM;
	}
	return 0;
}

int rvl_mount_of_device(uint64_t dev, char **ret_type, char **ret_source)
{
	__attribute__((cleanup(cleanup_fclose))) FILE *f = fopen("/proc/self/mountinfo", "re");
	_cleanup_free_ char *line = NULL;
	size_t size = 0;

	if (!f)
		return -errno;
	for (unsigned i = 0; i < MOUNTS_MAX && getline(&line, &size, f) >= 0; i++) {
		_cleanup_free_ char *copy = NULL;
		char *rest, *type, *source;
		unsigned id, parent, maj, min;

		if (sscanf(line, "%u %u %u:%u", &id, &parent, &maj, &min) != 4 ||
		    makedev(maj, min) != dev)
			continue;
		/* After the optional fields: " - fstype source options" */
		rest = strstr(line, " - ");
		copy = rest ? strdup(rest + 3) : NULL;
		source = copy ? field(copy, 1) : NULL;
		type = rest ? field(rest + 3, 0) : NULL;
		if (!type || !source)
			return rest && !copy ? -ENOMEM : -ENOENT;
		type = strdup(type);
		source = strdup(source);
		if (!type || !source) {
			free(type);
			free(source);
			return -ENOMEM;
		}
		*ret_type = type;
		*ret_source = source;
		return 0;
	}
	return ferror(f) ? -EIO : -ENOENT;
}

/* The path from the root of the filesystem; root: what of it is mounted at point. NULL and *ret_r 0:
 * path is not beneath point. */
static char *path_in_fs(const char *root, const char *point, const char *path, int *ret_r)
{
	size_t len = strlen(point);
	char *ret;

	*ret_r = 0;
	while (len > 0 && point[len - 1] == '/')
		len--;
	if (strncmp(path, point, len) != 0 || (path[len] && path[len] != '/'))
		return NULL;
	path += len;
	while (*path == '/')
		path++;
	if (!*path)
		ret = strdup(root);
	else if (asprintf(&ret, "%s/%s", strcmp(root, "/") == 0 ? "" : root, path) < 0)
		ret = NULL;
	if (!ret)
		*ret_r = -ENOMEM;
	return ret;
}

int rvl_mount_find_places(struct rvl_mount_place *places, unsigned n)
{
	__attribute__((cleanup(cleanup_fclose))) FILE *f = fopen("/proc/self/mountinfo", "re");
	_cleanup_free_ char *line = NULL;
	size_t size = 0;
	int r = 0;

	if (!f)
		return 0;
	for (unsigned i = 0; r == 0 && i < MOUNTS_MAX && getline(&line, &size, f) >= 0; i++) {
		_cleanup_free_ char *root = NULL, *point = NULL;
		unsigned long long id;
		unsigned maj, min;

		if (sscanf(line, "%llu %*u %u:%u %ms %ms", &id, &maj, &min, &root, &point) != 5)
			continue;
		unescape(root);
		unescape(point);
		for (unsigned j = 0; r == 0 && j < n; j++) {
			if (places[j].mnt_id != id || places[j].in_fs)
				continue;
			places[j].dev = makedev(maj, min);
			places[j].in_fs = path_in_fs(root, point, places[j].path, &r);
		}
	}
	return r;
}
