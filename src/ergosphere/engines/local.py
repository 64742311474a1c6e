"""Nodes on this machine: one agent process each, started again when it dies. Agents outlive the server.

Whether an agent runs is told by the lock that it holds on its own `agent.lock`, so that a new server finds the agents
of the one before; which process it is stands in `engine.json` beside it.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import ergosphere
from ergosphere.system import STORE_VARIABLES, Clock

STOP_S: Final = 10.0  # between SIGTERM and SIGKILL
AGAIN_S: Final = 0.5  # before an agent that died is started again; doubles while it dies at once
AGAIN_S_MAX: Final = 10.0
LIVED_S: Final = 5.0  # an agent that lived so long did not die at once
PASSED_ON: Final = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TZ",
    "TMPDIR",
    "ERGO_CGROUP",
)  # all that an agent sees of our environment


@dataclass(slots=True)
class _Node:
    folder: Path
    process: subprocess.Popen[bytes] | None = None
    started_s: float = float("-inf")
    again_s: float = AGAIN_S


@dataclass(slots=True)
class LocalEngine:
    """`count` nodes called node-0 … with `devices` each, under `home`."""

    home: Path
    count: int
    devices: int
    clock: Clock
    environment: dict[str, str]
    program: tuple[str, ...] = ("-m", "ergosphere.agent.main")  # what Python runs; the tests have their own
    _nodes: dict[str, _Node] = field(init=False)
    _stopped: bool = False

    def __post_init__(self) -> None:
        self._nodes = {f"node-{i}": _Node(self.home / "nodes" / f"node-{i}") for i in range(self.count)}

    def nodes(self) -> dict[str, int]:
        return dict.fromkeys(self._nodes, self.devices)

    def ensure(self) -> None:
        if self._stopped:
            return
        for name, node in self._nodes.items():
            if not self._runs(node) and self.clock.monotonic() >= node.started_s + node.again_s:
                self._spawn(name, node)

    def stop(self) -> None:
        self._stopped = True
        running = [(node, pid) for node in self._nodes.values() if (pid := _agent_of(node.folder)) is not None]
        for _, pid in running:
            _signal(pid, signal.SIGTERM)
        end_s = self.clock.monotonic() + STOP_S
        for node, pid in running:
            while self._runs(node) and self.clock.monotonic() < end_s:
                self.clock.sleep(0.05)
            if _agent_of(node.folder) == pid:
                _signal(pid, signal.SIGKILL)

    def _runs(self, node: _Node) -> bool:
        """Whether its agent holds the lock, or has just been started and is on its way to it."""
        starting = node.process is not None and node.process.poll() is None
        return starting or _is_locked(node.folder / "agent.lock")

    def _spawn(self, name: str, node: _Node) -> None:
        now_s = self.clock.monotonic()
        node.again_s = AGAIN_S if now_s - node.started_s > LIVED_S else min(AGAIN_S_MAX, node.again_s * 2)
        node.started_s = now_s
        node.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        command = [sys.executable, "-P", *self.program]
        command += ["--home", str(self.home), "--node", name, "--devices", str(self.devices)]
        log = os.open(node.folder / "agent.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            node.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.home,
                env=self._clean_environment(),
                start_new_session=True,
            )
        finally:
            os.close(log)
        _remember(node.folder, node.process.pid)

    def _clean_environment(self) -> dict[str, str]:
        source = str(Path(ergosphere.__file__).parent.parent)
        kept = {
            name: value
            for name, value in self.environment.items()
            if name in PASSED_ON or name.startswith(STORE_VARIABLES)
        }
        return kept | {"PYTHONPATH": source}


def _is_locked(path: Path) -> bool:
    try:
        file = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False


def _remember(folder: Path, pid: int) -> None:
    aside = folder / "engine.json.new"
    aside.write_text(json.dumps({"pid": pid, "began": _began(pid)}))
    aside.rename(folder / "engine.json")


def _agent_of(folder: Path) -> int | None:
    """The process of this node's agent, if it is still that process."""
    try:
        known = json.loads((folder / "engine.json").read_text())
    except (OSError, ValueError):
        return None
    began = _began(known["pid"])
    return known["pid"] if began is not None and began == known["began"] else None


def _began(pid: int) -> int | None:
    """When a process began, in ticks since boot: with its number the name of a process that is never given twice."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, *rest = stat.rpartition(")")[2].split()
    return None if state == "Z" else int(rest[18])


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
