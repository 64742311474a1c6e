"""What people do with snapshots: look at one, compare two, begin another job from one. Which there are and which go is
the ledger's to say.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np

from ergosphere.snapshots.chunk_index import NOWHERE, Names
from ergosphere.snapshots.errors import Damaged, NotFound, NotRemote, Refused
from ergosphere.snapshots.manifest import CellPart, Manifest
from ergosphere.snapshots.recipes import ZEROS, Recipe, StreamPart, names_in, recipe_name
from ergosphere.snapshots.records import commit
from ergosphere.snapshots.remote import carry_over, cell_blobs, marker, overtaken
from ergosphere.snapshots.tree import Difference, compare, load_tree
from ergosphere.snapshots.vault import Vault

Kind = Literal["memory", "process", "files", "logs"]
KINDS: Final[tuple[Kind, ...]] = ("memory", "process", "files", "logs")
CHECKS_MAX: Final = 4


@dataclass(frozen=True, slots=True)
class Share:
    """Of one kind: streams, their bytes, and bytes that are not zeros."""

    streams: int = 0
    bytes: int = 0
    filled: int = 0


@dataclass(frozen=True, slots=True)
class Contents:
    """What is in a snapshot. `stored`: bytes its chunks take in the store, and
    what those are deltas of; `alone`: of those, what no other needs."""

    kinds: Mapping[Kind, Share]
    chunks: int
    stored: int
    alone: int


@dataclass(frozen=True, slots=True)
class Changed:
    """One image of both snapshots, or of one: bytes in each, and bytes of the second that the first does not have."""

    label: str
    before: int
    after: int
    fresh: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """From one snapshot to another. `files`: by cell; `logs`: name to bytes before and after."""

    images: tuple[Changed, ...]
    files: Mapping[int, tuple[Difference, ...]]
    logs: Mapping[str, tuple[int, int]]


def recipes_of(vault: Vault, manifest: Manifest) -> list[Recipe]:
    """The recipe of each cell. Errors: NotRemote, Damaged, StoreError."""
    try:
        return [vault.recipe(recipe_name(manifest.id, cell.index)) for cell in manifest.cells]
    except NotFound as error:
        raise NotRemote(
            f"snapshot {manifest.id} is on its node only", "wait until `ergo snapshot ls` shows it as remote"
        ) from error


def describe(vault: Vault, manifest: Manifest) -> Contents:
    """What is in a remote snapshot. Errors: NotRemote, Damaged, StoreError."""
    recipes = recipes_of(vault, manifest)
    vault.refresh()
    shares: dict[Kind, Share] = {kind: Share() for kind in KINDS}
    for recipe in recipes:
        for stream in recipe.streams:
            chunk, length = recipe.spans(stream)
            share, filled = shares[kind_of(stream)], int(length[chunk != ZEROS].sum(dtype=np.int64))
            shares[kind_of(stream)] = Share(share.streams + 1, share.bytes + stream.size, share.filled + filled)
    mine = _marked(vault, [recipe.names for recipe in recipes])
    own = {recipe.key for recipe in recipes}
    others = _marked(vault, _names_but(vault, own))
    stored = vault.index.rows["stored"]
    return Contents(shares, int(mine.sum()), int(stored[mine].sum()), int(stored[mine & ~others].sum()))


def kind_of(stream: StreamPart) -> Kind:
    """What a stream holds, by its label."""
    if "/pages-" in stream.label:
        return "memory"
    if "/" in stream.label:
        return "process"
    return "logs" if stream.label == "log" else "files"


def diff(vault: Vault, before: Manifest, after: Manifest) -> Comparison:
    """What changed between two remote snapshots. Errors: NotRemote, Damaged, StoreError."""
    old, new = recipes_of(vault, before), recipes_of(vault, after)
    images = _images_changed(old, new)
    files = {cell.index: _files_changed(vault, before, after, cell) for cell in after.cells}
    logs = {name: (before.log_lengths().get(name, 0), size) for name, size in after.log_lengths().items()}
    return Comparison(tuple(images), files, logs)


def fork(vault: Vault, manifest: Manifest, fresh: Manifest) -> Manifest:
    """Commit `fresh`, which is `manifest` under another id for another job: chunks are shared, no bytes are copied.

    Errors: NotRemote, Damaged, Refused (the id is taken), Busy, StoreError.
    """
    assert fresh.id != manifest.id, "a fork is a snapshot of its own"
    for recipe in recipes_of(vault, manifest):
        keep_recipe(vault, replace(recipe, freeze=fresh.id))
        vault.store.put(marker(fresh.id, recipe.cell), b"")
    if commit(vault.store, fresh.id, fresh) != fresh:
        raise Refused(f"snapshot {fresh.id} exists already or was called off", "choose another id")
    return fresh


def keep_recipe(vault: Vault, recipe: Recipe) -> None:
    """Store a recipe of chunks that are there, relying on nothing that a sweep may take away. Errors: Busy, Damaged."""
    vault.put_recipe(recipe)
    for attempt in range(CHECKS_MAX):
        vault.refresh()
        missing = recipe.names[vault.index.find(recipe.names) == NOWHERE]
        if not len(missing):
            return
        if (vault.doubtful.find(missing) == NOWHERE).any():
            raise Damaged(f"{len(missing)} chunk(s)", recipe.freeze, "are missing")
        if attempt < CHECKS_MAX - 1:
            carry_over(vault, recipe)
    raise overtaken(vault, recipe)


def _images_changed(old: list[Recipe], new: list[Recipe]) -> Iterator[Changed]:
    known = {name.tobytes() for recipe in old for name in recipe.names}
    sizes = {stream.label: stream.size for recipe in old for stream in recipe.streams if "/" in stream.label}
    for recipe in new:
        is_fresh = np.array([name.tobytes() not in known for name in recipe.names] + [False])
        for stream in recipe.streams:
            if "/" in stream.label:
                chunk, length = recipe.spans(stream)
                places = np.where(chunk == ZEROS, len(recipe.names), chunk)
                fresh = int(length[is_fresh[places]].sum(dtype=np.int64))
                yield Changed(stream.label, sizes.pop(stream.label, 0), stream.size, fresh)
    for label, size in sorted(sizes.items()):
        yield Changed(label, size, 0, 0)


def _files_changed(vault: Vault, before: Manifest, after: Manifest, cell: CellPart) -> tuple[Difference, ...]:
    try:
        old = before.cell(cell.index)
    except KeyError:
        return ()
    trees = [
        load_tree([cell_blobs(vault, manifest.id, part.index), vault.store], part.work.digest)
        for manifest, part in ((before, old), (after, cell))
    ]
    return compare(*trees)


def _names_but(vault: Vault, own: set[str]) -> Iterator[Names]:
    for name in vault.recipe_names():
        if name not in own:
            try:
                yield names_in(vault.recipe_bytes(name), name)
            except (Damaged, NotFound):
                continue


def _marked(vault: Vault, needed: list[Names] | Iterator[Names]) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    marked = np.zeros(len(vault.index), bool)
    for each in needed:
        rows = vault.index.find(each)
        marked[vault.index.with_bases(rows[rows != NOWHERE])] = True
    return marked
