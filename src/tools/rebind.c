// SPDX-License-Identifier: GPL-2.0-or-later
/* reverlayctl rebind: options, the question, and the report (check/rebind.h does it). */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "check/rebind.h"
#include "tools/ask.h"
#include "tools/commands.h"
#include "tools/findings.h"
#include "tools/layers.h"
#include "tools/output.h"

#define SHOWN_MAX 100 /* lines of one kind, without --verbose */

enum action { ASK, MOVE, CLONE };

struct command {
	enum action action;
	bool is_dry_run, is_json, is_verbose;
	struct rvl_findings findings; /* how far it is */
	struct rvl_check_sink sink;
	const char *layers;
	json_t *told; /* owned; with is_json */
	uint64_t n_told[RVL_TOLD_N];
};

static const char *const told_ids[RVL_TOLD_N] = {
	[RVL_TOLD_GONE] = "gone",	[RVL_TOLD_OTHER_KIND] = "other-kind",
	[RVL_TOLD_JOINED] = "joined",	[RVL_TOLD_SPLIT] = "split",
	[RVL_TOLD_UNEQUAL] = "unequal", [RVL_TOLD_DEAD] = "dead",
};

static void print_help(void)
{
	fputs("Usage: reverlayctl rebind [--move | --clone] [--dry-run] -o LAYERS\n"
	      "\n"
	      "Makes the index that of layers which were copied, moved, or replaced by an image or\n"
	      "another version, so that inode numbers, hard links and NFS handles stay what they were.\n"
	      "\n"
	      "  -o LAYERS   lowerdir=…,upperdir=…,workdir=… as for the mount from now on\n"
	      "  --move      it goes on here, the original is not used any more; the default, but\n"
	      "              at a terminal it is asked\n"
	      "  --clone     the original is used too: this one gets a uuid of its own, and its new\n"
	      "              files other numbers\n"
	      "  --dry-run   change nothing, tell what would be\n"
	      "  --verbose   tell of each name\n"
	      "  -C, --progress\n"
	      "              show how far it is (the default on a terminal)\n"
	      "  --json      for programs\n"
	      "\n"
	      "Exit code: 0 done, 1 not done, or cancelled by SIGINT or SIGTERM; it can be run again.\n",
	      stdout);
}

static void tell(void *arg, enum rvl_rebind_told what, uint64_t number, const char *path)
{
	struct command *command = arg;
	json_t *object;

	command->n_told[what]++;
	rvl_findings_clear_progress(&command->findings);
	if (command->is_json) {
		object = json_object();
		json_object_set_new(object, "what", json_string(told_ids[what]));
		json_object_set_new(object, "number", json_integer((json_int_t)number));
		json_object_set_new(object, "path", rvl_output_string(path, strlen(path)));
		json_array_append_new(command->told, object);
		return;
	}
	if (command->n_told[what] == SHOWN_MAX + 1 && !command->is_verbose)
		printf("… and more of this kind; --verbose tells all\n");
	if (command->n_told[what] <= SHOWN_MAX || command->is_verbose)
		printf("%s (number %llu): %s\n", path, (unsigned long long)number,
		       rvl_rebind_text(what));
}

static void on_progress(void *arg, uint64_t n_names)
{
	struct command *command = arg;

	command->sink.progress(command->sink.arg, n_names);
}

/* At a terminal a move is not what an end of the input or a signal means. */
static int ask(enum action *ret)
{
	char line[16];
	int r;

	do {
		r = rvl_tools_ask("Is the original used any more? No: it was moved (m). Yes: this is a "
				  "clone (c). [m/c] ",
				  line, sizeof(line));
	} while (r > 0 && line[0] != 'm' && line[0] != 'c' && line[0] != '\0');
	if (r <= 0) {
		rvl_error("rebind: cancelled; nothing was changed");
		return -ECANCELED;
	}
	*ret = line[0] == 'c' ? CLONE : MOVE;
	return 0;
}

static int print_json(const struct command *command, const struct rvl_check_rebind_result *result)
{
	const struct rvl_rebind_counts *lower = &result->lower;
	json_t *root = json_object(), *counts = json_object();

	json_object_set_new(root, "action",
			    json_string(command->action == CLONE ? "clone" : "move"));
	json_object_set_new(root, "dry_run", json_boolean(command->is_dry_run));
	json_object_set_new(root, "moved", json_boolean(result->is_moved));
	json_object_set_new(root, "rebuilt", json_boolean(result->is_rebuilt));
	if (result->is_rebuilt && command->is_dry_run) { /* no more was looked at */
		json_decref(counts);
		json_object_set_new(root, "exit", json_integer(EXIT_SUCCESS));
		return rvl_output_print(root, true);
	}
	json_object_set_new(root, "other_lowers", json_boolean(result->has_other_lowers));
	json_object_set_new(root, "had_map", json_boolean(result->has_map));
	json_object_set_new(counts, "names", json_integer((json_int_t)result->n_upper));
	json_object_set_new(counts, "entries", json_integer((json_int_t)result->n_entries));
	json_object_set_new(counts, "linked", json_integer((json_int_t)result->n_linked));
	json_object_set_new(root, "upper", counts);
	counts = json_object();
	json_object_set_new(counts, "names", json_integer((json_int_t)lower->n_names));
	json_object_set_new(counts, "known", json_integer((json_int_t)lower->n_old));
	json_object_set_new(counts, "kept", json_integer((json_int_t)lower->n_kept));
	json_object_set_new(counts, "gone", json_integer((json_int_t)lower->n_gone));
	json_object_set_new(counts, "other_kind", json_integer((json_int_t)lower->n_other_kind));
	json_object_set_new(counts, "joined", json_integer((json_int_t)lower->n_joined));
	json_object_set_new(counts, "split", json_integer((json_int_t)lower->n_split));
	json_object_set_new(counts, "linked", json_integer((json_int_t)result->n_lower_linked));
	json_object_set_new(root, "lower", counts);
	json_object_set(root, "told", command->told);
	json_object_set_new(root, "exit", json_integer(EXIT_SUCCESS));
	return rvl_output_print(root, true);
}

static void print_result(const struct command *command,
			 const struct rvl_check_rebind_result *result)
{
	const struct rvl_rebind_counts *lower = &result->lower;

	if (result->is_rebuilt && command->is_dry_run) {
		puts("workdir: it has no index; one would be made again from what is in upper. What a "
		     "rebind finds then is not known before\nnothing was changed");
		return;
	}
	if (result->is_rebuilt)
		puts("workdir: it has no index; one is made again from what is in upper. Untouched objects "
		     "of lower layers may get new numbers");
	printf("upper: %llu names, %llu entries made or renewed, %llu names linked again\n",
	       (unsigned long long)result->n_upper, (unsigned long long)result->n_entries,
	       (unsigned long long)result->n_linked);
	if (!result->has_other_lowers) {
		puts("lower: the same layers as before");
	} else {
		printf("lower: %llu names, of %llu known ones %llu keep their numbers and %llu are gone\n",
		       (unsigned long long)lower->n_names, (unsigned long long)lower->n_old,
		       (unsigned long long)lower->n_kept, (unsigned long long)lower->n_gone);
		if (result->n_lower_linked)
			printf("lower: %llu names become names in upper, which keeps what their hard links "
			       "were\n",
			       (unsigned long long)result->n_lower_linked);
		if (!result->has_map)
			puts("lower: there was no complete map before the copy (reverlayctl(8), \"rebind\"): "
			     "untouched objects of lower layers that it did not have get new numbers, and "
			     "their old NFS handles are stale");
	}
	puts(command->is_dry_run      ? "nothing was changed" :
	     command->action == CLONE ? "bound to these layers, as an overlay of its own" :
					"bound to these layers");
}

/* Of the walk of lower the log tells every few seconds. */
static int work(struct command *command, const struct rvl_check_rebind_config *config,
		struct rvl_check_rebind_result *result)
{
	int r;

	if (config->progress)
		rvl_log_setup("reverlayctl", RVL_LOG_STDERR, LOG_INFO);
	r = rvl_check_rebind(config, result);
	rvl_findings_clear_progress(&command->findings);
	if (r == -ECANCELED)
		rvl_error("rebind: cancelled; run it again to go on");
	return r;
}

static int run(struct command *command)
{
	struct rvl_check_rebind_config config = { .is_dry_run = command->is_dry_run,
						  .arg = command,
						  .told = tell,
						  .stop = &rvl_tools_stop };
	struct rvl_check_rebind_result result;
	struct rvl_layers layers;
	int r = rvl_layers_open_stack(command->layers, &layers);

	if (r < 0)
		return r;
	rvl_tools_handle_signals();
	if (command->action == ASK && isatty(STDIN_FILENO) && isatty(STDOUT_FILENO))
		r = ask(&command->action);
	else if (command->action == ASK)
		command->action = MOVE;
	config.stack = &layers.stack;
	command->sink = rvl_findings_sink(&command->findings);
	config.progress = command->sink.progress ? on_progress : NULL;
	config.is_clone = command->action == CLONE;
	command->told = json_array();
	if (r == 0 && layers.stack.work_fd < 0) {
		rvl_error("rebind: without a workdir there is no index to bind");
		r = -EINVAL;
	}
	if (r == 0)
		r = work(command, &config, &result);
	if (r == 0 && command->is_json)
		r = print_json(command, &result);
	else if (r == 0)
		print_result(command, &result);
	json_decref(command->told);
	rvl_layers_close(&layers);
	return r;
}

int rvl_command_rebind(int argc, char **argv)
{
	static const struct option options[] = {
		{ "move", no_argument, NULL, 'm' },
		{ "clone", no_argument, NULL, 'c' },
		{ "dry-run", no_argument, NULL, 'n' },
		{ "verbose", no_argument, NULL, 'v' },
		{ "progress", no_argument, NULL, 'C' },
		{ "json", no_argument, NULL, 'j' },
		{ "help", no_argument, NULL, 'h' },
		{},
	};
	struct command command = { .action = ASK, .findings = { .progress_fd = -1, .pass = 1 } };
	int c;

	if (isatty(STDERR_FILENO) && isatty(STDOUT_FILENO))
		rvl_findings_set_progress(&command.findings, STDERR_FILENO);
	while ((c = getopt_long(argc, argv, "o:hnvC", options, NULL)) != -1) {
		switch (c) {
		case 'o':
			command.layers = rvl_layers_add_options(optarg);
			break;
		case 'm':
		case 'c':
			if (command.action != ASK && command.action != (c == 'm' ? MOVE : CLONE)) {
				rvl_error("rebind: give --move or --clone, not both");
				return EXIT_FAILURE;
			}
			command.action = c == 'm' ? MOVE : CLONE;
			break;
		case 'n':
			command.is_dry_run = true;
			break;
		case 'v':
			command.is_verbose = true;
			break;
		case 'C':
			rvl_findings_set_progress(&command.findings, STDERR_FILENO);
			break;
		case 'j':
			command.is_json = true;
			break;
		case 'h':
			print_help();
			return EXIT_SUCCESS;
		default:
			return EXIT_FAILURE;
		}
	}
	if (!command.layers || argc != optind) {
		rvl_error("rebind: the layers are expected, as -o lowerdir=…,upperdir=…,workdir=…; "
			  "see reverlayctl rebind --help");
		return EXIT_FAILURE;
	}
	return run(&command) < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
