"""From trees to directories: lay one out anew, or make an existing copy equal to it again (a roll-back).

The directory belongs to the caller alone while this runs: nothing else may write in it.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from ergosphere.snapshots.copying import make_sparse
from ergosphere.snapshots.digests import digest_file
from ergosphere.snapshots.scan import Found, Known, stat_key, walk
from ergosphere.snapshots.tree import ROOT, Entry, Kind, Tree

BUILDING_MODE: Final = 0o700

Fetch = Callable[[str, Path], None]  # (digest, absent path): write the file with this digest there, verified


def materialise(tree: Tree, dest: Path, fetch: Fetch) -> Known:
    """Lay the tree out in `dest`, absent or empty, exact to the nanosecond of every time stamp; its stat
    cache.
    """
    dest.mkdir(mode=BUILDING_MODE, parents=True, exist_ok=True)
    if next(os.scandir(dest), None) is not None:
        raise FileExistsError(f"{dest} is not empty")
    for entry in tree.entries:
        if entry.path != ROOT:
            _create(dest, entry, fetch)
    _settle(dest, tree.entries)
    return _knowledge(dest, tree)


def restore(tree: Tree, dest: Path, fetch: Fetch, known: Known | None = None) -> Known:
    """Make `dest` equal to the tree: what is new goes, what is gone returns, what is equal is not written.

    A file is equal when `known` has its digest under its present stat, or when it has been read and hashed.
    """
    if not dest.is_dir():
        return materialise(tree, dest, fetch)
    existing = {item.entry.path: item for item in walk(dest).found}
    _remove_all(dest, tree, existing)
    for entry in tree.entries:
        if entry.path != ROOT and not _is_there(dest, entry, existing, known or Known()):
            _remove(dest / entry.path)
            _create(dest, entry, fetch)
    _settle(dest, tree.entries)
    return _knowledge(dest, tree)


def _remove_all(dest: Path, tree: Tree, existing: dict[str, Found]) -> None:
    """Remove what the tree does not have, and what a walk does not even report (sockets, devices)."""
    for folder in [path for path, item in existing.items() if item.entry.kind is Kind.DIR]:
        if (dest / folder).is_symlink() or not (dest / folder).is_dir():
            continue  # went with its parent
        for item in list(os.scandir(dest / folder)):
            path = item.name if folder == ROOT else f"{folder}/{item.name}"
            if path not in tree.by_path:
                _remove(dest / path)


def _is_there(dest: Path, entry: Entry, existing: dict[str, Found], known: Known) -> bool:
    path = dest / entry.path
    found = existing.get(entry.path)
    if entry.kind is Kind.HARDLINK:
        return _same_file(path, dest / entry.target)
    if found is None or found.entry.kind is not entry.kind or not os.path.lexists(path):
        return False
    if entry.kind is Kind.SYMLINK:
        return found.entry.target == entry.target
    if entry.kind is not Kind.FILE:
        return True
    if found.entry.size != entry.size or found.entry.sparse != entry.sparse:
        return False
    digest = known.get(entry.path, found.key) or digest_file(path)
    return digest == entry.digest


def _same_file(path: Path, other: Path) -> bool:
    try:
        return os.path.samestat(path.lstat(), other.lstat())
    except FileNotFoundError:
        return False


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _create(dest: Path, entry: Entry, fetch: Fetch) -> None:
    path = dest / entry.path
    match entry.kind:
        case Kind.DIR:
            path.mkdir(mode=BUILDING_MODE)
        case Kind.SYMLINK:
            path.symlink_to(entry.target)
        case Kind.HARDLINK:
            os.link(dest / entry.target, path, follow_symlinks=False)
        case Kind.FIFO:
            os.mkfifo(path, 0o600)
        case Kind.FILE:
            _create_file(path, entry, fetch)


def _create_file(path: Path, entry: Entry, fetch: Fetch) -> None:
    if not entry.size:
        path.touch(mode=0o600, exist_ok=False)
        return
    fetch(entry.digest, path)
    if entry.sparse and path.stat().st_blocks * 512 >= entry.size:
        make_sparse(path)


def _settle(dest: Path, entries: Iterable[Entry]) -> None:
    """Owners, modes and times, deepest first: a directory's time is right only once its contents are."""
    for entry in reversed(list(entries)):
        if entry.kind is Kind.HARDLINK:
            continue
        path = dest / entry.path
        status = path.lstat()
        if (status.st_uid, status.st_gid) != (entry.uid, entry.gid):
            os.chown(path, entry.uid, entry.gid, follow_symlinks=False)
            status = path.lstat()  # a change of owner clears setuid
        if entry.kind is not Kind.SYMLINK and stat.S_IMODE(status.st_mode) != entry.mode:
            path.chmod(entry.mode)
        if status.st_mtime_ns != entry.mtime_ns:
            os.utime(path, ns=(entry.mtime_ns, entry.mtime_ns), follow_symlinks=False)


def _knowledge(dest: Path, tree: Tree) -> Known:
    known = Known()
    for entry in tree.entries:
        if entry.kind is Kind.FILE:
            known.remember(entry.path, stat_key((dest / entry.path).lstat()), entry.digest)
    return known
