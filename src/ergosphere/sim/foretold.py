"""What `ergo eta` and `ergo whatif` answer: the live fleet played on, once a seed, and what came of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from rich.console import Group
from rich.table import Table
from rich.text import Text

from ergosphere.core.model import HOLDS_SEATS, Phase, Tier
from ergosphere.core.suggest import unknown
from ergosphere.sim import live, many
from ergosphere.sim.engine import Run, Scenario
from ergosphere.sim.faulty import Faults
from ergosphere.sim.figures import at, came
from ergosphere.sim.fits import Room
from ergosphere.sim.fleets import Fleet
from ergosphere.sim.live import Picture
from ergosphere.sim.many import Task
from ergosphere.sim.policies import OURS
from ergosphere.sim.report.terminal import hours
from ergosphere.sim.works import Work

NEW: Final = "the new job"


@dataclass(frozen=True, slots=True)
class Eta:
    """Seconds from now until a job has devices, and until it ends; 50 and 90 of 100 futures are no later.

    `unknown`: futures in which it never ended. None where it never did. `why_not`: why nothing was played."""

    job: str
    futures: int
    starts_p50_s: float | None
    starts_p90_s: float | None
    ends_p50_s: float | None
    ends_p90_s: float | None
    unknown: int = 0
    why_not: str = ""
    remedy: str = ""
    service: str = ""

    @property
    def value(self) -> dict[str, Any]:
        return asdict(self)


def foretell(picture: Picture, job: str, seeds: Iterable[int]) -> Eta:
    """A job's future, once a seed."""
    info = next((one for one in picture.jobs if one.id == job), None)
    never = live.left_out(picture, live.fleet_of(picture)).get(job)
    if info is None or never is not None:
        why, remedy = ("it has ended", "") if never is None else (never.why, never.remedy)
        return Eta(job, 0, None, None, None, None, why_not=why, remedy=remedy)
    seeds = list(seeds)
    runs = _futures(picture, seeds, live.fleet_of(picture), None)
    lives = [run.world.lives[job] for run in runs]
    begins_s = runs[0].scenario.begins_s
    starts = sorted(one.started_s - begins_s for one in lives if one.started_s is not None)
    ends = sorted(one.ended_s - begins_s for one in lives if one.ended_s is not None)
    if info.phase in HOLDS_SEATS - {Phase.FREEZING}:
        starts = [0.0] * len(lives)
    unknown = 0 if info.service else len(lives) - len(ends)
    return Eta(job, len(seeds), *_halves(starts), *_halves(ends), unknown=unknown, service=info.service)


def view(told: Eta) -> Group:
    """For people."""
    if told.why_not:
        remedy = [Text(f"what would change that: {told.remedy}", "dim")] if told.remedy else []
        return Group(Text(f"{told.job} will not go on by itself: {told.why_not}"), *remedy)
    if told.starts_p50_s is None:
        return Group(Text(f"{told.job} began in none of {told.futures} futures; ergo explain JOB says why"))
    begins = "it has its devices now"
    if told.starts_p90_s:
        begins = f"begins within {hours(told.starts_p50_s)}, at the latest within {hours(told.starts_p90_s)}"
    ends = f"a replica of {told.service}: it serves until it is not wanted any more"
    if told.ends_p50_s is not None:
        ends = f"ends within {hours(told.ends_p50_s)}, at the latest within {hours(told.ends_p90_s or 0.0)}"
    elif not told.service:
        ends = f"ended in none of {told.futures} futures; ergo explain JOB says why"
    lines = [
        Text.assemble((told.job, "bold"), f"  {begins}"),
        Text(ends),
        Text(f"in 50 and in 90 of 100 futures; {told.futures} were played, durations drawn by what is known", "dim"),
    ]
    return Group(*lines)


@dataclass(frozen=True, slots=True)
class Change:
    """`nodes` more, some `without`, and, with `ranks`, one job more."""

    nodes: int = 0
    without: tuple[str, ...] = ()
    ranks: int = 0
    tier: str = "standard"
    duration_s: float = 3_600.0


@dataclass(frozen=True, slots=True)
class Outlook:
    """What becomes of a set of futures, on average: seconds, shares, numbers. `left_out`: jobs that will not go on by
    themselves (paused, not wanted, or never able to)."""

    devices: int
    jobs: int
    left_out: int
    wait_mean_s: float
    done_mean_s: float
    empty_s: float  # until the last job has ended
    utilisation: float
    pauses: float
    new_starts_s: float | None = None


@dataclass(frozen=True, slots=True)
class Compared:
    now: Outlook
    then: Outlook
    futures: int

    @property
    def value(self) -> dict[str, Any]:
        return asdict(self)


def compared(picture: Picture, change: Change, seeds: Iterable[int]) -> Compared:
    """The same futures with and without a change. Raises Faulty when the change cannot be meant."""
    seeds = list(seeds)
    fleet = _check(picture, change)
    now = _futures(picture, seeds, live.fleet_of(picture), None)
    then = _futures(picture, seeds, fleet, change if change.ranks else None)
    return Compared(_outlook(picture, now), _outlook(picture, then), len(seeds))


def comparison_view(told: Compared) -> Table:
    """For people."""
    table = Table(title=f"{told.futures} futures, durations drawn by what is known", title_justify="left")
    for column in ("", "as it is", "with the change"):
        table.add_column(column, justify="left" if not column else "right")
    both = (told.now, told.then)
    table.add_row("devices", *(str(one.devices) for one in both))
    table.add_row("jobs", *(str(one.jobs) for one in both))
    if told.now.left_out or told.then.left_out:
        table.add_row("paused, not wanted, or never able to run", *(str(one.left_out) for one in both))
    table.add_row("until a job has devices, mean", *(hours(one.wait_mean_s) for one in both))
    table.add_row("until a job has ended, mean", *(hours(one.done_mean_s) for one in both))
    table.add_row("until all have ended", *(hours(one.empty_s) for one in both))
    table.add_row("computing meanwhile", *(f"{one.utilisation:.0%}" for one in both))
    table.add_row("pauses", *(f"{one.pauses:.1f}" for one in both))
    if told.then.new_starts_s is not None:
        table.add_row("the new job begins within", "", hours(told.then.new_starts_s))
    return table


def _futures(picture: Picture, seeds: Sequence[int], fleet: Fleet, change: Change | None) -> list[Run]:
    """With `change`, its job is there too."""
    costs = live.costs_of(picture)
    starts = [live.scenario(picture, seed, costs, fleet) for seed in seeds]
    tasks = [Task(OURS, start if change is None else _with_job(start, change)) for start in starts]
    return many.on_all_cores(many.run, tasks, cores=1 if len(picture.jobs) < 100 else 0)


def _check(picture: Picture, change: Change) -> Fleet:
    """The fleet as it would be. Raises Faulty."""
    faults = Faults("whatif")
    known = [one.id for one in picture.nodes]
    for node in change.without:
        if node not in known:
            faults.add(0, unknown("node", node, known), "ergo nodes lists them")
    if change.tier not in list(Tier):
        faults.add(0, unknown("tier", change.tier, list(Tier)), f"one of {', '.join(Tier)}")
    fleet = live.with_nodes(live.fleet_of(picture), change.nodes, change.without)
    if not fleet.machines:
        faults.add(0, "no node would be left", "leave one, or add some with --nodes")
    if change.ranks > fleet.devices:
        faults.add(0, f"{change.ranks} ranks would never fit on {fleet.devices} devices", "fewer ranks, or --nodes")
    faults.check()
    never = Room(fleet).never(_new(change, 0.0)) if change.ranks else None
    if never is not None:
        faults.add(0, f"the new job {never.why}", never.remedy)
    faults.check()
    return fleet


def _new(change: Change, at_s: float) -> Work:
    return Work(NEW, at_s, change.duration_s, change.ranks, change.ranks, Tier(change.tier))


def _with_job(start: Scenario, change: Change) -> Scenario:
    works = (*start.trace.works, _new(change, start.begins_s))
    return replace(start, trace=replace(start.trace, works=works))


def _outlook(picture: Picture, runs: Sequence[Run]) -> Outlook:
    start = runs[0].scenario
    lives = [life for run in runs for life in came(run)]
    count = max(len(lives), 1)
    new = [run.world.lives[NEW].started_s for run in runs if NEW in run.world.lives]
    begun = sorted(one - start.begins_s for one in new if one is not None)
    last_s = max(run.world.now_s for run in runs)
    return Outlook(
        devices=start.fleet.devices,
        jobs=len(start.trace.works),
        left_out=len(live.left_out(picture, start.fleet)),
        wait_mean_s=sum((last_s if one.started_s is None else one.started_s) - start.begins_s for one in lives) / count,
        done_mean_s=sum((last_s if one.ended_s is None else one.ended_s) - start.begins_s for one in lives) / count,
        empty_s=sum(run.world.now_s for run in runs) / len(runs) - start.begins_s,
        utilisation=sum(run.record.computing_s for run in runs) / max(sum(run.record.capacity_s for run in runs), 1.0),
        pauses=sum(one.pauses for one in lives) / len(runs),
        new_starts_s=at(begun, 0.5) if begun else None,
    )


def _halves(ordered: Sequence[float]) -> tuple[float | None, float | None]:
    return (at(ordered, 0.5), at(ordered, 0.9)) if ordered else (None, None)
