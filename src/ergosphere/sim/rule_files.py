"""Rules of the policy from a YAML or JSON file: names and numbers, checked as the service checks them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from ergosphere.core.policy.rulebook import RuleTrouble, contradictions, read_number
from ergosphere.core.policy.rules import Rules
from ergosphere.core.suggest import unknown
from ergosphere.sim.faulty import Faults, Faulty
from ergosphere.sim.lines import parsed


def read(path: Path) -> Rules:
    """Raises Faulty for names nobody knows, numbers that cannot be meant, and rules that contradict each other."""
    faults = Faults(str(path))
    found = _parsed(path, faults)
    lines: Mapping[str, int] = found[None].keys
    known = {one.name: one.type for one in fields(Rules)}
    good: dict[str, Any] = {}
    for name, number in found.items():
        if name is None:
            continue
        line = lines.get(str(name), 0)
        if name not in known:
            faults.add(line, unknown("rule", str(name), known), f"there is {', '.join(sorted(known))}")
            continue
        try:
            good[name] = read_number(name, number, whole=known[name] == "int")
        except RuleTrouble as trouble:
            _add(faults, line, trouble)
    faults.check()
    rules = replace(Rules(), **good)
    for names, words in contradictions(rules):
        _add(faults, next((lines[name] for name in names if name in lines), 0), RuleTrouble(words))
    faults.check()
    return rules


def _add(faults: Faults, line: int, trouble: RuleTrouble) -> None:
    cause, _, remedy = str(trouble).rpartition("; ")
    faults.add(line, cause, remedy)


def _parsed(path: Path, faults: Faults) -> dict[Any, Any]:
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        faults.add(0, f"cannot be read: {error}", "name a file of rules: min_run_s: 60")
        raise Faulty(str(path), faults.found) from None
    found = parsed(text, faults, "min_run_s: 60")
    if not isinstance(found, dict):
        faults.add(1, "holds no rules", "min_run_s: 60")
        raise Faulty(str(path), faults.found)
    return found
