"""A node that shares no memory with the others: a job comes to it through the store, while it is still being sent."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.fleet import START_S, Fleet, counter, running, wait_for

from ergosphere.agent.hostmounts import read_mounts

BALLAST = "ballast = os.urandom(96 << 20)"
BYTES_PER_S = 24 << 20
# Hides the other nodes' folders from what is run: all that is left of them is what they have sent to the store.
ALONE = """
set -e
for one in "$NODES" "$MEMORY"; do
    mkdir -p "$one/$NODE" "$ASIDE/own"
    mount --bind "$one/$NODE" "$ASIDE/own"
    mount -t tmpfs -o mode=0700 none "$one"
    mkdir -m 0700 "$one/$NODE"
    mount --move "$ASIDE/own" "$one/$NODE"
done
exec "$@"
"""


def start_alone(fleet: Fleet, node: str, aside: Path) -> subprocess.Popen[bytes]:
    """An agent as on another machine."""
    folder = fleet.home / "nodes" / node
    folder.mkdir(parents=True, mode=0o700)
    given = {"NODES": str(fleet.home / "nodes"), "MEMORY": str(fleet.memory), "NODE": node, "ASIDE": str(aside)}
    command = ["unshare", "--mount", "sh", "-c", ALONE, "sh", sys.executable, "-P", "-m", "ergosphere.agent.main"]
    command += ["--home", str(fleet.home), "--node", node, "--devices", "1"]
    with (folder / "agent.log").open("ab") as log:
        agent = subprocess.Popen(
            command, env=fleet.environment | given, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
    wait_for(lambda: fleet.node(node).get("ready"), f"{node} is ready", START_S)
    return agent


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Two nodes that have only the store in common, and a slow way there."""
    folder = tmp_path_factory.mktemp("apart")
    fleet = Fleet(folder / "home", nodes=1, devices=1)
    (fleet.home / "store.json").write_text(json.dumps({"upload_bytes_per_s": BYTES_PER_S}))
    with running(fleet):
        agent = start_alone(fleet, "node-9", folder / "aside")
        yield fleet
        agent.terminate()
        agent.wait()
        fleet.kill_node("node-9")


def test_a_job_moves_through_the_store_and_is_fetched_before_all_of_it_has_been_sent(
    apart: Fleet, folder: Path
) -> None:
    job = apart.submit(counter(first=BALLAST), folder)
    job.printed()
    job.verb("migrate", to=["node-9"])
    job.until("running")
    assert job.nodes == ["node-9"], job.story()
    job.printed()
    log = (apart.home / "nodes/node-9/agent.log").read_text()
    early = re.search(r"was followed: (\d+) MB came before its upload had ended", log)
    assert early is not None and int(early[1]) >= 32, log[-2000:]
    assert not job.told("snapshot-damaged") and job.detail["recoveries"] == 0
    job.finished_whole()
    assert not [*(apart.home / "store").glob("vaults/*/trails/*/*")]
    assert not [one for one in read_mounts() if one.target.startswith(str(apart.home))]


def test_a_move_whose_source_dies_on_the_way_ends_when_its_agent_is_back(apart: Fleet, folder: Path) -> None:
    job = apart.submit(counter(first=BALLAST), folder)
    job.printed()
    job.verb("migrate", to=["node-9"], wait_s=0)
    wait_for(lambda: [*(apart.home / "store").glob("vaults/*/trails/*/*")], "some of it has been sent")
    apart.kill_agent("node-0")
    job.until("running")
    assert job.nodes == ["node-9"] and not job.told("snapshot-damaged"), job.story()
    assert "was followed" in (apart.home / "nodes/node-9/agent.log").read_text()
    job.finished_whole()
