# SPDX-License-Identifier: GPL-2.0-or-later
"""Uppers of the kernel's overlayfs that become ours, and ours that become the kernel's.

The kernel makes an upper with everything that it can make there; it is imported, and reverlay must
show the same tree, with the numbers and links that the kernel showed for what came from lower.
"""

import json
import os
import shutil
import signal
import stat
import subprocess

import pytest

import sysc
from rvl import CTL, run
from snapshots import assert_same, check_tree, difference, numbers, snapshot, xattrs_of
from trees import ino, listing, standard_tree, write

pytestmark = pytest.mark.reverlay_only("import is of reverlay")

OPTIONS = {"index": ["index=on", "redirect_dir=on"],
           "plain": ["index=off", "redirect_dir=on"],
           "nfs_export": ["index=on", "nfs_export=on", "redirect_dir=on"],
           "metacopy": ["index=on", "redirect_dir=on", "metacopy=on"]}
# the kernel counts the index link where lower has no other name; and without an index the one that is there
WITHOUT_NLINK = ("nfs_export", "plain")


def tool(ov, *arguments, code=0):
    """Runs the import; returns its report."""
    done = subprocess.run([CTL, "import", "--json", *arguments, "-o", ov.option_string()],
                          capture_output=True, stdin=subprocess.DEVNULL, timeout=120, check=False)
    text = done.stderr.decode()
    for word in ("AddressSanitizer", "runtime error:", "LeakSanitizer"):
        assert word not in text, text
    assert done.returncode == code, f"{done.returncode}: {text}{done.stdout.decode()}"
    report = json.loads(done.stdout) if done.stdout else {}
    report["stderr"] = text
    return report


def fill_lower(top):
    standard_tree(top)
    for i in range(4):
        write(top / f"tree{i}/sub/deep", f"deep {i}\n")
        write(top / f"tree{i}/file", f"file {i}\n")
    for name in ("links/a", "links/b", "links/sub/c", "links/gone"):
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        if name == "links/a":
            write(top / name, b"links\n")
        else:
            os.link(top / "links/a", top / name)
    write(top / "pair/1", b"pair\n")
    os.link(top / "pair/1", top / "pair/2")
    write(top / "lost/1", b"all are removed\n")
    os.link(top / "lost/1", top / "lost/2")


def change(mnt):
    """Everything that leaves something in an upper."""
    write(mnt / "file", b"changed\n")
    os.chmod(mnt / "big", 0o600)  # attributes alone
    os.rename(mnt / "suid", mnt / "dir/suid moved")
    write(mnt / "links/a", b"links, changed\n")
    os.rename(mnt / "links/b", mnt / "links/b moved")
    os.unlink(mnt / "links/gone")
    os.link(mnt / "links/a", mnt / "links/new name")
    os.unlink(mnt / "pair/1")
    write(mnt / "lost/1", b"x\n")
    os.unlink(mnt / "lost/1")
    os.unlink(mnt / "lost/2")
    os.rename(mnt / "tree0", mnt / "moved0")
    write(mnt / "moved0/sub/deep", b"changed\n")
    os.rename(mnt / "tree1/sub", mnt / "moved0/sub1")
    os.chmod(mnt / "moved0/sub1", 0o711)
    shutil.rmtree(mnt / "tree2")
    (mnt / "tree2").mkdir()
    write(mnt / "tree2/file", b"a new one\n")
    os.chmod(mnt / "tree3/sub", 0o700)
    shutil.rmtree(mnt / "tree3/sub")
    os.unlink(mnt / "symlink")
    os.chown(mnt / "dangling", 5, 6, follow_symlinks=False)
    os.chown(mnt / "fifo", 5, 6)
    write(mnt / "born.d/x", b"born\n")
    os.link(mnt / "born.d/x", mnt / "born")
    os.symlink("born", mnt / "born link")
    os.mkfifo(mnt / "born fifo")


def visible(root, nlink=True):
    tree = snapshot(root, inos=False)
    for info in tree.values():
        if stat.S_ISDIR(int(info["mode"], 8)) or not nlink:
            info.pop("nlink", None)
    return tree


def check_numbers(ov, by_kernel):
    """What has a number of lower in the kernel's view has that one in ours."""
    of_lower = {ino(os.path.join(path, name)) for path, dirs, files in os.walk(ov.lowers[0])
                for name in dirs + files}
    ours = numbers(ov.mnt)
    wrong = {path: (n, ours[path]) for path, n in by_kernel.items()
             if n in of_lower and ours[path] != n}
    assert not wrong, wrong
    assert sum(n in of_lower for n in by_kernel.values()) > 20
    assert len({n for p, n in ours.items() if n not in of_lower}) >= 5


def start(ov, options, layer=fill_lower):
    with ov.lower() as low:
        layer(low)
    ov.options = list(options)
    return ov.mount(kernel=True)


def to_reverlay(ov):
    """Options that only the kernel has or needs go."""
    ov.options = []


@pytest.mark.layouts("ext4", "xfs", "btrfs", "tmpfs")
@pytest.mark.parametrize("how", list(OPTIONS))
def test_kernels_upper(ov, how):
    """Same tree, same numbers and links as the kernel showed; and check has nothing to say."""
    mnt = start(ov, OPTIONS[how])
    change(mnt)
    has_nlink = how != "nfs_export"
    before, by_kernel = visible(mnt, has_nlink), numbers(mnt)
    links = {path: os.lstat(mnt / path).st_ino for path in
             ("links/a", "links/b moved", "links/sub/c", "links/new name")}
    if how != "plain":
        assert len(set(links.values())) == 1
    ov.umount()
    to_reverlay(ov)
    report = tool(ov)
    if how != "plain":
        assert report["links"] >= 2
    assert not os.path.exists(ov.work / "index")
    code, found = ov.ctl("check", "-v")
    assert (code, found["problems"]) == (0, [])
    ov.mount(kernel=False)
    assert_same(before, visible(mnt, has_nlink), "imported")
    check_numbers(ov, by_kernel)
    if how == "plain":
        ov.check_links = False
    else:
        assert len({ino(mnt / path) for path in links}) == 1
        write(mnt / "links/sub/c", b"through another name\n")
        assert (mnt / "links/a").read_bytes() == b"through another name\n"
        check_tree(mnt)
    again = numbers(mnt)
    ov.remount()
    assert numbers(mnt) == again


@pytest.mark.parametrize("how", ["index", "nfs_export"])
def test_dead_stay_dead(ov, how):
    """The numbers of what the kernel removed lead to nothing."""
    mnt = start(ov, OPTIONS[how])
    low = ov.lowers[0]
    gone = {name: ino(low / name) for name in
            ("lost/1", "tree2", "tree2/file", "tree3/sub", "symlink")}
    change(mnt)
    ov.umount()
    to_reverlay(ov)
    report = tool(ov)
    assert (report["dead"] > 0) == (how == "nfs_export")
    ov.mount(kernel=False)
    alive = ino(mnt / "file")
    ov.umount()
    for number in (alive, *gone.values()):
        done = run(CTL, "resolve", "-o", ov.option_string(), number, check=False)
        assert (done.returncode == 0) == (number == alive), done.stdout
    ov.mount(kernel=False)


@pytest.mark.parametrize("how", ["index", "nfs_export", "plain"])
def test_dry_run(ov, how):
    """It tells what would be, and nothing is changed, not even a time."""
    mnt = start(ov, OPTIONS[how])
    change(mnt)
    ov.umount()
    to_reverlay(ov)
    before = snapshot(ov.base, private=True, ctime=True)
    report = tool(ov, "--dry-run")
    assert not difference(before, snapshot(ov.base, private=True, ctime=True))
    real = tool(ov)
    for key in ("links", "directories", "dead", "objects", "told"):
        assert report[key] == real[key], key
    assert real["numbered"] > 10


def test_after_turns(ov):
    """An upper that both have mounted by turns: after the import nothing of the kernel's is left, and nothing to mend."""
    with ov.lower() as low:
        fill_lower(low)
    ov.options = ["redirect_dir=on", "metacopy=on"]
    mnt = ov.mount()
    write(mnt / "pair/1", b"copied up by reverlay\n")
    write(mnt / "empty", b"no more\n")
    os.unlink(mnt / "xattr")
    write(mnt / "removed by the kernel")
    write(mnt / "caps", b"copied up, and removed by the kernel\n")
    write(mnt / "d/removed by the kernel")
    ours = numbers(mnt)
    ov.remount(kernel=True)
    assert (mnt / "pair/2").read_bytes() == b"pair\n"  # without a way back: see docs/import.md
    change(mnt)
    os.unlink(mnt / "removed by the kernel")
    os.unlink(mnt / "caps")
    shutil.rmtree(mnt / "d")
    before = visible(mnt, False)
    ov.umount()
    ov.options = []
    tool(ov)
    code, found = ov.ctl("check", "-v")
    assert (code, found["problems"]) == (0, [])
    ov.mount(kernel=False)
    assert not os.path.exists(mnt / "lost+found")
    got = visible(mnt, False)
    assert_same({k: v for k, v in before.items() if k != "pair/2"},
                {k: v for k, v in got.items() if k != "pair/2"}, "imported")
    assert (mnt / "pair/2").read_bytes() == b"copied up by reverlay\n"
    now = numbers(mnt)
    for name in ("empty", "file", "dir/inner", "links/a", "pair/2"):
        assert now[name] == ours[name], name


@pytest.mark.parametrize("turns", [(True, False), (False,)], ids=["imported", "on-sight"])
def test_hard_link_that_the_kernel_broke(ov, turns):
    """An origin with several names in lower, and no entry in the kernel's index: two objects, as the kernel shows them."""
    with ov.lower() as low:
        write(low / "a", b"lower\n")
    ov.options = ["index=off"]
    mnt = ov.mount(kernel=True)
    write(mnt / "a", b"changed\n")
    ov.umount()
    os.link(ov.lowers[0] / "a", ov.lowers[0] / "b")
    ov.before = None
    ov.options = []
    for is_import in turns:
        if is_import:
            tool(ov)
        ov.mount(kernel=False)
        assert (mnt / "a").read_bytes() == b"changed\n"
        assert (mnt / "b").read_bytes() == b"lower\n"
        assert ino(mnt / "a") != ino(mnt / "b")
        ov.umount()
    ov.check_links = False


def test_copied_layers(ov, images):
    """Where the kernel's handles lead nowhere each file with several names is told, and what is in upper is kept."""
    mnt = start(ov, OPTIONS["index"])
    change(mnt)
    before = visible(mnt, False)
    ov.umount()
    to_reverlay(ov)
    new = ov.lower_base / "new"
    run("cp", "-a", ov.lowers[0], new)
    shutil.rmtree(ov.lowers[0])
    ov.lowers = [new]
    ov.before = None
    report = tool(ov)
    assert {t["what"] for t in report["told"]} <= {"parted", "unnamed"}
    assert len(report["told"]) >= 2
    ov.mount(kernel=False)
    # names that are only in lower are lower's again; all others are what they were
    got = visible(mnt, False)
    for info in (before, got):
        for name in ("links/sub/c", "pair/2"):
            info.pop(name, None)
    assert_same(before, got, "imported")
    ov.check_links = ov.check_clean = False


def test_refused(ov):
    """While it is mounted by either; without a workdir; by wrong usage; and nothing is changed by that."""
    mnt = start(ov, OPTIONS["index"])
    change(mnt)
    assert "mounted" in tool(ov, code=8)["stderr"]
    ov.umount()
    to_reverlay(ov)
    done = run(CTL, "import", "-o", f"lowerdir={ov.lowers[0]}", check=False)
    assert done.returncode == 8
    assert run(CTL, "import", check=False).returncode == 16
    assert run(CTL, "import", "-o", ov.option_string(), "more", check=False).returncode == 16
    ov.mount(kernel=False)
    assert "mounted" in tool(ov, code=8)["stderr"]
    write(mnt / "hard2", b"begun\n")
    os.close(os.open(mnt / "begun", os.O_CREAT | os.O_WRONLY))
    fd = os.open(mnt / "begun", os.O_RDONLY)
    os.unlink(mnt / "begun")
    ov.kill()
    os.close(fd)
    assert "did not end" in tool(ov, code=8)["stderr"]
    ov.mount(kernel=False)
    ov.umount()
    tool(ov)


def test_strange_names_in_the_index(ov):
    """What is no entry is told and stays, what was in the making goes."""
    mnt = start(ov, OPTIONS["index"])
    change(mnt)
    ov.umount()
    to_reverlay(ov)
    index = ov.work / "index"
    write(index / "README", b"not mine\n")
    write(index / "00fb1d00", b"too short\n")
    write(index / ("00fb1d0081" + "00" * 24), b"of nothing\n")
    write(index / "#1a/sub/x", b"left over\n")
    report = tool(ov)
    assert sorted((t["what"], t["name"]) for t in report["told"]) == [
        ("unknown", "00fb1d00"), ("unknown", "README"), ("unnamed", "00fb1d0081" + "00" * 24)]
    assert listing(index) == ["00fb1d00", "00fb1d0081" + "00" * 24, "README"]
    ov.mount(kernel=False)
    check_tree(mnt)


CHANGES = ",".join("?" + name for name in (
    "linkat unlinkat renameat renameat2 mkdirat openat ftruncate write pwrite64 fsync fdatasync syncfs "
    "setxattr lsetxattr setxattrat removexattr lremovexattr removexattrat utimensat fchownat "
    "fchmodat fchmodat2 symlinkat mknodat").split())
EVERY = 1 if os.environ.get("RVL_ALL_MOVES") else 29


def kill_anywhere(ov, capsys, arguments, check, every):
    """Kills the tool before each `every`-th call that may change something; check runs it again."""
    pristine = ov.lower_base / "pristine"
    run("cp", "-a", ov.base, pristine)
    command = [CTL, "import", *arguments, "-o", ov.option_string()]
    n, killed, is_killed = 1, 0, True
    while is_killed:
        result = run("strace", "-f", "-o", "/dev/null", "-e", f"trace={CHANGES}",
                     "-e", f"inject={CHANGES}:signal=SIGKILL:when={n}", *command, check=False)
        is_killed = result.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL)
        assert is_killed or result.returncode == 0, result.stdout
        killed += is_killed
        check()
        n += every
        if is_killed:
            # upper and workdir stay the directories that they are: their handles are in the state
            for path in (ov.upper, ov.work):
                run("find", path, "-mindepth", "1", "-delete")
            for name in xattrs_of(ov.upper, private=True):
                os.removexattr(ov.upper, name)
            run("cp", "-a", f"{pristine}/.", ov.base)
    with capsys.disabled():
        print(f"\nimport {' '.join(arguments)}: killed at {killed} points")
    assert killed * every > 60


@pytest.mark.slow
@pytest.mark.seconds(3600 if EVERY == 1 else 200)
def test_killed_anywhere(ov, capsys):
    """Killed, and run again: as if it had not been; until then a mount is refused, or shows the same."""
    mnt = start(ov, OPTIONS["nfs_export"])
    change(mnt)
    before, by_kernel = visible(mnt, False), numbers(mnt)
    ov.umount()
    to_reverlay(ov)

    def check():
        tool(ov)
        code, found = ov.ctl("check", "-v")
        assert (code, found["problems"]) == (0, [])
        ov.mount(kernel=False)
        assert_same(before, visible(mnt, False), "imported")
        check_numbers(ov, by_kernel)
        check_tree(mnt)
        ov.umount()

    kill_anywhere(ov, capsys, [], check, EVERY)


def test_mount_of_half_an_import(ov):
    """It is refused, by both the mount and the tools, with the command to run."""
    mnt = start(ov, OPTIONS["index"])
    change(mnt)
    ov.umount()
    to_reverlay(ov)
    run("strace", "-f", "-o", "/dev/null", "-e", "trace=?renameat2", "-e",
        "inject=?renameat2:signal=SIGKILL:when=4", CTL, "import", "-o", ov.option_string(),
        check=False)
    assert (ov.work / "inodes/state").exists()
    done = run(*ov.command(), check=False)
    assert done.returncode and "reverlayctl import -o lowerdir=" in done.stdout
    code, found = ov.ctl("check")
    assert code == 8 and "reverlayctl import -o lowerdir=" in found["stderr"]
    tool(ov)
    ov.mount(kernel=False)
    check_tree(mnt)


# -- and back ---------------------------------------------------------------------------------


KERNEL = {"index": ["index=on", "redirect_dir=on", "xino=on"],
          "plain": ["index=off", "redirect_dir=on", "xino=on"],
          "nfs_export": ["index=on", "nfs_export=on", "redirect_dir=on", "xino=on"]}


def to_kernel(ov, how, *arguments, code=0):
    """Hands the upper over; returns the report, and has set the options that the kernel needs."""
    export = ["--nfs-export"] if how == "nfs_export" else []
    report = tool(ov, "--to-kernel", *export, *arguments, code=code)
    ov.options = list(KERNEL[how])
    if report["to_kernel"]["metacopy"]:
        ov.options.append("metacopy=on")
    return report


def change_more(mnt):
    """What the kernel does with it then."""
    write(mnt / "links/sub/c", b"by the kernel\n")
    os.link(mnt / "links/sub/c", mnt / "links/fourth")
    os.unlink(mnt / "links/b moved")
    os.rename(mnt / "moved0", mnt / "moved again")
    os.chmod(mnt / "xattr", 0o600)
    write(mnt / "tree1/file", b"by the kernel\n")
    os.unlink(mnt / "tree3/file")
    os.unlink(mnt / "dir/suid moved")
    os.rename(mnt / "born", mnt / "tree1/born")
    write(mnt / "by the kernel/x", b"x\n")
    shutil.rmtree(mnt / "born.d")


@pytest.mark.layouts("ext4", "xfs", "btrfs", "tmpfs", "other", "squashfs", "stack5")
@pytest.mark.parametrize("how", list(KERNEL))
def test_to_kernel(ov, how):
    """Ours, the kernel's, ours again: the same tree and links each time, and in the end the same numbers."""
    with ov.lower() as low:
        fill_lower(low)
    mnt = ov.mount(kernel=False)
    change(mnt)
    before, ours = visible(mnt), numbers(mnt)
    ov.umount()
    report = to_kernel(ov, how)
    assert report["to_kernel"]["linked"] >= 2  # links/sub/c, pair/2
    done = run(*ov.command(), check=False)
    assert done.returncode and "reverlayctl import -o lowerdir=" in done.stdout
    ov.mount(kernel=True)
    has_nlink = how not in WITHOUT_NLINK
    assert_same(visible_of(before, has_nlink), visible(mnt, has_nlink), "the kernel's")
    by_kernel = numbers(mnt)
    if len(ov.lowers) == 1:
        check_same_numbers(ov, dict(ours), by_kernel, how)
    assert len({by_kernel[p] for p in ("links/a", "links/b moved", "links/sub/c",
                                       "links/new name")}) == 1
    change_more(mnt)
    before = visible(mnt, False)
    ov.umount()
    to_reverlay(ov)
    tool(ov)
    code, found = ov.ctl("check", "-v")
    assert (code, found["problems"]) == (0, [])
    ov.mount(kernel=False)
    assert_same(before, visible(mnt, False), "ours again")
    now = numbers(mnt)
    moved = {path.replace("moved0", "moved again", 1): n for path, n in ours.items()}
    moved["tree1/born"] = moved.pop("born")
    wrong = {path: (moved[path], n) for path, n in now.items() if path in moved and moved[path] != n}
    assert not wrong, wrong
    fresh = {n for path, n in now.items() if path not in moved} - {now["links/a"]}
    assert not fresh & set(ours.values())
    check_tree(mnt)


def visible_of(tree, nlink):
    return {path: {key: value for key, value in info.items() if nlink or key != "nlink"}
            for path, info in tree.items()}


def check_same_numbers(ov, ours, by_kernel, how):
    """What came from lower has the same number in both, but for the bits in which the kernel keeps the layer."""
    bits = (1 << 32) - 1
    of_lower = {ino(os.path.join(path, name)) for path, dirs, files in os.walk(ov.lowers[0])
                for name in dirs + files}
    del ours["."]
    same = {path for path, n in ours.items() if n in of_lower and by_kernel[path] & bits == n & bits}
    differ = {path for path, n in ours.items() if n in of_lower} - same
    if how == "plain":  # the kernel keeps no number of a hard link then
        differ -= {path for path in differ if path.startswith(("links/", "pair/", "hard", "dir/hard"))}
    assert not differ, {path: (ours[path], by_kernel[path]) for path in differ}
    assert len(same) > 20


@pytest.mark.slow
@pytest.mark.seconds(3600 if EVERY == 1 else 200)
@pytest.mark.parametrize("how", ["index", "nfs_export"])
def test_to_kernel_killed_anywhere(ov, capsys, how):
    """Killed, and run again, or imported: as if it had not been."""
    with ov.lower() as low:
        fill_lower(low)
    mnt = ov.mount(kernel=False)
    change(mnt)
    before, ours = visible(mnt), numbers(mnt)
    ov.umount()
    arguments = ["--to-kernel"] + (["--nfs-export"] if how == "nfs_export" else [])
    turns = []

    def check():
        turns.append(None)
        if len(turns) % 2:
            report = tool(ov, *arguments)
            options, ov.options = ov.options, KERNEL[how] + (
                ["metacopy=on"] if report["to_kernel"]["metacopy"] else [])
            ov.mount(kernel=True)
            has_nlink = how not in WITHOUT_NLINK
            assert_same(visible_of(before, has_nlink), visible(mnt, has_nlink), "the kernel's")
            ov.umount()
            ov.options = options
        tool(ov)
        code, found = ov.ctl("check", "-v")
        assert (code, found["problems"]) == (0, [])
        ov.mount(kernel=False)
        assert_same(visible_of(before, False), visible(mnt, False), "ours again")
        assert numbers(mnt) == ours
        ov.umount()

    kill_anywhere(ov, capsys, arguments, check, EVERY if EVERY == 1 else 97)


def test_what_the_kernel_shows_otherwise(ov):
    """Devices 0:0, AUFS whiteouts, objects without a name: told by their paths, exit code 4."""
    with ov.lower() as low:
        fill_lower(low)
        write(low / "container/.wh.old", b"")
        write(low / "container/new", b"new\n")
    mnt = ov.mount(kernel=False)
    change(mnt)
    os.mkdir(mnt / "devices")
    os.mknod(mnt / "devices/null", stat.S_IFCHR | 0o600, os.makedev(0, 0))
    ov.umount()
    report = to_kernel(ov, "index", "--dry-run", code=4)
    found = {(t["what"], t.get("path")) for t in report["told"]}
    assert found == {("device", "devices/null"),
                     ("aufs", f"{ov.lowers[0]}/container/.wh.old")}
    to_reverlay(ov)
    again = to_kernel(ov, "index", code=4)
    assert again["told"] == report["told"]
    assert again["to_kernel"] == report["to_kernel"]
    ov.mount(kernel=True)
    assert os.stat(mnt / "devices/null").st_rdev == os.makedev(0, 1)
    assert listing(mnt / "container") == [".wh.old", "new"]
    ov.umount()
    to_reverlay(ov)
    tool(ov)
    ov.mount(kernel=False)
    assert os.stat(mnt / "devices/null").st_rdev == os.makedev(0, 0)


def test_to_kernel_needs_a_sound_overlay(ov):
    """What repair would have to ask for is to be mended first."""
    with ov.lower() as low:
        fill_lower(low)
    mnt = ov.mount(kernel=False)
    os.rename(mnt / "tree0", mnt / "moved0")
    ov.umount()
    run("cp", "-a", ov.upper / "moved0", ov.upper / "twice")
    report = tool(ov, "--to-kernel", code=8)
    assert "repair" in report["stderr"]
    assert ov.ctl("repair", "-y")[0] == 1
    tool(ov, "--to-kernel")
    tool(ov)
    ov.mount(kernel=False)


def test_copied_up_by_both(ov):
    """By one name here, by another by the kernel, which did not know: both are kept, the kernel's gets a number of its own."""
    with ov.lower() as low:
        write(low / "pair/1", b"pair\n")
        os.link(low / "pair/1", low / "pair/2")
    mnt = ov.mount(kernel=False)
    write(mnt / "pair/1", b"by reverlay\n")
    ours = ino(mnt / "pair/1")
    ov.remount(kernel=True)
    write(mnt / "pair/2", b"by the kernel\n")
    ov.umount()
    report = tool(ov)
    assert [t["what"] for t in report["told"]] == ["taken"]
    code, found = ov.ctl("check", "-v")
    assert (code, found["problems"]) == (0, [])
    ov.mount(kernel=False)
    assert (mnt / "pair/1").read_bytes() == b"by reverlay\n"
    assert (mnt / "pair/2").read_bytes() == b"by the kernel\n"
    assert ino(mnt / "pair/1") == ours != ino(mnt / "pair/2")
    ov.check_links = False


def test_removed_whiteouts(ov):
    """What the kernel's index calls dead lives, if its whiteout was taken out of upper offline."""
    start(ov, OPTIONS["nfs_export"])
    os.unlink(ov.mnt / "file")
    shutil.rmtree(ov.mnt / "tree2")
    os.unlink(ov.mnt / "pair/1")
    os.unlink(ov.mnt / "pair/2")
    ov.umount()
    os.unlink(ov.upper / "file")
    os.unlink(ov.upper / "tree2")
    to_reverlay(ov)
    assert tool(ov)["left"] == 0
    run(CTL, "check", "-o", ov.option_string())
    mnt = ov.mount()
    paths = ("file", "tree2", "tree2/file", "tree2/sub/deep")
    handles = {path: sysc.handle(mnt / path) for path in paths}
    assert listing(mnt / "pair") == []
    ov.remount()
    root = os.open(mnt, os.O_RDONLY)
    for path, handle in handles.items():
        fd = sysc.open_handle(root, handle, os.O_PATH)
        assert os.fstat(fd).st_ino == ino(mnt / path)
        os.close(fd)
    os.close(root)
    for path in ("file", "tree2/file", "tree2/sub/deep"):
        write(mnt / path, "changed\n")


def test_userxattr(ov):
    """With userxattr, where symlinks and devices can carry no attributes: there and back."""
    with ov.lower() as low:
        standard_tree(low)
    ov.options = ["userxattr"]
    mnt = ov.mnt
    run("mount", "-t", "overlay", "-o", ov.option_string(), "overlay", mnt)
    write(mnt / "file", b"changed\n")
    os.chown(mnt / "symlink", 5, 6, follow_symlinks=False)
    write(mnt / "born", b"born\n")
    os.unlink(mnt / "big")
    before = visible(mnt)
    run("umount", mnt)
    tool(ov)
    code, found = ov.ctl("check", "-v")
    assert (code, found["problems"]) == (0, [])
    ov.mount(kernel=False)
    assert_same(before, visible(mnt), "imported")
    assert ino(mnt / "file") == ino(ov.lowers[0] / "file")
    os.chown(mnt / "dangling", 5, 6, follow_symlinks=False)
    os.chmod(mnt / "xattr", 0o600)
    before, ours = visible(mnt), numbers(mnt)
    ov.umount()
    report = tool(ov, "--to-kernel", code=4)
    assert [(t["what"], t["path"]) for t in report["told"]] == [("beside", "dangling")]
    run("mount", "-t", "overlay", "-o", ov.option_string(), "overlay", mnt)
    assert_same(before, visible(mnt), "the kernel's")
    run("umount", mnt)
    tool(ov)
    code, found = ov.ctl("check", "-v")
    assert (code, found["problems"]) == (0, [])
    ov.mount(kernel=False)
    assert_same(before, visible(mnt), "ours again")
    assert numbers(mnt) == ours
    check_tree(mnt)
