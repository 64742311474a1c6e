"""What a reduction consists of: every member lays down what it contributes, whoever waits folds, everyone copies out.

The result of an operation is cut into parts, one per device, so that each device folds its own; a part whose device is
late is folded by whoever waits for it, with the same bytes. Where a group spans hosts, contributions to a host's parts
and the finished parts travel by `exchange`. How members wait for all this is said in `sums`."""

from __future__ import annotations

import time
from typing import Any, Final, Optional

from . import fold
from .calls import Asked
from .operation import Operation, Seats
from .slots import (
    AT,
    CONTRIBUTED,
    DONE,
    FILE,
    OWNER,
    RESULT_AT,
    RESULT_FILE,
    RING,
    SIGNATURE,
    Block,
    Board,
    Reuse,
)

SMALL_BYTES: Final = 65536  # up to here a result is one part, which anyone of its host folds
PATIENCE_S: Final = 0.01  # with a device that is late to fold its part


class GroupParts:
    """The contributions and parts of one group, as one of its members sees them."""

    def __init__(self, ground: Any, key: str, seats: Seats, exchange: Any) -> None:
        self._ground = ground  # what the ranks of this host share: bell, slots, turn, the living
        self._places = seats.parts()
        self._local = seats.on(seats.home)
        self._leads = self._local[0] == seats.me
        self._board = Board(ground.stem + "g" + key, len(seats.ranks), len(self._places))
        self._reuse = Reuse(ground.slots)
        self._exchange = exchange
        self._takes_turns = len(self._places) == 1 and exchange is None  # members come one after the other
        self.seats = seats
        self.open: "dict[int, Operation]" = {}  # by number: launched here, and not over
        self.key = key
        if exchange is not None:
            exchange.attend(key, self)

    # -- what `sums` calls -------------------------------------------------------------------------------------

    def cut(self, layout: fold.Layout, root: int) -> "list[tuple[int, int]]":
        """The elements, from and to, of each part of a result; one that is small, or for one rank, is one part."""
        count = len(self._places)
        if root >= 0 or layout.total * layout.item <= SMALL_BYTES:
            owner = 0 if root < 0 else self._places.index((self.seats.hosts[root], self.seats.devices[root]))
            return [(0, layout.total) if part == owner else (0, 0) for part in range(count)]
        step = -(-layout.total // (count * fold.ALIGN_BYTES)) * fold.ALIGN_BYTES
        return [(min(at * step, layout.total), min((at + 1) * step, layout.total)) for at in range(count)]

    def contribute(self, operation: Operation) -> None:
        """Lays down what this rank contributes, and says so."""
        layout, me, number = operation.layout, self.seats.me, operation.number
        self._reuse.collect()
        if self._exchange is not None and self._can_be_direct(operation.asked):
            operation.direct = operation.asked.takes[0].data_ptr()
            self._enter(me, number, Block(self.seats.ranks[me], 0, 0, 0), operation.signature())
            self._exchange.contribute(self, operation, operation.direct)
            return
        size = layout.total * layout.item
        if self._leads:
            result = self._take(number, size)
            self._board.put(me, number, RESULT_FILE, result.file)
            self._board.put(me, number, RESULT_AT, result.at)
        if self._add_own(operation):
            self._enter(me, number, Block(self.seats.ranks[me], 0, 0, 0), operation.signature())
            return
        block = self._take(number, size)
        slot = self._flat(block.owner, block.file, block.at, operation.dtype, layout.total)
        fold.lay_down(operation.asked.takes, layout, slot, operation.asked.reduction)
        self._enter(me, number, block, operation.signature())
        if self._exchange is not None:
            self._exchange.contribute(self, operation, self._ground.slots.address(block.owner, block.file, block.at))

    def is_whole(self, operation: Operation) -> bool:
        """Whether all contributions that are folded here lie there."""
        if not operation.whole_at_s:
            number = operation.number
            if any(self._board.get(member, number, CONTRIBUTED) != number + 1 for member in self._needed(operation)):
                return False
            operation.whole_at_s = time.monotonic()
        return True

    def is_ready(self, operation: Operation) -> bool:
        """Whether there is something for this rank to do about it."""
        if not operation.asked.gives or self._all_folded(operation) or self._may_send(operation):
            return True
        return self.is_whole(operation) and any(self._is_free(operation, part) for part in self._due(operation))

    def progress(self, operation: Operation) -> bool:
        """Does what can be done without waiting. True when nothing is left for this rank.

        To be called with the operation's gate held."""
        if self.is_whole(operation):
            self._check(operation)
            for part in self._due(operation):
                if self._board.claim(part, operation.number):
                    try:
                        self._fold(operation, part)
                    finally:
                        self._board.unclaim(part, operation.number)
        if self._may_send(operation):
            self._send_results(operation)
        if not operation.asked.gives or self._all_folded(operation):
            return self._finish(operation)
        return False

    def pick_up(self, operation: Operation) -> None:
        """Copies a result to where its asker wants it."""
        for at, tensor in operation.asked.gives:
            fold.pick_up(operation.result, operation.layout.starts[at], tensor)

    def read(self, operation: Operation) -> None:
        """Says that this rank needs the result no more."""
        operation.result = None
        self._board.put(self.seats.me, operation.number, DONE, operation.number + 1)

    def is_read_by_all(self, number: int) -> bool:
        """Whether everyone of this host is through with that operation."""
        return all(self._board.get(member, number, DONE) >= number + 1 for member in self._local)

    def lost(self, operation: Operation) -> Optional[int]:
        """A rank that is gone, and without which the operation cannot end."""
        for member in self._local:
            rank, number = self.seats.ranks[member], operation.number
            if self._board.get(member, number, CONTRIBUTED) < number + 1 and self._ground.alive.is_gone(rank):
                return rank
        if self._exchange is None:
            return None
        lost: Optional[int] = self._exchange.lost(self.seats.ranks)
        over = self._all_folded(operation) and not (operation.direct and self._is_sending(operation.number))
        return None if over else lost

    def collect(self) -> None:
        """Frees blocks that nobody reads any more."""
        self._reuse.collect()

    def drop(self) -> None:
        """Lets go of the board."""
        self._board.drop()

    # -- what `exchange` calls ---------------------------------------------------------------------------------

    def room_for(self, member: int, number: int, size: int) -> "tuple[Block, int]":
        """A block for what a member of another host contributes to this host's parts, and its address."""
        while number >= RING and not self.is_read_by_all(number - RING):
            self._ground.bell.wait(self._ground.bell.seen(), PATIENCE_S)
        block = self._ground.slots.take(size)
        return block, self._ground.slots.address(block.owner, block.file, block.at)

    def came(self, member: int, number: int, block: Block, signature: int) -> None:
        """It lies there."""
        self._enter(member, number, block, signature)
        self._reuse.add(lambda: self.is_read_by_all(number), block)
        self._ground.bell.ring()

    def ring(self) -> None:
        """Wakes whoever waits."""
        self._ground.bell.ring()

    def result_at(self, number: int, from_byte: int) -> Optional[int]:
        """Where the result of that operation is to be put; None where nobody waits for it any more."""
        operation = self.open.get(number)
        if operation is None:
            return None
        return self._result_address(operation) + from_byte

    def result_came(self, number: int, parts: "list[int]") -> None:
        """Parts of a result, folded elsewhere, lie there."""
        for part in parts:
            self._board.set_folded(part, number)
        self._ground.bell.ring()

    def bounds(self, operation: Operation, host: str) -> "tuple[int, int]":
        """The elements, from and to, that a host folds; equal where it folds none."""
        held = [ends for (place, _), ends in zip(self._places, operation.parts) if place == host and ends[0] < ends[1]]
        return (held[0][0], held[-1][1]) if held else (0, 0)

    def parts_of(self, host: str) -> "list[int]":
        """The parts a host folds."""
        return [part for part, (place, _) in enumerate(self._places) if place == host]

    # -- within ------------------------------------------------------------------------------------------------

    def _adds_up(self, operation: Operation) -> bool:
        return self._takes_turns and fold.adds_up(operation.asked.reduction, operation.dtype)

    def _add_own(self, operation: Operation) -> bool:
        """Combines this rank's contribution with those of all before it, if just they lie where the result goes."""
        me, number, board = self.seats.me, operation.number, self._board
        if not self._adds_up(operation) or not board.claim(0, number):
            return False
        try:
            if me > 0 and (board.added(number) != me or board.get(0, number, SIGNATURE) != operation.signature()):
                return False
            total = fold.flat(self._result_address(operation), operation.dtype, operation.layout.total)
            board.set_added(number, board.under_way)
            put = fold.add_own if me > 0 else fold.lay_down
            put(operation.asked.takes, operation.layout, total, operation.asked.reduction)
            if me == 0:  # before anybody adds to it
                board.put(me, number, SIGNATURE, operation.signature())
            board.set_added(number, me + 1)
            return True
        finally:
            board.unclaim(0, number)

    def _add_up(self, operation: Operation) -> None:
        """Combines what is not yet combined; to be called by whoever has claimed the result."""
        number, board, reduction = operation.number, self._board, operation.asked.reduction
        count = board.added(number)
        if count >= board.under_way:
            return
        total = fold.flat(self._result_address(operation), operation.dtype, operation.layout.total)
        for member in range(count, board.members):
            each = self._contribution(operation, member, 0, operation.layout.total)
            board.set_added(number, board.under_way)
            if member == 0:  # it found somebody looking, and laid its own down elsewhere
                total.copy_(each)
            else:
                fold.add(reduction, each, total)
            board.set_added(number, member + 1)
        board.set_added(number, board.under_way)
        fold.finish(reduction, total, board.members)
        board.set_added(number, board.over)

    def _can_be_direct(self, asked: Asked) -> bool:
        # With nobody else on this host nobody else looks at what this rank contributes, or at its result.
        if len(self._local) > 1 or len(asked.takes) != 1 or asked.reduction.name == "PREMUL_SUM":
            return False
        tensor = asked.takes[0]
        in_place = len(asked.gives) == 1 and asked.gives[0][1] is tensor and asked.root < 0
        return in_place and bool(tensor.is_contiguous()) and tensor.numel() > 0

    def _take(self, number: int, size: int) -> Block:
        block: Block = self._ground.slots.take(max(1, size))
        self._reuse.add(lambda: self.is_read_by_all(number) and not self._is_sending(number), block)
        return block

    def _is_sending(self, number: int) -> bool:
        return self._exchange is not None and bool(self._exchange.is_sending(self.key, number))

    def _enter(self, member: int, number: int, block: Block, signature: int) -> None:
        put = self._board.put
        put(member, number, OWNER, block.owner)
        put(member, number, FILE, block.file)
        put(member, number, AT, block.at)
        put(member, number, SIGNATURE, signature)
        put(member, number, CONTRIBUTED, number + 1)

    def _needed(self, operation: Operation) -> "list[int]":
        # Members elsewhere send only to the hosts that fold something.
        mine = any(self._places[at][0] == self.seats.home and to > of for at, (of, to) in enumerate(operation.parts))
        return list(range(len(self.seats.ranks))) if mine else self._local

    def _due(self, operation: Operation) -> "list[int]":
        late = time.monotonic() - operation.whole_at_s > PATIENCE_S
        small = operation.layout.total * operation.layout.item <= SMALL_BYTES
        mine = (self.seats.home, self.seats.devices[self.seats.me])
        found = []
        for part, (of, to) in enumerate(operation.parts):
            place = self._places[part]
            ours = place[0] == mine[0] and (place == mine or small or late)
            if of < to and ours and not self._board.is_folded(part, operation.number):
                found.append(part)
        return found

    def _is_free(self, operation: Operation, part: int) -> bool:
        if not self._board.claim(part, operation.number):
            return False
        self._board.unclaim(part, operation.number)
        return True

    def _all_folded(self, operation: Operation) -> bool:
        return all(
            of == to or self._board.is_folded(part, operation.number) for part, (of, to) in enumerate(operation.parts)
        )

    def _check(self, operation: Operation) -> None:
        mine, number = operation.signature(), operation.number
        for member in self._needed(operation):
            if self._board.get(member, number, SIGNATURE) != mine:
                told = "ranks disagree about reduction %d of their group: its size, type or operation differ"
                operation.error = RuntimeError(told % number)

    def _fold(self, operation: Operation, part: int) -> None:
        of, to = operation.parts[part]
        if self._board.is_folded(part, operation.number):
            return  # somebody was faster between the look and the claim
        if operation.error is None and self._adds_up(operation):
            self._add_up(operation)
        elif operation.error is None:
            members = range(len(self.seats.ranks))
            inputs = [self._contribution(operation, member, of, to) for member in members]
            address = self._result_address(operation) + of * operation.layout.item
            fold.fold(operation.asked.reduction, inputs, fold.flat(address, operation.dtype, to - of))
        self._board.set_folded(part, operation.number)
        self._ground.bell.ring()

    def _contribution(self, operation: Operation, member: int, of: int, to: int) -> Any:
        get, number = self._board.get, operation.number
        if operation.direct and member == self.seats.me:
            return fold.flat(operation.direct + of * operation.layout.item, operation.dtype, to - of)
        owner, file, at = get(member, number, OWNER), get(member, number, FILE), get(member, number, AT)
        base = 0 if self.seats.hosts[member] == self.seats.home else self.bounds(operation, self.seats.home)[0]
        return self._flat(owner, file, at + (of - base) * operation.layout.item, operation.dtype, to - of)

    def _may_send(self, operation: Operation) -> bool:
        # What this host folds is complete, and it is this rank's to send it to the others.
        if self._exchange is None or not self._leads or operation.sent:
            return False
        ends = [(part, *operation.parts[part]) for part in self.parts_of(self.seats.home)]
        return all(of == to or self._board.is_folded(part, operation.number) for part, of, to in ends)

    def _send_results(self, operation: Operation) -> None:
        of, to = self.bounds(operation, self.seats.home)
        if of < to:
            self._exchange.results(self, operation, self._result_address(operation) + of * operation.layout.item)
        operation.sent = True

    def _finish(self, operation: Operation) -> bool:
        if operation.direct and self._is_sending(operation.number):
            return False  # the caller's own memory is on its way to others
        if operation.error is None and self._is_interrupted(operation):
            operation.error = RuntimeError("reduction %d of its group was interrupted" % operation.number)
        if operation.error is None and operation.asked.gives and not operation.direct:
            operation.result = fold.flat(self._result_address(operation), operation.dtype, operation.layout.total)
            if not operation.lent:
                self.pick_up(operation)
                operation.result = None
        if self._exchange is not None and self._leads and not operation.sent:
            return False  # others still wait for what this host folds
        if operation.result is None:
            self.read(operation)
        return True

    def _is_interrupted(self, operation: Operation) -> bool:
        # Its result is said to lie there, and somebody never came to the end of making it.
        return bool(operation.asked.gives) and self._board.added(operation.number) == self._board.under_way

    def _result_address(self, operation: Operation) -> int:
        if operation.direct:
            return operation.direct
        leader, number = self._local[0], operation.number
        file, at = self._board.get(leader, number, RESULT_FILE), self._board.get(leader, number, RESULT_AT)
        return int(self._ground.slots.address(self.seats.ranks[leader], file, at))

    def _flat(self, owner: int, file: int, at: int, dtype: Any, count: int) -> Any:
        return fold.flat(self._ground.slots.address(owner, file, at), dtype, count)
