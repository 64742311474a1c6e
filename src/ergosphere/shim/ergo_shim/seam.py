"""The seam between the program and its process groups: what was launched, what is held, and what the agent is told.

Every operation passes `enter` before it is launched and `leave` after. Nothing here knows torch."""

from __future__ import annotations

import os
import threading
from typing import Any, Final, Optional

from . import control_file

VERDICT_S_MAX: Final = 60.0  # how long a caller stays inside a collective whose peer has gone
RETIRED_MAX: Final = 256  # destroyed groups remembered, so that peers are told from latecomers
SLOT_OF_THE_REST: Final = control_file.SLOTS_MAX - 1  # counts shown of sequences that have no slot of their own
TAGS_MASK: Final = (1 << 52) - 1  # what a JSON reader in any language keeps exact


class Sequence:
    """A series of operations that must agree among its members: a group's collectives, or one way between two ranks."""

    __slots__ = ("base", "count", "group", "id", "kind", "members", "peer", "slot", "tags")

    def __init__(self, id: str, group: str, kind: str, members: "list[int]", peer: int, slot: int) -> None:
        self.id = id
        self.group = group
        self.kind = kind  # "all", "send" or "recv"
        self.members = members  # ranks of the world, for "all" only
        self.peer = peer  # a rank of the world, for "send" and "recv"; -1 receives from anyone
        self.slot = slot
        self.count = 0
        self.base = 0  # launched when the hold began: always allowed
        self.tags = 0  # sum over tags launched: equal on both sides only if the same tags were used

    def told(self) -> "list[Any]":
        """What the agent reads."""
        return [self.id, self.group, self.kind, self.members, self.peer, self.count, self.tags, self.slot]


class Seam:
    """The state of one process as a rank. One lock guards all of it."""

    def __init__(self, path: str, file: control_file.Mapped) -> None:
        self.path = path
        self.pid = os.getpid()
        self.groups: "dict[str, Any]" = {}  # by group key: what `control` settles, drops and rebuilds
        self.unmanaged: "list[str]" = []
        self.world = ""
        self.rank = -1
        self.size = 0
        self.acknowledged = 0
        self.generation = 0
        self.launched = 0  # operations of all groups so far
        self.settled = False
        self.error: Optional[str] = None
        self.elastic: Any = None  # what this rank shares with others; never None once claimed
        self._file: Optional[control_file.Mapped] = file
        self._slots: Any = file.slots
        self._posted = control_file.head(file, control_file.REPLY).sequence
        self._sequences: "dict[str, Sequence]" = {}
        self._retired: "list[str]" = []
        self._limits: "dict[str, int]" = {}
        self._wants: "dict[object, tuple[Sequence, str]]" = {}
        self._fault: Optional[str] = None
        self._verdict: Optional[str] = None
        self._inside = 0
        self._held = False
        self._holds = 0  # orders to hold so far
        self._steps = False  # an optimizer has stepped
        self._at_step = False  # held at the end of a step
        self._dropped = False
        self._gone = False
        self._renew_locks()

    # -- the program's side ------------------------------------------------------------------------------------

    def enter(self, sequence: Sequence, what: str, tag: int = 0) -> int:
        """Counts the next operation of `sequence`, first waiting while it is held. Returns its number."""
        with self._lock:
            if self._held:
                self._park(sequence, what)
            sequence.count += 1
            self.launched += 1
            sequence.tags = (sequence.tags + _mixed(tag)) & TAGS_MASK if tag else sequence.tags
            self._slots[sequence.slot] = sequence.count
            self._inside += 1
            if self._held:
                self._publish()
            return sequence.count

    def leave(self, sequence: Sequence, launched: bool, tag: int = 0) -> None:
        """The operation is launched, or was refused and never happened."""
        with self._lock:
            self._inside -= 1
            if not launched:
                sequence.count -= 1
                sequence.tags = (sequence.tags - _mixed(tag)) & TAGS_MASK if tag else sequence.tags
                self._slots[sequence.slot] = sequence.count
            if self._held:
                self._publish()

    def stepped(self) -> None:
        """An optimizer has stepped: here replicas hold the same, and here a cut that is wanted likes to find them."""
        self._steps = True
        if self._held:
            self._stay_at_step()

    def _stay_at_step(self) -> None:
        self.elastic.give()
        with self._lock:
            holds = self._holds
            # Who has to go further goes on, and so does everyone who is ordered to hold once more: others wait for it.
            while self._held and self._holds == holds and not self._is_behind():
                if not self._at_step:
                    self._at_step = True
                    self._publish()
                self._changed.wait()
            if self._at_step:
                self._at_step = False
                self._publish()
        self.elastic.take()

    def step_in(self) -> None:
        """A thread goes into the real group to wait."""
        with self._lock:
            self._inside += 1

    def step_out(self) -> None:
        """And comes back."""
        with self._lock:
            self._inside -= 1

    def begin_sharing(self) -> bool:
        """As `step_in`, for what ranks of one device do together. False where a cut is wanted, which goes first."""
        with self._lock:
            if self._held or self._dropped:
                return False
            self._inside += 1
            return True

    @property
    def is_held(self) -> bool:
        """Whether a cut is wanted."""
        return self._held

    def when_whole(self) -> None:
        """Returns once the real groups are there."""
        with self._lock:
            while self._dropped:
                self._changed.wait()

    def judge(self, text: str) -> None:
        """A peer has gone: keeps the caller until the agent has judged, at most VERDICT_S_MAX."""
        with self._lock:
            self._fault, self._verdict = text, None
            self._publish()
            self._changed.wait_for(lambda: self._verdict is not None or self._gone, VERDICT_S_MAX)
            self._fault = None
            self._publish()

    def sequence(self, id: str, group: str, kind: str, members: "list[int]", peer: int) -> Sequence:
        """The sequence of that id, made at its first use."""
        with self._lock:
            known = self._sequences.get(id)
            if known is None:
                slot = self._free_slot() if kind == "all" else SLOT_OF_THE_REST
                known = self._sequences[id] = Sequence(id, group, kind, members, peer, slot)
                self._slots[slot] = 0
                self._publish()
            return known

    def created(self, key: str, group: Any) -> None:
        """A group is there to be settled, dropped and rebuilt."""
        with self._lock:
            self.groups[key] = group
            self._publish()

    def retire(self, key: str) -> None:
        """The program has destroyed a group. Waits while groups are dropped: peers are about to rebuild it."""
        with self._lock:
            while self._dropped:
                self._changed.wait()
            self.groups.pop(key, None)
            for id in [s.id for s in self._sequences.values() if s.group == key]:
                del self._sequences[id]
            self._retired = [*self._retired, key][-RETIRED_MAX:]
            self._publish()

    def finish(self) -> None:
        """The program ends. Waits while groups are dropped, then says so."""
        if os.getpid() != self.pid:
            return
        with self._lock:
            while self._dropped:
                self._changed.wait()
            self._gone = True
            self.elastic.finish()
            self._publish()

    def disown(self) -> None:
        """In a forked child: forgets the control file; the groups it inherited are no longer held."""
        self._renew_locks()
        self._held = self._dropped = False
        self._detach()
        self.elastic.disown()
        self._gone = True

    # -- the control thread's side -----------------------------------------------------------------------------

    @property
    def gone(self) -> bool:
        """Whether this process no longer acts as the rank."""
        return self._gone

    @property
    def dropped(self) -> bool:
        """Whether the real groups are gone for a cut."""
        return self._dropped

    @property
    def file(self) -> Optional[control_file.Mapped]:
        """The mapped control file, None while it is unmapped."""
        return self._file

    @property
    def idle(self) -> bool:
        """Whether no thread is inside a real group."""
        return self._inside == 0

    def hold(self, limits: "dict[str, int]") -> None:
        """From now on operations beyond `limits`, and beyond what was launched already, wait."""
        with self._lock:
            if not self._held:
                for sequence in self._sequences.values():
                    sequence.base = sequence.count
            self._held, self._limits, self.settled = True, limits, False
            self._holds += 1
            self._changed.notify_all()

    def release(self) -> None:
        """Lets everyone go on."""
        with self._lock:
            self._held, self._limits, self.settled = False, {}, False
            for sequence in self._sequences.values():
                sequence.base = 0
            self._changed.notify_all()

    def drop_all(self) -> None:
        """Drops every real group; from here on nothing is launched, destroyed or ended."""
        with self._lock:
            self._dropped = True
        # Side by side: each waits some ten milliseconds for Gloo's threads to look up from their sleep.
        droppers = [threading.Thread(target=group.drop, daemon=True) for group in list(self.groups.values())]
        for dropper in droppers:
            dropper.start()
        for dropper in droppers:
            dropper.join()
        self.elastic.unbind()

    def unmap(self) -> None:
        """Says "ready" with the file already unmapped and closed."""
        with self._lock:
            self._detach()
            self._publish()

    def map(self) -> None:
        """Maps the file that is at the path now."""
        with self._lock:
            self._file = control_file.Mapped(self.path)
            self._slots = self._file.slots
            for sequence in self._sequences.values():
                self._slots[sequence.slot] = sequence.count

    def whole(self) -> None:
        """The real groups are there again."""
        with self._lock:
            self._dropped = False

    def verdict(self, word: str) -> None:
        """Lets out the callers that `judge` keeps."""
        with self._lock:
            self._verdict = word
            self._changed.notify_all()

    def publish(self) -> None:
        """Tells the agent how things stand."""
        with self._lock:
            self._publish()

    # -- under the lock ----------------------------------------------------------------------------------------

    def _renew_locks(self) -> None:
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)

    def _park(self, sequence: Sequence, what: str) -> None:
        ticket = object()
        self.elastic.give()  # whoever waits here must not keep the device
        try:
            while self._held and not self._allowed(sequence):
                self._wants[ticket] = (sequence, what)
                self._publish()
                self._changed.wait()
        finally:
            self._wants.pop(ticket, None)

    def _allowed(self, sequence: Sequence) -> bool:
        limit = max(sequence.base, self._limits.get(sequence.id, 0))
        return not self._dropped and sequence.count < limit

    def _is_behind(self) -> bool:
        known = self._sequences
        return any((known[id].count if id in known else 0) < limit for id, limit in self._limits.items())

    def _free_slot(self) -> int:
        taken = {sequence.slot for sequence in self._sequences.values()}
        return next((slot for slot in range(SLOT_OF_THE_REST) if slot not in taken), SLOT_OF_THE_REST)

    def _detach(self) -> None:
        self._slots = list(range(control_file.SLOTS_MAX))
        if self._file is not None:
            self._file.close()
        self._file = None

    def _publish(self) -> None:
        if self._gone and os.getpid() != self.pid:
            return
        self._posted += 1
        file: control_file.Bytes = self._file or control_file.Brief(self.path)
        try:
            control_file.post(file, control_file.REPLY, self._posted, self._told())
        except ValueError:
            short = {"pid": self.pid, "ack": self.acknowledged, "error": "there are too many groups to tell"}
            control_file.post(file, control_file.REPLY, self._posted, {"state": self._state(), **short})
        except OSError:
            return  # the file is gone: nobody is asking
        if self._file is not None:
            self._file.wake(control_file.REPLY)

    def _state(self) -> str:
        if self._gone:
            return "gone"
        if self._dropped:
            return "ready" if self._file is None else "dropping"
        return "held" if self._held else "running"

    def _told(self) -> "dict[str, Any]":
        told = self._told_plainly()
        elastic = self.elastic.told() if self.elastic is not None else None
        return told if elastic is None else {**told, "elastic": elastic}

    def _told_plainly(self) -> "dict[str, Any]":
        return {
            "state": self._state(),
            "pid": self.pid,
            "ack": self.acknowledged,
            "generation": self.generation,
            "world": self.world,
            "rank": self.rank,
            "size": self.size,
            "settled": self.settled,
            "steps": self._steps,
            "at_step": self._at_step,
            "sequences": [sequence.told() for sequence in self._sequences.values()],
            "wants": [[sequence.id, sequence.count + 1, what] for sequence, what in self._wants.values()],
            "retired": self._retired,
            "fault": self._fault,
            "unmanaged": self.unmanaged,
            "error": self.error,
        }


def _mixed(tag: int) -> int:
    return (tag * 0x9E3779B97F4A7C15 >> 7) & TAGS_MASK
