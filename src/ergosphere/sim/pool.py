"""Free devices as rivals count them: nodes by how many they have free, the snuggest first."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from ergosphere.core.model import NodeId, Placement, Seat


class Pool:
    """`place` takes the snuggest node that holds a gang whole, else as few nodes as possible, the emptiest first.

    `together`: a gang that would fit on an empty node waits until one holds it whole, and wider ones take whole nodes:
    the consolidated placement of the public simulators.
    """

    def __init__(self, nodes: Iterable[tuple[str, int]], *, together: bool = False) -> None:
        self.together = together
        self.widest = 0
        self.free = 0
        self.total = 0
        self._free_of: dict[str, dict[Seat, None]] = {}
        self._by_room: dict[int, dict[str, None]] = {}
        self._held: dict[str, Placement] = {}
        self._down: set[str] = set()
        for node, devices in nodes:
            self._free_of[node] = dict.fromkeys(Seat(NodeId(node), device) for device in range(devices))
            self.widest = max(self.widest, devices)
            self._by_room.setdefault(devices, {})[node] = None
            self.free += devices
            self.total += devices

    def place(self, devices: int) -> Placement | None:
        """Seats for a gang, not taken yet; None where there are too few. Never two ranks on one device."""
        if devices > self.free:
            return None
        snug = [room for room in self._by_room if room >= devices]
        if snug:
            node = next(iter(self._by_room[min(snug)]))
            return tuple(islice(self._free_of[node], devices))
        if self.together and not self._has_whole_nodes(devices):
            return None
        return self._spread(devices)

    def _has_whole_nodes(self, devices: int) -> bool:
        return devices > self.widest and len(self._by_room.get(self.widest, ())) >= devices // self.widest

    def _spread(self, devices: int) -> Placement | None:
        seats: list[Seat] = []
        for room in sorted(self._by_room, reverse=True):
            for node in self._by_room[room]:
                seats += islice(self._free_of[node], devices - len(seats))
                if len(seats) == devices:
                    return tuple(seats)
        return None

    def take(self, key: str, placement: Placement) -> None:
        """`placement` is `key`'s now, instead of whatever it had."""
        if self._held.get(key, ()) == placement:
            return
        self.release(key)
        if not placement:
            return
        self._held[key] = placement
        for seat in dict.fromkeys(placement):
            self._change(seat.node, seat, taken=True)

    def release(self, key: str) -> None:
        for seat in dict.fromkeys(self._held.pop(key, ())):
            self._change(seat.node, seat, taken=False)

    def set_up(self, node: str, *, up: bool) -> None:
        """Whether a node's free devices count."""
        if up == (node not in self._down):
            return
        devices = len(self._free_of[node])
        if up:
            self._down.discard(node)
            self._shelve(node)
            self.free += devices
        else:
            self._unshelve(node)
            self._down.add(node)
            self.free -= devices

    def _change(self, node: str, seat: Seat, *, taken: bool) -> None:
        counts = node not in self._down
        if counts:
            self._unshelve(node)
            self.free += -1 if taken else 1
        if taken:
            del self._free_of[node][seat]
        else:
            self._free_of[node][seat] = None
        if counts:
            self._shelve(node)

    def _shelve(self, node: str) -> None:
        self._by_room.setdefault(len(self._free_of[node]), {})[node] = None

    def _unshelve(self, node: str) -> None:
        room = len(self._free_of[node])
        shelf = self._by_room[room]
        del shelf[node]
        if not shelf:
            del self._by_room[room]
