// SPDX-License-Identifier: GPL-2.0-or-later
/* The model of one cell, see matrix.h. */
#include "matrix.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define BUNCH 64 /* the kernel reads all of a directory to connect one that is opened by handle */
#define DEEP "x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/"

static void init_names(struct cell *cell)
{
	static const enum place round[] = { IN_PARENT, IN_OTHER, IN_CELL };
	const struct kind *kind = cell->kind;

	cell->n_names = kind->n_names;
	for (unsigned i = 0; i < cell->n_names; i++) {
		cell->names[i].place = round[i % 3];
		snprintf(cell->names[i].leaf, sizeof(cell->names[i].leaf), i ? "link%u" : "obj", i);
	}
	if (kind->is_root_child) {
		cell->names[0].place = IN_ROOT;
		snprintf(cell->names[0].leaf, sizeof(cell->names[0].leaf), "r%u", cell->id);
	}
	if (kind->is_root) {
		cell->names[0].place = IN_ROOT;
		snprintf(cell->names[0].leaf, sizeof(cell->names[0].leaf), ".");
	}
}

void cell_init(struct cell *cell, unsigned id, const struct kind *kind, const struct event *const when[EVENTS_MAX],
	       struct world *world)
{
	*cell = (struct cell){ .id = id, .kind = kind, .world = world, .fd = -1 };
	memcpy(cell->events, when, sizeof(cell->events));
	snprintf(cell->ancestor, sizeof(cell->ancestor), "anc");
	snprintf(cell->parent, sizeof(cell->parent), "par");
	init_names(cell);
	cell->mode = S_ISDIR(kind->type) ? 0755 : 0644;
	cell->has_child = S_ISDIR(kind->type);
	snprintf(cell->content, sizeof(cell->content), "%s.%u", kind->name, id);
}

char *place_path(const struct cell *cell, enum place place, char *buf)
{
	switch (place) {
	case IN_ROOT:
		snprintf(buf, PATH_SIZE, ".");
		break;
	case IN_CELL:
		snprintf(buf, PATH_SIZE, "b%u/c%u", cell->id / BUNCH, cell->id);
		break;
	case IN_PARENT:
		snprintf(buf, PATH_SIZE, "b%u/c%u/%s/%s%s", cell->id / BUNCH, cell->id, cell->ancestor,
			 cell->kind->is_deep ? DEEP : "", cell->parent);
		break;
	case IN_OTHER:
		snprintf(buf, PATH_SIZE, "b%u/c%u/other", cell->id / BUNCH, cell->id);
		break;
	}
	return buf;
}

char *name_path(const struct cell *cell, const struct name *name, char *buf)
{
	char dir[PATH_SIZE];

	if (name->place == IN_ROOT)
		snprintf(buf, PATH_SIZE, "%s", name->leaf);
	else if (snprintf(buf, PATH_SIZE, "%s/%s", place_path(cell, name->place, dir), name->leaf) >= PATH_SIZE)
		buf[0] = '\0'; /* cannot be: all names are short */
	return buf;
}

bool cell_exists(const struct cell *cell)
{
	return cell->n_names || cell->is_open;
}

int cell_fail(struct cell *cell, const char *format, ...)
{
	va_list ap;

	if (cell->is_failed)
		return -1;
	cell->is_failed = true;
	va_start(ap, format);
	vsnprintf(cell->why, sizeof(cell->why), format, ap);
	va_end(ap);
	return -1;
}

void cell_close(struct cell *cell)
{
	if (cell->fd >= 0)
		close(cell->fd);
	cell->fd = -1;
	cell->is_open = false;
}
