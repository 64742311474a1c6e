"""`ergo run` and `ergo submit`: what was typed becomes a job; `run` then stays with it to its end."""

from __future__ import annotations

import os
import shlex
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, TypeVar

import typer

from ergosphere.cli import screen
from ergosphere.cli.desk import Desk, desk
from ergosphere.cli.draft import Draft, overlay, parse_pairs
from ergosphere.cli.errors import CliError, ExitCode
from ergosphere.cli.forms import Form, Output, answer
from ergosphere.cli.habits import parting_of, tier_of
from ergosphere.cli.words import bounds, indexes, job_name, span_s

if TYPE_CHECKING:
    from ergosphere.cli.api import Client
    from ergosphere.cli.submission import Prepared
    from ergosphere.cli.workcopy import WorkCopy
    from ergosphere.wire.jobs import JobInfo

OTHERS_NAMED: Final = 3  # further jobs of an array that are named
_YAML: Final = (".yaml", ".yml")

RUN_HELP: Final = """Run a command as a job, stay with its output, return its exit code. Ctrl-C leaves it running.

It returns 7 when the job succeeded and its results did not come home (`ergo fetch` tries again).

[dim]ergo run -- python train.py · ergo run -- torchrun --nproc-per-node 4 train.py · ergo run job.yaml[/dim]"""
SUBMIT_HELP: Final = "Hand a command or a YAML file in as a job and return at once."


def start(
    context: typer.Context,
    words: Annotated[list[str] | None, typer.Argument(metavar="[--] CMD… | FILE.yaml", show_default=False)] = None,
    name: Annotated[str | None, typer.Option("--name", "-n", help="Its name; by default its script's.")] = None,
    project: Annotated[str | None, typer.Option("--project", "-p", help="Its project.")] = None,
    tier: Annotated[str | None, typer.Option("--tier", metavar="TIER", help="premium, standard or basic.")] = None,
    priority: Annotated[
        str | None, typer.Option("--priority", metavar="P", help="The tier in other words: high, normal or low.")
    ] = None,
    gpus: Annotated[
        str | None, typer.Option("--gpus", metavar="[TYPE:]N", help="Devices: as many as ranks; says so if not.")
    ] = None,
    ranks: Annotated[
        int | None, typer.Option("--ranks", min=1, help="Members of its world; torchrun's own, else 1.")
    ] = None,
    env: Annotated[list[str] | None, typer.Option("--env", "-e", metavar="K=V", help="A variable; repeatable.")] = None,
    export: Annotated[
        str | None, typer.Option("--export", metavar="all|none|NAME,…", help="Your environment, narrowed.")
    ] = None,
    workdir: Annotated[
        str | None, typer.Option("--workdir", metavar="DIR", help="Its working directory; by default here.")
    ] = None,
    mount: Annotated[
        list[str] | None, typer.Option("--mount", metavar="PATH[:rw]", help="Open a path beside it.")
    ] = None,
    network: Annotated[str | None, typer.Option("--network", metavar="KIND", help="private, host or none.")] = None,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="Cores of each rank.")] = None,
    snapshot_every: Annotated[str | None, typer.Option("--snapshot-every", metavar="SPAN", help="30s, 5m …")] = None,
    keep_snapshots: Annotated[int | None, typer.Option("--keep-snapshots", min=1, help="The newest; 2.")] = None,
    max_restarts: Annotated[int | None, typer.Option("--max-restarts", min=0, help="After losses in a row; 3.")] = None,
    hold: Annotated[
        str | None, typer.Option("--hold", metavar="SPAN", help="How long a freeze may wait for a rank.")
    ] = None,
    grace: Annotated[
        str | None, typer.Option("--grace", metavar="SPAN", help="To save itself, where it cannot be frozen.")
    ] = None,
    signal: Annotated[str | None, typer.Option("--signal", metavar="NAME[@S]", help="What tells it to; TERM.")] = None,
    after: Annotated[
        list[str] | None, typer.Option("--after", metavar="JOB", help="Start once JOB has succeeded; repeatable.")
    ] = None,
    array: Annotated[
        str | None, typer.Option("--array", metavar="0-9", help="One job per index, in ERGO_INDEX.")
    ] = None,
    replicas: Annotated[
        str | None, typer.Option("--replicas", metavar="MIN-MAX", help="A service of equal jobs; see `ergo scale`.")
    ] = None,
    deadline: Annotated[
        str | None, typer.Option("--deadline", metavar="SPAN", help="A wish: done within 8h, 2d …")
    ] = None,
    min_devices: Annotated[
        int | None,
        typer.Option("--min-devices", min=1, help="The fewest its ranks may share; a quarter of them."),
    ] = None,
    exact: Annotated[
        str | None, typer.Option("--exact", metavar="auto|on|off", help="Sums in rank order, on any devices.")
    ] = None,
    file: Annotated[Path | None, typer.Option("--file", metavar="YAML", help="A job file; flags go before it.")] = None,
    fetch: Annotated[bool, typer.Option("--fetch/--no-fetch", help="Bring changed files home at the end.")] = True,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Do not stay: as `submit`.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan; submit nothing.")] = False,
    raw: Annotated[bool, typer.Option("--raw", help="Its output byte by byte.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but its output and errors.")] = False,
    tty: Annotated[bool, typer.Option("--tty", "-t", hidden=True)] = False,
    form: Output = Form.TABLE,
) -> int:
    """See RUN_HELP and SUBMIT_HELP."""
    if tty:
        raise CliError(
            "a job has no terminal: --tty is not promised", "run it without --tty, or outside of jobs", ExitCode.USAGE
        )
    here = desk()
    signal_name, grace_s = parting_of(signal, _span("--grace", grace))
    typed = Draft(
        name=name,
        project=project,
        tier=tier_of(tier, priority),
        ranks=ranks,
        env=parse_pairs(tuple(env or ()), here.environment),
        export=export,
        workdir=workdir,
        mounts=tuple(mount or ()),
        network=network,
        threads=threads,
        snapshot_every_s=_span("--snapshot-every", snapshot_every),
        max_restarts=max_restarts,
        hold_s=_span("--hold", hold),
        grace_s=grace_s,
        signal=signal_name,
        after=tuple(after or ()),
        array=_meant("--array", indexes, array) or (),
        replicas=_meant("--replicas", bounds, replicas),
        deadline_s=None if deadline is None else here.clock.now() + (_span("--deadline", deadline) or 0.0),
        min_devices=min_devices,
        exact=exact,
        keep_snapshots=keep_snapshots,
        gpus=gpus,
    )
    draft, notes = _with_command(here, typed, tuple(words or ()), file)
    say = _Quiet() if quiet else _Aloud()
    many = bool(draft.array or draft.replicas)
    staying = not (detach or many or context.info_name == "submit" or form in (Form.JSON, Form.YAML))
    with here.client() as client:
        prepared, copy = _prepared(here, client, draft)
        say.notes((*notes, *_input_notes(), *prepared.notes, *copy.notes))
        if dry_run:
            _show_plan(client, prepared, copy, form)
            return ExitCode.OK
        job = _submit(here, client, prepared, copy, say)
        if form in (Form.JSON, Form.YAML):
            answer(form, lambda: job.model_dump(mode="json"), lambda: "")
        if not staying:
            say.hint(f"follow it: ergo logs -f {job.id}   why it waits: ergo explain {job.id}")
            return ExitCode.OK
    from ergosphere.cli.staying import Stay, stay

    return stay(here, job, Stay(fetch=fetch, raw=raw, quiet=quiet))


class _Aloud:
    """What is said beside the job's own output."""

    def notes(self, texts: tuple[str, ...]) -> None:
        for text in texts:
            screen.note(text)

    def say(self, text: str) -> None:
        screen.say(text)

    def hint(self, text: str) -> None:
        screen.hint(text)


class _Quiet(_Aloud):
    def notes(self, texts: tuple[str, ...]) -> None:
        pass

    def say(self, text: str) -> None:
        pass

    def hint(self, text: str) -> None:
        pass


def _with_command(here: Desk, typed: Draft, words: tuple[str, ...], file: Path | None) -> tuple[Draft, tuple[str, ...]]:
    """The flags over the file, the words over the file's command."""
    if file is None and len(words) > 1 and words[0].endswith(_YAML) and not os.access(words[0], os.X_OK):
        remedy = f"flags come before it: ergo run {shlex.join((*words[1:], words[0]))}"
        raise CliError(
            f"{words[0]} describes a job and is no command, so nothing can follow it", remedy, ExitCode.USAGE
        )
    if file is None and len(words) == 1 and words[0].endswith(_YAML):
        if not Path(words[0]).exists():
            raise CliError(f"there is no file {words[0]} here", "check its name and folder", ExitCode.NOT_FOUND)
        file, words = Path(words[0]), ()
    typed = overlay(typed, Draft(command=words))
    if file is None:
        return typed, ()
    from ergosphere.cli import jobfile

    below, notes = jobfile.read(file, typed.env)
    return overlay(overlay(Draft(name=job_name((file.stem,))), below), typed), notes


def _input_notes() -> tuple[str, ...]:
    """A pipe or a file at our standard input was meant for the program, and jobs read nothing there."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError, AttributeError):
        return ()
    if stat.S_ISREG(mode) or stat.S_ISFIFO(mode):
        return ("standard input is not passed on to jobs: give the file by its name",)
    return ()


T = TypeVar("T")


def _meant(flag: str, read: Callable[[str], T], text: str | None) -> T | None:
    try:
        return None if text is None else read(text)
    except ValueError as fault:
        raise CliError(f"{flag}: {fault}", "", ExitCode.USAGE) from None


def _span(flag: str, text: str | None) -> float | None:
    try:
        return None if text is None else span_s(text)
    except ValueError as fault:
        raise CliError(f"{flag}: {fault}", "", ExitCode.USAGE) from None


def _prepared(here: Desk, client: Client, draft: Draft) -> tuple[Prepared, WorkCopy]:
    from ergosphere.cli.submission import Submitter, prepare
    from ergosphere.cli.workcopy import scan_directory

    near = client.door.local
    prepared = prepare(draft, Submitter(here.environment, here.folder, here.home, near))
    return prepared, scan_directory(Path(prepared.spec.workdir), here.home)


def _submit(here: Desk, client: Client, prepared: Prepared, copy: WorkCopy, say: _Aloud) -> JobInfo:
    from ergosphere.cli import asking, workcopy

    workcopy.send(client, copy, here.clock)
    spec = prepared.spec.model_copy(update={"tree": copy.ref, "bound": copy.bound})
    submitted = asking.submit(client, spec)
    job = submitted.job
    say.say(f"{job.name} ({job.id}) submitted: {job.tier}, {job.ranks} rank{'s' * (job.ranks > 1)}; {copy.in_words()}")
    if submitted.others:
        say.say(f"and {len(submitted.others)} more of it: {', '.join(submitted.others[:OTHERS_NAMED])} …")
    say.notes(submitted.notes)
    return job


def _show_plan(client: Client, prepared: Prepared, copy: WorkCopy, form: Form) -> None:
    from ergosphere.cli import planning

    plan = planning.plan(client, prepared.spec.model_copy(update={"tree": copy.ref, "bound": copy.bound}), copy)
    answer(form, lambda: plan.value, lambda: planning.view(plan))
