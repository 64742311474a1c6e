"""What is wrapped around a store: retries, a bandwidth limit, a meter. Each is a store itself and knows one thing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal, TypeVar

from ergosphere.snapshots.errors import BadKey, NotFound, Stopped, StoreFull, StoreUnreachable
from ergosphere.snapshots.sealing import Bytes
from ergosphere.snapshots.store import Source, Store, Stored
from ergosphere.system import Clock

ATTEMPTS: Final = 5
STEP_S: Final = 0.5  # of a wait for a limit, after which it hears whether it was called off
FIRST_WAIT_S: Final = 0.2  # doubled each time: three seconds in all
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call:
    """One operation: what it does, on what, and how many bytes it sends."""

    verb: Literal["put", "get", "has", "list", "delete"]
    key: str
    sent: int = 0


class Around:
    """A store around another: every call goes through `_do`."""

    def __init__(self, inner: Store) -> None:
        self.inner = inner

    def _do(self, call: Call, act: Callable[[], T]) -> T:
        return act()

    def put(self, key: str, source: Source, *, if_absent: bool = False, share: bool = False) -> bool:
        call = Call("put", key, size_of(source))
        return self._do(call, lambda: self.inner.put(key, source, if_absent=if_absent, share=share))

    def get(self, key: str) -> bytes:
        return self._do(Call("get", key), lambda: self.inner.get(key))

    def get_range(self, key: str, start: int, size: int, room: memoryview | None = None) -> Bytes:
        return self._do(Call("get", key), lambda: self.inner.get_range(key, start, size, room))

    def fetch(self, key: str, dest: Path, *, share: bool = False) -> None:
        self._do(Call("get", key), lambda: self.inner.fetch(key, dest, share=share))

    def has(self, key: str) -> bool:
        return self._do(Call("has", key), lambda: self.inner.has(key))

    def list(self, prefix: str = "") -> Iterator[Stored]:
        return iter(self._do(Call("list", prefix), lambda: [*self.inner.list(prefix)]))

    def delete(self, key: str, *, written_before_s: float | None = None) -> bool:
        return self._do(Call("delete", key), lambda: self.inner.delete(key, written_before_s=written_before_s))

    def forget(self, key: str) -> bool:
        return self.inner.forget(key)


class Retrying(Around):
    """Asks again while the store does not answer. A conditional put that is asked twice may find itself in its way:
    who needs to know who won reads what is there, as `records` does.
    """

    def __init__(self, inner: Store, clock: Clock, attempts: int = ATTEMPTS) -> None:
        super().__init__(inner)
        self._clock = clock
        self._attempts = attempts

    def _do(self, call: Call, act: Callable[[], T]) -> T:
        for attempt in range(self._attempts - 1):
            try:
                return act()
            except (BadKey, NotFound, StoreFull):
                raise
            except StoreUnreachable:
                self._clock.sleep(FIRST_WAIT_S * 2**attempt)
        return act()


@dataclass(slots=True)
class Limit:
    """Bytes a second that may be sent; None for any number. May be changed at any time, from any thread."""

    bytes_per_s: float | None = None
    _free_at_s: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def wait_s(self, count: int, now_s: float) -> float:
        """Take `count` bytes; how long to wait until they are over the wire."""
        with self._lock:
            if not self.bytes_per_s:
                return 0.0
            start = max(now_s, self._free_at_s)
            self._free_at_s = start + count / self.bytes_per_s
            return self._free_at_s - now_s

    def give_back(self, count: int) -> None:
        """`count` bytes that were taken are not sent after all."""
        with self._lock:
            if self.bytes_per_s:
                self._free_at_s -= count / self.bytes_per_s


_stop: ContextVar[threading.Event | None] = ContextVar("stop", default=None)


@contextmanager
def stoppable(stop: threading.Event) -> Iterator[None]:
    """Waits of this thread for a limit end with Stopped once `stop` is set: a pack may have to wait for minutes."""
    token = _stop.set(stop)
    try:
        yield
    finally:
        _stop.reset(token)


# Decisions, until which a rank may stand still, and what somebody waits for: submissions and results.
AT_ONCE: Final = ("freezes/", "remote/", "blobs/", "results/")
TRAILS: Final = "/trails/"  # what an upload says of itself is no use behind what it says


class Limited(Around):
    """Sends no faster than its limit says; whoever puts waits. What somebody waits for never waits behind an upload."""

    def __init__(self, inner: Store, limit: Limit, clock: Clock) -> None:
        super().__init__(inner)
        self._limit = limit
        self._clock = clock

    def _do(self, call: Call, act: Callable[[], T]) -> T:
        free = not call.sent or call.key.startswith(AT_ONCE) or TRAILS in call.key
        if not free:
            now_s = self._clock.monotonic()
            self._wait(now_s + self._limit.wait_s(call.sent, now_s), call.sent)
        return act()

    def _wait(self, until_s: float, count: int) -> None:
        stop = _stop.get()
        while (left_s := until_s - self._clock.monotonic()) > 0:
            if stop is not None and stop.is_set():
                self._limit.give_back(count)
                raise Stopped("the upload was called off", "it goes on where it stopped when it is asked for again")
            self._clock.sleep(min(left_s, STEP_S))


@dataclass(frozen=True, slots=True)
class Figures:
    """What went over a store since it was opened. Bytes, and seconds summed over threads."""

    puts: int = 0
    put_bytes: int = 0
    put_s: float = 0.0
    gets: int = 0
    get_bytes: int = 0
    get_s: float = 0.0
    others: int = 0
    failures: int = 0


class Metered(Around):
    """Counts calls, bytes and seconds."""

    def __init__(self, inner: Store, clock: Clock) -> None:
        super().__init__(inner)
        self._clock = clock
        self._lock = threading.Lock()
        self._figures = Figures()

    def figures(self) -> Figures:
        with self._lock:
            return self._figures

    def _do(self, call: Call, act: Callable[[], T]) -> T:
        began_s = self._clock.monotonic()
        try:
            result = act()
        except StoreUnreachable:
            self._add(Figures(failures=1))
            raise
        took_s = self._clock.monotonic() - began_s
        match call.verb:
            case "put":
                self._add(Figures(puts=1, put_bytes=call.sent, put_s=took_s))
            case "get":
                self._add(Figures(gets=1, get_bytes=len(result) if isinstance(result, Bytes) else 0, get_s=took_s))
            case _:
                self._add(Figures(others=1))
        return result

    def fetch(self, key: str, dest: Path, *, share: bool = False) -> None:
        super().fetch(key, dest, share=share)
        self._add(Figures(get_bytes=dest.stat().st_size))

    def _add(self, more: Figures) -> None:
        with self._lock:
            now = self._figures
            summed = {name: getattr(now, name) + getattr(more, name) for name in Figures.__slots__}
            self._figures = replace(now, **summed)


def size_of(source: Source) -> int:
    """Bytes of what is put."""
    return source.stat().st_size if isinstance(source, Path) else len(source)
