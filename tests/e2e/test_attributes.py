# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel keeps attributes until it is told of a change: what stat shows is what there is."""

import ctypes
import errno
import json
import os
import select
import stat
import struct
import threading
import time

import pytest

import rvl
import sysc
from trees import write

READDIR_SIZE = 65536
SYS_USERFAULTFD = {"x86_64": 323, "aarch64": 282}
UFFDIO_API = 0xc018aa3f
UFFDIO_REGISTER = 0xc020aa00
UFFDIO_ZEROPAGE = 0xc020aa04
UFFD_API = 0xaa
CLOCK_REALTIME_COARSE = 5


class LateListing:
    """A getdents64 that has its answer, with the attributes of all entries, and goes no further than
    to the first of them till it is let go: the buffer has no pages, and who asks for them waits."""

    def __init__(self, path):
        self.uffd = sysc.libc.syscall(SYS_USERFAULTFD[os.uname().machine], os.O_CLOEXEC)
        assert self.uffd >= 0, os.strerror(ctypes.get_errno())
        sysc.libc.mmap.restype = ctypes.c_void_p
        prot_rw, private_anonymous = 3, 0x22
        self.buf = sysc.libc.mmap(None, ctypes.c_size_t(READDIR_SIZE), prot_rw, private_anonymous,
                                  -1, ctypes.c_long(0))
        self.ioctl(UFFDIO_API, struct.pack("QQQ", UFFD_API, 0, 0))
        missing = 1
        self.ioctl(UFFDIO_REGISTER, struct.pack("QQQQ", self.buf, READDIR_SIZE, missing, 0))
        self.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        self.result = None
        self.thread = threading.Thread(target=self.read)
        self.thread.start()
        waiting = select.poll()
        waiting.register(self.uffd, select.POLLIN)
        assert waiting.poll(60000), "no answer to READDIRPLUS"

    def ioctl(self, command, arg):
        buf = ctypes.create_string_buffer(arg)
        assert sysc.libc.ioctl(self.uffd, ctypes.c_ulong(command), buf) == 0, \
            os.strerror(ctypes.get_errno())

    def read(self):
        self.result = sysc.libc.getdents64(self.fd, ctypes.c_void_p(self.buf), READDIR_SIZE)

    def let_go(self):
        self.ioctl(UFFDIO_ZEROPAGE, struct.pack("QQQq", self.buf, READDIR_SIZE, 0, 0))
        self.thread.join()
        assert self.result > 0
        os.close(self.fd)
        os.close(self.uffd)
        sysc.libc.munmap(ctypes.c_void_p(self.buf), ctypes.c_size_t(READDIR_SIZE))


def shown(path):
    """All that stat shows but the atime, which nobody is told of."""
    st = os.lstat(path)
    return {name: getattr(st, name) for name in (
        "st_mode", "st_nlink", "st_uid", "st_gid", "st_size", "st_blocks", "st_mtime_ns",
        "st_ctime_ns")}


def true(path):
    """The same, asked of the filesystem."""
    sysc.fresh_mode(path)
    return shown(path)


def let_time_pass(path):
    """Till a change of now has another time than the last one, on a clock that ticks."""
    last = os.lstat(path).st_ctime_ns
    while time.clock_gettime_ns(CLOCK_REALTIME_COARSE) <= last:
        pass


# What follows asks for no lock of the directory that is being listed: it would wait for ever.


def make(path):
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL))


def overwrite(path):
    fd = os.open(path, os.O_WRONLY)
    os.write(fd, b"another text")
    os.close(fd)


def fallocate(path):
    fd = os.open(path, os.O_WRONLY)
    sysc.fallocate(fd, sysc.FALLOC_KEEP_SIZE, 0, 1 << 20)
    os.close(fd)


def set_nodump(path):
    fd = os.open(path, os.O_RDONLY)
    nodump = 0x40
    sysc.set_flags(fd, sysc.get_flags(fd) ^ nodump)
    os.close(fd)


# what is changed (d: a directory; f: a file, which is a/f too, so that a can be changed while the
# directory of f is read), and how
CHANGES = {
    "create": ("d", lambda top: make(top / "d/new")),
    "mkdir": ("d", lambda top: os.mkdir(top / "d/new")),
    "mknod": ("d", lambda top: os.mknod(top / "d/new", stat.S_IFIFO)),
    "symlink": ("d", lambda top: os.symlink("x", top / "d/new")),
    "link": ("d", lambda top: os.link(top / "a/f", top / "d/new")),
    "linked": ("f", lambda top: os.link(top / "a/f", top / "a/new")),
    "unlink": ("d", lambda top: os.unlink(top / "d/file")),
    "unlinked": ("f", lambda top: os.unlink(top / "a/f")),
    "rmdir": ("d", lambda top: os.rmdir(top / "d/dir")),
    "rename-within": ("d", lambda top: os.rename(top / "d/file", top / "d/new")),
    "rename-out": ("d", lambda top: os.rename(top / "d/file", top / "a/new")),
    "rename-in": ("d", lambda top: os.rename(top / "a/dir", top / "d/new")),
    "rename-over": ("d", lambda top: os.rename(top / "a/file", top / "d/file")),
    "exchange": ("d", lambda top: sysc.renameat2(top / "d/dir", top / "a/file",
                                                 sysc.RENAME_EXCHANGE)),
    "renamed": ("f", lambda top: os.rename(top / "a/f", top / "d/f")),
    "exchanged": ("f", lambda top: sysc.renameat2(top / "d/dir", top / "a/f",
                                                  sysc.RENAME_EXCHANGE)),
    "setxattr": ("f", lambda top: os.setxattr(top / "f", "user.x", b"1")),
    "removexattr": ("f", lambda top: os.removexattr(top / "f", "user.y")),
    "dir-setxattr": ("d", lambda top: os.setxattr(top / "d", "user.x", b"1")),
    "chmod": ("f", lambda top: os.chmod(top / "f", 0o600)),
    "truncate": ("f", lambda top: os.truncate(top / "f", 1)),
    "write": ("f", lambda top: overwrite(top / "f")),
    "fallocate": ("f", lambda top: fallocate(top / "f")),
    "flags": ("f", lambda top: set_nodump(top / "f")),
}


@pytest.fixture(name="top")
def a_tree(ov):
    """In upper, and all of it known to the kernel."""
    with ov.lower() as low:
        write(low / "low/f")
    top = ov.mount() / "top"
    for name in ("a", "d"):
        os.makedirs(top / name / "dir")
        write(top / name / "file")
    write(top / "f", "text")
    os.setxattr(top / "f", "user.y", b"1")
    os.link(top / "f", top / "a/f")
    return top


@pytest.mark.parametrize("change", CHANGES)
def test_answer_from_before_a_change(top, change):
    """READDIRPLUS is answered, an entry is changed, and only then the kernel takes the answer."""
    name, change_it = CHANGES[change]
    before = true(top / name)
    let_time_pass(top / name)
    late = LateListing(top)
    try:
        change_it(top)
    finally:
        late.let_go()
    after = shown(top / name)
    assert after == true(top / name)
    assert after != before


def test_answers_one_after_the_other(top):
    """Each answer that is on its way counts, also where a notice went before."""
    for i in range(3):
        let_time_pass(top / "d")
        late = LateListing(top)
        try:
            make(top / f"d/{i}")
            make(top / f"d/{i}-again")
        finally:
            late.let_go()
        assert shown(top / "d") == true(top / "d")


def notices(ov):
    return json.loads(rvl.run(rvl.CTL, "stat", "--json", ov.mnt).stdout)["counters"]["notices"]


@pytest.mark.reverlay_only("counters of the server")
def test_notices_where_they_are_due(ov, top):
    """Who makes names, and asks for attributes between, needs none; who lists meanwhile makes one due."""
    reader = threading.Thread(target=os.listdir, args=(top,))
    before = notices(ov)
    for i in range(100):
        make(top / f"d/{i}")
        os.stat(top / "d")
    assert notices(ov) == before
    reader.start()
    reader.join()
    for i in range(100):
        os.unlink(top / f"d/{i}")
    assert notices(ov) == before + 1


def only_open(path, flags):
    os.close(os.open(path, flags))


# what copies up dir/sub/f of lower, and the directories above it
COPY_UPS = {
    "chmod": lambda top: os.chmod(top / "dir/sub/f", 0o600),
    "same-mode": lambda top: os.chmod(top / "dir/sub/f", 0o644),
    "truncate": lambda top: os.truncate(top / "dir/sub/f", 1),
    "open": lambda top: only_open(top / "dir/sub/f", os.O_RDWR),
    "open-to-write": lambda top: only_open(top / "dir/sub/f", os.O_WRONLY | os.O_APPEND),
    "open-to-truncate": lambda top: only_open(top / "dir/sub/f", os.O_WRONLY | os.O_TRUNC),
    "write": lambda top: overwrite(top / "dir/sub/f"),
    "setxattr": lambda top: os.setxattr(top / "dir/sub/f", "user.x", b"1"),
    "flags": lambda top: set_nodump(top / "dir/sub/f"),
    "link": lambda top: os.link(top / "dir/sub/f", top / "f"),
    "link-again": lambda top: os.link(top / "dir/sub/linked", top / "f"),
    "rename": lambda top: os.rename(top / "dir/sub/f", top / "dir/sub/g"),
    "rename-out": lambda top: os.rename(top / "dir/sub/f", top / "f"),
    "rename-over": lambda top: os.rename(top / "dir/sub/f", top / "other/f"),
    "exchange": lambda top: sysc.renameat2(top / "dir/sub/f", top / "other/linked",
                                           sysc.RENAME_EXCHANGE),
    "unlink": lambda top: os.unlink(top / "dir/sub/f"),
    "unlink-linked": lambda top: os.unlink(top / "dir/sub/linked"),
    "create": lambda top: make(top / "dir/sub/new"),
    "dir-chmod": lambda top: os.chmod(top / "dir/sub", 0o700),
    "dir-setxattr": lambda top: os.setxattr(top / "dir/sub", "user.x", b"1"),
    "dir-flags": lambda top: set_nodump(top / "dir/sub"),
    "dir-rename": lambda top: os.rename(top / "dir/sub", top / "other/sub"),
    "dir-rename-refused": lambda top: sysc.fails(errno.ENOTEMPTY, os.rename, top / "dir/sub",
                                                 top / "other"),
    "symlink-chown": lambda top: os.chown(top / "dir/sub/symlink", 1, 1, follow_symlinks=False),
}


@pytest.mark.parametrize("copy_up", COPY_UPS)
def test_copy_up_is_seen(ov, copy_up):
    """A copy-up, or a rename that is refused, changes attributes of what is around: stat shows it at once."""
    with ov.lower() as low:
        write(low / "dir/sub/f", "text")
        write(low / "dir/sub/linked", "text")
        write(low / "other/f", "text")
        os.link(low / "dir/sub/linked", low / "other/linked")
        os.symlink("x", low / "dir/sub/symlink")
        os.truncate(low / "dir/sub/f", 1 << 20)
    top = ov.mount()
    for _ in range(2):  # the listing voids access times, so that stat asks once more
        paths = [os.path.join(where, name) for where, _, names in os.walk(top) for name in ["", *names]]
        for path in paths:
            os.lstat(path)
    COPY_UPS[copy_up](top)
    # before anything is listed again, which would bring new attributes
    kept = {path: shown(path) for path in paths if os.path.lexists(path)}
    assert kept == {path: true(path) for path in kept}
    paths = [os.path.join(where, name) for where, _, names in os.walk(top) for name in ["", *names]]
    kept = {path: shown(path) for path in paths}
    assert kept == {path: true(path) for path in paths}
