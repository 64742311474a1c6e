"""What ranks of one job share, put together and taken apart: the ground under turns, exact sums and splicing.

`bind` lays the ground by the table that is in force, `unbind` leaves nothing of it: no mapping, no file, no socket."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from typing import Any, Final, Optional

from . import pages
from . import table as tables
from .bell import Bell
from .exchange import Exchange
from .operation import Seats
from .slots import Slots
from .splice import Splice
from .sums import GroupSums
from .turn import Alive, Turn, nobody

CARRY_S: Final = 0.01  # how often open reductions are looked after that nobody may be waiting for,
CARRY_S_MAX: Final = 0.05  # ever less often where none of them is waited for by another host
CARRY_GROWTH: Final = 1.5
TELL_S: Final = 2.0  # how often figures are told anew while nothing else changes


class Ground:
    """What a rank holds of its host's shared folder."""

    def __init__(self, table: tables.Table, name: str) -> None:
        self.stem = os.path.join(table.folder, "t%d.%s." % (table.number, name))
        self.bell = Bell(self.stem + "bell", table.me)
        self.alive = Alive(table.folder, "t%d.%s." % (table.number, name), table.me)
        self.slots = Slots(self.stem, table.me)
        mates, file = table.mates(), self.stem + "turn." + _short(table.devices[table.me])
        alone = len(mates) == 1
        self.turn: Any = nobody() if alone else Turn(file, self.bell, mates.index(table.me), len(mates))

    def drop(self) -> None:
        """Takes it all apart."""
        self.turn.drop()
        self.slots.drop()
        self.alive.drop()
        self.bell.drop()


class Elastic:
    """One rank's share in everything, or in nothing where there is no table."""

    def __init__(self, seam: Any) -> None:
        self._seam = seam
        self.table: Optional[tables.Table] = None
        self.ground: Optional[Ground] = None
        self.why: Optional[str] = None
        self.line: Any = None  # a connection of our own to the world's store
        self.splice = Splice(seam)
        self._exchange: Optional[Exchange] = None
        self._sums: "dict[str, GroupSums]" = {}
        self._lock = threading.Lock()
        self._carrier: Optional[threading.Thread] = None
        self._wanted = threading.Event()
        self._told_s = 0.0
        self._exact = False  # as it was while there was ground: at a cut there is none

    # -- the control thread's side -----------------------------------------------------------------------------

    def bind(self, name: str) -> None:
        """Lays the ground by the table that lies there now; `name` has never been used before in this job's life."""
        self.table = tables.read(self._seam.path)
        if self.table is None or not self.table.folder or not os.path.isdir(self.table.folder):
            self.why = None if self.table is None else "its ranks have no folder in memory to share"
            return
        self.why = "exact sums are off" if self.table.exact == "off" else None
        self.ground = Ground(self.table, _short(name))
        if len(self.table.mates()) > 1:
            pages.keep_freed()  # one rank's faults keep all others of its device waiting
        if len(set(self.table.hosts)) > 1 and self.table.exact != "off":
            self._exchange = Exchange(self.table.me, _short(name))
            self.meet()
        self.splice.bind(self.table, self.ground)

    def meet(self) -> None:
        """Tells ranks of other hosts, through the world's store, where this one is found."""
        if self._exchange is not None and self.line is not None:
            try:
                self._exchange.meet(self.line.store())
            except Exception:  # the world was destroyed; the next one brings its own store
                pass

    def unbind(self) -> None:
        """At a cut: leaves nothing behind. All reductions are over."""
        with self._lock:
            ground, self.ground = self.ground, None
            sums, self._sums = self._sums, {}
            exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.drop()
        carrier = self._carrier
        if carrier is not None:
            self._wanted.set()
            carrier.join()  # it ends where there is no ground
        self.splice.unbind()
        for each in sums.values():
            each.drop()
        if ground is not None:
            ground.drop()

    def settle(self) -> bool:
        """Whether nothing of ours is half done."""
        quiet = [each.progress_all() for each in list(self._sums.values())]
        return all(quiet)

    def finish(self) -> None:
        """The program ends: its turn goes to the next one."""
        if self.ground is not None:
            self.ground.turn.drop()
            self.ground.bell.ring()

    def disown(self) -> None:
        """In a forked child: everything belongs to the parent."""
        self.ground = self._exchange = self.table = None
        self.splice.disown()
        for each in self._sums.values():
            each.disown()
        self._sums = {}
        self._lock = threading.Lock()
        self._carrier, self._wanted = None, threading.Event()

    # -- the program's side ------------------------------------------------------------------------------------

    def sums_of(self, key: str, members: "list[int]", me: int) -> Optional[GroupSums]:
        """The exact reductions of a group; None where torch does them."""
        table, ground = self.table, self.ground
        if table is None or ground is None or table.exact == "off" or not self._is_the_world():
            return None
        known = self._sums.get(key)
        if known is None:
            with self._lock:
                known = self._sums.get(key) or self._make_sums(table, ground, key, members, me)
                self._sums[key] = known
        return known

    def give(self) -> None:
        """Hands the device over, if this rank has it."""
        if self.ground is not None:
            self.ground.turn.give()

    def take(self) -> None:
        """Waits for the device, where others use it too."""
        if self.ground is not None:
            self.ground.turn.take()

    def carry_on(self) -> None:
        """Sees to it that open reductions end though their callers may not wait for them."""
        with self._lock:
            if self._carrier is None or not self._carrier.is_alive():
                self._carrier = threading.Thread(target=self._carry, name="ergosphere-carry", daemon=True)
                self._carrier.start()
        self._wanted.set()

    def told(self) -> "Optional[dict[str, Any]]":
        """What the agent reads; None where there is no table."""
        if self.table is None:
            return None
        table, ground = self.table, self.ground
        alone = len(table.mates()) == 1
        if ground is not None:
            self._exact = table.exact != "off" and self._is_the_world()
        told: "dict[str, Any]" = {"number": table.number, "why": self._why(), "exact": self._exact}
        told["state"] = "alone" if alone else "turns"
        told["turn_ms"] = round(ground.turn.told_ms(), 3) if ground is not None else 0.0
        told.update(self.splice.told())
        return told

    def tell_sometimes(self) -> None:
        """Publishes the figures if that was not done of late."""
        now_s = time.monotonic()
        if now_s - self._told_s > TELL_S:
            self._told_s = now_s
            self._seam.publish()

    # -- within ------------------------------------------------------------------------------------------------

    def _is_the_world(self) -> bool:
        table = self.table
        return table is not None and self._seam.size == len(table.hosts) and self._seam.rank == table.me

    def _why(self) -> Optional[str]:
        if self.ground is not None and self.ground.turn.useless:
            return "its ranks wait for each other outside their process groups, so they compute side by side"
        if self._seam.size and not self._is_the_world():
            return "the program's world is not the job's: it has %d ranks" % self._seam.size
        return self.why

    def _make_sums(self, table: tables.Table, ground: Ground, key: str, members: "list[int]", me: int) -> GroupSums:
        seats = Seats(me, members, [table.hosts[m] for m in members], [table.devices[m] for m in members])
        abroad = self._exchange if len(set(seats.hosts)) > 1 else None
        return GroupSums(ground, _short(self._seam.world + "/" + key), seats, abroad)

    def _carry(self) -> None:
        while self.ground is not None:
            self._wanted.wait()
            self._wanted.clear()
            pause_s = CARRY_S
            while self.ground is not None and self._carry_what_is_open(pause_s):
                if self._wanted.is_set():  # another one
                    self._wanted.clear()
                    pause_s = CARRY_S
                    continue
                pause_s = CARRY_S if self._exchange is not None else min(CARRY_GROWTH * pause_s, CARRY_S_MAX)

    def _carry_what_is_open(self, pause_s: float) -> bool:
        time.sleep(pause_s)  # most are over by then: whoever launched them waits for them
        quiet = []
        for each in list(self._sums.values()):
            try:
                quiet.append(each.progress_unattended())
            except Exception:  # told to whoever waits
                pass
        return not all(quiet)


def _short(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
