/* SPDX-License-Identifier: GPL-2.0-or-later */
/* At mount: complete or undo what the log says was begun by a process that died. */
#ifndef RVL_OVERLAY_RECOVER_H
#define RVL_OVERLAY_RECOVER_H

struct rvl_overlay;

/* Before any request is served. -errno only if the log cannot be read; what cannot be recovered is
 * logged and left to reverlayctl repair. */
int rvl_recover(struct rvl_overlay *ov);

#endif
