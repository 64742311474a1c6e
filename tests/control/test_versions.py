"""A server and agents of two versions: what is understood all the same, and what is said where it is not."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import pytest
from tests.control.conftest import User, wait_for
from tests.fake_agent import World

from ergosphere.agent.link import ServerAway, ServerLink
from ergosphere.wire import versions
from ergosphere.wire.agents import AgentReport, Answer

NEWER = "99.1"


@pytest.fixture
def ask(user: User, world: World) -> Iterator[object]:
    """What an agent of another version says."""

    def asked(method: str, path: str, body: object = None, theirs: str = NEWER) -> httpx.Response:
        return user.server.client().request(method, path, json=body, headers={versions.HEADER: theirs})

    yield asked
    asked("POST", "/v1/agents/node-0/report", told(world), "")


def told(world: World, **more: object) -> dict[str, object]:
    return json.loads(world.agents["node-0"].told().model_dump_json(exclude_defaults=True)) | more


def detail(user: User) -> str:
    return next(node["detail"] for node in user.get("/v1/nodes") if node["id"] == "node-0")


def test_an_order_says_nothing_that_nobody_uses(user: User, world: World) -> None:
    """So an agent that does not know a field understands all orders that do not need it."""
    agent = world.agents["node-0"]
    agent.slow_answers.clear()
    user.post("/v1/nodes/node-1/drain")
    job = user.submit()
    order = wait_for(
        lambda: user.get("/v1/agents/node-0/inbox", after=0, wait_s=1).get("orders"), "the order is there"
    )[0]
    assert order["kind"] == "start" and order["life"]["job"] == job
    assert {"fork_names", "forked_from"}.isdisjoint(order["life"]) and "signal" not in order["life"]["spec"]
    agent.slow_answers.set()
    user.until(job, "running")


def test_a_report_with_an_unknown_field_renews_the_lease_and_the_other_version_is_shown(
    user: User, world: World, ask: object
) -> None:
    reply = ask("POST", "/v1/agents/node-0/report", told(world, temperature=40))
    assert reply.status_code == 200 and reply.json()["lease_s"] > 0
    assert reply.headers[versions.HEADER] == versions.VERSION
    world.agents["node-0"].stop()
    ask("POST", "/v1/agents/node-0/report", told(world))
    shown = detail(user)
    world.agents["node-0"].come_back()
    assert shown == f"4 cores; its agent is version {NEWER}, the server {versions.VERSION}"


def test_what_is_not_understood_is_said_with_both_versions_and_a_remedy(user: User, ask: object) -> None:
    answer = {"order_id": "o", "job": "j", "incarnation": 1, "ok": True, "half": "done"}
    seq = 0
    while page := user.get("/v1/events", after=seq, limit=1000):
        seq = page[-1]["seq"]
    for _ in range(2):
        refused = ask("POST", "/v1/agents/node-0/answers", answer)
    assert refused.status_code == 422
    said = refused.json()
    assert f"version {NEWER}" in said["error"] and f"version {versions.VERSION}" in said["error"]
    assert "half: a field that is not known here" in said["error"]
    assert "kill that agent" in said["remedy"] and "nodes/node-0/engine.json" in said["remedy"]
    assert said["error"] in detail(user) and said["remedy"] in detail(user)
    events = [
        event["text"] for event in user.get("/v1/events", after=seq, limit=1000) if event["kind"] == "not-understood"
    ]
    assert len(events) == 1 and said["error"] in events[0], "once"
    assert ask("POST", "/v1/agents/node-0/answers", {**answer, "half": None}).status_code == 422
    del answer["half"]
    assert ask("POST", "/v1/agents/node-0/answers", answer).status_code == 204
    assert "understood" not in detail(user)


def test_an_agent_says_in_its_log_that_it_is_not_understood(
    user: User, world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = ServerLink(user.server.home, "node-0")
    assert link.report(world.agents["node-0"].told()).lease_s > 0

    class Newer(Answer):
        half: str = ""

    answer = Newer(order_id="o", job="j", incarnation=1, ok=True)
    link.answer(answer)
    for _ in range(2):
        with pytest.raises(ServerAway):
            link.answer(answer.model_copy(update={"half": "done"}))
    (said,) = [one.getMessage() for one in caplog.records if one.name == "ergosphere.agent.link"]
    assert f"version {versions.VERSION}" in said and "half" in said and "kill that agent" in said
    link.answer(answer)
    link.report(AgentReport.model_validate(told(world)))


def test_a_job_whose_order_is_not_understood_is_tried_again_and_told_why(user: User, world: World) -> None:
    world.start_fails = {"error": "it does not understand the order", "remedy": "kill that agent", "transient": True}
    job = user.submit(max_restarts=0)
    wait_for(lambda: "does not understand" in json.dumps(user.events(job)), "it is told")
    world.start_fails = None
    assert user.until(job, "running")["phase"] == "running"
