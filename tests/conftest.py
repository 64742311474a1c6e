"""In which order workers take the files of a run (`scripts/test.sh`): those that wait beside those that compute.

Tests of a file stay with one worker, in their order. Long files come first, so that no worker is left alone with one at
the end.
"""

from __future__ import annotations

from itertools import chain, groupby, zip_longest
from pathlib import Path

import pytest

ROOT = Path(__file__).parent
# What a path below here begins with. Those that drive fleets from outside, and among the others those that take long:
WAITING = ("cli/test_verify_runs", "chaos", "e2e", "cli")
COMPUTING = ("shim/test_splice", "shim", "examples", "sim", "core")
File = list[pytest.Item]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):  # a process that is alone takes them as they lie
        files = [list(tests) for _, tests in groupby(items, key=lambda item: item.path)]
        items[:] = chain.from_iterable(in_order(files))


def in_order(files: list[File]) -> list[File]:
    waiting = [file for file in files if _rank(file, WAITING) < len(WAITING)]
    computing = [file for file in files if _rank(file, WAITING) == len(WAITING)]
    waiting.sort(key=lambda file: _rank(file, WAITING))
    computing.sort(key=lambda file: _rank(file, COMPUTING))
    return [file for pair in zip_longest(waiting, computing, fillvalue=[]) for file in pair]


def _rank(file: File, first: tuple[str, ...]) -> int:
    """Where in `first` the file stands; its length where it does not."""
    path = file[0].path.relative_to(ROOT).as_posix()
    return next((at for at, begins in enumerate(first) if path.startswith(begins)), len(first))
