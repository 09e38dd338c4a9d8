# SPDX-License-Identifier: GPL-2.0-or-later
"""Handles that somebody makes up reach nothing but what the mount's tree shows.

Layers, upper, workdir and secrets lie on one filesystem: its inode numbers are in one space, and a
number that is one off is a secret's. What handles are made of was taken when more could be seen, so
that numbers and generations are right.
"""

import os
import re
import shutil
import subprocess
import time

import pytest

from rvl import BUILD
from trees import opaque, whiteout, write

PROGRAM = str(BUILD / "tests/handles/rvl-handle-fuzz")
COUNT = int(os.environ.get("RVL_FUZZ_COUNT", "100000"))
MEMORY_KIB = 24 * 1024
N = 40


def make_layers(base):
    """Two layers, and secrets beside them."""
    top, bottom, secret = base / "top", base / "bottom", base / "secret"
    for i in range(N):
        write(secret / f"file{i}", f"secret {i}\n")
        write(secret / f"dir{i}/inner", f"secret {i}\n")
        write(top / f"file{i}", f"{i}\n")
        write(top / f"dir{i}/inner", f"{i}\n")
        write(bottom / f"file{i}", f"bottom {i}, hidden by top\n")
        write(bottom / f"low{i}", f"{i}\n")
        write(bottom / f"dir{i}/lower", f"{i}\n")
        for where in ("moved", "hidden", "opaque", "covered"):
            write(bottom / where / f"file{i}", f"{where} {i}\n")
            write(bottom / where / f"dir{i}/inner", f"{where} {i}\n")
        write(top / "moved-top" / f"file{i}", f"moved {i}\n")
        os.link(top / f"file{i}", top / f"link{i}")
        if i % 4:  # the others are deleted: see test_handles_decode.py
            os.link(bottom / f"low{i}", secret / f"link{i}")
        os.symlink(f"/nowhere/{i}", top / f"symlink{i}")
    os.mkfifo(top / "fifo")
    return [top, bottom]


def use(mnt):
    """Objects of all sorts in upper, in the index, and gone."""
    for i in range(N):
        write(mnt / f"born{i}", f"born {i}\n")
        write(mnt / f"borndir{i}/inner", f"born {i}\n")
        with open(mnt / f"low{i}", "ab") as file:
            file.write(b"copied up\n")
    for i in range(0, N, 4):
        os.unlink(mnt / f"file{i}")
        os.unlink(mnt / f"born{i}")
        shutil.rmtree(mnt / f"borndir{i}")
        os.rename(mnt / f"dir{i}", mnt / f"renamed{i}")
        os.unlink(mnt / f"low{i}")
        write(mnt / f"low{i}", "again\n")


def hide(base, upper):
    """Offline: what could be seen is hidden, in each of the ways that there are."""
    top, bottom, secret = base / "top", base / "bottom", base / "secret"
    os.rename(bottom / "moved", secret / "moved")
    os.rename(top / "moved-top", secret / "moved-top")
    whiteout(top / "hidden")
    for i in range(0, N, 2):
        whiteout(upper / f"symlink{i}")
    (top / "opaque").mkdir()
    opaque(top / "opaque")
    write(upper / "covered", "a file where there was a directory\n")


def collect(ov, path):
    with open(path, "wb") as file:
        subprocess.run([PROGRAM, "collect", str(ov.mnt)], stdout=file, check=True, timeout=60)
    return [line.split(" ", 2) for line in path.read_text().splitlines()]


def real_numbers(base, generations, path):
    """All real inos of the filesystem, workdir and upper among them, as if they were numbers."""
    with open(path, "w", encoding="utf-8") as file:
        for where, dirs, files in os.walk(base):
            for name in dirs + files:
                ino = os.lstat(os.path.join(where, name)).st_ino
                for generation in generations:
                    file.write(f"{ino:x} {generation} {name}\n")


def memory_kib(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        return int(re.search(r"VmRSS:\s+(\d+)", file.read())[1])


def attack(ov, seed, files):
    result = subprocess.run([PROGRAM, "--seed", str(seed), "--count", str(COUNT), "attack",
                             str(ov.mnt), *map(str, files)], stdout=subprocess.PIPE, check=False,
                            timeout=600, text=True)
    assert result.returncode == 0, result.stdout
    return dict(part.split("=") for part in result.stdout.splitlines()[-1].split(" "))


@pytest.mark.seconds(660)
@pytest.mark.parametrize("is_map_kept", [True, False], ids=["map", "no-map"])
@pytest.mark.reverlay_only("the handles of the kernel's overlay are others")
def test_closed_world(overlays, images, scratch, capsys, is_map_kept):
    """Random, flipped, neighbouring and once valid handles open what the tree shows, or are stale."""
    ov = overlays("ext4")
    base = images.private(scratch / f"hostile-{is_map_kept}", "ext4", "128M")
    ov.mounted_helpers.append(base)
    ov.lowers = make_layers(base)
    ov.use_upper_on(base)
    ov.check_lower = False  # it is changed here
    ov.check_links = False  # some links are outside
    ov.check_clean = False  # the map is older than the change
    files = [ov.base / name for name in ("before", "after", "real")]

    ov.mount("nfs_export=on")
    before = collect(ov, files[0])
    use(ov.mnt)
    collect(ov, files[1])
    ov.umount()
    hide(base, ov.upper)
    if not is_map_kept:
        (ov.work / "inodes/map.mdb").unlink()
    real_numbers(base, {"0", *(generation for _, generation, _ in before[1:9])}, files[2])

    ov.mount("nfs_export=on")
    attack(ov, 1, [])  # so that all caches are full
    start = memory_kib(ov.process.pid)
    seed = int(os.environ.get("RVL_SEED", time.time_ns() & 0xffffffff))
    print(f"seed {seed}")
    counts = attack(ov, seed, files)
    grown = memory_kib(ov.process.pid) - start
    with capsys.disabled():
        print(f"\nhostile handles: {counts}, memory {start} KiB + {grown} KiB")
    assert grown < MEMORY_KIB, f"the server grew by {grown} KiB"
    assert int(counts["tried"]) >= COUNT
    # the seeds were worth something: what was hidden had numbers, and what is shown opened
    assert int(counts["opened"]) >= int(counts["tree"]) > 8 * N
