"""Projects of a fleet file: the keys that `ergo projects --set` knows, checked by the same tree."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

from ergosphere.core.model import ProjectView
from ergosphere.core.policy import quota
from ergosphere.core.policy.quota import QuotaTrouble
from ergosphere.core.suggest import nearest
from ergosphere.sim.faulty import Faults

KEYS: Final = frozenset({"name", "parent", "weight", "guarantee", "quota", "limit", "borrow", "children", "projects"})
DEVICES_MAX: Final = 10_000_000
WRITTEN: Final = "{lab: {guarantee: 8}} or [{name: lab, guarantee: 8}]"


def projects(found: object, line: int, faults: Faults) -> tuple[ProjectView, ...]:
    """The tree, flat. Whatever cannot be meant, or contradicts itself, is noted with its line."""
    read = list(_several(found, line, "", faults))
    if not faults.found:
        try:
            quota.check([one for one, _ in read])
        except QuotaTrouble as trouble:
            at = [where for one, where in read if one.id == trouble.project]
            cause, _, remedy = str(trouble).rpartition("; ")
            faults.add(at[-1] if at else line, cause, remedy)
    return tuple(one for one, _ in read)


def _several(found: object, line: int, parent: str, faults: Faults) -> Iterator[tuple[ProjectView, int]]:
    """A mapping of names to settings, or a list of settings with names."""
    if found is None:
        return
    if isinstance(found, Mapping) and not KEYS & {key for key in found if key is not None}:
        lines = found[None]
        for name, settings in found.items():
            if name is not None:
                yield from _one(name, settings, lines.keys.get(str(name), int(lines)), parent, faults)
        return
    for one in found if isinstance(found, list) else [found]:
        if isinstance(one, Mapping) and one.get("name"):
            yield from _one(one["name"], one, int(one[None]), parent, faults)
        else:
            where = int(one[None]) if isinstance(one, Mapping) else line
            faults.add(where, "the project has no name", f"projects are written {WRITTEN}")


def _one(name: object, found: object, line: int, parent: str, faults: Faults) -> Iterator[tuple[ProjectView, int]]:
    settings = {None: line} if found is None else found
    if isinstance(name, list | dict) or not isinstance(settings, Mapping):
        faults.add(line, f"project {name!r} cannot be meant", f"projects are written {WRITTEN}")
        return
    for key in settings:
        if key is not None and key not in KEYS:
            near = nearest(str(key), KEYS)
            known = f"did you mean {near}?" if near else f"there is {', '.join(sorted(KEYS))}"
            faults.add(_line(settings, key, line), f"a project has no {key}", known)
    reader = _Settings(settings, line, faults)
    borrow = settings.get("borrow", True)
    if not isinstance(borrow, bool):
        faults.add(reader.line("borrow"), f"borrow: {borrow!r} cannot be meant", "true or false")
    above = str(settings.get("parent") or parent)
    guarantee = reader.devices(reader.either("guarantee", "quota"))
    project = ProjectView(str(name), above, reader.weight(), guarantee, reader.devices("limit"), borrow is True)
    yield project, line
    below = reader.either("children", "projects")
    yield from _several(settings.get(below), reader.line(below), project.id, faults)


def _line(settings: Mapping[Any, Any], key: object, otherwise: int) -> int:
    return int(getattr(settings.get(None), "keys", {}).get(str(key), otherwise))


class _Settings:
    """Numbers of one project."""

    def __init__(self, found: Mapping[Any, Any], at: int, faults: Faults) -> None:
        self.found = found
        self.at = at
        self.faults = faults

    def line(self, key: str) -> int:
        return _line(self.found, key, self.at)

    def either(self, key: str, other: str) -> str:
        """Which of two words for the same is used."""
        if key in self.found and other in self.found:
            self.faults.add(self.line(other), f"{key} and {other} mean the same", f"keep {key}")
        return other if other in self.found else key

    def devices(self, key: str) -> int | None:
        number = self.found.get(key)
        if number is None:
            return None
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= DEVICES_MAX:
            remedy = f"a whole number of devices from 0 to {DEVICES_MAX:,}"
            self.faults.add(self.line(key), f"{key}: {number!r} cannot be meant", remedy)
            return None
        return number

    def weight(self) -> float:
        number = self.found.get("weight", 1.0)
        if isinstance(number, bool) or not isinstance(number, int | float) or not 0 < number < math.inf:
            self.faults.add(self.line("weight"), f"weight: {number!r} cannot be meant", "a number above 0")
            return 1.0
        return float(number)
