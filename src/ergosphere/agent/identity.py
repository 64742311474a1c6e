"""Who the processes of a snapshot are: user and group ids and capabilities, as they are now and as images say.

CRIU gives a thawed process whatever its image says. So a manifest names it, an import compares that with the project's,
and before each thaw the images are compared with the manifest.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ergosphere.agent import images

IDENTITY: Final = "identity"  # the key in a cell's facts
CORE_PATTERN: Final = "core-*.img"
# Field numbers of core_entry, thread_core_entry (core.proto) and creds_entry (creds.proto).
_THREAD_CORE: Final = 5
_CREDS: Final = 9
_UIDS: Final = (1, 3, 5, 7)
_GIDS: Final = (2, 4, 6, 8)
_CAPS: Final = (9, 10, 11)  # inheritable, permitted, effective: the bounding set alone gives nothing


@dataclass(frozen=True, slots=True)
class Identity:
    """All user ids, group ids and capabilities (a bit each) that any task has."""

    uids: frozenset[int]
    gids: frozenset[int]
    caps: int

    def __le__(self, other: Identity) -> bool:
        """Whether it asks for nothing that `other` does not have."""
        return self.uids <= other.uids and self.gids <= other.gids and not self.caps & ~other.caps

    def __or__(self, other: Identity) -> Identity:
        return Identity(self.uids | other.uids, self.gids | other.gids, self.caps | other.caps)

    def in_words(self) -> str:
        return f"user ids {_listed(self.uids)}, group ids {_listed(self.gids)}, capabilities {self.caps:#x}"


NOBODY: Final = Identity(frozenset(), frozenset(), 0)


def to_json(identity: Identity) -> dict[str, Any]:
    return {"uids": sorted(identity.uids), "gids": sorted(identity.gids), "caps": f"{identity.caps:x}"}


def from_json(told: dict[str, Any]) -> Identity:
    """The reverse of to_json. Errors: KeyError, ValueError."""
    return Identity(frozenset(told["uids"]), frozenset(told["gids"]), int(told["caps"], 16))


def of_processes(pids: Iterable[int]) -> Identity:
    """Of processes that stand still, all their threads."""
    found = NOBODY
    for pid in pids:
        for status in Path(f"/proc/{pid}/task").glob("*/status"):
            with suppress(OSError):
                found |= of_status(status.read_text())
    return found


def of_status(text: str) -> Identity:
    """Of one task, from its /proc/…/status."""
    said = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
    caps = int(said["CapInh"], 16) | int(said["CapPrm"], 16) | int(said["CapEff"], 16)
    return Identity(_numbers(said["Uid"]), _numbers(said["Gid"]), caps)


def of_images(folder: Path) -> Identity:
    """As the images of one rank say. Errors: images.ImageError."""
    found = NOBODY
    for path in folder.glob(CORE_PATTERN):
        for core in images.entries(path.read_bytes()):
            for field in images.parse(core):
                if field.number == _THREAD_CORE:
                    found |= _of_thread(field.payload)
    return found


def _of_thread(message: bytes) -> Identity:
    found = NOBODY
    for field in images.parse(message):
        if field.number == _CREDS:
            found |= _of_creds(images.parse(field.payload))
    return found


def _of_creds(creds: list[images.Field]) -> Identity:
    words: dict[int, list[int]] = {}
    for field in creds:
        words.setdefault(field.number, []).extend(images.words(field))
    uids = frozenset(words[number][0] for number in _UIDS if words.get(number))
    gids = frozenset(words[number][0] for number in _GIDS if words.get(number))
    caps = 0
    for number in _CAPS:
        for index, word in enumerate(words.get(number, ())):
            caps |= word << (32 * index)
    return Identity(uids, gids, caps)


def _numbers(text: str) -> frozenset[int]:
    return frozenset(int(word) for word in text.split())


def _listed(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(numbers))) or "none"
