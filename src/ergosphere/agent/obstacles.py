"""What stands against freezing a rank, found by looking at /proc while the rank still runs.

Two kinds are looked for: what CRIU refuses (better said before the job has been stopped), and what it saves without a
word and cannot bring back, which must be found before the original is killed. Reads only; changes nothing.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

NAMESPACES: Final = ("mnt", "net", "ipc", "uts", "pid", "user", "time")
SOCKETS_SAVED: Final = frozenset(
    {"TCP", "TCPv6", "UDP", "UDPv6", "UDP-Lite", "UDPLITEv6", "RAW", "RAWv6", "PING", "PINGv6", "PACKET", "NETLINK"}
    | {"UNIX", "UNIX-STREAM"}
)
ANON_SAVED: Final = frozenset({"eventfd", "eventpoll", "signalfd", "timerfd", "inotify", "fanotify", "pidfd"})
DEVICE_MAJORS_SAVED: Final = frozenset({1, 4, 5, *range(128, 144)})  # memory, consoles, terminals
TUN: Final = os.makedev(10, 200)

_CLOSE: Final = "close it before the freeze"
_NAMESPACE: Final = "do not use containers or sandboxes (bwrap, unshare, docker, browsers' sandboxes) inside the job"

_ANON: Final = {
    "io_uring": ("io_uring", "switch it off in the program (Node: UV_USE_IO_URING=0) or run it where it is blocked"),
    "userfaultfd": ("userfaultfd", _CLOSE),
    "perf_event": ("a perf event", "stop the profiler, then try again"),
    "landlock-ruleset": ("a Landlock rule set", _CLOSE),
}


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why process `pid` ("command") keeps its rank from being frozen: `cause` and `remedy` in plain words.

    `passes`: it comes from outside the job, and will soon be gone."""

    pid: int
    command: str
    cause: str
    remedy: str
    passes: bool = False

    def __str__(self) -> str:
        return f"process {self.pid} ({self.command}) {self.cause}; {self.remedy}"


def obstacles(root_pid: int, pids: Iterable[int]) -> tuple[Obstacle, ...]:
    """All obstacles in a rank, `root_pid` being its PID 1 (host's numbering) and `pids` all its processes.

    A process that ends meanwhile has none. Needs root.
    """
    root_namespaces = _namespaces(Path(f"/proc/{root_pid}"))
    found: list[Obstacle] = []
    own = frozenset(pids)
    for pid in sorted(own):
        command = _command(pid)
        found += _traced(pid, command, own)
        found += (Obstacle(pid, command, cause, remedy) for cause, remedy in _of_process(pid, root_namespaces))
    return tuple(found)


def _of_process(pid: int, root_namespaces: dict[str, str]) -> Iterator[tuple[str, str]]:
    folder = Path(f"/proc/{pid}")
    try:
        yield from _strayed(folder, root_namespaces)
        yield from dict.fromkeys(_descriptors(folder))
        yield from dict.fromkeys(_mappings(folder))
    except (FileNotFoundError, ProcessLookupError):
        return


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    except OSError:
        return "gone"


# --- tracing and namespaces ---------------------------------------------------------------------------------------


def _traced(pid: int, command: str, own: frozenset[int]) -> Iterator[Obstacle]:
    """By a debugger that the job runs itself, or by a profiler that looks in for a moment."""
    with suppress(FileNotFoundError, ProcessLookupError):
        told = Path(f"/proc/{pid}/status").read_text(errors="replace")
        match = re.search(r"^TracerPid:\s*(\d+)", told, re.MULTILINE)
        if match and match[1] != "0":
            tracer = int(match[1])
            cause = f"is being traced by {_command(tracer)} (process {tracer})"
            remedy = "end the debugger or profiler, then try again"
            yield Obstacle(pid, command, cause, remedy, passes=tracer not in own)


def _strayed(folder: Path, root_namespaces: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Namespaces that differ from those of PID 1, of any thread: saved without complaint, impossible to restore."""
    strayed: set[str] = set()
    for task in _tasks(folder):
        own = _namespaces(task)
        if "mnt" in own:  # else it is dead; a namespace for children that has none yet cannot be named
            strayed |= {name for name, link in root_namespaces.items() if own.get(name) != link}
    for name in sorted(strayed):
        yield f"is in a {_NAMES[name]} namespace of its own", _NAMESPACE


_NAMES: Final = {
    "mnt": "mount",
    "net": "network",
    "ipc": "IPC",
    "uts": "host name",
    "pid": "PID",
    "user": "user",
    "time": "time",
    "pid_for_children": "PID",
}


def _tasks(folder: Path) -> Iterator[Path]:
    for name in os.listdir(folder / "task"):  # noqa: PTH208 - called for every thread of a rank while it is held
        yield folder / "task" / name


def _namespaces(task: Path) -> dict[str, str]:
    """Which namespaces a task is in, and which PID namespace its children would be in. Empty for a dead one."""
    found = {}
    for name in (*NAMESPACES, "pid_for_children"):
        try:
            found[name] = os.readlink(f"{task}/ns/{name}")  # noqa: PTH115 - as above
        except OSError:
            continue
    return found


# --- open files ---------------------------------------------------------------------------------------------------


def _descriptors(folder: Path) -> Iterator[tuple[str, str]]:
    for name, target in _links(folder / "fd"):
        path = folder / "fd" / name
        if target.startswith("anon_inode:"):
            yield from _anonymous(target.removeprefix("anon_inode:").strip("[]"))
        elif target.startswith("socket:"):
            yield from _socket(path)
        elif target.startswith("/secretmem"):
            yield "uses secret memory (memfd_secret), which cannot be saved", _CLOSE
        elif target.startswith("/"):
            yield from _opened(path, target)


def _links(folder: Path) -> Iterator[tuple[str, str]]:
    try:
        names = os.listdir(folder)  # noqa: PTH208
    except OSError:
        return
    for name in names:
        try:
            yield name, os.readlink(f"{folder}/{name}")  # noqa: PTH115
        except OSError:
            continue


def _anonymous(name: str) -> Iterator[tuple[str, str]]:
    if name in ANON_SAVED:
        return
    if name.startswith("bpf"):
        yield f"holds a BPF object ({name}), which cannot be saved", _CLOSE
        return
    what, remedy = _ANON.get(name, (f"something CRIU does not know ({name})", _CLOSE))
    yield f"uses {what}, which cannot be saved", remedy


def _socket(path: Path) -> Iterator[tuple[str, str]]:
    try:
        protocol = os.getxattr(path, "system.sockprotoname").rstrip(b"\0").decode(errors="replace")
    except OSError:
        return
    if protocol not in SOCKETS_SAVED:
        yield f"has a socket of kind {protocol} open, which cannot be saved", _CLOSE


def _opened(path: Path, target: str) -> Iterator[tuple[str, str]]:
    try:
        status = path.stat()
    except OSError:
        return
    if stat.S_ISBLK(status.st_mode) or (stat.S_ISCHR(status.st_mode) and not _device_saved(status.st_rdev)):
        yield f"has the device {target} open, which cannot be saved", _device_remedy(target)
    elif stat.S_ISREG(status.st_mode) and _is_message_queue(path):
        yield f"has the POSIX message queue {target} open, which cannot be saved", _CLOSE


def _device_saved(device: int) -> bool:
    return os.major(device) in DEVICE_MAJORS_SAVED or device == TUN


def _device_remedy(target: str) -> str:
    if target.startswith("/dev/nvidia"):
        return "no job that has a GPU open can be frozen yet; with CUDA_VISIBLE_DEVICES= it computes on the CPU"
    return _CLOSE


def _is_message_queue(path: Path) -> bool:
    """A message queue is a file of 80 bytes whose contents begin with its size; reading them takes no message."""
    try:
        if path.stat().st_size != _QUEUE_BYTES:
            return False
        with path.open("rb") as queue:
            return queue.read(6) == b"QSIZE:"
    except OSError:
        return False


_QUEUE_BYTES: Final = 80


# --- mappings -----------------------------------------------------------------------------------------------------

_MAP: Final = re.compile(r"^\S+ \S+ \S+ \S+ \d+ +(/.*|anon_inode:.*)$", re.MULTILINE)
_DEVICES_MAPPED_WELL: Final = ("/dev/zero", "/dev/null", "/dev/shm/", "/dev/mqueue/")


def _mappings(folder: Path) -> Iterator[tuple[str, str]]:
    for path in _mapped_paths(folder):
        if path.startswith("/secretmem"):
            yield "uses secret memory (memfd_secret), which cannot be saved", _CLOSE
        elif path.startswith("/dev/") and not path.startswith(_DEVICES_MAPPED_WELL):
            yield f"has the device {path} in its memory, which cannot be saved", _device_remedy(path)
        elif path.startswith("anon_inode:"):
            yield from _anonymous(path.removeprefix("anon_inode:").strip("[]"))


def _mapped_paths(folder: Path) -> Iterator[str]:
    """The path of every distinct file in a process's memory."""
    try:
        maps = (folder / "maps").read_text(errors="surrogateescape")
    except OSError:
        return
    seen: set[str] = set()
    for match in _MAP.finditer(maps):
        path = match[1].replace("\\012", "\n")
        if path not in seen:
            seen.add(path)
            yield path
