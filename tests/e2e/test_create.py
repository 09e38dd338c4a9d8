# SPDX-License-Identifier: GPL-2.0-or-later
"""New objects: every type, with the right owner, mode, ACL and number, also after a remount."""

import contextlib
import errno
import os
import socket
import stat
import struct

import pytest

import sysc
from rvl import IS_KERNEL, run
from snapshots import xattrs_of
from trees import DEFAULT_ACL, ino, listing, opaque, whiteout, write

MAKE = {
    "file": lambda p: os.close(os.open(p, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)),
    "mknod": lambda p: os.mknod(p, stat.S_IFREG | 0o666),
    "dir": lambda p: os.mkdir(p, 0o777),
    "symlink": lambda p: os.symlink("target", p),
    "fifo": lambda p: os.mkfifo(p, 0o666),
    "socket": lambda p: os.mknod(p, stat.S_IFSOCK | 0o666),
    "char": lambda p: os.mknod(p, stat.S_IFCHR | 0o666, os.makedev(1, 3)),
    "block": lambda p: os.mknod(p, stat.S_IFBLK | 0o666, os.makedev(7, 1)),
}
TYPE = {"file": stat.S_IFREG, "mknod": stat.S_IFREG, "dir": stat.S_IFDIR,
        "symlink": stat.S_IFLNK, "fifo": stat.S_IFIFO, "socket": stat.S_IFSOCK,
        "char": stat.S_IFCHR, "block": stat.S_IFBLK}


@pytest.fixture
def umask():
    old = os.umask(0o027)
    yield
    os.umask(old)


@pytest.mark.layouts("ext4", "xfs", "btrfs", "tmpfs", "squashfs", "stack5")
def test_all_types(ov, umask):
    """Each type can be made in upper, merged and lower directories, over whiteouts, with umask."""
    with ov.lower() as low:
        write(low / "lowdir/x")
        write(low / "merged/x")
        (low / "white").mkdir()
        for kind in MAKE:
            write(low / "white" / kind)
    write(ov.upper / "merged/y")
    (ov.upper / "updir").mkdir()
    for kind in MAKE:
        (ov.upper / "white").mkdir(exist_ok=True)
        whiteout(ov.upper / "white" / kind)
    for path in ("merged", "updir", "white"):
        os.chmod(ov.upper / path, 0o755)
    mnt = ov.mount()
    seen = {}
    for where in (".", "lowdir", "merged", "updir", "white"):
        for kind, make in MAKE.items():
            path = mnt / where / kind
            make(path)
            st = os.lstat(path)
            assert stat.S_IFMT(st.st_mode) == TYPE[kind], path
            wanted = {"symlink": 0o777, "dir": 0o750}.get(kind, 0o640)
            assert stat.S_IMODE(st.st_mode) == wanted, path
            assert (st.st_uid, st.st_gid) == (0, 0)
            assert st.st_nlink == (2 if kind == "dir" else 1) or kind == "dir"
            if kind in ("char", "block"):
                assert st.st_rdev == os.makedev(*((1, 3) if kind == "char" else (7, 1)))
            sysc.fails(errno.EEXIST, make, path)
            assert st.st_ino not in seen, (path, seen[st.st_ino])
            seen[st.st_ino] = path
            assert not [n for n in os.listxattr(path, follow_symlinks=False) if "overlay" in n]
    ov.remount()
    for number, path in seen.items():
        assert ino(path) == number
    with open(mnt / "char", "rb") as null:
        assert null.read() == b""


def test_new_directory_over_whiteout_is_opaque(ov):
    """A directory made where lower has one of that name removed is empty, also after a remount."""
    with ov.lower() as low:
        write(low / "d/old/deep")
    mnt = ov.mount()
    old = ino(mnt / "d")
    run("rm", "-r", mnt / "d")
    os.mkdir(mnt / "d")
    assert listing(mnt / "d") == []
    assert ino(mnt / "d") != old
    write(mnt / "d/new")
    ov.remount()
    assert listing(mnt / "d") == ["new"]
    assert os.getxattr(ov.upper / "d", "trusted.overlay.opaque") == b"y"


@pytest.mark.layouts("ext4", "xfs", "btrfs", "tmpfs")
def test_o_tmpfile(ov):
    """O_TMPFILE makes an object without a name, which a link can give one, unless O_EXCL."""
    with ov.lower() as low:
        write(low / "d/x")
    mnt = ov.mount()
    fd = os.open(mnt / "d", os.O_TMPFILE | os.O_RDWR, 0o640)
    os.write(fd, b"hidden\n")
    st = os.fstat(fd)
    assert st.st_nlink == 0
    assert listing(mnt / "d") == ["x"]
    sysc.link_fd(fd, mnt / "d/named")
    assert (mnt / "d/named").read_text() == "hidden\n"
    assert ino(mnt / "d/named") == st.st_ino
    assert os.fstat(fd).st_nlink == 1
    assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o640
    os.close(fd)
    fd = os.open(mnt, os.O_TMPFILE | os.O_RDWR | os.O_EXCL, 0o600)
    sysc.fails(errno.ENOENT, sysc.link_fd, fd, mnt / "no")
    os.close(fd)
    ov.remount()
    assert (mnt / "d/named").read_text() == "hidden\n"
    assert ino(mnt / "d/named") == st.st_ino


def test_setgid_directory(ov):
    """In a setgid directory each kind of new object gets its group, directories also the bit."""
    with ov.lower() as low:
        (low / "d").mkdir()
        os.chown(low / "d", 0, 77)
        os.chmod(low / "d", 0o2777)
    mnt = ov.mount()

    def make():
        old = os.umask(0o022)
        for kind in ("file", "mknod", "dir", "symlink", "fifo", "socket"):
            MAKE[kind](mnt / "d" / kind)
        os.umask(old)
        # not a member of the group: no setgid on a file
        os.close(os.open(mnt / "d/sgid", os.O_CREAT | os.O_WRONLY, 0o2775))

    sysc.as_user(1234, 1235, make)
    for name in listing(mnt / "d"):
        st = os.lstat(mnt / "d" / name)
        assert (st.st_uid, st.st_gid) == (1234, 77), name
        assert bool(st.st_mode & stat.S_ISGID) == (name == "dir"), name


@pytest.mark.layouts("ext4", "btrfs", "tmpfs")
def test_default_acl(ov):
    """A directory's default ACL decides the mode and ACL of what is made in it, umask does not."""
    plain = ov.base / "plain"
    plain.mkdir()
    with ov.lower() as low:
        (low / "d").mkdir()
        for path in (low / "d", plain):
            os.chmod(path, 0o777)
            os.setxattr(path, "system.posix_acl_default", DEFAULT_ACL)
    mnt = ov.mount()
    old = os.umask(0o077)
    try:
        for kind in ("file", "mknod", "dir", "fifo", "socket", "symlink"):
            MAKE[kind](mnt / "d" / kind)
            MAKE[kind](plain / kind)
    finally:
        os.umask(old)
    for kind in ("file", "mknod", "dir", "fifo", "socket", "symlink"):
        wanted, got = os.lstat(plain / kind), os.lstat(mnt / "d" / kind)
        assert oct(got.st_mode) == oct(wanted.st_mode), kind
        assert xattrs_of(mnt / "d" / kind) == xattrs_of(plain / kind), kind


def test_owner_is_the_caller(ov):
    """What a user makes is his, wherever he may write."""
    with ov.lower() as low:
        (low / "tmp").mkdir()
        os.chmod(low / "tmp", 0o1777)
        write(low / "tmp/roots")
    mnt = ov.mount()

    def user():
        for kind in ("file", "dir", "symlink", "fifo", "socket"):
            MAKE[kind](mnt / "tmp" / kind)
        sysc.fails(errno.EPERM, MAKE["char"], mnt / "tmp/char")
        sysc.fails(errno.EACCES, MAKE["file"], mnt / "file")
        sysc.fails((errno.EPERM, errno.EACCES), os.unlink, mnt / "tmp/roots")
        os.unlink(mnt / "tmp/fifo")
        fd = os.open(mnt / "tmp", os.O_TMPFILE | os.O_RDWR, 0o600)
        assert os.fstat(fd).st_uid == 1234
        os.close(fd)

    sysc.as_user(1234, 1235, user)
    for name in ("file", "dir", "symlink", "socket"):
        st = os.lstat(mnt / "tmp" / name)
        assert (st.st_uid, st.st_gid) == (1234, 1235), name
    assert listing(mnt / "tmp") == ["dir", "file", "roots", "socket", "symlink"]


def test_open_flags(ov):
    """O_CREAT, O_EXCL, O_DIRECTORY, O_NOFOLLOW and O_PATH do as they say."""
    with ov.lower() as low:
        write(low / "f")
        (low / "d").mkdir()
        os.symlink("f", low / "l")
    mnt = ov.mount()
    sysc.fails(errno.EEXIST, os.open, mnt / "f", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    assert not (ov.upper / "f").exists()
    os.close(os.open(mnt / "f", os.O_CREAT | os.O_RDONLY, 0o600))
    assert not (ov.upper / "f").exists()
    sysc.fails(errno.ENOTDIR, os.open, mnt / "f", os.O_RDONLY | os.O_DIRECTORY)
    sysc.fails(errno.EISDIR, os.open, mnt / "d", os.O_WRONLY)
    sysc.fails(errno.ELOOP, os.open, mnt / "l", os.O_RDONLY | os.O_NOFOLLOW)
    fd = os.open(mnt / "l", os.O_PATH | os.O_NOFOLLOW)
    assert stat.S_ISLNK(os.fstat(fd).st_mode)
    os.close(fd)
    sysc.fails(errno.EEXIST, os.mkdir, mnt / "f")
    sysc.fails(errno.EEXIST, os.symlink, "x", mnt / "l")
    sysc.fails(errno.ENOENT, os.mkdir, mnt / "no/dir")
    sysc.fails(errno.ENOTDIR, os.mkdir, mnt / "f/dir")
    sysc.fails(errno.ENAMETOOLONG, os.mkdir, mnt / ("x" * 256))
    sysc.fails(errno.ENAMETOOLONG, os.lstat, mnt / ("x" * 256))
    os.mkdir(mnt / ("x" * 255))


def test_links(ov):
    """link: lower, upper and merged objects, symlinks themselves, and what must not be linked."""
    with ov.lower() as low:
        write(low / "f")
        os.symlink("f", low / "l")
        os.mkfifo(low / "p")
        (low / "d").mkdir()
    mnt = ov.mount()
    for name in "flp":
        number = ino(mnt / name)
        os.link(mnt / name, mnt / "d" / name, follow_symlinks=False)
        for path in (mnt / name, mnt / "d" / name):
            assert ino(path) == number
            assert os.lstat(path).st_nlink == 2
    sysc.fails(errno.EPERM, os.link, mnt / "d", mnt / "d2")
    sysc.fails(errno.EEXIST, os.link, mnt / "f", mnt / "l")
    sysc.fails(errno.EXDEV, os.link, mnt / "f", ov.base / "f")
    write(mnt / "new")
    os.link(mnt / "new", mnt / "d/new")
    os.unlink(mnt / "new")
    assert os.stat(mnt / "d/new").st_nlink == 1


def test_link_that_fails_is_none(ov):
    """A directory that cannot be marked as one with objects from lower gets no link."""
    with ov.lower() as low:
        write(low / "f")
    mnt = ov.mount()
    os.mkdir(mnt / "d")
    for n in range(12, -1, -1):  # till there is no room for one more attribute
        with contextlib.suppress(OSError):
            os.setxattr(mnt / "d", f"user.{n}", b"x" * 2 ** n)
    sysc.fails(errno.ENOSPC, os.link, mnt / "f", mnt / "d/f")
    ov.remount()
    assert os.listdir(mnt / "d") == []
    os.link(mnt / "f", mnt / "g")


def test_deep_paths(ov):
    """Paths near PATH_MAX, and deeper than it by steps, work."""
    with ov.lower() as low:
        write(low / "f")
    mnt = ov.mount()
    here = os.open(mnt, os.O_RDONLY)
    fd = here
    for _ in range(40):  # 40 * 200 > PATH_MAX
        os.mkdir("n" * 199, dir_fd=fd)
        nxt = os.open("n" * 199, os.O_RDONLY, dir_fd=fd)
        if fd != here:
            os.close(fd)
        fd = nxt
    bottom = os.fstat(fd).st_ino
    other = os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=fd)
    os.close(other)
    assert os.listdir(fd) == ["file"]
    os.close(fd)
    ov.check_links = ov.check_remount = False  # they walk by whole paths
    os.close(here)
    ov.remount()
    fd = os.open(mnt, os.O_RDONLY)
    for _ in range(40):
        nxt = os.open("n" * 199, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = nxt
    assert os.fstat(fd).st_ino == bottom
    assert os.listdir(fd) == ["file"]
    os.close(fd)
    path = mnt
    while len(str(path)) < 3800:
        path = path / ("n" * 199)
    write(path / "near", "near PATH_MAX\n")
    assert (path / "near").read_text() == "near PATH_MAX\n"
    run("rm", "-r", mnt / ("n" * 199))


def test_socket_and_fifo_live(ov):
    """A socket bound in the mount can be connected to, a fifo of lower carries data."""
    with ov.lower() as low:
        os.mkfifo(low / "fifo")
    mnt = ov.mount()
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(mnt / "sock"))
    server.listen(1)
    client = socket.socket(socket.AF_UNIX)
    client.connect(str(mnt / "sock"))
    client.send(b"x")
    conn, _ = server.accept()
    assert conn.recv(1) == b"x"
    for s in (conn, client, server):
        s.close()
    reader = os.open(mnt / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(mnt / "fifo", os.O_WRONLY)
    os.write(writer, b"pipe")
    assert os.read(reader, 10) == b"pipe"
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("options", [[], ["userxattr"]], ids=["trusted", "user"])
@pytest.mark.parametrize("uid", [0, 1000])
def test_device_zero_zero(ov, options, uid):
    """Anybody's 0:0 character device is refused, or kept without being taken for a whiteout."""
    with ov.lower() as low:
        write(low / "f")
    ov.upper.chmod(0o777)
    ov.options = options
    mnt = ov.mount()
    if not IS_KERNEL:
        sysc.as_user(uid, uid, lambda: whiteout(mnt / "w"))
        os.unlink(mnt / "w")
    try:
        whiteout(mnt / "w")
    except OSError as error:
        assert error.errno in (errno.EPERM, errno.EIO)
        assert listing(mnt) == ["f"]
        return
    assert os.lstat(mnt / "w").st_rdev == 0 and stat.S_ISCHR(os.lstat(mnt / "w").st_mode)
    ov.remount()
    assert listing(mnt) == ["f", "w"]


@pytest.mark.layouts("tmpfs")
def test_large_default_acl(ov):
    """A default ACL of more than 4 KiB, which FUSE itself does not show, is handed on too."""
    named = b"".join(struct.pack("<HHI", 2, 7, 2000 + i) for i in range(1000))
    acl = DEFAULT_ACL[:12] + named + DEFAULT_ACL[20:]
    with ov.lower():
        pass
    mnt = ov.mount()
    os.mkdir(mnt / "d")
    os.setxattr(ov.upper / "d", "system.posix_acl_default", acl)
    for kind in ("file", "dir", "fifo"):
        MAKE[kind](mnt / "d" / kind)
        assert len(os.getxattr(ov.upper / "d" / kind, "system.posix_acl_access")) == len(acl)
    assert os.getxattr(ov.upper / "d/dir", "system.posix_acl_default") == acl
    run("rm", "-r", mnt / "d")


@pytest.mark.layouts("ext4", "xfs", "btrfs", "tmpfs")
def test_fallocate(ov):
    """fallocate: extend, keep size, punch, zero; on a file of lower it copies up first."""
    with ov.lower() as low:
        write(low / "f", b"x" * 65536)
    mnt = ov.mount()
    fd = os.open(mnt / "f", os.O_RDWR)
    sysc.fallocate(fd, sysc.FALLOC_PUNCH_HOLE | sysc.FALLOC_KEEP_SIZE, 4096, 4096)
    assert os.pread(fd, 8192, 4096) == bytes(4096) + b"x" * 4096
    sysc.fallocate(fd, sysc.FALLOC_KEEP_SIZE, 65536, 65536)
    assert os.fstat(fd).st_size == 65536
    sysc.fallocate(fd, 0, 65536, 4096)
    assert os.fstat(fd).st_size == 69632
    if ov.layout not in ("tmpfs",):
        sysc.fallocate(fd, sysc.FALLOC_ZERO_RANGE, 0, 1000)
        assert os.pread(fd, 1001, 0) == bytes(1000) + b"x"
    os.close(fd)


def test_copy_file_range(ov):
    """copy_file_range between lower and upper files, and within one."""
    with ov.lower() as low:
        write(low / "a", os.urandom(300000))
    mnt = ov.mount()
    data = (mnt / "a").read_bytes()
    with open(mnt / "a", "rb") as source, open(mnt / "b", "w+b") as target:
        left = len(data)
        while left:
            done = os.copy_file_range(source.fileno(), target.fileno(), left)
            assert done > 0
            left -= done
    assert (mnt / "b").read_bytes() == data
    assert not (ov.upper / "a").exists()


def test_locks(ov):
    """flock and POSIX locks exclude other processes, on lower files and across a copy-up."""
    import fcntl
    with ov.lower() as low:
        write(low / "f")
    mnt = ov.mount()
    fd = os.open(mnt / "f", os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)

    def other():
        second = os.open(mnt / "f", os.O_RDONLY)
        sysc.fails(errno.EAGAIN, fcntl.flock, second, fcntl.LOCK_EX | fcntl.LOCK_NB)

    sysc.as_user(0, 0, other)
    if not IS_KERNEL:
        write(mnt / "f", "copied up\n")
        sysc.as_user(0, 0, other)
    fcntl.flock(fd, fcntl.LOCK_UN)
    os.close(fd)
    fd = os.open(mnt / "f", os.O_RDWR)
    fcntl.lockf(fd, fcntl.LOCK_EX, 10, 5)

    def posix():
        second = os.open(mnt / "f", os.O_RDWR)
        sysc.fails((errno.EAGAIN, errno.EACCES), fcntl.lockf, second,
                   fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 5)
        fcntl.lockf(second, fcntl.LOCK_EX | fcntl.LOCK_NB, 5, 0)

    sysc.as_user(0, 0, posix)
    os.close(fd)


def test_chattr_flags(ov):
    """chattr flags: lower's are shown, can be set, forbid what they should, and survive."""
    with ov.lower() as low:
        write(low / "f")
        write(low / "immutable")
    fd = os.open(low / "immutable", os.O_RDONLY)
    mnt = ov.mount()
    os.close(fd)
    fd = os.open(mnt / "f", os.O_RDONLY)
    try:
        sysc.set_flags(fd, sysc.get_flags(fd) | sysc.FS_APPEND_FL)
        assert sysc.get_flags(fd) & sysc.FS_APPEND_FL
        sysc.fails(errno.EPERM, os.open, mnt / "f", os.O_WRONLY | os.O_TRUNC)
        sysc.fails(errno.EPERM, os.unlink, mnt / "f")
        with open(mnt / "f", "ab") as file:
            file.write(b"more\n")
            file.flush()
            sysc.fallocate(file.fileno(), sysc.FALLOC_KEEP_SIZE, 0, 4096)
            sysc.fails(errno.EPERM, sysc.fallocate, file.fileno(), sysc.FALLOC_KEEP_SIZE | sysc.FALLOC_PUNCH_HOLE, 0, 2)
        assert (mnt / "f").read_text() == "data\nmore\n"
        os.close(fd)
        ov.remount()
        fd = os.open(mnt / "f", os.O_RDONLY)
        assert sysc.get_flags(fd) & sysc.FS_APPEND_FL
        sysc.fails(errno.EPERM, os.unlink, mnt / "f")
    finally:
        sysc.set_flags(fd, sysc.get_flags(fd) & ~(sysc.FS_APPEND_FL | sysc.FS_IMMUTABLE_FL))
        os.close(fd)
    sysc_fd = os.open(mnt / "immutable", os.O_RDONLY)
    sysc.set_flags(sysc_fd, sysc.get_flags(sysc_fd) | sysc.FS_IMMUTABLE_FL)
    sysc.fails(errno.EPERM, os.chmod, mnt / "immutable", 0o600)
    sysc.fails(errno.EPERM, os.unlink, mnt / "immutable")
    sysc.fails(errno.EPERM, os.rename, mnt / "immutable", mnt / "moved")
    sysc.set_flags(sysc_fd, sysc.get_flags(sysc_fd) & ~sysc.FS_IMMUTABLE_FL)
    os.close(sysc_fd)
    os.unlink(mnt / "immutable")
    os.mkdir(mnt / "d")
    fd = os.open(mnt / "d", os.O_RDONLY)
    sysc.set_flags(fd, sysc.get_flags(fd) | sysc.FS_IMMUTABLE_FL)
    sysc.fails(errno.EPERM, os.open, mnt / "d", os.O_TMPFILE | os.O_RDWR)
    sysc.set_flags(fd, sysc.get_flags(fd) & ~sysc.FS_IMMUTABLE_FL)
    os.close(fd)


def test_times(ov):
    """utimensat: nanoseconds, NOW and OMIT; a write moves mtime and ctime; birth time is told."""
    with ov.lower() as low:
        write(low / "f", mtime=1234567890123456789)
    mnt = ov.mount()
    before = os.stat(mnt / "f")
    os.utime(mnt / "f", ns=(111111111, 222222222))
    st = os.stat(mnt / "f")
    assert (st.st_atime_ns, st.st_mtime_ns) == (111111111, 222222222)
    assert st.st_ctime_ns > before.st_ctime_ns
    run("touch", "-a", mnt / "f")
    st = os.stat(mnt / "f")
    assert st.st_mtime_ns == 222222222 and st.st_atime_ns > 222222222
    with open(mnt / "f", "ab") as file:
        file.write(b"x")
    assert os.stat(mnt / "f").st_mtime_ns > 222222222
    parent = os.stat(mnt).st_mtime_ns
    write(mnt / "new")
    assert os.stat(mnt).st_mtime_ns > parent
    sysc.as_user(1234, 1234, lambda: sysc.fails(errno.EPERM, os.utime, mnt / "f", ns=(1, 1)))


def test_exec(ov):
    """Programs run from lower, and from upper after a copy-up; a running one cannot be written."""
    with ov.lower() as low:
        run("cp", "/bin/sleep", low / "prog")
    mnt = ov.mount()
    assert run(mnt / "prog", "0").returncode == 0
    os.chmod(mnt / "prog", 0o711)
    assert run(mnt / "prog", "0").returncode == 0
    ov.remount()
    assert run(mnt / "prog", "0").returncode == 0


def test_marks_of_users_are_no_marks(ov):
    """A directory in upper that is opaque by xattr shows so, and no user sees or sets the mark."""
    with ov.lower() as low:
        write(low / "d/below")
    (ov.upper / "d").mkdir()
    opaque(ov.upper / "d")
    mnt = ov.mount()
    assert listing(mnt / "d") == []
    assert "trusted.overlay.opaque" not in os.listxattr(mnt / "d")
