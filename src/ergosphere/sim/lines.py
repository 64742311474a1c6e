"""YAML with its lines: every mapping says where it began, and a key that is there twice is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from ergosphere.sim.faulty import Faults


class _Lines(yaml.SafeLoader):
    """Keeps the line of every mapping under the key None, and those of its keys under None of that."""


def _mapping(loader: _Lines, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: dict[str, int] = {}
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
            if key.value in seen:
                words = f"{key.value} is there twice, first on line {seen[key.value]}"
                raise yaml.constructor.ConstructorError(problem=words, problem_mark=key.start_mark)
            seen[key.value] = key.start_mark.line + 1
    loader.flatten_mapping(node)
    return {**loader.construct_mapping(node, deep=True), None: Lines(node.start_mark.line + 1, seen)}


_Lines.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


class Lines(int):
    """The line of a mapping, with those of its keys."""

    keys: Mapping[str, int]

    def __new__(cls, line: int, keys: Mapping[str, int]) -> Lines:
        made = super().__new__(cls, line)
        made.keys = keys
        return made


def parsed(text: str, faults: Faults, remedy: str) -> Any:
    """What the text says. Raises Faulty where it says nothing."""
    try:
        return yaml.load(text, Loader=_Lines)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        refused = isinstance(error, yaml.constructor.ConstructorError)
        remedy = "keep one of them" if " is there twice" in problem else remedy
        faults.add(mark.line + 1 if mark else 0, problem if refused else f"is no YAML: {problem}", remedy)
        faults.check()
        raise
