from pathlib import Path

import pytest

from ergosphere.cli.homecoming import Result, bring, choose
from ergosphere.snapshots.scan import NO_LIMITS, nothing, scan


def tree_of(folder: Path):
    return scan(folder, nothing, NO_LIMITS).tree


@pytest.fixture
def places(tmp_path):
    for name in ("home", "copy"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.py").write_text("code")
        (tmp_path / name / "old.txt").write_text("old")
    return tmp_path / "home", tmp_path / "copy"


def come_home(home, copy, submitted, force=False):
    choice = choose(submitted, (Result(0, tree_of(copy)),))
    return bring(
        choice, submitted, home, lambda entry, dest: dest.write_bytes((copy / entry.path).read_bytes()), force
    ), choice


def test_only_what_the_job_changed_comes_home(places):
    home, copy = places
    submitted = tree_of(home)
    (copy / "old.txt").write_text("new")
    (copy / "out").mkdir()
    (copy / "out" / "model.bin").write_bytes(b"\0\1")
    (copy / "out" / "latest").symlink_to("model.bin")
    (copy / "out" / "model.bin").chmod(0o640)
    before = (home / "train.py").stat().st_mtime_ns
    brought, _ = come_home(home, copy, submitted)
    assert set(brought.written) == {"old.txt", "out", "out/model.bin", "out/latest"}
    assert (home / "old.txt").read_text() == "new"
    assert (home / "out" / "latest").read_bytes() == b"\0\1"
    assert (home / "out" / "model.bin").stat().st_mode & 0o777 == 0o640
    assert (home / "train.py").stat().st_mtime_ns == before


def test_what_its_owner_edited_meanwhile_is_left_alone_unless_forced(places):
    home, copy = places
    submitted = tree_of(home)
    (copy / "old.txt").write_text("the job's")
    (home / "old.txt").write_text("the owner's")
    brought, _ = come_home(home, copy, submitted)
    assert brought.kept == ("old.txt",) and (home / "old.txt").read_text() == "the owner's"
    come_home(home, copy, submitted, force=True)
    assert (home / "old.txt").read_text() == "the job's"


def test_coming_home_twice_writes_nothing_the_second_time(places):
    home, copy = places
    submitted = tree_of(home)
    (copy / "new.txt").write_text("x")
    assert come_home(home, copy, submitted)[0].written == ("new.txt",)
    again, _ = come_home(home, copy, submitted)
    assert again.written == () and again.kept == ()


def test_what_the_job_removed_stays_and_is_said(places):
    home, copy = places
    submitted = tree_of(home)
    (copy / "old.txt").unlink()
    _, choice = come_home(home, copy, submitted)
    assert choice.removed == ("old.txt",) and (home / "old.txt").exists()


def test_nothing_is_written_through_a_link_to_another_place(places, tmp_path):
    home, copy = places
    submitted = tree_of(home)
    (tmp_path / "elsewhere").mkdir()
    (home / "out").symlink_to(tmp_path / "elsewhere")
    (copy / "out").mkdir()
    (copy / "out" / "file").write_text("x")
    brought, _ = come_home(home, copy, submitted)
    assert set(brought.kept) == {"out", "out/file"}
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_of_two_copies_the_first_one_that_changed_a_file_wins_and_the_other_is_named(places, tmp_path):
    home, copy = places
    submitted = tree_of(home)
    other = tmp_path / "other"
    other.mkdir()
    for name in ("train.py", "old.txt"):
        (other / name).write_text((home / name).read_text())
    (copy / "log.txt").write_text("rank 0")
    (other / "log.txt").write_text("rank 1")
    (other / "rank1.txt").write_text("mine")
    choice = choose(submitted, (Result(1, tree_of(other)), Result(0, tree_of(copy))))
    assert choice.disputed == ("log.txt",)
    assert {(p.cell, p.entry.path) for p in choice.picks} == {(0, "log.txt"), (1, "rank1.txt")}
