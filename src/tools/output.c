// SPDX-License-Identifier: GPL-2.0-or-later
/* Values and the two ways to show them. */
#include "tools/output.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"

#define INDENT 2
#define KEY_WIDTH 14

/* high: bytes above 127 too. */
static json_t *escaped(const char *bytes, size_t len, bool high)
{
	_cleanup_free_ char *text = malloc(4 * len + 1);
	size_t n = 0;

	if (!text)
		return NULL;
	for (size_t i = 0; i < len; i++) {
		const unsigned char c = bytes[i];

		if (c < 0x20 || c == 0x7f || c == '\\' || (high && c >= 0x80))
			n += sprintf(text + n, "\\%03o", c);
		else
			text[n++] = c;
	}
	return json_stringn(text, n);
}

json_t *rvl_output_string(const char *bytes, size_t len)
{
	/* The first fails where the bytes are not UTF-8. */
	return escaped(bytes, len, false) ?: escaped(bytes, len, true);
}

json_t *rvl_output_hex(const void *bytes, size_t len)
{
	_cleanup_free_ char *text = malloc(2 * len + 1);
	const unsigned char *p = bytes;

	if (!text)
		return NULL;
	text[0] = '\0';
	for (size_t i = 0; i < len; i++)
		sprintf(text + 2 * i, "%02x", p[i]);
	return json_string(text);
}

json_t *rvl_output_format(const char *format, ...)
{
	_cleanup_free_ char *text = NULL;
	va_list args;
	int n;

	va_start(args, format);
	n = vasprintf(&text, format, args);
	va_end(args);
	if (n < 0) {
		text = NULL;
		return NULL;
	}
	return rvl_output_string(text, n);
}

/* ---- for people ---- */

static void print_value(const json_t *value)
{
	if (json_is_string(value))
		fputs(json_string_value(value), stdout);
	else if (json_is_integer(value))
		printf("%" JSON_INTEGER_FORMAT, json_integer_value(value));
	else
		fputs(json_is_true(value) ? "yes" : "no", stdout);
	putchar('\n');
}

/* The depth is that of the commands' own trees: two or three levels. */
static void print_lines(json_t *object, int depth)
{
	const char *key;
	json_t *value;

	json_object_foreach(object, key, value)
	{
		if (json_is_array(value)) {
			json_t *item;
			size_t i;

			json_array_foreach(value, i, item)
			{
				printf("%*s%-*s ", depth * INDENT, "", KEY_WIDTH - depth * INDENT,
				       i ? "" : key);
				print_value(item);
			}
			continue;
		}
		printf("%*s%-*s ", depth * INDENT, "", KEY_WIDTH - depth * INDENT, key);
		if (json_is_object(value)) {
			putchar('\n');
			print_lines(value, depth + 1);
		} else {
			print_value(value);
		}
	}
}

const char *rvl_output_type(mode_t mode)
{
	switch (mode & S_IFMT) {
	case S_IFREG:
		return "regular file";
	case S_IFDIR:
		return "directory";
	case S_IFLNK:
		return "symlink";
	case S_IFCHR:
		return "character device";
	case S_IFBLK:
		return "block device";
	case S_IFIFO:
		return "fifo";
	case S_IFSOCK:
		return "socket";
	default:
		return "unknown";
	}
}

/* ---- failures ---- */

#define ERRORS_MAX (1 << 14) /* bytes; what is more is on stderr alone */

static char errors[ERRORS_MAX];
static size_t errors_len;
static bool has_begun;

static void keep_error(int priority, const char *text)
{
	size_t len = strlen(text);

	if (priority > LOG_ERR || errors_len + len + 2 > sizeof(errors))
		return;
	if (errors_len)
		errors[errors_len++] = '\n';
	memcpy(errors + errors_len, text, len + 1);
	errors_len += len;
}

void rvl_output_keep_errors(void)
{
	rvl_log_observe(keep_error);
}

json_t *rvl_output_errors(void)
{
	if (!errors_len)
		return NULL;
	return json_stringn(errors, errors_len) ?: rvl_output_string(errors, errors_len);
}

void rvl_output_begin(void)
{
	has_begun = true;
}

void rvl_output_failure(int exit_code, bool has_problems)
{
	json_t *root;

	if (has_begun)
		return;
	root = json_object();
	if (has_problems)
		json_object_set_new(root, "problems", json_array());
	json_object_set_new(root, "error", rvl_output_errors() ?: json_string("wrong usage"));
	json_object_set_new(root, "exit", json_integer(exit_code));
	(void)rvl_output_print(root, true);
}

int rvl_output_flush(void)
{
	static bool is_told;

	if (fflush(stdout) == 0 && !ferror(stdout))
		return 0;
	if (!is_told)
		rvl_error("cannot write the output: %m");
	is_told = true;
	return -EIO;
}

int rvl_output_print(json_t *root, bool is_json)
{
	if (!root) {
		rvl_error("out of memory");
		return -ENOMEM;
	}
	if (is_json) {
		rvl_output_begin();
		json_dumpf(root, stdout, JSON_INDENT(2));
		putchar('\n');
	} else {
		print_lines(root, 0);
	}
	json_decref(root);
	return rvl_output_flush();
}
