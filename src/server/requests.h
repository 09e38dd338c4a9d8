/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The requests, by family. Each function answers its request exactly once, through reply.h. What
 * libfuse says of each is in fuse_lowlevel.h; what each does is the overlay's (overlay/overlay.h).
 */
#ifndef RVL_SERVER_REQUESTS_H
#define RVL_SERVER_REQUESTS_H

#include "server/fuse.h"

/* req_name.c: names that are found, removed, moved */
void rvl_req_lookup(fuse_req_t req, fuse_ino_t parent, const char *name);
void rvl_req_forget(fuse_req_t req, fuse_ino_t number, uint64_t n_lookups);
void rvl_req_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets);
void rvl_req_unlink(fuse_req_t req, fuse_ino_t parent, const char *name);
void rvl_req_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name);
void rvl_req_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t to_parent,
		    const char *to_name, unsigned flags);

/* req_make.c: new objects and names */
void rvl_req_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev);
void rvl_req_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode);
void rvl_req_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name);
void rvl_req_link(fuse_req_t req, fuse_ino_t number, fuse_ino_t parent, const char *name);
void rvl_req_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
		    struct fuse_file_info *fi);
void rvl_req_tmpfile(fuse_req_t req, fuse_ino_t parent, mode_t mode, struct fuse_file_info *fi);

/* req_attr.c: attributes, also of the whole filesystem */
void rvl_req_getattr(fuse_req_t req, fuse_ino_t number, struct fuse_file_info *fi);
void rvl_req_setattr(fuse_req_t req, fuse_ino_t number, struct stat *attr, int to_set,
		     struct fuse_file_info *fi);
void rvl_req_readlink(fuse_req_t req, fuse_ino_t number);
void rvl_req_statfs(fuse_req_t req, fuse_ino_t number);
#ifdef RVL_HAVE_FUSE_STATX
void rvl_req_statx(fuse_req_t req, fuse_ino_t number, int flags, int mask,
		   struct fuse_file_info *fi);
#endif

/* req_file.c: open files */
void rvl_req_open(fuse_req_t req, fuse_ino_t number, struct fuse_file_info *fi);
void rvl_req_release(fuse_req_t req, fuse_ino_t number, struct fuse_file_info *fi);
void rvl_req_read(fuse_req_t req, fuse_ino_t number, size_t size, off_t offset,
		  struct fuse_file_info *fi);
void rvl_req_write_buf(fuse_req_t req, fuse_ino_t number, struct fuse_bufvec *from, off_t offset,
		       struct fuse_file_info *fi);
void rvl_req_fsync(fuse_req_t req, fuse_ino_t number, int is_data_only, struct fuse_file_info *fi);
void rvl_req_fallocate(fuse_req_t req, fuse_ino_t number, int mode, off_t offset, off_t length,
		       struct fuse_file_info *fi);
void rvl_req_lseek(fuse_req_t req, fuse_ino_t number, off_t offset, int whence,
		   struct fuse_file_info *fi);
void rvl_req_copy_file_range(fuse_req_t req, fuse_ino_t from, off_t from_offset,
			     struct fuse_file_info *from_fi, fuse_ino_t to, off_t to_offset,
			     struct fuse_file_info *to_fi, size_t length, int flags);

/* req_dir.c: open directories */
void rvl_req_opendir(fuse_req_t req, fuse_ino_t number, struct fuse_file_info *fi);
void rvl_req_readdirplus(fuse_req_t req, fuse_ino_t number, size_t size, off_t offset,
			 struct fuse_file_info *fi);

/* req_xattr.c */
void rvl_req_getxattr(fuse_req_t req, fuse_ino_t number, const char *name, size_t size);
void rvl_req_listxattr(fuse_req_t req, fuse_ino_t number, size_t size);
void rvl_req_setxattr(fuse_req_t req, fuse_ino_t number, const char *name, const char *value,
		      size_t size, int flags);
void rvl_req_removexattr(fuse_req_t req, fuse_ino_t number, const char *name);

/* req_ioctl.c: inode flags, and what `reverlayctl stat` asks */
void rvl_req_ioctl(fuse_req_t req, fuse_ino_t number, unsigned cmd, void *arg,
		   struct fuse_file_info *fi, unsigned flags, const void *in, size_t in_size,
		   size_t out_size);

#endif
