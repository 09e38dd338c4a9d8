/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The rules of a stack: which real objects a name of the merged LOWER view stands for (upper is
 * not looked at here; the live filesystem and the checks put it on top).
 *
 *   lowerdir=L1:L2:L3, looked up: "b" in the directory {L1:"", L2:"", L3:""}
 *
 *   L1/b  directory, overlay.redirect=/a    -> place L1:"b"; below L1 the name is now "/a"
 *   L2/a  directory                         -> place L2:"a"
 *   L3/a  whiteout or file                  -> the search ends
 *   result: {L1:"b", L2:"a"}; whoever renames it in upper writes redirect "/b", its path here
 *
 * Follows ovl_lookup_layer, ovl_lookup_single and ovl_check_redirect of fs/overlayfs/namei.c:
 * whiteouts (char 0:0, or a zero-size file with overlay.whiteout in a directory whose opaque value
 * is "x"), opaque ("y"; AUFS .wh..wh..opq), AUFS ".wh.NAME", redirects (absolute: from the roots of
 * the layers below; relative: instead of the name), metacopy chains down to data (file redirects,
 * data-only layers). Malformed values: -EUCLEAN, logged once, counted as damaged; the caller
 * answers EIO.
 */
#ifndef RVL_LAYER_MERGE_H
#define RVL_LAYER_MERGE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#include "layer/layer.h"

struct rvl_place {
	const struct rvl_layer *layer; /* borrowed from the stack */
	const char *path;	       /* counted refstr; relative to the layer's root, "" = root */
};

/* Directories that together are one, topmost first; or the one place of a non-directory. */
struct rvl_places {
	struct rvl_place *v; /* owned */
	unsigned n;
};
void rvl_places_release(struct rvl_places *places);
/* Append a place; takes a reference of its own on path. */
int rvl_places_add(struct rvl_places *places, const struct rvl_layer *layer, const char *path);
int rvl_places_copy(const struct rvl_places *from, struct rvl_places *ret);
/* The roots of all lower layers but data-only ones. */
int rvl_places_of_root(const struct rvl_stack *stack, struct rvl_places *ret);

/* What a lower name is. Zeroed = absent. */
struct rvl_found {
	struct statx st; /* of the topmost object; stx_mask 0 when absent */
	struct rvl_places places; /* owned; n == 0: absent */
	/* metacopy only: where the data is (places.v[0] has attributes and xattrs); layer NULL if
	 * the data-only layers do not have it (yet): opening is -EIO then, attributes are there */
	struct rvl_place data;
	bool is_metacopy;
};
void rvl_found_release(struct rvl_found *found);

struct rvl_listing;
struct rvl_listing_name;

/*
 * Look up one name in a lower directory. redirect: NULL, or the overlay.redirect value of the upper
 * object with this name (absolute or relative, already validated by rvl_redirect_get). hint: NULL
 * or the complete listing of `parent`, which saves the system calls for layers that do not have the
 * name, and the look for a whiteout's attribute (ignored with an absolute redirect). Returns 0 with
 * ret->places.n == 0 for an absent (or whited-out) name. Objects of which the hidden upper/workdir is
 * one are absent. Errors: -EUCLEAN damaged metadata; -EIO: a metacopy file has no data below it; -EPERM:
 * a redirect, and redirect_dir=nofollow; others are the layer's.
 */
int rvl_merge_lookup(const struct rvl_stack *stack, const struct rvl_places *parent,
		     const char *name, const char *redirect, const struct rvl_listing *hint,
		     struct rvl_found *ret);
/* The same by a path in the lower view, not empty, which is overwritten. -ENOENT: absent. *ret is to be
 * released only where it returns 0. */
int rvl_merge_lookup_path(const struct rvl_stack *stack, char *path, struct rvl_found *ret);
/*
 * The same for a caller that has the parent's place in one layer open: open_fd (may be O_PATH;
 * -EBADF: not), and the layer's index; and that has found the name in the listing (listed; NULL:
 * there is no listing, or the redirect is absolute).
 */
int rvl_merge_lookup_at(const struct rvl_stack *stack, const struct rvl_places *parent,
			unsigned open_layer, int open_fd, const char *name, const char *redirect,
			const struct rvl_listing_name *listed, struct rvl_found *ret);

/* Data of a metacopy object whose own layer has none: continue below with its redirect or name.
 * from_layer: index of the layer that has the metacopy object. For an upper metacopy file `parent`
 * is the lower part of its directory. -EIO: there is none. */
int rvl_merge_lookup_data(const struct rvl_stack *stack, const struct rvl_places *parent,
			  const char *name, const char *redirect, unsigned from_layer,
			  struct rvl_place *ret);

/*
 * Has the file at this place, where the data of an object were found, data of its own? It is opened,
 * or named, by dirfd and name. 0, or -EIO: it is a metacopy file, which is logged; -EUCLEAN as
 * rvl_metacopy_get. Asks while is_data_checked_late is set (layer.h), in all layers but the data-only
 * ones: with redirects off any of them can be the last of a search.
 */
int rvl_merge_check_data(const struct rvl_stack *stack, const struct rvl_place *place, int dirfd,
			 const char *name);

/*
 * For walks of the whole view: is this error of a look-up, a stat or an open one of that object
 * alone, which users get there too, so that the walk goes on without it? Not so what says
 * that the walk itself cannot go on: memory, descriptors, a disk that fails.
 */
bool rvl_merge_is_local_error(int r);

/* overlay.redirect of a real object: validated (absolute without ".." or empty components, or one
 * name). Returns 0 with *ret NULL where there is none (owned by the caller, free), -EUCLEAN if
 * malformed. */
int rvl_redirect_get(const struct rvl_stack *stack, int dirfd, const char *name, char **ret);

/* The same rule, for a value that comes from elsewhere. */
bool rvl_redirect_is_valid(const char *value);

enum rvl_opaque { RVL_OPAQUE_NO, RVL_OPAQUE_YES, RVL_OPAQUE_XWHITEOUTS /* "x" */ };
/* overlay.opaque of a directory. Unknown values are as the kernel takes them: no. */
int rvl_opaque_get(const struct rvl_stack *stack, int dirfd, const char *name,
		   enum rvl_opaque *ret);

/* overlay.metacopy: one of enum rvl_metacopy (layer/fetch.h), 0 where there is none; -EUCLEAN
 * malformed. */
int rvl_metacopy_get(const struct rvl_stack *stack, int dirfd, const char *name);

/* Is this stat that of a whiteout (char 0:0)? */
bool rvl_is_whiteout(const struct statx *stx);
/* Whiteout in either form? 1, 0, or -errno. Reads the xattr only for empty regular files in marked
 * directories. */
int rvl_whiteout_check(const struct rvl_stack *stack, int dirfd, const char *name,
		       const struct statx *stx, bool is_in_xwhiteouts_dir);

#endif
