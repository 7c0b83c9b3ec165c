"""A disk that fails for one thread: the system itself answers its syncs with an error."""

from __future__ import annotations

import ctypes
import errno
import platform
import struct

# The system calls `fsync` and `fdatasync`.
SYNCS = {"x86_64": (74, 75), "aarch64": (82, 83)}[platform.machine()]
PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, FILTER = 22, 38, 2
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, FAIL = 0x7FFF0000, 0x00050000


class Program(ctypes.Structure):
    """A filter as the system takes it: instructions, and how many they are."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def fail_syncs() -> None:
    """Have every sync to a disk fail, for as long as the thread lives that calls this."""
    steps = [
        (LOAD, 0, 0, 0),
        (JUMP_IF_EQUAL, 1, 0, SYNCS[0]),
        (JUMP_IF_EQUAL, 0, 1, SYNCS[1]),
        (RETURN, 0, 0, FAIL | errno.EIO),
        (RETURN, 0, 0, ALLOW),
    ]
    packed = b"".join(struct.pack("HBBI", *step) for step in steps)
    libc = ctypes.CDLL(None, use_errno=True)
    program = Program(len(steps), packed)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(PR_SET_SECCOMP, FILTER, ctypes.byref(program), 0, 0):
        raise OSError(ctypes.get_errno(), "the system lets no thread filter what it asks for")
