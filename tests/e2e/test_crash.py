# SPDX-License-Identifier: GPL-2.0-or-later
"""The server is killed at every step: acknowledged work is there, the rest whole or absent."""

import re
import subprocess

import pytest

from rvl import BUILD, CTL, REVERLAY, run

pytestmark = pytest.mark.reverlay_only("its server is killed")

SHARES = 3  # each has the kinds of steps of its own operations


@pytest.mark.slow
@pytest.mark.seconds(2030)
@pytest.mark.parametrize("share", range(SHARES))
def test_kill_at_every_step(images, scratch, share):
    """Each operation on each kind of object, killed once at each kind of its steps.

    After the next mount the tree is as before or as after the step that was not answered, and as
    after all that were; the handles taken before lead to the same objects or are ESTALE; and
    nothing is left pending, in work/, or without an object in the index.
    """
    crash(images, scratch, f"share{share}", "--share", f"{share}/{SHARES}")


@pytest.mark.slow
@pytest.mark.seconds(2030)
def test_kill_and_repair(images, scratch):
    """The same, for some of the cases, with a repair instead of a mount to finish what was begun.

    It leaves nothing pending and nothing to find, and the mount after it shows a tree as above.
    """
    crash(images, scratch, "repair", "--repair", "--part", "3/48")


def test_kill_fetch(images, scratch):
    """While the data of a metacopy file are fetched: times, mode and capability are as before."""
    crash(images, scratch, "fetch", "--all", "--options", "copy_up=write",
          "--case", "open lh1; unlink lh1; writefd")


@pytest.mark.parametrize("case,point", [("renwht bf bf2", 11), ("rename ldir memp2", 24)])
def test_kill_recovery(images, scratch, case, point):
    """The recovery is killed at each of its own steps, after a death in the middle of a rename."""
    crash(images, scratch, f"recovery{point}", "--case", case, "--point", str(point), "--recovery")


def crash(images, scratch, name, *options):
    """Runs rvl-crash in an empty directory on tmpfs."""
    assert images
    where = scratch / f"crash-{name}"
    where.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=512m", "tmpfs", where)
    command = [str(BUILD / "tests/crash/rvl-crash"), "--program", REVERLAY, "--check", CTL,
               *options, str(where)]
    try:
        result = subprocess.run(["timeout", "-k", "10", "2000", *command], check=False, timeout=2015,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                stdin=subprocess.DEVNULL, text=True, errors="replace")
    finally:
        run("umount", "-l", where)
    assert result.returncode == 0, result.stdout[-6000:]
    counts = re.search(r"(\d+) cases, (\d+) points, (\d+) of recovery, 0 failed", result.stdout)
    print(counts.group(0))
    assert int(counts.group(2)) + int(counts.group(3)) > 5
