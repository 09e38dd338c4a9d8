// SPDX-License-Identifier: GPL-2.0-or-later
/* The command line: which arguments there are, of the program itself and of the mount helper. */
#include "server/cmdline.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"

static const struct option long_options[] = {
	{ "foreground", no_argument, NULL, 'f' },    { "debug", no_argument, NULL, 'd' },
	{ "options", required_argument, NULL, 'o' }, { "help", no_argument, NULL, 'h' },
	{ "version", no_argument, NULL, 'V' },	     {},
};

static int usage_error(const char *what, const char *argument)
{
	rvl_error("%s%s%s; see reverlay --help", what, argument ? ": " : "", argument ?: "");
	return -EINVAL;
}

/* -s is needed before the options are read, wherever it stands. */
static bool has_sloppy(int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "-o") || !strcmp(argv[i], "-t") || !strcmp(argv[i], "-N"))
			i++;
		else if (argv[i][0] == '-' && argv[i][1] != '-' && argv[i][1] != 'o' &&
			 argv[i][1] != 't' && strchr(argv[i], 's'))
			return true;
	}
	return false;
}

/* One argument of the mount helper (mount(8), "External helpers"). */
static int helper_argument(int c, struct rvl_options *options, struct rvl_cmdline *cmdline)
{
	switch (c) {
	case 'f':
		cmdline->is_fake = true;
		return 0;
	case 'r':
		return rvl_options_parse(options, "ro");
	case 'w':
		return rvl_options_parse(options, "rw");
	case 'o':
		return rvl_options_parse(options, optarg);
	case 's': /* seen before */
	case 'n': /* there is no mtab to write */
	case 'v':
	case 't': /* the type brought us here */
		return 0;
	case 'N':
		return usage_error("other mount namespaces (-N) are not supported", NULL);
	default:
		return usage_error("unknown argument", optopt ? (char[]){ '-', optopt, 0 } : NULL);
	}
}

static int own_argument(int c, char **argv, struct rvl_options *options,
			struct rvl_cmdline *cmdline)
{
	switch (c) {
	case 'd':
		options->is_debug = true;
		__attribute__((fallthrough));
	case 'f':
		cmdline->is_foreground = true;
		return 0;
	case 'h':
		cmdline->action = RVL_ACTION_HELP;
		return 0;
	case 'V':
		cmdline->action = RVL_ACTION_VERSION;
		return 0;
	case 'o':
		return rvl_options_parse(options, optarg);
	case ':':
		return usage_error("argument needs a value", argv[optind - 1]);
	default:
		return usage_error("unknown argument", argv[optind - 1]);
	}
}

static int take_places(int n, char **places, struct rvl_options *options,
		       struct rvl_cmdline *cmdline)
{
	if (n == 0)
		return usage_error("the mount point is missing", NULL);
	if (n > 2)
		return usage_error("one source and one mount point are expected, this is too much",
				   places[2]);
	cmdline->mount_point = places[n - 1];
	if (n == 1)
		return 0;
	cmdline->source = places[0];
	if (!options->fsname && *places[0]) {
		options->fsname = strdup(places[0]);
		if (!options->fsname)
			return -ENOMEM;
	}
	return 0;
}

int rvl_cmdline_parse(int argc, char **argv, struct rvl_options *options, struct rvl_cmdline *ret)
{
	const char *slash = argc > 0 ? strrchr(argv[0], '/') : NULL;
	const char *program = slash ? slash + 1 : argc > 0 ? argv[0] : "";
	int c;

	*ret = (struct rvl_cmdline){ .is_helper = !strncmp(program, "mount.", 6) };
	if (ret->is_helper)
		options->is_sloppy = has_sloppy(argc, argv);
	opterr = 0;
	optind = 0; /* begin anew, whatever was read before (getopt(3), glibc) */
	while ((c = ret->is_helper ?
			    getopt(argc, argv, ":sfnvrwo:t:N:") :
			    getopt_long(argc, argv, ":fdhVo:", long_options, NULL)) != -1) {
		int r = ret->is_helper ? helper_argument(c, options, ret) :
					 own_argument(c, argv, options, ret);

		if (r < 0)
			return r;
		if (ret->action != RVL_ACTION_MOUNT)
			return 0;
	}
	if (options->is_debug && !ret->is_helper)
		ret->is_foreground = true;
	return take_places(argc - optind, argv + optind, options, ret);
}

void rvl_cmdline_help(void)
{
	fputs("Usage: reverlay [-f] [-d] -o OPTION[,OPTION]... [SOURCE] MOUNT_POINT\n"
	      "\n"
	      "Mounts an overlay of directory trees whose inode numbers never change.\n"
	      "\n"
	      "  -o, --options LIST  mount options, as those of the kernel's overlayfs:\n"
	      "        lowerdir=A[:B...][::D...]  lower layers, topmost first; after :: data-only ones\n"
	      "        upperdir=DIR, workdir=DIR  where changes go; without them read-only\n"
	      "        redirect_dir=, userxattr, volatile, fsync=, ... see reverlay(8)\n"
	      "  -f, --foreground    stay in the foreground, messages on stderr\n"
	      "  -d, --debug         the same, with every request\n"
	      "  -h, --help          this text\n"
	      "  -V, --version       versions of program and library\n"
	      "\n"
	      "To unmount: umount MOUNT_POINT\n",
	      stdout);
}
