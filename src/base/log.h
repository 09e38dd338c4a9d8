/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Messages for people: on stderr until the server daemonises (and with -f), then to syslog.
 * Every message says what happened, with the option or path, and where there is one the remedy.
 * Thread-safe, no locks of ours.
 */
#ifndef RVL_BASE_LOG_H
#define RVL_BASE_LOG_H

#include <stdbool.h>
#include <syslog.h>

enum rvl_log_target { RVL_LOG_STDERR, RVL_LOG_SYSLOG };

/* Set the target and the lowest priority that is shown (LOG_ERR … LOG_DEBUG); program prefixes
 * each line on stderr and must live for ever. */
void rvl_log_setup(const char *program, enum rvl_log_target target, int max_priority);
bool rvl_log_is_shown(int priority);
/* observer gets the text of each message that is shown, just before it is; NULL: nobody does. */
void rvl_log_observe(void (*observer)(int priority, const char *text));

void rvl_log(int priority, const char *format, ...) __attribute__((format(printf, 2, 3)));

#define rvl_error(...) rvl_log(LOG_ERR, __VA_ARGS__)
#define rvl_warn(...) rvl_log(LOG_WARNING, __VA_ARGS__)
#define rvl_info(...) rvl_log(LOG_INFO, __VA_ARGS__)
#define rvl_debug(...)                                   \
	do {                                             \
		if (rvl_log_is_shown(LOG_DEBUG))         \
			rvl_log(LOG_DEBUG, __VA_ARGS__); \
	} while (0)

/* At most one line per call site each ten seconds; what was left out is counted in the next.
 * For things that hostile input could repeat without end. */
#define rvl_warn_limited(...)                                \
	do {                                                 \
		static struct rvl_log_limit limit_;          \
		rvl_log_limited(&limit_, LOG_WARNING, __VA_ARGS__); \
	} while (0)

struct rvl_log_limit {
	_Atomic long last_s;
	_Atomic long n_left_out;
};
void rvl_log_limited(struct rvl_log_limit *limit, int priority, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

#endif
