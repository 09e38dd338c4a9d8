// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Which layers lie inside one another. Like the kernel (ovl_check_overlapping_layers in
 * fs/overlayfs/super.c) by identity of the directories above, and not by the paths' text. A walk
 * ends at the root of the mount: what is mounted inside a layer is not part of it. Where a layer is
 * seen by a mount of its own (a bind mount) mountinfo tells what is above that, and the outer
 * layer's path down to the inner one's identity verifies it.
 */
#include "layer/overlap.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "layer/mount.h"
#include "layer/path.h"

#define DEPTH_MAX 4096 /* directories above a layer's root that are looked at */

static struct rvl_object_id id_of(const struct statx *stx)
{
	return (struct rvl_object_id){ .dev = rvl_statx_dev(stx), .ino = stx->stx_ino };
}

static bool is_same(struct rvl_object_id a, struct rvl_object_id b)
{
	return a.dev == b.dev && a.ino == b.ino;
}

static int add(struct rvl_ancestry *a, struct rvl_object_id id)
{
	if ((a->n_above & (a->n_above - 1)) == 0) {
		size_t room = a->n_above ? 2 * (size_t)a->n_above : 1;
		void *v = reallocarray(a->above, room, sizeof(*a->above));

		if (!v)
			return -ENOMEM;
		a->above = v;
	}
	a->above[a->n_above++] = id;
	return 0;
}

int rvl_ancestry_read(int fd, enum rvl_root_kind kind, const char *path, struct rvl_ancestry *ret)
{
	struct rvl_ancestry a = { .kind = kind, .path = path };
	_cleanup_close_ int at = -EBADF;
	struct statx stx;
	uint64_t mnt_id;
	int r = rvl_path_statx(fd, "", STATX_INO | STATX_MNT_ID, &stx);

	if (r < 0)
		return r;
	a.mnt_id = mnt_id = stx.stx_mnt_id;
	a.self = id_of(&stx);
	for (unsigned i = 0; i < DEPTH_MAX; i++) {
		struct rvl_object_id below = id_of(&stx);
		int up = openat(at >= 0 ? at : fd, "..", O_PATH | O_DIRECTORY | O_CLOEXEC);

		if (up < 0)
			break; /* no permission: what cannot be seen cannot be checked */
		rvl_close(at);
		at = up;
		r = rvl_path_statx(at, "", STATX_INO | STATX_MNT_ID, &stx);
		if (r < 0 || stx.stx_mnt_id != mnt_id || is_same(id_of(&stx), below))
			break;
		r = add(&a, id_of(&stx));
		if (r < 0) {
			rvl_ancestry_release(&a);
			return r;
		}
	}
	*ret = a;
	return 0;
}

void rvl_ancestry_release(struct rvl_ancestry *ancestry)
{
	free(ancestry->above);
	*ancestry = (struct rvl_ancestry){ 0 };
}

static bool is_at_or_inside(const struct rvl_ancestry *inner, const struct rvl_ancestry *outer)
{
	if (is_same(inner->self, outer->self))
		return true;
	for (unsigned i = 0; i < inner->n_above; i++)
		if (is_same(inner->above[i], outer->self))
			return true;
	return false;
}

/* The same, where other mounts lie between them. places: of the two. */
static bool is_inside_by_mount(const struct rvl_ancestry *inner,
			       const struct rvl_mount_place *there,
			       const struct rvl_ancestry *outer, const struct rvl_mount_place *here)
{
	_cleanup_free_ char *path = NULL;
	struct statx stx;
	size_t len;

	if (inner->mnt_id == outer->mnt_id || !there->in_fs || !here->in_fs ||
	    there->dev != here->dev)
		return false;
	len = strcmp(here->in_fs, "/") == 0 ? 0 : strlen(here->in_fs);
	if (strncmp(there->in_fs, here->in_fs, len) != 0 || there->in_fs[len] != '/')
		return false;
	if (asprintf(&path, "%s%s", outer->path, there->in_fs + len) < 0)
		return false;
	return statx(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT, STATX_INO, &stx) == 0 &&
	       is_same(id_of(&stx), inner->self);
}

static const char *option_of(const struct rvl_ancestry *root)
{
	static const char *const names[] = {
		[RVL_ROOT_LOWER] = "lowerdir",
		[RVL_ROOT_UPPER] = "upperdir",
		[RVL_ROOT_WORK] = "workdir",
	};

	return names[root->kind];
}

/* inner is at or inside outer: is that refused? */
static int check_pair(const struct rvl_ancestry *inner, const struct rvl_ancestry *outer)
{
	bool is_same_dir = is_same(inner->self, outer->self);

	/* Accepted, as by the kernel: the merged view hides upper and work there. */
	if (outer->kind == RVL_ROOT_LOWER && inner->kind != RVL_ROOT_LOWER && !is_same_dir)
		return 0;
	rvl_error("%s=%s %s %s=%s: the layers must be separate trees", option_of(inner),
		  inner->path, is_same_dir ? "is the same directory as" : "lies inside",
		  option_of(outer), outer->path);
	if (inner->kind != RVL_ROOT_LOWER && outer->kind != RVL_ROOT_LOWER)
		return -EINVAL;
	return -ELOOP;
}

static int check_all(const struct rvl_ancestry *roots, const struct rvl_mount_place *places,
		     unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		for (unsigned j = 0; j < n; j++) {
			int r;

			if (i == j ||
			    (!is_at_or_inside(&roots[i], &roots[j]) &&
			     !is_inside_by_mount(&roots[i], &places[i], &roots[j], &places[j])))
				continue;
			r = check_pair(&roots[i], &roots[j]);
			if (r < 0)
				return r;
		}
	}
	return 0;
}

int rvl_overlap_check(const struct rvl_ancestry *roots, unsigned n)
{
	_cleanup_free_ struct rvl_mount_place *places = calloc(n ? n : 1, sizeof(*places));
	int r;

	if (!places)
		return -ENOMEM;
	for (unsigned i = 0; i < n; i++)
		places[i] = (struct rvl_mount_place){ .mnt_id = roots[i].mnt_id,
						      .path = roots[i].path };
	r = rvl_mount_find_places(places, n);
	if (r == 0)
		r = check_all(roots, places, n);
	for (unsigned i = 0; i < n; i++)
		free(places[i].in_fs);
	return r;
}
