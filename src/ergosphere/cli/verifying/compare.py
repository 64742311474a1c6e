"""Whether two runs came out the same, byte by byte, and where they first differ. Pure but for reading the files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from ergosphere.cli.verifying.outcome import Outcome
from ergosphere.snapshots.digests import digest_bytes
from ergosphere.snapshots.tree import Entry, Kind, Tree, compare

EXIT: Final = "exit code"
MASKED: Final = b"<masked>"
SHOWN_BYTES: Final = 48  # of a difference, on each side of the first byte that differs

Masks = Sequence[re.Pattern[bytes]]


@dataclass(frozen=True, slots=True)
class Side:
    """One run's version of something. `digest` (or the value itself) is taken after masking; `masked` counts places."""

    size: int
    digest: str
    masked: int = 0


@dataclass(frozen=True, slots=True)
class Difference:
    """Where two versions first differ: line and byte column (from 1), and what stands there on each side."""

    line: int
    column: int
    left: bytes
    right: bytes


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that both runs have or should have. A side is None where the thing is missing."""

    what: str
    left: Side | None
    right: Side | None
    same: bool
    difference: Difference | None = None

    @property
    def masked(self) -> int:
        """How many places the masks covered, on the side that has more."""
        return max(side.masked for side in (self.left, self.right) if side is not None)


@dataclass(frozen=True, slots=True)
class Comparison:
    """All findings, the different ones among them, and how many files neither run touched."""

    findings: tuple[Finding, ...]
    untouched: int

    @property
    def identical(self) -> bool:
        return all(finding.same for finding in self.findings)

    @property
    def first(self) -> Finding | None:
        """The first finding that differs."""
        return next((finding for finding in self.findings if not finding.same), None)


def compare_runs(left: Outcome, right: Outcome, submitted: Tree, masks: Masks = ()) -> Comparison:
    """Exit code, streams of all ranks, then files. Files that both left as they were submitted are only counted."""
    codes = [Side(0, str(run.exit_code)) for run in (left, right)]
    findings = [Finding(EXIT, codes[0], codes[1], codes[0] == codes[1])]
    for source in sorted(left.streams.keys() | right.streams.keys(), key=lambda s: (s.stream == "err", s.rank)):
        name = f"rank {source.rank} std{source.stream}"
        findings.append(_text(name, left.streams.get(source), right.streams.get(source), masks))
    touched = sorted({d.path for run in (left, right) for d in compare(submitted, run.tree)})
    findings += [_file(path, left, right, masks) for path in touched if _is_shown(path, left, right)]
    files = [entry for entry in submitted.entries if entry.kind is not Kind.DIR]
    return Comparison(tuple(findings), sum(entry.path not in touched for entry in files))


def _is_shown(path: str, left: Outcome, right: Outcome) -> bool:
    """Folders only where one run has them and the other has not, or has something else there."""
    entries = [run.tree.by_path.get(path) for run in (left, right)]
    kinds = {entry.kind if entry else None for entry in entries}
    return kinds != {Kind.DIR}


def _file(path: str, left: Outcome, right: Outcome, masks: Masks) -> Finding:
    one, other = left.tree.by_path.get(path), right.tree.by_path.get(path)
    if one is None or other is None:
        sides = [None if entry is None else _side_of(entry) for entry in (one, other)]
        return Finding(path, sides[0], sides[1], same=not any(sides))
    if _shape(one) != _shape(other):
        return Finding(path, _side_of(one), _side_of(other), same=False)
    if not masks and one.kind is Kind.FILE and one.digest == other.digest:
        return Finding(path, _side_of(one), _side_of(other), same=True)
    return _text(path, left.file(one), right.file(other), masks)


def _shape(entry: Entry) -> tuple[bool, int]:
    """What must be equal beside the content. A link's own mode says nothing; a hard link's is its file's."""
    linked = entry.kind in (Kind.HARDLINK, Kind.SYMLINK)
    return entry.kind is Kind.SYMLINK, 0 if linked else entry.mode


def _side_of(entry: Entry) -> Side:
    return Side(entry.size, entry.digest or digest_bytes(entry.target.encode("utf-8", "surrogateescape")))


def _text(what: str, left: bytes | None, right: bytes | None, masks: Masks) -> Finding:
    if left is None or right is None:
        sides = [None if data is None else Side(len(data), digest_bytes(data)) for data in (left, right)]
        return Finding(what, sides[0], sides[1], same=False)
    one, other = _masked(left, masks), _masked(right, masks)
    sides = [Side(len(data), digest_bytes(text), count) for data, (text, count) in ((left, one), (right, other))]
    difference = _difference(one[0], other[0]) if one[0] != other[0] else None
    return Finding(what, sides[0], sides[1], difference is None, difference)


def _masked(data: bytes, masks: Masks) -> tuple[bytes, int]:
    total = 0
    for mask in masks:
        data, count = mask.subn(MASKED, data)
        total += count
    return data, total


def _difference(left: bytes, right: bytes) -> Difference:
    at = next(_unequal(left, right), min(len(left), len(right)))
    begin = left.rfind(b"\n", 0, at) + 1
    line = left.count(b"\n", 0, at) + 1
    return Difference(line, at - begin + 1, _around(left, begin, at), _around(right, begin, at))


def _unequal(left: bytes, right: bytes, step: int = 1 << 16) -> Iterator[int]:
    """Where the two differ; whole blocks are compared first."""
    for start in range(0, min(len(left), len(right)), step):
        if left[start : start + step] != right[start : start + step]:
            pairs = zip(left[start : start + step], right[start : start + step], strict=False)
            yield from (start + offset for offset, (one, other) in enumerate(pairs) if one != other)


def _around(data: bytes, begin: int, at: int) -> bytes:
    """The line as far as it helps: from its beginning, or from a little before the difference."""
    end = data.find(b"\n", at)
    end = len(data) if end < 0 else end
    return data[max(begin, at - SHOWN_BYTES) : min(end, at + SHOWN_BYTES)]
