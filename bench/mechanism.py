"""Group `mechanism`: what running under ergo costs, and how fast jobs freeze, thaw and move. Issue 2's promises."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from bench.bare import PROGRAMS, bare
from bench.duel import Load, overhead_percents
from bench.fleet import Fleet, fleet, last_line, wait_until
from bench.report import Row, row
from ergosphere.agent import shim_copy

EXAMPLES = Path(__file__).parent.parent / "examples"


def measure(quick: bool) -> list[Row]:
    rows: list[Row] = []
    for part in (shim_rows, freeze_rows, move_rows, overhead_rows):
        for each in part(quick):
            print(f"  {each.name}: {each.value:.3g} {each.unit} (goal {each.goal:.3g}, bar {each.bar:.3g})", flush=True)
            rows.append(each)
    return rows


# ── the shim ─────────────────────────────────────────────────────────────────────────────────────────────────────


def shim_rows(quick: bool) -> list[Row]:
    pairs = 3 if quick else 12
    with TemporaryDirectory() as folder:
        shim_copy.compile_for(Path(folder))
        shim_copy.give(Path(folder), at := Path(folder, "rank"))  # as an agent gives it to a rank
        millis = [1000 * _import_cpu_s(at) for _ in range(pairs)]
        calls = [_collective_us(at) - _collective_us(None) for _ in range(pairs)]
    return [
        row("mechanism/shim_import/torch", millis, "ms", goal=5, bar=5, against="CPU time of its own, beyond torch's"),
        row("mechanism/shim_collective/all_reduce", calls, "µs", goal=20, bar=20, against="plain Gloo, one rank"),
    ]


def _with_shim(shim: Path | None, control: Path) -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if shim is None:
        return environment
    return {**environment, "PYTHONPATH": str(shim), "ERGO_CONTROL": str(control)}


def _fresh_control(folder: str) -> Path:
    from ergosphere.agent.cut_port import LocalRank

    path = Path(folder) / "control"
    LocalRank.create(path)
    return path


def _import_cpu_s(shim: Path) -> float:
    """All that the shim does while a program imports torch, in a fresh process. Taken by itself: the difference of two
    imports of torch, of seconds each, says nothing about milliseconds."""
    with TemporaryDirectory() as folder:
        program, control = PROGRAMS / "shim_import.py", _fresh_control(folder)
        environment = {**_with_shim(None, control), "ERGO_CONTROL": str(control)}
        done = subprocess.run(
            [sys.executable, str(program), str(shim)], env=environment, capture_output=True, check=True
        )
        return float(done.stdout)


def _collective_us(shim: Path | None) -> float:
    with TemporaryDirectory() as folder:
        program = [sys.executable, str(PROGRAMS / "collectives.py")]
        environment = {**_with_shim(shim, _fresh_control(folder)), "OMP_NUM_THREADS": "1"}
        return float(subprocess.run(program, env=environment, capture_output=True, check=True).stdout)


# ── freeze and thaw ──────────────────────────────────────────────────────────────────────────────────────────────


def freeze_rows(quick: bool) -> list[Row]:
    rows: list[Row] = []
    with fleet(1, 1) as place:
        for size_gb in (0.25,) if quick else (0.25, 1.0, 4.0):
            rounds = 1 if quick else 3 if size_gb > 1 else 5
            pairs = [(_bare(size_gb), _ours(place, size_gb)) for _ in range(rounds)]
            for at, metric in enumerate(("freeze", "thaw")):
                rival = median(bare[at] for bare, _ in pairs)
                rows.append(
                    row(
                        f"mechanism/{metric}/{size_gb:g}GB",
                        [ours[at] for _, ours in pairs],
                        "s",
                        goal=1.1 * rival,
                        bar=1.5 * rival + 0.3,
                        against=f"bare criu {('dump', 'restore')[at]}, memory: {rival:.3g} s",
                    )
                )
    return rows


def _said_at(line: str) -> float:
    return float(line.split()[1])


def _ours(place: Fleet, size_gb: float) -> tuple[float, float]:
    """Seconds from the order to pause until the device is free, and from the order to resume until the next step."""
    with TemporaryDirectory() as folder:
        place.ergo(
            "submit", "--name", "hold", "--", sys.executable, str(PROGRAMS / "hold.py"), str(size_gb), cwd=Path(folder)
        )
    job = str(place.job("hold")["id"])
    wait_until(lambda: (log := place.log_file(job)) and last_line(log))
    time.sleep(1.0)
    began = time.time()
    place.verb(job, "pause")
    freeze_s = time.time() - began
    time.sleep(2.0)  # the upload behind the freeze is not part of the thaw
    began = time.time()
    place.verb(job, "resume", wait_s=0)
    first = wait_until(lambda: _step_after(place, job, began))
    place.verb(job, "cancel", grace_s=0)
    return freeze_s, first - began


def _step_after(place: Fleet, job: str, began: float) -> float | None:
    log = place.log_file(job)
    if log is None or not log.exists():
        return None
    lines = log.read_text().split("\n")[:-1]
    return next((_said_at(line) for line in lines if _said_at(line) > began), None)


def _bare(size_gb: float) -> tuple[float, float]:
    """Seconds of a bare dump to memory and of a bare restore of the same kind of process."""
    with bare(size_gb) as rival:
        return rival.dump_s()[0], rival.restore_s()


# ── moves ────────────────────────────────────────────────────────────────────────────────────────────────────────


def move_rows(quick: bool) -> list[Row]:
    """The four-rank digits job between two nodes, from the order to its first step elsewhere."""
    with fleet(2, 4) as place, TemporaryDirectory() as folder:
        script = str(EXAMPLES / "digits_ddp.py")
        command = ["torchrun", "--nproc-per-node", "4", script, "--steps", "100000"]
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        place.ergo("submit", "--name", "digits", "--", *command, cwd=Path(folder), env={"PATH": path})
        job = str(place.job("digits")["id"])
        wait_until(lambda: (log := place.log_file(job)) and log.stat().st_size > 500)
        moves = [_move(place, job) for _ in range(1 if quick else 5)]
        place.verb(job, "cancel", grace_s=0)
    return [
        row("mechanism/move/digits4", moves, "s", goal=2, bar=5, against="Singularity: 19 to 25 s without transfer")
    ]


def _move(place: Fleet, job: str) -> float:
    before = place.log_file(job)
    assert before is not None
    time.sleep(1.0)
    began = time.perf_counter()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(place.verb, job, "migrate")
        fresh = wait_until(lambda: (log := place.log_file(job)) != before and log)
        length = wait_until(lambda: _length(fresh))
        wait_until(lambda: _length(fresh) > length)
        took_s = time.perf_counter() - began
        asked.result()
    return took_s


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


# ── steady state ─────────────────────────────────────────────────────────────────────────────────────────────────


LOADS = (
    Load("one-process-20ms", 1, 20, 2.0),
    Load("one-process-200ms", 1, 200, 4.0),
    Load("ddp2-20ms", 2, 20, 2.0),
    Load("ddp2-200ms", 2, 200, 4.0),
    Load("ddp4-20ms", 4, 20, 3.0),
    Load("ddp4-200ms", 4, 200, 6.0),
)


def overhead_rows(quick: bool) -> list[Row]:
    """Step time under ergo over step time without, in turns; four ranks on two cores by CPU time."""
    rows = []
    with fleet(1, 4) as place:
        for load in LOADS[:1] if quick else LOADS:
            percents = overhead_percents(place, load, 3 if quick else 12)
            by = "CPU time of a step" if load.ranks > 2 else "median step"
            against = f"the same command without ergo, in turns, {by}"
            rows.append(row(f"mechanism/overhead/{load.name}", percents, "%", goal=0.5, bar=2, against=against))
    return rows
