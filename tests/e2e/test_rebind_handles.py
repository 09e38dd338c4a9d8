# SPDX-License-Identifier: GPL-2.0-or-later
"""The handle matrix across moves, and clients of NFS that go on after one.

Every remount of the matrix is a move: the layers are copied to other filesystems in some way, the
originals are removed, and the copy is bound. RVL_ALL_MOVES=1 (scripts/soak) has each way and each
pair of filesystems; else it is a few.
"""

import os

import pytest

from rvl import CTL, run
from test_handles import PROGRAM, run_cells
from test_nfs_ganesha import ROWS, Row, Wire, fill, nfsbox
from test_rebind import WAYS as WAYS_TO_COPY
from test_rebind import Move, by_rsync, by_rsync_without_links, rebind
from test_rebind_rebuilt import lose_workdir
from trees import write

pytestmark = pytest.mark.reverlay_only("it refuses copied layers")
SECONDS = 200
MOVES_AT_ONCE = 3  # without a workdir: each time with other inodes, some of which others had before


def by_newer(source, target):
    """Another version of the tree: equal files with another time, and a file more in every directory."""
    run("rsync", "-rlpogDHAX", f"{source}/", target)
    for path, _, _ in os.walk(target):
        write(os.path.join(path, "newer"))


WAYS = {**WAYS_TO_COPY, "rsync without -H": by_rsync_without_links, "newer lower": by_rsync}
FILESYSTEMS = ["ext4", "xfs", "btrfs", "tmpfs"]
FEW = [("rsync", "ext4", "xfs", "ext4"), ("cp", "xfs", "btrfs", "tmpfs"),
       ("rsync without -H", "ext4", "tmpfs", "ext4"), ("tar", "tmpfs", "xfs", "btrfs"),
       ("rsync", "xfs", "ext4", "squashfs"), ("newer lower", "ext4", "xfs", "btrfs")]
ALL = [(way, upper, fs, lower) for way in WAYS for upper in FILESYSTEMS for fs in FILESYSTEMS
       for lower in [*FILESYSTEMS, "squashfs"] if (way, lower) != ("newer lower", "squashfs")]


@pytest.fixture
def move(ov, images):
    return Move(ov, images)


class Moving:
    """For run_cells: a remount goes to other filesystems, by turns."""

    def __init__(self, ov, move, way, places):
        self.ov = ov
        self.move = move
        self.copy = WAYS[way]
        self.copy_lower = by_newer if way == "newer lower" else self.copy
        self.places = places
        self.n_moves = 0
        self.mnt = ov.mnt

    def remount(self, *options):
        run(CTL, "map", self.ov.mnt)
        self.ov.umount()
        fs, lower = self.places[self.n_moves % len(self.places)]
        self.move.upper(fs, self.copy)
        if lower == "squashfs":
            self.lower_becomes_an_image()
        else:
            self.move.lowers(lower, self.copy_lower)
        report = rebind(self.ov)
        assert report["told"] == [] and report["had_map"], report
        self.ov.mount(*options)
        self.n_moves += 1

    def lower_becomes_an_image(self):
        source, = self.ov.lowers
        self.ov.lower_base = self.move.directory("ext4", "image")
        self.ov._make_squashfs(source)  # pylint: disable=protected-access
        self.ov.before = None

    def kill_remount(self, *options):
        self.ov.kill_remount(*options)


def run_moves(moving, arguments, capsys, title):
    code, said = run_cells(moving, arguments, SECONDS, [])
    with capsys.disabled():
        print(f"\nhandles: {title}: {moving.n_moves} moves: " + (said or ["nothing"])[-1])
    counts = dict(part.split("=") for part in (said or [""])[-1].split(" ") if "=" in part)
    assert code == 0 and counts.get("failed") == "0", "\n".join(said[-45:])
    assert int(counts["ok"]) > 100 and int(counts["stale"]) > 50 and moving.n_moves >= 2


@pytest.mark.seconds(SECONDS + 20)
@pytest.mark.parametrize("way,upper,fs,lower", ALL if os.environ.get("RVL_ALL_MOVES") else FEW)
def test_single_events(ov, move, capsys, way, upper, fs, lower):
    """Each kind of object, each event, and moves between taking and using its handle."""
    # what tar leaves out or parts
    arguments = [] if way != "tar" else ["--without", "socket"]
    with ov.lower() as top:
        run(PROGRAM, *arguments, "lower", top)
    ov.mount()
    ov.check_remount = False
    moving = Moving(ov, move, way, [(fs, lower), (upper, fs)])
    run_moves(moving, arguments, capsys, f"{way}, {upper} to {fs}, lower {lower}")


class Losing(Moving):
    """The workdir is not copied: the index is made again from upper, and lower's objects have new numbers."""

    def remount(self, *options):
        for _ in range(MOVES_AT_ONCE):
            self.lose(*options)

    def lose(self, *options):
        self.ov.umount()
        fs, lower = self.places[self.n_moves % len(self.places)]
        lose_workdir(self.ov)
        self.move.upper(fs, self.copy)
        self.move.lowers(lower, self.copy_lower)
        self.link()
        assert rebind(self.ov)["rebuilt"]
        self.ov.mount(*options)
        self.n_moves += 1

    def link(self):
        """Where the program finds upper."""
        where = self.ov.mnt.with_name(self.ov.mnt.name + ".upper")
        where.unlink(missing_ok=True)
        where.symlink_to(self.ov.upper)
        return where


@pytest.mark.seconds(SECONDS + 20)
@pytest.mark.parametrize("places", [[("xfs", "btrfs"), ("ext4", "xfs")], [("ext4", "ext4")]],
                         ids=["to others", "to the same"])
def test_workdir_lost(ov, move, capsys, places):
    """What is in upper keeps numbers, links and handles; no old handle of what is not opens anything.

    On the same filesystem the copies get inodes that others had, which stamps in upper are made of.
    """
    with ov.lower() as top:
        run(PROGRAM, "lower", top)
    ov.mount()
    ov.check_remount = False
    ov.check_links = False  # what lost a name in the index alone is a lower object again, with its links
    losing = Losing(ov, move, "rsync", places)
    run_moves(losing, ["--lossy", losing.link()], capsys, "workdir lost")


@pytest.fixture
def box(ov, move):
    made = nfsbox.Box(ov)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("version", [3, 4])
def test_clients_go_on(ov, move, box, version):
    """A client's handles of before a move open their objects after it, under the same fsid."""
    with ov.lower() as lower:
        for row in ROWS:
            fill(lower / row.__name__)
    ov.mount()
    box.ganesha_start()
    client = box.client(version)
    rows = [Row(row.__name__, client, Wire(client, ov.mnt)) for row in ROWS]
    fsid = client.getattr(client.root)["fsid"]
    for row, event in zip(rows, ROWS):
        event(row)
    for fs, lower_fs in (("xfs", "btrfs"), ("ext4", "xfs")):
        run(CTL, "map", ov.mnt)
        st_dev = os.lstat(ov.mnt).st_dev
        box.ganesha_stop()
        ov.umount()
        move.all(fs, lower_fs, by_rsync)
        assert rebind(ov)["told"] == []
        box.mount_elsewhere(st_dev)
        box.ganesha_start()
        for row in rows:
            row.check(f"after a move to {fs}, {lower_fs}")
        assert client.getattr(client.root)["fsid"] == fsid
