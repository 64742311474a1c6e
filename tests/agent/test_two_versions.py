"""An agent and a server, or another agent, of two versions: orders are understood whole or refused."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from tests.agent.nodekit import Hand, a_node, life

from ergosphere.agent import cells
from ergosphere.agent.answering import failed
from ergosphere.agent.inbox_page import Page, read_page
from ergosphere.agent.lives import LifeFolder
from ergosphere.agent.orders import Orders
from ergosphere.agent.ports import NotUnderstood
from ergosphere.wire import versions
from ergosphere.wire.agents import Answer, CellPlan, EndOrder, InboxPage, LifePlan, Mail, Order, ReportReply, StartOrder
from ergosphere.wire.jobs import JobSpec

NEWER = "99.1"
PLAN = LifePlan(
    job="j1",
    incarnation=2,
    spec=JobSpec(command=("x",), name="x", workdir="/w"),
    cells=(CellPlan(index=0, ranks=(0,), node="node-0", devices=(0,), address=""),),
    threads=1,
)


def page(*orders: Order, **unknown: object) -> bytes:
    """As a newer server sends it; what is unknown stands in the first order's job."""
    mail = Mail(to="node-0", sender="node-1", call_id="c", method="phase")
    sent = json.loads(InboxPage(seq=7, orders=orders, mail=(mail,)).model_dump_json(exclude_defaults=True))
    sent["orders"][0]["life"]["spec"] |= unknown
    return json.dumps(sent | {"news": True}).encode()


class Line:
    """The server: one page, then it is away for good."""

    def __init__(self, page: Page) -> None:
        self.pages, self.answers = [page], []

    def inbox(self, after: int) -> Page:
        if not self.pages:
            raise SystemExit
        return self.pages.pop()

    def answer(self, answer: Answer) -> None:
        self.answers.append(answer)


class Desk:
    """Takes mail, and carries out orders."""

    def __init__(self) -> None:
        self.done, self.heard, self.ending = [], [], set()
        self.over = threading.Event()

    def receive(self, mail: Mail) -> None:
        self.heard.append(mail.method)

    def carry_out(self, order: Order) -> Answer:
        self.done.append(order.order_id)
        self.over.set()
        return Answer(order_id=order.order_id, job="j1", incarnation=2, ok=True)


def carried_out(content: bytes) -> tuple[Line, Desk]:
    line, desk = Line(read_page(content, "node-0", NEWER)), Desk()
    with pytest.raises(SystemExit):
        Orders(line, desk, desk, Hand()).poll_forever()
    return line, desk


def test_an_order_with_an_unknown_field_is_refused_and_the_others_are_carried_out() -> None:
    content = page(StartOrder(order_id="o1", life=PLAN), StartOrder(order_id="o2", life=PLAN), colour="red")
    line, desk = carried_out(content)
    assert desk.over.wait(10) and desk.done == ["o2"] and desk.heard == ["phase"]
    refused = next(answer for answer in line.answers if answer.order_id == "o1")
    assert (refused.job, refused.incarnation, refused.ok, refused.transient) == ("j1", 2, False, True)
    assert f"version {versions.VERSION}" in refused.error and f"version {NEWER}" in refused.error
    assert "life.spec.colour: a field that is not known here" in refused.error
    assert "kill that agent" in refused.remedy


def test_an_order_to_end_a_life_that_is_not_understood_stays_open(caplog: pytest.LogCaptureFixture) -> None:
    line, desk = carried_out(page(EndOrder(order_id="o1", life=PLAN), colour="red"))
    assert not line.answers and not desk.done
    assert "colour" in caplog.text and "kill that agent" in caplog.text


def test_a_reply_that_says_more_renews_the_lease_all_the_same() -> None:
    assert ReportReply.model_validate_json('{"lease_s": 5, "forget": [], "advice": "rest"}').lease_s == 5.0


def test_another_agents_call_about_what_is_not_known_here_is_refused_without_blame(tmp_path: Path) -> None:
    with a_node(tmp_path) as node:
        local = cells.LocalCells(node)
        record = life(node).read()
        body: dict[str, Any] = {"life": record.plan.model_dump(mode="json", exclude_defaults=True), "cell": 0}
        assert local.serve("phase", body) == {"value": "ended"}
        body["life"]["colour"] = "red"
        for method in ("phase", "paint"):
            with pytest.raises(NotUnderstood, match=f"version {versions.VERSION}") as raised:
                local.serve(method, body)
            answer = failed(StartOrder(order_id="o", life=PLAN), raised.value)
            assert answer.transient and "kill that agent" in answer.remedy


def test_what_an_agent_keeps_of_a_life_names_nothing_that_is_not_used(tmp_path: Path) -> None:
    with a_node(tmp_path) as node:
        folder = life(node)
        kept = json.loads((folder.path / "life.json").read_text())
        assert "fork_names" not in kept["plan"] and "signal" not in kept["plan"]["spec"]
        assert LifeFolder(folder.path).read().birth == kept["birth"]
