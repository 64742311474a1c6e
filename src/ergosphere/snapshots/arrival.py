"""A cell's streams put together on another node while they are still on their way to the vault.

Follows the trail of the upload (`trail`). Every chunk is verified before it is written, the recipe says what is still
lacking, and a stream is given out only when it is whole and has its digest. What goes wrong here costs time: whoever
does not find a stream here reads it from the vault as if there had been no trail.
"""

from __future__ import annotations

import os
from collections.abc import Container, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Final

import numpy as np
from blake3 import blake3

from ergosphere.snapshots.blobs import blob_key
from ergosphere.snapshots.chunk_index import NOWHERE, names_of
from ergosphere.snapshots.copying import PRIVATE_MODE
from ergosphere.snapshots.errors import Damaged, NotFound
from ergosphere.snapshots.getting import FileTargets, fill
from ergosphere.snapshots.putting import WINDOW
from ergosphere.snapshots.recipes import ZEROS, Recipe, StreamPart, extended, recipe_name
from ergosphere.snapshots.store import FOLDER_MODE, FolderStore, Verified
from ergosphere.snapshots.trail import read_part
from ergosphere.snapshots.vault import Vault

COMING: Final = "coming"  # a file for each stream, with holes
BATCH: Final = 128 << 20  # bytes of streams fetched between two looks


class Arrived(Verified, FolderStore):
    """Streams that are whole, as blobs."""


@dataclass(slots=True)
class _Coming:
    """A stream with holes. `there`: offset → bytes; what is there without a gap from its beginning is hashed."""

    path: Path
    there: dict[int, int] = field(default_factory=dict)
    hasher: blake3 = field(default_factory=blake3)
    hashed: int = 0

    def add(self, start: int, size: int) -> None:
        """What has been written; zeros at the end of the file so far were not."""
        self.there[start] = size
        if self.path.stat().st_size < start + size:
            os.truncate(self.path, start + size)

    def hash_on(self) -> None:
        """Errors: OSError."""
        with self.path.open("rb") as file:
            while size := self.there.get(self.hashed):
                self.hasher.update(os.pread(file.fileno(), size, self.hashed))
                self.hashed += size

    def digest(self, size: int) -> str:
        """Of the whole stream, which has no holes any more. Errors: OSError."""
        with self.path.open("rb") as file:
            while content := os.pread(file.fileno(), min(WINDOW, size - self.hashed), self.hashed):
                self.hasher.update(content)
                self.hashed += len(content)
        return self.hasher.hexdigest()


class Arrival:
    """What has come of one cell so far. One thread's."""

    def __init__(self, vault: Vault, freeze: str, cell: int, folder: Path, wanted: Container[str]) -> None:
        """`folder`: absent or empty, where streams are put together. `wanted`: digests; others are left alone."""
        self._vault = vault
        self._wanted = wanted
        self._freeze, self._cell = freeze, cell
        self._folder = folder / COMING
        self._folder.mkdir(mode=FOLDER_MODE, parents=True)
        FolderStore.create(folder / "whole", durable=False)
        self.store = Arrived(folder / "whole", durable=False)
        self._seen: set[str] = set()
        self._waiting: list[tuple[Recipe, StreamPart]] = []  # windows
        self._coming: dict[str, _Coming] = {}  # by digest
        self.fetched = 0  # bytes of streams

    def advance(self) -> bool:
        """Fetch some of what is in the store by now; whether the upload has come any further.

        Errors: StoreError, OSError.
        """
        told, before = self._look(), self.fetched
        if self._waiting:
            self._vault.refresh()
            ready = self._ready()
            with suppress(Damaged):  # it is looked at again when the recipe is there
                self._fetch_windows(ready)
        return told or self.fetched > before

    def finish(self) -> None:
        """The upload has ended: complete what has come in part. Errors: NotFound, Damaged (the recipe), StoreError."""
        recipe = self._vault.recipe(recipe_name(self._freeze, self._cell))
        for stream in recipe.streams:
            if stream.digest in self._coming:
                with suppress(Damaged):
                    self._complete(recipe, stream)

    def _look(self) -> bool:
        """Read parts of the trail that are new."""
        name = f"{recipe_name(self._freeze, self._cell)}/"
        keys = [stored.key for stored in self._vault.list_trails(name) if stored.key not in self._seen]
        for key in keys:
            self._seen.add(key)
            with suppress(NotFound, Damaged):
                recipe = read_part(self._vault, key)
                self._waiting += [(recipe, window) for window in recipe.streams if window.digest in self._wanted]
        return bool(keys)

    def _is_there(self, window: StreamPart) -> bool:
        coming = self._coming.get(window.digest)
        return coming is not None and int(window.label) in coming.there

    def _ready(self) -> list[tuple[Recipe, StreamPart]]:
        """Windows all of whose chunks are in packs that will stay, no more than a batch; they wait no longer."""
        found: list[tuple[Recipe, StreamPart]] = []
        waiting: list[tuple[Recipe, StreamPart]] = []
        room = BATCH
        for recipe, group in groupby(self._waiting, key=lambda one: one[0]):
            here = self._vault.index.find(recipe.names) != NOWHERE
            for _, window in group:
                if self._is_there(window):  # an upload that was begun again told of it once more
                    continue
                chunk = recipe.spans(window)[0]
                is_ready = room > 0 and bool(here[chunk[chunk != ZEROS]].all())
                (found if is_ready else waiting).append((recipe, window))
                room -= window.size if is_ready else 0
        self._waiting = waiting
        return found

    def _fetch_windows(self, windows: list[tuple[Recipe, StreamPart]]) -> None:
        """Of several parts, in common requests."""
        none = np.zeros(0, np.uint32)
        joined = extended(Recipe(self._freeze, self._cell, (), names_of(b""), none, none), windows)
        self._fetch(joined, joined.streams)

    def _fetch(self, recipe: Recipe, windows: Sequence[StreamPart]) -> None:
        """Write windows of streams, each where its label says. Errors: Damaged, StoreError, OSError."""
        with ExitStack() as files:
            open_files = {digest: self._open(files, digest) for digest in {window.digest for window in windows}}
            targets = [(open_files[window.digest], int(window.label)) for window in windows]
            fill(self._vault, recipe, windows, FileTargets(targets))
        for window in windows:
            self._coming[window.digest].add(int(window.label), window.size)
            self.fetched += window.size
        for digest in open_files:
            self._coming[digest].hash_on()

    def _open(self, files: ExitStack, digest: str) -> int:
        coming = self._coming.setdefault(digest, _Coming(self._folder / digest))
        file = os.open(coming.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, PRIVATE_MODE)
        files.callback(os.close, file)
        return file

    def _complete(self, recipe: Recipe, stream: StreamPart) -> None:
        """Fetch what a stream lacks, and give it out if it is what its digest says."""
        coming = self._coming[stream.digest]
        try:
            self._fetch(recipe, lacking(recipe, stream, coming.there))
            if coming.digest(stream.size) == stream.digest:
                self.store.put(blob_key(stream.digest), coming.path, share=True)
        finally:
            coming.path.unlink()


def lacking(recipe: Recipe, stream: StreamPart, there: dict[int, int]) -> list[StreamPart]:
    """What of a stream is not `there` (offset → bytes), as windows of its recipe."""
    length = recipe.spans(stream)[1].astype(np.int64)
    start = np.cumsum(length) - length
    begins = np.array([-1, *sorted(there)], np.int64)
    ends = np.array([0, *(begin + there[begin] for begin in sorted(there))], np.int64)
    absent = start + length > ends[np.searchsorted(begins, start, "right") - 1]
    edges = np.flatnonzero(np.diff(np.concatenate(([False], absent, [False])).astype(np.int8)))
    return [
        replace(
            stream,
            label=str(int(start[first])),
            size=int(length[first:end].sum()),
            first=stream.first + first,
            spans=end - first,
        )
        for first, end in edges.reshape(-1, 2).tolist()
    ]
