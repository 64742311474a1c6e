"""Rows of group `store` that need real jobs: how long a snapshot stops one, how fast it thaws, in how much memory."""

from __future__ import annotations

import itertools
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from bench.fleet import Fleet, fleet, last_line, wait_until
from bench.mechanism import PROGRAMS, _bare
from bench.report import Row, row

ALONE_S = 2.0  # for the log's steps before and after a snapshot
SAMPLE_S = 0.02


def measure(quick: bool) -> list[Row]:
    """One rank of 1 GB (0.25 GB when quick), side by side with bare CRIU dumping and restoring the same to memory."""
    size_gb = 0.25 if quick else 1.0
    rounds = 1 if quick else 5
    stopped, thawed, memory, rivals = [], [], [], []
    with fleet(1, 1) as place:
        for _ in range(rounds):
            rivals.append(_bare(size_gb))
            with _job(place, size_gb) as job, _watched(place) as peak:
                stopped.append(_stopped_s(place, job))
                wait_until(lambda: _is_remote(place, job), 300)
                memory.append(peak())
                thawed.append(_thawed_s(place, job))
    dump_s, restore_s = median(one[0] for one in rivals), median(one[1] for one in rivals)
    name = f"{size_gb:g}GB"
    return [
        row(
            f"store/stopped/{name}",
            [ours / bare[0] for ours, bare in zip(stopped, rivals, strict=True)],
            "×",
            goal=1.1,
            bar=1.1,
            against=f"bare criu dump to memory, {dump_s:.3g} s; ours {median(stopped):.3g} s without a step",
        ),
        row(
            f"store/thaw/{name}",
            [ours / bare[1] for ours, bare in zip(thawed, rivals, strict=True)],
            "×",
            goal=1.3,
            bar=1.3,
            against=f"bare criu restore, {restore_s:.3g} s; ours {median(thawed):.3g} s from order to next step",
        ),
        row(
            f"store/memory/{name}",
            memory,
            "MB",
            goal=256,
            bar=256,
            against="the agent's own memory at its peak, upload included, beyond what it had",
        ),
    ]


@contextmanager
def _job(place: Fleet, size_gb: float) -> Iterator[str]:
    with TemporaryDirectory() as folder:
        program = [sys.executable, str(PROGRAMS / "hold.py"), str(size_gb)]
        place.ergo("submit", "--name", "hold", "--", *program, cwd=Path(folder))
    job = str(place.job("hold")["id"])
    wait_until(lambda: (log := place.log_file(job)) and last_line(log))
    time.sleep(ALONE_S)
    try:
        yield job
    finally:
        place.verb(job, "cancel", grace_s=0)


def _stopped_s(place: Fleet, job: str) -> float:
    """The longest time without a step around a snapshot."""
    began = time.time()
    place.verb(job, "snapshot")
    time.sleep(ALONE_S / 2)
    times = [at for at in _times(place, job) if at > began - 1.0]
    return max(after - before for before, after in itertools.pairwise(times))


def _times(place: Fleet, job: str) -> list[float]:
    log = place.log_file(job)
    assert log is not None
    return [float(line.split()[1]) for line in log.read_text().split("\n")[:-1]]


def _thawed_s(place: Fleet, job: str) -> float:
    """From the order to resume until the first step; its images are in the node's memory."""
    place.verb(job, "pause")
    wait_until(lambda: _is_remote(place, job), 300)  # what goes on behind a freeze is no part of a thaw
    began = time.time()
    place.verb(job, "resume", wait_s=0)
    first = wait_until(lambda: next((at for at in _times_or_none(place, job) if at > began), None))
    return float(first) - began


def _times_or_none(place: Fleet, job: str) -> list[float]:
    log = place.log_file(job)
    return _times(place, job) if log is not None and log.exists() else []


def _is_remote(place: Fleet, job: str) -> bool:
    return bool(place.job(job)["snapshots"][-1]["durability"] == "remote")


@contextmanager
def _watched(place: Fleet) -> Iterator[Callable[[], float]]:
    """A call that says by how many MB the agent's anonymous memory has grown at most since this began."""
    pid = int((place.home / "nodes/node-0/agent.lock").read_text())
    first, seen, ending = _anonymous_mb(pid), [0.0], threading.Event()

    def look() -> None:
        while not ending.wait(SAMPLE_S):
            seen.append(_anonymous_mb(pid) - first)

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield lambda: max(seen)
    finally:
        ending.set()
        watcher.join()


def _anonymous_mb(pid: int) -> float:
    """What is the process's alone; images are files in memory and count as such."""
    said = Path(f"/proc/{pid}/smaps_rollup").read_text()
    kib = next(int(line.split()[1]) for line in said.splitlines() if line.startswith("Anonymous:"))
    return kib * 1024 / 1e6


if __name__ == "__main__":
    from bench.report import show

    show(measure(quick=bool(os.environ.get("QUICK"))))
