"""`ergo up`, `submit`, `down` and `up` again as typed in a shell: a job goes on where it was frozen."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.fleet import Fleet, Job, counter, is_whole, wait_for

from ergosphere.cli.verifying.sweep import sweep

UP = ("up", "--nodes", "1", "--devices", "2")


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """A home in which nothing was started yet."""
    made = Fleet(tmp_path / "home", nodes=1, devices=2)
    yield made
    made.ergo("down", "--kill", folder=tmp_path)
    sweep(made.home)


def typed(fleet: Fleet, folder: Path, *words: str) -> Any:
    """What a command answers, as machines read it; it must do well."""
    said = fleet.ergo(*words[:1], "-o", "json", *words[1:], folder=folder)
    assert said.returncode == 0, said
    return json.loads(said.stdout)


def test_a_job_goes_on_over_down_and_up_and_its_log_is_whole(fleet: Fleet, folder: Path) -> None:
    up = typed(fleet, folder, *UP)
    assert (up["started"], up["nodes_ready"], up["devices"]) == (True, 1, 2)
    job = Job(fleet, typed(fleet, folder, "submit", "--name", "counts", "--", *counter())["id"])
    job.printed(50)
    before = typed(fleet, folder, "status")
    assert before["jobs"]["running"] == 1 and before["devices_used"] == 1

    down = typed(fleet, folder, "down")
    assert (down["stopped"], down["paused"], down["killed"]) == (True, ["counts"], [])
    assert fleet.ergo("status", folder=folder).returncode == 4, "nobody answers now"
    wait_for(lambda: fleet.agent_pid("node-0") is None, "its node is down too")

    assert typed(fleet, folder, *UP)["started"]
    job.until("running")
    job.printed(50)
    after = typed(fleet, folder, "status")
    assert after["pid"] != before["pid"] and after["jobs"] == before["jobs"]
    found = job.finish()
    assert (found["recoveries"], found["lost_lines"]) == (0, 0)
    log = fleet.ergo("logs", "counts", folder=folder).stdout.splitlines()
    assert is_whole(log) and len(log) > 100
    assert typed(fleet, folder, "down")["paused"] == []
    wait_for(lambda: not [left for left in fleet.left_over() if "process" in left], "no process is left")
