"""Traces from files: CSV (also .gz) with our columns or those of the public traces, and Philly's own JSON.

Everything that cannot be meant is refused with its line and a remedy; nothing is mended silently.
"""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, Final

from ergosphere.sim import columns
from ergosphere.sim.faulty import Faults, Faulty
from ergosphere.sim.rows import DURATION_S_MAX, Rows
from ergosphere.sim.works import Trace, Work

TYPICAL_S_MAX: Final = 10 * 86_400.0  # of half the jobs of a trace; in every public one it is below a day


@dataclass(frozen=True, slots=True)
class Wish:
    """How a trace is read. `ordered` False sorts arrivals instead of refusing those out of order.

    `rigid` keeps every job at its width; otherwise up to four ranks may share a device where the file says nothing.
    """

    seed: int = 0
    ordered: bool = True
    rigid: bool = False
    limit: int = 0  # 0: all jobs


def read(path: Path, wish: Wish = Wish()) -> Trace:
    """The trace in `path`. Raises Faulty, naming every line that cannot be meant."""
    text = _text(path)
    name = path.name.removesuffix(".gz").removesuffix(".csv").removesuffix(".json")
    if text.lstrip()[:1] in ("[", "{"):
        from ergosphere.sim.philly import rows_of

        header, rows = rows_of(text, str(path))
    else:
        header, rows = _table(text, path)
    return _trace(name, str(path), header, rows, wish)


def _text(path: Path) -> str:
    try:
        raw = path.read_bytes()
        return (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode("utf-8-sig")
    except FileNotFoundError:
        faults = Faults(str(path))
        faults.add(0, "there is no such file", "name a trace: data/common_T64.csv is one that comes with us")
        raise Faulty(str(path), faults.found) from None
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        faults = Faults(str(path))
        faults.add(0, f"cannot be read: {error}", "a trace is CSV in UTF-8, plain or gzipped")
        raise Faulty(str(path), faults.found) from None


def _table(text: str, path: Path) -> tuple[list[str], Iterator[tuple[int, Sequence[str]]]]:
    reader = csv.reader(io.StringIO(text))
    rows = _lines(reader, Faults(str(path)))
    return next((list(row) for _, row in rows), []), rows


def _lines(reader: Any, faults: Faults) -> Iterator[tuple[int, Sequence[str]]]:
    try:
        for row in reader:
            if row:
                yield reader.line_num, row
    except csv.Error as error:
        faults.add(reader.line_num, f"cannot be read: {error}", "is a quotation mark left open?")
        faults.check()


def _trace(name: str, path: str, header: Sequence[str], rows: Iterator[tuple[int, Sequence[str]]], wish: Wish) -> Trace:
    faults = Faults(path)
    at = columns.found(header)
    for column in columns.twice(header):
        faults.add(1, f"column {column} is there twice", "name each column once")
    for meaning in columns.missing(at):
        words = f"no column {columns.spoken(meaning)}; there is {', '.join(header) or 'nothing'}"
        faults.add(1, words, "name the columns in the first line: job_id,submit_s,duration_s,gpus")
    faults.check()
    reader = Rows(at, len(header), faults, seed=wish.seed, rigid=wish.rigid)
    works = [work for line, row in rows for work in reader.works(line, row)]
    if not works and not faults.found:
        faults.add(0, "holds no job that uses a device", "is it the right file?")
    faults.check()
    _check_typical(works, reader.bare, faults)
    works = _in_order(works, faults, wish)
    _check_ids(works, faults)
    works = _arrays_awaited(works, reader.arrays)
    _check_after(works, faults)
    faults.check()
    return Trace(name, tuple(works), reader.notes())


def _check_typical(works: Sequence[Work], bare: bool, faults: Faults) -> None:
    """Milliseconds below the longest duration give themselves away by how long everybody runs."""
    typical_s = median(one.duration_s for one in works)
    if bare and typical_s > TYPICAL_S_MAX:
        first = next(one for one in works if one.duration_s > TYPICAL_S_MAX)
        words = f"a duration of {first.duration_s / 86_400:,.0f} days, and half of the jobs run for as long or longer"
        remedy = "durations are in seconds: divide milliseconds by 1,000; if that long is meant, write the unit: 41d"
        faults.add(first.line, words, remedy)


def _arrays_awaited(works: list[Work], arrays: Mapping[str, int]) -> list[Work]:
    """Who is after an array is after each of its jobs."""
    if not arrays:
        return works
    each = {name: tuple(f"{name}.{index}" for index in range(count)) for name, count in arrays.items()}
    return [
        replace(one, after=tuple(job for name in one.after for job in each.get(name, (name,)))) if one.after else one
        for one in works
    ]


def _in_order(works: list[Work], faults: Faults, wish: Wish) -> list[Work]:
    """Arrivals in order, the first at second 0 where the file counts from an epoch."""
    if wish.ordered:
        for before, now in pairwise(works):
            if now.submit_s < before.submit_s:
                words = f"arrives at {now.submit_s:g} s, before the job on line {before.line} at {before.submit_s:g} s"
                faults.add(now.line, words, "sort the file by submission, or read it with --sort")
    works = sorted(works, key=lambda one: one.submit_s)
    first_s = works[0].submit_s if works[0].submit_s > DURATION_S_MAX else 0.0
    works = [_earlier(one, first_s) for one in works] if first_s else works
    return works[: wish.limit] if wish.limit else works


def _earlier(work: Work, by_s: float) -> Work:
    deadline_s = None if work.deadline_s is None else work.deadline_s - by_s
    return replace(work, submit_s=work.submit_s - by_s, deadline_s=deadline_s)


def _check_ids(works: Sequence[Work], faults: Faults) -> None:
    seen: dict[str, int] = {}
    for one in works:
        if one.id in seen:
            faults.add(one.line, f"job {one.id} is already on line {seen[one.id]}", "give every job an id of its own")
        seen[one.id] = one.line


def _check_after(works: Sequence[Work], faults: Faults) -> None:
    """Every `after` names a job of the trace, and none waits for itself."""
    waits = {one.id: one for one in works if one.after}
    known = {one.id for one in works} if waits else set()
    for one in waits.values():
        for other in one.after:
            if other not in known:
                faults.add(one.line, f"job {one.id} is after {other}, which is not there", "name a job of this file")
    cycle = _cycle({one.id: one.after for one in waits.values()})
    if cycle:
        told = " → ".join((*cycle, cycle[0]))
        faults.add(waits[cycle[0]].line, f"jobs wait for each other: {told}", "take one of these `after` away")


def _cycle(after: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Ids that wait for each other in a ring, or ()."""
    done: set[str] = set()
    for first in after:
        path: dict[str, Iterator[str]] = {}
        here: str | None = first
        while here is not None:
            if here not in done and here not in path:
                path[here] = iter(after.get(here, ()))
            deepest = next(reversed(path), None)
            if deepest is None:
                break
            here = next(path[deepest], None)
            if here is None:
                path.popitem()
                done.add(deepest)
                here = next(reversed(path), None)
            elif here in path:
                ring = list(path)
                return tuple(ring[ring.index(here) :])
    return ()
