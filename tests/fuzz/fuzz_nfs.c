// SPDX-License-Identifier: GPL-2.0-or-later
/* Handles as NFS servers' logs and users have them: what is parsed is shown so that it is parsed to
 * the same object. */
#include "tools/nfs_handle.h"

#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct rvl_nfs_handle handle = {}, again = {};
	char shown[RVL_NFS_HANDLE_TEXT_MAX], *text = malloc(size + 1);

	if (!text)
		return 0;
	memcpy(text, data, size);
	text[size] = '\0';
	if (rvl_nfs_handle_parse(text, &handle) == 0) {
		if (handle.form == RVL_NFS_KNFSD)
			rvl_nfs_handle_knfsd(&handle.id, handle.uuid, shown);
		else if (handle.form == RVL_NFS_GANESHA)
			rvl_nfs_handle_ganesha(&handle.id, 1, shown);
		else
			rvl_nfs_handle_fuse(&handle.id, shown);
		FUZZ_CHECK(rvl_nfs_handle_parse(shown, &again) == 0);
		FUZZ_CHECK(again.id.number == handle.id.number &&
			   again.id.generation == handle.id.generation);
	}
	free(text);
	return 0;
}
