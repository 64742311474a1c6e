"""The system calls that Python 3.11 does not wrap: namespaces, mounts, subreaper. Failures name the path."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from contextlib import suppress
from typing import Final

CLONE_NEWTIME: Final = 0x00000080
CLONE_NEWNS: Final = 0x00020000
CLONE_NEWUTS: Final = 0x04000000
CLONE_NEWIPC: Final = 0x08000000
CLONE_NEWPID: Final = 0x20000000
CLONE_NEWNET: Final = 0x40000000

MS_RDONLY: Final = 0x1
MS_NOSUID: Final = 0x2
MS_NODEV: Final = 0x4
MS_NOEXEC: Final = 0x8
MS_REMOUNT: Final = 0x20
MS_NOATIME: Final = 0x400
MS_NODIRATIME: Final = 0x800
MS_BIND: Final = 0x1000
MS_REC: Final = 0x4000
MS_PRIVATE: Final = 0x40000
MS_RELATIME: Final = 0x200000
MNT_DETACH: Final = 0x2

PR_SET_CHILD_SUBREAPER: Final = 36
PR_SET_NAME: Final = 15

# statvfs(3) reports a mount's flags in bits of its own
_FLAGS_OF_STATVFS: Final = {
    0x2: MS_NOSUID,
    0x4: MS_NODEV,
    0x8: MS_NOEXEC,
    0x400: MS_NOATIME,
    0x800: MS_NODIRATIME,
    0x1000: MS_RELATIME,
}
IO_URING: Final = range(425, 428)  # setup, enter, register: the same numbers on every architecture

_SECCOMP: Final = {"x86_64": 317, "aarch64": 277}
_AUDIT_ARCH: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_SET_MODE_FILTER: Final = 1
_SPEC_ALLOW: Final = 0x4  # no mitigations beyond those every process has: older kernels add costly ones for a filter
_LOAD, _JUMP_EQUAL, _JUMP_ABOVE, _RETURN = 0x20, 0x15, 0x25, 0x06  # BPF: of a word, by a constant
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_CALL_AT, _ARCH_AT = 0, 4  # in struct seccomp_data

_PIVOT_ROOT: Final = {"x86_64": 155, "aarch64": 41}

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, path: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)


def unshare(flags: int) -> None:
    """New namespaces for this process, or (PID, time) for its children."""
    _checked(_libc.unshare(flags), "namespaces")


def setns(path: str, kind: int) -> None:
    """Enters the namespace that is bound at `path`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _checked(_libc.setns(descriptor, kind), path)
    finally:
        os.close(descriptor)


def mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    """mount(2)."""
    result = _libc.mount(
        os.fsencode(source), os.fsencode(target), kind.encode(), ctypes.c_ulong(flags), options.encode() or None
    )
    _checked(result, target)


def unmount(target: str) -> None:
    """umount2(2): gone from here at once, and altogether when nobody uses it any more."""
    _checked(_libc.umount2(os.fsencode(target), MNT_DETACH), target)


def make_private(target: str) -> None:
    """From here on no mount made at or below `target` is seen by other namespaces, and none of theirs here."""
    mount("none", target, "", MS_REC | MS_PRIVATE)


def make_readonly(target: str) -> None:
    """Turns one bind read-only and keeps its other flags."""
    present = os.statvfs(target).f_flag
    kept = sum(flag for bit, flag in _FLAGS_OF_STATVFS.items() if present & bit)
    mount("none", target, "", MS_REMOUNT | MS_BIND | MS_RDONLY | kept)


def pivot_here() -> None:
    """Makes the current directory the root and drops the old one."""
    number = _PIVOT_ROOT[os.uname().machine]
    _checked(_libc.syscall(number, b".", b"."), os.getcwd())
    _checked(_libc.umount2(b".", MNT_DETACH), "the old root")
    os.chdir("/")


def refuse_io_uring() -> None:
    """From here on this process and all it starts find a kernel without io_uring: nothing can freeze one.

    Programs that would use it (libuv's, so torch's stores and Node) are written for kernels that have none. A kernel
    without seccomp leaves things as they are.
    """
    program = [
        (_LOAD, 0, 0, _ARCH_AT),
        (_JUMP_EQUAL, 0, 4, _AUDIT_ARCH[os.uname().machine]),
        (_LOAD, 0, 0, _CALL_AT),
        (_JUMP_ABOVE, 2, 0, IO_URING[-1]),
        (_JUMP_ABOVE, 0, 1, IO_URING[0] - 1),
        (_RETURN, 0, 0, _ERRNO | errno.ENOSYS),
        (_RETURN, 0, 0, _ALLOW),
    ]
    code = b"".join(struct.pack("=HBBI", *line) for line in program)
    held = ctypes.create_string_buffer(code, len(code))
    fprog = struct.pack("@HP", len(program), ctypes.addressof(held))
    number = ctypes.c_long(_SECCOMP[os.uname().machine])
    with suppress(OSError):
        _checked(_libc.syscall(number, ctypes.c_uint(_SET_MODE_FILTER), ctypes.c_uint(_SPEC_ALLOW), fprog), "seccomp")


def become_subreaper() -> None:
    """Orphans among our descendants become our children from now on."""
    _checked(_libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "subreaper")


def set_name(name: str) -> None:
    """The name that `ps -o comm` shows; 15 characters at most."""
    _libc.prctl(PR_SET_NAME, name.encode()[:15], 0, 0, 0)
