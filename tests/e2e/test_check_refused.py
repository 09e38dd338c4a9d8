# SPDX-License-Identifier: GPL-2.0-or-later
"""What check, repair, import and fsck refuse they leave as it was, to the byte; and nothing is said to be mended.

An overlay that is a copy, of other layers, of two overlays, of a newer version or the kernel's is refused before
anything of it is judged: with exit code 8, by each command and also where it had ended cleanly.
"""

import os
import shutil
import struct

import pytest

from rvl import CTL, run
from snapshots import assert_same, numbers, snapshot
from test_check import flip, ids, use
from test_check_run import fsck, newer
from test_faults import newer_version, seal
from test_rebind import Move, by_rsync
from test_rebind_rebuilt import lose_workdir
from trees import write

pytestmark = pytest.mark.reverlay_only("check is of reverlay")


def ctl(*args):
    """reverlayctl: (exit code, standard output and error)."""
    done = run(CTL, *args, check=False)
    assert done.returncode >= 0, done
    return done.returncode, done.stdout


def used(ov):
    """An overlay in use, with a map, that is not mounted; the numbers it showed."""
    use(ov)
    before = numbers(ov.mnt)
    run(CTL, "map", ov.mnt)
    ov.umount()
    return before


def copy(ov, keep_lower=True):
    """The overlay goes on as a copy of its layers, beside the original."""
    old = ov.base
    ov.base = old.with_name(old.name + ".copy")
    run("cp", "-a", old, ov.base)
    ov.upper, ov.work = ov.base / "upper", ov.base / "work"
    if not keep_lower:
        other_lowers(ov)
    return old


def other_lowers(ov):
    other = ov.lower_base / "other"
    run("cp", "-a", ov.lowers[0], other)
    os.unlink(other / "big")
    ov.lowers = [other]
    ov.before = None


def damage_map(ov):
    path, = (ov.work / "inodes").glob("map.mdb*")
    for at in range(16, path.stat().st_size, 64):
        flip(path, at)


# What is done to an overlay that is not mounted; `other`: a second one.


def is_copy(ov, other):
    copy(ov)


def is_copy_with_its_lower(ov, other):
    copy(ov, keep_lower=False)


def is_copy_after_a_volatile_crash(ov, other):
    ov.mount("volatile")
    ov.kill()
    copy(ov)
    (ov.work / "inodes/log").write_bytes(b"no log at all, and it has been one")
    write(ov.work / "inodes/log.new", b"x")
    write(ov.work / "inodes/map.seal.new", b"x")
    write(ov.work / "work/#77", b"half")


def has_other_lowers(ov, other):
    other_lowers(ov)


def has_other_lowers_and_a_damaged_map(ov, other):
    damage_map(ov)
    other_lowers(ov)


def has_other_lowers_after_a_rebind(ov, other):
    run(CTL, "rebind", "-o", ov.option_string())
    other_lowers(ov)


def has_other_lowers_and_lost_its_map(ov, other):
    run(CTL, "rebind", "-o", ov.option_string())
    damage_map(ov)
    other_lowers(ov)


def is_two(ov, other):
    ov.work = other.work


def is_the_kernels(ov, other):
    run(CTL, "import", "--to-kernel", "-o", ov.option_string())


def has_a_newer_log(ov, other):
    newer(ov, "log")


def has_a_newer_table(ov, other):
    newer(ov, "table")


def has_a_newer_state(ov, other):
    path = ov.work / "inodes/state"
    data = bytearray(path.read_bytes())
    newer_version(data)
    path.write_bytes(seal(data))


def has_a_newer_map(ov, other):
    """It alone has numbers, so that nobody goes on without it."""
    run(CTL, "rebind", "-o", ov.option_string())
    path, = (ov.work / "inodes").glob("map.mdb.*")
    seal_file, = (ov.work / "inodes").glob("map.seal.*")
    data = path.read_bytes()
    now = b"format" + struct.pack("<I", 2)
    assert now in data
    path.write_bytes(data.replace(now, b"format" + struct.pack("<I", 3)))
    seal_file.unlink()


REFUSED = [is_copy, is_copy_with_its_lower, is_copy_after_a_volatile_crash, has_other_lowers,
           has_other_lowers_and_a_damaged_map, has_other_lowers_after_a_rebind, has_other_lowers_and_lost_its_map,
           is_two, is_the_kernels, has_a_newer_log, has_a_newer_table, has_a_newer_state,
           has_a_newer_map]


def restore(ov):
    """What the fixture checks at the end is the original."""
    ov.check_remount = ov.check_clean = ov.check_links = False
    ov.before = None


@pytest.mark.parametrize("what", REFUSED, ids=lambda f: f.__name__)
def test_refused_is_untouched(overlays, what):
    """Exit code 8 with the reason, from every command; and not a byte, attribute or time has changed."""
    ov, other = overlays(), overlays()
    used(ov)
    if what is is_two:
        used(other)
    base = ov.base
    what(ov, other)
    roots = {base, ov.base, other.base}
    before = {root: snapshot(root, private=True, ctime=True) for root in roots}
    options = ov.option_string()
    is_newer = what.__name__.startswith("has_a_newer")
    for args in (["check"], ["check", "-v"], ["repair", "-p"], ["repair", "-y"], ["repair", "--rebuild"]):
        code, found = ov.ctl(*args)
        assert (code, found["problems"]) == (8, []), (args, found)
        assert ("newer version" if is_newer else "reverlayctl") in found["stderr"], (args, found)
    others = [fsck("-fp", "-o", options), fsck("-y", "-o", options)]
    if what is not has_a_newer_map:  # -p reads no map
        others += [fsck("-p", "-o", options)]
    if what is not is_the_kernels:
        others += [ctl("import", "-o", options), ctl("import", "--to-kernel", "-o", options)]
    for code, text in others:
        assert code == 8 and ("newer version" if is_newer else "reverlayctl") in text, text
        assert "Mended" not in text
    for args in [("map",)] + [("rebind",), ("rebind", "--dry-run")] * is_newer:
        code, text = ctl(*args, "-o", options)
        assert code and ("newer version" if is_newer else "reverlayctl") in text, text
    if is_newer and what is not has_a_newer_map:
        code, text = fsck("-p", ov.work)
        assert code == 8 and "newer version" in text, text
    for root in roots:
        assert_same(before[root], snapshot(root, private=True, ctime=True), f"{what.__name__}: {root}")
    restore(ov)
    restore(other)
    if ov.base != base:
        shutil.rmtree(base)


def test_a_newer_map_comes_before_the_mark(ov):
    """A repair that cannot read the map does not remove the mark of a volatile mount first."""
    used(ov)
    has_a_newer_map(ov, None)
    write(ov.work / "work/incompat/volatile/dirty")
    before = snapshot(ov.base, private=True, ctime=True)
    code, found = ov.ctl("repair", "-y")
    assert (code, found["problems"]) == (8, []) and "newer version" in found["stderr"], found
    assert_same(before, snapshot(ov.base, private=True, ctime=True), "refused")
    restore(ov)


def test_a_copy_keeps_its_map(ov):
    """After all that was refused the rebind that was named knows every number."""
    before = used(ov)
    old = copy(ov, keep_lower=False)
    write(ov.lowers[0] / "big", b"big\n")
    for args in (["check"], ["repair", "-p"], ["repair", "-y"]):
        assert ov.ctl(*args)[0] == 8
    run(CTL, "rebind", "-o", ov.option_string())
    now = numbers(ov.mount())
    assert {name for name in before if now.get(name) != before[name]} <= {"big"}
    shutil.rmtree(old)


def test_the_right_lowers_are_taken_after_all(ov):
    """A rebind's map that is lost is retired with its own lowers, whatever was tried with others before."""
    used(ov)
    run(CTL, "rebind", "-o", ov.option_string())
    damage_map(ov)
    right = ov.lowers
    other_lowers(ov)
    for args in (["repair", "-p"], ["repair", "-y"]):
        assert ov.ctl(*args)[0] == 8
    ov.lowers = right
    assert ids(ov.ctl("check")[1]) == {"map-lost"}
    assert ov.ctl("repair", "-p")[0] == 1
    ov.mount()
    assert not os.path.exists(ov.mnt / "lost+found")


# -- what is said to be mended ----------------------------------------------------------------


def test_not_opened_is_not_mended(ov):
    """What the open of the index mends is not said to be mended where that fails."""
    used(ov)
    os.setxattr(ov.upper, "trusted.overlay.instances", b"no table")
    with open(ov.work / "inodes/log", "ab") as log:
        log.write(b"half a record")
    write(ov.work / "work/#77", b"half")
    run("chattr", "+i", ov.work / "work/#77")
    try:
        code, found = ov.ctl("repair", "-y", "-v")
        assert code == 8 and ids(found) == {"table-damaged", "log-damaged", "leftover-temporary"}, found
        assert {p["outcome"] for p in found["problems"]} == {"failed"} and found["mended"] == 0
        assert found["left"] == 2  # the third is a note
    finally:
        run("chattr", "-i", ov.work / "work/#77")
    assert os.getxattr(ov.upper, "trusted.overlay.instances") == b"no table"
    code, found = ov.ctl("repair", "-y", "-v")
    assert code == 1 and {p["outcome"] for p in found["problems"]} == {"mended"}, found
    ov.mount()


def test_without_a_state_nothing_is_opened(ov):
    """A state that is damaged: the index is not opened, and nothing that an open does is told as done."""
    used(ov)
    state = (ov.work / "inodes/state").read_bytes()
    flip(ov.work / "inodes/state", 200)
    write(ov.work / "work/#77", b"half")
    code, found = ov.ctl("repair", "-p", "-v")
    outcomes = {p["id"]: p["outcome"] for p in found["problems"]}
    assert code == 4 and outcomes == {"state-damaged": "found", "leftover-temporary": "found"}, found
    assert (ov.work / "work/#77").exists()
    (ov.work / "inodes/state").write_bytes(state)
    ov.mount()


def test_not_clean_while_something_is_left(ov):
    """It counts as not cleanly stopped until nothing is left, and is told so."""
    use(ov)
    ov.umount()
    ov.mount()
    ov.kill()
    write(ov.work / "inodes/07/notes", b"a stranger\n")
    for expected in ("found", "mended"):
        code, found = ov.ctl("repair", "-p" if expected == "found" else "-y", "-v")
        outcomes = {p["id"]: p["outcome"] for p in found["problems"]}
        assert code == (4 if expected == "found" else 1) and outcomes["not-clean"] == expected, found
    assert fsck("-p", ov.work) == (0, "reverlay: clean\n")
    ov.mount()


# -- the mark of a volatile mount -------------------------------------------------------------


def test_a_mark_that_stays(ov):
    """-p leaves it, and looks at the rest as -n does: the same is found, the same code, and nothing is changed."""
    used(ov)
    ov.mount("volatile")
    ov.kill()
    os.removexattr(ov.upper / "file", "trusted.overlay.ino")
    write(ov.work / "inodes/log.new", b"x")
    with open(ov.work / "inodes/log", "ab") as log:
        log.write(b"half a record")
    before = snapshot(ov.base, private=True, ctime=True)
    found = [ov.ctl(*args, "-v") for args in (["check"], ["repair", "-n"], ["repair", "-p"])]
    for code, report in found:
        assert (code, ids(report)) == (4, {"volatile-mark", "stamp-wrong", "log-damaged", "not-clean",
                                           "leftover-temporary"}), report
        assert {p["outcome"] for p in report["problems"]} == {"found"}
    for args in (["-p", ov.work], ["-fp", ov.work], ["-n", ov.work]):
        code, text = fsck(*args)
        assert code == 4 and "volatile-mark" in text and "cannot be checked" not in text, text
    assert_same(before, snapshot(ov.base, private=True, ctime=True), "a mark that stays")
    assert ov.ctl("repair", "-y")[0] == 1
    ov.mount()


@pytest.mark.parametrize("is_clean", [False, True])
def test_a_mark_and_a_clean_end(ov, is_clean):
    """A volatile mount that was unmounted has its mark: -p does not call that clean."""
    use(ov)
    ov.remount("volatile")
    if is_clean:
        ov.umount()
    else:
        ov.kill()
    assert fsck("-p", ov.work)[0] == 4
    assert ov.ctl("repair", "-y")[0] == 1
    assert fsck("-p", ov.work) == (0, "reverlay: clean\n")
    ov.mount()


def test_a_mark_in_an_upper_that_was_never_ours(ov):
    """What forbids the first mount is told before it."""
    with ov.lower() as low:
        write(low / "file", b"lower\n")
    mnt = ov.mount("volatile", kernel=True)
    write(mnt / "file", b"changed\n")
    ov.umount()
    assert (ov.work / "work/incompat/volatile/dirty").exists()
    for args in (["check"], ["repair", "-p"]):
        code, found = ov.ctl(*args)
        assert (code, ids(found)) == (4, {"volatile-mark"}), found
    code, text = ctl("import", "-o", ov.option_string())
    assert code == 8 and "volatile" in text
    code, found = ov.ctl("repair", "-y")
    assert (code, ids(found)) == (1, {"volatile-mark"}), found
    assert ov.ctl("check")[0] == 0
    assert (ov.mount() / "file").read_bytes() == b"changed\n"


# -- a workdir as the operand ------------------------------------------------------------------


@pytest.mark.parametrize("how", ["copy", "beside", "moved"])
def test_the_workdir_of_a_copy(ov, how):
    """Its state has the paths of the original: it is said that the layers are to be named, and no command is."""
    used(ov)
    original = ov.base
    if how == "beside":  # upper is its own, and only the workdir is a copy
        ov.base = original / "beside"
        ov.base.mkdir()
        run("cp", "-a", original / "work", ov.base / "work")
    elif how == "copy":
        copy(ov)
    else:
        ov.base = original.with_name(original.name + ".moved")
        os.rename(original, ov.base)
        original.mkdir()
    work = ov.base / "work"
    before = [snapshot(path, private=True, ctime=True) for path in (original, ov.base)]
    commands = [fsck(*args, work) for args in (["-n"], ["-p"], ["-fp"], ["-fy"])]
    commands += [ctl(*args, work) for args in (["check"], ["repair", "-y"], ["repair", "--rebuild"])]
    for code, text in commands:
        assert code == 8 and str(original / "work") in text and " -o lowerdir=" in text, text
        assert "rebind" not in text and str(ov.lowers[0]) not in text, text
    assert before == [snapshot(path, private=True, ctime=True) for path in (original, ov.base)]
    if how == "moved":  # named, they are what they were: nothing but paths has changed
        ov.upper, ov.work = ov.base / "upper", work
        assert ov.ctl("check")[0] == 0
        ov.mount()
        ov.umount()
        assert fsck("-n", work)[0] == 0
    restore(ov)
    ov.base = original
    shutil.rmtree(work.parent)


# -- found on the way -----------------------------------------------------------------------


@pytest.mark.parametrize("is_user", [True, False])
def test_other_attributes(ov, is_user):
    """Without the userxattr that it was made with, or with one, all would seem lost: refused, and untouched."""
    made, other = (["userxattr", "redirect_dir=on"], []) if is_user else ([], ["userxattr"])
    ov.options = made
    use(ov)
    before = snapshot(ov.mnt), numbers(ov.mnt)
    ov.umount()
    layers = [snapshot(path, private=True) for path in (ov.upper, ov.work)]
    ov.options = other
    for args in (["check"], ["repair", "-p"], ["repair", "-y"], ["repair", "--rebuild"]):
        code, found = ov.ctl(*args)
        assert code == 8 and "userxattr" in found["stderr"], (args, found)
    for args in (["import"], ["rebind"]):
        done = run(CTL, *args, "-o", ov.option_string(), check=False)
        assert done.returncode and "userxattr" in done.stdout, (args, done.stdout)
    done = run(*ov.command(), check=False)
    assert done.returncode and "userxattr" in done.stdout, done.stdout
    assert [snapshot(path, private=True) for path in (ov.upper, ov.work)] == layers
    ov.options = made
    mnt = ov.mount()
    assert (snapshot(mnt), numbers(mnt)) == before


@pytest.mark.parametrize("way", ["beside the originals", "to another filesystem"])
def test_rebuild_of_copied_layers(ov, images, way):
    """Without an index --rebuild goes by handles, which lead nowhere in a copy: refused, and the command helps."""
    before = used(ov)
    if way == "beside the originals":
        copy(ov)
        lower = ov.lower_base / "copied"
        run("cp", "-a", ov.lowers[0], lower)
        ov.lowers, ov.before = [lower], None
    else:
        Move(ov, images).all("xfs", "xfs", by_rsync)
    lose_workdir(ov)
    tree = snapshot(ov.base, private=True, ctime=True)
    code, said = ctl("repair", "--rebuild", "-y", "-o", ov.option_string())
    assert code == 8 and "copied or replaced" in said, said
    assert_same(tree, snapshot(ov.base, private=True, ctime=True), "after the refusal")
    command = said[said.index("reverlayctl rebind"):].splitlines()[0]
    run("sh", "-c", command.replace("reverlayctl", CTL, 1))
    after = numbers(ov.mount())
    kept = [name for name in before if os.path.lexists(ov.upper / name)]
    assert len(kept) > 3 and all(after[name] == before[name] for name in kept)
    ov.check_links = False  # what was in the index alone


@pytest.mark.layouts()
def test_rebuild_where_they_were(ov):
    """What is where it was is not taken for a copy, whatever filesystems the lowers are on."""
    before = used(ov)
    lose_workdir(ov)
    code, said = ctl("repair", "--rebuild", "-p", "-o", ov.option_string())
    assert code == 1, said
    code, found = ov.ctl("check")
    assert code == 0, found
    after = numbers(ov.mount())
    for name in before:
        if os.path.lexists(ov.upper / name):
            assert after[name] == before[name], name
    ov.check_links = False  # what was in the index alone


def test_rebuild_without_a_table(ov, images):
    """Nor could a rebind go on without the table of upper's root: what there is is made of it, as it lies."""
    used(ov)
    Move(ov, images).all("xfs", "xfs", by_rsync)
    lose_workdir(ov)
    os.removexattr(ov.upper, "trusted.overlay.instances")
    code, _ = ctl("repair", "--rebuild", "-y", "-o", ov.option_string())
    assert code == 1
    ov.mount()
    ov.check_links = False


@pytest.mark.parametrize("has_index", [True, False])
def test_rebind_of_a_volatile_one(ov, has_index):
    """The mark is not for a rebind to take away, whether it has to make the index again or not."""
    use(ov)
    ov.umount()
    ov.mount("volatile")
    ov.umount()
    if not has_index:
        shutil.rmtree(ov.work / "inodes")
    for args in (["--dry-run"], []):
        done = run(CTL, "rebind", *args, "-o", ov.option_string(), check=False)
        assert done.returncode == 1 and "volatile" in done.stdout, done.stdout
    assert (ov.work / "work/incompat/volatile").exists()
    code, found = ov.ctl("repair", "--rebuild", "-p")
    assert code == 4 and (has_index or not (ov.work / "inodes/state").exists()), found
    shutil.rmtree(ov.work / "work/incompat")
    if has_index:
        (ov.work / "work/incompat").write_bytes(b"")
        done = run(*ov.command(), check=False)
        assert done.returncode and "work/incompat cannot be read" in done.stdout, done.stdout
        (ov.work / "work/incompat").unlink()
    ov.ctl("repair", "--rebuild")
    ov.before = None
    ov.mount()
