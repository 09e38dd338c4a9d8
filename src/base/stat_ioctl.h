/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a live mount tells of itself: an ioctl on its root directory, for root and the mount's owner
 * (else EPERM). `reverlayctl stat` and the mount helper's remount ask it.
 *
 * A text is a sequence of "name=value" or "name", each ended by NUL; it is fetched piece by piece,
 * from `offset` on, until offset + len is `total`. Names are only ever added.
 */
#ifndef RVL_BASE_STAT_IOCTL_H
#define RVL_BASE_STAT_IOCTL_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/ioctl.h>

enum rvl_stat_text {
	RVL_STAT_COUNTERS = 1, /* counters.h; fits into one piece */
	/*
	 * version, pid, mount_point, source, overlay_uuid, the options in effect, and how it serves
	 * (transport, data, copy_up_sync): the same for the life of a server
	 */
	RVL_STAT_CONFIG = 2,
	/*
	 * Of one object, whose number is given in `total`; ESTALE if it leads to nothing. number,
	 * generation, type (octal, S_IFMT), layer (upper or lower), parent and name (a place of it,
	 * if one is known), entry (of what is in upper and no directory: below workdir/inodes),
	 * lower=INDEX:PATH for each place in lower.
	 */
	RVL_STAT_OBJECT = 3,
	/*
	 * The map of the lower layers: complete, in_memory, names=N, bytes=N. With 1 in `total` it
	 * is made first if it is not complete; that may take minutes, and the counter map_names
	 * tells how far it is.
	 */
	RVL_STAT_MAP = 4,
};

struct rvl_stat_page {
	uint64_t offset; /* in */
	uint32_t text; /* in: enum rvl_stat_text */
	uint32_t len; /* out: bytes in data */
	uint64_t total; /* out: bytes of the whole text; in: see above */
	char data[8192 - 24];
};
static_assert(sizeof(struct rvl_stat_page) == 8192, "part of the ioctl's number");

#define RVL_IOC_STAT _IOWR('R', 0x51, struct rvl_stat_page)

/*
 * A whole text, from a descriptor of the mount's root; `argument` is what the text asks for in
 * `total`. *ret, owned by the caller, has a NUL more at its end. -EPERM; -ENOTTY: not a mount of
 * ours; -ESTALE; -EPROTO.
 */
int rvl_stat_fetch(int fd, enum rvl_stat_text which, uint64_t argument, char **ret,
		   size_t *ret_len);
/* Is one of its parts this, as it is? */
bool rvl_stat_has(const char *text, size_t len, const char *line);

#endif
