/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Extended attributes of real objects: the table of private names (the kernel overlayfs's and
 * ours), their escaping when overlays nest, and get/set/list relative to a directory descriptor,
 * for every type of object, never through a symlink: getxattrat(2) and its kin where the kernel
 * has them (6.13), else l*xattr on /proc/self/fd/N/name.
 */
#ifndef RVL_LAYER_XATTR_H
#define RVL_LAYER_XATTR_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

enum rvl_xattr {
	/* the kernel's */
	RVL_XATTR_OPAQUE,
	RVL_XATTR_REDIRECT,
	RVL_XATTR_ORIGIN,
	RVL_XATTR_IMPURE,
	RVL_XATTR_NLINK,
	RVL_XATTR_UPPER,
	RVL_XATTR_UUID,
	RVL_XATTR_METACOPY,
	RVL_XATTR_PROTATTR,
	RVL_XATTR_WHITEOUT,
	/* ours */
	RVL_XATTR_INO,	     /* the stamp */
	RVL_XATTR_PATH,	     /* on an entry: where the upper directory is */
	RVL_XATTR_FH,	     /* on an entry: handle of the lower directory */
	RVL_XATTR_PLACE,     /* where it is in the merged lower view: parent's number + name */
	RVL_XATTR_INSTANCES, /* on the root of an upper: the instance table */
	RVL_XATTR_N
};

struct rvl_xattr_names {
	bool is_user;
	const char *prefix;		 /* "trusted.overlay." or "user.overlay." */
	const char *name[RVL_XATTR_N]; /* full names, static */
};

#define RVL_XATTR_VALUE_MAX 65536 /* XATTR_SIZE_MAX */
#define RVL_XATTR_LIST_MAX 65536  /* XATTR_LIST_MAX */

void rvl_xattr_names_init(struct rvl_xattr_names *ret, bool is_user);

/*
 * Raw calls: name relative to dirfd, "" for the object of the descriptor itself (which may be
 * O_PATH). name may have several components ("a3/#163"): use only for paths that we made
 * ourselves. Return -errno, get and list the length as positive value.
 */
ssize_t rvl_xattrat_get(int dirfd, const char *name, const char *xattr, void *buf, size_t size);
int rvl_xattrat_set(int dirfd, const char *name, const char *xattr, const void *buf, size_t size,
		    int flags);
int rvl_xattrat_remove(int dirfd, const char *name, const char *xattr);
ssize_t rvl_xattrat_list(int dirfd, const char *name, char *buf, size_t size);

/* Private attributes. A missing one, and a filesystem without xattrs, is -ENODATA for get. */
ssize_t rvl_xattr_get(const struct rvl_xattr_names *names, int dirfd, const char *name,
		      enum rvl_xattr which, void *buf, size_t size);
int rvl_xattr_set(const struct rvl_xattr_names *names, int dirfd, const char *name,
		  enum rvl_xattr which, const void *buf, size_t size);
/* -ENODATA where it is absent. */
int rvl_xattr_remove(const struct rvl_xattr_names *names, int dirfd, const char *name,
		     enum rvl_xattr which);

/*
 * The user's view. An overlay's own attributes are hidden; "trusted.overlay.overlay.x" of the
 * layer is shown as "trusted.overlay.x" and vice versa (kernel: ovl_xattr_escape_name), so that
 * an overlay can be the layer of another.
 */
/* Is it an attribute of this overlay itself (not an escaped one)? */
bool rvl_xattr_is_private(const struct rvl_xattr_names *names, const char *name);
/*
 * Name in the layer for a name that a user gives; buf of XATTR_NAME_MAX + 1 bytes. Returns 0,
 * -ENAMETOOLONG (kernel: EOPNOTSUPP) if the escaped one does not fit, -EINVAL if nothing follows the
 * prefix. *ret points to buf or to name.
 */
int rvl_xattr_to_layer(const struct rvl_xattr_names *names, const char *name, char *buf,
		       const char **ret);
/* Rewrites a list as listxattr(2) gave it: drops private names, unescapes. Returns the new
 * length; works in place, never grows. */
size_t rvl_xattr_list_to_user(const struct rvl_xattr_names *names, char *list, size_t len);

/*
 * Copy all attributes but private ones (escaped ones are copied as they are) from one object to
 * another: for copy-up. POSIX ACLs and security.capability included; labels of security modules
 * (SELinux, Smack, EVM) are not. What the target cannot carry follows the kernel's ovl_copy_xattr:
 * EOPNOTSUPP on security.* and on ACLs is an error, on others it is skipped.
 */
int rvl_xattr_copy(const struct rvl_xattr_names *names, int from_dirfd, const char *from,
		   int to_dirfd, const char *to);

/* Of overlay.protattr: only 'i' (immutable) and 'a' (append-only), and not none of them. */
bool rvl_protattr_is_valid(const char *value, size_t len);

#endif
