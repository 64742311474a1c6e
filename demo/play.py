"""The play itself: every program once without ergo and once under it, all four side by side."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from demo import premium
from demo.board import MISSED, OF_KIND, WELL, Board
from demo.caller import Call, converse
from demo.cast import REQUESTS, Role
from demo.premium import Urgent
from ergosphere import system
from ergosphere.cli.desk import Desk
from ergosphere.cli.draft import Draft
from ergosphere.cli.printing import Source
from ergosphere.cli.submission import Submitter, prepare
from ergosphere.cli.verifying.course import TAIL_BYTES, Course, Pace, follow, sent, submit
from ergosphere.cli.verifying.fleet import PrivateFleet
from ergosphere.cli.verifying.outcome import Outcome
from ergosphere.cli.verifying.plain import PlainRun, run_plain
from ergosphere.cli.verifying.strikes import Struck, job_now
from ergosphere.cli.workcopy import WorkCopy, scan_directory
from ergosphere.core.model import Phase
from ergosphere.wire.jobs import JobDetail, JobSpec

Result = TypeVar("Result")

FIRST: Final = Source(0, "out")  # the stream that says how far a program is
URGENT_S_MAX: Final = 60.0  # that the premium job may go on after all others: two seconds of work, on a busy machine


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


@dataclass(frozen=True, slots=True)
class Play:
    """Everything that was played."""

    played: tuple[Played, ...]
    urgent: Urgent


def parts_of(fleet: PrivateFleet, here: Desk, roles: Sequence[Role]) -> tuple[Part, ...]:
    """Each role as a job of this fleet; the examples' folder is in its store."""
    copy = scan_directory(here.folder, here.home)
    submitter = Submitter(here.environment, here.folder, here.home, near=True)
    made = []
    for role in roles:
        draft = Draft(command=role.command, name=role.name, tier=role.tier, max_restarts=len(role.blows))
        made.append(Part(role, sent(fleet, prepare(draft, submitter), copy), copy))
    return tuple(made)


def play(fleet: PrivateFleet, parts: Sequence[Part], folder: Path, board: Board) -> Play:
    """Both acts. Raises BrokenPromise when the client outside was let down, CliError when a job hangs."""
    roles = tuple(part.role for part in parts)
    board.act("1/2  undisturbed, without ergo: what identical is measured against", roles)
    plains = at_once([partial(_plain, fleet, part, folder, board) for part in parts])
    board.act("2/2  under ergo, on two nodes: paused, moved, resized, preempted, killed", roles)
    urgent = beside(partial(premium.perform, fleet, parts[-1].spec, board))
    pairs = zip(parts, plains, strict=True)
    played = at_once([partial(_perform, fleet, part, plain, board) for part, plain in pairs])
    return Play(tuple(played), _awaited(urgent))


def at_once(parts: Sequence[Callable[[], Result]]) -> list[Result]:
    """All of them side by side, their results in order. The first that fails ends the waiting."""
    futures = [beside(part) for part in parts]
    for future in as_completed(futures):
        future.result()
    return [future.result() for future in futures]


def beside(part: Callable[[], Result]) -> Future[Result]:
    """Begun in a thread of its own, which nobody has to wait for."""
    future: Future[Result] = Future()
    threading.Thread(target=_fulfil, args=(part, future), daemon=True).start()
    return future


def _awaited(urgent: Future[Urgent]) -> Urgent:
    """The premium job's end: with everybody else gone it has all the room there is."""
    try:
        return urgent.result(URGENT_S_MAX)
    except TimeoutError:
        text = f"the premium job had not ended {URGENT_S_MAX:.0f} s after all others"
        raise RuntimeError(text) from None


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
    return beside(lambda: converse(address, part.role.port, REQUESTS, fleet.clock))


def _address(fleet: PrivateFleet, job: str) -> str | None:
    found = job_now(fleet, job)
    return found.addresses[0] if found.addresses and found.phase is Phase.RUNNING else None
