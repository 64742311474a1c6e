"""A process that CRIU dumps to memory and restores from there with nothing around it: what ours stands beside."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.fleet import TOOLS, wait_until
from ergosphere.agent import provision

PROGRAMS = Path(__file__).parent / "programs"
STEPS_S = 0.1  # for the log's steps before and after a dump


@dataclass(slots=True)
class Bare:
    """A process in a PID namespace of its own, and the CRIU that dumps and restores it to memory."""

    criu: tuple[str, ...]
    folder: Path
    pid: int = 0

    def dump_s(self) -> tuple[float, float]:
        """Seconds that a dump takes after which the process goes on, and the longest time in it without a step."""
        time.sleep(STEPS_S)
        began = time.time()
        took_s = self._run("dump", "-t", str(self.pid), "--leave-running")
        time.sleep(STEPS_S)
        times = [at for at in self._times() if at > began - STEPS_S]
        return took_s, max(after - before for before, after in itertools.pairwise(times))

    def restore_s(self) -> float:
        """Seconds of a restore of the process as it is now."""
        self._run("dump", "-t", str(self.pid), "--leave-stopped")
        os.kill(self.pid, signal.SIGKILL)
        wait_until(lambda: not _is_alive(self.pid))
        pidfile = self.folder / "pid"
        pidfile.unlink(missing_ok=True)
        took_s = self._run("restore", "-d", "--pidfile", str(pidfile))
        self.pid = int(pidfile.read_text())
        return took_s

    def _times(self) -> list[float]:
        return [float(line.split()[1]) for line in (self.folder / "out").read_text().split("\n")[:-1]]

    def _run(self, *words: str) -> float:
        images = self.folder / "images"
        if words[0] == "dump":
            shutil.rmtree(images, ignore_errors=True)
            images.mkdir()
        log = self.folder / f"{words[0]}.log"
        command = [*self.criu, *words, "-D", str(images), "--manage-cgroups=ignore", "-o", str(log)]
        began = time.perf_counter()
        done = subprocess.run(command, capture_output=True, timeout=300)
        took_s = time.perf_counter() - began
        if done.returncode != 0:
            said = log.read_text(errors="replace").splitlines()
            raise RuntimeError("\n".join(line for line in said if "Error" in line))
        return took_s


@contextmanager
def bare(size_gb: float) -> Iterator[Bare]:
    """One that holds so much memory, until the block ends."""
    tool = provision.find(TOOLS)
    assert tool is not None, "make setup provisions CRIU"
    with TemporaryDirectory(dir="/dev/shm") as name:
        folder = Path(name)
        out, err = (folder / "out").open("ab"), (folder / "err").open("ab")  # appended files may grow after a dump
        program = ["unshare", "--pid", "--fork", "setsid", sys.executable, str(PROGRAMS / "hold.py"), str(size_gb)]
        starter = subprocess.Popen(program, stdin=subprocess.DEVNULL, stdout=out, stderr=err, cwd="/")
        made = Bare(tool.argv_prefix, folder)
        try:
            wait_until(lambda: (folder / "out").stat().st_size)
            made.pid = int(Path(f"/proc/{starter.pid}/task/{starter.pid}/children").read_text().split()[0])
            yield made
        finally:
            if made.pid:
                os.kill(made.pid, signal.SIGKILL)
            starter.wait()
            out.close()
            err.close()


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except FileNotFoundError:
        return False
