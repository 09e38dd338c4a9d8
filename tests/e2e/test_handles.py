# SPDX-License-Identifier: GPL-2.0-or-later
"""The handle matrix: a handle taken before something happens still opens its object after it.

tests/handles/rvl-handles has the kinds of object, the events and the checks; here are the
filesystems. Every single event on every combination, pairs of events on one; all pairs
everywhere with RVL_ALL_PAIRS=1, which takes an hour: scripts/soak --handles.
"""

import os
import subprocess
import threading

import pytest

from rvl import BUILD, REVERLAY, run

PROGRAM = str(BUILD / "tests/handles/rvl-handles")
SECONDS = 100
SECONDS_PAIRS = 900

UPPERS = ["ext4", "xfs", "btrfs", "tmpfs"]
# The map is made in the background, or when a decode first needs it; OPEN is asked for, or not.
OPTIONS = {"ext4": ["nfs_export=on"], "xfs": ["copy_up=write"],
           "btrfs": ["nfs_export=on", "copy_up=write"], "tmpfs": []}
OTHER = {"ext4": "xfs", "xfs": "ext4", "btrfs": "ext4", "tmpfs": "ext4"}
LOWERS = ["same", "other", "squashfs", "stack5", "overlay-xino-on", "overlay-xino-off", "overlay-ro"]
STACK5 = ["ext4", "xfs", "btrfs", "ext4", "tmpfs"]
# A kernel overlay over several filesystems: with xino every number has high bits, without it st_dev
# changes inside. With an upper (of its own, and empty) it has a uuid; "ro" is without.
BELOW_OVERLAY = ["ext4", "xfs", "ext4"]
# mksquashfs makes two objects of two links of a symlink
WITHOUT = {"squashfs": ["--without", "symlink-2-links"]}


class Lowers:
    """Lower layers with the cells' objects, made at first use; the uppers share them, for they do not change."""

    def __init__(self, images):
        self.images = images
        self.made = {}
        self.mounts = []

    def directory(self, fs, name):
        path = self.images.get(fs) / f"handles-{name}"
        path.mkdir()
        path.chmod(0o755)
        return path

    def fill(self, paths, arguments):
        run(PROGRAM, *arguments, "lower", *paths)
        return paths

    def get(self, upper, lower, arguments=()):
        """The list of lower directories, topmost first."""
        fs = {"same": upper, "other": OTHER[upper]}.get(lower)
        assert lower in LOWERS
        key = (fs or lower, *arguments)
        if key not in self.made:
            name = "-".join(a.strip("-") for a in key)
            if fs:
                self.made[key] = self.fill([self.directory(fs, name)], arguments)
            else:
                self.made[key] = getattr(self, "make_" + lower.split("-")[0])(name, arguments)
        return self.made[key]

    def make_squashfs(self, name, arguments):
        source, = self.fill([self.directory("ext4", name + ".src")], arguments)
        image = self.directory("ext4", name + ".image") / "image"
        run("mksquashfs", source, image, "-quiet", "-no-progress", "-comp", "gzip", "-noappend")
        return [self.mount(name, "squashfs", "loop,ro", image)]

    def make_stack5(self, name, arguments):
        return self.fill([self.directory(fs, f"{name}.{i}") for i, fs in enumerate(STACK5)],
                         arguments)

    def make_overlay(self, name, arguments):
        below = self.fill([self.directory(fs, f"{name}.{i}")
                           for i, fs in enumerate(BELOW_OVERLAY)], arguments)
        xino = "off" if "xino-off" in name else "on"
        options = "lowerdir=" + ":".join(map(str, below)) + f",xino={xino}"
        if "ro" not in name.split("-"):
            upper, work = self.directory("ext4", name + ".u"), self.directory("ext4", name + ".w")
            options += f",upperdir={upper},workdir={work}"
        return [self.mount(name, "overlay", options, "overlay")]

    def mount(self, name, kind, options, source):
        where = self.images.scratch / f"handles-{name}"
        where.mkdir()
        run("mount", "-t", kind, "-o", options, source, where)
        self.mounts.append(where)
        return where

    def close(self):
        for where in reversed(self.mounts):
            run("umount", "-l", where, check=False)
        # the directories go with the images that they are on


@pytest.fixture(scope="module")
def lowers(images):
    result = Lowers(images)
    yield result
    result.close()


def run_cells(ov, arguments, seconds, options):
    """Runs the program on the mounted overlay, mounting as it asks for; returns its last lines."""
    said = []
    with subprocess.Popen([PROGRAM, *arguments, "run", str(ov.mnt)], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          errors="replace") as process:
        timer = threading.Timer(seconds, process.kill)
        timer.start()
        try:
            for line in process.stdout:
                if line == "remount\n":
                    ov.remount(*options)
                elif line == "kill\n":
                    ov.kill_remount(*options)
                else:
                    said.append(line.rstrip())
                    continue
                process.stdin.write("ok\n")
                process.stdin.flush()
        finally:
            timer.cancel()
            process.kill()
    return process.returncode, said


def run_matrix(overlays, lowers, capsys, upper, lower, arguments=(), seconds=SECONDS):
    ov = overlays(upper)
    arguments = (*arguments, *WITHOUT.get(lower, ()))
    ov.lowers = lowers.get(upper, lower, arguments)
    ov.check_remount = False  # every cell is checked after a remount
    # pairs are 100,000 objects, too many for more than what each cell checks; and a kernel overlay without xino
    # has other inos for its directories after a drop of caches
    ov.check_links = "--pairs" not in arguments
    ov.check_lower = ov.check_links and lower != "overlay-xino-off"
    options = OPTIONS[upper]
    ov.mount(*options)
    code, said = run_cells(ov, arguments, seconds, options)
    counts = dict(part.split("=") for part in (said or [""])[-1].split(" ") if "=" in part)
    with capsys.disabled():
        print(f"\nhandles: upper {upper}, lower {lower}{' '.join(['', *arguments])}: "
              + (said or ["nothing"])[-1])
    assert code == 0 and counts.get("failed") == "0", "\n".join(said[-45:])
    assert int(counts["ok"]) > 100 and int(counts["stale"]) > 50, said[-1]


@pytest.mark.seconds(SECONDS + 20)
@pytest.mark.parametrize("lower", LOWERS)
@pytest.mark.parametrize("upper", UPPERS)
@pytest.mark.reverlay_only("the kernel's overlay is mounted without nfs_export here")
def test_single_events(overlays, lowers, capsys, upper, lower):
    """Each kind of object, each event between taking and using its handle."""
    assert os.path.exists(REVERLAY) and os.path.exists(PROGRAM)
    run_matrix(overlays, lowers, capsys, upper, lower)


PAIRS = [("ext4", "stack5")]


def pytest_generate_tests(metafunc):
    if metafunc.function.__name__ != "test_pairs_of_events":
        return
    everywhere = [(upper, lower) for upper in UPPERS for lower in LOWERS]
    metafunc.parametrize("upper,lower", everywhere if os.environ.get("RVL_ALL_PAIRS") == "1" else PAIRS)


@pytest.mark.slow
@pytest.mark.seconds(SECONDS_PAIRS + 20)
@pytest.mark.reverlay_only("the kernel's overlay is mounted without nfs_export here")
def test_pairs_of_events(overlays, lowers, capsys, upper, lower):
    """Two events in sequence."""
    run_matrix(overlays, lowers, capsys, upper, lower, ("--pairs",), SECONDS_PAIRS)
