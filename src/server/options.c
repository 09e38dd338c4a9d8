// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The table of mount options and its interpreter. An option is a row: its name, what kind of value
 * it takes and where that goes. Only the layers' lists need code of their own.
 */
#include "server/options.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/optstring.h"

#define NODE_LIMIT_MIN 64
#define NODE_LIMIT_MAX (1U << 30)
#define POLL_US 30 /* the default: a caller that goes on at once comes back within that time */
#define POLL_MAX_US 10000

enum kind {
	KIND_LOWER, /* lowerdir=: the list anew */
	KIND_LOWER_ADD, /* lowerdir+= */
	KIND_DATA_ADD, /* datadir+= */
	KIND_PATH, /* char *: not empty */
	KIND_STRING, /* char * */
	KIND_TRUE, /* bool: no value */
	KIND_WORD, /* one of the words; int or enum */
	KIND_BOOL, /* one of the words; bool */
	KIND_NUMBER, /* unsigned */
	KIND_SET, /* MS_* flag on */
	KIND_CLEAR, /* MS_* flag off */
	KIND_CONTEXT, /* as given, to the kernel */
	KIND_IGNORE, /* of mount(8) and its helpers */
	KIND_FROM_KERNEL, /* comes with a remount from /proc/mounts */
	KIND_REFUSE, /* known, and not to be had; the reason is in `words` */
};

struct word {
	const char *text;
	int value;
	const char *refused; /* why it is not to be had */
};

/* clang-format off */
#define W(text, value) { text, value, NULL }
static const struct word on_off[] = { W("on", 1), W("off", 0), {} };
static const struct word xino_words[] = { W("on", 2), W("auto", 1), W("off", 0), {} };
static const struct word uuid_words[] = { W("on", 3), W("auto", 2), W("null", 1), W("off", 0), {} };
static const struct word redirect_words[] = {
	W("on", RVL_REDIRECT_ON),
	W("follow", RVL_REDIRECT_FOLLOW),
	W("nofollow", RVL_REDIRECT_NOFOLLOW),
	W("off", RVL_REDIRECT_OFF),
	{},
};
static const struct word sync_words[] = {
	W("auto", RVL_SYNC_AUTO),
	W("strict", RVL_SYNC_STRICT),
	W("volatile", RVL_SYNC_VOLATILE),
	W("1", RVL_SYNC_AUTO),
	W("0", RVL_SYNC_VOLATILE),
	{},
};
static const struct word rebind_words[] = { W("off", 0), W("auto", 1), {} };
static const struct word awake_words[] = {
	W("auto", RVL_AWAKE_AUTO), W("on", RVL_AWAKE_ON), W("off", RVL_AWAKE_OFF), {}
};
static const struct word copy_up_words[] = { W("open", 0), W("write", 1), {} };
static const struct word verity_words[] = {
	W("off", 0),
	{ "on", 0, "fs-verity digests are not checked" },
	{ "require", 0, "fs-verity digests are not checked" },
	{},
};
static const struct word no_override_creds[] = {
	W("layers are always accessed with the rights of the server", 0), {}
};
static const struct word node_limit_range[] = { W("", NODE_LIMIT_MIN), W("", NODE_LIMIT_MAX) };
static const struct word poll_range[] = { W("", 0), W("", POLL_MAX_US) };
#undef W
/* clang-format on */

struct spec {
	const char *name;
	enum kind kind;
	size_t offset;
	unsigned long flag; /* MS_*; for the others: shown by rvl_options_format */
	const struct word *words; /* of a number: its least and its greatest value */
};

#define AT(field) offsetof(struct rvl_options, field)
#define SHOWN 1

/* clang-format off */
static const struct spec specs[] = {
	/* name, kind, where, flag, words */
	{ "lowerdir", KIND_LOWER, AT(lower), SHOWN, NULL },
	{ "lowerdir+", KIND_LOWER_ADD, AT(lower), 0, NULL },
	{ "datadir+", KIND_DATA_ADD, AT(lower), 0, NULL },
	{ "upperdir", KIND_PATH, AT(upper), SHOWN, NULL },
	{ "workdir", KIND_PATH, AT(work), SHOWN, NULL },
	{ "redirect_dir", KIND_WORD, AT(redirect), SHOWN, redirect_words },
	{ "index", KIND_BOOL, AT(has_index), SHOWN, on_off },
	{ "nfs_export", KIND_BOOL, AT(has_nfs_export), SHOWN, on_off },
	{ "xino", KIND_WORD, AT(xino), SHOWN, xino_words },
	{ "uuid", KIND_WORD, AT(uuid), SHOWN, uuid_words },
	{ "metacopy", KIND_BOOL, AT(has_metacopy), SHOWN, on_off },
	{ "userxattr", KIND_TRUE, AT(is_userxattr), SHOWN, NULL },
	{ "volatile", KIND_TRUE, AT(is_volatile), SHOWN, NULL },
	{ "fsync", KIND_WORD, AT(sync), SHOWN, sync_words },
	{ "rebind", KIND_BOOL, AT(is_rebind_auto), SHOWN, rebind_words },
	{ "copy_up", KIND_BOOL, AT(is_copy_up_late), SHOWN, copy_up_words },
	{ "io_uring", KIND_BOOL, AT(has_io_uring), SHOWN, on_off },
	{ "passthrough", KIND_BOOL, AT(has_passthrough), SHOWN, on_off },
	{ "node_limit", KIND_NUMBER, AT(node_limit), SHOWN, node_limit_range },
	{ "poll", KIND_NUMBER, AT(poll_us), SHOWN, poll_range },
	{ "awake", KIND_WORD, AT(awake), SHOWN, awake_words },
	{ "default_permissions", KIND_TRUE, AT(has_default_permissions), 0, NULL },
	{ "verity", KIND_WORD, 0, 0, verity_words },
	{ "override_creds", KIND_IGNORE, 0, 0, NULL },
	{ "nooverride_creds", KIND_REFUSE, 0, 0, no_override_creds },

	{ "allow_other", KIND_TRUE, AT(is_allow_other), 0, NULL },
	{ "allow_root", KIND_TRUE, AT(is_allow_root), 0, NULL },
	{ "fsname", KIND_STRING, AT(fsname), 0, NULL },
	{ "subtype", KIND_STRING, AT(subtype), 0, NULL },
	{ "debug", KIND_TRUE, AT(is_debug), 0, NULL },
	{ "remount", KIND_TRUE, AT(is_remount), 0, NULL },

	{ "ro", KIND_SET, 0, MS_RDONLY, NULL },
	{ "rw", KIND_CLEAR, 0, MS_RDONLY, NULL },
	{ "nosuid", KIND_SET, 0, MS_NOSUID, NULL },
	{ "suid", KIND_CLEAR, 0, MS_NOSUID, NULL },
	{ "nodev", KIND_SET, 0, MS_NODEV, NULL },
	{ "dev", KIND_CLEAR, 0, MS_NODEV, NULL },
	{ "noexec", KIND_SET, 0, MS_NOEXEC, NULL },
	{ "exec", KIND_CLEAR, 0, MS_NOEXEC, NULL },
	{ "sync", KIND_SET, 0, MS_SYNCHRONOUS, NULL },
	{ "async", KIND_CLEAR, 0, MS_SYNCHRONOUS, NULL },
	{ "dirsync", KIND_SET, 0, MS_DIRSYNC, NULL },
	{ "noatime", KIND_SET, 0, MS_NOATIME, NULL },
	{ "atime", KIND_CLEAR, 0, MS_NOATIME, NULL },
	{ "nodiratime", KIND_SET, 0, MS_NODIRATIME, NULL },
	{ "diratime", KIND_CLEAR, 0, MS_NODIRATIME, NULL },
	{ "relatime", KIND_SET, 0, MS_RELATIME, NULL },
	{ "norelatime", KIND_CLEAR, 0, MS_RELATIME, NULL },
	{ "strictatime", KIND_SET, 0, MS_STRICTATIME, NULL },
	{ "nostrictatime", KIND_CLEAR, 0, MS_STRICTATIME, NULL },
	{ "nosymfollow", KIND_SET, 0, MS_NOSYMFOLLOW, NULL },
	{ "symfollow", KIND_CLEAR, 0, MS_NOSYMFOLLOW, NULL },

	{ "context", KIND_CONTEXT, 0, 0, NULL },
	{ "fscontext", KIND_CONTEXT, 0, 0, NULL },
	{ "defcontext", KIND_CONTEXT, 0, 0, NULL },
	{ "rootcontext", KIND_CONTEXT, 0, 0, NULL },

	{ "user_id", KIND_FROM_KERNEL, 0, 0, NULL },
	{ "group_id", KIND_FROM_KERNEL, 0, 0, NULL },
	{ "rootmode", KIND_FROM_KERNEL, 0, 0, NULL },
	{ "max_read", KIND_FROM_KERNEL, 0, 0, NULL },
	{ "seclabel", KIND_FROM_KERNEL, 0, 0, NULL },
};
/* clang-format on */
#define N_SPECS (sizeof(specs) / sizeof(specs[0]))
static_assert(N_SPECS <= 64, "given is a set of 64 bits");

/* What mount(8), fstab(5) and systemd.mount(5) keep for themselves, with or without a value. */
static const char *const ignored[] = {
	"defaults", "auto",	  "noauto",   "nofail",	    "_netdev", "user",
	"nouser",   "users",	  "nousers",  "owner",	    "noowner", "group",
	"nogroup",  "comment",	  "uhelper",  "helper",	    "silent",  "loud",
	"lazytime", "nolazytime", "iversion", "noiversion", "mand",    "nomand",
};

/* ---- lists of strings ---- */

/* A copy is added to the end. -ENOMEM. */
static int strings_add(struct rvl_strings *strings, const char *text)
{
	char **items = reallocarray(strings->items, strings->n + 1, sizeof(*items));

	if (!items)
		return -ENOMEM;
	strings->items = items;
	items[strings->n] = strdup(text);
	if (!items[strings->n])
		return -ENOMEM;
	strings->n++;
	return 0;
}

static void strings_release(struct rvl_strings *strings)
{
	for (unsigned i = 0; i < strings->n; i++)
		free(strings->items[i]);
	free(strings->items);
	*strings = (struct rvl_strings){};
}

/* ---- one option ---- */

static void *field_of(struct rvl_options *options, const struct spec *spec)
{
	return (char *)options + spec->offset;
}

static int refuse(const char *name, const char *why)
{
	rvl_error("option %s: %s", name, why);
	return -EINVAL;
}

static int add_layer(struct rvl_options *options, const char *name, const char *path, bool is_data)
{
	int r;

	if (!*path)
		return refuse(name, "the path is empty");
	if (!is_data && options->n_data > 0)
		return refuse(name, "a lower layer cannot follow a data-only one (after \"::\")");
	if (is_data && options->lower.n == 0)
		return refuse(name, "a data-only layer needs a lower layer before it");
	if (options->lower.n >= RVL_LAYERS_MAX) {
		rvl_error("option %s: more than %d layers", name, RVL_LAYERS_MAX);
		return -EINVAL;
	}
	r = strings_add(&options->lower, path);
	if (r == 0 && is_data)
		options->n_data++;
	return r;
}

/* value is modified. */
static int set_lower(struct rvl_options *options, char *value)
{
	const char *error;
	char *path;
	int is_data;

	strings_release(&options->lower);
	options->n_data = 0;
	if (!*value)
		return 0;
	if (*value == ':')
		return refuse("lowerdir", "a colon at the start");
	while ((path = rvl_optstring_next_layer(&value, &is_data, &error))) {
		int r = add_layer(options, "lowerdir", path, is_data);

		if (r < 0)
			return r;
	}
	return error ? refuse("lowerdir", error) : 0;
}

static int set_string(char **field, const char *value)
{
	char *copy = strdup(value);

	if (!copy)
		return -ENOMEM;
	free(*field);
	*field = copy;
	return 0;
}

static int set_word(struct rvl_options *options, const struct spec *spec, const char *value)
{
	char list[128] = "";

	for (const struct word *w = spec->words; w->text; w++) {
		if (!strcmp(w->text, value)) {
			if (w->refused) {
				rvl_error("option %s=%s: %s", spec->name, value, w->refused);
				return -EINVAL;
			}
			if (spec->kind == KIND_BOOL)
				*(bool *)field_of(options, spec) = w->value;
			else if (spec->offset)
				*(int *)field_of(options, spec) = w->value;
			return 0;
		}
		snprintf(list + strlen(list), sizeof(list) - strlen(list), "%s%s",
			 *list ? ", " : "", w->text);
	}
	rvl_error("option %s=%s: the value is not one of: %s", spec->name, value, list);
	return -EINVAL;
}

static int set_number(struct rvl_options *options, const struct spec *spec, const char *value)
{
	const unsigned min = spec->words[0].value, max = spec->words[1].value;
	char *end;
	unsigned long n;

	errno = 0;
	n = strtoul(value, &end, 10);
	if (errno || *value < '0' || *value > '9' || *end || n < min || n > max) {
		rvl_error("option %s=%s: not a number from %u to %u", spec->name, value, min, max);
		return -EINVAL;
	}
	*(unsigned *)field_of(options, spec) = n;
	return 0;
}

static int set_flag(struct rvl_options *options, const struct spec *spec)
{
	if (spec->kind == KIND_SET)
		options->flags |= spec->flag;
	else
		options->flags &= ~spec->flag;
	options->flags_set |= spec->flag;
	return 0;
}

static bool takes_value(enum kind kind)
{
	switch (kind) {
	case KIND_TRUE:
	case KIND_SET:
	case KIND_CLEAR:
	case KIND_IGNORE:
	case KIND_REFUSE:
		return false;
	default:
		return true;
	}
}

/* text: the whole option, as given; value: what is after the "=", unescaped, or NULL. */
static int apply(struct rvl_options *options, const struct spec *spec, const char *text,
		 char *value)
{
	if (spec->kind == KIND_FROM_KERNEL && options->is_remount)
		return 0;
	if (spec->kind == KIND_FROM_KERNEL)
		return refuse(spec->name, "not an option of reverlay");
	if (value && !takes_value(spec->kind))
		return refuse(spec->name, "takes no value");
	if (!value && takes_value(spec->kind))
		return refuse(spec->name, "needs a value");

	switch (spec->kind) {
	case KIND_LOWER:
		return set_lower(options, value);
	case KIND_LOWER_ADD:
	case KIND_DATA_ADD:
		rvl_optstring_unescape(value);
		return add_layer(options, spec->name, value, spec->kind == KIND_DATA_ADD);
	case KIND_PATH:
		if (!*value)
			return refuse(spec->name, "the path is empty");
		__attribute__((fallthrough));
	case KIND_STRING:
		rvl_optstring_unescape(value);
		return set_string(field_of(options, spec), value);
	case KIND_TRUE:
		*(bool *)field_of(options, spec) = true;
		return 0;
	case KIND_WORD:
	case KIND_BOOL:
		return set_word(options, spec, value);
	case KIND_NUMBER:
		return set_number(options, spec, value);
	case KIND_SET:
	case KIND_CLEAR:
		return set_flag(options, spec);
	case KIND_CONTEXT:
		return strings_add(&options->contexts, text);
	case KIND_REFUSE:
		return refuse(spec->name, spec->words->text);
	case KIND_IGNORE:
	case KIND_FROM_KERNEL:
		break;
	}
	return 0;
}

static bool is_ignored(const char *name)
{
	if ((*name == 'x' || *name == 'X') && name[1] == '-')
		return true;
	for (size_t i = 0; i < sizeof(ignored) / sizeof(ignored[0]); i++)
		if (!strcmp(ignored[i], name))
			return true;
	return false;
}

/* option is modified. */
static int parse_one(struct rvl_options *options, char *option)
{
	_cleanup_free_ char *text = strdup(option);
	char *value = strchr(option, '=');

	if (!text)
		return -ENOMEM;
	if (value)
		*value++ = '\0';
	for (size_t i = 0; i < N_SPECS; i++) {
		if (strcmp(specs[i].name, option))
			continue;
		options->given |= 1ULL << i;
		return apply(options, &specs[i], text, value);
	}
	if (is_ignored(option) || options->is_sloppy)
		return 0;
	rvl_error("option %s: unknown; see reverlay(8)", option);
	return -EINVAL;
}

/* ---- public ---- */

void rvl_options_init(struct rvl_options *options, bool is_root)
{
	*options = (struct rvl_options){
		.redirect = RVL_REDIRECT_ON,
		.sync = RVL_SYNC_AUTO,
		.has_metacopy = true,
		.has_index = true,
		.has_io_uring = true,
		.poll_us = POLL_US,
		.awake = RVL_AWAKE_AUTO,
		.has_passthrough = true,
		.xino = 2,
		.uuid = 2,
		.flags = is_root ? 0 : MS_NOSUID | MS_NODEV,
		.is_allow_other = is_root,
	};
}

void rvl_options_release(struct rvl_options *options)
{
	strings_release(&options->lower);
	strings_release(&options->contexts);
	free(options->upper);
	free(options->work);
	free(options->fsname);
	free(options->subtype);
	*options = (struct rvl_options){};
}

int rvl_options_parse(struct rvl_options *options, const char *text)
{
	_cleanup_free_ char *copy = strdup(text);
	char *rest = copy;
	char *option;

	if (!copy)
		return -ENOMEM;
	while ((option = rvl_optstring_next(&rest))) {
		int r = *option ? parse_one(options, option) : 0;

		if (r < 0)
			return r;
	}
	return 0;
}

static bool is_given(const struct rvl_options *options, const char *name)
{
	for (size_t i = 0; i < N_SPECS; i++)
		if (!strcmp(specs[i].name, name))
			return options->given & (1ULL << i);
	return false;
}

int rvl_options_check(struct rvl_options *options)
{
	if (options->lower.n == 0)
		return refuse("lowerdir",
			      "missing; an overlay needs a lower layer: -o lowerdir=DIR");
	if (options->lower.n == options->n_data)
		return refuse("lowerdir", "no lower layer before the data-only ones");
	if (options->upper && !options->work)
		return refuse("upperdir",
			      "needs workdir=DIR, an empty directory on the same filesystem");
	if (options->has_nfs_export && !options->has_index)
		return refuse("nfs_export=on", "contradicts index=off");
	if (options->is_volatile && is_given(options, "fsync") &&
	    options->sync != RVL_SYNC_VOLATILE)
		return refuse("volatile", "contradicts fsync=");
	if (options->is_allow_root && is_given(options, "allow_other"))
		return refuse("allow_root", "contradicts allow_other");
	if (options->is_volatile)
		options->sync = RVL_SYNC_VOLATILE;
	if (options->is_allow_root)
		options->is_allow_other = false;
	/*
	 * As in the kernel: redirects that any user could write are followed only if that is asked
	 * for.
	 */
	if (options->is_userxattr && !is_given(options, "redirect_dir"))
		options->redirect = RVL_REDIRECT_NOFOLLOW;
	if (options->upper && options->has_metacopy && is_given(options, "metacopy")) {
		if (options->is_userxattr)
			return refuse("metacopy=on", "contradicts userxattr");
		if (options->redirect != RVL_REDIRECT_ON)
			return refuse("metacopy=on", "needs redirect_dir=on");
	}
	if (options->is_userxattr || options->redirect != RVL_REDIRECT_ON)
		options->has_metacopy = false;
	return 0;
}

/* ---- showing ---- */

static void put_path(FILE *to, const char *path, const char *special)
{
	_cleanup_free_ char *absolute = realpath(path, NULL);

	rvl_optstring_escape(to, absolute ?: path, special);
}

static void put_lower(FILE *to, const struct rvl_options *options)
{
	const unsigned first_data = options->lower.n - options->n_data;

	fputs("lowerdir=", to);
	for (unsigned i = 0; i < options->lower.n; i++) {
		if (i > 0)
			fputs(i >= first_data ? "::" : ":", to);
		put_path(to, options->lower.items[i], ",:");
	}
	putc('\0', to);
}

static void put_word(FILE *to, const struct spec *spec, int value)
{
	for (const struct word *w = spec->words; w->text; w++) {
		if (w->value == value) {
			fprintf(to, "%s=%s%c", spec->name, w->text, '\0');
			return;
		}
	}
}

static void put_option(FILE *to, const struct rvl_options *options, const struct spec *spec)
{
	const void *field = (const char *)options + spec->offset;

	switch (spec->kind) {
	case KIND_LOWER:
		put_lower(to, options);
		break;
	case KIND_PATH:
		if (*(char *const *)field) {
			fprintf(to, "%s=", spec->name);
			put_path(to, *(char *const *)field, ",");
			putc('\0', to);
		}
		break;
	case KIND_TRUE:
		if (*(const bool *)field)
			fprintf(to, "%s%c", spec->name, '\0');
		break;
	case KIND_WORD:
		put_word(to, spec, *(const int *)field);
		break;
	case KIND_BOOL:
		put_word(to, spec, *(const bool *)field);
		break;
	case KIND_NUMBER:
		/* below the least value: the default, which another part knows */
		if (*(const unsigned *)field >= (unsigned)spec->words[0].value)
			fprintf(to, "%s=%u%c", spec->name, *(const unsigned *)field, '\0');
		break;
	default:
		break;
	}
}

int rvl_options_format(const struct rvl_options *options, bool is_given_only, char **ret,
		       size_t *ret_len)
{
	/* lowerdir+ and datadir+ are shown as lowerdir */
	const bool has_lower = is_given(options, "lowerdir") || is_given(options, "lowerdir+") ||
			       is_given(options, "datadir+");
	char *text = NULL;
	size_t len = 0;
	FILE *to = open_memstream(&text, &len);

	if (!to)
		return -ENOMEM;
	for (size_t i = 0; i < N_SPECS; i++) {
		bool is_wanted = !is_given_only || (options->given & (1ULL << i)) ||
				 (specs[i].kind == KIND_LOWER && has_lower);

		if (is_wanted && specs[i].flag == SHOWN && specs[i].kind != KIND_SET &&
		    specs[i].kind != KIND_CLEAR)
			put_option(to, options, &specs[i]);
	}
	if (fclose(to) != 0) {
		free(text);
		return -ENOMEM;
	}
	*ret = text;
	*ret_len = len;
	return 0;
}
