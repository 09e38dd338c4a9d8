// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The index is lost as a whole: a new state, with the instances that stamps in upper name kept
 * free. The entries are then missing like any that got lost, and the passes make them. Killed in
 * between, the overlay has a state, counts as not cleanly stopped, and repair goes on.
 */
#include "check/rebuild.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "check/private.h"
#include "index/fsck.h"
#include "index/stamp.h"
#include "layer/path.h"

struct scan {
	const struct rvl_stack *stack;
	uint64_t used[(RVL_INSTANCE_MAX + 1) / 64];
	char **waiting; /* owned; paths of directories */
	size_t n, size;
};

static int push(struct scan *scan, const char *dir, const char *name)
{
	char *path;

	if (scan->n == scan->size) {
		size_t size = scan->size ? scan->size * 2 : 64;
		char **waiting = size > RVL_WALK_DIRECTORIES_MAX ?
					 NULL :
					 reallocarray(scan->waiting, size, sizeof(*waiting));

		if (!waiting)
			return size > RVL_WALK_DIRECTORIES_MAX ? -E2BIG : -ENOMEM;
		scan->waiting = waiting;
		scan->size = size;
	}
	if (asprintf(&path, "%s%s%s", dir, *dir ? "/" : "", name) < 0)
		return -ENOMEM;
	scan->waiting[scan->n++] = path;
	return 0;
}

static void note(struct scan *scan, int dirfd, const char *name)
{
	uint8_t buf[RVL_STAMP_SIZE];
	struct rvl_id id;
	ssize_t n =
		rvl_xattr_get(&scan->stack->xattr, dirfd, name, RVL_XATTR_INO, buf, sizeof(buf));
	unsigned instance;

	if (n < 0 || rvl_stamp_decode(buf, (size_t)n, &id))
		return;
	instance = (unsigned)(id.number >> RVL_INSTANCE_SHIFT);
	scan->used[instance / 64] |= 1ULL << (instance % 64);
}

static int scan_directory(struct scan *scan, const char *path)
{
	_cleanup_close_ int fd =
		rvl_path_open(scan->stack->layers[0].fd, path, O_RDONLY | O_DIRECTORY, 0);
	_cleanup_closedir_ DIR *d = NULL;
	const struct dirent *entry;
	struct statx st;
	int r = 0;

	if (fd < 0)
		return fd;
	d = fdopendir(fd);
	if (!d)
		return -ENOMEM;
	rvl_take_fd(&fd);
	for (errno = 0; !r && (entry = readdir(d)); errno = 0) {
		if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
			continue;
		note(scan, dirfd(d), entry->d_name);
		if (entry->d_type == DT_DIR ||
		    (entry->d_type == DT_UNKNOWN &&
		     !rvl_path_statx(dirfd(d), entry->d_name, STATX_TYPE, &st) &&
		     S_ISDIR(st.stx_mode)))
			r = push(scan, path, entry->d_name);
	}
	return r ?: -errno;
}

static bool is_lost(const struct rvl_stack *stack)
{
	_cleanup_close_ int fd = rvl_path_open(stack->work_fd, "inodes", O_RDONLY | O_DIRECTORY, 0);
	struct rvl_state *state = NULL;
	int r = fd < 0 ? fd : rvl_state_load(fd, &state);

	rvl_state_free(state);
	return r == -ENOENT || r == -EUCLEAN;
}

int rvl_rebuild(const struct rvl_check_config *config)
{
	struct scan scan = { .stack = config->stack };
	int r;

	if (!config->stack->has_upper) {
		rvl_error("without upperdir and workdir there is no index to make again");
		return -EINVAL;
	}
	if (!is_lost(config->stack))
		return 0;
	r = push(&scan, "", "");
	while (!r && scan.n) {
		_cleanup_free_ char *path = scan.waiting[--scan.n];

		r = scan_directory(&scan, path);
		if (r)
			rvl_error("upperdir=%s: %s: %s", config->stack->layers[0].path, path,
				  strerror(-r));
	}
	while (scan.n)
		free(scan.waiting[--scan.n]);
	free(scan.waiting);
	return r ?: rvl_index_rebuild(config->stack, scan.used);
}
