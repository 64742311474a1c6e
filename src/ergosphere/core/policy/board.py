"""The board: the policy's view of the fleet, kept from turn to turn and indexed by what decisions ask for.

Whoever feeds it tells what changed (`put_job`, `put_node`, `advance`, …), each at a cost that grows with the change
and not with the fleet. It knows facts only; `decide` marks its turn on it and wipes that off again. Two boards with the
same contents answer alike, however they came to them: a property test compares a fed one with one built anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Final

from ergosphere.core.fraction import NEVER_S
from ergosphere.core.model import (
    ENDED,
    JobId,
    JobView,
    NodeId,
    NodeView,
    Phase,
    Placement,
    ProjectView,
    Seat,
    View,
)
from ergosphere.core.policy import quota, standing
from ergosphere.core.policy.alarms import Alarms, next_look_s
from ergosphere.core.policy.borrowing import Borrowing, standing_now
from ergosphere.core.policy.entry import (
    COMING,
    SEATLESS,
    Entry,
    Key,
    is_emptied,
    is_special,
    kept_masks,
    masks_again,
    moves_from_s,
    shape_again,
    sits_alike,
)
from ergosphere.core.policy.layers import Layer, Node
from ergosphere.core.policy.leavers import Leavers
from ergosphere.core.policy.lines import Lines
from ergosphere.core.policy.packing import Pools
from ergosphere.core.policy.promises import Promises
from ergosphere.core.policy.quota import Tree
from ergosphere.core.policy.reach import Reach
from ergosphere.core.policy.rules import Rules
from ergosphere.core.policy.seats import takes_jobs
from ergosphere.core.policy.shape import Shape
from ergosphere.core.policy.stirring import Footing, Others, Span, comes_up, ripens, stirs

TICK_S: Final = 0.001  # the least step between two looks at the same job


class Board:
    """See the module. `jobs` and `nodes` are for reading; `decide` alone may use the rest."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.now_s = 0.0
        self.entries: dict[JobId, Entry] = {}
        self.nodes: dict[NodeId, Node] = {}
        self.tree = Tree()
        self.now = Layer(Node.now)
        self.soon = Layer(Node.soon)
        self.whole = Layer(Node.whole)
        self.reach = Reach(self.entries, self.nodes)
        self.lines = Lines()
        self.leavers = Leavers()
        self.promises = Promises()
        self.pools = Pools()
        self.borrowing = Borrowing(self.tree)
        self.others = Others(self.entries, self.nodes, self.now, self.lines, self.leavers, rules, guaranteed=False)
        self.occupants: dict[NodeId, dict[JobId, tuple[int, int]]] = {}
        self.usable = 0  # devices that may be given to somebody
        self.holdable: dict[tuple[Shape, tuple[int, ...]], bool] = {}  # see `asking`; until nodes change
        self.asks: dict[tuple[Shape, tuple[int, ...]], int] = {}  # see `asking`
        self._closed: set[NodeId] = set()  # nodes that take no jobs, or are gone; some may sit there still
        self._claims_after_s = standing.claims_after_s(rules)
        self._alarms = Alarms()

    @staticmethod
    def of(view: View, rules: Rules) -> Board:
        """The board of a picture, from scratch."""
        board = Board(rules)
        board.now_s = view.now_s
        board.put_projects(view.projects)
        for node in view.nodes:
            board.put_node(node)
        for job in view.jobs:
            board.put_job(job)
        board.promise({job.id: job.room for job in view.jobs if job.room})
        return board

    # ---- what is told

    def put_projects(self, projects: Iterable[ProjectView]) -> None:
        """The whole tree anew. Raises QuotaTrouble, and changes nothing, when it contradicts itself."""
        listed = tuple(projects)
        quota.check(listed)
        if listed == tuple(self.tree.projects.values()):
            return
        views, rooms = list(self.jobs()), dict(self.promises.rooms)
        for view in views:
            self.drop_job(view.id)
        self.tree = Tree(listed)
        self.borrowing = Borrowing(self.tree)
        self.others = replace(self.others, guaranteed=self.tree.kept)
        for view in views:
            self.put_job(view)
        self.promise(rooms)

    def put_node(self, view: NodeView) -> None:
        """A node that is new or has changed."""
        node = self.nodes.get(view.id)
        pool = (view.flaky_until_s > self.now_s, view.region, view.cluster, view.type, view.device_bytes)
        if node is not None and node.view == view and node.pool == pool:
            return
        if node is None:
            node = self.nodes[view.id] = Node(view, self.occupants.setdefault(view.id, {}))
        elif (node.pool, node.domain) != (pool, view.domain):
            self._forget_node(node)
        self.usable -= node.full.bit_count()
        if len(node.seats) != view.devices:
            node.seats = tuple(Seat(view.id, device) for device in range(view.devices))
        node.view, node.pool, node.domain = view, pool, view.domain
        self.pools.know(pool)
        node.full = (1 << view.devices) - 1 if takes_jobs(view) else 0
        self.usable += node.full.bit_count()
        (self._closed.discard if node.full else self._closed.add)(view.id)
        if pool[0]:
            self._alarms.look_at_node(view.id, view.flaky_until_s)
        node.recount()
        node.promised = self.promises.mask(view.id)
        self._has_changed(node)
        self.whole.stale[node] = None
        self.holdable.clear()
        self._look_again_at(node)

    def drop_node(self, node_id: NodeId) -> None:
        node = self.nodes.get(node_id)
        if node is not None:
            self._forget_node(node)
            self.usable -= node.full.bit_count()
            self._closed.add(node_id)
            del self.nodes[node_id]

    def put_job(self, view: JobView) -> bool:
        """A job that is new or has changed; one that has ended is dropped. False: no decision changes by that."""
        before = self.entries.get(view.id)
        if before is not None and before.view.phase is view.phase and before.view == view:
            return False
        if view.phase in ENDED:
            self.drop_job(view.id)
            return True
        entry = self.entries[view.id] = Entry(view, shape_again(view, before), masks_again(view, before))
        stays = before is not None and sits_alike(before, entry)
        if before is not None:
            self._take_off(before, stays=stays)
        self._put_on(entry, stays=stays)
        came_up = view.phase is Phase.RUNNING and before is not None and before.view.phase in COMING
        return not came_up or comes_up(entry, self.now_s, self.others)

    def drop_job(self, job_id: JobId) -> None:
        entry = self.entries.pop(job_id, None)
        if entry is not None:
            self._take_off(entry, stays=False)
            self.leavers.shrunk.changed.discard(job_id)
            self._forget_promise(job_id)
            self._alarms.forget_job(job_id)

    def promise(self, rooms: Mapping[JobId, Placement]) -> None:
        """The rooms of the last plan, whole: seats that stay held for jobs until those sit there."""
        for job_id in self.promises.outdated(rooms):
            self._forget_promise(job_id)
        for job_id, room in rooms.items():
            if job_id not in self.promises.rooms and room:
                self._remember_promise(job_id, room)

    def advance(self, now_s: float) -> bool:
        """Time passes: whose standing has changed by it is found at once. Whether that may change a decision."""
        self.now_s = now_s
        stirred = False
        for at_s, kind, name in self._alarms.due(now_s):
            if kind == "job":
                entry = self.entries[JobId(name)]
                if self._is_steady(entry):
                    self._look_later(entry)
                    stirred = stirred or ripens(entry, Span(at_s, now_s), self.others)
                    continue
                before = Footing.of(entry, self.lines)
                self._look_again(entry)
                stirred = stirred or stirs(entry, before, Span(at_s, now_s), self.others)
            elif name in self.nodes:
                self.put_node(self.nodes[NodeId(name)].view)
                stirred = True
        return self.sort_borrowed() or stirred

    def is_idle(self) -> bool:
        """Nobody waits, has a wish or could take more: there is nothing to decide."""
        return self.lines.is_empty() and not (self.leavers.shrunk.jobs or self.promises.rooms)

    def alarm_s(self) -> float:
        """When time alone may change a decision next; inf if nobody waits and nobody is to be grown."""
        if self.lines.is_empty() and not self.leavers.shrunk.jobs:
            return NEVER_S
        return self._alarms.first_s()

    # ---- what is known

    def jobs(self) -> Iterator[JobView]:
        return (entry.view for entry in self.entries.values())

    def job(self, job_id: JobId) -> JobView | None:
        entry = self.entries.get(job_id)
        return entry.view if entry else None

    def touch(self, node: Node) -> None:
        self.now.stale[node] = None
        self.soon.stale[node] = None
        self.reach.touch(node)

    def silent(self, entry: Entry) -> list[NodeId]:
        """Nodes of a job that do not answer."""
        if self._closed.isdisjoint(entry.masks):
            return []
        return sorted(name for name in entry.masks if name not in self.nodes or not self.nodes[name].view.ready)

    def key(self, entry: Entry) -> Key:
        """Order of being served: standing, services first, fair share of its project, deadline, submission, id."""
        return (self.standing_of(entry), entry.training, self.tree.share(entry.view.project), entry.rest)

    def standing_of(self, entry: Entry) -> int:
        return standing_now(entry, self.tree, self.leavers) if self.tree.kept else entry.standing

    def may_claim(self, entry: Entry, urgency: int) -> bool:
        """Whether others have to leave for one that waits in this standing."""
        return entry.waits_s + self._claims_after_s[urgency] <= self.now_s

    def sort_borrowed(self) -> bool:
        """Find the weakest and youngest work beyond what its project may use; whether it is any other than before."""
        changed = self.borrowing.changed(self.entries, self._capacity())
        for entry in changed:
            self._unlist(entry)
            entry.borrowed = not entry.borrowed
            self._list(entry)
            self.reach.touch_nodes(entry.masks)
        return bool(changed)

    def _capacity(self) -> int:
        """Devices that may be given, and those that jobs hold yet where nobody may start: they count as use, too."""
        if not self.tree.kept:
            return self.usable
        held = (mask for name in self._closed for mask, _ in self.occupants.get(name, {}).values())
        return self.usable + sum(mask.bit_count() for mask in held)

    # ---- putting on and taking off

    def _put_on(self, entry: Entry, *, stays: bool) -> None:
        """`stays`: it sits where it sat already."""
        entry.moves_s = moves_from_s(entry.view, self.rules)
        self.leavers.shrunk.changed.add(entry.view.id)
        if stays:
            self.reach.touch_nodes(entry.masks)
        else:
            self._sit(entry)
        if self.tree.kept or not stays:
            self.borrowing.count(entry, 1)
        self._enter(entry)

    def _enter(self, entry: Entry) -> None:
        """Its standing, its line, and when to look at it again."""
        self._list(entry)
        self.lines.add(entry, self.now_s, self.rules, single=self._is_single(entry))
        self._look_later(entry)

    def _look_later(self, entry: Entry) -> None:
        at_s = max(next_look_s(entry, self.now_s, self.rules), self.now_s + TICK_S)
        self._alarms.look_at_job(entry.view.id, at_s)

    def _take_off(self, entry: Entry, *, stays: bool) -> None:
        for name in () if stays else entry.masks:
            self.occupants[name].pop(entry.view.id, None)
            self._recount(name)
        if self.tree.kept or not stays:
            self.borrowing.count(entry, -1)
        self._unlist(entry)
        self.lines.drop(entry)

    def _sit(self, entry: Entry) -> None:
        """Its seats on the masks of their nodes."""
        if not entry.masks:
            return
        kept = kept_masks(entry)
        for name, mask in entry.masks.items():
            if name not in self.nodes:
                self._closed.add(name)
            self.occupants.setdefault(name, {})[entry.view.id] = (mask, kept.get(name, 0))
            self._recount(name)

    def _recount(self, name: NodeId) -> None:
        node = self.nodes.get(name)
        if node is not None:
            node.recount()
            self._has_changed(node)

    def _list(self, entry: Entry) -> None:
        """Its standing; and if it could be frozen, its place among those who could leave."""
        view = entry.view
        entry.standing, entry.changes_s = self._judged(view)
        entry.listed_s = self.now_s
        if view.phase is Phase.RUNNING and view.not_before_s <= self.now_s:
            self.leavers.add_size(entry, self.rules)
        if entry.devices and view.phase is Phase.RUNNING and view.freezable and view.not_before_s <= self.now_s:
            self.leavers.add(entry, guarded=self._is_guarded(entry))

    def _judged(self, view: JobView) -> tuple[int, float]:
        """Its standing, and when time alone changes that."""
        judge = standing.of_waiting if view.phase in SEATLESS else standing.of_running
        return judge(view, self.now_s, self.rules)

    def _unlist(self, entry: Entry) -> None:
        self.leavers.drop(entry, guarded=self._is_guarded(entry))

    def _is_guarded(self, entry: Entry) -> bool:
        return self.tree.guardian(entry.view.project) is not None

    def _is_single(self, entry: Entry) -> bool:
        """Whether it has to be looked at by itself, and not as one of many that ask for the same."""
        if entry.view.id in self.promises.rooms or is_special(entry, self.now_s, self.rules):
            return True
        if self._closed.isdisjoint(entry.masks) or entry.view.phase is not Phase.RUNNING:
            return False
        return any(name in self.nodes and is_emptied(self.nodes[name].view) for name in entry.masks)

    # ---- nodes and promises

    def _forget_node(self, node: Node) -> None:
        for layer in (self.now, self.soon, self.whole):
            layer.forget(node)
        self.reach.forget(node)
        self.promises.idle_devices -= self.promises.idle.pop(node.id, 0)
        self.holdable.clear()

    def _look_again_at(self, node: Node) -> None:
        """Who sits there may have to leave now, or may stay."""
        for job_id in list(node.occupants):
            entry = self.entries[job_id]
            single = self._is_single(entry)
            (self.lines.singles.add if single else self.lines.singles.discard)(job_id)

    def _remember_promise(self, job_id: JobId, room: Placement) -> None:
        self._repromise(self.promises.add(job_id, room))
        if job_id in self.entries:
            self._line_again(self.entries[job_id])

    def _forget_promise(self, job_id: JobId) -> None:
        if job_id in self.promises.rooms:
            self._repromise(self.promises.drop(job_id))
            if job_id in self.entries:
                self._line_again(self.entries[job_id])

    def _look_again(self, entry: Entry) -> None:
        """Time has passed. Mostly it stands as it did, and has to be looked at later once more."""
        view = entry.view
        single = self._is_single(entry)
        stands, changes_s = self._judged(view)
        as_it_was = (stands, single) == (entry.standing, view.id in self.lines.singles)
        if as_it_was and view.not_before_s <= entry.listed_s:  # its back-off was over already
            entry.changes_s = changes_s
            self._look_later(entry)
        else:
            self._line_again(entry)

    def _is_steady(self, entry: Entry) -> bool:
        """It runs, and stands as it did: a moment of its own concerns others only."""
        running = entry.view.phase is Phase.RUNNING and entry.view.not_before_s <= entry.listed_s
        return running and entry.standing in standing.STEADY and self.now_s < entry.changes_s

    def _line_again(self, entry: Entry) -> None:
        """How it stands may have changed, not where it sits."""
        self._unlist(entry)
        self.lines.drop(entry)
        self._enter(entry)
        self.reach.touch_nodes(entry.masks)

    def _repromise(self, names: Iterable[NodeId]) -> None:
        for name in names:
            node = self.nodes.get(name)
            if node is not None:
                node.promised = self.promises.mask(name)
                self._has_changed(node)

    def _has_changed(self, node: Node) -> None:
        """Who sits there, or what is promised."""
        self.promises.count_idle(node)
        self.leavers.shrunk.look_again(node.occupants)
        self.touch(node)
