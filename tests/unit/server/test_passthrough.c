// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * How each inode is open, without a mount: the kernel's two ioctls, the overlay and libfuse are
 * played here.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "server/passthrough.h"
#include "server/server.h"

#define IDS_MAX 16384 /* as in passthrough.c */
#define USER 1000

static struct rvl_index index_;
static struct rvl_server server = { .index = &index_ };
static struct rvl_passthrough *p;
static int backing_error; /* of the next one that is opened; 0: none */
static unsigned n_backing, n_closed, n_made_void;
static bool is_in_lower; /* nothing to pass through */
static mode_t mode;

/* ---- what is played ---- */

int ioctl(int fd, unsigned long request, ...)
{
	if (_IOC_NR(request) == 2) {
		n_closed++;
		return 0;
	}
	errno = backing_error;
	return backing_error ? -1 : (int)++n_backing;
}

int fuse_session_fd(struct fuse_session *session)
{
	return -1;
}

int fuse_lowlevel_notify_inval_inode(struct fuse_session *session, fuse_ino_t number, off_t at,
				     off_t length)
{
	n_made_void++;
	return 0;
}

int rvl_overlay_getattr(struct rvl_overlay *ov, pid_t asker, uint64_t number, struct rvl_entry *ret)
{
	*ret = (struct rvl_entry){ .number = number, .st.st_mode = mode };
	return 0;
}

int rvl_overlay_pin_backing(struct rvl_overlay *ov, uint64_t number, struct rvl_pin *ret)
{
	*ret = (struct rvl_pin){ .fd = is_in_lower ? -EBADF : 0 };
	return is_in_lower ? -EOPNOTSUPP : 0;
}

void rvl_overlay_unpin(struct rvl_overlay *ov, struct rvl_pin *pin)
{
	pin->fd = -EBADF;
}

void rvl_index_temp_name(struct rvl_index *index, char ret[RVL_TEMP_NAME_SIZE])
{
	snprintf(ret, RVL_TEMP_NAME_SIZE, "rvl-test-%d", (int)getpid());
}

/* ---- the tests ---- */

static int set_up(void **state)
{
	backing_error = 0;
	n_backing = n_closed = n_made_void = 0;
	is_in_lower = false;
	mode = S_IFREG | 0644;
	index_.temp_fd = open("/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return rvl_passthrough_new(&server, &p);
}

static int tear_down(void **state)
{
	rvl_passthrough_free(p);
	return close(index_.temp_fd);
}

static void enable(void)
{
	assert_null(rvl_passthrough_enable(p));
	n_backing = n_closed = 0;
}

/* Gives the backing id, 0: through the page cache. */
static int open_as(uint64_t number, uid_t uid, int flags)
{
	struct fuse_file_info fi = { .flags = flags };

	assert_int_equal(rvl_passthrough_open(p, number, uid, false, &fi), 0);
	return fi.backing_id;
}

/* Without it nothing is passed through, and nothing remembered; the reason is a text for people. */
static void not_enabled(void **state)
{
	static const int errors[] = { EPERM, ENOTTY, EOPNOTSUPP, ELOOP, EIO };

	for (size_t i = 0; i < sizeof(errors) / sizeof(errors[0]); i++) {
		backing_error = errors[i];
		assert_true(strlen(rvl_passthrough_enable(p)) > 5);
	}
	backing_error = 0;
	assert_int_equal(open_as(7, 0, O_RDWR), 0);
	assert_false(rvl_passthrough_is_mapped(p, 7));
	rvl_passthrough_release(p, 7, O_RDWR);
	assert_int_equal(n_backing, 0);
}

/* All opens of an inode have one file, which goes with the last of them. */
static void one_file(void **state)
{
	int id;

	enable();
	id = open_as(7, 0, O_RDONLY);
	assert_int_not_equal(id, 0);
	assert_int_equal(open_as(7, 0, O_WRONLY), id);
	assert_int_not_equal(open_as(8, 0, O_RDONLY), id);
	assert_int_equal(n_backing, 2);
	rvl_passthrough_release(p, 7, O_RDONLY);
	assert_int_equal(n_closed, 0);
	rvl_passthrough_release(p, 7, O_WRONLY);
	assert_int_equal(n_closed, 1);
	/* one too many, of what is not open */
	rvl_passthrough_release(p, 7, O_WRONLY);
	assert_int_equal(n_closed, 1);
}

/* What was opened from lower stays in the page cache till all have closed it. */
static void first_open_decides(void **state)
{
	enable();
	is_in_lower = true;
	assert_int_equal(open_as(7, 0, O_RDONLY), 0);
	is_in_lower = false;
	assert_int_equal(open_as(7, 0, O_RDWR), 0);
	rvl_passthrough_release(p, 7, O_RDONLY);
	assert_int_equal(open_as(7, 0, O_RDWR), 0);
	rvl_passthrough_release(p, 7, O_RDWR);
	rvl_passthrough_release(p, 7, O_RDWR);
	assert_int_not_equal(open_as(7, 0, O_RDWR), 0);
}

/* A file that cannot be given to the kernel goes through the page cache. */
static void no_backing_file(void **state)
{
	enable();
	backing_error = EMFILE;
	assert_int_equal(open_as(7, 0, O_RDONLY), 0);
	rvl_passthrough_release(p, 7, O_RDONLY);
	assert_int_equal(n_closed, 0);
}

/* Only who may store through a mapping makes attributes uncertain, from the open till the kernel forgets the
 * inode, which a mapping holds. */
static void mapped(void **state)
{
	enable();
	open_as(7, 0, O_RDONLY);
	open_as(7, 0, O_WRONLY);
	assert_false(rvl_passthrough_is_mapped(p, 7));
	assert_int_equal(n_made_void, 0);
	open_as(7, 0, O_RDWR);
	assert_int_equal(rvl_passthrough_is_mapped(p, 7), RVL_MAY_BE_MAPPED);
	assert_int_equal(rvl_passthrough_is_mapped(p, 8), RVL_NOT_MAPPED);
	assert_int_equal(n_made_void, 1);
	rvl_passthrough_forget(p, 8);
	rvl_passthrough_release(p, 7, O_RDWR);
	assert_int_equal(rvl_passthrough_is_mapped(p, 7), RVL_WAS_MAPPED);
	open_as(7, 0, O_RDWR);
	assert_int_equal(rvl_passthrough_is_mapped(p, 7), RVL_MAY_BE_MAPPED);
	rvl_passthrough_release(p, 7, O_RDWR);
	rvl_passthrough_release(p, 7, O_RDONLY);
	rvl_passthrough_release(p, 7, O_WRONLY);
	assert_int_equal(rvl_passthrough_is_mapped(p, 7), RVL_WAS_MAPPED);
	rvl_passthrough_forget(p, 7);
	assert_int_equal(rvl_passthrough_is_mapped(p, 7), RVL_NOT_MAPPED);
}

/* Of a new file the kernel has nothing that could be void. */
static void new_file(void **state)
{
	struct fuse_file_info fi = { .flags = O_RDWR };

	enable();
	assert_int_equal(rvl_passthrough_open(p, 7, 0, true, &fi), 0);
	assert_int_not_equal(fi.backing_id, 0);
	assert_int_equal(n_made_void, 0);
	assert_true(rvl_passthrough_is_mapped(p, 7));
}

/* Others than root who write to a file with setuid or setgid: the server is to see it. */
static void suid(void **state)
{
	enable();
	mode = S_IFREG | S_ISUID | 0755;
	assert_int_equal(open_as(1, USER, O_WRONLY), 0);
	assert_int_not_equal(open_as(2, USER, O_RDONLY), 0);
	assert_int_not_equal(open_as(3, 0, O_WRONLY), 0);
	mode = S_IFREG | S_ISGID | 0755;
	assert_int_equal(open_as(4, USER, O_RDWR), 0);
	mode = S_IFREG | 0755;
	assert_int_not_equal(open_as(5, USER, O_RDWR), 0);
}

/* No more files than the limit are held in the kernel; a closed one makes room. */
static void limit(void **state)
{
	enable();
	for (unsigned i = 0; i < IDS_MAX; i++)
		assert_int_not_equal(open_as(i + 1, 0, O_RDONLY), 0);
	assert_int_equal(open_as(IDS_MAX + 1, 0, O_RDONLY), 0);
	rvl_passthrough_release(p, 1, O_RDONLY);
	assert_int_not_equal(open_as(IDS_MAX + 2, 0, O_RDONLY), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(not_enabled, set_up, tear_down),
		cmocka_unit_test_setup_teardown(one_file, set_up, tear_down),
		cmocka_unit_test_setup_teardown(first_open_decides, set_up, tear_down),
		cmocka_unit_test_setup_teardown(no_backing_file, set_up, tear_down),
		cmocka_unit_test_setup_teardown(mapped, set_up, tear_down),
		cmocka_unit_test_setup_teardown(new_file, set_up, tear_down),
		cmocka_unit_test_setup_teardown(suid, set_up, tear_down),
		cmocka_unit_test_setup_teardown(limit, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
