// SPDX-License-Identifier: GPL-2.0-or-later
/* The pages of the ioctl put together. */
#include "base/stat_ioctl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"

#define TEXT_MAX (16U << 20) /* 500 paths of 4 KiB, escaped */

int rvl_stat_fetch(int fd, enum rvl_stat_text which, uint64_t argument, char **ret, size_t *ret_len)
{
	_cleanup_free_ struct rvl_stat_page *page = calloc(1, sizeof(*page));
	_cleanup_free_ char *text = NULL;
	size_t len = 0;

	if (!page)
		return -ENOMEM;
	do {
		char *more;

		page->offset = len;
		page->text = which;
		page->total = argument;
		if (ioctl(fd, RVL_IOC_STAT, page) < 0)
			return -errno;
		if (page->len == 0 || page->len > sizeof(page->data) || page->total > TEXT_MAX)
			return -EPROTO;
		more = realloc(text, len + page->len + 1);
		if (!more)
			return -ENOMEM;
		text = more;
		memcpy(text + len, page->data, page->len);
		len += page->len;
		text[len] = '\0';
	} while (len < page->total);
	*ret = rvl_take_ptr(text);
	*ret_len = len;
	return 0;
}

bool rvl_stat_has(const char *text, size_t len, const char *line)
{
	for (const char *p = text; p < text + len; p += strlen(p) + 1)
		if (!strcmp(p, line))
			return true;
	return false;
}
