# SPDX-License-Identifier: GPL-2.0-or-later
"""Index entries of new objects are made after the reply: no promise hangs on when."""

import contextlib
import errno
import os
import threading

import pytest

import sysc
from rvl import run, slowed, wait_until
from snapshots import check_tree, numbers
from trees import ino, listing, write

pytestmark = pytest.mark.reverlay_only("the index is reverlay's")


@pytest.fixture(autouse=True)
def a_lower(ov):
    with ov.lower() as low:
        write(low / "low/f")


def has_entry(ov, number):
    return os.path.lexists(ov.work / "inodes" / f"{number & 0xff:02x}" / f"#{number}")


def open_all(mnt, handles):
    """Each handle leads to the object that it was taken of."""
    root = os.open(mnt, os.O_RDONLY)
    for name, (fh, number) in handles.items():
        fd = sysc.open_handle(root, fh, os.O_PATH)
        assert os.fstat(fd).st_ino == number, name
        os.close(fd)
    os.close(root)


def taken(mnt, names):
    return {name: (sysc.handle(mnt / name), ino(mnt / name)) for name in names}


@pytest.mark.layouts("ext4", "xfs", "btrfs", "tmpfs")
def test_death_before_the_entries(ov):
    """Killed right after hundreds of creates, some moved and removed since: all have their numbers and handles."""
    mnt = ov.mount()
    for i in range(20):
        os.makedirs(mnt / f"d{i}/sub")
        for k in range(10):
            write(mnt / f"d{i}/f{k}", str(k))
            write(mnt / f"d{i}/sub/g{k}", str(k))
            os.symlink(f"f{k}", mnt / f"d{i}/s{k}")
    os.mkdir(mnt / "low/new")
    for i in range(10):
        os.rename(mnt / f"d{i}/f0", mnt / f"d{i}/moved")
        os.rename(mnt / f"d{i}/f1", mnt / f"d{i}/sub/f1")
        os.rename(mnt / f"d{i}/f2", mnt / f"d{i}/f3")
        os.link(mnt / f"d{i}/f4", mnt / f"d{i}/linked")
        os.unlink(mnt / f"d{i}/f5")
        os.rename(mnt / f"d{i}/s0", mnt / f"d{i}/sub/s0")
        os.link(mnt / f"d{i}/s1", mnt / f"d{i}/s1.linked", follow_symlinks=False)
        os.unlink(mnt / f"d{i}/s2")
        os.rename(mnt / f"d{i}", mnt / f"low/new/e{i}")
    for k in range(10):
        os.unlink(mnt / f"d19/sub/g{k}")
    os.rmdir(mnt / "d19/sub")
    before = numbers(mnt)
    handles = taken(mnt, [name for name in before if name != "."])
    for _ in range(2):
        ov.kill_remount()
        open_all(mnt, handles)
    assert numbers(mnt) == before
    for number in set(before.values()) - {1}:
        if number >> 48:
            assert has_entry(ov, number)
    check_tree(mnt)


def test_removed_before_its_entry(ov):
    """A file that is removed while it is open stays readable and writable, and leaves no entry."""
    mnt = ov.mount()
    fd = os.open(mnt / "f", os.O_CREAT | os.O_RDWR)
    number = os.fstat(fd).st_ino
    os.write(fd, b"data")
    os.unlink(mnt / "f")
    sysc.drop_caches()
    assert os.pread(fd, 9, 0) == b"data"
    os.fchmod(fd, 0o640)
    os.pwrite(fd, b"D", 0)
    os.ftruncate(fd, 2)
    os.fsync(fd)
    st = os.fstat(fd)
    assert (st.st_ino, st.st_nlink, st.st_mode & 0o777, st.st_size) == (number, 0, 0o640, 2)
    os.setxattr(fd, "user.a", b"1")
    assert os.getxattr(fd, "user.a") == b"1"
    assert os.pread(fd, 9, 0) == b"Da"
    assert not has_entry(ov, number)
    os.close(fd)
    ov.remount()
    assert listing(mnt) == ["low"]
    assert not has_entry(ov, number)


def test_many_dead_files_are_held_open(ov):
    """More open files without names than descriptors are kept for: all stay readable."""
    mnt = ov.mount()
    fds = []
    for i in range(600):
        fds.append(os.open(mnt / f"f{i}", os.O_CREAT | os.O_RDWR))
        os.write(fds[-1], str(i).encode())
        os.unlink(mnt / f"f{i}")
    for i, fd in enumerate(fds):
        assert os.pread(fd, 9, 0) == str(i).encode()
        os.close(fd)
    assert listing(mnt) == ["low"]


def test_replaced_before_its_entry(ov):
    """A new file that another is renamed over dies; what is open of it stays."""
    mnt = ov.mount()
    fd = os.open(mnt / "old", os.O_CREAT | os.O_RDWR)
    os.write(fd, b"old")
    write(mnt / "new", "new")
    handles = taken(mnt, ["new"])
    os.rename(mnt / "new", mnt / "old")
    assert os.pread(fd, 9, 0) == b"old"
    assert (mnt / "old").read_text() == "new"
    ov.kill_remount()
    open_all(mnt, handles)
    assert (mnt / "old").read_text() == "new"


def sync(path, flags):
    fd = os.open(path, flags)
    os.fsync(fd)
    os.close(fd)


def test_fsync_makes_entries(ov):
    """What is synced has its entry: a file by its own fsync, a directory, what is in it and what is above it by
    the directory's."""
    mnt = ov.mount()
    os.mkdir(mnt / "in")
    write(mnt / "in/a")
    write(mnt / "in/b")
    os.mkdir(mnt / "in/d")
    os.symlink("a", mnt / "in/s")
    for i in range(300):  # more than are paid at a time
        write(mnt / f"in/d/{i}")
    sync(mnt / "in/a", os.O_RDWR)
    assert has_entry(ov, ino(mnt / "in/a"))
    sync(mnt / "in", os.O_RDONLY)
    for name in ("in", "in/a", "in/b", "in/d", "in/s"):
        assert has_entry(ov, ino(mnt / name)), name
    os.makedirs(mnt / "in/e/f")
    sync(mnt / "in/e/f", os.O_RDONLY)
    assert has_entry(ov, ino(mnt / "in/e"))  # what is above it, too
    sync(mnt / "in/d", os.O_RDONLY)
    for i in range(300):
        assert has_entry(ov, ino(mnt / f"in/d/{i}")), i


def test_more_than_may_be_owed(ov):
    """18,100 creates, more than may be owed (16,384): none fails, and after the umount each has its entry."""
    mnt = ov.mount()
    for i in range(100):
        os.mkdir(mnt / f"d{i}")
        for k in range(180):
            os.close(os.open(mnt / f"d{i}/{k}", os.O_CREAT | os.O_WRONLY))
    before = numbers(mnt)
    ov.remount()
    assert numbers(mnt) == before
    for number in set(before.values()) - {1}:
        if number >> 48:
            assert has_entry(ov, number)


@pytest.mark.layouts("ext4", "xfs", "btrfs", "tmpfs")
def test_ctime_stays(ov):
    """The link of the entry, made later, is no change of the file; what is changed after it shows."""
    mnt = ov.mount()
    for name in ("f", "g"):
        write(mnt / name, "data")
    os.mknod(mnt / "fifo", 0o10644)
    os.symlink("f", mnt / "s")
    before = {name: os.lstat(mnt / name) for name in ("f", "g", "fifo", "s")}
    wait_until(lambda: all(has_entry(ov, st.st_ino) for st in before.values()), "the entries")
    os.chmod(mnt / "g", 0o600)
    sysc.drop_caches()
    for name in ("f", "fifo", "s"):
        assert os.lstat(mnt / name) == before[name], name
    assert os.stat(mnt / "g").st_ctime_ns > before["g"].st_ctime_ns


MAKE = {"file": write, "symlink": lambda path: os.symlink("target", path), "fifo": os.mkfifo, "directory": os.mkdir}


def mount_on_small(ov, n_inodes):
    """Upper and workdir on a filesystem with so many inodes, where each entry needs one; 300 can be given back."""
    base = ov.base.parent / f"{ov.base.name}.small"
    base.mkdir()
    run("mount", "-t", "tmpfs", "-o", f"nr_inodes={n_inodes}", "tmpfs", base)
    ov.mounted_helpers.append(base)
    ov.use_upper_on(base)
    ov.may_complain = True
    for i in range(300):
        write(base / f"ballast{i}")
    ov.mount()
    return base


def fill(ov, kind):
    """Makes objects of a kind until no inode is left. Their names."""
    base, mnt = mount_on_small(ov, 2000), ov.mnt
    os.mkdir(mnt / "d")
    names = []
    with contextlib.suppress(OSError):
        for i in range(5000):
            MAKE[kind](mnt / f"d/{i}")
            names.append(f"d/{i}")
    assert 100 < len(names) < 2000
    return base, names


@pytest.mark.parametrize("kind", MAKE)
def test_full_disk_can_be_emptied(ov, kind):
    """Where no entry can be made any more, all that is new can be looked at, changed and removed."""
    _, names = fill(ov, kind)
    sysc.drop_caches()
    for name in names:
        assert os.lstat(ov.mnt / name).st_nlink == (2 if kind == "directory" else 1)
        os.chown(ov.mnt / name, 1000, 1000, follow_symlinks=False)
        if kind == "symlink":
            assert os.readlink(ov.mnt / name) == "target"
    sysc.drop_caches()
    for name in names:
        (os.rmdir if kind == "directory" else os.unlink)(ov.mnt / name)
    assert listing(ov.mnt / "d") == []
    write(ov.mnt / "d/f", "there is room again")
    ov.remount()
    assert listing(ov.mnt / "d") == ["f"]


@pytest.mark.parametrize("kind", MAKE)
def test_full_disk_and_a_death(ov, kind):
    """What recovery has no room for an entry for keeps its number, which leads to it once there is room."""
    base, names = fill(ov, kind)
    before = {name: ino(ov.mnt / name) for name in names}
    handles = taken(ov.mnt, names)
    ov.kill()
    for i in range(20):  # or nothing can be mounted
        (base / f"ballast{i}").unlink()
    ov.mount()
    for name in names:
        try:
            assert ino(ov.mnt / name) == before[name]
        except OSError as error:
            assert error.errno == errno.ENOSPC
    for i in range(20, 100):
        (base / f"ballast{i}").unlink()
    for name in names[:20]:
        assert ino(ov.mnt / name) == before[name]
    run("mount", "-o", "remount,nr_inodes=9000", base)
    assert {name: ino(ov.mnt / name) for name in names} == before
    ov.remount()
    open_all(ov.mnt, handles)
    check_tree(ov.mnt)


@pytest.mark.parametrize("is_killed", [True, False])
def test_full_disk_and_a_tree(ov, is_killed):
    """What is in a directory that has no room for an entry keeps its number too, also what was moved there."""
    base, mnt = mount_on_small(ov, 1600), ov.mnt
    for i in range(150):
        write(mnt / f"before{i}")
    os.makedirs(mnt / "moved/sub")
    write(mnt / "moved/f")
    os.makedirs(mnt / "d/e")
    os.rename(mnt / "moved", mnt / "d/moved")
    for i in range(50):
        write(mnt / f"d/f{i}")
        write(mnt / f"d/e/g{i}")
        os.symlink("target", mnt / f"d/s{i}")
    with contextlib.suppress(OSError):
        for i in range(5000):
            write(base / f"fill{i}")
    before = numbers(mnt)
    handles = taken(mnt, [name for name in before if name != "."])
    if is_killed:
        ov.kill()
    else:
        ov.umount()
    for turn in range(2):
        for i in range(20):  # or nothing can be mounted
            (base / f"ballast{20 * turn + i}").unlink()
        ov.mount()
        ov.umount()
    run("mount", "-o", "remount,nr_inodes=9000", base)
    ov.mount()
    assert numbers(mnt) == before
    open_all(mnt, handles)
    ov.remount()
    open_all(mnt, handles)
    check_tree(mnt)


def test_first_made_is_ready_last(ov):
    """The entries come, whatever the order in which two creates, begun one after the other, are done."""
    mnt = ov.mount()
    for name in "ab":
        os.mkdir(mnt / name)
    wait_until(lambda: has_entry(ov, ino(mnt / "b")), "the directory's entry")
    with slowed(mnt, "fsetxattr", delay_s=0.5):  # the stamp of a file, and not that of a directory
        os.mkdir(mnt / "a/d")  # the thread waits for this one's second while the other two come
        thread = threading.Thread(target=write, args=(mnt / "a/f",))
        thread.start()
        wait_until((ov.upper / "a/f").exists, "the file")
        os.mkdir(mnt / "b/d")
        thread.join()
    wait_until(lambda: has_entry(ov, ino(mnt / "a/f")) and has_entry(ov, ino(mnt / "b/d")), "the entries")
