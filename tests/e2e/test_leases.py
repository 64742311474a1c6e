"""Leases: who may act when somebody is silent; a node that is gone. On a fleet with short leases and cgroup v1."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.fleet import Fleet, counter, is_whole, running, wait_for

from ergosphere.agent import cgroups

SHORT = ("--lease-s", "4", "--margin-s", "2")


def _has_v1() -> bool:
    return any(one.version == 1 and cgroups.usable(one) for one in cgroups.hierarchies())


@pytest.fixture(scope="module")
def brief(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """One node that the engine looks after."""
    home = tmp_path_factory.mktemp("brief") / "home"
    with running(Fleet(home, nodes=1, devices=2, options=SHORT, cgroup=1 if _has_v1() else None)) as fleet:
        yield fleet


@pytest.fixture
def lone(brief: Fleet) -> Iterator[subprocess.Popen[bytes]]:
    """The agent of node-9, which nobody starts again."""
    agent = brief.start_agent("node-9", devices=2)
    yield agent
    agent.kill()
    agent.wait()
    brief.kill_node("node-9")


@pytest.mark.skipif(not _has_v1(), reason="no cgroup v1 freezer here")
def test_jobs_are_frozen_thawed_and_recovered_with_the_freezer_of_cgroup_v1(brief: Fleet, folder: Path) -> None:
    job = brief.submit(counter(), folder, ranks=2)
    job.printed()
    mount = next(one.mount for one in cgroups.hierarchies() if one.version == 1)
    group = mount / f"ergo-{brief.id}" / "node-0" / f"{job.id}.1.0" / "rank0"
    assert str(job.main_pid()) in (group / "cgroup.procs").read_text().split()
    job.verb("pause")
    job.verb("resume")
    job.printed()
    os.kill(job.main_pid(), signal.SIGKILL)
    wait_for(lambda: job.detail["recoveries"] == 1, "the job is recovered")
    job.printed()
    job.finished_whole()


def test_ranks_stand_still_when_nobody_holds_a_lease_and_go_on_when_somebody_does(brief: Fleet, folder: Path) -> None:
    job = brief.submit(counter(), folder)
    job.printed(5)
    brief.kill_everyone()
    wait_for(lambda: "lease" in job.keeper()["holds"], "the keeper suspends its ranks")
    log = job.life() / "ranks/0/out.log"
    printed = log.read_bytes()
    time.sleep(0.3)
    assert log.read_bytes() == printed
    brief.start()
    job.printed()
    assert job.finished_whole()["incarnation"] == 1


def test_without_a_server_an_agent_keeps_its_ranks_running(brief: Fleet, folder: Path) -> None:
    job = brief.submit(counter(), folder)
    job.printed(5)
    brief.kill_server()
    time.sleep(4.5)
    job.printed(5)
    assert job.keeper()["holds"] == []
    brief.start()
    assert job.finished_whole()["incarnation"] == 1


def test_a_job_of_a_node_that_is_gone_goes_on_elsewhere_from_its_last_snapshot(
    brief: Fleet, folder: Path, lone: subprocess.Popen[bytes]
) -> None:
    job = brief.submit(counter(), folder, ranks=2)
    job.printed()
    job.verb("migrate", to=["node-9"])
    job.printed()
    job.verb("snapshot")
    wait_for(lambda: job.detail["snapshots"][-1]["durability"] == "remote", "the snapshot is in the shared store")
    job.printed()
    brief.kill_node("node-9")
    lone.wait()
    wait_for(lambda: job.detail["recoveries"] == 1, "the job goes on elsewhere")
    assert set(job.nodes) == {"node-0"}
    assert any("node-9" in event["text"] and event["kind"] == "node-lost" for event in brief.get("/v1/events"))
    job.printed()
    job.finish()
    assert is_whole(job.out(0)) and is_whole(job.out(1)), job.story()


def test_ranks_of_a_silent_node_stand_still_before_they_go_on_elsewhere_and_never_twice(
    brief: Fleet, folder: Path, lone: subprocess.Popen[bytes]
) -> None:
    job = brief.submit(counter(), folder)
    job.printed()
    job.verb("migrate", to=["node-9"])
    job.verb("snapshot")
    job.printed()
    old = job.life()
    keeper = json.loads((old / "keeper.json").read_text())["pid"]
    lone.kill()
    lone.wait()
    wait_for(lambda: "lease" in json.loads((old / "keeper.json").read_text())["holds"], "the old ranks stand still")
    assert job.detail["incarnation"] == 2, "not thawed elsewhere before that"
    printed = (old / "ranks/0/out.log").read_bytes()
    wait_for(lambda: job.detail["recoveries"] == 1, "the job goes on elsewhere")
    assert (old / "ranks/0/out.log").read_bytes() == printed
    job.printed()
    again = brief.start_agent("node-9", devices=2)
    wait_for(lambda: not Path(f"/proc/{keeper}").exists() and not old.exists(), "what is left of the old life is ended")
    job.printed()
    job.finished_whole()
    again.kill()
    again.wait()
