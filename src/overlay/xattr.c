// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Extended attributes: the real object's, with the private names hidden and escaped
 * (layer/xattr.h). Never through a path of the mount itself.
 */
#include <linux/limits.h>
#include <string.h>
#include <sys/xattr.h>

#include "layer/keep.h"
#include "layer/lift.h"
#include "layer/path.h"
#include "overlay/copyup.h"
#include "overlay/metacopy.h"
#include "overlay/prot.h"
#include "overlay/real.h"

static bool is_acl(const char *name)
{
	return strncmp(name, "system.posix_acl_", 17) == 0;
}

static bool is_capability(const char *name)
{
	return strcmp(name, RVL_CAPABILITY_NAME) == 0;
}

/*
 * The capability of a file in upper is away for a moment while pages are written or data are
 * fetched, in the turn of a copier: who reads or changes it takes a turn as well. So does who
 * changes an ACL, which is a part of the mode, while data are fetched.
 */
static bool begin_turn(struct rvl_node *node, const char *name)
{
	if (!is_capability(name))
		return is_acl(name) && rvl_metacopy_turn_begin(node);
	if (!S_ISREG(node->type) || !rvl_node_has_upper(node))
		return false;
	rvl_node_copy_begin(node);
	return true;
}

static bool is_known_namespace(const char *name)
{
	return is_acl(name) || strncmp(name, "user.", 5) == 0 ||
	       strncmp(name, "trusted.", 8) == 0 || strncmp(name, "security.", 9) == 0;
}

/* An open file needs no way by /proc. */
static ssize_t get(const struct rvl_real *real, const char *name, void *buf, size_t size)
{
	ssize_t n;

	if (!real->is_open)
		return rvl_xattrat_get(real->dirfd, real->name, name, buf, size);
	n = fgetxattr(real->dirfd, name, buf, size);
	return n < 0 ? -errno : n;
}

ssize_t rvl_overlay_getxattr(struct rvl_overlay *ov, uint64_t number, const char *name, void *buf,
			     size_t size)
{
	struct rvl_node _cleanup_node_ *node = NULL;
	struct rvl_real _cleanup_real_ real = {};
	char escaped[XATTR_NAME_MAX + 1];
	const char *layer_name;
	bool is_turn;
	ssize_t n;
	int r = rvl_xattr_to_layer(&ov->stack->xattr, name, escaped, &layer_name);

	if (r == 0)
		r = rvl_node_get(ov, number, &node);
	if (r == 0)
		r = rvl_real_get(node, &real);
	if (r < 0)
		return r;
	is_turn = begin_turn(node, name);
	n = get(&real, layer_name, buf, size);
	rvl_metacopy_turn_end(node, is_turn);
	/* a lower that knows no xattrs has none; the overlay does know them */
	if (n == -EOPNOTSUPP && !real.is_upper && is_known_namespace(name))
		return -ENODATA;
	return n == -ENOENT ? -ESTALE : n;
}

ssize_t rvl_overlay_listxattr(struct rvl_overlay *ov, uint64_t number, char *buf, size_t size)
{
	struct rvl_node _cleanup_node_ *node = NULL;
	struct rvl_real _cleanup_real_ real = {};
	_cleanup_free_ char *list = NULL;
	bool is_turn;
	ssize_t n;
	int r = rvl_node_get(ov, number, &node);

	if (r == 0)
		r = rvl_real_get(node, &real);
	if (r < 0)
		return r;
	/* private names are in the way of the caller's size: read all, then see */
	list = malloc(RVL_XATTR_LIST_MAX);
	if (!list)
		return -ENOMEM;
	is_turn = begin_turn(node, RVL_CAPABILITY_NAME);
	n = rvl_xattrat_list(real.dirfd, real.name, list, RVL_XATTR_LIST_MAX);
	rvl_metacopy_turn_end(node, is_turn);
	if (n == -EOPNOTSUPP)
		return 0;
	if (n < 0)
		return n == -ENOENT ? -ESTALE : n;
	n = (ssize_t)rvl_xattr_list_to_user(&ov->stack->xattr, list, (size_t)n);
	if (size == 0)
		return n;
	if ((size_t)n > size)
		return -ERANGE;
	memcpy(buf, list, (size_t)n);
	return n;
}

static int prepare_change(struct rvl_overlay *ov, uint64_t number, const char *name, char *escaped,
			  const char **ret_name, struct rvl_node **ret_node,
			  struct rvl_real *ret_real)
{
	int r = rvl_check_writable(ov);

	if (r == 0)
		r = rvl_xattr_to_layer(&ov->stack->xattr, name, escaped, ret_name);
	if (r == 0)
		r = rvl_node_get(ov, number, ret_node);
	if (r == 0)
		r = rvl_prot_check(*ret_node, RVL_PROT_ANY);
	if (r == 0)
		r = rvl_copy_up(*ret_node, 0);
	if (r == 0)
		r = rvl_real_get(*ret_node, ret_real);
	return r;
}

/* Setting an access ACL by somebody outside the group clears setgid, which the server's rights
 * would keep. */
static int kill_sgid(const struct rvl_real *real)
{
	struct statx stx;
	unsigned turn;
	int r;

	do {
		turn = rvl_lift_read_begin();
		r = rvl_path_statx(real->dirfd, real->name, STATX_MODE, &stx);
	} while (rvl_lift_read_again(turn));
	if (r < 0 || !(stx.stx_mode & S_ISGID))
		return r;
	return rvl_real_chmod(real, stx.stx_mode & ~(mode_t)S_ISGID);
}

int rvl_overlay_setxattr(struct rvl_overlay *ov, uint64_t number, const char *name,
			 const void *value, size_t size, int flags, bool is_acl_kill_sgid)
{
	struct rvl_node _cleanup_node_ *node = NULL;
	struct rvl_real _cleanup_real_ real = {};
	char escaped[XATTR_NAME_MAX + 1];
	const char *layer_name;
	bool is_turn;
	int r = prepare_change(ov, number, name, escaped, &layer_name, &node, &real);

	if (r == 0) {
		is_turn = begin_turn(node, name);
		if (is_acl(name)) /* changes the mode */
			rvl_lift_lock();
		r = rvl_xattrat_set(real.dirfd, real.name, layer_name, value, size, flags);
		if (is_acl(name))
			rvl_lift_unlock();
		if (r == 0 && is_acl_kill_sgid)
			r = kill_sgid(&real);
		rvl_metacopy_turn_end(node, is_turn);
	}
	if (node && is_acl(name))
		atomic_store(&node->default_acl,
			     (atomic_load(&node->default_acl) | RVL_NO_DEFAULT_ACL) + 1);
	return r == -ENOENT ? -ESTALE : r;
}

int rvl_overlay_removexattr(struct rvl_overlay *ov, uint64_t number, const char *name)
{
	struct rvl_node _cleanup_node_ *node = NULL;
	struct rvl_real _cleanup_real_ real = {};
	char escaped[XATTR_NAME_MAX + 1];
	const char *layer_name;
	bool is_turn;
	ssize_t n = 0;
	int r;

	/* what is not there needs no copy-up to say so */
	n = rvl_overlay_getxattr(ov, number, name, NULL, 0);
	if (n == -ENODATA && is_acl(name))
		return 0; /* an object without ACL is what was asked for */
	if (n < 0)
		return (int)n;
	r = prepare_change(ov, number, name, escaped, &layer_name, &node, &real);
	if (r == 0) {
		is_turn = begin_turn(node, name);
		r = rvl_xattrat_remove(real.dirfd, real.name, layer_name);
		rvl_metacopy_turn_end(node, is_turn);
	}
	return r == -ENOENT ? -ESTALE : r;
}

int rvl_overlay_page_write_begin(struct rvl_overlay *ov, uint64_t number, int fd,
				 struct rvl_page_write *ret)
{
	int r = rvl_node_get(ov, number, &ret->node);

	if (r < 0)
		return r;
	rvl_node_copy_begin(ret->node);
	ret->fd = fd;
	ret->len = rvl_xattrat_get(fd, "", RVL_CAPABILITY_NAME, ret->capability,
				   sizeof(ret->capability));
	return 0;
}

void rvl_overlay_page_write_end(struct rvl_page_write *write)
{
	if (write->len > 0)
		(void)rvl_xattrat_set(write->fd, "", RVL_CAPABILITY_NAME, write->capability,
				      (size_t)write->len, 0);
	rvl_node_copy_end(write->node);
	rvl_node_put(write->node);
}
