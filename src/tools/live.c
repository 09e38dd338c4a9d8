// SPDX-License-Identifier: GPL-2.0-or-later
/* The ioctl's pages put together, and parsed. */
#include "tools/live.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "tools/output.h"

#define TEXT_MAX (16U << 20) /* 500 paths of 4 KiB, escaped */

int rvl_live_open(const char *mount_point)
{
	int fd = open(mount_point, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd >= 0)
		return fd;
	fd = -errno;
	rvl_error("%s: %m", mount_point);
	return fd;
}

static int get_text(int fd, enum rvl_stat_text which, char **ret, size_t *ret_len)
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

static json_t *config_value(const char *value)
{
	for (const char *p = value; *p; p++)
		if ((unsigned char)*p < 0x20 || *p == 0x7f)
			return rvl_output_string(value, strlen(value));
	return json_string(value) ?: rvl_output_string(value, strlen(value));
}

static json_t *parse_text(const char *text, size_t len, bool is_number)
{
	json_t *object = json_object();

	for (const char *p = text; object && p < text + len; p += strlen(p) + 1) {
		_cleanup_free_ char *name = strdup(p);
		const char *value = strchr(p, '=');

		if (!name)
			break;
		name[strcspn(name, "=")] = '\0';
		json_object_set_new_nocheck(object, name,
					    !value    ? json_true() :
					    is_number ? json_integer(strtoll(value + 1, NULL, 10)) :
							config_value(value + 1));
	}
	return object;
}

int rvl_live_get(int fd, const char *path, enum rvl_stat_text which, bool is_number, json_t **ret)
{
	_cleanup_free_ char *text = NULL;
	size_t len = 0;
	int r = get_text(fd, which, &text, &len);

	if (r == -EPERM) {
		rvl_error("%s: only root and the owner of the mount may ask", path);
		return r;
	}
	if (r < 0) {
		rvl_error("%s: not the root of a live reverlay mount (%s)", path, strerror(-r));
		return r;
	}
	*ret = parse_text(text, len, is_number);
	return *ret ? 0 : -ENOMEM;
}
