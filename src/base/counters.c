// SPDX-License-Identifier: GPL-2.0-or-later
/* The one set of counters of the process; what they mean is in the table of the header. */
#include "base/counters.h"

struct rvl_counters rvl_counters;
