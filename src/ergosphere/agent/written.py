"""Files of the host that a rank has open for writing (`--mount PATH:rw`). No snapshot has their bytes.

They are noted at a freeze. A job that goes back to it finds them longer, and CRIU refuses them: what was written since
is cut off, as it is of logs, and done again.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from ergosphere.agent import rootfs
from ergosphere.agent.rootfs import RootPlan

WRITTEN: Final = "written"  # the key in a cell's facts


@dataclass(frozen=True, slots=True)
class WrittenFile:
    """A file as it was at the freeze; `size` in bytes."""

    path: str
    size: int
    inode: int
    mtime_ns: int


def noted(pids: Iterable[int], plan: RootPlan) -> tuple[WrittenFile, ...]:
    """What these processes have open for writing in the host's own folders.

    Files opened for nothing but appending are left out: CRIU takes them as they are, and others may append there, too.
    """
    found = {file.path: file for pid in pids for file in _open_files(Path(f"/proc/{pid}"), plan)}
    return tuple(found[path] for path in sorted(found))


def _open_files(folder: Path, plan: RootPlan) -> Iterator[WrittenFile]:
    with suppress(OSError):  # the process has ended
        for link in (folder / "fd").iterdir():
            with suppress(OSError):  # closed meanwhile
                path, status = str(link.readlink()), link.stat()
                is_there = stat.S_ISREG(status.st_mode) and status.st_nlink > 0
                is_hosts = is_there and rootfs.is_hosts(plan, path, writable=True)
                if is_hosts and _is_overwritten(_flags(folder / "fdinfo" / link.name)):
                    yield _described(path, status)


def _described(path: str, status: os.stat_result) -> WrittenFile:
    return WrittenFile(path, status.st_size, status.st_ino, status.st_mtime_ns)


def _flags(told: Path) -> int:
    return next(int(line.split()[1], 8) for line in told.read_text().splitlines() if line.startswith("flags:"))


def _is_overwritten(flags: int) -> bool:
    access = flags & os.O_ACCMODE
    return access == os.O_RDWR or (access == os.O_WRONLY and not flags & os.O_APPEND)


def obstacle(files: Iterable[WrittenFile]) -> str:
    """Why a rank cannot go on in them, for its owner; "" where each is as it was, or longer."""
    return next((cause for file in files if (cause := _obstacle(file))), "")


def _obstacle(file: WrittenFile) -> str:
    try:
        here = Path(file.path).lstat()
    except OSError:
        return f"{file.path}, which the job was writing at its snapshot, is not there"
    if here.st_ino != file.inode and (here.st_size, here.st_mtime_ns) != (file.size, file.mtime_ns):
        return f"{file.path}, which the job was writing at its snapshot, was replaced by another file"
    if here.st_size < file.size:
        return f"{file.path} has {here.st_size} bytes, and the job had written {file.size} of it at its snapshot"
    return ""


def longer(files: Iterable[WrittenFile]) -> tuple[WrittenFile, ...]:
    """Those that have grown since, and are there."""
    return tuple(file for file in files if _excess(file) > 0)


def _excess(file: WrittenFile) -> int:
    try:
        here = Path(file.path).lstat()
    except OSError:
        return 0
    return here.st_size - file.size if here.st_ino == file.inode else 0


def cut_back(file: WrittenFile) -> int:
    """Make it as long as it was; returns the bytes cut off. Raises OSError."""
    descriptor = os.open(file.path, os.O_WRONLY | os.O_NOFOLLOW)
    try:
        here = os.fstat(descriptor)
        excess = here.st_size - file.size
        if here.st_ino != file.inode or excess <= 0:
            return 0
        os.ftruncate(descriptor, file.size)
        return excess
    finally:
        os.close(descriptor)


def to_json(files: Iterable[WrittenFile]) -> list[dict[str, Any]]:
    """For the facts of a cell."""
    return [asdict(file) for file in files]


def from_json(facts: Mapping[str, Any]) -> tuple[WrittenFile, ...]:
    """Out of the facts of a cell; none where an older agent has taken the snapshot."""
    told: Sequence[Mapping[str, Any]] = facts.get(WRITTEN, ())
    return tuple(WrittenFile(**one) for one in told)
