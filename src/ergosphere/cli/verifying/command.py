"""`ergo verify`: the job once undisturbed and once disturbed, and whether anything came out differently."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from ergosphere import system
from ergosphere.cli import screen
from ergosphere.cli.desk import Desk, desk
from ergosphere.cli.draft import Draft, parse_pairs
from ergosphere.cli.errors import CliError, ExitCode
from ergosphere.cli.forms import Form, Output, answer, next_steps
from ergosphere.cli.words import span_s

if TYPE_CHECKING:
    from ergosphere.cli.verifying.verdict import Verdict

EVENTS: Final = 6  # each kind of blow once
HELP: Final = """Run a command undisturbed and disturbed, and compare every byte.

It returns 0 when all is identical, 1 when something differs (or the command fails by itself), and 8 when the job could
not be disturbed at all, however identical it was: let it run longer. `--events 0` only compares two runs.

The disturbed run is paused, moved and hit with kill -9 (a rank, an agent, the server) by a seeded schedule, in a fleet
of its own that is gone afterwards. Undisturbed is by default the same command without ergo; for more than two ranks
whose sums are exact it is the command under ergo, and what it gives without ergo is shown beside it.

[dim]ergo verify -- python train.py · ergo verify --seed 7 --mask 'took [0-9.]+ s' -- python train.py[/dim]"""


def verify(
    words: Annotated[list[str], typer.Argument(metavar="[--] CMD…", show_default=False)],
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Of the schedule; else a new one.")] = None,
    events: Annotated[
        int, typer.Option("--events", min=0, max=1000, help="How many blows fall; 0: none, only compare.")
    ] = EVENTS,
    against: Annotated[
        str | None, typer.Option("--against", metavar="direct|ergo", help="Undisturbed without ergo, or under it.")
    ] = None,
    mask: Annotated[
        list[str] | None,
        typer.Option("--mask", metavar="REGEX", help="Not compared on either side, and said; repeatable."),
    ] = None,
    twice: Annotated[bool, typer.Option("--twice", help="Undisturbed twice: is the program deterministic?")] = False,
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
    hold: Annotated[
        str | None, typer.Option("--hold", metavar="SPAN", help="How long a freeze may wait for a rank.")
    ] = None,
    min_devices: Annotated[
        int | None, typer.Option("--min-devices", min=1, help="The fewest its ranks may share; a quarter of them.")
    ] = None,
    exact: Annotated[
        str | None, typer.Option("--exact", metavar="auto|on|off", help="Sums in rank order, on any devices.")
    ] = None,
    resize: Annotated[
        bool, typer.Option("--resize", help="Random resizes among the blows; the job needs two ranks or more.")
    ] = False,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the fleet's folder (logs, history) and say where.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only the verdict.")] = False,
    form: Output = Form.TABLE,
) -> int:
    """See HELP."""
    here = desk()
    typed = Draft(
        command=tuple(words),
        ranks=ranks,
        env=parse_pairs(tuple(env or ()), here.environment),
        export=export,
        workdir=workdir,
        mounts=tuple(mount or ()),
        network=network,
        threads=threads,
        snapshot_every_s=_span("--snapshot-every", snapshot_every),
        hold_s=_span("--hold", hold),
        min_devices=min_devices,
        exact=exact,
        max_restarts=events + EVENTS,
    )
    from ergosphere.cli.verifying.telling import telling
    from ergosphere.cli.verifying.trial import Wish, against_of, run_trial

    chosen = system.fresh_seed() if seed is None else seed
    said = None if against is None else against_of(against)
    wish = Wish(typed, chosen, events, said, tuple(mask or ()), twice, keep, resize)
    tools = tools_of(here)
    with ended_in_order(), telling(here.clock, quiet) as tell:
        verdict = run_trial(here, tools, wish, tell)
    _print(verdict, form)
    return exit_code_of(verdict)


def exit_code_of(verdict: Verdict) -> ExitCode:
    """0 only for what has been shown."""
    from ergosphere.cli.verifying.verdict import Judgement

    match verdict.judgement:
        case Judgement.IDENTICAL:
            return ExitCode.OK
        case Judgement.DIFFERS:
            return ExitCode.FAILED
        case Judgement.NOT_DISTURBED:
            return ExitCode.UNDISTURBED


def tools_of(here: Desk) -> Path:
    """The folder with a CRIU that works; it is fetched when there is none yet. Raises CliError."""
    from ergosphere.agent import package_cache, provision
    from ergosphere.agent.apt_fetch import ProvisionError
    from ergosphere.cli import service

    if not service.is_root():
        raise CliError("freezing processes needs root", "run `sudo ergo verify …`", ExitCode.DENIED)
    service.home_is_usable(here.home)
    try:
        provision.provision(here.home / "criu", screen.say, cache=package_cache.folder())
    except ProvisionError as fault:
        raise CliError(fault.cause, fault.remedy) from None
    return here.home / "criu"


@contextmanager
def ended_in_order() -> Iterator[None]:
    """SIGTERM and a closed terminal end the block as Ctrl-C does, so that nothing is left behind."""
    before = {number: signal.signal(number, _interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _span(flag: str, text: str | None) -> float | None:
    try:
        return None if text is None else span_s(text)
    except ValueError as fault:
        raise CliError(f"{flag}: {fault}", "", ExitCode.USAGE) from None


def _print(verdict: Verdict, form: Form) -> None:
    from ergosphere.cli.verifying.verdict import value_of, view

    width = screen.width() if form is Form.TABLE else screen.WIDE
    answer(form, lambda: value_of(verdict), lambda: view(verdict, width))
    next_steps(form, f"the same schedule again: ergo verify --seed {verdict.seed} …")
