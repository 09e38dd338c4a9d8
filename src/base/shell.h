/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Commands in messages, to be pasted into a shell. */
#ifndef RVL_BASE_SHELL_H
#define RVL_BASE_SHELL_H

#include <stdio.h>

/* Writes text so that a POSIX shell makes one argument of it: in single quotes, if it needs them. */
void rvl_shell_quote(FILE *to, const char *text);

#endif
