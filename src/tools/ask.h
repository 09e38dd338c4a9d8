/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Questions at a terminal, and the signals that end a command: SIGINT and SIGTERM ask it to end where
 * it can be gone on with; a second one of them ends it at once, as if there were no handler.
 */
#ifndef RVL_TOOLS_ASK_H
#define RVL_TOOLS_ASK_H

#include <stdbool.h>
#include <stddef.h>

/* Becomes true with the first signal, once they are handled. */
extern _Atomic bool rvl_tools_stop;
void rvl_tools_handle_signals(void);

/*
 * Shows a question and waits for a line of standard input, of which `size` - 1 bytes are kept, without
 * its end. 1: it is there; 0: end of the input; -ECANCELED: a signal has come, or came before; -errno.
 */
int rvl_tools_ask(const char *question, char *answer, size_t size);

#endif
