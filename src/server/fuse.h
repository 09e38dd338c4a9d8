/* SPDX-License-Identifier: GPL-2.0-or-later */
/* libfuse, in the one version of its interface that the server is written for. */
#ifndef RVL_SERVER_FUSE_H
#define RVL_SERVER_FUSE_H

#define FUSE_USE_VERSION FUSE_MAKE_VERSION(3, 17)
#include <fuse_lowlevel.h>

#include "server/fuse-features.h"

#endif
