#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""deny.py NUMBER COMMAND...: runs a command to which the system call with this number is denied (EPERM)."""

import ctypes
import os
import struct
import sys

PR_SET_NO_NEW_PRIVS = 38
PR_SET_SECCOMP = 22
SECCOMP_MODE_FILTER = 2
EPERM = 1


def main():
    number = int(sys.argv[1])
    program = b"".join((
        struct.pack("HBBI", 0x20, 0, 0, 0),  # the number of the system call
        struct.pack("HBBI", 0x15, 0, 1, number),
        struct.pack("HBBI", 0x06, 0, 0, 0x00050000 | EPERM),
        struct.pack("HBBI", 0x06, 0, 0, 0x7fff0000)))
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
