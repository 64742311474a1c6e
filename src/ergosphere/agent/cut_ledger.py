"""Who is behind whom: where all ranks stand in all groups, and how far each must go on for nothing to be half done.

Pure. A *series* is what several ranks must agree on: the collectives of a group, or the messages of one way. Its
*target* is where all of its members will stand at the cut."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from ergosphere.agent.cut_view import ANYONE, Kind, RankState, RankView, SequenceView


class Collectives(NamedTuple):
    """The collectives of one group; making it is the first."""

    world: str
    group: str


class Way(NamedTuple):
    """The messages from one rank of the world to another, within a group. From ANYONE: receives without a source."""

    world: str
    group: str
    source: int
    target: int


Series = Collectives | Way
Targets = Mapping[Series, int]


class Lag(NamedTuple):
    """A rank has yet to do the `number`-th operation of a series."""

    series: Series
    number: int


@dataclass(frozen=True, slots=True)
class Ledger:
    """Counts per series and rank, from one look at all ranks. Ranks are the job's own numbers here."""

    views: Mapping[int, RankView]
    seats: dict[tuple[str, int], int] = field(default_factory=dict)  # (world, rank of the world) -> rank of the job
    counts: dict[Series, dict[int, int]] = field(default_factory=dict)  # collectives: every live member, 0 if unknown
    sent: dict[Way, SequenceView] = field(default_factory=dict)
    received: dict[Way, SequenceView] = field(default_factory=dict)
    members: dict[Collectives, tuple[int, ...]] = field(default_factory=dict)
    orphans: set[str] = field(default_factory=set)  # groups that a member has left for good
    strangers: dict[int, str] = field(default_factory=dict)  # rank -> its group with a member nobody knows

    def seat(self, world: str, member: int) -> int | None:
        """The job's rank that is `member` of `world`; one that has not joined it yet is taken by its number."""
        return self.seats.get((world, member), member if member in self.views else None)


def read(views: Mapping[int, RankView]) -> Ledger:
    """The ledger of one look at all ranks."""
    ledger = Ledger(views)
    for rank, view in views.items():
        if view.world:
            ledger.seats[view.world, view.rank] = rank
    for rank, view in views.items():
        if view.state is not RankState.GONE:
            for sequence in view.sequences:
                _enter(ledger, rank, view, sequence)
    return ledger


def series_of(view: RankView, sequence: SequenceView) -> Series:
    """What a rank's sequence counts towards."""
    match sequence.kind:
        case Kind.ALL:
            return Collectives(view.world, sequence.group)
        case Kind.SEND:
            return Way(view.world, sequence.group, view.rank, sequence.peer)
        case Kind.RECV:
            return Way(view.world, sequence.group, sequence.peer, view.rank)


def advance(ledger: Ledger, targets: Targets) -> tuple[dict[Series, int], dict[int, Lag]]:
    """Targets raised to a fixpoint, and who is behind them. What a rank behind is held at, all its members must do."""
    goals = dict(targets)
    for series, count in _furthest(ledger).items():
        goals[series] = max(goals.get(series, 0), count)
    while True:
        lags = _lags(ledger, goals)
        raised = {s: n for rank in lags for s, n in wanted(ledger.views[rank]).items() if n > goals.get(s, 0)}
        if not raised:
            return goals, lags
        goals.update(raised)


def wanted(view: RankView) -> dict[Series, int]:
    """What a rank's held threads are about to do."""
    by_id = {sequence.id: series_of(view, sequence) for sequence in view.sequences}
    return {by_id[want.sequence]: want.number for want in view.wants if want.sequence in by_id}


def limits_of(ledger: Ledger, rank: int, targets: Targets) -> dict[str, int]:
    """The targets in a rank's own words: how far each of its sequences may go."""
    view = ledger.views[rank]
    limits: dict[str, int] = {}
    for series, target in targets.items():
        match series:
            case Collectives(world, group) if rank in ledger.counts.get(series, ()):
                limits[group] = target
            case Way(world, group, source, receiver):
                if ledger.seat(world, source) == rank and (not view.world or view.world == world):
                    limits[f"{group}/send{receiver}"] = target
                if ledger.seat(world, receiver) == rank:
                    limits[f"{group}/recv{source}"] = target
    return limits


def _enter(ledger: Ledger, rank: int, view: RankView, sequence: SequenceView) -> None:
    series = series_of(view, sequence)
    match series:
        case Collectives():
            _enter_members(ledger, rank, series, sequence)
            ledger.counts[series][rank] = sequence.count
        case Way():
            (ledger.sent if sequence.kind is Kind.SEND else ledger.received)[series] = sequence


def _enter_members(ledger: Ledger, rank: int, series: Collectives, sequence: SequenceView) -> None:
    counts = ledger.counts.setdefault(series, {})
    ledger.members[series] = sequence.members
    for member in sequence.members:
        seat = ledger.seat(series.world, member)
        if seat is None:
            ledger.strangers[rank] = series.group
        elif _has_left(ledger.views[seat], series.group):
            ledger.orphans.add(series.group)
        else:
            counts.setdefault(seat, 0)


def _has_left(view: RankView, group: str) -> bool:
    return view.state is RankState.GONE or group in view.retired


def _furthest(ledger: Ledger) -> dict[Series, int]:
    furthest = {series: max(counts.values(), default=0) for series, counts in ledger.counts.items()}
    for side in (ledger.sent, ledger.received):
        for way, sequence in side.items():
            if way.source == ANYONE or not _is_mailbox(ledger, way):
                furthest[way] = max(furthest.get(way, 0), sequence.count)
    return furthest


def _lags(ledger: Ledger, targets: Targets) -> dict[int, Lag]:
    lags: dict[int, Lag] = {}
    for series, counts in ledger.counts.items():
        for rank, count in counts.items():
            if count < targets.get(series, 0):
                lags.setdefault(rank, Lag(series, count + 1))
    for way in [series for series in targets if isinstance(series, Way)]:
        if not _is_mailbox(ledger, way):
            _note_way(ledger, way, targets[way], lags)
    for way in [way for way in ledger.received if way.source == ANYONE]:
        _note_mailbox(ledger, way, lags)
    return lags


def _note_way(ledger: Ledger, way: Way, target: int, lags: dict[int, Lag]) -> None:
    sent, received = ledger.sent.get(way), ledger.received.get(way)
    sends, receives = sent.count if sent else 0, received.count if received else 0
    mixed = sent is not None and received is not None and sends == receives and sent.tags != received.tags
    for member, count in ((way.source, sends), (way.target, receives)):
        if count < target or mixed:
            _note(ledger, way, member, count + 1, lags)


def _note_mailbox(ledger: Ledger, way: Way, lags: dict[int, Lag]) -> None:
    # Which sender a receive from anyone will meet is not known before: the sums must agree.
    sends = sum(s.count for w, s in ledger.sent.items() if _same_mailbox(w, way))
    receives = sum(s.count for w, s in ledger.received.items() if _same_mailbox(w, way))
    if sends > receives:
        _note(ledger, way, way.target, ledger.received[way].count + 1, lags)
    elif sends < receives:
        for member in ledger.members.get(Collectives(way.world, way.group), ()):
            if member != way.target:
                one = Way(way.world, way.group, member, way.target)
                count = ledger.sent[one].count if one in ledger.sent else 0
                _note(ledger, one, member, count + 1, lags)


def _note(ledger: Ledger, way: Way, member: int, number: int, lags: dict[int, Lag]) -> None:
    seat = ledger.seat(way.world, member)
    if seat is not None and not _has_left(ledger.views[seat], way.group):
        lags.setdefault(seat, Lag(way, number))


def _is_mailbox(ledger: Ledger, way: Way) -> bool:
    return Way(way.world, way.group, ANYONE, way.target) in ledger.received


def _same_mailbox(one: Way, other: Way) -> bool:
    return (one.world, one.group, one.target) == (other.world, other.group, other.target)
