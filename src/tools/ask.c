// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Questions, and the signals that end them. The signals are blocked but while it waits, so that none
 * comes between the look at the flag and the wait. Bytes are read one by one, and no stream is
 * used: what is typed ahead stays in the terminal.
 */
#include "tools/ask.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

_Atomic bool rvl_tools_stop;

static void on_signal(int signal)
{
	atomic_store_explicit(&rvl_tools_stop, true, memory_order_relaxed);
}

void rvl_tools_handle_signals(void)
{
	const struct sigaction action = { .sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND };

	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
}

/* 1: a byte; 0: the end. wait_mask: the signal mask while it waits, without our two. */
static int get_byte(const sigset_t *wait_mask, char *ret)
{
	struct pollfd in = { .fd = STDIN_FILENO, .events = POLLIN };
	ssize_t n;

	do {
		if (atomic_load_explicit(&rvl_tools_stop, memory_order_relaxed))
			return -ECANCELED;
		n = ppoll(&in, 1, NULL, wait_mask);
		if (n > 0)
			n = read(STDIN_FILENO, ret, 1);
	} while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : (int)n;
}

static int get_line(const sigset_t *wait_mask, char *answer, size_t size)
{
	size_t n = 0;
	char c;
	int r;

	while ((r = get_byte(wait_mask, &c)) > 0 && c != '\n')
		if (n < size - 1)
			answer[n++] = c;
	answer[n] = '\0';
	return r == 0 && n > 0 ? 1 : r;
}

int rvl_tools_ask(const char *question, char *answer, size_t size)
{
	sigset_t ours, before;
	int r;

	if (atomic_load_explicit(&rvl_tools_stop, memory_order_relaxed))
		return -ECANCELED;
	fputs(question, stdout);
	fflush(stdout);
	sigemptyset(&ours);
	sigaddset(&ours, SIGINT);
	sigaddset(&ours, SIGTERM);
	sigprocmask(SIG_BLOCK, &ours, &before);
	r = get_line(&before, answer, size);
	sigprocmask(SIG_SETMASK, &before, NULL);
	if (r <= 0) /* the next message is not to go on in this line */
		putchar('\n');
	fflush(stdout);
	return r;
}
