// SPDX-License-Identifier: GPL-2.0-or-later
/* reverlayctl stat: what a live mount tells of itself, by the ioctl of base/stat_ioctl.h. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/counters.h"
#include "base/log.h"
#include "tools/commands.h"
#include "tools/live.h"
#include "tools/output.h"

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
	_cleanup_close_ int fd = rvl_live_open(path);
	json_t *root = NULL, *values = NULL;
	int r = fd < 0 ? fd : rvl_live_get(fd, path, RVL_STAT_CONFIG, false, &root);

	if (r == 0)
		r = rvl_live_get(fd, path, RVL_STAT_COUNTERS, true, &values);
	if (r < 0) {
		json_decref(root);
		return r;
	}
	if (is_json) {
		json_object_set_new(root, "counters", values);
		return rvl_output_print(root, true);
	}
	r = rvl_output_print(root, false);
	if (r == 0)
		print_counters(values);
	json_decref(values);
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
