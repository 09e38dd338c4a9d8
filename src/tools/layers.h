/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The layers of an overlay that is not mounted, named as for the mount: -o lowerdir=…,upperdir=… */
#ifndef RVL_TOOLS_LAYERS_H
#define RVL_TOOLS_LAYERS_H

#include "index/index.h"
#include "layer/layer.h"

struct rvl_layers {
	struct rvl_stack stack; /* owned */
	struct rvl_index *index; /* owned; opened to look only */
	int lock_fds[2]; /* owned: nobody mounts it meanwhile */
};

/*
 * One more -o of the command line: all of them as one list, as for the mount. Valid until the next call;
 * NULL without memory.
 */
const char *rvl_layers_add_options(const char *more);
/*
 * Is it known what is meant? -EINVAL (logged): an option that no mount has, one without its value, no
 * lowerdir, upperdir without workdir; needs_upper: also without upperdir. Opens nothing.
 */
int rvl_layers_check_options(const char *options, bool needs_upper);
/*
 * Opens the layers that the options name (other options of the mount are let pass), locks them, and
 * opens their index without a change to it. Errors are logged: -EINVAL the options; -EBUSY mounted;
 * those of rvl_stack_open and rvl_index_open.
 */
int rvl_layers_open(const char *options, struct rvl_layers *ret);
/*
 * The same, but the index is opened as by a mount, so that it may be written to. -EINVAL also: it
 * was never mounted; -EBUSY also: the last mount did not end cleanly, and the next one has to
 * finish what is pending.
 */
int rvl_layers_open_writable(const char *options, struct rvl_layers *ret);
/* The same without the index, which may be that of other layers; ret->index is NULL. */
int rvl_layers_open_stack(const char *options, struct rvl_layers *ret);
/* And without the locks: a server has them. */
int rvl_layers_open_unlocked(const char *options, struct rvl_layers *ret);
/* Accepts a zeroed one. */
void rvl_layers_close(struct rvl_layers *layers);

#endif
