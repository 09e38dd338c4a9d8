// SPDX-License-Identifier: GPL-2.0-or-later
/* What libfuse, and through it the kernel, is told of the options. */
#include "server/options.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>

#include "base/optstring.h"

/*
 * The flags by the names that libfuse knows; the others say nothing to a FUSE mount (access times
 * are ours).
 */
static const struct {
	unsigned long flag;
	const char *on, *off;
} fuse_flags[] = {
	{ MS_RDONLY, "ro", "rw" },
	{ MS_NOSUID, "nosuid", "suid" },
	{ MS_NODEV, "nodev", "dev" },
	{ MS_NOEXEC, "noexec", "exec" },
	{ MS_SYNCHRONOUS, "sync", "async" },
	{ MS_DIRSYNC, "dirsync", NULL },
	{ MS_NOATIME, "noatime", NULL },
	{ MS_NODIRATIME, "nodiratime", NULL },
	{ MS_NOSYMFOLLOW, "nosymfollow", NULL },
};

int rvl_options_for_fuse(const struct rvl_options *options, char **ret)
{
	char *text = NULL;
	size_t len = 0;
	FILE *to = open_memstream(&text, &len);

	if (!to)
		return -ENOMEM;
	fputs("default_permissions,fsname=", to);
	rvl_optstring_escape(to, options->fsname && *options->fsname ? options->fsname : "reverlay",
			     ",");
	fputs(",subtype=", to);
	rvl_optstring_escape(
		to, options->subtype && *options->subtype ? options->subtype : "reverlay", ",");
	for (size_t i = 0; i < sizeof(fuse_flags) / sizeof(fuse_flags[0]); i++) {
		/* without upper nothing can be written, and callers should see it (statvfs) */
		const unsigned long flags = options->flags | (options->upper ? 0 : MS_RDONLY);
		const char *name = flags & fuse_flags[i].flag ? fuse_flags[i].on :
								fuse_flags[i].off;

		if (name)
			fprintf(to, ",%s", name);
	}
	if (options->is_allow_other)
		fputs(",allow_other", to);
	if (options->is_allow_root)
		fputs(",allow_root", to);
	if (options->is_debug)
		fputs(",debug", to);
	for (unsigned i = 0; i < options->contexts.n; i++) {
		putc(',', to);
		rvl_optstring_escape(to, options->contexts.items[i], ",");
	}
	if (fclose(to) != 0) {
		free(text);
		return -ENOMEM;
	}
	*ret = text;
	return 0;
}
