"""The local engine with real processes: a stand-in agent that takes the lock as the real one does."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ergosphere import system
from ergosphere.engines.local import LocalEngine

AGENT = """
import argparse, fcntl, json, os, sys, time
from pathlib import Path
parser = argparse.ArgumentParser()
for name in ("--home", "--node", "--devices"):
    parser.add_argument(name)
given = parser.parse_args()
folder = Path(given.home, "nodes", given.node)
lock = os.open(folder / "agent.lock", os.O_RDWR | os.O_CREAT)
fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
facts = {"pid": os.getpid(), "sid": os.getsid(0), "env": dict(os.environ), "cwd": os.getcwd(), "devices": given.devices}
(folder / "facts.new").write_text(json.dumps(facts))
os.rename(folder / "facts.new", folder / "facts.json")
time.sleep(600)
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "agent.py").write_text(AGENT)
    return tmp_path


@pytest.fixture
def engine(home: Path) -> Iterator[LocalEngine]:
    made = new_engine(home)
    yield made
    made.stop()


def new_engine(home: Path) -> LocalEngine:
    environment = {**os.environ, "SECRET": "x"}
    program = (str(home / "agent.py"),)
    return LocalEngine(home, 2, 3, system.SystemClock(), environment, program=program)


def facts(home: Path, node: str) -> dict:
    return json.loads((home / "nodes" / node / "facts.json").read_text())


def wait_for(condition: Callable[[], object], within_s: float = 20.0) -> None:
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def runs(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def up(engine: LocalEngine, home: Path) -> None:
    def all_told() -> bool:
        engine.ensure()
        return all((home / "nodes" / node / "facts.json").exists() for node in engine.nodes())

    wait_for(all_told)


def test_agents_run_in_sessions_of_their_own_with_a_clean_environment(engine: LocalEngine, home: Path) -> None:
    up(engine, home)
    told = facts(home, "node-1")
    assert told["sid"] == told["pid"] and told["cwd"] == str(home) and told["devices"] == "3"
    assert "SECRET" not in told["env"] and "PYTHONPATH" in told["env"]
    assert engine.nodes() == {"node-0": 3, "node-1": 3}


def test_a_dead_agent_is_started_again_and_the_other_left_alone(engine: LocalEngine, home: Path) -> None:
    up(engine, home)
    before = {node: facts(home, node)["pid"] for node in engine.nodes()}
    os.kill(before["node-0"], signal.SIGKILL)

    def again() -> bool:
        engine.ensure()
        return facts(home, "node-0")["pid"] != before["node-0"]

    wait_for(again)
    assert facts(home, "node-1")["pid"] == before["node-1"]


def test_a_new_server_finds_the_agents_of_the_one_before_and_can_stop_them(engine: LocalEngine, home: Path) -> None:
    up(engine, home)
    before = [facts(home, node)["pid"] for node in engine.nodes()]
    later = new_engine(home)
    for _ in range(3):
        later.ensure()
    assert [facts(home, node)["pid"] for node in later.nodes()] == before
    later.stop()
    later.ensure()
    wait_for(lambda: not any(runs(pid) for pid in before))  # who has let go of its lock takes a moment to be gone
