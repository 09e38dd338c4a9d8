// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Messages for people. The settings are written before threads start and when the server
 * daemonises; they are atomics because threads may already log at that moment. A line is put
 * together in a buffer and written with one call, so that lines of several threads do not mix.
 *
 * Names in messages come from layers and users: control characters are replaced, so that a name
 * can neither forge a line nor steer a terminal.
 */
#include "base/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#define LINE_MAX_BYTES 4096 /* longer messages are cut */
#define LIMIT_PERIOD_S 10

static const char *_Atomic log_program = "reverlay";
static _Atomic int log_target = RVL_LOG_STDERR;
static _Atomic int log_max_priority = LOG_INFO;
static void (*_Atomic log_observer)(int priority, const char *text);

void rvl_log_setup(const char *program, enum rvl_log_target target, int max_priority)
{
	log_program = program;
	log_max_priority = max_priority;
	if (target == RVL_LOG_SYSLOG)
		openlog(program, LOG_PID, LOG_DAEMON);
	log_target = target;
}

void rvl_log_observe(void (*observer)(int priority, const char *text))
{
	log_observer = observer;
}

bool rvl_log_is_shown(int priority)
{
	return LOG_PRI(priority) <= log_max_priority;
}

static const char *priority_prefix(int priority)
{
	switch (LOG_PRI(priority)) {
	case LOG_WARNING:
		return "warning: ";
	case LOG_DEBUG:
		return "debug: ";
	default:
		return "";
	}
}

static void neutralise(char *text)
{
	for (unsigned char *p = (unsigned char *)text; *p; p++)
		if (*p < 0x20 || *p == 0x7f)
			*p = '?';
}

static void log_text(int priority, char *text)
{
	void (*observer)(int, const char *) = log_observer;
	char line[LINE_MAX_BYTES + 256];
	ssize_t unused;
	int len;

	neutralise(text);
	if (observer)
		observer(LOG_PRI(priority), text);
	if (log_target == RVL_LOG_SYSLOG) {
		syslog(LOG_PRI(priority), "%s%s", priority_prefix(priority), text);
		return;
	}
	len = snprintf(line, sizeof(line), "%s: %s%s\n", log_program, priority_prefix(priority),
		       text);
	if (len < 0)
		return;
	if ((size_t)len >= sizeof(line)) {
		len = sizeof(line) - 1;
		line[len - 1] = '\n';
	}
	/* There is nowhere to report that the report could not be written. */
	unused = write(STDERR_FILENO, line, len);
	(void)unused;
}

__attribute__((format(printf, 2, 0))) static void log_va(int priority, const char *format,
							 va_list ap)
{
	char text[LINE_MAX_BYTES];
	int saved = errno;

	if (vsnprintf(text, sizeof(text), format, ap) >= 0)
		log_text(priority, text);
	errno = saved;
}

void rvl_log(int priority, const char *format, ...)
{
	va_list ap;

	if (!rvl_log_is_shown(priority))
		return;
	va_start(ap, format);
	log_va(priority, format, ap);
	va_end(ap);
}

/* Monotonic time plus a period, so that it is never 0: 0 is "never logged". */
static long now_s(void)
{
	struct timespec ts = { 0 };

	clock_gettime(CLOCK_MONOTONIC_COARSE, &ts);
	return ts.tv_sec + LIMIT_PERIOD_S;
}

void rvl_log_limited(struct rvl_log_limit *limit, int priority, const char *format, ...)
{
	long now = now_s(), last = atomic_load(&limit->last_s), n_left_out;
	va_list ap;

	if (!rvl_log_is_shown(priority))
		return;
	/* Whoever moves the time on logs; all others of this period are counted. */
	if ((last != 0 && now - last < LIMIT_PERIOD_S) ||
	    !atomic_compare_exchange_strong(&limit->last_s, &last, now)) {
		atomic_fetch_add(&limit->n_left_out, 1);
		return;
	}
	n_left_out = atomic_exchange(&limit->n_left_out, 0);
	va_start(ap, format);
	log_va(priority, format, ap);
	va_end(ap);
	if (n_left_out > 0)
		rvl_log(priority, "(%ld more messages like this one were left out)", n_left_out);
}
