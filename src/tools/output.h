/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the commands print: one tree of JSON values, shown as JSON for programs or as indented lines
 * for people. Names and paths may hold any byte; JSON holds UTF-8 only: bytes that are none,
 * control characters and backslashes are written as \ooo in octal, as in /proc/mounts.
 */
#ifndef RVL_TOOLS_OUTPUT_H
#define RVL_TOOLS_OUTPUT_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/stat.h>

/*
 * New values; NULL only without memory (json_object_set_new then fails, and rvl_output_print says
 * so).
 */
json_t *rvl_output_string(const char *bytes, size_t len);
json_t *rvl_output_hex(const void *bytes, size_t len);
json_t *rvl_output_format(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* What kind of object a mode is of, in words. */
const char *rvl_output_type(mode_t mode);

/*
 * A command that fails says why in its JSON too: errors are kept from now on as they are logged, and
 * given back as one string, lines and all (NULL: there was none).
 */
void rvl_output_keep_errors(void);
json_t *rvl_output_errors(void);
/* Something of a JSON object is printed, so that no other is to follow. */
void rvl_output_begin(void);
/*
 * The object for what ended before it printed any: "error" and "exit", and an empty "problems" for
 * the commands that have it.
 */
void rvl_output_failure(int exit_code, bool has_problems);
/* All that was printed has arrived: 0, or -EIO, logged the first time. */
int rvl_output_flush(void);

/* Prints and releases. Returns 0 or -errno (logged): no memory, or stdout cannot be written. */
int rvl_output_print(json_t *root, bool is_json);

#endif
