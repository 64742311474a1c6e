"""The numbers of a rank's file systems in memory (/tmp, /run, /dev/shm): none comes back within its life.

A program tells files apart by `st_dev` and `st_ino`; torch's data loader finds shared memory by them. A restore makes
these file systems anew, their files are counted from one again, and the kernel gives a new one the lowest number that
is free, often that of the one before: a new file would be taken for one that the program still knows. So whatever
numbers a rank has seen are held while CRIU restores it, and looked at again before it runs.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, Final

from . import kernel

HELD_MAX: Final = 50_000  # half of what a mount namespace may have, unless somebody changed it


def seen(pid: int, targets: Collection[str]) -> set[int]:
    """Minor device numbers of the file systems mounted at `targets` in the mount namespace of `pid`."""
    found = set()
    for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines():
        fields = line.split()
        if fields[4] in targets:
            found.add(int(fields[2].partition(":")[2]))
    return found


def targets_of(mounts: Iterable[dict[str, Any]]) -> set[str]:
    """Where a plan's file systems in memory lie."""
    return {mount["target"] for mount in mounts if mount["kind"] == "tmpfs"}


def hold(folder: str, used: Collection[int]) -> None:
    """Whatever of `used` is free on this host is free no more, for as long as this mount namespace is there.

    The kernel gives the lowest free number: when a mount gets one above all of `used`, each of them is taken.
    """
    spare = []
    for count in range(HELD_MAX if used else 0):
        at = f"{folder}/{count}"
        os.mkdir(at, 0o700)
        kernel.mount("tmpfs", at, "tmpfs", 0, "size=4k")
        number = os.minor(os.stat(at).st_dev)
        if number not in used:
            spare.append(at)
        if number > max(used):
            break
    for at in spare:
        kernel.unmount(at)
