// SPDX-License-Identifier: GPL-2.0-or-later
/* Link counts beside st_nlink, see nlink.h. */
#include "index/nlink.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

int rvl_nlink_parse(const char *value, struct rvl_nlink *ret)
{
	char *end;
	long n;

	if ((value[0] != 'U' && value[0] != 'L') || (value[1] != '+' && value[1] != '-'))
		return -EUCLEAN;
	errno = 0;
	n = strtol(value + 1, &end, 10);
	if (errno || *end || n < -RVL_NLINK_MAX || n > RVL_NLINK_MAX)
		return -EUCLEAN;
	*ret = (struct rvl_nlink){ .is_lower = value[0] == 'L', .diff = (int)n };
	return 0;
}

unsigned rvl_nlink_format(int diff, char ret[RVL_NLINK_VALUE_SIZE])
{
	return (unsigned)snprintf(ret, RVL_NLINK_VALUE_SIZE, "U%+d", diff);
}

int rvl_nlink_get(struct rvl_index *index, int dirfd, const char *name, mode_t type,
		  uint64_t real_ino, struct rvl_nlink *ret)
{
	char value[RVL_NLINK_VALUE_SIZE + 1];
	ssize_t n = rvl_upper_xattr_get(index, dirfd, name, type, real_ino, RVL_XATTR_NLINK, value,
					sizeof(value) - 1);

	if (n == -ENODATA)
		return 0;
	if (n < 0)
		return n == -ERANGE ? -EUCLEAN : (int)n;
	value[n] = '\0';
	return rvl_nlink_parse(value, ret) ?: 1;
}

int rvl_nlink_change(struct rvl_index *index, int dirfd, const char *name, mode_t type,
		     uint64_t real_ino, int delta)
{
	char value[RVL_NLINK_VALUE_SIZE];
	struct rvl_nlink nlink;
	int r = rvl_nlink_get(index, dirfd, name, type, real_ino, &nlink);

	if (r <= 0 || nlink.is_lower)
		return r == -EUCLEAN || r > 0 ? 0 : r;
	return rvl_upper_xattr_set(index, dirfd, name, type, real_ino, RVL_XATTR_NLINK, value,
				   rvl_nlink_format(nlink.diff + delta, value));
}
