"""Results brought home: what the job changed comes into its owner's folder, what was edited there meanwhile stays."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from ergosphere.snapshots.digests import digest_file
from ergosphere.snapshots.tree import Difference, Entry, Kind, Tree, compare

LISTED_MAX: Final = 8  # paths named in one sentence

Fetch = Callable[[Entry, Path], None]  # writes the file's content there, where nothing is yet


@dataclass(frozen=True, slots=True)
class Result:
    """The working copy of one cell at the job's end."""

    cell: int
    tree: Tree


@dataclass(frozen=True, slots=True)
class Pick:
    """One path to bring home, from which cell's copy."""

    cell: int
    entry: Entry


@dataclass(frozen=True, slots=True)
class Choice:
    """What is to come home. `removed`: the job deleted them. `disputed`: several cells changed them differently."""

    picks: tuple[Pick, ...]
    removed: tuple[str, ...]
    disputed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Brought:
    """What came home. `kept`: edited here meanwhile and left alone. `skipped`: cannot be made here."""

    written: tuple[str, ...]
    kept: tuple[str, ...]
    skipped: tuple[str, ...]


def choose(submitted: Tree, results: tuple[Result, ...]) -> Choice:
    """What the job changed, over all its copies; where two copies differ the first cell that changed a path wins."""
    picks: dict[str, Pick] = {}
    removed: set[str] = set()
    disputed: set[str] = set()
    for result in sorted(results, key=lambda r: r.cell):
        for difference in compare(submitted, result.tree):
            if difference.how == "removed":
                removed.add(difference.path)
                continue
            pick = Pick(result.cell, _unlinked(result.tree, difference))
            first = picks.setdefault(difference.path, pick)
            if _content(first.entry) != _content(pick.entry):
                disputed.add(difference.path)
    return Choice(tuple(picks.values()), tuple(sorted(removed - picks.keys())), tuple(sorted(disputed)))


def _unlinked(tree: Tree, difference: Difference) -> Entry:
    """The entry; a hard link as the file that it is another name of."""
    entry = tree.by_path[difference.path]
    return replace(tree.by_path[entry.target], path=entry.path) if entry.kind is Kind.HARDLINK else entry


def _content(entry: Entry) -> tuple[Kind, str, str, int]:
    return entry.kind, entry.digest, entry.target, entry.size


def bring(choice: Choice, submitted: Tree, folder: Path, fetch: Fetch, force: bool = False) -> Brought:
    """Write the picks below `folder`, each file whole or not at all. With `force` edited ones are overwritten too."""
    written, kept, skipped = [], [], []
    for pick in choice.picks:
        entry, path = pick.entry, folder / pick.entry.path
        if entry.kind is Kind.FIFO:
            skipped.append(entry.path)
        elif not _parents_are_folders(folder, entry.path) or (_edited(path, entry, submitted) and not force):
            kept.append(entry.path)
        elif _write(path, pick, fetch):
            written.append(entry.path)
    return Brought(tuple(written), tuple(kept), tuple(skipped))


def _parents_are_folders(folder: Path, relative: str) -> bool:
    """No part of the way is a link: nothing may be written through one to another place."""
    parents = [folder / parent for parent in list(Path(relative).parents)[:-1]]
    return all(
        parent.is_dir() and not parent.is_symlink() for parent in parents if parent.exists() or parent.is_symlink()
    )


def _edited(path: Path, entry: Entry, submitted: Tree) -> bool:
    """What lies there is neither what was submitted nor what the job made."""
    if not os.path.lexists(path):
        return False
    if entry.kind is Kind.DIR:
        return not path.is_dir() or path.is_symlink()
    before = submitted.by_path.get(entry.path)
    if before is not None and before.kind is Kind.HARDLINK:
        before = submitted.by_path[before.target]
    return not any(_is_there(path, e) for e in (before, entry) if e is not None)


def _is_there(path: Path, entry: Entry) -> bool:
    if entry.kind is Kind.SYMLINK:
        return path.is_symlink() and os.readlink(path) == entry.target  # noqa: PTH115  Path would tidy the text
    if entry.kind is not Kind.FILE or path.is_symlink() or not path.is_file():
        return False
    return path.stat().st_size == entry.size and (not entry.size or digest_file(path) == entry.digest)


def _write(path: Path, pick: Pick, fetch: Fetch) -> bool:
    """False when it was there already."""
    entry = pick.entry
    if entry.kind is Kind.DIR:
        existed = path.is_dir()
        path.mkdir(parents=True, exist_ok=True)
        return not existed
    if _is_there(path, entry) and (entry.kind is Kind.SYMLINK or path.stat().st_mode & 0o7777 == entry.mode):
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name[:200]}.ergo-new")
    aside.unlink(missing_ok=True)
    if entry.kind is Kind.SYMLINK:
        aside.symlink_to(entry.target)
    else:
        fetch(entry, aside) if entry.size else aside.touch()
        aside.chmod(entry.mode)
        os.utime(aside, ns=(entry.mtime_ns, entry.mtime_ns))
    aside.replace(path)
    return True


def listed(paths: tuple[str, ...]) -> str:
    """`a, b, c and 4 more`."""
    shown = ", ".join(paths[:LISTED_MAX])
    return shown if len(paths) <= LISTED_MAX else f"{shown} and {len(paths) - LISTED_MAX} more"
