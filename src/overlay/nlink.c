// SPDX-License-Identifier: GPL-2.0-or-later
/* Link counts of nodes, see nlink.h. */
#include "overlay/nlink.h"

#include <fcntl.h>

#include "overlay/identify.h"
#include "overlay/real.h"

/*
 * The kernel writes a count relative to the lower object before it links a further name into upper,
 * and leaves it so if it dies then (ovl_link_up in fs/overlayfs/copy_up.c). Where the lower object
 * cannot be found nothing is taken off: a count too high keeps an entry, one too low would bury a
 * living object.
 */
static int relative_to_lower(const struct rvl_node *node, int dirfd, const char *name,
			     uint32_t upper_nlink, int diff)
{
	const struct rvl_layer *layer;
	struct statx st;
	_cleanup_close_ int fd =
		rvl_origin_open(node->ov, dirfd, name, node->type, &layer, &st);

	return fd < 0 || st.stx_nlink > RVL_NLINK_MAX || upper_nlink > RVL_NLINK_MAX ?
		       0 :
		       (int)st.stx_nlink + diff - (int)upper_nlink;
}

int rvl_nlink_read(struct rvl_node *node, int dirfd, const char *name, uint32_t upper_nlink)
{
	struct rvl_overlay *ov = node->ov;
	struct rvl_nlink nlink;
	int r;

	if (rvl_number_is_born(ov->index, node->id.number))
		return 0;
	r = rvl_nlink_get(ov->index, dirfd, name, node->type, node->upper_ino, &nlink);
	node->has_nlink_xattr = r == 1 || r == -EUCLEAN;
	if (r == -EUCLEAN) {
		rvl_count(damaged);
		rvl_warn_limited("%s: damaged overlay.nlink", name);
	}
	if (r <= 0)
		return r;
	node->nlink_diff = nlink.is_lower ? relative_to_lower(node, dirfd, name, upper_nlink,
							      nlink.diff) :
					    nlink.diff;
	return 0;
}

int rvl_nlink_add(struct rvl_node *node, int delta)
{
	struct rvl_real _cleanup_real_ real = {};
	char value[RVL_NLINK_VALUE_SIZE];
	int r;

	if (delta == 0)
		return 0;
	r = rvl_real_get(node, &real);
	if (r < 0)
		return r;
	r = rvl_real_xattr_set(node, &real, RVL_XATTR_NLINK, value,
			       rvl_nlink_format(node->nlink_diff + delta, value));
	if (r < 0)
		return r;
	node->nlink_diff += delta;
	node->has_nlink_xattr = true;
	return 0;
}

int rvl_nlink_undo(struct rvl_node *node, int delta)
{
	int r = rvl_nlink_add(node, -delta);

	if (r < 0)
		node->nlink_diff -= delta;
	return r;
}

long rvl_nlink_visible(struct rvl_node *node)
{
	struct rvl_real _cleanup_real_ real = {};
	struct statx stx;
	long n;
	int r = rvl_real_get(node, &real);

	if (r == 0 && statx(real.dirfd, real.name, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH, STATX_NLINK,
			    &stx) < 0)
		r = errno == ENOENT ? -ESTALE : -errno;
	if (r < 0)
		return r;
	n = (long)stx.stx_nlink + node->nlink_diff;
	return n > 0 ? n : 0;
}
