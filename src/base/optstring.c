// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Splitting and escapes of mount options. Nothing here knows an option but the names that end in
 * "context", whose values are quoted.
 */
#include "base/optstring.h"

#include <stdbool.h>
#include <string.h>

/* context=, fscontext=, defcontext=, rootcontext= with a quoted value. */
static bool is_quoted_context(const char *option)
{
	static const char key[] = "context=\"";
	const size_t key_len = sizeof(key) - 1;
	const size_t name_len = strcspn(option, "=,\\");

	/* the key's end is the name's end and two characters more */
	return name_len + 2 >= key_len && !strncmp(option + name_len + 2 - key_len, key, key_len);
}

char *rvl_optstring_next(char **list)
{
	char *start = *list;
	char *p;

	if (!start)
		return NULL;
	p = start;
	if (is_quoted_context(start)) {
		/* An unpaired quote is left to the kernel, which refuses it. */
		char *close = strchr(strchr(start, '"') + 1, '"');

		p = close ? close + 1 : p;
	}
	for (; *p; p++) {
		if (*p == '\\') {
			if (!*++p)
				break;
		} else if (*p == ',') {
			*p = '\0';
			*list = p + 1;
			return start;
		}
	}
	*list = NULL;
	return start;
}

void rvl_optstring_unescape(char *text)
{
	char *from = text;
	char *to = text;

	for (;; from++, to++) {
		if (*from == '\\')
			from++;
		*to = *from;
		if (!*from)
			break;
	}
}

void rvl_optstring_escape(FILE *to, const char *text, const char *special)
{
	for (; *text; text++) {
		if (*text == '\\' || strchr(special, *text))
			putc('\\', to);
		putc(*text, to);
	}
}

char *rvl_optstring_next_layer(char **list, int *ret_is_data, const char **ret_error)
{
	char *start = *list;
	char *p = start;

	*ret_error = NULL;
	if (!start)
		return NULL;
	*ret_is_data = 0;
	if (*start == ':') {
		/* The caller's cut left the second colon of a "::". */
		*ret_is_data = 1;
		start = p = start + 1;
	}
	for (; *p && *p != ':'; p++)
		if (*p == '\\' && !*++p)
			break;
	if (p == start) {
		*ret_error = *p == ':' ? "more than two colons in a row" :
					 "an empty layer, or a colon at the end";
		return NULL;
	}
	*list = NULL;
	if (*p == ':') {
		*list = p + 1;
		*p = '\0';
	}
	rvl_optstring_unescape(start);
	return start;
}
