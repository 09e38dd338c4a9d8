# SPDX-License-Identifier: GPL-2.0-or-later
"""mount(8): by type, from fstab, remount; mounts by other users, and in a user namespace."""

import contextlib
import errno
import json
import os
import stat
import subprocess
import threading

import pytest

import rvl
import sysc
from rvl import REVERLAY, is_mounted, mount_entry, run, wait_gone
from trees import listing, write

pytestmark = pytest.mark.reverlay_only("it has no helper")


@contextlib.contextmanager
def helper_installed(scratch):
    """Puts mount.fuse.reverlay where mount(8) looks, in this mount namespace only."""
    sbin = os.path.realpath("/sbin")
    shadow = scratch / "helper"
    shadow.mkdir(exist_ok=True)
    link = shadow / "mount.fuse.reverlay"
    if not link.is_symlink():
        link.symlink_to(REVERLAY)
    run("mount", "-t", "overlay", "-o", f"lowerdir={shadow}:{sbin}", "overlay", sbin)
    try:
        assert os.access(sbin + "/mount.fuse.reverlay", os.X_OK)
        yield
    finally:
        run("umount", "-l", sbin)


@pytest.fixture
def helper(scratch):
    with helper_installed(scratch):
        yield


@pytest.fixture
def fuse_device(scratch):
    """A /dev/fuse that everybody may open, as udev makes it; here it is not always so."""
    device = scratch / "fuse-device"
    if not device.exists():
        os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(10, 229))
        os.chmod(device, 0o666)
    run("mount", "--bind", device, "/dev/fuse")
    yield
    run("umount", "-l", "/dev/fuse")


@pytest.fixture
def ready(ov):
    with ov.lower() as low:
        write(low / "f")
    ov.before = ov.lower_snapshot()
    return ov


def leave(ov):
    pids = rvl.servers_of(ov.mnt)
    run("umount", ov.mnt)
    for pid in pids:
        wait_gone(pid)


def test_mount_by_type(ready, helper):
    """mount -t fuse.reverlay mounts, prints nothing, and shows the source that was given."""
    result = run("mount", "-t", "fuse.reverlay", "the-source", ready.mnt, "-o",
                 ready.option_string())
    assert result.stdout == ""
    assert mount_entry(ready.mnt)[:2] == ("the-source", "fuse.reverlay")
    write(ready.mnt / "f", "changed\n")
    os.mknod(ready.mnt / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    with open(ready.mnt / "null", "rb") as file:
        assert file.read() == b""
    sysc.as_user(1234, 1234, lambda: (ready.mnt / "f").read_text())
    leave(ready)
    ready.mount()
    assert (ready.mnt / "f").read_text() == "changed\n"


def test_mount_options_of_mount(ready, helper):
    """noatime, nosuid, nodev, noexec, ro and nodiratime come to the mount."""
    options = "ro,noatime,nodiratime,nosuid,nodev,noexec," + ready.option_string()
    run("mount", "-t", "fuse.reverlay", "src", ready.mnt, "-o", options)
    got = mount_entry(ready.mnt)[2].split(",")
    for word in ("ro", "noatime", "nosuid", "nodev", "noexec"):
        assert word in got, got
    sysc.fails(errno.EROFS, write, ready.mnt / "x")
    leave(ready)


def test_fstab(ready, helper, tmp_path):
    """A line in fstab is mounted by its mount point alone, and umounted so."""
    fstab = tmp_path / "fstab"
    fstab.write_text(f"overlay {ready.mnt} fuse.reverlay {ready.option_string()},noauto 0 0\n")
    assert run("mount", "-T", fstab, ready.mnt).stdout == ""
    assert listing(ready.mnt) == ["f"]
    write(ready.mnt / "g")
    leave(ready)
    assert (ready.upper / "g").exists()


def test_remount(ready, helper):
    """mount -o remount,ro makes it read-only, rw makes it writable again; the server is the same."""
    run("mount", "-t", "fuse.reverlay", "src", ready.mnt, "-o", ready.option_string())
    pids = rvl.servers_of(ready.mnt)
    held = os.open(ready.mnt / "f", os.O_RDONLY)
    assert run("mount", "-o", "remount,ro", ready.mnt).stdout == ""
    assert "ro" in mount_entry(ready.mnt)[2].split(",")
    sysc.fails(errno.EROFS, write, ready.mnt / "x")
    assert run("mount", "-o", "remount,rw", ready.mnt).stdout == ""
    write(ready.mnt / "x")
    assert os.read(held, 4) == b"data"
    os.close(held)
    assert rvl.servers_of(ready.mnt) == pids
    leave(ready)


def test_remount_keeps_flags(ready, helper):
    """What a remount does not name stays as it is."""
    flags = {"nosuid", "nodev", "noexec", "noatime", "nosymfollow"}
    run("mount", "-t", "fuse.reverlay", "src", ready.mnt, "-o",
        ready.option_string(sorted(flags)))
    assert flags <= set(mount_entry(ready.mnt)[2].split(","))
    run(REVERLAY, "-o", "remount,ro", ready.mnt)
    assert flags | {"ro"} <= set(mount_entry(ready.mnt)[2].split(","))
    leave(ready)


def test_remount_refuses_other_layers(ready, helper):
    """A remount that would change a layer is refused, with its name; the mount goes on."""
    run("mount", "-t", "fuse.reverlay", "src", ready.mnt, "-o", ready.option_string())
    other = ready.base / "other"
    other.mkdir()
    result = run("mount", "-o", f"remount,upperdir={other}", ready.mnt, check=False)
    assert result.returncode != 0
    assert "upperdir" in result.stdout
    write(ready.mnt / "x")
    assert (ready.upper / "x").exists()
    leave(ready)


def test_failure_is_told(ready, helper):
    """The helper's failure is mount's: exit code and message, nothing mounted."""
    missing = ready.base / "missing"
    result = run("mount", "-t", "fuse.reverlay", "src", ready.mnt, "-o",
                 f"lowerdir={missing},upperdir={ready.upper},workdir={ready.work}", check=False)
    assert result.returncode == 1
    assert "lowerdir" in result.stdout and str(missing) in result.stdout
    assert not is_mounted(ready.mnt)
    result = subprocess.run(["/sbin/mount.fuse.reverlay", "src", str(ready.mnt), "-o",
                             f"lowerdir={missing}"], stderr=subprocess.PIPE, check=False)
    assert result.returncode == 1


def test_through_mount_fuse3(ready):
    """Without our helper mount.fuse3 starts "reverlay SOURCE MOUNTPOINT -o rw,...,dev,suid"."""
    result = subprocess.run([REVERLAY, "src", str(ready.mnt), "-o",
                             "rw," + ready.option_string() + ",dev,suid"],
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            timeout=30, check=False)
    assert (result.returncode, result.stdout) == (0, "")
    assert mount_entry(ready.mnt)[0] == "src"
    write(ready.mnt / "x")
    leave(ready)


NOBODY = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]


class Users:
    """An overlay that a user without privileges mounts by fusermount3."""

    def __init__(self, base):
        self.base = base
        self.mnt = base / "mnt"
        for name in ("lower", "upper", "work", "mnt"):
            (base / name).mkdir(parents=True)
        self.options = f"lowerdir={base}/lower,upperdir={base}/upper,workdir={base}/work,userxattr"
        self.pids = []

    def mount(self):
        result = run(*NOBODY, REVERLAY, "-o", self.options, self.mnt, check=False)
        assert result.returncode == 0, result.stdout
        self.pids = rvl.servers_of(self.mnt)

    def umount(self):
        run(*NOBODY, "fusermount3", "-u", self.mnt)
        for pid in self.pids:
            wait_gone(pid)

    def destroy(self):
        run("umount", "-l", self.mnt, check=False)
        for pid in self.pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)


@pytest.fixture
def his(ready, fuse_device):
    ready.check_lower = False
    users = Users(ready.base / "his")
    yield users
    users.destroy()


def test_another_user(his):
    """A user without privileges mounts his own layers by fusermount3, and others see nothing."""
    write(his.base / "lower/f")
    run("chown", "-R", "nobody:nogroup", his.base)
    his.mount()

    def user():
        assert (his.mnt / "f").read_text() == "data\n"
        write(his.mnt / "f", "changed\n")
        write(his.mnt / "d/new")
        os.rename(his.mnt / "d", his.mnt / "e")
        os.unlink(his.mnt / "e/new")

    sysc.as_user(65534, 65534, user)
    assert (his.base / "upper/f").read_text() == "changed\n"
    sysc.as_user(4321, 4321, lambda: sysc.fails(errno.EACCES, os.listdir, his.mnt))
    his.umount()


def read_only_files(mnt):
    """What the owner of read-only files does with them."""
    os.chmod(mnt / "chmod", 0o440)
    os.rename(mnt / "rename", mnt / "renamed")
    os.rename(mnt / "chmod", mnt / "ro/../chmoded")
    os.unlink(mnt / "unlink")
    os.utime(mnt / "utimes", (1, 1))
    # attributes alone are copied up, then the name changes, then the data
    os.chmod(mnt / "chmoded", 0o444)
    os.rename(mnt / "chmoded", mnt / "again")
    # all names of a hard link, which need a count on the inode
    os.link(mnt / "hard1", mnt / "hard3")
    os.rename(mnt / "hard2", mnt / "hard4")
    os.unlink(mnt / "hard1")
    assert [os.stat(mnt / n).st_nlink for n in ("hard3", "hard4")] == [2, 2]
    for name in ("renamed", "again", "hard3"):
        sysc.fails(errno.EACCES, open, mnt / name, "w")
        assert (mnt / name).read_text() == "data\n"
        os.chmod(mnt / name, 0o644)
        write(mnt / name, "changed\n")
        os.chmod(mnt / name, 0o444)
    assert (mnt / "hard4").read_text() == "changed\n"
    # who has it open goes on writing, also when the server has closed its descriptor
    fd = os.open(mnt / "git", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o444)
    os.chmod(mnt / "open", 0o644)
    old = os.open(mnt / "open", os.O_RDWR)
    os.chmod(mnt / "open", 0)
    for i in range(2000):
        os.close(os.open(mnt / f"many{i}", os.O_WRONLY | os.O_CREAT, 0o444))
    os.write(fd, b"object\n")
    assert os.pread(old, 9, 0) == b"data\n"
    os.pwrite(old, b"DATA", 0)
    os.close(fd)
    os.close(old)
    # in a read-only directory, and that itself
    sysc.fails(errno.EACCES, os.unlink, mnt / "ro/in")
    os.chmod(mnt / "ro/in", 0o400)
    os.chmod(mnt / "closed", 0o755)
    write(mnt / "closed/new")
    os.chmod(mnt / "closed", 0o555)
    os.rmdir(mnt / "empty")
    for name, mode in (("open", 0), ("git", 0o444), ("ro", 0o555), ("ro/in", 0o400),
                       ("closed", 0o555), ("hard3", 0o444), ("renamed", 0o444)):
        assert stat.S_IMODE(os.stat(mnt / name).st_mode) == mode, name
    os.chmod(mnt / "open", 0o444)
    assert (mnt / "open").read_text() == "DATA\n"


def test_read_only_files_of_a_user(his):
    """A server without privileges does for its user what the owner of read-only files may do."""
    low = his.base / "lower"
    for name in ("chmod", "rename", "unlink", "utimes", "hard1", "open", "ro/in", "closed/in"):
        write(low / name, mode=0o444)
    os.link(low / "hard1", low / "hard2")
    (low / "empty").mkdir()
    for name in ("ro", "closed", "empty"):
        (low / name).chmod(0o555)
    run("chown", "-R", "nobody:nogroup", his.base)
    his.mount()
    seen = his.base / "seen"

    def see():
        return json.dumps({n: [os.stat(his.mnt / n).st_ino, os.stat(his.mnt / n).st_mode]
                           for n in sorted(os.listdir(his.mnt))})

    def use():
        read_only_files(his.mnt)
        seen.write_text(see())

    def see_again():
        assert see() == seen.read_text()

    sysc.as_user(65534, 65534, use)
    his.umount()
    his.mount()
    sysc.as_user(65534, 65534, see_again)
    his.umount()
    run(*NOBODY, rvl.CTL, "check", "-o", his.options)


def test_modes_while_files_are_made_writable(his):
    """What a server without privileges makes writable for a moment is never seen so.

    The kernel would keep the mode, and allow by it what the owner has forbidden.
    """
    names = [f"f{i}" for i in range(300)]
    for name in names:
        write(his.base / "lower/ro" / name, mode=0o444)
    (his.base / "lower/ro").chmod(0o555)
    run("chown", "-R", "nobody:nogroup", his.base)
    his.mount()
    done = threading.Event()
    seen = set()

    def look():
        while not done.is_set():
            seen.add(sysc.fresh_mode(his.mnt / "ro"))

    def use():
        os.chmod(his.mnt / "ro", 0o550)
        thread = threading.Thread(target=look)
        thread.start()
        for name in names:  # each copy-up changes the read-only directory
            os.chmod(his.mnt / "ro" / name, 0o440)
        done.set()
        thread.join()
        assert {oct(mode) for mode in seen} == {"0o40550"}

    sysc.as_user(65534, 65534, use)
    his.umount()


def test_user_namespace(ready, fuse_device):
    """In a user namespace, where root is nobody outside, it mounts with userxattr and works."""
    base = ready.base / "ns"
    for name in ("lower/d", "upper", "work", "mnt"):
        (base / name).mkdir(parents=True)
    write(base / "lower/d/f")
    write(base / "lower/g")
    run("chown", "-R", "1234:1234", base)
    ready.check_lower = False
    script = f"""set -e
{REVERLAY} -o lowerdir={base}/lower,upperdir={base}/upper,workdir={base}/work,userxattr {base}/mnt
cd {base}/mnt
echo changed > g
rm d/f; rmdir d; mkdir d; echo new > d/new
test "$(ls d)" = new
ln g h; chmod 600 h; mv g k
stat -c %h k
if mknod w c 0 0 2>/dev/null; then exit 9; fi
test ! -e w
cd /
umount {base}/mnt
"""
    try:
        result = run("setpriv", "--reuid=1234", "--regid=1234", "--clear-groups", "unshare",
                     "--user", "--map-root-user", "--mount", "sh", "-c", script, check=False)
        assert result.returncode == 0, result.stdout
        assert result.stdout == "2\n"
        assert (base / "upper/k").read_text() == "changed\n"
        assert os.getxattr(base / "upper/d", "user.overlay.opaque") == b"y"
    finally:
        for pid in rvl.servers_of(base / "mnt"):
            os.kill(pid, 9)
