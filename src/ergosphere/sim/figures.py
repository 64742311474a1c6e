"""The figures of a run, as the field reads them. Plain values: how they look is the report's business."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from ergosphere.core.fraction import PROMISE
from ergosphere.core.model import TIER_ORDER, Tier
from ergosphere.sim import fraction, services
from ergosphere.sim.engine import Run
from ergosphere.sim.lives import Life
from ergosphere.sim.promised import Stretch, stretches

DAY_S: Final = 86_400.0
HOUR_S: Final = 3_600.0


@dataclass(frozen=True, slots=True)
class TierFigures:
    """`jobs` of that tier; hours in which one borrowed count with the basic ones. `attainment`: share of the entitled
    hours in which the promise was kept; `jobs_kept`: share of jobs that had it over their life; `fraction`: delivered ÷
    entitled; `p1`, `p5`: of the hours' fractions; `longest_h`: the most missed hours in a row of one job."""

    tier: Tier
    jobs: int
    entitled_h: float
    fraction: float
    attainment: float
    jobs_kept: float
    deficit_h: float
    p1: float
    p5: float
    longest_h: int
    wait_mean_s: float
    jct_mean_s: float


@dataclass(frozen=True, slots=True)
class Figures:
    """One run in numbers, of all jobs that came; one that has not ended counts with its time so far, so that nothing
    is gained by letting it starve. Seconds are of simulated time; `busy_s` and the latencies are of ours."""

    policy: str
    trace: str
    fleet: str
    devices: int
    jobs: int
    ended: int
    stuck: int
    jct_mean_s: float
    jct_p50_s: float
    jct_p99_s: float
    wait_mean_s: float
    wait_p99_s: float
    makespan_s: float
    allocation: float  # devices held ÷ what capacity and demand allow
    utilisation: float  # devices computing ÷ capacity
    goodput: float  # useful work ÷ devices held
    pauses_per_job_day: float
    moves_per_job_day: float
    resizes_per_job_day: float
    standing_h: float  # device-hours held without computing: starts, freezes, thaws, resizes
    lost_h: float  # device-hours of work done twice because of preemption
    lost_to_faults_h: float
    restarts: int
    largest_gap: float  # most devices free on one node, on average
    stranded: float  # of the free devices, the share that a gang of a whole node could not use
    events: int
    turns: int
    busy_s: float
    events_per_s: float
    turn_p50_s: float
    turn_p99_s: float
    tiers: tuple[TierFigures, ...] = field(default=())
    seed: int = 0

    @property
    def attainment(self) -> float:
        """Of the entitled hours with a promise, whatever it was, the share in which it was kept."""
        promised = [one for one in self.tiers if PROMISE[one.tier]]
        kept_h = sum(one.attainment * one.entitled_h for one in promised)
        return _ratio(kept_h, sum(one.entitled_h for one in promised), 1.0)


def figures(run: Run) -> Figures:
    """Reckon everything; a run in which nothing came has zeros."""
    lives, now_s = came(run), run.world.now_s
    jcts, waits = jcts_s(run), waits_s(run)
    days = sum(jcts) / DAY_S or 1.0
    record = run.record
    useful_s = sum(one.work.device_seconds for one in run.world.ended)
    latencies = sorted(record.latencies_s)
    widest = run.scenario.fleet.widest_node
    stranded = [(free - most) / free for _, free, most in record.gaps if free > 0 and most < widest]
    return Figures(
        policy=run.policy,
        trace=run.scenario.trace.name,
        fleet=run.scenario.fleet.name,
        devices=run.scenario.fleet.devices,
        jobs=len(run.scenario.trace.works),
        ended=len(run.world.ended),
        stuck=len(run.stuck),
        jct_mean_s=_mean(jcts),
        jct_p50_s=at(jcts, 0.5),
        jct_p99_s=at(jcts, 0.99),
        wait_mean_s=_mean(waits),
        wait_p99_s=at(waits, 0.99),
        makespan_s=max((one.ended_s or now_s for one in lives), default=0.0),
        allocation=_ratio(record.held_s, record.usable_s),
        utilisation=_ratio(record.computing_s, record.capacity_s),
        goodput=_ratio(useful_s, record.held_s),
        pauses_per_job_day=sum(one.pauses for one in lives) / days,
        moves_per_job_day=sum(one.moves for one in lives) / days,
        resizes_per_job_day=sum(one.resizes for one in lives) / days,
        standing_h=sum(one.standing_device_s for one in lives) / HOUR_S,
        lost_h=sum(one.lost_s * one.work.devices for one in lives) / HOUR_S,
        lost_to_faults_h=sum(one.lost_to_faults_s * one.work.devices for one in lives) / HOUR_S,
        restarts=sum(one.restarts for one in lives),
        largest_gap=_mean([float(most) for _, _, most in record.gaps]),
        stranded=_mean(stranded),
        events=run.events,
        turns=run.turns,
        busy_s=run.busy_s,
        events_per_s=_ratio(run.events, run.busy_s),
        turn_p50_s=at(latencies, 0.5),
        turn_p99_s=at(latencies, 0.99),
        tiers=_tiers(run, lives),
        seed=run.scenario.seed,
    )


def came(run: Run) -> list[Life]:
    """Everybody who could have begun: those that have ended, then those that are there yet. Replicas have their own
    measure."""
    there = [life for life in run.world.live.values() if not life.work.service and not life.blocked]
    for life in there:
        life.settle(run.world.now_s)
    return [*run.world.ended, *sorted(there, key=lambda one: (one.present_s, one.work.id))]


def _tiers(run: Run, lives: Sequence[Life]) -> tuple[TierFigures, ...]:
    now_s = run.world.now_s
    sums = {tier: _Sum() for tier in TIER_ORDER}
    judged: dict[str, Tier] = {}  # over its life: as the weakest that it was
    for life, tier, windows in hours_by_tier(run):
        sums[tier].add(windows, PROMISE[tier])
        judged[life.work.id] = Tier.BASIC if Tier.BASIC in (tier, judged.get(life.work.id)) else tier
    for life in lives:
        tier = judged.get(life.work.id, life.work.tier)
        sums[tier].jobs_kept.append(life_fraction(life, now_s) >= PROMISE[tier] - fraction.CLOSE)
    return tuple(_tier(tier, sums[tier], [one for one in lives if one.work.tier is tier], now_s) for tier in TIER_ORDER)


def hours_by_tier(run: Run) -> Iterator[tuple[Life, Tier, tuple[fraction.Hours, ...]]]:
    """The hours of every job, under the tier whose promise held in them."""
    lives, now_s, fleet = came(run), run.world.now_s, run.scenario.fleet
    parts = stretches(lives, fleet.projects, fleet.devices, now_s)
    for life in lives:
        if life.work.id not in parts:
            yield life, life.work.tier, windows_of(life, now_s)
        for stretch in parts.get(life.work.id, ()):
            tier = Tier.BASIC if stretch[2] else life.work.tier
            yield life, tier, _within(life, stretch)


def _within(life: Life, stretch: Stretch) -> tuple[fraction.Hours, ...]:
    begins_s, ends_s = max(stretch[0], owed_from_s(life)), stretch[1]
    spans = [(max(begin, begins_s), min(end, ends_s), rate) for begin, end, rate in life.spans]
    inside = [one for one in spans if one[0] < one[1]]
    return fraction.hours(life.work.devices, begins_s, ends_s, inside) if begins_s < ends_s else ()


@dataclass(slots=True)
class _Sum:
    """What adds up over the windows of a tier, in device-seconds."""

    entitled: float = 0.0
    delivered: float = 0.0
    kept: float = 0.0
    deficit: float = 0.0
    longest: int = 0
    jobs_kept: list[bool] = field(default_factory=list)
    fractions: list[tuple[float, float]] = field(default_factory=list)  # of each window, with its weight

    def add(self, windows: Sequence[fraction.Hours], promise: float) -> None:
        """Of one job, in a row."""
        missed = 0
        for one in windows:
            due, got = one.count * one.entitled, one.count * one.delivered
            self.entitled += due
            self.delivered += got
            self.fractions.append((one.fraction, due))
            if fraction.met(one, promise):
                self.kept += due
                missed = 0
            else:
                self.deficit += promise * due - got
                missed += one.count
                self.longest = max(self.longest, missed)


def _tier(tier: Tier, total: _Sum, lives: Sequence[Life], now_s: float) -> TierFigures:
    total.fractions.sort()
    return TierFigures(
        tier=tier,
        jobs=len(lives),
        entitled_h=total.entitled / HOUR_S,
        fraction=_ratio(total.delivered, total.entitled, 1.0),
        attainment=_ratio(total.kept, total.entitled, 1.0),
        jobs_kept=_ratio(sum(total.jobs_kept), len(total.jobs_kept), 1.0),
        deficit_h=total.deficit / HOUR_S,
        p1=weighted_at(total.fractions, 0.01),
        p5=weighted_at(total.fractions, 0.05),
        longest_h=total.longest,
        wait_mean_s=_mean([_wait_s(one, now_s) for one in lives]),
        jct_mean_s=_mean([_jct_s(one, now_s) for one in lives]),
    )


def windows_of(life: Life, now_s: float) -> tuple[fraction.Hours, ...]:
    """The hours of a job until its end, or until now."""
    return fraction.hours(life.work.devices, owed_from_s(life), _end_s(life, now_s), life.spans)


def life_fraction(life: Life, now_s: float) -> float:
    """The GPU fraction over a life until its end, or until now."""
    return fraction.life(life.work.devices, owed_from_s(life), _end_s(life, now_s), life.spans)


def _end_s(life: Life, now_s: float) -> float:
    return now_s if life.ended_s is None else life.ended_s


def served(run: Run) -> list[str]:
    """For each service, how much of what its load asked for ran."""
    lines = []
    for one in run.scenario.services:
        lives = [run.world.lives[work.id] for work in one.replicas]
        for life in lives:
            life.settle(run.world.now_s)
        found = services.level(one, [life.spans for life in lives], min(run.world.now_s, run.scenario.trace.span_s))
        hours = found.wanted_s / HOUR_S
        asked = f"{hours:,.0f} replica-hours asked for, {found.changes} changes"
        lines.append(f"service {one.name}: {found.kept:.2%} of {asked}")
    return lines


def owed_from_s(life: Life) -> float:
    """When its entitlement begins."""
    return life.present_s + fraction.GRACE_S


def jcts_s(run: Run) -> list[float]:
    """Completion times from the shortest; of who has not ended, so far."""
    return sorted(_jct_s(one, run.world.now_s) for one in came(run))


def waits_s(run: Run) -> list[float]:
    """Times from presence to the first start, from the shortest; of who has not started, so far."""
    return sorted(_wait_s(one, run.world.now_s) for one in came(run))


def _jct_s(life: Life, now_s: float) -> float:
    """From when it could have begun: submission, or the end of what it was after."""
    return _end_s(life, now_s) - life.present_s


def _wait_s(life: Life, now_s: float) -> float:
    return (life.started_s if life.started_s is not None else now_s) - life.present_s


def at(ordered: Sequence[float], share: float) -> float:
    """The value below which `share` of the ordered values lie; 0 of none."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def weighted_at(ordered: Sequence[tuple[float, float]], share: float) -> float:
    """The same where each value has a weight; 1 of none."""
    left = share * sum(weight for _, weight in ordered)
    for value, weight in ordered:
        left -= weight
        if left <= 0:
            return value
    return 1.0


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _ratio(part: float, whole: float, empty: float = 0.0) -> float:
    return part / whole if whole else empty
