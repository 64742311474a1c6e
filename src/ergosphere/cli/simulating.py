"""Commands that simulate: sim plays a trace; eta and whatif go on from the live fleet."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from ergosphere.cli import screen
from ergosphere.cli.desk import desk
from ergosphere.cli.errors import CliError, ExitCode
from ergosphere.cli.forms import Form, Job, Output, answer, next_steps

if TYPE_CHECKING:
    from ergosphere.core.model import ProjectView
    from ergosphere.sim.engine import Scenario
    from ergosphere.sim.live import Picture

SEEDS_MAX: Final = 10_000

TraceFile = Annotated[Path | None, typer.Option("--trace", help="CSV (or .gz), Philly's JSON.", show_default=False)]
FleetFile = Annotated[str, typer.Option("--fleet", help="YAML, CSV, or nodes × devices: 128x8.", show_default=False)]
Policies = Annotated[str, typer.Option("--policy", help="Names with commas, or `all`.")]
Load = Annotated[float, typer.Option("--load", min=0.01, max=100.0, help="Without --fleet: mean demand ÷ this.")]
Seeds = Annotated[int, typer.Option("--seeds", min=1, max=SEEDS_MAX, help="Runs with other tiers and troubles.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="The first seed.")]
RulesFile = Annotated[Path | None, typer.Option("--rules", help="Rules of the policy.", show_default=False)]
CostsFile = Annotated[Path | None, typer.Option("--costs", help="JSON: freeze_s, thaw_s …", show_default=False)]
Free = Annotated[bool, typer.Option("--free", help="Starting, freezing, thawing and resizing cost nothing.")]
Sort = Annotated[bool, typer.Option("--sort", help="Take arrivals that are out of order.")]
Rigid = Annotated[bool, typer.Option("--rigid", help="Nobody can be shrunk.")]
Limit = Annotated[int, typer.Option("--limit", min=0, help="The first so many jobs only; 0: all.")]
Failures = Annotated[float, typer.Option("--failure-h", min=0, help="Mean hours between failures of a node.")]
Spot = Annotated[float, typer.Option("--spot-h", min=0, help="Mean hours between takings of a spot node.")]
Slow = Annotated[float, typer.Option("--slow", min=0, max=1, help="Share of the nodes that are slow for a while.")]
Flapping = Annotated[int, typer.Option("--flapping", min=0, help="So many nodes fail every few minutes.")]
Period = Annotated[float, typer.Option("--period", min=0, max=3600, help="Seconds of events gathered for one turn.")]
Requests = Annotated[Path | None, typer.Option("--requests", help="CSV: services beside the jobs.", show_default=False)]
Replicas = Annotated[str, typer.Option("--replicas", help="Of each service: fewest..most.")]
SpeedsFile = Annotated[
    Path | None, typer.Option("--speeds", help="CSV: steps a second by model and device type.", show_default=False)
]
Requested = Annotated[float, typer.Option("--request-scale", min=0.001, max=1e6, help="So many times the requests.")]
WithBound = Annotated[bool, typer.Option("--bound", help="The upper bound beside it.")]
CsvFolder = Annotated[Path | None, typer.Option("--csv", help="Folder for CSV files.", show_default=False)]
HtmlFile = Annotated[Path | None, typer.Option("--html", help="One page with every plot.", show_default=False)]


def sim(
    trace: TraceFile = None,
    fleet: FleetFile = "",
    policy: Policies = "ergosphere",
    load: Load = 0.8,
    seeds: Seeds = 1,
    seed: Seed = 0,
    rules: RulesFile = None,
    costs: CostsFile = None,
    free: Free = False,
    sort: Sort = False,
    rigid: Rigid = False,
    limit: Limit = 0,
    failure_h: Failures = 0.0,
    spot_h: Spot = 0.0,
    slow: Slow = 0.0,
    flapping: Flapping = 0,
    period: Period = 0.0,
    requests: Requests = None,
    replicas: Replicas = "1..8",
    request_scale: Requested = 1.0,
    speeds: SpeedsFile = None,
    bound: WithBound = False,
    csv: CsvFolder = None,
    html: HtmlFile = None,
    form: Output = Form.TABLE,
) -> None:
    """Play a trace on a fleet with the service's own loop and policy, or a rival's. Without a trace: a made-up week."""
    _need_numbers()
    from ergosphere.sim.asked import Asked, prepare
    from ergosphere.sim.faulty import Faulty
    from ergosphere.sim.trouble import Trouble

    trouble = Trouble(failure_h=failure_h, spot_h=spot_h, slow=slow, flapping=flapping)
    asked = Asked(
        trace,
        fleet,
        load,
        seed,
        rules,
        costs,
        free,
        sort,
        rigid,
        limit,
        trouble,
        period_s=period,
        requests=requests,
        replicas=replicas,
        request_scale=request_scale,
        speeds=speeds,
    )
    try:
        scenario = prepare(asked)
        for words in scenario.trace.notes:
            screen.note(words)
        _play(scenario, _names(policy), list(range(seed, seed + seeds)), bound, csv, html, form)
    except Faulty as fault:
        raise CliError(fault.cause, fault.remedy, ExitCode.USAGE) from None


def _names(policy: str) -> tuple[str, ...]:
    from ergosphere.sim.policies import NAMES

    return NAMES if policy == "all" else tuple(name.strip() for name in policy.split(",") if name.strip())


def _play(
    scenario: Scenario,
    names: tuple[str, ...],
    seeds: list[int],
    wants_bound: bool,
    csv: Path | None,
    html: Path | None,
    form: Form,
) -> None:
    from ergosphere.sim import many, policies
    from ergosphere.sim.bound import bound
    from ergosphere.sim.figures import figures, served
    from ergosphere.sim.report import files
    from ergosphere.sim.report.terminal import several, told

    for name in names:
        policies.desk(name, scenario)  # an unknown one is said before anything is played
    tasks = [many.Task(name, scenario) for name in names]
    if len(seeds) > 1:
        tasks = [one for task in tasks for one in many.seeded(task, seeds)]
    runs, shown = [], []
    with screen.progress("playing", desk().clock) as advance:
        telling = lambda done, of: advance(done, of, f"{done / many.PARTS:.1f} of {of // many.PARTS} runs")  # noqa: E731
        if len(seeds) == 1 or csv is not None or html is not None:
            runs = many.on_all_cores(many.run, tasks, telling)
            shown = [figures(run) for run in runs]
        else:
            shown = many.on_all_cores(many.measure, tasks, telling)
    first = tasks[0].scenario
    best = bound(first.trace, first.fleet.devices) if wants_bound or html else None
    _write(runs, shown, best, csv, html)
    for run in runs if len(seeds) == 1 else ():
        for words in served(run):
            screen.note(f"{run.policy}: {words}")
    view = (lambda: several(shown, best)) if len(seeds) > 1 else lambda: told(shown, best, many.memory_bytes())
    answer(form, lambda: files.document(shown, best), view)
    next_steps(form, "compare: ergo sim --trace FILE --policy all   plots: --html report.html")


def _write(runs: list, shown: list, best: object, csv: Path | None, html: Path | None) -> None:  # type: ignore[type-arg]
    from ergosphere.sim.report import files

    try:
        if csv is not None:
            csv.mkdir(parents=True, exist_ok=True)
            files.write_summary(shown, csv / "summary.csv")
            files.write_jobs(runs, csv / "jobs.csv")
            screen.say(f"wrote {csv / 'summary.csv'} and {csv / 'jobs.csv'}")
        if html is not None:
            from ergosphere.sim.report.page import page

            html.write_text(page(runs, shown, best))  # type: ignore[arg-type]
            screen.say(f"wrote {html}")
    except OSError as fault:
        raise CliError(f"cannot write: {fault}", "name a place you may write to") from None


def eta(
    job: Job,
    seeds: Annotated[int, typer.Option("--seeds", min=1, max=1000, help="How many futures are played.")] = 20,
    form: Output = Form.TABLE,
) -> None:
    """When a job will begin and end: the live fleet played on, many times, with durations drawn from what is known."""
    from ergosphere.sim.foretold import foretell, view

    picture, key = _picture(job)
    told = foretell(picture, key, range(seeds))
    answer(form, lambda: told.value, lambda: view(told))
    next_steps(form, "what would change it: ergo whatif --nodes 1   why it waits: ergo explain JOB")


def whatif(
    nodes: Annotated[int, typer.Option("--nodes", min=0, max=100_000, help="So many nodes more.")] = 0,
    without: Annotated[list[str] | None, typer.Option("--without", help="This node gone; repeat it.")] = None,
    ranks: Annotated[int, typer.Option("--ranks", min=0, help="One job more, of so many ranks.")] = 0,
    tier: Annotated[str, typer.Option("--tier", help="Of that job.")] = "standard",
    hours: Annotated[float, typer.Option("--hours", min=0.001, max=9600, help="It computes for so long.")] = 1.0,
    seeds: Annotated[int, typer.Option("--seeds", min=1, max=1000, help="How many futures are played.")] = 20,
    form: Output = Form.TABLE,
) -> None:
    """The live fleet played on as it is and with a change, side by side. Nothing is changed."""
    from ergosphere.sim.faulty import Faulty
    from ergosphere.sim.foretold import Change, compared, comparison_view

    picture, _ = _picture(None)
    change = Change(nodes, tuple(without or ()), ranks, tier, hours * 3600.0)
    try:
        told = compared(picture, change, range(seeds))
    except Faulty as fault:
        raise CliError(fault.cause, fault.remedy, ExitCode.USAGE) from None
    answer(form, lambda: told.value, lambda: comparison_view(told))
    next_steps(form, "one job's own future: ergo eta JOB")


def _picture(ref: str | None) -> tuple[Picture, str]:
    """The live fleet through the public API, and the id of the job that was named."""
    from ergosphere.cli import asking
    from ergosphere.sim.live import Picture

    here = desk()
    with here.client() as client:
        named = asking.job(client, ref).id if ref is not None else ""
        every = asking.jobs(client, ended=True)
        nodes = asking.nodes(client)
        tree = client.get("/v1/projects")
    projects = tuple(_project(one) for one in tree if one["declared"])
    live = tuple(one for one in every if one.ended_s is None)
    ended = tuple(one for one in every if one.ended_s is not None)
    return Picture(here.clock.now(), live, ended, nodes, projects), named


def _project(one: Mapping[str, Any]) -> ProjectView:
    from ergosphere.core.model import ProjectView

    return ProjectView(one["id"], one["parent"], one["weight"], one["guarantee"], one["limit"], one["borrow"])


def _need_numbers() -> None:
    """The reports' libraries are an extra."""
    from importlib.util import find_spec

    missing = [name for name in ("numpy", "scipy", "matplotlib") if find_spec(name) is None]
    if missing:
        raise CliError(f"{', '.join(missing)} is not installed", "pip install 'ergosphere[sim]'")
