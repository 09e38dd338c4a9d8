// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Looking one name up in a stack of lower layers. The header shows the rules by an example; the
 * state of a search is `struct search`, which goes down the layers:
 *
 *   search_run            the loop over the layers, one after another, each at most once
 *     search_layer        in one layer: a single name in the parent's place there, or an absolute
 *                         path from the layer's root, component by component
 *       search_component  one component: whiteout? directory? opaque? redirect for those below?
 *
 * The name changes on the way: a redirect met in one layer is the name in those below. The steps
 * are those of ovl_lookup, ovl_lookup_layer, ovl_lookup_single and ovl_check_redirect in
 * fs/overlayfs/namei.c, and AUFS names on top of them. Differences from the kernel: a directory
 * that is the root of upper or work is absent (there: ELOOP), what is damaged is EUCLEAN (there:
 * EINVAL or EIO), and with is_data_checked_late a metacopy file in the last layer may be found (there:
 * EIO), though its data are not.
 */
#include "layer/merge.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/counters.h"
#include "base/log.h"
#include "base/refstr.h"
#include "layer/aufs.h"
#include "layer/listing.h"
#include "layer/path.h"

#define NAME_LEN_MAX (1024 * 1024) /* of a path made of redirects; longer is damage */

struct search {
	const struct rvl_stack *stack;
	const struct rvl_places *parent;
	const struct rvl_listing_name *hint; /* borrowed; NULL without, or used up */
	char *name; /* owned; in the layers still to come: one component, or an absolute path */
	unsigned next; /* index of the first layer still to come */
	bool is_last; /* the layer at hand is the last: what leads further down does not matter */
	bool is_dir; /* a directory was found: only directories can be merged with it */
	bool is_stopped;
	bool is_metacopy; /* the last object found has no data of its own */
	bool has_redirect;
	bool is_redirect_absolute; /* the last redirect looked for was there, and absolute */
	int open_fd; /* borrowed; the parent's place in open_layer; -EBADF: none is open */
	unsigned open_layer;
};

/* One object found in one layer. */
struct hit {
	struct statx st;
	const char *path; /* refstr, owned; in the layer; NULL: nothing found */
};

/*
 * An xattr-form whiteout counts only in a directory with the mark, which is read if there is one. With
 * a hint the attribute is not asked for: a listing leaves out whiteouts.
 */
static int is_whiteout(const struct search *s, const struct rvl_layer *layer, int dirfd,
		       const char *name, const struct statx *stx)
{
	enum rvl_opaque opaque;
	int r = rvl_whiteout_check(s->stack, dirfd, name, stx, layer->has_xattrs && !s->hint);

	if (r <= 0 || rvl_is_whiteout(stx))
		return r;
	r = rvl_opaque_get(s->stack, dirfd, "", &opaque);
	return r < 0 ? r : opaque == RVL_OPAQUE_XWHITEOUTS;
}

/* Replace the component of s->name that lies before its tail `post` by the redirect. */
static int rename_component(struct search *s, size_t prefix_len, const char *redirect,
			    const char *post)
{
	size_t size = prefix_len + strlen(redirect) + strlen(post) + 1;
	char *name;

	if (size > NAME_LEN_MAX) {
		rvl_count(damaged);
		rvl_warn_limited("redirects in the layers add up to a path that is too long");
		return -EUCLEAN;
	}
	name = malloc(size);
	if (!name)
		return -ENOMEM;
	snprintf(name, size, "%.*s%s%s", (int)prefix_len, s->name, redirect, post);
	free(s->name);
	s->name = name;
	return 0;
}

/* tail: the component and what follows it; post: what follows it, "" if it is the last one. */
static int follow_redirect(struct search *s, int dirfd, const char *component, const char *tail,
			   const char *post)
{
	_cleanup_free_ char *redirect = NULL;
	size_t prefix_len;
	int r;

	s->is_redirect_absolute = false;
	r = rvl_redirect_get(s->stack, dirfd, component, &redirect);
	if (r < 0 || !redirect)
		return r;
	s->has_redirect = true;
	if (redirect[0] == '/') {
		/* What stopped the search above this component does not hold for another path. */
		s->is_redirect_absolute = true;
		s->is_stopped = false;
		prefix_len = 0;
	} else {
		/* s->name may have been changed before, but its end is still that of the path. */
		prefix_len = strlen(s->name) - strlen(tail);
	}
	return rename_component(s, prefix_len, redirect, post);
}

/* Does this directory end the search below it? */
static int is_opaque(const struct search *s, const struct rvl_layer *layer, int dirfd,
		     const char *name)
{
	enum rvl_opaque opaque = RVL_OPAQUE_NO;
	int r;

	if (layer->has_xattrs) {
		r = rvl_opaque_get(s->stack, dirfd, name, &opaque);
		if (r < 0)
			return r;
	}
	if (opaque == RVL_OPAQUE_YES)
		return 1;
	return layer->has_aufs ? rvl_aufs_is_opaque(dirfd, name) : 0;
}

/* The layers below a directory that is merged, or a file without data: is there more, and where? */
static int prepare_below(struct search *s, const struct rvl_layer *layer, int dirfd,
			 const struct statx *stx, const char *component, const char *tail,
			 const char *post)
{
	int r;

	if (s->hint && S_ISDIR(stx->stx_mode) && !s->hint->is_named_below) {
		/* Only a redirect could lead to more, so that it is asked for first. */
		_cleanup_free_ char *redirect = NULL;

		r = layer->has_xattrs ? rvl_redirect_get(s->stack, dirfd, component, &redirect) : 0;
		if (r < 0)
			return r;
		if (!redirect) {
			s->is_stopped = true;
			return 0;
		}
	}
	if (S_ISDIR(stx->stx_mode)) {
		r = is_opaque(s, layer, dirfd, component);
		if (r < 0)
			return r;
		if (r > 0) {
			s->is_stopped = true;
			return 0;
		}
	}
	if (!s->hint && layer->has_aufs) {
		r = rvl_aufs_is_whited_out(dirfd, component);
		if (r < 0)
			return r;
		if (r > 0) {
			s->is_stopped = true;
			return 0;
		}
	}
	return layer->has_xattrs ? follow_redirect(s, dirfd, component, tail, post) : 0;
}

/* Nothing of this name in the layer: does the layer hide it in those below? */
static int component_absent(struct search *s, const struct rvl_layer *layer, int dirfd,
			    const char *component, int error)
{
	int r;

	if (error == -EXDEV)
		rvl_warn_limited("lowerdir=%s: %s is a mount point, which is not part of the layer",
				 layer->path, component);
	else if (error != -ENOENT && error != -ENOTDIR && error != -ENAMETOOLONG)
		return error;
	if (s->hint || s->is_last || !layer->has_aufs)
		return 0;
	r = rvl_aufs_is_whited_out(dirfd, component);
	if (r > 0)
		s->is_stopped = true;
	return r < 0 ? r : 0;
}

/* Is a file asked for overlay.metacopy when its data are opened? Who sees no blocks may not open them. */
static bool is_checked_late(const struct search *s, const struct statx *stx)
{
	return s->is_last && s->stack->is_data_checked_late && (stx->stx_blocks || !stx->stx_size);
}

/* 1: found, with its attributes in *ret; 0: not there. The rest of the answer is in *s. */
static int search_component(struct search *s, const struct rvl_layer *layer, int dirfd,
			    const char *component, const char *tail, const char *post,
			    struct statx *ret)
{
	bool is_end = *post == '\0';
	int r;

	if (layer->has_aufs && rvl_aufs_is_reserved(component))
		return 0;
	r = rvl_path_statx(dirfd, component, RVL_STATX_MASK, ret);
	if (r < 0)
		return component_absent(s, layer, dirfd, component, r);
	r = is_whiteout(s, layer, dirfd, component, ret);
	if (r < 0)
		return r;
	if (r > 0) {
		s->is_stopped = true;
		return 0;
	}
	if (S_ISDIR(ret->stx_mode)) {
		if (is_end && s->is_metacopy) {
			s->is_stopped = true;
			return 0;
		}
		if (rvl_stack_is_hidden(s->stack, rvl_statx_dev(ret), ret->stx_ino))
			return 0;
		if (is_end)
			s->is_dir = true;
	} else {
		if (s->is_dir || !is_end || (s->is_metacopy && !S_ISREG(ret->stx_mode))) {
			s->is_stopped = true;
			return 0;
		}
		r = 0;
		if (S_ISREG(ret->stx_mode) && layer->has_xattrs && !is_checked_late(s, ret))
			r = rvl_metacopy_get(s->stack, dirfd, component);
		if (r < 0)
			return r;
		/* A file without data goes on beneath an opaque ancestor, as in the kernel. */
		s->is_metacopy = r;
		s->is_stopped = !r;
		if (!r)
			return 1;
	}
	if (s->is_last)
		return 1;
	r = prepare_below(s, layer, dirfd, ret, component, tail, post);
	return r < 0 ? r : 1;
}

/* s->name is an absolute path. */
static int search_path(struct search *s, const struct rvl_layer *layer, struct hit *ret)
{
	_cleanup_free_ char *path = strdup(s->name + 1);
	_cleanup_close_ int dirfd = -EBADF;
	const char *tail = path;

	if (!path)
		return -ENOMEM;
	for (;;) {
		int at = dirfd >= 0 ? dirfd : layer->fd;
		const char *post = strchrnul(tail, '/');
		char component[NAME_MAX + 1];
		size_t len = (size_t)(post - tail);
		int r;

		if (len > NAME_MAX)
			return 0;
		memcpy(component, tail, len);
		component[len] = '\0';
		r = search_component(s, layer, at, component, tail, post, &ret->st);
		if (r <= 0)
			return r;
		if (*post == '\0')
			break;
		r = rvl_path_open(at, component, O_PATH | O_DIRECTORY, 0);
		if (r < 0)
			return r;
		rvl_close(dirfd);
		dirfd = r;
		tail = post + 1;
	}
	ret->path = rvl_refstr_new(path);
	return ret->path ? 0 : -ENOMEM;
}

/* s->name is one component, in this place of the parent. */
static int search_name(struct search *s, const struct rvl_place *parent, struct hit *ret)
{
	_cleanup_free_ char *name = strdup(s->name);
	_cleanup_close_ int fd = -EBADF;
	int at = parent->layer->fd, r;

	if (!name)
		return -ENOMEM;
	if (s->open_fd >= 0 && parent->layer->index == s->open_layer) {
		at = s->open_fd;
	} else if (*parent->path) {
		fd = rvl_path_open(at, parent->path, O_PATH | O_DIRECTORY, 0);
		if (fd == -ENOENT || fd == -ENOTDIR)
			return 0; /* removed offline */
		if (fd < 0)
			return fd;
		at = fd;
	}
	r = search_component(s, parent->layer, at, name, name, "", &ret->st);
	if (r <= 0)
		return r;
	ret->path = rvl_refstr_join(parent->path, name);
	return ret->path ? 0 : -ENOMEM;
}

/* The next layer to be searched with the place of the parent in it; false at the end. */
static bool search_next(struct search *s, unsigned *i_parent, struct rvl_place *ret)
{
	unsigned end = rvl_stack_data_start(s->stack);
	bool is_end_of_parent;

	if (s->name[0] == '/') {
		if (s->next >= end)
			return false;
		*ret = (struct rvl_place){ .layer = &s->stack->layers[s->next], .path = "" };
		is_end_of_parent = s->next == end - 1;
	} else {
		while (*i_parent < s->parent->n && s->parent->v[*i_parent].layer->index < s->next)
			(*i_parent)++;
		if (*i_parent >= s->parent->n)
			return false;
		*ret = s->parent->v[(*i_parent)++];
		is_end_of_parent = *i_parent == s->parent->n;
	}
	s->next = ret->layer->index + 1;
	/* Without redirects nothing leads out of the parent's layers. With data-only layers the
	 * redirect of a file in the last of the others matters. */
	if (!s->stack->can_redirect_follow)
		s->is_last = is_end_of_parent;
	else
		s->is_last = s->next == end && (s->is_dir || s->stack->n_data == 0);
	return true;
}

/* Search one layer. 0: *ret tells what was found. */
static int search_layer(struct search *s, const struct rvl_place *parent, struct hit *ret)
{
	bool had_redirect = s->has_redirect;
	int r;

	*ret = (struct hit){ 0 };
	r = s->name[0] == '/' ? search_path(s, parent->layer, ret) : search_name(s, parent, ret);
	if (r == 0 && s->has_redirect && !had_redirect && !s->stack->can_redirect_follow) {
		rvl_warn_limited(
			"lowerdir=%s: not following the redirect of %s, as redirect_dir= says",
			parent->layer->path, ret->path ? ret->path : s->name);
		r = -EPERM;
	}
	if (r < 0) {
		rvl_refstr_put(ret->path);
		*ret = (struct hit){ 0 };
	}
	return r;
}

/* All layers; ret->places may already hold the object above, whose data is looked for. */
static int search_run(struct search *s, struct rvl_found *ret)
{
	unsigned i_parent = 0;
	struct rvl_place parent;

	while (!s->is_stopped && search_next(s, &i_parent, &parent)) {
		bool is_data_wanted = s->is_metacopy;
		struct hit hit;
		int r = search_layer(s, &parent, &hit);

		if (r < 0)
			return r;
		s->hint = NULL;
		if (!hit.path)
			continue;
		if (is_data_wanted) {
			if (!s->is_metacopy) {
				ret->data.layer = parent.layer;
				ret->data.path = hit.path;
				return 0;
			}
			/* Between the topmost and the data: of no further interest. */
			rvl_refstr_put(hit.path);
			continue;
		}
		if (ret->places.n == 0) {
			ret->st = hit.st;
			ret->is_metacopy = s->is_metacopy;
		}
		r = rvl_places_add(&ret->places, parent.layer, hit.path);
		rvl_refstr_put(hit.path);
		if (r < 0)
			return r;
	}
	return 0;
}

/* The data-only layers, by the absolute redirect that the search ended with. 1: found. */
static int search_data_only(const struct search *s, struct rvl_place *ret)
{
	for (unsigned i = rvl_stack_data_start(s->stack); i < s->stack->n; i++) {
		const struct rvl_layer *layer = &s->stack->layers[i];
		struct statx stx;
		int r = rvl_path_statx(layer->fd, s->name + 1, STATX_TYPE, &stx);

		if (r < 0 && r != -ENOENT && r != -ENOTDIR && r != -ELOOP && r != -EXDEV &&
		    r != -ENAMETOOLONG)
			return r;
		if (r < 0 || !S_ISREG(stx.stx_mode))
			continue;
		ret->path = rvl_refstr_new(s->name + 1);
		ret->layer = layer;
		return ret->path ? 1 : -ENOMEM;
	}
	return 0;
}

static int no_data(const char *name)
{
	rvl_count(damaged);
	rvl_warn_limited("%s: overlay.metacopy, but there is no data in the layers below", name);
	return -EIO;
}

/* After the search for an object without data of its own: 0 with data, or -EIO without. Data that
 * should be in a data-only layer may be missing if the caller can wait for it: as in the kernel,
 * the object has its attributes then, and only opening it is an error. */
static int search_finish_data(const struct search *s, const char *name, bool may_be_missing,
			      struct rvl_place *ret)
{
	int r = 0;

	if (ret->layer)
		return 0;
	if (s->is_redirect_absolute)
		r = search_data_only(s, ret);
	if (r != 0)
		return r < 0 ? r : 0;
	if (may_be_missing && s->is_redirect_absolute && s->stack->n_data > 0)
		return 0;
	return no_data(name);
}

int rvl_merge_check_data(const struct rvl_stack *stack, const struct rvl_place *place, int dirfd,
			 const char *name)
{
	int r = 0;

	if (stack->is_data_checked_late && place->layer->has_xattrs &&
	    place->layer->index < rvl_stack_data_start(stack))
		r = rvl_metacopy_get(stack, dirfd, name);
	return r > 0 ? no_data(place->path) : r;
}

int rvl_merge_lookup(const struct rvl_stack *stack, const struct rvl_places *parent,
		     const char *name, const char *redirect, const struct rvl_listing *hint,
		     struct rvl_found *ret)
{
	const char *start = redirect ? redirect : name;
	const struct rvl_listing_name *listed = NULL;

	*ret = (struct rvl_found){ 0 };
	if (hint && start[0] != '/') {
		listed = rvl_listing_find(hint, start);
		if (!listed)
			return 0;
	}
	return rvl_merge_lookup_at(stack, parent, 0, -EBADF, name, redirect, listed, ret);
}

int rvl_merge_lookup_path(const struct rvl_stack *stack, char *path, struct rvl_found *ret)
{
	struct rvl_places places = { 0 };
	char *rest = path, *name;
	int r = rvl_places_of_root(stack, &places);

	*ret = (struct rvl_found){ 0 };
	while (!r && (name = strsep(&rest, "/"))) {
		rvl_found_release(ret);
		*ret = (struct rvl_found){ 0 };
		r = rvl_merge_lookup(stack, &places, name, NULL, NULL, ret);
		if (!r && !ret->places.n)
			r = -ENOENT;
		if (!r && rest) {
			rvl_places_release(&places);
			r = rvl_places_copy(&ret->places, &places);
		}
	}
	rvl_places_release(&places);
	if (r)
		rvl_found_release(ret);
	return r;
}

int rvl_merge_lookup_at(const struct rvl_stack *stack, const struct rvl_places *parent,
			unsigned open_layer, int open_fd, const char *name, const char *redirect,
			const struct rvl_listing_name *listed, struct rvl_found *ret)
{
	struct search s = { .stack = stack,
			    .parent = parent,
			    .open_fd = open_fd,
			    .open_layer = open_layer };
	const char *start = redirect ? redirect : name;
	struct rvl_found found = { 0 };
	int r;

	*ret = found;
	if (parent->n == 0 && start[0] != '/')
		return 0;
	/* A name of upper, in a listing that is not of lower alone, is no hint. */
	if (listed && listed->layer > 0) {
		s.hint = listed;
		s.next = listed->layer;
	}
	s.name = strdup(start);
	if (!s.name)
		return -ENOMEM;
	if (s.next == 0)
		s.next = 1;
	r = search_run(&s, &found);
	if (r == 0 && found.is_metacopy)
		r = search_finish_data(&s, name, true, &found.data);
	free(s.name);
	if (r < 0)
		rvl_found_release(&found);
	else
		*ret = found;
	return r;
}

int rvl_merge_lookup_data(const struct rvl_stack *stack, const struct rvl_places *parent,
			  const char *name, const char *redirect, unsigned from_layer,
			  struct rvl_place *ret)
{
	struct search s = {
		.stack = stack,
		.parent = parent,
		.open_fd = -EBADF,
		.next = from_layer + 1,
		.is_metacopy = true,
		.has_redirect = redirect != NULL,
		.is_redirect_absolute = redirect && redirect[0] == '/',
	};
	struct rvl_found found = { 0 };
	int r;

	s.name = strdup(redirect ? redirect : name);
	if (!s.name)
		return -ENOMEM;
	r = search_run(&s, &found);
	if (r == 0)
		r = search_finish_data(&s, name, false, &found.data);
	free(s.name);
	if (r == 0) {
		*ret = found.data;
		found.data = (struct rvl_place){ 0 };
	}
	rvl_found_release(&found);
	return r;
}

bool rvl_merge_is_local_error(int r)
{
	switch (r) {
	case -ENOENT:
	case -ENOTDIR:
	case -ESTALE:
	case -EUCLEAN:
	case -EACCES:
	case -EPERM:
	case -ELOOP:
	case -EXDEV:
	case -ENAMETOOLONG:
		return true;
	default:
		return false;
	}
}
