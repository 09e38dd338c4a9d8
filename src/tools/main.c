// SPDX-License-Identifier: GPL-2.0-or-later
/* reverlayctl: finds the command in its table. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "tools/commands.h"

static const struct {
	const char *name;
	int (*run)(int argc, char **argv);
	const char *summary;
} commands[] = {
	{ "check", rvl_command_check, "check an overlay: index, stamps, upper, map" },
	{ "dump", rvl_command_dump, "show an index entry, or what a layer's object carries" },
	{ "export", rvl_command_export, "print NFS configuration for a live mount" },
	{ "import", rvl_command_import, "take over an upper of the kernel's overlayfs" },
	{ "map", rvl_command_map, "make the map of the lower layers, or show what it is" },
	{ "rebind", rvl_command_rebind,
	  "make the index that of layers that were copied, moved or replaced" },
	{ "repair", rvl_command_repair, "check it and mend what is found" },
	{ "resolve", rvl_command_resolve,
	  "number, path or NFS handle -> the object, its names and handles" },
	{ "stat", rvl_command_stat, "show configuration and counters of a live mount" },
};
#define N_COMMANDS (sizeof(commands) / sizeof(commands[0]))

static void print_help(FILE *to)
{
	fputs("Usage: reverlayctl COMMAND [ARGUMENT]...\n\nCommands:\n", to);
	for (size_t i = 0; i < N_COMMANDS; i++)
		fprintf(to, "  %-10s %s\n", commands[i].name, commands[i].summary);
	fputs("\nreverlayctl COMMAND --help tells more, and reverlayctl(8) all.\n", to);
}

int main(int argc, char **argv)
{
	const char *name = argc ? strrchr(argv[0], '/') : NULL;

	name = name ? name + 1 : argc ? argv[0] : "";
	if (!strncmp(name, "fsck.", 5))
		return rvl_command_fsck(argc, argv);
	rvl_log_setup("reverlayctl", RVL_LOG_STDERR, LOG_WARNING);
	if (argc < 2) {
		print_help(stderr);
		return EXIT_FAILURE;
	}
	for (size_t i = 0; i < N_COMMANDS; i++)
		if (!strcmp(commands[i].name, argv[1]))
			return commands[i].run(argc - 1, argv + 1);
	if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h")) {
		print_help(stdout);
		return EXIT_SUCCESS;
	}
	if (!strcmp(argv[1], "--version") || !strcmp(argv[1], "-V")) {
		printf("reverlayctl %s\n", RVL_VERSION);
		return EXIT_SUCCESS;
	}
	rvl_error("unknown command %s; see reverlayctl --help", argv[1]);
	return EXIT_FAILURE;
}
