# SPDX-License-Identifier: GPL-2.0-or-later
"""The filesystems that layers lie on."""

import os
from pathlib import Path

from rvl import run


class Images:
    """Filesystems in files, each made at its first use and mounted till the session ends."""

    SIZES = {"ext4": "4G", "xfs": "4G", "btrfs": "4G", "ext4b": "2G", "xfsb": "2G"}
    MAKE = {
        "ext4": ["mkfs.ext4", "-q", "-E", "lazy_itable_init=1,nodiscard", "-O", "^has_journal"],
        "xfs": ["mkfs.xfs", "-q", "-f", "-m", "reflink=1"],
        "btrfs": ["mkfs.btrfs", "-q", "-f"],
    }

    def __init__(self, scratch):
        self.scratch = Path(scratch)
        self.mounted = {}
        if os.environ.get("RVL_ALL_PAIRS") == "1":
            # millions of objects; sparse
            self.SIZES = dict.fromkeys(self.SIZES, "60G")

    def get(self, kind):
        if kind not in self.mounted:
            where = self.scratch / f"fs-{kind}"
            where.mkdir()
            if kind.startswith("tmpfs"):
                run("mount", "-t", "tmpfs", "-o", "size=2g", "tmpfs", where)
            else:
                image = self.scratch / f"{kind}.img"
                run("truncate", "-s", self.SIZES[kind], image)
                run(*self.MAKE[kind.rstrip("b") if kind != "btrfs" else kind], image)
                run("mount", "-o", "loop", image, where)
            where.chmod(0o755)
            self.mounted[kind] = where
        return self.mounted[kind]

    def private(self, where, kind, size="64M", options="loop"):
        """A small filesystem of its own for one test, mounted at where."""
        where.mkdir(parents=True, exist_ok=True)
        image = where.with_name(where.name + ".img")
        run("truncate", "-s", "320M" if kind == "xfs" else size, image)
        run(*self.MAKE[kind], image)
        run("mount", "-o", options, image, where)
        where.chmod(0o755)
        return where

    def close(self):
        for where in reversed(list(self.mounted.values())):
            run("umount", "-l", where, check=False)
        self.mounted.clear()
