# SPDX-License-Identifier: GPL-2.0-or-later
"""A repair of each damage that is killed before the n-th call that changes something, and run again."""

import os
import shutil
import signal

import pytest

from imports import CHANGES
from rvl import CTL, run
from snapshots import numbers, snapshot
from test_check import CASES, Case, assert_mended, use

pytestmark = pytest.mark.reverlay_only("repair is of reverlay")

# What takes several changes (docs/consistency.md, "Repair"); all with RVL_ALL_MOVES=1.
SEVERAL = {"object-without-entry", "stamp-missing", "tombstone-alive", "directory-twice",
           "entry-without-name", "entry-hidden", "state-damaged", "index-lost"}
# A death makes the last mount's end unknown: what was removed since comes back in lost+found.
WITHOUT = {"entry-removed"}
IS_ALL = bool(os.environ.get("RVL_ALL_MOVES"))


@pytest.mark.slow
@pytest.mark.seconds(1200 if IS_ALL else 200)
@pytest.mark.parametrize("problem,name", [
    case for case in CASES if case[0] not in WITHOUT and (IS_ALL or case[0] in SEVERAL)])
def test_repair_killed_anywhere(ov, images, capsys, problem, name):
    """What it leaves, the next repair ends: the same tree, numbers and data."""
    disk = images.private(ov.base / "disk", "ext4", "16M")
    image, pristine = ov.base / "disk.img", ov.base / "pristine.img"
    try:
        ov.use_upper_on(disk)
        use(ov)
        before = snapshot(ov.mnt), numbers(ov.mnt)
        ov.umount()
        c = Case(ov, before[1])
        CASES[problem, name](c)
        run("umount", disk)
        shutil.copyfile(image, pristine)
        n_killed = kill_anywhere(ov, c, before, disk, image, pristine)
        with capsys.disabled():
            print(f"\n{problem}: killed at {n_killed} points")
        ov.before = None
    finally:
        run("umount", "-l", ov.mnt, check=False)
        run("umount", "-l", disk, check=False)


def kill_anywhere(ov, c, before, disk, image, pristine):
    n, step, n_killed = 1, 1 if IS_ALL else 7, 0
    while True:
        run("mount", "-o", "loop", image, disk)
        result = run("strace", "-f", "-o", "/dev/null", "-e", f"trace={CHANGES}",
                     "-e", f"inject={CHANGES}:signal=SIGKILL:when={n}",
                     CTL, "repair", *c.repair, "-o", ov.option_string(), check=False)
        if result.returncode not in (-signal.SIGKILL, 128 + signal.SIGKILL):
            assert result.returncode in (0, 1), result.stdout
            return n_killed
        n_killed += 1
        code, found = ov.ctl("repair", *c.repair)
        assert code in (0, 1), (n, found)
        assert_mended(ov, c, before)
        ov.umount()
        run("umount", disk)
        shutil.copyfile(pristine, image)
        n += step
