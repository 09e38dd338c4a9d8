// SPDX-License-Identifier: GPL-2.0-or-later
/* What users see of attributes, and what a copy-up takes along. */
#include "fixture.h"

#include <linux/limits.h>

#include "base/cleanup.h"
#include "layer/xattr.h"

static struct rvl_xattr_names trusted, user;

static void names_are_escaped(void **state)
{
	char buf[XATTR_NAME_MAX + 1], name[XATTR_NAME_MAX + 1];
	const char *ret;

	assert_int_equal(rvl_xattr_to_layer(&trusted, "trusted.overlay.opaque", buf, &ret), 0);
	assert_string_equal(ret, "trusted.overlay.overlay.opaque");
	assert_int_equal(rvl_xattr_to_layer(&trusted, "trusted.overlay.overlay.x", buf, &ret), 0);
	assert_string_equal(ret, "trusted.overlay.overlay.overlay.x");
	assert_int_equal(rvl_xattr_to_layer(&trusted, "user.overlay.opaque", buf, &ret), 0);
	assert_string_equal(ret, "user.overlay.opaque");
	assert_int_equal(rvl_xattr_to_layer(&user, "user.overlay.opaque", buf, &ret), 0);
	assert_string_equal(ret, "user.overlay.overlay.opaque");
	assert_int_equal(rvl_xattr_to_layer(&trusted, "trusted.overlay.", buf, &ret), -EINVAL);
	memset(name, 'n', sizeof(name));
	memcpy(name, "trusted.overlay.", 16);
	name[XATTR_NAME_MAX] = '\0';
	assert_int_equal(rvl_xattr_to_layer(&trusted, name, buf, &ret), -ENAMETOOLONG);
	name[XATTR_NAME_MAX - 8] = '\0';
	assert_int_equal(rvl_xattr_to_layer(&trusted, name, buf, &ret), 0);
	assert_int_equal(strlen(ret), XATTR_NAME_MAX);
}

static void lists_hide_and_unescape(void **state)
{
	char list[] = "user.a\0trusted.overlay.opaque\0trusted.overlay.overlay.opaque\0"
		      "user.overlay.z\0trusted.overlay.ino\0trusted.overlay.overlay.overlay.y";
	static const char wanted[] = "user.a\0trusted.overlay.opaque\0user.overlay.z\0"
				     "trusted.overlay.overlay.y";
	char unterminated[] = { 'u', 's', 'e', 'r', '.', 'b', '\0', 'x' };

	assert_int_equal(rvl_xattr_list_to_user(&trusted, list, sizeof(list)), sizeof(wanted));
	assert_memory_equal(list, wanted, sizeof(wanted));
	assert_int_equal(rvl_xattr_list_to_user(&trusted, unterminated, 8), 7);
	assert_int_equal(rvl_xattr_list_to_user(&trusted, list, 0), 0);
}

static void private_is_what_is_not_escaped(void **state)
{
	assert_true(rvl_xattr_is_private(&trusted, "trusted.overlay.x"));
	assert_true(rvl_xattr_is_private(&trusted, "trusted.overlay.overlayed"));
	assert_false(rvl_xattr_is_private(&trusted, "trusted.overlay.overlay.x"));
	assert_false(rvl_xattr_is_private(&trusted, "trusted.overlays"));
	assert_false(rvl_xattr_is_private(&trusted, "user.overlay.x"));
	assert_true(rvl_xattr_is_private(&user, "user.overlay.x"));
}

static void copy_takes_all_but_private(void **state)
{
	_cleanup_close_ int dir = open(fixture_dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	_cleanup_close_ int to = -EBADF;
	char buf[70000], *big = malloc(3000);

	make_file(at("from"), "");
	make_file(at("to"), "");
	memset(big, 'b', 3000);
	assert_int_equal(setxattr(at("from"), "user.big", big, 3000, 0), 0);
	assert_int_equal(setxattr(at("from"), "user.empty", "", 0, 0), 0);
	set_x(at("from"), "opaque", "y");
	set_x(at("from"), "overlay.opaque", "y");
	assert_int_equal(sh("setfacl -m u:65534:r %s/from 2>/dev/null", fixture_dir) & 0, 0);
	to = open(at("to"), O_PATH | O_CLOEXEC);
	assert_int_equal(rvl_xattr_copy(&trusted, dir, "from", to, ""), 0);
	assert_int_equal(getxattr(at("to"), "user.big", buf, sizeof(buf)), 3000);
	assert_memory_equal(buf, big, 3000);
	assert_int_equal(getxattr(at("to"), "user.empty", buf, sizeof(buf)), 0);
	assert_int_equal(getxattr(at("to"), "trusted.overlay.overlay.opaque", buf, 9), 1);
	assert_true(getxattr(at("to"), "trusted.overlay.opaque", buf, 9) < 0);
	assert_int_equal(getxattr(at("from"), "system.posix_acl_access", buf, 100),
			 getxattr(at("to"), "system.posix_acl_access", buf, 100));
	free(big);
}

static void copy_to_a_filesystem_with_less(void **state)
{
	_cleanup_close_ int dir = -EBADF, to = -EBADF;
	static const char capability[] = { 1, 0, 0, 2, 0, 4, 0, 0, 0, 0,
					   0, 0, 0, 0, 0, 0, 0, 0, 0, 0 };

	/* ramfs has no user.* and no security.*: the first is skipped, the second must not be */
	need_mounts();
	make_dir(at("mram"));
	assert_int_equal(mount("none", at("mram"), "ramfs", 0, NULL), 0);
	make_file(at("f"), "");
	make_file(at("mram/f"), "");
	assert_int_equal(setxattr(at("f"), "user.a", "1", 1, 0), 0);
	dir = open(fixture_dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	to = open(at("mram"), O_PATH | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(rvl_xattr_copy(&trusted, dir, "f", to, "f"), 0);
	assert_int_equal(setxattr(at("f"), "security.capability", capability, 20, 0), 0);
	assert_int_equal(rvl_xattr_copy(&trusted, dir, "f", to, "f"), -EOPNOTSUPP);
	/* and from such a filesystem there is nothing to copy */
	assert_int_equal(rvl_xattr_copy(&trusted, to, "f", dir, "f"), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(names_are_escaped),
		cmocka_unit_test(lists_hide_and_unescape),
		cmocka_unit_test(private_is_what_is_not_escaped),
		cmocka_unit_test(copy_takes_all_but_private),
		cmocka_unit_test(copy_to_a_filesystem_with_less),
	};

	if (!has_trusted()) {
		print_message("1..0 # SKIP: trusted.* attributes need root\n");
		return 0;
	}
	rvl_xattr_names_init(&trusted, false);
	rvl_xattr_names_init(&user, true);
	return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
