/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * For the tests of the index: a temporary directory on a real filesystem, layers in it, a stack
 * and an index on them.
 */
#ifndef RVL_TESTS_INDEX_FIXTURE_H
#define RVL_TESTS_INDEX_FIXTURE_H

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
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
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/log.h"
#include "index/entry.h"
#include "index/index.h"
#include "index/log.h"
#include "index/map.h"
#include "index/number.h"
#include "index/stamp.h"
#include "index/state.h"
#include "layer/path.h"

#define FIXTURE_UNUSED __attribute__((unused))

static char fixture_dir[256]; /* absolute */
static struct rvl_stack stack;
static struct rvl_index *idx;

enum { RO = 1, OFFLINE = 2, VOLATILE = 4, USERXATTR = 8 };

/* printf into one of some static buffers: a path below the fixture's directory. */
FIXTURE_UNUSED __attribute__((format(printf, 1, 2))) static const char *at(const char *format, ...)
{
	static char bufs[8][4096];
	static unsigned next;
	char *buf = bufs[next++ % 8];
	va_list ap;
	int n = snprintf(buf, 4096, "%s/", fixture_dir);

	va_start(ap, format);
	vsnprintf(buf + n, 4096 - (size_t)n, format, ap);
	va_end(ap);
	return buf;
}

/* A shell command in the fixture's directory. */
FIXTURE_UNUSED __attribute__((format(printf, 1, 2))) static int sh(const char *format, ...)
{
	char command[8192];
	va_list ap;
	int n = snprintf(command, sizeof(command), "cd %s || exit 1; ", fixture_dir);

	va_start(ap, format);
	vsnprintf(command + n, sizeof(command) - (size_t)n, format, ap);
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
	return sh("mkdir l1 l2 u w");
}

FIXTURE_UNUSED static int open_stack(const char *lowers, const char *upper, const char *work,
				     int flags)
{
	const char *paths[RVL_LAYERS_MAX + 1];
	char copy[4096], up[4096], wo[4096], *save = NULL;
	struct rvl_stack_config config = { .lower = paths, .is_userxattr = flags & USERXATTR };
	int r;

	snprintf(copy, sizeof(copy), "%s", lowers);
	for (char *p = strtok_r(copy, ":", &save); p; p = strtok_r(NULL, ":", &save))
		paths[config.n_lower++] = strdup(at("%s", p));
	if (upper) {
		snprintf(up, sizeof(up), "%s/%s", fixture_dir, upper);
		config.upper = up;
	}
	if (work) {
		snprintf(wo, sizeof(wo), "%s/%s", fixture_dir, work);
		config.work = wo;
	}
	r = rvl_stack_open(&config, &stack);
	while (config.n_lower)
		free((char *)paths[--config.n_lower]);
	return r;
}

/* Stack and index; names are relative to the fixture's directory, lowers are separated by ":". */
FIXTURE_UNUSED static int open_index(const char *lowers, const char *upper, const char *work,
				     int flags)
{
	struct rvl_index_config config = { .stack = &stack,
					   .is_read_only = flags & RO,
					   .is_offline = flags & OFFLINE,
					   .is_volatile = flags & VOLATILE };
	int r = open_stack(lowers, upper, work, flags);

	assert_int_equal(r, 0);
	r = rvl_index_open(&config, &idx);
	if (r) {
		idx = NULL;
		rvl_stack_release(&stack);
	}
	return r;
}

FIXTURE_UNUSED static void close_index(void)
{
	rvl_index_close(idx);
	idx = NULL;
	rvl_stack_release(&stack);
}

/* What a crash of the process leaves: nothing is closed as it should be. */
FIXTURE_UNUSED static void forget_index(void)
{
	/* Kept, so that they are no leaks. */
	static struct rvl_index *forgotten[64];
	static struct rvl_stack forgotten_stacks[64];
	static unsigned n;

	assert_true(n < 64 && !forgotten[n] && !forgotten_stacks[n].n);
	forgotten[n] = idx;
	forgotten_stacks[n++] = stack;
	idx = NULL;
	memset(&stack, 0, sizeof(stack));
}

FIXTURE_UNUSED static int case_teardown(void **state)
{
	close_index();
	return sh("chattr -R -i -a . 2>/dev/null; umount -l m 2>/dev/null; "
		  "find . -mindepth 1 -delete && mkdir l1 l2 u w");
}

FIXTURE_UNUSED static int fixture_teardown(void **state)
{
	char command[512];

	snprintf(command, sizeof(command), "rm -rf --one-file-system %s", fixture_dir);
	return system(command) == 0 ? 0 : -1;
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

FIXTURE_UNUSED static void make_file(const char *path)
{
	int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0644);

	assert_true(fd >= 0);
	close(fd);
}

/* The number of a lower object, as a look-up would ask for it. layer: 1 is the topmost. */
FIXTURE_UNUSED static int lower_id(unsigned layer, const char *path, struct rvl_id *ret)
{
	struct statx stx;

	assert_int_equal(rvl_path_statx(stack.layers[layer].fd, path,
					STATX_BASIC_STATS | STATX_BTIME, &stx),
			 0);
	return rvl_number_of_lower(idx, &stack.layers[layer], stack.layers[layer].fd, path, &stx,
				   ret);
}

FIXTURE_UNUSED static uint64_t lower_number(unsigned layer, const char *path)
{
	struct rvl_id id;

	assert_int_equal(lower_id(layer, path, &id), 0);
	return id.number;
}

FIXTURE_UNUSED static uint64_t ino_of(const char *path)
{
	struct stat st;

	assert_int_equal(lstat(path, &st), 0);
	return st.st_ino;
}

FIXTURE_UNUSED static size_t read_whole(const char *path, uint8_t *buf, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n;

	assert_true(fd >= 0);
	n = read(fd, buf, size);
	close(fd);
	assert_true(n >= 0);
	return (size_t)n;
}

FIXTURE_UNUSED static void write_whole(const char *path, const uint8_t *buf, size_t len)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, buf, len), len);
	close(fd);
}

#define T(f) cmocka_unit_test_teardown(f, case_teardown)

#endif
