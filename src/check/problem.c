// SPDX-License-Identifier: GPL-2.0-or-later
/* The table of problems as data. */
#include "check/problem.h"

const struct rvl_problem_kind rvl_problem_kinds[RVL_PROBLEM_N] = {
#define X(name, id, severity, preen, what, mend) \
	[RVL_P_##name] = { id, severity, preen, what, mend },
	RVL_PROBLEMS(X)
#undef X
};

const char *rvl_severity_name(enum rvl_severity severity)
{
	static const char *const names[] = { "note", "warning", "error" };

	return names[severity];
}
