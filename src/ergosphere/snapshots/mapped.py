"""What /proc says of the files a rank has mapped or open. Reads /proc of the host; changes nothing."""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from ergosphere.snapshots.manifest import MappedFile

PROC: Final = Path("/proc")
DELETED: Final = " (deleted)"


def writable_maps(pids: Iterable[int]) -> frozenset[int]:
    """Inodes of files that a process has mapped shared and writable.

    A store into such a page does not always move the file's time stamp, so its stat must not be trusted.
    """
    return frozenset(
        inode for pid in pids for mode, inode, _ in _maps(pid) if inode and mode[1] == "w" and mode[3] == "s"
    )


def outside_files(pids: Iterable[int], inside: Sequence[str]) -> tuple[MappedFile, ...]:
    """Regular files mapped or open outside the `inside` directories, with what they are now.

    Paths are the ranks' own.

    Files deleted meanwhile are CRIU's business (it keeps them in the image) and not listed.
    """
    paths: set[str] = set()
    for pid in pids:
        paths.update(path for _, inode, path in _maps(pid) if inode and path.startswith("/"))
        paths.update(_open_paths(pid))
    found = (_described(path) for path in sorted(paths) if not _is_inside(path, inside))
    return tuple(item for item in found if item is not None)


def differing(mapped: Iterable[MappedFile]) -> tuple[str, ...]:
    """Paths that are not the very files a snapshot was taken with."""
    return tuple(item.path for item in mapped if _described(item.path) != item)


def _maps(pid: int) -> Iterator[tuple[str, int, str]]:
    """(permissions, inode, path) of each mapping; nothing of a process that is gone."""
    try:
        lines = (PROC / str(pid) / "maps").read_bytes().decode("utf-8", "surrogateescape").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return
    for line in lines:
        parts = line.split(maxsplit=5)
        yield parts[1], int(parts[4]), _unescaped(parts[5]) if len(parts) > 5 else ""


def _unescaped(path: str) -> str:
    return path.replace("\\012", "\n")


def _open_paths(pid: int) -> Iterator[str]:
    folder = PROC / str(pid) / "fd"
    try:
        links = list(folder.iterdir())
    except (FileNotFoundError, ProcessLookupError):
        return
    for link in links:
        try:
            path = str(link.readlink())
        except (FileNotFoundError, ProcessLookupError):
            continue
        if path.startswith("/"):
            yield path


def _is_inside(path: str, inside: Sequence[str]) -> bool:
    return path.endswith(DELETED) or any(path == folder or path.startswith(f"{folder}/") for folder in inside)


def _described(path: str) -> MappedFile | None:
    try:
        status = Path(path).stat()
    except OSError:
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    return MappedFile(path, status.st_size, status.st_mtime_ns)
