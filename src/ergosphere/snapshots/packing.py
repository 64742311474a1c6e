"""Packs between the threads that fill them and those that store them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future

from ergosphere.snapshots.packs import PackBuilder
from ergosphere.snapshots.pipeline import Kept


class Packs:
    """Packs that are being filled and those on their way to the store: as many as there is room for."""

    def __init__(self, store: Callable[[PackBuilder], None], pool: Executor, builders: Kept[PackBuilder]) -> None:
        self._store = store
        self._pool = pool
        self._sent: list[Future[None]] = []
        self._builders = builders

    def take(self) -> PackBuilder:
        """An empty one, as soon as there is one."""
        return self._builders.take()

    def send(self, builder: PackBuilder) -> None:
        self._sent.append(self._pool.submit(self._send, builder))

    def finish(self) -> None:
        """All are in the store. Errors: as the store's put."""
        for sent in self._sent:
            sent.result()

    def _send(self, builder: PackBuilder) -> None:
        try:
            self._store(builder)
        finally:
            self._builders.give_back(builder)
