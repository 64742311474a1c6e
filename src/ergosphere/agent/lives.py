"""What an agent knows of each cell on its node, kept on disk so that a new agent process can go on with it."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict
from pydantic import Field as field_of_record

from ergosphere import system
from ergosphere.agent.place import CellKey, Place
from ergosphere.wire.agents import CellPlan, LifePlan

LifePhase = Literal["building", "going", "live", "ended"]  # going: restored ranks were let go, no way back
FILESYSTEMS: Final = "filesystems"  # the key in a rank's facts
RECORDS_CACHED: Final = 4096
_WRITING: Final = threading.Lock()  # records are read, changed and written by several threads


class LifeRecord(BaseModel):
    """life.json: the plan of a life, which cell of it is here, and how far it has come. Older agents read it too."""

    model_config = ConfigDict(frozen=True)

    plan: LifePlan
    cell: int
    birth: str = field_of_record(default_factory=system.short_id)  # which making of this life this is
    phase: LifePhase = "building"
    generation: int = 0  # how often this life's process groups were built anew
    snapshot: str | None = None  # the snapshot this life was thawed from
    begins_anew: bool = False  # the snapshot has no images: the command is started again among its files
    parked: tuple[int, ...] = ()  # ranks that wait for a go after their thaw
    filesystems: dict[int, tuple[int, ...]] = {}  # numbers that its ranks knew file systems in memory by, before
    results: str | None = None
    log_base: dict[str, int] = {}  # how long each log was when this life began
    notes: tuple[str, ...] = ()

    @property
    def key(self) -> CellKey:
        return CellKey(self.plan.job, self.plan.incarnation, self.cell)

    @property
    def seat(self) -> CellPlan:
        return next(cell for cell in self.plan.cells if cell.index == self.cell)


@lru_cache(maxsize=RECORDS_CACHED)
def _parsed(path: Path, _mtime_ns: int, _inode: int) -> LifeRecord:
    """Records are read many times a second and change a few times in a life.

    The clock of files ticks every few milliseconds: two records may be of the same time. So whoever writes clears.
    """
    return LifeRecord.model_validate_json(path.read_bytes())


@dataclass(frozen=True, slots=True)
class LifeFolder:
    """One life dir: `path` and what lies in it."""

    path: Path
    key: CellKey = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", CellKey.parse(self.path.name))

    @property
    def work(self) -> Path:
        return self.path / "work"

    @property
    def cache(self) -> Path:
        return self.path / "cache"

    @property
    def keeper_state(self) -> Path:
        return self.path / "keeper.json"

    def rank(self, rank: int) -> Path:
        """Bound at /run/ergo in the rank."""
        return self.path / "ranks" / str(rank)

    def control(self, rank: int) -> Path:
        return self.rank(rank) / "control"

    def log(self, rank: int, stream: str) -> Path:
        return self.rank(rank) / f"{stream}.log"

    def read(self) -> LifeRecord | None:
        """The record, or None where this folder was never finished."""
        path = self.path / "life.json"
        try:
            status = path.stat()
            return _parsed(path, status.st_mtime_ns, status.st_ino)
        except (OSError, ValueError):
            return None

    def write(self, record: LifeRecord) -> None:
        """Replace the record atomically; it holds the job's environment, so it is ours alone to read."""
        aside = self.path / f"life.json.{threading.get_native_id()}"
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(record.model_dump_json(exclude_defaults=True))
        aside.replace(self.path / "life.json")
        _parsed.cache_clear()

    def update(self, **changes: object) -> LifeRecord:
        with _WRITING:
            record = self.read()
            assert record is not None, f"{self.path} has no record"
            changed = record.model_copy(update=changes)
            self.write(changed)
        return changed

    def note(self, text: str) -> None:
        """Add a sentence for the owner, once."""
        with _WRITING:
            record = self.read()
            if record is not None and text not in record.notes:
                self.write(record.model_copy(update={"notes": (*record.notes, text)}))

    def unfinished(self) -> bool:
        """Whether no life ever began here. A record that is there and cannot be read may be that of a running one."""
        record = self.read()
        return not (self.path / "life.json").exists() if record is None else record.phase == "building"

    def remove(self) -> None:
        """All at once: an agent that ends in the middle finds no half of it, which would look like a life."""
        aside = self.path.with_name(f".{self.path.name}")
        shutil.rmtree(aside, ignore_errors=True)
        with suppress(FileNotFoundError):
            self.path.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)


def folders(place: Place) -> Iterator[LifeFolder]:
    """Every life dir of this node, finished or not."""
    if not place.lives.is_dir():
        return
    for path in sorted(place.lives.iterdir()):
        if path.is_dir() and not path.name.startswith(".") and path.name.count(".") >= 2:
            yield LifeFolder(path)


def sweep(place: Place) -> None:
    """What an agent before this one did not finish removing."""
    for path in place.lives.glob(".*"):
        shutil.rmtree(path, ignore_errors=True)


def create(place: Place, record: LifeRecord) -> LifeFolder:
    """A fresh life dir with its record written."""
    folder = LifeFolder(place.life(record.key))
    folder.path.mkdir(parents=True, mode=0o700)
    for rank in record.seat.ranks:
        folder.rank(rank).mkdir(parents=True)
    folder.write(record)
    return folder


def load_json(path: Path) -> dict[str, object] | None:
    try:
        loaded = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return loaded if isinstance(loaded, dict) else None
