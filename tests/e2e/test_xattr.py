# SPDX-License-Identifier: GPL-2.0-or-later
"""Extended attributes: users' own work on every type, ours are hidden, nested ones are escaped."""

import errno
import os
import sys

import pytest

import sysc
from rvl import IS_KERNEL, run
from snapshots import PRIVATE
from trees import listing, opaque, standard_tree, whiteout, write


@pytest.mark.layouts("ext4", "xfs", "btrfs", "tmpfs", "squashfs", "stack5")
def test_set_get_list_remove(ov):
    """set, get, list and remove, with CREATE and REPLACE, on lower, copied and new objects."""
    with ov.lower() as low:
        standard_tree(low)
    mnt = ov.mount()
    write(mnt / "new")
    for name in ("file", "dir", "xattr", "sticky", "new", "."):
        path = mnt / name
        names = set(os.listxattr(path))
        sysc.fails(errno.ENODATA, os.getxattr, path, "user.none")
        sysc.fails(errno.ENODATA, os.removexattr, path, "user.none")
        sysc.fails(errno.ENODATA, os.setxattr, path, "user.none", b"x", os.XATTR_REPLACE)
        os.setxattr(path, "user.a", b"1", os.XATTR_CREATE)
        sysc.fails(errno.EEXIST, os.setxattr, path, "user.a", b"2", os.XATTR_CREATE)
        os.setxattr(path, "user.a", b"22", os.XATTR_REPLACE)
        os.setxattr(path, "user.empty", b"")
        os.setxattr(path, "trusted.mine", b"\0\xff")
        assert os.getxattr(path, "user.a") == b"22"
        assert os.getxattr(path, "user.empty") == b""
        assert set(os.listxattr(path)) == names | {"user.a", "user.empty", "trusted.mine"}
        os.removexattr(path, "user.empty")
        assert set(os.listxattr(path)) == names | {"user.a", "trusted.mine"}
    assert os.getxattr(mnt / "xattr", "user.colour") == b"blue"
    os.removexattr(mnt / "xattr", "user.colour")
    sysc.fails(errno.ENODATA, os.getxattr, mnt / "xattr", "user.colour")
    ov.remount()
    assert "user.colour" not in os.listxattr(mnt / "xattr")
    assert os.getxattr(mnt / "xattr", "trusted.secret") == b"\0\1\2"


def test_special_types(ov):
    """trusted.* works on symlinks, fifos and devices; user.* is refused there, as elsewhere."""
    with ov.lower() as low:
        standard_tree(low)
    mnt = ov.mount()
    for name in ("symlink", "dangling", "fifo", "chardev", "socket"):
        path = mnt / name
        sysc.fails(errno.EPERM, os.setxattr, path, "user.a", b"x", follow_symlinks=False)
        os.setxattr(path, "trusted.a", b"x", follow_symlinks=False)
        assert os.getxattr(path, "trusted.a", follow_symlinks=False) == b"x"
        assert os.listxattr(path, follow_symlinks=False) == ["trusted.a"]
    ov.remount()
    assert os.getxattr(mnt / "symlink", "trusted.a", follow_symlinks=False) == b"x"
    assert os.readlink(mnt / "symlink") == "dir/inner"


def test_ours_are_hidden(ov):
    """No private xattr is listed or read through the mount, whatever was done to the object."""
    with ov.lower() as low:
        standard_tree(low)
    mnt = ov.mount()
    os.rename(mnt / "dir", mnt / "dir2")
    os.chmod(mnt / "file", 0o600)
    write(mnt / "hard1", "changed\n")
    os.mkdir(mnt / "fresh")
    os.unlink(mnt / "big")
    os.mkdir(mnt / "big")
    write(mnt / "born")
    for name in (".", "dir2", "dir2/inner", "file", "hard1", "hard2", "fresh", "big", "born"):
        path = mnt / name
        private = os.listxattr(ov.upper / name) if (ov.upper / name).exists() else []
        if not IS_KERNEL and name not in (".", "dir2/inner", "hard2"):
            assert [n for n in private if n.startswith(PRIVATE)], f"{name}: no stamp"
        assert not [n for n in os.listxattr(path) if n.startswith(PRIVATE)], name
        for attr in private:
            if attr.startswith(PRIVATE):
                sysc.fails((errno.ENODATA, errno.EOPNOTSUPP), os.getxattr, path, attr)


def test_users_marks_are_escaped(ov):
    """A user's own trusted.overlay.* is kept escaped: it marks nothing here, and comes back."""
    with ov.lower() as low:
        write(low / "d/below")
        write(low / "f")
        (low / "esc").mkdir()
        os.setxattr(low / "esc", "trusted.overlay.overlay.note", b"nested")
    mnt = ov.mount()
    assert os.getxattr(mnt / "esc", "trusted.overlay.note") == b"nested"
    assert os.listxattr(mnt / "esc") == ["trusted.overlay.note"]
    os.setxattr(mnt / "d", "trusted.overlay.opaque", b"y")
    os.setxattr(mnt / "f", "trusted.overlay.whiteout", b"y")
    os.setxattr(mnt / "f", "trusted.overlay.metacopy", b"")
    os.setxattr(mnt / "d", "trusted.overlay.ino", b"x" * 16)
    for _ in range(2):
        assert listing(mnt / "d") == ["below"]
        assert (mnt / "f").read_text() == "data\n"
        assert os.getxattr(mnt / "d", "trusted.overlay.opaque") == b"y"
        assert set(os.listxattr(mnt / "d")) == {"trusted.overlay.opaque", "trusted.overlay.ino"}
        assert set(os.listxattr(mnt / "f")) == {"trusted.overlay.whiteout",
                                               "trusted.overlay.metacopy"}
        assert os.getxattr(ov.upper / "d", "trusted.overlay.overlay.opaque") == b"y"
        ov.remount()
    os.removexattr(mnt / "d", "trusted.overlay.opaque")
    assert os.listxattr(mnt / "d") == ["trusted.overlay.ino"]
    # without userxattr the other name space is the user's, as it is
    os.setxattr(mnt / "d", "user.overlay.opaque", b"y")
    assert os.getxattr(ov.upper / "d", "user.overlay.opaque") == b"y"
    assert listing(mnt / "d") == ["below"]


def test_nested(ov, overlays):
    """Marks set through one overlay are marks for another that has it as lower."""
    with ov.lower() as low:
        write(low / "top/d/above")
        write(low / "bottom/d/below")
        write(low / "bottom/e/below")
        (low / "top/e2").mkdir()
    mnt = ov.mount()
    os.setxattr(mnt / "top/d", "trusted.overlay.opaque", b"y")
    os.setxattr(mnt / "top/e2", "trusted.overlay.redirect", b"e")
    second = overlays("ext4")
    second.lowers = [mnt / "top", mnt / "bottom"]
    second.check_lower = False  # through the first one: it has no ctime to compare by
    two = second.mount()
    assert listing(two / "d") == ["above"]
    assert listing(two / "e2") == ["below"]
    assert not [n for n in os.listxattr(two / "d") if "overlay" in n]
    write(two / "d/new")
    os.unlink(two / "e/below")
    assert listing(two / "e") == []
    second.remount()
    assert listing(two / "d") == ["above", "new"]
    second.umount()


def test_userxattr_writes(ov):
    """With userxattr the marks that we write are user.overlay.*, and trusted ones are the user's."""
    with ov.lower() as low:
        write(low / "d/below")
        write(low / "f")
    ov.options = ["userxattr"]
    if IS_KERNEL:
        pytest.skip("on the kernel's overlay: userxattr excludes redirect_dir=on")
    mnt = ov.mount()
    os.unlink(mnt / "d/below")
    os.rmdir(mnt / "d")
    os.mkdir(mnt / "d")
    write(mnt / "f", "changed\n")
    os.setxattr(mnt / "f", "user.overlay.opaque", b"mine")
    os.setxattr(mnt / "f", "trusted.overlay.opaque", b"mine too")
    assert os.getxattr(ov.upper / "d", "user.overlay.opaque") == b"y"
    assert not [n for n in os.listxattr(ov.upper / "d") if n.startswith("trusted.overlay.")]
    for _ in range(2):
        assert set(os.listxattr(mnt / "f")) == {"user.overlay.opaque", "trusted.overlay.opaque"}
        assert os.getxattr(mnt / "f", "user.overlay.opaque") == b"mine"
        ov.remount()


def test_large_values(ov):
    """Values up to what upper takes work, larger ones give its error; the file stays usable."""
    with ov.lower() as low:
        write(low / "f")
        os.setxattr(low / "f", "user.large", b"x" * 2000)
    plain = write(ov.base / "plain")
    mnt = ov.mount()
    assert os.getxattr(mnt / "f", "user.large") == b"x" * 2000
    os.setxattr(mnt / "f", "user.more", b"y" * 500)
    assert os.getxattr(mnt / "f", "user.large") == b"x" * 2000
    number = None
    try:
        os.setxattr(plain, "user.huge", b"z" * 60000)
    except OSError as error:
        number = error.errno
    if number:
        sysc.fails((number, errno.ENOSPC, errno.E2BIG), os.setxattr, mnt / "f", "user.huge",
                   b"z" * 60000)
    sysc.fails(errno.E2BIG, os.setxattr, mnt / "f", "user.huge", b"z" * 65537)
    assert set(os.listxattr(mnt / "f")) == {"user.large", "user.more"}
    assert (mnt / "f").read_text() == "data\n"


def test_as_a_user(ov):
    """Another user sets user.* on his own files, sees no trusted.*, and no more."""
    with ov.lower() as low:
        write(low / "his", mode=0o644, owner=(1234, 1234))
        write(low / "roots", mode=0o644)
        os.setxattr(low / "his", "trusted.secret", b"x")
        os.setxattr(low / "his", "user.seen", b"x")
    mnt = ov.mount()

    def user():
        assert os.listxattr(mnt / "his") == ["user.seen"]
        os.setxattr(mnt / "his", "user.mine", b"y")
        sysc.fails((errno.EACCES, errno.EPERM), os.setxattr, mnt / "roots", "user.mine", b"y")
        sysc.fails(errno.EPERM, os.setxattr, mnt / "his", "trusted.mine", b"y")
        sysc.fails((errno.ENODATA, errno.EPERM), os.getxattr, mnt / "his", "trusted.secret")

    sysc.as_user(1234, 1234, user)
    assert set(os.listxattr(mnt / "his")) == {"user.seen", "user.mine", "trusted.secret"}
    assert os.listxattr(mnt / "roots") == []


@pytest.mark.layouts("squashfs")
def test_lower_without_xattrs(ov):
    """A lower that knows no xattrs (squashfs made without) lists none, and copies up."""
    source = ov.lower_base / "src"
    write(source / "f")
    write(source / "d/x")
    image = ov.lower_base / "plain.squashfs"
    run("mksquashfs", source, image, "-quiet", "-no-progress", "-no-xattrs")
    ov.lowers = [ov._mount_image(image, "squashfs")]
    mnt = ov.mount()
    assert os.listxattr(mnt / "f") == []
    os.setxattr(mnt / "f", "user.a", b"b")
    assert os.listxattr(mnt / "f") == ["user.a"]
    os.rename(mnt / "d", mnt / "e")
    assert listing(mnt / "e") == ["x"]


def test_private_names_in_lower_are_hidden(ov):
    """Whatever private xattrs a lower object carries, the mount lists none of them."""
    with ov.layer() as low:
        write(low / "f")
        write(low / "d/x")
    with ov.layer() as top:
        write(top / "d/y")
        write(top / "g")
        whiteout(top / "f")
        opaque(top / "d")
        for name in ("origin", "impure", "nlink", "upper", "protattr"):
            os.setxattr(top / "g", f"trusted.overlay.{name}", b"\0")
    ov.may_complain = True
    mnt = ov.mount()
    assert listing(mnt) == ["d", "g"]
    assert os.listxattr(mnt / "d") == []
    assert os.listxattr(mnt / "g") == []


def test_trusted_is_hidden_in_a_user_namespace(ov):
    """Capabilities in a user namespace of the caller's own are none here: trusted.* is not listed to him."""
    with ov.lower() as low:
        write(low / "file")
    mnt = ov.mount()
    os.setxattr(mnt / "file", "trusted.secret", b"x")
    os.setxattr(mnt / "file", "user.open", b"x")
    command = ["unshare", "-Ur", sys.executable, "-c", "import os, sys; sys.exit(os.listxattr(sys.argv[1]) != ['user.open'])"]
    sysc.as_user(1000, 1000, lambda: run(*command, mnt / "file"))
    assert set(os.listxattr(mnt / "file")) == {"user.open", "trusted.secret"}
