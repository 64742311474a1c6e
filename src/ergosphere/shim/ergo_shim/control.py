"""The control thread: sleeps until the agent posts an order, obeys it, and says so. Costs nothing while it sleeps.

Orders, each a JSON object with `order` and `id`:
    hold {limits}      operations beyond the limits wait, and so does whoever comes to the end of a step
    settle             finish what was launched; "settled" is told when nothing is outstanding
    quiesce {orphans}  drop the real groups, give freed memory back, unmap the file, say "ready"; groups named
                       `orphans` will not be rebuilt
    go {generation}    rebuild the groups under that generation and go on
    release {token}    go on; if groups were dropped, rebuild them under the token first
    verdict {word}     let out the callers kept by a fault
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from typing import Any, Final, Optional

from . import control_file
from .control_file import ORDERS, REPLY, Brief, Head, Mapped
from .seam import Seam

PARKED_POLL_S: Final = 0.002  # how often a rank without a mapping looks at the path
SETTLE_POLL_S: Final = 0.0005  # how often outstanding work is looked at while it settles
FALLBACK_POLL_S: Final = 0.02  # where there is no futex
HOLDING: Final = ("hold", "settle", "quiesce")
NOTHING: Final = Head(0, 0, 0)


class Control:
    """Obeys the orders that come in through one seam's control file."""

    def __init__(self, seam: Seam) -> None:
        self._seam = seam
        self._seen = NOTHING
        self._settling = False
        self._orphans: "set[str]" = set()
        self._fork = ""

    def run(self) -> None:
        """The thread's main loop; ends when the process no longer acts as the rank."""
        while not self._seam.gone:
            order = self._next()
            if self._seam.gone:
                return
            if order is not None:
                self._obey_or_say_why(order)
            elif self._settling:
                self._settle()

    def _next(self) -> Optional["dict[str, Any]"]:
        file = self._seam.file
        bytes_: control_file.Bytes = file if file is not None else Brief(self._seam.path)
        try:
            if control_file.head(bytes_, ORDERS) == self._seen:
                self._rest(file)
                return None
            head, order = control_file.fetch(bytes_, ORDERS)
        except (OSError, ValueError):  # the path is being replaced, or the process is ending
            time.sleep(PARKED_POLL_S)
            return None
        if order is None:
            time.sleep(PARKED_POLL_S)
            return None
        self._seen = head
        return dict(order)

    def _rest(self, file: Optional[Mapped]) -> None:
        if file is None:
            time.sleep(PARKED_POLL_S)
        else:
            file.sleep(ORDERS, self._seen, SETTLE_POLL_S if self._settling else None, FALLBACK_POLL_S)

    def _obey_or_say_why(self, order: "dict[str, Any]") -> None:
        try:
            self._obey(order)
        except Exception as error:
            self._seam.error = "%s: %s: %s" % (order.get("order"), type(error).__name__, error)
        self._seam.acknowledged = order.get("id", 0)
        if self._seam.dropped and self._seam.file is not None:
            self._seam.unmap()
        else:
            self._seam.publish()

    def _obey(self, order: "dict[str, Any]") -> None:
        verb = order["order"]
        self._seam.error = None
        if verb == "hold":
            self._settling = False
            self._seam.hold(order["limits"])
        elif verb == "settle":
            self._settling = True
            self._look_if_settled()
        elif verb == "quiesce":
            self._settling = False
            self._orphans = set(order["orphans"])
            self._seam.drop_all()
            self._trim()
        elif verb == "go":
            self._go_on("ergo/%s" % order["generation"])
            self._seam.generation = order["generation"]
        elif verb == "release":
            self._go_on("ergo/undo/%s" % order["token"])
        elif verb == "verdict":
            self._seam.verdict(order["word"])

    @staticmethod
    def _trim() -> None:
        """Buffers that the program has freed are no part of its state: they need not be frozen, sent or stored."""
        from . import pages

        pages.trim()

    def _settle(self) -> None:
        if not self._seam.settled and self._look_if_settled():
            self._seam.publish()

    def _look_if_settled(self) -> bool:
        # Every group is asked, for asking is also what finishes its works.
        quiet = [group.settle() for group in list(self._seam.groups.values())]
        quiet.append(self._seam.elastic.settle())
        self._seam.settled = all(quiet) and self._seam.idle
        if self._seam.settled:
            self._settling = False
        return self._seam.settled

    def _go_on(self, prefix: str) -> None:
        self._settling = False
        self._hear_of_fork()
        if self._seam.dropped:
            self._seam.map()
            self._seam.elastic.bind(prefix)
            try:
                self._rebuild(prefix)
            finally:
                self._seam.whole()
        self._seam.release()

    def _hear_of_fork(self) -> None:
        """A fork goes on with the variables it was given. Once: the program may change them afterwards."""
        try:
            with open(os.path.join(os.path.dirname(self._seam.path), "fork.json")) as file:
                told = json.load(file)
            if told["job"] != self._fork:
                self._fork = told["job"]
                os.environ.update(told["env"])
        except (OSError, ValueError, KeyError, TypeError):
            return

    def _rebuild(self, prefix: str) -> None:
        # In one order everywhere, so that no two ranks wait for each other in different groups.
        for key, group in sorted(self._seam.groups.items()):
            group.rebuild(prefix, later=key in self._orphans)


def claim(path: str) -> Optional[Seam]:
    """Makes this process the one that acts as the rank and starts its control thread.

    None where there is no control file, or another living process of the rank has claimed it."""
    if not control_file.is_ours(path):
        return None
    from .elastic import Elastic  # only now: most programs that import torch never come here

    with open(path, "rb") as opened:
        fcntl.flock(opened, fcntl.LOCK_EX)
        file = Mapped(path)
        _, told = control_file.fetch(file, REPLY)
        if told is not None and told["state"] != "gone" and _is_other(told["pid"]):
            control_file.add_other(file)
            file.close()
            return None
        seam = Seam(path, file)
        seam.elastic = Elastic(seam)
        try:
            seam.elastic.bind("begin")
        except OSError as error:
            seam.error = "the shared folder: %s" % error
        seam.publish()
    _, order = control_file.fetch(file, ORDERS)
    if order is not None and order["order"] in HOLDING:
        seam.hold({})
    threading.Thread(target=Control(seam).run, name="ergosphere", daemon=True).start()
    return seam


def _is_other(pid: int) -> bool:
    return pid != os.getpid() and os.path.exists("/proc/%d" % pid)
