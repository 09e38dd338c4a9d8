// SPDX-License-Identifier: GPL-2.0-or-later
/* What the ioctl tells, parsed. */
#include "tools/live.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "tools/output.h"

int rvl_live_open(const char *mount_point)
{
	int fd = open(mount_point, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd >= 0)
		return fd;
	fd = -errno;
	rvl_error("%s: %m", mount_point);
	return fd;
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
	int r = rvl_stat_fetch(fd, which, 0, &text, &len);

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
