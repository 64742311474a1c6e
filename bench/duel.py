"""Two runs of one program, one under ergo and one without, that take turns of a few seconds on the same machine.

Whoever's turn it is not stands still (SIGSTOP), ergo's own processes with its job: so both see the same machine, second
by second, and what ergo does in the background counts against it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from bench.fleet import Fleet, wait_until

PROGRAM = Path(__file__).parent / "programs" / "steps.py"
WARM_S = 3.0
SETTLE_SHARE = 0.15  # of a turn: caches fill again, and a step that was cut in two is not counted


@dataclass(frozen=True, slots=True)
class Load:
    """A training program of `ranks` ranks whose step takes about `step_ms` on a core of its own."""

    name: str
    ranks: int
    step_ms: int
    turn_s: float

    @property
    def threads(self) -> str:
        return "1"

    def command(self, out: str) -> list[str]:
        width, repeat = (512, 1) if self.step_ms < 100 else (1024, 4)
        program = [str(PROGRAM), "--width", str(width), "--repeat", str(repeat), "--out", out]
        if self.ranks == 1:
            return [sys.executable, *program]
        return ["torchrun", "--nproc-per-node", str(self.ranks), *program]


@dataclass(frozen=True, slots=True)
class Step:
    began_s: float
    wall_s: float
    cpu_s: float


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two: the processes that stand still when it is not its turn, and what its ranks note."""

    pids: tuple[int, ...]
    notes: tuple[Path, ...]

    def go(self, on: bool) -> None:
        for pid in self.pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT if on else signal.SIGSTOP)

    def steps(self) -> list[Step]:
        lines = (line for note in self.notes for line in note.read_text().split("\n")[:-1])
        return [Step(*map(float, line.split())) for line in lines]


def overhead_percents(place: Fleet, load: Load, pairs: int) -> list[float]:
    """By how many percent a step is dearer under ergo, pair of turns by pair of turns."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {"OMP_NUM_THREADS": load.threads, "PATH": path}
    with TemporaryDirectory() as plain_folder, TemporaryDirectory() as folder:
        place.ergo("submit", "--name", "load", "--", *load.command("took"), cwd=Path(folder), env=environment)
        job = str(place.job("load")["id"])
        plain = subprocess.Popen(
            load.command("took"),
            cwd=plain_folder,
            env={**os.environ, **environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            ours, theirs = _our_side(place, job, load), _plain_side(plain, Path(plain_folder), load)
            time.sleep(WARM_S)
            return _turns(ours, theirs, load, pairs)
        finally:
            _resume(place)
            for pid in reversed(_tree(plain.pid)):
                os.kill(pid, signal.SIGKILL)
            plain.wait()
            place.verb(job, "cancel", grace_s=0)


def _turns(ours: Side, theirs: Side, load: Load, pairs: int) -> list[float]:
    turns: list[dict[str, tuple[float, float]]] = []
    for number in range(pairs):
        order = [("ours", ours, theirs), ("theirs", theirs, ours)]
        turn: dict[str, tuple[float, float]] = {}
        for name, playing, waiting in order if number % 2 else reversed(order):
            waiting.go(False)
            playing.go(True)
            began = time.time()
            time.sleep(load.turn_s)
            turn[name] = (began + SETTLE_SHARE * load.turn_s, time.time())
        turns.append(turn)
    theirs.go(True)
    ours.go(True)
    figures = {"ours": ours.steps(), "theirs": theirs.steps()}
    return [
        100 * (_figure(figures["ours"], turn["ours"], load) / _figure(figures["theirs"], turn["theirs"], load) - 1)
        for turn in turns
    ]


def _figure(steps: Sequence[Step], turn: tuple[float, float], load: Load) -> float:
    """The median step that lies wholly inside a turn; with more ranks than cores, its CPU time."""
    inside = [step for step in steps if turn[0] <= step.began_s and step.began_s + step.wall_s <= turn[1]]
    return median(step.cpu_s if load.ranks > 2 else step.wall_s for step in inside)


def _our_side(place: Fleet, job: str, load: Load) -> Side:
    log = wait_until(lambda: place.log_file(job))
    notes = tuple(log.parents[2] / "work" / f"took.{rank}" for rank in range(load.ranks))
    wait_until(lambda: all(note.exists() and note.stat().st_size for note in notes))
    return Side(tuple(sorted({*_running(str(PROGRAM), inside=True), *_of_the_fleet(place)})), notes)


def _plain_side(plain: subprocess.Popen[bytes], folder: Path, load: Load) -> Side:
    notes = tuple(folder / f"took.{rank}" for rank in range(load.ranks))
    wait_until(lambda: all(note.exists() and note.stat().st_size for note in notes))
    return Side(tuple(_tree(plain.pid)), notes)


def _tree(pid: int) -> list[int]:
    """A process and all its descendants; torchrun gives each of its ranks a session of its own."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(one for child in children for one in _tree(int(child)))]


def _running(word: str, *, inside: bool) -> list[int]:
    """Processes with `word` in their command line, in a PID namespace of their own or in ours."""
    own = os.readlink("/proc/self/ns/pid")
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            command = (entry / "cmdline").read_bytes().decode(errors="replace")
            if word in command and (os.readlink(entry / "ns/pid") != own) == inside:
                found.append(int(entry.name))
    return found


def _of_the_fleet(place: Fleet) -> list[int]:
    """Server, agents and keepers: their command lines name the home."""
    return [pid for pid in _running(str(place.home), inside=False) if pid != os.getpid()]


def _resume(place: Fleet) -> None:
    for pid in (*_of_the_fleet(place), *_running(str(PROGRAM), inside=True)):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
