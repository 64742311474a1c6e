"""Jobs of plain processes that share devices by a table: what the tests of exact sums, turns and splicing launch."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from ergosphere.agent.cut import CutReached
from ergosphere.shim.ergo_shim import table as tables
from ergosphere.shim.ergo_shim.table import Table

# host/device of each rank
ONE_DEVICE = ("a/0",) * 4
TWO_DEVICES = ("a/0", "a/0", "a/1", "a/1")
CROSSED = ("a/0", "a/1", "a/0", "a/1")
OWN_DEVICES = ("a/0", "a/1", "a/2", "a/3")
TWO_HOSTS = ("a/0", "a/0", "b/0", "b/0")
FOUR_HOSTS = ("a/0", "b/0", "c/0", "d/0")
UNEVEN_HOSTS = ("b/0", "a/0", "a/1", "b/0")


class Places:
    """The shared folders of a job's hosts, and the tables that say who sits where."""

    def __init__(self, controls: Sequence[Path], exact: str = "auto") -> None:
        self._memory = tempfile.TemporaryDirectory(prefix="ergo-test-", dir="/dev/shm")
        self._controls = controls
        self._exact = exact
        self.number = 0
        self.seats: Sequence[str] = ()

    def folder(self, host: str) -> Path:
        path = Path(self._memory.name) / host
        path.mkdir(exist_ok=True)
        return path

    def seat(self, devices: Sequence[str]) -> None:
        """Writes the tables of all ranks."""
        self.number += 1
        self.seats = tuple(devices)
        hosts = [device.split("/")[0] for device in devices]
        for rank, control in enumerate(self._controls):
            folder = str(self.folder(hosts[rank]))
            tables.write(str(control), Table(self.number, self._exact, folder, rank, hosts, list(devices)))

    def left(self) -> list[str]:
        """Files of the job that are still there."""
        return [str(path) for path in Path(self._memory.name).rglob("*") if path.is_file()]

    def close(self) -> None:
        self._memory.cleanup()


def resize(job, places: Places, devices: Sequence[str]) -> CutReached:
    """A live resize as the agent does it: a cut, other tables, and on. No process ends."""
    reached = job.cut()
    assert isinstance(reached, CutReached), (reached, job.errors())
    places.seat(devices)
    job.go(reached)
    return reached
