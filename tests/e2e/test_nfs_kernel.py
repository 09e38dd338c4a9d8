# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's NFS server and client, v3 and v4.2, in Debian's user-mode-linux (Linux 6.1).

One boot runs all checks of tests/nfs/knfsd.py, by the recipes of docs/nfs.md. It is also the proof
that reverlay runs on Linux 6.1 with FUSE 7.38. Each check is a test here.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "nfs"))

import rvl  # noqa: E402  pylint: disable=wrong-import-position
from trees import OLD, write  # noqa: E402  pylint: disable=wrong-import-position

pytestmark = pytest.mark.reverlay_only("the kernel's overlay is not what is tested here")

BOOT_SECONDS = 900
N_LARGE = 100_000
NAMES = ["linux", "view", "copy_up", "hard_links", "rename", "stale", "resolve", "locks", "view-again",
         "held_open", "moved", "large_directory"]
VERSIONS = ["3", "4.2"]

BOOT = r"""
set -e
awk '$0 ~ / - fuse(\.[^ ]*|blk)? / { print $5 }' /proc/self/mountinfo | while read -r where; do
    umount -l "$where" 2>/dev/null || :
done
mkdir -p /lib/modules
mount -t tmpfs tmpfs /lib/modules
for dir in /usr/lib/uml/modules/*; do ln -s "$dir" /lib/modules/; done
mount -t tmpfs -o mode=755,size=1300m,exec tmpfs "$1"
cp -a /etc "$1/etc"  # a copy that may be written to
mkdir -p "$1/etc/exports.d"
mount --bind "$1/etc" /etc
uml=linux.uml more=
if grep -q amx_tile /proc/cpuinfo; then
    # its buffer for registers is too small, and it panics: without PTRACE_GETREGSET it takes those of SSE,
    # and nothing in it may use others
    uml="/usr/bin/python3 $3/tests/e2e/deny.py 101:16900 linux.uml"
    more=GLIBC_TUNABLES=glibc.cpu.hwcaps=-AVX2,-AVX512F,-AVX512VL,-AVX512BW,-AVX_Fast_Unaligned_Load
fi
TMPDIR=$1 exec $uml mem=1024M root=/dev/root rootfstype=hostfs rootflags=/ rw "ubd0=$2" "uml_dir=$1" \
    con=null con0=fd:0,fd:1 ssl=null quiet $more "top=$3" "build=$4" init="$3/tests/nfs/uml-init"
"""


def fill(top):
    """The lower layer."""
    for client in ("c3", "c4"):
        tree = top / "tree" / client
        for path in ("copy", "h1", "r/s/file", "again", "plain", "sub/deep/file"):
            write(tree / path, f"{path} of {client}\n", mtime=OLD)
        os.link(tree / "h1", tree / "h2")
        os.symlink("copy", tree / "link")
        held = top / "held" / client
        for path in ("read", "write", "gone", "dir/in1", "dir/in2"):
            write(held / path, "held " * 10)
        moved = top / "moved" / client
        for path in ("plain", "copied", "h1", "renamed", "dir/in1", "dir/in2"):
            write(moved / path, "moved " * 10)
        os.link(moved / "h1", moved / "h2")
    (top / "large").mkdir()
    fd = os.open(top / "large", os.O_RDONLY)
    for i in range(N_LARGE):
        os.mknod(f"stay-{i:06}-{i * 2654435761 % 2**32:08x}", dir_fd=fd)
    for client in ("c3", "c4"):
        for i in range(N_LARGE // 1000 + 10):
            os.mknod(f"go-{client}-{i:06}", dir_fd=fd)
    os.close(fd)


@pytest.fixture(scope="session")
def boot(scratch):
    """{name of a check: (result, seconds)}, and all that was printed."""
    if os.geteuid() != 0:
        pytest.skip("not root: no namespaces")
    assert shutil.which("linux.uml"), "user-mode-linux is missing: scripts/setup --tests"
    image, where = scratch / "uml.img", scratch / "uml"
    where.mkdir()
    rvl.run("truncate", "-s", "1G", image)
    rvl.run("mkfs.ext4", "-q", "-N", "400000", "-E", "lazy_itable_init=1,nodiscard", "-O",
            "^has_journal", image)
    rvl.run("mount", "-o", "loop", image, where)
    for name in ("base", "upper", "work", "export"):
        (where / name).mkdir()
    fill(where / "base")
    rvl.run("umount", where)
    log = scratch / "uml.log"
    with open(log, "wb") as output:
        # a pid namespace: whatever happens, no process of it is left
        with subprocess.Popen(
                ["unshare", "-m", "-p", "--fork", "--kill-child", "--propagation", "private", "sh",
                 "-c", BOOT, "sh", where, image, rvl.TOP, rvl.BUILD], stdin=subprocess.DEVNULL,
                stdout=output, stderr=output, preexec_fn=rvl.die_with_parent) as process:
            try:
                process.wait(BOOT_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
    text = log.read_text(errors="replace")
    checks = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) == 4 and words[0] == "CHECK":
            checks[words[1]] = (words[2], words[3])
    return checks, text


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", NAMES)
def test_knfsd(boot, name, version):
    checks, text = boot
    check = name.removesuffix("-again") + "-" + version + name[len(name.removesuffix("-again")):]
    if checks.get(check, ("",))[0] != "ok":
        print(text[-12000:])
    assert check in checks, "not reached"
    assert checks[check][0] == "ok"


@pytest.mark.slow
def test_end(boot):
    """Everything could be unmounted, and nothing went wrong outside of the checks."""
    _, text = boot
    assert "DONE" in text.split()
    assert "FAILED" not in text.split()
