#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""deny.py NUMBER[:FIRST] COMMAND...: runs a command to which a system call, with this first argument, is denied (EPERM)."""

import ctypes
import os
import struct
import sys

PR_SET_NO_NEW_PRIVS = 38
PR_SET_SECCOMP = 22
SECCOMP_MODE_FILTER = 2
EPERM = 1


def main():
    number, _, first = sys.argv[1].partition(":")
    tests = [(0, int(number))] + ([(16, int(first))] if first else [])  # offsets in struct seccomp_data
    program = b""
    for left, (offset, value) in zip(range(len(tests) - 1, -1, -1), tests):
        program += struct.pack("HBBI", 0x20, 0, 0, offset)
        program += struct.pack("HBBI", 0x15, 0, 2 * left + 1, value)
    program += struct.pack("HBBI", 0x06, 0, 0, 0x00050000 | EPERM)
    program += struct.pack("HBBI", 0x06, 0, 0, 0x7fff0000)
    text = ctypes.create_string_buffer(program, len(program))
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(text)))
    libc = ctypes.CDLL(None, use_errno=True)
    # without new privileges fusermount3 would not work; root needs no such promise
    if os.geteuid() != 0 and libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "no_new_privs")
    if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, header):
        raise OSError(ctypes.get_errno(), "seccomp")
    os.execvp(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
