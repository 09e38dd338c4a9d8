# SPDX-License-Identifier: GPL-2.0-or-later
"""The promise, as far as stat shows it: a number is one object's, for ever."""

import errno
import os
import stat
import struct
import subprocess

import pytest

import rvl
import sysc
from rvl import IS_KERNEL, is_mounted, run
from snapshots import assert_same, check_tree, numbers, snapshot
from trees import ino, listing, standard_tree, write

N_FILES = int(os.environ.get("RVL_FILES", "20000"))  # of a large tree; scripts/soak has a million


@pytest.mark.layouts()
def test_stable_over_everything(ov):
    """Numbers stay over writes, chmod, links, renames, dropped caches, remounts and kill -9."""
    with ov.lower() as low:
        standard_tree(low)
    mnt = ov.mount()
    write(mnt / "born")
    os.mkdir(mnt / "born.d")
    first = numbers(mnt)

    def same(changes=None):
        expected = dict(first)
        for old, new in (changes or {}).items():
            for path in list(expected):
                if path == old or path.startswith(old + "/"):
                    expected[new + path[len(old):]] = expected.pop(path)
        assert numbers(mnt) == expected

    same()
    sysc.drop_caches()
    same()
    ov.remount()
    same()
    ov.kill_remount()
    same()
    for name in ("file", "big", "born", "dir/inner", "hard1"):
        with open(mnt / name, "ab") as file:
            file.write(b"more\n")
    for name in ("empty", "dir/sub", "emptydir", "fifo", "born.d", "xattr"):
        os.chmod(mnt / name, 0o700)
    os.lchown(mnt / "symlink", 1, 1)
    same()
    ov.kill_remount()
    same()
    sysc.drop_caches()
    same()
    moves = {"dir": "emptydir/moved", "file": "sticky/file", "born": "born.d/born", "fifo": "fifo2"}
    for old, new in moves.items():
        os.rename(mnt / old, mnt / new)
    same(moves)
    ov.remount()
    same(moves)
    ov.kill_remount()
    same(moves)


@pytest.mark.reverlay_only("its numbers are its own")
@pytest.mark.layouts("ext4", "xfs", "tmpfs", "other", "squashfs")
def test_equal_the_real_ones(ov):
    """Numbers of the topmost lower are the real inode numbers; the root is 1."""
    with ov.lower() as low:
        standard_tree(low)
    mnt = ov.mount()
    real = numbers(ov.lowers[0])
    del real["."]
    got = numbers(mnt)
    assert got.pop(".") == 1
    if ov.layout == "squashfs":
        # 0 and 1 cannot be shown as they are
        real = {p: n for p, n in real.items() if n > 1}
        got = {p: n for p, n in got.items() if p in real}
    assert got == real


@pytest.mark.layouts()
def test_one_object_one_number(ov):
    """No two objects of all layers share a number, none is 0, bit 63 is never set."""
    with ov.lower() as low:
        standard_tree(low)
    for fs in ("ext4", "xfs", "btrfs", "tmpfs"):
        with ov.layer(fs) as low:
            for i in range(50):
                write(low / f"{fs}-{i}/file")
    mnt = ov.mount()
    for i in range(50):
        write(mnt / f"born{i}")
    got = numbers(mnt)
    groups = {}
    for path, number in got.items():
        if not IS_KERNEL:
            assert 0 < number < 2 ** 63, path
        groups.setdefault(number, []).append(path)
    many = [paths for paths in groups.values() if len(paths) > 1]
    assert many == [sorted(many[0], key=list(got).index)] and len(many[0]) == 3, many
    assert {os.lstat(mnt / p).st_dev for p in got} == {os.lstat(mnt).st_dev}


def test_btrfs_subvolumes(ov):
    """Subvolumes within a lower have equal real numbers; here all numbers differ, and stay."""
    base = ov.images.get("btrfs") / (ov.base.name + ".sub")
    base.mkdir()
    low = base / "low"
    run("btrfs", "subvolume", "create", low)
    try:
        for i in range(3):
            run("btrfs", "subvolume", "create", low / f"s{i}")
            for j in range(10):
                write(low / f"s{i}/f{j}")
        assert ino(low / "s0/f0") == ino(low / "s1/f0")
        ov.lowers = [low]
        if IS_KERNEL:
            ov.options = ["xino=off"]
        mnt = ov.mount()
        got = numbers(mnt)
        if not IS_KERNEL:
            assert len(set(got.values())) == len(got)
        write(mnt / "s1/f0", "changed\n")
        assert ino(mnt / "s1/f0") == got["s1/f0"]
        if not IS_KERNEL:
            ov.remount()
            assert numbers(mnt) == got
        ov.finish()
    finally:
        ov.check_lower = ov.check_remount = False
        run("umount", "-l", ov.mnt, check=False)
        ov.wait_exit()
        for i in range(3):
            run("btrfs", "subvolume", "delete", low / f"s{i}")
        run("btrfs", "subvolume", "delete", low)


@pytest.mark.reverlay_only("it has no such handles")
def test_handles_hold_the_number(ov):
    """The file handle of an object on the mount holds its number; the root's generation is 0."""
    with ov.lower() as low:
        standard_tree(low)
    mnt = ov.mount()
    write(mnt / "born")
    first = {}
    for name in (".", "file", "dir", "dir/inner", "symlink", "fifo", "born"):
        kind, data = sysc.handle(mnt / name)
        assert kind == 0x81 and len(data) == 12, name
        high, low32, generation = struct.unpack("III", data)
        assert (high << 32 | low32) == ino(mnt / name), name
        first[name] = (kind, data)
    assert first["."][1][8:] == bytes(4)
    assert first["file"][1][8:] != bytes(4)
    os.chmod(mnt / "file", 0o600)
    os.rename(mnt / "file", mnt / "dir/file")
    ov.kill_remount()
    first["dir/file"] = first.pop("file")
    for name, fh in first.items():
        assert sysc.handle(mnt / name) == fh, name


@pytest.mark.reverlay_only("it decodes by other means")
def test_handles_of_upper_decode_after_restart(ov):
    """A handle taken before a restart opens the same object after it, with nothing cached."""
    with ov.lower() as low:
        standard_tree(low)
    mnt = ov.mount()
    write(mnt / "born", "born\n")
    os.mkdir(mnt / "born.d")
    write(mnt / "file", "changed\n")
    os.chmod(mnt / "dir", 0o700)
    handles = {n: sysc.handle(mnt / n) for n in ("born", "born.d", "file", "dir")}
    dead = sysc.handle(write(mnt / "dead"))
    os.unlink(mnt / "dead")
    os.rename(mnt / "file", mnt / "dir/file")
    os.rename(mnt / "born", mnt / "born.d/born")
    ov.kill_remount()
    sysc.drop_caches()
    root = os.open(mnt, os.O_RDONLY)
    try:
        now = {"file": "dir/file", "born": "born.d/born"}
        for name, fh in handles.items():
            fd = sysc.open_handle(root, fh)
            assert os.fstat(fd).st_ino == ino(mnt / now.get(name, name)), name
            if name == "file":
                assert os.read(fd, 100) == b"changed\n"
            os.close(fd)
        sysc.fails(errno.ESTALE, sysc.open_handle, root, dead)
    finally:
        os.close(root)


def test_kill_in_the_middle(ov):
    """kill -9 under load, many times: what was acknowledged is there, numbers and links are right."""
    with ov.lower() as low:
        for i in range(30):
            write(low / f"d{i % 3}/f{i}", f"{i}\n")
            os.link(low / f"d{i % 3}/f{i}", low / f"link{i}")
    mnt = ov.mount()
    script = r'''
import os, sys
mnt, seed, out = sys.argv[1], int(sys.argv[2]), open(sys.argv[3], "a", buffering=1)
i = 0
while True:
    n = (seed * 7 + i) % 30
    with open(f"{mnt}/link{n}", "a") as f:
        f.write(f"{seed}.{i}\n")
    with open(f"{mnt}/new{seed}.{i}", "w") as f:
        f.write("x")
    os.rename(f"{mnt}/new{seed}.{i}", f"{mnt}/d1/n{seed}.{i}")
    out.write(f"{i} {os.lstat(f'{mnt}/d1/n{seed}.{i}').st_ino}\n")
    i += 1
'''
    first = {p: n for p, n in numbers(mnt).items()}
    known = {}
    for seed in range(6):
        record = ov.base / f"record{seed}"
        record.write_text("")
        worker = subprocess.Popen(["/usr/bin/python3", "-c", script, str(mnt), str(seed),
                                   str(record)], stderr=subprocess.DEVNULL,
                                  preexec_fn=rvl.die_with_parent)
        try:
            while record.read_text().count("\n") < 20 + 13 * seed:
                assert worker.poll() is None, "the worker ended"
                select_wait(record)
            if not IS_KERNEL:
                ov.process.kill()
                worker.wait(30)
        finally:
            worker.kill()
            worker.wait()
        ov.kill_remount()
        for line in record.read_text().splitlines():
            step, number = line.split()
            known[f"d1/n{seed}.{step}"] = int(number)
        got = numbers(mnt)
        for path, number in list(first.items()) + list(known.items()):
            assert got.get(path) == number, path
        for i in range(30):
            a, b = mnt / f"d{i % 3}/f{i}", mnt / f"link{i}"
            assert ino(a) == ino(b)
            assert a.read_text() == b.read_text()
            assert a.read_text().startswith(f"{i}\n")


def select_wait(path):
    """Waits a moment for the file to grow (inotify is too much here)."""
    size = path.stat().st_size
    for _ in range(200):
        if path.stat().st_size != size:
            return
        os.sched_yield()


@pytest.mark.reverlay_only("it is not a process")
@pytest.mark.layouts("tmpfs")
@pytest.mark.seconds(120 + N_FILES // 1000)
def test_few_descriptors(ov):
    """With ulimit -n 256 a large tree over 50 layers is served; descriptors stay below."""
    for layer in range(50):
        with ov.layer("tmpfs") as low:
            for i in range(20):
                write(low / f"common{i}/f{layer}")
                (low / f"d{layer}-{i}/sub").mkdir(parents=True)
                for j in range(N_FILES // 1000):
                    os.mknod(low / f"d{layer}-{i}/sub/f{j}", 0o644)
    ov.check_remount = ov.check_links = False
    ov.check_lower = N_FILES < 100000
    mnt = ov.mount(prefix=("prlimit", "--nofile=256:256"))
    found = 0
    for _, dirs, files in os.walk(mnt):
        found += len(dirs) + len(files)
    assert found == 20 + 1000 + 2 * 1000 + N_FILES // 1000 * 1000
    memory = rvl.memory_of(ov.process.pid)
    assert len(set(numbers(mnt).values())) == found + 1
    assert rvl.memory_of(ov.process.pid) < memory + (64 << 20)
    fds = [os.open(mnt / f"d{i % 50}-{i % 20}/sub", os.O_RDONLY) for i in range(500)]
    for i in range(500):
        os.chmod(mnt / f"d{i % 50}-{i % 20}/sub/f0", 0o600)
    assert len(os.listdir(f"/proc/{ov.process.pid}/fd")) <= 256
    for fd in fds:
        assert len(os.listdir(fd)) == N_FILES // 1000
        os.close(fd)


@pytest.mark.layouts("ext4", "squashfs", "erofs", "overlay")
def test_hard_links_to_the_limit(ov):
    """Many names of one lower object: all lead to one number, some removed, some changed."""
    count = 500
    with ov.lower() as low:
        write(low / "first")
        (low / "d").mkdir()
        for i in range(count - 1):
            os.link(low / "first", low / f"d/l{i}")
    mnt = ov.mount()
    number = ino(mnt / "first")
    assert {ino(mnt / "d" / n) for n in listing(mnt / "d")} == {number}
    for i in range(0, count - 1, 5):
        os.unlink(mnt / f"d/l{i}")
    write(mnt / "d/l1", "changed\n")
    left = len(listing(mnt / "d")) + 1
    assert os.stat(mnt / "first").st_nlink == left
    ov.kill_remount()
    assert os.stat(mnt / "first").st_nlink == left
    assert ino(mnt / "first") == number
    assert (mnt / "d/l2").read_text() == "changed\n"


def test_deleted_lower_comes_back_as_another(ov):
    """A file that replaces a lower one offline, with its real ino used again, is served as it is."""
    with ov.lower() as low:
        write(low / "f", "old\n")
        write(low / "g", "kept\n")
    mnt = ov.mount()
    assert (mnt / "f").read_text() == "old\n"
    kept = ino(mnt / "g")
    ov.umount()
    os.unlink(ov.lowers[0] / "f")
    write(ov.lowers[0] / "f", "new\n")
    ov.before = ov.lower_snapshot()
    ov.mount()
    assert (mnt / "f").read_text() == "new\n"
    assert ino(mnt / "g") == kept


def test_tree_survives_an_archive_of_the_mount(ov):
    """tar of the mount and of a plain copy hold the same: nothing odd reaches a reader."""
    with ov.lower() as low:
        standard_tree(low)
        os.unlink(low / "socket")
    mnt = ov.mount()
    write(mnt / "hard1", "changed\n")
    os.rename(mnt / "dir", mnt / "dir2")
    plain = ov.base / "plain"
    run("cp", "-a", "--sparse=always", mnt, plain)
    old, new = snapshot(mnt, inos=False), snapshot(plain, inos=False)
    for tree in (old, new):
        for info in tree.values():
            if stat.S_ISDIR(int(info["mode"], 8)):
                info.pop("nlink")
    assert_same(old, new, "cp -a of the mount")
    assert is_mounted(mnt)


@pytest.mark.reverlay_only("it shows one number for both")
@pytest.mark.parametrize("first", ["moved", "uncovered"])
def test_moved_offline_in_upper(ov, first):
    """What was moved in upper offline uncovers the lower one: two objects, two numbers, for ever, by handle as well."""
    with ov.layer() as low:
        for name in ("file", "link", "dir/file", "dir/below"):
            if name == "link":
                os.symlink("lower", low / name)
            else:
                write(low / name, "lower\n")
    mnt = ov.mount()
    write(mnt / "file", "upper\n")
    os.lchown(mnt / "link", 1, 1)
    os.chmod(mnt / "dir", 0o700)
    write(mnt / "dir/file", "upper\n")
    before = {n: ino(mnt / n) for n in ("file", "link", "dir", "dir/file")}
    ov.umount()
    for name in ("file", "link", "dir"):
        os.rename(ov.upper / name, ov.upper / f"{name}.moved")
    mnt = ov.mount()
    order = ["{}.moved", "{}"] if first == "moved" else ["{}", "{}.moved"]
    seen = {}
    for form in order:
        for name in ("file", "link", "dir"):
            path = form.format(name)
            seen[path] = ino(mnt / path)
        for name in ("file", "below"):
            path = form.format("dir") + "/" + name
            if os.path.lexists(mnt / path):
                seen[path] = ino(mnt / path)
    assert len(set(seen.values())) == len(seen) == 9, seen
    for name in ("file", "link", "dir"):
        assert seen[order[0].format(name)] == before[name]
    assert [(mnt / n).read_text() for n in ("file", "dir/file", "file.moved", "dir.moved/file")] == \
        ["lower\n", "lower\n", "upper\n", "upper\n"]
    check_tree(mnt)
    handles = {path: sysc.handle(mnt / path) for path in seen}
    ov.remount()
    root = os.open(mnt, os.O_RDONLY)
    for path, handle in handles.items():
        fd = sysc.open_handle(root, handle, os.O_PATH)
        assert os.fstat(fd).st_ino == seen[path], path
        os.close(fd)
    os.close(root)
    assert {path: ino(mnt / path) for path in seen} == seen
    # and both are copied up, or removed, as any others
    for name in ("file", "dir/file", "file.moved"):
        write(mnt / name, "changed\n")
    os.chmod(mnt / "dir", 0o711)
    os.unlink(mnt / "link")
    os.unlink(mnt / "dir.moved/file")
    del seen["link"], seen["dir.moved/file"]
    assert {path: ino(mnt / path) for path in seen} == seen


def test_forged_stamps_of_a_layer(ov, overlays):
    """A layer whose stamps name more instances than there can be: it is served, and others too."""
    with ov.lower() as low:
        write(low / "file")
    ov.mount()
    write(ov.mnt / "born")
    born = ino(ov.mnt / "born")
    ov.umount()
    ov.check_remount = ov.check_clean = False
    n = 0x8000
    (ov.upper / "many").mkdir()
    for i in range(1, n):
        path = ov.upper / f"many/{i}"
        path.touch()
        os.setxattr(path, "trusted.overlay.ino", struct.pack("<QI", i << 48 | 1000 + i, 1))
    other = overlays("ext4", name="other")
    other.lowers = [ov.upper, *ov.lowers]
    other.check_links = False  # the links of the former index count
    mnt = other.mount()
    assert ino(mnt / "born") == born
    assert len({ino(mnt / f"many/{i}") for i in range(1, n)}) == n - 1
    write(mnt / "new")
