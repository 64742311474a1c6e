"""A fleet of one's own: server and nodes over a temporary home, started, killed and removed without a trace."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ergosphere.agent.place import Place
from ergosphere.agent.world import Cores
from ergosphere.cli import asking
from ergosphere.cli.api import Client, find_door
from ergosphere.cli.desk import Desk
from ergosphere.cli.errors import CliError
from ergosphere.cli.verifying import sweep
from ergosphere.system import Clock

START_S_MAX: Final = 90.0  # until the server answers and every node is ready, on a busy machine
STEP_S: Final = 0.05
LOG_LINES_SHOWN: Final = 8
_PASSED_ON: Final = ("PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "PYTHONPATH", "VIRTUAL_ENV", "TMPDIR")


@dataclass(frozen=True, slots=True)
class Shape:
    """How big it is: nodes, and devices of each."""

    nodes: int = 2
    devices: int = 2


@dataclass(slots=True)
class PrivateFleet:
    """A running fleet. `keep`: leave its folder (ledger, logs, stores) where it is when it goes down."""

    home: Path
    shape: Shape
    environment: Mapping[str, str]
    clock: Clock
    keep: bool = False
    _server: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def desk(self) -> Desk:
        """Where its commands stand: no address or token of another service leads elsewhere."""
        return Desk(self.environment, self.home, self.home, self.clock)

    @property
    def nodes(self) -> tuple[str, ...]:
        return tuple(f"node-{number}" for number in range(self.shape.nodes))

    @property
    def cores(self) -> Cores:
        """How each node shares this machine's cores between its devices."""
        return Cores(tuple(sorted(os.sched_getaffinity(0))), self.shape.devices)

    def place(self, node: str) -> Place:
        """Where a node keeps things."""
        return Place(self.home, node)

    def client(self) -> Client:
        """A new connection to the server; the address is read anew."""
        return Client(find_door(self.home, {}))

    def start(self) -> None:
        """The server runs and every node is ready. Raises CliError when they do not come up."""
        self.start_server()
        deadline_s = self.clock.monotonic() + START_S_MAX
        while self._nodes_ready() < self.shape.nodes:
            if self.clock.monotonic() > deadline_s:
                raise self._failed(f"not every node was ready within {START_S_MAX:.0f} s", "nodes/node-0/agent.log")
            self.clock.sleep(STEP_S)

    def start_server(self) -> None:
        """Start a server where none runs, and wait until it answers."""
        self._server = self._spawn()
        deadline_s = self.clock.monotonic() + START_S_MAX
        while not self._answers():
            if self._server.poll() is not None:
                raise self._failed(f"the server ended at once (exit status {self._server.returncode})")
            if self.clock.monotonic() > deadline_s:
                raise self._failed(f"the server did not answer within {START_S_MAX:.0f} s")
            self.clock.sleep(STEP_S)

    def kill_server(self) -> int:
        """End the server as `kill -9` does; which process it was."""
        assert self._server is not None, "a fleet has a server from its start on"
        self._server.kill()
        self._server.wait()
        return self._server.pid

    def down(self) -> None:
        """Everything ends at once and nothing is left, but for the folder when it is kept."""
        if self._server is not None:
            self.kill_server()
        sweep.sweep(self.home, keep_folder=self.keep)

    def _spawn(self) -> subprocess.Popen[bytes]:
        folder = self.home / "server"
        folder.mkdir(exist_ok=True, mode=0o700)
        flags = ["--nodes", str(self.shape.nodes), "--devices", str(self.shape.devices)]
        with (folder / "server.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-P", "-m", "ergosphere.control.server", "--home", str(self.home), *flags],
                cwd="/",
                env={name: self.environment[name] for name in _PASSED_ON if name in self.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _answers(self) -> bool:
        """The very server that was started last: what an earlier one wrote does not count."""
        try:
            written = json.loads((self.home / "server/server.json").read_text())
            if self._server is None or written["pid"] != self._server.pid:
                return False
            with self.client() as client:
                asking.status(client)
        except (OSError, ValueError, CliError):
            return False
        return True

    def _nodes_ready(self) -> int:
        with self.client() as client:
            return asking.status(client).nodes_ready

    def _failed(self, cause: str, log: str = "server/server.log") -> CliError:
        path = self.home / log
        lines = path.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:] if path.exists() else []
        return CliError(cause + "".join(f"\n    {line}" for line in lines), "`ergo check` tests this machine")


@contextmanager
def private_fleet(here: Desk, tools: Path, shape: Shape) -> Iterator[PrivateFleet]:
    """A fleet in a new temporary home, with the CRIU of `tools` (a provisioned folder); gone when the block is left."""
    home = Path(tempfile.mkdtemp(prefix="ergo-private-"))
    (home / "criu").symlink_to(tools.resolve())
    fleet = PrivateFleet(home, shape, here.environment, here.clock)
    with ExitStack() as undo:
        undo.callback(fleet.down)
        fleet.start()
        yield fleet
