# SPDX-License-Identifier: GPL-2.0-or-later
"""Copy-up: the object in upper is the object of lower, in everything, and its number stays."""

import contextlib
import errno
import mmap
import os
import re
import shutil
import stat
import threading

import pytest

import sysc
from rvl import IS_KERNEL, run, traced
from snapshots import assert_same, snapshot, xattrs_of
from trees import ACL, CAPS, OLD, ino, listing, standard_tree, write

# Each makes upper's copy in its own way, and changes nothing else that is compared.
TRIGGERS = {
    "chmod": lambda p: os.chmod(p, stat.S_IMODE(os.stat(p).st_mode)),
    "chown": lambda p: os.chown(p, os.stat(p).st_uid, os.stat(p).st_gid),
    "utimes": lambda p: os.utime(p, ns=(os.stat(p).st_atime_ns, os.stat(p).st_mtime_ns)),
    "setxattr": lambda p: (os.setxattr(p, "user.tmp", b"1"), os.removexattr(p, "user.tmp")),
    "open": lambda p: os.close(os.open(p, os.O_WRONLY)),
    "openrw": lambda p: os.close(os.open(p, os.O_RDWR)),
    "write": lambda p: rewrite(p),
    "link": lambda p: (os.link(p, str(p) + ".l"), os.unlink(str(p) + ".l")),
    "rename": lambda p: (os.rename(p, str(p) + ".r"), os.rename(str(p) + ".r", p)),
}


def rewrite(path):
    """Writes what is there already, and puts the times back."""
    st = os.stat(path)
    fd = os.open(path, os.O_RDWR)
    if st.st_size:
        os.pwrite(fd, os.pread(fd, 1, 0), 0)
    else:
        os.truncate(path, 1)
        os.truncate(path, 0)
    os.close(fd)
    os.chmod(path, stat.S_IMODE(st.st_mode))
    os.utime(path, ns=(st.st_atime_ns, st.st_mtime_ns))


def overwrite(path):
    """Writes one byte to the start of a file, where the kernel's overlay copies up at the open already."""
    fd = os.open(path, os.O_WRONLY)
    try:
        os.pwrite(fd, b"x", 0)
    finally:
        os.close(fd)


@pytest.mark.parametrize("trigger", list(TRIGGERS))
def test_everything_is_kept(ov, trigger):
    """Whatever causes the copy-up: type, owner, mode, mtime, xattrs, caps, content, ino stay."""
    with ov.lower() as low:
        standard_tree(low)
    mnt = ov.mount()
    paths = ["file", "empty", "big", "dir/inner", "xattr", "caps", "suid", "sparse"]
    before = snapshot(mnt, dir_nlink=False)
    for path in paths:
        TRIGGERS[trigger](mnt / path)
        assert (ov.upper / path).exists(), f"{path}: not copied up"
    after = snapshot(mnt, dir_nlink=False)
    for path in before:
        old, new = dict(before[path]), dict(after[path])
        if trigger in ("link", "rename") and path in (".", "dir"):
            del old["mtime"], new["mtime"]
        if trigger in ("chown", "write") and path in ("suid", "caps"):
            # a change of owner, and a write, take these away, as anywhere
            continue
        assert old == new, path


@pytest.mark.layouts()
def test_data_and_attributes(ov):
    """On every kind of filesystem: the first write keeps all that was, and its number."""
    with ov.lower() as low:
        standard_tree(low)
    mnt = ov.mount()
    before = snapshot(mnt, dir_nlink=False)
    with open(mnt / "big", "r+b") as file:
        file.seek(1000)
        file.write(b"changed")
    os.chmod(mnt / "dir/inner", 0o604)
    os.chmod(mnt / "dir/sub", 0o705)
    os.chown(mnt / "fifo", 5, 6)
    os.chmod(mnt / "chardev", 0o600)
    os.utime(mnt / "symlink", ns=(1, 2), follow_symlinks=False)
    os.chown(mnt / "dangling", 7, 8, follow_symlinks=False)
    os.setxattr(mnt / "sticky", "user.more", b"x")
    os.chmod(mnt / "xattr", 0o600)
    after = snapshot(mnt, dir_nlink=False)
    data = bytearray(bytes(range(256)) * 12289)
    data[1000:1007] = b"changed"
    assert (mnt / "big").read_bytes() == data
    expected = {name: dict(info) for name, info in before.items()}
    expected["big"].update(content=after["big"]["content"], mtime=after["big"]["mtime"])
    expected["dir/inner"]["mode"] = oct(stat.S_IFREG | 0o604)
    expected["dir/sub"]["mode"] = oct(stat.S_IFDIR | 0o705)
    expected["fifo"].update(uid=5, gid=6)
    expected["chardev"]["mode"] = oct(stat.S_IFCHR | 0o600)
    expected["symlink"]["mtime"] = 2
    expected["dangling"].update(uid=7, gid=8)
    expected["sticky"]["xattrs"] = dict(expected["sticky"]["xattrs"], **{"user.more": b"x"})
    expected["xattr"]["mode"] = oct(stat.S_IFREG | 0o600)
    assert_same(expected, after, "changed")


def test_acl(ov):
    """POSIX ACLs, access and default, come along and count."""
    with ov.lower() as low:
        write(low / "file", mode=0o640)
        run("setfacl", "-m", "u:1234:rw,g:77:r", low / "file")
        (low / "dir").mkdir()
        run("setfacl", "-m", "u:1234:rwx,d:u:1234:rwx,d:g:77:rx", low / "dir")
        expected = run("getfacl", "-cp", low / "file").stdout
        expected_dir = run("getfacl", "-cp", low / "dir").stdout
    mnt = ov.mount()
    assert run("getfacl", "-cp", mnt / "file").stdout == expected
    sysc.as_user(1234, 1234, lambda: (mnt / "file").read_text())
    sysc.as_user(4321, 4321, lambda: sysc.fails(errno.EACCES, (mnt / "file").read_text))

    def user():
        with open(mnt / "file", "a", encoding="ascii") as file:
            file.write("more\n")
        write(mnt / "dir/new")

    sysc.as_user(1234, 1234, user)
    assert (ov.upper / "file").exists() and (ov.upper / "dir").exists()
    assert run("getfacl", "-cp", mnt / "file").stdout == expected
    assert run("getfacl", "-cp", ov.upper / "file").stdout == expected
    assert run("getfacl", "-cp", mnt / "dir").stdout == expected_dir
    assert run("getfacl", "-cp", ov.upper / "dir").stdout == expected_dir


@pytest.mark.kernel_differs("it copies up in pieces of 2 MiB")
def test_holes(ov):
    """Holes stay holes, in size and in place."""
    with ov.lower() as low:
        with open(low / "sparse", "wb") as file:
            file.truncate(64 << 20)
            os.pwrite(file.fileno(), b"a" * 4096, 0)
            os.pwrite(file.fileno(), b"b" * 4096, 32 << 20)
        with open(low / "hole-only", "wb") as file:
            file.truncate(1 << 30)
        blocks = os.stat(low / "sparse").st_blocks
    mnt = ov.mount()
    for name in ("sparse", "hole-only"):
        os.chmod(mnt / name, 0o600)
        assert (ov.upper / name).exists()
    assert os.stat(ov.upper / "sparse").st_blocks <= blocks + 16
    assert os.stat(ov.upper / "hole-only").st_blocks <= 16
    fd = os.open(mnt / "sparse", os.O_RDONLY)
    assert os.lseek(fd, 4096, os.SEEK_DATA) == 32 << 20
    assert os.lseek(fd, 32 << 20, os.SEEK_HOLE) == (32 << 20) + 4096
    assert os.pread(fd, 4096, 32 << 20) == b"b" * 4096
    assert os.pread(fd, 4096, 16 << 20) == bytes(4096)
    os.close(fd)


@pytest.mark.layouts()
def test_hard_links(ov):
    """A write through one name is seen through all; nlink and ino stay; so after a remount."""
    with ov.lower() as low:
        standard_tree(low)
    mnt = ov.mount()
    names = ["hard1", "hard2", "dir/hard3"]
    number = ino(mnt / "hard1")
    assert all(os.stat(mnt / n).st_nlink == 3 and ino(mnt / n) == number for n in names)

    def check(text, links):
        for name in links:
            assert (mnt / name).read_text() == text, name
            assert ino(mnt / name) == number, name
            assert os.stat(mnt / name).st_nlink == len(links), name

    with open(mnt / "hard2", "a", encoding="ascii") as file:
        file.write("one\n")
    check("hard\none\n", names)
    ov.remount()
    check("hard\none\n", names)
    with open(mnt / "dir/hard3", "a", encoding="ascii") as file:
        file.write("two\n")
    check("hard\none\ntwo\n", names)
    os.link(mnt / "hard1", mnt / "emptydir/hard4")
    names.append("emptydir/hard4")
    check("hard\none\ntwo\n", names)
    ov.remount()
    check("hard\none\ntwo\n", names)
    os.unlink(mnt / "hard1")
    names.remove("hard1")
    check("hard\none\ntwo\n", names)
    os.rename(mnt / "hard2", mnt / "sticky/moved")
    names[names.index("hard2")] = "sticky/moved"
    check("hard\none\ntwo\n", names)
    ov.remount()
    check("hard\none\ntwo\n", names)
    os.truncate(mnt / "dir/hard3", 5)
    check("hard\n", names)


def test_unlink_of_a_lower_hard_link(ov):
    """Names removed before the copy-up count: nlink goes down, the rest stays one object."""
    with ov.lower() as low:
        write(low / "a")
        for name in "bcd":
            os.link(low / "a", low / name)
    mnt = ov.mount()
    number = ino(mnt / "a")
    os.unlink(mnt / "b")
    assert os.stat(mnt / "a").st_nlink == 3
    ov.remount()
    assert os.stat(mnt / "c").st_nlink == 3
    write(mnt / "c", "changed\n")
    assert (mnt / "a").read_text() == "changed\n"
    os.unlink(mnt / "a")
    os.unlink(mnt / "c")
    assert os.stat(mnt / "d").st_nlink == 1
    assert (mnt / "d").read_text() == "changed\n"
    assert ino(mnt / "d") == number
    ov.remount()
    assert (mnt / "d").read_text() == "changed\n"
    assert (os.stat(mnt / "d").st_nlink, ino(mnt / "d")) == (1, number)


@pytest.mark.layouts("ext4", "btrfs", "squashfs", "stack5")
def test_read_only_descriptor_sees_later_writes(ov):
    """A descriptor opened read-only before the copy-up sees the writes after it; so fstat."""
    with ov.lower() as low:
        write(low / "f", b"old data\n" * 1000)
        write(low / "g", b"old data\n")
    mnt = ov.mount()
    fd = os.open(mnt / "f", os.O_RDONLY)
    gd = os.open(mnt / "g", os.O_RDONLY)
    assert os.pread(fd, 3, 0) == b"old"
    with open(mnt / "f", "r+b") as file:
        file.write(b"NEW")
        file.seek(0, 2)
        file.write(b"tail")
    write(mnt / "g", b"replaced, and longer than it was\n")
    assert os.pread(fd, 3, 0) == b"NEW"
    assert os.fstat(fd).st_size == 9004
    assert os.pread(fd, 10, 9000) == b"tail"
    assert os.pread(gd, 100, 0) == b"replaced, and longer than it was\n"
    os.unlink(mnt / "g")
    assert os.fstat(gd).st_nlink == 0
    assert os.pread(gd, 8, 0) == b"replaced"
    os.close(fd)
    os.close(gd)


@pytest.mark.kernel_differs("a mapping made before the copy-up stays on lower")
@pytest.mark.layouts("ext4", "xfs", "squashfs")
def test_shared_mapping_sees_later_writes(ov):
    """A MAP_SHARED mapping made before the copy-up sees the writes after it; MAP_PRIVATE lives."""
    with ov.lower() as low:
        write(low / "f", b"o" * 10000)
    mnt = ov.mount()
    with open(mnt / "f", "rb") as file:
        shared = mmap.mmap(file.fileno(), 0, mmap.MAP_SHARED, mmap.PROT_READ)
        private = mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
    assert shared[:3] == b"ooo"
    private[:3] = b"ppp"
    with open(mnt / "f", "r+b") as file:
        file.write(b"NEW")
        file.seek(8192)
        file.write(b"second")
    assert shared[:3] == b"NEW"
    assert shared[8192:8198] == b"second"
    assert private[:3] == b"ppp"
    shared.close()
    private.close()


def test_write_through_shared_mapping(ov):
    """Stores to a shared mapping arrive in the file, in upper, and move mtime."""
    with ov.lower() as low:
        write(low / "f", b"o" * 8192, mtime=OLD)
    mnt = ov.mount()
    with open(mnt / "f", "r+b") as file:
        with mmap.mmap(file.fileno(), 0) as mapping:
            assert os.stat(mnt / "f").st_mtime_ns == OLD
            mapping[4096:4100] = b"MMAP"
            mapping.flush()
    assert (mnt / "f").read_bytes()[4096:4100] == b"MMAP"
    assert os.stat(mnt / "f").st_mtime_ns > OLD
    ov.remount()
    assert (ov.upper / "f").read_bytes()[4096:4100] == b"MMAP"
    assert (mnt / "f").read_bytes()[4096:4100] == b"MMAP"


def test_parents_are_copied_up(ov):
    """Directories above a copied-up file come along with their attributes; mtimes stay."""
    with ov.lower() as low:
        write(low / "a/b/c/file")
        for path, mode, owner in (("a/b/c", 0o2750, (5, 6)), ("a/b", 0o711, (7, 8)),
                                  ("a", 0o755, (0, 0))):
            os.chown(low / path, *owner)
            os.chmod(low / path, mode)
            os.setxattr(low / path, "user.name", path.encode())
            os.utime(low / path, ns=(OLD, OLD))
    mnt = ov.mount()
    before = {p: os.stat(mnt / p) for p in ("a", "a/b", "a/b/c")}
    os.chmod(mnt / "a/b/c/file", 0o600)
    for path, old in before.items():
        for where in (mnt, ov.upper):
            new = os.stat(where / path)
            assert (new.st_mode, new.st_uid, new.st_gid, new.st_mtime_ns) == \
                (old.st_mode, old.st_uid, old.st_gid, old.st_mtime_ns), (where, path)
            assert os.getxattr(where / path, "user.name") == path.encode()
        assert ino(mnt / path) == old.st_ino


def test_truncate_on_open(ov):
    """O_TRUNC and truncate copy up without the data, and the attributes stay."""
    with ov.lower() as low:
        for name in "abc":
            write(low / name, b"x" * 100000, mode=0o604, owner=(3, 4))
    mnt = ov.mount()
    numbers = {n: ino(mnt / n) for n in "abc"}
    os.close(os.open(mnt / "a", os.O_WRONLY | os.O_TRUNC))
    os.truncate(mnt / "b", 10)
    os.truncate(mnt / "c", 200000)
    assert [os.stat(mnt / n).st_size for n in "abc"] == [0, 10, 200000]
    assert (mnt / "b").read_bytes() == b"x" * 10
    assert (mnt / "c").read_bytes() == b"x" * 100000 + bytes(100000)
    for name in "abc":
        st = os.stat(mnt / name)
        assert (stat.S_IMODE(st.st_mode), st.st_uid, st.st_gid) == (0o604, 3, 4)
        assert st.st_ino == numbers[name]


@pytest.mark.layouts("ext4", "tmpfs", "xfs", "btrfs")
def test_truncate_to_the_same_size(ov):
    """What happens to the times is up to the filesystem beneath: by name, by descriptor, in lower and in upper."""
    def times_after(path):
        result = []
        for _ in range(2):
            os.utime(path, (OLD // 10**9, OLD // 10**9))
            os.truncate(path, 5000)
            result.append(os.stat(path).st_mtime == OLD // 10**9)
        with open(path, "r+b") as file:
            file.truncate(5000)
        result.append(os.stat(path).st_mtime == OLD // 10**9)
        assert path.read_bytes() == b"x" * 5000
        return result

    with ov.lower() as low:
        write(low / "old", b"x" * 5000)
    mnt = ov.mount()
    expected = times_after(write(ov.base / "plain", b"x" * 5000))
    assert expected[2] is False
    assert times_after(mnt / "old") == expected
    assert times_after(write(mnt / "new", b"x" * 5000)) == expected


def test_file_capabilities(ov):
    """File capabilities come along with a chmod, and a write takes them and setuid away."""
    with ov.lower() as low:
        for name in ("keep", "lose"):
            write(low / name, mode=0o4755)
            os.setxattr(low / name, "security.capability", CAPS)
    mnt = ov.mount()
    os.chmod(mnt / "keep", 0o4711)
    assert os.getxattr(mnt / "keep", "security.capability") == CAPS
    assert os.stat(mnt / "keep").st_mode & 0o7777 == 0o4711
    os.chown(low_user := mnt / "lose", 1234, 1234)
    os.chmod(low_user, 0o4755)
    os.setxattr(low_user, "security.capability", CAPS)

    def user():
        with open(mnt / "lose", "a", encoding="ascii") as file:
            file.write("x")

    sysc.as_user(1234, 1234, user)
    assert os.stat(mnt / "lose").st_mode & 0o7777 == 0o755
    assert "security.capability" not in xattrs_of(mnt / "lose")


def test_mapping_keeps_capabilities(ov):
    """Stores through a shared mapping take no capability from the file, as on a local filesystem."""
    with ov.lower() as low:
        write(low / "f", b"x" * 8192, mode=0o755)
        os.setxattr(low / "f", "security.capability", CAPS)
    mnt = ov.mount()
    fd = os.open(mnt / "f", os.O_RDWR)
    os.setxattr(mnt / "f", "security.capability", CAPS)  # the open has copied it up
    with mmap.mmap(fd, 8192) as mapping:
        mapping[:3] = b"abc"
        mapping.flush()
    os.fsync(fd)
    os.close(fd)
    assert os.getxattr(mnt / "f", "security.capability") == CAPS
    assert (ov.upper / "f").read_bytes()[:4] == b"abcx"


@pytest.mark.reverlay_only("its server writes the pages")
def test_capability_while_pages_are_written(ov):
    """What is set or removed while stores through a mapping are on their way is there, or is not, at once and for good."""
    with ov.lower() as low:
        write(low / "f", b"0" * 8192)
    path = ov.mount() / "f"
    ends = threading.Event()

    def store(number):
        with open(path, "r+b") as file, mmap.mmap(file.fileno(), 8192) as area:
            while not ends.is_set():
                area[number * 4096] = (area[number * 4096] + 1) % 256
                area.flush(number * 4096, 4096)

    os.chmod(path, 0o644)
    with open(path, "rb"):  # so that it is not passed through
        threads = [threading.Thread(target=store, args=(n,)) for n in range(2)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(60):
                os.setxattr(path, "security.capability", CAPS)
                assert os.getxattr(path, "security.capability") == CAPS
                assert os.getxattr(path, "security.capability") == CAPS
                os.removexattr(path, "security.capability")
                assert "security.capability" not in os.listxattr(path)
        finally:
            ends.set()
            for thread in threads:
                thread.join()


def test_parallel_copyup(ov):
    """Many threads that write to one lower file, through several names, get one object."""
    with ov.lower() as low:
        write(low / "f", b"\0" * (1 << 20))
        for i in range(7):
            os.link(low / "f", low / f"f{i}")
    mnt = ov.mount()
    names = ["f"] + [f"f{i}" for i in range(7)]
    number = ino(mnt / "f")
    barrier = threading.Barrier(len(names))
    errors = []

    def work(index, name):
        try:
            barrier.wait(30)
            fd = os.open(mnt / name, os.O_WRONLY)
            os.pwrite(fd, bytes([index + 1]) * 4096, index * 65536)
            os.close(fd)
        except Exception as error:  # pylint: disable=broad-except
            errors.append(error)

    threads = [threading.Thread(target=work, args=a) for a in enumerate(names)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    for name in names:
        data = (mnt / name).read_bytes()
        assert ino(mnt / name) == number
        for index in range(len(names)):
            assert data[index * 65536:index * 65536 + 4096] == bytes([index + 1]) * 4096, name


def test_nothing_is_left_in_work(ov):
    """After any number of copy-ups and removals work/ is empty."""
    with ov.lower() as low:
        standard_tree(low)
    mnt = ov.mount()
    for path in ("file", "big", "hard1", "dir/inner"):
        os.chmod(mnt / path, 0o600)
    os.unlink(mnt / "hard2")
    os.rename(mnt / "dir", mnt / "dir2")
    run("rm", "-r", mnt / "dir2")
    # the whiteout of which the others are links stays
    assert set(listing(ov.work / "work")) <= {"incompat", "whiteout"}


@pytest.mark.reverlay_only("an option of its own")
def test_copy_up_at_the_first_write(ov):
    """copy_up=write: opening copies nothing; the descriptor is the same file when it is written then."""
    with ov.lower() as low:
        write(low / "file", b"lower\n")
        write(low / "emptied", b"lower\n")
    mnt = ov.mount("copy_up=write")
    fd = os.open(mnt / "file", os.O_RDWR)
    assert not (ov.upper / "file").exists()
    write(mnt / "emptied", b"x")
    assert (ov.upper / "emptied").read_bytes() == b"x"
    os.pwrite(fd, b"L", 0)
    assert (ov.upper / "file").exists()
    assert os.pread(fd, 10, 0) == b"Lower\n"
    os.close(fd)


def test_failed_copyup_changes_nothing(ov, images):
    """Without room in upper the copy-up gives ENOSPC; the old state is whole, and can be used."""
    small = images.private(ov.base / "small", "ext4", size="16M")
    ov.mounted_helpers.append(small)
    with ov.lower() as low:
        write(low / "d/big", os.urandom(32 << 20), mtime=OLD)
        write(low / "d/little", b"little\n")
    ov.use_upper_on(small)
    ov.options = ["metacopy=off"]
    mnt = ov.mount()
    ov.may_complain = True
    before = snapshot(mnt, dir_nlink=False)
    sysc.fails(errno.ENOSPC, overwrite, mnt / "d/big")
    sysc.fails(errno.ENOSPC, os.chmod, mnt / "d/big", 0o600)
    after = snapshot(mnt, dir_nlink=False)
    assert_same(before, after, "after a failed copy-up")
    assert not (ov.upper / "d/big").exists()
    if not IS_KERNEL:
        assert set(listing(ov.work / "work")) <= {"whiteout"}
    # and a file that fits can be written at once
    write(mnt / "d/little", b"changed\n")
    ov.remount()
    assert (mnt / "d/little").read_text() == "changed\n"
    os.unlink(mnt / "d/big")
    assert listing(mnt / "d") == ["little"]


@pytest.mark.layouts("ext4", "btrfs")
def test_inode_flags(ov):
    """Sync and noatime come along, of files and directories, as with the kernel's overlay."""
    flags = {"f": sysc.FS_NOATIME_FL | sysc.FS_SYNC_FL, "d": sysc.FS_NOATIME_FL, "plain": 0}

    def get(top):
        found = {}
        for name in flags:
            fd = os.open(top / name, os.O_RDONLY)
            found[name] = sysc.get_flags(fd) & (sysc.FS_NOATIME_FL | sysc.FS_SYNC_FL)
            os.close(fd)
        return found

    with ov.lower() as low:
        write(low / "f")
        write(low / "plain")
        (low / "d").mkdir()
        for name, value in flags.items():
            fd = os.open(low / name, os.O_RDONLY)
            sysc.set_flags(fd, sysc.get_flags(fd) | value)
            os.close(fd)
    mnt = ov.mount()
    assert get(mnt) == flags
    for name in flags:
        os.chmod(mnt / name, 0o700)
    assert get(ov.upper) == flags
    assert get(mnt) == flags


@pytest.mark.layouts("ext4")
@pytest.mark.reverlay_only("changes of lower are undefined there")
def test_real_number_used_again(ov):
    """A new lower file with the real ino of one that was removed here can be changed; old handles stay dead."""
    with ov.lower() as low:
        write(low / "old", "old\n")
    ov.check_lower = False
    mnt = ov.mount()
    number = ino(mnt / "old")
    handle = sysc.handle(mnt / "old")
    write(mnt / "old", "changed\n")
    os.unlink(mnt / "old")
    ov.umount()
    os.unlink(low / "old")
    spare = 0
    while True:
        write(low / "new", "new\n")
        if ino(low / "new") == number:
            break
        os.rename(low / "new", low / f"spare{spare}")
        spare += 1
        assert spare < 1000
    ov.mount()
    assert (mnt / "new").read_text() == "new\n"
    with open(mnt / "new", "a") as file:
        file.write("more\n")
    ov.remount()
    assert (mnt / "new").read_text() == "new\nmore\n"
    fd = os.open(mnt, os.O_RDONLY)
    sysc.fails(errno.ESTALE, sysc.open_handle, fd, handle)
    os.close(fd)


def test_acl_constant_is_what_setfacl_makes(ov):
    """The bytes used in the other tests are a valid ACL (a test of the tests)."""
    with ov.lower() as low:
        write(low / "f", mode=0o640)
        os.setxattr(low / "f", "system.posix_acl_access", ACL)
        assert "user:1234:r--" in run("getfacl", "-cpn", low / "f").stdout
    mnt = ov.mount()
    assert os.getxattr(mnt / "f", "system.posix_acl_access") == ACL


@pytest.mark.layouts("ext4", "xfs", "btrfs", "tmpfs")
def test_o_append_direct_sync(ov):
    """O_APPEND appends after the copy-up, O_DIRECT reads and writes, fsync works on both."""
    with ov.lower() as low:
        write(low / "f", b"a" * 8192)
    mnt = ov.mount()
    fd = os.open(mnt / "f", os.O_WRONLY | os.O_APPEND)
    os.write(fd, b"b" * 10)
    os.pwrite(fd, b"c" * 10, 0)  # Linux: appends all the same
    os.fsync(fd)
    os.close(fd)
    assert (mnt / "f").read_bytes() == b"a" * 8192 + b"b" * 10 + b"c" * 10
    buffer = mmap.mmap(-1, 8192)
    try:
        fd = os.open(mnt / "f", os.O_RDWR | os.O_DIRECT)
    except OSError as error:
        assert error.errno == errno.EINVAL and ov.layout == "tmpfs"
        return
    assert os.preadv(fd, [buffer], 0) == 8192
    assert buffer[:] == b"a" * 8192
    buffer[:4096] = b"d" * 4096
    assert os.pwritev(fd, [memoryview(buffer)[:4096]], 4096) == 4096
    os.fdatasync(fd)
    os.close(fd)
    assert (mnt / "f").read_bytes()[4096:8192] == b"d" * 4096


@pytest.mark.layouts("squashfs")
def test_read_errors_of_lower(ov):
    """A lower that cannot be read gives EIO, leaves no half copy, and the rest works."""
    source = ov.lower_base / "src"
    write(source / "bad", (b"%08d" % 7) * 131072)
    write(source / "good", b"good\n" * 20000)
    image = ov.lower_base / "bad.squashfs"
    run("mksquashfs", source, image, "-quiet", "-no-progress", "-no-fragments", "-b", "131072")
    with open(image, "r+b") as file:
        file.seek(96)  # after the superblock: the first block of "bad", compressed
        file.write(b"\xff" * 64)
    ov.lowers = [ov._mount_image(image, "squashfs")]
    sysc.fails(errno.EIO, (ov.lowers[0] / "bad").read_bytes)
    assert (ov.lowers[0] / "good").read_bytes() == b"good\n" * 20000
    ov.check_lower = ov.check_remount = False  # it cannot be read
    ov.may_complain = True
    ov.options = ["metacopy=off"]
    mnt = ov.mount()
    for _ in range(2):
        sysc.fails(errno.EIO, (mnt / "bad").read_bytes)
        sysc.fails(errno.EIO, os.chmod, mnt / "bad", 0o600)
        sysc.fails(errno.EIO, overwrite, mnt / "bad")
        assert not (ov.upper / "bad").exists()
        if not IS_KERNEL:
            assert set(listing(ov.work / "work")) <= {"whiteout"}
    write(mnt / "good", "changed\n")
    os.unlink(mnt / "bad")
    assert listing(mnt) == ["good"]
    ov.remount()
    assert listing(mnt) == ["good"]


SYNCS = ("fsync", "fdatasync", "sync_file_range", "syncfs")


@contextlib.contextmanager
def syncs_of(mnt, log):
    """Fills the list that it gives with the names of the calls by which the server syncs, in their order."""
    syncs = []
    with traced(mnt, "-o", log, "-e", f"trace={','.join(SYNCS)}"):
        yield syncs
    syncs += re.findall(r"(\w+)\(.*= 0$", log.read_text(), re.M)


@pytest.mark.reverlay_only("it is the server that is traced")
@pytest.mark.layouts("xfs")
@pytest.mark.parametrize("value,attributes,data,asked", [
    ("auto", [], ["sync_file_range"], ["fsync"]), ("1", [], ["sync_file_range"], ["fsync"]),
    ("strict", ["fsync"], ["fsync", "fsync"], ["fsync"]),  # the data; then, for who writes, the name
    ("volatile", [], [], []), ("0", [], [], [])])
def test_sync_policy(ov, value, attributes, data, asked):
    """What a copy-up syncs before it publishes, and what fsync(2) does, by each value of fsync=."""
    with ov.lower() as low:
        write(low / "attributes")
        write(low / "data")
    ov.options = [f"fsync={value}"]
    mnt = ov.mount()
    log = ov.base / "strace"
    with syncs_of(mnt, log) as syncs:
        os.chmod(mnt / "attributes", 0o600)
    assert syncs == attributes
    with syncs_of(mnt, log) as syncs:
        fd = os.open(mnt / "data", os.O_RDWR)
    assert syncs == data
    with syncs_of(mnt, log) as syncs:
        os.fsync(fd)
    os.close(fd)
    assert syncs == asked
    if not asked:  # the mark of a volatile mount: the next one is refused
        ov.umount()
        done = run(*ov.command(), check=False)
        assert done.returncode and "volatile" in done.stdout
        shutil.rmtree(ov.work / "work/incompat")
        ov.options = []
        ov.mount()
