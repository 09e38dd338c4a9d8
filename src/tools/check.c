// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * reverlayctl check, reverlayctl repair and fsck.reverlay: three ways to call one thing, with the
 * exit codes of fsck(8).
 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "check/check.h"
#include "overlay/overlay.h"
#include "tools/ask.h"
#include "tools/commands.h"
#include "tools/findings.h"
#include "tools/layers.h"
#include "tools/operand.h"

struct request {
	const char *options; /* of -o; NULL */
	const char *operand; /* NULL */
	struct rvl_check_config config;
	struct rvl_findings findings;
	bool is_forced; /* fsck: also if it was stopped cleanly */
	bool is_fsck; /* by that name: what was stopped cleanly needs no look with -p */
	char mode_option; /* 'n', 'p' or 'y', as given; 0: none */
};

static const char help_common[] =
	"\n"
	"OVERLAY is the options of the mount (-o lowerdir=…,upperdir=…,workdir=…), a workdir, or the\n"
	"mount point of a line in /etc/fstab, or its source if no other line has it. It must not be\n"
	"mounted%s.\n"
	"\n";

static void print_check_help(void)
{
	fputs("Usage: reverlayctl check [OPTION]... OVERLAY\n", stdout);
	printf(help_common, ", but with --online: then OVERLAY\nis the mount point, too");
	fputs("  -o, --options OPTIONS  name the layers\n"
	      "      --online           of a live mount: what is so at a second look\n"
	      "  -v, --verbose          notes too\n"
	      "  -q, --quiet            nothing but what is found\n"
	      "  -C, --progress         show how far it is (the default on a terminal)\n"
	      "      --json             for programs\n"
	      "\n"
	      "Exit code, as of fsck(8): 0 nothing is wrong, 4 something is, 8 it could not be checked,\n"
	      "16 wrong usage, 32 cancelled.\n",
	      stdout);
}

static void print_repair_help(void)
{
	fputs("Usage: reverlayctl repair [OPTION]... OVERLAY\n", stdout);
	printf(help_common, "");
	fputs("  -o, --options OPTIONS  name the layers\n"
	      "  -p, --preen            mend what is safe to mend unasked; one of -p, -y and -n\n"
	      "  -y, --yes              mend all\n"
	      "  -n, --no               mend nothing, as check\n"
	      "      --rebuild          make the index again where it is lost or its state damaged;\n"
	      "                         without -p or -n all else is mended too, as with -y\n"
	      "  -v, --verbose          notes too\n"
	      "  -q, --quiet            nothing but what is found\n"
	      "  -C, --progress         show how far it is (the default on a terminal)\n"
	      "      --json             for programs; with -p, -y or -n\n"
	      "\n"
	      "Without -p, -y or -n it asks for each. Nothing with data in it is removed: what has no\n"
	      "name goes to lost+found. But with -y, or a yes, a file goes whose last name in upper was\n"
	      "removed after the last mount had ended, not by reverlay (entry-removed).\n"
	      "\n"
	      "Exit code, as of fsck(8): 0 nothing was wrong, 1 mended, 4 something is left, 8 it could not\n"
	      "be repaired, 16 wrong usage, 32 cancelled.\n",
	      stdout);
}

static void print_fsck_help(void)
{
	fputs("Usage: fsck.reverlay [-n | -p | -a | -y] [-fqvV] [-C [FD]] -o OPTIONS | OVERLAY\n"
	      "\n"
	      "reverlayctl check and repair, as fsck(8) calls them; fsck.reverlay(8) tells more.\n",
	      stdout);
	printf(help_common, "");
	fputs("  -o OPTIONS  name the layers\n"
	      "  -n          mend nothing\n"
	      "  -p, -a      mend what is safe to mend unasked; what was stopped cleanly is not looked at\n"
	      "  -y          mend all; without -n, -p and -y it asks for each\n"
	      "  -f          look also at what was stopped cleanly\n"
	      "  -v          notes too\n"
	      "  -q          nothing but what is found\n"
	      "  -C [FD]     show how far it is, on descriptor FD (0: standard error)\n"
	      "  -V          the version\n"
	      "\n"
	      "Exit code: 0 nothing is wrong, 1 all was mended, 4 something is left, 8 it could not be\n"
	      "checked or mended, 16 wrong usage, 32 cancelled.\n",
	      stdout);
}

/* ---- the run ---- */

static int exit_code(const struct request *request, int r, const struct rvl_check_result *result)
{
	if (r == -ECANCELED)
		return RVL_EXIT_CANCELLED;
	if (r < 0 || request->findings.error)
		return RVL_EXIT_ERROR;
	if (result->n_left)
		return RVL_EXIT_LEFT;
	return result->n_mended ? RVL_EXIT_MENDED : RVL_EXIT_OK;
}

static void say_error(int r)
{
	switch (r) {
	case -ECANCELED:
		rvl_error("cancelled; run it again to go on");
		break;
	case -ENOSPC:
	case -EDQUOT:
	case -EROFS:
	case -EIO:
	case -EMFILE:
	case -ENFILE:
	case -ENOMEM:
	case -E2BIG:
		rvl_error("stopped: %s; what was mended stays mended, run it again to go on",
			  strerror(-r));
		break;
	default:
		if (r < 0)
			rvl_error("it cannot be checked: %s", strerror(-r));
	}
}

/* An exit code. */
static int open_layers(struct request *request, struct rvl_layers *layers)
{
	_cleanup_free_ char *options = NULL;
	bool is_live = false;
	int r = 0;

	if (request->options)
		options = strdup(request->options);
	else
		r = rvl_operand_options(request->operand, &options, &is_live);
	if (r < 0 || !options)
		return RVL_EXIT_ERROR;
	if (rvl_layers_check_options(options, request->config.is_rebuild))
		return RVL_EXIT_USAGE;
	if (is_live && !request->config.is_online) {
		rvl_error("%s: it is mounted: unmount it, or use check --online", request->operand);
		return RVL_EXIT_ERROR;
	}
	r = request->config.is_online ? rvl_layers_open_unlocked(options, layers) :
					rvl_layers_open_stack(options, layers);
	return r < 0 ? RVL_EXIT_ERROR : RVL_EXIT_OK;
}

/* What a server that died had begun: the recovery of a mount, without one. */
static int recover(const struct rvl_stack *stack, struct rvl_index *index)
{
	const struct rvl_overlay_config config = {
		.stack = stack, .index = index, .sync = RVL_SYNC_AUTO
	};
	struct rvl_overlay *ov;
	int r = rvl_overlay_open(&config, &ov);

	if (r == 0)
		rvl_overlay_close(ov);
	return r;
}

static int run(struct request *request)
{
	struct rvl_check_sink sink = rvl_findings_sink(&request->findings);
	struct rvl_check_result result = { 0 };
	struct rvl_layers layers;
	int code = open_layers(request, &layers), r;

	if (code)
		return code;
	/* as e2fsck: what was stopped cleanly needs no look at every boot */
	if (request->is_fsck && request->config.mode == RVL_CHECK_PREEN && !request->is_forced &&
	    rvl_check_is_clean(&layers.stack)) {
		if (!request->findings.is_quiet)
			printf("reverlay: clean\n");
		rvl_layers_close(&layers);
		return RVL_EXIT_OK;
	}
	rvl_tools_handle_signals();
	request->config.stack = &layers.stack;
	request->config.sink = &sink;
	request->config.stop = &rvl_tools_stop;
	request->config.recover = recover;
	r = rvl_check_run(&request->config, &result);
	if (!r && request->findings.is_cancelled)
		r = -ECANCELED;
	say_error(r);
	code = exit_code(request, r, &result);
	rvl_findings_end(&request->findings, &result, code, NULL);
	rvl_layers_close(&layers);
	return request->findings.error ? RVL_EXIT_ERROR : code;
}

/* ---- command lines ---- */

static int usage(const char *program, const char *what)
{
	rvl_error("%s; see %s --help", what, program);
	return RVL_EXIT_USAGE;
}

static int take_operand(struct request *request, int argc, char **argv, const char *program)
{
	if (request->options ? argc != optind : argc != optind + 1)
		return usage(program, "one overlay is expected, by -o OPTIONS or as an operand");
	request->operand = request->options ? NULL : argv[optind];
	return RVL_EXIT_OK;
}

/* -n, -p, -y: how much is mended. As of e2fsck only one of them. */
static int take_mode(struct request *request, int c, const char *program)
{
	if (request->mode_option && request->mode_option != c)
		return usage(program, "only one of -n, -p and -y");
	request->mode_option = (char)c;
	request->config.mode = c == 'n' ? RVL_CHECK_LOOK :
			       c == 'p' ? RVL_CHECK_PREEN :
					  RVL_CHECK_ALL;
	return RVL_EXIT_OK;
}

static struct request new_request(enum rvl_check_mode mode)
{
	struct request request = { .config.mode = mode, .findings.progress_fd = -1 };

	if (isatty(STDERR_FILENO) && isatty(STDOUT_FILENO))
		rvl_findings_set_progress(&request.findings, STDERR_FILENO);
	return request;
}

enum { OPTION_ONLINE = 256, OPTION_REBUILD, OPTION_JSON };
static const struct option long_options[] = {
	{ "options", required_argument, NULL, 'o' },
	{ "online", no_argument, NULL, OPTION_ONLINE },
	{ "rebuild", no_argument, NULL, OPTION_REBUILD },
	{ "preen", no_argument, NULL, 'p' },
	{ "yes", no_argument, NULL, 'y' },
	{ "no", no_argument, NULL, 'n' },
	{ "verbose", no_argument, NULL, 'v' },
	{ "quiet", no_argument, NULL, 'q' },
	{ "progress", no_argument, NULL, 'C' },
	{ "json", no_argument, NULL, OPTION_JSON },
	{ "help", no_argument, NULL, 'h' },
	{},
};

/* Those that check and repair both have. false: not one of them. */
static bool common_option(struct request *request, int c)
{
	switch (c) {
	case 'o':
		request->options = rvl_layers_add_options(optarg);
		return true;
	case 'v':
		request->findings.has_notes = true;
		return true;
	case 'q':
		request->findings.is_quiet = true;
		return true;
	case 'C':
		rvl_findings_set_progress(&request->findings, STDERR_FILENO);
		return true;
	case OPTION_JSON:
		request->findings.is_json = true;
		return true;
	default:
		return false;
	}
}

int rvl_command_check(int argc, char **argv)
{
	static const char program[] = "reverlayctl check";
	struct request request = new_request(RVL_CHECK_LOOK);
	int c, code;

	while ((c = getopt_long(argc, argv, "o:nvqCh", long_options, NULL)) != -1) {
		if (common_option(&request, c))
			continue;
		switch (c) {
		case OPTION_ONLINE:
			request.config.is_online = true;
			break;
		case 'n': /* as always */
			break;
		case 'h':
			print_check_help();
			return RVL_EXIT_OK;
		default:
			return c == '?' ? RVL_EXIT_USAGE : usage(program, "check mends nothing");
		}
	}
	code = take_operand(&request, argc, argv, program);
	return code ?: run(&request);
}

int rvl_command_repair(int argc, char **argv)
{
	static const char program[] = "reverlayctl repair";
	struct request request = new_request(RVL_CHECK_ASK);
	int c, code;

	while ((c = getopt_long(argc, argv, "o:pynvqCh", long_options, NULL)) != -1) {
		if (common_option(&request, c))
			continue;
		switch (c) {
		case 'n':
		case 'p':
		case 'y':
			code = take_mode(&request, c, program);
			if (code)
				return code;
			break;
		case OPTION_REBUILD:
			request.config.is_rebuild = true;
			break;
		case 'h':
			print_repair_help();
			return RVL_EXIT_OK;
		default:
			return c == '?' ? RVL_EXIT_USAGE :
					  usage(program, "a live mount cannot be repaired");
		}
	}
	if (request.config.is_rebuild && !request.mode_option)
		request.config.mode = RVL_CHECK_ALL; /* the entries that follow are no questions */
	code = take_operand(&request, argc, argv, program);
	if (!code && request.config.mode == RVL_CHECK_ASK &&
	    (request.findings.is_json || !isatty(STDIN_FILENO)))
		code = usage(program, "to be asked takes a terminal: give -p, -y or -n");
	return code ?: run(&request);
}

/* -C may have its descriptor in the same word or in the next. */
static void fsck_progress(struct request *request, int argc, char **argv)
{
	const char *text = optarg;
	char *end;
	long fd;

	if (!text && optind < argc && argv[optind][0] >= '0' && argv[optind][0] <= '9' &&
	    argc - optind > 1)
		text = argv[optind++];
	fd = text ? strtol(text, &end, 10) : 0;
	rvl_findings_set_progress(&request->findings, fd > 0 ? (int)fd : STDERR_FILENO);
}

int rvl_command_fsck(int argc, char **argv)
{
	static const char program[] = "fsck.reverlay";
	struct request request = new_request(RVL_CHECK_ASK);
	int c, code;

	request.is_fsck = true;
	rvl_log_setup(program, RVL_LOG_STDERR, LOG_WARNING);
	while ((c = getopt_long(argc, argv, "o:t:anpyrfvVTlC::h", long_options, NULL)) != -1) {
		switch (c) {
		case 'C':
			fsck_progress(&request, argc, argv);
			continue;
		case 'V':
			printf("fsck.reverlay %s\n", RVL_VERSION);
			return RVL_EXIT_OK;
		case 'a':
		case 'n':
		case 'p':
		case 'y':
			code = take_mode(&request, c == 'a' ? 'p' : c, program);
			if (code)
				return code;
			continue;
		case 'f':
			request.is_forced = true;
			continue;
		case 'r': /* the default */
		case 'T':
		case 'l':
		case 't':
			continue;
		case 'h':
			print_fsck_help();
			return RVL_EXIT_OK;
		default:
			if (common_option(&request, c))
				continue;
			return c == '?' ? RVL_EXIT_USAGE : usage(program, "an option of reverlayctl");
		}
	}
	code = take_operand(&request, argc, argv, program);
	if (!code && request.config.mode == RVL_CHECK_ASK && !isatty(STDIN_FILENO))
		code = usage(program, "to be asked takes a terminal: give -p, -y or -n");
	return code ?: run(&request);
}
