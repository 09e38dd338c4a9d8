# SPDX-License-Identifier: GPL-2.0-or-later
"""Copy-up of attributes alone: the data stay in lower until they are changed, whatever becomes of the names."""

import errno
import os
import shutil
import stat
import threading

import pytest

import sysc
from rvl import IS_KERNEL, slowed, wait_until
from snapshots import assert_same, snapshot
from trees import ACL, CAPS, OLD, cut_short, ino, write

METACOPY = "trusted.overlay.metacopy"
DATA = os.urandom(20000)


@pytest.fixture(autouse=True)
def metacopy_on(ov):
    ov.options = ["redirect_dir=on", "metacopy=on"]


def has_data(path):
    """Has upper's file data of its own?"""
    return METACOPY not in os.listxattr(path, follow_symlinks=False)


# Each changes attributes only.
CHANGES = {
    "chmod": lambda p: os.chmod(p, 0o640),
    "chown": lambda p: os.chown(p, 7, 8),
    "utimes": lambda p: os.utime(p, ns=(10**18, 2 * 10**18)),
    "setxattr": lambda p: os.setxattr(p, "user.new", b"1"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_attributes_alone(ov, change):
    """Upper gets a file without blocks; the mount shows all that lower has, also after a remount."""
    with ov.lower() as low:
        write(low / "d/f", DATA, mtime=OLD)
        os.setxattr(low / "d/f", "user.old", b"x")
        os.setxattr(low / "d/f", "security.capability", CAPS)
    mnt = ov.mount()
    number = ino(mnt / "d/f")
    CHANGES[change](mnt / "d/f")
    upper = ov.upper / "d/f"
    assert not has_data(upper)
    assert upper.stat().st_size == len(DATA)
    assert upper.stat().st_blocks * 512 < len(DATA)
    assert (mnt / "d/f").stat().st_blocks * 512 >= len(DATA)
    before = snapshot(mnt)
    assert (mnt / "d/f").read_bytes() == DATA
    ov.remount()
    assert_same(before, snapshot(mnt), "after a remount")
    assert ino(mnt / "d/f") == number


@pytest.mark.parametrize("how", ["write", "open", "truncate", "o_trunc", "extend", "fallocate"])
def test_data_come_with_the_first_change(ov, how):
    """Writing brings the data up; owner, mode, times and capabilities stay, or change as they would without."""
    with ov.lower() as low:
        write(low / "f", DATA, mtime=OLD)
        os.chmod(low / "f", 0o4755)
        os.setxattr(low / "f", "security.capability", CAPS)
    mnt = ov.mount()
    reader = os.open(mnt / "f", os.O_RDONLY)
    os.setxattr(mnt / "f", "user.a", b"1")
    assert not has_data(ov.upper / "f")
    st = os.stat(mnt / "f")
    wanted = DATA
    fd = os.open(mnt / "f", os.O_RDWR | (os.O_TRUNC if how == "o_trunc" else 0))
    if how == "open":
        got = os.stat(mnt / "f")
        assert (got.st_mode, got.st_uid) == (st.st_mode, st.st_uid)
        assert IS_KERNEL or got.st_mtime_ns == st.st_mtime_ns
        assert os.getxattr(mnt / "f", "security.capability") == CAPS
    elif how == "write":
        os.pwrite(fd, b"new", 5000)
        wanted = DATA[:5000] + b"new" + DATA[5003:]
    elif how == "truncate":
        os.ftruncate(fd, 5000)
        wanted = DATA[:5000]
    elif how == "o_trunc":
        wanted = b""
    elif how == "extend":
        os.ftruncate(fd, 30000)
        wanted = DATA + bytes(10000)
    else:
        sysc.fallocate(fd, 0, 20000, 100)
        wanted = DATA + bytes(100)
    os.fsync(fd)
    os.close(fd)
    assert has_data(ov.upper / "f")
    assert "trusted.overlay.redirect" not in os.listxattr(ov.upper / "f")
    assert os.pread(reader, 40000, 0) == (ov.upper / "f").read_bytes() == wanted
    os.close(reader)
    ov.remount()
    assert (mnt / "f").read_bytes() == wanted


def test_all_names_keep_their_data(ov):
    """Renamed, moved, linked, exchanged, its directories renamed and removed: each file has the data it had."""
    with ov.lower() as low:
        for name in "abcde":
            write(low / f"d{name}/sub/f", name * 5000)
        os.link(low / "de/sub/f", low / "de/other")
        write(low / "x", "x" * 5000)
        write(low / "y", "y" * 5000)
    mnt = ov.mount()
    os.rename(mnt / "da/sub/f", mnt / "da/sub/g")
    os.rename(mnt / "db/sub/f", mnt / "b")
    os.rmdir(mnt / "db/sub")
    os.rmdir(mnt / "db")
    os.link(mnt / "dc/sub/f", mnt / "c")
    os.unlink(mnt / "dc/sub/f")
    os.chmod(mnt / "dd/sub/f", 0o600)
    os.rename(mnt / "dd", mnt / "moved")
    os.rename(mnt / "moved/sub/f", mnt / "moved/g")
    os.rename(mnt / "de/sub/f", mnt / "e")
    sysc.renameat2(mnt / "x", mnt / "y", 2)
    names = {"da/sub/g": "a", "b": "b", "c": "c", "moved/g": "d", "e": "e", "de/other": "e", "x": "y", "y": "x"}
    handles = {} if IS_KERNEL else {name: sysc.handle(mnt / name) for name in names}
    for _ in range(2):
        for name, letter in names.items():
            assert (mnt / name).read_text() == letter * 5000
        assert ino(mnt / "e") == ino(mnt / "de/other")
        for name in ("da/sub/g", "b", "c", "e", "x", "y"):
            assert not has_data(ov.upper / name), name
        ov.remount()
    root = os.open(mnt, os.O_RDONLY)
    for name, fh in handles.items():
        fd = sysc.open_handle(root, fh, os.O_RDONLY)
        assert os.pread(fd, 9999, 0) == names[name].encode() * 5000
        os.close(fd)
    os.close(root)
    write(mnt / "e", "changed")
    assert (mnt / "de/other").read_text() == "changed"


@pytest.mark.reverlay_only("it takes two")
def test_the_kernel_reads_ours_and_we_its(ov):
    """Metacopy files of either are served, changed and renamed by the other."""
    with ov.lower() as low:
        for name in ("plain", "renamed", "linked", "written", "kernels"):
            write(low / f"dir/{name}", name * 3000)
        write(low / "away/f", "away" * 3000)
    mnt = ov.mount()
    for name in ("plain", "written"):
        os.chmod(mnt / f"dir/{name}", 0o600)
    os.rename(mnt / "dir/renamed", mnt / "dir/renamed2")
    os.link(mnt / "dir/linked", mnt / "top")
    os.rename(mnt / "away", mnt / "here")
    os.chown(mnt / "here/f", 7, 7)
    os.rename(mnt / "here/f", mnt / "f")
    before = snapshot(mnt, inos=False)
    for info in before.values():
        info.pop("nlink", None)

    def same(what):
        got = snapshot(mnt, inos=False)
        for info in got.values():
            info.pop("nlink", None)
        assert_same(before, got, what)

    ov.remount(kernel=True)
    same("by the kernel")
    write(mnt / "dir/written", "by the kernel")
    os.rename(mnt / "f", mnt / "dir/f")
    os.chmod(mnt / "dir/kernels", 0o640)
    os.rename(mnt / "dir/kernels", mnt / "kernels")
    ov.remount(kernel=False)
    assert (mnt / "dir/written").read_text() == "by the kernel"
    assert (mnt / "dir/f").read_text() == "away" * 3000
    assert (mnt / "kernels").read_text() == "kernels" * 3000
    assert not has_data(ov.upper / "kernels")
    os.rename(mnt / "kernels", mnt / "again")
    os.chmod(mnt / "dir/f", 0o600)
    with open(mnt / "dir/plain", "a", encoding="ascii") as file:
        file.write("!")
    ov.remount(kernel=True)
    assert (mnt / "again").read_text() == "kernels" * 3000
    assert (mnt / "dir/f").read_text() == "away" * 3000
    assert (mnt / "dir/plain").read_text() == "plain" * 3000 + "!"
    ov.remount(kernel=False)


@pytest.mark.parametrize("options", [["metacopy=off"], ["redirect_dir=off"]])
def test_switched_off(ov, options):
    """Without metacopy, and where redirects cannot be written, a change of attributes copies the data."""
    with ov.lower() as low:
        write(low / "f", DATA)
    ov.options = options
    mnt = ov.mount()
    os.chmod(mnt / "f", 0o600)
    assert has_data(ov.upper / "f")
    assert (ov.upper / "f").read_bytes() == DATA
    assert stat.S_IMODE((mnt / "f").stat().st_mode) == 0o600


@pytest.mark.reverlay_only("the kernel refuses them")
def test_metacopy_of_an_earlier_mount_is_served_without(ov):
    """What was made with metacopy is read, renamed and linked with metacopy=off, by copying its data."""
    with ov.lower() as low:
        for name in "abc":
            write(low / name, name * 3000)
    mnt = ov.mount()
    for name in "abc":
        os.chmod(mnt / name, 0o600)
    ov.options = ["metacopy=off"]
    ov.remount()
    os.rename(mnt / "a", mnt / "a2")
    os.link(mnt / "b", mnt / "b2")
    assert (mnt / "a2").read_text() == "a" * 3000
    assert (mnt / "b2").read_text() == (mnt / "b").read_text() == "b" * 3000
    assert (mnt / "c").read_text() == "c" * 3000
    assert has_data(ov.upper / "a2") and has_data(ov.upper / "b2") and not has_data(ov.upper / "c")


@pytest.mark.kernel_differs("it shows what there is of lower's data")
def test_data_of_another_size(ov):
    """A metacopy file, in upper or in lower, whose data below have another size: EIO, no other data."""
    with ov.lower() as low:
        write(low / "f", DATA)
        write(low / "truncated", DATA)
    mnt = ov.mount()
    for name in ("f", "truncated"):
        os.chmod(mnt / name, 0o600)
    ov.umount()
    for name in ("f", "truncated"):
        os.truncate(ov.upper / name, len(DATA) + 5)
    ov.may_complain = True
    mnt = ov.mount()
    sysc.fails(errno.EIO, (mnt / "f").read_bytes)
    sysc.fails(errno.EIO, open, mnt / "f", "a")
    write(mnt / "truncated", b"new")
    assert (mnt / "truncated").read_bytes() == b"new"
    ov.umount()
    assert ov.ctl("repair", "-y")[0] == 1
    ov.before = None
    assert (ov.mount() / "f").read_bytes() == DATA


@pytest.mark.kernel_differs("it refuses the name too")
def test_no_data_in_the_last_layer(ov):
    """Half an overlay: the file has its attributes, but nobody gets the hole where its data should be."""
    with ov.layer() as low:
        for name in ("f", "truncated", "removed"):
            write(low / name, bytes(5000))
            os.setxattr(low / name, METACOPY, b"")
        write(low / "hole", b"")
        os.truncate(low / "hole", 5000)
        os.setxattr(low / "hole", METACOPY, b"")
        os.link(low / "f", low / "other")
    ov.may_complain = True
    mnt = ov.mount()
    for _ in range(2):
        assert (mnt / "f").stat().st_size == 5000
        sysc.fails(errno.EIO, os.lstat, mnt / "hole")  # "tar -S" would not open it
        for name in ("f", "other"):
            sysc.fails(errno.EIO, (mnt / name).read_bytes)
            sysc.fails(errno.EIO, open, mnt / name, "a")
        assert "no data in the layers below" in ov.messages()
        write(mnt / "truncated", b"new")
        assert (mnt / "truncated").read_bytes() == b"new"
        ov.remount()
        ov.log.write_bytes(b"")
    os.unlink(mnt / "removed")
    os.chmod(mnt / "f", 0o600)  # its attributes are copied up
    sysc.fails(errno.EIO, (mnt / "other").read_bytes)
    assert stat.S_IMODE((mnt / "other").stat().st_mode) == 0o600
    write(mnt / "f", b"whole")
    assert (mnt / "other").read_bytes() == b"whole"
    ov.umount()


@pytest.mark.reverlay_only("the kernel does not undo it")
@pytest.mark.parametrize("meet", ["name", "number", "listing", "other name", "read-only"])
def test_fetch_cut_short(ov, meet):
    """It is undone before anyone sees it: times, setuid and capability are what they were."""
    with ov.lower() as low:
        write(low / "d/f", DATA, mtime=OLD)
        os.link(low / "d/f", low / "other")
    mnt = ov.mount()
    os.chmod(mnt / "d/f", 0o4755)
    os.setxattr(mnt / "d/f", "security.capability", CAPS)
    handle = sysc.handle(mnt / "d/f")
    before = snapshot(mnt)
    ov.umount()
    upper = ov.upper / "d/f"
    cut_short(upper)
    with open(upper, "r+b") as file:
        file.write(DATA[:5000])
        file.truncate(len(DATA) if meet == "read-only" else 6000)
    os.chmod(upper, 0o755)
    if meet == "read-only":
        ov.options.append("ro")
    mnt = ov.mount()
    if meet == "number":
        top = os.open(mnt, os.O_RDONLY)
        fd = sysc.open_handle(top, handle)
        assert os.fstat(fd).st_mtime_ns == OLD
        os.close(fd)
        os.close(top)
    elif meet == "listing":
        with os.scandir(mnt / "d") as entries:
            assert [e.stat().st_mtime_ns for e in entries] == [OLD]
    elif meet == "other name":
        assert (mnt / "other").stat().st_mtime_ns == OLD
    if meet != "read-only":
        assert_same(before, snapshot(mnt), "after it was met")
        assert os.getxattr(upper, METACOPY) == b""
    assert (mnt / "d/f").read_bytes() == DATA
    assert not has_data(upper)


@pytest.mark.reverlay_only("check and repair")
@pytest.mark.parametrize("meet", ["mount", "repair"])
def test_fetch_cut_short_and_lower_lost(ov, meet):
    """All data had come when it was cut short, and lower has them no more: nothing throws them away."""
    with ov.lower() as low:
        write(low / "f", DATA)
    mnt = ov.mount()
    os.chmod(mnt / "f", 0o600)
    ov.umount()
    cut_short(ov.upper / "f")
    with open(ov.upper / "f", "r+b") as file:
        file.write(DATA)
    os.unlink(ov.lowers[0] / "f")
    ov.before = None
    ov.may_complain = True
    if meet == "mount":
        mnt = ov.mount()
        sysc.fails(errno.EIO, (mnt / "f").read_bytes)
        ov.umount()
    assert ov.ctl("repair", "-p")[0] == 1
    assert (ov.upper / "f").read_bytes() == DATA
    ov.before = None
    assert (ov.mount() / "f").read_bytes() == DATA


@pytest.mark.reverlay_only("its server is slowed down")
def test_changed_while_data_are_fetched(ov):
    """chmod, utimes and an ACL wait for the fetch, which would take them back."""
    with ov.lower() as low:
        for name in ("mode", "times", "acl"):
            write(low / name, DATA, mode=0o4755)
    mnt = ov.mount()
    for name in ("mode", "times", "acl"):
        os.setxattr(mnt / name, "user.a", b"1")  # attributes alone come up
    with slowed(mnt, "setxattr", delay_s=1):
        for name, change in (("mode", lambda p: os.chmod(p, 0o750)),
                             ("times", lambda p: os.utime(p, ns=(OLD, OLD))),
                             ("acl", lambda p: os.setxattr(p, "system.posix_acl_access", ACL))):
            thread = threading.Thread(target=lambda path=mnt / name: os.close(os.open(path, os.O_RDWR)))
            thread.start()
            wait_until(lambda value=ov.upper / name: os.getxattr(value, METACOPY) != b"", "fetch")
            change(mnt / name)
            changed = os.stat(mnt / name)
            thread.join(30)
            now = os.stat(mnt / name)
            assert (now.st_mode, now.st_mtime_ns) == (changed.st_mode, changed.st_mtime_ns), name
            assert has_data(ov.upper / name)
    assert stat.S_IMODE(os.stat(mnt / "mode").st_mode) == 0o750
    assert os.stat(mnt / "times").st_mtime_ns == OLD


@pytest.mark.layouts("ext4")
def test_no_room_for_more_attributes(ov):
    """The data come all the same where the file has no room to say what their coming takes."""
    with ov.lower() as low:
        write(low / "f", DATA, mtime=OLD)
        os.setxattr(low / "f", "user.big", b"x" * 3900)
    mnt = ov.mount()
    os.chmod(mnt / "f", 0o600)
    assert not has_data(ov.upper / "f")
    os.close(os.open(mnt / "f", os.O_RDWR))
    assert has_data(ov.upper / "f")
    assert (mnt / "f").read_bytes() == DATA
    assert IS_KERNEL or os.stat(mnt / "f").st_mtime_ns == OLD


@pytest.mark.reverlay_only("it takes two")
def test_attributes_that_came_without_a_number(ov):
    """The kernel without an index copies up one name of a hard link: its data are lower's, whoever looks when."""
    with ov.lower() as low:
        write(low / "a", DATA)
        os.link(low / "a", low / "b")
    ov.options = ["redirect_dir=on", "metacopy=on", "index=off"]
    ov.mount(kernel=True)
    os.chmod(ov.mnt / "a", 0o600)
    ov.umount()
    ov.options = ["redirect_dir=on", "metacopy=on"]
    for _ in range(3):
        mnt = ov.mount(kernel=False)
        handle = sysc.handle(mnt / "a")
        assert (mnt / "a").read_bytes() == DATA
        ov.remount()
        top = os.open(mnt, os.O_RDONLY)
        fd = sysc.open_handle(top, handle)
        os.close(top)
        assert os.pread(fd, len(DATA), 0) == DATA
        os.close(fd)
        ov.umount()


@pytest.mark.reverlay_only("check and repair")
def test_part_of_the_data_and_another_size(ov):
    """A copy that was interrupted, and the wrong lower: EIO, a repair leaves both, and it is whole with the right one."""
    with ov.lower() as low:
        write(low / "f", DATA * 20)
    mnt = ov.mount()
    os.chmod(mnt / "f", 0o600)
    ov.umount()
    times = os.stat(ov.upper / "f")
    with open(ov.upper / "f", "r+b") as file:
        file.write(DATA)
    os.utime(ov.upper / "f", ns=(times.st_atime_ns, times.st_mtime_ns))
    lower = ov.lowers[0] / "f"
    os.truncate(lower, 30000)
    ov.before = None
    ov.may_complain = True
    mnt = ov.mount()
    sysc.fails(errno.EIO, (mnt / "f").read_bytes)
    sysc.fails(errno.EIO, open, mnt / "f", "a")
    ov.umount()
    assert ov.ctl("repair", "-p")[0] == 4
    assert (ov.upper / "f").read_bytes()[:len(DATA)] == DATA
    os.truncate(lower, 0)
    write(lower, DATA * 20)
    ov.before = None
    assert (ov.mount() / "f").read_bytes() == DATA * 20


@pytest.mark.kernel_differs("it has no place to copy it up to: EEXIST")
def test_open_file_without_a_name(ov):
    """A lower file that is open and has lost its name: attributes change, and its data are there."""
    with ov.lower() as low:
        write(low / "f", DATA)
    mnt = ov.mount()
    fd = os.open(mnt / "f", os.O_RDONLY)
    os.unlink(mnt / "f")
    os.fchmod(fd, 0o600)
    assert os.pread(fd, 40000, 0) == DATA
    assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o600
    os.close(fd)
    sysc.fails(errno.ENOENT, os.stat, mnt / "f")


def test_unlinked_alias_copies_nothing(ov):
    """Removing one of two lower names needs a place for the link count, and no copy of the data."""
    with ov.lower() as low:
        write(low / "a", DATA)
        os.link(low / "a", low / "b")
    mnt = ov.mount()
    os.unlink(mnt / "a")
    assert (mnt / "b").stat().st_nlink == 1
    assert (mnt / "b").read_bytes() == DATA
    if not IS_KERNEL:
        entries = [p for p in (ov.work / "inodes").glob("??/#*") if p.stat().st_size == len(DATA)]
        assert len(entries) == 1 and not has_data(entries[0])
    ov.remount()
    assert (mnt / "b").read_bytes() == DATA


def test_data_when_the_directory_of_the_place_is_gone(ov):
    """A hard link of lower that was copied up by the other name, whose directory was removed: its data stay."""
    with ov.lower() as low:
        write(low / "old/dir/a", DATA)
        os.link(low / "old/dir/a", low / "b")
    mnt = ov.mount()
    os.chmod(mnt / "old/dir/a", 0o600)
    if not IS_KERNEL:
        taken = sysc.handle(mnt / "b")
    shutil.rmtree(mnt / "old")
    for _ in range(2):
        ov.remount()
        if not IS_KERNEL:
            root = os.open(mnt, os.O_RDONLY)
            fd = sysc.open_handle(root, taken)
            assert os.pread(fd, len(DATA), 0) == DATA
            os.close(fd)
            os.close(root)
        assert (mnt / "b").read_bytes() == DATA
    with open(mnt / "b", "ab") as file:
        file.write(b"more")
    ov.remount()
    assert (mnt / "b").read_bytes() == DATA + b"more"
