"""The door and the routes: who is let in, what is refused and how, what is shown and what never is."""

from __future__ import annotations

import base64
import json
import re
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from tests.control.conftest import SOURCE, Service, User, wait_for
from tests.fake_agent import World, line

from ergosphere.cli.api import Unreachable, find_door
from ergosphere.snapshots.digests import digest_bytes


def ask(user: User, **headers: str) -> httpx.Response:
    return httpx.get(f"{user.server.url}/v1/status", headers=headers)


def test_every_request_needs_the_token(user: User) -> None:
    right = f"Bearer {user.server.token}"
    assert ask(user, Authorization=right).status_code == 200
    for wrong in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": user.server.token}):
        refused = ask(user, **wrong)
        assert refused.status_code == 401
        assert set(refused.json()) == {"error", "remedy"}
    for path in ("/openapi.json", "/v1/jobs", "/nowhere"):
        assert httpx.get(user.server.url + path).status_code == 401
    assert user.server.client().get("/openapi.json").json()["info"]["title"] == "Ergosphere"


def test_a_web_page_cannot_reach_the_service(user: User) -> None:
    right = f"Bearer {user.server.token}"
    assert ask(user, Authorization=right, Host="evil.example").status_code == 403
    assert ask(user, Authorization=right, Origin="http://evil.example").status_code == 403
    assert ask(user, Authorization=right, Host="localhost:9").status_code == 200


def test_a_host_or_origin_that_is_no_address_is_refused(user: User) -> None:
    right = f"Bearer {user.server.token}"
    assert ask(user, Authorization=right, Host="[x").status_code == 403
    assert ask(user, Authorization=right, Origin="http://[x").status_code == 403


def test_secrets_lie_in_private_files_and_are_shown_nowhere(user: User, world: World) -> None:
    secret = "hunter2-very-secret"
    job = user.submit("secretive", env={"API_KEY": secret})
    user.until(job, "running")
    seen = wait_for(lambda: world.running(job).plan.spec.env, "the agent is told")
    assert seen == {"API_KEY": secret}
    shown = [user.job(job), user.events(job), user.get("/v1/events"), user.get("/v1/jobs"), user.get("/v1/status")]
    assert secret not in json.dumps(shown)
    assert user.job(job)["env_names"] == ["API_KEY"]
    server = user.server.home / "server"
    assert secret not in (server / "server.log").read_text()
    for name in ("token", "ledger.db", "server.log", "server.json"):
        assert stat.S_IMODE((server / name).stat().st_mode) == 0o600, name


def test_bodies_that_are_too_large_are_refused(user: User) -> None:
    client = user.server.client()
    large = b"x" * (9 << 20)
    assert client.post("/v1/jobs", content=large).status_code == 413
    assert client.post("/v1/jobs", content=iter([large])).status_code == 413


def test_an_unknown_field_is_named_with_the_nearest_valid_one(user: User) -> None:
    refused = user.post("/v1/jobs", {"command": ["x"], "name": "x", "workdir": "/", "rnaks": 2}, 422)
    assert "'rnaks'" in refused["error"] and "'ranks'" in refused["error"]
    mounts = [{"path": "/data", "writeable": True}]
    refused = user.post("/v1/jobs", {"command": ["x"], "name": "x", "workdir": "/", "mounts": mounts}, 422)
    assert "'writeable'" in refused["error"] and "'writable'" in refused["error"]
    assert "name" in user.post("/v1/jobs", {"command": ["x"], "workdir": "/"}, 422)["error"]


def test_more_ranks_than_the_fleet_could_hold_are_refused_with_the_most_that_fit(user: User) -> None:
    for path in ("/v1/jobs", "/v1/plan"):
        refused = user.post(path, {"command": ["x"], "name": "x", "workdir": "/", "ranks": 5, "min_devices": 5}, 422)
        assert "4 devices" in refused["error"] and refused["remedy"] == "lower --min-devices: at most 4", refused


@pytest.mark.parametrize(
    ("asked", "least", "most"), [(100, None, 16), (17, None, 16), (11, 3, 9), (12, 5, None), (9, 1, 9)]
)
def test_the_most_ranks_that_fit_are_counted_with_what_they_may_share(
    user: User, asked: int, least: int | None, most: int | None
) -> None:
    body = {"command": ["x"], "name": "x", "workdir": "/", "min_devices": least}
    if most == asked:
        user.post("/v1/plan", {**body, "ranks": asked})
        return
    refused = user.post("/v1/plan", {**body, "ranks": asked}, 422)
    assert refused["remedy"] == (f"at most {most} ranks fit" if most else "lower --min-devices: at most 4"), refused
    if most:
        user.post("/v1/plan", {**body, "ranks": most})


def test_more_threads_than_any_node_has_cores_are_pointed_out(user: User, world: World) -> None:
    body = {"command": ["count", "1"], "name": "many", "workdir": "/w"}
    (note,) = user.post("/v1/jobs", {**body, "threads": 64}, 201)["notes"]
    assert note == "64 threads for each rank, and no node has more than 4 cores: they will wait for each other"
    assert not user.post("/v1/jobs", {**body, "name": "few", "threads": 4}, 201)["notes"]


def test_a_name_means_the_one_live_job_of_it_else_the_newest(user: User, world: World) -> None:
    first = user.submit("twin", lines=1)
    user.until(first, "ended")
    second = user.submit("twin", lines=1)
    user.until(second, "ended")
    assert user.job("twin")["id"] == second
    third = user.submit("twin")
    assert user.job("twin")["id"] == third
    assert user.job(first)["id"] == first
    assert [job["id"] for job in user.get("/v1/jobs", all=True, name="twin")] == [first, second, third]


def test_a_name_of_several_live_jobs_means_none_of_them(user: User, world: World) -> None:
    first = user.submit("twin")
    answer = user.post("/v1/jobs", {"name": "twin", "command": ["count", "0"], "workdir": "/w"}, 201)
    second = answer["job"]["id"]
    (note,) = answer["notes"]
    assert note.startswith("another live job is called twin: as long as that is so, ids tell them apart")
    user.until(first, "running")
    refused = user.post("/v1/jobs/twin/cancel", {"wait_s": 60}, 409)
    assert refused["error"].startswith("several live jobs are called 'twin': ")
    assert re.search(rf"{first} \(running, submitted \d+s ago\)", refused["error"]) and second in refused["error"]
    assert refused["remedy"] == "say which one by its id"
    after = {"name": "then", "command": ["count", "0"], "workdir": "/w", "after": ["twin"]}
    assert "several live jobs" in user.post("/v1/jobs", after, 409)["error"]
    user.post(f"/v1/jobs/{second}/cancel", {"wait_s": 60})
    assert user.job("twin")["id"] == first and user.job(first)["phase"] == "running"


def test_a_job_that_does_not_exist_is_said_with_the_nearest_name(user: User, world: World) -> None:
    user.submit("digits")
    for path in ("", "/events", "/explain", "/logs", "/results"):
        answer = user.server.client().get(f"/v1/jobs/digit{path}")
        assert answer.status_code == 404 and "'digits'" in answer.json()["error"], path
    assert "node-0" in user.post("/v1/nodes/nod-0/drain", None, 404)["error"]


def test_a_job_whose_files_were_not_uploaded_is_refused(user: User) -> None:
    tree = {"digest": "0" * 64, "files": 1, "bytes": 1}
    refused = user.post("/v1/jobs", {"command": ["x"], "name": "x", "workdir": "/", "tree": tree}, 409)
    assert "not uploaded" in refused["error"]


def test_blobs_are_verified_when_they_come(user: User) -> None:
    content = b"content of a file"
    digest, client = digest_bytes(content), user.server.client()
    assert user.post("/v1/blobs/missing", {"digests": [digest]})["missing"] == [digest]
    assert client.put(f"/v1/blobs/{digest}", content=b"something else").status_code == 422
    assert client.get(f"/v1/blobs/{digest}").status_code == 404
    assert client.put(f"/v1/blobs/{digest}", content=content).status_code == 204
    assert user.post("/v1/blobs/missing", {"digests": [digest]})["missing"] == []
    assert client.get(f"/v1/blobs/{digest}").content == content
    assert client.put("/v1/blobs/..%2f..%2fx", content=content).status_code == 404


def test_a_plan_says_what_would_happen_and_keeps_nothing(user: User, world: World) -> None:
    for n in range(2):
        user.until(user.submit(f"basic-{n}", tier="basic", ranks=2), "running")
    plan = user.post("/v1/plan", {"command": ["x"], "name": "new", "workdir": "/", "tier": "premium", "ranks": 2})
    assert not plan["starts"] and len(plan["pauses"]) == 1 and plan["pauses"][0]["name"].startswith("basic")
    assert len(user.get("/v1/jobs")) == 2


def test_the_history_of_the_fleet_can_be_followed(user: User, world: World) -> None:
    seq = max((event["seq"] for event in user.get("/v1/events")), default=0)
    job = user.submit(lines=1)
    fresh = user.get("/v1/events", after=seq, wait_s=10)
    assert fresh[0]["job"] == job and fresh[0]["seq"] > seq
    assert user.get("/v1/events", after=10**9, wait_s=0.1) == []


# -- what agents may and may not say


def say(user: User, path: str, body: object, status: int = 200) -> dict:
    response = user.server.client().post(f"/v1/agents/{path}", json=body)
    assert response.status_code == status, response.text
    return response.json() if response.content else {}


def chunk(job: str, incarnation: int, offset: int, text: bytes) -> dict:
    data = base64.b64encode(text).decode()
    return {"job": job, "incarnation": incarnation, "name": "rank0.err", "offset": offset, "data": data}


def test_a_newer_life_rolls_a_log_back_and_an_older_one_is_stale(user: User, world: World) -> None:
    job = user.submit()
    user.until(job, "running")
    assert say(user, "node-0/logs", chunk(job, 1, 0, b"one\ntwo\nthree\n")) == {"length": 14, "stale": False}
    assert say(user, "node-0/logs", chunk(job, 1, 20, b"gap"))["length"] == 14
    assert say(user, "node-0/logs", chunk(job, 1, 8, b"three\n"))["length"] == 14
    user.post(f"/v1/jobs/{job}/pause", {"wait_s": 60})
    user.post(f"/v1/jobs/{job}/resume", {"wait_s": 60})
    after = say(user, "node-0/logs", chunk(job, 1, 14, b"late\n"))
    assert after == {"length": 0, "stale": True}, "the answer to the thaw rolled it back to its snapshot's length"
    assert say(user, "node-0/logs", chunk(job, 2, 0, b"ONE\n"))["length"] == 4
    page = user.get(f"/v1/jobs/{job}/logs", stream="err", offset=-3)
    assert base64.b64decode(page["data"]) == b"NE\n"
    assert user.job(job)["lost_lines"] == 3
    say(user, "node-0/logs", chunk(job, 9, 0, b"from the future"), 422)
    say(user, "node-0/logs", {**chunk(job, 2, 0, b""), "name": "../../x"}, 422)


def test_a_life_that_is_made_anew_after_an_agents_death_writes_its_log_anew(user: User, world: World) -> None:
    job = user.submit()
    user.until(job, "running")
    first, again = {"birth": "a"}, {"birth": "b"}
    assert say(user, "node-0/logs", chunk(job, 1, 0, b"of the first making\n") | first)["length"] == 20
    assert say(user, "node-0/logs", chunk(job, 1, 0, b"of") | first)["length"] == 20, "it asks how far it was"
    assert say(user, "node-0/logs", chunk(job, 1, 0, b"anew\n") | again)["length"] == 5
    page = user.get(f"/v1/jobs/{job}/logs", stream="err")
    assert base64.b64decode(page["data"]) == b"anew\n"


def test_logs_are_followed_to_their_end(user: User, world: World) -> None:
    job = user.submit(lines=20)
    got, ended = b"", False
    while not ended:
        page = user.get(f"/v1/jobs/{job}/logs", offset=len(got), wait_s=10)
        got += base64.b64decode(page["data"])
        ended = page["ended"]
    assert got == "".join(line(0, n) for n in range(1, 21)).encode()


def test_words_of_a_life_that_is_over_change_nothing(user: User, world: World) -> None:
    job = user.submit()
    user.until(job, "running")
    user.post(f"/v1/jobs/{job}/pause", {"wait_s": 60})
    user.post(f"/v1/jobs/{job}/resume", {"wait_s": 60})
    freeze = next(order for order in world.orders if order.kind == "freeze")
    before = user.events(job)
    for answer in ({"ok": True}, {"ok": False, "error": "no"}):
        body = {"order_id": freeze.order_id, "job": job, "incarnation": 1, **answer}
        say(user, "node-0/answers", body, 204)
    say(user, "node-0/answers", {"order_id": "unknown", "job": job, "incarnation": 1, "ok": True}, 204)
    rank = {"rank": 0, "state": "exited", "wait_status": 9, "exited_at_s": 1.0}
    cell = {"job": job, "incarnation": 1, "cell": 0, "phase": "ended", "ranks": [rank], "keeper_alive": False}
    report = {"node": "node-x", "boot": "b", "devices": 0, "cores": 1, "cells": [cell]}
    reply = say(user, "node-x/report", report)
    assert reply["forget"] == [{"job": job, "incarnation": 1, "cell": 0}]
    assert reply["incarnations"] == {job: 2}
    assert user.job(job)["phase"] == "running" and user.events(job) == before
    say(user, "node-y/report", report, 422)


def test_mail_is_relayed_between_agents(user: User, world: World) -> None:
    letter = {"to": "node-1", "sender": "node-0", "call_id": "c1", "method": "ping", "body": {"x": 1}}
    say(user, "mail", letter, 204)
    got = wait_for(lambda: [mail for mail in world.agents["node-1"].mail if mail.call_id == "c1"], "the mail")
    assert len(got) == 1 and got[0].body == {"x": 1}
    assert "does not report" in say(user, "mail", {**letter, "to": "nobody"}, 404)["error"]


def test_a_second_server_on_the_same_home_is_refused(service: Service) -> None:
    command = [sys.executable, "-m", "ergosphere.control.server", "--home", str(service.server.home), "--nodes", "0"]
    second = subprocess.run(command, env={"PYTHONPATH": str(SOURCE)}, capture_output=True, text=True, timeout=180)
    assert second.returncode == 3
    assert "another server" in second.stderr
    assert service.user.get("/v1/status")["nodes"] >= 2


def test_a_server_keeps_its_port_and_token_over_a_restart(own: Service) -> None:
    before = (own.server.url, own.server.token)
    own.server.stop()
    assert not (own.server.home / "server/server.json").exists()
    own.server.start()
    assert (own.server.url, own.server.token) == before


@pytest.mark.parametrize("verb", ["pause", "resume", "migrate", "snapshot"])
def test_a_job_that_has_ended_takes_no_verb(user: User, world: World, verb: str) -> None:
    job = user.submit(lines=1)
    user.until(job, "ended")
    assert "succeeded" in user.post(f"/v1/jobs/{job}/{verb}", None, 409)["error"]


def test_who_waits_for_news_while_the_service_ends_is_told_so(own: Service) -> None:
    job = own.user.submit()
    own.user.until(job, "running")
    path, query = f"/v1/jobs/{job}", {"wait_s": 30, "until": "ended"}
    with ThreadPoolExecutor(1) as waiting:
        polled = waiting.submit(own.server.client().get, path, params=query)
        own.user.post("/v1/shutdown", {"wait_s": 60})
        told = polled.result()
    assert told.status_code == 503
    assert "shutting down" in told.json()["error"]


def test_a_token_is_not_sent_to_where_a_killed_server_was(own: Service) -> None:
    home, url = own.server.home, own.server.url
    assert find_door(home, {}).url == url
    own.server.kill()
    assert (home / "server/server.json").exists()
    with pytest.raises(Unreachable, match="no server is running"):
        find_door(home, {})
    assert find_door(home, {"ERGO_URL": url}).url == url, "a server that was named is not judged by this home"
