# SPDX-License-Identifier: GPL-2.0-or-later
"""Uppers that the kernel's overlayfs makes, and the tool that imports them: for the tests of both ways."""

import json
import os
import shutil
import signal
import stat
import subprocess

from rvl import CTL, run
from snapshots import numbers, snapshot, xattrs_of
from trees import ino, standard_tree, write

OPTIONS = {"index": ["index=on", "redirect_dir=on"],
           "plain": ["index=off", "redirect_dir=on"],
           "nfs_export": ["index=on", "nfs_export=on", "redirect_dir=on"],
           "metacopy": ["index=on", "redirect_dir=on", "metacopy=on"],
           "uuid_off": ["index=on", "redirect_dir=on", "uuid=off"]}  # origins without a uuid


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


CHANGES = ",".join("?" + name for name in (
    "linkat unlinkat renameat renameat2 mkdirat openat ftruncate write pwrite64 fsync fdatasync syncfs "
    "setxattr lsetxattr setxattrat removexattr lremovexattr removexattrat utimensat fchownat "
    "fchmodat fchmodat2 symlinkat mknodat").split())
EVERY = 1 if os.environ.get("RVL_ALL_MOVES") else 29


def kill_anywhere(ov, capsys, arguments, check, every, least=60, done=0):
    """Kills reverlayctl before each `every`-th call that may change something; check runs it again."""
    pristine = ov.lower_base / "pristine"
    run("cp", "-a", ov.base, pristine)
    command = [CTL, *arguments, "-o", ov.option_string()]
    n, killed, is_killed = 1, 0, True
    while is_killed:
        result = run("strace", "-f", "-o", "/dev/null", "-e", f"trace={CHANGES}",
                     "-e", f"inject={CHANGES}:signal=SIGKILL:when={n}", *command, check=False)
        is_killed = result.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL)
        assert is_killed or result.returncode == done, result.stdout
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
        print(f"\n{' '.join(arguments)}: killed at {killed} points")
    assert killed * every > least
