/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Text of mount options: splitting and the escapes of the kernel's overlayfs
 * (fs/overlayfs/params.c: ovl_next_opt, ovl_unescape, ovl_parse_param_split_lowerdirs). A backslash
 * takes the special meaning from the next character: `\,` `\:` `\\`.
 */
#ifndef RVL_BASE_OPTSTRING_H
#define RVL_BASE_OPTSTRING_H

#include <stdio.h>

/*
 * The next option of a list, in place: cuts at the first comma that is neither escaped nor between
 * the quotes of a security context (context="system_u:object_r:tmp_t:s0:c1,c2", where a backslash
 * is nothing special). Escapes stay. *list becomes NULL after the last one; NULL when there is
 * none.
 */
char *rvl_optstring_next(char **list);

/* Takes the escapes away, in place. */
void rvl_optstring_unescape(char *text);

/*
 * Writes text so that the two functions above give it back; what is in `special` gets a backslash,
 * and the backslash.
 */
void rvl_optstring_escape(FILE *to, const char *text, const char *special);

/*
 * The next layer of lowerdir=, in place and unescaped. *list as above. *ret_is_data: it came after
 * "::". Returns NULL at the end, and where the list is malformed: then *ret_error says what is
 * wrong with it (else NULL).
 */
char *rvl_optstring_next_layer(char **list, int *ret_is_data, const char **ret_error);

#endif
