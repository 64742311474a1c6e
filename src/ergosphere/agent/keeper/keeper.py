"""The keeper itself: its ranks, what is asked of it, and what it does by itself when nobody asks any more.

Requests come as dictionaries with an `op`; each is answered once, at once or when its children are done. A request that
cannot be met raises Refused: then nothing was changed.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

from . import filesystems, freezers, world
from .alarms import Alarms
from .children import Children, Ended, children_of
from .gather import Gather
from .holds import LEASE, HoldRefused, Holds
from .ranks import Rank, write_atomically
from .wire import Wire

Request = dict[str, Any]
Reply = Callable[[dict[str, Any]], None]

BUILD_S_MAX: Final = 60.0  # building a root touches every mount; a network file system may be slow to answer
RESOLVE_S_MAX: Final = 15.0  # asking the store how a freeze ended
RESOLVE_RETRY_S: Final = 2.0
LEASE_RETRY_S: Final = 1.0
REAP_S_MAX: Final = 10.0  # giving back gigabytes takes seconds on a busy machine


class Refused(Exception):
    """The request cannot be met; nothing was changed."""


class Keeper:
    """One cell of one life."""

    def __init__(self, config: dict[str, Any], children: Children, alarms: Alarms) -> None:
        self._config = config
        self._children = children
        self._alarms = alarms
        self._ranks: dict[int, Rank] = {}
        self._orphans: dict[int, int] = {}  # reaped before we knew whose they were
        self._dumps: set[int] = set()  # CRIU children at work
        self._freezes: dict[str, Request] = {}  # freeze_id → its suspend request
        self._resolved: dict[str, str] = {}
        self._holds = Holds(lambda: self._ranks.values(), Wire(config.get("netns"), config.get("link")))
        self._version = 0  # counts changes of what `state` says
        self._told: dict[str, Any] = {}
        self._watchers: dict[int, Reply] = {}
        self._watches = 0
        self.leaving = False
        if config.get("lease_s"):
            self._alarms.set(LEASE, config["lease_s"], self._lease_is_out)
        self._record()

    def answer(self, request: Request, reply: Reply) -> None:
        """Does what is asked, or raises Refused."""
        operation = getattr(self, f"_op_{request.get('op')}", None)
        if operation is None:
            raise Refused(f"unknown request {request.get('op')!r}")
        try:
            operation(request, reply)
        except HoldRefused as error:
            raise Refused(str(error)) from error
        except freezers.FAILURES as error:
            raise Refused(str(error)) from error
        self._record()

    def reap(self) -> None:
        """Collects every child that has ended."""
        while True:
            try:
                pid, wait_status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            self._reaped(pid, wait_status)
        if not len(self._children):
            self._orphans.clear()

    def _reaped(self, pid: int, wait_status: int) -> None:
        rank = next((rank for rank in self._ranks.values() if rank.pid == pid and rank.alive), None)
        if rank is not None:
            rank.ended(wait_status)
            self._record()
        elif not self._children.reaped(pid, wait_status):
            self._orphans[pid] = wait_status

    # launch

    def _op_launch(self, request: Request, reply: Reply) -> None:
        orders: dict[int, Request] = {order["rank"]: order for order in request["ranks"]}
        self._refuse_known(orders)
        for order in orders.values():
            freezers.of_path(Path(order["cgroup"])).create()
        gather = Gather(list(orders), lambda ends: self._launched(orders, ends, reply))
        for number, order in orders.items():
            self._children.start(partial(world.launch, order), gather.taker(number), BUILD_S_MAX)

    def _launched(self, orders: dict[int, Request], ends: dict[int, Ended], reply: Reply) -> None:
        pids = {rank: _told_pid(end) for rank, end in ends.items()}
        faults = [f"rank {rank}: {fault}" for rank, end in sorted(ends.items()) if (fault := _fault(end))]
        self._come_to_be(orders, pids, faults, reply)

    def _come_to_be(
        self, orders: dict[int, Request], pids: dict[int, int | None], faults: list[str], reply: Reply
    ) -> None:
        """All ranks are there, or none stays."""
        if faults:
            for order in orders.values():
                _clear(order["cgroup"])
            self._kill_strays()
            reply({"ok": False, "error": "; ".join(faults)})
            return
        for number, pid in pids.items():
            assert pid is not None
            self._adopt(Rank(number, pid, orders[number]["cgroup"], orders[number]["status"]))
        self._holds.restore_order([self._ranks[number] for number in pids])
        self._record()
        reply({"ok": True, "pids": {str(rank): pid for rank, pid in pids.items()}})

    def _adopt(self, rank: Rank) -> None:
        self._ranks[rank.rank] = rank
        if rank.pid in self._orphans:
            rank.ended(self._orphans.pop(rank.pid))

    def _refuse_known(self, orders: dict[int, Request]) -> None:
        known = sorted(set(orders) & set(self._ranks))
        if known or not orders:
            raise Refused(f"ranks {known} were started before: a life starts once" if known else "no rank was named")

    # restore and dump

    def _op_restore(self, request: Request, reply: Reply) -> None:
        orders: dict[int, Request] = {order["rank"]: order for order in request["ranks"]}
        self._refuse_known(orders)
        for order in orders.values():
            group = freezers.of_path(Path(order["cgroup"]))
            group.create()
            group.freeze()
        self._holds.add(request["freeze_id"])
        guard = filesystems.Guard(self._children, orders.values(), request["timeout_s"])

        def done(ends: dict[int, Ended]) -> None:
            guard.end()
            self._restored(request["freeze_id"], orders, ends, reply)

        gather = Gather(list(orders), done)
        for number, order in orders.items():
            with suppress(FileNotFoundError):
                os.unlink(order["pidfile"])
            self._children.start(partial(world.restore, order), gather.taker(number), request["timeout_s"])

    def _restored(self, hold: str, orders: dict[int, Request], ends: dict[int, Ended], reply: Reply) -> None:
        faults = [f"rank {rank}: {fault}" for rank, end in sorted(ends.items()) if (fault := _fault(end))]
        pids = {} if faults else {rank: _written_pid(orders[rank]["pidfile"]) for rank in ends}
        faults += [f"rank {rank}: {fault}" for rank, pid in pids.items() if (fault := _mistaken(orders[rank], pid))]
        if faults:
            self._holds.remove(hold)
        self._come_to_be(orders, pids, faults, reply)

    def _op_dump(self, request: Request, reply: Reply) -> None:
        if not self._holds.names:
            raise Refused("the ranks are not suspended: a dump of a running rank would be no cut")
        rank = self._ranks.get(request["rank"])
        if rank is None or not rank.alive:
            raise Refused(f"rank {request['rank']} is not alive here")
        began = time.monotonic()

        def done(end: Ended) -> None:
            self._dumps.discard(pid)
            self._holds.was_dumped()
            self._holds.restore_order([rank])
            took_s = time.monotonic() - began
            reply({"ok": True, "rc": end.code, "timed_out": end.timed_out, "told": end.told, "took_s": took_s})

        pid = self._children.start(partial(world.run, request), done, request["timeout_s"])
        self._dumps.add(pid)

    # suspend, release, kill

    def _op_suspend(self, request: Request, reply: Reply) -> None:
        freeze_id = request["freeze_id"]
        if freeze_id in self._resolved:
            raise Refused(f"freeze {freeze_id} ended before: {self._resolved[freeze_id]}")
        assert request["on_commit"] in ("kill", "release") and request["resolve"]
        if not self._alive() or set(self._children.pids()) - self._dumps:
            raise Refused("the ranks are being started, or have ended")
        if self._dumps:
            raise Refused("a dump of these ranks is under way")
        self._holds.add(freeze_id)
        self._freezes[freeze_id] = request
        self._alarms.set(f"freeze {freeze_id}", request["deadline_s"], lambda: self._overdue(freeze_id))
        reply({"ok": True})

    def _op_release(self, request: Request, reply: Reply) -> None:
        freeze_id = request["freeze_id"]
        if self._resolved.get(freeze_id) == "commit":
            raise Refused(f"freeze {freeze_id} was committed: its originals are not to go on")
        self._end_hold(freeze_id)
        reply({"ok": True, "suspended": sorted(self._holds.names)})

    def _op_kill(self, request: Request, reply: Reply) -> None:
        freeze_id = request.get("freeze_id")
        if freeze_id is not None and freeze_id not in self._holds.names and self._alive():
            raise Refused(f"freeze {freeze_id} does not hold these ranks: {self._resolved.get(freeze_id, 'unknown')}")
        self._kill()
        reply({"ok": True})

    def _op_end(self, request: Request, reply: Reply) -> None:
        if request["incarnation"] <= self._config["incarnation"]:
            raise Refused(f"this is incarnation {self._config['incarnation']}: {request['incarnation']} is not newer")
        self._kill()
        reply({"ok": True})

    def _op_signal(self, request: Request, reply: Reply) -> None:
        for rank in self._alive():
            rank.asked = True
            with suppress(ProcessLookupError):
                os.kill(rank.pid, request["signum"])
        reply({"ok": True})

    def _end_hold(self, freeze_id: str) -> None:
        self._stop_dumps()
        self._alarms.cancel(f"freeze {freeze_id}")
        self._freezes.pop(freeze_id, None)
        self._holds.remove(freeze_id)

    def _kill(self) -> None:
        """The network stays held when it was: no peer hears of the end of a process that lives on in a snapshot."""
        self._children.stop(self._children.pids())
        for rank in self._alive():
            rank.asked = True
            with suppress(ProcessLookupError):
                os.kill(rank.pid, signal.SIGKILL)
        for rank in self._alive():
            rank.group.kill()
        self._wait_for_ends()
        for freeze_id in list(self._freezes):
            self._alarms.cancel(f"freeze {freeze_id}")
        self._freezes.clear()
        self._holds.forget_all()

    def _wait_for_ends(self) -> None:
        until = time.monotonic() + REAP_S_MAX
        self.reap()
        while self._alive() and time.monotonic() < until:
            time.sleep(0.002)
            self.reap()

    def _stop_dumps(self) -> None:
        """CRIU holds the tasks it dumps: they are free to be let go, or killed, when it is gone."""
        self._children.stop(list(self._dumps))

    # what it does by itself

    def _overdue(self, freeze_id: str) -> None:
        """Nobody said in time how the freeze ended: ask the one record that decides."""
        request = self._freezes.get(freeze_id)
        if request is None:
            return
        self._alarms.set(f"freeze {freeze_id}", RESOLVE_S_MAX + RESOLVE_RETRY_S, lambda: self._overdue(freeze_id))
        self._stop_dumps()
        ask = partial(world.ask, request["resolve"])
        self._children.start(ask, lambda end: self._resolve(freeze_id, end), RESOLVE_S_MAX)

    def _resolve(self, freeze_id: str, end: Ended) -> None:
        request = self._freezes.get(freeze_id)
        if request is None:
            return  # answered by an agent meanwhile
        outcome = end.told.split()[-1] if end.told.split() else ""
        if end.code != 0 or outcome not in ("commit", "abort"):
            self._alarms.set(f"freeze {freeze_id}", RESOLVE_RETRY_S, lambda: self._overdue(freeze_id))
            return
        self._resolved[freeze_id] = outcome
        if outcome == "commit" and request["on_commit"] == "kill":
            self._kill()
        else:
            self._end_hold(freeze_id)
        self._record()

    def _op_lease(self, request: Request, reply: Reply) -> None:
        self._holds.remove(LEASE)
        self._alarms.set(LEASE, request["left_s"], self._lease_is_out)
        reply({"ok": True})

    def _lease_is_out(self) -> None:
        self._alarms.set(LEASE, LEASE_RETRY_S, self._lease_is_out)  # first: whatever fails below is tried again
        try:
            self._holds.add(LEASE)
        except HoldRefused:
            return
        self._alarms.cancel(LEASE)
        self._record()

    # state

    def _op_state(self, request: Request, reply: Reply) -> None:
        """At once; or, told the version last seen (`after`), when there is a newer one or after `wait_s`."""
        if request.get("after") != self._version:
            self._tell(reply)
            return
        self._watches += 1
        watch = self._watches
        self._watchers[watch] = reply
        self._alarms.set(f"watch {watch}", request["wait_s"], lambda: self._tell(self._watchers.pop(watch)))

    def _tell(self, reply: Reply) -> None:
        reply({"ok": True, "version": self._version, **self._state()})

    def _op_leave(self, request: Request, reply: Reply) -> None:
        if self._alive() or len(self._children):
            raise Refused("ranks are alive, or being started: kill them first")
        for rank in self._ranks.values():
            with suppress(*freezers.FAILURES):
                rank.group.remove()
        self.leaving = True
        reply({"ok": True})

    def _state(self) -> dict[str, Any]:
        return {
            "pid": os.getpid(),
            **{name: self._config[name] for name in ("job", "incarnation", "cell")},
            "ranks": [rank.as_json(bool(self._holds.names)) for _, rank in sorted(self._ranks.items())],
            "holds": sorted(self._holds.names),
            "resolved": dict(self._resolved),
        }

    def _record(self) -> None:
        """Tells who waits, and the file. The truth is here: a full disk must not make a done thing look undone."""
        state = self._state()
        if state == self._told:
            return
        self._told = state
        self._version += 1
        with suppress(OSError):
            write_atomically(self._config["state"], state)
        for watch in list(self._watchers):
            self._alarms.cancel(f"watch {watch}")
            self._tell(self._watchers.pop(watch))

    def _alive(self) -> list[Rank]:
        return [rank for rank in self._ranks.values() if rank.alive]

    def _kill_strays(self) -> None:
        """Children nobody knows are what a failed restore has left; only sure while nothing else is under way."""
        if len(self._children):
            return
        known = {rank.pid for rank in self._alive()}
        for pid in children_of(os.getpid()) - known:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _told_pid(end: Ended) -> int | None:
    lines = [line.split() for line in end.told.splitlines()]
    return next((int(words[1]) for words in lines if words[:1] == ["pid"]), None)


def _fault(end: Ended) -> str:
    """The sentence a child has told, or what can be said without one; "" when all went well."""
    told = [line.removeprefix("error ") for line in end.told.splitlines() if line.startswith("error ")]
    if end.timed_out:
        return "took too long and was stopped"
    if told:
        return told[0]
    return f"the process that was to become it ended with code {end.code}" if end.code else ""


def _written_pid(pidfile: str) -> int | None:
    try:
        return int(Path(pidfile).read_text())
    except (OSError, ValueError):
        return None


def _mistaken(order: Request, pid: int | None) -> str:
    """What is wrong with a rank that CRIU says it has restored; "" when nothing is."""
    if pid is None:
        return "CRIU named no process"
    try:
        again = filesystems.repeated(pid, order)
    except OSError:
        return "it ended before it was let go"
    return f"a file system got the number {min(again)}, which it has had before, from the kernel" if again else ""


def _clear(cgroup: str) -> None:
    with suppress(*freezers.FAILURES):
        group = freezers.of_path(Path(cgroup))
        group.kill()
        group.remove()
