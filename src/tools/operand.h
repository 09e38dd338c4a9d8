/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The overlay that a command is about, named by what people have at hand. */
#ifndef RVL_TOOLS_OPERAND_H
#define RVL_TOOLS_OPERAND_H

#include <stdbool.h>

/*
 * Options for an operand: options as they are ("lowerdir=…"); a mount point of ours (*ret_is_live);
 * a mount point in /etc/fstab, or a source that one line there has; a workdir, whose state has the
 * paths. Owned by the caller. Errors are logged; -ENOENT: none of these; -EINVAL: several lines of
 * /etc/fstab have the source; -ESTALE: a workdir that is not where its state says it was, so that
 * the paths are those of something else.
 */
int rvl_operand_options(const char *operand, char **ret, bool *ret_is_live);

#endif
