// SPDX-License-Identifier: GPL-2.0-or-later
/* Identity of filesystems: the same on another device and after a remount, different for others. */
#include "fixture.h"

#include <sys/resource.h>
#include <sys/wait.h>

#include "base/cleanup.h"
#include "layer/identity.h"

static struct rvl_stack stack;

static struct rvl_identity identity_of(const char *dir)
{
	struct rvl_identity id;

	assert_int_equal(open_lowers(dir, 0, false, &stack), 0);
	assert_int_equal(rvl_identity_get(&stack.layers[1], stack.layers[1].fd, stack.layers[1].dev,
					  &id),
			 0);
	rvl_stack_release(&stack);
	return id;
}

static bool is_same(struct rvl_identity a, struct rvl_identity b)
{
	struct rvl_identity_record record = { b.digest, b.visible, b.uuid };

	return rvl_identity_is(&a, &record, true);
}

/* The filesystem alone. */
static bool is_beside(struct rvl_identity a, struct rvl_identity b)
{
	struct rvl_identity_record record = { b.digest, b.visible, b.uuid };

	return rvl_identity_is(&a, &record, false);
}

static void mount_loop(const char *image, const char *dir)
{
	make_dir(at("%s", dir));
	if (sh("mount -o loop %s/%s %s/%s 2>/dev/null", fixture_dir, image, fixture_dir, dir) == 0)
		return;
	print_message("# skipped: cannot mount %s\n", image);
	skip();
}

/* The same by another user, without the right to read the device, and through a bind mount in a
 * root without the rest. */
static void check_views(struct rvl_identity wanted)
{
	struct rvl_identity seen = { 0 };
	int fds[2], status;
	pid_t pid;

	assert_int_equal(pipe(fds), 0);
	assert_int_equal(chmod(fixture_dir, 0755), 0);
	pid = fork();
	if (pid == 0) {
		char bind[512];

		make_dir(at("bind"));
		snprintf(bind, sizeof(bind), "%s", at("bind"));
		if (unshare(CLONE_NEWNS) < 0 || mount(at("m1/d"), bind, "none", MS_BIND, NULL) < 0 ||
		    umount2(at("m1"), MNT_DETACH) < 0 || setresuid(65534, 65534, 65534) < 0)
			_exit(2);
		seen = identity_of("bind");
		_exit(write(fds[1], &seen, sizeof(seen)) == sizeof(seen) ? 0 : 3);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_int_equal(read(fds[0], &seen, sizeof(seen)), sizeof(seen));
	close(fds[0]);
	close(fds[1]);
	assert_true(seen.is_stable);
	assert_true(is_same(seen, wanted) && is_same(wanted, seen));
}

/* An image on two loop devices, mounted one after the other, and another image. */
static void check_image(const char *name, const char *make)
{
	struct rvl_identity a, b, c;

	need_mounts();
	make_dir(at("t/d"));
	make_file(at("t/f"), name);
	if (sh("cd %s && rm -f t1.img t2.img && E2FSPROGS_FAKE_TIME=1000000000 T=t I=t1.img && "
	       "export E2FSPROGS_FAKE_TIME T I && %s",
	       fixture_dir, make)) {
		print_message("# skipped: no tool for %s\n", name);
		skip();
	}
	make_file(at("t/g"), "more");
	assert_int_equal(
		sh("cd %s && E2FSPROGS_FAKE_TIME=1000000001 T=t I=t2.img && export E2FSPROGS_FAKE_TIME T I && %s",
		   fixture_dir, make),
		0);
	assert_int_equal(sh("cp %s/t1.img %s/copy.img", fixture_dir, fixture_dir), 0);
	mount_loop("t1.img", "m1");
	a = identity_of("m1");
	assert_true(a.is_stable);
	b = identity_of("m1/d"); /* a layer deeper inside */
	assert_int_equal(is_same(a, b), a.has_uuid && strcmp(name, "erofs") != 0);
	assert_int_equal(is_beside(a, b), strcmp(name, "squashfs") != 0);
	/* by someone who could not read the uuid */
	c = b;
	memset(c.uuid, 0, 16);
	c.has_uuid = false;
	c.digest[0]++;
	assert_true(is_same(c, b) && is_same(b, c) && is_beside(b, c));
	check_views(b);
	mount_loop("t2.img", "m2");
	c = identity_of("m2");
	assert_false(is_same(a, c));
	umount2(at("m1"), 0);
	mount_loop("copy.img", "m3"); /* another loop device than that of t1 at first */
	b = identity_of("m3");
	assert_true(is_same(a, b));
	umount2(at("m2"), 0);
	umount2(at("m3"), 0);
}

static void squashfs_images(void **state)
{
	check_image("squashfs", "mksquashfs $T $I -quiet -no-progress >/dev/null 2>&1");
}

static void erofs_images(void **state)
{
	check_image("erofs", "mkfs.erofs $I $T >/dev/null 2>&1");
}

static void ext4_images(void **state)
{
	check_image("ext4", "truncate -s 8M $I && mkfs.ext4 -q -d $T $I >/dev/null 2>&1");
}

static void ext4_without_uuid(void **state)
{
	check_image(
		"ext4 without uuid",
		"truncate -s 8M $I && mkfs.ext4 -q -d $T -O ^metadata_csum $I >/dev/null 2>&1 && "
		"tune2fs -U clear $I >/dev/null 2>&1");
}

static void xfs_images(void **state)
{
	check_image("xfs",
		    "truncate -s 320M $I && mkfs.xfs -q $I >/dev/null 2>&1 && mkdir -p mx && "
		    "mount -o loop,nouuid $I mx && cp -a $T/. mx/ && umount mx");
}

static void uuid_is_found(void **state)
{
	struct rvl_identity id;
	static const uint8_t wanted[16] = { 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88,
					    0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff, 0x00 };

	need_mounts();
	if (sh("cd %s && truncate -s 8M u.img && "
	       "mkfs.ext4 -q -U 11223344-5566-7788-99aa-bbccddeeff00 u.img",
	       fixture_dir))
		skip();
	mount_loop("u.img", "mu");
	id = identity_of("mu");
	assert_true(id.has_uuid);
	assert_memory_equal(id.uuid, wanted, 16);
	umount2(at("mu"), 0);
}

static void btrfs_subvolumes_differ(void **state)
{
	struct rvl_identity top, sub, sub2, again;
	_cleanup_close_ int fd = -EBADF;
	struct stat st;

	need_mounts();
	if (sh("cd %s && truncate -s 320M b.img && mkfs.btrfs -q -f b.img >/dev/null 2>&1",
	       fixture_dir)) {
		print_message("# skipped: no mkfs.btrfs\n");
		skip();
	}
	mount_loop("b.img", "mb");
	assert_int_equal(sh("cd %s/mb && btrfs -q subvolume create s1 >/dev/null && "
			    "btrfs -q subvolume snapshot s1 s2 >/dev/null && mkdir s1/d",
			    fixture_dir),
			 0);
	top = identity_of("mb");
	sub = identity_of("mb/s1");
	sub2 = identity_of("mb/s2");
	again = identity_of("mb/s1/d");
	assert_true(top.has_uuid && top.is_stable);
	assert_memory_equal(top.uuid, sub.uuid, 16);
	assert_false(is_same(top, sub));
	assert_false(is_same(sub, sub2));
	assert_true(is_same(sub, again));
	/* met inside of the layer that is the top */
	assert_int_equal(open_lowers("mb", 0, false, &stack), 0);
	fd = openat(stack.layers[1].fd, "s1", O_PATH | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(rvl_identity_get(&stack.layers[1], fd, st.st_dev, &again), 0);
	assert_true(is_same(sub, again));
	rvl_stack_release(&stack);
	/* a subvolume mounted alone, and after a remount */
	umount2(at("mb"), 0);
	assert_int_equal(sh("mount -o loop,subvol=s1 %s/b.img %s/mb", fixture_dir, fixture_dir), 0);
	assert_true(is_same(sub, identity_of("mb")));
	umount2(at("mb"), 0);
}

static void tmpfs_is_not_stable(void **state)
{
	struct rvl_identity a, b;

	need_mounts();
	make_dir(at("mt1/x"));
	make_dir(at("mt2"));
	assert_int_equal(mount("none", at("mt1"), "tmpfs", 0, NULL), 0);
	assert_int_equal(mount("none", at("mt2"), "tmpfs", 0, NULL), 0);
	make_dir(at("mt1/x"));
	a = identity_of("mt1");
	b = identity_of("mt2");
	assert_false(a.is_stable);
	assert_false(is_same(a, b));
	assert_true(is_same(a, identity_of("mt1/x")));
}

static void overlays_are_stable(void **state)
{
	/* Known by the real object of the root, over a remount, with any xino; another overlay is
	 * another one. */
	struct rvl_identity a, b;

	need_mounts();
	make_dir(at("mo"));
	make_dir(at("mt3"));
	assert_int_equal(mount("none", at("mt3"), "tmpfs", 0, NULL), 0);
	make_dir(at("mt3/l"));
	make_dir(at("l2"));
	make_file(at("mt3/l/f"), "");
	if (sh("mount -t overlay overlay -o ro,xino=off,lowerdir=%s/mt3/l:%s/l2 %s/mo 2>/dev/null",
	       fixture_dir, fixture_dir, fixture_dir)) {
		print_message("# skipped: no kernel overlay\n");
		skip();
	}
	a = identity_of("mo");
	assert_true(a.is_stable && a.inos == RVL_INOS_OVERLAY);
	umount2(at("mo"), 0);
	assert_int_equal(sh("mount -t overlay overlay -o ro,xino=on,lowerdir=%s/mt3/l:%s/l2 %s/mo",
			    fixture_dir, fixture_dir, fixture_dir),
			 0);
	assert_true(is_same(a, identity_of("mo")));
	umount2(at("mo"), 0);
	assert_int_equal(sh("mount -t overlay overlay -o ro,lowerdir=%s/l2:%s/mt3/l %s/mo",
			    fixture_dir, fixture_dir, fixture_dir),
			 0);
	b = identity_of("mo");
	assert_false(is_same(a, b));
	umount2(at("mo"), 0);
}

static void another_device_than_that_of_the_place_is_transient(void **state)
{
	struct rvl_identity id;
	struct rvl_stack s;

	make_dir(at("plain"));
	assert_int_equal(open_lowers("plain", 0, false, &s), 0);
	assert_int_equal(rvl_identity_get(&s.layers[1], s.layers[1].fd, s.layers[1].dev + 7, &id),
			 0);
	assert_false(id.is_stable);
	rvl_stack_release(&s);
}

static void no_descriptors_are_an_error(void **state)
{
	/* With any number of descriptors left: the same digest or an error that says why. */
	struct rlimit old, limit;
	struct rvl_identity wanted, id;
	unsigned n_errors = 0;
	struct rvl_stack s;
	int next;

	make_dir(at("plain"));
	assert_int_equal(open_lowers("plain", 0, false, &s), 0);
	assert_int_equal(rvl_identity_get(&s.layers[1], s.layers[1].fd, s.layers[1].dev, &wanted),
			 0);
	next = dup(0);
	close(next);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
	for (int i = 0; i < 8; i++) {
		int r;

		limit = (struct rlimit){ .rlim_cur = (rlim_t)(next + i), .rlim_max = old.rlim_max };
		assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
		r = rvl_identity_get(&s.layers[1], s.layers[1].fd, s.layers[1].dev, &id);
		assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
		n_errors += r != 0;
		assert_true(r == -EMFILE || (r == 0 && is_same(id, wanted)));
	}
	assert_true(n_errors > 0 && n_errors < 8);
	rvl_stack_release(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(squashfs_images),
		cmocka_unit_test(erofs_images),
		cmocka_unit_test(ext4_images),
		cmocka_unit_test(ext4_without_uuid),
		cmocka_unit_test(xfs_images),
		cmocka_unit_test(uuid_is_found),
		cmocka_unit_test(btrfs_subvolumes_differ),
		cmocka_unit_test(tmpfs_is_not_stable),
		cmocka_unit_test(overlays_are_stable),
		cmocka_unit_test(another_device_than_that_of_the_place_is_transient),
		cmocka_unit_test(no_descriptors_are_an_error),
	};

	return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
