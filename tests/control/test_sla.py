"""Promised against delivered: borrowed hours, hours that have passed, and those who get nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.control.ledger_home import Home

from ergosphere.control import quotas
from ergosphere.control.ledger import accounts
from ergosphere.control.ledger.tables import ProjectRow, WindowRow
from ergosphere.core import fraction
from ergosphere.core.fraction import HOUR_S, Window
from ergosphere.core.model import Phase, Tier
from ergosphere.wire.policy import TierInfo


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    made = Home(tmp_path)
    made.clock.at_s = 100 * HOUR_S
    yield made
    made.ledger.close()


def tier(home: Home, name: Tier, since_s: float = 0.0) -> TierInfo:
    return next(one for one in quotas.sla(home.ledger, since_s).tiers if one.tier is name)


def up(home: Home) -> None:
    """Whoever was told to start runs."""
    with home.ledger.change() as change:
        for job in change.live_jobs():
            if job.phase is Phase.STARTING:
                job.phase, job.running_since_s = Phase.RUNNING, change.now_s
                change.drop_orders(job)
                accounts.computes(change, job, change.now_s)


def pass_by(home: Home, seconds: float) -> None:
    home.clock.sleep(seconds)
    for name in home.leases._until:
        home.leases.renew(name)
    home.turn()


def guarantee(home: Home, devices: int) -> None:
    with home.ledger.change() as change:
        change.session.add(ProjectRow(id="lab", guarantee=devices))


def test_a_starved_job_costs_attainment_while_it_waits(home: Home) -> None:
    home.nodes("a", devices=1)
    home.job("starved", tier=Tier.PREMIUM, ranks=1, paused=False)
    with home.ledger.change() as change:
        change.node("a").draining = True
    pass_by(home, 10 * HOUR_S)
    found = tier(home, Tier.PREMIUM)
    assert (found.job_hours, found.attainment, found.longest_missed_h) == (10.0, 0.0, 10.0)
    assert found.lost_device_h == {"queue": 10.0}


def test_borrowed_hours_count_as_basic(home: Home) -> None:
    home.nodes("a", devices=4)
    guarantee(home, 1)
    home.job("beyond", 2, Tier.PREMIUM, project="lab", min_devices=2)
    home.turn()
    up(home)
    home.turn()
    assert home.row("beyond").borrowed
    pass_by(home, 2 * HOUR_S)
    assert tier(home, Tier.PREMIUM).job_hours == 0
    assert tier(home, Tier.BASIC).job_hours == pytest.approx(2.0)


def test_an_hour_that_is_borrowed_in_part_counts_in_parts(home: Home) -> None:
    home.nodes("a", devices=4)
    home.job("mixed", 2, Tier.PREMIUM, project="lab", min_devices=2)
    home.turn()
    up(home)
    pass_by(home, 0.25 * HOUR_S)
    guarantee(home, 1)
    pass_by(home, 0.0)
    assert home.row("mixed").borrowed
    pass_by(home, 0.5 * HOUR_S)
    with home.ledger.change() as change:
        change.session.get_one(ProjectRow, "lab").guarantee = 2
    pass_by(home, 0.0)
    assert not home.row("mixed").borrowed
    for hours in (0.25, 1.0):
        pass_by(home, hours * HOUR_S)
        assert tier(home, Tier.BASIC).job_hours == pytest.approx(0.5)
    assert tier(home, Tier.PREMIUM).job_hours == pytest.approx(1.5)
    home.verbs.cancel("mixed", 0.0)
    pass_by(home, 0.0)
    with home.ledger.change() as change:
        accounts.close(change, change.job("mixed"))
    with home.ledger.read() as look:
        rows = list(look.session.query(WindowRow))
        kinds = [(row.began_s / HOUR_S, row.borrowed) for row in rows]
        assert len(set(kinds)) == len(kinds), "one row of each kind for an hour"
        assert sum(row.entitled for row in rows) == pytest.approx(2 * 2.0 * HOUR_S)


def test_who_waits_beyond_a_guarantee_is_owed_nothing_and_who_waits_within_it_is(home: Home) -> None:
    guarantee(home, 2)
    for name in ("first", "second", "third"):
        home.job(name, 1, Tier.PREMIUM, project="lab")
    home.turn()
    assert [home.row(name).borrowed for name in ("first", "second", "third")] == [False, False, True]


def test_of_a_run_of_equal_hours_those_count_that_were_asked_for(home: Home) -> None:
    began_s = home.clock.at_s
    home.job("waits", 1, Tier.PREMIUM)
    home.clock.sleep(10 * HOUR_S)
    with home.ledger.change() as change:
        accounts.comes_back(change, change.job("waits"))
    home.clock.sleep(1800)
    assert tier(home, Tier.PREMIUM).job_hours == pytest.approx(10.5)
    assert tier(home, Tier.PREMIUM, began_s + 7 * HOUR_S).job_hours == pytest.approx(3.5)
    assert tier(home, Tier.PREMIUM, home.clock.at_s - 60).job_hours == pytest.approx(0.5), "the hour that it lies in"


def test_the_later_part_of_a_run() -> None:
    run = Window(0.0, 500.0, 1000.0, 1, 10)
    assert fraction.since([run], 0.0) == (run,)
    assert fraction.since([run], 6 * HOUR_S) == (Window(6 * HOUR_S, 200.0, 400.0, 1, 4),)
    assert fraction.since([run], 10 * HOUR_S) == ()
