"""Freezers: groups of processes that are held, let go and killed as one, on cgroup v1 and v2 behind one port.

Here lives everything that reads or writes a cgroup file system. Standard library only and self-contained: the keeper,
which has no `ergosphere` on its path, loads this very file. That is also why it reads a clock of its own.
"""

from __future__ import annotations

import os
import re
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

FREEZE_S_DEFAULT: Final = 10.0  # a task in an uninterruptible disk wait may need seconds to come to rest
KILL_S_DEFAULT: Final = 10.0  # releasing gigabytes of memory on a busy machine was seen to take 2 s
REMOVE_S_DEFAULT: Final = 5.0  # a group stays busy for a moment after its last task has gone
NUDGE_S: Final = 0.5  # v1 can stay FREEZING when a task forks at the wrong moment: thaw and freeze again
POLL_S_MIN: Final = 0.0005
POLL_S_MAX: Final = 0.01


class CgroupError(Exception):
    """A cgroup operation failed; the message gives the cause first and then the remedy."""


class FreezeTimeout(CgroupError):
    """Some task did not come to rest in time; the group was thawed again."""


class Hierarchy(NamedTuple):  # no dataclass: a keeper would load all of `inspect` for it, a third of its start
    """A mounted cgroup hierarchy that can freeze: `version` 1 or 2, `mount` its root directory."""

    version: int
    mount: Path


def hierarchies(mountinfo: Path = Path("/proc/self/mountinfo")) -> tuple[Hierarchy, ...]:
    """Every mounted hierarchy with a freezer, the preferred one (v2) first. Says nothing about permission."""
    found: dict[int, Hierarchy] = {}
    for line in mountinfo.read_text().splitlines():
        hierarchy = _hierarchy_of(line)
        if hierarchy is not None:
            found.setdefault(hierarchy.version, hierarchy)
    return tuple(found[version] for version in (2, 1) if version in found)


def _hierarchy_of(mountinfo_line: str) -> Hierarchy | None:
    fields = mountinfo_line.split()
    separator = fields.index("-")
    mount = mount_path(fields[4])
    kind, options = fields[separator + 1], fields[separator + 3].split(",")
    if kind == "cgroup2":
        return Hierarchy(2, mount)
    if kind == "cgroup" and "freezer" in options:
        return Hierarchy(1, mount)
    return None


def mount_path(field: str) -> Path:
    """A path as the mount table writes it: a space, tab, newline or backslash is three octal digits there."""
    return Path(re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field))


def usable(hierarchy: Hierarchy) -> bool:
    """True if groups can be made here and they have a freezer; makes and removes one to know."""
    probe = hierarchy.mount / f"ergo-probe-{os.getpid()}"
    try:
        probe.mkdir(exist_ok=True)
        return (probe / ("cgroup.freeze" if hierarchy.version == 2 else "freezer.state")).exists()
    except OSError:
        return False
    finally:
        with suppress(OSError):
            probe.rmdir()


def choose(version: int | None = None) -> Hierarchy:
    """The hierarchy to use: the first usable one, or the usable one of that `version` (1 or 2)."""
    for hierarchy in hierarchies():
        if version in (None, hierarchy.version) and usable(hierarchy):
            return hierarchy
    wanted = "cgroup" if version is None else f"cgroup v{version}"
    raise CgroupError(
        f"no writable {wanted} freezer on this machine: run as root, on a host or in a container that has "
        "/sys/fs/cgroup mounted writable (docker: --privileged --cgroupns=host)"
    )


class Freezer(ABC):
    """One group of processes. `path` is its directory; everything done to it is done to the groups below it too."""

    version: int

    def __init__(self, hierarchy: Hierarchy, group: str) -> None:
        relative = Path(group)
        if relative.is_absolute() or not relative.parts or ".." in relative.parts:
            raise ValueError(f"group must be a relative path below the hierarchy: {group!r}")
        self.hierarchy = hierarchy
        self.path = hierarchy.mount / relative

    def create(self) -> None:
        """Makes the group and those above it; nothing happens if it is there."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CgroupError(f"cannot make cgroup {self.path}: {error.strerror}; is ergo running as root?") from error

    def exists(self) -> bool:
        """True while the group's directory is there."""
        return self.path.is_dir()

    def add(self, pid: int) -> None:
        """Moves a process with all its threads into the group. A frozen group freezes it before it runs on.

        Raises ProcessLookupError when the process is gone.
        """
        (self.path / "cgroup.procs").write_text(str(pid))

    def pids(self) -> frozenset[int]:
        """PIDs, as the reader's PID namespace numbers them, of all processes in the group and below it."""
        found: set[int] = set()
        for group in self._groups():
            with suppress(FileNotFoundError, OSError):
                found.update(int(word) for word in (group / "cgroup.procs").read_text().split())
        return frozenset(found - {0})

    def freeze(self, deadline_s: float = FREEZE_S_DEFAULT) -> None:
        """Returns when every task is at rest; if that takes longer, thaws again and raises FreezeTimeout."""
        self._write_state(True)
        nudge_at = time.monotonic() + NUDGE_S
        for _ in _ticks(deadline_s):
            if self.is_frozen():
                return
            if self.version == 1 and time.monotonic() > nudge_at:
                self._write_state(False)
                self._write_state(True)
                nudge_at = time.monotonic() + NUDGE_S
        restless = _restless(self.pids())
        self._write_state(False)
        raise FreezeTimeout(f"not at rest after {deadline_s:g} s: {restless}; the group runs on, try again later")

    def thaw(self) -> None:
        """Lets the group go on, unless a group above it is frozen: then it goes on when that one does."""
        self._write_state(False)

    @abstractmethod
    def is_frozen(self) -> bool:
        """True if every task is at rest, whether by this group's own state or by that of one above it."""

    @abstractmethod
    def _write_state(self, frozen: bool, /) -> None:
        """Sets this group's own wish; does not wait."""

    def kill(self, deadline_s: float = KILL_S_DEFAULT) -> None:
        """Ends every process with SIGKILL, frozen or not, without one of them running on; returns when all are gone."""
        for _ in _ticks(deadline_s):
            pids = self.pids()
            if not pids:
                return
            self._kill_all(pids)
        raise CgroupError(
            f"processes {sorted(self.pids())[:8]} in {self.path} did not die within {deadline_s:g} s: "
            "they wait for a device, or a group above is frozen"
        )

    @abstractmethod
    def _kill_all(self, pids: frozenset[int]) -> None:
        """One round of SIGKILL to everything here."""

    def remove(self, deadline_s: float = REMOVE_S_DEFAULT) -> None:
        """Removes the empty group and the empty groups below it; nothing happens if it is gone already."""
        for _ in _ticks(deadline_s):
            for group in reversed(list(self._groups())):
                with suppress(OSError):
                    group.rmdir()
            if not self.exists():
                return
        raise CgroupError(f"cgroup {self.path} is still in use by processes {sorted(self.pids())[:8]}: end them first")

    def _groups(self) -> Iterator[Path]:
        """This group and those below it, parents before children."""
        if self.path.is_dir():
            for directory, _, _ in os.walk(self.path):
                yield Path(directory)


class FreezerV1(Freezer):
    """cgroup v1: `freezer.state`, three-valued, inherited from above, and deaf to SIGKILL while frozen."""

    version = 1

    def is_frozen(self) -> bool:
        """True for FROZEN; FREEZING is still under way."""
        return (self.path / "freezer.state").read_text().strip() == "FROZEN"

    def _write_state(self, frozen: bool, /) -> None:
        (self.path / "freezer.state").write_text("FROZEN" if frozen else "THAWED")

    def _kill_all(self, pids: frozenset[int]) -> None:
        _signal_all(pids)
        for group in self._groups():  # the signal is pending: what thaws now dies before it runs on
            with suppress(OSError):
                (group / "freezer.state").write_text("THAWED")


class FreezerV2(Freezer):
    """cgroup v2: `cgroup.freeze` is the wish, `frozen` in `cgroup.events` the fact; `cgroup.kill` from Linux 5.14."""

    version = 2

    def is_frozen(self) -> bool:
        """True when the kernel reports that every task is at rest."""
        return "frozen 1" in (self.path / "cgroup.events").read_text()

    def _write_state(self, frozen: bool, /) -> None:
        (self.path / "cgroup.freeze").write_text("1" if frozen else "0")

    def _kill_all(self, pids: frozenset[int]) -> None:
        try:
            (self.path / "cgroup.kill").write_text("1")
        except OSError:
            _signal_all(pids)  # kernels before 5.14; a frozen v2 task does die


def freezer(group: str, hierarchy: Hierarchy | None = None) -> Freezer:
    """The freezer of `group` (like "ergo-ab12/node0/job-3-1/rank0"), not created yet."""
    where = hierarchy or choose()
    return FreezerV2(where, group) if where.version == 2 else FreezerV1(where, group)


def of_path(path: Path) -> Freezer:
    """The freezer whose directory this is: how another process (the keeper) is told which one it owns."""
    for hierarchy in hierarchies():
        if path.is_relative_to(hierarchy.mount) and path != hierarchy.mount:
            return freezer(str(path.relative_to(hierarchy.mount)), hierarchy)
    raise CgroupError(f"{path} is not in a cgroup hierarchy with a freezer: was the job started on another machine?")


def _signal_all(pids: frozenset[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _restless(pids: frozenset[int]) -> str:
    """The processes that are in an uninterruptible wait, else all of them, by PID and command."""
    states = {pid: _stat(pid) for pid in sorted(pids)}
    waiting = [f"{pid} ({command}) waits for a device" for pid, (command, state) in states.items() if state == "D"]
    return ", ".join(waiting or [f"{pid} ({command})" for pid, (command, _) in states.items()][:4]) or "no process"


def _stat(pid: int) -> tuple[str, str]:
    """(command, state letter) of a process; ("gone", "") if it is not there."""
    try:
        head, _, tail = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")
    except OSError:
        return "gone", ""
    return head.partition("(")[2], tail.split()[0]


def _ticks(deadline_s: float, clock: Callable[[], float] = time.monotonic) -> Iterator[None]:
    """Yields at once and then ever more slowly until the deadline has passed; the last yield is at the deadline."""
    end = clock() + deadline_s
    pause_s = POLL_S_MIN
    while True:
        last = clock() >= end
        yield
        if last:
            return
        time.sleep(min(pause_s, max(0.0, end - clock())))
        pause_s = min(pause_s * 2, POLL_S_MAX)
