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
#include <stdint.h>
#include <sys/ioctl.h>

enum rvl_stat_text {
	RVL_STAT_COUNTERS = 1, /* counters.h; fits into one piece */
	RVL_STAT_CONFIG =
		2, /* version, pid, source, mount_point, options; the same for the life of a server */
	/*
	 * Of one object, whose number is given in `total`; ESTALE if it leads to nothing. number,
	 * generation, type (octal, S_IFMT), layer (upper or lower), parent and name (a place of it,
	 * if one is known), entry (of what is in upper and no directory: below workdir/inodes),
	 * lower=INDEX:PATH for each place in lower.
	 */
	RVL_STAT_OBJECT = 3,
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

#endif
