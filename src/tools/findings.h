/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What check and repair print: lines for people as it goes, or one JSON object for programs. */
#ifndef RVL_TOOLS_FINDINGS_H
#define RVL_TOOLS_FINDINGS_H

#include <jansson.h>

#include "check/check.h"

struct rvl_findings {
	bool is_json;
	bool is_quiet; /* no passes and no summary */
	bool has_notes; /* notes too */
	int progress_fd; /* -1: none */
	bool is_terminal; /* progress is a line that is written over; else "pass names" lines as of fsck -C */
	bool yes_to_all; /* was answered */
	bool no_to_all; /* there are no more answers */
	bool is_cancelled; /* a signal came at a question: the rest is "no", and not told */
	unsigned pass; /* that progress is told of */
	/* private */
	uint64_t n_printed;
	bool has_progress_line;
	int error; /* stdout cannot be written: -errno */
};

/* The sink of a check; borrows `findings`. */
struct rvl_check_sink rvl_findings_sink(struct rvl_findings *findings);
/* The line of progress goes; before something else is printed. */
void rvl_findings_clear_progress(struct rvl_findings *findings);
void rvl_findings_set_progress(struct rvl_findings *findings, int fd);
/*
 * After the run. exit_code is what will be returned; more: NULL, or an object whose members go to
 * the JSON too; released.
 */
void rvl_findings_end(struct rvl_findings *findings, const struct rvl_check_result *result,
		      int exit_code, json_t *more);

#endif
