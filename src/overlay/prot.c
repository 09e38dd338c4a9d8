// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Immutable and append-only, see prot.h. The value's form is that of fs/overlayfs/util.c,
 * ovl_set_protattr. What cannot be read forbids every change, by EIO: the kernel's overlayfs allows
 * them with a message (ovl_check_protattr).
 */
#include "overlay/prot.h"

#include <linux/magic.h>
#include <string.h>

#include "layer/path.h"
#include "overlay/real.h"

#define IS_KNOWN (1 << 7) /* in node->prot: the rest has been read */

static int parse(const char *value, size_t len)
{
	if (!rvl_protattr_is_valid(value, len))
		return -EUCLEAN;
	return (memchr(value, 'i', len) ? RVL_PROT_IMMUTABLE : 0) |
	       (memchr(value, 'a', len) ? RVL_PROT_APPEND : 0);
}

static int read_upper(struct rvl_node *node, const struct rvl_real *real)
{
	char value[32];
	ssize_t n = rvl_real_xattr_get(node, real, RVL_XATTR_PROTATTR, value, sizeof(value));
	int prot;

	if (n == -ENODATA)
		return 0;
	prot = n < 0 ? (int)n : parse(value, (size_t)n);
	if (prot == -EUCLEAN || prot == -ERANGE) {
		rvl_count(damaged);
		rvl_warn_limited("object %llu: damaged overlay.protattr",
				 (unsigned long long)node->id.number);
		return -EUCLEAN;
	}
	return prot;
}

static int read_lower(const struct rvl_node *node, const struct rvl_real *real)
{
	struct statx stx;
	int prot = 0, r = rvl_path_statx(real->dirfd, real->name, STATX_TYPE, &stx);

	/* erofs says it of every file, and means that it is read-only */
	if (r < 0 || node->lower.v[0].layer->fs_magic == EROFS_SUPER_MAGIC_V1)
		return r;
	if (stx.stx_attributes & STATX_ATTR_IMMUTABLE)
		prot |= RVL_PROT_IMMUTABLE;
	if (stx.stx_attributes & STATX_ATTR_APPEND)
		prot |= RVL_PROT_APPEND;
	return prot;
}

int rvl_prot_get(struct rvl_node *node)
{
	struct rvl_real _cleanup_real_ real = {};
	int prot = atomic_load_explicit(&node->prot, memory_order_relaxed);
	int unknown = 0, r;

	if (prot & IS_KNOWN)
		return prot & RVL_PROT_ANY;
	if (!S_ISREG(node->type) && !rvl_node_is_dir(node))
		return 0;
	r = rvl_real_get(node, &real);
	if (r < 0)
		return r == -ENOENT || r == -ESTALE ? 0 : r;
	prot = real.is_upper ? read_upper(node, &real) : read_lower(node, &real);
	/* not if it was set meanwhile */
	if (prot >= 0)
		atomic_compare_exchange_strong(&node->prot, &unknown, prot | IS_KNOWN);
	return prot;
}

int rvl_prot_check(struct rvl_node *node, int forbidden)
{
	int prot = rvl_prot_get(node);

	if (prot < 0)
		return prot;
	return prot & forbidden ? -EPERM : 0;
}

unsigned rvl_prot_format(int prot, char ret[2])
{
	unsigned n = 0;

	if (prot & RVL_PROT_APPEND)
		ret[n++] = 'a';
	if (prot & RVL_PROT_IMMUTABLE)
		ret[n++] = 'i';
	return n;
}

int rvl_prot_set(struct rvl_node *node, int prot)
{
	struct rvl_real _cleanup_real_ real = {};
	char value[2];
	unsigned n = rvl_prot_format(prot, value);
	int r = rvl_real_get(node, &real);

	if (r < 0)
		return r;
	if (n)
		r = rvl_real_xattr_set(node, &real, RVL_XATTR_PROTATTR, value, n);
	else
		r = rvl_xattr_remove(&node->ov->stack->xattr, real.dirfd, real.name,
				     RVL_XATTR_PROTATTR);
	if (r < 0 && r != -ENODATA)
		return r;
	atomic_store_explicit(&node->prot, prot | IS_KNOWN, memory_order_relaxed);
	return 0;
}

void rvl_prot_none(struct rvl_node *node)
{
	atomic_store_explicit(&node->prot, IS_KNOWN, memory_order_relaxed);
}
