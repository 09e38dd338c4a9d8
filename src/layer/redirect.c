// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * overlay.redirect and overlay.metacopy of real objects. The values are an attacker's if the layer
 * is: nothing of them is used before it is validated here, and what is not valid is damage
 * (-EUCLEAN).
 *
 * Kernel: ovl_get_redirect_xattr, ovl_check_metacopy_xattr in fs/overlayfs/util.c.
 */
#include "layer/merge.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/counters.h"
#include "base/log.h"
#include "layer/fetch.h"

#define READ_RETRIES_MAX 8 /* of a value that grows between asking for its size and reading it */
#define GUESS_BYTES 256 /* OVL_REDIRECT_MAX: what the kernel writes at most */

static int damaged(const char *name, const char *what)
{
	rvl_count(damaged);
	rvl_warn_limited("%s: damaged overlay.%s in a layer", *name ? name : "a directory", what);
	return -EUCLEAN;
}

static bool component_is_valid(const char *s, size_t len)
{
	if (len == 0 || len > NAME_MAX)
		return false;
	return !(s[0] == '.' && (len == 1 || (len == 2 && s[1] == '.')));
}

bool rvl_redirect_is_valid(const char *value)
{
	if (value[0] != '/')
		return component_is_valid(value, strcspn(value, "/")) && !strchr(value, '/');
	while (*value == '/') {
		size_t len = strcspn(value + 1, "/");

		if (!component_is_valid(value + 1, len))
			return false;
		value += 1 + len;
	}
	return true;
}

int rvl_redirect_get(const struct rvl_stack *stack, int dirfd, const char *name, char **ret)
{
	_cleanup_free_ char *value = NULL;
	size_t size = GUESS_BYTES;
	ssize_t n = -ERANGE;

	for (unsigned i = 0; n == -ERANGE && i < READ_RETRIES_MAX; i++) {
		char *bigger = realloc(value, size + 1);

		if (!bigger)
			return -ENOMEM;
		value = bigger;
		n = rvl_xattr_get(&stack->xattr, dirfd, name, RVL_XATTR_REDIRECT, value, size);
		if (n == -ERANGE)
			size = RVL_XATTR_VALUE_MAX;
	}
	if (n == -ENODATA || (n == -EACCES && stack->xattr.is_user)) {
		*ret = NULL;
		return 0;
	}
	if (n < 0)
		return (int)n;
	value[n] = '\0';
	if (strlen(value) != (size_t)n || !rvl_redirect_is_valid(value))
		return damaged(name, "redirect");
	*ret = rvl_take_ptr(value);
	return 0;
}

int rvl_metacopy_get(const struct rvl_stack *stack, int dirfd, const char *name)
{
	uint8_t value[RVL_METACOPY_VALUE_MAX];
	ssize_t n =
		rvl_xattr_get(&stack->xattr, dirfd, name, RVL_XATTR_METACOPY, value, sizeof(value));

	int r;

	if (n == -ENODATA || (n == -EACCES && stack->xattr.is_user))
		return RVL_METACOPY_NONE;
	if (n < 0 && n != -ERANGE)
		return (int)n;
	r = n < 0 ? -EUCLEAN : rvl_metacopy_decode(value, (size_t)n, NULL);
	return r < 0 ? damaged(name, "metacopy") : r;
}
