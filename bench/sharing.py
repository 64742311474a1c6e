"""Ranks as plain processes that share devices by a table, for figures of the shim alone; and networks of their own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ergosphere.agent import shim_copy
from ergosphere.agent.cut_port import LocalRank
from ergosphere.shim.ergo_shim import table as tables
from ergosphere.shim.ergo_shim.table import Table

PROGRAMS = Path(__file__).parent / "programs"
PATIENCE_S = 170.0


@dataclass(frozen=True, slots=True)
class Seats:
    """Who sits where. `devices`: host/device of each rank; none: no shim. `cores`: those all ranks may use."""

    ranks: int
    devices: tuple[str, ...] = ()
    cores: tuple[int, ...] = (0,)
    namespaces: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()


def run(seats: Seats, program: str, *arguments: str) -> list[dict[str, Any]]:
    """What each rank has written to OUT.RANK, where OUT is the program's last argument."""
    with TemporaryDirectory() as folder, TemporaryDirectory(prefix="ergo-bench-", dir="/dev/shm") as memory:
        place = Path(folder)
        _prepare(place, Path(memory), seats)
        out = str(place / "out")
        command = [sys.executable, "-W", "ignore", str(PROGRAMS / program), *arguments, out]
        port = str(_free_port())
        ranks = [_launch(place, seats, command, rank, port) for rank in range(seats.ranks)]
        try:
            codes = [rank.wait(PATIENCE_S) for rank in ranks]
        finally:
            for rank in ranks:
                rank.kill()
                rank.wait()
        assert codes == [0] * seats.ranks, (codes, (place / "err").read_text()[-3000:])
        return [json.loads(Path(f"{out}.{rank}").read_text()) for rank in range(seats.ranks)]


def _prepare(place: Path, memory: Path, seats: Seats) -> None:
    shim_copy.compile_for(place)
    shim_copy.give(place, place / "shim")
    for rank in range(seats.ranks if seats.devices else 0):
        LocalRank.create(place / f"control{rank}")
        hosts = [device.split("/")[0] for device in seats.devices]
        (memory / hosts[rank]).mkdir(exist_ok=True)
        table = Table(1, "on", str(memory / hosts[rank]), rank, hosts, list(seats.devices))
        tables.write(str(place / f"control{rank}"), table)


def _launch(place: Path, seats: Seats, command: list[str], rank: int, port: str) -> subprocess.Popen[bytes]:
    address = seats.addresses[rank] if seats.addresses else "127.0.0.1"
    world = {"RANK": str(rank), "WORLD_SIZE": str(seats.ranks), "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    world["MASTER_ADDR"] = seats.addresses[0] if seats.addresses else "127.0.0.1"
    world |= {"ERGO_CONTROL": str(place / f"control{rank}"), "ERGO_ADDRESS": address}
    world["PYTHONPATH"] = str(place / "shim") if seats.devices else ""
    inside = ["ip", "netns", "exec", seats.namespaces[rank]] if seats.namespaces else []
    with open(place / "err", "ab") as err:
        return subprocess.Popen(
            [*inside, *command],
            env={**os.environ, **world},
            stdout=err,
            stderr=err,
            preexec_fn=lambda: os.sched_setaffinity(0, seats.cores),
        )


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def networks(count: int) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Network namespaces on one bridge: their names and addresses."""
    stem = f"eb{os.getpid() % 10000}"
    names = tuple(f"{stem}n{at}" for at in range(count))
    undo: list[Callable[[], object]] = []
    try:
        _ip("link", "add", stem, "type", "bridge")
        undo.append(lambda: _ip("link", "del", stem))
        _ip("link", "set", stem, "up")
        for at, name in enumerate(names):
            _ip("netns", "add", name)
            undo.append(lambda name=name: _ip("netns", "del", name))  # type: ignore[misc]
            _ip("link", "add", f"{name}o", "type", "veth", "peer", "name", f"{name}i", "netns", name)
            _ip("link", "set", f"{name}o", "master", stem, "up")
            for words in (("addr", "add", f"10.199.77.{at + 1}/24", "dev", f"{name}i"), ("link", "set", "lo", "up")):
                _ip("-n", name, *words)
            _ip("-n", name, "link", "set", f"{name}i", "up")
        yield names, tuple(f"10.199.77.{at + 1}" for at in range(count))
    finally:
        for each in reversed(undo):
            each()


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def on_one_device(ranks: int) -> Seats:
    """All ranks on one device of one core."""
    return Seats(ranks, ("a/0",) * ranks)


def side_by_side(ranks: int) -> Seats:
    """As plain processes contend for one core."""
    return Seats(ranks)


def everywhere(devices: Sequence[str], cores: Sequence[int]) -> Seats:
    """Each rank on the device named."""
    return Seats(len(devices), tuple(devices), tuple(cores))
