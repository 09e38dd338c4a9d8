# SPDX-License-Identifier: GPL-2.0-or-later
"""Random operations on the mount and on a plain directory give the same results and trees."""

import subprocess

import pytest

from rvl import BUILD, IS_KERNEL, REVERLAY, TOP

RUNS = [
    ("plain", ["--on", "tmpfs", "--ops", "12000", "--remount-every", "3000"]),
    ("caches", ["--on", "ext4", "--ops", "6000", "--drop-caches", "--remount-every", "2000"]),
    ("threads", ["--on", "tmpfs", "--ops", "8000", "--threads", "4"]),
    ("xfs", ["--on", "xfs", "--ops", "4000", "--layers", "5", "--remount-every", "1000"]),
]


@pytest.mark.slow
@pytest.mark.parametrize("name,arguments", RUNS, ids=[name for name, _ in RUNS])
def test_random(images, scratch, name, arguments):
    """30,000 operations in all, errno compared at every step, whole trees now and then."""
    tester = BUILD / "tests/random/rvl-random"
    assert tester.exists()
    where = scratch / f"random-{name}"
    where.mkdir()
    command = [str(TOP / "tests/random/soak.sh"), "--fs", "kernel" if IS_KERNEL else "reverlay",
               "--program", REVERLAY, "--tester", str(tester), "--seed", "1", *arguments]
    result = subprocess.run(["timeout", "-k", "10", "300", *command], cwd=where, timeout=330,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
                            errors="replace", stdin=subprocess.DEVNULL, text=True)
    assert result.returncode == 0, result.stdout[-4000:]
