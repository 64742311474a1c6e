"""How a file that cannot be used is refused: every fault with its line, its cause and its remedy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

FAULTS_MAX: Final = 10  # named one by one; of the rest only the number


@dataclass(frozen=True, slots=True)
class Fault:
    """`line` 0: the file as a whole."""

    line: int
    cause: str
    remedy: str


class Faulty(Exception):
    """A trace, fleet or rules file that cannot be meant. `cause` names the first fault's line, `remedy` its remedy."""

    def __init__(self, path: str, faults: Iterable[Fault]) -> None:
        self.path = path
        self.faults = tuple(faults)
        super().__init__(self.cause)

    @property
    def cause(self) -> str:
        told = [f"{self._where(one)}: {one.cause}" for one in self.faults[:FAULTS_MAX]]
        more = len(self.faults) - FAULTS_MAX
        return "\n    ".join([*told, *([f"and {more} more faults"] if more > 0 else [])])

    @property
    def remedy(self) -> str:
        return "; ".join(dict.fromkeys(one.remedy for one in self.faults[:FAULTS_MAX] if one.remedy))

    def _where(self, fault: Fault) -> str:
        name = Path(self.path).name
        return f"{name}, line {fault.line}" if fault.line else name


@dataclass(slots=True)
class Faults:
    """Collects what is wrong with one file."""

    path: str
    found: list[Fault] = field(default_factory=list)

    def add(self, line: int, cause: str, remedy: str) -> None:
        self.found.append(Fault(line, cause, remedy))

    def check(self) -> None:
        """Raises Faulty if anything was added."""
        if self.found:
            raise Faulty(self.path, self.found)
