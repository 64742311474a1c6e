"""Host memory set aside before a freeze (design §3.8): for the victim's image, and for whoever gets its place.

A reservation is a small file in the home's folder in memory, so that all nodes of one machine see each other's. What
an image has written already no longer counts twice: it shows in the machine's own figures.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ergosphere.snapshots.gather import CACHE, WORK, CellFiles
from ergosphere.snapshots.pool import Pool
from ergosphere.snapshots.scan import Known, walk
from ergosphere.snapshots.tree import Kind
from ergosphere.system import Clock

SPARE: Final = 0.1  # of the machine, kept free beside everything
NEWCOMER_S: Final = 60.0  # by then a newcomer runs, and its memory shows
FOLDER: Final = "reserved"


@dataclass(frozen=True, slots=True)
class Room:
    """What the machine has: bytes of memory in all and to be had, and free bytes where images in memory lie."""

    total: int
    available: int
    shared_free: int


@dataclass(frozen=True, slots=True)
class Reservation:
    """`image` bytes are being written to `folder`; `newcomer` bytes will be wanted by `until_s` (epoch)."""

    image: int
    newcomer: int
    folder: str
    until_s: float
    pid: int


@dataclass(frozen=True, slots=True)
class Reserve:
    """All reservations of one machine. `folder` is in memory, shared by its nodes."""

    folder: Path
    clock: Clock

    def take(self, name: str, images: Path, image: int, newcomer: int, room: Room) -> bool:
        """Set memory aside for a freeze called `name`; False, and nothing set aside, where there is not enough."""
        with self._alone():
            open_ = self._open()
            mine = open_.get(name)  # another cell of the job, dumped at the same time into the same folder
            image, newcomer = image + (mine.image if mine else 0), max(newcomer, mine.newcomer if mine else 0)
            wanted = image + newcomer
            held = sum(self._left(each) for other, each in open_.items() if other != name)
            fits = held + wanted + SPARE * room.total < room.available
            fits = fits and held + image < room.shared_free
            if fits:
                until_s = self.clock.now() + NEWCOMER_S
                record = {"image": image, "newcomer": newcomer, "folder": str(images), "until_s": until_s}
                (self.folder / name).write_text(json.dumps({**record, "pid": os.getpid()}))
            return fits

    def written(self, name: str) -> None:
        """The image is there: what is left is the newcomer's, until it runs."""
        with self._alone():
            found = self._open().get(name)
            if found is None or not found.newcomer:
                (self.folder / name).unlink(missing_ok=True)
                return
            record = {"image": 0, "newcomer": found.newcomer, "folder": "", "until_s": found.until_s}
            (self.folder / name).write_text(json.dumps({**record, "pid": found.pid}))

    def drop(self, name: str) -> None:
        """The freeze came to nothing, or its image went to disk."""
        (self.folder / name).unlink(missing_ok=True)

    def held(self) -> int:
        """Bytes that are set aside and not used yet."""
        return sum(self._left(each) for each in self._open().values())

    def _open(self) -> dict[str, Reservation]:
        """Those that count: of living agents, and newcomers that may still come."""
        found = {}
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            if path.name.startswith("."):
                continue
            with suppress(OSError, ValueError, TypeError):
                each = Reservation(**json.loads(path.read_text()))
                if Path(f"/proc/{each.pid}").exists() and (each.image or each.until_s > self.clock.now()):
                    found[path.name] = each
                else:
                    path.unlink(missing_ok=True)
        return found

    def _left(self, each: Reservation) -> int:
        newcomer = each.newcomer if each.until_s > self.clock.now() else 0
        return newcomer + max(0, each.image - (bytes_in(Path(each.folder)) if each.folder else 0))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)


def look(images: Path) -> Room:
    """What this machine has now; `images` lies where images in memory go."""
    memory = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    total, available = (int(memory[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
    space = os.statvfs(images)
    return Room(total, available, space.f_bavail * space.f_frsize)


def bytes_in(folder: Path) -> int:
    """What the files below a folder take."""
    total = 0
    for path in folder.rglob("*") if folder.is_dir() else ():
        with suppress(OSError):
            total += path.lstat().st_blocks * 512
    return total


def resident_bytes(pids: frozenset[int]) -> int:
    """What an image of these processes will take at most."""
    pages = 0
    for pid in pids:
        try:
            pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        except (OSError, ValueError):
            continue
    return pages * os.sysconf("SC_PAGE_SIZE")


def changed_bytes(files: CellFiles, pool: Pool, distrust: frozenset[int]) -> int:
    """What staging these files will add to the pool: all that it does not know by stat, and what logs have grown.

    Errors: Unreadable.
    """
    work = _changed_below(files.work, pool.known(WORK), distrust)
    cache = _changed_below(files.cache, pool.known(CACHE), distrust) if files.cache else 0
    before = {log.name: log.length for log in pool.logs().values()}
    logs = sum(max(0, _size(path) - before.get(name, 0)) for name, path in files.logs.items())
    return work + cache + logs


def _changed_below(root: Path, known: Known, distrust: frozenset[int]) -> int:
    changed = [
        root / found.entry.path
        for found in walk(root).found
        if found.entry.kind is Kind.FILE
        and (found.key[3] in distrust or known.get(found.entry.path, found.key) is None)
    ]
    return sum(map(_size, changed))


def _size(path: Path) -> int:
    """Holes in a file stay holes in its copy."""
    with suppress(OSError):
        status = path.stat()
        return min(status.st_size, status.st_blocks * 512)
    return 0
