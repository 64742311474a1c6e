"""Moves and drains that cannot be, or not yet: said soon, and nothing stays behind that comes true by surprise."""

from __future__ import annotations

import time

from tests.control.conftest import User, wait_for
from tests.fake_agent import World

SOON_S = 60.0  # much less than what the requests would wait, and enough for a busy machine
LONG_S = 150.0


def other(node: str) -> str:
    return "node-1" if node == "node-0" else "node-0"


def asked(user: User, path: str, **wish: object) -> dict:
    """What is answered, which must be soon."""
    began = time.monotonic()
    found = user.post(path, {"wait_s": LONG_S, **wish})
    assert time.monotonic() < began + SOON_S, found
    return found


def somebody_on_every_device_of_the_other_node(user: User, job: str) -> str:
    """A job of two ranks; where it sits."""
    there = other(user.until(job, "running")["nodes"][0])
    full = user.submit("full", ranks=2)
    assert user.until(full, "running")["nodes"] == [there, there]
    return there


def test_a_move_to_where_a_job_runs_is_answered_at_once_and_leaves_no_wish(world: World, user: User) -> None:
    job = user.submit()
    here = user.until(job, "running")["nodes"][0]
    moved = asked(user, f"/v1/jobs/{job}/migrate", to=[here])
    assert moved["done"] and moved["text"] == f"job already runs on {here}"
    assert user.post(f"/v1/nodes/{here}/drain", {"wait_s": 60})["done"]
    wait_for(lambda: (now := user.job(job))["phase"] == "running" and now["nodes"] == [other(here)], "it left")
    user.post(f"/v1/nodes/{here}/undrain")
    time.sleep(1.5)
    assert (user.job(job)["nodes"], user.job(job)["incarnation"]) == ([other(here)], 2), "it does not go back"


def test_asking_a_job_to_stay_takes_back_a_move_for_which_there_was_no_room(world: World, user: User) -> None:
    job = user.submit()
    there = somebody_on_every_device_of_the_other_node(user, job)
    user.post(f"/v1/jobs/{job}/migrate", {"to": [there]})
    assert asked(user, f"/v1/jobs/{job}/migrate", to=[other(there), there])["done"], "one of them is where it is"
    user.post("/v1/jobs/full/cancel", {"wait_s": 60, "grace_s": 0})
    time.sleep(1.5)
    assert (user.job(job)["nodes"], user.job(job)["incarnation"]) == ([other(there)], 1)


def test_a_job_that_starts_where_it_was_to_go_has_come_there(world: World, user: User) -> None:
    for name in ("one", "two"):
        user.until(user.submit(name, ranks=2), "running")
    node = user.job("one")["nodes"][0]
    job = user.submit()
    user.post(f"/v1/jobs/{job}/migrate", {"to": [node]})
    user.post("/v1/jobs/one/cancel", {"wait_s": 60, "grace_s": 0})
    assert user.until(job, "running")["nodes"] == [node]
    assert user.post(f"/v1/nodes/{node}/drain")["jobs"] == ["job"]
    user.post("/v1/jobs/two/cancel", {"wait_s": 60, "grace_s": 0})
    wait_for(lambda: user.job(job)["nodes"] == [other(node)], "it left")
    user.until(job, "running")
    user.post(f"/v1/nodes/{node}/undrain")
    time.sleep(1.5)
    assert user.job(job)["nodes"] == [other(node)], "it does not go back"


def test_a_move_without_room_is_answered_soon_with_its_reason_and_stays_asked_for(world: World, user: User) -> None:
    job = user.submit()
    there = somebody_on_every_device_of_the_other_node(user, job)
    answered = asked(user, f"/v1/jobs/{job}/migrate", to=[there])
    assert not answered["done"] and answered["job"]["phase"] == "running"
    assert user.get(f"/v1/jobs/{job}/explain")["reason"] in answered["text"], answered
    assert f"0 devices of {there} could be had" in answered["text"] and "stays asked for" in answered["text"]
    user.post("/v1/jobs/full/cancel", {"wait_s": 60, "grace_s": 0})
    wait_for(lambda: user.job(job)["nodes"] == [there], "it moves once there is room")


def test_a_move_of_a_waiting_job_is_answered_soon_with_what_it_waits_for(world: World, user: User) -> None:
    for name in ("one", "two"):
        user.until(user.submit(name, ranks=2), "running")
    job = user.submit()
    answered = asked(user, f"/v1/jobs/{job}/migrate", to=["node-1"])
    assert not answered["done"] and "needs 1 device" in answered["text"], answered


def test_a_move_that_takes_longer_than_a_few_seconds_is_waited_for(world: World, user: User) -> None:
    job = user.submit()
    there = other(user.until(job, "running")["nodes"][0])
    world.freeze_s = 6.0
    moved = asked(user, f"/v1/jobs/{job}/migrate", to=[there])
    assert moved["done"] and moved["job"]["nodes"] == [there]


def test_a_drain_is_over_once_all_that_is_left_cannot_be_frozen(world: World, user: User) -> None:
    stays = user.submit("stays")
    node = user.until(stays, "running")["nodes"][0]
    leaves = user.submit("leaves")
    user.until(leaves, "running")
    user.post(f"/v1/jobs/{leaves}/migrate", {"wait_s": 60, "to": [node]})
    world.freeze_fails = {"error": "a raw socket is open", "lasting": True}
    user.post(f"/v1/jobs/{stays}/pause", {"wait_s": 60}, 409)
    world.freeze_fails = None
    drained = asked(user, f"/v1/nodes/{node}/drain")
    assert (drained["done"], drained["jobs"]) == (False, ["stays"]), drained
    assert "raw socket" in drained["text"] and "still holds stays" in drained["text"]
    wait_for(lambda: user.job(leaves)["phase"] == "running", "the other one goes on elsewhere")
    assert user.job(leaves)["nodes"] == [other(node)]


def test_a_drain_finds_out_by_itself_that_a_job_cannot_be_frozen(world: World, user: User) -> None:
    node = user.until(user.submit(), "running")["nodes"][0]
    world.freeze_fails = {"error": "a raw socket is open", "lasting": True}
    drained = asked(user, f"/v1/nodes/{node}/drain")
    assert not drained["done"] and "raw socket" in drained["text"], drained
