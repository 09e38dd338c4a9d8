/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The commands of reverlayctl: a file each, a row in the table of main.c each. */
#ifndef RVL_TOOLS_COMMANDS_H
#define RVL_TOOLS_COMMANDS_H

/*
 * argv[0] is the command's name. Returns the exit code: 0, or 1 for an error that stderr tells;
 * check, import, repair and fsck have those of fsck(8).
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
