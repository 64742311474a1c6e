"""Exact reductions of one group: launched, waited for, helped on while nobody waits, and given up.

Here is who waits, how long, and what ends that; what there is to do meanwhile `parts` does."""

from __future__ import annotations

from typing import Any, Callable, Final, Optional

from . import fold
from .calls import Asked
from .operation import Operation, PeerGone, Seats, Spent
from .parts import PATIENCE_S, GroupParts
from .slots import RING

LENT_MAX: Final = RING // 4  # results of one group that may be lent at once: others wait for their places
WAIT_S_MAX: Final = 0.25  # for a ring; then a look at what may have come to pass without one


def _timed_out(limit_s: Optional[float], what: str) -> RuntimeError:
    return RuntimeError("Timed out waiting %dms for %s to complete" % (1000 * (limit_s or 0.0), what))


class GroupSums:
    """The exact reductions of one group, as one of its members sees them."""

    def __init__(self, ground: Any, key: str, seats: Seats, exchange: Any) -> None:
        self._ground = ground  # what the ranks of this host share: bell, slots, turn, the living
        self._parts = GroupParts(ground, key, seats, exchange)
        self._open = self._parts.open
        self._lent: "dict[int, Operation]" = {}  # by number: results that are read where they lie
        self._number = 0
        self.spans_hosts = exchange is not None  # some members share no memory with this one

    def launch(self, asked: Asked, limit_s: "Callable[[], Optional[float]]") -> Operation:
        """Contributes to the group's next reduction; all tensors are of one type. `limit_s` as for `wait`."""
        layout = fold.lay_out(asked.takes)
        number, self._number = self._number, self._number + 1
        operation = Operation(number, asked, layout, self._parts.cut(layout, asked.root), limit_s)
        try:
            self._await_room(operation)
            self._open[number] = operation
            self._parts.contribute(operation)
        except BaseException:  # it was never launched: nothing may wait for its end
            self._open.pop(number, None)
            self._number = number
            raise
        if self.spans_hosts or self._parts.is_whole(operation):  # until then there is nothing to do for anybody
            self._ground.bell.ring()
        return operation

    def progress(self, operation: Operation) -> bool:
        """Does what can be done without waiting. True when the operation is over."""
        if not operation.done and operation.gate.acquire(blocking=False):
            try:
                if not operation.done and self._parts.progress(operation):
                    self._end(operation)
            finally:
                operation.gate.release()
        return operation.done

    def wait(self, operation: Operation, limit_s: "Callable[[], Optional[float]]") -> None:
        """Returns when it is over; hands the device over meanwhile. Raises what went wrong.

        `limit_s` is asked only once it has become long, and may grow."""
        if not self.wait_a_while(operation, limit_s):
            raise _timed_out(limit_s(), "reduction %d of its group" % operation.number)
        if operation.error is not None:
            raise operation.error

    def wait_a_while(self, operation: Operation, limit_s: "Callable[[], Optional[float]]") -> bool:
        """As `wait`, without a word about how it went. False when the time is up."""
        if operation.done:
            return True
        operation.waiters += 1
        try:
            return self._wait(operation, limit_s)
        finally:
            operation.waiters -= 1

    @staticmethod
    def follow(operation: Operation, follower: "Callable[[Operation], None]") -> None:
        """Calls `follower` once the operation is over, now if it is."""
        with operation.gate:
            if not operation.done:
                operation.followers.append(follower)
                return
        follower(operation)

    def lend(self, operation: Operation) -> bool:
        """Whether the result stays where it lies, as `operation.result`, for its asker to read until `give_back`."""
        with operation.gate:
            if operation.done or len(self._lent) >= LENT_MAX or not operation.can_be_lent():
                return False
            operation.lent = True
            self._lent[operation.number] = operation
            return True

    def pick_up(self, operation: Operation) -> None:
        """Copies a result that was lent to where it was asked for, too."""
        with operation.gate:
            if operation.result is not None:
                self._parts.pick_up(operation)

    def give_back(self, operation: Operation) -> None:
        """What was lent is not read any more; one that is not over yet ends as if it had not been lent."""
        with operation.gate:
            if self._lent.pop(operation.number, None) is not None:
                operation.lent = False
                if operation.done and operation.error is None:
                    self._parts.read(operation)

    def disown(self) -> None:
        """In a forked child: what was lent is the parent's to give back."""
        self._lent = {}

    def progress_unattended(self) -> bool:
        """Does what can be done about open operations that no thread waits for. True when there are none."""
        unattended = [operation for operation in list(self._open.values()) if not operation.waiters]
        over = [self._help_on(operation) for operation in unattended]  # each is helped on, whatever the others are
        return all(over)

    def progress_all(self) -> bool:
        """Does what can be done about all open operations. True when none is left."""
        for operation in list(self._open.values()):
            self.progress(operation)
        self._parts.collect()
        return not self._open and not self._lent

    def drop(self) -> None:
        """Lets go of the board."""
        self._lent = {}
        self._parts.drop()

    # -- within ------------------------------------------------------------------------------------------------

    def _await_room(self, operation: Operation) -> None:
        # More operations under way than nearly any program has: the oldest ones are waited for.
        before = operation.number - RING
        if before < 0 or self._parts.is_read_by_all(before):
            return
        spent = Spent()
        while not self._parts.is_read_by_all(before):
            seen = self._ground.bell.seen()
            self.progress_all()
            self._ground.turn.give()
            self._ground.bell.wait(seen, PATIENCE_S)
            if spent.time_to_look():
                for oldest in list(self._open.values())[:1]:
                    self._look_for_the_lost(oldest)
                if spent.is_over(operation.limit_s()):
                    raise _timed_out(operation.limit_s(), "one of the %d reductions under way in its group" % RING)
        self._ground.turn.take()

    def _wait(self, operation: Operation, limit_s: "Callable[[], Optional[float]]") -> bool:
        bell, turn, spent = self._ground.bell, self._ground.turn, Spent()
        while True:
            seen = bell.seen()
            if operation.done or self._parts.is_ready(operation):
                turn.take()
                if self.progress(operation):
                    break
            turn.give()
            bell.wait(seen, PATIENCE_S if operation.whole_at_s else WAIT_S_MAX)
            if spent.time_to_look():
                self._look_for_the_lost(operation)
                if spent.is_over(limit_s()) and not operation.done:
                    return False
        turn.take()
        return True

    def _help_on(self, operation: Operation) -> bool:
        """As `progress`; ends it with an error where nobody else would see that it cannot end any more."""
        try:
            if not self.progress(operation) and operation.unattended.time_to_look():
                self._look_for_the_lost(operation)
                if operation.unattended.is_over(operation.limit_s()):
                    raise _timed_out(operation.limit_s(), "reduction %d of its group" % operation.number)
        except RuntimeError as error:
            self._fail(operation, error)
        return operation.done

    def _end(self, operation: Operation) -> None:
        self._open.pop(operation.number, None)
        operation.done = True
        for follow in operation.followers:
            follow(operation)

    def _fail(self, operation: Operation, error: RuntimeError) -> None:
        with operation.gate:
            if operation.done:
                return
            operation.error, operation.done = error, True
            self._open.pop(operation.number, None)
            followers = list(operation.followers)
        self._ground.bell.ring()
        for follow in followers:
            follow(operation)

    def _look_for_the_lost(self, operation: Operation) -> None:
        rank = self._parts.lost(operation)
        if rank is not None:
            raise PeerGone("Connection closed by peer: rank %d has ended" % rank)
