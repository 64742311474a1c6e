"""A real dump and restore of a tiny process: the only proof that a CRIU works here. Standard library only."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic, sleep
from typing import Final

from ergosphere.agent import criu_log

STEP_S_MAX: Final = 20.0  # a dump or restore of a few pages takes 0.1 s, on an overloaded machine 2 s
POLL_S: Final = 0.01
INIT_FOLDER: Final = Path(__file__).with_name("init")


def init_binary(machine: str | None = None) -> Path:
    """The prebuilt PID 1 for a machine (as `uname -m` names it; None: this one). It may not exist."""
    return INIT_FOLDER / f"init-{machine or platform.machine()}"


def run(prefix: Sequence[str]) -> str | None:
    """None if the CRIU behind `prefix` saved and brought back a process here; else why not, in plain words."""
    with TemporaryDirectory(prefix="criu-test-") as folder:
        test = _Test(tuple(prefix), Path(folder))
        try:
            return test.run()
        except (OSError, subprocess.TimeoutExpired, TimeoutError) as error:
            return f"the test did not finish: {error}"
        finally:
            test.clean()


class _Test:
    """One test: a shell in its own PID namespace waits for a file, is saved, ended, brought back, and sees the file."""

    def __init__(self, prefix: tuple[str, ...], folder: Path) -> None:
        self.prefix = prefix
        self.folder = folder
        self.images = folder / "images"
        self.status = folder / "status"
        self.leader: subprocess.Popen[bytes] | None = None
        self.restorer: subprocess.Popen[bytes] | None = None
        self.pid: int | None = None

    def run(self) -> str | None:
        if not init_binary().exists():
            return f"there is no prebuilt init for {platform.machine()}"
        self.images.mkdir()
        self.start()
        trouble = self.dump()
        if trouble is not None:
            return trouble
        return self.restore()

    def start(self) -> None:
        script = (
            'echo up >up; until [ -e go ]; do read -r line 2>/dev/null </proc/loadavg; done; [ "$KEEP" = 7 ] && exit 5'
        )
        init = f"KEEP=7 exec setsid {init_binary()} 3 /bin/sh -c '{script}' </dev/null >out 2>&1 3>>status"
        argv = ["unshare", "--pid", "--fork", "--kill-child", "sh", "-c", init]
        self.leader = subprocess.Popen(
            argv, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        _wait(lambda: (self.folder / "up").exists() or self.leader_ended(), "the process did not start")
        children = Path(f"/proc/{self.leader.pid}/task/{self.leader.pid}/children").read_text().split()
        self.pid = int(children[0]) if children else None

    def leader_ended(self) -> bool:
        return self.leader is not None and self.leader.poll() is not None

    def dump(self) -> str | None:
        if self.pid is None:
            return "a process in its own PID namespace could not be started (is this root, with unshare?)"
        argv = [*self.prefix, "dump", "-t", str(self.pid), *self._common("dump.log")]
        ended = subprocess.run(argv, capture_output=True, stdin=subprocess.DEVNULL, timeout=STEP_S_MAX)
        if ended.returncode != 0:
            return f"the dump failed: {criu_log.explain_file(self.images / 'dump.log', ended.returncode)}"
        self._stop(self.leader)  # a dump without --leave-running has ended the tree
        return None

    def restore(self) -> str | None:
        """CRIU without -d stays the tree's parent and ends with it: nobody else has to reap."""
        (self.folder / "go").touch()
        argv = [*self.prefix, "restore", "--pidfile", str(self.folder / "pid"), *self._common("restore.log")]
        self.restorer = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        code = self.restorer.wait(STEP_S_MAX)
        said = self.status.read_text() if self.status.exists() else ""
        if said == f"{5 << 8}\n":
            return None
        if code != 0:
            return f"the restore failed: {criu_log.explain_file(self.images / 'restore.log', code)}"
        return f"the process came back but did not go on (status {said.strip() or 'missing'})"

    def _common(self, log: str) -> list[str]:
        return ["-D", str(self.images), "-o", log, "-v2", "--manage-cgroups=ignore", "--timeout", "10"]

    def clean(self) -> None:
        for process in (self.restorer, self.leader):
            self._stop(process)
        with suppress(OSError, ValueError):
            _kill_ours(int((self.folder / "pid").read_text()))

    def _stop(self, process: subprocess.Popen[bytes] | None) -> None:
        if process is not None and process.poll() is None:
            process.kill()  # unshare --kill-child takes PID 1 along, and the kernel the rest
            process.wait(STEP_S_MAX)


def _kill_ours(pid: int) -> None:
    """Ends a restored tree that outlived its CRIU, if that PID still runs our init."""
    if os.path.realpath(f"/proc/{pid}/exe") == str(init_binary().resolve()):
        os.kill(pid, signal.SIGKILL)


def _wait(ready: Callable[[], bool], complaint: str) -> None:
    end = monotonic() + STEP_S_MAX
    while not ready():
        if monotonic() > end:
            raise TimeoutError(complaint)
        sleep(POLL_S)
