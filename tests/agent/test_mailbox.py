"""Calls between agents: each is served once, and a reply that was lost on the way is sent again."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

import pytest

from ergosphere.agent import mailbox
from ergosphere.agent.link import ServerAway
from ergosphere.agent.mailbox import CallFailed, Mailbox
from ergosphere.agent.ports import Refused
from ergosphere.wire.agents import Mail


class Post:
    """The server's part: takes mail to the box it is for; told to, it loses some, or is away."""

    def __init__(self) -> None:
        self.boxes: dict[str, Mailbox] = {}
        self.losses: deque[str] = deque()
        self.status: int | None = None

    def carry(self, mail: Mail) -> None:
        if self.status is not None:
            raise ServerAway("away", self.status or None)
        if self.losses and self.losses[0] == mail.method:
            self.losses.popleft()
            return
        self.boxes[mail.to].receive(mail)


class Line:
    def __init__(self, post: Post, node: str) -> None:
        self.post, self.node = post, node

    def mail(self, mail: Mail) -> None:
        self.post.carry(mail)


class Other:
    """What the agent at the other end does."""

    def __init__(self) -> None:
        self.served: list[str] = []
        self.gate = threading.Event()
        self.gate.set()

    def serve(self, method: str, body: dict[str, Any]) -> dict[str, Any]:
        self.served.append(method)
        assert self.gate.wait(10)
        if method == "launch":
            raise Refused("no such program", remedy="install it", lasting=True, exit_code=127)
        return {"value": body.get("word")}


@pytest.fixture
def post(monkeypatch: pytest.MonkeyPatch) -> Post:
    monkeypatch.setattr(mailbox, "ASK_AGAIN_S", 0.05)
    monkeypatch.setattr(mailbox, "NODE_AWAY_S", 0.2)
    return Post()


@pytest.fixture
def other(post: Post) -> Other:
    other = Other()
    post.boxes["b"] = Mailbox(Line(post, "b"), other.serve)  # type: ignore[arg-type]
    return other


@pytest.fixture
def caller(post: Post) -> Mailbox:
    post.boxes["a"] = Mailbox(Line(post, "a"), lambda method, body: {})  # type: ignore[arg-type]
    return post.boxes["a"]


def test_a_call_brings_back_the_value(caller: Mailbox, other: Other) -> None:
    assert caller.call("b", "dump", {"word": 3}) == {"value": 3}


def test_a_call_that_takes_long_is_served_once(caller: Mailbox, other: Other) -> None:
    other.gate.clear()
    threading.Timer(0.3, other.gate.set).start()
    assert caller.call("b", "dump", {"word": 1}) == {"value": 1}
    assert other.served == ["dump"]


def test_a_reply_that_was_lost_is_sent_again_without_serving_twice(caller: Mailbox, other: Other, post: Post) -> None:
    post.losses.append("")
    assert caller.call("b", "dump", {"word": 2}) == {"value": 2}
    assert other.served == ["dump"]


def test_a_call_that_nobody_knows_any_more_is_made_again_if_it_may_be(
    caller: Mailbox, other: Other, post: Post
) -> None:
    post.losses.append("release")
    assert caller.call("b", "release", {}) == {"value": None}
    assert other.served == ["release"]


def test_a_call_that_must_not_be_made_twice_has_failed_when_nobody_knows_it(
    caller: Mailbox, other: Other, post: Post
) -> None:
    post.losses.append("dump")
    with pytest.raises(CallFailed, match="restarted in the middle of 'dump'"):
        caller.call("b", "dump", {})


def test_a_server_that_is_away_is_waited_for(caller: Mailbox, other: Other, post: Post) -> None:
    post.status = 0
    threading.Timer(0.4, lambda: setattr(post, "status", None)).start()
    assert caller.call("b", "dump", {"word": 4}) == {"value": 4}


def test_a_node_that_is_not_there_is_given_up(caller: Mailbox, post: Post) -> None:
    post.status = 404
    with pytest.raises(CallFailed, match="404"):
        caller.call("b", "discard", {})


def test_a_refusal_keeps_its_remedy_and_code_over_the_distance(caller: Mailbox, other: Other) -> None:
    with pytest.raises(CallFailed, match="no such program") as refusal:
        caller.call("b", "launch", {})
    told = refusal.value
    assert (told.remedy, told.lasting, told.exit_code, told.kind) == ("install it", True, 127, "Refused")
