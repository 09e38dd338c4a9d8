/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The commands of reverlayctl: a file each, a row in the table of main.c each. */
#ifndef RVL_TOOLS_COMMANDS_H
#define RVL_TOOLS_COMMANDS_H

/* Exit codes of check, import, repair and fsck, as of fsck(8). */
enum rvl_exit {
	RVL_EXIT_OK = 0,
	RVL_EXIT_MENDED = 1,
	RVL_EXIT_LEFT = 4,
	RVL_EXIT_ERROR = 8, /* this and above: it was not done */
	RVL_EXIT_USAGE = 16,
	RVL_EXIT_CANCELLED = 32,
};

/*
 * argv[0] is the command's name. Returns the exit code: 0, or 1 for an error that stderr tells;
 * or one of enum rvl_exit.
 */
int rvl_command_check(int argc, char **argv);
int rvl_command_dump(int argc, char **argv);
int rvl_command_export(int argc, char **argv);
int rvl_command_import(int argc, char **argv);
int rvl_command_map(int argc, char **argv);
int rvl_command_rebind(int argc, char **argv);
int rvl_command_repair(int argc, char **argv);
int rvl_command_resolve(int argc, char **argv);
int rvl_command_stat(int argc, char **argv);

/* As fsck(8) calls it: fsck.reverlay [OPTION]... SOURCE. */
int rvl_command_fsck(int argc, char **argv);

#endif
