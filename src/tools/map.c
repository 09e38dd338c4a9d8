// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * reverlayctl map: the map of the lower layers is made, unless it is complete, and shown. A live
 * mount makes it itself and is asked; of an overlay that is not mounted the index is opened as by a
 * mount.
 */
#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "index/map.h"
#include "tools/commands.h"
#include "tools/layers.h"
#include "tools/live.h"
#include "tools/output.h"

#define PROGRESS_MS 5000

static void print_help(void)
{
	fputs("Usage: reverlayctl map [--show] [--json] MOUNT_POINT\n"
	      "       reverlayctl map [--show] [--json] -o lowerdir=...,upperdir=...,workdir=...\n"
	      "\n"
	      "Makes the map of the lower layers, by which numbers and handles of what is only there are\n"
	      "found, if it is not complete, and shows what it is. Progress goes to standard error.\n"
	      "\n"
	      "  -o OPTIONS   of an overlay that is not mounted: its layers, as for the mount\n"
	      "  --show       only show it\n"
	      "  --json       for programs\n",
	      stdout);
}

/* ---- not mounted ---- */

static int map_offline(const char *options, bool is_shown_only, json_t **ret)
{
	struct rvl_layers layers;
	struct rvl_map_info info;
	int r = is_shown_only ? rvl_layers_open(options, &layers) :
				rvl_layers_open_writable(options, &layers);

	if (r < 0)
		return r;
	if (!is_shown_only)
		r = rvl_map_build(layers.index, NULL); /* logs errors */
	if (r == 0) {
		r = rvl_map_get_info(layers.index, &info);
		if (r < 0)
			rvl_error("workdir=%s: the map: %s", layers.stack.work_path, strerror(-r));
	}
	rvl_layers_close(&layers);
	if (r < 0)
		return r;
	if (!is_shown_only && info.is_in_memory) {
		rvl_error("there is no room on the disk for the map");
		return -ENOSPC;
	}
	*ret = json_object();
	json_object_set_new(*ret, "complete", json_boolean(info.is_complete));
	json_object_set_new(*ret, "names", json_integer(info.n_names));
	json_object_set_new(*ret, "bytes", json_integer(info.n_bytes));
	return 0;
}

/* ---- mounted ---- */

static json_int_t names_so_far(int fd, const char *path)
{
	json_int_t n = 0;
	json_t *counters;

	if (rvl_live_get(fd, path, RVL_STAT_COUNTERS, true, &counters) < 0)
		return 0;
	n = json_integer_value(json_object_get(counters, "map_names"));
	json_decref(counters);
	return n;
}

/*
 * The server works; a process of ours waits for the answer, so that this one can tell how far it
 * is.
 */
static int make_live(int fd, const char *path)
{
	const pid_t pid = fork();
	struct pollfd end = { .events = POLLIN };
	int status = 0;

	if (pid < 0) {
		rvl_error("fork: %m");
		return -errno;
	}
	if (pid == 0) {
		_cleanup_free_ char *text = NULL;
		size_t len;

		_exit(-rvl_stat_fetch(fd, RVL_STAT_MAP, 1, &text, &len));
	}
	end.fd = (int)syscall(SYS_pidfd_open, pid, 0);
	while (end.fd >= 0 && poll(&end, 1, PROGRESS_MS) == 0)
		rvl_info("the map of the lower layers is being made: %lld names so far",
			 (long long)names_so_far(fd, path));
	rvl_close(end.fd);
	if (waitpid(pid, &status, 0) < 0 || !WIFEXITED(status))
		return -EIO;
	if (WEXITSTATUS(status))
		rvl_error("%s: the map cannot be made: %s", path, strerror(WEXITSTATUS(status)));
	return -WEXITSTATUS(status);
}

static int map_live(const char *path, bool is_shown_only, json_t **ret)
{
	_cleanup_close_ int fd = rvl_live_open(path);
	json_t *info;
	int r = fd < 0 ? fd : rvl_live_get(fd, path, RVL_STAT_MAP, true, &info);

	if (r == 0 && !is_shown_only && !json_object_get(info, "complete")) {
		json_decref(info);
		r = make_live(fd, path);
		if (r == 0)
			r = rvl_live_get(fd, path, RVL_STAT_MAP, true, &info);
	}
	if (r < 0)
		return r;
	if (!json_object_get(info, "complete"))
		json_object_set_new(info, "complete", json_false());
	*ret = info;
	return 0;
}

int rvl_command_map(int argc, char **argv)
{
	static const struct option long_options[] = {
		{ "show", no_argument, NULL, 's' },
		{ "json", no_argument, NULL, 'j' },
		{ "help", no_argument, NULL, 'h' },
		{},
	};
	bool is_json = false, is_shown_only = false;
	const char *options = NULL;
	json_t *root = NULL;
	int c, r;

	while ((c = getopt_long(argc, argv, "ho:", long_options, NULL)) != -1) {
		switch (c) {
		case 's':
			is_shown_only = true;
			break;
		case 'j':
			is_json = true;
			break;
		case 'o':
			options = rvl_layers_add_options(optarg);
			break;
		case 'h':
			print_help();
			return EXIT_SUCCESS;
		default:
			return EXIT_FAILURE;
		}
	}
	if (argc - optind != (options ? 0 : 1)) {
		rvl_error("map: a mount point or -o is expected; see reverlayctl map --help");
		return EXIT_FAILURE;
	}
	rvl_log_setup("reverlayctl", RVL_LOG_STDERR, LOG_INFO);
	r = options ? map_offline(options, is_shown_only, &root) :
		      map_live(argv[optind], is_shown_only, &root);
	if (r == 0)
		r = rvl_output_print(root, is_json);
	return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
