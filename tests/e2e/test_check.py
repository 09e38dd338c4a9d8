# SPDX-License-Identifier: GPL-2.0-or-later
"""The damage catalogue: each problem that check knows is made, found, mended, and gone.

A case is a function that does the damage to an overlay that is not mounted. Then check must find
exactly that, repair must mend it, check must find nothing, and the mount must show the same tree
with the same numbers and data as before, but for what the case names.
"""

import os
import re
import shutil

import pytest

from rvl import CTL, TOP, run
from snapshots import numbers, snapshot
from trees import cut_short, standard_tree, whiteout, write

pytestmark = pytest.mark.reverlay_only("check is of reverlay")

X = "trusted.overlay."
TABLE = re.findall(r'X\(\w+, "([\w-]+)", RVL_(\w+),', (TOP / "src/check/problem.h").read_text())
SEVERITY = dict(TABLE)
CASES = {}


class Case:
    """What a case may use: the overlay, the numbers it showed, and what is to differ afterwards."""

    def __init__(self, ov, number):
        self.ov = ov
        self.number = number
        self.upper = ov.upper
        self.work = ov.work
        self.finds = set()  # what follows from it and is found too
        self.changes = set()  # paths that may differ
        self.new_numbers = set()  # paths whose number may differ
        self.repair = ["-y"]
        self.stays = set()  # ids that a repair leaves to the mount
        self.adds = set()  # names that are new in lost+found

    def entry(self, name):
        number = self.number[name]
        return self.work / "inodes" / f"{number & 0xff:02x}" / f"#{number}"

    def set(self, name, attribute, value):
        os.setxattr(self.upper / name, X + attribute, value, follow_symlinks=False)


def case(problem):
    def add(function):
        CASES[problem, function.__name__] = function
        return function
    return add


def use(ov):
    """An overlay in use: lower, copied-up, renamed, linked, removed, born objects of each kind."""
    with ov.lower() as low:
        standard_tree(low)
        write(low / "other/a", b"a\n")
        write(low / "other/b", b"b\n")
        write(low / "meta", b"data\n")
        write(low / "renamed meta", b"c\n")
        write(low / "victim", b"v\n")
    mnt = ov.mount()
    write(mnt / "file", b"changed\n")
    write(mnt / "hard1", b"hard, changed\n")
    os.rename(mnt / "dir", mnt / "moved")
    write(mnt / "moved/inner", b"inner, changed\n")
    write(mnt / "new", b"new\n")
    write(mnt / "newdir/x", b"x\n")
    os.link(mnt / "new", mnt / "newdir/new2")
    (mnt / "newdir/empty").mkdir()
    os.unlink(mnt / "symlink")
    shutil.rmtree(mnt / "sticky")
    (mnt / "sticky").mkdir()
    os.symlink("target", mnt / "newlink")
    os.mkfifo(mnt / "newfifo")
    write(mnt / "other/a", b"a, changed\n")
    os.chown(mnt / "dangling", 5, 6, follow_symlinks=False)
    os.chown(mnt / "meta", 5, 6)
    os.chown(mnt / "renamed meta", 5, 6)
    os.unlink(mnt / "victim")
    os.rename(mnt / "renamed meta", mnt / "victim")
    write(mnt / "removed")
    os.unlink(mnt / "removed")


def ids(found):
    return {problem["id"] for problem in found["problems"]}


@pytest.mark.parametrize("problem,name", list(CASES) or [("", "")])
def test_damage(ov, problem, name):
    """Made, found by its id, mended, gone; the tree is what it was."""
    use(ov)
    before = snapshot(ov.mnt), numbers(ov.mnt)
    ov.umount()
    c = Case(ov, before[1])
    CASES[problem, name](c)
    finds = c.finds | {problem}
    code, found = ov.ctl("check", "-v")
    assert ids(found) == finds, found
    assert code == (4 if any(SEVERITY[i] != "NOTE" for i in finds) else 0)
    code, found = ov.ctl("repair", "-v", *c.repair)
    assert code == (1 if finds - c.stays else 0), found
    mended = {p["id"] for p in found["problems"] if p["outcome"] == "mended"}
    assert problem in mended | c.stays | {"index-lost", "state-damaged"}
    assert_mended(ov, c, before)


def assert_mended(ov, c, before):
    """Nothing is found any more, and the tree is what it was."""
    code, found = ov.ctl("check", "-v")
    assert (code, ids(found)) == (0, c.stays), found
    # the damage itself may have changed what the layers are
    ov.before = None
    mnt = ov.mount()
    after = snapshot(mnt), numbers(mnt)
    lost = {p for p in after[0] if p.startswith("lost+found")}
    differ = {p for p in set(before[0]) | set(after[0])
              if before[0].get(p) != after[0].get(p) and p not in c.changes | c.new_numbers | lost}
    differ -= {p for p in differ if p == "." or after[0].get(p, {}).get("mode", "").startswith("0o4")
               and only_times(before[0].get(p), after[0].get(p))}
    assert not differ, {p: (before[0].get(p), after[0].get(p)) for p in differ}
    assert {os.path.basename(p) for p in lost} - {"lost+found"} == c.adds
    for path, number in before[1].items():
        if path not in c.new_numbers | c.changes:
            assert after[1][path] == number, path
    write(mnt / "born after", b"1\n")
    assert os.lstat(mnt / "born after").st_ino not in before[1].values()


def only_times(old, new):
    """Mending changes the times and link counts of directories, and nothing else."""
    keys = ("mode", "uid", "gid", "xattrs", "ino")
    return old and new and all(old.get(k) == new.get(k) for k in keys)


# -- the index as a whole -------------------------------------------------------------------


@case("index-lost")
def workdir_is_gone(c):
    shutil.rmtree(c.work)
    c.work.mkdir()
    c.repair = ["--rebuild"]


@case("state-damaged")
def a_byte_of_the_state(c):
    flip(c.work / "inodes/state", 200)
    c.repair = ["--rebuild"]


@case("not-clean")
def killed(c):
    c.ov.mount()
    c.ov.kill()


@case("volatile-mark")
def volatile(c):
    (c.work / "work/incompat/volatile").mkdir(parents=True)


@case("volatile-mark")
def volatile_of_the_kernel(c):
    """Its mark has a file in it."""
    write(c.work / "work/incompat/volatile/dirty")


@case("table-damaged")
def table(c):
    os.setxattr(c.upper, X + "instances", b"no table")


@case("table-damaged")
def table_missing(c):
    os.removexattr(c.upper, X + "instances")


@case("log-damaged")
def torn_log(c):
    with open(c.work / "inodes/log", "ab") as log:
        log.write(b"half a record")


@case("log-damaged")
def no_log(c):
    (c.work / "inodes/log").write_bytes(b"something else, and no log at all")


@case("log-pending")
def killed_with_an_orphan(c):
    mnt = c.ov.mount()
    with open(mnt / "orphan", "wb"):
        os.unlink(mnt / "orphan")
        c.ov.kill()
    c.finds = {"not-clean"}


@case("counter-behind")
def state_of_yesterday(c):
    old = (c.work / "inodes/state").read_bytes()
    mnt = c.ov.mount()
    write(mnt / "newest")
    c.changes = {"newest"}
    c.ov.umount()
    (c.work / "inodes/state").write_bytes(old)


@case("map-damaged")
def bytes_of_the_map(c):
    make_map(c)
    size = (c.work / "inodes/map.mdb").stat().st_size
    for at in range(4096, size, 512):
        flip(c.work / "inodes/map.mdb", at)


@case("map-lost")
def map_of_a_rebind(c):
    run(CTL, "rebind", "-o", c.ov.option_string())
    path, = (c.work / "inodes").glob("map.mdb.*")
    for at in range(16, path.stat().st_size, 64):
        flip(path, at)
    c.new_numbers = {name for name in c.number if name != "." and not os.path.lexists(c.entry(name))}


@case("map-stale")
def lower_has_changed(c):
    make_map(c)
    write(c.ov.lowers[0] / "later", b"later\n")
    c.changes = {"later"}


@case("leftover-temporary")
def temporaries(c):
    write(c.work / "work/#77", b"half")
    (c.work / "work/#78").mkdir()
    write(c.work / "work/#78/in", b"half")


@case("leftover-companion")
def companion(c):
    write(c.work / "inodes/c/123456789")


# -- entries --------------------------------------------------------------------------------


@case("entry-misplaced")
def entry_in_another_directory(c):
    entry = c.entry("new")
    os.rename(entry, entry.parent.parent / "ff" / entry.name if (entry.parent.parent / "ff").is_dir()
              else shelf(c, "ff") / entry.name)
    c.finds = {"object-without-entry"}


@case("entry-misplaced")
def stranger_in_the_index(c):
    write(shelf(c, "07") / "notes", b"do not lose me\n")
    c.adds = {"notes"}


@case("entry-damaged")
def malformed_path(c):
    os.setxattr(c.entry("newdir"), X + "path", b"x")


@case("entry-damaged")
def no_path(c):
    os.removexattr(c.entry("moved"), X + "path")


@case("entry-without-object")
def removed_directory(c):
    os.rmdir(c.upper / "newdir/empty")
    c.changes = {"newdir/empty"}


@case("entry-without-name")
def lost_file(c):
    os.unlink(c.upper / "newdir/x")
    # a name that is lost with its directory leaves the file's ctime as it was
    os.utime(c.work / "inodes/state")
    c.changes = {"newdir/x"}
    c.adds = {f"#{c.number['newdir/x']}"}


@case("entry-removed")
def removed_file(c):
    os.unlink(c.upper / "newdir/x")
    c.changes = {"newdir/x"}


@case("entry-removed")
def removed_by_the_kernel(c):
    mnt = c.ov.mount(kernel=True)
    os.unlink(mnt / "newdir/x")
    os.unlink(mnt / "other/a")
    c.ov.umount()
    c.changes = {"newdir/x", "other/a"}


@case("entry-hidden")
def copied_up_file_removed(c):
    os.unlink(c.upper / "other/a")
    c.changes = {"other/a"}
    c.adds = {f"#{c.number['other/a']}"}


@case("object-without-entry")
def no_entry_of_a_file(c):
    os.unlink(c.entry("file"))


@case("object-without-entry")
def no_entries_at_all(c):
    for i in range(256):
        shutil.rmtree(c.work / f"inodes/{i:02x}", ignore_errors=True)
    # the tombstones go, too: what is dead has no name either


@case("tombstone-alive")
def tombstone_of_a_file(c):
    os.unlink(c.entry("new"))
    whiteout(c.entry("new"))


@case("tombstone-alive")
def tombstone_of_a_lower_file(c):
    shelf(c, c.entry("big").parent.name)
    whiteout(c.entry("big"))


# -- stamps ---------------------------------------------------------------------------------


@case("stamp-missing")
def put_there_offline(c):
    write(c.upper / "stranger", b"s\n")
    write(c.upper / "strange/deep/er", b"s\n")
    c.changes = {"stranger", "strange", "strange/deep", "strange/deep/er"}


@case("stamp-damaged")
def malformed_stamp(c):
    write(c.upper / "stranger", b"s\n")
    c.set("stranger", "ino", b"what?")
    c.changes = {"stranger"}


@case("stamp-wrong")
def stamps_lost(c):
    for name in ("file", "newdir", "moved", "newlink"):
        os.removexattr(c.upper / name, X + "ino", follow_symlinks=False)


@case("stamp-wrong")
def stamps_exchanged(c):
    a, b = (os.getxattr(c.upper / name, X + "ino") for name in ("file", "new"))
    c.set("file", "ino", b)
    c.set("new", "ino", a)


@case("stamp-twice")
def copied_with_attributes(c):
    run("cp", "-a", c.upper / "file", c.upper / "copy")
    run("cp", "-a", c.upper / "newdir", c.upper / "newdir2")
    c.changes = {"copy"} | {f"newdir2{x}" for x in ("", "/x", "/new2", "/empty")}


# -- records of directories -----------------------------------------------------------------


@case("path-stale")
def renamed_offline(c):
    os.rename(c.upper / "newdir", c.upper / "elsewhere")
    c.changes = {p for p in c.number if p.startswith("newdir")}
    c.changes |= {p.replace("newdir", "elsewhere", 1) for p in c.changes}


@case("upper-stale")
def no_upper_handle(c):
    os.removexattr(c.entry("newdir"), X + "upper")


@case("upper-stale")
def handle_of_another(c):
    os.setxattr(c.entry("newdir"), X + "upper", os.getxattr(c.entry("newdir/empty"), X + "upper"))


@case("fh-stale")
def no_lower_handle(c):
    os.removexattr(c.entry("moved"), X + "fh")


@case("place-stale")
def place_of_a_directory(c):
    os.setxattr(c.entry("moved"), X + "place", (1).to_bytes(8, "little") + b"nowhere")


@case("place-stale")
def malformed_place(c):
    c.set("file", "place", b"?")


@case("place-missing")
def no_place(c):
    os.removexattr(c.upper / "file", X + "place")


@case("origin-stale")
def origin(c):
    value = bytearray(os.getxattr(c.upper / "file", X + "origin"))
    value[-4:] = b"\xff\xff\xff\x7f"
    c.set("file", "origin", bytes(value))


@case("origin-stale")
def origin_lost(c):
    os.removexattr(c.upper / "file", X + "origin")


@case("origin-stale")
def malformed_origin(c):
    c.set("moved", "origin", b"\0\xfb what")


@case("nlink-wrong")
def too_few_links(c):
    c.set("hard1", "nlink", b"U-2")


@case("nlink-wrong")
def too_many_links(c):
    c.set("hard1", "nlink", b"U+7")


@case("nlink-wrong")
def malformed_nlink(c):
    c.set("hard1", "nlink", b"many")


# -- what hides and merges ------------------------------------------------------------------


@case("directory-twice")
def two_of_one_lower(c):
    (c.upper / "twin").mkdir()
    c.set("twin", "redirect", b"/dir")
    c.finds = {"stamp-missing"}
    c.changes = {"twin"}


@case("directory-twice")
def whiteout_lost(c):
    os.unlink(c.upper / "dir")


@case("redirect-loop")
def below_itself(c):
    (c.upper / "moved/loop").mkdir()
    c.set("moved/loop", "redirect", b"/dir")
    c.finds = {"stamp-missing"}
    c.changes = {"moved/loop"}


@case("redirect-value")
def redirect_outside(c):
    c.set("moved", "redirect", b"/../../etc")


@case("redirect-dangling")
def redirect_to_nothing(c):
    c.set("moved", "redirect", b"/nowhere")


@case("redirect-missing")
def redirect_lost(c):
    os.removexattr(c.upper / "moved", X + "redirect")


@case("redirect-value")
def redirect_of_a_file(c):
    """By its name it would be lower's "victim", which was removed."""
    c.set("victim", "redirect", b"/dir/../other/b")


@case("opaque-value")
def opaque_value(c):
    c.set("newdir", "opaque", b"zz")


@case("opaque-value")
def opaque_value_that_hides(c):
    c.set("sticky", "opaque", b"zz")


@case("opaque-missing")
def opaque_lost(c):
    os.removexattr(c.upper / "sticky", X + "opaque")


@case("impure-value")
def impure_value(c):
    c.set("newdir", "impure", b"no")


@case("protattr-value")
def protattr_value(c):
    c.set("file", "protattr", b"ix")


@case("protattr-value")
def protattr_of_a_directory(c):
    c.set("newdir", "protattr", b"")


@case("metacopy-value")
def metacopy_value(c):
    c.set("file", "metacopy", b"\xff\xff\xff\xff\xff")


@case("metacopy-value")
def metacopy_on_a_whole_file(c):
    """"hard1" has more data than its lower file: opened as a metacopy file, it would show lower's."""
    c.set("hard1", "metacopy", b"")


@case("metacopy-value")
def metacopy_of_other_data(c):
    """"meta" has its attributes alone in upper: its size is that of lower's file again."""
    path = c.upper / "meta"
    old = os.stat(path)
    os.truncate(path, 5000)
    os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns))


@case("metacopy-data")
def redirect_of_a_file_lost(c):
    os.removexattr(c.upper / "victim", X + "redirect")


@case("metacopy-data")
def redirect_to_another_file(c):
    c.set("victim", "redirect", b"/other/b")


@case("metacopy-data")
def redirect_of_a_file_to_nothing(c):
    c.set("victim", "redirect", b"/nowhere")


@case("metacopy-data")
def redirect_and_metacopy(c):
    os.removexattr(c.upper / "victim", X + "redirect")
    c.set("victim", "metacopy", b"\xff\xff\xff\xff\xff")
    c.finds = {"metacopy-value"}


@case("metacopy-data")
def redirect_and_origin(c):
    """Its number still says what it was copied up from."""
    c.set("victim", "redirect", b"/other/b")
    c.set("victim", "origin", b"")


@case("metacopy-fetch")
def fetch_of_data_cut_short(c):
    """Half of the data of "meta" are there, and the time is that of their copy."""
    path = c.upper / "meta"
    cut_short(path)
    path.write_bytes(b"da")


@case("whiteout-useless")
def whiteout_over_nothing(c):
    whiteout(c.upper / "newdir/nothing")


@case("whiteout-in-opaque")
def whiteout_in_opaque(c):
    whiteout(c.upper / "sticky/nothing")


# -- helpers --------------------------------------------------------------------------------


def flip(path, at):
    with open(path, "r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 0x5a]) if byte else b"")


def shelf(c, name):
    path = c.work / "inodes" / name
    path.mkdir(exist_ok=True)
    return path


def make_map(c):
    run(CTL, "map", "-o", c.ov.option_string())
    assert (c.work / "inodes/map.mdb").is_file()


# The cases are defined below their test, so that it is read first.
test_damage.pytestmark = [m for m in test_damage.pytestmark if m.name != "parametrize"] + [
    pytest.mark.parametrize("problem,name", list(CASES),
                            ids=[f"{p}-{n}" for p, n in CASES]).mark]


def test_every_problem_has_a_case():
    """The catalogue is whole."""
    others = {"claims-out-of-step", "entry-dead"}  # have tests of their own in test_check_run
    assert set(SEVERITY) == {problem for problem, _ in CASES} | others
