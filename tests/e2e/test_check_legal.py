# SPDX-License-Identifier: GPL-2.0-or-later
"""What looks like damage and is none: layers that were changed, replaced or taken away while nothing
was mounted. Check takes none of it for damage of upper, and a repair leaves it as it is.
"""

import os

import pytest

from rvl import run
from test_check import X, ids
from trees import write

pytestmark = pytest.mark.reverlay_only("check is of reverlay")


@pytest.mark.parametrize("name", ["f", "renamed"])
def test_metacopy_without_data(ov, name):
    """Lower has them no more: it is told, nothing is removed, and with lower's file back all is well."""
    with ov.lower() as low:
        write(low / "f", b"data\n")
    mnt = ov.mount()
    os.chmod(mnt / "f", 0o600)
    if name != "f":
        os.rename(mnt / "f", mnt / name)
    ov.umount()
    low, away = ov.lowers[0] / "f", ov.base / "away"
    os.rename(low, away)
    for how in ("check", "repair -p", "repair -y"):
        code, found = ov.ctl(*how.split())
        assert code == 4 and [p["outcome"] for p in found["problems"] if p["id"] == "metacopy-data"] == ["found"]
    assert os.getxattr(ov.upper / name, X + "metacopy") == b""
    ov.may_complain = True
    with pytest.raises(OSError):
        (ov.mount() / name).read_bytes()
    ov.umount()
    os.rename(away, low)
    ov.before = None
    assert (ov.mount() / name).read_bytes() == b"data\n"


def test_numbers_of_images_are_no_proof(ov):
    """Two images have files of one inode number, and handles that are no more than that: nobody gets the other's data."""
    for i, name in enumerate(("secret", "f")):
        tree, image, at = (ov.base / f"{kind}{i}" for kind in ("tree", "image", "at"))
        write(tree / name, f"{name}\n")
        run("mksquashfs", tree, image, "-quiet", "-no-progress")
        at.mkdir()
        run("mount", "-o", "loop", image, at)
        ov.lowers.append(at)
    try:
        ov.options = ["metacopy=on", "index=off"]
        os.chmod(ov.mount(kernel=True) / "f", 0o640)
        ov.umount()
        ov.options = []
        assert (ov.mount() / "f").read_text() == "f\n"
        ov.umount()
        for command in (["check"], ["repair", "-y"]):
            code, found = ov.ctl(*command)
            assert code == 0, found
        assert (ov.mount() / "f").read_text() == "f\n"
        ov.umount()
    finally:
        for at in ov.lowers:
            run("umount", "-l", at)
        ov.before = None


def test_inode_that_is_given_again(ov):
    """Lower's file was replaced, and another has its inode: what has its name is what is wanted."""
    with ov.lower() as low:
        write(low / "f", b"first\n")
        write(low / "g", b"other\n")
    os.chmod(ov.mount() / "f", 0o640)
    ov.umount()
    number = os.lstat(low / "f").st_ino
    for i in range(100):
        write(low / f"new{i}", b"newer\n" if i == 0 else b"wrong\n")
        if i and os.lstat(low / f"new{i}").st_ino == number:
            os.rename(low / f"new{i}", low / "g")
            break
        if i == 0:
            os.rename(low / "new0", low / "f")
    else:
        pytest.skip("the filesystem gives it to nobody")
    code, found = ov.ctl("check")
    assert not ids(found) & {"metacopy-data", "metacopy-value", "redirect-value"}, found
    ov.ctl("repair", "-y")
    assert (ov.mount() / "f").read_bytes() == b"newer\n"
    ov.umount()
    ov.before = None


@pytest.mark.parametrize("how", ["-p", "-y"])
def test_newer_directory_in_lower(ov, how):
    """A newer lower has a directory that was born in upper: both are seen, and no repair hides lower's."""
    with ov.lower() as low:
        write(low / "old")
    write(ov.mount() / "app/own")
    ov.umount()
    write(low / "app/vendor")
    code, found = ov.ctl("repair", how)
    assert "opaque-missing" not in ids(found) and code in (0, 1), found
    assert sorted(os.listdir(ov.mount() / "app")) == ["own", "vendor"]
    ov.before = None
