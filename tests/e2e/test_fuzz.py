# SPDX-License-Identifier: GPL-2.0-or-later
"""The decoders of what is on disk, and of options, under libFuzzer for some seconds each."""

import os

import pytest

from rvl import TOP, run

SECONDS = os.environ.get("RVL_FUZZ_SECONDS", "5")


@pytest.mark.slow
@pytest.mark.seconds(400)
@pytest.mark.reverlay_only("nothing is mounted")
def test_fuzzers(scratch):
    """No input crashes a decoder, makes it loop or read beyond its end."""
    result = run(TOP / "scripts/fuzz", SECONDS, timeout=380,
                 env={**os.environ, "RVL_FUZZ_DIR": str(scratch / "build-fuzz")}, check=False)
    assert result.returncode == 0, result.stdout
    print(result.stdout)
