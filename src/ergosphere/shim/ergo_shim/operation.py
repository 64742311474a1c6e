"""One reduction under way, and where the members of its group sit: plain values that `sums` and `parts` work on."""

from __future__ import annotations

import threading
import time
import zlib
from typing import Any, Callable, Final, NamedTuple, Optional

from . import fold
from .calls import Asked

LOST_LOOK_S: Final = 0.5  # how often a waiting rank looks whether its peers live
LOOP_S_MAX: Final = 1.0  # a turn of a waiting loop that took longer stood still for some other reason


class PeerGone(RuntimeError):
    """Worded as Gloo words it, for programs and for our own judgement of it."""


class Seats(NamedTuple):
    """Where the members of a group sit. All lists are per member, in group order."""

    me: int  # a member
    ranks: "list[int]"
    hosts: "list[str]"
    devices: "list[str]"

    @property
    def home(self) -> str:
        return self.hosts[self.me]

    def on(self, host: str) -> "list[int]":
        """Members on a host."""
        return [member for member, each in enumerate(self.hosts) if each == host]

    def parts(self) -> "list[tuple[str, str]]":
        """(host, device) of each part: the devices in order of their first member, those of one host together."""
        hosts = list(dict.fromkeys(self.hosts))
        pairs = list(dict.fromkeys(zip(self.hosts, self.devices)))
        return [pair for host in hosts for pair in pairs if pair[0] == host]


class Spent:
    """Time that a rank has waited, without stretches in which it was suspended."""

    def __init__(self) -> None:
        self._seen_s = self._looked_s = time.monotonic()
        self._fresh_s = self._spent_s = 0.0

    def time_to_look(self) -> bool:
        """Whether it is time again to look how things stand; to be asked at each turn of a loop."""
        now_s = time.monotonic()
        self._fresh_s += min(now_s - self._seen_s, LOOP_S_MAX)
        self._seen_s = now_s
        if now_s - self._looked_s <= LOST_LOOK_S:
            return False
        self._looked_s = now_s
        return True

    def is_over(self, limit_s: Optional[float]) -> bool:
        """Whether it was longer than that. What passed before a look without a limit does not count."""
        fresh_s, self._fresh_s = self._fresh_s, 0.0
        self._spent_s += 0.0 if limit_s is None else fresh_s
        return limit_s is not None and self._spent_s > limit_s


class Operation:
    """One reduction under way."""

    def __init__(
        self,
        number: int,
        asked: Asked,
        layout: fold.Layout,
        parts: "list[tuple[int, int]]",
        limit_s: "Callable[[], Optional[float]]",
    ) -> None:
        self.number = number
        self.asked = asked
        self.layout = layout
        self.parts = parts  # elements from, to
        self.dtype = asked.takes[0].dtype
        self.gate = threading.Lock()  # one thread at a time works on it
        self.done = False
        self.error: Optional[BaseException] = None
        self.whole_at_s = 0.0  # when all contributions were seen
        self.limit_s = limit_s  # its group's timeout, asked late
        self.waiters = 0  # threads inside `wait`
        self.unattended = Spent()
        self.direct = 0  # address of the caller's tensor, where it is contribution and result itself
        self.sent = asked.root >= 0  # what one rank alone wants is folded where it sits
        self.lent = False  # its result is read where it lies, until that is given back,
        self.result: Any = None  # and is here once it is there
        self.followers: "list[Callable[[Operation], None]]" = []

    def can_be_lent(self) -> bool:
        """Whether its asker could as well read the result where it lies: one flat tensor, reduced in place."""
        takes, gives = self.asked.takes, self.asked.gives
        in_place = len(takes) == len(gives) == 1 and gives[0][1] is takes[0] and takes[0].dim() == 1
        return in_place and not self.direct

    def signature(self) -> int:
        """Equal among members whose calls agree."""
        told = (self.asked.reduction.name, str(self.dtype), self.layout.total, self.asked.root)
        return zlib.crc32(repr(told).encode()) + 1
