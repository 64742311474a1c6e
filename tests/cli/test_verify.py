"""Comparing two runs and drawing a schedule: values only."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ergosphere import system
from ergosphere.cli.errors import ExitCode
from ergosphere.cli.printing import Source
from ergosphere.cli.verifying.blows import VERIFY, Blow, Kind, draw, one_of
from ergosphere.cli.verifying.command import exit_code_of
from ergosphere.cli.verifying.compare import compare_runs
from ergosphere.cli.verifying.course import Course
from ergosphere.cli.verifying.outcome import Outcome
from ergosphere.cli.verifying.strikes import Struck
from ergosphere.cli.verifying.verdict import Verdict, value_of, view
from ergosphere.snapshots.scan import scan
from ergosphere.snapshots.tree import Tree
from ergosphere.wire.jobs import JobDetail

OUT = Source(0, "out")


def run_of(folder: Path, files: dict[str, bytes], out: bytes = b"", code: int = 0) -> Outcome:
    """An outcome whose files lie in `folder`."""
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    tree = scan(folder).tree
    return Outcome(code, {OUT: out}, tree, lambda entry: (folder / entry.path).read_bytes(), 1.0)


def submitted(tmp_path: Path, files: dict[str, bytes]) -> Tree:
    return run_of(tmp_path / "submitted", files).tree


def test_equal_runs_are_identical_and_untouched_files_are_only_counted(tmp_path: Path) -> None:
    before = submitted(tmp_path, {"train.py": b"pass\n"})
    files = {"train.py": b"pass\n", "model": b"\0\1\2"}
    left, right = (run_of(tmp_path / name, files, b"step 1\n") for name in ("left", "right"))
    comparison = compare_runs(left, right, before)
    assert comparison.identical and comparison.first is None and comparison.untouched == 1
    assert [finding.what for finding in comparison.findings] == ["exit code", "rank 0 stdout", "model"]
    assert left.digest(before) == right.digest(before)


def test_the_first_difference_is_named_by_line_and_byte(tmp_path: Path) -> None:
    left = run_of(tmp_path / "left", {}, b"step 1\nstep 2 loss 0.25\nstep 3\n")
    right = run_of(tmp_path / "right", {}, b"step 1\nstep 2 loss 0.26\nstep 3\n")
    comparison = compare_runs(left, right, left.tree)
    first = comparison.first
    assert first is not None and first.difference is not None and first.what == "rank 0 stdout"
    assert (first.difference.line, first.difference.column) == (2, 16)
    assert (first.difference.left, first.difference.right) == (b"step 2 loss 0.25", b"step 2 loss 0.26")
    assert left.digest(left.tree) != right.digest(left.tree)


def test_a_line_that_is_missing_or_repeated_is_a_difference(tmp_path: Path) -> None:
    whole = run_of(tmp_path / "left", {}, b"1\n2\n3\n")
    for number, wrong in enumerate((b"1\n3\n", b"1\n2\n2\n3\n", b"1\n2\n3", b"1\n2\n3\n\n", b"")):
        other = run_of(tmp_path / f"right{number}", {}, wrong)
        assert not compare_runs(whole, other, whole.tree).identical


def test_files_differ_by_content_by_mode_and_by_being_there(tmp_path: Path) -> None:
    left = run_of(tmp_path / "left", {"a": b"1", "b": b"same", "gone": b""})
    right = run_of(tmp_path / "right", {"a": b"2", "b": b"same", "new": b""})
    (tmp_path / "right/b").chmod(0o755)
    right = Outcome(0, right.streams, scan(tmp_path / "right").tree, right.content, 1.0)
    before = submitted(tmp_path, {})
    differing = [finding.what for finding in compare_runs(left, right, before).findings if not finding.same]
    assert differing == ["a", "b", "gone", "new"]


def test_an_exit_code_of_its_own_is_a_difference(tmp_path: Path) -> None:
    left, right = run_of(tmp_path / "left", {}), run_of(tmp_path / "right", {}, code=1)
    first = compare_runs(left, right, left.tree).first
    assert first is not None and first.what == "exit code"


def test_masks_cover_both_sides_and_are_counted(tmp_path: Path) -> None:
    left = run_of(tmp_path / "left", {"log": b"at 1.5 s\n"}, b"took 3 s\ntook 4 s\n")
    right = run_of(tmp_path / "right", {"log": b"at 2.5 s\n"}, b"took 5 s\ntook 6 s\n")
    comparison = compare_runs(left, right, submitted(tmp_path, {}), (re.compile(rb"(took|at) [0-9.]+ s"),))
    assert comparison.identical
    assert {finding.what: finding.masked for finding in comparison.findings if finding.masked} == {
        "rank 0 stdout": 2,
        "log": 1,
    }
    strict = compare_runs(left, right, left.tree, (re.compile(rb"took [0-9.]+ s"),))
    assert [finding.what for finding in strict.findings if not finding.same] == ["log"]


@settings(deadline=None)
@given(seed=st.integers(0, system.SEED_MAX), count=st.integers(0, 40))
def test_a_seed_is_a_schedule_in_order_in_which_no_kind_is_forgotten(seed: int, count: int) -> None:
    schedule = draw(system.dice(seed), count)
    assert schedule == draw(system.dice(seed), count)
    assert len(schedule) == count
    places = [blow.at for blow in schedule]
    assert places == sorted(places) and all(0 < at < 1 for at in places)
    assert {blow.kind for blow in schedule[: len(VERIFY)]} == set(VERIFY) or count < len(VERIFY)


@settings(deadline=None)
@given(pick=st.floats(0, 1, exclude_max=True), size=st.integers(1, 9))
def test_a_pick_always_falls_on_somebody(pick: float, size: int) -> None:
    assert one_of(range(size), pick) in range(size)


def test_resizes_are_drawn_only_where_they_were_asked_for() -> None:
    assert Kind.RESIZE not in {blow.kind for blow in draw(system.dice(1), 50)}
    assert Kind.RESIZE in {blow.kind for blow in draw(system.dice(1), 7, (*VERIFY, Kind.RESIZE))}


JOB = JobDetail.model_validate(
    {"id": "j1", "name": "quick", "project": "default", "tier": "standard", "ranks": 1, "phase": "succeeded"}
    | {"command": ("true",), "submitted_s": 0.0, "workdir": "/x", "network": "private"}
)
MEANT = tuple(Blow(kind, 0.1 * number, 0.5) for number, kind in enumerate(VERIFY))


def verdict_of(folder: Path, struck: tuple[Struck, ...], unstruck: tuple[Blow, ...], out: bytes = b"") -> Verdict:
    """Of a job whose disturbed run wrote `out`; undisturbed it wrote nothing."""
    left, right = run_of(folder / "left", {}), run_of(folder / "right", {}, out)
    course = Course(JOB, struck, unstruck, right)
    return Verdict("true", 1, "the same command", 1.0, course, compare_runs(left, right, left.tree))


def shown(verdict: Verdict) -> str:
    from rich.console import Console

    console = Console(width=200)
    with console.capture() as captured:
        console.print(view(verdict, 200))
    return captured.get()


def refused(blow: Blow) -> Struck:
    return Struck(blow, f"{blow.kind}: refused, it cannot be frozen", done=False)


@pytest.mark.parametrize("struck", [(), tuple(map(refused, MEANT))], ids=["too late", "refused"])
def test_a_job_that_no_blow_has_hit_is_not_called_identical(tmp_path: Path, struck: tuple[Struck, ...]) -> None:
    verdict = verdict_of(tmp_path, struck, MEANT[len(struck) :])
    assert exit_code_of(verdict) is ExitCode.UNDISTURBED
    said = value_of(verdict)
    assert (said["verdict"], said["identical"]) == ("not disturbed", False)
    assert set(said["never_dealt"]) == set(VERIFY)
    text = shown(verdict)
    assert "not disturbed" in text and "remedy: " in text and "✓" not in text and "every byte" not in text
    assert ("it cannot be frozen" if struck else "a longer program") in text


def test_of_a_job_that_some_blows_have_hit_the_kinds_that_never_came_are_named(tmp_path: Path) -> None:
    pause, move, *others = MEANT
    verdict = verdict_of(tmp_path, (Struck(pause, "paused, and resumed", done=True), refused(move)), tuple(others))
    assert exit_code_of(verdict) is ExitCode.OK and value_of(verdict)["verdict"] == "identical"
    never = [str(kind) for kind in VERIFY if kind is not Kind.PAUSE]
    assert value_of(verdict)["never_dealt"] == never
    assert f"never dealt: {', '.join(never)}" in shown(verdict)


def test_without_events_two_runs_are_only_compared(tmp_path: Path) -> None:
    verdict = verdict_of(tmp_path, (), ())
    assert exit_code_of(verdict) is ExitCode.OK and value_of(verdict)["never_dealt"] == []
    assert "✓ identical" in shown(verdict) and "never dealt" not in shown(verdict)


def test_a_difference_is_one_whether_or_not_the_job_was_hit(tmp_path: Path) -> None:
    verdict = verdict_of(tmp_path, (), MEANT, b"more")
    assert exit_code_of(verdict) is ExitCode.FAILED and value_of(verdict)["verdict"] == "differs"
    assert "✗ 1 of 2 things differ" in shown(verdict)
