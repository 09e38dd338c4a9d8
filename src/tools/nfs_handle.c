// SPDX-License-Identifier: GPL-2.0-or-later
/* Forms of NFS handles. What comes in is a stranger's: every length is checked. */
#include "tools/nfs_handle.h"

#include <ctype.h>
#include <endian.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"

#define FUSE_FID_BYTES 12
#define FUSE_FID_TYPE 0x81
#define FUSE_FID_TYPE_PARENT 0x82 /* and the parent's, after it */
#define FILEID_ROOT 0
#define KNFSD_VERSION 1
#define KNFSD_FSID_UUID16 6
#define GANESHA_VERSION 0x43
#define GANESHA_HEADER 5
#define GANESHA_TYPE_8 0x40
#define GANESHA_TYPE_MASK 0xc0
#define GANESHA_FSID_MASK 0x1f
#define GANESHA_MAJOR64 2
#define EXPORT_ID_MAX 65535

/* Bytes of the fsid by its type (fs/nfsd/nfsfh.h, key_len). */
static const unsigned char knfsd_fsid_bytes[] = { 8, 4, 12, 8, 8, 8, 16, 24 };
/* The same of Ganesha (src/include/fsal_types.h, enum fsid_type). */
static const unsigned char ganesha_fsid_bytes[] = { 0, 8, 8, 16, 8, 8 };

struct bytes {
	uint8_t data[RVL_NFS_HANDLE_MAX];
	unsigned len;
};

/* ---- text ---- */

static int parse_hex(const char *text, struct bytes *ret)
{
	unsigned digits = 0;

	memset(ret, 0, sizeof(*ret));
	if (text[0] == '0' && (text[1] == 'x' || text[1] == 'X'))
		text += 2;
	for (; *text; text++) {
		const unsigned char c = *text;

		if (isspace(c) || c == ':')
			continue;
		if (!isxdigit(c) || digits == 2 * sizeof(ret->data))
			return -EINVAL;
		ret->data[digits / 2] |= (isdigit(c) ? c - '0' : tolower(c) - 'a' + 10)
					 << (digits % 2 ? 0 : 4);
		digits++;
	}
	ret->len = digits / 2;
	return digits % 2 ? -EINVAL : 0;
}

/* "36: 01060081 a5f2b5fe …": SVCFH_fmt of the kernel. */
static int parse_words(const char *text, struct bytes *ret)
{
	const char *p = strchr(text, ':');
	unsigned n = 0;

	memset(ret, 0, sizeof(*ret));
	if (!p || p - text > 3 || !isdigit((unsigned char)text[0]))
		return -EINVAL;
	for (p++; n < sizeof(ret->data) / 4; n++) {
		unsigned word;
		int used;

		if (sscanf(p, " %8x%n", &word, &used) != 1)
			break;
		memcpy(ret->data + 4 * n, &word, 4);
		p += used;
	}
	ret->len = 4 * n;
	while (isspace((unsigned char)*p))
		p++;
	return n == 0 || *p ? -EINVAL : 0;
}

/* ---- forms ---- */

static int take_fid(const uint8_t *p, unsigned len, struct rvl_nfs_handle *ret)
{
	uint32_t word[3];

	if (len < FUSE_FID_BYTES)
		return -EINVAL;
	memcpy(word, p, sizeof(word));
	ret->id.number = (uint64_t)word[0] << 32 | word[1];
	ret->id.generation = word[2];
	if (ret->id.number == RVL_NUMBER_ROOT && ret->id.generation)
		return -EINVAL; /* the root has none */
	return rvl_number_is_valid(ret->id.number) ? 0 : -EINVAL;
}

static int take_knfsd(const struct bytes *b, struct rvl_nfs_handle *ret)
{
	const unsigned fsid_type = b->data[2], type = b->data[3];
	unsigned at = 4;

	if (b->len < 4 || b->data[1] != 0 || fsid_type >= sizeof(knfsd_fsid_bytes))
		return -EINVAL;
	if (fsid_type == KNFSD_FSID_UUID16 && b->len >= 4 + 16) {
		ret->has_uuid = true;
		memcpy(ret->uuid, b->data + 4, 16);
	}
	at += knfsd_fsid_bytes[fsid_type];
	if (type == FILEID_ROOT) {
		ret->id = (struct rvl_id){ .number = RVL_NUMBER_ROOT };
		return b->len >= at ? 0 : -EINVAL;
	}
	if ((type != FUSE_FID_TYPE && type != FUSE_FID_TYPE_PARENT) || b->len < at)
		return -EINVAL;
	return take_fid(b->data + at, b->len - at, ret);
}

static int take_ganesha(const struct bytes *b, struct rvl_nfs_handle *ret)
{
	unsigned at = GANESHA_HEADER, flags, fsid;

	/* v3 pads to four bytes; the length does not count that. */
	if (b->len <= at || b->data[4] > b->len - at)
		return -EINVAL;
	flags = b->data[at++];
	fsid = flags & GANESHA_FSID_MASK;
	if ((flags & GANESHA_TYPE_MASK) != GANESHA_TYPE_8 || fsid >= sizeof(ganesha_fsid_bytes))
		return -EINVAL;
	at += ganesha_fsid_bytes[fsid];
	if (b->len <= at || b->data[at] != FUSE_FID_TYPE)
		return -EINVAL;
	at++;
	return take_fid(b->data + at, b->len - at, ret);
}

int rvl_nfs_handle_parse(const char *text, struct rvl_nfs_handle *ret)
{
	struct bytes b;
	int r = parse_words(text, &b);

	if (r < 0)
		r = parse_hex(text, &b);
	if (r < 0)
		return r;
	*ret = (struct rvl_nfs_handle){};
	if (b.len == FUSE_FID_BYTES) {
		ret->form = RVL_NFS_FUSE;
		return take_fid(b.data, b.len, ret);
	}
	if (b.data[0] == GANESHA_VERSION) {
		ret->form = RVL_NFS_GANESHA;
		return take_ganesha(&b, ret);
	}
	ret->form = RVL_NFS_KNFSD;
	return b.data[0] == KNFSD_VERSION ? take_knfsd(&b, ret) : -EINVAL;
}

/* ---- making them ---- */

static void put(struct bytes *b, const void *data, unsigned len)
{
	memcpy(b->data + b->len, data, len);
	b->len += len;
}

static void put_fid(struct bytes *b, const struct rvl_id *id)
{
	const uint32_t word[3] = { id->number >> 32, id->number, id->generation };

	put(b, word, sizeof(word));
}

static void to_text(const struct bytes *b, char *ret)
{
	ret[0] = '\0';
	for (unsigned i = 0; i < b->len; i++)
		sprintf(ret + 2 * i, "%02x", b->data[i]);
}

void rvl_nfs_handle_fuse(const struct rvl_id *id, char ret[RVL_NFS_HANDLE_TEXT_MAX])
{
	struct bytes b = {};

	put_fid(&b, id);
	to_text(&b, ret);
}

void rvl_nfs_handle_knfsd(const struct rvl_id *id, const uint8_t uuid[16],
			  char ret[RVL_NFS_HANDLE_TEXT_MAX])
{
	const bool is_root = id->number == RVL_NUMBER_ROOT;
	struct bytes b = { .data = { KNFSD_VERSION, 0, KNFSD_FSID_UUID16,
				     is_root ? FILEID_ROOT : FUSE_FID_TYPE },
			   .len = 4 };

	put(&b, uuid, 16);
	if (!is_root)
		put_fid(&b, id);
	to_text(&b, ret);
}

void rvl_nfs_handle_ganesha(const struct rvl_id *id, unsigned export_id,
			    char ret[RVL_NFS_HANDLE_TEXT_MAX])
{
	const uint16_t wire_id = htobe16(export_id);
	struct bytes b = { .data = { GANESHA_VERSION }, .len = 2 };

	put(&b, &wire_id, 2);
	b.data[b.len++] = 1 + 8 + 1 + FUSE_FID_BYTES;
	b.data[b.len++] = GANESHA_TYPE_8 | GANESHA_MAJOR64;
	b.len += 8; /* the major device number of a FUSE mount: always 0 */
	b.data[b.len++] = FUSE_FID_TYPE;
	put_fid(&b, id);
	to_text(&b, ret);
}

unsigned rvl_nfs_export_id(const uint8_t uuid[16])
{
	unsigned id = 0;

	for (unsigned i = 0; i < 16; i++)
		id = (id * 256 + uuid[i]) % (EXPORT_ID_MAX - 1);
	return id + 2; /* 0 is the pseudo root's, 1 everyone's first own */
}

int rvl_nfs_export_id_parse(const char *text, unsigned *ret)
{
	char *end;
	const unsigned long id = strtoul(text, &end, 10);

	if (*text < '0' || *text > '9' || *end || id == 0 || id > EXPORT_ID_MAX) {
		rvl_error("--export-id %s: not a number from 1 to %d", text, EXPORT_ID_MAX);
		return -EINVAL;
	}
	*ret = id;
	return 0;
}
