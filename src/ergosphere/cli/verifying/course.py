"""One job's way through a private fleet: submitted, disturbed where the schedule says, followed to its end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from ergosphere.cli import asking
from ergosphere.cli.errors import CliError
from ergosphere.cli.fetching import get_blob
from ergosphere.cli.follow import page_bytes, read_page
from ergosphere.cli.printing import Source
from ergosphere.cli.verifying.blows import Blow, Kind
from ergosphere.cli.verifying.fleet import PrivateFleet
from ergosphere.cli.verifying.outcome import Outcome
from ergosphere.cli.verifying.plain import sources
from ergosphere.cli.verifying.strikes import Asker, Struck, patient, strike
from ergosphere.cli.workcopy import WorkCopy, send
from ergosphere.core.model import ENDED, Phase
from ergosphere.snapshots.tree import Entry, Tree, parse_tree

if TYPE_CHECKING:
    from ergosphere.cli.api import Client
    from ergosphere.cli.submission import Prepared
    from ergosphere.wire.jobs import JobDetail, JobSpec

LOOK_S: Final = 0.25
TAIL_BYTES: Final = 400  # enough for a last line
SLOWER_MAX: Final = 20.0  # times the undisturbed run, and
SLOWER_S: Final = 120.0  # seconds more: then a job that is still not over hangs


class Watch(Protocol):
    """Who looks on. `share`: how far the job is, from 0 to 1; `tail`: the end of what it has written."""

    def progress(self, job: JobDetail, share: float, tail: bytes) -> None: ...

    def struck(self, struck: Struck) -> None: ...


@dataclass(frozen=True, slots=True)
class Pace:
    """How a job's progress is told from outside: by the length of one stream that the undisturbed run wrote.

    Where that run wrote hardly anything, or all of it at its end, time must do: `span_s` is the undisturbed run's.
    """

    source: Source
    size: int
    span_s: float
    by_output: bool

    def share(self, written: int, running_s: float) -> float:
        """From 0 to 1."""
        if self.by_output and self.size:
            return min(1.0, written / self.size)
        return min(1.0, running_s / max(0.1, self.span_s))


@dataclass(frozen=True, slots=True)
class Course:
    """A job that has ended: what is known of it, what befell it, what it left. `unstruck`: it ended before those."""

    job: JobDetail
    struck: tuple[Struck, ...]
    unstruck: tuple[Blow, ...]
    outcome: Outcome

    @property
    def dealt(self) -> frozenset[Kind]:
        """The kinds of blow that befell it at least once."""
        return frozenset(one.blow.kind for one in self.struck if one.done)

    @property
    def never_dealt(self) -> tuple[Kind, ...]:
        """The kinds that were to befall it and never did, in the schedule's order."""
        meant = (*(one.blow for one in self.struck), *self.unstruck)
        return tuple(dict.fromkeys(blow.kind for blow in meant if blow.kind not in self.dealt))

    @property
    def disturbed(self) -> bool:
        """Something befell it, or nothing was to."""
        return bool(self.dealt) or not self.never_dealt


def sent(fleet: PrivateFleet, prepared: Prepared, copy: WorkCopy) -> JobSpec:
    """The job ready to be handed in: its files are in the fleet's store."""
    with fleet.client() as client:
        send(client, copy, fleet.clock)
    return prepared.spec.model_copy(update={"tree": copy.ref, "bound": copy.bound})


def submit(fleet: PrivateFleet, spec: JobSpec) -> str:
    """Hand the job in; its id."""
    with fleet.client() as client:
        return asking.submit(client, spec).job.id


def follow(fleet: PrivateFleet, job: str, schedule: Sequence[Blow], pace: Pace, watch: Watch) -> Course:
    """Deal each blow when its time has come, until the job has ended. Raises CliError when it hangs."""
    waiting, struck = list(schedule), list[Struck]()
    began_s = fleet.clock.monotonic()
    with Asker(fleet) as asker:
        while (detail := asker.job(job)).phase not in ENDED:
            written, tail = asker.ask(lambda client: log_end(client, job, pace.source))
            share = pace.share(written, _running_s(fleet, detail))
            watch.progress(detail, share, tail)
            if waiting and detail.phase is Phase.RUNNING and share >= waiting[0].at:
                struck.append(strike(fleet, job, waiting.pop(0)))
                watch.struck(struck[-1])
            _check_patience(detail, fleet.clock.monotonic() - began_s, pace)
            fleet.clock.sleep(LOOK_S)
        span_s = fleet.clock.monotonic() - began_s
        outcome = asker.ask(lambda client: collect(fleet, client, detail, span_s))
        return Course(detail, tuple(struck), tuple(waiting), outcome)


def log_end(client: Client, job: str, source: Source) -> tuple[int, bytes]:
    """(how many bytes of a stream the server has, the last of them)."""
    page = read_page(client, job, source, -TAIL_BYTES)
    tail = page_bytes(page)
    return page.offset + len(tail), tail


def collect(fleet: PrivateFleet, client: Client, job: JobDetail, span_s: float) -> Outcome:
    """The ended job's outcome. Where ranks had several copies of the files, the first cell that has a path counts."""
    streams = {s: whole_stream(client, job.id, s) for rank in range(job.ranks) for s in sources(rank)}
    trees = [parse_tree(get_blob(client, copy.digest)) for copy in asking.results(client, job.id).copies]
    merged = {entry.path: entry for tree in reversed(trees) for entry in tree.entries}
    tree = Tree(tuple(merged[path] for path in sorted(merged, key=lambda path: path.split("/"))))
    code = job.exit_code if job.exit_code is not None else int(job.phase is not Phase.SUCCEEDED)

    def content(entry: Entry) -> bytes:
        return patient(fleet, lambda own: get_blob(own, entry.digest))

    return Outcome(code, streams, tree, content, span_s)


def whole_stream(client: Client, job: str, source: Source) -> bytes:
    """All that a rank wrote."""
    data = b""
    while True:
        page = read_page(client, job, source, len(data))
        more = page_bytes(page)
        data += more
        if not more or page.ended:
            return data


def _running_s(fleet: PrivateFleet, job: JobDetail) -> float:
    if job.started_s is None:
        return 0.0
    return fleet.clock.now() - job.started_s - job.paused_total_s - job.lost_s


def _check_patience(job: JobDetail, span_s: float, pace: Pace) -> None:
    if span_s > pace.span_s * SLOWER_MAX + SLOWER_S:
        raise CliError(
            f"{job.name} is {job.phase} after {span_s:.0f} s and the undisturbed run took {pace.span_s:.0f} s"
            + (f": {job.reason}" if job.reason else ""),
            "run it again with --keep and look at it with `ergo events`",
        )
