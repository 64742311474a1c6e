"""`ergo projects --set FILE`, `--array` and `--replicas`: what is written is meant, or named with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from ergosphere.cli.errors import CliError
from ergosphere.cli.policy import read_projects
from ergosphere.cli.words import bounds, indexes


def read(folder: Path, text: str) -> list[dict]:
    path = folder / "projects.yaml"
    path.write_text(text)
    return read_projects(path)


def test_a_tree_of_projects_is_read_with_its_children(tmp_path: Path) -> None:
    text = "lab:\n  guarantee: 8\n  children:\n    vision: {weight: 2}\n    text: {limit: 4, borrow: false}\nopen:\n"
    assert read(tmp_path, text) == [
        {"id": "lab", "parent": "", "guarantee": 8},
        {"id": "vision", "parent": "lab", "weight": 2},
        {"id": "text", "parent": "lab", "limit": 4, "borrow": False},
        {"id": "open", "parent": ""},
    ]
    assert read(tmp_path, "") == []
    assert read(tmp_path, "[{name: lab, quota: 8, projects: [{name: vision}]}]") == [
        {"id": "lab", "parent": "", "guarantee": 8},
        {"id": "vision", "parent": "lab"},
    ], "as a fleet file has it"


@pytest.mark.parametrize(
    "text, words",
    [
        ("lab:\n  garantee: 8", "line 2: unknown key 'garantee'"),
        ("lab:\n  guarantee: many", "line 2: guarantee is 'many', not a number of devices"),
        ("lab:\n  guarantee: true", "line 2: guarantee is True"),
        ("lab: 5", "line 1: project lab must be a mapping"),
        ("- lab", "line 1: projects are a mapping"),
        (
            "a:\n  limit: 1\nlab:\n  guarantee: 10\n  children:\n    mid:\n      children: {kid: {guarantee: 20}}",
            "line 3: the children of project lab are guaranteed 20 devices (kid 20), but lab itself only 10",
        ),
        ("lab:\n  guarantee: 8\n  guarantee: 9", "line 3: guarantee is there twice, first on line 2"),
        ("lab:\n  guarantee: 8\n  quota: 9", "line 3: quota is there twice"),
        ("lab: {}\nmid: {}\nlab: {}", "line 3: lab is there twice"),
        ("lab:\n  children:\n    lab: {}", "line 3: project lab is declared twice"),
        ("lab:\n  weight: 0", "line 1: project lab has weight 0"),
        ("a b: {}", "line 1: 'a b' cannot be the name of a project"),
        ("- {guarantee: 8}", "line 1: the project has no name"),
        ("a: &a\n  children:\n    b: *a", "levels of projects"),
        ("a: [", "is no YAML"),
        ("lab:\n  borrow: maybe", "not true or false"),
    ],
)
def test_what_cannot_be_meant_is_named_with_its_line(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(CliError) as caught:
        read(tmp_path, text)
    assert words in str(caught.value)


def test_indexes_and_bounds() -> None:
    assert indexes("0-3,7,2") == (0, 1, 2, 3, 7)
    assert bounds("2-5") == (2, 5) and bounds("3") == (3, 3)
    for text in ("", "a", "5-2", "1-", "-1", "0-99999"):
        with pytest.raises(ValueError):
            indexes(text)
    for text in ("", "x-y", "2-"):
        with pytest.raises(ValueError):
            bounds(text)
