// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Mount options: values, defaults, contradictions, what is handed on to libfuse and shown to
 * others.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <cmocka.h>

#include "base/log.h"
#include "server/options.h"

static struct rvl_options options;

static int setup(void **state)
{
	rvl_options_init(&options, true);
	return 0;
}

static int teardown(void **state)
{
	rvl_options_release(&options);
	return 0;
}

/* Parses and checks a list as a mount by root. */
static int parse(const char *text)
{
	int r;

	rvl_options_release(&options);
	rvl_options_init(&options, true);
	r = rvl_options_parse(&options, text);
	return r < 0 ? r : rvl_options_check(&options);
}

/* The kernel's options, all at once, with escapes. */
static void test_layers(void **state)
{
	assert_int_equal(parse("lowerdir=/a\\:1:/b\\,2::/d1::/d2,upperdir=/u\\,x,workdir=/w\\:y"),
			 0);
	assert_int_equal(options.lower.n, 4);
	assert_int_equal(options.n_data, 2);
	assert_string_equal(options.lower.items[0], "/a:1");
	assert_string_equal(options.lower.items[1], "/b,2");
	assert_string_equal(options.lower.items[3], "/d2");
	assert_string_equal(options.upper, "/u,x");
	assert_string_equal(options.work, "/w:y");
}

/* lowerdir+ and datadir+ add one path each, colons and all; lowerdir starts anew. */
static void test_layers_added(void **state)
{
	assert_int_equal(parse("lowerdir=/x,lowerdir=/a,lowerdir+=/b:c,datadir+=/d"), 0);
	assert_int_equal(options.lower.n, 3);
	assert_int_equal(options.n_data, 1);
	assert_string_equal(options.lower.items[0], "/a");
	assert_string_equal(options.lower.items[1], "/b:c");
	assert_string_equal(options.lower.items[2], "/d");
}

static void test_layers_refused(void **state)
{
	static const char *const bad[] = {
		"",
		"lowerdir",
		"lowerdir=",
		"lowerdir=:/a",
		"lowerdir=/a:",
		"lowerdir=/a:::/b",
		"lowerdir=::/a",
		"lowerdir=/a::/b:/c",
		"lowerdir=/a,datadir+=/d,lowerdir+=/b",
		"datadir+=/d",
		"lowerdir+=,lowerdir=/a",
		"lowerdir=/a,upperdir=/u",
		"lowerdir=/a,upperdir=",
		"lowerdir=/a,upperdir=,workdir=/w",
	};

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(parse(bad[i]), -EINVAL);
}

/* The limit of the kernel: 500 layers, and not one more. */
static void test_layers_limit(void **state)
{
	char text[16 + 3 * (RVL_LAYERS_MAX + 1)] = "lowerdir=/0";

	for (int i = 1; i < RVL_LAYERS_MAX; i++)
		strcat(text, ":/l");
	assert_int_equal(parse(text), 0);
	assert_int_equal(options.lower.n, RVL_LAYERS_MAX);
	strcat(text, ":/l");
	assert_int_equal(parse(text), -EINVAL);
}

static void test_values(void **state)
{
	assert_int_equal(parse("lowerdir=/a"), 0);
	assert_int_equal(options.redirect, RVL_REDIRECT_ON);
	assert_int_equal(options.sync, RVL_SYNC_AUTO);
	assert_int_equal(parse("lowerdir=/a,redirect_dir=off,redirect_dir=follow,fsync=strict"), 0);
	assert_int_equal(options.redirect, RVL_REDIRECT_FOLLOW);
	assert_int_equal(options.sync, RVL_SYNC_STRICT);
	assert_int_equal(parse("lowerdir=/a,volatile"), 0);
	assert_int_equal(options.sync, RVL_SYNC_VOLATILE);
	assert_int_equal(
		parse("lowerdir=/a,index=off,xino=auto,uuid=null,metacopy=on,nfs_export=off"), 0);
	assert_int_equal(parse("lowerdir=/a,node_limit=1000,verity=off,override_creds"), 0);
	assert_int_equal(options.node_limit, 1000);
	assert_true(options.has_io_uring);
	assert_int_equal(parse("lowerdir=/a,io_uring=off"), 0);
	assert_false(options.has_io_uring);
	assert_int_equal(options.poll_us, 30);
	assert_int_equal(parse("lowerdir=/a,poll=0"), 0);
	assert_int_equal(options.poll_us, 0);
	assert_true(options.has_passthrough);
	assert_int_equal(parse("lowerdir=/a,passthrough=off"), 0);
	assert_false(options.has_passthrough);
}

/*
 * As the kernel: with userxattr redirects are neither made nor followed, unless that is asked for.
 */
static void test_userxattr(void **state)
{
	assert_int_equal(parse("lowerdir=/a,userxattr"), 0);
	assert_int_equal(options.redirect, RVL_REDIRECT_NOFOLLOW);
	assert_int_equal(parse("redirect_dir=on,lowerdir=/a,userxattr"), 0);
	assert_int_equal(options.redirect, RVL_REDIRECT_ON);
}

static void test_refused(void **state)
{
	static const char *const bad[] = {
		"lowerdir=/a,unknown",
		"lowerdir=/a,unknown=1",
		"lowerdir=/a,Lowerdir=/b",
		"lowerdir=/a,redirect_dir=yes",
		"lowerdir=/a,redirect_dir",
		"lowerdir=/a,index=",
		"lowerdir=/a,xino=ON",
		"lowerdir=/a,verity=on",
		"lowerdir=/a,verity=require",
		"lowerdir=/a,nooverride_creds",
		"lowerdir=/a,ro=1",
		"lowerdir=/a,volatile=yes",
		"lowerdir=/a,volatile,fsync=auto",
		"lowerdir=/a,nfs_export=on,index=off",
		"lowerdir=/a,upperdir=/u,workdir=/w,metacopy=on,redirect_dir=off",
		"lowerdir=/a,allow_other,allow_root",
		"lowerdir=/a,io_uring=maybe",
		"lowerdir=/a,poll=10001",
		"lowerdir=/a,poll=-1",
		"lowerdir=/a,node_limit=",
		"lowerdir=/a,node_limit=0",
		"lowerdir=/a,node_limit=-100",
		"lowerdir=/a,node_limit= 100",
		"lowerdir=/a,node_limit=100x",
		"lowerdir=/a,node_limit=99999999999999999999",
		"lowerdir=/a,user_id=0",
		"lowerdir=/a,=",
		"lowerdir=/a,=x",
	};

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(parse(bad[i]), -EINVAL);
}

/* What mount(8), fstab and systemd send along. */
static void test_ignored(void **state)
{
	assert_int_equal(
		parse("lowerdir=/a,defaults,noauto,nofail,_netdev,user,user=joe,users,group,"
		      "x-systemd.requires=/a,X-mount.mkdir,comment=x,,relatime,lazytime"),
		0);
}

/* Where several letters of a row are switched, the last one counts. */
static void test_flags(void **state)
{
	assert_int_equal(parse("lowerdir=/a,ro,nosuid,nodev,noexec,noatime,dev,sync,dirsync,async"),
			 0);
	assert_int_equal(options.flags,
			 MS_RDONLY | MS_NOSUID | MS_NOEXEC | MS_NOATIME | MS_DIRSYNC);
	rvl_options_release(&options);
	rvl_options_init(&options, false);
	assert_int_equal(options.flags, MS_NOSUID | MS_NODEV);
	assert_false(options.is_allow_other);
}

/* -s of mount(8): what is unknown is let pass, what is malformed is not. */
static void test_sloppy(void **state)
{
	options.is_sloppy = true;
	assert_int_equal(rvl_options_parse(&options, "foo,bar=1,lowerdir=/a"), 0);
	assert_int_equal(rvl_options_parse(&options, "index=2"), -EINVAL);
}

/* Commas and backslashes in a source's name must not become options. */
static void test_for_fuse(void **state)
{
	char *text;

	assert_int_equal(parse("lowerdir=/a,ro,fsname=a\\,suid\\\\b,context=\"x:c1,c2\""), 0);
	assert_int_equal(rvl_options_for_fuse(&options, &text), 0);
	assert_non_null(strstr(text,
			       "default_permissions,fsname=a\\,suid\\\\b,subtype=reverlay,ro,suid,"
			       "dev,"));
	assert_non_null(strstr(text, ",allow_other"));
	assert_non_null(strstr(text, ",context=\"x:c1\\,c2\""));
	free(text);
	assert_int_equal(parse("lowerdir=/a,allow_root"), 0);
	assert_int_equal(rvl_options_for_fuse(&options, &text), 0);
	assert_null(strstr(text, "allow_other"));
	assert_non_null(strstr(text, ",allow_root"));
	free(text);
}

static bool has_line(const char *text, size_t len, const char *line)
{
	for (const char *p = text; p < text + len; p += strlen(p) + 1)
		if (!strcmp(p, line))
			return true;
	return false;
}

/* What is shown can be given again, and means the same. */
static void test_format(void **state)
{
	char *text;
	size_t len;

	assert_int_equal(parse("lowerdir=/no\\:1:/no\\,2::/no3,volatile,node_limit=77,poll=0"), 0);
	assert_int_equal(rvl_options_format(&options, true, &text, &len), 0);
	assert_true(has_line(text, len, "lowerdir=/no\\:1:/no\\,2::/no3"));
	assert_true(has_line(text, len, "volatile"));
	assert_true(has_line(text, len, "node_limit=77"));
	assert_true(has_line(text, len, "poll=0"));
	assert_false(has_line(text, len, "redirect_dir=on"));
	free(text);
	assert_int_equal(rvl_options_format(&options, false, &text, &len), 0);
	assert_true(has_line(text, len, "redirect_dir=on"));
	assert_true(has_line(text, len, "fsync=volatile"));
	free(text);
}

/* No list, however torn, may do more than be refused (run under ASan and valgrind). */
static void test_hostile(void **state)
{
	static const char alphabet[] = "\\,:=\"lowerdir+context/a ro";
	uint32_t seed = 12345;
	char text[48];

	for (int round = 0; round < 20000; round++) {
		size_t len;

		seed = seed * 1664525 + 1013904223;
		len = (seed >> 16) % (sizeof(text) - 10);
		strcpy(text, round % 2 ? "lowerdir=" : "context=\"");
		for (size_t i = 0; i < len; i++) {
			seed = seed * 1664525 + 1013904223;
			text[9 + i] = alphabet[(seed >> 16) % (sizeof(alphabet) - 1)];
		}
		text[9 + len] = '\0';
		if (parse(text) == 0)
			assert_true(options.lower.n > options.n_data);
	}
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(test_layers),	 CASE(test_layers_added), CASE(test_layers_refused),
		CASE(test_layers_limit), CASE(test_values),	  CASE(test_userxattr),
		CASE(test_refused),	 CASE(test_ignored),	  CASE(test_flags),
		CASE(test_sloppy),	 CASE(test_for_fuse),	  CASE(test_format),
		CASE(test_hostile),
	};

	/*
	 * The messages are tested by their callers' exit codes; twenty thousand of them help
	 * nobody.
	 */
	rvl_log_setup("test", RVL_LOG_STDERR, LOG_EMERG);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
