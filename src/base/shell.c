// SPDX-License-Identifier: GPL-2.0-or-later
/* Arguments as a shell reads them. */
#include "base/shell.h"

#include <string.h>

/* What means itself wherever it stands in an argument; "~" and "#" do not at its start. */
static const char plain[] =
	"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_@%+=:,./-";

void rvl_shell_quote(FILE *to, const char *text)
{
	if (*text && !text[strspn(text, plain)]) {
		fputs(text, to);
		return;
	}
	putc('\'', to);
	for (; *text; text++) {
		if (*text == '\'')
			fputs("'\\''", to);
		else
			putc(*text, to);
	}
	putc('\'', to);
}
