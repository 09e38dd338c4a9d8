/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Immutable strings that are shared: a directory's path is the same in most layers of a stack, so
 * its places point to one string. A refstr is a plain `const char *` whose count lies before it.
 */
#ifndef RVL_BASE_REFSTR_H
#define RVL_BASE_REFSTR_H

/* A new string with one reference, or NULL without memory. */
const char *rvl_refstr_new(const char *text);
/* dir + "/" + name, or name alone where dir is "". NULL without memory. */
const char *rvl_refstr_join(const char *dir, const char *name);
const char *rvl_refstr_get(const char *refstr);
/* Accepts NULL. */
void rvl_refstr_put(const char *refstr);

#endif
