"""Ships what ranks print to the server, so that logs can be read wherever a job is and after its end."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from ergosphere.agent.link import ServerAway, ServerLink
from ergosphere.agent.lives import LifeFolder, LifeRecord, folders
from ergosphere.agent.place import CellKey, Place
from ergosphere.system import Clock
from ergosphere.wire.agents import LogChunk

CHUNK_BYTES_MAX: Final = 256 * 1024
PERIOD_S: Final = 0.2
STREAMS: Final = ("out", "err")


@dataclass(slots=True)
class LogShipper:
    """Knows how far each log of this node has been shipped; what it forgets, the server tells it again."""

    place: Place
    link: ServerLink
    clock: Clock
    _sent: dict[tuple[CellKey, str], int] = field(default_factory=dict)
    _stale: set[CellKey] = field(default_factory=set)
    _busy: threading.Lock = field(default_factory=threading.Lock)

    def ship_all(self) -> None:
        """One round over every cell; raises ServerAway."""
        for folder in folders(self.place):
            self.ship(folder)

    def ship(self, folder: LifeFolder) -> None:
        """Everything one cell has printed so far."""
        record = folder.read()
        if record is None or record.phase == "building" or folder.key in self._stale:
            return
        with self._busy:
            for rank, stream in _streams(record):
                self._ship_stream(folder, record, rank, stream)

    def _ship_stream(self, folder: LifeFolder, record: LifeRecord, rank: int, stream: str) -> None:
        name = f"rank{rank}.{stream}"
        path = folder.log(rank, stream)
        slot = (folder.key, name)
        first = slot not in self._sent
        sent = self._sent.get(slot, record.log_base.get(name, 0))
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            return
        while first or sent < size:
            with path.open("rb") as file:
                file.seek(sent)
                content = file.read(CHUNK_BYTES_MAX)
            reply = self.link.logs(_chunk(record, name, sent, content))
            if reply.stale:
                self._stale.add(folder.key)
                return
            progressed = reply.length > sent or first
            first, sent = False, min(reply.length, size)
            self._sent[slot] = sent
            if not progressed and reply.length == sent:
                break

    def flush(self, folder: LifeFolder, within_s: float = 0.0) -> None:
        """The last of a cell's logs; a server that is away is waited for up to `within_s`."""
        until_s = self.clock.monotonic() + within_s
        while True:
            try:
                return self.ship(folder)
            except ServerAway:
                if self.clock.monotonic() >= until_s:
                    return None
                self.clock.sleep(PERIOD_S)

    def forget(self, key: CellKey) -> None:
        self._stale.discard(key)
        for slot in [slot for slot in self._sent if slot[0] == key]:
            del self._sent[slot]


def _streams(record: LifeRecord) -> Iterator[tuple[int, str]]:
    for rank in record.seat.ranks:
        for stream in STREAMS:
            yield rank, stream


def _chunk(record: LifeRecord, name: str, offset: int, content: bytes) -> LogChunk:
    data = base64.b64encode(content).decode()
    life = record.plan
    return LogChunk(job=life.job, incarnation=life.incarnation, birth=record.birth, name=name, offset=offset, data=data)
