// SPDX-License-Identifier: GPL-2.0-or-later
/* NFSv3 (RFC 1813) and its MOUNT protocol. */
#include <nfsc/libnfs.h>
#include <nfsc/libnfs-raw.h>
#include <nfsc/libnfs-raw-mount.h>
#include <nfsc/libnfs-raw-nfs.h>
#include <string.h>

#include "nfs.h"

static nfs_fh3 handle(const struct fh *fh)
{
	return (nfs_fh3){ .data = { .data_len = fh->len, .data_val = (char *)fh->data } };
}

static diropargs3 place(const struct fh *dir, const char *name)
{
	return (diropargs3){ .dir = handle(dir), .name = (char *)name };
}

static int take_handle(struct fh *fh, const void *data, unsigned len)
{
	if (len > sizeof(fh->data))
		return NFS_MALFORMED;
	fh->len = len;
	memcpy(fh->data, data, len);
	return 0;
}

static void take_attr(struct attr *attr, const fattr3 *from)
{
	*attr = (struct attr){
		.type = from->type,
		.mode = from->mode & 07777,
		.nlink = from->nlink,
		.uid = from->uid,
		.gid = from->gid,
		.size = from->size,
		.fileid = from->fileid,
		.fsid = { from->fsid, 0 },
		.mtime_s = from->mtime.seconds,
		.mtime_ns = from->mtime.nseconds,
	};
}

/* ---- the root's handle, by MOUNT ---- */

static void on_mount(struct rpc_context *rpc, int status, void *reply, void *arg)
{
	struct call *call = arg;
	const mountres3 *res = reply;
	const fhandle3 *fh;

	(void)rpc;
	if (!rpc_got(call, status, reply))
		return;
	fh = &res->mountres3_u.mountinfo.fhandle;
	call->status = res->fhs_status ?
			       (int)res->fhs_status :
			       take_handle(call->out[0], fh->fhandle3_val, fh->fhandle3_len);
}

static int root(struct rpc_context *rpc, const char *host, int mount_port, const char *path,
		struct fh *ret)
{
	struct call call = { .out = { ret } };
	struct rpc_context *mount = rpc_open(host, mount_port, 100005, 3);
	int r;

	(void)rpc;
	if (!mount)
		return NFS_DISCONNECTED;
	r = rpc_wait(mount, rpc_mount3_mnt_async(mount, on_mount, (char *)path, &call), &call);
	rpc_destroy_context(mount);
	return r;
}

/* ---- objects ---- */

/* Did it go well? The status is the first member of every reply. */
static bool is_ok(struct rpc_context *rpc, int status, void *reply, struct call *call)
{
	(void)rpc;
	if (!rpc_got(call, status, reply))
		return false;
	call->status = *(const nfsstat3 *)reply;
	return call->status == NFS3_OK;
}

static void on_getattr(struct rpc_context *rpc, int status, void *reply, void *arg)
{
	struct call *call = arg;
	const GETATTR3res *res = reply;

	if (is_ok(rpc, status, reply, call))
		take_attr(call->out[0], &res->GETATTR3res_u.resok.obj_attributes);
}

static int v3_getattr(struct rpc_context *rpc, const struct fh *fh, struct attr *ret)
{
	struct call call = { .out = { ret } };
	GETATTR3args args = { .object = handle(fh) };

	return rpc_wait(rpc, rpc_nfs3_getattr_async(rpc, on_getattr, &args, &call), &call);
}

static void on_lookup(struct rpc_context *rpc, int status, void *reply, void *arg)
{
	struct call *call = arg;
	const LOOKUP3res *res = reply;
	const LOOKUP3resok *ok;

	if (!is_ok(rpc, status, reply, call))
		return;
	ok = &res->LOOKUP3res_u.resok;
	call->status = take_handle(call->out[0], ok->object.data.data_val, ok->object.data.data_len);
	if (ok->obj_attributes.attributes_follow)
		take_attr(call->out[1], &ok->obj_attributes.post_op_attr_u.attributes);
}

static int v3_lookup(struct rpc_context *rpc, const struct fh *dir, const char *name,
		     struct fh *ret, struct attr *ret_attr)
{
	struct call call = { .out = { ret, ret_attr } };
	LOOKUP3args args = { .what = place(dir, name) };
	int r;

	*ret_attr = (struct attr){};
	r = rpc_wait(rpc, rpc_nfs3_lookup_async(rpc, on_lookup, &args, &call), &call);
	return r ?: ret_attr->type ? r : v3_getattr(rpc, ret, ret_attr);
}

static void on_read(struct rpc_context *rpc, int status, void *reply, void *arg)
{
	struct call *call = arg;
	const READ3res *res = reply;
	const READ3resok *ok;
	struct data *data = call->out[0];

	if (!is_ok(rpc, status, reply, call))
		return;
	ok = &res->READ3res_u.resok;
	if (ok->data.data_len > sizeof(data->bytes)) {
		call->status = NFS_MALFORMED;
		return;
	}
	data->len = ok->data.data_len;
	data->is_eof = ok->eof;
	memcpy(data->bytes, ok->data.data_val, data->len);
}

static int v3_read(struct rpc_context *rpc, const struct fh *fh, uint64_t offset, unsigned len,
		   struct data *ret)
{
	struct call call = { .out = { ret } };
	READ3args args = { .file = handle(fh), .offset = offset, .count = len };

	return rpc_wait(rpc, rpc_nfs3_read_async(rpc, on_read, &args, &call), &call);
}

static void on_readlink(struct rpc_context *rpc, int status, void *reply, void *arg)
{
	struct call *call = arg;
	const READLINK3res *res = reply;
	struct data *data = call->out[0];

	if (!is_ok(rpc, status, reply, call))
		return;
	data->len = strnlen(res->READLINK3res_u.resok.data, sizeof(data->bytes));
	memcpy(data->bytes, res->READLINK3res_u.resok.data, data->len);
}

static int v3_readlink(struct rpc_context *rpc, const struct fh *fh, struct data *ret)
{
	struct call call = { .out = { ret } };
	READLINK3args args = { .symlink = handle(fh) };

	return rpc_wait(rpc, rpc_nfs3_readlink_async(rpc, on_readlink, &args, &call), &call);
}

/* Replies of which only the status counts. */
static void on_status(struct rpc_context *rpc, int status, void *reply, void *arg)
{
	(void)is_ok(rpc, status, reply, arg);
}

static int v3_write(struct rpc_context *rpc, const struct fh *fh, uint64_t offset,
		    const struct data *data)
{
	struct call call = {};
	WRITE3args args = { .file = handle(fh),
			    .offset = offset,
			    .count = data->len,
			    .stable = FILE_SYNC,
			    .data = { .data_len = data->len, .data_val = (char *)data->bytes } };

	return rpc_wait(rpc, rpc_nfs3_write_async(rpc, on_status, &args, &call), &call);
}

static int v3_chmod(struct rpc_context *rpc, const struct fh *fh, unsigned mode)
{
	struct call call = {};
	SETATTR3args args = {
		.object = handle(fh),
		.new_attributes.mode = { .set_it = 1, .set_mode3_u.mode = mode },
	};

	return rpc_wait(rpc, rpc_nfs3_setattr_async(rpc, on_status, &args, &call), &call);
}

/* ---- names ---- */

static int found(struct rpc_context *rpc, int r, const struct fh *dir, const char *name,
		 struct fh *ret)
{
	struct attr attr;

	return r ? r : v3_lookup(rpc, dir, name, ret, &attr);
}

static int v3_create(struct rpc_context *rpc, const struct fh *dir, const char *name,
		     struct fh *ret)
{
	struct call call = {};
	CREATE3args args = {
		.where = place(dir, name),
		.how = { .mode = GUARDED,
			 .createhow3_u.g_obj_attributes.mode = { .set_it = 1,
								 .set_mode3_u.mode = 0644 } },
	};
	int r = rpc_wait(rpc, rpc_nfs3_create_async(rpc, on_status, &args, &call), &call);

	return found(rpc, r, dir, name, ret);
}

static int v3_mkdir(struct rpc_context *rpc, const struct fh *dir, const char *name,
		    struct fh *ret)
{
	struct call call = {};
	MKDIR3args args = {
		.where = place(dir, name),
		.attributes.mode = { .set_it = 1, .set_mode3_u.mode = 0755 },
	};
	int r = rpc_wait(rpc, rpc_nfs3_mkdir_async(rpc, on_status, &args, &call), &call);

	return found(rpc, r, dir, name, ret);
}

static int v3_remove(struct rpc_context *rpc, const struct fh *dir, const char *name)
{
	struct call call = {};
	REMOVE3args args = { .object = place(dir, name) };

	return rpc_wait(rpc, rpc_nfs3_remove_async(rpc, on_status, &args, &call), &call);
}

static int v3_rmdir(struct rpc_context *rpc, const struct fh *dir, const char *name)
{
	struct call call = {};
	RMDIR3args args = { .object = place(dir, name) };

	return rpc_wait(rpc, rpc_nfs3_rmdir_async(rpc, on_status, &args, &call), &call);
}

static int v3_rename(struct rpc_context *rpc, const struct fh *from, const char *name,
		     const struct fh *to, const char *to_name)
{
	struct call call = {};
	RENAME3args args = { .from = place(from, name), .to = place(to, to_name) };

	return rpc_wait(rpc, rpc_nfs3_rename_async(rpc, on_status, &args, &call), &call);
}

static int v3_link(struct rpc_context *rpc, const struct fh *fh, const struct fh *dir,
		   const char *name)
{
	struct call call = {};
	LINK3args args = { .file = handle(fh), .link = place(dir, name) };

	return rpc_wait(rpc, rpc_nfs3_link_async(rpc, on_status, &args, &call), &call);
}

static void on_list(struct rpc_context *rpc, int status, void *reply, void *arg)
{
	struct call *call = arg;
	const READDIR3res *res = reply;
	const READDIR3resok *ok;

	if (!is_ok(rpc, status, reply, call))
		return;
	ok = &res->READDIR3res_u.resok;
	memcpy(call->out[0], ok->cookieverf, 8);
	*(bool *)call->out[1] = ok->reply.eof;
	for (const entry3 *e = ok->reply.entries; e; e = e->nextentry) {
		const struct entry entry = { .cookie = e->cookie,
					     .fileid = e->fileid,
					     .name_len = strlen(e->name),
					     .name = e->name };

		call->fn(call->arg, &entry);
	}
}

static int v3_list(struct rpc_context *rpc, const struct fh *dir, uint64_t cookie, uint8_t verf[8],
		   unsigned count, entry_fn *fn, void *arg, bool *ret_eof)
{
	struct call call = { .out = { verf, ret_eof }, .fn = fn, .arg = arg };
	READDIR3args args = { .dir = handle(dir), .cookie = cookie, .count = count };

	memcpy(args.cookieverf, verf, 8);
	return rpc_wait(rpc, rpc_nfs3_readdir_async(rpc, on_list, &args, &call), &call);
}

const struct version_ops nfs_v3 = {
	.version = 3,
	.root = root,
	.getattr = v3_getattr,
	.lookup = v3_lookup,
	.read = v3_read,
	.write = v3_write,
	.readlink = v3_readlink,
	.chmod = v3_chmod,
	.create = v3_create,
	.mkdir = v3_mkdir,
	.remove = v3_remove,
	.rmdir = v3_rmdir,
	.rename = v3_rename,
	.link = v3_link,
	.list = v3_list,
};
