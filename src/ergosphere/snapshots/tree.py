"""A directory as a document: what is in it, by content.

Values only; `scan` makes them and `layout` lays them out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from typing import Any, Final, Literal

from ergosphere.snapshots.blobs import get_blob, put_blob
from ergosphere.snapshots.digests import digest_bytes
from ergosphere.snapshots.documents import BadDocument, canonical
from ergosphere.snapshots.errors import Damaged, TooNew
from ergosphere.snapshots.store import Store

TREE_VERSION: Final = 1
ROOT: Final = "."  # the path of the directory itself
DIGEST_LENGTH: Final = 64  # hex digits


class Kind(StrEnum):
    FILE = "file"
    DIR = "dir"
    SYMLINK = "symlink"
    HARDLINK = "hardlink"  # another name of an earlier file of the tree
    FIFO = "fifo"


@dataclass(frozen=True, slots=True)
class Entry:
    """One name.

    `size` and `digest` are a file's; `target` is a symlink's text or the path a hard link shares.
    """

    path: str  # relative, "/" between parts, odd bytes as surrogates (os.fsdecode)
    kind: Kind
    mode: int = 0  # permission bits, with setuid, setgid and sticky
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    size: int = 0
    digest: str = ""
    target: str = ""
    sparse: bool = False


@dataclass(frozen=True, slots=True)
class TreeSum:
    """A tree named by the digest of its document, and how much is in it."""

    digest: str
    files: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Difference:
    """One path that is not the same in two trees, `added` in the second, `removed` from it or `changed`."""

    path: str
    how: Literal["added", "removed", "changed"]


@dataclass(frozen=True)
class Tree:
    """A directory's entries in the order of their paths; the first is the directory itself, parents come
    first.
    """

    entries: tuple[Entry, ...]

    @cached_property
    def by_path(self) -> dict[str, Entry]:
        return {entry.path: entry for entry in self.entries}

    @cached_property
    def document(self) -> bytes:
        """Canonical JSON: equal trees have equal bytes."""
        rows = [_to_row(entry) for entry in self.entries]
        return canonical({"ergosphere": "tree", "version": TREE_VERSION, "entries": rows})

    def summary(self) -> TreeSum:
        files = [entry for entry in self.entries if entry.kind is Kind.FILE]
        return TreeSum(digest_bytes(self.document), len(files), sum(entry.size for entry in files))

    def digests(self) -> frozenset[str]:
        """Of every blob that laying it out needs (empty files need none)."""
        return frozenset(entry.digest for entry in self.entries if entry.kind is Kind.FILE and entry.size)


def parse_tree(document: bytes, which: str = "the list of files") -> Tree:
    """The tree of a document. Errors: Damaged (naming `which`) also when a path would climb out; TooNew."""
    try:
        plain = json.loads(document)
        version = plain["version"]
        if plain["ergosphere"] != "tree":
            raise BadDocument("not a tree")
        if not isinstance(version, int) or version > TREE_VERSION:
            raise TooNew("list of files", version, TREE_VERSION)
        tree = Tree(tuple(_from_row(row) for row in plain["entries"]))
        _check(tree.entries)
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged(which, how=f"is not a list of files ({error})") from error
    return tree


def save_tree(store: Store, tree: Tree) -> TreeSum:
    """Put the document itself; the files are `scan.upload`'s business."""
    put_blob(store, tree.document)
    return tree.summary()


def load_tree(sources: Sequence[Store], digest: str) -> Tree:
    """The tree whose document has this digest. Errors: Damaged, TooNew, StoreError."""
    which = f"the list of files {digest[:12]}"
    return parse_tree(get_blob(sources, digest, which), which)


def compare(before: Tree, after: Tree) -> tuple[Difference, ...]:
    """What differs in content, kind, mode or target.

    Owners, times and holes are ignored: they are bound to differ.
    """
    found = []
    for path in sorted(before.by_path.keys() | after.by_path.keys()):
        old, new = before.by_path.get(path), after.by_path.get(path)
        if old is None:
            found.append(Difference(path, "added"))
        elif new is None:
            found.append(Difference(path, "removed"))
        elif _essence(old, before) != _essence(new, after):
            found.append(Difference(path, "changed"))
    return tuple(found)


def subtree(tree: Tree, path: str) -> Tree:
    """Only `path`, what is below it and the directories that lead to it; all of it for "." ."""
    if path == ROOT:
        return tree
    above = {ROOT, *_parents(path)}
    wanted = [e for e in tree.entries if e.path in above or e.path == path or e.path.startswith(f"{path}/")]
    return Tree(_relink(wanted, tree))


def without(tree: Tree, paths: Iterable[str]) -> Tree:
    """The tree less some paths and all that is below them."""
    gone = tuple(paths)
    left = [e for e in tree.entries if not any(e.path == p or e.path.startswith(f"{p}/") for p in gone)]
    return Tree(_relink(left, tree))


def _relink(entries: list[Entry], tree: Tree) -> tuple[Entry, ...]:
    """Hard links whose file fell out of a part of a tree: the first of them becomes the file, the others link
    to it.
    """
    present = {entry.path for entry in entries}
    moved: dict[str, str] = {}
    result = []
    for entry in entries:
        if entry.kind is Kind.HARDLINK and entry.target not in present:
            if entry.target in moved:
                entry = replace(entry, target=moved[entry.target])
            else:
                moved[entry.target] = entry.path
                entry = replace(tree.by_path[entry.target], path=entry.path)
        result.append(entry)
    return tuple(result)


def _essence(entry: Entry, tree: Tree) -> tuple[object, ...]:
    file = tree.by_path[entry.target] if entry.kind is Kind.HARDLINK else entry
    target = entry.target if entry.kind is Kind.SYMLINK else ""
    mode = 0 if entry.kind is Kind.SYMLINK else file.mode
    return file.kind, mode, file.size, file.digest, target


def _parents(path: str) -> list[str]:
    parts = path.split("/")[:-1]
    return ["/".join(parts[: count + 1]) for count in range(len(parts))]


def _to_row(entry: Entry) -> dict[str, Any]:
    row: dict[str, Any] = {
        "path": entry.path,
        "kind": str(entry.kind),
        "mode": entry.mode,
        "uid": entry.uid,
        "gid": entry.gid,
        "mtime_ns": entry.mtime_ns,
    }
    if entry.kind is Kind.FILE:
        row |= {"size": entry.size, "digest": entry.digest}
    if entry.target:
        row["target"] = entry.target
    if entry.sparse:
        row["sparse"] = True
    return row


def _from_row(row: dict[str, Any]) -> Entry:
    entry = Entry(**{**row, "kind": Kind(row["kind"])})
    numbers = (entry.mode, entry.uid, entry.gid, entry.mtime_ns, entry.size)
    texts = (entry.path, entry.digest, entry.target)
    if not all(type(n) is int for n in numbers) or not all(isinstance(t, str) for t in texts):
        raise BadDocument(f"ill-typed entry {entry.path!r}")
    return entry


def _check(entries: Sequence[Entry]) -> None:
    """No path may climb out of the directory or lead through anything but a directory of the tree itself."""
    kinds: dict[str, Kind] = {}
    for entry in entries:
        parts = entry.path.split("/")
        if not kinds:
            if entry.path != ROOT or entry.kind is not Kind.DIR:
                raise BadDocument("the first entry must be the directory itself")
        elif "" in parts or "." in parts or ".." in parts or "\0" in entry.path or entry.path in kinds:
            raise BadDocument(f"impossible path {entry.path!r}")
        elif kinds.get("/".join(parts[:-1]) or ROOT) is not Kind.DIR:
            raise BadDocument(f"{entry.path!r} is not in a directory of the tree")
        _check_content(entry, kinds)
        kinds[entry.path] = entry.kind


def _check_content(entry: Entry, kinds: dict[str, Kind]) -> None:
    if entry.kind is Kind.HARDLINK and kinds.get(entry.target) is not Kind.FILE:
        raise BadDocument(f"{entry.path!r} is linked to no file of the tree")
    if entry.kind is Kind.FILE and (len(entry.digest) != DIGEST_LENGTH or not entry.digest.isalnum() or entry.size < 0):
        raise BadDocument(f"{entry.path!r} has no digest")
    if not 0 <= entry.mode <= 0o7777:
        raise BadDocument(f"{entry.path!r} has an impossible mode")
