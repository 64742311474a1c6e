"""The agent's watch: tells the server the whole truth of this node, keeps the lease, clears away.

Nothing in here waits for the store, or for a disk to be filled: meanwhile the lease would run out.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from ergosphere import system
from ergosphere.agent import lives, settling, weighing
from ergosphere.agent.gauge import NOT_MEASURED, Gauge, Measured
from ergosphere.agent.keepers import Keeper, KeeperError, KeeperGone, KeptRank
from ergosphere.agent.link import ServerAway, ServerLink
from ergosphere.agent.lives import LifeFolder, LifeRecord
from ergosphere.agent.node import Node
from ergosphere.agent.place import CellKey
from ergosphere.wire.agents import AgentReport, CellState, RankState, ReportReply, Weighed

REPORT_EVERY_S: Final = 2.5
REPORTS_PER_LEASE: Final = 4  # so many chances before a lease is out
TICK_S: Final = 0.1
KEEPER_S_MAX: Final = 1.0  # a keeper that is busy for longer is asked again at the next look

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Watch:
    """Looks at every cell of the node; cheap when nothing changes: one stat of each keeper's state file."""

    node: Node
    link: ServerLink
    discard: Callable[[CellKey], None]
    faults: Callable[[LifeFolder, LifeRecord], dict[int, str]]
    boot: str = field(default_factory=system.short_id)
    _reported_s: float = float("-inf")
    _report_every_s: float = REPORT_EVERY_S
    _leased_s: float = float("-inf")
    _seen: dict[CellKey, tuple[int, ...]] = field(default_factory=dict)
    _states: dict[CellKey, CellState] = field(default_factory=dict)
    _leaving: set[str] = field(default_factory=set)
    _gauge: Gauge = field(init=False)

    def __post_init__(self) -> None:
        self._gauge = Gauge(self.node)

    def tick(self) -> None:
        """One look: report at once where something changed, else now and then; hand the lease on to the keepers."""
        now = self.node.clock.monotonic()
        changed = self._look() or self.node.changed.is_set()
        self.node.changed.clear()
        if changed or now - self._reported_s >= self._report_every_s:
            self._report(now)
        if now - self._leased_s >= self._report_every_s:
            self._hand_on_lease(now)

    # ── looking ──────────────────────────────────────────────────────────────────────────────────────────────

    def _look(self) -> bool:
        changed = False
        present: set[CellKey] = set()
        for folder in lives.folders(self.node.place):
            present.add(folder.key)
            stamp = _stamp(folder)
            if self._seen.get(folder.key) != stamp:
                self._seen[folder.key] = stamp
                changed = True
        for key in set(self._states) - present:
            self._states.pop(key)
            self._seen.pop(key, None)
            self._gauge.forget(key)
            changed = True
        return changed

    def _observe(self) -> tuple[CellState, ...]:
        observed = [state for folder in lives.folders(self.node.place) if (state := self._cell_state(folder))]
        self._states = {CellKey(state.job, state.incarnation, state.cell): state for state in observed}
        return tuple(observed)

    def _cell_state(self, folder: LifeFolder) -> CellState | None:
        record = folder.read()
        if record is None:
            return None
        key = folder.key
        ranks = tuple(_last_word(folder, rank, "building") for rank in record.seat.ranks)
        answers = False
        if record.phase != "building":
            try:
                kept = Keeper(self.node.place.keeper_socket(key)).state(limit_s=KEEPER_S_MAX).ranks
                faults = self.faults(folder, record)
                measured = self._gauge.measured(folder, record)
                ranks, answers = tuple(_rank_state(rank, faults, measured) for rank in kept), True
            except KeeperGone:
                ranks = tuple(_last_word(folder, rank, "gone") for rank in record.seat.ranks)
            except KeeperError as silence:  # it is there, and busy: what was seen last holds
                log.warning("%s", silence)
                return self._states.get(key)
        return CellState(
            job=key.job,
            incarnation=key.incarnation,
            cell=key.cell,
            phase="building" if record.phase == "going" else record.phase,
            ranks=ranks,
            keeper_alive=answers,
            notes=record.notes,
        )

    # ── reporting ────────────────────────────────────────────────────────────────────────────────────────────

    def _report(self, now: float) -> None:
        report = AgentReport(
            node=self.node.place.node,
            boot=self.boot,
            devices=self.node.cores.devices,
            cores=len(self.node.cores.cores),
            memory_bytes=self.node.memory_bytes,
            cells=self._observe(),
            snapshots=settling.states(self.node),
            machine=system.machine_id(),
            weighed=tuple(Weighed(snapshot=name, cause=cause) for name, cause in dict(self.node.weighed).items()),
        )
        self._reported_s = now
        if self.node.lease_until_s <= now:  # it is out: keepers that suspended their ranks hear at once of a new one
            self._leased_s = float("-inf")
        try:
            reply = self.link.report(report)
        except ServerAway:
            if system.server_is_gone(self.node.place.home):  # nobody is there who could start our jobs elsewhere
                self.node.lease_until_s = now + self.node.lease_s
            return
        self.node.lease_s, self.node.lease_until_s = reply.lease_s, now + reply.lease_s
        self._report_every_s = min(REPORT_EVERY_S, reply.lease_s / REPORTS_PER_LEASE)
        self._clear_away(reply)
        weighing.ask(self.node, reply.weigh)

    def _clear_away(self, reply: ReportReply) -> None:
        for snapshot in reply.drop_snapshots:
            self._behind(f"drop {snapshot}", partial(settling.drop, self.node, snapshot))
        for name in reply.forget:
            self._discard(CellKey(name.job, name.incarnation, name.cell))
        for key in list(self._states):
            if reply.incarnations.get(key.job, key.incarnation) > key.incarnation:
                self._discard(key)

    def _discard(self, key: CellKey) -> None:
        self._behind(f"discard {key}", partial(self.discard, key))

    def _behind(self, what: str, remove: Callable[[], None]) -> None:
        """Removing a cell or gigabytes of images can take seconds, in which no lease must run out."""
        if what not in self._leaving:
            self._leaving.add(what)
            threading.Thread(target=self._remove, args=(what, remove), daemon=True, name=what).start()

    def _remove(self, what: str, remove: Callable[[], None]) -> None:
        try:
            remove()
        except Exception:
            log.exception("%s: not everything could be removed; the server will say so again", what)
        finally:
            self._leaving.discard(what)

    def _hand_on_lease(self, now: float) -> None:
        self._leased_s = now
        for folder in lives.folders(self.node.place):
            left_s = self.node.lease_left_s  # as of now: others may have taken their time
            if left_s > 0:
                with suppress(KeeperError):
                    Keeper(self.node.place.keeper_socket(folder.key)).lease(left_s, limit_s=KEEPER_S_MAX)


def _stamp(folder: LifeFolder) -> tuple[int, ...]:
    """Changes whenever the keeper or the agent wrote something down about this cell."""
    stamp = []
    for path in (folder.keeper_state, folder.path / "life.json"):
        try:
            stamp.append(path.stat().st_mtime_ns)
        except OSError:
            stamp.append(0)
    return tuple(stamp)


def _rank_state(kept: KeptRank, faults: dict[int, str], measured: Mapping[int, Measured]) -> RankState:
    found = measured.get(kept.rank, NOT_MEASURED)
    return RankState(
        bytes=found.bytes,
        sharing=found.sharing,
        rank=kept.rank,
        state="exited" if kept.state == "exited" else ("suspended" if kept.state == "suspended" else "running"),
        wait_status=kept.wait_status,
        exec_errno=kept.exec_errno or 0,
        exited_at_s=kept.exited_at_s,
        asked=kept.asked,
        fault=faults.get(kept.rank, ""),
        pid=0 if kept.state == "exited" else _main_process(kept.pid),
    )


def _main_process(init: int) -> int:
    """The command itself: what the rank's init began first. 0 where it has not, or has ended."""
    try:
        children = Path(f"/proc/{init}/task/{init}/children").read_text().split()
    except OSError:
        return 0
    return int(children[0]) if children else 0


def _last_word(folder: LifeFolder, rank: int, state: str) -> RankState:
    """What is known of a rank whose keeper does not answer: its exit, if the keeper had written it down."""
    written = lives.load_json(folder.keeper_state) or {}
    exits = written.get("exits")
    ended = exits.get(str(rank)) if isinstance(exits, dict) else None
    if isinstance(ended, dict) and ended.get("wait_status") is not None:
        return RankState(
            rank=rank,
            state="exited",
            wait_status=ended["wait_status"],
            exec_errno=ended.get("exec_errno") or 0,
            exited_at_s=ended.get("exited_at_s"),
            asked=bool(ended.get("asked")),
        )
    return RankState(rank=rank, state="building" if state == "building" else "gone")
