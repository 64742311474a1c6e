"""Whether what time alone has changed about a job may change a decision. If not, no turn has to follow. Pure.

The law, which a test holds: where nothing stirs, a turn would give no orders. What is denied here is denied by a
bound, not by a guess. Outside of it lies what one turn leaves to the next because it looks at some only
(`Rules.moves_per_turn`), and the hour's slack of jobs that could be moved for others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from ergosphere.core.model import JobId, NodeId, Phase
from ergosphere.core.policy import standing
from ergosphere.core.policy.entry import SEATLESS, Entry, GangKey
from ergosphere.core.policy.layers import Layer, Node
from ergosphere.core.policy.leavers import Leavers
from ergosphere.core.policy.lines import Lines
from ergosphere.core.policy.rules import Rules
from ergosphere.core.policy.shape import Shape, larger, largest, needs_one_node

RIPE_S: Final = 1.0  # a moment is over so long after it


@dataclass(frozen=True, slots=True)
class Footing:
    """How a job stands: its standing, the line it waits in, whether it is looked at by itself, and until when."""

    standing: int
    gang: GangKey | None
    single: bool
    changes_s: float

    @staticmethod
    def of(entry: Entry, lines: Lines) -> Footing:
        return Footing(entry.standing, entry.gang, entry.view.id in lines.singles, entry.changes_s)

    def is_as(self, other: Footing) -> bool:
        """Whatever time may change about it next."""
        return (self.standing, self.gang, self.single) == (other.standing, other.gang, other.single)


@dataclass(frozen=True, slots=True)
class Others:
    """Whoever else is on the board. `now`: what nodes could give; `guaranteed`: some project has a guarantee."""

    entries: Mapping[JobId, Entry]
    nodes: Mapping[NodeId, Node]
    now: Layer
    lines: Lines
    leavers: Leavers
    rules: Rules
    guaranteed: bool

    def foremost(self) -> int:
        """The strongest standing of those who wait: whoever runs with a wish may want anything."""
        singles = [self.entries[job_id] for job_id in self.lines.singles]
        if any(one.view.phase is Phase.RUNNING for one in singles):
            return standing.PREMIUM
        waiting = (one.standing for one in singles if one.view.phase in SEATLESS)
        return min(self.lines.foremost(), *waiting, standing.COUNT)

    def foremost_tier(self) -> int:
        """The strongest standing that any of those who wait may ever have: for it others go on with fewer devices."""
        singles = (self.entries[job_id].view.tier for job_id in self.lines.singles)
        tiers = {*singles, *(tier for _, _, tier in self.lines.gangs)}
        return min((standing.FIRST_OF[tier] for tier in tiers), default=standing.COUNT)

    def waiting_shapes(self) -> Iterator[Shape]:
        yield from (shape for shape, _, _ in self.lines.gangs)
        yield from (self.entries[job_id].shape for job_id in self.lines.singles)

    def gives(self, devices: int, nodes: int = 1) -> bool:
        """Whether so many devices are free together, on so many nodes."""
        return sum(pool.nodes.times(devices, nodes) for pool in self.now.refresh().pools.values()) >= nodes


@dataclass(frozen=True, slots=True)
class Span:
    """From when an alarm was set for to when it is heard: moments in between have come."""

    since_s: float
    now_s: float

    def has(self, at_s: float) -> bool:
        return self.since_s - RIPE_S <= at_s <= self.now_s


def stirs(entry: Entry, before: Footing, span: Span, others: Others) -> bool:
    """Whether somebody may gain by how it stands now.

    Whoever yields to nobody who waits gives nobody anything; nor does one that is guarded better than before, where
    nothing is guaranteed to projects. Who is moving already, or has a wish of its own to be moved, looks at free
    devices only, and of a job that is moved for others only at its node.
    """
    after, view, rules = Footing.of(entry, others.lines), entry.view, others.rules
    if view.phase is not Phase.RUNNING:
        return not after.is_as(before) or after.single or any(map(span.has, standing.ripens_s(view, rules)))
    if after.single:
        return True
    if after.standing < before.standing:
        return others.guaranteed
    if after.is_as(before):
        return (span.has(before.changes_s) and _yields(entry, others.foremost())) or _ripens(entry, span, others)
    return _yields(entry, others.foremost()) or _lets_pass(entry, others) or _may_move(entry, span, others)


def ripens(entry: Entry, span: Span, others: Others) -> bool:
    """The same of one that runs and stands as it did."""
    if entry.view.id in others.lines.singles:
        return True
    anybody = bool(others.lines.gangs or others.lines.singles or others.leavers.shrunk.jobs)
    return anybody and _ripens(entry, span, others)


def _ripens(entry: Entry, span: Span, others: Others) -> bool:
    moments = any(span.has(at_s) for at_s in _yields_from_s(entry, others.rules))
    return (moments and _yields(entry, others.foremost())) or _may_move(entry, span, others)


def _yields(entry: Entry, foremost: int) -> bool:
    """Whether it might leave for one of a standing: for its own only on a claim."""
    own = standing.BORROWED if entry.borrowed else entry.standing
    return foremost < own or (foremost == own and own in standing.CLAIMING)


def _lets_pass(entry: Entry, others: Others) -> bool:
    """Whether it stood before others that would grow elsewhere: of those some a turn are looked at, in order."""
    shrunk = others.leavers.shrunk.jobs
    crowded = entry.view.id in shrunk and len(shrunk) > others.rules.moves_per_turn
    return crowded and others.now.refresh().total > 0


def comes_up(entry: Entry, now_s: float, others: Others) -> bool:
    """Whether somebody may gain by its having begun to compute: it holds what it held, but may be shrunk from now on,
    or grow where it is; premium jobs need not wait until it is ripe."""
    if entry.view.id in others.lines.singles:
        return True
    yields_to = standing.BORROWED if entry.borrowed else entry.standing
    if entry.view.id in others.leavers.shrinkable and others.foremost_tier() <= yields_to:
        return True
    if others.foremost() == standing.PREMIUM:
        return True
    return entry.view.id in others.leavers.shrunk.jobs and _may_grow(entry, now_s, others)


def _yields_from_s(entry: Entry, rules: Rules) -> Iterator[float]:
    """Moments from which on it would leave for somebody for whom it did not before."""
    view = entry.view
    yield view.not_before_s
    if view.running_since_s is not None:
        yield view.running_since_s + rules.min_run_s
        yield view.running_since_s + rules.quantum_s


def _may_move(entry: Entry, span: Span, others: Others) -> bool:
    """Whether just now it may be made larger, or be moved so that somebody fits on its node or grows there."""
    view, rules = entry.view, others.rules
    if view.running_since_s is None or not others.now.refresh().total:
        return False
    settles = span.has(view.running_since_s + rules.settle_s)
    if view.id in others.leavers.shrunk.jobs:
        ripens = settles or span.has(view.not_before_s) or span.has(view.resized_s + rules.grow_after_s)
        return ripens and _may_grow(entry, span.now_s, others)
    return settles and len(entry.masks) == 1 and _may_make_room(entry, span.now_s, others)


def _may_grow(entry: Entry, now_s: float, others: Others) -> bool:
    """Whether there may be devices for it: here at any time, elsewhere or at its neighbours' once it has settled."""
    steps = larger(entry.shape, entry.devices)
    free, more = others.now.refresh().total, steps[-1] - entry.devices
    here = [others.nodes[name].now().bit_count() for name in entry.masks if name in others.nodes]
    if free < more or sum(here) >= more:
        return free >= more
    if not _has_settled(entry, now_s, others.rules):
        return False
    if not needs_one_node(entry.shape) or others.gives(steps[-1]):
        return True
    node = others.nodes.get(next(iter(entry.masks)))
    beside = [] if node is None or len(entry.masks) != 1 else list(_beside(entry, node, others))
    return sum(one.devices for one in beside if _has_settled(one, now_s, others.rules)) + sum(here) >= more


def _may_make_room(entry: Entry, now_s: float, others: Others) -> bool:
    """Whether it may go on elsewhere, and somebody waits for its node or is small there."""
    node = others.nodes.get(next(iter(entry.masks)))
    if node is None:
        return False
    free, here, devices = others.now.refresh().total, node.now().bit_count(), entry.devices
    if free - here < devices or (needs_one_node(entry.shape) and not others.gives(devices, 1 + here // devices)):
        return False
    small = (one for one in _beside(entry, node, others) if one.view.id in others.leavers.shrunk.jobs)
    for one in small:
        steps = (size - one.devices for size in larger(one.shape, one.devices))
        if _has_settled(one, now_s, others.rules) and any(here < more <= free for more in steps):
            return True
    waits_for = (largest(shape) for shape in others.waiting_shapes() if needs_one_node(shape))
    return here > 0 and any(here < needed <= free for needed in waits_for)


def _beside(entry: Entry, node: Node, others: Others) -> Iterator[Entry]:
    """Who else sits on its node."""
    return (others.entries[job_id] for job_id in node.occupants if job_id != entry.view.id)


def _has_settled(entry: Entry, now_s: float, rules: Rules) -> bool:
    since_s = entry.view.running_since_s
    return since_s is not None and since_s + rules.settle_s <= now_s
