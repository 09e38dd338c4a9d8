# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tests put into layers."""

import os
import stat
import struct
from pathlib import Path


def write(path, data=b"data\n", mode=None, owner=None, mtime=None):
    """Makes a file with this content; returns its path."""
    path = Path(path)
    data = data.encode() if isinstance(data, str) else data
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    if owner is not None:
        os.chown(path, *owner)
    if mode is not None:
        path.chmod(mode)
    if mtime is not None:
        os.utime(path, ns=(mtime, mtime))
    return path


def fill_disk(path):
    """Writes to a file until its filesystem has no room."""
    with open(path, "wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            pass


def whiteout(path):
    os.mknod(path, stat.S_IFCHR | 0o000, os.makedev(0, 0))


def opaque(path, prefix="trusted."):
    os.setxattr(path, prefix + "overlay.opaque", b"y")


def cut_short(path):
    """A metacopy file in upper as a fetch of its data leaves it that ended before the first byte."""
    st = os.stat(path)
    try:
        caps = os.getxattr(path, "security.capability")
    except OSError:
        caps = b""
    kept = struct.pack("<HIIqIQ", stat.S_IMODE(st.st_mode), st.st_uid, st.st_gid,
                       *divmod(st.st_mtime_ns, 10**9), st.st_size) + caps
    os.setxattr(path, "trusted.overlay.metacopy", bytes([0, 4 + len(kept), 0, 0]) + kept)


def ino(path):
    return os.lstat(path).st_ino


def listing(path):
    return sorted(os.listdir(path))


CAPS = bytes.fromhex("0100000200200000000000000000000000000000")  # cap_net_raw=ep

ACL = bytes.fromhex("02000000"  # user::rw- user:1234:r-- group::r-- mask::r-- other::---
                    "01000600ffffffff" "02000400d2040000" "04000400ffffffff"
                    "10000400ffffffff" "20000000ffffffff")

DEFAULT_ACL = bytes.fromhex("02000000"  # user::rwx user:1234:rwx group::r-x mask::rwx other::---
                            "01000700ffffffff" "02000700d2040000" "04000500ffffffff"
                            "10000700ffffffff" "20000000ffffffff")

LONG = "n" * 255

OLD = 1234567890123456789  # ns


def standard_tree(top):
    """One of everything."""
    top = Path(top)
    write(top / "file", b"lower\n", mode=0o640, owner=(1000, 1001), mtime=OLD)
    write(top / "empty", b"")
    write(top / "big", bytes(range(256)) * 12289, mtime=OLD)
    write(top / "hard1", b"hard\n")
    write(top / "dir/inner", b"inner\n", mtime=OLD + 1)
    os.link(top / "hard1", top / "hard2")
    os.link(top / "hard1", top / "dir/hard3")
    write(top / "dir/sub/deep", b"deep\n")
    os.symlink("dir/inner", top / "symlink")
    os.symlink("/nowhere", top / "dangling")
    os.symlink("dir", top / "dirlink")
    os.mkfifo(top / "fifo", 0o600)
    os.mknod(top / "chardev", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(top / "blockdev", stat.S_IFBLK | 0o600, os.makedev(7, 200))
    os.mknod(top / "socket", stat.S_IFSOCK | 0o755)
    write(top / "xattr", b"x\n")
    os.setxattr(top / "xattr", "user.colour", b"blue")
    os.setxattr(top / "xattr", "trusted.secret", b"\0\1\2")
    write(top / "suid", b"s\n", mode=0o6755)
    write(top / "caps", b"c\n", mode=0o755)
    os.setxattr(top / "caps", "security.capability", CAPS)
    with open(top / "sparse", "wb") as file:
        file.truncate(8 << 20)
        file.seek(4 << 20)
        file.write(b"x" * 65536)
    (top / "emptydir").mkdir(mode=0o711)
    (top / "sticky").mkdir()
    (top / "sticky").chmod(0o1777)
    os.setxattr(top / "sticky", "user.where", b"lower")
    write(top / LONG, b"long\n")
    write(top / "na\u00efve \n,:\\x", b"odd\n")
    for name in ("dir", "dir/sub", "emptydir", "sticky"):
        os.utime(top / name, ns=(OLD, OLD + 2))
    return top
