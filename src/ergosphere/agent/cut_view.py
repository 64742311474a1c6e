"""What the coordinator of a cut sees of one rank, as plain values that travel as JSON. No logic of the cut itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from dataclasses import fields as dataclass_fields
from enum import StrEnum
from typing import Any, Final

ANYONE: Final = -1  # the peer of a receive that takes from any rank


class RankState(StrEnum):
    """How a rank stands. NONE: no shim active, it is frozen where it stands. GONE: its program has ended."""

    NONE = "none"
    RUNNING = "running"
    HELD = "held"
    READY = "ready"
    GONE = "gone"


class Kind(StrEnum):
    """What a sequence counts: a group's collectives, or messages one way between two ranks."""

    ALL = "all"
    SEND = "send"
    RECV = "recv"


@dataclass(frozen=True, slots=True)
class SequenceView:
    """A series of operations a rank takes part in. Ranks in `members` and `peer` are the world's own numbers.

    `tags` is a sum over the tags used so far, to tell equal counts of different messages apart."""

    id: str
    group: str
    kind: Kind
    members: tuple[int, ...]
    peer: int
    count: int
    tags: int


@dataclass(frozen=True, slots=True)
class Want:
    """A held operation: the `number`-th of that sequence, by torch's own name `what`."""

    sequence: str
    number: int
    what: str


@dataclass(frozen=True, slots=True)
class RankView:
    """One rank at one moment. `answered`: it has obeyed the last order it was given.

    `steps`: its optimizers are seen to step; `at_step`: it is held where one has just done so. `told`: the last order
    it was given, a `go` or `release` with what it names."""

    state: RankState = RankState.NONE
    answered: bool = True
    settled: bool = False
    generation: int = 0
    world: str = ""
    rank: int = -1
    sequences: tuple[SequenceView, ...] = ()
    wants: tuple[Want, ...] = ()
    retired: tuple[str, ...] = ()
    fault: str | None = None
    error: str | None = None
    unmanaged: tuple[str, ...] = ()
    others: int = 0
    steps: bool = False
    at_step: bool = False
    told: str = ""

    @property
    def takes_part(self) -> bool:
        """Whether a shim acts for this rank and obeys orders."""
        return self.state in (RankState.RUNNING, RankState.HELD, RankState.READY)

    def to_json(self) -> dict[str, Any]:
        """The view as a JSON object; `from_json` is its inverse."""
        return asdict(self)


def from_json(told: Mapping[str, Any]) -> RankView:
    """The view that `to_json` made an object of. Raises KeyError, TypeError or ValueError if it is none."""
    known = {field.name for field in dataclass_fields(RankView)}
    fields = {name: value for name, value in told.items() if name in known}  # a newer node may tell more
    fields["state"] = RankState(fields["state"])
    fields["sequences"] = tuple(
        SequenceView(**{**s, "kind": Kind(s["kind"]), "members": tuple(s["members"])}) for s in fields["sequences"]
    )
    fields["wants"] = tuple(Want(**want) for want in fields["wants"])
    fields["retired"] = tuple(fields["retired"])
    fields["unmanaged"] = tuple(fields["unmanaged"])
    return RankView(**fields)
