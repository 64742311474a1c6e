"""What the demo promises to show, and what of that it has not shown. Values only."""

from __future__ import annotations

from collections.abc import Sequence

from demo.premium import Urgent
from ergosphere.cli.verifying.blows import Kind
from ergosphere.cli.verifying.strikes import Struck
from ergosphere.core.model import Phase


def missing(
    differing: Sequence[str], meant: Sequence[Kind], struck: Sequence[Struck], urgent: Urgent
) -> tuple[str, ...]:
    """Every claim that was not shown, in words; () when all were.

    `differing`: jobs that did not come out identical. `meant`: the kinds of blow that were to befall somebody, each of
    which must have been dealt once: one that comes too late for a program is no loss where another one had it.
    """
    found = [f"{name} has not come out identical" for name in differing]
    if urgent.phase is None:
        found.append("the premium job never came: the job that should make room for it had ended before")
    elif urgent.phase is not Phase.SUCCEEDED:
        found.append(f"the premium job has {urgent.phase}")
    if urgent.phase is not None and not urgent.preempted:
        found.append("nobody was preempted for the premium job")
    dealt = {one.blow.kind for one in struck if one.done}
    found += [_never(kind, struck) for kind in dict.fromkeys(meant) if kind not in dealt]
    return tuple(found)


def _never(kind: Kind, struck: Sequence[Struck]) -> str:
    last = next((one.text for one in reversed(struck) if one.blow.kind is kind), "every program had ended before")
    return f"never dealt: {kind} ({last})"
