// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Requests on open files. Nothing is kept per open file, here or in fi->fh: the number says all, so
 * another server can go on with it. How the kernel has an inode open is in passthrough.c. Reads and
 * writes move between the kernel and the pinned descriptor of the object's data.
 */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "base/counters.h"
#include "server/caller.h"
#include "server/passthrough.h"
#include "server/reply.h"
#include "server/requests.h"
#include "server/transport.h"

/*
 * Has the caller no CAP_FSETID, so that setuid and setgid are to go? (FUSE_CAP_HANDLE_KILLPRIV_V2)
 */
static bool is_kill_wanted(const struct fuse_file_info *fi)
{
#ifdef RVL_HAVE_FUSE_KILL_SUIDGID
	return fi->kill_suidgid;
#else
	return false;
#endif
}

/*
 * Where opens are not to be asked for (copy_up=write, or a read-only overlay) the kernel is told so
 * by the answer to the first one (docs/decisions/0004).
 */
void rvl_req_open(fuse_req_t req, fuse_ino_t number, struct fuse_file_info *fi)
{
	struct rvl_overlay *overlay = rvl_overlay_of(req);
	int r = -ENOSYS;

	rvl_count(req_open);
	if (rvl_server_of(req)->has_open)
		r = rvl_overlay_open_file(overlay, number, fi->flags);
	if (r == 0 && is_kill_wanted(fi)) {
		r = rvl_caller_kill_suidgid(req, number, false);
		if (r < 0)
			rvl_overlay_release_file(overlay, number);
	}
	rvl_reply_opened(req, r, number, NULL, fi);
}

void rvl_req_release(fuse_req_t req, fuse_ino_t number, struct fuse_file_info *fi)
{
	rvl_count(req_release);
	rvl_passthrough_release(rvl_server_of(req)->passthrough, number, fi->flags);
	rvl_overlay_release_file(rvl_overlay_of(req), number);
	rvl_reply_status(req, 0);
}

/* All that is there: the kernel takes a short reply for the end of the file. */
static ssize_t read_all(int fd, char *buf, size_t size, off_t offset)
{
	size_t done = 0;

	while (done < size) {
		ssize_t n = pread(fd, buf + done, size - done, offset + (off_t)done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && done == 0)
			return -errno;
		if (n <= 0)
			break;
		done += n;
	}
	return done;
}

void rvl_req_read(fuse_req_t req, fuse_ino_t number, size_t size, off_t offset,
		  struct fuse_file_info *fi)
{
	struct rvl_overlay *overlay = rvl_overlay_of(req);
	struct fuse_bufvec data = FUSE_BUFVEC_INIT(size);
	struct rvl_pin pin;
	char *room;
	int r = rvl_overlay_pin_read(overlay, number, &pin);

	rvl_count(req_read);
	if (r < 0) {
		rvl_reply_status(req, r);
		return;
	}
	room = rvl_transport_payload(size);
	if (room) {
		ssize_t n = read_all(pin.fd, room, size, offset);

		rvl_overlay_unpin(overlay, &pin);
		rvl_reply_bytes(req, n, room, false);
		return;
	}
	data.buf[0].flags = FUSE_BUF_IS_FD | FUSE_BUF_FD_SEEK;
	data.buf[0].fd = pin.fd;
	data.buf[0].pos = offset;
	rvl_count(requests);
	/*
	 * Copies, never moves: a page that is taken out of a layer's cache is one to be read again.
	 */
	fuse_reply_data(req, &data, 0);
	rvl_overlay_unpin(overlay, &pin);
}

static ssize_t write_pages(struct rvl_overlay *overlay, uint64_t number, struct fuse_bufvec *to,
			   struct fuse_bufvec *from)
{
	struct rvl_page_write write;
	ssize_t n = rvl_overlay_page_write_begin(overlay, number, to->buf[0].fd, &write);

	if (n < 0)
		return n;
	n = fuse_buf_copy(to, from, 0);
	rvl_overlay_page_write_end(&write);
	return n;
}

void rvl_req_write_buf(fuse_req_t req, fuse_ino_t number, struct fuse_bufvec *from, off_t offset,
		       struct fuse_file_info *fi)
{
	struct rvl_overlay *overlay = rvl_overlay_of(req);
	struct fuse_bufvec to = FUSE_BUFVEC_INIT(fuse_buf_size(from));
	struct rvl_pin pin;
	ssize_t n;
	int r = rvl_overlay_pin_write(overlay, number, offset, &pin);

	rvl_count(req_write);
	if (r == 0 && is_kill_wanted(fi)) {
		r = rvl_caller_kill_suidgid(req, number, false);
		if (r < 0)
			rvl_overlay_unpin(overlay, &pin);
	}
	if (r < 0) {
		rvl_reply_status(req, r);
		return;
	}
	to.buf[0].flags = FUSE_BUF_IS_FD | FUSE_BUF_FD_SEEK | FUSE_BUF_FD_RETRY;
	to.buf[0].fd = pin.fd;
	to.buf[0].pos = offset;
	n = fi->writepage ? write_pages(overlay, number, &to, from) : fuse_buf_copy(&to, from, 0);
	rvl_overlay_unpin(overlay, &pin);
	rvl_reply_written(req, n);
}

/* Of directories too. */
void rvl_req_fsync(fuse_req_t req, fuse_ino_t number, int is_data_only, struct fuse_file_info *fi)
{
	rvl_count(req_fsync);
	rvl_reply_status(req, rvl_overlay_fsync(rvl_overlay_of(req), number, is_data_only));
}

void rvl_req_fallocate(fuse_req_t req, fuse_ino_t number, int mode, off_t offset, off_t length,
		       struct fuse_file_info *fi)
{
	rvl_count(req_fallocate);
	/* the kernel does not say whether setuid is to go: it is for all but the privileged */
	int r = fuse_req_ctx(req)->uid ? rvl_caller_kill_suidgid(req, number, false) : 0;

	if (r == 0)
		r = rvl_overlay_fallocate(rvl_overlay_of(req), number, mode, offset, length);
	rvl_reply_changed(req, r, number);
}

void rvl_req_lseek(fuse_req_t req, fuse_ino_t number, off_t offset, int whence,
		   struct fuse_file_info *fi)
{
	off_t found = rvl_overlay_lseek(rvl_overlay_of(req), number, offset, whence);

	rvl_count(req_lseek);
	if (found < 0) {
		rvl_reply_status(req, found);
		return;
	}
	rvl_count(requests);
	fuse_reply_lseek(req, found);
}

void rvl_req_copy_file_range(fuse_req_t req, fuse_ino_t from, off_t from_offset,
			     struct fuse_file_info *from_fi, fuse_ino_t to, off_t to_offset,
			     struct fuse_file_info *to_fi, size_t length, int flags)
{
	rvl_count(req_copy_file_range);
	if (flags != 0)
		rvl_reply_status(req, -EINVAL);
	else
		rvl_reply_written(req, rvl_overlay_copy_range(rvl_overlay_of(req), from,
							      from_offset, to, to_offset, length));
}
