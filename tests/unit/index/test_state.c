// SPDX-License-Identifier: GPL-2.0-or-later
/* The state file: encoding, damage, atomic replacement. */
#include "fixture.h"

static struct rvl_state *sample(void)
{
	struct rvl_state *state;
	struct rvl_state_instance instance = { .id = 0, .fs_magic = 0xef53 };

	assert_int_equal(rvl_state_new(&state), 0);
	memset(instance.digest, 7, 16);
	assert_int_equal(rvl_state_instance_add(state, &instance), 0);
	for (uint16_t i = 0; i < RVL_COUNTER_N; i++) {
		instance = (struct rvl_state_instance){ .id = 0x4000 + i,
							.flags = RVL_INSTANCE_COUNTER };
		instance.digest[0] = (uint8_t)(100 + i);
		assert_int_equal(rvl_state_instance_add(state, &instance), 0);
		state->counters[i].instance = instance.id;
		state->counters[i].next = 1000 + i;
	}
	state->upper =
		(struct rvl_state_root){ .ino = 12, .path = strdup("/upper, with: odd\\name") };
	state->upper.handle.type = 1;
	state->upper.handle.len = 8;
	memset(state->upper.handle.fid, 3, 8);
	state->work = (struct rvl_state_root){ .ino = 13, .path = strdup("/work") };
	state->map_serial = 7;
	memset(state->former_uuid, 0x5a, sizeof(state->former_uuid));
	state->lowers = calloc(2, sizeof(*state->lowers));
	state->n_lowers = 2;
	state->lowers[0] = (struct rvl_state_root){ .ino = 20, .path = strdup("/l1"), .flags = 1 };
	state->lowers[1] = (struct rvl_state_root){ .ino = 21, .path = strdup("") };
	return state;
}

static void assert_same(const struct rvl_state *a, const struct rvl_state *b)
{
	assert_memory_equal(a->uuid, b->uuid, 16);
	assert_memory_equal(a->key, b->key, 32);
	assert_int_equal(a->flags, b->flags);
	assert_int_equal(a->map_serial, b->map_serial);
	assert_memory_equal(a->former_uuid, b->former_uuid, 16);
	assert_int_equal(a->n_instances, b->n_instances);
	assert_memory_equal(a->used_ids, b->used_ids, sizeof(a->used_ids));
	for (unsigned i = 0; i < a->n_instances; i++)
		assert_memory_equal(&a->instances[i], &b->instances[i], sizeof(a->instances[i]));
	for (int i = 0; i < RVL_COUNTER_N; i++)
		assert_true(a->counters[i].next == b->counters[i].next);
	assert_int_equal(a->n_lowers, b->n_lowers);
	for (unsigned i = 0; i < a->n_lowers; i++) {
		assert_true(a->lowers[i].ino == b->lowers[i].ino);
		assert_int_equal(a->lowers[i].flags, b->lowers[i].flags);
		assert_string_equal(a->lowers[i].path, b->lowers[i].path);
	}
	assert_string_equal(a->upper.path, b->upper.path);
	assert_true(rvl_handle_equal(&a->upper.handle, &b->upper.handle));
	assert_true(a->work.ino == b->work.ino);
}

static void what_is_encoded_is_decoded(void **unused)
{
	struct rvl_state *state = sample(), *other;
	uint8_t *data;
	size_t len;

	assert_int_equal(rvl_state_encode(state, &data, &len), 0);
	assert_int_equal(rvl_state_decode(data, len, &other), 0);
	assert_same(state, other);
	free(data);
	rvl_state_free(state);
	rvl_state_free(other);
}

static void each_damaged_byte_and_length_is_found(void **unused)
{
	/* The checksum covers all: every flipped bit and every length but the right one is
	 * EUCLEAN. */
	struct rvl_state *state = sample(), *other;
	uint8_t *data;
	size_t len;

	assert_int_equal(rvl_state_encode(state, &data, &len), 0);
	for (size_t i = 0; i < len * 8; i++) {
		data[i / 8] ^= (uint8_t)(1 << i % 8);
		assert_int_equal(rvl_state_decode(data, len, &other), -EUCLEAN);
		data[i / 8] ^= (uint8_t)(1 << i % 8);
	}
	for (size_t i = 0; i < len; i++)
		assert_int_equal(rvl_state_decode(data, i, &other), -EUCLEAN);
	free(data);
	rvl_state_free(state);
}

static void checksummed_nonsense_is_refused(void **unused)
{
	/* A forger can make checksums: what is inside is validated too, and never read beyond its
	 * end. */
	struct rvl_state *state = sample(), *other;
	uint8_t *data;
	size_t len;
	unsigned n_ok = 0;

	assert_int_equal(rvl_state_encode(state, &data, &len), 0);
	for (size_t i = 16; i < len; i++) {
		for (unsigned v = 0; v < 4; v++) {
			static const uint8_t values[] = { 0, 1, 0x7f, 0xff };
			uint8_t old = data[i];
			uint64_t sum;
			int r;

			data[i] = values[v];
			sum = htole64(rvl_hash(data + 16, len - 16));
			memcpy(data + 8, &sum, 8);
			r = rvl_state_decode(data, len, &other);
			if (!r) {
				n_ok++;
				rvl_state_free(other);
			} else {
				assert_true(r == -EUCLEAN || r == -EPROTONOSUPPORT);
			}
			data[i] = old;
		}
	}
	assert_true(n_ok > 0);
	free(data);
	rvl_state_free(state);
}

static void newer_formats_are_named(void **unused)
{
	/* A version or an incompatible feature of the future is EPROTONOSUPPORT, not damage. */
	static const unsigned offsets[] = { 16, 32 };
	struct rvl_state *state = sample(), *other;

	for (int i = 0; i < 2; i++) {
		uint8_t *data;
		uint64_t sum;
		size_t len;

		assert_int_equal(rvl_state_encode(state, &data, &len), 0);
		data[offsets[i]] = 0x80;
		sum = htole64(rvl_hash(data + 16, len - 16));
		memcpy(data + 8, &sum, 8);
		assert_int_equal(rvl_state_decode(data, len, &other), -EPROTONOSUPPORT);
		free(data);
	}
	rvl_state_free(state);
}

static void saving_replaces_and_keeps_the_former(void **unused)
{
	struct rvl_state *state = sample(), *other;
	int fd = open(at("w"), O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	assert_int_equal(rvl_state_load(fd, &other), -ENOENT);
	assert_int_equal(rvl_state_save(state, fd, false), 0);
	state->counters[0].next = 77777;
	assert_int_equal(rvl_state_save(state, fd, true), 0);
	assert_int_equal(rvl_state_load(fd, &other), 0);
	assert_same(state, other);
	rvl_state_free(other);
	assert_int_equal(rename(at("w/state.new"), at("w/state")), 0);
	assert_int_equal(rvl_state_load(fd, &other), 0);
	assert_true(other->counters[0].next == 1000);
	rvl_state_free(state);
	rvl_state_free(other);
	close(fd);
}

static void a_temp_that_is_not_ours_is_left_alone(void **unused)
{
	/* What lies at state.new is written to only if that is its one name: not through a symlink, not to a
	 * link of the state itself, not to a fifo that nobody reads. */
	struct rvl_state *state = sample(), *other;
	int fd = open(at("w"), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct stat st;

	assert_int_equal(rvl_state_save(state, fd, false), 0);
	for (int i = 0; i < 3; i++) {
		unlink(at("w/state.new"));
		if (i == 0)
			assert_int_equal(link(at("w/state"), at("w/state.new")), 0);
		else if (i == 1)
			assert_int_equal(symlink("state", at("w/state.new")), 0);
		else
			assert_int_equal(mkfifo(at("w/state.new"), 0600), 0);
		state->counters[0].next = 2000 + (uint64_t)i;
		assert_int_equal(rvl_state_save(state, fd, false), 0);
		assert_int_equal(rvl_state_load(fd, &other), 0);
		assert_same(state, other);
		rvl_state_free(other);
		assert_int_equal(lstat(at("w/state"), &st), 0);
		assert_true(S_ISREG(st.st_mode));
	}
	rvl_state_free(state);
	close(fd);
}

static void a_torn_temp_is_of_no_account(void **unused)
{
	/* The process died while it wrote state.new: the old state is the state, and the next save
	 * works. */
	struct rvl_state *state = sample(), *other;
	int fd = open(at("w"), O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	assert_int_equal(rvl_state_save(state, fd, false), 0);
	write_whole(at("w/state.new"), (const uint8_t *)"RVLSTATE torn", 13);
	assert_int_equal(rvl_state_load(fd, &other), 0);
	assert_same(state, other);
	rvl_state_free(other);
	assert_int_equal(rvl_state_save(state, fd, false), 0);
	assert_int_equal(rvl_state_load(fd, &other), 0);
	rvl_state_free(other);
	rvl_state_free(state);
	close(fd);
}

static void full_disk_keeps_the_old_state(void **unused)
{
	struct rvl_state *state = sample(), *other;
	int fd, r;

	need_mounts();
	assert_int_equal(sh("mkdir m && mount -t tmpfs -o size=64k none m"), 0);
	fd = open(at("m"), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(rvl_state_save(state, fd, false), 0);
	sh("head -c 1M /dev/zero > m/fill 2>/dev/null");
	state->counters[0].next = 5555;
	r = rvl_state_save(state, fd, false);
	assert_int_equal(r, -ENOSPC);
	assert_int_equal(rvl_state_load(fd, &other), 0);
	assert_true(other->counters[0].next == 1000);
	rvl_state_free(other);
	/* once there has been a former one, its room is enough */
	sh("rm m/fill");
	assert_int_equal(rvl_state_save(state, fd, false), 0);
	sh("head -c 1M /dev/zero > m/fill 2>/dev/null");
	state->counters[0].next = 6666;
	assert_int_equal(rvl_state_save(state, fd, false), 0);
	assert_int_equal(rvl_state_load(fd, &other), 0);
	assert_true(other->counters[0].next == 6666);
	rvl_state_free(other);
	rvl_state_free(state);
	close(fd);
}

static void symlinks_and_fifos_are_not_states(void **unused)
{
	struct rvl_state *state;
	int fd = open(at("w"), O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	assert_int_equal(symlink("/etc/passwd", at("w/state")), 0);
	assert_int_equal(rvl_state_load(fd, &state), -EUCLEAN);
	assert_int_equal(unlink(at("w/state")), 0);
	assert_int_equal(mkfifo(at("w/state"), 0600), 0);
	assert_int_equal(rvl_state_load(fd, &state), -EUCLEAN);
	close(fd);
}

static void free_ids_are_found_and_used_up(void **unused)
{
	struct rvl_state *state;
	uint16_t id;

	assert_int_equal(rvl_state_new(&state), 0);
	assert_int_equal(rvl_state_instance_free_id(state, 0, &id), 0);
	assert_int_equal(id, 0);
	for (unsigned i = 1; i <= RVL_INSTANCE_MAX; i++) {
		struct rvl_state_instance instance = { .id = (uint16_t)i };

		memcpy(instance.digest, &i, sizeof(i));
		assert_int_equal(rvl_state_instance_add(state, &instance), 0);
	}
	assert_int_equal(rvl_state_instance_free_id(state, 5, &id), -EOVERFLOW);
	rvl_state_free(state);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(what_is_encoded_is_decoded),		 T(each_damaged_byte_and_length_is_found),
		T(checksummed_nonsense_is_refused),	 T(newer_formats_are_named),
		T(saving_replaces_and_keeps_the_former), T(a_temp_that_is_not_ours_is_left_alone),
		T(a_torn_temp_is_of_no_account),	 T(full_disk_keeps_the_old_state),
		T(symlinks_and_fifos_are_not_states),	 T(free_ids_are_found_and_used_up),
	};

	return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
