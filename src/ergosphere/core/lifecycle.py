"""The job's lifecycle: a table over phase and event, one `step`, everything else refused.

Only the table, its reading and its page in the documentation live here; who raises an event is the server's business.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from ergosphere.core.model import ENDED, HOLDS_SEATS, Phase


class Event(StrEnum):
    """What can happen to a job (`MEANING` says it in words). Orders are ours, the rest is learnt from reports."""

    START_ORDERED = "start-ordered"
    STARTED = "started"
    START_FAILED = "start-failed"
    RESIZE_ORDERED = "resize-ordered"
    RESIZED = "resized"
    RESIZE_FAILED = "resize-failed"
    FREEZE_ORDERED = "freeze-ordered"
    FROZE = "froze"
    FREEZE_FAILED = "freeze-failed"
    THAW_ORDERED = "thaw-ordered"
    THAWED = "thawed"
    THAW_FAILED = "thaw-failed"
    SNAPSHOTS_SPOILT = "snapshots-spoilt"
    LOST = "lost"
    LOST_FOR_GOOD = "lost-for-good"
    CLEARED_TO_SNAPSHOT = "cleared-to-snapshot"
    CLEARED_TO_BEGINNING = "cleared-to-beginning"
    OUTCOME_KNOWN = "outcome-known"
    CANCEL = "cancel"
    FORKED = "forked"
    ROLL_BACK = "roll-back"
    ENDED_SUCCEEDED = "ended-succeeded"
    ENDED_FAILED = "ended-failed"
    ENDED_CANCELLED = "ended-cancelled"


MEANING: Final[Mapping[Event, str]] = MappingProxyType(
    {
        Event.START_ORDERED: "the policy gave it seats for its first life, or for a life from the beginning",
        Event.STARTED: "every rank runs",
        Event.START_FAILED: "nothing of it runs; it is tried again after a while",
        Event.RESIZE_ORDERED: "the policy gave its ranks other devices of the nodes they are on",
        Event.RESIZED: "every rank computes on the device it was given; those it left are free",
        Event.RESIZE_FAILED: "its ranks compute where they did; the new devices are free again",
        Event.FREEZE_ORDERED: "pause, preempt, move, drain, or a resize across nodes",
        Event.FROZE: "the snapshot is committed, the originals are gone, the devices are free",
        Event.FREEZE_FAILED: "the job runs on as if nobody had asked",
        Event.THAW_ORDERED: "the policy gave its snapshot seats",
        Event.THAWED: "every rank runs again",
        Event.THAW_FAILED: "what was restored is gone again; the snapshot stays",
        Event.SNAPSHOTS_SPOILT: "no whole snapshot is left: it starts again from its beginning",
        Event.LOST: "a rank died by a signal nobody asked for, or a node vanished; within the restart limit",
        Event.LOST_FOR_GOOD: "the same, beyond the restart limit",
        Event.CLEARED_TO_SNAPSHOT: "nothing of the lost life is left, and a whole snapshot is there",
        Event.CLEARED_TO_BEGINNING: "nothing of the lost life is left, and there is no whole snapshot",
        Event.OUTCOME_KNOWN: "the program ended by itself, or can never be started",
        Event.CANCEL: "its owner cancelled it",
        Event.FORKED: "it begins as a copy of another job's snapshot, or of one that was imported",
        Event.ROLL_BACK: "its owner wants it back at an earlier snapshot: the life it has now ends",
        Event.ENDED_SUCCEEDED: "stopped and collected after a success",
        Event.ENDED_FAILED: "stopped and collected after a failure",
        Event.ENDED_CANCELLED: "stopped after a cancellation",
    }
)

# a life that can be lost or end
_LIVING: Final = (Phase.STARTING, Phase.RUNNING, Phase.RESIZING, Phase.FREEZING, Phase.THAWING)


def _table() -> dict[tuple[Phase, Event], Phase]:
    table = {
        (Phase.WAITING, Event.START_ORDERED): Phase.STARTING,
        (Phase.WAITING, Event.CANCEL): Phase.CANCELLED,
        (Phase.WAITING, Event.FORKED): Phase.FROZEN,
        (Phase.STARTING, Event.STARTED): Phase.RUNNING,
        (Phase.STARTING, Event.START_FAILED): Phase.WAITING,
        (Phase.RUNNING, Event.RESIZE_ORDERED): Phase.RESIZING,
        (Phase.RESIZING, Event.RESIZED): Phase.RUNNING,
        (Phase.RESIZING, Event.RESIZE_FAILED): Phase.RUNNING,
        (Phase.RUNNING, Event.FREEZE_ORDERED): Phase.FREEZING,
        (Phase.RUNNING, Event.ROLL_BACK): Phase.CLEARING,
        (Phase.FREEZING, Event.FROZE): Phase.FROZEN,
        (Phase.FREEZING, Event.FREEZE_FAILED): Phase.RUNNING,
        (Phase.FROZEN, Event.THAW_ORDERED): Phase.THAWING,
        (Phase.FROZEN, Event.SNAPSHOTS_SPOILT): Phase.WAITING,
        (Phase.FROZEN, Event.CANCEL): Phase.CANCELLED,
        (Phase.THAWING, Event.THAWED): Phase.RUNNING,
        (Phase.THAWING, Event.THAW_FAILED): Phase.FROZEN,
        (Phase.THAWING, Event.SNAPSHOTS_SPOILT): Phase.WAITING,
        (Phase.CLEARING, Event.CLEARED_TO_SNAPSHOT): Phase.FROZEN,
        (Phase.CLEARING, Event.CLEARED_TO_BEGINNING): Phase.WAITING,
        (Phase.CLEARING, Event.CANCEL): Phase.ENDING,
        (Phase.ENDING, Event.LOST): Phase.CLEARING,  # its results went with the node: done again from the snapshot
        (Phase.ENDING, Event.ENDED_SUCCEEDED): Phase.SUCCEEDED,
        (Phase.ENDING, Event.ENDED_FAILED): Phase.FAILED,
        (Phase.ENDING, Event.ENDED_CANCELLED): Phase.CANCELLED,
    }
    for phase in _LIVING:
        table[phase, Event.LOST] = Phase.CLEARING
        table[phase, Event.LOST_FOR_GOOD] = Phase.ENDING
        table[phase, Event.OUTCOME_KNOWN] = Phase.ENDING
        table[phase, Event.CANCEL] = Phase.ENDING
    return table


TABLE: Final[Mapping[tuple[Phase, Event], Phase]] = MappingProxyType(_table())


class StepRefused(Exception):
    """The table has no such step: the event came late, twice, or means another job."""

    def __init__(self, phase: Phase, event: Event) -> None:
        super().__init__(f"a {phase} job does not know the event {event}")
        self.phase = phase
        self.event = event


def step(phase: Phase, event: Event) -> Phase:
    """The phase that follows. Raises `StepRefused` where the table has nothing."""
    following = TABLE.get((phase, event))
    if following is None:
        raise StepRefused(phase, event)
    return following


def allows(phase: Phase, event: Event) -> bool:
    """True where `step` would not refuse."""
    return (phase, event) in TABLE


def page() -> str:
    """The lifecycle as a page of Markdown; `docs/lifecycles/job.md` is this text."""
    return "\n".join([*_INTRODUCTION, *_diagram(), "", *_events(), "", *_steps(), ""])


_INTRODUCTION: Final = (
    "# The lifecycle of a job",
    "",
    "Generated from `ergosphere.core.lifecycle` by `python -m ergosphere.core.lifecycle`; a test compares. A pair that",
    "is not in the table is refused.",
    "",
    "When a node vanishes there is nobody to answer that it was cleared: once its lease and the margin are over, the",
    "server raises `cleared-…` itself. While a job is ending, a loss sends it back only if it had succeeded and its",
    "results went with the node; a failed or cancelled job ends all the same, and the server raises `ended-…` itself.",
    "",
)


def _diagram() -> list[str]:
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {Phase.WAITING}"]
    arrows: dict[tuple[Phase, Phase], list[Event]] = {}
    for (phase, event), following in _ordered():
        arrows.setdefault((phase, following), []).append(event)
    for (phase, following), events in arrows.items():
        lines.append(f"    {phase} --> {following}: {' / '.join(events)}")
    lines.extend(f"    {phase} --> [*]" for phase in Phase if phase in ENDED)
    return [*lines, "```"]


def _events() -> list[str]:
    lines = ["## Events", "", "| event | what happened |", "| --- | --- |"]
    return [*lines, *(f"| `{event}` | {MEANING[event]} |" for event in Event)]


def _steps() -> list[str]:
    lines = ["## Steps", "", "| phase | holds devices | event | next phase |", "| --- | --- | --- | --- |"]
    for (phase, event), following in _ordered():
        holds = "yes" if phase in HOLDS_SEATS else "no"
        lines.append(f"| {phase} | {holds} | `{event}` | {following} |")
    return lines


def _ordered() -> list[tuple[tuple[Phase, Event], Phase]]:
    phases, events = list(Phase), list(Event)
    return sorted(TABLE.items(), key=lambda item: (phases.index(item[0][0]), events.index(item[0][1])))


if __name__ == "__main__":
    sys.stdout.write(page())
