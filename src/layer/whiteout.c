// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What hides things: whiteouts in both of the kernel's forms, and opaque directories. AUFS names
 * are matters of names only and are seen to where names are read (merge.c, listing_read.c).
 *
 * Kernel: ovl_is_whiteout, ovl_path_check_xwhiteout_xattr, ovl_get_dir_xattr_val in
 * fs/overlayfs/util.c. One difference: the kernel's look-up takes overlay.whiteout in any directory
 * and its readdir only in marked ("x") ones; here both ask for the mark, so that they agree.
 */
#include "layer/merge.h"

#include <errno.h>

bool rvl_is_whiteout(const struct statx *stx)
{
	return S_ISCHR(stx->stx_mode) && stx->stx_rdev_major == 0 && stx->stx_rdev_minor == 0;
}

/* user.* of an object that we may not read: no more can be known of it than that it is there. */
static ssize_t lenient(const struct rvl_stack *stack, ssize_t n)
{
	return n == -EACCES && stack->xattr.is_user ? -ENODATA : n;
}

int rvl_whiteout_check(const struct rvl_stack *stack, int dirfd, const char *name,
		       const struct statx *stx, bool is_in_xwhiteouts_dir)
{
	ssize_t n;

	if (rvl_is_whiteout(stx))
		return 1;
	if (!is_in_xwhiteouts_dir || !S_ISREG(stx->stx_mode) || stx->stx_size != 0)
		return 0;
	n = lenient(stack, rvl_xattr_get(&stack->xattr, dirfd, name, RVL_XATTR_WHITEOUT, NULL, 0));
	if (n >= 0)
		return 1;
	return n == -ENODATA ? 0 : (int)n;
}

int rvl_opaque_get(const struct rvl_stack *stack, int dirfd, const char *name, enum rvl_opaque *ret)
{
	char value;
	ssize_t n = lenient(stack,
			    rvl_xattr_get(&stack->xattr, dirfd, name, RVL_XATTR_OPAQUE, &value, 1));

	/* -ERANGE: longer than the one character that means something. */
	if (n < 0 && n != -ENODATA && n != -ERANGE)
		return (int)n;
	*ret = RVL_OPAQUE_NO;
	if (n == 1 && value == 'y')
		*ret = RVL_OPAQUE_YES;
	else if (n == 1 && value == 'x')
		*ret = RVL_OPAQUE_XWHITEOUTS;
	return 0;
}
