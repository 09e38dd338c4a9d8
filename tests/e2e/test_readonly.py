# SPDX-License-Identifier: GPL-2.0-or-later
"""What a stack of layers shows, without a write: merge, whiteouts, opaque directories, errors."""

import errno
import os
import stat

import pytest

import sysc
from rvl import IS_KERNEL, is_mounted, run
from snapshots import assert_same, snapshot
from trees import ino, listing, opaque, standard_tree, whiteout, write


@pytest.mark.layouts()
def test_shows_lower_as_it_is(ov):
    """With an empty upper the tree is lower: types, owners, modes, times, xattrs, content."""
    with ov.lower() as low:
        standard_tree(low)
    expected = ov.expected()
    mnt = ov.mount()
    got = snapshot(mnt, inos=False, dir_nlink=False)
    # the mount's root is upper's
    del expected["."], got["."]
    assert_same(expected, got, "lower and mount differ")


@pytest.mark.layouts()
def test_without_upper(ov):
    """Without an upper the tree is lower, root included, and nothing can be written."""
    with ov.lower() as low:
        standard_tree(low)
    expected = ov.expected()
    if ov.layout == "overlay" and IS_KERNEL:
        ov.options = ["xino=off"]
    if IS_KERNEL and len(ov.lowers) < 2:
        with ov.layer():
            pass
    mnt = ov.mount(upper=False)
    got = snapshot(mnt, inos=False, dir_nlink=False)
    if IS_KERNEL:
        del expected["."], got["."]
    assert_same(expected, got, "lower and mount differ")
    sysc.fails(errno.EROFS, write, mnt / "new")
    sysc.fails(errno.EROFS, os.mkdir, mnt / "newdir")
    sysc.fails(errno.EROFS, os.unlink, mnt / "file")
    sysc.fails(errno.EROFS, os.rename, mnt / "file", mnt / "file2")
    sysc.fails(errno.EROFS, os.chmod, mnt / "file", 0o600)
    sysc.fails(errno.EROFS, os.setxattr, mnt / "file", "user.a", b"b")
    sysc.fails(errno.EROFS, os.open, mnt / "file", os.O_WRONLY)
    assert os.statvfs(mnt).f_flag & os.ST_RDONLY


def test_merge_order(ov):
    """The topmost layer wins for files, directories merge, and listings hold each name once."""
    with ov.layer() as low:
        write(low / "both", "bottom")
        write(low / "bottom", "bottom")
        write(low / "d/both", "bottom")
        write(low / "d/bottom", "bottom")
        os.chmod(low / "d", 0o700)
        write(low / "file-over-dir/hidden", "bottom")
        write(low / "dir-over-file", "bottom")
    with ov.layer() as mid:
        write(mid / "both", "middle")
        write(mid / "d/both", "middle")
        write(mid / "d/middle", "middle")
        os.chmod(mid / "d", 0o750)
        write(mid / "file-over-dir", "middle")
        write(mid / "dir-over-file/inside", "middle")
    with ov.layer() as top:
        write(top / "both", "top")
        write(top / "d/both", "top")
        os.chmod(top / "d", 0o751)
    write(ov.upper / "d/both", "upper")
    os.chmod(ov.upper / "d", 0o711)
    mnt = ov.mount()
    assert listing(mnt) == ["both", "bottom", "d", "dir-over-file", "file-over-dir"]
    assert listing(mnt / "d") == ["both", "bottom", "middle"]
    assert (mnt / "both").read_text() == "top"
    assert (mnt / "bottom").read_text() == "bottom"
    assert (mnt / "d/both").read_text() == "upper"
    assert (mnt / "d/middle").read_text() == "middle"
    assert stat.S_IMODE(os.stat(mnt / "d").st_mode) == 0o711
    assert (mnt / "file-over-dir").read_text() == "middle"
    assert listing(mnt / "dir-over-file") == ["inside"]


@pytest.mark.parametrize("kind", ["chardev", "xattr"])
def test_whiteouts(ov, kind):
    """A whiteout hides the name below it, is not seen itself, and only from its layer down."""
    with ov.layer() as low:
        write(low / "file")
        write(low / "dir/file")
        write(low / "dir/kept")
        write(low / "again", "bottom")
        os.symlink("x", low / "link")
    with ov.layer() as mid:
        (mid / "dir").mkdir()
        for name in ("file", "dir/file", "again", "link"):
            if kind == "chardev":
                whiteout(mid / name)
            else:
                write(mid / name, b"")
                os.setxattr(mid / name, "trusted.overlay.whiteout", b"")
        if kind == "xattr":
            # the directory says that there are such files in it
            os.setxattr(mid, "trusted.overlay.opaque", b"x")
            os.setxattr(mid / "dir", "trusted.overlay.opaque", b"x")
    with ov.layer() as top:
        write(top / "again", "top")
    mnt = ov.mount()
    assert listing(mnt) == ["again", "dir"]
    assert listing(mnt / "dir") == ["kept"]
    sysc.fails(errno.ENOENT, os.lstat, mnt / "file")
    sysc.fails(errno.ENOENT, os.lstat, mnt / "dir/file")
    sysc.fails(errno.ENOENT, os.lstat, mnt / "link")
    sysc.fails(errno.ENOENT, os.open, mnt / "file", os.O_RDONLY)
    assert (mnt / "again").read_text() == "top"
    # the name can be made again, and leads to a new object
    write(mnt / "file", "new")
    assert (mnt / "file").read_text() == "new"


def test_whiteout_of_directory(ov):
    """A whiteout of a directory hides all of it; a directory over it shows nothing from below."""
    with ov.layer() as low:
        write(low / "gone/a/b")
        write(low / "fresh/old")
    with ov.layer() as mid:
        whiteout(mid / "gone")
        whiteout(mid / "fresh")
    with ov.layer() as top:
        write(top / "fresh/new")
    mnt = ov.mount()
    assert listing(mnt) == ["fresh"]
    assert listing(mnt / "fresh") == ["new"]
    sysc.fails(errno.ENOENT, os.lstat, mnt / "gone/a/b")
    sysc.fails(errno.ENOENT, os.lstat, mnt / "fresh/old")


def test_opaque(ov):
    """An opaque directory hides what is below it, in upper and in the middle of the stack."""
    with ov.layer() as low:
        write(low / "mid/bottom")
        write(low / "up/bottom")
        write(low / "plain/bottom")
    with ov.layer() as mid:
        write(mid / "mid/middle")
        opaque(mid / "mid")
        write(mid / "up/middle")
        write(mid / "plain/middle")
    with ov.layer() as top:
        write(top / "mid/top")
    write(ov.upper / "up/upper")
    opaque(ov.upper / "up")
    mnt = ov.mount()
    assert listing(mnt / "mid") == ["middle", "top"]
    assert listing(mnt / "up") == ["upper"]
    assert listing(mnt / "plain") == ["bottom", "middle"]
    sysc.fails(errno.ENOENT, os.lstat, mnt / "up/bottom")


@pytest.mark.kernel_differs("it does not read AUFS whiteouts")
def test_aufs_whiteouts(ov):
    """The whiteouts of AUFS, which container engines unpack, hide what they name."""
    with ov.layer() as low:
        write(low / "gone")
        write(low / "kept")
        write(low / "d/gone")
        write(low / "opaque/gone")
    with ov.layer() as top:
        write(top / ".wh.gone", b"")
        write(top / "d/.wh.gone", b"")
        write(top / "opaque/.wh..wh..opq", b"")
        write(top / "opaque/new")
    mnt = ov.mount()
    assert listing(mnt) == ["d", "kept", "opaque"]
    assert listing(mnt / "d") == []
    assert listing(mnt / "opaque") == ["new"]
    sysc.fails(errno.ENOENT, os.lstat, mnt / "gone")
    sysc.fails(errno.ENOENT, os.lstat, mnt / ".wh.gone")
    sysc.fails(errno.ENOENT, os.lstat, mnt / "opaque/gone")


def test_redirect_in_lower(ov):
    """A redirect in a lower layer leads to the directory's old place further down."""
    with ov.layer() as low:
        write(low / "old/file", "bottom")
        write(low / "parent/old/file", "inner")
    with ov.layer() as mid:
        (mid / "new").mkdir()
        os.setxattr(mid / "new", "trusted.overlay.redirect", b"/old")
        whiteout(mid / "old")
        (mid / "parent/new").mkdir(parents=True)
        os.setxattr(mid / "parent/new", "trusted.overlay.redirect", b"old")
        whiteout(mid / "parent/old")
        write(mid / "new/added", "middle")
    mnt = ov.mount()
    assert listing(mnt) == ["new", "parent"]
    assert listing(mnt / "new") == ["added", "file"]
    assert (mnt / "new/file").read_text() == "bottom"
    assert listing(mnt / "parent") == ["new"]
    assert (mnt / "parent/new/file").read_text() == "inner"


def test_userxattr(ov):
    """With userxattr the layer's marks are user.overlay.*, and trusted ones mean nothing."""
    with ov.layer() as low:
        write(low / "d/bottom")
        write(low / "e/bottom")
    with ov.layer() as top:
        write(top / "d/top")
        write(top / "e/top")
        opaque(top / "d", "user.")
        opaque(top / "e", "trusted.")
    ov.options = ["userxattr"]
    if IS_KERNEL:
        ov.options += ["index=off", "redirect_dir=nofollow"]
    mnt = ov.mount()
    assert listing(mnt / "d") == ["top"]
    assert listing(mnt / "e") == ["bottom", "top"]


def test_metacopy_and_data_layer(ov):
    """Metacopy files read their data from below, by name, by redirect, and from a data-only layer."""
    with ov.layer() as low:
        write(low / "same", "the data\n")
        write(low / "elsewhere", "moved data\n")
    with ov.layer() as top:
        with open(top / "same", "wb") as file:
            file.truncate(len("the data\n"))
        os.setxattr(top / "same", "trusted.overlay.metacopy", b"")
        os.chmod(top / "same", 0o604)
        with open(top / "renamed", "wb") as file:
            file.truncate(len("moved data\n"))
        os.setxattr(top / "renamed", "trusted.overlay.metacopy", b"")
        os.setxattr(top / "renamed", "trusted.overlay.redirect", b"/elsewhere")
        whiteout(top / "elsewhere")
        with open(top / "pure", "wb") as file:
            file.truncate(len("pure data\n"))
        os.setxattr(top / "pure", "trusted.overlay.metacopy", b"")
        os.setxattr(top / "pure", "trusted.overlay.redirect", b"/blobs/pure")
    data = ov.lower_base / "data"
    write(data / "blobs/pure", "pure data\n")
    write(data / "not-seen")
    ov.data_lowers = [data]
    ov.options = ["metacopy=on"]
    mnt = ov.mount()
    assert listing(mnt) == ["pure", "renamed", "same"]
    assert (mnt / "same").read_text() == "the data\n"
    assert stat.S_IMODE(os.stat(mnt / "same").st_mode) == 0o604
    assert (mnt / "renamed").read_text() == "moved data\n"
    assert (mnt / "pure").read_text() == "pure data\n"
    assert not [n for n in os.listxattr(mnt / "pure") if "overlay" in n]
    # and a write copies up the data with it
    with open(mnt / "pure", "ab") as file:
        file.write(b"more\n")
    assert (mnt / "pure").read_text() == "pure data\nmore\n"
    assert (mnt / "same").read_text() == "the data\n"


def test_data_layer_lacks_it(ov):
    """The attributes are there, and blocks, so that nobody takes the file for a hole; its data are EIO."""
    with ov.layer():
        pass
    with ov.layer() as top:
        with open(top / "lost", "wb") as file:
            file.truncate(5000)
        os.setxattr(top / "lost", "trusted.overlay.metacopy", b"")
        os.setxattr(top / "lost", "trusted.overlay.redirect", b"/blobs/lost")
    (ov.lower_base / "data").mkdir()
    ov.data_lowers = [ov.lower_base / "data"]
    ov.options = ["metacopy=on"]
    mnt = ov.mount()
    for _ in range(2):
        st = os.stat(mnt / "lost")
        assert st.st_size == 5000 and st.st_blocks >= 10
        sysc.fails(errno.EIO, (mnt / "lost").read_bytes)
    ov.umount()


def test_colons_and_commas(ov):
    """Layer names with colons, commas and backslashes work, escaped as the kernel wants them."""
    odd = ov.lower_base / "a:b,c\\d"
    write(odd / "file", "odd")
    plain = ov.lower_base / "plain"
    write(plain / "other", "plain")
    ov.lowers = [odd, plain]
    ov.upper = ov.base / "up,per:x"
    ov.work = ov.base / "wo,rk:x"
    ov.upper.mkdir()
    ov.work.mkdir()
    mnt = ov.mount()
    assert listing(mnt) == ["file", "other"]
    write(mnt / "new")
    assert (ov.upper / "new").exists()


@pytest.mark.slow
def test_500_layers(ov):
    """500 lower layers merge, and a name of the lowest is found."""
    for i in range(500):
        path = ov.base / f"l{i}"
        write(path / f"f{i}", str(i))
        write(path / "common", str(i))
        write(path / f"d/{i}", str(i))
        ov.lowers.append(path)
    if IS_KERNEL:
        ov.check_lower = False
        pytest.skip("the kernel's option string is limited to a page")
    mnt = ov.mount()
    assert len(listing(mnt)) == 502
    assert len(listing(mnt / "d")) == 500
    assert (mnt / "common").read_text() == "0"
    assert (mnt / "f499").read_text() == "499"
    assert (mnt / "d/499").read_text() == "499"


def test_reads_leave_lower_atime(ov, images, overlays):
    """Reads of files, directories and links through the mount do not change a lower's atime."""
    fs = images.private(ov.base / "strict", "ext4", options="loop,strictatime")
    ov.mounted_helpers.append(fs)
    low = fs / "low"
    write(low / "d/file", "data")
    os.symlink("d", low / "link")
    for name in ("d/file", "d", "."):
        os.utime(low / name, ns=(1000000000, 1000000000))
    os.utime(low / "link", ns=(1000000000, 1000000000), follow_symlinks=False)
    ov.lowers = [low]
    ov.check_lower = False  # by a read of its own
    before = {n: os.lstat(low / n) for n in (".", "d", "d/file", "link")}
    mnt = ov.mount()
    for _ in range(2):
        assert listing(mnt) == ["d", "link"]
        assert listing(mnt / "d") == ["file"]
        assert (mnt / "d/file").read_text() == "data"
        assert os.readlink(mnt / "link") == "d"
        run("cat", mnt / "link/file")
        ov.remount()
    after = {n: os.lstat(low / n) for n in (".", "d", "d/file", "link")}
    for name, st in before.items():
        assert after[name].st_atime_ns == st.st_atime_ns, name
        assert after[name].st_ctime_ns == st.st_ctime_ns, name


def test_submounts_are_not_seen(ov):
    """A filesystem mounted inside a layer is not part of the layer."""
    with ov.layer() as low:
        write(low / "point/beneath", "beneath")
        write(low / "file")
    run("mount", "-t", "tmpfs", "tmpfs", low / "point")
    ov.mounted_helpers.append(low / "point")
    write(low / "point/inside")
    ov.check_lower = False  # the snapshot would walk into the mount
    mnt = ov.mount()
    assert listing(mnt / "point") == ["beneath"]
    assert (mnt / "point/beneath").read_text() == "beneath"


def test_malformed_xattrs(ov):
    """A malformed private xattr gives EIO (or is ignored) for that object, and nothing else."""
    with ov.layer() as low:
        write(low / "old/file")
        write(low / "good/file")
    with ov.layer() as top:
        for name, value in (("a", b"x/../../y"), ("b", b""), ("c", b"/" + b"x" * 300),
                            ("d", b"/..//old")):
            (top / name).mkdir()
            os.setxattr(top / name, "trusted.overlay.redirect", value)
        write(top / "m", b"")
        os.setxattr(top / "m", "trusted.overlay.metacopy", b"\xff\xff\xff\xff\xff")
    ov.may_complain = True
    ov.check_remount = False
    ov.check_links = False
    ov.options = ["metacopy=on"] if IS_KERNEL else []
    mnt = ov.mount()
    assert (mnt / "good/file").read_text() == "data\n"
    for name in "abcd":
        with pytest.raises(OSError) as info:
            os.listdir(mnt / name)
            if name == "b" or IS_KERNEL:
                raise OSError(errno.EIO, "an empty redirect may be taken as none")
        assert info.value.errno in (errno.EIO, errno.ESTALE, errno.EUCLEAN, errno.EINVAL), name
    with pytest.raises(OSError) as info:
        (mnt / "m").read_bytes()
    assert info.value.errno in (errno.EIO, errno.EUCLEAN, errno.EINVAL)
    assert (mnt / "old/file").read_text() == "data\n"
    assert is_mounted(mnt)


@pytest.mark.layouts("ext4", "other", "squashfs", "stack5")
def test_statfs(ov):
    """statfs tells the space of upper and the longest name."""
    with ov.lower() as low:
        write(low / "file")
    mnt = ov.mount()
    st, up = os.statvfs(mnt), os.statvfs(ov.upper)
    assert st.f_namemax in (255, 256)  # squashfs says 256
    assert st.f_bsize == up.f_bsize and st.f_blocks == up.f_blocks
    assert st.f_files == up.f_files


def test_changed_offline(ov):
    """What was added to lower while nothing was mounted is served, and what was removed is gone."""
    with ov.lower() as low:
        write(low / "d/stays")
        write(low / "d/goes")
    mnt = ov.mount()
    kept = ino(mnt / "d/stays")
    assert listing(mnt / "d") == ["goes", "stays"]
    write(mnt / "d/upper")
    ov.umount()
    write(ov.lowers[0] / "d/comes", "new")
    os.unlink(ov.lowers[0] / "d/goes")
    ov.before = ov.lower_snapshot()
    ov.mount()
    assert listing(mnt / "d") == ["comes", "stays", "upper"]
    assert (mnt / "d/comes").read_text() == "new"
    assert ino(mnt / "d/stays") == kept
    sysc.fails(errno.ENOENT, os.lstat, mnt / "d/goes")


def test_user_permissions(ov):
    """Another user sees what the modes let him, and no more."""
    with ov.lower() as low:
        write(low / "open/file", mode=0o644)
        write(low / "closed/file", mode=0o644)
        write(low / "private", mode=0o600)
        write(low / "his", mode=0o600, owner=(1234, 1234))
        write(low / "group", mode=0o640, owner=(0, 77))
        (low / "closed").chmod(0o700)
    mnt = ov.mount()

    def user():
        assert (mnt / "open/file").read_text() == "data\n"
        assert (mnt / "his").read_text() == "data\n"
        sysc.fails(errno.EACCES, os.listdir, mnt / "closed")
        sysc.fails(errno.EACCES, os.lstat, mnt / "closed/file")
        sysc.fails(errno.EACCES, os.open, mnt / "private", os.O_RDONLY)
        sysc.fails(errno.EACCES, os.open, mnt / "group", os.O_RDONLY)
        sysc.fails(errno.EACCES, write, mnt / "new")
        sysc.fails(errno.EPERM, os.chmod, mnt / "open/file", 0o777)
        assert not os.access(mnt / "private", os.R_OK)
        with open(mnt / "his", "a", encoding="utf-8") as file:
            file.write("more\n")

    sysc.as_user(1234, 1234, user)
    assert (mnt / "his").read_text() == "data\nmore\n"
    sysc.as_user(1234, 1234, lambda: (mnt / "group").read_text(), groups=[77])
