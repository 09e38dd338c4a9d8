# SPDX-License-Identifier: GPL-2.0-or-later
"""The same upper, mounted by turns by the kernel's overlayfs and by reverlay."""

import errno
import os
import shutil
import stat

import pytest

import imports
import sysc
from rvl import BUILD, run, traced
from snapshots import assert_same, check_tree, numbers, snapshot
from trees import ino, listing, standard_tree, write

pytestmark = pytest.mark.reverlay_only("it takes two")


def visible(root):
    """What both must show the same: not numbers, and not the link count of what is indexed."""
    tree = snapshot(root, inos=False)
    for info in tree.values():
        info.pop("nlink", None)
    return tree


def turn(ov, kernel):
    """Unmounts, mounts with the other one, and compares what is seen."""
    before = visible(ov.mnt)
    ov.umount()
    ov.mount(kernel=kernel)
    assert_same(before, visible(ov.mnt), "seen by the kernel" if kernel else "seen by reverlay")


def changes(mnt, tag):
    """Some of every kind of change."""
    write(mnt / f"new-{tag}", tag)
    os.mkdir(mnt / f"dir-{tag}")
    write(mnt / f"dir-{tag}/inner", tag)
    os.symlink(tag, mnt / f"link-{tag}")
    os.mkfifo(mnt / f"fifo-{tag}")
    os.mknod(mnt / f"null-{tag}", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.link(mnt / f"new-{tag}", mnt / f"hard-{tag}")
    os.setxattr(mnt / f"new-{tag}", "user.tag", tag.encode())


OPTIONS = [["index=off", "xino=off", "redirect_dir=on"], ["index=on", "redirect_dir=on"],
           ["index=on", "nfs_export=on", "redirect_dir=on"], ["redirect_dir=on", "metacopy=on"]]


@pytest.mark.parametrize("options", OPTIONS, ids=["plain", "index", "nfs_export", "metacopy"])
@pytest.mark.parametrize("first", ["kernel", "reverlay"])
def test_by_turns(ov, options, first):
    """Changes from both, six turns: both see the same tree, and lower is as it was."""
    with ov.lower() as low:
        standard_tree(low)
        for i in range(6):
            write(low / f"turn{i}/old", str(i))
            write(low / f"turn{i}/sub/deep", str(i))
            write(low / f"victim{i}")
    ov.options = [o for o in options if not o.startswith("xino")]
    mnt = ov.mount(kernel=first == "kernel")
    kernel = first == "kernel"
    for i in range(6):
        changes(mnt, f"t{i}")
        os.rename(mnt / f"turn{i}", mnt / f"moved{i}")
        write(mnt / f"moved{i}/sub/deep", f"changed by {i}")
        os.unlink(mnt / f"victim{i}")
        if i:
            with open(mnt / f"new-t{i - 1}", "a", encoding="ascii") as file:
                file.write(f" and {i}")
            os.rename(mnt / f"moved{i - 1}", mnt / f"dir-t{i}/again")
            os.unlink(mnt / f"hard-t{i - 1}")
        os.chmod(mnt / "dir", 0o700 + i)
        with open(mnt / "file", "a", encoding="ascii") as file:
            file.write(f"{i}\n")
        kernel = not kernel
        turn(ov, kernel)
    if kernel:
        turn(ov, False)
    assert (mnt / "file").read_text() == "lower\n0\n1\n2\n3\n4\n5\n"
    assert listing(mnt / "dir-t5/again") == ["old", "sub"]
    ov.last = ((), True, False)


def test_numbers_stay_over_the_kernels_turn(ov):
    """Objects that the kernel did not touch, and those that it did, keep reverlay's numbers."""
    with ov.lower() as low:
        standard_tree(low)
    ov.options = ["redirect_dir=on", "metacopy=on"]
    mnt = ov.mount()
    write(mnt / "born")
    os.chmod(mnt / "file", 0o600)
    first = numbers(mnt)
    ov.remount(kernel=True)
    write(mnt / "file", "by the kernel\n")
    os.chmod(mnt / "big", 0o600)
    os.chmod(mnt / "dir", 0o700)
    os.rename(mnt / "born", mnt / "dir/born")
    os.rename(mnt / "emptydir", mnt / "dir/emptydir")
    write(mnt / "kernels")
    ov.remount(kernel=False)
    got = numbers(mnt)
    first["dir/born"] = first.pop("born")
    first["dir/emptydir"] = first.pop("emptydir")
    fresh = got.pop("kernels")
    assert got == first
    assert fresh not in first.values()
    check_tree(mnt)
    write(mnt / "kernels", "changed\n")
    assert ino(mnt / "kernels") == fresh


def test_kernels_upper_is_taken_over(ov):
    """An upper that only the kernel ever wrote mounts at once, all objects with numbers of lower."""
    with ov.lower() as low:
        standard_tree(low)
        real = {n: ino(low / n) for n in ("file", "dir", "dir/inner", "hard1")}
    mnt = ov.mount(kernel=True)
    os.chmod(mnt / "file", 0o600)
    write(mnt / "dir/inner", "changed\n")
    write(mnt / "hard1", "changed\n")
    os.rename(mnt / "dir", mnt / "dir2")
    os.unlink(mnt / "big")
    before = visible(mnt)
    ov.umount()
    ov.mount(kernel=False)
    assert_same(before, visible(mnt), "taken over")
    assert ino(mnt / "file") == real["file"]
    assert ino(mnt / "dir2") == real["dir"]
    assert ino(mnt / "dir2/inner") == real["dir/inner"]
    assert {ino(mnt / n) for n in ("hard1", "hard2", "dir2/hard3")} == {real["hard1"]}
    assert (mnt / "hard2").read_text() == "changed\n"


def test_kernel_hard_links_without_index(ov):
    """With index=off the kernel breaks a hard link: reverlay then shows two objects, two numbers."""
    with ov.lower() as low:
        write(low / "a", "x\n")
        os.link(low / "a", low / "b")
    ov.options = ["index=off"]
    mnt = ov.mount(kernel=True)
    write(mnt / "a", "changed\n")
    ov.umount()
    ov.mount(kernel=False)
    assert (mnt / "a").read_text() == "changed\n"
    if ino(mnt / "a") == ino(mnt / "b"):
        # joined again: then it must be one object
        assert (mnt / "b").read_text() == "changed\n"
        assert os.stat(mnt / "a").st_nlink == 2
    else:
        assert (mnt / "b").read_text() == "x\n"
    ov.check_links = False


def test_kernel_nlink_is_one_higher(ov):
    """The documented difference: the kernel counts our index's link; nothing else differs."""
    with ov.lower() as low:
        write(low / "a")
    mnt = ov.mount()
    write(mnt / "a", "changed\n")
    write(mnt / "born")
    assert os.stat(mnt / "a").st_nlink == os.stat(mnt / "born").st_nlink == 1
    ov.remount(kernel=True)
    assert os.stat(mnt / "a").st_nlink in (1, 2)
    assert os.stat(mnt / "born").st_nlink in (1, 2)
    ov.remount(kernel=False)
    assert os.stat(mnt / "a").st_nlink == os.stat(mnt / "born").st_nlink == 1


def test_kernels_nlink_relative_to_lower(ov):
    """A count that the kernel, dead in between, has left relative to lower means what the kernel takes it for."""
    with ov.lower() as low:
        write(low / "a", "x\n")
        for name in ("b", "c", "d"):
            os.link(low / "a", low / name)
    ov.options = ["index=on"]
    mnt = ov.mount(kernel=True)
    write(mnt / "a", "changed\n")
    os.unlink(mnt / "b")
    assert os.stat(mnt / "d").st_nlink == 3
    ov.umount()
    os.setxattr(ov.upper / "a", "trusted.overlay.nlink", b"L-1")
    ov.mount(kernel=True)
    assert os.stat(mnt / "d").st_nlink == 3
    ov.remount(kernel=False)
    assert {os.stat(mnt / name).st_nlink for name in "acd"} == {3}
    fh = sysc.handle(mnt / "d")
    for i, name in enumerate("acd"):
        os.unlink(mnt / name)
        assert {os.stat(mnt / n).st_nlink for n in "acd"[i + 1:]} <= {2 - i}
    ov.remount()
    root = os.open(mnt, os.O_RDONLY)
    sysc.fails(errno.ESTALE, sysc.open_handle, root, fh)
    os.close(root)


def test_removed_by_the_kernel(ov):
    """What the kernel removed is gone, and its number is never another object's."""
    ov.check_clean = False  # the kernel leaves the index links of what it removes
    with ov.lower() as low:
        write(low / "a")
    mnt = ov.mount()
    write(mnt / "a", "changed\n")
    write(mnt / "born")
    gone = {ino(mnt / "a"), ino(mnt / "born")}
    handle = sysc.handle(mnt / "born")
    ov.remount(kernel=True)
    os.unlink(mnt / "a")
    os.unlink(mnt / "born")
    write(mnt / "a", "another\n")
    ov.remount(kernel=False)
    assert listing(mnt) == ["a"]
    for i in range(20):
        write(mnt / f"n{i}")
    fresh = set(numbers(mnt).values())
    assert not fresh & gone
    root = os.open(mnt, os.O_RDONLY)
    sysc.fails(errno.ESTALE, sysc.open_handle, root, handle)
    os.close(root)


def test_userxattr_by_turns(ov):
    """With userxattr too, both read what the other wrote."""
    with ov.lower() as low:
        write(low / "d/old")
        write(low / "f")
        write(low / "g")
    ov.options = ["userxattr"]
    mnt = ov.mount(kernel=False)
    run("rm", "-r", mnt / "d")
    os.mkdir(mnt / "d")
    write(mnt / "d/new")
    write(mnt / "f", "changed\n")
    before = visible(mnt)
    ov.umount()
    run("mount", "-t", "overlay", "-o", ov.option_string(), "overlay", mnt)
    assert_same(before, visible(mnt), "seen by the kernel")
    os.unlink(mnt / "g")
    os.mkdir(mnt / "g")
    write(mnt / "g/h")
    before = visible(mnt)
    run("umount", mnt)
    ov.mount(kernel=False)
    assert_same(before, visible(mnt), "seen by reverlay")


def test_metacopy_by_handle(ov):
    """The kernel's metacopy file in upper, opened by handle with nothing known: lower's data, also when written."""
    with ov.lower() as low:
        write(low / "dir/file", b"lower data\n")
    mnt = ov.mount("metacopy=on", kernel=True)
    os.chmod(mnt / "dir/file", 0o600)
    os.rename(mnt / "dir/file", mnt / "dir/renamed")
    ov.remount(kernel=False)
    fh = sysc.handle(mnt / "dir/renamed")
    ov.remount()
    root = os.open(mnt, os.O_RDONLY)
    fd = sysc.open_handle(root, fh, os.O_RDWR)
    os.close(root)
    assert os.pread(fd, 100, 0) == b"lower data\n"
    os.pwrite(fd, b"L", 0)
    os.close(fd)
    ov.remount()
    assert (mnt / "dir/renamed").read_bytes() == b"Lower data\n"


def test_metacopy_without_data_by_handle(ov):
    """Where a metacopy file's data are gone the handle still gives its attributes, its data are EIO, also to a writer, and
    truncation makes it whole."""
    ov.check_clean = False  # a lower file goes
    with ov.lower() as low:
        write(low / "dir/file", b"lower data\n")
    mnt = ov.mount("metacopy=on", kernel=True)
    os.chmod(mnt / "dir/file", 0o600)
    ov.remount(kernel=False)
    fh = sysc.handle(mnt / "dir/file")
    ov.umount()
    os.unlink(ov.lowers[0] / "dir/file")
    ov.before = None
    ov.mount()
    root = os.open(mnt, os.O_RDONLY)
    fd = sysc.open_handle(root, fh, os.O_RDONLY)
    assert os.fstat(fd).st_size == len(b"lower data\n")
    sysc.fails(errno.EIO, os.read, fd, 100)
    sysc.fails(errno.EIO, sysc.open_handle, root, fh, os.O_RDWR)
    os.close(sysc.open_handle(root, fh, os.O_RDWR | os.O_TRUNC))
    assert os.fstat(fd).st_size == 0
    os.close(fd)
    os.close(root)
    assert (mnt / "dir/file").read_bytes() == b""


def test_kernels_upper_read_only(ov):
    """An upper that only the kernel wrote, mounted ro at once: all can be read, nothing is written."""
    with ov.lower() as low:
        standard_tree(low)
    mnt = ov.mount(kernel=True)
    os.chmod(mnt / "file", 0o600)
    write(mnt / "dir/inner", "changed\n")
    write(mnt / "born/deep", "born\n")
    before = visible(mnt)
    ov.umount()
    ov.mount("ro", kernel=False)
    assert_same(before, visible(mnt), "read-only")
    ov.check_remount = False


def test_read_only_on_another_filesystem(ov):
    """An upper that nobody has stamped, with the inode numbers of the lower's files: all are there."""
    tops = [ov.base / name for name in ("lower.fs", "upper.fs")]
    for top in tops:
        top.mkdir()
        run("mount", "-t", "tmpfs", "none", top)
        ov.mounted_helpers.append(top)
    ov.lowers = [tops[0] / "lower"]
    ov.upper, ov.work = tops[1] / "upper", tops[1] / "work"
    ov.work.mkdir()
    names = {"lower": ov.lowers[0], "upper": ov.upper}
    for tag, top in names.items():
        for i in range(8):
            write(top / f"{tag}{i}", f"{tag}{i}")
    taken = [{ino(path) for path in top.iterdir()} for top in names.values()]
    assert taken[0] & taken[1]
    mnt = ov.mount("ro", kernel=False)
    assert len(listing(mnt)) == len(set(numbers(mnt).values())) - 1 == 16
    for name in listing(mnt):
        assert (mnt / name).read_text() == name
    ov.check_remount = False


def test_read_only_beyond_the_cache(ov):
    """More objects of such an upper than nodes are kept: each is found again."""
    with ov.lower() as low:
        write(low / "file")
    names = [f"dir{i}/sub/file{j}" for i in range(20) for j in range(100)]
    for name in names:
        write(ov.upper / name, name)
    mnt = ov.mount("ro", "node_limit=64", kernel=False)
    first = {name: ino(mnt / name) for name in names}
    for name in names:
        assert (mnt / name).read_text() == name
        os.listxattr(mnt / name)
    assert {name: ino(mnt / name) for name in names} == first
    ov.check_remount = False


def test_origin_in_one_of_two_images(ov):
    """Two images without a uuid, where one handle means a file in each: the kernel's copy of one
    does not take the number of the other."""
    images = []
    for tag in "ab":
        tree = ov.lower_base / tag
        for i in range(4):
            write(tree / f"{tag}{i}", f"{tag}{i}")
        image = ov.lower_base / f"{tag}.squashfs"
        run("mksquashfs", tree, image, "-quiet", "-no-progress", "-comp", "gzip")
        where = ov.lower_base / f"mnt.{tag}"
        where.mkdir()
        run("mount", "-t", "squashfs", "-o", "loop,ro", image, where)
        ov.mounted_helpers.append(where)
        images.append(where)
    ov.lowers = images
    assert ino(images[0] / "a1") == ino(images[1] / "b1")
    mnt = ov.mount(kernel=False)
    first = numbers(mnt)
    handle = sysc.handle(mnt / "a1")
    ov.umount()
    ov.mount(kernel=True)
    with open(mnt / "b1", "a", encoding="ascii") as file:
        file.write(" changed")
    ov.umount()
    ov.mount(kernel=False)
    assert (mnt / "b1").read_text() == "b1 changed"
    assert ino(mnt / "b1") != first["a1"]
    top = os.open(mnt, os.O_RDONLY)
    fd = sysc.open_handle(top, handle, os.O_RDONLY)
    assert os.read(fd, 10) == b"a1"
    os.close(fd)
    os.close(top)
    now = numbers(mnt)
    first.pop("b1")
    now.pop("b1")
    assert now == first


def test_metacopy_is_renamed_with_its_data(ov):
    """A metacopy file of the kernel's that gets another name here is not given the data of what lower has there."""
    with ov.lower() as low:
        write(low / "f", b"data of f\n")
        write(low / "g", b"data of g\n")
        write(low / "h", b"data of h\n")
    mnt = ov.mount("metacopy=on", kernel=True)
    os.chmod(mnt / "f", 0o600)
    os.chmod(mnt / "h", 0o600)
    ov.remount(kernel=False)
    os.rename(mnt / "f", mnt / "g")
    os.link(mnt / "h", mnt / "linked")
    ov.remount()
    assert (mnt / "g").read_bytes() == b"data of f\n"
    assert (mnt / "linked").read_bytes() == (mnt / "h").read_bytes() == b"data of h\n"


@pytest.mark.parametrize("user", [0, 1000], ids=["root", "user"])
def test_made_by_the_kernel_where_one_of_ours_was(ov, user):
    """What the log says of a name after a death holds for the object that was made there then: not for an empty one that
    the kernel's overlay has made there since, with the modes of what is in the making."""
    mnt = ov.mnt

    def make():
        os.close(os.open(mnt / "lock", os.O_CREAT | os.O_EXCL, 0o600))
        os.mkdir(mnt / "dir", 0o700)
        os.mkfifo(mnt / "fifo", 0o600)

    with ov.lower():
        pass
    ov.mount()
    os.chown(mnt, user, user)
    sysc.as_user(user, user, make)
    run("rm", "-r", mnt / "lock", mnt / "dir", mnt / "fifo")
    ov.kill()
    ov.mount(kernel=True)
    sysc.as_user(user, user, make)
    ov.remount(kernel=False)
    assert listing(mnt) == ["dir", "fifo", "lock"]


@pytest.mark.layouts("ext4")
def test_killed_while_it_takes_over(ov, capsys):
    """The server is killed before the n-th call that changes something while what the kernel made is looked at for
    the first time: the next one goes on, and no number or link is lost."""
    by_kernel = imports.start(ov, imports.OPTIONS["metacopy"])
    imports.change(by_kernel)
    seen, known = imports.visible(ov.mnt, nlink=False), numbers(ov.mnt)
    ov.umount()
    imports.to_reverlay(ov)
    ov.may_complain = True
    pristine = ov.base.parent / "pristine"
    run("cp", "-a", ov.base, pristine)
    killed, is_killed = 0, True
    for n in range(1, 80, 1 if imports.EVERY == 1 else 6):
        # strace(1) may be too old for setxattrat(2)
        mnt = ov.mount(prefix=(BUILD / "tests/deny/rvl-deny", "xattrat"))
        is_killed = False
        with traced(mnt, "-o", "/dev/null", "-e", f"trace={imports.CHANGES}", "-e",
                    f"inject={imports.CHANGES}:signal=SIGKILL:when={n}"):
            try:
                snapshot(mnt)
            except OSError as error:
                assert error.errno in (errno.ENOTCONN, errno.ECONNABORTED), error
                is_killed = True
        if is_killed:
            ov.kill()
            ov.mount()
        killed += is_killed
        assert_same(seen, imports.visible(mnt, nlink=False), f"killed at {n}")
        imports.check_numbers(ov, known)
        ov.umount()
        code, found = ov.ctl("check")
        if code:  # a count may be too high
            assert code == 4 and {p["id"] for p in found["problems"]} == {"nlink-wrong"}, found
            assert ov.ctl("repair", "-p")[0] == 1
        run("rsync", "-aHAX", "--delete", f"{pristine}/", ov.base)
    shutil.rmtree(pristine)
    with capsys.disabled():
        print(f"\nlooked at for the first time: killed at {killed} points")
    assert killed > 3 and not is_killed  # it makes no 80 calls
    ov.mount()
