// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Shared immutable strings: the count lies before the text, in one allocation. The count is
 * atomic because places are shared between the threads that serve requests; the text never changes.
 */
#include "base/refstr.h"

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

struct refstr {
	_Atomic unsigned refs;
	char text[];
};

static struct refstr *refstr_of(const char *text)
{
	return (struct refstr *)((uintptr_t)text - offsetof(struct refstr, text));
}

static struct refstr *refstr_alloc(size_t len)
{
	struct refstr *s = malloc(sizeof(*s) + len + 1);

	if (s)
		atomic_init(&s->refs, 1);
	return s;
}

const char *rvl_refstr_new(const char *text)
{
	size_t len = strlen(text);
	struct refstr *s = refstr_alloc(len);

	if (!s)
		return NULL;
	memcpy(s->text, text, len + 1);
	return s->text;
}

const char *rvl_refstr_join(const char *dir, const char *name)
{
	size_t dir_len = strlen(dir), name_len = strlen(name);
	struct refstr *s;

	if (dir_len == 0)
		return rvl_refstr_new(name);
	s = refstr_alloc(dir_len + 1 + name_len);
	if (!s)
		return NULL;
	memcpy(s->text, dir, dir_len);
	s->text[dir_len] = '/';
	memcpy(s->text + dir_len + 1, name, name_len + 1);
	return s->text;
}

const char *rvl_refstr_get(const char *refstr)
{
	atomic_fetch_add_explicit(&refstr_of(refstr)->refs, 1, memory_order_relaxed);
	return refstr;
}

void rvl_refstr_put(const char *refstr)
{
	struct refstr *s;

	if (!refstr)
		return;
	s = refstr_of(refstr);
	/* Release, then acquire by the last one: all uses of the text are before the free. */
	if (atomic_fetch_sub_explicit(&s->refs, 1, memory_order_acq_rel) == 1)
		free(s);
}
