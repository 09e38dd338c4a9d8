// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Decoders of private attributes: a row for each, with the one decode function that its record has.
 */
#include "tools/decode.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "index/entry.h"
#include "index/number.h"
#include "index/stamp.h"
#include "index/table.h"
#include "layer/fetch.h"
#include "layer/handle.h"
#include "layer/xattr.h"
#include "tools/output.h"

typedef json_t *decode_fn(const uint8_t *value, size_t len);

/* ---- one decoder a kind of record; NULL: malformed ---- */

static json_t *decode_text(const uint8_t *value, size_t len)
{
	return rvl_output_string((const char *)value, len);
}

static json_t *decode_uuid(const uint8_t *value, size_t len)
{
	return len == 16 ? rvl_output_hex(value, len) : NULL;
}

static json_t *decode_handle(const uint8_t *value, size_t len)
{
	struct rvl_handle handle;
	json_t *object;

	/* The kernel's "has no origin that could be named". */
	if (len == 0)
		return json_string("none");
	if (rvl_handle_decode(value, len, &handle) < 0)
		return NULL;
	object = json_object();
	json_object_set_new(object, "filesystem", rvl_output_hex(handle.uuid, sizeof(handle.uuid)));
	json_object_set_new(object, "type", json_integer(handle.type));
	json_object_set_new(object, "handle", rvl_output_hex(handle.fid, handle.len));
	return object;
}

static json_t *decode_stamp(const uint8_t *value, size_t len)
{
	struct rvl_id id;
	json_t *object;

	if (rvl_stamp_decode(value, len, &id) < 0)
		return NULL;
	object = json_object();
	json_object_set_new(object, "number", json_integer(id.number));
	json_object_set_new(object, "instance", json_integer(id.number >> RVL_INSTANCE_SHIFT));
	json_object_set_new(object, "generation", json_integer(id.generation));
	return object;
}

static json_t *decode_name_at(const uint8_t *value, size_t len)
{
	struct rvl_name_at at;
	json_t *object;

	if (rvl_name_at_decode(value, len, &at) < 0)
		return NULL;
	object = json_object();
	json_object_set_new(object, "parent", json_integer(at.parent));
	json_object_set_new(object, "name", rvl_output_string(at.name, strlen(at.name)));
	return object;
}

/* What a fetch of its data takes from a metacopy file (layer/fetch.h). */
static json_t *decode_fetch(const struct rvl_kept *kept)
{
	json_t *object = json_object();

	json_object_set_new(object, "fetch_size", json_integer((json_int_t)kept->st.stx_size));
	json_object_set_new(object, "mode", json_sprintf("%04o", kept->st.stx_mode));
	json_object_set_new(object, "uid", json_integer(kept->st.stx_uid));
	json_object_set_new(object, "gid", json_integer(kept->st.stx_gid));
	json_object_set_new(object, "mtime", json_pack("[I,i]", (json_int_t)kept->st.stx_mtime.tv_sec,
							(int)kept->st.stx_mtime.tv_nsec));
	json_object_set_new(object, "capability", rvl_output_hex((const uint8_t *)kept->capability,
								 (size_t)kept->capability_len));
	return object;
}

static json_t *decode_metacopy(const uint8_t *value, size_t len)
{
	struct rvl_kept kept;
	json_t *object;
	int kind = rvl_metacopy_decode(value, len, &kept);

	if (kind < 0)
		return NULL;
	if (kind == RVL_METACOPY_PLAIN)
		return json_string("without digest");
	if (kind == RVL_METACOPY_FETCH)
		return decode_fetch(&kept);
	object = json_object();
	json_object_set_new(object, "flags", json_integer(value[2]));
	json_object_set_new(object, "algorithm", json_integer(value[3]));
	json_object_set_new(object, "digest", rvl_output_hex(value + 4, len - 4));
	return object;
}

static json_t *decode_instances(const uint8_t *value, size_t len)
{
	_cleanup_free_ struct rvl_table *table = malloc(sizeof(*table));
	json_t *object, *rows;

	if (!table || rvl_table_decode(value, len, table) < 0)
		return NULL;
	object = json_object();
	rows = json_object();
	json_object_set_new(object, "overlay", rvl_output_hex(table->uuid, sizeof(table->uuid)));
	json_object_set_new(object, "truncated", json_boolean(table->is_truncated));
	for (unsigned i = 0; i < table->n; i++) {
		const struct rvl_table_row *row = &table->rows[i];
		char id[16];

		snprintf(id, sizeof(id), "%u", row->id);
		json_object_set_new(rows, id, rvl_output_hex(row->digest, sizeof(row->digest)));
	}
	json_object_set_new(object, "instances", rows);
	return object;
}

static decode_fn *const decoders[RVL_XATTR_N] = {
	[RVL_XATTR_OPAQUE] = decode_text,     [RVL_XATTR_REDIRECT] = decode_text,
	[RVL_XATTR_ORIGIN] = decode_handle,   [RVL_XATTR_IMPURE] = decode_text,
	[RVL_XATTR_NLINK] = decode_text,      [RVL_XATTR_UPPER] = decode_handle,
	[RVL_XATTR_UUID] = decode_uuid,	      [RVL_XATTR_METACOPY] = decode_metacopy,
	[RVL_XATTR_PROTATTR] = decode_text,   [RVL_XATTR_WHITEOUT] = decode_text,
	[RVL_XATTR_INO] = decode_stamp,	      [RVL_XATTR_PATH] = decode_name_at,
	[RVL_XATTR_FH] = decode_handle,	      [RVL_XATTR_PLACE] = decode_name_at,
	[RVL_XATTR_INSTANCES] = decode_instances,
};

/* ---- all of an object ---- */

static json_t *decode_value(enum rvl_xattr which, const uint8_t *value, size_t len)
{
	json_t *decoded = decoders[which](value, len);

	if (decoded)
		return decoded;
	decoded = json_object();
	json_object_set_new(decoded, "damaged", json_string("not a record of this kind"));
	json_object_set_new(decoded, "hex", rvl_output_hex(value, len));
	return decoded;
}

static int add_all(const struct rvl_xattr_names *names, int dirfd, const char *name, uint8_t *buf,
		   json_t *object)
{
	for (unsigned i = 0; i < RVL_XATTR_N; i++) {
		ssize_t len =
			rvl_xattrat_get(dirfd, name, names->name[i], buf, RVL_XATTR_VALUE_MAX);

		if (len == -ENODATA || len == -EOPNOTSUPP)
			continue;
		if (len < 0)
			return len;
		json_object_set_new(object, names->name[i], decode_value(i, buf, len));
	}
	return 0;
}

int rvl_decode_xattrs(int dirfd, const char *name, json_t **ret)
{
	_cleanup_free_ uint8_t *buf = malloc(RVL_XATTR_VALUE_MAX);
	json_t *object = json_object();
	int r = buf && object ? 0 : -ENOMEM;

	for (int is_user = 0; r == 0 && is_user < 2; is_user++) {
		struct rvl_xattr_names names;

		rvl_xattr_names_init(&names, is_user);
		r = add_all(&names, dirfd, name, buf, object);
	}
	if (r < 0)
		json_decref(object);
	else
		*ret = object;
	return r;
}
