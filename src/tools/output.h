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

/* Prints and releases. Returns 0 or -errno (logged): no memory, or stdout cannot be written. */
int rvl_output_print(json_t *root, bool is_json);

#endif
