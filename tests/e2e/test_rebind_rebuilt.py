# SPDX-License-Identifier: GPL-2.0-or-later
"""The workdir is lost, with or without a copy: the index is made again from what is in upper.

By rebind where the layers were copied, by repair --rebuild where they are where they were.
"""

import os
import shutil
import stat

import pytest

import sysc
from rvl import CTL, run
from snapshots import check_tree, numbers, snapshot
from test_rebind import by_rsync, move, rebind, tree_of, used  # noqa: F401: fixtures
from trees import ino, write

pytestmark = pytest.mark.reverlay_only("it refuses copied layers")


def lose_workdir(ov):
    shutil.rmtree(ov.work)
    ov.work.mkdir()


def test_workdir_not_copied(ov, used, move):
    """The index is made again from upper: what is in upper keeps numbers, links and handles."""
    upper = {n for n in used.handles
             if os.path.lexists(ov.upper / n) and not stat.S_ISCHR(os.lstat(ov.upper / n).st_mode)}
    move.all("xfs", "xfs", by_rsync)
    lose_workdir(ov)
    assert rebind(ov)["rebuilt"]
    mnt = ov.mount()
    used.check_handles(mnt, without=set(used.handles) - upper)
    assert ino(mnt / "born") == ino(mnt / "born.d/link") == used.tree["born"]["ino"]
    assert ino(write(mnt / "new")) not in {info["ino"] for info in used.tree.values()}
    # names of a lower file that was copied up under another one hung on the index
    ov.check_links = False


def aliases_without_workdir(ov, move):
    """Copied without the workdir: hard links that were copied up by one name, in directories that were renamed since.
    Without `move` the workdir is lost, and nothing was copied. Returns what was seen."""
    with ov.lower() as low:
        for i in range(3):
            write(low / f"dir{i}/sub/name", f"lower {i}\n")
            (low / f"other{i}").mkdir()
            os.link(low / f"dir{i}/sub/name", low / f"other{i}/alias")
        # what a wrong place could lead to
        write(low / "moved0/sub/name", b"another\n")
        os.link(low / "moved0/sub/name", low / "moved0/sub/alias")
    mnt = ov.mount()
    shutil.rmtree(mnt / "moved0")
    for i in range(3):
        write(mnt / f"dir{i}/sub/name", f"changed {i}\n")
    os.rename(mnt / "dir0", mnt / "moved0")
    os.rename(mnt / "dir1/sub", mnt / "moved0/sub1")
    before = snapshot(mnt)
    ov.umount()
    if move:
        move.all("xfs", "ext4", by_rsync)
    lose_workdir(ov)
    return before


def check_aliases(mnt, before):
    after = snapshot(mnt)
    for i, name in enumerate(("moved0/sub/name", "moved0/sub1/name", "dir2/sub/name")):
        alias = f"other{i}/alias"
        assert (mnt / alias).read_text() == f"changed {i}\n", name
        assert after[name] == before[name], name
        assert after[alias] == before[alias], alias
    check_tree(mnt)


def test_workdir_not_copied_aliases(ov, move):
    """Its other names, which are only in lower, stay its names, also where the index is made again from upper."""
    before = aliases_without_workdir(ov, move)
    assert rebind(ov)["rebuilt"]
    mnt = ov.mount()
    check_aliases(mnt, before)
    with open(mnt / "other1/alias", "a", encoding="ascii") as file:
        file.write("by the other name\n")
    assert (mnt / "moved0/sub1/name").read_text() == "changed 1\nby the other name\n"


@pytest.mark.parametrize("way", ["rebind", "repair --rebuild"])
def test_both_ways_out_are_named(ov, move, way):
    """Without an index the mount names a command for layers that were copied, and one for those at their place.

    As it is printed each makes it the same tree again, at its place with all numbers.
    """
    before = aliases_without_workdir(ov, move if way == "rebind" else None)
    for args in ([], ["ro"]):
        message = run(*ov.command(args, flags=()), check=False).stdout
        lines = [line for line in message.splitlines() if f"reverlayctl {way}" in line]
        assert len(lines) == 1 and "reverlayctl rebind" in message and "repair --rebuild" in message, message
        assert ("copied or moved" if way == "rebind" else "where they were") in lines[0], message
    code, found = ov.ctl("check")
    problem, = found["problems"]
    assert code == 4 and problem["id"] == "index-lost"
    assert "rebind" in problem["detail"] and "repair --rebuild" in problem["detail"]
    command = lines[0][lines[0].index("reverlayctl"):]
    result = run("sh", "-c", command.replace("reverlayctl", CTL, 1), check=False)
    assert result.returncode == (0 if way == "rebind" else 1), result.stdout
    mnt = ov.mount()
    check_aliases(mnt, before)
    if way == "repair --rebuild":
        assert numbers(mnt) == {name: info["ino"] for name, info in before.items()}


@pytest.mark.parametrize("way", ["copied", "rebuilt, then copied"])
def test_a_directory_at_the_place_of_a_file(ov, move, way):
    """Without the workdir it is known where a renamed directory was in lower, and the place is the file's that was there."""
    with ov.lower() as low:
        write(low / "here/file", "file\n")
        os.link(low / "here/file", low / "alias")
        for name in ("there/a dir", "a sibling"):
            write(low / name / "inner", f"{name}\n")
    mnt = ov.mount()
    sysc.renameat2(mnt / "here/file", mnt / "there/a dir", 2)
    os.rename(mnt / "a sibling", mnt / "renamed sibling")
    seen = {name: ino(mnt / name) for name in ("there/a dir", "alias", "here/file", "renamed sibling")}
    assert seen["alias"] == seen["there/a dir"]
    ov.umount()
    if way == "copied":
        move.all("xfs", "ext4", by_rsync)
    lose_workdir(ov)
    if way != "copied":
        assert ov.ctl("repair", "--rebuild", "-p")[0] == 1
        run(CTL, "map", ov.mount())
        ov.umount()
        move.all("xfs", "ext4", by_rsync)
    assert rebind(ov)["told"] == []
    ov.mount()
    assert {name: ino(mnt / name) for name in seen} == seen
    assert (mnt / "here/file/inner").read_text() == "there/a dir\n"
    check_tree(mnt)


def test_a_directory_named_as_what_is_in_it(ov, move):
    """Nor is its place, which is not known, taken for that of a file in it with its name."""
    with ov.lower() as low:
        write(low / "tool/tool", "file\n")
        os.link(low / "tool/tool", low / "alias")
        (low / "bin").mkdir()
    mnt = ov.mount()
    write(mnt / "tool/tool", "changed\n")
    os.rename(mnt / "tool", mnt / "bin/tool")
    seen = {name: ino(mnt / name) for name in ("bin/tool", "bin/tool/tool", "alias")}
    assert seen["alias"] == seen["bin/tool/tool"]
    ov.umount()
    move.all("xfs", "ext4", by_rsync)
    lose_workdir(ov)
    assert rebind(ov)["told"] == []
    ov.mount()
    assert {name: ino(mnt / name) for name in seen} == seen
    assert (mnt / "alias").read_text() == "changed\n"
    check_tree(mnt)


@pytest.mark.layouts("xfs")
def test_inodes_used_again(ov):
    """Another version of lower, and the workdir is lost: its inodes may have been those of what is in upper now."""
    with ov.lower() as low:
        write(low / "file", "file\n")
    mnt = ov.mount()
    write(mnt / "file", "changed\n")
    seen = ino(mnt / "file")
    ov.umount()
    lower, = ov.lowers
    wanted = ino(lower / "file")
    (lower / "file").unlink()
    for _ in range(50):  # it is free as soon as the filesystem is done with it
        os.sync()
        names = [write(lower / str(i)) for i in range(200)]
        again = next((path for path in names if ino(path) == wanted), None)
        for i in (1, 2, 3) if again else ():
            os.link(again, lower / f"other{i}")
        for path in names:
            path.unlink()
        if again:
            break
    assert again
    write(lower / "file", "file\n")
    lose_workdir(ov)
    ov.before = None
    assert rebind(ov)["rebuilt"]
    mnt = ov.mount()
    st = os.lstat(mnt / "file")
    assert (st.st_ino, st.st_nlink, (mnt / "file").read_text()) == (seen, 1, "changed\n")
    for path in mnt.glob("other?"):
        assert path.read_text() == "data\n" and path.stat().st_nlink == 3 and ino(path) != seen
    check_tree(mnt)


def what_hides(upper):
    """Whiteouts, opaque directories and redirects of an upper."""
    return {name: (info["mode"], {key: value for key, value in info["xattrs"].items()
                                  if key.endswith((".redirect", ".opaque"))})
            for name, info in snapshot(upper, private=True).items()}


def test_without_an_index_and_with_wrong_lowers(ov, used, move):
    """Nothing that is seen in upper is mended by what the lowers show: with the right ones all is there again."""
    move.upper("xfs", by_rsync)
    before = what_hides(ov.upper)
    right, wrong = ov.lowers, move.directory("ext4", "wrong")
    for lowers in ([wrong], right):
        lose_workdir(ov)
        ov.lowers, ov.before = lowers, None
        run(CTL, "rebind", "-o", ov.option_string())
        assert what_hides(ov.upper) == before
    after = tree_of(ov.mount())
    assert set(after) == set(used.tree)
    for name, info in used.tree.items():
        if "content" in info and info["nlink"] == 1:
            assert after[name]["content"] == info["content"], name
    ov.check_links = False  # what was in the index alone


def test_rebuilt_after_a_move(ov, move):
    """A renamed directory has another number than lower gives to where it was: the check ends, clean."""
    with ov.lower() as low:
        write(low / "dir/inner/file", "file\n")
        write(low / "other/file", "other\n")
    mnt = ov.mount()
    os.rename(mnt / "dir/inner", mnt / "renamed")
    os.rename(mnt / "other", mnt / "another")
    run(CTL, "map", mnt)
    ov.umount()
    move.all("xfs", "ext4", by_rsync)
    assert rebind(ov)["told"] == []
    seen = numbers(ov.mount())
    ov.umount()
    lose_workdir(ov)
    assert ov.ctl("repair", "--rebuild", "-p")[0] == 1
    code, found = ov.ctl("check")
    assert code == 0, found
    mnt = ov.mount()
    for name in ("renamed", "another"):
        assert ino(mnt / name) == seen[name]
    assert (mnt / "renamed/file").read_text() == "file\n"
    check_tree(mnt)
