# SPDX-License-Identifier: GPL-2.0-or-later
"""System calls that python's os module does not have, and running code as another user."""

import ctypes
import errno
import fcntl
import os
import struct
import time
import traceback

libc = ctypes.CDLL(None, use_errno=True)

AT_FDCWD = -100
AT_SYMLINK_NOFOLLOW = 0x100
AT_SYMLINK_FOLLOW = 0x400
AT_EMPTY_PATH = 0x1000
AT_STATX_FORCE_SYNC = 0x2000
RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
RENAME_WHITEOUT = 4
FALLOC_KEEP_SIZE = 1
FALLOC_PUNCH_HOLE = 2
FALLOC_ZERO_RANGE = 16
FS_IOC_GETFLAGS = 0x80086601
FS_IOC_SETFLAGS = 0x40086602
FS_IMMUTABLE_FL = 0x10
FS_APPEND_FL = 0x20
FS_NOATIME_FL = 0x80
FS_SYNC_FL = 0x8
CLOCK_REALTIME_COARSE = 5
STATX_MODE = 0x2
STATX_BTIME = 0x800
STATX_ALL = 0xfff


def syncfs(path):
    fd = os.open(path, os.O_RDONLY)
    try:
        _check(libc.syncfs(fd), path)
    finally:
        os.close(fd)


def _check(result, *names):
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), *names[:1])
    return result


def renameat2(old, new, flags):
    _check(libc.renameat2(AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), flags), old)


def link_fd(fd, new):
    """Gives the object behind an open descriptor a name (O_TMPFILE)."""
    _check(libc.linkat(AT_FDCWD, f"/proc/self/fd/{fd}".encode(), AT_FDCWD, os.fsencode(new),
                       AT_SYMLINK_FOLLOW), new)


def fallocate(fd, mode, offset, length):
    _check(libc.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length)))


def get_flags(fd):
    return struct.unpack("I", fcntl.ioctl(fd, FS_IOC_GETFLAGS, struct.pack("I", 0)))[0]


def set_flags(fd, flags):
    fcntl.ioctl(fd, FS_IOC_SETFLAGS, struct.pack("I", flags))


def statx_btime(path):
    """Birth time in ns, or None where it is not told."""
    buf = ctypes.create_string_buffer(256)
    _check(libc.statx(AT_FDCWD, os.fsencode(path), AT_SYMLINK_NOFOLLOW, STATX_ALL, buf), path)
    if not struct.unpack_from("I", buf, 0)[0] & STATX_BTIME:
        return None
    sec, nsec = struct.unpack_from("qI", buf, 80)
    return sec * 1000000000 + nsec


def fresh_mode(path):
    """The mode that the filesystem tells now, not one that the kernel has kept."""
    buf = ctypes.create_string_buffer(256)
    _check(libc.statx(AT_FDCWD, os.fsencode(path), AT_SYMLINK_NOFOLLOW | AT_STATX_FORCE_SYNC,
                      STATX_MODE, buf), path)
    return struct.unpack_from("H", buf, 28)[0]


def handle(path):
    """(type, bytes) of the file handle of path, not following a symlink."""
    buf = ctypes.create_string_buffer(8 + 128)
    struct.pack_into("Ii", buf, 0, 128, 0)
    mount = ctypes.c_int()
    _check(libc.name_to_handle_at(AT_FDCWD, os.fsencode(path), buf, ctypes.byref(mount), 0), path)
    size, kind = struct.unpack_from("Ii", buf, 0)
    return kind, buf.raw[8:8 + size]


def open_handle(mount_fd, fh, flags=os.O_RDONLY):
    kind, data = fh
    buf = ctypes.create_string_buffer(struct.pack("Ii", len(data), kind) + data)
    return _check(libc.open_by_handle_at(mount_fd, buf, flags))


def getdents(fd, size=32768):
    """One getdents64 call: [(name, ino, offset of the next, type)]."""
    buf = ctypes.create_string_buffer(size)
    end = _check(libc.getdents64(fd, buf, size))
    result = []
    at = 0
    while at < end:
        ino, off, length, kind = struct.unpack_from("QqHB", buf, at)
        name = buf.raw[at + 19:at + length].split(b"\0", 1)[0]
        result.append((os.fsdecode(name), ino, off, kind))
        at += length
    return result


def readdir_all(path_or_fd, size=32768):
    """All entries of a directory, "." and ".." included."""
    fd = path_or_fd if isinstance(path_or_fd, int) else os.open(path_or_fd,
                                                                os.O_RDONLY | os.O_DIRECTORY)
    try:
        result = []
        while True:
            some = getdents(fd, size)
            if not some:
                return result
            result += some
    finally:
        if not isinstance(path_or_fd, int):
            os.close(fd)


def fails(number, function, *args, **kwargs):
    """Asserts that the call fails with this errno."""
    wanted = number if isinstance(number, tuple) else (number,)
    try:
        result = function(*args, **kwargs)
    except OSError as error:
        names = "/".join(errno.errorcode[n] for n in wanted)
        assert error.errno in wanted, f"{errno.errorcode.get(error.errno)} instead of {names}"
        return
    raise AssertionError(f"no error, but {result!r}, instead of {errno.errorcode[wanted[0]]}")


def as_user(uid, gid, function, groups=()):
    """Runs function in a child that is this user without any capability; its exceptions are ours."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(reader)
            os.setgroups(list(groups))
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
            function()
            code = 0
        except BaseException:  # pylint: disable=broad-except
            os.write(writer, traceback.format_exc().encode()[-4000:])
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        message = pipe.read().decode()
    _, status = os.waitpid(pid, 0)
    assert status == 0, f"as user {uid}: {message or status}"


def drop_caches():
    with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as file:
        file.write("3\n")


def next_tick():
    """Until what is changed has a later ctime than all that was changed before."""
    begun = time.time_ns()  # a ctime may be finer than the tick, and the tick late
    while time.clock_gettime_ns(CLOCK_REALTIME_COARSE) <= begun:
        pass
