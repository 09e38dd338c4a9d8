// SPDX-License-Identifier: GPL-2.0-or-later
/* What is known of who lists directories, see lister.h. */
#include "server/lister.h"

#include <stdatomic.h>

#define OFFSET_DOTS 2 /* the last of what each listing begins with */
#define N_LISTERS 64 /* threads that are known at a time */
#define ENOUGH 16 /* look-ups of names that were listed without attributes: he looks at them */
#define CREDIT 64 /* so many directories have attributes then, till it is tried anew */

/* Written by any thread; what is torn is one more wrong guess. */
static struct lister {
	_Atomic pid_t asker;
	_Atomic uint64_t directory; /* the last that he listed beyond its first part */
	_Atomic bool with_attr; /* there */
	_Atomic int n_looked_up; /* there, without */
	_Atomic int credit; /* directories */
} listers[N_LISTERS];

static struct lister *lister_of(pid_t asker)
{
	return &listers[(unsigned)asker % N_LISTERS];
}

bool rvl_lister_wants_attr(pid_t asker, uint64_t directory, uint64_t offset)
{
	struct lister *lister = lister_of(asker);

	/* The first part has them always: most directories have no other. */
	if (offset <= OFFSET_DOTS)
		return true;
	if (lister->asker != asker) {
		lister->asker = asker;
		lister->directory = 0;
		lister->credit = 0;
	}
	if (lister->directory != directory) {
		lister->directory = directory;
		lister->with_attr = lister->credit > 0;
		lister->n_looked_up = 0;
		if (lister->with_attr)
			lister->credit--;
	}
	return lister->with_attr;
}

void rvl_lister_looks_up(pid_t asker, uint64_t directory)
{
	struct lister *lister = lister_of(asker);

	if (lister->directory != directory || lister->asker != asker || lister->with_attr)
		return;
	if (++lister->n_looked_up >= ENOUGH) {
		lister->credit = CREDIT;
		lister->with_attr = true;
	}
}
