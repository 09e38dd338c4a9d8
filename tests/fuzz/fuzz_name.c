// SPDX-License-Identifier: GPL-2.0-or-later
/* Names in the kernel's index, which an import reads: what is decoded is encoded to a name of the same
 * handle, which differs in the flags alone. */
#include <limits.h>
#include <strings.h>

#include "layer/handle.h"

#include "fuzz.h"

#define FLAGS 6 /* where the byte of the flags is */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char name[RVL_HANDLE_NAME_SIZE], *text = malloc(size + 1);
	struct rvl_handle handle, again;

	if (size > NAME_MAX)
		size = NAME_MAX; /* as a directory has them */
	if (!text)
		return 0;
	memcpy(text, data, size);
	text[size] = '\0';
	if (rvl_handle_name_decode(text, &handle) == 0) {
		FUZZ_CHECK(rvl_handle_name_encode(&handle, name) == 0);
		FUZZ_CHECK(rvl_handle_name_decode(name, &again) == 0);
		FUZZ_CHECK(rvl_handle_equal(&handle, &again));
		FUZZ_CHECK(strncasecmp(name, text, FLAGS) == 0);
		FUZZ_CHECK(strcasecmp(name + FLAGS + 2, text + FLAGS + 2) == 0);
	}
	free(text);
	return 0;
}
