"""The lifecycle table: every pair, and the page generated from it."""

from pathlib import Path

import pytest

from ergosphere.core.lifecycle import MEANING, TABLE, Event, StepRefused, allows, page, step
from ergosphere.core.model import ENDED, HOLDS_SEATS, Phase

PAGE = Path(__file__).parents[2] / "docs/lifecycles/job.md"
EVERY_PAIR = [(phase, event) for phase in Phase for event in Event]


@pytest.mark.parametrize(("phase", "event"), EVERY_PAIR)
def test_every_pair_is_a_step_of_the_table_or_refused_with_both_names(phase: Phase, event: Event) -> None:
    if (phase, event) in TABLE:
        assert step(phase, event) is TABLE[phase, event]
        assert allows(phase, event)
    else:
        assert not allows(phase, event)
        with pytest.raises(StepRefused, match=f"{phase}.*{event}"):
            step(phase, event)


def test_nothing_follows_an_end() -> None:
    assert not [pair for pair in TABLE if pair[0] in ENDED]


def test_every_phase_is_reached_and_every_event_is_used() -> None:
    reached = {Phase.WAITING}
    while more := {following for (phase, _), following in TABLE.items() if phase in reached} - reached:
        reached |= more
    assert reached == set(Phase)
    assert {event for _, event in TABLE} == set(Event) == set(MEANING)


def test_an_end_can_be_reached_from_everywhere() -> None:
    ending = set(ENDED)
    while more := {phase for (phase, _), following in TABLE.items() if following in ending} - ending:
        ending |= more
    assert ending == set(Phase)


def test_a_job_can_be_cancelled_unless_it_is_ending_or_has_ended() -> None:
    cancellable = {phase for phase in Phase if allows(phase, Event.CANCEL)}
    assert cancellable == set(Phase) - ENDED - {Phase.ENDING}


def test_without_devices_cancelling_is_immediate_and_with_them_something_must_be_stopped_first() -> None:
    for phase in set(Phase) - ENDED - {Phase.ENDING}:
        assert step(phase, Event.CANCEL) is (Phase.ENDING if phase in HOLDS_SEATS else Phase.CANCELLED)


def test_whatever_holds_devices_can_be_lost_and_is_cleared_first() -> None:
    losable = {phase for phase in Phase if allows(phase, Event.LOST)}
    assert losable == HOLDS_SEATS - {Phase.CLEARING}
    assert {step(phase, Event.LOST) for phase in losable} == {Phase.CLEARING}


def test_what_failed_leaves_the_job_as_if_nobody_had_asked() -> None:
    assert step(step(Phase.WAITING, Event.START_ORDERED), Event.START_FAILED) is Phase.WAITING
    assert step(step(Phase.RUNNING, Event.FREEZE_ORDERED), Event.FREEZE_FAILED) is Phase.RUNNING
    assert step(step(Phase.FROZEN, Event.THAW_ORDERED), Event.THAW_FAILED) is Phase.FROZEN


def test_the_page_in_the_documentation_is_the_table() -> None:
    assert PAGE.read_text() == page(), "run: python -m ergosphere.core.lifecycle > docs/lifecycles/job.md"
