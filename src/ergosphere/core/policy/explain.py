"""Why a job is where it is, and the smallest change that would seat it: found by asking `decide` again, changed.

Nothing is judged here: every answer is the policy's own, so that an explanation cannot disagree with what happens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Final

from ergosphere.core.model import (
    HOLDS_SEATS,
    TIER_ORDER,
    Freeze,
    JobId,
    JobView,
    NodeId,
    NodeView,
    Phase,
    Plan,
    ProjectView,
    Reason,
    Resize,
    Start,
    Thaw,
    Together,
    View,
)
from ergosphere.core.policy import reasons
from ergosphere.core.policy.board import Board
from ergosphere.core.policy.decide import decide
from ergosphere.core.policy.entry import SEATLESS, Entry, masks_of
from ergosphere.core.policy.layers import Node
from ergosphere.core.policy.rules import Rules, freeze_cost, strength
from ergosphere.core.policy.standing import waits
from ergosphere.core.policy.waiting import unsuitable

LEAVERS_MAX: Final = 32  # jobs tried one by one as the one whose end would make room
NODES_MAX: Final = 32  # nodes tried one by one as the one whose return would
AHEAD_MAX: Final = 100  # jobs ahead that are listed


@dataclass(frozen=True, slots=True)
class Requirement:
    """One thing the job asks of a device, and how many of the fleet's `of` devices satisfy it and those before it."""

    text: str
    devices: int
    of: int


@dataclass(frozen=True, slots=True)
class Explained:
    """The answer to `ergo explain`. `ahead`: who is served before it; `changes`: sentences, the smallest first."""

    job: JobView
    reason: Reason
    requirements: tuple[Requirement, ...] = ()
    ahead: tuple[JobView, ...] = ()
    changes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Change:
    """What could be otherwise, in words, and as views that replace those on the board."""

    text: str
    jobs: tuple[JobView, ...] = ()
    gone: tuple[JobId, ...] = ()
    nodes: tuple[NodeView, ...] = field(default=())
    projects: tuple[ProjectView, ...] | None = None


def capacity(view: View) -> int:
    """The most ranks the fleet could ever hold: every device of every node it knows, whatever state it is in now."""
    return sum(node.devices for node in view.nodes)


def explain(view: View | Board, rules: Rules, job_id: JobId) -> Explained | None:
    """Why `job_id` is where it is. None if the view has no such job. A board is left as it was found."""
    board = view if isinstance(view, Board) else Board.of(view, rules)
    entry = board.entries.get(job_id)
    if entry is None:
        return None
    job = entry.view
    plan = decide(board, rules)
    reason = _reason(board, plan, job)
    if job.phase not in SEATLESS:
        return Explained(job, reason)
    waiting = job_id in plan.reasons
    requirements = tuple(_requirements(board, plan, entry))
    ahead = tuple(islice(_ahead(board, plan, entry), AHEAD_MAX)) if waiting and waits(job) else ()
    changes = tuple(_changes(board, rules, job)) if waiting and not _gets_room(plan, job_id) else ()
    return Explained(job, reason, requirements, ahead, changes)


def _reason(board: Board, plan: Plan, job: JobView) -> Reason:
    for decision in plan.decisions:
        if decision.job == job.id:
            return decision.reason
    return plan.reasons.get(job.id) or Reason(job.phase.value, _doing(job) + _spread(board, job))


def _doing(job: JobView) -> str:
    places = f" on {reasons.places(job.seats)}" if job.seats else ""
    match job.phase:
        case Phase.FREEZING if job.freezing_for is not None:
            return f"is being frozen{places} to make room for {job.freezing_for}"
        case Phase.FREEZING if job.freezing_why is not None:
            return f"is being frozen{places} ({job.freezing_why})"
        case Phase.CLEARING:
            return f"was lost; what is left of it{places} is being removed, then it goes on from its last snapshot"
        case _:
            return f"is {job.phase}{places}"


def _spread(board: Board, job: JobView) -> str:
    """What its owner should know where its ranks sit on several nodes."""
    nodes = [board.nodes[name] for name in {seat.node for seat in job.seats} if name in board.nodes]
    if len(nodes) < 2:
        return ""
    domains = len({_domain(node) for node in nodes})
    apart = f" in {domains} locality domains" if domains > 1 else ""
    largest = max(node.view.devices for node in board.nodes.values())
    why = "no node has so many devices" if largest < len(set(job.seats)) else "as close as there was room for it"
    return f"; it is split over {len(nodes)} nodes{apart} ({why}), and what its ranks exchange crosses between them"


def _domain(node: Node) -> tuple[object, ...]:
    return (*node.pool[1:4], node.domain)


def _ahead(board: Board, plan: Plan, entry: Entry) -> Iterator[JobView]:
    """The jobs that are served before it and wait for seats too, in order."""
    mine = board.key(entry)
    decided = {decision.job for decision in plan.decisions}
    waiting = [
        (board.key(one), one.view)
        for one in board.entries.values()
        if one.view.phase in SEATLESS and waits(one.view) and one.view.id not in decided
    ]
    yield from (view for key, view in sorted(waiting, key=lambda pair: pair[0]) if key < mine)


# ---- requirements, each on top of those before it


def _requirements(board: Board, plan: Plan, entry: Entry) -> Iterator[Requirement]:
    job = entry.view
    nodes = list(board.nodes.values())
    total = sum(node.view.devices for node in nodes)
    yield Requirement("devices of the fleet", total, total)
    yield from _suited(job, nodes, total)
    suited = [node for node in nodes if _suits(job, node.view)]
    ready = sum(node.view.devices for node in suited if node.view.ready)
    yield Requirement("on a node that answers", ready, total)
    usable = {node.id: node.full for node in suited}
    yield Requirement("on a node that is not being drained", _bits(usable.values()), total)
    if job.unfit:
        suited = [node for node in suited if node.id not in entry.shape.barred]
        yield Requirement(_fitness(job), _bits(node.full for node in suited), total)
    free = {node.id: node.full & ~(node.held | node.leaving) for node in suited}
    yield Requirement("not in use", _bits(free.values()), total)
    for name, mask in _given_ahead(board, plan, entry):
        if name in free:
            free[name] &= ~mask
    yield Requirement("not given to a job ahead of it", _bits(free.values()), total)
    together = _together(board, job, free)
    if together is not None:
        yield Requirement(*together, total)


def _fitness(job: JobView) -> str:
    because = reasons.listed(f"{node} cannot: {cause}" for node, cause in job.unfit)
    return f"on a node that can thaw its snapshot ({because})"


def _suited(job: JobView, nodes: list[Node], total: int) -> Iterator[Requirement]:
    """What it asks of the device itself, where it asks anything."""
    views = [node.view for node in nodes]
    asked: list[tuple[str, Callable[[NodeView], bool]]] = []
    if job.speeds:
        types = {name for name, _ in job.speeds}
        asked.append((f"of type {' or '.join(sorted(types))}", lambda node: node.type in types))
    if job.device_bytes:
        asked.append((f"with {job.device_bytes / 2**30:.1f} GiB", lambda node: _is_large_enough(job, node)))
    if job.regions:
        asked.append((f"in region {' or '.join(job.regions)}", lambda node: node.region in job.regions))
    for text, suits in asked:
        views = [node for node in views if suits(node)]
        yield Requirement(text, sum(node.devices for node in views), total)


def _suits(job: JobView, node: NodeView) -> bool:
    of_type = not job.speeds or any(name == node.type for name, _ in job.speeds)
    return of_type and _is_large_enough(job, node) and (not job.regions or node.region in job.regions)


def _is_large_enough(job: JobView, node: NodeView) -> bool:
    return not job.device_bytes or not node.device_bytes or node.device_bytes >= job.device_bytes


def _given_ahead(board: Board, plan: Plan, entry: Entry) -> Iterator[tuple[NodeId, int]]:
    mine = board.key(entry)
    ahead = {job_id for job_id, one in board.entries.items() if board.key(one) < mine}
    placed = [one.placement for one in plan.decisions if isinstance(one, Start | Thaw) and one.job in ahead]
    held = [room for job_id, room in plan.rooms.items() if job_id in ahead]
    for placement in (*placed, *held):
        yield from masks_of(placement).items()


def _together(board: Board, job: JobView, free: dict[NodeId, int]) -> tuple[str, int] | None:
    """What sits closest together of what is left, if it matters to the job."""
    by_domain: dict[tuple[object, ...], int] = {}
    for name, mask in free.items():
        node = board.nodes[name]
        by_domain[_domain(node)] = by_domain.get(_domain(node), 0) + mask.bit_count()
    most = max((mask.bit_count() for mask in free.values()), default=0)
    if job.cells:
        largest = max(len(cell.ranks) for cell in job.cells)
        return f"together on one node (it has {largest} ranks that stay together)", most
    match job.together:
        case Together.NODE:
            return "together on one node, as it asks", most
        case Together.DOMAIN:
            return "together in one locality domain, as it asks", max(by_domain.values(), default=0)
        case Together.ANY:
            return None


def _bits(masks: Iterable[int]) -> int:
    return sum(mask.bit_count() for mask in masks)


# ---- what would change it


def _changes(board: Board, rules: Rules, job: JobView) -> list[str]:
    """Of each kind of change the smallest that helps."""
    found: list[str] = []
    for kind in _kinds(board, rules, job):
        helps = (change.text for change in kind if _would_help(board, rules, change, job.id))
        found.extend(islice(helps, 1))
    return found


def _would_help(board: Board, rules: Rules, change: _Change, job_id: JobId) -> bool:
    with supposing(board, change):
        return _gets_room(decide(board, rules), job_id)


@contextmanager
def supposing(board: Board, change: _Change) -> Iterator[None]:
    """The board as it would be; afterwards as it was."""
    jobs = [board.entries[job_id].view for job_id in (*(job.id for job in change.jobs), *change.gone)]
    nodes = [board.nodes[node.id].view for node in change.nodes]
    rooms = dict(board.promises.rooms)
    projects = tuple(board.tree.projects.values())
    try:
        if change.projects is not None:
            board.put_projects(change.projects)
        for job_id in change.gone:
            board.drop_job(job_id)
        for job in change.jobs:
            board.put_job(job)
        for node in change.nodes:
            board.put_node(node)
        yield
    finally:
        for node in nodes:
            board.put_node(node)
        for job in jobs:
            board.put_job(job)
        if change.projects is not None:
            board.put_projects(projects)
        board.promise(rooms)


def _gets_room(plan: Plan, job_id: JobId) -> bool:
    """It is placed, or room is being made for it."""
    if any(isinstance(one, Start | Thaw) and one.job == job_id for one in plan.decisions):
        return True
    made = any(isinstance(one, Freeze | Resize) and getattr(one, "for_job", None) == job_id for one in plan.decisions)
    reason = plan.reasons.get(job_id)
    return made or (reason is not None and reason.code == "room-coming")


def _kinds(board: Board, rules: Rules, job: JobView) -> list[Iterator[_Change]]:
    """Changes to try, kind by kind, the smallest for its owner first."""
    if job.paused:
        return [iter([_Change(f"ergo resume {job.id}", (replace(job, paused=False),))])]
    if job.after:
        text = f"the success of {reasons.listed(job.after)} would let it go on"
        return [iter([_Change(text, (replace(job, after=()),))])]
    return [
        _nodes_back(board, job),
        _other_tiers(job),
        _looser(job),
        _fewer_ranks(board, rules, job),
        _higher_limit(board, job),
        _someone_leaves(board, job),
    ]


def _nodes_back(board: Board, job: JobView) -> Iterator[_Change]:
    away = [node.view for node in board.nodes.values() if not node.view.ready or node.view.draining]
    suited = sorted((node for node in away if _suits(job, node)), key=lambda one: one.id)
    for node in suited[:NODES_MAX]:
        text = f"ergo undrain {node.id}" if node.ready else f"{node.id} answers again"
        yield _Change(text, nodes=(replace(node, ready=True, draining=False),))


def _other_tiers(job: JobView) -> Iterator[_Change]:
    for tier in reversed(TIER_ORDER[: strength(job.tier)]):
        yield _Change(f"as a {tier} job it would get room", (replace(job, tier=tier),))


def _looser(job: JobView) -> Iterator[_Change]:
    """One thing fewer that it asks for."""
    if job.together is not Together.ANY and not job.cells:
        yield _Change("spread over more nodes it would get room", (replace(job, together=Together.ANY),))
    if job.speeds:
        yield _Change("on any type of device it would get room", (replace(job, speeds=()),))
    if job.regions:
        yield _Change("in any region it would get room", (replace(job, regions=()),))


def _fewer_ranks(board: Board, rules: Rules, job: JobView) -> Iterator[_Change]:
    """The most ranks that would get room, found by halving. Only before its first start: the world never changes."""
    if job.cells or job.phase is not Phase.WAITING:
        return
    low, high = 0, job.ranks
    while high - low > 1:
        middle = (low + high) // 2
        fewer = _Change("", (replace(job, ranks=middle, room=()),))
        low, high = (middle, high) if _would_help(board, rules, fewer, job.id) else (low, middle)
    if low:
        text = f"with {reasons.counted(low, 'rank')} it would get room"
        yield _Change(text, (replace(job, ranks=low, room=()),))


def _higher_limit(board: Board, job: JobView) -> Iterator[_Change]:
    """The limit of the project that stands against it, raised by what it needs."""
    against = board.tree.blocked(job.project, job.tier, job.ranks)
    if against is None or against.limit is None:
        return
    enough = board.tree.used(against.id) + job.ranks
    raised = tuple(replace(one, limit=enough) if one.id == against.id else one for one in board.tree.projects.values())
    yield _Change(f"with a limit of {enough} devices for project {against.id} it would get room", projects=raised)


def _someone_leaves(board: Board, job: JobView) -> Iterator[_Change]:
    """The smallest job whose end would be enough."""
    if unsuitable(board, board.entries[job.id]) is not None:
        return
    usable = {name for name, node in board.nodes.items() if node.full}
    running = [
        entry.view
        for entry in board.entries.values()
        if entry.view.phase in HOLDS_SEATS and not usable.isdisjoint(entry.masks)
    ]
    for leaver in sorted(running, key=lambda one: (one.ranks, freeze_cost(one), one.id))[:LEAVERS_MAX]:
        yield _Change(f"the end of {reasons.name_of(leaver)} would make room for it", gone=(leaver.id,))
