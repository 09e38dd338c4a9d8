// SPDX-License-Identifier: GPL-2.0-or-later
/* reverlayctl: finds the command in its table. */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "tools/commands.h"
#include "tools/output.h"

struct command {
	const char *name;
	int (*run)(int argc, char **argv);
	const char *summary;
	int failure; /* exit code where the output cannot be written */
	bool has_problems; /* in its JSON */
};

static const struct command fsck_command = { .run = rvl_command_fsck,
					     .failure = RVL_EXIT_ERROR,
					     .has_problems = true };

static const struct command commands[] = {
	{ "check", rvl_command_check, "check an overlay: index, stamps, upper, map",
	  RVL_EXIT_ERROR, true },
	{ "dump", rvl_command_dump, "show an index entry, or what a layer's object carries", 1,
	  false },
	{ "export", rvl_command_export, "print NFS configuration for a live mount", 1, false },
	{ "import", rvl_command_import, "take over an upper of the kernel's overlayfs",
	  RVL_EXIT_ERROR, true },
	{ "map", rvl_command_map, "make the map of the lower layers, or show what it is", 1,
	  false },
	{ "rebind", rvl_command_rebind,
	  "make the index that of layers that were copied, moved or replaced", 1, false },
	{ "repair", rvl_command_repair, "check it and mend what is found", RVL_EXIT_ERROR,
	  true },
	{ "resolve", rvl_command_resolve,
	  "number, path or NFS handle -> the object, its names and handles", 1, false },
	{ "stat", rvl_command_stat, "show configuration and counters of a live mount", 1, false },
};
#define N_COMMANDS (sizeof(commands) / sizeof(commands[0]))

static void print_help(FILE *to)
{
	fputs("Usage: reverlayctl COMMAND [ARGUMENT]...\n\nCommands:\n", to);
	for (size_t i = 0; i < N_COMMANDS; i++)
		fprintf(to, "  %-10s %s\n", commands[i].name, commands[i].summary);
	fputs("\nreverlayctl COMMAND --help tells more, and reverlayctl(8) all.\n", to);
}

/* As getopt_long(3) would find it, wherever the command gave up. */
static bool is_json_asked(int argc, char **argv)
{
	for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
		size_t len = strlen(argv[i]);

		if (len > 2 && !strncmp(argv[i], "--json", len))
			return true;
	}
	return false;
}

static int run(const struct command *command, int argc, char **argv)
{
	int code;

	rvl_output_keep_errors();
	code = command->run(argc, argv);
	if (code && is_json_asked(argc, argv))
		rvl_output_failure(code, command->has_problems);
	return rvl_output_flush() < 0 && code < command->failure ? command->failure : code;
}

int main(int argc, char **argv)
{
	const char *name = argc ? strrchr(argv[0], '/') : NULL;

	name = name ? name + 1 : argc ? argv[0] : "";
	if (!strncmp(name, "fsck.", 5))
		return run(&fsck_command, argc, argv);
	rvl_log_setup("reverlayctl", RVL_LOG_STDERR, LOG_WARNING);
	if (argc < 2) {
		print_help(stderr);
		return EXIT_FAILURE;
	}
	for (size_t i = 0; i < N_COMMANDS; i++)
		if (!strcmp(commands[i].name, argv[1]))
			return run(&commands[i], argc - 1, argv + 1);
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
