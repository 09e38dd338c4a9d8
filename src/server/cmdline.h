/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The command line, in its forms:
 *
 *   reverlay [-f] [-d] [-o OPTIONS]... [SOURCE] MOUNT_POINT
 *   mount.fuse.reverlay SOURCE MOUNT_POINT [-sfnvrw] [-o OPTIONS]... [-t TYPE]    (by mount(8))
 *
 * Which of them is decided by the program's name.
 */
#ifndef RVL_SERVER_CMDLINE_H
#define RVL_SERVER_CMDLINE_H

#include <stdbool.h>

#include "server/options.h"

enum rvl_action { RVL_ACTION_MOUNT, RVL_ACTION_HELP, RVL_ACTION_VERSION };

struct rvl_cmdline {
	enum rvl_action action;
	bool is_helper; /* called as mount.* */
	bool is_foreground; /* -f, -d; never of the helper */
	bool is_fake; /* the helper's -f: check, do not mount */
	const char *source; /* borrowed from argv, or NULL */
	const char *mount_point; /* borrowed from argv; as given */
};

/* Fills options (initialised by the caller) too. -EINVAL: message logged. */
int rvl_cmdline_parse(int argc, char **argv, struct rvl_options *options, struct rvl_cmdline *ret);

void rvl_cmdline_help(void);

#endif
