"""What is copied, what is bound read-only from its place, and what is left out."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from ergosphere.snapshots.ignore import BOUND_MAX, read
from ergosphere.snapshots.scan import scan


def lay(root: Path, *paths: str, **rules: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    for name, text in rules.items():
        target = root / name.replace("__", "/").replace("git_", ".gitignore").replace("ergo_", ".ergoignore")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    return root


def copied(root: Path) -> list[str]:
    entries = scan(root, read(root).excluded).tree.entries
    return [entry.path for entry in entries if entry.kind == "file" and not entry.path.endswith("ignore")]


def test_without_rules_everything_is_copied(tmp_path: Path) -> None:
    lay(tmp_path, "a", "b/c")
    assert copied(tmp_path) == ["a", "b/c"] and read(tmp_path).bound == ()


def test_ignored_directories_and_files_are_bound_at_their_top(tmp_path: Path) -> None:
    lay(tmp_path, "train.py", "data/a/b", "data/c", "src/model.pt", git_="data/\n*.pt\n")
    assert copied(tmp_path) == ["train.py"]
    assert read(tmp_path).bound == ("data", "src/model.pt")


def test_repositories_environments_and_modules_are_bound_without_any_rule(tmp_path: Path) -> None:
    lay(tmp_path, ".git/HEAD", "env/pyvenv.cfg", "env/bin/python", "web/node_modules/x", "main.py")
    assert copied(tmp_path) == ["main.py"]
    assert read(tmp_path).bound == (".git", "env", "web/node_modules")


def test_caches_are_simply_left_out(tmp_path: Path) -> None:
    lay(tmp_path, "a.py", "__pycache__/a.pyc", "p/__pycache__/x.pyc", ".mypy_cache/x", "b.pyc", git_="__pycache__\n")
    assert copied(tmp_path) == ["a.py"] and read(tmp_path).bound == ()


def test_ergoignore_has_the_last_word(tmp_path: Path) -> None:
    lay(tmp_path, "runs/log", "data/x", "env/pyvenv.cfg", git_="runs/\n", ergo_="!runs/\n!env/\ndata/\n")
    assert copied(tmp_path) == ["env/pyvenv.cfg", "runs/log"]
    assert read(tmp_path).bound == ("data",)


def test_inner_rules_speak_for_their_directory_and_win_there(tmp_path: Path) -> None:
    lay(tmp_path, "x.log", "p/x.log", "p/y.log", "q/y.log", git_="*.log\n", p__git_="!x.log\n")
    assert copied(tmp_path) == ["p/x.log"]
    assert read(tmp_path).bound == ("p/y.log", "q/y.log", "x.log")


def test_rules_above_a_sub_directory_hold_up_to_the_root_of_its_repository(tmp_path: Path) -> None:
    lay(tmp_path, "repo/.git/HEAD", "repo/p/q/a.tmp", "repo/p/q/keep", "repo/p/q/out/x", git_="keep\n")
    lay(tmp_path / "repo", git_="*.tmp\n/p/q/out\n")
    (tmp_path / "repo/.git/info").mkdir()
    (tmp_path / "repo/.git/info/exclude").write_text("secret\n")
    lay(tmp_path, "repo/p/q/secret")
    assert copied(tmp_path / "repo/p/q") == ["keep"]
    assert read(tmp_path / "repo/p/q").bound == ("a.tmp", "out", "secret")


def test_more_ignored_paths_than_can_be_mounted_are_said(tmp_path: Path) -> None:
    lay(tmp_path, "dir/x", *(f"{n:03}.bin" for n in range(BOUND_MAX + 9)), git_="*.bin\ndir\n")
    ignore = read(tmp_path)
    assert len(ignore.bound) == BOUND_MAX and "dir" in ignore.bound
    assert copied(tmp_path) == []
    assert "10 more ignored paths are not visible to the job" in ignore.notes[0] and ".ergoignore" in ignore.notes[0]


@pytest.mark.skipif(shutil.which("git") is None, reason="git is the oracle")
def test_git_agrees(tmp_path: Path) -> None:
    lay(
        tmp_path, "a/b/c.txt", "a/b/d.o", "build/x", "src/build/y", "src/keep.o", "foo/bar/baz", "foo/x", "doc/a.pdf",
        "doc/sub/b.pdf", "t e s t", "#hash", "!bang", "deep/1/2/3/z",
        git_="*.o\n/build/\nfoo/*\n!foo/bar\ndoc/*.pdf\n\\#hash\n\\!bang\ndeep/**/z\nt e s t\n", src__git_="!keep.o\n",
    )  # fmt: skip
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--others", "--exclude-standard"], cwd=tmp_path, capture_output=True, check=True
    )
    expected = sorted(name for name in listed.stdout.decode().split("\0") if name and not name.endswith("ignore"))
    assert sorted(copied(tmp_path)) == expected
