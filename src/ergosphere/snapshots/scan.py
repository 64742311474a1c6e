"""From directories to trees: walk, limit, hash.

Files whose stat is as it was when last hashed are not read again.
"""

from __future__ import annotations

import json
import os
import stat
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from ergosphere.snapshots.copying import copy_file, is_no_room, is_sparse
from ergosphere.snapshots.digests import digest_bytes, digest_file, digest_image
from ergosphere.snapshots.errors import Changing, StoreFull, TooBig, TreeError, Unreadable
from ergosphere.snapshots.tree import ROOT, Difference, Entry, Kind, Tree

MEGABYTE: Final = 1_000_000
READ_ATTEMPTS_MAX: Final = 3  # a file that changes under every one of them is refused
SETTLED_NS: Final = 2_000_000_000  # a file changed this recently may change again within one tick of its clock
INLINE_SIZE_MAX: Final = 16 * MEGABYTE  # bytes; larger files are uploaded from a private copy, not from memory
OFFENDERS_MAX: Final = 5
COUNT_MAX: Final = 1_000_000  # entries; beyond this a walk stops counting

Excluded = Callable[[str, bool], bool]  # (relative path, is it a directory) -> leave it out
StatKey = tuple[int, int, int, int]  # size, mtime_ns, ctime_ns, inode


def nothing(path: str, is_dir: bool) -> bool:
    """Excludes nothing."""
    return False


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a tree may hold. None: no limit."""

    bytes_max: int | None = 512 * MEGABYTE
    files_max: int | None = 50_000
    file_bytes_max: int | None = None  # of a single file


DEFAULT_LIMITS: Final = Limits()
NO_LIMITS: Final = Limits(None, None)


@dataclass(slots=True)
class Known:
    """Digests of files by the stat they had when they were hashed."""

    digests: dict[str, tuple[StatKey, str]] = field(default_factory=dict)

    def get(self, path: str, key: StatKey) -> str | None:
        found = self.digests.get(path)
        return found[1] if found is not None and found[0] == key else None

    def remember(self, path: str, key: StatKey, digest: str) -> None:
        self.digests[path] = (key, digest)

    def save(self, path: Path) -> None:
        """Write it down, whole or not at all."""
        aside = path.with_name(f"{path.name}.new")
        aside.write_text(json.dumps({name: [*key, digest] for name, (key, digest) in self.digests.items()}))
        aside.replace(path)

    @classmethod
    def load(cls, path: Path) -> Known:
        """What was saved; empty when nothing usable was (it is only a shortcut)."""
        try:
            rows = json.loads(path.read_text())
            return cls({name: ((r[0], r[1], r[2], r[3]), r[4]) for name, r in rows.items()})
        except (OSError, ValueError, LookupError, AttributeError, TypeError):
            return cls()


@dataclass(frozen=True, slots=True)
class Found:
    """One entry of a walk; a file's digest is not known yet and its `key` tells whether it must be read."""

    entry: Entry
    key: StatKey


@dataclass(frozen=True, slots=True)
class Walk:
    found: tuple[Found, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Scan:
    """A tree, the stat cache for the next scan, and notes on what was skipped."""

    tree: Tree
    known: Known
    notes: tuple[str, ...]


def walk(root: Path, excluded: Excluded = nothing, limits: Limits = NO_LIMITS) -> Walk:
    """Everything below `root` by lstat, in the order of paths. Errors: Unreadable, TooBig."""
    notes: list[str] = []
    first_names: dict[tuple[int, int], str] = {}
    tally = _Tally(limits)
    found = []
    for path, status in _statuses(root, excluded):
        entry = _entry(root, path, status, first_names)
        if entry is None:
            notes.append(f"{path} is a socket or device and was left out")
            continue
        tally.add(entry, status)
        found.append(Found(entry, stat_key(status)))
    tally.check(root)
    return Walk(tuple(found), tuple(notes))


def scan(root: Path, excluded: Excluded = nothing, limits: Limits = DEFAULT_LIMITS, known: Known | None = None) -> Scan:
    """The tree of a directory others may be using.

    Errors: Unreadable, TooBig (before anything is read), Changing.
    """
    walked = walk(root, excluded, limits)
    newest_ns = max(item.key[2] for item in walked.found)  # a change time cannot be forged, and is never in the future
    fresh = Known()
    entries = []
    for item in walked.found:
        if item.entry.kind is not Kind.FILE:
            entries.append(item.entry)
            continue
        digested = _digested(root, item, known or Known())
        entries.append(digested.entry)
        if digested.key[2] < newest_ns - SETTLED_NS:
            fresh.remember(digested.entry.path, digested.key, digested.entry.digest)
    return Scan(Tree(tuple(entries)), fresh, walked.notes)


def upload(tree: Tree, root: Path, has: Callable[[str], bool], put: Callable[[str, bytes | Path], None]) -> int:
    """Hand `put` every file whose digest `has` does not know; how many bytes that was.

    What is handed over has been hashed itself: a file that changed since the scan is refused. Errors:
    Changing, Unreadable, and what `put` raises.
    """
    sent = 0
    done: set[str] = set()
    for entry in tree.entries:
        if entry.kind is not Kind.FILE or not entry.size or entry.digest in done:
            continue
        done.add(entry.digest)
        if not has(entry.digest):
            _hand_over(root / entry.path, entry, put)
            sent += entry.size
    return sent


def changed(tree: Tree, root: Path) -> tuple[Difference, ...]:
    """What differs by stat alone: kinds, sizes, modification times, modes, targets. Errors: Unreadable."""
    now = {item.entry.path: item.entry for item in walk(root).found}
    found = []
    for path in sorted(tree.by_path.keys() | now.keys()):
        old, new = tree.by_path.get(path), now.get(path)
        if old is None:
            found.append(Difference(path, "added"))
        elif new is None:
            found.append(Difference(path, "removed"))
        elif replace(old, digest="", sparse=False) != replace(new, sparse=False):
            found.append(Difference(path, "changed"))
    return tuple(found)


def stat_key(status: os.stat_result) -> StatKey:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def _order(path: str) -> tuple[str, ...]:
    return () if path == ROOT else tuple(path.split("/"))


def _statuses(root: Path, excluded: Excluded) -> list[tuple[str, os.stat_result]]:
    """(path, lstat) of the root and all below it, sorted by path; what vanishes meanwhile is not there."""
    try:
        found = [(ROOT, root.stat())]
    except OSError as error:
        raise _unreadable(root, error) from error
    waiting = [""]
    while waiting and len(found) <= COUNT_MAX:
        folder = waiting.pop()
        for name, status in _listed(root / folder):
            path = f"{folder}/{name}" if folder else name
            is_dir = stat.S_ISDIR(status.st_mode)
            if excluded(path, is_dir):
                continue
            found.append((path, status))
            if is_dir:
                waiting.append(path)
    if waiting:
        raise TooBig(f"{root} holds more than {COUNT_MAX} files", "exclude some in .ergoignore")
    return sorted(found, key=lambda pair: _order(pair[0]))


def _listed(folder: Path) -> list[tuple[str, os.stat_result]]:
    found = []
    try:
        with os.scandir(folder) as items:
            for item in items:
                try:
                    found.append((item.name, item.stat(follow_symlinks=False)))
                except FileNotFoundError:
                    continue
    except FileNotFoundError:
        return []
    except OSError as error:
        raise _unreadable(folder, error) from error
    return found


def _entry(root: Path, path: str, status: os.stat_result, first_names: dict[tuple[int, int], str]) -> Entry | None:
    kind = _kind(status.st_mode)
    if kind is None:
        return None
    size, target, sparse = 0, "", False
    if kind is Kind.SYMLINK:
        target = os.readlink(root / path)  # noqa: PTH115 (a Path would tidy the text)
    elif kind is Kind.FILE:
        first = _first_name(path, status, first_names)
        if first != path:
            kind, target = Kind.HARDLINK, first
        else:
            size, sparse = status.st_size, _has_holes(root, path, status)
    mode, owner = stat.S_IMODE(status.st_mode), (status.st_uid, status.st_gid)
    return Entry(path, kind, mode, *owner, status.st_mtime_ns, size, "", target, sparse)


def _first_name(path: str, status: os.stat_result, first_names: dict[tuple[int, int], str]) -> str:
    """Which path of the walk was the first for this file: its own, unless it has several names."""
    if status.st_nlink == 1:
        return path
    return first_names.setdefault((status.st_dev, status.st_ino), path)


def _kind(mode: int) -> Kind | None:
    if stat.S_ISREG(mode):
        return Kind.FILE
    if stat.S_ISDIR(mode):
        return Kind.DIR
    if stat.S_ISLNK(mode):
        return Kind.SYMLINK
    return Kind.FIFO if stat.S_ISFIFO(mode) else None


def _has_holes(root: Path, name: str, status: os.stat_result) -> bool:
    if status.st_blocks * 512 >= status.st_size:
        return False
    path = root / name
    try:
        with path.open("rb", buffering=0) as file:
            return is_sparse(file.fileno())
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _unreadable(path, error) from error


def _digested(root: Path, item: Found, known: Known) -> Found:
    digest = known.get(item.entry.path, item.key)
    if digest is not None:
        return replace(item, entry=replace(item.entry, digest=digest))
    path = root / item.entry.path
    for _ in range(READ_ATTEMPTS_MAX):
        try:
            before = stat_key(path.lstat())
            digest = digest_file(path)
            status = path.lstat()
        except OSError as error:
            raise _unreadable(path, error) from error
        if stat_key(status) == before:
            entry = replace(
                item.entry,
                digest=digest,
                size=status.st_size,
                mtime_ns=status.st_mtime_ns,
                mode=stat.S_IMODE(status.st_mode),
            )
            return Found(entry, before)
    raise Changing(
        f"{path} changes faster than it can be read",
        "stop the program that writes it, or exclude it in .ergoignore",
    )


def _hand_over(path: Path, entry: Entry, put: Callable[[str, bytes | Path], None]) -> None:
    try:
        if entry.size <= INLINE_SIZE_MAX:
            content = path.read_bytes()
            _expect(entry, digest_bytes(content), path)
            put(entry.digest, content)
            return
        with tempfile.TemporaryDirectory(prefix="ergo-upload-") as folder:
            copy = Path(folder) / "file"
            copy_file(path, copy)
            _expect(entry, digest_image(copy), path)
            put(entry.digest, copy)
    except FileNotFoundError as error:
        raise Changing(f"{path} vanished after it was listed", "try again when nothing writes there") from error
    except PermissionError as error:
        raise _unreadable(path, error) from error
    except OSError as error:
        if is_no_room(error):
            raise StoreFull(tempfile.gettempdir()) from error
        raise _unreadable(path, error) from error


def _expect(entry: Entry, digest: str, path: Path) -> None:
    if digest != entry.digest:
        raise Changing(f"{path} changed after it was listed", "try again when nothing writes there")


def _unreadable(path: Path, error: OSError) -> TreeError:
    return Unreadable(f"{path} cannot be read: {error.strerror}", "make it readable, or exclude it in .ergoignore")


class _Tally:
    """Counts what a walk meets, so that a refusal can name the biggest offenders."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._bytes: Counter[str] = Counter()
        self._files: Counter[str] = Counter()
        self._largest = ("", 0)

    def add(self, entry: Entry, status: os.stat_result) -> None:
        if self._limits == NO_LIMITS:
            return
        parts = entry.path.split("/")
        name = parts[0] + ("/" if len(parts) > 1 or entry.kind is Kind.DIR else "")
        self._files[name] += entry.kind is not Kind.DIR
        self._bytes[name] += status.st_blocks * 512 if entry.sparse else entry.size
        if entry.kind is Kind.FILE and status.st_size > self._largest[1]:
            self._largest = (entry.path, status.st_size)

    def check(self, root: Path) -> None:
        total, files = self._bytes.total(), self._files.total()
        if self._limits.bytes_max is not None and total > self._limits.bytes_max:
            limit = f"{self._limits.bytes_max / MEGABYTE:.0f} MB"
            raise self._refusal(str(root), f"{total / MEGABYTE:.0f} MB, the limit is {limit}")
        if self._limits.files_max is not None and files > self._limits.files_max:
            raise self._refusal(str(root), f"{files} files, the limit is {self._limits.files_max}")
        path, size = self._largest
        if self._limits.file_bytes_max is not None and size > self._limits.file_bytes_max:
            limit = f"{self._limits.file_bytes_max / MEGABYTE:.0f} MB"
            raise TooBig(
                f"{root}/{path} has {size / MEGABYTE:.0f} MB, the limit for one file is {limit}",
                "name it in .ergoignore: the job then sees it read-only from its place",
            )

    def _refusal(self, what: str, holds: str) -> TooBig:
        biggest = [f"{n} {size / MEGABYTE:.0f} MB" for n, size in self._bytes.most_common(OFFENDERS_MAX) if size]
        most = [f"{n} {count} files" for n, count in self._files.most_common(OFFENDERS_MAX) if count]
        named = ", ".join(most if "files" in holds else biggest)
        return TooBig(
            f"{what} holds {holds} (biggest: {named})",
            "name what the job does not need to write in .ergoignore: it is then seen read-only from its place",
        )
