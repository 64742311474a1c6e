"""A live fleet as the start: who sits where, what is assumed, and what eta and whatif answer."""

from dataclasses import replace

import pytest

from ergosphere.core.model import Phase, ProjectView, Rung, Tier
from ergosphere.sim import live
from ergosphere.sim.board_desk import BoardDesk
from ergosphere.sim.engine import play
from ergosphere.sim.faulty import Faulty
from ergosphere.sim.foretold import Change, compared, comparison_view, foretell, view
from ergosphere.sim.live import Picture
from ergosphere.sim.many import Task, run
from ergosphere.system import SystemStopwatch, dice
from ergosphere.wire.jobs import AccountInfo, JobInfo, NodeInfo

NOW = 1_000_000.0


def info(key, ranks=1, phase=Phase.RUNNING, nodes=(), tier=Tier.STANDARD, **more):
    started = {"started_s": NOW - 3_600.0} if nodes else {}
    return JobInfo(
        id=key, name=more.pop("name", key), project="p", tier=tier, ranks=ranks, phase=phase, command=("x",),
        submitted_s=more.pop("submitted_s", NOW - 7_200.0), nodes=nodes, **{**started, **more},
    )  # fmt: skip


def node(key, *used, **more):
    return NodeInfo(id=key, devices=len(used), used=used, ready=True, draining=False, lease_left_s=9.0, **more)


FULL = Picture(
    NOW,
    (
        info("a", 2, nodes=("n1", "n2")),
        info("b", 2, nodes=("n1", "n2"), tier=Tier.BASIC),
        info("c", 4, Phase.WAITING, tier=Tier.BASIC),
        info("d", 1, Phase.FROZEN, nodes=("n1",), paused=True),
        info("e", 1, Phase.FROZEN, nodes=("n2",), tier=Tier.BASIC),
    ),
    tuple(
        info(f"old{n}", 2, Phase.SUCCEEDED, nodes=("n1", "n2"), name="a", ended_s=NOW - 3_600.0 + 4_000.0 + n)
        for n in range(5)
    ),
    (node("n1", "a", "b"), node("n2", "b", "a")),
)


def test_everybody_begins_where_the_api_says() -> None:
    scenario = live.scenario(FULL, seed=0)
    by_id = {one.id: one for one in scenario.standing}
    assert scenario.fleet.devices == 4
    assert [(seat.node, seat.device) for seat in by_id["a"].seats] == [("n1", 0), ("n2", 1)]
    assert [(seat.node, seat.device) for seat in by_id["b"].seats] == [("n1", 1), ("n2", 0)]
    assert by_id["c"].seats == by_id["c"].cells == ()
    assert by_id["e"].home == ("n2",) and not by_id["e"].seats
    assert "d" not in by_id, "its owner paused it"


def test_what_is_left_of_a_job_comes_from_ended_jobs_of_its_name() -> None:
    """Five of them ran 4,000 s and it has run for 3,600 s."""
    drawn = [live.drawn_left_s(FULL.jobs[0], FULL, dice(seed)) for seed in range(20)]
    assert all(400 <= left <= 404 for left in drawn)


def test_without_ended_jobs_half_go_on_for_as_long_again() -> None:
    bare = Picture(NOW, FULL.jobs, (), FULL.nodes)
    drawn = sorted(live.drawn_left_s(FULL.jobs[0], bare, dice(seed)) for seed in range(400))
    assert drawn[200] == pytest.approx(3_600, rel=0.25)


def test_a_future_ends_every_job() -> None:
    played = run(Task("ergosphere", live.scenario(FULL, seed=1)))
    assert {one.work.id for one in played.world.ended} == {"a", "b", "c", "e"}
    assert not played.stuck


def test_eta_says_when_a_job_begins_and_ends() -> None:
    told = foretell(FULL, "c", range(10))
    assert told.starts_p50_s is not None and told.ends_p90_s is not None
    assert 0 < told.starts_p50_s <= told.starts_p90_s <= told.ends_p90_s
    running = foretell(FULL, "a", range(10))
    assert running.starts_p90_s == 0.0
    assert 400 <= running.ends_p50_s
    assert "begins within" in str(list(view(told).renderables)[0])


def test_eta_says_why_a_job_will_not_begin() -> None:
    assert "paused" in foretell(FULL, "d", range(3)).why_not
    huge = Picture(NOW, (info("h", 99, Phase.WAITING),), (), FULL.nodes)
    assert "never, because it needs 99 devices, the whole fleet has 4" in foretell(huge, "h", range(3)).why_not
    assert foretell(FULL, "old1", range(3)).why_not == "it has ended"


def test_eta_plays_the_fleet_with_its_projects() -> None:
    """A job that its project's limit keeps out never begins; who waits for it does not either."""
    wide, two = info("wide", 4, Phase.WAITING), info("two", 2, Phase.WAITING)
    jobs = (wide, info("next", 1, Phase.WAITING, after=("wide",)), two)
    limited = Picture(NOW, jobs, (), (node("n", None, None, None, None),), (ProjectView("p", limit=2),))
    assert foretell(limited, "wide", range(2)).why_not == (
        "never, because it needs 4 devices, project p is limited to 2"
    )
    assert "never, because it waits for wide" in foretell(limited, "next", range(2)).why_not
    assert foretell(limited, "two", range(2)).starts_p90_s == 0.0
    assert "never, because" in str(list(view(foretell(limited, "wide", range(2))).renderables)[0])
    twice = replace(limited, jobs=(two, info("also", 2, Phase.WAITING, submitted_s=NOW - 60.0)))
    assert foretell(twice, "also", range(4)).starts_p50_s > 0, "two devices are free, but not for this project"


def test_eta_says_of_a_replica_whether_it_is_wanted_and_that_it_does_not_end() -> None:
    web = {"service": "web", "tier": Tier.PREMIUM}
    jobs = (
        info("web-0", 1, nodes=("n1",), **web),
        info("web-1", 1, Phase.WAITING, **web),
        info("web-2", 1, Phase.WAITING, wanted=False, **web),
        info("train", 1, nodes=("n1",), tier=Tier.BASIC),
    )
    picture = Picture(NOW, jobs, (), (node("n1", "web-0", "train"),))
    assert "not wanted" in foretell(picture, "web-2", range(2)).why_not
    waits = foretell(picture, "web-1", range(4))
    assert waits.starts_p90_s < 300 and waits.ends_p50_s is None and not waits.unknown
    assert "it serves until" in str(list(view(waits).renderables)[1])
    told = compared(picture, Change(nodes=1), range(2))
    assert (told.now.left_out, told.now.jobs) == (1, 1)


def test_what_is_known_of_a_job_is_known_in_its_futures() -> None:
    """Its account on the clock's hours, its deadline, how few devices it may have, that it cannot be frozen."""
    hour_s = NOW // 3_600 * 3_600
    account = AccountInfo(devices=4, opened_s=NOW - 7_200, at_s=NOW - 60, window_s=hour_s, life_delivered=99_999.0)
    job = info(
        "a", 4, nodes=("n",) * 4, account=account, deadline_s=NOW + 60, min_devices=2, rung=Rung.RESTART,
        running_since_s=NOW - 1_800.0,
    )  # fmt: skip
    start = live.scenario(Picture(NOW, (job,), (), (node("n", "a", "a"),)), seed=0)
    (only,), (work,) = start.standing, start.trace.works
    assert [seat.device for seat in only.seats] == [0, 0, 1, 1], "its ranks share two devices"
    assert start.begins_s == NOW - hour_s and work.deadline_s == start.begins_s + 60 and work.devices_min == 2
    assert only.told["account"].at_s == start.begins_s - 60 and only.told["account"].window_s == 0.0
    desk = BoardDesk(start.fleet, start.rules)
    play(replace(start, until_s=start.begins_s + 1), desk, SystemStopwatch())
    (seen,) = desk.board.jobs()
    assert not seen.freezable and seen.running_since_s == start.begins_s - 1_800.0
    assert seen.account.life_delivered >= 99_999.0


def test_who_is_frozen_and_waits_is_told_when_it_thaws() -> None:
    told = foretell(FULL, "e", range(4))
    assert told.starts_p50_s > 0


def test_more_nodes_let_waiting_jobs_begin_sooner() -> None:
    told = compared(FULL, Change(nodes=4), range(6))
    assert told.then.devices == 12
    assert told.then.wait_mean_s < told.now.wait_mean_s
    assert comparison_view(told).row_count >= 7


def test_a_node_less_is_played_as_a_drain() -> None:
    told = compared(Picture(NOW, FULL.jobs[:2], FULL.ended, FULL.nodes), Change(without=("n2",)), range(4))
    assert told.then.devices == 2
    assert told.then.done_mean_s > told.now.done_mean_s


def test_one_job_more_is_told_when_it_would_begin() -> None:
    told = compared(FULL, Change(ranks=2, tier="premium", duration_s=600.0), range(4))
    assert told.then.jobs == told.now.jobs + 1
    assert told.then.new_starts_s is not None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (Change(without=("n3",)), "unknown node 'n3': known are n1, n2"),
        (Change(without=("n1", "n2")), "no node would be left"),
        (Change(ranks=50), "50 ranks would never fit on 4 devices"),
        (Change(ranks=1, tier="gold"), "unknown tier 'gold'"),
    ],
)
def test_changes_that_cannot_be_meant_are_refused(change, words) -> None:
    with pytest.raises(Faulty, match=words) as caught:
        compared(FULL, change, range(2))
    assert caught.value.remedy


def measured(key, freeze_s, upload_s):
    return info(key, nodes=("n1",), measured=2, freeze_cost_s=freeze_s, thaw_cost_s=2.0, upload_cost_s=upload_s)


@pytest.mark.parametrize(("machines", "transfer_s"), [(("m", "m"), 0.0), (("m", "n"), 30.0)])
def test_a_fleet_is_foretold_with_what_its_own_jobs_took(machines, transfer_s) -> None:
    jobs = (measured("a", 1.0, 10.0), measured("b", 3.0, 30.0), measured("c", 5.0, 50.0), info("never frozen"))
    nodes = tuple(node(f"n{at}", None, machine=machine) for at, machine in enumerate(machines))
    found = live.costs_of(replace(FULL, jobs=jobs, ended=(), nodes=nodes))
    assert (found.freeze_s, found.thaw_s, found.transfer_s) == (3.0, 2.0, transfer_s)
    assert found.thawing_s(away=True) == 2.0 + transfer_s
    assert live.costs_of(replace(FULL, jobs=(), ended=())) == live.Costs()
