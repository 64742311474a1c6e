"""In which order workers take the files of a run (`scripts/test.sh`): those that wait beside those that compute.

Tests of a file stay with one worker, in their order. Rooms with long files come first, so that no worker is left alone
with one at the end.
"""

from __future__ import annotations

from itertools import chain, groupby, zip_longest
from pathlib import Path

import pytest

ROOT = Path(__file__).parent
WAITING = ("chaos", "e2e", "cli")  # these drive fleets from outside
COMPUTING = ("shim", "examples", "sim", "core")  # and rooms that are not named here come last
File = list[pytest.Item]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):  # a process that is alone takes them as they lie
        files = [list(tests) for _, tests in groupby(items, key=lambda item: item.path)]
        items[:] = chain.from_iterable(in_order(files))


def in_order(files: list[File]) -> list[File]:
    waiting = [file for file in files if _room(file) in WAITING]
    computing = [file for file in files if _room(file) not in WAITING]
    waiting.sort(key=lambda file: _rank(file, WAITING))
    computing.sort(key=lambda file: _rank(file, COMPUTING))
    return [file for pair in zip_longest(waiting, computing, fillvalue=[]) for file in pair]


def _room(file: File) -> str:
    return file[0].path.relative_to(ROOT).parts[0]


def _rank(file: File, rooms: tuple[str, ...]) -> int:
    room = _room(file)
    return rooms.index(room) if room in rooms else len(rooms)
