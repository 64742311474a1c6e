"""More and fewer devices for jobs of paper, on a real server: ordered, refused, undone, and used by the policy."""

from __future__ import annotations

import re
import threading
import time

import pytest
from tests.control.conftest import User, wait_for
from tests.fake_agent import World

from ergosphere.wire.agents import FreezeOrder, ResizeOrder

ON_ONE_NODE = {"ranks": 2, "min_devices": 1}
ON_BOTH = {"ranks": 4, "min_devices": 1}


def resize(user: User, job: str, devices: int, status: int = 200, wait_s: float = 20) -> dict:
    return user.post(f"/v1/jobs/{job}/resize", {"devices": devices, "wait_s": wait_s}, status)


def running(user: User, **spec: object) -> str:
    job = user.submit(**spec)
    user.until(job, "running")
    return job


def test_a_job_shrinks_and_grows_on_its_node_without_a_snapshot(world: World, user: User) -> None:
    job = running(user, **ON_ONE_NODE)
    assert user.job(job)["devices"] == 2
    for devices in (1, 2, 1):
        assert resize(user, job, devices)["text"] == f"job runs on {devices} device{'s' if devices > 1 else ''}"
        assert user.job(job)["devices"] == devices
        assert user.get("/v1/status")["devices_used"] == devices
    found = user.job(job)
    assert (found["resizes"], found["incarnation"], found["snapshots"]) == (3, 1, [])
    orders = [one for one in world.orders if isinstance(one, ResizeOrder)]
    assert [one.life.arrangement for one in orders] == [2, 3, 4]
    assert [one.before.arrangement for one in orders] == [1, 2, 3]


def test_a_job_of_two_nodes_goes_to_one_device_by_way_of_a_snapshot(world: World, user: User) -> None:
    job = running(user, **ON_BOTH)
    assert set(user.job(job)["nodes"]) == {"node-0", "node-1"}
    assert resize(user, job, 2)["done"] and set(user.job(job)["nodes"]) == {"node-0", "node-1"}
    assert resize(user, job, 1)["done"]
    found = user.job(job)
    assert (len(set(found["nodes"])), found["devices"], found["incarnation"]) == (1, 1, 2)
    assert [one.why for one in world.orders if isinstance(one, FreezeOrder)] == ["resize"]
    assert resize(user, job, 4)["done"]
    assert set(user.job(job)["nodes"]) == {"node-0", "node-1"}


@pytest.mark.parametrize(
    ("devices", "words"),
    [
        (3, "4 ranks cannot share 3 devices evenly; it can run on 2, 4"),
        (8, "8 devices are more than its 4 ranks could use; it can run on 2, 4"),
        (1, "1 device is fewer than its least, 2 (--min-devices); it can run on 2, 4"),
    ],
)
def test_a_size_that_cannot_be_is_refused_with_those_that_can(user: User, devices: int, words: str) -> None:
    job = running(user, ranks=4, min_devices=2)
    assert words in resize(user, job, devices, 409)["error"]
    assert (user.job(job)["phase"], user.job(job)["devices"], user.job(job)["devices_asked"]) == ("running", 4, 0)


def test_a_second_resize_at_once_and_one_during_a_freeze_are_told_to_wait(world: World, user: User) -> None:
    job = running(user, **ON_ONE_NODE)
    gate = world.agents[user.job(job)["nodes"][0]].slow_answers
    gate.clear()
    first = threading.Thread(target=resize, args=(user, job, 1))
    first.start()
    wait_for(lambda: user.job(job)["phase"] == "resizing", "the first one is under way")
    assert "is being resized already, from 2 to 1 devices" in resize(user, job, 2, 409)["error"]
    gate.set()
    first.join()
    gate.clear()
    user.post(f"/v1/jobs/{job}/pause", {"wait_s": 0})
    wait_for(lambda: user.job(job)["phase"] == "freezing", "the freeze is under way")
    assert "is being frozen and cannot be resized now" in resize(user, job, 2, 409)["error"]
    gate.set()
    user.until(job, "frozen")
    assert "will go on on 2 devices" in resize(user, job, 2)["text"]
    user.post(f"/v1/jobs/{job}/resume", {"wait_s": 60})
    assert user.job(job)["devices"] == 2


def test_a_resize_in_which_a_rank_ended_is_not_said_to_have_left_the_job_as_it_was(world: World, user: User) -> None:
    job = running(user, **ON_ONE_NODE)
    world.resize_fails = {"error": "rank 1 ended meanwhile", "gone": True}
    refused = resize(user, job, 1, 409)
    assert refused["error"].endswith("could not be resized: rank 1 ended meanwhile")
    assert "as it was" not in str(user.get(f"/v1/jobs/{job}/events"))


def test_a_resize_that_fails_leaves_the_job_as_it_was_and_is_not_repeated(world: World, user: User) -> None:
    job = running(user, **ON_ONE_NODE)
    world.resize_fails = {"error": "rank 1 has not reached collective 7", "remedy": "--hold gives it more time"}
    refused = resize(user, job, 1, 409)
    assert "runs on as it was: rank 1 has not reached collective 7" in refused["error"]
    time.sleep(1.0)
    found = user.job(job)
    assert (found["phase"], found["devices"], found["resizes"]) == ("running", 2, 0)
    assert len([one for one in world.orders if isinstance(one, ResizeOrder)]) == 1


def test_a_node_whose_memory_could_not_hold_all_ranks_is_refused_before_anything_is_touched(
    world: World, user: User
) -> None:
    nodes = [world.agents["node-0"], world.agents["node-1"]]
    for one in nodes:
        one.memory_bytes, one.rank_bytes = 8 << 30, 3 << 30
    job = running(user, **ON_BOTH)
    for one in nodes:
        one.report()  # each rank was measured
    refused = resize(user, job, 1, 409)
    assert re.search(r"node-[01] has 8.0 GiB of memory, and would need 12.0 GiB", refused["error"]), refused
    found = user.job(job)
    assert (found["phase"], found["devices"], found["incarnation"]) == ("running", 4, 1)
    assert not [one for one in world.orders if isinstance(one, FreezeOrder | ResizeOrder)]
    for one in nodes:
        one.memory_bytes = one.rank_bytes = 0


def test_ranks_that_turn_out_not_to_be_able_to_share_are_not_asked_again(world: World, user: User) -> None:
    job = running(user, **ON_ONE_NODE)
    world.resize_fails = {"error": "its ranks need each other inside a step", "lasting": True}
    resize(user, job, 1, 409)
    assert "cannot share devices: its ranks need each other inside a step" in resize(user, job, 1, 409)["error"]


def test_a_rank_that_dies_in_the_middle_of_a_resize_brings_the_job_back_from_its_snapshot(
    world: World, user: User
) -> None:
    job = running(user, **ON_ONE_NODE)
    user.post(f"/v1/jobs/{job}/snapshot", {"wait_s": 60})
    gate = world.agents[user.job(job)["nodes"][0]].slow_answers
    gate.clear()
    user.post(f"/v1/jobs/{job}/resize", {"devices": 1})
    wait_for(lambda: user.job(job)["phase"] == "resizing", "it is under way")
    world.kill_rank(job, 1)
    gate.set()
    wait_for(lambda: user.job(job)["recoveries"] == 1, "it is recovered")
    assert user.until(job, "running")["devices"] == 2, "as it was"


def test_a_job_starts_on_fewer_devices_than_ranks_and_grows_when_they_come_free(world: World, user: User) -> None:
    holders = [running(user, name=f"holder-{n}", ranks=1) for n in range(3)]
    job = running(user, name="late", tier="basic", **ON_BOTH)  # a promise would not be kept by so few
    assert user.job(job)["devices"] == 1
    for holder in holders:
        user.post(f"/v1/jobs/{holder}/cancel", {"grace_s": 0})
    wait_for(lambda: user.job(job)["devices"] == 4, "it grows back", within_s=60)


def test_jobs_are_shrunk_before_one_is_frozen_whole(world: World, user: User) -> None:
    basic = [running(user, name=f"basic-{n}", tier="basic", **ON_ONE_NODE) for n in range(2)]
    premium = running(user, name="premium", tier="premium", ranks=2, lines=0)
    assert [user.job(job)["devices"] for job in basic] == [1, 1]
    assert [user.job(job)["pauses"] for job in basic] == [0, 0]
    assert any("to make room for" in event["text"] for event in user.events(basic[0]))
    user.post(f"/v1/jobs/{premium}/cancel", {"grace_s": 0})
    wait_for(lambda: [user.job(job)["devices"] for job in basic] == [2, 2], "both grow back", within_s=60)


def test_a_shrunk_size_that_its_owner_asked_for_is_kept(world: World, user: User) -> None:
    job = running(user, **ON_ONE_NODE)
    resize(user, job, 1)
    user.post(f"/v1/jobs/{job}/pause", {"wait_s": 60})
    user.post(f"/v1/jobs/{job}/resume", {"wait_s": 60})
    time.sleep(0.7)
    assert user.job(job)["devices"] == 1
