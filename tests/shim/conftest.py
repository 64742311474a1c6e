"""Ranks as plain processes with a shim and a control file each, and a coordinator in the test itself."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from tests.shim.sharing import Places

from ergosphere.agent import cut, shim_copy
from ergosphere.agent.cut import CutFailed, CutReached
from ergosphere.agent.cut_port import LocalRank
from ergosphere.system import SystemClock

PROGRAMS = Path(__file__).parent / "programs"
PATIENCE_S = 400.0


class Job:
    """A few ranks of one program. Without a shim they are what the program is measured against."""

    def __init__(
        self,
        folder: Path,
        program: str,
        arguments: list[str],
        ranks: int,
        node_dir: Path | None,
        devices: Sequence[str] = (),
    ) -> None:
        """`node_dir`: where the compiled shim lies; None: without one. `devices`: host/device of each rank, in a share
        table; without them there is no table."""
        if node_dir is not None:
            shim_copy.give(node_dir, folder / "shim")
        self.folder = folder
        self.generation = 0
        ports = ",".join(str(port) for port in free_ports(2))
        self.controls = [folder / f"control{rank}" for rank in range(ranks)]
        self.ports = {rank: LocalRank.create(path) for rank, path in enumerate(self.controls)} if node_dir else {}
        self.places = Places(self.controls) if devices else None
        if self.places is not None:
            self.places.seat(devices)
        self.processes: list[subprocess.Popen[bytes]] = []
        for rank in range(ranks):
            self.processes.append(self._launch(program, arguments, rank, ranks, ports))

    def _launch(self, program: str, arguments: list[str], rank: int, ranks: int, ports: str) -> subprocess.Popen[bytes]:
        environment = dict(os.environ, RANK=str(rank), WORLD_SIZE=str(ranks), MASTER_ADDR="127.0.0.1")
        environment |= {"MASTER_PORT": ports.split(",")[0], "MASTER_PORTS": ports, "OMP_NUM_THREADS": "1"}
        environment |= {"ERGO_CONTROL": str(self.controls[rank]), "ERGO_ADDRESS": "127.0.0.1"}
        environment["PYTHONPATH"] = str(self.folder / "shim") if self.ports else ""
        with open(self.output(rank), "wb") as out, open(self.folder / f"err{rank}", "wb") as err:
            command = [sys.executable, "-W", "ignore", str(PROGRAMS / program), *arguments]
            return subprocess.Popen(command, env=environment, stdout=out, stderr=err)

    def output(self, rank: int) -> Path:
        return self.folder / f"out{rank}"

    def outputs(self) -> list[str]:
        return [self.output(rank).read_text() for rank in range(len(self.processes))]

    def errors(self) -> str:
        return "\n".join((self.folder / f"err{rank}").read_text()[-3000:] for rank in range(len(self.processes)))

    def pid(self, rank: int) -> int:
        return self.processes[rank].pid

    def runs(self) -> bool:
        return all(process.poll() is None for process in self.processes)

    def cut(self, deadline_s: float = 60.0) -> CutReached | CutFailed:
        return cut.reach_cut(self.ports, deadline_s, SystemClock())

    def go(self, reached: CutReached) -> None:
        self.generation += 1
        failed = cut.go(self.ports, reached.parked, self.generation, 60.0, SystemClock())
        assert failed is None, f"{failed}\n{self.errors()}"

    def exits(self) -> list[int]:
        return [process.wait(PATIENCE_S) for process in self.processes]

    def until(self, what: Callable[[], bool]) -> None:
        until_s = time.monotonic() + PATIENCE_S
        while not what():
            assert time.monotonic() < until_s, f"waited in vain; {self.outputs()}\n{self.errors()}"
            time.sleep(0.005)

    def end(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()
        if self.places is not None:
            self.places.close()


def free_ports(count: int) -> list[int]:
    """Below those that the kernel hands out by itself: nobody takes them before the job does."""
    found: list[int] = []
    while len(found) < count:
        port = random.SystemRandom().randrange(15_000, 32_000)
        with socket.socket() as one, suppress(OSError):
            one.bind(("0.0.0.0", port))
            found += [port] if port not in found else []
    return found


@pytest.fixture(scope="session")
def node_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the shim in it, compiled, as an agent lays it down."""
    folder = tmp_path_factory.mktemp("node")
    shim_copy.compile_for(folder)
    return folder


@pytest.fixture
def launch(tmp_path: Path, node_dir: Path) -> Iterator[Callable[..., Job]]:
    """launch(program, *arguments, ranks=2, shimmed=True, devices=()) -> Job; all are ended afterwards."""
    jobs: list[Job] = []

    def start(program: str, *arguments: str, ranks: int = 2, shimmed: bool = True, devices: Sequence[str] = ()) -> Job:
        folder = tmp_path / f"job{len(jobs)}"
        folder.mkdir()
        shim_dir = node_dir if shimmed else None
        jobs.append(Job(folder, program, list(arguments), len(devices) or ranks, shim_dir, devices))
        return jobs[-1]

    yield start
    for job in jobs:
        job.end()
