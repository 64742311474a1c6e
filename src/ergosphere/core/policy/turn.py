"""One turn's marks on the board: who gets which seats, who leaves, what is held; all wiped off at its end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from ergosphere.core.model import Decision, JobId, JobView, NodeId, Placement, ProjectView, Reason, Resize, Tier, Why
from ergosphere.core.policy import reasons, standing
from ergosphere.core.policy.board import Board
from ergosphere.core.policy.entry import Entry, GangKey, Masks, masks_of
from ergosphere.core.policy.layers import Layer, Node
from ergosphere.core.policy.leavers import Leaver
from ergosphere.core.policy.packing import find, find_on
from ergosphere.core.policy.seats import keeps_cells
from ergosphere.core.policy.shape import Shape

Ask = tuple[str, Tier, int]  # project, tier, devices
Later = Callable[[], Reason]  # worded when it is read


@dataclass(frozen=True, slots=True)
class Counts:
    """What a job found when its turn came: devices free, free but held for others, and usable at all."""

    free: int
    held: int


@dataclass(slots=True)
class Turn:
    """What was decided so far. Every mark it makes is on a touched node or in `used`."""

    board: Board
    decisions: dict[JobId, Decision] = field(default_factory=dict)
    reasons: dict[JobId, Reason | Later] = field(default_factory=dict)
    rooms: dict[JobId, Placement] = field(default_factory=dict)
    # by number (see `asking`), shapes that found no room with these ranks per device; nobody behind will
    failed: dict[int, tuple[Shape, tuple[int, ...]]] = field(default_factory=dict)
    failed_claims: set[int] = field(default_factory=set)  # of these, those of which one had a claim
    stuck: set[GangKey] = field(default_factory=set)  # whose project stands against them, and behind them as well
    against: dict[Ask, tuple[ProjectView, int]] = field(default_factory=dict)  # which, and how many devices it used
    urgency: int = -1  # standing of the job that is being served
    moves_left: int = 0  # jobs that may still be moved for others
    held_free: int = 0  # devices that were free and are held for somebody now
    marks: int = 0  # how often what may be had has changed
    smaller: tuple[tuple[int, int, int], list[Leaver]] | None = None  # see `victims`
    frozen: tuple[tuple[int, int], dict[JobId, Leaver]] | None = None  # there, too
    _touched: set[NodeId] = field(default_factory=set)
    _used: list[tuple[JobView, int]] = field(default_factory=list)
    _kept: set[JobId] = field(default_factory=set)  # promises that this turn has lifted
    _broken: dict[tuple[int, int, bool], bool] = field(default_factory=dict)  # see `_would_give_more`
    _claims: dict[JobId, int] = field(default_factory=dict)  # what `_claimed` found

    # ---- marks

    def take(self, placement: Placement) -> None:
        self.marks += 1
        for name, mask in masks_of(placement).items():
            node = self.board.nodes[name]
            node.taken |= mask
            self._mark(name)

    def untake(self, placement: Placement) -> None:
        self.marks += 1
        for name, mask in masks_of(placement).items():
            self.board.nodes[name].taken &= ~mask
            self._mark(name)

    def touch(self, name: NodeId) -> None:
        """A mark was made on this node by hand."""
        self._mark(name)

    def give(self, job: JobView, placement: Placement) -> None:
        """Seats for it, now."""
        self.take(placement)
        self.use(job, len(set(placement)))

    def resize(self, entry: Entry, placement: Placement, reason: Reason, for_job: JobId | None = None) -> None:
        """Its ranks go to other devices of their nodes; those they leave come free before long."""
        job = entry.view
        self.decisions[job.id] = Resize(job.id, placement, reason, for_job)
        self.reasons.pop(job.id, None)
        kept = masks_of(placement)
        self.take(tuple(seat for seat in placement if seat not in job.seats))
        self.leave_seats({name: mask & ~kept.get(name, 0) for name, mask in entry.masks.items()})

    def use(self, job: JobView, devices: int) -> None:
        self.board.tree.use(job.project, job.tier, devices)
        self._used.append((job, devices))

    def hold(self, job: JobView, placement: Placement) -> None:
        """Seats for it, once they are free."""
        self.marks += 1
        for name, mask in masks_of(placement).items():
            node = self.board.nodes[name]
            self.held_free += (mask & ~(node.held | node.leaving)).bit_count()
            node.taken |= mask
            self._mark(name)
        self.rooms[job.id] = placement

    def hold_coming(self, job: JobView, placement: Placement) -> None:
        """The same for one that waits, and why it does: worded only when somebody reads it."""
        self.reasons[job.id] = partial(_room_coming, self.board, job, placement)
        self.hold(job, placement)

    def leave(self, entry: Entry) -> None:
        """Its seats come free before long; some may be held already for a job that waits for it to ripen."""
        self.leave_seats(entry.masks)

    def leave_seats(self, masks: Masks) -> None:
        self.marks += 1
        for name, mask in masks.items():
            if name in self.board.nodes:
                self.board.nodes[name].going |= mask
                self._mark(name)

    def stay(self, entries: Iterable[Entry]) -> None:
        """They do not leave after all."""
        self.marks += 1
        for entry in entries:
            for name, mask in entry.masks.items():
                if name in self.board.nodes:
                    self.board.nodes[name].going &= ~mask
                    self._mark(name)

    def lift_promise(self, job_id: JobId) -> None:
        """Its turn has come: what was promised to it is its own to take or to leave."""
        placement = self.board.promises.rooms.get(job_id)
        if placement is None or job_id in self._kept:
            return
        self._kept.add(job_id)
        self._repromise(placement)

    def _repromise(self, placement: Placement) -> None:
        self.marks += 1
        for name in masks_of(placement):
            node = self.board.nodes.get(name)
            if node is None:
                continue
            node.promised = 0
            for job_id, mask in self.board.promises.on[name].items():
                node.promised |= 0 if job_id in self._kept else mask
            self._mark(name)

    @contextmanager
    def ignoring_promises(self) -> Iterator[bool]:
        """Promises to those behind are no obstacle in here. False: there are none."""
        if not self.board.promises.on:
            yield False
            return
        nodes = self.board.nodes
        firm = {name: self._firm_on(name) for name in self.board.promises.on if name in nodes}
        before = {name: nodes[name].promised for name, mask in firm.items() if nodes[name].promised != mask}
        for name in before:
            nodes[name].promised = firm[name]
            self._mark(name)
        try:
            yield bool(before)
        finally:
            for name, mask in before.items():
                nodes[name].promised = mask
                self._mark(name)

    def _firm_on(self, name: NodeId) -> int:
        """Devices promised there to jobs that claimed them and are as urgent as the one that is served: whoever left
        for them must not come back before them."""
        firm = 0
        for job_id, mask in self.board.promises.on[name].items():
            if job_id not in self._kept and self._claimed(job_id) <= self.urgency:
                firm |= mask
        return firm

    def _claimed(self, job_id: JobId) -> int:
        """The standing in which it claims its room, as first asked this turn; `COUNT` where it has no claim."""
        found = self._claims.get(job_id)
        if found is None:
            found = self._claims[job_id] = self._claim_of(job_id)
        return found

    def _claim_of(self, job_id: JobId) -> int:
        board = self.board
        entry = board.entries.get(job_id)
        if entry is None or not standing.waits(entry.view):
            return standing.COUNT
        urgency = board.standing_of(entry)
        return urgency if board.may_claim(entry, urgency) else standing.COUNT

    @contextmanager
    def vacated(self, entry: Entry) -> Iterator[None]:
        """In here its own seats are as free as others."""
        names = [name for name in entry.masks if name in self.board.nodes]
        for name in names:
            self.board.nodes[name].held &= ~entry.masks[name]
            self._mark(name)
        try:
            yield
        finally:
            for name in names:
                self.board.nodes[name].held |= entry.masks[name]
                self._mark(name)

    def wipe(self) -> None:
        """The board as it was found."""
        for name in self._touched:
            node = self.board.nodes[name]
            node.taken = node.going = 0
            node.promised = self.board.promises.mask(name)
            self.board.touch(node)
        for job, devices in self._used:
            self.board.tree.use(job.project, job.tier, -devices)

    def _mark(self, name: NodeId) -> None:
        self._touched.add(name)
        self.board.touch(self.board.nodes[name])

    # ---- places

    def place(self, entry: Entry, layer: Layer, shares: Sequence[int] = ()) -> Placement | None:
        """A place in a layer, on as many devices as possible; promises to those behind are broken only in need."""
        for share in shares or entry.shape.shares:
            found = self._place(entry, layer, share)
            if found is not None:
                return found
        return None

    def _place(self, entry: Entry, layer: Layer, share: int) -> Placement | None:
        promises = self.board.promises
        held = promises.idle_devices if layer is self.board.now else promises.devices
        if layer.refresh().total + held < entry.shape.ranks // share:
            return None
        found = self.place_as_is(entry, layer, share)
        if found is not None or not self.board.promises.on or not self._would_give_more(layer):
            return found
        with self.ignoring_promises() as some:
            return self.place_as_is(entry, layer, share) if some else None

    def _would_give_more(self, layer: Layer) -> bool:
        """Whether any node could give more if the promises to those behind were broken. Reckoned once between marks."""
        asked = (self.marks, self.urgency, layer is self.board.now)
        if asked not in self._broken:
            promises = self.board.promises
            names = promises.idle if layer is self.board.now else promises.on
            nodes = (self.board.nodes.get(name) for name in names)
            self._broken[asked] = any(node is not None and self._more_without(node, layer) for node in nodes)
        return self._broken[asked]

    def _more_without(self, node: Node, layer: Layer) -> bool:
        before, gave = node.promised, layer.mask(node)
        node.promised = self._firm_on(node.id)
        more = layer.mask(node) != gave
        node.promised = before
        return more

    def place_as_is(self, entry: Entry, layer: Layer, share: int) -> Placement | None:
        board, job = self.board, entry.view
        if job.destination or job.move_asked:
            masks = self.wished(entry, layer)
            wished = find_on(job, entry.shape, share, masks, board.nodes, board.pools.groups(entry.shape))
            if wished is not None:
                return wished
        return find(job, entry.shape, share, layer.refresh(), board.nodes, board.pools.groups(entry.shape))

    def wished(self, entry: Entry, layer: Layer) -> Masks:
        """Devices of the nodes its owner wants, or, for a move to anywhere, of other nodes."""
        job = entry.view
        names: Iterable[NodeId] = job.destination
        if not job.destination:
            present = {seat.node for seat in job.seats} or set(job.home)
            names = [name for name in self.board.nodes if name not in present]
        nodes = self.board.nodes
        return {name: layer.mask(nodes[name]) for name in sorted(names) if name in nodes}

    def own_room(self, entry: Entry, layer: Layer) -> Placement | None:
        """What was promised to it, where that still makes sense and can be had."""
        room = self.board.promises.rooms.get(entry.view.id)
        if room is None:
            return None
        if entry.room is None or entry.room[0] is not room:
            entry.room = room, keeps_cells(entry.view, room) and self._may_share(entry, room)
        if not entry.room[1]:
            return None
        nodes = self.board.nodes
        for name, mask in self.board.promises.masks[entry.view.id].items():
            if name not in nodes or name in entry.shape.barred or mask & ~layer.mask(nodes[name]):
                return None
        return room

    def _may_share(self, entry: Entry, room: Placement) -> bool:
        return entry.view.ranks // len(set(room)) in entry.shape.shares

    # ---- what stands against it

    def freeze_refused(self, entry: Entry, why: Why) -> Reason | None:
        job, now_s = entry.view, self.board.now_s
        if not job.freezable:
            return reasons.cannot_freeze(job, why)
        silent = self.board.silent(entry)
        if silent:
            return reasons.unreachable(silent, why)
        return reasons.freeze_back_off(job, why, now_s) if job.not_before_s > now_s else None

    def resize_refused(self, entry: Entry) -> Reason | None:
        job, now_s = entry.view, self.board.now_s
        silent = self.board.silent(entry)
        if silent:
            return reasons.unreachable(silent, Why.RESIZE)
        return reasons.resize_back_off(job, now_s) if job.not_before_s > now_s else None

    def goes_away(self, job: JobView, placement: Placement) -> bool:
        """Whether some rank would go to a machine that shares no memory with the one it is on."""
        nodes = self.board.nodes
        pairs = {(here.node, there.node) for here, there in zip(job.seats, placement, strict=False)}
        machines = ((nodes[a].view.machine, nodes[b].view.machine) for a, b in pairs if a in nodes and b in nodes)
        return any(here != there and bool(here and there) for here, there in machines)

    def counts(self) -> Counts:
        """As the job whose turn it is finds the fleet."""
        free = self.board.now.refresh().total
        promised = sum(
            (node.promised & node.full & ~(node.held | node.leaving | node.taken)).bit_count()
            for name in self.board.promises.idle
            if (node := self.board.nodes.get(name)) is not None
        )
        return Counts(free + promised, self.held_free)


def _room_coming(board: Board, job: JobView, placement: Placement) -> Reason:
    """Who sits there still is named in the order of the queue."""
    found: dict[JobId, Entry] = {}
    for name, mask in masks_of(placement).items():
        for job_id, (seats, _) in board.nodes[name].occupants.items():
            if seats & mask:
                found[job_id] = board.entries[job_id]
    leaving = [entry.view for entry in sorted(found.values(), key=board.key)]
    return reasons.room_coming(job, placement, leaving)
