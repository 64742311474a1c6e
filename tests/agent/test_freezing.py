"""What must not become a snapshot."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from tests.agent.small_rank import wait_until

from ergosphere.agent import freezing
from ergosphere.agent.ports import Refused


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.fixture
def namespace():
    """PID 1 of a namespace of its own, and its first child."""
    command = ["unshare", "--pid", "--fork", "sh", "-c", "sleep 60 & wait; exec sleep 60"]
    outside = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    wait_until(lambda: children(outside.pid) and children(children(outside.pid)[0]), "the first child")
    first = children(outside.pid)[0]
    yield first, children(first)[0]
    os.kill(first, signal.SIGKILL)
    outside.wait()


def test_a_rank_that_runs_may_become_a_snapshot(namespace):
    freezing._check_alive(0, frozenset(namespace))


def test_a_rank_that_was_killed_an_instant_ago_may_not(namespace):
    first, main = namespace
    os.kill(first, signal.SIGSTOP)  # nobody reaps the dead child
    os.kill(main, signal.SIGKILL)
    wait_until(lambda: "Z" in Path(f"/proc/{main}/stat").read_text().split()[2], "its end")
    with pytest.raises(Refused, match="just been killed"):
        freezing._check_alive(0, frozenset(namespace))


def test_a_rank_whose_command_has_ended_may_not(namespace):
    first, main = namespace
    with pytest.raises(Refused, match="just ended"):
        freezing._check_alive(0, frozenset({first}))
