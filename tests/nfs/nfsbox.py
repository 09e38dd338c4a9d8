# SPDX-License-Identifier: GPL-2.0-or-later
"""NFS-Ganesha in namespaces of its own, and a client that speaks to it by raw handles."""

import contextlib
import os
import re
import signal
import subprocess
import time
from pathlib import Path

from rvl import BUILD, CTL, TOP, die_with_parent, run

CLIENT = str(BUILD / "tests/nfs/rvl-nfs-client")
NFS_PORT = 2049
MOUNT_PORT = 20048
START_DEADLINE = 30.0
STOP_DEADLINE = 15.0

# In the new namespaces: nobody else's FUSE mounts (a copy would keep them alive), an own /run.
ENTER = r"""
set -e
awk '$0 ~ / - fuse(\.[^ ]*|blk)? / { print $5 }' /proc/self/mountinfo | while read -r where; do
    case $where in
    "$1"/*) ;;
    *) umount -l "$where" 2>/dev/null || : ;;
    esac
done
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/ganesha /run/rpcbind
ip link set lo up
echo ready
exec cat >/dev/null
"""


def recipe(name, **values):
    """A block of docs/nfs.md, with its example paths replaced: {"/srv/export": ...}."""
    text = (TOP / "docs/nfs.md").read_text(encoding="utf-8")
    found = re.search(r"<!-- recipe: " + re.escape(name) + r" -->\n+```[a-z]*\n(.*?)\n```", text,
                      re.S)
    assert found, f"docs/nfs.md has no recipe {name}"
    block = found.group(1)
    for old, new in values.get("replace", {}).items():
        assert old in block, f"docs/nfs.md, recipe {name}: there is no {old}"
        block = block.replace(old, str(new))
    return block


class NfsError(Exception):
    """The server's answer; args: name of the code ("STALE"), its number."""


class Client:
    """A connection of one version. Names are bytes or text, handles are hex as on the wire."""

    def __init__(self, box, version):
        self.box = box
        self.version = version
        self.process = subprocess.Popen(
            box.inside(CLIENT), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            preexec_fn=die_with_parent)
        self.root = None
        self.connect()

    def call(self, *words):
        """All lines of the answer, split; the last one without its "ok"."""
        self.process.stdin.write(" ".join(map(str, words)).encode() + b"\n")
        self.process.stdin.flush()
        lines = []
        while True:
            line = self.process.stdout.readline().decode()
            assert line, f"the client ended at: {words}"
            fields = line.split()
            if fields[0] == "ok":
                lines.append(fields[1:])
                return lines
            if fields[0] == "error":
                raise NfsError(*fields[1:])
            lines.append(fields)

    @staticmethod
    def hex(data):
        return os.fsencode(data).hex() or "-"

    def connect(self):
        path = self.box.path if self.version == 3 else self.box.pseudo
        self.root = self.call("connect", self.version, "127.0.0.1", NFS_PORT, MOUNT_PORT,
                              path)[-1][0]
        return self.root

    def lookup(self, path, start=None):
        fh = start or self.root
        for name in filter(None, os.fsencode(path).split(b"/")):
            fh = self.call("lookup", fh, name.hex())[-1][0]
        return fh

    def getattr(self, fh):
        answer = self.call("getattr", fh)[-1]
        names = ("type", "mode", "nlink", "uid", "gid", "size", "fileid")
        attr = dict(zip(names, answer))
        for name in names:
            attr[name] = int(attr[name], 8 if name == "mode" else 10)
        attr["fsid"], attr["mtime"] = answer[len(names):]
        return attr

    def read(self, fh, offset=0, length=32768):
        data = self.call("read", fh, offset, length)[-1][0]
        return b"" if data == "-" else bytes.fromhex(data)

    def write(self, fh, data, offset=0):
        self.call("write", fh, offset, self.hex(data))

    def readlink(self, fh):
        return bytes.fromhex(self.call("readlink", fh)[-1][0])

    def chmod(self, fh, mode):
        self.call("chmod", fh, oct(mode)[2:])

    def create(self, dir_fh, name):
        return self.call("create", dir_fh, self.hex(name))[-1][0]

    def mkdir(self, dir_fh, name):
        return self.call("mkdir", dir_fh, self.hex(name))[-1][0]

    def remove(self, dir_fh, name):
        self.call("remove", dir_fh, self.hex(name))

    def rmdir(self, dir_fh, name):
        self.call("rmdir", dir_fh, self.hex(name))

    def rename(self, dir_fh, name, to_fh, to_name):
        self.call("rename", dir_fh, self.hex(name), to_fh, self.hex(to_name))

    def link(self, fh, dir_fh, name):
        self.call("link", fh, dir_fh, self.hex(name))

    def list(self, fh, cookie=0, verifier="-", count=32768):
        """One call: [(cookie, fileid, name)], verifier, eof."""
        *entries, last = self.call("list", fh, cookie, verifier, count)
        return ([(int(e[1]), int(e[2]), bytes.fromhex(e[3])) for e in entries], last[0],
                last[1] == "1")

    def walk(self, fh):
        """{path: (fh, fileid of the entry, attributes as text..., CRC-32 of the content)}."""
        return {bytes.fromhex(o[1]): tuple(o[2:]) for o in self.call("walk", fh)[:-1]}

    def close(self):
        self.process.stdin.close()
        self.process.wait(STOP_DEADLINE)


class Box:
    """Namespaces with a Ganesha that exports one mount of ours, as docs/nfs.md tells to.

    The mount point is moved below a directory whose mounts are shared between the namespaces, so
    that Ganesha sees what is mounted and unmounted there, as on a real machine.
    """

    def __init__(self, ov, pseudo="/export", extra=""):
        self.ov = ov
        self.pseudo = pseudo
        self.extra = extra  # more for ganesha.conf
        self.options = ["--pseudo", pseudo]
        self.processes = []
        self.clients = []
        self.n_devices = 0
        self.drop_setting = None  # leave lines with this word out of the export
        self.shared = ov.images.scratch / ("nfs-" + ov.mnt.name)
        self.shared.mkdir()
        run("mount", "--bind", self.shared, self.shared)
        run("mount", "--make-private", self.shared)
        run("mount", "--make-shared", self.shared)
        ov.mnt = self.shared / "mnt"
        ov.mnt.mkdir()
        self.path = str(ov.mnt)
        self.conf = self.shared / "ganesha.conf"
        self.log = self.shared / "ganesha.log"
        self.recovery = self.shared / "recovery"
        self.recovery.mkdir()
        self.ganesha = None
        self.holder = subprocess.Popen(
            ["unshare", "-m", "-n", "--propagation", "unchanged", "sh", "-c", ENTER, "sh",
             str(ov.images.scratch)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            preexec_fn=die_with_parent)
        assert self.holder.stdout.readline() == b"ready\n", "no namespaces"
        self.start_rpcbind()

    def inside(self, *args):
        return ["nsenter", "-t", str(self.holder.pid), "-m", "-n", "--", *map(str, args)]

    def start(self, *args):
        with open(self.log, "ab") as log:
            process = subprocess.Popen(self.inside(*args), stdout=log, stderr=log,
                                       stdin=subprocess.DEVNULL, preexec_fn=die_with_parent)
        self.processes.append(process)
        return process

    def start_rpcbind(self):
        process = self.start("rpcbind", "-f")
        self.wait_for_port(111, process)

    def wait_for_port(self, port, process):
        """Till something listens there, in the namespace."""
        end = time.monotonic() + START_DEADLINE
        wanted = f":{port:04X} "
        while time.monotonic() < end:
            assert process.poll() is None, f"{process.args} ended:\n{self.messages()}"
            for name in ("tcp", "tcp6"):
                text = Path(f"/proc/{self.holder.pid}/net/{name}").read_text()
                if any(wanted in line and " 0A " in line for line in text.splitlines()):
                    return
            time.sleep(0.01)
        raise AssertionError(f"nothing listens on port {port}:\n{self.messages()}")

    def messages(self):
        return self.log.read_text(errors="replace")[-4000:]

    # -- Ganesha ----------------------------------------------------------------------------

    def export_block(self):
        """What the recipe tells to print."""
        command = recipe("ganesha-export", replace={"/srv/export": self.path}).split()
        assert command[0] == "reverlayctl"
        tail = command.index(">")
        return run(CTL, *command[1:tail], "--no-root-squash", *self.options).stdout

    def write_conf(self, with_export=True):
        """The recipe's configuration; the included file with the export lies beside it."""
        include = self.shared / "reverlay.conf"
        text = recipe("ganesha-conf", replace={
            "/etc/ganesha/reverlay.conf": include,
            "/var/lib/nfs/ganesha": self.recovery})
        self.conf.write_text(text + "\n" + self.extra)
        if with_export:
            block = self.export_block()
            assert "EXPORT" in block
            if self.drop_setting:
                assert self.drop_setting in block
                block = "".join(line for line in block.splitlines(True)
                                if self.drop_setting not in line)
            include.write_text(block)
        else:
            include.write_text("# nothing is exported\n")

    def ganesha_start(self):
        self.write_conf()
        self.ganesha = self.start("ganesha.nfsd", "-F", "-f", self.conf, "-L", self.log,
                                  "-N", "NIV_EVENT", "-p", self.shared / "ganesha.pid")
        self.wait_for_port(NFS_PORT, self.ganesha)
        self.wait_for_port(MOUNT_PORT, self.ganesha)
        for client in self.clients:
            client.connect()

    def ganesha_stop(self):
        """As its service does: SIGTERM."""
        self.ganesha.send_signal(signal.SIGTERM)
        try:
            self.ganesha.wait(STOP_DEADLINE)
        except subprocess.TimeoutExpired:
            self.ganesha.kill()
            self.ganesha.wait()
            raise AssertionError("Ganesha does not stop") from None
        self.ganesha = None

    def client(self, version):
        client = Client(self, version)
        self.clients.append(client)
        return client

    # -- restarts ---------------------------------------------------------------------------

    def occupy(self, device):
        """Takes the free anonymous device numbers up to this one: the next mount gets another."""
        for _ in range(1000):
            self.n_devices += 1
            where = self.shared / f"device{self.n_devices}"
            where.mkdir()
            run("mount", "-t", "tmpfs", "tmpfs", where)
            if os.minor(os.lstat(where).st_dev) >= os.minor(device):
                return

    def mount_elsewhere(self, device):
        """Mounts again as before, but with another st_dev."""
        extra, upper, kernel = self.ov.last
        for _ in range(10):
            self.occupy(device)
            self.ov.mount(*extra, upper=upper, kernel=kernel)
            if os.lstat(self.path).st_dev != device:
                return
            self.ov.umount()  # others on this machine mount and unmount too
        raise AssertionError("the mount gets the same st_dev again and again")

    def restart(self, what, kill=False):
        """what: "ganesha", "reverlay" (Ganesha lets go and takes it again), "both"."""
        old = os.lstat(self.path).st_dev
        if what == "reverlay":
            self.drop_export()
        else:
            self.ganesha_stop()
        if what != "ganesha":
            if kill:
                self.ov.kill()
            else:
                self.ov.umount()
            self.mount_elsewhere(old)
        if what == "reverlay":
            self.take_export()
        else:
            self.ganesha_start()

    def reload(self, text):
        """SIGHUP, and wait for the word of it in the log."""
        size = self.log.stat().st_size
        self.ganesha.send_signal(signal.SIGHUP)
        end = time.monotonic() + START_DEADLINE
        while time.monotonic() < end:
            with open(self.log, "rb") as log:
                log.seek(size)
                if text in log.read():
                    return
            assert self.ganesha.poll() is None, f"Ganesha ended:\n{self.messages()}"
            time.sleep(0.01)
        raise AssertionError(f"Ganesha does not reload:\n{self.messages()}")

    def drop_export(self):
        self.write_conf(with_export=False)
        self.reload(b"Reread exports complete")

    def take_export(self):
        self.write_conf()
        self.reload(b"Reread exports complete")
        for client in self.clients:
            client.connect()

    def close(self):
        for client in self.clients:
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                client.close()
        for process in reversed(self.processes):
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(STOP_DEADLINE)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        self.holder.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.holder.wait(STOP_DEADLINE)
        self.holder.stdout.close()
