// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The same rules as the live mount's look-up (overlay/lookup.c), on descriptors instead of nodes. A
 * lower file that was copied up under another name has the number of its entry either way, so names
 * alone tell everything.
 */
#include "tools/view.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "index/stamp.h"
#include "layer/listing.h"
#include "layer/path.h"

#define DEPTH_MAX 4096

void rvl_view_object_release(struct rvl_view_object *object)
{
	rvl_close(object->upper_fd);
	rvl_places_release(&object->lower);
	*object = (struct rvl_view_object){ .upper_fd = -EBADF };
}

int rvl_view_root(const struct rvl_layers *layers, struct rvl_view_object *ret)
{
	const struct rvl_layer *upper = rvl_stack_upper(&layers->stack);

	*ret = (struct rvl_view_object){ .id.number = RVL_NUMBER_ROOT,
					 .mode = S_IFDIR,
					 .is_upper = upper,
					 .upper_fd = -EBADF };
	if (upper) {
		ret->upper_fd = rvl_path_open(upper->fd, "", O_PATH | O_DIRECTORY, 0);
		if (ret->upper_fd < 0)
			return ret->upper_fd;
	}
	return rvl_places_of_root(&layers->stack, &ret->lower);
}

/* ---- in upper ---- */

/* The places of an upper directory in lower. */
static int find_merged(const struct rvl_layers *layers, const struct rvl_view_object *dir,
		       const char *name, struct rvl_view_object *object)
{
	_cleanup_free_ char *redirect = NULL;
	struct rvl_found found = {};
	enum rvl_opaque opaque;
	int r = rvl_opaque_get(&layers->stack, object->upper_fd, "", &opaque);

	if (r < 0)
		return r;
	object->is_opaque = opaque == RVL_OPAQUE_YES;
	if (object->is_opaque)
		return 0;
	r = rvl_redirect_get(&layers->stack, object->upper_fd, "", &redirect);
	if (r == 0 && (dir->lower.n > 0 || (redirect && *redirect == '/')))
		r = rvl_merge_lookup(&layers->stack, &dir->lower, name, redirect, NULL, &found);
	if (r == 0 && found.places.n > 0 && S_ISDIR(found.st.stx_mode)) {
		object->lower = found.places;
		found.places = (struct rvl_places){};
	}
	rvl_found_release(&found);
	return r;
}

static int upper_child(const struct rvl_layers *layers, const struct rvl_view_object *dir,
		       const char *name, const struct statx *stx, struct rvl_view_object *ret)
{
	int r = rvl_whiteout_check(&layers->stack, dir->upper_fd, name, stx, false);

	if (r != 0)
		return r < 0 ? r : -ENOENT;
	ret->mode = stx->stx_mode;
	ret->is_upper = true;
	r = rvl_stamp_get(layers->index, dir->upper_fd, name, stx->stx_mode, stx->stx_ino,
			  &ret->id);
	if (r == -ENODATA)
		ret->id = (struct rvl_id){};
	else if (r < 0)
		return r;
	if (!S_ISDIR(stx->stx_mode))
		return 0;
	ret->upper_fd = rvl_path_open(dir->upper_fd, name, O_PATH | O_DIRECTORY, 0);
	return ret->upper_fd < 0 ? ret->upper_fd : find_merged(layers, dir, name, ret);
}

/* ---- in lower ---- */

static int lower_child(const struct rvl_layers *layers, const struct rvl_view_object *dir,
		       const char *name, struct rvl_view_object *ret)
{
	struct rvl_found found = {};
	const struct rvl_place *place;
	int r = -ENOENT;

	if (dir->lower.n > 0 && !dir->is_opaque)
		r = rvl_merge_lookup(&layers->stack, &dir->lower, name, NULL, NULL, &found);
	if (r == 0 && found.places.n == 0)
		r = -ENOENT;
	if (r == 0) {
		place = &found.places.v[0];
		_cleanup_close_ int fd = rvl_path_open(place->layer->fd, place->path, O_PATH, 0);

		r = fd < 0 ? fd :
			     rvl_number_of_lower(layers->index, place->layer, fd, "", &found.st,
						 &ret->id);
		ret->mode = found.st.stx_mode;
		ret->lower = found.places;
		found.places = (struct rvl_places){};
	}
	rvl_found_release(&found);
	return r;
}

int rvl_view_child(const struct rvl_layers *layers, const struct rvl_view_object *dir,
		   const char *name, struct rvl_view_object *ret)
{
	struct statx stx;
	int r = -ENOENT;

	*ret = (struct rvl_view_object){ .upper_fd = -EBADF };
	if (!rvl_name_is_valid(name))
		return -ENOENT;
	if (!S_ISDIR(dir->mode))
		return -ENOTDIR;
	if (dir->upper_fd >= 0)
		r = rvl_path_statx(dir->upper_fd, name, RVL_STATX_MASK, &stx);
	if (r == 0)
		r = upper_child(layers, dir, name, &stx, ret);
	else if (r == -ENOENT)
		r = lower_child(layers, dir, name, ret);
	if (r < 0)
		rvl_view_object_release(ret);
	return r;
}

int rvl_view_path(const struct rvl_layers *layers, const char *path, struct rvl_view_object *ret)
{
	_cleanup_free_ char *copy = strdup(path);
	char *save = NULL;
	int r = copy ? rvl_view_root(layers, ret) : -ENOMEM;

	for (const char *name = strtok_r(copy, "/", &save); r == 0 && name;
	     name = strtok_r(NULL, "/", &save)) {
		struct rvl_view_object child;

		r = rvl_view_child(layers, ret, name, &child);
		rvl_view_object_release(ret);
		*ret = child;
	}
	return r;
}

/* ---- the walk ---- */

struct walk {
	const struct rvl_layers *layers;
	uint64_t number;
	rvl_view_fn *fn;
	void *arg;
	unsigned depth;
};

static int list(const struct rvl_layers *layers, const struct rvl_view_object *dir,
		struct rvl_listing **ret)
{
	const struct rvl_secret *secret = &layers->index->secret;
	struct rvl_listing *lower = NULL;
	int r = 0;

	if (dir->lower.n > 0)
		r = rvl_listing_read(&layers->stack, &dir->lower, secret, 0, &lower);
	if (r < 0)
		return r;
	if (dir->upper_fd < 0) {
		*ret = lower;
		return lower ? 0 : -ENOENT;
	}
	_cleanup_close_ int fd = rvl_fd_reopen(dir->upper_fd, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	r = fd < 0 ? fd :
		     rvl_listing_read_upper(&layers->stack, fd, lower, dir->is_opaque, secret, ret);
	if (lower)
		rvl_listing_put(lower);
	return r;
}

static int walk_dir(struct walk *walk, const struct rvl_view_object *dir, const char *path);

/* Is it, by the listing alone, surely another object and no directory? */
static bool can_skip(const struct walk *walk, const struct rvl_listing_name *name)
{
	uint64_t number;

	return name->type != DT_DIR && name->layer != 0 &&
	       rvl_number_of_dirent(walk->layers->index,
				    &walk->layers->stack.layers[name->layer], name->ino,
				    name->type, &number) == 0 &&
	       number != walk->number;
}

static int walk_name(struct walk *walk, const struct rvl_view_object *dir, const char *path,
		     const char *name)
{
	_cleanup_free_ char *full = rvl_path_join(path, name);
	struct rvl_view_object object;
	int r;

	if (!full)
		return -ENOMEM;
	r = rvl_view_child(walk->layers, dir, name, &object);
	if (r == -ENOMEM || r == -EMFILE)
		return r;
	if (r < 0) {
		if (r != -ENOENT)
			rvl_warn("%s: %s; left out", full, strerror(-r));
		return 0;
	}
	if (object.id.number == walk->number)
		r = walk->fn(walk->arg, full, &object);
	if (r == 0 && S_ISDIR(object.mode))
		r = walk_dir(walk, &object, full);
	rvl_view_object_release(&object);
	return r;
}

static int walk_dir(struct walk *walk, const struct rvl_view_object *dir, const char *path)
{
	struct rvl_listing *listing;
	int r;

	if (walk->depth == DEPTH_MAX)
		return -ELOOP;
	r = list(walk->layers, dir, &listing);
	if (r < 0) {
		rvl_warn("/%s: cannot be listed: %s; left out", path, strerror(-r));
		return r == -ENOMEM || r == -EMFILE ? r : 0;
	}
	walk->depth++;
	for (size_t i = 0; r == 0 && i < listing->n; i++)
		if (!can_skip(walk, &listing->v[i]))
			r = walk_name(walk, dir, path, rvl_listing_text(listing, &listing->v[i]));
	walk->depth--;
	rvl_listing_put(listing);
	return r;
}

int rvl_view_find(const struct rvl_layers *layers, uint64_t number, rvl_view_fn *fn, void *arg)
{
	struct walk walk = { .layers = layers, .number = number, .fn = fn, .arg = arg };
	struct rvl_view_object root;
	int r = rvl_view_root(layers, &root);

	if (r == 0 && number == RVL_NUMBER_ROOT)
		r = fn(arg, "", &root);
	else if (r == 0)
		r = walk_dir(&walk, &root, "");
	rvl_view_object_release(&root);
	return r;
}
