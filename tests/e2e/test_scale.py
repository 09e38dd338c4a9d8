# SPDX-License-Identifier: GPL-2.0-or-later
"""Many objects: the server's memory is bounded, and each costs what it costs among few."""

import json
import os
from pathlib import Path

import pytest

import rvl
from rvl import CTL, run

N_OBJECTS = int(os.environ.get("RVL_OBJECTS", "20000"))  # scripts/soak has ten million
N_PART = min(N_OBJECTS, 1000000)  # in one image
IN_DIRECTORY = 1000
N_FEW = 10000
MEMORY_MAX = 300 << 20
IS_SOAK = N_OBJECTS > N_PART


def fill(directory, n):
    for i in range(n // IN_DIRECTORY):
        (directory / f"d{i}").mkdir(parents=True)
        fd = os.open(directory / f"d{i}", os.O_RDONLY)
        for j in range(IN_DIRECTORY):
            os.mknod(f"f{j}", 0o644, dir_fd=fd)
        os.close(fd)


def mount(image):
    where = image.with_suffix("")
    where.mkdir(exist_ok=True)
    run("mount", "-o", "loop,noatime", image, where)
    return where


def add_layer(ov, where):
    ov.mounted_helpers.append(where)
    ov.lowers.append(where)


def make_image(ov, name, n):
    """A filesystem with so many objects below a directory of this name, not mounted."""
    image = ov.lower_base / f"{name}.img"
    run("truncate", "-s", f"{64 + n // 700}M", image)
    run("mkfs.ext4", "-q", "-N", str(n + n // 500 + 1000), "-O", "^has_journal,^metadata_csum", image)
    where = mount(image)
    fill(where / name, n)
    run("umount", where)
    return image


def add_layers(ov):
    """A layer with few, and as many as it takes of up to a million: one image and its copies."""
    add_layer(ov, mount(make_image(ov, "few", N_FEW)))
    first = make_image(ov, "part0", N_PART)
    for i in range(N_OBJECTS // N_PART):
        image = ov.lower_base / f"part{i}.img"
        if i:
            run("cp", "--sparse=always", first, image)
            run("tune2fs", "-U", "random", image)
    for i in range(N_OBJECTS // N_PART):
        where = mount(ov.lower_base / f"part{i}.img")
        (where / "part0").rename(where / f"part{i}")
        add_layer(ov, where)


def busy_us(pid):
    """CPU time of all threads."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text(encoding="ascii").split()[0]) for task in tasks) / 1000


def walk(ov, path, n):
    """CPU time of the server for each object."""
    before = busy_us(ov.process.pid)
    listed = run("find", path, "-type", "f", "-printf", "%s\n", timeout=7200).stdout.count("\n")
    assert listed == n
    return (busy_us(ov.process.pid) - before) / n


@pytest.mark.reverlay_only("it is not a process")
@pytest.mark.layouts("ext4")
@pytest.mark.seconds(120 + N_OBJECTS // 2000)
def test_many_objects(ov):
    """Many more objects are walked than nodes are kept; the server's memory does not follow."""
    add_layers(ov)
    ov.check_lower = ov.check_remount = ov.check_links = False
    mnt = ov.mount(*([] if IS_SOAK else ["node_limit=2048"]))
    few = walk(ov, mnt / "few", N_FEW)
    many = [walk(ov, mnt / f"part{i}", N_PART) for i in range(N_OBJECTS // N_PART)]
    memory = rvl.memory_of(ov.process.pid)
    counters = json.loads(run(CTL, "stat", "--json", mnt).stdout)["counters"]
    print(f"{N_OBJECTS} objects: {memory >> 20} MiB, us for each of few {few:.1f}, of many {many}")
    assert memory < (MEMORY_MAX if IS_SOAK else MEMORY_MAX / 4)
    assert counters["nodes_evicted"] > N_OBJECTS / 2
    if IS_SOAK:
        assert many[-1] < 1.5 * few
