// SPDX-License-Identifier: GPL-2.0-or-later
/* Messages: priority, one line each, control characters of names, the limit for repeated ones. */
#include "base/log.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

static int saved_stderr, pipe_fds[2];

static int setup(void **state)
{
	fflush(stderr);
	saved_stderr = dup(2);
	assert_int_equal(pipe(pipe_fds), 0);
	dup2(pipe_fds[1], 2);
	rvl_log_setup("prog", RVL_LOG_STDERR, LOG_INFO);
	return 0;
}

static const char *output(void)
{
	static char buf[8192];
	ssize_t n;

	dup2(saved_stderr, 2);
	close(pipe_fds[1]);
	n = read(pipe_fds[0], buf, sizeof(buf) - 1);
	buf[n < 0 ? 0 : n] = '\0';
	close(pipe_fds[0]);
	close(saved_stderr);
	return buf;
}

static void lines_have_program_and_priority(void **state)
{
	errno = ENOENT;
	rvl_error("upperdir=%s: %s", "/u", "no");
	rvl_warn("careful");
	rvl_debug("not shown");
	assert_int_equal(errno, ENOENT);
	assert_string_equal(output(), "prog: upperdir=/u: no\nprog: warning: careful\n");
}

static void names_cannot_forge_lines(void **state)
{
	rvl_error("%s", "a\nprog: all is well\033[2J");
	assert_string_equal(output(), "prog: a?prog: all is well?[2J\n");
}

static int n_observed;
static char observed[64];

static void observe(int priority, const char *text)
{
	n_observed += priority == LOG_ERR;
	snprintf(observed, sizeof(observed), "%s", text);
}

static void an_observer_has_what_is_shown(void **state)
{
	rvl_log_observe(observe);
	rvl_debug("not shown");
	assert_string_equal(observed, "");
	rvl_error("a\nb");
	rvl_log_observe(NULL);
	rvl_error("unobserved");
	output();
	assert_string_equal(observed, "a?b");
	assert_int_equal(n_observed, 1);
}

static void long_messages_are_cut(void **state)
{
	char text[6000];
	const char *out;

	memset(text, 'x', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	rvl_error("%s", text);
	out = output();
	assert_in_range(strlen(out), 4000, 5000);
	assert_int_equal(out[strlen(out) - 1], '\n');
}

static void repeated_warnings_are_limited(void **state)
{
	for (int i = 0; i < 100; i++)
		rvl_warn_limited("again");
	assert_string_equal(output(), "prog: warning: again\n");
}

static void what_was_left_out_is_counted(void **state)
{
	static struct rvl_log_limit limit;

	rvl_log_limited(&limit, LOG_WARNING, "first");
	rvl_log_limited(&limit, LOG_WARNING, "second");
	limit.last_s -= 11;
	rvl_log_limited(&limit, LOG_WARNING, "third");
	assert_string_equal(output(),
			    "prog: warning: first\nprog: warning: third\n"
			    "prog: warning: (1 more messages like this one were left out)\n");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(lines_have_program_and_priority, setup),
		cmocka_unit_test_setup(names_cannot_forge_lines, setup),
		cmocka_unit_test_setup(an_observer_has_what_is_shown, setup),
		cmocka_unit_test_setup(long_messages_are_cut, setup),
		cmocka_unit_test_setup(repeated_warnings_are_limited, setup),
		cmocka_unit_test_setup(what_was_left_out_is_counted, setup),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
