"""A live fleet as the start of a simulation: what the public API tells becomes machines, works and where they stand.

Nobody knows how long a running job will go on. What is assumed is drawn, seed by seed: from ended jobs of the same
name (else of the same project) that ran longer than this one has, and without such from its age: of a job that has
run for t, half run for another t (Pareto with exponent 1, what heavy-tailed durations look like).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from ergosphere.core.fraction import window_of
from ergosphere.core.model import ENDED, HOLDS_SEATS, Account, Cell, NodeId, Phase, ProjectView, Rung, Seat
from ergosphere.sim.costs import Costs, from_lives
from ergosphere.sim.engine import Scenario
from ergosphere.sim.fits import Never, Room
from ergosphere.sim.fleets import Fleet, Machine
from ergosphere.sim.places import Standing
from ergosphere.sim.services import FOREVER_S, Deployed
from ergosphere.sim.works import Trace, Work
from ergosphere.system import Dice, dice
from ergosphere.wire.jobs import JobInfo, NodeInfo

AGE_MIN_S: Final = 600.0  # a job that has hardly begun is taken to be of about this length
LEFT_S_MAX: Final = 14 * 86_400.0
SAMPLES_MIN: Final = 3  # fewer ended jobs than this say nothing


@dataclass(frozen=True, slots=True)
class Picture:
    """What the service told at `now_s`, seconds since the epoch."""

    now_s: float
    jobs: tuple[JobInfo, ...]  # live ones
    ended: tuple[JobInfo, ...]
    nodes: tuple[NodeInfo, ...]
    projects: tuple[ProjectView, ...] = ()  # declared ones

    @property
    def hour_s(self) -> float:
        """When the clock's hour began: second 0 of a simulation, so that its hours are those of the accounts."""
        return window_of(self.now_s)


def scenario(picture: Picture, seed: int, costs: Costs = Costs(), fleet: Fleet | None = None) -> Scenario:
    """The live fleet (or another) as it goes on from now, with durations drawn by `seed`.

    Left out is who will not go on by itself: see `left_out`. Who sat on a node that is not in `fleet` begins frozen, as
    a drain leaves it.
    """
    throws = dice(seed)
    fleet = fleet_of(picture) if fleet is None else fleet
    out = left_out(picture, fleet)
    works: list[Work] = []
    replicas: dict[str, list[Work]] = {}
    standing: list[Standing] = []
    for job in sorted(picture.jobs, key=lambda one: (one.submitted_s, one.id)):
        left_s = drawn_left_s(job, picture, throws)  # drawn for every job, so that others' draws stay the same
        if job.id in out:
            continue
        if job.service:
            replicas.setdefault(job.service, []).append(_work(job, picture, FOREVER_S))
        else:
            works.append(_work(job, picture, left_s))
        standing.append(_standing(job, picture, fleet))
    begins_s = picture.now_s - picture.hour_s
    services = (Deployed(name, tuple(of), ((begins_s, len(of)),)) for name, of in replicas.items())
    trace = Trace("the live fleet", tuple(works))
    return Scenario(
        trace, fleet, costs, seed=seed, begins_s=begins_s, standing=tuple(standing), services=tuple(services)
    )


def left_out(picture: Picture, fleet: Fleet) -> dict[str, Never]:
    """Jobs that will not begin, or not end, by themselves on this fleet, and why; with them who waits for them."""
    room = Room(fleet, shares=True)
    out = {job.id: stays for job in picture.jobs if (stays := _stays(job, picture, room)) is not None}
    live = {job.id for job in picture.jobs}
    waiting = [job for job in picture.jobs if job.after and job.id not in out]
    found = True
    while found:
        found = False
        for job in waiting:
            lost = next((one for one in job.after if one in out or one not in live), None)
            if lost is not None and job.id not in out:
                why = f"will not end by itself: {out[lost].why}" if lost in out else "is not there any more"
                words = f"never, because it waits for {lost}, which {why}"
                out[job.id] = Never(words, "ergo cancel JOB, or submit it anew")
                found = True
    return out


def _stays(job: JobInfo, picture: Picture, room: Room) -> Never | None:
    if job.paused:
        return Never("its owner paused it", "ergo resume JOB")
    if not job.wanted:
        return Never(f"not wanted: {job.service} asks for fewer replicas", f"ergo scale {job.service} MORE")
    if job.phase is Phase.ENDING or job.phase in ENDED:
        return Never("it is ending", "")
    never = room.never(_work(job, picture, 1.0))
    return None if never is None else Never(f"never, because it {never.why}", never.remedy)


def _work(job: JobInfo, picture: Picture, left_s: float) -> Work:
    hour_s = picture.hour_s
    return Work(
        job.id,
        job.submitted_s - hour_s,
        left_s,
        job.ranks,
        job.min_devices or job.ranks,
        job.tier,
        job.project,
        after=job.after,
        deadline_s=None if job.deadline_s is None else job.deadline_s - hour_s,
        service=job.service,
    )


def _told(job: JobInfo, hour_s: float) -> Mapping[str, Any]:
    """What more the policy knows of it, on the simulation's clock."""
    told: dict[str, Any] = {"devices_asked": job.devices_asked, "freezable": job.rung is not Rung.RESTART}
    if job.running_since_s is not None:
        told["running_since_s"] = job.running_since_s - hour_s
    if job.account is not None:
        known = Account(**dict(job.account))
        times = {name: getattr(known, name) - hour_s for name in ("opened_s", "at_s", "window_s")}
        told["account"] = replace(known, **times)
    return told


def fleet_of(picture: Picture) -> Fleet:
    """Nodes that take jobs, and the projects."""
    machines = tuple(Machine(one.id, one.devices) for one in picture.nodes if one.ready and not one.draining)
    return Fleet("the live fleet", machines, picture.projects)


def costs_of(picture: Picture, costs: Costs = Costs()) -> Costs:
    """Costs as this fleet has measured them, where any job of it was frozen; nodes of one machine transfer nothing."""
    known = [one for one in (*picture.jobs, *picture.ended) if one.measured]
    together = len({one.machine for one in picture.nodes}) <= 1
    uploads_s = [0.0 if together else one.upload_cost_s for one in known]
    return from_lives([one.freeze_cost_s for one in known], [one.thaw_cost_s for one in known], uploads_s, costs)


def with_nodes(fleet: Fleet, more: int, without: Sequence[str]) -> Fleet:
    """`more` nodes like its largest, and some taken away."""
    kept = [one for one in fleet.machines if one.id not in without]
    model = max(fleet.machines, key=lambda one: one.devices, default=Machine("node", 1))
    extra = [replace(model, id=f"extra-{number}") for number in range(more)]
    return replace(fleet, machines=(*kept, *extra))


def drawn_left_s(job: JobInfo, picture: Picture, throws: Dice) -> float:
    """How long it will go on, in seconds of computing."""
    drawn = throws.random()
    age_s = _ran_s(job, picture.now_s)
    for alike in (
        [one for one in picture.ended if one.name == job.name],
        [one for one in picture.ended if one.project == job.project],
    ):
        longer = sorted(lived for one in alike if (lived := _ran_s(one, picture.now_s)) > age_s)
        if len(longer) >= SAMPLES_MIN:
            return max(1.0, longer[int(drawn * len(longer))] - age_s)
    age_s = max(age_s, AGE_MIN_S)
    return min(LEFT_S_MAX, age_s * (1.0 / max(1.0 - drawn, 1e-6) - 1.0) + 1.0)


def _ran_s(job: JobInfo, now_s: float) -> float:
    if job.started_s is None:
        return 0.0
    return max(0.0, (job.ended_s or now_s) - job.started_s - job.paused_total_s)


def _standing(job: JobInfo, picture: Picture, fleet: Fleet) -> Standing:
    """Seats of a job that holds some, by node as the API tells: which rank has which device of a node is one to us."""
    told = _told(job, picture.hour_s)
    nodes = [node for node in job.nodes if node]
    if len(nodes) != job.ranks:
        return Standing(job.id, told=told)
    cells = _cells(nodes)
    home = tuple(nodes[cell.ranks[0]] for cell in cells)
    seats = _seats(job, nodes, picture, fleet) if job.phase in HOLDS_SEATS - {Phase.FREEZING} else ()
    return Standing(job.id, seats, cells, home, told)


def _seats(job: JobInfo, nodes: Sequence[str], picture: Picture, fleet: Fleet) -> tuple[Seat, ...]:
    """One per rank; ranks that share a device follow each other. () where it does not hold them all on this fleet."""
    usable = {one.id for one in fleet.machines}
    held = {
        one.id: [device for device, holder in enumerate(one.used) if holder == job.id]
        for one in picture.nodes
        if one.id in usable
    }
    distinct = sum(len(held.get(node, ())) for node in set(nodes))
    share = job.ranks // distinct if distinct and job.ranks % distinct == 0 else 0
    if not share or any(len(held.get(node, ())) * share != nodes.count(node) for node in set(nodes)):
        return ()
    given = dict.fromkeys(nodes, 0)
    seats = []
    for node in nodes:
        seats.append(Seat(NodeId(node), held[node][given[node] // share]))
        given[node] += 1
    return tuple(seats)


def _cells(nodes: Sequence[str]) -> tuple[Cell, ...]:
    ranks: dict[str, list[int]] = {}
    for rank, node in enumerate(nodes):
        ranks.setdefault(node, []).append(rank)
    return tuple(Cell(index, tuple(of)) for index, of in enumerate(ranks.values()))
