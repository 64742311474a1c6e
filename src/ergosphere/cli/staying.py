"""`ergo run` after the submission: the job's output, then its exit code and its files. Ctrl-C leaves it running."""

from __future__ import annotations

import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ergosphere.cli import asking, screen
from ergosphere.cli.api import Unreachable
from ergosphere.cli.desk import Desk
from ergosphere.cli.errors import CliError, ExitCode, print_error
from ergosphere.cli.follow import RETRY_S
from ergosphere.cli.output import printers_of, show_growing, sources_of
from ergosphere.cli.safe import safe_line
from ergosphere.cli.words import plural, span_text
from ergosphere.core.model import ENDED, Phase

if TYPE_CHECKING:
    from ergosphere.wire.jobs import JobDetail, JobInfo

END_WAIT_S: Final = 60.0  # one request; asked again
PATIENCE_S: Final = 3.0  # a job that has not started by then has its reason said


@dataclass(frozen=True, slots=True)
class Stay:
    """How to stay: bring files home at the end, show bytes as they are, say nothing of our own."""

    fetch: bool
    raw: bool
    quiet: bool


def stay(here: Desk, job: JobInfo, how: Stay) -> int:
    """Show the job's output to its end; the exit code to leave with. Ctrl-C detaches."""
    try:
        if not how.quiet:
            threading.Thread(target=_say_why_it_waits, args=(here, job), daemon=True).start()
        sources = sources_of(job, None, ("out", "err"))
        show_growing(here, job.id, dict.fromkeys(sources, 0), printers_of(sources, job.ranks, how.raw))
        ended = _ended(here, job.id)
    except KeyboardInterrupt:
        screen.say("")
        screen.say(f"left {job.name} ({job.id}) running")
        screen.hint(
            f"come back: ergo logs -f {job.id}   its results: ergo fetch {job.id}   end it: ergo cancel {job.id}"
        )
        return ExitCode.INTERRUPTED
    came_home = not how.fetch or _bring_home(here, ended, how.quiet)
    if not how.quiet:
        _say_end(ended)
    code = exit_code(ended)
    return code if code or came_home else ExitCode.RESULTS


def exit_code(job: JobInfo) -> int:
    """The job's own exit code; 1 for one that was lost or cancelled before it had one."""
    if job.exit_code is not None:
        return job.exit_code
    return ExitCode.OK if job.phase is Phase.SUCCEEDED else ExitCode.FAILED


def _say_why_it_waits(here: Desk, job: JobInfo) -> None:
    """One line when the job does not start at once."""
    try:
        with here.client() as client:
            found = asking.job(client, job.id, until="running", wait_s=PATIENCE_S)
        if found.phase is Phase.WAITING and found.reason:
            screen.note(f"{found.name} waits: {safe_line(found.reason)}")
    except CliError:
        return  # following says what is wrong


def _ended(here: Desk, job: str) -> JobDetail:
    """The job once it has ended, however long that takes and whatever the server does meanwhile."""
    while True:
        try:
            with here.client() as client:
                found = asking.job(client, job, until="ended", wait_s=END_WAIT_S)
            if found.phase in ENDED:
                return found
        except Unreachable:
            here.clock.sleep(RETRY_S)


def _bring_home(here: Desk, job: JobDetail, quiet: bool) -> bool:
    """Results into the working directory; False when something went wrong there, which is said."""
    from ergosphere.cli.fetching import Wish, bring_home, report

    folder = Path(job.workdir)
    try:
        with here.client() as client:
            brought, choice = bring_home(here, client, job.id, Wish(folder))
    except (CliError, OSError) as fault:
        remedy = f"try again: ergo fetch {job.id}"
        print_error(f"the results did not come home: {fault.cause if isinstance(fault, CliError) else fault}", remedy)
        return False
    if brought.kept or choice.disputed or (not quiet and (brought.written or choice.removed)):
        report(brought, choice, folder, job.id)
    return True


def _say_end(job: JobDetail) -> None:
    span = span_text((job.ended_s or job.submitted_s) - job.submitted_s)
    parts = [f"{job.name} {job.phase} after {span}"]
    parts += [plural(job.moves, "move")] * bool(job.moves)
    parts += [plural(job.recoveries, "recovery", "recoveries")] * bool(job.recoveries)
    parts += [f"{span_text(job.lost_s)} of work done again"] * bool(job.lost_s)
    sys.stdout.flush()
    screen.hint("; ".join(parts))
    if job.phase is not Phase.SUCCEEDED:
        if job.reason:
            print_error(safe_line(job.reason), safe_line(job.remedy))
        for note in job.notes:
            screen.note(safe_line(note))
        screen.hint(f"what happened: ergo show {job.id}   ergo events {job.id}")
