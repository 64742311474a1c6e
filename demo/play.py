"""The play itself: every program once without ergo and once under it, all four side by side."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from demo.board import MISSED, OF_KIND, STAR, WELL, Board
from demo.caller import Call, converse
from demo.cast import PREEMPTED_AT, REQUESTS, URGENT, Role
from ergosphere import system
from ergosphere.cli import asking
from ergosphere.cli.desk import Desk
from ergosphere.cli.draft import Draft
from ergosphere.cli.printing import Source
from ergosphere.cli.submission import Submitter, prepare
from ergosphere.cli.verifying.course import TAIL_BYTES, Course, Pace, follow, sent, submit
from ergosphere.cli.verifying.fleet import PrivateFleet
from ergosphere.cli.verifying.outcome import Outcome
from ergosphere.cli.verifying.plain import PlainRun, run_plain
from ergosphere.cli.verifying.strikes import Asker, Struck, job_now
from ergosphere.cli.workcopy import WorkCopy, scan_directory
from ergosphere.core.model import ENDED, Phase, Tier
from ergosphere.wire.jobs import JobDetail, JobInfo, JobSpec

Result = TypeVar("Result")

FIRST: Final = Source(0, "out")  # the stream that says how far a program is
LOOK_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class Part:
    """One program ready to play, in either act."""

    role: Role
    spec: JobSpec
    copy: WorkCopy


@dataclass(frozen=True, slots=True)
class Plain:
    """How a program plays without ergo; `call` is what the client outside heard."""

    outcome: Outcome
    call: Call | None

    @property
    def pace(self) -> Pace:
        """What tells how far the same program is later on."""
        return Pace(FIRST, len(self.outcome.streams[FIRST]), self.outcome.span_s, by_output=True)


@dataclass(frozen=True, slots=True)
class Played:
    """One program after both acts."""

    part: Part
    plain: Plain
    course: Course
    call: Call | None


def parts_of(fleet: PrivateFleet, here: Desk, roles: Sequence[Role]) -> tuple[Part, ...]:
    """Each role as a job of this fleet; the examples' folder is in its store."""
    copy = scan_directory(here.folder, here.home)
    submitter = Submitter(here.environment, here.folder, here.home, near=True)
    made = []
    for role in roles:
        draft = Draft(command=role.command, name=role.name, tier=role.tier, max_restarts=len(role.blows))
        made.append(Part(role, sent(fleet, prepare(draft, submitter), copy), copy))
    return tuple(made)


def play(fleet: PrivateFleet, parts: Sequence[Part], folder: Path, board: Board) -> list[Played]:
    """Both acts. Raises BrokenPromise when the client outside was let down, CliError when a job hangs."""
    roles = tuple(part.role for part in parts)
    board.act("1/2  undisturbed, without ergo: what identical is measured against", roles)
    plains = at_once([partial(_plain, fleet, part, folder, board) for part in parts])
    board.act("2/2  under ergo, on two nodes: paused, moved, resized, preempted, killed", roles)
    urgent = threading.Thread(target=_make_urgent, args=(fleet, parts, board), daemon=True)
    urgent.start()
    pairs = zip(parts, plains, strict=True)
    played = at_once([partial(_perform, fleet, part, plain, board) for part, plain in pairs])
    urgent.join(LOOK_S)
    return played


def at_once(parts: Sequence[Callable[[], Result]]) -> list[Result]:
    """All of them side by side, their results in order. The first that fails ends the waiting."""
    futures: list[Future[Result]] = [Future() for _ in parts]
    for part, future in zip(parts, futures, strict=True):
        threading.Thread(target=_fulfil, args=(part, future), daemon=True).start()
    for future in as_completed(futures):
        future.result()
    return [future.result() for future in futures]


def _fulfil(part: Callable[[], Result], future: Future[Result]) -> None:
    try:
        future.set_result(part())
    except BaseException as fault:  # whoever waits for the future gets it
        future.set_exception(fault)


def _plain(fleet: PrivateFleet, part: Part, folder: Path, board: Board) -> Plain:
    if part.role.exact:
        return _undisturbed(fleet, part, board)
    own = folder / part.role.name
    own.mkdir()
    name = part.role.name

    def watch(size: int) -> None:
        with (own / "rank0.out").open("rb") as log:
            log.seek(max(0, size - TAIL_BYTES))
            board.seen(name, "plain", "-", None, log.read())

    group = f"ergo-{system.fleet_id(fleet.home)}/plain-{name}"
    run = PlainRun(part.spec, part.copy, fleet.cores)
    heard = _calls(part, lambda: "127.0.0.1", fleet)
    outcome = run_plain(run, own, group, fleet.clock, watch)
    if outcome.exit_code != 0:
        raise RuntimeError(f"{name} failed without ergo: {outcome.streams[Source(0, 'err')][-400:]!r}")
    board.seen(name, "ended", "-", 1.0, outcome.streams[FIRST])
    board.happened(name, f"ended by itself after {outcome.span_s:.0f} s", WELL)
    return Plain(outcome, heard.result() if heard else None)


def _undisturbed(fleet: PrivateFleet, part: Part, board: Board) -> Plain:
    """Under ergo, and left alone: what it is followed by is time, as nobody knows yet how much it writes."""
    endless = Pace(FIRST, 0, float("inf"), by_output=False)
    course = follow(fleet, submit(fleet, part.spec), (), endless, Onlooker(part.role.name, board, shares=False))
    board.seen(part.role.name, "ended", "-", 1.0, course.outcome.streams[FIRST])
    board.happened(part.role.name, f"ended by itself after {course.outcome.span_s:.0f} s, under ergo", WELL)
    return Plain(course.outcome, None)


def _perform(fleet: PrivateFleet, part: Part, plain: Plain, board: Board) -> Played:
    job = submit(fleet, part.spec)
    heard = _calls(part, lambda: _address(fleet, job), fleet)
    course = follow(fleet, job, part.role.blows, plain.pace, Onlooker(part.role.name, board))
    board.seen(part.role.name, course.job.phase, "-", 1.0, course.outcome.streams[FIRST])
    board.happened(part.role.name, f"{course.job.phase}", WELL if course.job.phase == "succeeded" else MISSED)
    return Played(part, plain, course, heard.result() if heard else None)


@dataclass(frozen=True, slots=True)
class Onlooker:
    """Passes on to the board what is seen of one job."""

    name: str
    board: Board
    shares: bool = True  # whether it is known how long the job is

    def progress(self, job: JobDetail, share: float, tail: bytes) -> None:
        """Where the job is, and on how many devices where ranks share some."""
        where = " ".join(sorted(set(job.nodes))) + (f" ({job.devices} dev)" if 0 < job.devices < job.ranks else "")
        self.board.seen(self.name, job.phase, where, share if self.shares else None, tail)

    def struck(self, struck: Struck) -> None:
        """What befell it."""
        self.board.happened(self.name, struck.text, OF_KIND[struck.blow.kind] if struck.done else MISSED)


def _calls(part: Part, address: Callable[[], str | None], fleet: PrivateFleet) -> Future[Call] | None:
    """The client outside at work, for a server."""
    if not part.role.port:
        return None
    heard: Future[Call] = Future()
    ask = (lambda: converse(address, part.role.port, REQUESTS, fleet.clock), heard)
    threading.Thread(target=_fulfil, args=ask, daemon=True).start()
    return heard


def _address(fleet: PrivateFleet, job: str) -> str | None:
    found = job_now(fleet, job)
    return found.addresses[0] if found.addresses and found.phase is Phase.RUNNING else None


def _make_urgent(fleet: PrivateFleet, parts: Sequence[Part], board: Board) -> None:
    """A premium job of one rank more than can be had by shrinking: somebody has to make room."""
    free, spare = _free_devices(fleet, board)
    ranks = free + spare + 1
    command = {"command": URGENT, "name": "urgent", "tier": Tier.PREMIUM, "ranks": ranks, "launcher": "plain"}
    board.enters("urgent", "a premium job")
    job = submit(fleet, parts[-1].spec.model_copy(update={**command, "min_devices": ranks}))
    board.happened("urgent", f"a premium job arrives: {ranks} ranks, and {free} devices are free", STAR)
    _watch_urgent(fleet, job, board)


def _free_devices(fleet: PrivateFleet, board: Board) -> tuple[int, int]:
    """(free, beyond somebody's least) when the time has come and nobody is just leaving a device or coming to one."""
    with Asker(fleet) as asker:
        while True:
            late = (board.lines["chargpt"].share or 0.0) >= PREEMPTED_AT
            jobs = asker.ask(asking.jobs)
            if late and all(job.phase is Phase.RUNNING for job in jobs):
                free = sum(job is None for node in asker.ask(asking.nodes) for job in node.used)
                return free, sum(job.devices - job.min_devices for job in jobs)
            fleet.clock.sleep(LOOK_S)


def _who_made_room(jobs: Sequence[JobInfo]) -> str:
    frozen = [f"{job.name} frozen" for job in jobs if job.phase is Phase.FROZEN]
    shrunk = [f"{job.name} on {job.devices} of {job.ranks} devices" for job in jobs if 0 < job.devices < job.ranks]
    return ", ".join([*frozen, *shrunk]) or "nobody"


def _watch_urgent(fleet: PrivateFleet, job: str, board: Board) -> None:
    told = False
    with Asker(fleet) as asker:
        while (found := asker.job(job)).phase not in ENDED:
            board.seen("urgent", found.phase, " ".join(sorted(set(found.nodes))), 0.0, b"")
            if found.phase is Phase.RUNNING and not told:
                told = True
                board.happened("urgent", f"runs; made room: {_who_made_room(asker.ask(asking.jobs))}", STAR)
            fleet.clock.sleep(LOOK_S)
    board.seen("urgent", found.phase, "-", 1.0, b"")
    board.happened("urgent", f"{found.phase}: its devices are free again", STAR)
