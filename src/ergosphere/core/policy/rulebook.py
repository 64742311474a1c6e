"""Rules as an administrator writes them: a mapping of names to numbers, read and checked as a whole. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Final

from ergosphere.core.fraction import HOUR_S, PROMISE
from ergosphere.core.model import Tier
from ergosphere.core.policy.rules import Rules
from ergosphere.core.suggest import unknown

NUMBER_MAX: Final = 1e9  # of any rule: thirty years in seconds
STANDARD_S: Final = round((1.0 - PROMISE[Tier.STANDARD]) * HOUR_S, 3)  # a standard job may stand still for, an hour


class RuleTrouble(ValueError):
    """Rules that cannot be, or contradict each other: names the rule and what to do."""


def read_rules(said: Mapping[str, object]) -> Rules:
    """The rules with everything that is said; the rest as it is by default. Raises RuleTrouble."""
    known = {field.name: field.type for field in fields(Rules)}
    numbers: dict[str, float | int] = {}
    for name, value in said.items():
        if name not in known:
            raise RuleTrouble(unknown("rule", name, known))
        numbers[name] = read_number(name, value, whole=known[name] == "int")
    rules = Rules(**numbers)  # type: ignore[arg-type]
    for _, trouble in contradictions(rules):
        raise RuleTrouble(trouble)
    return rules


def read_number(name: str, value: object, *, whole: bool) -> float | int:
    """Raises RuleTrouble for what is no number from 0 on, or no whole one where that is needed."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise RuleTrouble(f"{name} is {value!r}; it must be a number" + (", a whole one" if whole else ""))
    if value < 0:
        raise RuleTrouble(f"{name} is {value:g}; it cannot be negative")
    if value > NUMBER_MAX:
        raise RuleTrouble(f"{name} is {value:g}; {NUMBER_MAX:g} is the most")
    if whole and value != int(value):
        raise RuleTrouble(f"{name} is {value:g}; it must be a whole number")
    return int(value) if whole else float(value)


def contradictions(rules: Rules) -> Iterator[tuple[tuple[str, ...], str]]:
    """What cannot hold together: the rules at fault, and in words."""
    if rules.quantum_s < rules.min_run_s:
        yield (
            ("quantum_s", "min_run_s"),
            f"quantum_s ({rules.quantum_s:g}) is shorter than min_run_s ({rules.min_run_s:g}): a job would have to "
            "leave for its own tier earlier than for a stronger one; raise quantum_s",
        )
    if rules.owed_margin_s >= STANDARD_S:
        yield (
            ("owed_margin_s",),
            f"owed_margin_s ({rules.owed_margin_s:g}) is all that a standard job may miss in an hour "
            f"({STANDARD_S:g}): every standard job would be owed at once; lower it",
        )
    if rules.owed_turn_s < rules.min_run_s:
        yield (
            ("owed_turn_s", "min_run_s"),
            f"owed_turn_s ({rules.owed_turn_s:g}) is shorter than min_run_s ({rules.min_run_s:g}); raise owed_turn_s",
        )
    if not 0 < rules.payback <= 1:
        yield (
            ("payback",),
            f"payback ({rules.payback:g}) is the part of what a move wins that it may cost; set it above 0, at most 1",
        )
    if rules.payback_s <= 0:
        yield (
            ("payback_s",),
            "payback_s is 0: no move could ever be earned back; raise it",
        )
