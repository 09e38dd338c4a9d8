// SPDX-License-Identifier: GPL-2.0-or-later
/* The steps of repair on overlay.redirect, overlay.opaque and overlay.origin. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "check/mend.h"
#include "index/place.h"
#include "index/stamp.h"
#include "layer/identity.h"
#include "layer/merge.h"
#include "layer/path.h"

int rvl_mend_opaque(struct rvl_check *check, int dirfd, const char *name, uint64_t number)
{
	const struct rvl_xattr_names *names = &check->stack->xattr;
	struct rvl_entry_directory record;
	/* opaque first: without a redirect it would show another lower directory */
	int r = rvl_xattr_set(names, dirfd, name, RVL_XATTR_OPAQUE, "y", 1);

	r = r ?: rvl_xattr_remove(names, dirfd, name, RVL_XATTR_REDIRECT);
	if (r == -ENODATA)
		r = 0;
	if (r || !check->index || !number ||
	    rvl_entry_get_directory(check->index, number, &record) || !record.is_merged)
		return r;
	record.is_merged = false;
	return rvl_entry_put_directory(check->index, number, &record, true);
}

/*
 * A redirect to a lower directory, by the handle in an entry: its path in its layer. -ESTALE: the
 * handle leads nowhere, or to the root.
 */
static int lower_path(struct rvl_check *check, const struct rvl_handle *handle, uint64_t number,
		      char **ret)
{
	_cleanup_free_ char *place = NULL;
	const struct rvl_layer *layer;
	struct statx st;
	int r;
	_cleanup_close_ int fd =
		rvl_lower_of_number(check->index, handle, S_IFDIR, number, &layer, &st);

	if (fd < 0)
		return fd;
	r = rvl_layer_place(layer, fd, "", &place);
	if (r || !*place)
		return r ?: -ESTALE;
	if (asprintf(ret, "/%s", place) < 0) {
		*ret = NULL;
		return -ENOMEM;
	}
	return 0;
}

/* Does a redirect lead to the lower directory with this number? */
static bool leads_to(struct rvl_check *check, const struct rvl_object *object, const char *redirect,
		     uint64_t number)
{
	struct rvl_found found = { 0 };
	struct rvl_id id = { 0 };
	int r = -ENOENT;

	if (!redirect || rvl_redirect_is_valid(redirect))
		r = rvl_merge_lookup(check->stack, object->lower, object->name, redirect, NULL,
				     &found);
	if (!r && found.places.n && S_ISDIR(found.st.stx_mode))
		r = rvl_number_of_lower(check->index, found.places.v[0].layer,
					found.places.v[0].layer->fd, found.places.v[0].path,
					&found.st, &id);
	rvl_found_release(&found);
	return !r && id.number == number;
}

/* Is the path of a redirect where the record says that the lower part is? A handle and a number may be those
 * of another directory, of an image that was replaced. */
static bool is_place(struct rvl_check *check, const char *redirect, const struct rvl_name_at *place)
{
	struct rvl_name_at at = { .parent = RVL_NUMBER_ROOT };

	return !rvl_place_of_redirect(check->index, redirect, &at) && at.parent == place->parent &&
	       !strcmp(at.name, place->name);
}

/* What the redirect must be: NULL none, or one owned by the caller. -ESTALE: it cannot be told. */
static int find_redirect(struct rvl_check *check, const struct rvl_object *object,
			 const struct rvl_entry_directory *record, char **ret)
{
	uint64_t number = object->stamp.number;
	_cleanup_free_ char *path = NULL;

	*ret = NULL;
	if (leads_to(check, object, NULL, number))
		return 0;
	if (record->lower.len && !lower_path(check, &record->lower, number, &path) &&
	    is_place(check, path, &record->place) && leads_to(check, object, path, number)) {
		*ret = rvl_take_ptr(path);
		return 0;
	}
	if (record->place.parent == object->parent &&
	    leads_to(check, object, record->place.name, number)) {
		*ret = strdup(record->place.name);
		return *ret ? 0 : -ENOMEM;
	}
	return -ESTALE;
}

int rvl_mend_redirect(struct rvl_check *check, struct rvl_object *object)
{
	const struct rvl_xattr_names *names = &check->stack->xattr;
	struct rvl_entry_directory record;
	_cleanup_free_ char *redirect = NULL;
	int r = -ESTALE;

	if (check->index && object->stamp.number &&
	    !rvl_entry_get_directory(check->index, object->stamp.number, &record) &&
	    record.is_merged)
		r = find_redirect(check, object, &record, &redirect);
	free(rvl_take_ptr(object->redirect));
	if (r) {
		object->is_opaque = true;
		return rvl_mend_opaque(check, object->dirfd, object->name, object->stamp.number);
	}
	if (redirect)
		r = rvl_xattr_set(names, object->dirfd, object->name, RVL_XATTR_REDIRECT, redirect,
				  strlen(redirect));
	else
		r = rvl_xattr_remove(names, object->dirfd, object->name, RVL_XATTR_REDIRECT);
	object->redirect = rvl_take_ptr(redirect);
	return r == -ENODATA ? 0 : r;
}

int rvl_mend_lost_redirect(struct rvl_check *check, const struct rvl_upper_at *at, uint64_t number)
{
	const struct rvl_places none = { 0 };
	const struct rvl_object object = { .name = at->name,
					   .lower = &none,
					   .stamp.number = number };
	struct rvl_entry_directory record;
	_cleanup_free_ char *redirect = NULL;
	int r = rvl_entry_get_directory(check->index, number, &record);

	r = r ?: find_redirect(check, &object, &record, &redirect);
	if (r || !redirect)
		return r ?: -ESTALE;
	return rvl_xattr_set(&check->stack->xattr, at->dirfd, at->name, RVL_XATTR_REDIRECT,
			     redirect, strlen(redirect));
}

int rvl_mend_data_redirect(struct rvl_check *check, uint64_t item, const char *path)
{
	struct rvl_upper_at _cleanup_upper_at_ at = { .dirfd = -EBADF };
	_cleanup_free_ char *redirect = NULL;
	int r = rvl_upper_at_open(check, item, &at);

	if (!r && asprintf(&redirect, "/%s", path) < 0) {
		redirect = NULL;
		r = -ENOMEM;
	}
	return r ?: rvl_upper_xattr_set(check->index, at.dirfd, at.name, at.st.stx_mode,
					at.st.stx_ino, RVL_XATTR_REDIRECT, redirect,
					strlen(redirect));
}

/* The lower object of a place, if its directory is the one that the object lies in. */
static int find_by_place(struct rvl_check *check, const struct rvl_object *object,
			 struct rvl_found *ret)
{
	uint8_t value[RVL_NAME_AT_ENCODED_MAX];
	struct rvl_name_at at;
	struct rvl_id id;
	ssize_t n = rvl_upper_xattr_get(check->index, object->dirfd, object->name,
					object->st->stx_mode, object->st->stx_ino, RVL_XATTR_PLACE,
					value, sizeof(value));
	int r = n < 0 ? (int)n : rvl_name_at_decode(value, (size_t)n, &at);

	if (!r && at.parent != object->parent)
		r = -ESTALE;
	r = r ?: rvl_merge_lookup(check->stack, object->lower, at.name, NULL, NULL, ret);
	if (!r && !ret->places.n)
		r = -ESTALE;
	if (!r)
		r = rvl_number_of_lower(check->index, ret->places.v[0].layer,
					ret->places.v[0].layer->fd, ret->places.v[0].path, &ret->st,
					&id);
	return r ?: id.number == object->stamp.number ? 0 : -ESTALE;
}

int rvl_is_in_lower(struct rvl_check *check, const struct rvl_object *object)
{
	struct rvl_found found = { 0 };
	int r = find_by_place(check, object, &found);

	rvl_found_release(&found);
	if (r == 0)
		return 1;
	return r == -ESTALE || r == -ENODATA || rvl_merge_is_local_error(r) ? 0 : r;
}

int rvl_mend_origin(struct rvl_check *check, const struct rvl_object *object)
{
	uint8_t value[RVL_HANDLE_ENCODED_MAX];
	struct rvl_identity identity;
	struct rvl_found found = { 0 };
	struct rvl_handle origin;
	int len = 0;

	if (!S_ISDIR(object->st->stx_mode) && !find_by_place(check, object, &found)) {
		const struct rvl_place *top = &found.places.v[0];
		_cleanup_close_ int fd = rvl_path_open(top->layer->fd, top->path, O_PATH, 0);

		/* the kernel compares the uuid */
		if (fd >= 0 &&
		    !rvl_identity_get(top->layer, top->layer->fd, top->layer->dev, &identity) &&
		    !rvl_handle_get(fd, "", identity.uuid, &origin))
			len = rvl_handle_encode(&origin, value);
	}
	rvl_found_release(&found);
	return rvl_upper_xattr_set(check->index, object->dirfd, object->name, object->st->stx_mode,
				   object->st->stx_ino, RVL_XATTR_ORIGIN, value, (size_t)len);
}
