"""Rows of group `store` that need real jobs: how long a snapshot stops one, how fast it thaws, in how much memory."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from bench.bare import PROGRAMS, STEPS_S, Bare, bare
from bench.fleet import Fleet, fleet, last_line, wait_until
from bench.report import Row, row
from ergosphere import system

ROUNDS = 12
SAMPLE_S = 0.02
NODE = "node-0"
_Lap = dict[str, float]  # what: seconds
LAP = re.compile(r"(\w+) ([0-9.]+) s")


@dataclass(slots=True)
class _Taken:
    """Seconds, a figure a round: ours, and bare CRIU's just before. `step_s`: bare's longest time without a step."""

    stopped: list[tuple[float, float]] = field(default_factory=list)
    step_s: list[float] = field(default_factory=list)
    from_memory: list[tuple[float, float]] = field(default_factory=list)
    from_cache: list[tuple[float, float]] = field(default_factory=list)
    memory_mb: list[float] = field(default_factory=list)


def measure(quick: bool) -> list[Row]:
    """One rank of 1 GB (0.25 GB when quick), in turns with bare CRIU dumping and restoring the same to memory.

    The store is a folder that counts as shared: encrypted, and with a cache of its packs on the node.
    """
    size_gb = 0.25 if quick else 1.0
    taken = _Taken()
    with TemporaryDirectory() as shared, fleet(1, 1, "--store", shared) as place, bare(size_gb) as rival:
        with _job(place, size_gb) as job:
            for _ in range(1 if quick else ROUNDS):
                _round(place, Path(shared), job, rival, taken)
        freezes, thaws = _laps(place, "freeze"), _laps(place, "thaw")
    return _rows(f"{size_gb:g}GB", taken, freezes, thaws)


def _round(place: Fleet, shared: Path, job: str, rival: Bare, taken: _Taken) -> None:
    dump_s, step_s = rival.dump_s()
    taken.step_s.append(step_s)
    with _watched(place) as peak:
        taken.stopped.append((_stopped_s(place, job), dump_s))
        wait_until(lambda: _is_remote(place, job), 300)
        taken.from_memory.append((_thawed_s(place, job), rival.restore_s()))
        taken.from_cache.append((_thawed_s(place, job, drop=shared), rival.restore_s()))
        taken.memory_mb.append(peak())


def _rows(name: str, taken: _Taken, freezes: Sequence[_Lap], thaws: Sequence[_Lap]) -> list[Row]:
    """A round freezes three times, the first time to go on, and thaws once from each place."""
    fetches, restores = [lap["fetch"] for lap in thaws], [lap["restore"] for lap in thaws]
    from_memory, from_cache = fetches[0::2], fetches[1::2]
    step_s, dump_s = median(taken.step_s), median(lap["dump"] for lap in freezes[0::3])
    return [
        _beside(
            f"store/stopped/{name}",
            taken.stopped,
            1.1,
            f"bare criu dump to memory; CRIU and copies took {dump_s:.3g} s of ours; bare stops it for {step_s:.3g} s",
        ),
        _beside(
            f"store/thaw/memory/{name}",
            taken.from_memory,
            1.3,
            f"bare criu restore; the images lie in the node's memory: fetch {median(from_memory):.3g} s",
        ),
        _beside(
            f"store/thaw/cache/{name}",
            taken.from_cache,
            1.3,
            f"bare criu restore; only the cache of packs: fetch {median(from_cache):.3g} s, "
            f"restore {median(restores):.3g} s",
        ),
        row(
            f"store/memory/{name}",
            taken.memory_mb,
            "MB",
            goal=256,
            bar=256,
            against="the agent's own memory at its peak, upload and thaws included, beyond what it had",
        ),
    ]


def _beside(name: str, pairs: Sequence[tuple[float, float]], bar: float, against: str) -> Row:
    ours, rivals = (median(pair[at] for pair in pairs) for at in (0, 1))
    said = f"{against}; ours {ours:.3g} s, bare {rivals:.3g} s"
    return row(name, [one / other for one, other in pairs], "×", goal=bar, bar=bar, against=said)


@contextmanager
def _job(place: Fleet, size_gb: float) -> Iterator[str]:
    with TemporaryDirectory() as folder:
        program = [sys.executable, str(PROGRAMS / "hold.py"), str(size_gb)]
        place.ergo("submit", "--name", "hold", "--", *program, cwd=Path(folder))
    job = str(place.job("hold")["id"])
    wait_until(lambda: (log := place.log_file(job)) and last_line(log))
    try:
        yield job
    finally:
        place.verb(job, "cancel", grace_s=0)


def _stopped_s(place: Fleet, job: str) -> float:
    """The longest time without a step around a snapshot."""
    time.sleep(STEPS_S)
    began = time.time()
    place.verb(job, "snapshot")
    time.sleep(STEPS_S)
    times = [at for at in _times(place, job) if at > began - STEPS_S]
    return max(after - before for before, after in itertools.pairwise(times))


def _times(place: Fleet, job: str) -> list[float]:
    log = place.log_file(job)
    return [float(line.split()[1]) for line in log.read_text().split("\n")[:-1]] if log is not None else []


def _thawed_s(place: Fleet, job: str, *, drop: Path | None = None) -> float:
    """From the order to resume until the first step. With `drop`, the store's folder, the node has no images any more,
    as after it needed their memory; what it wrote to the store it has in its cache.
    """
    place.verb(job, "pause")
    wait_until(lambda: _is_remote(place, job), 300)  # what goes on behind a freeze is no part of a thaw
    if drop is not None:
        for images in system.memory_folder(place.home).glob("*/images/*"):
            shutil.rmtree(images)
        assert _is_warm(place, drop), "every pack of the store is in the node's cache"
    began = time.time()
    place.verb(job, "resume", wait_s=0)
    first = wait_until(lambda: next((at for at in _times_or_none(place, job) if at > began), None))
    return float(first) - began


def _is_warm(place: Fleet, shared: Path) -> bool:
    cache = place.home / "nodes" / NODE / "cache"
    near, far = ({pack.name for pack in folder.glob("vaults/*/packs/*/*")} for folder in (cache, shared))
    return near >= far


def _times_or_none(place: Fleet, job: str) -> list[float]:
    log = place.log_file(job)
    return _times(place, job) if log is not None and log.exists() else []


def _is_remote(place: Fleet, job: str) -> bool:
    return bool(place.job(job)["snapshots"][-1]["durability"] == "remote")


def _laps(place: Fleet, what: str) -> list[_Lap]:
    """Where the agent's time went, as its log says: a freeze or thaw a line."""
    lines = (place.home / "nodes" / NODE / "agent.log").read_text().splitlines()
    told = [line.partition(f" INFO {what} ")[2] for line in lines if " s, " in line and f" INFO {what} " in line]
    return [{name: float(took) for name, took in LAP.findall(line)} for line in told]


@contextmanager
def _watched(place: Fleet) -> Iterator[Callable[[], float]]:
    """A call that says by how many MB the agent's anonymous memory has grown at most since this began."""
    pid = int((place.home / "nodes" / NODE / "agent.lock").read_text())
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
