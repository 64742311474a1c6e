"""The numbers of a rank's file systems in memory (/tmp, /run, /dev/shm): none comes back within its life.

A program tells files apart by `st_dev` and `st_ino`; torch's data loader finds shared memory by them. A restore makes
these file systems anew, their files are counted from one again, and the kernel gives a new one the lowest number that
is free, often that of the one before: a new file would be taken for one that the program still knows. So whatever
numbers a rank has seen are held while CRIU restores it, and looked at again before it runs.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Final

from . import kernel
from .children import Children

LOOK_S: Final = 0.002


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


def repeated(pid: int, order: dict[str, Any]) -> set[int]:
    """Numbers that a restored rank has again, of those its order says it has known. Errors: OSError (it is gone)."""
    return seen(pid, targets_of(order["root_plan"]["mounts"])) & set(order.get("used", ()))


class Guard:
    """Holds numbers while ranks are restored: what is free of them is taken, and what comes free is taken at once."""

    def __init__(self, children: Children, orders: Collection[dict[str, Any]], timeout_s: float) -> None:
        """Returns once all numbers are taken that one of the ranks has known."""
        self._children = children
        self._pid = 0
        used = frozenset(number for order in orders for number in order.get("used", ()))
        if not used:
            return
        folder = next(iter(orders))["root_plan"]["root"]  # any that is there: nothing is seen in it
        ready, tell = os.pipe2(os.O_CLOEXEC)
        self._pid = children.start(partial(_hold, folder, used, tell), lambda _: None, timeout_s)
        os.close(tell)
        os.read(ready, 1)  # nothing comes from a child that failed: then the look afterwards has to do
        os.close(ready)

    def end(self) -> None:
        """They may be had again."""
        self._children.stop([self._pid])


def _hold(folder: str, used: Collection[int], tell: int, _: int) -> None:
    """In a forked child, until it is ended or its parent is gone."""
    parent = os.getppid()
    kernel.unshare(kernel.CLONE_NEWNS)
    kernel.make_private("/")
    kernel.mount("tmpfs", folder, "tmpfs", 0, "mode=700,size=1m")
    places = (f"{folder}/{number}" for number in count())
    _take(used, places)
    os.write(tell, b".")
    while os.getppid() == parent:
        time.sleep(LOOK_S)
        _take(used, places)


def _take(used: Collection[int], places: Iterator[str]) -> None:
    """Takes all of `used` that are free.

    The kernel gives the lowest free number. So the first one that is above all of `used` says that each of them is
    taken; while none comes free, the first try says so."""
    spare, number = [], 0
    while number <= max(used):
        at = next(places)
        os.mkdir(at, 0o700)
        kernel.mount("tmpfs", at, "tmpfs", 0, "size=4k")
        number = os.minor(os.stat(at).st_dev)
        if number not in used:
            spare.append(at)
    for at in spare:
        kernel.unmount(at)
        os.rmdir(at)
