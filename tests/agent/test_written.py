"""Files of the host that a job writes: which of them are noted, and how long they are made again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from ergosphere.agent import written
from ergosphere.agent.rootfs import Mount, RootPlan
from ergosphere.agent.written import WrittenFile

MODES = ("r", "w", "a", "r+", "a+")


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Path]:
    """Two folders with a file in each mode, all of them open in this very process."""
    with ExitStack() as held:
        for name in ("open", "shown"):
            (tmp_path / name).mkdir()
            for mode in MODES:
                path = tmp_path / name / mode
                path.write_text("12345")
                held.enter_context(path.open(mode))
        gone = tmp_path / "open/gone"
        held.enter_context(gone.open("w"))
        gone.unlink()
        yield tmp_path


def described(path: Path) -> WrittenFile:
    return written._described(str(path), path.stat())


def test_only_what_criu_would_refuse_once_it_has_grown_is_noted_and_only_where_the_job_may_write(opened: Path) -> None:
    may, may_not = str(opened / "open"), str(opened / "shown")
    plan = RootPlan((Mount("bind", may, may, writable=True), Mount("bind", may_not, may_not)))
    found = written.noted((os.getpid(),), plan)
    assert [(Path(file.path).name, file.size) for file in found] == [("a+", 5), ("r+", 5), ("w", 0)]
    assert written.from_json({written.WRITTEN: written.to_json(found)}) == found


def test_a_file_that_has_grown_is_made_as_long_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text("first ")
    file = described(path)
    assert written.longer((file,)) == () and written.obstacle((file,)) == ""
    path.open("a").write("second")
    assert written.longer((file,)) == (file,) and written.obstacle((file,)) == ""
    assert written.cut_back(file) == len("second")
    assert path.read_text() == "first " and written.cut_back(file) == 0


def test_a_file_that_took_its_place_is_left_alone_whatever_its_length(tmp_path: Path) -> None:
    path, aside = tmp_path / "out", tmp_path / "aside"
    path.write_text("first")
    file = described(path)
    path.rename(aside)
    path.write_text("somebody else's")
    assert "was replaced" in written.obstacle((file,)) and written.longer((file,)) == () and written.cut_back(file) == 0
    path.unlink()
    path.symlink_to(aside)
    assert "was replaced" in written.obstacle((file,))
    path.unlink()
    assert "is not there" in written.obstacle((file,))
    shutil.copy2(aside, path)
    assert written.obstacle((file,)) == "", "put back as it was"
    os.truncate(aside, 1)
    aside.rename(path)
    assert "has 1 bytes" in written.obstacle((file,))
