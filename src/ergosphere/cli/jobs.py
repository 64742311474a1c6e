"""Commands that look at jobs and change them: ps, show, events, explain and the verbs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from ergosphere.cli import screen, watching
from ergosphere.cli.desk import Desk, desk
from ergosphere.cli.errors import CliError, ExitCode
from ergosphere.cli.forms import Form, Job, Limit, NoWait, Output, Since, Watch, answer, newest, next_steps, since_s

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ergosphere.cli.api import Client
    from ergosphere.wire.api import VerbRequest, VerbResult
    from ergosphere.wire.jobs import EventInfo, JobInfo

    Past = tuple[tuple[EventInfo, ...], int]  # events to show, and the number of the newest there is

VERB_WAIT_S: Final = 600.0  # as long as one request may block; a freeze of many ranks takes a while
RESUME_WAIT_S: Final = 30.0  # room may take for ever: the reason is printed then
EVENT_WAIT_S: Final = 20.0  # one long poll of `events -f`
LATEST_EVENTS: Final = 5


def ps(
    show_all: Annotated[bool, typer.Option("--all", "-a", help="Ended jobs too.")] = False,
    project: Annotated[str | None, typer.Option("--project", "-p", help="Only this project's.")] = None,
    watch: Watch = False,
    limit: Limit = None,
    since: Since = None,
    form: Output = Form.TABLE,
) -> None:
    """The queue: what runs where, what waits and why, what it cost. `--since` asks when they were submitted."""
    from ergosphere.cli import asking
    from ergosphere.cli.views import queue_view

    here = desk()
    with here.client() as client:

        def look() -> tuple[JobInfo, ...]:
            begin_s = since_s(since, here.clock.now())
            found = asking.jobs(client, ended=show_all, project=project)
            return newest(tuple(job for job in found if job.submitted_s >= begin_s), limit)

        if watch and form is Form.TABLE:
            watching.watch(here.clock, lambda width: queue_view(look(), here.clock.now(), width))
        _print_queue(here, look(), form)


def _print_queue(here: Desk, found: tuple[JobInfo, ...], form: Form) -> None:
    from ergosphere.cli.views import queue_view

    if not found and form in (Form.TABLE, Form.WIDE):
        screen.say("no jobs")
        screen.hint("start one: ergo run -- COMMAND …   ended ones: ergo ps --all")
        return
    width = screen.width() if form is Form.TABLE else screen.WIDE
    answer(form, lambda: dumped(found), lambda: queue_view(found, here.clock.now(), width))
    next_steps(form, "one job: ergo show JOB   why it waits: ergo explain JOB")


def dumped(values: tuple[Any, ...]) -> list[Any]:
    """Wire values as JSON values."""
    return [value.model_dump(mode="json") for value in values]


def show(job: Job, watch: Watch = False, form: Output = Form.TABLE) -> None:
    """Everything about one job, ended or not."""
    from ergosphere.cli import asking
    from ergosphere.cli.views import job_view

    here = desk()
    with here.client() as client:
        latest: tuple[EventInfo, ...] = ()
        detail = asking.job(client, job)  # a name may come to mean several while it is watched

        def look(_width: int) -> RenderableType:
            nonlocal latest
            found = asking.job(client, detail.id)
            latest = _latest(client, found.id, latest)
            return job_view(found, latest, here.clock.now())

        if watch and form is Form.TABLE:
            watching.watch(here.clock, look)
        latest = _latest(client, detail.id, ()) if form is Form.TABLE else ()
    answer(form, lambda: detail.model_dump(mode="json"), lambda: job_view(detail, latest, here.clock.now()))
    next_steps(form, f"its output: ergo logs {job}   its history: ergo events {job}")


def _latest(client: Client, job: str, known: tuple[EventInfo, ...]) -> tuple[EventInfo, ...]:
    """The latest events, where `known` was the latest before."""
    from ergosphere.cli import asking

    while page := asking.events(client, job, known[-1].seq if known else 0):
        known = (*known, *page)[-LATEST_EVENTS:]
    return known


def events(
    job: Annotated[str | None, typer.Argument(metavar="[JOB]", help="A job's id or name; all jobs without.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for more.")] = False,
    limit: Limit = None,
    since: Since = None,
    form: Output = Form.TABLE,
) -> None:
    """The history: who did what to which job, and why."""
    from ergosphere.cli import asking

    here = desk()
    with here.client() as client:
        begin_s = since_s(since, here.clock.now())
        job = asking.job(client, job).id if job else None  # a name may come to mean several while it is followed
        whole = asking.all_events(client, job)
        past = newest(tuple(event for event in whole if event.at_s >= begin_s), limit)
        names = {} if job else {info.id: info.name for info in asking.jobs(client, ended=True)}
        if not follow:
            answer(form, lambda: dumped(past), lambda: _history(past, names, here))
            next_steps(form, "" if past else "no events yet")
            return
        _follow_events(here, client, job, (past, whole[-1].seq if whole else 0), names, form)


def _history(past: tuple[EventInfo, ...], names: dict[str, str], here: Desk) -> Any:
    from rich.text import Text

    from ergosphere.cli.views import event_line

    now_s = here.clock.now()
    return Text("\n").join(event_line(e, now_s, names.get(e.job or "", e.job or "") if names else "") for e in past)


def _follow_events(here: Desk, client: Client, job: str | None, past: Past, names: dict[str, str], form: Form) -> None:
    """What is `past`, then what comes after its number."""
    from ergosphere.cli import asking
    from ergosphere.cli.api import Unreachable
    from ergosphere.cli.follow import RETRY_S

    page, seq = past
    while True:
        for event in page:
            if form in (Form.JSON, Form.YAML):
                screen.show_line(event.model_dump_json())
            else:
                screen.show(_history((event,), names, here))
        seq = max(seq, page[-1].seq if page else 0)
        try:
            page = asking.events(client, job, seq, EVENT_WAIT_S)
        except Unreachable:
            here.clock.sleep(RETRY_S)
            page, client = (), here.client()


def explain(job: Job, form: Output = Form.TABLE) -> None:
    """Why a job is where it is, who is ahead, and the smallest thing that would change it."""
    from ergosphere.cli import asking
    from ergosphere.cli.views import explanation_view

    with desk().client() as client:
        explanation = asking.explain(client, job)
    answer(form, lambda: explanation.model_dump(mode="json"), lambda: explanation_view(explanation, job))
    next_steps(form, f"how it came to this: ergo events {job}")


def pause(job: Job, no_wait: NoWait = False, form: Output = Form.TABLE) -> None:
    """Freeze a job: its devices are free, nothing is lost. It stays so until `ergo resume`."""
    ask_verb(job, "pause", _plain(0 if no_wait else VERB_WAIT_S), form)
    next_steps(form, f"bring it back: ergo resume {job}")


def resume(job: Job, no_wait: NoWait = False, form: Output = Form.TABLE) -> None:
    """Thaw a paused job as soon as there is room."""
    result = ask_verb(job, "resume", _plain(0 if no_wait else RESUME_WAIT_S), form)
    next_steps(form, f"its output: ergo logs -f {job}" if result.done else f"what it waits for: ergo explain {job}")


def migrate(
    job: Job,
    to: Annotated[
        list[str] | None, typer.Option("--to", metavar="NODE", help="To one of these; else anywhere but here.")
    ] = None,
    no_wait: NoWait = False,
    form: Output = Form.TABLE,
) -> int:
    """Move a running job to another node without losing a step."""
    from ergosphere.wire.api import MigrateRequest

    result = ask_verb(job, "migrate", MigrateRequest(to=tuple(to or ()), wait_s=0 if no_wait else VERB_WAIT_S), form)
    if result.done or no_wait:
        next_steps(form, f"where it is: ergo show {job}")
        return ExitCode.OK
    stay = "".join(f" --to {node}" for node in dict.fromkeys(result.job.nodes))
    take_back = f"   let it stay: ergo migrate {job}{stay}" if stay else ""
    next_steps(form, f"what it waits for: ergo explain {job}{take_back}")
    return ExitCode.FAILED


def resize(
    job: Job,
    devices: Annotated[
        int, typer.Option("--devices", "-d", min=1, metavar="M", help="The most it shall have; M divides its ranks.")
    ],
    no_wait: NoWait = False,
    form: Output = Form.TABLE,
) -> None:
    """Give a job fewer or more devices while it runs: its ranks share them, and no bit of its result changes."""
    from ergosphere.wire.api import ResizeRequest

    request = ResizeRequest(devices=devices, wait_s=0 if no_wait else RESUME_WAIT_S)
    result = ask_verb(job, "resize", request, form)
    next_steps(form, f"how it shares: ergo show {job}" if result.done else f"what it waits for: ergo explain {job}")


def cancel(
    job: Job,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    grace_s: Annotated[float, typer.Option("--grace", metavar="SECONDS", min=0, max=3600, help="SIGTERM first.")] = 5.0,
    no_wait: NoWait = False,
    form: Output = Form.TABLE,
) -> None:
    """End a job for good. Its logs and files stay readable."""
    from ergosphere.wire.api import CancelRequest

    if not yes and screen.can_ask() and not typer.confirm(f"cancel {job}? it cannot be resumed afterwards", err=True):
        raise CliError("not cancelled", "pause it instead with `ergo pause`", ExitCode.FAILED)
    wait_s = 0.0 if no_wait else VERB_WAIT_S
    ask_verb(job, "cancel", CancelRequest(grace_s=grace_s, wait_s=wait_s), form)
    next_steps(form, f"what it had written: ergo fetch {job}")


def _plain(wait_s: float) -> VerbRequest:
    from ergosphere.wire.api import VerbRequest

    return VerbRequest(wait_s=wait_s)


def ask_verb(job: str, name: str, request: VerbRequest, form: Form) -> VerbResult:
    """Ask, wait, and say in one line what has happened."""
    from ergosphere.cli import asking

    here = desk()
    with here.client() as client, waiting_aloud(here, f"{name} {job}", lambda own: _standing(own, job), form):
        result = asking.verb(client, job, name, request)
    print_verb(result, form)
    return result


def waiting_aloud(here: Desk, title: str, look: Callable[[Client], str], form: Form) -> AbstractContextManager[None]:
    """While the block waits, people are told what for."""
    from ergosphere.cli.meanwhile import saying

    return saying(here, title, look) if form in (Form.TABLE, Form.WIDE) else nullcontext()


def _standing(client: Client, job: str) -> str:
    from ergosphere.cli import asking
    from ergosphere.cli.safe import safe_line

    found = asking.job(client, job)
    return f"it is {found.phase}" + (f": {safe_line(found.reason)}" if found.reason else "")


def print_verb(result: VerbResult, form: Form) -> None:
    """What has come of a verb, in one line."""
    from rich.text import Text

    from ergosphere.cli.safe import safe_line

    tick = ("✓ ", "green") if result.done else ("… ", "yellow")
    words = Text.assemble(tick, safe_line(result.text or f"{result.job.name} is {result.job.phase}"))
    answer(form, lambda: result.model_dump(mode="json"), lambda: words)
