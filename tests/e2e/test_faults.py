# SPDX-License-Identifier: GPL-2.0-or-later
"""What fails beneath: no room, formats of a newer version, attributes that make no sense."""

import contextlib
import ctypes
import errno
import os
import struct

import pytest

import rvl
import sysc
from rvl import run
from snapshots import assert_same, snapshot
from trees import CAPS, OLD, ino, listing, write

pytestmark = pytest.mark.reverlay_only("it is our index that is damaged here")


# -- formats ------------------------------------------------------------------------------------


def seal(data):
    """The state with the checksum that its contents should have (docs/format.md)."""
    xxhash = ctypes.CDLL("libxxhash.so.0")
    xxhash.XXH3_64bits.restype = ctypes.c_uint64
    body = bytes(data[16:])
    return bytes(data[:8]) + struct.pack("<Q", xxhash.XXH3_64bits(body, len(body))) + body


def newer_version(data):
    struct.pack_into("<I", data, 16, 2)


def newer_feature(data):
    struct.pack_into("<Q", data, 32, struct.unpack_from("<Q", data, 32)[0] | 1 << 63)


def newer_record(data):
    data += struct.pack("<HH4s", 77, 4, b"new!")
    struct.pack_into("<I", data, 20, len(data))
    struct.pack_into("<I", data, 144, struct.unpack_from("<I", data, 144)[0] + 1)


def mount_fails(ov):
    result = run(*ov.command(flags=()), check=False)
    assert result.returncode == 1 and not rvl.is_mounted(ov.mnt), result.stdout
    return result.stdout


@pytest.mark.parametrize("change", [newer_version, newer_feature, newer_record])
def test_newer_state_is_refused(ov, change):
    """A sound state with what only a newer version knows is refused as newer, and kept as it is."""
    with ov.lower() as low:
        write(low / "f")
    ov.mount()
    write(ov.mnt / "f", "changed\n")
    ov.umount()
    state = ov.work / "inodes/state"
    good = state.read_bytes()
    assert seal(good) == good
    data = bytearray(good)
    change(data)
    state.write_bytes(seal(data))
    before = snapshot(ov.base, private=True, ctime=True)
    message = mount_fails(ov)
    assert "workdir" in message and str(ov.work) in message and "newer" in message
    for args in (["check"], ["repair", "-p"], ["repair", "-y"], ["repair", "--rebuild"]):
        code, found = ov.ctl(*args)
        assert code == 8 and "newer" in found["stderr"], (args, found)
    assert_same(before, snapshot(ov.base, private=True, ctime=True), "a refused mount")
    state.write_bytes(good)
    ov.mount()
    assert (ov.mnt / "f").read_text() == "changed\n"


def test_unknown_compatible_features_are_kept(ov):
    """A compatible feature of a newer version hinders nothing, and its bit stays."""
    with ov.lower() as low:
        write(low / "f")
    ov.mount()
    ov.umount()
    state = ov.work / "inodes/state"
    data = bytearray(state.read_bytes())
    struct.pack_into("<Q", data, 24, 1 << 62)
    state.write_bytes(seal(data))
    ov.mount()
    write(ov.mnt / "f", "changed\n")
    ov.remount()
    ov.umount()
    assert struct.unpack_from("<Q", state.read_bytes(), 24)[0] == 1 << 62


def test_newer_log_is_refused(ov):
    """The log of a newer version may have what this one would lose: it is refused and kept."""
    with ov.lower() as low:
        write(low / "f")
    ov.mount()
    ov.umount()
    log = ov.work / "inodes/log"
    good = log.read_bytes()
    newer = good[:8] + struct.pack("<I", 2) + good[12:]
    log.write_bytes(newer)
    message = mount_fails(ov)
    assert "workdir" in message and str(ov.work) in message and "newer" in message
    assert log.read_bytes() == newer
    log.write_bytes(good)
    ov.mount()


# -- attributes ---------------------------------------------------------------------------------

REDIRECTS = [b"", b"..", b"x/y", b"x/../../y", b"/" + b"x" * 300, b"/..//good", b"/good/", b"a\0b"]
METACOPIES = [b"\xff" * 5, b"\0\5\0", b"\0\4\0", b"\0" * 80]
NLINKS = [b"", b"U", b"U+", b"X+1", b"1", b"U+1x", b"U+99999999999", b"U+" + b"1" * 40]


def damage(top, which):
    """Objects with a damaged attribute: {name: the attribute}."""
    result = {}
    for i, value in enumerate({"redirect": REDIRECTS, "metacopy": METACOPIES,
                               "nlink": NLINKS}[which]):
        path = top / f"{which}{i}"
        if which == "redirect":
            path.mkdir(exist_ok=True)
        os.setxattr(path, "trusted.overlay." + which, value)
        result[path.name] = which
    return result


@pytest.mark.parametrize("place,which", [("lower", "redirect"), ("lower", "metacopy"),
                                         ("upper", "redirect"), ("upper", "metacopy"),
                                         ("upper", "nlink")])
def test_malformed_attributes(ov, place, which):
    """A malformed private attribute is EIO for that object, with one line, and nothing else."""
    n = len({"redirect": REDIRECTS, "metacopy": METACOPIES, "nlink": NLINKS}[which])
    with ov.layer() as low:
        write(low / "good/file")
        for i in range(n):
            write(low / f"{which}{i}/in" if which == "redirect" else low / f"{which}{i}")
    with ov.layer() as top:
        write(top / "other")
        if place == "lower":
            for i in range(n):
                if which == "metacopy":
                    write(top / f"{which}{i}", b"")
            bad = damage(top, which)
    mnt = ov.mount()
    if place == "upper":
        ov.check_clean = False
        for i in range(n):
            os.chmod(mnt / f"{which}{i}", 0o700)
        ov.umount()
        bad = damage(ov.upper, which)
        mnt = ov.mount()
    for name in bad:
        ov.log.write_bytes(b"")
        sysc.fails(errno.EIO, os.lstat, mnt / name)
        for action in (os.listdir, os.unlink, lambda p: os.rename(p, mnt / "moved")):
            sysc.fails(errno.EIO, action, mnt / name)
    ov.umount()
    # one line an object; the next ones of one kind are counted for ten seconds
    for name in bad:
        ov.log.write_bytes(b"")
        ov.mount()
        for _ in range(5):
            sysc.fails(errno.EIO, os.lstat, mnt / name)
        lines = [line for line in ov.messages().splitlines() if "amaged" in line]
        assert len(lines) == 1 and name in lines[0] and which in lines[0], ov.messages()
        assert set(listing(mnt)) >= set(bad) | {"good", "other"}
        assert (mnt / "good/file").read_text() == "data\n"
        write(mnt / "good/file", "data\n")
        ov.umount()
    ov.mount()
    ov.check_links = ov.check_remount = False  # they cannot be read


@pytest.mark.reverlay_only("the kernel goes on without an origin")
def test_malformed_origin(ov):
    """Of an object that upper got offline: EIO for it, one line, and repair mends it; a form that is not known is no origin."""
    bad = {"short": b"\0\xfb\x10", "length": b"\0\xfb\x40" + b"x" * 40, "long": b"x" * 300, "magic": b"\1" * 40}
    good = {"none": b"", "newer": b"\7\xfb\x28" + b"x" * 37}
    with ov.lower() as low:
        write(low / "low")
    ov.mount()
    ov.umount()
    for name, value in (bad | good).items():
        os.setxattr(write(ov.upper / name), "trusted.overlay.origin", value)
    mnt = ov.mount()
    for name in bad:
        ov.umount()
        ov.log.write_bytes(b"")
        ov.mount()
        for action in (os.lstat, os.unlink, os.listxattr, lambda p: os.rename(p, mnt / "moved")):
            sysc.fails(errno.EIO, action, mnt / name)
        lines = [line for line in ov.messages().splitlines() if "amaged" in line]
        assert len(lines) == 1 and name in lines[0] and "origin" in lines[0], ov.messages()
    for name in good:
        write(mnt / name, "changed\n")
    assert listing(mnt) == sorted([*bad, *good, "low"])
    ov.umount()
    assert ov.ctl("repair", "-y")[0] in (0, 1)
    mnt = ov.mount()
    for name in bad:
        assert (mnt / name).read_text() == "data\n"


@pytest.mark.reverlay_only("the kernel allows all with a message")
def test_malformed_protattr(ov):
    """Of a file and a directory: whatever would change them is EIO, with one line; they can be read, and repair mends them."""
    with ov.lower() as low:
        for i in range(4):
            write(low / f"file{i}")
            write(low / f"dir{i}/in")
    mnt = ov.mount()
    for i in range(4):
        os.chmod(mnt / f"file{i}", 0o640)
        os.chmod(mnt / f"dir{i}", 0o750)
    ov.umount()
    for i, value in enumerate((b"", b"x", b"iax", b"i" * 40)):
        for name in (f"file{i}", f"dir{i}"):
            os.setxattr(ov.upper / name, "trusted.overlay.protattr", value)
    for i in range(4):
        for name, changes in ((f"file{i}", (os.unlink, lambda p: os.chmod(p, 0o600), lambda p: open(p, "a"),
                                            lambda p: os.rename(p, mnt / "moved"), lambda p: os.truncate(p, 0))),
                              (f"dir{i}", (os.rmdir, lambda p: os.mkdir(p / "new"), lambda p: os.unlink(p / "in")))):
            ov.log.write_bytes(b"")
            ov.mount()
            for change in changes:
                sysc.fails(errno.EIO, change, mnt / name)
            assert (mnt / f"file{i}").read_text() == "data\n" and listing(mnt / f"dir{i}") == ["in"]
            lines = [line for line in ov.messages().splitlines() if "amaged" in line]
            assert len(lines) == 1 and str(ino(mnt / name)) in lines[0] and "protattr" in lines[0], ov.messages()
            ov.umount()
    assert ov.ctl("repair", "-y")[0] in (0, 1)
    ov.mount()
    for i in range(4):
        write(mnt / f"file{i}", "changed\n")
        os.mkdir(mnt / f"dir{i}/new")


# -- no room ------------------------------------------------------------------------------------


class Filled:
    """A small filesystem on which there is as much room as is wanted."""

    def __init__(self, where, what):
        self.where = where / "fill"
        self.what = what
        self.where.mkdir()
        self.n = 0

    def leave(self, n):
        """Leaves n inodes, or n KiB, free."""
        if self.what == "inodes":
            free = lambda: os.statvfs(self.where).f_ffree
            while free() > n:
                os.mknod(self.where / str(self.n))
                self.n += 1
            while free() < n:
                self.n -= 1
                os.unlink(self.where / str(self.n))
            return
        fd = os.open(self.where / "blocks", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        with contextlib.suppress(OSError):
            while True:
                os.write(fd, bytes(1024))
        os.ftruncate(fd, max(os.fstat(fd).st_size - 1024 * n, 0))
        os.fsync(fd)
        os.close(fd)

    def clear(self):
        self.n = 0
        for name in os.listdir(self.where):
            os.unlink(self.where / name)


def append(path):
    with open(path, "ab", buffering=0) as file:
        file.write(b"x" * 5000)
        os.fsync(file.fileno())


def tmpfile(top):
    fd = os.open(top, os.O_TMPFILE | os.O_RDWR)
    try:
        os.write(fd, b"x")
        sysc.link_fd(fd, top / "tmpfile")
    finally:
        os.close(fd)


NEEDS_ROOM = {
    "create": lambda m: os.close(os.open(m / "d/new", os.O_CREAT | os.O_EXCL | os.O_WRONLY)),
    "mkdir": lambda m: os.mkdir(m / "d/new"),
    "symlink": lambda m: os.symlink("x" * 200, m / "d/new"),
    "fifo": lambda m: os.mkfifo(m / "d/new"),
    "tmpfile": lambda m: tmpfile(m / "d"),
    "copy-up": lambda m: append(m / "d/file"),
    "copy-up of attributes": lambda m: os.chmod(m / "d/hard1", 0o600),
    "copy-up of a directory": lambda m: os.chmod(m / "d/dir", 0o700),
    "rename of a directory": lambda m: os.rename(m / "d/dir", m / "d/dir2"),
    "rename of a file": lambda m: os.rename(m / "d/file", m / "d/file2"),
    "replace": lambda m: os.rename(m / "d/file", m / "d/other"),
    "unlink": lambda m: os.unlink(m / "d/other"),
    "unlink of a link": lambda m: os.unlink(m / "d/hard2"),
    "rmdir": lambda m: os.rmdir(m / "d/empty"),
    "link": lambda m: os.link(m / "d/hard1", m / "d/hard4"),
    "setxattr": lambda m: os.setxattr(m / "d/other", "user.x", b"x" * 300),
}


def room_tree(low):
    write(low / "d/file", b"file" * 3000)
    write(low / "d/other", b"other\n")
    write(low / "d/hard1", b"hard\n")
    for name in ("hard2", "hard3"):
        os.link(low / "d/hard1", low / f"d/{name}")
    write(low / "d/dir/in")
    (low / "d/empty").mkdir()


def state_of(mnt):
    """All but the times of the directory: what was made and taken back has moved them."""
    state = snapshot(mnt)
    del state["d"]["mtime"]
    return state


@pytest.mark.parametrize("what", ["inodes", "blocks"])
@pytest.mark.parametrize("operation", list(NEEDS_ROOM))
def test_no_room(ov, images, what, operation):
    """Whatever there is no room for is ENOSPC and changes nothing, at each step of an operation."""
    with ov.lower() as low:
        room_tree(low)
    small = images.private(ov.base / "small", "ext4", size="4M")
    ov.mounted_helpers.append(small)
    ov.use_upper_on(small)
    ov.may_complain = True
    mnt = ov.mount()
    before = state_of(mnt)
    filled = Filled(small, what)
    failed = 0
    for room in range(0, 64):
        filled.leave(room)
        try:
            NEEDS_ROOM[operation](mnt)
            break
        except OSError as error:
            assert error.errno == errno.ENOSPC, f"with room for {room}: {error}"
        failed += 1
        assert_same(before, state_of(mnt), f"failed with room for {room}")
    else:
        raise AssertionError("it never worked")
    assert failed or operation in ("link",)
    after = snapshot(mnt)
    filled.clear()
    ov.kill_remount()
    assert_same(after, snapshot(mnt), "after the death of the server")


def test_no_room_where_a_directory_is_replaced(ov, images):
    """A rename over an emptied directory that fails brings nothing back that was removed in it."""
    with ov.lower() as low:
        write(low / "d/dir/in")
        for name in ("one", "two"):
            write(low / "d/emptied" / name)
    small = images.private(ov.base / "small", "ext4", size="4M")
    ov.mounted_helpers.append(small)
    ov.upper, ov.work = small / "upper", small / "work"
    ov.upper.mkdir()
    ov.work.mkdir()
    ov.may_complain = True
    mnt = ov.mount()
    for name in ("one", "two"):
        os.unlink(mnt / "d/emptied" / name)
    os.chmod(mnt / "d/dir", 0o700)
    filled = Filled(small, "inodes")
    filled.leave(0)
    sysc.fails(errno.ENOSPC, os.rename, mnt / "d/dir", mnt / "d/emptied")
    os.rmdir(mnt / "d/emptied")
    assert listing(mnt / "d") == ["dir"]
    filled.clear()


@pytest.mark.parametrize("what", ["inodes", "blocks"])
def test_removal_gives_room(ov, images, what):
    """What is removed on a full disk is gone at once, with the room that it took."""
    with ov.lower() as low:
        write(low / "f", os.urandom(1 << 20))
        (low / "d").mkdir()
    small = images.private(ov.base / "small", "ext4", size="4M")
    ov.mounted_helpers.append(small)
    ov.upper, ov.work = small / "upper", small / "work"
    ov.upper.mkdir()
    ov.work.mkdir()
    mnt = ov.mount()
    append(mnt / "f")
    os.chmod(mnt / "d", 0o700)
    write(mnt / "g")
    os.unlink(mnt / "g")
    filled = Filled(small, what)
    filled.leave(1)
    free = os.statvfs(small).f_bfree
    os.unlink(mnt / "f")
    os.rmdir(mnt / "d")
    rvl.wait_until(lambda: os.statvfs(small).f_bfree > free + 1000, "the room of what was removed")
    assert listing(mnt) == []
    filled.clear()


def test_no_room_for_data(ov, images):
    """Data that do not fit leave a metacopy file as it was, without room that is lost."""
    with ov.lower() as low:
        write(low / "f", os.urandom(1 << 20), mtime=OLD)
        os.setxattr(low / "f", "security.capability", CAPS)
    small = images.private(ov.base / "small", "ext4", size="4M")
    ov.mounted_helpers.append(small)
    ov.upper, ov.work = small / "upper", small / "work"
    ov.upper.mkdir()
    ov.work.mkdir()
    ov.options = ["metacopy=on"]
    mnt = ov.mount()
    os.chmod(mnt / "f", 0o755)
    before = snapshot(mnt)
    filled = Filled(small, "blocks")
    filled.leave(200)
    free = os.statvfs(small).f_bfree
    sysc.fails(errno.ENOSPC, os.open, mnt / "f", os.O_RDWR)
    assert os.statvfs(small).f_bfree >= free
    assert os.getxattr(mnt / "f", "security.capability") == CAPS
    ov.remount()
    assert_same(before, snapshot(mnt), "after a copy that failed")
    filled.clear()
    os.close(os.open(mnt / "f", os.O_RDWR))
    ov.remount()
    assert_same(before, snapshot(mnt), "after the copy")


def test_mount_on_a_full_disk(ov, images):
    """Without a free block it can be mounted and room be made in it; without a free inode with ro."""
    with ov.lower() as low:
        room_tree(low)
    small = images.private(ov.base / "small", "ext4", size="4M")
    ov.mounted_helpers.append(small)
    ov.use_upper_on(small)
    ov.may_complain = True
    mnt = ov.mount()
    write(mnt / "big", b"x" * 100000)
    ov.umount()
    filled = Filled(small, "inodes")
    filled.leave(0)
    assert "workdir" in mount_fails(ov) and "No space left" in mount_fails(ov)
    ov.mount("ro")
    assert (mnt / "big").stat().st_size == 100000
    ov.umount()
    filled.clear()
    filled.where.rmdir()
    filled = Filled(small, "blocks")
    for _ in range(3):
        filled.leave(0)
        ov.mount()
        ov.kill_remount()
        ov.umount()
    filled.leave(0)
    ov.mount()
    full = os.statvfs(small)
    os.unlink(mnt / "big")
    while os.statvfs(small).f_bfree == full.f_bfree:  # until the kernel has forgotten it
        os.sched_yield()
    write(mnt / "d/file", "room\n")
    ov.remount()
    assert (mnt / "d/file").read_text() == "room\n"
