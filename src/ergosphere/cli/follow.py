"""A job's streams as they grow, over restarts of the server, each byte once: followed by offset, never by time."""

from __future__ import annotations

import base64
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from ergosphere.cli.api import Client, Unreachable, job_path
from ergosphere.cli.errors import CliError
from ergosphere.cli.printing import Source
from ergosphere.wire.jobs import LogPage

PAGE_WAIT_S: Final = 20.0  # one long poll
RETRY_S: Final = 0.5  # between attempts while the server is away
PAGES_WAITING_MAX: Final = 64  # held in memory when the screen is slower than the job


@dataclass(frozen=True, slots=True)
class Piece:
    """The next bytes of a stream; `ended` with the last of them."""

    source: Source
    data: bytes
    ended: bool


@dataclass(frozen=True, slots=True)
class Away:
    """The server stopped answering (True) or answers again (False)."""

    away: bool


@dataclass(frozen=True, slots=True)
class Broken:
    """A stream cannot be followed any more."""

    fault: CliError


Told = Piece | Away | Broken
Connect = Callable[[], Client]


def read_page(client: Client, job: str, source: Source, offset: int, wait_s: float = 0.0) -> LogPage:
    """One page of a stream from `offset`; negative: its last bytes."""
    query = {"rank": source.rank, "stream": source.stream, "offset": offset, "wait_s": wait_s}
    return LogPage.model_validate(client.get(job_path(job, "logs"), query))


def page_bytes(page: LogPage) -> bytes:
    """The page's bytes as the job wrote them."""
    return base64.b64decode(page.data)


def follow(connect: Connect, job: str, offsets: Iterable[tuple[Source, int]], stop: threading.Event) -> Iterator[Told]:
    """Every byte of every stream from its offset, until all have ended; also when the server went and came back.

    `connect` opens a connection and is asked again after a loss (the server's address may have changed).
    Raises CliError when a stream cannot be followed. Set `stop` to make the threads leave.
    """
    told: queue.Queue[Told] = queue.Queue(PAGES_WAITING_MAX)
    waiting = 0
    for source, offset in offsets:
        threading.Thread(target=_follow_one, args=(connect, job, source, offset, told, stop), daemon=True).start()
        waiting += 1
    away = 0
    while waiting:
        match told.get():
            case Away(is_away):
                before, away = away, away + (1 if is_away else -1)
                if bool(before) != bool(away):
                    yield Away(bool(away))
            case Piece(ended=ended) as piece:
                waiting -= ended
                yield piece
            case Broken(fault):
                raise fault


def _follow_one(
    connect: Connect, job: str, source: Source, offset: int, told: queue.Queue[Told], stop: threading.Event
) -> None:
    client: Client | None = None
    away = ended = False
    while not ended and not stop.is_set():
        try:
            client = client or connect()
            page = read_page(client, job, source, offset, PAGE_WAIT_S)
        except Unreachable:
            if not away:
                told.put(Away(True))
            client, away = None, True
            stop.wait(RETRY_S)
            continue
        except CliError as fault:
            told.put(Broken(fault))
            return
        if away:
            told.put(Away(False))
            away = False
        data = page_bytes(page)
        offset, ended = page.offset + len(data), page.ended
        if data or ended:
            told.put(Piece(source, data, ended))
