#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Writes the first inputs of each fuzzer, after docs/format.md, into DIR/<subject>/. Checksums are
put right by the fuzzers.

Usage: seeds.py DIR
"""

import os
import pathlib
import struct
import sys

UUID = bytes(range(16))
BORN = 0x4321 << 48 | 17


def place(parent, name):
    return struct.pack("<Q", parent) + name


def handle(fid=bytes(8), flags=0):
    return struct.pack("<BBBBB", 0, 0xfb, 21 + len(fid), flags, 1) + UUID + fid


def fetch(capability=b""):
    """overlay.metacopy of a file whose data are being fetched."""
    return struct.pack("<4BHIIqIQ", 0, 34 + len(capability), 0, 0, 0o755, 1, 2, 3, 4, 5) + capability


def piece(value):
    return bytes([len(value)]) + value


def entry():
    yield struct.pack("<QI", BORN, 7)
    yield place(1, b"name")
    yield place(BORN, b"n" * 255)
    yield handle()
    yield handle(bytes(128))
    yield fetch(bytes(20))


def handles():
    """The pieces: path, upper, fh, place; each with a byte before the value."""
    def record(*values):
        return b"".join(piece(b"+" + v) if v is not None else b"\0" for v in values)
    yield record(place(1, b"dir"), handle(), None, None)
    yield record(place(BORN, b"dir"), handle(bytes(24)), handle(), place(1, b"lower"))
    yield record(place(1, b"dir"), handle(flags=1), None, b"")
    yield record(place(1, b"dir"), b"", None, None)


def real(number, ino, instance=1):
    return struct.pack("<IHHQQII", 0, instance, 0, ino, number, 5, 0)


def journal():
    yield b"\xff" + real(100, 10) + real(101, 11, 2)
    yield b"\xff" + real(100, 10) + real(100, 11) + real(102, 10)
    yield b"\1" + real(100, 10) + real(101, 11) + real(102, 12)[:17]


def record(op, flags, number2, names, kind=1):
    head = struct.pack("<BBBBIQQQQQ", kind, op, *map(len, names), flags, 3, BORN, number2, 1, 1)
    body = head + b"".join(names)
    return struct.pack("<II", 8 + len(body), 0) + body


def log():
    for op in range(1, 8):
        yield record(op, 256, 0, (b"from", b"to" if op == 5 else b""))
    yield record(5, 2, 99, (b"a" * 255, b"b" * 255))
    yield struct.pack("<IIBBBBIQ", 24, 0, 2, 0, 0, 0, 0, 3)


def row():
    for name in b"f", b"d" * 255:
        yield struct.pack("<QB", 1, len(name)) + name + struct.pack("<IB", 5, 8)


def mapfile():
    yield b"\0"
    yield b"\1"
    yield b"\0" + struct.pack("<I", 4096 + 8) + piece(b"\xff\xff")
    yield b"\0" + struct.pack("<I", 0) + piece(bytes(24))
    yield b"\0" + struct.pack("<I", 8192) + piece(b"")
    for page in range(2, 24):
        yield b"\0" + struct.pack("<I", page * 4096 + 10) + piece(b"\2\0\x10\0\x20\0")
        yield b"\0" + struct.pack("<I", page * 4096 + 16) + piece(b"\x20\0")


def name():
    yield handle().hex().encode()
    yield handle(bytes(8)).hex().upper().encode()
    yield handle(bytes(106)).hex().encode()


def nfs():
    yield b"0x" + (bytes(4) + bytes(range(8))).hex().encode()
    yield b"01060081 00000001 00000002 00000003"
    yield b"43 00 01 00 16 00 00 00 81 00 00 00 01 00 00 00 02 00 00 00"
    yield b"01:00:06:81:" + UUID.hex(":").encode() + b":" + bytes(12).hex(":").encode()


def options():
    yield b"lowerdir=/a:/b,upperdir=/u,workdir=/w"
    yield b"lowerdir=/a\\:b::/data,ro,index=on,nfs_export=on,metacopy=on,redirect_dir=on,xino=auto"
    yield b"lowerdir+=/a,datadir+=/d,userxattr,volatile,fsync=strict,copy_up=write,rebind=auto"


def redirect():
    """For each of three layers: redirect, opaque, whiteout, metacopy, redirect of the file."""
    def layers(*values):
        values += ((b"",) * 5,) * (3 - len(values))
        return b"".join(piece(v) for layer in values for v in layer)
    yield layers((b"/a/b", b"", b"", b"", b""))
    yield layers((b"a", b"y", b"", b"", b""), (b"", b"", b"", b"", b"/d/f"))
    yield layers((b"../a", b"x", b"y", bytes([0, 4, 0, 0]), b"/a/f"), (b"/", b"y", b"y", b"", b""))
    yield layers((b"", b"", b"", fetch(), b""), (b"a", b"", b"", fetch(bytes(20)), b"f"))
    yield layers((b"/d", b"", b"", bytes([0, 4, 0, 0]), b""), (b"//a", b"x", b"y", b"\0", b"f"))


def state():
    root = struct.pack("<QIHH", 2, 2, 1, 8) + bytes(8) + b"/lower"
    records = [(1, struct.pack("<HHIQ", 0, 0, 0, 0xef53) + UUID * 3),
               (1, struct.pack("<HHIQ", 0x4321, 2, 0, 0) + UUID * 3)]
    records += [(kind, root) for kind in (2, 3, 4)]
    head = UUID + bytes(32) + UUID + struct.pack("<IHH", 1, 0x8000, 0)
    head += struct.pack("<QHHI", 17, 0x4321, 0, 0) * 2
    head += struct.pack("<II", len(records), 0) + bytes(16 + 24)
    body = head + b"".join(struct.pack("<HH", k, len(v)) + v for k, v in records)
    yield b"RVLSTATE" + struct.pack("<QIIQQ", 0, 1, 40 + len(body), 0, 0) + body


def table():
    yield b"RVLI" + struct.pack("<IBBHI", 0, 1, 0, 2, 0) + UUID + struct.pack("<H", 1) + UUID + \
        struct.pack("<H", 0x4321) + UUID


SEEDS = {"entry": entry, "handle": handles, "journal": journal, "log": log, "map": row, "mapfile": mapfile,
         "name": name, "nfs": nfs, "options": options, "redirect": redirect,
         "state": state, "table": table}


def main(where):
    for subject, seeds in SEEDS.items():
        directory = pathlib.Path(where, subject)
        os.makedirs(directory, exist_ok=True)
        for i, seed in enumerate(seeds()):
            (directory / f"seed-{i:02}").write_bytes(seed)


if __name__ == "__main__":
    main(sys.argv[1])
