// SPDX-License-Identifier: GPL-2.0-or-later
/* Mount options. What was parsed is shown, and given to libfuse. */
#include "server/options.h"

#include <fcntl.h>
#include <unistd.h>

#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct rvl_options options;
	char *text = malloc(size + 1), *shown = NULL, *arguments = NULL;
	size_t len;

	if (!text)
		return 0;
	memcpy(text, data, size);
	text[size] = '\0';
	rvl_options_init(&options, true);
	if (rvl_options_parse(&options, text) == 0 && rvl_options_check(&options) == 0) {
		FUZZ_CHECK(rvl_options_format(&options, false, &shown, &len) == 0);
		FUZZ_CHECK(rvl_options_for_fuse(&options, &arguments) == 0);
	}
	free(arguments);
	free(shown);
	free(text);
	rvl_options_release(&options);
	return 0;
}
