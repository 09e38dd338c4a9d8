# SPDX-License-Identifier: GPL-2.0-or-later
"""Many objects: the server's memory is bounded, and each costs what it costs among few."""

import json
import os
import statistics
import time
from pathlib import Path

import pytest

import rvl
from rvl import CTL, run

N_OBJECTS = int(os.environ.get("RVL_OBJECTS", "20000"))  # scripts/soak has ten million
N_PART = min(N_OBJECTS, 1000000)  # in one image
IN_DIRECTORY = 1000
N_FEW = 10000
N_FEWS = 5  # layers with few: one walk is too short to be measured alone
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


def add_layers(ov, name, n, count):
    """So many layers with n objects each: one image and its copies. Returns the names of the directories
    that have them."""
    first = make_image(ov, f"{name}0", n)
    for i in range(1, count):
        image = ov.lower_base / f"{name}{i}.img"
        run("cp", "--sparse=always", first, image)
        run("tune2fs", "-U", "random", image)
    for i in range(count):
        where = mount(ov.lower_base / f"{name}{i}.img")
        (where / f"{name}0").rename(where / f"{name}{i}")
        add_layer(ov, where)
    return [f"{name}{i}" for i in range(count)]


def busy_us(pid):
    """CPU time of all threads."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text(encoding="ascii").split()[0]) for task in tasks) / 1000


def count_files(path):
    return run("find", path, "-type", "f", "-printf", "%s\n", timeout=7200).stdout.count("\n")


def walk(ov, name, n):
    """CPU time of the server. The layer's own objects are in the kernel's memory before: what it takes to
    bring them there is the layer's filesystem's, and follows the memory that is free."""
    layer = next(low for low in ov.lowers if (low / name).is_dir())
    assert count_files(layer / name) == n
    before = busy_us(ov.process.pid)
    assert count_files(ov.mnt / name) == n
    return busy_us(ov.process.pid) - before


def forget(ov):
    """CPU time of the server while the kernel forgets what it knows; of many it forgets most while it walks on."""
    before = now = busy_us(ov.process.pid)
    last = None
    while now != last:
        Path("/proc/sys/vm/drop_caches").write_text("2", encoding="ascii")
        time.sleep(0.5)  # FORGETs come after drop_caches has returned, and nothing tells of the last one
        last, now = now, busy_us(ov.process.pid)
    return now - before


@pytest.mark.reverlay_only("it is not a process")
@pytest.mark.layouts("ext4")
@pytest.mark.seconds(120 + N_OBJECTS // 2000)
def test_many_objects(ov):
    """Many more objects are walked than nodes are kept; the server's memory does not follow."""
    fews = add_layers(ov, "few", N_FEW, N_FEWS)
    parts = add_layers(ov, "part", N_PART, N_OBJECTS // N_PART)
    ov.check_lower = ov.check_remount = ov.check_links = False
    ov.mount(*([] if IS_SOAK else ["node_limit=2048"]))
    few = [(walk(ov, name, N_FEW) + forget(ov)) / N_FEW for name in fews]
    walks = [walk(ov, name, N_PART) for name in parts]
    memory = rvl.memory_of(ov.process.pid)
    counters = json.loads(run(CTL, "stat", "--json", ov.mnt).stdout)["counters"]
    many = (sum(walks) + forget(ov)) / N_OBJECTS
    print(f"{N_OBJECTS} objects: {memory >> 20} MiB, us for each of few {few}, of many {many}, "
          f"in each walk {[walk / N_PART for walk in walks]}")
    assert memory < (MEMORY_MAX if IS_SOAK else MEMORY_MAX / 4)
    assert counters["nodes_evicted"] > N_OBJECTS / 2
    if IS_SOAK:
        assert many < 1.3 * statistics.median(few)  # 1.2 was seen, see docs/performance.md
