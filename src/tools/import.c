// SPDX-License-Identifier: GPL-2.0-or-later
/* reverlayctl import: options and the report (check/import.h and check/to_kernel.h do it). */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/shell.h"
#include "check/to_kernel.h"
#include "index/bind.h"
#include "tools/ask.h"
#include "tools/commands.h"
#include "tools/findings.h"
#include "tools/layers.h"
#include "tools/output.h"

#define SHOWN_MAX 100 /* lines of one kind, without --verbose */

struct command {
	const char *layers;
	bool is_dry_run, is_verbose, is_to_kernel, is_nfs_export;
	const struct rvl_stack *stack; /* borrowed, while it runs */
	struct rvl_findings findings;
	struct rvl_check_sink findings_sink;
	json_t *told; /* owned; with --json */
	uint64_t n_told[RVL_IMPORT_TOLD_N], n_told_kernel[RVL_KERNEL_TOLD_N];
	uint64_t n_numbered; /* objects that got a number */
};

static const char *const told_ids[RVL_IMPORT_TOLD_N] = {
	[RVL_IMPORT_UNKNOWN] = "unknown",
	[RVL_IMPORT_PARTED] = "parted",
	[RVL_IMPORT_TAKEN] = "taken",
	[RVL_IMPORT_UNNAMED] = "unnamed",
};

static const char *const told_kernel_ids[RVL_KERNEL_TOLD_N] = {
	[RVL_KERNEL_DEVICE] = "device",	  [RVL_KERNEL_AUFS] = "aufs",
	[RVL_KERNEL_BESIDE] = "beside",	  [RVL_KERNEL_NUMBER] = "number",
	[RVL_KERNEL_UNNAMED] = "unnamed", [RVL_KERNEL_NO_DATA] = "no-data",
	[RVL_KERNEL_REDIRECT] = "redirect",
};

static void print_help(void)
{
	fputs("Usage: reverlayctl import [--to-kernel [--nfs-export]] [OPTION]... -o LAYERS\n"
	      "\n"
	      "Takes over an upper that the kernel's overlayfs has used, with index=on or off: what came\n"
	      "from lower keeps its inode numbers, and hard links stay. With --to-kernel the other way\n"
	      "round: makes an upper fit for the kernel's overlayfs; a mount of reverlay is refused then,\n"
	      "until it is imported again.\n"
	      "\n"
	      "  -o LAYERS       lowerdir=…,upperdir=…,workdir=… as for the mount\n"
	      "      --to-kernel the way back\n"
	      "      --nfs-export index all that was copied up, for a mount with nfs_export=on\n"
	      "      --dry-run   change nothing, tell what would be\n"
	      "  -v, --verbose   tell of each object\n"
	      "  -C, --progress  show how far it is (the default on a terminal)\n"
	      "      --json      for programs\n"
	      "\n"
	      "Exit code: 0 done; 4 done, and something is left that reverlayctl repair can mend, or that the\n"
	      "kernel will show otherwise; 8 it could not be done, 16 wrong usage, 32 cancelled.\n",
	      stdout);
}

/* One more of a kind: is it to be shown? */
static bool is_shown(const struct command *command, uint64_t n)
{
	if (n == SHOWN_MAX + 1 && !command->is_verbose)
		printf("… and more of this kind; --verbose tells all\n");
	return n <= SHOWN_MAX || command->is_verbose;
}

static void add_told(struct command *command, const char *what, const char *key, const char *text,
		     uint64_t number)
{
	json_t *object = json_object();

	json_object_set_new(object, "what", json_string(what));
	if (text)
		json_object_set_new(object, key, rvl_output_string(text, strlen(text)));
	if (number)
		json_object_set_new(object, "number", json_integer((json_int_t)number));
	json_array_append_new(command->told, object);
}

static void tell(void *arg, enum rvl_import_told what, const char *name)
{
	struct command *command = arg;

	command->n_told[what]++;
	if (command->findings.is_json)
		add_told(command, told_ids[what], "name", name, 0);
	else if (is_shown(command, command->n_told[what]))
		printf("workdir/index/%s: %s\n", name, rvl_import_text(what));
}

static void tell_kernel(void *arg, enum rvl_to_kernel_told what, uint64_t number, const char *path)
{
	struct command *command = arg;

	command->n_told_kernel[what]++;
	if (command->findings.is_json)
		add_told(command, told_kernel_ids[what], "path", path, number);
	else if (!is_shown(command, command->n_told_kernel[what]))
		return;
	else if (path)
		printf("%s: %s\n", path, rvl_to_kernel_text(what));
	else
		printf("number %" PRIu64 ": %s\n", number, rvl_to_kernel_text(what));
}

/* What follows from the kernel's having used it is counted, and told with --verbose alone. */
static bool is_expected(const struct rvl_problem *problem)
{
	if (problem->outcome == RVL_FAILED)
		return false;
	switch (problem->id) {
	case RVL_P_NOT_CLEAN:
	case RVL_P_LEFTOVER_TEMPORARY:
	case RVL_P_ENTRY_WITHOUT_OBJECT:
	case RVL_P_ENTRY_REMOVED:
	case RVL_P_ENTRY_DEAD:
	case RVL_P_OBJECT_WITHOUT_ENTRY:
	case RVL_P_STAMP_MISSING:
	case RVL_P_PATH_STALE:
	case RVL_P_UPPER_STALE:
	case RVL_P_FH_STALE:
	case RVL_P_PLACE_STALE:
	case RVL_P_PLACE_MISSING:
	case RVL_P_NLINK_WRONG:
	case RVL_P_WHITEOUT_USELESS:
	case RVL_P_WHITEOUT_IN_OPAQUE:
		return true;
	default:
		return false;
	}
}

static void on_pass(void *arg, unsigned pass, const char *title)
{
	struct command *command = arg;

	command->findings_sink.pass(command->findings_sink.arg, pass, title);
}

static void on_problem(void *arg, const struct rvl_problem *problem)
{
	struct command *command = arg;

	command->n_numbered += problem->id == RVL_P_STAMP_MISSING ||
			       problem->id == RVL_P_OBJECT_WITHOUT_ENTRY;
	if (command->is_verbose || !is_expected(problem))
		command->findings_sink.problem(command->findings_sink.arg, problem);
}

static void on_progress(void *arg, uint64_t n_names)
{
	struct command *command = arg;

	if (command->findings_sink.progress)
		command->findings_sink.progress(command->findings_sink.arg, n_names);
}

static int exit_code(int r, const struct rvl_to_kernel_result *result)
{
	if (r == -ECANCELED)
		return RVL_EXIT_CANCELLED;
	if (r < 0)
		return RVL_EXIT_ERROR;
	for (unsigned i = 0; i < RVL_KERNEL_TOLD_N; i++)
		if (result->n_told[i])
			return RVL_EXIT_LEFT;
	return result->import.check.n_left ? 4 : 0;
}

static void set_count(json_t *object, const char *key, uint64_t n)
{
	json_object_set_new(object, key, json_integer((json_int_t)n));
}

static void print_json(struct command *command, const struct rvl_to_kernel_result *result, int code)
{
	const struct rvl_import_result *import = &result->import;
	json_t *root = json_object(), *kernel;

	json_object_set_new(root, "dry_run", json_boolean(command->is_dry_run));
	set_count(root, "links", import->n_links);
	set_count(root, "directories", import->n_directories);
	set_count(root, "dead", import->n_dead);
	set_count(root, "numbered", command->n_numbered);
	json_object_set(root, "told", command->told);
	if (command->is_to_kernel) {
		kernel = json_object();
		set_count(kernel, "linked", result->n_linked);
		set_count(kernel, "links", result->n_links);
		set_count(kernel, "directories", result->n_directories);
		set_count(kernel, "dead", result->n_dead);
		set_count(kernel, "copied", result->n_copied);
		set_count(kernel, "metacopy", result->n_metacopy);
		json_object_set_new(root, "to_kernel", kernel);
	}
	rvl_findings_end(&command->findings, &import->check, code, root);
}

/* The layers alone of what was given: the kernel does not know every option of ours. */
static void print_mount(const struct command *command, const struct rvl_to_kernel_result *result)
{
	_cleanup_free_ char *layers = rvl_bind_mount_options(command->stack), *options = NULL;

	/* with userxattr the kernel follows no redirects, and takes no option for them */
	if (!layers || asprintf(&options, "%s,index=on%s,xino=on%s%s", layers,
				command->stack->xattr.is_user ? "" : ",redirect_dir=on",
				command->is_nfs_export ? ",nfs_export=on" : "",
				result->n_metacopy ? ",metacopy=on" : "") < 0) {
		options = NULL;
		return;
	}
	fputs("mount -t overlay -o ", stdout);
	rvl_shell_quote(stdout, options);
	putchar('\n');
}

static void print_kernel(const struct command *command, const struct rvl_to_kernel_result *result)
{
	printf("to the kernel: %" PRIu64 " files and %" PRIu64 " directories in its index, %" PRIu64
	       " removed objects; %" PRIu64 " names linked, %" PRIu64 " files copied\n",
	       result->n_links, result->n_directories, result->n_dead, result->n_linked,
	       result->n_copied);
	print_mount(command, result);
}

static void print_text(const struct command *command, const struct rvl_to_kernel_result *result)
{
	const struct rvl_import_result *import = &result->import;

	printf("kernel's index: %" PRIu64 " files, %" PRIu64 " directories, %" PRIu64
	       " removed objects\n",
	       import->n_links, import->n_directories, import->n_dead);
	printf("upper: %" PRIu64 " objects, %" PRIu64 " got their numbers; %" PRIu64
	       " things are left to repair\n",
	       import->check.n_objects, command->n_numbered, import->check.n_left);
	if (command->is_to_kernel)
		print_kernel(command, result);
	puts(command->is_dry_run   ? "nothing was changed" :
	     command->is_to_kernel ? "it is the kernel's, until it is imported" :
				     "imported: mount it with reverlay");
}

static int run(struct command *command)
{
	const struct rvl_check_sink sink = {
		.arg = command, .pass = on_pass, .problem = on_problem, .progress = on_progress
	};
	struct rvl_to_kernel_config config = {
		.import = { .sink = &sink,
			    .is_dry_run = command->is_dry_run,
			    .stop = &rvl_tools_stop,
			    .arg = command,
			    .told = tell },
		.is_nfs_export = command->is_nfs_export,
		.arg = command,
		.told = tell_kernel,
	};
	struct rvl_to_kernel_result result = { 0 };
	struct rvl_layers layers;
	int r = rvl_layers_open_stack(command->layers, &layers), code;

	if (r < 0)
		return RVL_EXIT_ERROR;
	rvl_tools_handle_signals();
	command->findings_sink = rvl_findings_sink(&command->findings);
	command->told = json_array();
	config.import.stack = command->stack = &layers.stack;
	r = command->is_to_kernel ? rvl_to_kernel_run(&config, &result) :
				    rvl_import_run(&config.import, &result.import);
	code = exit_code(r, &result);
	if (r == -ECANCELED)
		rvl_error("cancelled; run it again to go on");
	else if (r < 0)
		rvl_error("import has failed: %s", strerror(-r));
	if (command->findings.is_json)
		print_json(command, &result, code);
	else if (r == 0)
		print_text(command, &result);
	json_decref(command->told);
	rvl_layers_close(&layers);
	return command->findings.error ? 8 : code;
}

enum { OPTION_DRY_RUN = 256, OPTION_JSON, OPTION_TO_KERNEL, OPTION_NFS_EXPORT };

int rvl_command_import(int argc, char **argv)
{
	static const struct option options[] = {
		{ "to-kernel", no_argument, NULL, OPTION_TO_KERNEL },
		{ "nfs-export", no_argument, NULL, OPTION_NFS_EXPORT },
		{ "dry-run", no_argument, NULL, OPTION_DRY_RUN },
		{ "verbose", no_argument, NULL, 'v' },
		{ "progress", no_argument, NULL, 'C' },
		{ "json", no_argument, NULL, OPTION_JSON },
		{ "help", no_argument, NULL, 'h' },
		{},
	};
	struct command command = { .findings.progress_fd = -1 };
	int c;

	if (isatty(STDERR_FILENO) && isatty(STDOUT_FILENO))
		rvl_findings_set_progress(&command.findings, STDERR_FILENO);
	while ((c = getopt_long(argc, argv, "o:vCh", options, NULL)) != -1) {
		switch (c) {
		case 'o':
			command.layers = rvl_layers_add_options(optarg);
			break;
		case OPTION_TO_KERNEL:
			command.is_to_kernel = true;
			break;
		case OPTION_NFS_EXPORT:
			command.is_nfs_export = true;
			break;
		case OPTION_DRY_RUN:
			command.is_dry_run = true;
			break;
		case 'v':
			command.is_verbose = command.findings.has_notes = true;
			break;
		case 'C':
			rvl_findings_set_progress(&command.findings, STDERR_FILENO);
			break;
		case OPTION_JSON:
			command.findings.is_json = true;
			break;
		case 'h':
			print_help();
			return EXIT_SUCCESS;
		default:
			return RVL_EXIT_USAGE;
		}
	}
	if (!command.layers || argc != optind) {
		rvl_error("import: the layers are expected, as -o lowerdir=…,upperdir=…,workdir=…; "
			  "see reverlayctl import --help");
		return RVL_EXIT_USAGE;
	}
	if (command.is_nfs_export && !command.is_to_kernel) {
		rvl_error("import: --nfs-export goes with --to-kernel");
		return RVL_EXIT_USAGE;
	}
	if (rvl_layers_check_options(command.layers, true))
		return RVL_EXIT_USAGE;
	return run(&command);
}
