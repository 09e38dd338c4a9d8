// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The layers by less than the options of the mount: what a mount, a workdir or fstab knows of them.
 */
#include "tools/operand.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <mntent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/optstring.h"
#include "index/index.h"
#include "index/state.h"
#include "layer/path.h"
#include "layer/xattr.h"
#include "tools/live.h"

static const char *member(const json_t *config, const char *name)
{
	return json_string_value(json_object_get(config, name));
}

/* The server tells its layers as options have them, escapes and all. */
static int live_options(const char *mount_point, char **ret)
{
	_cleanup_close_ int fd = rvl_live_open(mount_point);
	const char *upper, *work;
	json_t *config;
	int r = fd < 0 ? fd : rvl_live_get(fd, mount_point, RVL_STAT_CONFIG, false, &config);

	if (r < 0)
		return r;
	upper = member(config, "upperdir");
	work = member(config, "workdir");
	r = asprintf(ret, "lowerdir=%s%s%s%s%s%s", member(config, "lowerdir") ?: "",
		     upper ? ",upperdir=" : "", upper ?: "", work ? ",workdir=" : "", work ?: "",
		     json_is_true(json_object_get(config, "userxattr")) ? ",userxattr" : "");
	json_decref(config);
	return r < 0 ? -ENOMEM : 0;
}

/* Is a FUSE filesystem of ours mounted just here? */
static bool is_mount_point(const char *path)
{
	_cleanup_free_ char *real = realpath(path, NULL);
	struct mntent *entry;
	bool is_found = false;
	FILE *f = real ? setmntent("/proc/self/mounts", "r") : NULL;

	while (f && (entry = getmntent(f)))
		if (!strcmp(entry->mnt_dir, real))
			is_found = !strncmp(entry->mnt_type, "fuse.reverlay", 13);
	if (f)
		endmntent(f);
	return is_found;
}

/* Has upper the attributes of "userxattr"? */
static bool is_userxattr(const char *upper)
{
	struct rvl_xattr_names names;
	_cleanup_close_ int fd = upper ? open(upper, O_PATH | O_DIRECTORY | O_CLOEXEC) : -EBADF;

	rvl_xattr_names_init(&names, true);
	return fd >= 0 && rvl_xattr_get(&names, fd, "", RVL_XATTR_INSTANCES, NULL, 0) > 0;
}

/*
 * Is it the workdir that its state records? In a copy, or after a move, the paths there are those of the
 * original, and a command with these and this workdir would bring two overlays together.
 */
static bool is_recorded(int work, const char *recorded)
{
	_cleanup_close_ int fd = open(recorded ?: "", O_PATH | O_DIRECTORY | O_CLOEXEC);
	struct statx a, b;

	return fd >= 0 && !rvl_path_statx(work, "", STATX_INO, &a) &&
	       !rvl_path_statx(fd, "", STATX_INO, &b) && a.stx_ino == b.stx_ino &&
	       a.stx_dev_major == b.stx_dev_major && a.stx_dev_minor == b.stx_dev_minor;
}

/* What the state of a workdir has stored: a hint where things are, which opening them verifies. */
static int workdir_options(const char *path, char **ret)
{
	_cleanup_close_ int work = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	_cleanup_close_ int inodes =
		work < 0 ? -errno : rvl_path_open(work, "inodes", O_RDONLY | O_DIRECTORY, 0);
	struct rvl_state *state = NULL;
	int r = inodes < 0 ? inodes : rvl_state_load(inodes, &state);
	size_t len;
	FILE *f;

	if (r == -EUCLEAN)
		rvl_error(
			"%s: inodes/state is damaged and does not tell the layers: name them with -o",
			path);
	else if (r == -EPROTONOSUPPORT)
		rvl_index_tell_newer("workdir", path, "inodes/state");
	else if (r < 0 && r != -ENOENT && r != -ENOTDIR)
		rvl_error("%s: its inodes/state cannot be read: %s", path, strerror(-r));
	if (!r && !is_recorded(work, state->work.path)) {
		rvl_error(
			"workdir=%s: it was made at %s, so this is a copy, or was moved, and the paths stored "
			"in it are not its own. Name the layers: -o lowerdir=…,upperdir=…,workdir=…",
			path, state->work.path ?: "?");
		r = -ESTALE;
	}
	if (r < 0) {
		rvl_state_free(state);
		return r;
	}
	f = open_memstream(ret, &len);
	if (f) {
		/* the workdir itself is what was named, wherever it was once */
		fputs("lowerdir=", f);
		for (unsigned i = 0; i < state->n_lowers; i++) {
			if (i)
				fputs(state->lowers[i].flags & RVL_ROOT_DATA_ONLY ? "::" : ":", f);
			rvl_optstring_escape(f, state->lowers[i].path, ":,");
		}
		if (state->upper.ino) {
			fputs(",upperdir=", f);
			rvl_optstring_escape(f, state->upper.path, ",");
		}
		fputs(",workdir=", f);
		rvl_optstring_escape(f, path, ",");
		/* the namespace of the attributes: that in which upper has its table */
		if (is_userxattr(state->upper.path))
			fputs(",userxattr", f);
		r = fclose(f) ? -ENOMEM : 0;
	}
	rvl_state_free(state);
	return f ? r : -ENOMEM;
}

/* By mount point; by source only if it is that of one line. */
static int fstab_options(const char *operand, char **ret)
{
	_cleanup_free_ char *by_source = NULL;
	struct mntent *entry;
	FILE *f = setmntent("/etc/fstab", "r");
	unsigned n_sources = 0;
	int r = -ENOENT;

	while (f && r == -ENOENT && (entry = getmntent(f))) {
		bool is_dir = !strcmp(entry->mnt_dir, operand);

		if (strcmp(entry->mnt_type, "fuse.reverlay") && strcmp(entry->mnt_type, "reverlay"))
			continue;
		if (!is_dir && (strcmp(entry->mnt_fsname, operand) || n_sources++))
			continue;
		*(is_dir ? ret : &by_source) = strdup(entry->mnt_opts);
		if (!(is_dir ? *ret : by_source))
			r = -ENOMEM;
		else if (is_dir)
			r = 0;
	}
	if (f)
		endmntent(f);
	if (r != -ENOENT || !n_sources)
		return r;
	if (n_sources > 1) {
		rvl_error("%s: the source of %u overlays in /etc/fstab: give the mount point",
			  operand, n_sources);
		return -EINVAL;
	}
	*ret = rvl_take_ptr(by_source);
	return 0;
}

int rvl_operand_options(const char *operand, char **ret, bool *ret_is_live)
{
	int r;

	*ret_is_live = false;
	if (strstr(operand, "lowerdir=") || strstr(operand, "lowerdir+=")) {
		*ret = strdup(operand);
		return *ret ? 0 : -ENOMEM;
	}
	if (is_mount_point(operand)) {
		*ret_is_live = true;
		return live_options(operand, ret);
	}
	r = fstab_options(operand, ret);
	if (r == -ENOENT)
		r = workdir_options(operand, ret);
	if (r == -ENOENT || r == -ENOTDIR)
		rvl_error(
			"%s: not the workdir of an overlay, a live mount, or an overlay in /etc/fstab; "
			"name the layers with -o lowerdir=…,upperdir=…,workdir=…",
			operand);
	return r;
}
