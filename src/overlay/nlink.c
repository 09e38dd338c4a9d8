// SPDX-License-Identifier: GPL-2.0-or-later
/* Link counts: the kernel's overlay.nlink (fs/overlayfs/util.c, ovl_get_nlink), see nlink.h. */
#include "overlay/nlink.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "index/stamp.h"
#include "overlay/identify.h"
#include "overlay/real.h"

#define LINKS_MAX (1 << 20)

static int parse(const char *value, int *ret)
{
	char *end;
	long n;

	if ((value[0] != 'U' && value[0] != 'L') || (value[1] != '+' && value[1] != '-'))
		return -EUCLEAN;
	errno = 0;
	n = strtol(value + 1, &end, 10);
	if (errno || *end || n < -LINKS_MAX || n > LINKS_MAX)
		return -EUCLEAN;
	*ret = (int)n;
	return 0;
}

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

	return fd < 0 || st.stx_nlink > LINKS_MAX || upper_nlink > LINKS_MAX ?
		       0 :
		       (int)st.stx_nlink + diff - (int)upper_nlink;
}

int rvl_nlink_read(struct rvl_node *node, int dirfd, const char *name, uint32_t upper_nlink)
{
	struct rvl_overlay *ov = node->ov;
	char value[RVL_NLINK_VALUE_SIZE + 1];
	ssize_t n;
	int r;

	if (rvl_number_is_born(ov->index, node->id.number))
		return 0;
	n = rvl_upper_xattr_get(ov->index, dirfd, name, node->type, node->upper_ino,
				RVL_XATTR_NLINK, value, sizeof(value) - 1);
	if (n == -ENODATA)
		return 0;
	if (n < 0 && n != -ERANGE)
		return (int)n;
	value[n < 0 ? 0 : n] = '\0';
	node->has_nlink_xattr = true;
	r = parse(value, &node->nlink_diff);
	if (r == 0 && value[0] == 'L')
		node->nlink_diff = relative_to_lower(node, dirfd, name, upper_nlink,
						     node->nlink_diff);
	if (r == -EUCLEAN) {
		rvl_count(damaged);
		rvl_warn_limited("%s: damaged overlay.nlink", name);
	}
	return r;
}

unsigned rvl_nlink_format(int diff, char ret[RVL_NLINK_VALUE_SIZE])
{
	return (unsigned)snprintf(ret, RVL_NLINK_VALUE_SIZE, "U%+d", diff);
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
