"""The room's short tree of failures.

Each has a cause and, where there is one, a remedy; nothing else lives here but what is done about a first `Damaged`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

T = TypeVar("T")

EARLIER: Final = "an earlier snapshot can be used"


class SnapshotError(Exception):
    """A snapshot, a store or a tree of files could not do what was asked."""

    def __init__(self, cause: str, remedy: str = "") -> None:
        super().__init__(f"{cause}; {remedy}" if remedy else cause)
        self.cause = cause
        self.remedy = remedy


class StoreError(SnapshotError):
    """The store said no. Unless it is `NotFound`, what the store holds for the key is unknown."""


class BadKey(StoreError):
    """The key could never name anything in a store."""


class NotFound(StoreError):
    """The store was reached and has nothing under this key."""

    def __init__(self, key: str) -> None:
        super().__init__(f"the store has no {key}")
        self.key = key


class StoreFull(StoreError):
    """No room is left. What was there before is untouched."""

    def __init__(self, where: str) -> None:
        super().__init__(f"no room is left in {where}", "free some space there, then try again")


class StoreUnreachable(StoreError):
    """The store did not answer, or its folder is not (or no longer) a store."""


class Damaged(SnapshotError):
    """Bytes are not what their digest promises, or are missing. `snapshot` is "" when only a blob is known, or when no
    other snapshot would help.
    """

    def __init__(
        self, which: str, snapshot: str = "", how: str = "differs from its digest", *, remedy: str = ""
    ) -> None:
        of = f" of snapshot {snapshot}" if snapshot else ""
        super().__init__(f"{which}{of} {how}", remedy or (EARLIER if snapshot else ""))
        self.which = which
        self.snapshot = snapshot
        self.how = how

    @property
    def is_missing(self) -> bool:
        """Nothing was read that is wrong: it was not there, or not listed."""
        return self.how in ("is missing", "are missing")


class TooNew(SnapshotError):
    """A document was written by a newer version than this one."""

    def __init__(self, what: str, version: object, known: int) -> None:
        super().__init__(
            f"the {what} has version {version!r}, this program knows versions up to {known}",
            "update ergosphere on this machine",
        )


class TreeError(SnapshotError):
    """A directory cannot be copied as it is."""


class TooBig(TreeError):
    """The directory is over its limits; the cause names the biggest offenders."""


class Unreadable(TreeError):
    """A file or directory cannot be read."""


class Changing(TreeError):
    """A file kept changing while it was read."""


class Forged(Damaged):
    """Bytes are not what somebody with the key wrote: damaged or changed. Nothing of them was used."""

    def __init__(self, which: str, snapshot: str = "") -> None:
        super().__init__(which, snapshot, "was damaged or was not written with this key")


class MissingKey(SnapshotError):
    """What is stored is encrypted and no key was given."""


class WrongKey(SnapshotError):
    """What is stored is encrypted with another key."""


class BadKeyFile(SnapshotError):
    """A key file or a key in the environment is not one."""


class Stopped(SnapshotError):
    """Whoever asked for a transfer called it off; what was stored stays and is not stored again."""


class Busy(SnapshotError):
    """Somebody else is at it; try again later."""


class NotRemote(SnapshotError):
    """The snapshot is on its node only."""


class Refused(SnapshotError):
    """What was asked would harm something that is to be kept, or must not be let in."""


def read_again(read: Callable[[], T]) -> T:
    """What is read; once more where it seems damaged: memory and wires flip bits as well, and a snapshot that is called
    damaged is not used. Errors: those of `read`.
    """
    try:
        return read()
    except Damaged:
        return read()


def look_again(read: Callable[[], T], wait: Callable[[], None]) -> T:
    """What is read; once more after a `wait` where something is missing: what a store lists may lag behind what is in
    it, and a share may be back in a moment. Errors: those of `read`.
    """
    try:
        return read()
    except Damaged as error:
        if not error.is_missing:
            raise
    wait()
    return read()
