"""What can befall a job: which blows, in which order, how far into its output. Values and dice only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeVar

from ergosphere.system import Dice

Option = TypeVar("Option")


class Kind(StrEnum):
    """One way to disturb a job."""

    PAUSE = "pause and resume"
    MOVE = "move to another node"
    SNAPSHOT = "snapshot"
    RESIZE = "resize"
    KILL_RANK = "kill -9 of a rank"
    KILL_AGENT = "kill -9 of an agent"
    KILL_SERVER = "kill -9 of the server"
    LOSE_NODE = "loss of a whole node"


GENTLE: Final = (Kind.PAUSE, Kind.MOVE, Kind.SNAPSHOT)
VERIFY: Final = (*GENTLE, Kind.KILL_RANK, Kind.KILL_AGENT, Kind.KILL_SERVER)
FIRST_AT: Final = 0.04  # of the job's output: the program has begun
LAST_AT: Final = 0.92  # what comes later may find it ended


@dataclass(frozen=True, slots=True)
class Blow:
    """One disturbance. `at`: how far into the reference's output (0 to 1); `pick` in [0, 1) chooses whom it hits."""

    kind: Kind
    at: float
    pick: float


def draw(dice: Dice, count: int, kinds: Sequence[Kind] = VERIFY) -> tuple[Blow, ...]:
    """`count` blows in the order in which they fall; every kind comes once before one comes again."""
    step = (LAST_AT - FIRST_AT) / max(1, count)
    dealt = _dealt(dice, count, kinds)
    return tuple(
        Blow(kind, FIRST_AT + step * (number + dice.random() * 0.9), dice.random()) for number, kind in enumerate(dealt)
    )


def _dealt(dice: Dice, count: int, kinds: Sequence[Kind]) -> list[Kind]:
    dealt: list[Kind] = []
    while len(dealt) < count:
        pack = list(kinds)
        dice.shuffle(pack)
        dealt += pack
    return dealt[:count]


def one_of(options: Sequence[Option], pick: float) -> Option:
    """The option that `pick` in [0, 1) falls on."""
    return options[min(len(options) - 1, int(pick * len(options)))]
