// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * NFSv4.0 (RFC 7530): each call is one COMPOUND. No OPEN: reads and writes use the anonymous state id
 * (section 9.1.4.3), so a handle is all that the server needs to know.
 */
#include <arpa/inet.h>
#include <nfsc/libnfs.h>
#include <nfsc/libnfs-raw.h>
#include <nfsc/libnfs-raw-nfs4.h>
#include <stdlib.h>
#include <string.h>

#include "nfs.h"

#define OPS_MAX 8

struct compound {
	nfs_argop4 ops[OPS_MAX];
	unsigned n;
};

static nfs_argop4 *add(struct compound *c, nfs_opnum4 op)
{
	c->ops[c->n] = (nfs_argop4){ .argop = op };
	return &c->ops[c->n++];
}

static void add_handle(struct compound *c, const struct fh *fh)
{
	nfs_fh4 *object = &add(c, OP_PUTFH)->nfs_argop4_u.opputfh.object;

	object->nfs_fh4_len = fh->len;
	object->nfs_fh4_val = (char *)fh->data;
}

static component4 component(const char *name)
{
	return (component4){ .utf8string_len = strlen(name), .utf8string_val = (char *)name };
}

static int take_handle(struct fh *fh, const nfs_fh4 *from)
{
	if (from->nfs_fh4_len > sizeof(fh->data))
		return NFS_MALFORMED;
	fh->len = from->nfs_fh4_len;
	memcpy(fh->data, from->nfs_fh4_val, fh->len);
	return 0;
}

/* ---- attributes: a bitmap, and the values one after another ---- */

enum {
	A_TYPE = 1,
	A_SIZE = 4,
	A_FSID = 8,
	A_FILEID = 20,
	A_MODE = 33,
	A_NUMLINKS = 35,
	A_OWNER = 36,
	A_GROUP = 37,
	A_MTIME = 53,
};

#define BIT(n) (1U << ((n) % 32))
static uint32_t wanted[2] = {
	BIT(A_TYPE) | BIT(A_SIZE) | BIT(A_FSID) | BIT(A_FILEID),
	BIT(A_MODE) | BIT(A_NUMLINKS) | BIT(A_OWNER) | BIT(A_GROUP) | BIT(A_MTIME),
};
static uint32_t wanted_of_entries[1] = { BIT(A_FILEID) };
static uint32_t mode_only[2] = { 0, BIT(A_MODE) };

struct reader {
	const uint8_t *p, *end;
	bool is_bad;
};

static uint32_t take_u32(struct reader *r)
{
	uint32_t v;

	if (r->end - r->p < 4) {
		r->is_bad = true;
		return 0;
	}
	memcpy(&v, r->p, 4);
	r->p += 4;
	return ntohl(v);
}

static uint64_t take_u64(struct reader *r)
{
	const uint64_t high = take_u32(r);

	return high << 32 | take_u32(r);
}

/* A decimal number as text: the servers of the tests have numeric owners only. */
static unsigned take_owner(struct reader *r)
{
	const uint32_t len = take_u32(r);
	char text[32] = "";

	if (r->is_bad || len >= sizeof(text) || (size_t)(r->end - r->p) < (len + 3) / 4 * 4) {
		r->is_bad = true;
		return 0;
	}
	memcpy(text, r->p, len);
	r->p += (len + 3) / 4 * 4;
	return strtoul(text, NULL, 10);
}

static int take_attr(struct attr *attr, const fattr4 *from)
{
	struct reader r = { (uint8_t *)from->attr_vals.attrlist4_val,
			    (uint8_t *)from->attr_vals.attrlist4_val +
				    from->attr_vals.attrlist4_len,
			    false };

	*attr = (struct attr){};
	for (unsigned bit = 0; bit < from->attrmask.bitmap4_len * 32; bit++) {
		if (!(from->attrmask.bitmap4_val[bit / 32] & BIT(bit)))
			continue;
		switch (bit) {
		case A_TYPE:
			attr->type = take_u32(&r);
			break;
		case A_SIZE:
			attr->size = take_u64(&r);
			break;
		case A_FSID:
			attr->fsid[0] = take_u64(&r);
			attr->fsid[1] = take_u64(&r);
			break;
		case A_FILEID:
			attr->fileid = take_u64(&r);
			break;
		case A_MODE:
			attr->mode = take_u32(&r) & 07777;
			break;
		case A_NUMLINKS:
			attr->nlink = take_u32(&r);
			break;
		case A_OWNER:
			attr->uid = take_owner(&r);
			break;
		case A_GROUP:
			attr->gid = take_owner(&r);
			break;
		case A_MTIME:
			attr->mtime_s = take_u64(&r);
			attr->mtime_ns = take_u32(&r);
			break;
		default:
			return NFS_MALFORMED;
		}
	}
	return r.is_bad ? NFS_MALFORMED : 0;
}

static void add_getattr(struct compound *c)
{
	bitmap4 *request = &add(c, OP_GETATTR)->nfs_argop4_u.opgetattr.attr_request;

	request->bitmap4_len = 2;
	request->bitmap4_val = wanted;
}

/* ---- a compound ---- */

/* out[0] handle, out[1] attributes, out[2] data: filled from whichever operation gives them. */
static int take_result(struct call *call, const nfs_resop4 *res)
{
	struct data *data = call->out[2];

	switch (res->resop) {
	case OP_GETFH:
		return take_handle(call->out[0],
				   &res->nfs_resop4_u.opgetfh.GETFH4res_u.resok4.object);
	case OP_GETATTR:
		return take_attr(
			call->out[1],
			&res->nfs_resop4_u.opgetattr.GETATTR4res_u.resok4.obj_attributes);
	case OP_READ: {
		const READ4resok *ok = &res->nfs_resop4_u.opread.READ4res_u.resok4;

		if (ok->data.data_len > sizeof(data->bytes))
			return NFS_MALFORMED;
		data->len = ok->data.data_len;
		data->is_eof = ok->eof;
		memcpy(data->bytes, ok->data.data_val, data->len);
		return 0;
	}
	case OP_READLINK: {
		const linktext4 *link = &res->nfs_resop4_u.opreadlink.READLINK4res_u.resok4.link;

		if (link->utf8string_len > sizeof(data->bytes))
			return NFS_MALFORMED;
		data->len = link->utf8string_len;
		memcpy(data->bytes, link->utf8string_val, data->len);
		return 0;
	}
	case OP_READDIR: {
		const READDIR4resok *ok = &res->nfs_resop4_u.opreaddir.READDIR4res_u.resok4;

		memcpy(call->out[0], ok->cookieverf, 8);
		*(bool *)call->out[1] = ok->reply.eof;
		for (const entry4 *e = ok->reply.entries; e; e = e->nextentry) {
			struct entry entry = { .cookie = e->cookie,
					       .name_len = e->name.utf8string_len,
					       .name = e->name.utf8string_val };
			struct attr attr;

			if (take_attr(&attr, &e->attrs) != 0)
				return NFS_MALFORMED;
			entry.fileid = attr.fileid;
			call->fn(call->arg, &entry);
		}
		return 0;
	}
	default:
		return 0;
	}
}

static void on_compound(struct rpc_context *rpc, int status, void *reply, void *arg)
{
	struct call *call = arg;
	const COMPOUND4res *res = reply;

	(void)rpc;
	if (!rpc_got(call, status, reply))
		return;
	call->status = res->status;
	for (unsigned i = 0; call->status == 0 && i < res->resarray.resarray_len; i++)
		call->status = take_result(call, &res->resarray.resarray_val[i]);
}

static int run(struct rpc_context *rpc, struct compound *c, struct call *call)
{
	COMPOUND4args args = { .argarray = { .argarray_len = c->n, .argarray_val = c->ops } };

	return rpc_wait(rpc, rpc_nfs4_compound_async(rpc, on_compound, &args, call), call);
}

static int root(struct rpc_context *rpc, const char *host, int mount_port, const char *path,
		struct fh *ret)
{
	struct compound c = {};
	struct call call = { .out = { ret } };

	(void)host;
	(void)mount_port;
	add(&c, OP_PUTROOTFH);
	while (*path == '/')
		path++;
	if (*path)
		add(&c, OP_LOOKUP)->nfs_argop4_u.oplookup.objname = component(path);
	add(&c, OP_GETFH);
	return run(rpc, &c, &call);
}

/* ---- objects ---- */

static int v4_getattr(struct rpc_context *rpc, const struct fh *fh, struct attr *ret)
{
	struct compound c = {};
	struct call call = { .out = { NULL, ret } };

	add_handle(&c, fh);
	add_getattr(&c);
	return run(rpc, &c, &call);
}

static int v4_lookup(struct rpc_context *rpc, const struct fh *dir, const char *name,
		     struct fh *ret, struct attr *ret_attr)
{
	struct compound c = {};
	struct call call = { .out = { ret, ret_attr } };

	add_handle(&c, dir);
	add(&c, OP_LOOKUP)->nfs_argop4_u.oplookup.objname = component(name);
	add(&c, OP_GETFH);
	add_getattr(&c);
	return run(rpc, &c, &call);
}

static int v4_read(struct rpc_context *rpc, const struct fh *fh, uint64_t offset, unsigned len,
		   struct data *ret)
{
	struct compound c = {};
	struct call call = { .out = { NULL, NULL, ret } };
	READ4args *args;

	add_handle(&c, fh);
	args = &add(&c, OP_READ)->nfs_argop4_u.opread;
	args->offset = offset;
	args->count = len;
	return run(rpc, &c, &call);
}

static int v4_write(struct rpc_context *rpc, const struct fh *fh, uint64_t offset,
		    const struct data *data)
{
	struct compound c = {};
	struct call call = {};
	WRITE4args *args;

	add_handle(&c, fh);
	args = &add(&c, OP_WRITE)->nfs_argop4_u.opwrite;
	args->offset = offset;
	args->stable = FILE_SYNC4;
	args->data.data_len = data->len;
	args->data.data_val = (char *)data->bytes;
	return run(rpc, &c, &call);
}

static int v4_readlink(struct rpc_context *rpc, const struct fh *fh, struct data *ret)
{
	struct compound c = {};
	struct call call = { .out = { NULL, NULL, ret } };

	add_handle(&c, fh);
	add(&c, OP_READLINK);
	return run(rpc, &c, &call);
}

static void set_mode(fattr4 *attrs, uint32_t *buf, unsigned mode)
{
	*buf = htonl(mode);
	attrs->attrmask.bitmap4_len = 2;
	attrs->attrmask.bitmap4_val = mode_only;
	attrs->attr_vals.attrlist4_len = 4;
	attrs->attr_vals.attrlist4_val = (char *)buf;
}

static int v4_chmod(struct rpc_context *rpc, const struct fh *fh, unsigned mode)
{
	struct compound c = {};
	struct call call = {};
	uint32_t buf;

	add_handle(&c, fh);
	set_mode(&add(&c, OP_SETATTR)->nfs_argop4_u.opsetattr.obj_attributes, &buf, mode);
	return run(rpc, &c, &call);
}

/* ---- names ---- */

static int v4_mkdir(struct rpc_context *rpc, const struct fh *dir, const char *name,
		    struct fh *ret)
{
	struct compound c = {};
	struct call call = { .out = { ret } };
	CREATE4args *args;
	uint32_t buf;

	add_handle(&c, dir);
	args = &add(&c, OP_CREATE)->nfs_argop4_u.opcreate;
	args->objtype.type = NF4DIR;
	args->objname = component(name);
	set_mode(&args->createattrs, &buf, 0755);
	add(&c, OP_GETFH);
	return run(rpc, &c, &call);
}

static int v4_remove(struct rpc_context *rpc, const struct fh *dir, const char *name)
{
	struct compound c = {};
	struct call call = {};

	add_handle(&c, dir);
	add(&c, OP_REMOVE)->nfs_argop4_u.opremove.target = component(name);
	return run(rpc, &c, &call);
}

static int v4_rename(struct rpc_context *rpc, const struct fh *from, const char *name,
		     const struct fh *to, const char *to_name)
{
	struct compound c = {};
	struct call call = {};
	RENAME4args *args;

	add_handle(&c, from);
	add(&c, OP_SAVEFH);
	add_handle(&c, to);
	args = &add(&c, OP_RENAME)->nfs_argop4_u.oprename;
	args->oldname = component(name);
	args->newname = component(to_name);
	return run(rpc, &c, &call);
}

static int v4_link(struct rpc_context *rpc, const struct fh *fh, const struct fh *dir,
		   const char *name)
{
	struct compound c = {};
	struct call call = {};

	add_handle(&c, fh);
	add(&c, OP_SAVEFH);
	add_handle(&c, dir);
	add(&c, OP_LINK)->nfs_argop4_u.oplink.newname = component(name);
	return run(rpc, &c, &call);
}

static int v4_list(struct rpc_context *rpc, const struct fh *dir, uint64_t cookie, uint8_t verf[8],
		   unsigned count, entry_fn *fn, void *arg, bool *ret_eof)
{
	struct compound c = {};
	struct call call = { .out = { verf, ret_eof }, .fn = fn, .arg = arg };
	READDIR4args *args;

	add_handle(&c, dir);
	args = &add(&c, OP_READDIR)->nfs_argop4_u.opreaddir;
	args->cookie = cookie;
	memcpy(args->cookieverf, verf, 8);
	args->dircount = count;
	args->maxcount = count;
	args->attr_request.bitmap4_len = 1;
	args->attr_request.bitmap4_val = wanted_of_entries;
	return run(rpc, &c, &call);
}

const struct version_ops nfs_v4 = {
	.version = 4,
	.root = root,
	.getattr = v4_getattr,
	.lookup = v4_lookup,
	.read = v4_read,
	.write = v4_write,
	.readlink = v4_readlink,
	.chmod = v4_chmod,
	.create = NULL,
	.mkdir = v4_mkdir,
	.remove = v4_remove,
	.rmdir = v4_remove,
	.rename = v4_rename,
	.link = v4_link,
	.list = v4_list,
};
