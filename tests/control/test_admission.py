"""What is said of a promise when a job is taken in; and many jobs at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.control.ledger_home import RULES, Home

from ergosphere.control import foresee
from ergosphere.control.ledger.tables import ProjectRow
from ergosphere.control.submit import TooLarge, submit
from ergosphere.core.model import Phase, Tier
from ergosphere.wire.api import Submitted
from ergosphere.wire.jobs import JobSpec

MANY = 2_000  # the short form of ten thousand, which take seconds on a quiet machine


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    made = Home(tmp_path)
    yield made
    made.ledger.close()


def spec(name: str = "j", ranks: int = 1, tier: Tier = Tier.PREMIUM, **rest: object) -> JobSpec:
    whole = {"min_devices": ranks, "command": ("x",), "workdir": "/", "env": {"A": "b"}}
    return JobSpec.model_validate({"name": name, "ranks": ranks, "tier": tier, **whole, **rest})


def take(home: Home, *args: object, **rest: object) -> Submitted:
    return submit(home.ledger, home.watch._store, spec(*args, **rest))


def projects(home: Home, **limits: dict[str, object]) -> None:
    with home.ledger.change() as change:
        change.session.add_all(ProjectRow(id=name, **limit) for name, limit in limits.items())


# ---- whether a promise can be given


def test_a_promise_that_the_fleet_cannot_keep_is_said_to_be_so(home: Home) -> None:
    home.nodes("a", devices=8)
    first, second = take(home, "first", 8), take(home, "second", 8)
    assert (first.promised, first.notes) == (True, ())
    assert second.promised is False
    assert "its premium promise (95%) cannot be guaranteed" in second.notes[0]
    assert "15.2 devices are promised to live jobs, and the fleet has 8 (190%)" in second.notes[0]


def test_a_stronger_tier_is_not_told_of_promises_that_yield_to_it(home: Home) -> None:
    home.nodes("a", devices=8)
    assert take(home, "weak", 8, Tier.STANDARD).promised
    assert take(home, "strong", 8, Tier.PREMIUM).promised
    assert take(home, "weaker", 1, Tier.STANDARD).promised is False
    assert take(home, "free", 8, Tier.BASIC).promised is None


def test_whoever_owes_its_owner_nothing_now_does_not_count(home: Home) -> None:
    home.nodes("a", devices=8)
    first = take(home, "first", 8)
    home.verbs.pause(first.job.id)
    assert take(home, "second", 8).promised


def test_all_of_an_array_counts(home: Home) -> None:
    home.nodes("a", devices=8)
    assert take(home, "some", array=list(range(8))).promised
    home.verbs.cancel("some-0", 0)
    assert take(home, "many", array=list(range(9))).promised is False


def test_a_dry_run_says_the_same(home: Home) -> None:
    home.nodes("a", devices=8)
    take(home, "first", 8)
    told = foresee.foresee(home.ledger, RULES, spec("second", 8))
    assert any("cannot be guaranteed" in note for note in told.notes)


# ---- what a project allows


def test_who_may_never_have_what_it_needs_is_refused(home: Home) -> None:
    home.nodes("a", devices=8)
    projects(home, lab={"limit": 2})
    with pytest.raises(TooLarge) as refused:
        take(home, "wide", 4, project="lab")
    assert str(refused.value) == "4 ranks need 4 devices, and project lab may never have more than 2"
    assert refused.value.remedy == "ask for a higher limit of lab, or let its ranks share devices: --min-devices 2"
    with pytest.raises(TooLarge):
        foresee.foresee(home.ledger, RULES, spec("wide", 4, project="lab"))


def test_who_can_share_devices_is_told_on_how_many_it_will_run(home: Home) -> None:
    home.nodes("a", devices=8)
    projects(home, lab={"limit": 2})
    told = take(home, "elastic", 4, project="lab", min_devices=1)
    assert "project lab may never have more than 2 devices: its ranks share those" in told.notes


def test_who_waits_for_its_projects_limit_is_told_so(home: Home) -> None:
    home.nodes("a", devices=8)
    projects(home, lab={"limit": 2})
    take(home, "first", 2, project="lab")
    told = take(home, "second", 1, project="lab")
    assert told.notes == ("project lab has 2 of its 2 devices in use or waited for: it waits for them",)


def test_borrowed_work_is_told_that_its_promise_does_not_hold(home: Home) -> None:
    home.nodes("a", devices=8)
    projects(home, lab={"guarantee": 2})
    told = take(home, "wide", 4, project="lab")
    assert told.promised is False and "runs on borrowed devices" in told.notes[0]


# ---- many at once


def test_thousands_of_jobs_of_one_array_are_taken_in_and_scheduling_goes_on(home: Home) -> None:
    home.nodes("a", devices=8)
    began_s = time.process_time()
    told = take(home, "sweep", tier=Tier.BASIC, array=list(range(MANY)))
    home.turn()
    assert time.process_time() - began_s < 60
    names = [told.job.id, *told.others]
    assert len(set(names)) == MANY
    with home.ledger.sight() as sight:
        assert len(sight.jobs) == MANY
    home.turn()
    with home.ledger.sight() as sight:
        assert sum(job.phase is Phase.STARTING for job in sight.jobs.values()) == 8
    began_s = time.process_time()
    for number in range(20):
        take(home, f"one-{number}")
        assert home.turn()
    assert (time.process_time() - began_s) / 20 < 0.5, "a turn and a submission beside ten thousand that wait"


def test_turns_are_taken_while_many_submit_at_once(home: Home) -> None:
    """Each writer at its own pace, and the loop between them: nothing is lost, and nobody waits for the others' end."""
    home.nodes("a", devices=8)
    failed: list[Exception] = []

    def write(writer: int) -> None:
        try:
            for number in range(25):
                take(home, f"w{writer}-{number}", tier=Tier.BASIC)
        except Exception as error:
            failed.append(error)

    writers = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for one in writers:
        one.start()
    turns = 0
    while any(one.is_alive() for one in writers):
        turns += home.turn()
    assert not failed and turns > 0
    home.turn()
    home.turn()
    with home.ledger.sight() as sight:
        assert len(sight.jobs) == 200
        assert sum(job.phase is Phase.STARTING for job in sight.jobs.values()) == 8
