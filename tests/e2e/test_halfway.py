"""Agents and the server die in the middle of orders: what was half done is finished or undone, and no line is lost."""

from __future__ import annotations

import os
import random
import signal
import socket
import time
from pathlib import Path

import pytest
from tests.e2e.fleet import Fleet, counter, is_whole

ANSWERING = """
import socket, threading
server = socket.create_server(("", 7000))
def serve():
    client, count = server.accept()[0], 0
    for asked in client.makefile("rb"):
        count += 1
        client.sendall(b"%d %s" % (count, asked))
threading.Thread(target=serve, daemon=True).start()
"""
ANSWER_S_MAX = 30.0  # TCP sends again what was not acknowledged, ever more seldom
BALLAST = "ballast = bytearray(os.urandom(1 << 20)) * 60"  # its dump takes a moment


@pytest.mark.parametrize(("kind", "tries"), [("freeze", 2), ("thaw", 2), ("snapshot", 1)])
def test_an_agent_that_dies_in_the_middle_of_an_order_leaves_the_job_whole(
    fleet: Fleet, folder: Path, kind: str, tries: int
) -> None:
    job = fleet.submit(counter(BALLAST), folder)
    job.printed()
    dice = random.Random(kind)
    for _ in range(tries):
        if kind == "thaw":
            job.verb("pause")
        job.order_and_kill(kind, dice.random() * 0.4)
        job.settle()
    job.finished_whole()


def test_the_server_and_an_agent_die_in_the_middle_of_a_freeze(fleet: Fleet, folder: Path) -> None:
    job = fleet.submit(counter(BALLAST), folder)
    job.printed()
    job.order_and_kill("freeze", 0.1)
    fleet.kill_server()
    fleet.start()
    job.settle()
    job.finished_whole()


@pytest.mark.parametrize("which", ["coordinator", "other"])
def test_one_of_two_agents_dies_in_the_middle_of_a_freeze(fleet: Fleet, folder: Path, which: str) -> None:
    job = fleet.submit(counter(BALLAST), folder, ranks=5)
    job.printed(rank=4)
    node = job.nodes[0] if which == "coordinator" else job.nodes[-1]
    before = fleet.agent_logs()
    job.verb("pause", wait_s=0)
    fleet.at_work(before, f" freeze {job.id}")
    time.sleep(0.2)
    fleet.kill_agent(node)
    job.settle()
    job.finish()
    assert all(is_whole(job.out(rank)) for rank in range(5)), job.story()


def test_a_keeper_that_dies_in_the_middle_of_a_freeze_costs_no_line(fleet: Fleet, folder: Path) -> None:
    job = fleet.submit(counter(BALLAST), folder)
    job.printed()
    job.verb("snapshot")
    before = fleet.agent_logs()
    keeper = int(job.keeper()["pid"])
    job.verb("pause", wait_s=0)
    fleet.at_work(before, f" freeze {job.id}")
    time.sleep(0.1)
    os.kill(keeper, signal.SIGKILL)
    job.settle()
    job.finished_whole()


def test_a_client_outside_is_answered_although_agents_die_in_the_middle_of_thaws(fleet: Fleet, folder: Path) -> None:
    job = fleet.submit(counter(ANSWERING), folder)
    job.printed()
    dice = random.Random("thaws")
    with socket.create_connection((job.detail["addresses"][0], 7000), timeout=ANSWER_S_MAX) as client:
        answers = client.makefile("rb")
        for number in range(1, 5):
            job.verb("pause")
            client.sendall(b"asked %d\n" % number)  # it arrives while nobody is there
            job.order_and_kill("thaw", 0.25 + dice.random() * 0.3)
            assert answers.readline() == b"%d asked %d\n" % (number, number)
    job.finished_whole()
