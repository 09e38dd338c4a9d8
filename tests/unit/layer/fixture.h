/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * For the tests of layers: a temporary directory on a real filesystem, trees in it, stacks on them,
 * images on loop devices. Mounts are made in a mount namespace of the test's own, so that they go
 * with it however it ends.
 */
#ifndef RVL_TESTS_LAYER_FIXTURE_H
#define RVL_TESTS_LAYER_FIXTURE_H

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/log.h"
#include "layer/layer.h"
#include "layer/merge.h"

#define FIXTURE_UNUSED __attribute__((unused))

static char fixture_dir[256]; /* absolute */

/* printf into one of some static buffers: a path below the fixture's directory. */
FIXTURE_UNUSED __attribute__((format(printf, 1, 2))) static const char *at(const char *format, ...)
{
	static char bufs[8][8192];
	static unsigned next;
	char *buf = bufs[next++ % 8];
	va_list ap;
	int n = snprintf(buf, 8192, "%s/", fixture_dir);

	va_start(ap, format);
	vsnprintf(buf + n, 8192 - (size_t)n, format, ap);
	va_end(ap);
	return buf;
}

FIXTURE_UNUSED __attribute__((format(printf, 1, 2))) static int sh(const char *format, ...)
{
	char command[8192];
	va_list ap;

	va_start(ap, format);
	vsnprintf(command, sizeof(command), format, ap);
	va_end(ap);
	return system(command);
}

/* The directory is made on $RVL_TEST_DIR, else on /var/tmp, which is a disk filesystem here. */
FIXTURE_UNUSED static int fixture_setup(void **state)
{
	const char *base = getenv("RVL_TEST_DIR");

	snprintf(fixture_dir, sizeof(fixture_dir), "%s/rvl-unit-XXXXXX", base ? base : "/var/tmp");
	if (!mkdtemp(fixture_dir))
		return -1;
	rvl_log_setup("test", RVL_LOG_STDERR, getenv("RVL_TEST_LOG") ? LOG_DEBUG : LOG_EMERG);
	return 0;
}

/* May trusted.* attributes be set (root, but not in a user namespace)? Before the fixture's set-up. */
FIXTURE_UNUSED static int has_trusted(void)
{
	char path[] = "/var/tmp/rvl-unit-XXXXXX";
	int fd = mkstemp(path), r = fd < 0 ? -1 : fsetxattr(fd, "trusted.overlay.t", "", 0, 0);

	close(fd);
	unlink(path);
	return r == 0;
}

FIXTURE_UNUSED static int fixture_teardown(void **state)
{
	/* Immutable files, where a test has made some, would stay. */
	sh("cd %s && { umount -R -l m*; chattr -R -i -a .; } 2>/dev/null", fixture_dir);
	return sh("rm -rf --one-file-system %s", fixture_dir) == 0 ? 0 : -1;
}

/* For tests that mount. Without the right to do so they are skipped, with the reason. */
FIXTURE_UNUSED static void need_mounts(void)
{
	static int is_done;

	if (is_done)
		return;
	if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", "none", MS_REC | MS_PRIVATE, NULL) < 0) {
		print_message("# skipped: mounts are not permitted (%s)\n", strerror(errno));
		skip();
	}
	is_done = 1;
}

/* All directories above path. */
FIXTURE_UNUSED static void make_parents(const char *path)
{
	char copy[8192];

	snprintf(copy, sizeof(copy), "%s", path);
	for (char *p = copy + strlen(fixture_dir) + 1; *p; p++) {
		if (*p != '/')
			continue;
		*p = '\0';
		assert_true(mkdir(copy, 0755) == 0 || errno == EEXIST);
		*p = '/';
	}
}

FIXTURE_UNUSED static void make_dir(const char *path)
{
	make_parents(path);
	assert_true(mkdir(path, 0755) == 0 || errno == EEXIST);
}

FIXTURE_UNUSED static void make_file(const char *path, const char *text)
{
	int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0644);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	close(fd);
}

FIXTURE_UNUSED static void make_whiteout(const char *path)
{
	assert_int_equal(mknod(path, S_IFCHR, makedev(0, 0)), 0);
}

FIXTURE_UNUSED static void set_x(const char *path, const char *suffix, const char *value)
{
	char name[256];

	snprintf(name, sizeof(name), "trusted.overlay.%s", suffix);
	assert_int_equal(lsetxattr(path, name, value, strlen(value), 0), 0);
}

/* A read-only stack of the directories, which are below the fixture's, separated by ":". */
FIXTURE_UNUSED static int open_lowers(const char *lowers, unsigned n_data, bool is_userxattr,
				      struct rvl_stack *ret)
{
	const char *paths[RVL_LAYERS_MAX + 1];
	char copy[4096], *save = NULL;
	unsigned n = 0;
	int r;

	snprintf(copy, sizeof(copy), "%s", lowers);
	for (char *p = strtok_r(copy, ":", &save); p; p = strtok_r(NULL, ":", &save))
		paths[n++] = strdup(at("%s", p));
	r = rvl_stack_open(&(struct rvl_stack_config){ .lower = paths,
						       .n_lower = n,
						       .n_data = n_data,
						       .is_userxattr = is_userxattr },
			   ret);
	while (n > 0)
		free((char *)paths[--n]);
	return r;
}

/* The places of a found name as "1:b 3:a/b", layer and path. */
FIXTURE_UNUSED static const char *places_text(const struct rvl_places *places)
{
	static char bufs[4][8192];
	static unsigned next;
	char *buf = bufs[next++ % 4];
	int n = 0;

	buf[0] = '\0';
	for (unsigned i = 0; i < places->n; i++)
		n += snprintf(buf + n, 8192 - (size_t)n, "%s%u:%s", i ? " " : "",
			      places->v[i].layer->index, places->v[i].path);
	return buf;
}

#endif
