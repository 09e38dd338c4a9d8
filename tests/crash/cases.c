// SPDX-License-Identifier: GPL-2.0-or-later
/* Each changing operation on each kind of object. What the names are is said in world.c. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "crash.h"

static struct test_case *cases;
static size_t n_cases;

static const char *const files[] = { "lf",  "lh1",    "bf",	  "bh1",       "cu",	 "ch1",
				     "ch2", "ldir/x", "mdir/lf2", "mdir/deep", "bdir/f", "opq/f",
				     "a",   "ar",     "as" };
static const char *const specials[] = { "lfifo", "lchr", "lsym", "bfifo", "bchr", "bsym", "bwht" };
static const char *const dirs[] = { "ldir", "lempty", "mdir", "memp",
				    "bdir", "bempty", "opq",  "oemp" };
static const char *const empty_dirs[] = { "lempty", "memp", "bempty", "oemp" };
static const char *const free_names[] = { "new",      "ldir/new", "mdir/new", "bdir/new",
					  "opq/gone", "white",	  "whdir",    "oemp/w" };
#define N(list) (sizeof(list) / sizeof((list)[0]))

/* steps: a format with up to two names in it. */
static void __attribute__((format(printf, 2, 3)))
add(const char *operation, const char *format, ...)
{
	struct test_case *c;
	va_list args;

	if ((n_cases & (n_cases - 1)) == 0)
		cases = reallocarray(cases, n_cases ? 2 * n_cases : 1, sizeof(*cases));
	if (!cases)
		die("no memory");
	c = &cases[n_cases++];
	va_start(args, format);
	vsnprintf(c->steps, sizeof(c->steps), format, args);
	va_end(args);
	snprintf(c->operation, sizeof(c->operation), "%s", operation);
	snprintf(c->name, sizeof(c->name), "%.90s", c->steps);
}

static void add_creates(void)
{
	static const char *const kinds[] = { "create", "mkdir", "mkfifo", "mksock",
					     "mkchr",  "mkblk", "mkwht" };
	static const char *const linked[] = { "lf",   "lh1",   "bf",   "cu", "ch2",
					      "lsym", "lfifo", "bwht", "a",  "ar" };

	for (unsigned i = 0; i < N(free_names); i++) {
		for (unsigned k = 0; k < N(kinds); k++)
			add(kinds[k], "%s %s", kinds[k], free_names[i]);
		add("symlink", "symlink %s target", free_names[i]);
		add("create, write", "create %s; write %s", free_names[i], free_names[i]);
		for (unsigned k = 0; k < N(linked); k++)
			add("link", "link %s %s", linked[k], free_names[i]);
		add("O_TMPFILE, link", "tmpfile ldir; writefd; linkfd %s; closefd", free_names[i]);
	}
	add("create below ACL", "dacl bdir; mksuid bdir/new");
	add("create below ACL", "dacl bdir; mkdir bdir/new");
	add("O_TMPFILE", "tmpfile .; writefd; closefd");
	add("O_TMPFILE", "tmpfile opq; closefd");
}

static void add_removes(void)
{
	for (unsigned i = 0; i < N(files); i++) {
		add("unlink", "unlink %s", files[i]);
		add("unlink while open", "open %s; unlink %s; writefd; closefd", files[i],
		    files[i]);
	}
	for (unsigned i = 0; i < N(specials); i++)
		add("unlink", "unlink %s", specials[i]);
	for (unsigned i = 0; i < N(empty_dirs); i++) {
		add("rmdir", "rmdir %s", empty_dirs[i]);
		add("rmdir, mkdir", "rmdir %s; mkdir %s", empty_dirs[i], empty_dirs[i]);
	}
	add("unlink all links", "unlink lh1; unlink lh2; unlink lhs/a");
	add("unlink all links", "unlink ch1; unlink ch2; unlink chs");
	add("unlink all links", "unlink bh1; unlink bh2");
	add("unlink, create", "unlink lf; create lf; write lf; unlink lf");
	add("unlink, create", "unlink ldir/x; mkdir ldir/x");
}

static void add_renames(void)
{
	static const char *const file_targets[] = { "new",   "ldir/new", "mdir/new", "bdir/new",
						    "white", "opq/gone", "bf2",	     "lf0",
						    "lh2",   "ch2",	 "bh2",	     "ldir2/x" };
	static const char *const dir_targets[] = { "new",   "ldir2/new", "mdir/new", "white",
						   "whdir", "bempty2",	 "lempty2",  "memp2" };
	static const char *const pairs[][2] = {
		{ "lf", "bf" },		  { "lf", "lf0" },     { "lf", "ldir" },
		{ "ldir", "mdir" },	  { "bdir", "ldir" },  { "bdir", "bempty" },
		{ "lh1", "bf" },	  { "lh1", "ldir/x" }, { "ch2", "bf" },
		{ "ch2", "lh1" },	  { "lsym", "bdir" },  { "cu", "bf" },
		{ "mdir/lf2", "ldir/x" }, { "opq", "mdir" },   { "opq", "bdir" },
		{ "lfifo", "bchr" },	  { "bwht", "lf" },    { "ldir/sub", "mdir/sub" },
	};

	for (unsigned t = 0; t < N(file_targets); t++) {
		for (unsigned i = 0; i < N(files); i++)
			add("rename", "rename %s %s", files[i], file_targets[t]);
		for (unsigned i = 0; i < N(specials); i++)
			add("rename", "rename %s %s", specials[i], file_targets[t]);
	}
	for (unsigned t = 0; t < N(dir_targets); t++)
		for (unsigned i = 0; i < N(dirs); i++)
			if (strncmp(dirs[i], dir_targets[t], strlen(dirs[i])) != 0)
				add("rename directory", "rename %s %s", dirs[i], dir_targets[t]);
	for (unsigned i = 0; i < N(pairs); i++)
		add("exchange", "exchange %s %s", pairs[i][0], pairs[i][1]);
	for (unsigned i = 0; i < N(files); i++) {
		add("rename to whiteout", "renwht %s new", files[i]);
		add("rename to whiteout", "renwht %s bf2", files[i]);
	}
	for (unsigned i = 0; i < N(dirs); i++)
		add("rename to whiteout", "renwht %s new", dirs[i]);
	add("rename, rename", "rename ldir new; rename new bdir/sub2; rename bdir new");
	add("rename, rename",
	    "rename lf ldir/new; rename ldir bdir/moved2; unlink bdir/moved2/new");
	add("rename while open", "open lf0; rename lf lf0; writefd; closefd");
	add("rename while open", "open bf2; rename bh1 bf2; writefd; closefd");
	add("rename while open", "open ch2; rename bf ch2; writefd; closefd");
}

static void add_data(void)
{
	for (unsigned i = 0; i < N(files); i++) {
		add("write", "write %s", files[i]);
		add("open for writing", "openwrite %s", files[i]);
		add("open with O_TRUNC", "opentrunc %s", files[i]);
		add("truncate", "truncate %s 100", files[i]);
		add("truncate", "truncate %s 9000", files[i]);
		add("fallocate", "falloc %s", files[i]);
		add("fallocate", "punch %s", files[i]);
		add("copy_file_range", "copyrange %s lf0", files[i]);
	}
	add("write all links", "write lh1; write lh2; write lhs/a");
	add("write, unlink", "write lh1; unlink lh1; unlink lh2");
}

static void add_attributes(void)
{
	static const char *const on_files[] = { "chmod",      "chown", "utimes", "setxattr",
						"settrusted", "acl",   "flags" };
	static const char *const on_dirs[] = { "chmod",	     "chown", "utimes", "setxattr",
					       "settrusted", "acl",   "dacl",	"flags" };
	static const char *const on_specials[] = { "chmod", "chown", "utimes", "settrusted" };

	for (unsigned o = 0; o < N(on_files); o++)
		for (unsigned i = 0; i < N(files); i++)
			add(on_files[o], "%s %s", on_files[o], files[i]);
	for (unsigned o = 0; o < N(on_dirs); o++)
		for (unsigned i = 0; i < N(dirs); i++)
			add(on_dirs[o], "%s %s", on_dirs[o], dirs[i]);
	for (unsigned o = 0; o < N(on_specials); o++)
		for (unsigned i = 0; i < N(specials); i++)
			if (o > 0 || !strstr(specials[i], "sym"))
				add(on_specials[o], "%s %s", on_specials[o], specials[i]);
	add("removexattr", "rmxattr lf");
	add("removexattr", "rmxattr ldir");
	add("chmod of the root", "chmod .");
	add("setxattr of the root", "setxattr .");
}

const struct test_case *cases_all(size_t *ret_n)
{
	if (!cases) {
		add_creates();
		add_removes();
		add_renames();
		add_data();
		add_attributes();
	}
	*ret_n = n_cases;
	return cases;
}
