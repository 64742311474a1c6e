"""The manifest: what makes the parts of a snapshot one thing.

Immutable; where its bytes lie by now is not in it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from ergosphere.snapshots.documents import BadDocument, from_plain, seal, to_plain, unseal
from ergosphere.snapshots.errors import Damaged
from ergosphere.snapshots.tree import TreeSum

MANIFEST_VERSION: Final = 1
MANIFEST_KIND: Final = "snapshot"
BEGINS_ANEW: Final = "begins_anew"  # the one fact that is looked into here


@dataclass(frozen=True, slots=True)
class ImageFile:
    """One file CRIU wrote, by name within its rank's folder."""

    name: str
    size: int
    digest: str


@dataclass(frozen=True, slots=True)
class RankPart:
    """One rank's process image.

    `facts` is the agent's (pid, mount plan keys …): kept, never looked into here.
    """

    rank: int
    files: tuple[ImageFile, ...]
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        return sum(file.size for file in self.files)


@dataclass(frozen=True, slots=True)
class LogPiece:
    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class Log:
    """One rank's output as far as the snapshot knows it, in pieces so that a new snapshot stores only what
    was added.
    """

    name: str  # "rank0.out"
    pieces: tuple[LogPiece, ...]

    @property
    def length(self) -> int:
        return sum(piece.size for piece in self.pieces)


@dataclass(frozen=True, slots=True)
class MappedFile:
    """A file outside the job's copies that a rank has mapped or open: thawing needs the very same one."""

    path: str
    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class CellPart:
    """Everything of one cell. `node` is where it was frozen: its memory may still hold the images."""

    index: int
    node: str
    address: str
    netns_key: str
    devices: tuple[int, ...]
    ranks: tuple[RankPart, ...]
    work: TreeSum
    cache: TreeSum | None
    logs: tuple[Log, ...]
    mapped: tuple[MappedFile, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        files = self.work.bytes + (self.cache.bytes if self.cache else 0)
        return sum(rank.bytes for rank in self.ranks) + files + sum(log.length for log in self.logs)


@dataclass(frozen=True, slots=True)
class Manifest:
    """A whole snapshot.

    `spec` and `facts` are opaque; `cpuinfo` is the digest of CRIU's CPU image, if one was taken.
    """

    id: str
    job: str
    incarnation: int
    spec: dict[str, Any]
    taken_s: float
    why: str
    stopped_s: float
    criu: str
    kernel: str
    cpuinfo: str | None
    cells: tuple[CellPart, ...]
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        return sum(cell.bytes for cell in self.cells)

    @property
    def begins_anew(self) -> bool:
        """Whether it holds files only: its ranks saved themselves, and their command is started again."""
        return bool(self.facts.get(BEGINS_ANEW))

    def cell(self, index: int) -> CellPart:
        """Errors: KeyError."""
        return _only([cell for cell in self.cells if cell.index == index], f"cell {index}")

    def cell_of(self, rank: int) -> CellPart:
        """Errors: KeyError."""
        return _only([cell for cell in self.cells if any(r.rank == rank for r in cell.ranks)], f"rank {rank}")

    def rank(self, rank: int) -> RankPart:
        """Errors: KeyError."""
        return next(part for part in self.cell_of(rank).ranks if part.rank == rank)

    def log_lengths(self) -> dict[str, int]:
        """Log name to bytes, over all cells."""
        return {log.name: log.length for cell in self.cells for log in cell.logs}


def encode_cell(part: CellPart) -> dict[str, Any]:
    """A cell's part as plain JSON, for the mail to the coordinator."""
    plain = to_plain(part)
    assert isinstance(plain, dict)
    return plain


def decode_cell(plain: dict[str, Any]) -> CellPart:
    """Errors: documents.BadDocument."""
    return from_plain(CellPart, plain)


def to_json(manifest: Manifest) -> bytes:
    """The sealed document: canonical JSON with its own digest."""
    return seal(MANIFEST_KIND, MANIFEST_VERSION, to_plain(manifest))


def from_json(text: bytes, snapshot: str = "") -> Manifest:
    """The manifest of a document. Errors: Damaged (naming `snapshot`), TooNew."""
    try:
        body = unseal(text, MANIFEST_KIND, MANIFEST_VERSION, "the manifest")
        return from_plain(Manifest, body)
    except Damaged as error:
        raise Damaged(error.which, snapshot, error.how) from error
    except (BadDocument, ValueError) as error:
        raise Damaged("the manifest", snapshot, f"has the wrong shape ({error})") from error


def _only(found: list[CellPart], what: str) -> CellPart:
    if len(found) != 1:
        raise KeyError(what)
    return found[0]
