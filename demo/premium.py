"""The premium job that arrives in the middle of the second act, and for whom somebody has to make room."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from demo.board import STAR, Board
from demo.cast import PREEMPTED, PREEMPTED_AT, URGENT
from ergosphere.cli import asking
from ergosphere.cli.api import Client
from ergosphere.cli.verifying.course import submit
from ergosphere.cli.verifying.fleet import PrivateFleet
from ergosphere.cli.verifying.strikes import Asker
from ergosphere.core.model import ENDED, Phase, Tier, Why
from ergosphere.wire.jobs import JobDetail, JobInfo, JobSpec

LOOK_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class Urgent:
    """What became of it. `phase` None: it never arrived, as nobody was left who could have made room."""

    phase: Phase | None
    preempted: frozenset[str] = frozenset()  # names of jobs that were frozen to make room


def perform(fleet: PrivateFleet, like: JobSpec, board: Board) -> Urgent:
    """A premium job of one rank more than can be had by shrinking, from its arrival to its end."""
    found = _free_devices(fleet, board)
    if found is None:
        return Urgent(None)
    free, spare = found
    ranks = free + spare + 1
    command = {"command": URGENT, "name": "urgent", "tier": Tier.PREMIUM, "ranks": ranks, "launcher": "plain"}
    board.enters("urgent", "a premium job")
    job = submit(fleet, like.model_copy(update={**command, "min_devices": ranks}))
    board.happened("urgent", f"a premium job arrives: {ranks} ranks, and {free} devices are free", STAR)
    return _watch(fleet, job, board)


def _free_devices(fleet: PrivateFleet, board: Board) -> tuple[int, int] | None:
    """(free, beyond somebody's least) when the time has come and nobody is just leaving a device or coming to one.

    None when the job that should make room has ended before that.
    """
    with Asker(fleet) as asker:
        while True:
            late = (board.lines[PREEMPTED].share or 0.0) >= PREEMPTED_AT
            jobs = asker.ask(asking.jobs)
            if late and all(job.name != PREEMPTED for job in jobs):
                return None
            if late and all(job.phase is Phase.RUNNING for job in jobs):
                free = sum(job is None for node in asker.ask(asking.nodes) for job in node.used)
                return free, sum(job.devices - job.min_devices for job in jobs)
            fleet.clock.sleep(LOOK_S)


def _watch(fleet: PrivateFleet, job: str, board: Board) -> Urgent:
    preempted: frozenset[str] = frozenset()
    told = False
    with Asker(fleet) as asker:
        while (found := asker.job(job)).phase not in ENDED:
            board.seen("urgent", found.phase, " ".join(sorted(set(found.nodes))), 0.0, b"")
            preempted |= asker.ask(_preempted)
            if found.phase is Phase.RUNNING and not told:
                told = True
                board.happened("urgent", f"runs; made room: {_who_made_room(asker.ask(asking.jobs))}", STAR)
            fleet.clock.sleep(LOOK_S)
        preempted |= asker.ask(_preempted)
    board.seen("urgent", found.phase, "-", 1.0, b"")
    _say_end(board, found)
    return Urgent(found.phase, preempted)


def _say_end(board: Board, job: JobDetail) -> None:
    how = "its devices are free again" if job.phase is Phase.SUCCEEDED else job.reason
    board.happened("urgent", f"{job.phase}: {how}", STAR)


def _preempted(client: Client) -> frozenset[str]:
    """Who has a snapshot that was taken to make room: names of live jobs."""
    names = {job.id: job.name for job in asking.jobs(client)}
    taken = asking.snapshots(client, None)
    return frozenset(names[one.job] for one in taken if one.why == Why.PREEMPT and one.job in names)


def _who_made_room(jobs: Sequence[JobInfo]) -> str:
    frozen = [f"{job.name} frozen" for job in jobs if job.phase is Phase.FROZEN]
    shrunk = [f"{job.name} on {job.devices} of {job.ranks} devices" for job in jobs if 0 < job.devices < job.ranks]
    return ", ".join([*frozen, *shrunk]) or "nobody"
