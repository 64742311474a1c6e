"""Memory is set aside before it is used, and given back."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from tests.hand_clock import HandClock

from ergosphere.agent.reserving import NEWCOMER_S, Reserve, Room, bytes_in, changed_bytes, look
from ergosphere.snapshots.gather import CellFacts, CellFiles, build, stage_cell
from ergosphere.snapshots.pool import Pool

MB = 1 << 20


@pytest.fixture
def reserve(tmp_path: Path, clock: HandClock) -> Reserve:
    return Reserve(tmp_path / "reserved", clock)


ROOM = Room(total=1000 * MB, available=600 * MB, shared_free=500 * MB)  # a tenth stays free: 500 to be had


def test_what_fits_beside_everything_is_set_aside_and_the_rest_is_refused(reserve: Reserve, tmp_path: Path) -> None:
    assert reserve.take("a", tmp_path / "a", 300 * MB, 0, ROOM)
    assert not reserve.take("b", tmp_path / "b", 300 * MB, 0, ROOM), "two freezes at once do not both get the same"
    assert reserve.take("b", tmp_path / "b", 150 * MB, 0, ROOM)
    reserve.drop("a")
    assert reserve.take("c", tmp_path / "c", 300 * MB, 0, ROOM)


def test_room_is_kept_for_the_newcomer_too_until_it_runs(reserve: Reserve, tmp_path: Path, clock: HandClock) -> None:
    assert not reserve.take("a", tmp_path / "a", 300 * MB, 250 * MB, ROOM)
    assert reserve.take("a", tmp_path / "a", 200 * MB, 250 * MB, ROOM)
    reserve.written("a")
    assert reserve.held() == 250 * MB
    clock.sleep(NEWCOMER_S + 1)
    assert reserve.held() == 0


def test_what_an_image_has_written_already_does_not_count_twice(reserve: Reserve, tmp_path: Path) -> None:
    images = tmp_path / "a"
    images.mkdir()
    assert reserve.take("a", images, 100 * MB, 0, ROOM)
    (images / "pages-1.img").write_bytes(bytes(range(256)) * (40 * MB // 256))
    assert reserve.held() == pytest.approx(60 * MB, abs=MB)
    reserve.written("a")
    assert reserve.held() == 0


def test_cells_of_one_job_on_one_node_add_up(reserve: Reserve, tmp_path: Path) -> None:
    assert reserve.take("a", tmp_path / "a", 200 * MB, 0, ROOM)
    assert reserve.take("a", tmp_path / "a", 200 * MB, 0, ROOM)
    assert reserve.held() == 400 * MB


def test_an_agent_that_died_holds_nothing(reserve: Reserve, tmp_path: Path) -> None:
    assert reserve.take("a", tmp_path / "a", 400 * MB, 0, ROOM)
    record = json.loads((reserve.folder / "a").read_text())
    (reserve.folder / "a").write_text(json.dumps({**record, "pid": 1 << 30}))
    assert reserve.held() == 0
    (reserve.folder / "torn").write_text("{")
    assert reserve.take("b", tmp_path / "b", 400 * MB, 0, ROOM)


def test_the_machine_is_looked_at(tmp_path: Path) -> None:
    room = look(tmp_path)
    assert 0 < room.available <= room.total and room.shared_free > 0
    assert bytes_in(tmp_path / "nothing") == 0


def test_what_staging_will_copy_is_known_beforehand(tmp_path: Path) -> None:
    work, log = tmp_path / "work", tmp_path / "rank0.out"
    work.mkdir()
    (work / "checkpoint").write_bytes(bytes(range(256)) * (3 * MB // 256))
    log.write_bytes(b"line\n" * 1000)
    files, pool = CellFiles(work, None, {"rank0.out": log}), Pool.create(tmp_path / "pool")
    assert changed_bytes(files, pool, frozenset()) == pytest.approx(3 * MB + 5000, abs=8192)
    staged = stage_cell(files, pool)
    build(staged, CellFacts(0, "n", "", "", (0,)), _made(tmp_path / "images"), {}, pool)
    assert changed_bytes(files, pool, frozenset()) == 0
    (work / "holes").touch()
    os.truncate(work / "holes", 1 << 40)
    assert changed_bytes(files, pool, frozenset()) < MB, "holes take no room"
    inode = (work / "checkpoint").stat().st_ino
    assert changed_bytes(files, pool, frozenset({inode})) >= 3 * MB, "mapped to be written: its stat tells nothing"


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
