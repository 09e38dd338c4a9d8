# SPDX-License-Identifier: GPL-2.0-or-later
"""Each system call that has another way is denied, by seccomp, and the random tester finds no difference."""

import subprocess

import pytest

from rvl import BUILD, REVERLAY, TOP, run
from snapshots import numbers
from trees import standard_tree, write

DENY = str(BUILD / "tests/deny/rvl-deny")

pytestmark = pytest.mark.reverlay_only("it makes no system calls")

# one or more rules of rvl-deny, the filesystem, and layers
CASES = [
    ("copy_file_range,clone,sync_file_range", "ext4"),
    ("clone", "xfs"),
    ("handles", "ext4"),
    ("identifiers,open_by_handle_at", "tmpfs"),
    ("open_tree", "tmpfs"),
    ("mount_setattr", "tmpfs"),
    ("xattrat", "ext4"),
    ("rename_whiteout", "tmpfs"),
    ("fsuuid,empty_path", "ext4"),
    ("passthrough", "ext4"),
]


def test_all_rules_are_used():
    """What rvl-deny can deny is denied here."""
    known = set(run(DENY).stdout.split())
    assert known == {rule for rules, _ in CASES for rule in rules.split(",")}


@pytest.mark.parametrize("rules,where", CASES, ids=[rules for rules, _ in CASES])
def test_random(images, scratch, rules, where):
    """2,000 random operations with remounts: the same as on a plain directory."""
    soak(scratch, where, "--program", f"{DENY} {rules} {REVERLAY}")


def soak(scratch, where, *args):
    command = [str(TOP / "tests/random/soak.sh"), *args,
               "--tester", str(BUILD / "tests/random/rvl-random"), "--seed", "1", "--on", where,
               "--ops", "2000", "--remount-every", "500"]
    result = subprocess.run(["timeout", "-k", "10", "200", *command], cwd=scratch, timeout=230,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
                            errors="replace", stdin=subprocess.DEVNULL, text=True)
    assert result.returncode == 0, result.stdout[-4000:]


@pytest.mark.parametrize("options,where", [
    ("passthrough=off", "ext4"), ("io_uring=off,poll=0,awake=off,copy_up=write", "xfs"),
    ("metacopy=off,fsync=strict", "tmpfs")])
def test_random_without(images, scratch, options, where):
    """The same with each faster way switched off by its option."""
    soak(scratch, where, "--program", str(REVERLAY), "--options", options)


@pytest.mark.parametrize("rules", [rules for rules, _ in CASES])
@pytest.mark.parametrize("layout", ["ext4", "squashfs", "overlay"])
def test_numbers_are_the_same(overlays, layout, rules):
    """What a mount without a call has numbered and changed is the same with it, as after an upgrade."""
    if layout == "overlay" and "handles" in rules or "identifiers" in rules:
        layout = "stack5"  # of an overlay the objects are known by path then: README, Limits
    ov = overlays(layout)
    ov.check_clean = "handles" not in rules  # entries that were made without are told
    with ov.lower() as low:
        standard_tree(low)
    mnt = ov.mount(prefix=(DENY, rules))
    write(mnt / "dir/inner", "changed\n")
    write(mnt / "born")
    first = numbers(mnt)
    ov.remount()
    assert numbers(mnt) == first
    write(mnt / "dir/sub/deep", "changed\n")
    ov.remount()
    assert numbers(mnt) == first
