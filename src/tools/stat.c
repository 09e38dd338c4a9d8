// SPDX-License-Identifier: GPL-2.0-or-later
/* reverlayctl stat: what a live mount tells of itself, by the ioctl of base/stat_ioctl.h. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/counters.h"
#include "base/log.h"
#include "base/stat_ioctl.h"
#include "tools/commands.h"
#include "tools/output.h"

#define TEXT_MAX (16U << 20) /* 500 paths of 4 KiB, escaped */

static const struct {
	const char *name, *unit, *help;
} counters[] = {
#define X(name, unit, help) { #name, unit, help },
	RVL_COUNTERS(X)
#undef X
};
#define N_COUNTERS (sizeof(counters) / sizeof(counters[0]))

static void print_help(void)
{
	fputs("Usage: reverlayctl stat [--json] MOUNT_POINT\n"
	      "\n"
	      "Shows configuration and counters of a live mount. For root and the mount's owner.\n"
	      "\n"
	      "  --json   for programs\n",
	      stdout);
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

/* Paths have escapes of their own, which are to be pasted into a command: only what JSON or a
 * terminal cannot take is escaped once more. */
static json_t *config_value(const char *value)
{
	for (const char *p = value; *p; p++)
		if ((unsigned char)*p < 0x20 || *p == 0x7f)
			return rvl_output_string(value, strlen(value));
	return json_string(value) ?: rvl_output_string(value, strlen(value));
}

/* "name=value" and "name" -> an object; is_number: the values are counters. */
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

static void print_counters(json_t *values)
{
	const char *key;
	json_t *value;

	putchar('\n');
	json_object_foreach(values, key, value)
	{
		const char *unit = "", *help = "";

		for (size_t i = 0; i < N_COUNTERS; i++) {
			if (!strcmp(counters[i].name, key)) {
				unit = counters[i].unit;
				help = counters[i].help;
			}
		}
		printf("%-18s %14lld %-12s %s\n", key, (long long)json_integer_value(value), unit,
		       help);
	}
}

static int show(const char *path, bool is_json)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	_cleanup_free_ char *config = NULL;
	_cleanup_free_ char *values = NULL;
	size_t config_len = 0, values_len = 0;
	json_t *root;
	int r;

	if (fd < 0) {
		rvl_error("%s: %m", path);
		return -errno;
	}
	r = get_text(fd, RVL_STAT_CONFIG, &config, &config_len);
	if (r == 0)
		r = get_text(fd, RVL_STAT_COUNTERS, &values, &values_len);
	if (r == -EPERM) {
		rvl_error("%s: only root and the owner of the mount may ask", path);
		return r;
	}
	if (r < 0) {
		rvl_error("%s: not the root of a live reverlay mount (%s)", path, strerror(-r));
		return r;
	}
	root = parse_text(config, config_len, false);
	if (is_json) {
		json_object_set_new(root, "counters", parse_text(values, values_len, true));
		return rvl_output_print(root, true);
	}
	r = rvl_output_print(root, false);
	if (r == 0) {
		json_t *object = parse_text(values, values_len, true);

		print_counters(object);
		json_decref(object);
	}
	return r;
}

int rvl_command_stat(int argc, char **argv)
{
	static const struct option options[] = {
		{ "json", no_argument, NULL, 'j' },
		{ "help", no_argument, NULL, 'h' },
		{},
	};
	bool is_json = false;
	int c;

	while ((c = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		switch (c) {
		case 'j':
			is_json = true;
			break;
		case 'h':
			print_help();
			return EXIT_SUCCESS;
		default:
			return EXIT_FAILURE;
		}
	}
	if (argc - optind != 1) {
		rvl_error("stat: one mount point is expected; see reverlayctl stat --help");
		return EXIT_FAILURE;
	}
	return show(argv[optind], is_json) < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
