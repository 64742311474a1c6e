"""How long each node may still be trusted to act. In memory: a server that has just started trusts every node anew."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Final

from ergosphere.system import Clock

LEASE_S: Final = 10.0  # design §3.8
MARGIN_S: Final = 3.0  # between "the agent has stopped its ranks" and "we thaw them elsewhere"
STILL_S_MIN: Final = 2.0  # four periods of the loop: nobody looking for longer means that this process stood still


@dataclass(slots=True)
class Leases:
    """Leases are counted on the monotonic clock: a jump of the wall clock must not lose a node.

    Time in which this process stood still (stopped, or swapped out) does not count: no report could be heard in it, and
    keepers suspend their ranks by themselves. Whose standing has changed is found by a heap of times, not by asking
    every node. Thread-safe.
    """

    clock: Clock
    lease_s: float = LEASE_S
    margin_s: float = MARGIN_S
    _until: dict[str, float] = field(default_factory=dict)
    _heard_s: dict[str, float] = field(default_factory=dict)
    _began: float = field(init=False)
    _looked: float = field(init=False)
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _due: list[tuple[float, str]] = field(default_factory=list)  # when to look at a node again
    _due_of: dict[str, float] = field(default_factory=dict)  # the one entry of each node that counts
    _ready: set[str] = field(default_factory=set)
    _lost: set[str] = field(default_factory=set)
    _turned: set[str] = field(default_factory=set)  # whose standing changed since somebody asked
    _turns: int = 0

    def __post_init__(self) -> None:
        self._began = self._looked = self.clock.monotonic()

    def renew(self, node: str) -> None:
        """The node has reported."""
        with self._lock:
            self._until[node] = self._look() + self.lease_s
            if node not in self._ready:
                self._ready.add(node)
                self._lost.discard(node)
                self._turn(node)
                self._look_again(node, self._until[node])
        self._heard_s[node] = self.clock.now()

    def expect(self, node: str) -> None:
        """A node of the fleet that may not have reported to this server yet: it is lost when it does not in time."""
        with self._lock:
            if node not in self._due_of and node not in self._lost:
                self._look_again(node, self._until.get(node, self._began + self.lease_s) + self.margin_s)

    def left_s(self, node: str) -> float:
        """Seconds for which the node may still act; 0 when it has not reported since this server began."""
        now = self._look()
        return max(0.0, self._until.get(node, now) - now)

    def ready(self, node: str) -> bool:
        """Whether it may act. Never said before whoever asks what has turned is told so as well."""
        with self._lock:
            self._catch_up()
            return node in self._ready

    def lost(self, node: str) -> bool:
        """True once its ranks stand still for certain: lease and margin are over, also counted from our start."""
        now = self._look()
        until = self._until.get(node, self._began + self.lease_s)
        return now > until + self.margin_s

    def turns(self) -> int:
        """How often time or a report has changed a node's standing: compared, it tells whether one did."""
        self._catch_up()
        return self._turns

    def turned(self) -> set[str]:
        """Nodes that became ready, silent or lost since this was asked last."""
        with self._lock:
            self._catch_up()
            turned, self._turned = self._turned, set()
            return turned

    def gone(self) -> frozenset[str]:
        """The nodes that are lost now, of those that reported or were expected."""
        with self._lock:
            self._catch_up()
            return frozenset(self._lost)

    def heard_s(self, node: str) -> float | None:
        """When it last reported to this server, in seconds since the epoch."""
        return self._heard_s.get(node)

    def _catch_up(self) -> None:
        """Let time tell whose lease has run out. What was put off meanwhile is looked at again later."""
        with self._lock:
            now = self._look()
            again: list[tuple[str, float]] = []
            while self._due and self._due[0][0] <= now:
                at, node = heappop(self._due)
                if self._due_of.get(node) == at:
                    del self._due_of[node]
                    again += self._judge(node, now)
            for node, at in again:
                self._look_again(node, at)

    def _judge(self, node: str, now: float) -> list[tuple[str, float]]:
        """One node whose time has come; when to look at it again."""
        until = self._until.get(node, self._began + self.lease_s)
        if node in self._ready:
            if until > now:
                return [(node, until)]
            self._ready.discard(node)
            self._turn(node)
        if now <= until + self.margin_s:
            return [(node, until + self.margin_s)]
        self._lost.add(node)
        self._turn(node)
        return []

    def _look_again(self, node: str, at: float) -> None:
        self._due_of[node] = at
        heappush(self._due, (at, node))

    def _turn(self, node: str) -> None:
        self._turned.add(node)
        self._turns += 1

    def _look(self) -> float:
        """The time, after every lease has been put off by a gap in which nobody here could look at it."""
        with self._lock:
            now = self.clock.monotonic()
            gap_s = now - self._looked
            if gap_s > max(self.margin_s, STILL_S_MIN):
                self._began += gap_s
                for node in self._until:
                    self._until[node] += gap_s
            self._looked = now
            return now
