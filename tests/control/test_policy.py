"""The judgement in the service: projects, accounts, dependencies, arrays, services."""

from __future__ import annotations

import time

import httpx
import pytest
from tests.control.conftest import Service, User, wait_for
from tests.fake_agent import World


@pytest.fixture(autouse=True)
def no_projects(service: Service) -> None:
    yield
    service.user.server.client().put("/v1/projects", json={"projects": []})


def put_projects(user: User, *projects: dict) -> httpx.Response:
    return user.server.client().put("/v1/projects", json={"projects": list(projects)})


def tier(user: User, name: str) -> dict:
    return next(one for one in user.get("/v1/sla")["tiers"] if one["tier"] == name)


def test_delivered_time_is_set_against_promised_time(world: World, user: User) -> None:
    before = tier(user, "premium")
    job = user.submit("paid", tier="premium")
    user.until(job, "running")
    time.sleep(0.5)
    world.finish(job)
    user.until(job, "ended")
    after = tier(user, "premium")
    assert after["jobs"] == before["jobs"] + 1
    assert after["job_hours"] > before["job_hours"]
    assert 0 < after["fraction"] <= 1 and after["promise"] == 0.95
    assert set(after["lost_device_h"]) >= {"restore"}


def test_an_owners_pause_owes_nothing(world: World, user: User) -> None:
    before = tier(user, "basic")["job_hours"]
    job = user.submit("rests", tier="basic")
    user.until(job, "running")
    user.post(f"/v1/jobs/{job}/pause", {"wait_s": 60})
    paused = tier(user, "basic")["job_hours"]
    time.sleep(0.6)
    assert tier(user, "basic")["job_hours"] == pytest.approx(paused, abs=0.1 / 3600)
    assert paused > before


def test_projects_are_limited_and_shown_and_say_so_at_submission(world: World, user: User) -> None:
    assert put_projects(user, {"id": "lab", "limit": 1, "guarantee": 1}).status_code == 200
    first = user.submit("first", project="lab")
    user.until(first, "running")
    body = {"name": "second", "command": ["count", "0", "0"], "workdir": "/w", "project": "lab"}
    told = user.post("/v1/jobs", body, 201)
    assert any("lab has 1 of its 1 devices" in note for note in told["notes"])
    waits = told["job"]["id"]
    wait_for(lambda: "limited to" in user.job(waits)["reason"], "it waits for its project")
    shown = {one["id"]: one for one in user.get("/v1/projects")}
    assert (shown["lab"]["used"], shown["lab"]["waiting"], shown["lab"]["limit"]) == (1, 1, 1)
    assert "with a limit of 2 devices for project lab" in user.get(f"/v1/jobs/{waits}/explain")["remedy"]
    world.finish(first)
    assert user.until(waits, "running")["phase"] == "running"


def test_work_beyond_the_guarantee_is_told_that_it_is_borrowed(user: User) -> None:
    put_projects(user, {"id": "lab", "guarantee": 1})
    body = {"name": "wide", "command": ["count", "0", "0"], "workdir": "/w", "project": "lab", "ranks": 2}
    told = user.post("/v1/jobs", {**body, "tier": "premium"}, 201)
    assert any("runs on borrowed devices" in note for note in told["notes"])
    user.until(told["job"]["id"], "running")
    shown = {one["id"]: one for one in user.get("/v1/projects")}
    assert shown["lab"]["borrowed"] == 2


def test_a_tree_that_contradicts_itself_changes_nothing(user: User) -> None:
    assert put_projects(user, {"id": "a", "guarantee": 2}).status_code == 200
    refused = put_projects(user, {"id": "a", "guarantee": 1}, {"id": "b", "parent": "a", "guarantee": 3})
    assert refused.status_code == 409, refused.text
    assert "children of project a are guaranteed 3 devices" in refused.json()["error"]
    assert [one["guarantee"] for one in user.get("/v1/projects")] == [2]


def test_a_job_runs_after_the_success_of_another(world: World, user: User) -> None:
    first = user.submit("prepare")
    second = user.submit("train", after=["prepare"])
    third = user.submit("report", after=[second])
    user.until(first, "running")
    wait_for(lambda: user.job(second)["reason"] == f"waits for {first} to succeed", "it says for whom it waits")
    world.finish(first)
    assert user.until(second, "running")["phase"] == "running"
    assert user.job(third)["phase"] == "waiting"
    world.finish(second)
    assert user.until(third, "running")["phase"] == "running"


def test_what_can_never_come_after_is_cancelled_and_told_why(user: User) -> None:
    first = user.submit("broken", lines=300, code=3)
    chain = [user.submit("next", after=[first])]
    chain.append(user.submit("last", after=[chain[0]]))
    for job in chain:
        ended = user.until(job, "ended")
        assert ended["phase"] == "cancelled"
        assert "this job was to run after its success" in ended["reason"]
    refused = user.post(
        "/v1/jobs", {"name": "x", "command": ["count", "0", "0"], "workdir": "/w", "after": [first]}, 409
    )
    assert "has failed" in refused["error"]


def test_an_array_is_one_job_for_each_index(world: World, user: User) -> None:
    body = {"name": "sweep", "command": ["count", "0", "0"], "workdir": "/w", "array": [3, 7], "tier": "premium"}
    told = user.post("/v1/jobs", body, 201)
    jobs = [told["job"]["id"], *told["others"]]
    assert [user.job(job)["name"] for job in jobs] == ["sweep-3", "sweep-7"]
    for job, index in zip(jobs, "37", strict=True):
        user.until(job, "running")
        assert world.running(job).plan.rank_env["ERGO_INDEX"] == index


def test_a_service_grows_and_shrinks_and_training_yields_and_comes_back(world: World, user: User) -> None:
    training = [user.submit(f"train{n}", tier="basic") for n in range(3)]
    body = {"name": "web", "command": ["count", "0", "0"], "workdir": "/w", "replicas": [1, 3], "tier": "premium"}
    user.post("/v1/jobs", body, 201)
    wait_for(lambda: user.job("web-0")["phase"] == "running", "the first replica runs")
    for job in training:
        user.until(job, "running")
    assert user.job("web-1")["phase"] == "waiting"
    assert "does not need now" in user.job("web-1")["reason"]
    user.post("/v1/services/web/scale", {"replicas": 3})
    for replica in ("web-1", "web-2"):
        wait_for(lambda replica=replica: user.job(replica)["phase"] == "running", "training made way")
    assert sum(user.job(job)["phase"] == "frozen" for job in training) == 2
    user.post("/v1/services/web/scale", {"replicas": 1})
    for job in training:
        wait_for(lambda job=job: user.job(job)["phase"] == "running", "training is back")
    refused = user.post("/v1/services/web/scale", {"replicas": 9}, 409)
    assert "submitted with 1 to 3 replicas" in refused["error"]
    assert user.post("/v1/services/wep/scale", {"replicas": 1}, 404)["error"]
