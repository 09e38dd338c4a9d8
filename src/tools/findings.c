// SPDX-License-Identifier: GPL-2.0-or-later
/* Findings as text and as JSON. A run may find millions: each is written when it comes. */
#include "tools/findings.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "tools/ask.h"
#include "tools/commands.h"
#include "tools/output.h"

void rvl_findings_clear_progress(struct rvl_findings *f)
{
	if (f->has_progress_line)
		dprintf(f->progress_fd, "\r%*s\r", 60, "");
	f->has_progress_line = false;
}

static void on_pass(void *arg, unsigned pass, const char *title)
{
	struct rvl_findings *f = arg;

	rvl_findings_clear_progress(f);
	f->pass = pass;
	if (!f->is_json && !f->is_quiet && !f->is_cancelled)
		printf("Pass %u: %s\n", pass, title);
	fflush(stdout);
}

static void on_progress(void *arg, uint64_t n_names)
{
	struct rvl_findings *f = arg;

	if (f->progress_fd < 0)
		return;
	if (f->is_terminal)
		dprintf(f->progress_fd, "\rPass %u: %" PRIu64 " names", f->pass, n_names);
	else
		dprintf(f->progress_fd, "%u %" PRIu64 "\n", f->pass, n_names);
	f->has_progress_line = f->is_terminal;
}

/* ---- one finding ---- */

static const char *outcome_name(enum rvl_outcome outcome)
{
	return outcome == RVL_MENDED ? "mended" : outcome == RVL_FAILED ? "failed" : "found";
}

static const char *error_text(const struct rvl_problem *problem)
{
	switch (problem->error) {
	case -EOPNOTSUPP:
		return "it takes more than this";
	case -ESTALE:
		return problem->id == RVL_P_MAP_LOST ? "it takes reverlayctl rebind" :
						       "something else must be mended first";
	default:
		return strerror(-problem->error);
	}
}

static void print_json(struct rvl_findings *f, const struct rvl_problem *problem)
{
	const struct rvl_problem_kind *kind = &rvl_problem_kinds[problem->id];
	json_t *object = json_object();

	json_object_set_new(object, "id", json_string(kind->id));
	json_object_set_new(object, "severity", json_string(rvl_severity_name(kind->severity)));
	if (problem->number)
		json_object_set_new(object, "number", json_integer((json_int_t)problem->number));
	if (problem->path)
		json_object_set_new(object, "path",
				    rvl_output_string(problem->path, strlen(problem->path)));
	if (problem->detail)
		json_object_set_new(object, "detail",
				    rvl_output_string(problem->detail, strlen(problem->detail)));
	json_object_set_new(object, "outcome", json_string(outcome_name(problem->outcome)));
	if (problem->outcome == RVL_FAILED)
		json_object_set_new(object, "error", json_string(error_text(problem)));
	rvl_output_begin();
	fputs(f->n_printed ? ",\n  " : "{\"problems\": [\n  ", stdout);
	json_dumpf(object, stdout, JSON_COMPACT);
	json_decref(object);
}

static void print_escaped(const char *text)
{
	json_t *escaped = rvl_output_string(text, strlen(text));

	fputs(json_string_value(escaped) ?: "?", stdout);
	json_decref(escaped);
}

static void print_what(const struct rvl_problem *problem)
{
	const struct rvl_problem_kind *kind = &rvl_problem_kinds[problem->id];

	printf("%s: ", kind->id);
	if (problem->path) {
		putchar('/');
		print_escaped(problem->path);
		printf(": ");
	}
	fputs(kind->what, stdout);
	if (problem->number)
		printf("; number %" PRIu64, problem->number);
	if (problem->detail) {
		fputs(" (", stdout);
		print_escaped(problem->detail);
		putchar(')');
	}
}

static void print_text(const struct rvl_problem *problem)
{
	print_what(problem);
	if (problem->outcome == RVL_MENDED)
		printf(". Mended: %s", rvl_problem_kinds[problem->id].mend);
	else if (problem->outcome == RVL_FAILED)
		printf(". NOT mended: %s", error_text(problem));
	putchar('\n');
}

static void on_problem(void *arg, const struct rvl_problem *problem)
{
	struct rvl_findings *f = arg;

	if (f->is_cancelled ||
	    (rvl_problem_kinds[problem->id].severity == RVL_NOTE && !f->has_notes))
		return;
	rvl_findings_clear_progress(f);
	if (f->is_json)
		print_json(f, problem);
	else
		print_text(problem);
	f->n_printed++;
	f->error = rvl_output_flush();
}

static bool on_ask(void *arg, const struct rvl_problem *problem)
{
	struct rvl_findings *f = arg;
	char answer[16];
	int r;

	if (f->yes_to_all || f->no_to_all || f->is_cancelled)
		return f->yes_to_all;
	rvl_findings_clear_progress(f);
	print_what(problem);
	printf(".\n  %s", rvl_problem_kinds[problem->id].mend);
	r = rvl_tools_ask(" (y/n/all)? ", answer, sizeof(answer));
	f->is_cancelled = r == -ECANCELED;
	f->no_to_all = r <= 0;
	if (r <= 0)
		return false;
	f->yes_to_all = answer[0] == 'a' || answer[0] == 'A';
	return f->yes_to_all || answer[0] == 'y' || answer[0] == 'Y';
}

struct rvl_check_sink rvl_findings_sink(struct rvl_findings *findings)
{
	return (struct rvl_check_sink){ .arg = findings,
					.pass = on_pass,
					.problem = on_problem,
					.ask = on_ask,
					.progress = findings->progress_fd >= 0 ? on_progress :
										 NULL };
}

void rvl_findings_set_progress(struct rvl_findings *f, int fd)
{
	f->progress_fd = fd;
	f->is_terminal = isatty(fd);
}

static void print_member(const char *key, const json_t *value)
{
	printf(" \"%s\": ", key);
	json_dumpf(value, stdout, JSON_COMPACT | JSON_ENCODE_ANY);
	puts(",");
}

static void print_more(json_t *more)
{
	const char *key;
	json_t *value;

	json_object_foreach(more, key, value)
		print_member(key, value);
}

void rvl_findings_end(struct rvl_findings *f, const struct rvl_check_result *result, int exit_code,
		      json_t *more)
{
	json_t *error = NULL;

	rvl_findings_clear_progress(f);
	if (f->is_json) {
		rvl_output_begin();
		printf("%s],\n", f->n_printed ? "" : "{\"problems\": [");
		print_more(more);
		if (exit_code >= RVL_EXIT_ERROR)
			error = rvl_output_errors();
		if (error)
			print_member("error", error);
		json_decref(error);
		printf(" \"objects\": %" PRIu64 ", \"errors\": %" PRIu64
		       ", \"warnings\": %" PRIu64 ", \"notes\": %" PRIu64 ", \"mended\": %" PRIu64
		       ", \"left\": %" PRIu64 ", \"exit\": %d}\n",
		       result->n_objects,
		       result->n_found[RVL_ERROR], result->n_found[RVL_WARNING],
		       result->n_found[RVL_NOTE], result->n_mended, result->n_left, exit_code);
	} else if (!f->is_quiet) {
		printf("%" PRIu64 " objects in upper: %" PRIu64 " errors, %" PRIu64
		       " warnings, %" PRIu64 " notes; %" PRIu64 " mended, %" PRIu64 " left\n",
		       result->n_objects, result->n_found[RVL_ERROR], result->n_found[RVL_WARNING],
		       result->n_found[RVL_NOTE], result->n_mended, result->n_left);
	}
	json_decref(more);
	f->error = rvl_output_flush();
}
