// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * reverlay, and mount.fuse.reverlay by its name: reads the command line, checks what can be checked
 * without touching a disk, goes into the background and serves (server.c). Exit code 0: mounted; 1:
 * an error, which stderr tells.
 */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "server/cmdline.h"
#include "server/fuse.h"
#include "server/mountpoint.h"
#include "server/server.h"

static void print_version(void)
{
	printf("reverlay %s\nlibfuse %s\n", RVL_VERSION, fuse_pkgversion());
}

static int mount_and_serve(struct rvl_server *server, const struct rvl_cmdline *cmdline)
{
	int r = rvl_daemon_start(&server->daemon, cmdline->is_foreground);

	return r < 0 ? r : rvl_server_run(server);
}

static int run(const struct rvl_cmdline *cmdline, struct rvl_server *server)
{
	_cleanup_free_ char *mount_point = NULL;
	int r = 0;

	if (!server->options.is_remount)
		r = rvl_options_check(&server->options);
	if (r == 0)
		r = rvl_mountpoint_resolve(cmdline->mount_point, &mount_point);
	if (r < 0 || cmdline->is_fake)
		return r;
	if (server->options.is_remount)
		return rvl_mountpoint_remount(mount_point, &server->options);
	server->mount_point = mount_point;
	return mount_and_serve(server, cmdline);
}

int main(int argc, char **argv)
{
	struct rvl_server server = {};
	struct rvl_cmdline cmdline;
	int r;

	rvl_process_prepare();
	rvl_log_setup("reverlay", RVL_LOG_STDERR, LOG_WARNING);
	rvl_options_init(&server.options, geteuid() == 0);
	r = rvl_cmdline_parse(argc, argv, &server.options, &cmdline);
	if (r == 0 && cmdline.is_helper)
		setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 1);
	if (r == 0 && cmdline.is_foreground)
		rvl_log_setup("reverlay", RVL_LOG_STDERR,
			      server.options.is_debug ? LOG_DEBUG : LOG_INFO);
	if (r == 0) {
		switch (cmdline.action) {
		case RVL_ACTION_HELP:
			rvl_cmdline_help();
			break;
		case RVL_ACTION_VERSION:
			print_version();
			break;
		case RVL_ACTION_MOUNT:
			r = run(&cmdline, &server);
			break;
		}
	}
	rvl_options_release(&server.options);
	return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
