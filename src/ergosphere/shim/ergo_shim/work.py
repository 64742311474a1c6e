"""The handle a program gets for an operation: a `Work` around the real one, which it lets go of once that is done.

The real handle keeps Gloo's sockets open for as long as it lives, so none may outlive a cut."""

from __future__ import annotations

import re
import threading
from typing import Any, Final, Optional

COLLECTIVE: Final = "collective"
PAIRWISE: Final = "pairwise"
FROM_ANYONE: Final = "from anyone"

# What Gloo and NCCL say when the other side has gone. Timeouts are the program's own business and are not here.
_PEER_GONE = re.compile(
    "connection (closed|reset|refused)|broken pipe|remote process exited|socket closed|peer.*(closed|reset|gone)", re.I
)


def peer_is_gone(error: BaseException) -> bool:
    """Whether an operation failed because a peer vanished."""
    return isinstance(error, (RuntimeError, OSError)) and _PEER_GONE.search(str(error)) is not None


class Waiting:
    """A program's thread inside a real group; a peer that vanished is judged before the program hears of it."""

    __slots__ = ("_seam",)

    def __init__(self, seam: Any) -> None:
        self._seam = seam

    def __enter__(self) -> None:
        self._seam.step_in()

    def __exit__(self, kind: Any, error: Optional[BaseException], trace: Any) -> None:
        try:
            if error is not None and peer_is_gone(error):
                self._seam.judge(str(error))
        finally:
            self._seam.step_out()


def work_class(base: Any) -> Any:
    """The class of our handles, a subclass of torch's `Work`."""

    class HeldWork(base):  # type: ignore[misc]
        """One operation in flight or done; `real` is None once it is done."""

        def __init__(self, group: Any, real: Any, kind: str) -> None:
            base.__init__(self)
            self._group = group
            self._kind = kind
            self._real = real
            self._future: Any = None
            self._error: Optional[BaseException] = None
            self._source: Optional[int] = None
            # One waiter at a time, for a real send or receive can be waited for once only.
            self._gate = threading.Lock()
            self._finisher: Optional[threading.Thread] = None

        # -- what torch calls

        def wait(self, *args: Any, **kwargs: Any) -> Any:
            # As `Waiting`, written out: every collective comes through here.
            seam = self._group.seam
            seam.step_in()
            try:
                with self._gate:
                    return self._wait(args, kwargs)
            except BaseException as error:
                if peer_is_gone(error):
                    seam.judge(str(error))
                raise
            finally:
                seam.step_out()

        def get_future(self) -> Any:
            real = self._real
            if real is not None and self._future is None:
                self._future = real.get_future().then(self._deliver)
            if self._future is None:
                raise RuntimeError("Work::getFuture not implemented.")
            return self._future

        def is_completed(self) -> bool:
            real = self._real
            return True if real is None else bool(real.is_completed())

        def is_success(self) -> bool:
            real = self._real
            return self._error is None if real is None else bool(real.is_success())

        def exception(self) -> Any:
            real = self._real
            return self._error if real is None else real.exception()

        def result(self) -> Any:
            real = self._real
            if real is not None:
                return real.result()
            return [] if self._future is None else self._future.value()

        def synchronize(self) -> None:
            real = self._real
            if real is not None:
                real.synchronize()

        def block_current_stream(self) -> None:
            real = self._real
            if real is not None:
                real.block_current_stream()

        def source_rank(self) -> int:
            real = self._real
            return int(real._source_rank()) if real is not None else -1 if self._source is None else self._source

        _source_rank = source_rank

        def get_future_result(self) -> Any:
            return self._real.get_future_result()

        # -- what the group calls

        def settle(self) -> bool:
            """Lets go of the real handle if the operation is done; sees to it that it will be. True when let go."""
            real = self._real
            if real is not None and not self.let_go_if_done() and self._is_silent(real):
                self._finish_aside()
            return self._real is None

        def let_go_if_done(self) -> bool:
            """Lets go of the real handle if it says it is done. True when let go."""
            real = self._real
            if real is not None and real.is_completed() and self._gate.acquire(blocking=False):
                try:
                    self._finish_quietly()
                finally:
                    self._gate.release()
            return self._real is None

        # -- within

        def _wait(self, args: Any, kwargs: Any) -> Any:
            real = self._real
            if real is None:
                if self._error is not None:
                    raise self._error
                return True
            elastic = self._group.seam.elastic
            try:
                if elastic.ground is not None and not real.is_completed():
                    elastic.give()
                answer = real.wait(*args, **kwargs)
            except Exception as error:
                self._error = error
                self._let_go()
                raise
            finally:
                elastic.take()
            self._keep(real)
            self._let_go()
            return answer

        def _keep(self, real: Any) -> None:
            if self._kind == FROM_ANYONE:
                self._source = real._source_rank()
            elif self._kind == COLLECTIVE and self._future is None:
                self._future = _future(real)

        def _is_silent(self, real: Any) -> bool:
            # Some real handles never say that they are done unless waited for; those have no future either.
            return self._kind != COLLECTIVE or (self._future is None and _future(real) is None)

        def _let_go(self) -> None:
            self._group.outstanding.pop(id(self), None)
            self._real = None

        def _finish_quietly(self) -> None:
            try:
                self._wait((), {})
            except Exception:
                pass  # kept: whoever waits for this handle is told

        def _finish_aside(self) -> None:
            if self._finisher is None or not self._finisher.is_alive():
                self._finisher = threading.Thread(target=self._finish_when_free, name="ergosphere-finish", daemon=True)
                self._finisher.start()

        def _finish_when_free(self) -> None:
            with self._gate:
                self._finish_quietly()

        def _deliver(self, future: Any) -> Any:
            try:
                return future.value()
            except Exception as error:
                if peer_is_gone(error):
                    self._group.seam.judge(str(error))
                raise

    return HeldWork


def _future(real: Any) -> Any:
    try:
        return real.get_future()
    except RuntimeError:
        return None
