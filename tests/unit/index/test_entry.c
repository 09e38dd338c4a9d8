// SPDX-License-Identifier: GPL-2.0-or-later
/* Entries: links, directory records, tombstones. */
#include "fixture.h"

static enum rvl_entry_kind look(uint64_t number)
{
	enum rvl_entry_kind kind;
	struct statx st;

	assert_int_equal(rvl_entry_look(idx, number, &kind, &st), 0);
	return kind;
}

static void paths_spread_over_256_directories(void **unused)
{
	char path[RVL_ENTRY_PATH_SIZE];

	rvl_entry_path(163, path);
	assert_string_equal(path, "a3/#163");
	rvl_entry_path(0x7fffffffffffffffULL, path);
	assert_string_equal(path, "ff/#9223372036854775807");
}

static void a_link_is_the_object(void **unused)
{
	enum rvl_entry_kind kind;
	struct statx st;

	assert_int_equal(open_index("l1", "u", "w", 0), 0);
	make_file(at("u/f"));
	assert_int_equal(look(5000), RVL_ENTRY_NONE);
	assert_int_equal(rvl_entry_link(idx, stack.layers[0].fd, "f", 5000), 0);
	assert_int_equal(rvl_entry_look(idx, 5000, &kind, &st), 0);
	assert_int_equal(kind, RVL_ENTRY_OBJECT);
	assert_true(st.stx_ino == ino_of(at("u/f")));
	assert_int_equal(st.stx_nlink, 2);
	assert_int_equal(rvl_entry_link(idx, stack.layers[0].fd, "f", 5000), -EEXIST);
	assert_int_equal(rvl_entry_link(idx, stack.layers[0].fd, "absent", 5001), -ENOENT);
}

static void a_link_that_is_not_needed_moves(void **unused)
{
	assert_int_equal(open_index("l1", "u", "w", 0), 0);
	make_file(at("u/f"));
	assert_int_equal(link(at("u/f"), at("w/spare")), 0);
	assert_int_equal(rvl_entry_move(idx, stack.work_fd, "spare", 5007), 0);
	assert_int_equal(look(5007), RVL_ENTRY_OBJECT);
	assert_int_equal(access(at("w/spare"), F_OK), -1);
	/* no entry is replaced */
	make_file(at("w/other"));
	assert_int_equal(rvl_entry_move(idx, stack.work_fd, "other", 5007), -EEXIST);
	assert_int_equal(access(at("w/other"), F_OK), 0);
	assert_int_equal(rvl_entry_move(idx, stack.work_fd, "absent", 5008), -ENOENT);
	assert_int_equal(look(5008), RVL_ENTRY_NONE);
}

static void descriptors_without_a_name_can_be_linked(void **unused)
{
	int fd;

	assert_int_equal(open_index("l1", "u", "w", 0), 0);
	fd = openat(stack.layers[0].fd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(rvl_entry_link(idx, fd, "", 5002), 0);
	assert_int_equal(look(5002), RVL_ENTRY_OBJECT);
	close(fd);
	make_file(at("u/f"));
	fd = openat(stack.layers[0].fd, "f", O_PATH | O_CLOEXEC);
	assert_int_equal(rvl_entry_link(idx, fd, "", 5003), 0);
	close(fd);
}

static void empty_objects_of_mode_0_are_objects(void **unused)
{
	/* They look like a directory's record till its attribute is asked for. */
	assert_int_equal(open_index("l1", "u", "w", 0), 0);
	make_file(at("u/f"));
	assert_int_equal(chmod(at("u/f"), 0), 0);
	assert_int_equal(rvl_entry_link(idx, stack.layers[0].fd, "f", 5004), 0);
	assert_int_equal(look(5004), RVL_ENTRY_OBJECT);
}

static void fill(struct rvl_entry_directory *dir, bool is_merged)
{
	*dir = (struct rvl_entry_directory){ .path = { .parent = 1 }, .is_merged = is_merged };
	memset(dir->path.name, 'n', NAME_MAX);
	dir->upper.len = 8;
	dir->upper.type = 1;
	memset(dir->upper.fid, 9, 8);
	if (is_merged) {
		dir->lower = dir->upper;
		dir->place = (struct rvl_name_at){ 77, "below" };
	}
}

static void directory_records_come_back(void **unused)
{
	for (int flags = 0; flags <= USERXATTR; flags += USERXATTR) {
		struct rvl_entry_directory dir, out;

		assert_int_equal(open_index("l1", "u", "w", flags), 0);
		for (int is_merged = 0; is_merged < 2; is_merged++) {
			uint64_t number = 6000 + (uint64_t)is_merged;

			fill(&dir, is_merged);
			assert_int_equal(rvl_entry_put_directory(idx, number, &dir, false), 0);
			assert_int_equal(rvl_entry_put_directory(idx, number, &dir, false),
					 -EEXIST);
			assert_int_equal(rvl_entry_put_directory(idx, number, &dir, true), 0);
			assert_int_equal(look(number), RVL_ENTRY_DIRECTORY);
			assert_int_equal(rvl_entry_get_directory(idx, number, &out), 0);
			assert_string_equal(out.path.name, dir.path.name);
			assert_int_equal(out.is_merged, is_merged);
			assert_true(rvl_handle_equal(&out.upper, &dir.upper));
			if (is_merged) {
				assert_true(rvl_handle_equal(&out.lower, &dir.lower));
				assert_string_equal(out.place.name, "below");
				assert_int_equal(out.place.parent, 77);
			}
			assert_int_equal(rvl_entry_set_path(idx, number,
							    &(struct rvl_name_at){ 5, "renamed" }),
					 0);
			assert_int_equal(rvl_entry_get_directory(idx, number, &out), 0);
			assert_string_equal(out.path.name, "renamed");
			assert_int_equal(out.path.parent, 5);
		}
		assert_int_equal(sh("test -z \"$(ls w/work)\""), 0);
		close_index();
		assert_int_equal(sh("rm -r u w && mkdir u w"), 0);
	}
}

static void records_of_another_kind_are_not_directories(void **unused)
{
	struct rvl_entry_directory out;

	assert_int_equal(open_index("l1", "u", "w", 0), 0);
	make_file(at("u/f"));
	assert_int_equal(rvl_entry_get_directory(idx, 6100, &out), -ENOENT);
	assert_int_equal(rvl_entry_link(idx, stack.layers[0].fd, "f", 6100), 0);
	assert_int_equal(rvl_entry_get_directory(idx, 6100, &out), -EUCLEAN);
	assert_int_equal(mkdir(at("w/inodes/05"), 0700) && errno != EEXIST, 0);
	assert_int_equal(mkdir(at("w/inodes/05/#5"), 0700), 0);
	assert_int_equal(rvl_entry_look(idx, 5, &(enum rvl_entry_kind){ 0 }, &(struct statx){ 0 }),
			 -EUCLEAN);
}

static void damaged_records_are_refused(void **unused)
{
	static const char *const names[] = { "path", "upper", "fh", "place" };
	struct rvl_entry_directory dir, out;

	assert_int_equal(open_index("l1", "u", "w", 0), 0);
	fill(&dir, true);
	dir.path.name[20] = 0;
	for (unsigned i = 0; i < 4; i++) {
		uint8_t value[RVL_NAME_AT_ENCODED_MAX + 8] = { 0 };
		char name[64];

		snprintf(name, sizeof(name), "trusted.overlay.%s", names[i]);
		for (size_t len = 0; len < sizeof(value); len += 3) {
			assert_int_equal(rvl_entry_put_directory(idx, 0x7100, &dir, true), 0);
			memset(value, i % 3 ? (int)len : 0xff,
			       sizeof(value)); /* a parent with bit 63 */
			assert_int_equal(setxattr(at("w/inodes/00/#28928"), name, value, len, 0),
					 0);
			assert_int_equal(rvl_entry_get_directory(idx, 0x7100, &out), -EUCLEAN);
		}
	}
}

static void names_are_validated(void **unused)
{
	static const char *const bad[] = { "", ".", "..", "a/b" };
	uint8_t buf[RVL_NAME_AT_ENCODED_MAX];
	struct rvl_name_at in = { 7, "good" }, out;
	unsigned len = rvl_name_at_encode(&in, buf);

	assert_int_equal(rvl_name_at_decode(buf, len, &out), 0);
	assert_string_equal(out.name, "good");
	for (unsigned i = 0; i < 4; i++) {
		snprintf(in.name, sizeof(in.name), "%s", bad[i]);
		len = rvl_name_at_encode(&in, buf);
		assert_int_equal(rvl_name_at_decode(buf, len, &out), -EUCLEAN);
	}
	for (len = 0; len <= 8; len++)
		assert_int_equal(rvl_name_at_decode(buf, len, &out), -EUCLEAN);
	in = (struct rvl_name_at){ 0, "x" };
	assert_int_equal(rvl_name_at_decode(buf, rvl_name_at_encode(&in, buf), &out), -EUCLEAN);
	in = (struct rvl_name_at){ 1ULL << 63, "x" };
	assert_int_equal(rvl_name_at_decode(buf, rvl_name_at_encode(&in, buf), &out), -EUCLEAN);
}

static void the_dead_get_tombstones_or_nothing(void **unused)
{
	for (int flags = 0; flags <= USERXATTR; flags += USERXATTR) {
		assert_int_equal(open_index("l1", "u", "w", flags), 0);
		make_file(at("u/f"));
		assert_int_equal(rvl_entry_link(idx, stack.layers[0].fd, "f", 8000), 0);
		assert_int_equal(rvl_entry_link(idx, stack.layers[0].fd, "f", 8001), 0);
		assert_int_equal(rvl_entry_bury(idx, 8000, true), 0);
		assert_int_equal(look(8000), RVL_ENTRY_TOMBSTONE);
		assert_int_equal(rvl_entry_bury(idx, 8000, true), 0); /* again: the same */
		assert_int_equal(look(8000), RVL_ENTRY_TOMBSTONE);
		assert_int_equal(rvl_entry_link(idx, stack.layers[0].fd, "f", 8000), -EEXIST);
		assert_int_equal(rvl_entry_bury(idx, 8001, false), 0);
		assert_int_equal(look(8001), RVL_ENTRY_NONE);
		assert_int_equal(rvl_entry_bury(idx, 8001, false), 0);
		assert_int_equal(rvl_entry_bury(idx, 8002, true), 0); /* never had an entry */
		assert_int_equal(look(8002), RVL_ENTRY_TOMBSTONE);
		assert_int_equal(sh("test -z \"$(ls w/work)\""), 0);
		close_index();
		assert_int_equal(sh("rm -r u w && mkdir u w"), 0);
	}
}

static void tombstones_without_devices(void **unused)
{
	/* Where mknod of 0:0 is refused, they have the xattr form. */
	assert_int_equal(open_index("l1", "u", "w", 0), 0);
	idx->features.has_char_whiteouts = false;
	assert_int_equal(rvl_entry_bury(idx, 8100, true), 0);
	assert_int_equal(look(8100), RVL_ENTRY_TOMBSTONE);
}

static void tombstones_go_on_after_emlink(void **unused)
{
	/* ext4 stops at 65,000 links: the next one starts a new inode. */
	struct stat st;

	assert_int_equal(open_index("l1", "u", "w", 0), 0);
	assert_int_equal(rvl_entry_bury(idx, 1 << 8, true), 0);
	assert_int_equal(mkdir(at("links"), 0700), 0);
	for (unsigned i = 0;; i++) {
		if (link(at("w/inodes/tombstone"), at("links/%u", i))) {
			if (errno != EMLINK || i > 70000) {
				print_message("# skipped: no limit of links here\n");
				skip();
			}
			break;
		}
		if (i > 70000) {
			print_message("# skipped: more than 70000 links\n");
			skip();
		}
	}
	assert_int_equal(rvl_entry_bury(idx, 2 << 8, true), 0);
	assert_int_equal(look(2 << 8), RVL_ENTRY_TOMBSTONE);
	assert_int_equal(lstat(at("w/inodes/00/#512"), &st), 0);
	assert_int_equal(st.st_nlink, 2);
}

static void objects_get_another_number(void **unused)
{
	struct rvl_id id, stamp;
	struct statx st;

	assert_int_equal(open_index("l1", "u", "w", 0), 0);
	make_file(at("u/f"));
	assert_int_equal(rvl_path_statx(stack.layers[0].fd, "f", RVL_STATX_MASK, &st), 0);
	assert_int_equal(rvl_entry_link(idx, stack.layers[0].fd, "f", 9000), 0);
	assert_int_equal(rvl_entry_renumber(idx, 9000, stack.layers[0].fd, "f", &st, NULL, &id), 0);
	assert_int_equal(look(9000), RVL_ENTRY_NONE);
	assert_int_equal(look(id.number), RVL_ENTRY_OBJECT);
	assert_int_equal(rvl_stamp_get(idx, stack.layers[0].fd, "f", S_IFREG, st.stx_ino, &stamp), 0);
	assert_true(stamp.number == id.number);
}

static void directories_get_another_number(void **unused)
{
	struct rvl_entry_directory dir, out;
	struct rvl_id id, stamp;
	struct statx st;

	assert_int_equal(open_index("l1", "u", "w", 0), 0);
	assert_int_equal(mkdir(at("u/d"), 0700), 0);
	assert_int_equal(rvl_path_statx(stack.layers[0].fd, "d", RVL_STATX_MASK, &st), 0);
	fill(&dir, true);
	assert_int_equal(rvl_entry_put_directory(idx, 9001, &dir, false), 0);
	/* the stamp fails: nothing is left of the attempt */
	assert_int_equal(rvl_entry_renumber(idx, 9001, stack.layers[0].fd, "absent", &st, &dir, &id),
			 -ENOENT);
	assert_int_equal(look(9001), RVL_ENTRY_DIRECTORY);
	assert_int_equal(look(id.number), RVL_ENTRY_NONE);
	assert_int_equal(rvl_entry_renumber(idx, 9001, stack.layers[0].fd, "d", &st, &dir, &id), 0);
	assert_int_equal(look(9001), RVL_ENTRY_NONE);
	assert_int_equal(rvl_entry_get_directory(idx, id.number, &out), 0);
	assert_true(rvl_name_at_equal(&out.path, &dir.path));
	assert_int_equal(rvl_stamp_get(idx, stack.layers[0].fd, "d", S_IFDIR, st.stx_ino, &stamp), 0);
	assert_true(stamp.number == id.number);
}

/* Of an object of lower, whose number that is: is it of another life than the entry's? */
static int is_other(uint64_t number, const char *name)
{
	static uint8_t uuids[2][16];
	struct rvl_found found = { 0 };
	struct rvl_places root = { 0 };
	int r;

	assert_int_equal(rvl_places_of_root(&stack, &root), 0);
	assert_int_equal(rvl_merge_lookup(&stack, &root, name, NULL, NULL, &found), 0);
	assert_true(found.places.n > 0);
	r = rvl_entry_is_of_other_life(idx, number, &found, uuids);
	rvl_found_release(&found);
	rvl_places_release(&root);
	return r;
}

static void set_origin(const struct rvl_handle *handle)
{
	uint8_t value[RVL_HANDLE_ENCODED_MAX];

	assert_int_equal(setxattr(at("u/f"), "trusted.overlay.origin", value,
				  (size_t)rvl_handle_encode(handle, value), 0),
			 0);
}

static void lives_are_told_by_what_an_entry_is_of(void **unused)
{
	struct rvl_entry_directory dir;
	struct rvl_handle handle;

	make_file(at("l1/f"));
	assert_int_equal(sh("mkdir l1/d"), 0);
	assert_int_equal(open_index("l1", "u", "w", 0), 0);
	/* no entry, a dead object, one of another type */
	assert_int_equal(is_other(9100, "f"), 0);
	assert_int_equal(rvl_entry_bury(idx, 9101, true), 0);
	assert_int_equal(is_other(9101, "f"), 0);
	make_file(at("u/f"));
	assert_int_equal(rvl_entry_link(idx, stack.layers[0].fd, "f", 9102), 0);
	assert_int_equal(is_other(9102, "d"), 1);
	/* an origin that is not known; its own; that of a former life */
	assert_int_equal(is_other(9102, "f"), 0);
	if (rvl_handle_get(stack.layers[1].fd, "f", NULL, &handle) || handle.len < 8) {
		print_message("# skipped: no handles here\n");
		skip();
	}
	set_origin(&handle);
	assert_int_equal(is_other(9102, "f"), 0);
	handle.fid[handle.len - 1] ^= 1;
	set_origin(&handle);
	assert_int_equal(is_other(9102, "f"), 1);
	/* of a directory: another type, none is known, and both lives */
	fill(&dir, false);
	assert_int_equal(rvl_entry_put_directory(idx, 9103, &dir, false), 0);
	assert_int_equal(is_other(9103, "f"), 1);
	assert_int_equal(is_other(9103, "d"), 0);
	fill(&dir, true);
	rvl_handle_for_entry(stack.layers[1].fd, "d", &dir.lower);
	assert_int_equal(rvl_entry_put_directory(idx, 9103, &dir, true), 0);
	assert_int_equal(is_other(9103, "d"), 0);
	dir.lower.fid[dir.lower.len - 1] ^= 1;
	assert_int_equal(rvl_entry_put_directory(idx, 9103, &dir, true), 0);
	assert_int_equal(is_other(9103, "d"), 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(paths_spread_over_256_directories),
		T(a_link_is_the_object),
		T(a_link_that_is_not_needed_moves),
		T(descriptors_without_a_name_can_be_linked),
		T(empty_objects_of_mode_0_are_objects),
		T(directory_records_come_back),
		T(records_of_another_kind_are_not_directories),
		T(damaged_records_are_refused),
		T(names_are_validated),
		T(the_dead_get_tombstones_or_nothing),
		T(tombstones_without_devices),
		T(tombstones_go_on_after_emlink),
		T(objects_get_another_number),
		T(directories_get_another_number),
		T(lives_are_told_by_what_an_entry_is_of),
	};

	return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
