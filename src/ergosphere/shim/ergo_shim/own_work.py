"""The handle a program gets for a reduction of ours: to torch a `Work` like any other."""

from __future__ import annotations

import sys
import threading
import weakref
from typing import Any, Final, Optional

from .operation import Operation
from .sums import GroupSums
from .turn import nobody
from .work import Waiting, peer_is_gone

OURS: Final = "ergosphere"  # how the names of our own threads begin


def future_class(base: Any) -> Any:
    """The class of their futures, a subclass of torch's `Future`."""

    class OwnFuture(base):  # type: ignore[misc]
        """Whoever waits for it helps the reduction on: C++ would only wait, and with the device."""

        work: Any

        def wait(self) -> Any:
            self.work.wait()
            return base.wait(self)

    return OwnFuture


def own_work_class(base: Any) -> Any:
    """The class of these handles, a subclass of torch's `Work`."""
    own_future = future_class(sys.modules["torch"].futures.Future)

    class OwnWork(base):  # type: ignore[misc]
        """One reduction; `value` is what its future will give."""

        def __init__(self, group: Any, sums: GroupSums, operation: Operation, value: "list[Any]") -> None:
            base.__init__(self)
            self._group = group
            self.sums = sums
            self._operation = operation
            self._value = value
            self._future: Any = None

        # -- what torch calls

        def wait(self, *args: Any, **kwargs: Any) -> bool:
            with Waiting(self._group.seam):
                given = args[0] if args else kwargs.get("timeout")
                self.sums.wait(self._operation, given.total_seconds if given else self._operation.limit_s)
                self.sums.pick_up(self._operation)
                self._let_go()
                return True

        def get_future(self) -> Any:
            if self._future is None:
                self._future = own_future()
                self._future.work = self
                self._lend()
                self.sums.follow(self._operation, self._fulfil)
                self._group.seam.elastic.carry_on()
            return self._future

        def is_completed(self) -> bool:
            return self.sums.progress(self._operation)

        def is_success(self) -> bool:
            return self.is_completed() and self.exception() is None

        def exception(self) -> Optional[BaseException]:
            return self._operation.error

        def result(self) -> Any:
            return self._value

        def synchronize(self) -> None:
            self.wait()

        def block_current_stream(self) -> None:
            self.wait()

        def source_rank(self) -> int:
            return -1

        _source_rank = source_rank

        # -- what the group calls

        def settle(self) -> bool:
            """Does what can be done without waiting. True when the reduction is over."""
            return self.let_go_if_done()

        def let_go_if_done(self) -> bool:
            """Forgets the reduction if it is over."""
            if not self.is_completed():
                return False
            self._let_go()
            return True

        def attend(self, more: int) -> None:
            """So many more threads than before wait for it, or are about to. A reduction over several hosts is looked
            after by others all the same: they send its results on while this thread waits for an earlier one."""
            if self.sums.spans_hosts:
                return
            self._operation.waiters += more
            if not self._operation.waiters and not self._operation.done:
                self._group.seam.elastic.carry_on()

        def flush(self) -> None:
            """Waits, at the end of a backward pass, and raises what went wrong: DDP's C++ expects a result.

            Not without end: what a peer does before it comes here may need what this rank does after its backward
            pass. Others see to the reduction then."""
            elastic = self._group.seam.elastic
            ground = elastic.ground  # a cut may take it away meanwhile
            turn = ground.turn if ground is not None else nobody()
            if not turn.useless and not self._operation.done:
                with Waiting(self._group.seam):
                    if not self.sums.wait_a_while(self._operation, lambda: turn.patience_s):
                        turn.overran()
            if self._operation.done:
                self.let_go_if_done()
                if self._operation.error is not None:
                    raise self._operation.error
            else:
                elastic.carry_on()

        # -- within

        def _lend(self) -> None:
            # DDP's reducer reads what the future gives, and nothing else, before its backward pass is over.
            backward = _flushes.get(_key(self.sums))
            if backward is None or self not in backward.works or not _is_asked_by_torch():
                return
            if self.sums.lend(self._operation):
                backward.lent.append((self.sums, self._operation))

        def _fulfil(self, operation: Operation) -> None:
            # What the program hung on the future may wait for the next reduction, which our own threads bring about.
            if threading.current_thread().name.startswith(OURS):
                threading.Thread(target=self._fulfil_here, args=(operation,), daemon=True).start()
            else:
                self._fulfil_here(operation)

        def _fulfil_here(self, operation: Operation) -> None:
            if operation.error is None:
                self._future.set_result([operation.result] if operation.lent else self._value)
            else:
                if peer_is_gone(operation.error):
                    self._group.seam.judge(str(operation.error))
                self._future.set_exception(operation.error)

        def _let_go(self) -> None:
            self._group.outstanding.pop(id(self), None)

    return OwnWork


class Flush:
    """What a group launched inside one backward pass, waited for at its end, one reduction after the other."""

    def __init__(self) -> None:
        self.works: "list[Any]" = []
        self.lent: "list[Any]" = []
        self.has_begun = False

    def __del__(self) -> None:  # torch's engine lets go of it when the pass is over, however it ended
        self._give_back()

    def __call__(self) -> None:
        # Those whose time is still to come are as good as waited for: nobody else needs to look after them.
        self.has_begun = True
        left = list(self.works)
        for work in left:
            work.attend(1)
        try:
            while left:
                work = left[0]
                try:
                    work.flush()
                finally:
                    left.pop(0).attend(-1)  # whoever was given up on, others look after from here on
        except BaseException:  # which may keep this object alive: nobody comes to read results now
            self._give_back()
            raise
        finally:
            for work in left:
                work.attend(-1)

    def _give_back(self) -> None:
        lent, self.lent = self.lent, []
        for sums, operation in lent:
            sums.give_back(operation)


_flushes: "weakref.WeakValueDictionary[Any, Flush]" = weakref.WeakValueDictionary()  # the engine holds them


def flush_with_backward(work: Any) -> bool:
    """Has `work` waited for at the end of the backward pass that runs now. False outside one.

    Inside a backward pass DDP waits in C++, where nobody could hand the device over; this runs before that."""
    torch = sys.modules["torch"]
    key = _key(work.sums)
    flush = _flushes.get(key)
    if flush is None or flush.has_begun:
        flush = Flush()
        try:
            torch.autograd.Variable._execution_engine.queue_callback(flush)
        except RuntimeError:
            return False
        _flushes[key] = flush
    flush.works.append(work)
    return True


def _key(sums: GroupSums) -> Any:
    return sys.modules["torch"]._C._current_graph_task_id(), id(sums)


def _is_asked_by_torch() -> bool:
    """Whether who called the handle is the one backward pass under way here itself, and no code of the program's."""
    engine = sys.modules["torch.autograd.graph"]._engine_run_backward.__code__
    try:
        frame: Any = sys._getframe(3)
    except ValueError:
        return False  # a thread of the engine's own
    if frame.f_code is not engine:
        return False
    while frame.f_back is not None:
        frame = frame.f_back
        if frame.f_code is engine:
            return False  # within another one, which may end first
    return True
