"""A freeze's bytes, in the two halves that matter: `stage_cell` while the ranks stand still, the rest behind
them.

Stopped time holds a walk, the copying of changed files and a look at the logs' lengths. Hashing, manifests
and the way to the shared store are not in it. Called by the agent; knows neither CRIU nor processes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from ergosphere.snapshots.blobs import blob_key
from ergosphere.snapshots.copying import copy_file, is_no_room
from ergosphere.snapshots.digests import digest_bytes, digest_image
from ergosphere.snapshots.errors import StoreFull, Unreadable
from ergosphere.snapshots.logs import extend
from ergosphere.snapshots.manifest import CellPart, ImageFile, Manifest, MappedFile, RankPart
from ergosphere.snapshots.pool import Pool
from ergosphere.snapshots.scan import Found, Known, walk
from ergosphere.snapshots.store import Store
from ergosphere.snapshots.tree import Kind, Tree, TreeSum, load_tree, save_tree

WORK: Final = "work"
CACHE: Final = "cache"
REMOTE: Final = "remote/"
SEALS: Final = "seals.json"  # the stat of each image as it was hashed
COPIERS: Final = 2  # copying from memory to memory; more threads gain nothing

NO_BYTES: Final = digest_bytes(b"")

Facts = dict[str, Any]


@dataclass(frozen=True, slots=True)
class CellFiles:
    """Where a cell's files lie on this node. `logs` maps names like "rank0.out" to the files."""

    work: Path
    cache: Path | None
    logs: Mapping[str, Path]


@dataclass(frozen=True, slots=True)
class CellFacts:
    """What the agent knows of a cell and the manifest keeps."""

    index: int
    node: str
    address: str
    netns_key: str
    devices: tuple[int, ...]
    mapped: tuple[MappedFile, ...] = ()
    facts: Facts = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StagedTree:
    """A directory as it stood: of files known by stat the digests, of others that are not empty the bytes."""

    found: tuple[Found, ...]
    digests: Mapping[str, str]
    copies: Mapping[str, Path]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StagedCell:
    """All of a cell's files as of one instant. The ranks may go on once this exists."""

    folder: Path
    work: StagedTree
    cache: StagedTree | None
    logs: Mapping[str, tuple[Path, int]]  # name -> file, length
    distrust: frozenset[int]

    @property
    def notes(self) -> tuple[str, ...]:
        return self.work.notes + (self.cache.notes if self.cache else ())


def stage_cell(files: CellFiles, pool: Pool, *, distrust: frozenset[int] = frozenset()) -> StagedCell:
    """Copy what changed since the pool last knew it.

    The ranks must stand still; `distrust` is `mapped.writable_maps`.

    Errors: StoreFull (nothing is left behind), Unreadable.
    """
    folder = pool.incoming()
    try:
        work = _stage_tree(files.work, folder / WORK, pool.known(WORK), distrust)
        cache = _stage_tree(files.cache, folder / CACHE, pool.known(CACHE), distrust) if files.cache else None
        logs = {name: (path, path.stat().st_size) for name, path in files.logs.items()}
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        if is_no_room(error):
            raise StoreFull(str(pool.folder)) from error
        raise Unreadable(f"{error.filename or files.work} cannot be copied: {error.strerror}") from error
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return StagedCell(folder, work, cache, logs, distrust)


def discard(staged: StagedCell) -> None:
    """The freeze failed: forget what was staged."""
    shutil.rmtree(staged.folder, ignore_errors=True)


def build(
    staged: StagedCell,
    facts: CellFacts,
    images: Path,
    ranks: Mapping[int, Facts],
    pool: Pool,
    digests: Mapping[int, Mapping[str, str]] | None = None,
) -> CellPart:
    """Hash images and staged files; the cell's part of the manifest.

    Behind the ranks' backs, and uses up `staged`.

    `images` holds a folder rank<r> for each of `ranks`; `digests` is what a `Follower` already knows of them.
    Errors: StoreFull, OSError.
    """
    parts = tuple(_rank_part(images, rank, known, (digests or {}).get(rank, {})) for rank, known in ranks.items())
    _write_seals(images, parts)
    before = pool.logs()
    logs = tuple(extend(n, path, size, before.get(n), pool.store) for n, (path, size) in staged.logs.items())
    work = _finish_tree(staged.work, WORK, staged.distrust, pool)
    cache = _finish_tree(staged.cache, CACHE, staged.distrust, pool) if staged.cache else None
    pool.remember_logs(logs)
    discard(staged)
    return CellPart(
        facts.index, facts.node, facts.address, facts.netns_key, facts.devices,
        parts, work, cache, logs, facts.mapped, facts.facts,
    )  # fmt: skip


def is_remote(store: Store, manifest: Manifest) -> bool:
    """Whether every cell of the snapshot has reached the shared store."""
    return all(store.has(f"{REMOTE}{manifest.id}/{cell.index}") for cell in manifest.cells)


def read_seals(images: Path) -> dict[str, list[int]]:
    """Of each image, "rank0/core-1.img", its [size, mtime_ns, inode] when it was hashed; {} if nobody knows."""
    try:
        seals = json.loads((images / SEALS).read_text())
    except (OSError, ValueError):
        return {}
    return seals if isinstance(seals, dict) else {}


def seal_of(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def _stage_tree(root: Path, folder: Path, known: Known, distrust: frozenset[int]) -> StagedTree:
    walked = walk(root)
    folder.mkdir(mode=0o700)
    digests: dict[str, str] = {}
    copies: dict[str, Path] = {}
    for item in walked.found:
        if item.entry.kind is Kind.FILE:
            digest = None if item.key[3] in distrust else known.get(item.entry.path, item.key)
            if digest is not None:
                digests[item.entry.path] = digest
            elif item.entry.size:
                copies[item.entry.path] = folder / str(len(copies))
    with ThreadPoolExecutor(COPIERS) as workers:
        list(workers.map(lambda pair: copy_file(root / pair[0], pair[1]), copies.items()))
    return StagedTree(walked.found, digests, copies, walked.notes)


def _finish_tree(staged: StagedTree, name: str, distrust: frozenset[int], pool: Pool) -> TreeSum:
    digests = {path: _keep(copy, pool) for path, copy in staged.copies.items()} | dict(staged.digests)
    known, entries = Known(), []
    for item in staged.found:
        entry = item.entry
        if entry.kind is Kind.FILE:
            entry = replace(entry, digest=digests.get(entry.path, NO_BYTES))
            if item.key[3] not in distrust:
                known.remember(entry.path, item.key, entry.digest)
        entries.append(entry)
    pool.remember(name, known)
    return save_tree(pool.store, Tree(tuple(entries)))


def _keep(copy: Path, pool: Pool) -> str:
    digest = digest_image(copy)
    pool.store.put(blob_key(digest), copy, if_absent=True, share=True)
    return digest


def _rank_part(images: Path, rank: int, facts: Facts, digests: Mapping[str, str]) -> RankPart:
    folder = images / f"rank{rank}"
    files = []
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix != ".log":
            digest = digests.get(path.name) or digest_image(path)
            files.append(ImageFile(path.name, path.stat().st_size, digest))
    return RankPart(rank, tuple(files), facts)


def _write_seals(images: Path, parts: tuple[RankPart, ...]) -> None:
    names = [f"rank{part.rank}/{file.name}" for part in parts for file in part.files]
    seals = {**read_seals(images), **{name: seal_of(images / name) for name in names}}
    aside = images / f"{SEALS}.new"
    aside.write_text(json.dumps(seals))
    aside.replace(images / SEALS)


def file_blobs(part: CellPart, sources: list[Store]) -> set[str]:
    """Every blob a cell needs beside its images."""
    needed = {piece.digest for log in part.logs for piece in log.pieces}
    for summary in (part.work, part.cache):
        if summary is not None:
            needed |= {summary.digest, *load_tree(sources, summary.digest).digests()}
    return needed
