// SPDX-License-Identifier: GPL-2.0-or-later
/* What is known of who lists directories, see lister.h. */
#include "server/lister.h"

#include <stdatomic.h>

#include "overlay/overlay.h"

#define N_LISTERS 64 /* threads that are known at a time */
#define ENOUGH 2 /* look-ups, if they are half of the names that were listed without attributes */
#define BELIEF 3 /* directories whose names he may then leave alone */

/* Written by any thread; what is torn is one more wrong guess. */
static struct lister {
	_Atomic pid_t asker;
	_Atomic unsigned belief; /* that he looks at what he lists; 0: he does not */
	_Atomic uint64_t directory; /* the last in which names had no attributes; 0: none */
	_Atomic unsigned n_without, n_looked_up; /* names of it */
} listers[N_LISTERS];

static struct lister *lister_of(pid_t asker)
{
	return &listers[(unsigned)asker % N_LISTERS];
}

static bool looks(const struct lister *lister)
{
	return lister->n_looked_up >= ENOUGH && lister->n_looked_up >= lister->n_without / 2;
}

bool rvl_lister_wants_attr(pid_t asker, uint64_t offset)
{
	const struct lister *lister = lister_of(asker);

	/* The first part has them always: most directories have no other. */
	return offset <= RVL_OFFSET_DOTS || (lister->asker == asker && lister->belief > 0);
}

void rvl_lister_has_listed(pid_t asker, uint64_t directory, uint64_t offset, unsigned n_without)
{
	struct lister *lister = lister_of(asker);

	if (lister->asker != asker) {
		lister->asker = asker;
		lister->belief = 0;
		lister->directory = 0;
	}
	/* a directory that gives all attributes tells nothing: the one before still may */
	if (lister->directory == directory ? offset <= RVL_OFFSET_DOTS : n_without > 0) {
		if (lister->directory && lister->belief > 0 && !looks(lister))
			lister->belief--;
		lister->directory = directory;
		lister->n_without = lister->n_looked_up = 0;
	}
	lister->n_without += n_without;
}

void rvl_lister_looks_up(pid_t asker, uint64_t directory)
{
	struct lister *lister = lister_of(asker);

	if (lister->directory != directory || lister->asker != asker)
		return;
	lister->n_looked_up++;
	if (lister->belief < BELIEF && looks(lister))
		lister->belief = BELIEF;
}
