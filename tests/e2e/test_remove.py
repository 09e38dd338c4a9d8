# SPDX-License-Identifier: GPL-2.0-or-later
"""Removal: what is gone stays gone, whiteouts are where they must be, open objects live on."""

import errno
import os
import stat

import pytest

import sysc
from rvl import BUILD, IS_KERNEL, run, traced
from trees import OLD, ino, listing, opaque, standard_tree, whiteout, write


def is_whiteout(path):
    try:
        st = os.lstat(path)
    except FileNotFoundError:
        return False
    return stat.S_ISCHR(st.st_mode) and st.st_rdev == 0


@pytest.mark.layouts()
def test_everything_can_be_removed(ov):
    """rm -r of all of lower leaves nothing to be seen, also after a remount; lower is untouched."""
    with ov.lower() as low:
        standard_tree(low)
    mnt = ov.mount()
    for name in listing(mnt):
        run("rm", "-rf", mnt / name)
    assert listing(mnt) == []
    sysc.fails(errno.ENOENT, os.lstat, mnt / "file")
    sysc.fails(errno.ENOENT, os.lstat, mnt / "dir/inner")
    ov.remount()
    assert listing(mnt) == []
    sysc.fails(errno.ENOENT, os.lstat, mnt / "dir")


def test_where_whiteouts_are(ov):
    """A whiteout is left where lower has the name, and only there."""
    with ov.lower() as low:
        write(low / "lower")
        write(low / "both")
        write(low / "d/x")
    write(ov.upper / "both")
    write(ov.upper / "upper")
    mnt = ov.mount()
    write(mnt / "d/new")
    for name in ("lower", "both", "upper", "d/new"):
        os.unlink(mnt / name)
        sysc.fails(errno.ENOENT, os.lstat, mnt / name)
    assert is_whiteout(ov.upper / "lower") and is_whiteout(ov.upper / "both")
    assert not os.path.lexists(ov.upper / "upper")
    assert not os.path.lexists(ov.upper / "d/new")
    run("rm", "-r", mnt / "d")
    assert is_whiteout(ov.upper / "d")


def test_errors(ov):
    """unlink and rmdir refuse what they must, and change nothing then."""
    with ov.lower() as low:
        write(low / "f")
        write(low / "full/x")
        (low / "empty").mkdir()
    mnt = ov.mount()
    sysc.fails(errno.EISDIR, os.unlink, mnt / "empty")
    sysc.fails(errno.ENOTDIR, os.rmdir, mnt / "f")
    sysc.fails(errno.ENOTEMPTY, os.rmdir, mnt / "full")
    sysc.fails(errno.ENOENT, os.unlink, mnt / "none")
    sysc.fails(errno.ENOENT, os.rmdir, mnt / "none")
    sysc.fails(errno.EBUSY, os.rmdir, mnt)
    assert listing(mnt) == ["empty", "f", "full"]
    assert listing(ov.upper) == []


def test_rmdir_of_directory_emptied_by_whiteouts(ov):
    """A merged directory whose names are all removed can be removed, and be made again, empty."""
    with ov.layer() as low:
        write(low / "d/a")
        write(low / "d/b")
        write(low / "d/sub/c")
    with ov.layer() as top:
        write(top / "d/b")
        whiteout(top / "d/a")
    mnt = ov.mount()
    os.unlink(mnt / "d/b")
    sysc.fails(errno.ENOTEMPTY, os.rmdir, mnt / "d")
    os.unlink(mnt / "d/sub/c")
    os.rmdir(mnt / "d/sub")
    write(mnt / "d/own")
    sysc.fails(errno.ENOTEMPTY, os.rmdir, mnt / "d")
    os.unlink(mnt / "d/own")
    os.rmdir(mnt / "d")
    sysc.fails(errno.ENOENT, os.lstat, mnt / "d")
    os.mkdir(mnt / "d")
    assert listing(mnt / "d") == []
    ov.remount()
    assert listing(mnt / "d") == []


@pytest.mark.layouts("ext4", "btrfs", "squashfs")
def test_open_file_lives_on(ov):
    """An open file that is removed can be read and written through its descriptor till the close."""
    with ov.lower() as low:
        write(low / "low", b"low data\n")
        write(low / "linked", b"linked\n")
        os.link(low / "linked", low / "other")
    mnt = ov.mount()
    write(mnt / "up", b"up data\n")
    numbers = {}
    fds = {}
    for name in ("low", "up", "linked"):
        fds[name] = os.open(mnt / name, os.O_RDWR)
        numbers[name] = ino(mnt / name)
    ro = os.open(mnt / "other", os.O_RDONLY)
    for name in ("low", "up", "linked", "other"):
        os.unlink(mnt / name)
    assert listing(mnt) == []
    for name, fd in fds.items():
        st = os.fstat(fd)
        assert (st.st_nlink, st.st_ino) == (0, numbers[name]), name
        os.pwrite(fd, b"NEW", 0)
        assert os.pread(fd, 3, 0) == b"NEW"
        os.ftruncate(fd, 5)
        os.fchmod(fd, 0o604)
        assert os.fstat(fd).st_size == 5
        assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o604
    assert os.pread(ro, 3, 0) == b"NEW"
    for fd in [*fds.values(), ro]:
        os.close(fd)


@pytest.mark.kernel_differs("fstat shows the link count of lower")
def test_read_only_descriptor_of_removed_lower_file(ov):
    """A lower file opened read-only and removed is still read; fchmod on it works."""
    with ov.lower() as low:
        write(low / "f", b"lower\n", mode=0o644)
    mnt = ov.mount()
    fd = os.open(mnt / "f", os.O_RDONLY)
    number = os.fstat(fd).st_ino
    os.unlink(mnt / "f")
    assert os.read(fd, 100) == b"lower\n"
    assert os.fstat(fd).st_nlink == 0
    os.fchmod(fd, 0o600)
    assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o600
    assert os.fstat(fd).st_ino == number
    write(mnt / "f", b"another\n")
    assert ino(mnt / "f") != number
    assert os.pread(fd, 100, 0) == b"lower\n"
    os.close(fd)


def test_open_directory_removed(ov):
    """A removed directory that is still open lists nothing and takes no new names."""
    with ov.lower() as low:
        (low / "d").mkdir()
    mnt = ov.mount()
    fd = os.open(mnt / "d", os.O_RDONLY)
    os.rmdir(mnt / "d")
    sysc.fails(errno.ENOENT, sysc.getdents, fd)
    sysc.fails(errno.ENOENT, os.open, "x", os.O_CREAT | os.O_WRONLY, dir_fd=fd)
    sysc.fails(errno.ENOENT, os.mkdir, "x", dir_fd=fd)
    os.close(fd)


def test_name_made_again_is_another_object(ov):
    """After a removal the same name gets another number, each time, also over lower's names."""
    with ov.lower() as low:
        write(low / "f")
        (low / "d").mkdir()
    mnt = ov.mount()
    seen = {ino(mnt / "f"), ino(mnt / "d")}
    for i in range(20):
        os.unlink(mnt / "f")
        write(mnt / "f")
        os.rmdir(mnt / "d")
        os.mkdir(mnt / "d")
        new = {ino(mnt / "f"), ino(mnt / "d")}
        if not IS_KERNEL:
            assert not new & seen, "a number was used again"
        seen |= new
        if i % 5 == 0:
            ov.kill_remount()


def test_sticky(ov):
    """In a sticky directory only the owner removes, for lower, upper and merged objects."""
    with ov.lower() as low:
        (low / "t").mkdir()
        os.chmod(low / "t", 0o1777)
        write(low / "t/his", owner=(1234, 1234))
        write(low / "t/other", owner=(77, 77))
    mnt = ov.mount()

    def user():
        os.unlink(mnt / "t/his")
        sysc.fails((errno.EPERM, errno.EACCES), os.unlink, mnt / "t/other")
        sysc.fails((errno.EPERM, errno.EACCES), os.rename, mnt / "t/other", mnt / "t/x")

    sysc.as_user(1234, 1234, user)
    assert listing(mnt / "t") == ["other"]


def test_opaque_upper_removed(ov):
    """An opaque upper directory over lower is removed with a whiteout in its place."""
    with ov.lower() as low:
        write(low / "d/below")
    (ov.upper / "d").mkdir()
    opaque(ov.upper / "d")
    mnt = ov.mount()
    os.rmdir(mnt / "d")
    assert is_whiteout(ov.upper / "d")
    ov.remount()
    assert listing(mnt) == []


def test_full_disk(ov, images):
    """On a full disk a removal either works or fails with ENOSPC and changes nothing."""
    small = images.private(ov.base / "small", "ext4", size="16M")
    ov.mounted_helpers.append(small)
    with ov.lower() as low:
        for i in range(50):
            write(low / f"d/f{i}")
    ov.use_upper_on(small)
    mnt = ov.mount()
    ov.may_complain = True
    try:
        with open(mnt / "fill", "wb", buffering=0) as file:
            while True:
                file.write(bytes(65536))
    except OSError as error:
        assert error.errno == errno.ENOSPC
    left = set(listing(mnt / "d"))
    for name in sorted(left):
        try:
            os.unlink(mnt / "d" / name)
            left.discard(name)
        except OSError as error:
            assert error.errno == errno.ENOSPC
            break
    assert set(listing(mnt / "d")) == left
    os.unlink(mnt / "fill")
    ov.remount()
    assert set(listing(mnt / "d")) == left
    for name in left:
        os.unlink(mnt / "d" / name)
    assert listing(mnt / "d") == []


@pytest.mark.kernel_differs("a removed lower directory cannot be copied up: ENOENT")
@pytest.mark.layouts("ext4", "tmpfs", "squashfs")
def test_attributes_of_a_removed_directory(ov):
    """Who has a removed directory open changes its attributes, wherever it was; nothing of it is left in upper."""
    with ov.lower() as low:
        for name in ("lower", "merged", "inner/lower"):
            (low / name).mkdir(parents=True)
            os.setxattr(low / name, "user.old", b"1")
    mnt = ov.mount()
    (mnt / "born").mkdir()
    write(mnt / "merged/new")
    os.unlink(mnt / "merged/new")
    for name in ("lower", "merged", "inner/lower", "born"):
        number = ino(mnt / name)
        fd = os.open(mnt / name, os.O_RDONLY | os.O_DIRECTORY)
        os.rmdir(mnt / name)
        if name == "inner/lower":
            os.rmdir(mnt / "inner")
        os.fchmod(fd, 0o701)
        os.fchown(fd, 12, 13)
        os.utime(fd, ns=(OLD, OLD + 1))
        os.setxattr(fd, "user.new", b"2")
        st = os.fstat(fd)
        assert (stat.S_IMODE(st.st_mode), st.st_uid, st.st_gid, st.st_mtime_ns, st.st_ino, st.st_nlink) \
            == (0o701, 12, 13, OLD + 1, number, 0), name
        assert os.getxattr(fd, "user.new") == b"2"
        assert name == "born" or os.getxattr(fd, "user.old") == b"1"
        assert os.listdir(fd) == []
        sysc.fails(errno.ENOENT, os.mkdir, "x", dir_fd=fd)
        os.close(fd)
    assert listing(mnt) == [] and listing(ov.work / "work") in ([], ["whiteout"], ["incompat"])


@pytest.mark.reverlay_only("its server is killed")
def test_death_after_the_last_name_and_its_directory(ov):
    """The count of a file that has lost all its names is no longer to be read at a name: it is buried all the same."""
    with ov.lower() as low:
        write(low / "e/a", "data\n")
        (low / "d").mkdir()
        os.link(low / "e/a", low / "d/b")
    mnt = ov.mount()
    fd = os.open(mnt / "e/a", os.O_RDWR)
    os.write(fd, b"changed")
    for name in ("e/a", "d/b"):
        os.unlink(mnt / name)
    os.rmdir(mnt / "d")
    ov.kill()
    os.close(fd)
    ov.mount()
    ov.umount()
    code, found = ov.ctl("check", "-v")
    assert code == 0 and not found["problems"], found
    ov.mount()


@pytest.mark.reverlay_only("its server's calls are made to fail")
@pytest.mark.parametrize("how", ["unlink", "rename"])
def test_count_that_cannot_be_taken_back(ov, how):
    """No whiteout can be made, nor the count of links be set back: the file keeps its name, and the next mount the
    count."""
    with ov.lower() as low:
        write(low / "a", "data\n")
        for name in "bc":
            os.link(low / "a", low / name)
    # strace(1) may be too old for setxattrat(2)
    mnt = ov.mount(prefix=(BUILD / "tests/deny/rvl-deny", "xattrat"))
    write(mnt / "a", "changed\n")
    write(mnt / "new")
    fd = os.open(mnt, os.O_RDONLY)
    os.fsync(fd)  # no entry is owed
    os.close(fd)
    # the first setxattr counts down; the second, which takes that back, fails
    change = {"unlink": lambda: os.unlink(mnt / "b"), "rename": lambda: os.rename(mnt / "new", mnt / "b")}
    with traced(mnt, "-o", "/dev/null", "-e", "inject=linkat,mknodat,renameat,renameat2:error=ENOSPC", "-e",
                "inject=setxattr,fsetxattr,lsetxattr:error=EIO:when=2+"):
        sysc.fails(errno.ENOSPC, change[how])
        assert os.stat(mnt / "b").st_nlink == 3
    for name in "ab":
        os.unlink(mnt / name)
    assert os.stat(mnt / "c").st_nlink == 1 and (mnt / "c").read_text() == "changed\n"
    ov.kill()
    assert os.stat(ov.mount() / "c").st_nlink == 1
