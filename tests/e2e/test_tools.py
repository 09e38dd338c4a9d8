# SPDX-License-Identifier: GPL-2.0-or-later
"""The tools as they are called: by fsck(8), at a terminal, by programs; usage, and what they print."""

import contextlib
import os
import re
import subprocess

import pytest

import rvl
from rvl import BUILD, CTL, run
from test_check import use

pytestmark = pytest.mark.reverlay_only("the tools are of reverlay")

NO_TERMINAL = {"stdin": subprocess.DEVNULL, "timeout": 120, "check": False}


def call(*args, program="reverlayctl", **kwargs):
    """(exit code, stdout and stderr) of the tool by any of its names."""
    done = subprocess.run([program, *map(str, args)], executable=CTL, text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, **{**NO_TERMINAL, **kwargs})
    return done.returncode, done.stdout


def fsck(*args):
    return call(*args, program="fsck.reverlay")


@pytest.fixture
def damaged(ov):
    """An overlay that was stopped cleanly, with one thing wrong that -p mends."""
    use(ov)
    ov.umount()
    os.removexattr(ov.upper / "file", "trusted.overlay.ino")
    return ov


def is_damaged(ov):
    return "trusted.overlay.ino" not in os.listxattr(ov.upper / "file")


# -- fsck(8) --------------------------------------------------------------------------------


@contextlib.contextmanager
def fstab(scratch, *lines):
    """Another /etc/fstab, in this mount namespace only."""
    path = scratch / "fstab"
    path.write_text("".join(line + "\n" for line in lines))
    run("mount", "--bind", path, "/etc/fstab")
    try:
        yield
    finally:
        run("umount", "/etc/fstab")


@pytest.fixture(scope="session")
def installed(scratch):
    """The names of the tool that an installation makes, as links in a directory."""
    run("meson", "install", "-C", BUILD, "--no-rebuild", "--quiet", "--destdir", scratch / "root")
    found = scratch / "installed"
    found.mkdir()
    for directory, _, names in os.walk(scratch / "root"):
        for name in names:
            path = os.path.join(directory, name)
            if os.path.islink(path) and os.readlink(path).endswith("/reverlayctl"):
                os.symlink(CTL, found / name)
    return found


def test_fsck8(damaged, scratch, installed):
    """fsck(8) finds the program by the type that fstab has, and hands its exit code on."""
    def fsck8(*args):
        done = subprocess.run(["fsck", *map(str, args)], text=True, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, **NO_TERMINAL,
                              env={**os.environ, "PATH": f"{installed}:{os.environ['PATH']}"})
        return done.returncode, done.stdout

    ov = damaged
    options = ov.option_string()
    with fstab(scratch, f"ovl {ov.mnt} fuse.reverlay {options},noauto 0 2"):
        for args in (["-t", "fuse.reverlay", "-n", ov.mnt], ["-A", "-n"], [ov.mnt, "--", "-n"]):
            code, text = fsck8(*args)
            assert code == 4 and "stamp-wrong" in text, (args, text)
        assert fsck8(ov.mnt, "--", "-f", "-p")[0] == 1
    with fstab(scratch, f"ovl {ov.mnt} reverlay {options},noauto 0 2"):
        assert fsck8("-A", "-n")[0] == 0
        assert "objects in upper" in fsck8("-A", "-n")[1]


def test_one_mode(damaged):
    """As e2fsck: one of -n, -p (or -a) and -y. What contradicts itself changes nothing, and calls nothing clean."""
    ov = damaged
    options = ov.option_string()
    for args in (["-n", "-p"], ["-p", "-n"], ["-np"], ["-n", "-a"], ["-y", "-n"], ["-p", "-y"], ["-a", "-y"]):
        for code, text in (fsck(*args, "-o", options), call("repair", *args, "-o", options)):
            if "-a" not in args:
                assert code == 16 and "only one of" in text, (args, code, text)
            assert code == 16, (args, code, text)
            assert is_damaged(ov)
    assert call("repair", "--preen", "--no", "-o", options)[0] == 16
    assert fsck("-a", "-p", "-o", options) == (0, "reverlay: clean\n")
    assert fsck("-n", "-n", "-o", options)[0] == 4
    assert fsck("-f", "-a", "-p", "-o", options)[0] == 1
    assert not is_damaged(ov)
