"""The agent's side of a keeper: starting one, finding one again, and what may be asked of it.

Each request is a connection of its own: a dump that takes seconds delays no other word, and threads need no lock.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

FOLDER: Final = Path(__file__).resolve().parent  # holds the folder `keeper`
START_S_MAX: Final = 20.0  # an interpreter on a busy machine; 0.1 s usually
ANSWER_S_MAX: Final = 60.0  # suspending and killing wait for the slowest task
BUILD_S_MAX: Final = 90.0
SLACK_S: Final = 20.0  # beyond the limit the keeper itself keeps
SOCKET_PATH_MAX: Final = 100  # sun_path has 108 bytes
CLEAN: Final = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}


class KeeperError(Exception):
    """A keeper did not do what was asked."""


class KeeperGone(KeeperError):
    """No keeper answers: it was killed, or its machine restarted. Its ranks are lost."""


class KeeperRefused(KeeperError):
    """The keeper says no, and why; nothing was changed."""


@dataclass(frozen=True, slots=True)
class KeeperSpec:
    """What a keeper has to know for life. `lease_s`: how long it goes on before the agent has said a first word."""

    job: str
    incarnation: int
    cell: int
    socket: Path
    state: Path
    log: Path
    keepers_group: str | None
    lease_s: float
    netns: str | None = None
    link: str | None = None


@dataclass(frozen=True, slots=True)
class LaunchRank:
    """One rank to start. `cgroup` is its own freezer group's folder, `status` the host path of its status file.

    `env` is the whole environment; `cwd` and what `argv` names are paths in its root. `cpus` empty: any core.
    """

    rank: int
    argv: Sequence[str]
    env: dict[str, str]
    cwd: str
    root_plan: dict[str, Any]
    cgroup: str
    status: str
    hostname: str
    netns: str | None = None
    cpus: tuple[int, ...] = ()
    uid: int | None = None
    gid: int | None = None


@dataclass(frozen=True, slots=True)
class RestoreRank:
    """One rank to bring back by `argv` (criu restore -d, naming `pidfile`). `fds`: number → path to open there.

    `used`: numbers that none of its file systems in memory may get again.
    """

    rank: int
    argv: Sequence[str]
    pidfile: str
    root_plan: dict[str, Any]
    cgroup: str
    status: str
    log: str
    cwd: str = "/"
    fds: dict[int, str] = field(default_factory=dict)
    used: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Ran:
    """How a CRIU run ended. `told`: a sentence if it could not even be started."""

    rc: int
    timed_out: bool
    took_s: float
    told: str


@dataclass(frozen=True, slots=True)
class KeptRank:
    """One rank as its keeper sees it. `wait_status` is raw, the main child's; `exec_errno` if it could not be run."""

    rank: int
    pid: int
    state: Literal["running", "suspended", "exited"]
    wait_status: int | None
    exec_errno: int
    exited_at_s: float | None
    asked: bool


@dataclass(frozen=True, slots=True)
class KeeperState:
    """All a keeper knows. `holds`: ids of freezes and thaws under way, and "lease" while the agent's lease is out."""

    pid: int
    job: str
    incarnation: int
    cell: int
    ranks: tuple[KeptRank, ...]
    holds: tuple[str, ...]
    resolved: dict[str, str]
    version: int


@dataclass(frozen=True, slots=True)
class Keeper:
    """A keeper that answered. Every method raises KeeperGone or KeeperRefused."""

    path: Path

    @staticmethod
    def connect(path: Path) -> Keeper:
        """The keeper that listens at `path`."""
        keeper = Keeper(path)
        keeper.state()
        return keeper

    def launch(self, ranks: Sequence[LaunchRank]) -> dict[int, int]:
        """Starts all ranks or none. PID 1 of each, as the host numbers it."""
        return _pids(self._ask(BUILD_S_MAX, "launch", ranks=[asdict(rank) for rank in ranks]))

    def restore(self, freeze_id: str, ranks: Sequence[RestoreRank], timeout_s: float) -> dict[int, int]:
        """Brings all ranks back or none. They stay suspended until `release(freeze_id)`."""
        orders = [asdict(rank) for rank in ranks]
        reply = self._ask(timeout_s + SLACK_S, "restore", freeze_id=freeze_id, ranks=orders, timeout_s=timeout_s)
        return _pids(reply)

    def dump(self, rank: int, argv: Sequence[str], cwd: str, timeout_s: float, log: str | None = None) -> Ran:
        """Runs `criu dump` on a suspended rank; `log` takes what it prints. Several threads may call at once."""
        reply = self._ask(
            timeout_s + SLACK_S, "dump", rank=rank, argv=list(argv), cwd=cwd, timeout_s=timeout_s, log=log
        )
        return Ran(reply["rc"], reply["timed_out"], reply["took_s"], reply["told"])

    def suspend(
        self, freeze_id: str, deadline_s: float, resolve: Sequence[str], on_commit: Literal["kill", "release"]
    ) -> None:
        """Suspends all ranks or none, and holds their network still.

        After `deadline_s` the keeper runs `resolve`, which prints `commit` or `abort`, and does as it says.
        """
        self._ask(
            ANSWER_S_MAX,
            "suspend",
            freeze_id=freeze_id,
            deadline_s=deadline_s,
            resolve=list(resolve),
            on_commit=on_commit,
        )

    def release(self, freeze_id: str) -> None:
        """Ends this hold; the ranks run on once there is no other. Refused when the freeze was committed meanwhile."""
        self._ask(ANSWER_S_MAX, "release", freeze_id=freeze_id)

    def kill(self, freeze_id: str | None = None) -> None:
        """Kills every rank without one more instruction; with `freeze_id` only while that freeze holds them."""
        self._ask(ANSWER_S_MAX, "kill", freeze_id=freeze_id)

    def signal(self, signum: int) -> None:
        """Sends every rank's main child a signal, through its init; ends that follow count as asked for."""
        self._ask(ANSWER_S_MAX, "signal", signum=signum)

    def lease(self, left_s: float, limit_s: float = ANSWER_S_MAX) -> None:
        """The agent may go on for so long; without another word the ranks are suspended then."""
        self._ask(limit_s, "lease", left_s=left_s)

    def end(self, incarnation: int) -> None:
        """A higher incarnation exists: whatever is left here is killed."""
        self._ask(ANSWER_S_MAX, "end", incarnation=incarnation)

    def leave(self) -> None:
        """The keeper removes its ranks' groups and ends. Refused while a rank is alive."""
        self._ask(ANSWER_S_MAX, "leave")

    def state(self, after: int | None = None, wait_s: float = 0.0, limit_s: float = ANSWER_S_MAX) -> KeeperState:
        """Everything it knows; with `after`, a version seen before, when there is a newer one or `wait_s` is over."""
        reply = self._ask(limit_s + wait_s, "state", after=after, wait_s=wait_s)
        return KeeperState(
            pid=reply["pid"],
            job=reply["job"],
            incarnation=reply["incarnation"],
            cell=reply["cell"],
            ranks=tuple(KeptRank(**rank) for rank in reply["ranks"]),
            holds=tuple(reply["holds"]),
            resolved=reply["resolved"],
            version=reply["version"],
        )

    def _ask(self, limit_s: float, op: str, /, **request: Any) -> dict[str, Any]:
        line = json.dumps({"op": op, **request}).encode() + b"\n"
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
                client.settimeout(limit_s)
                client.connect(str(self.path))
                client.sendall(line)
                answer = client.makefile("rb").readline()
        except TimeoutError as error:
            raise KeeperError(f"the keeper at {self.path} did not answer {op} within {limit_s:g} s") from error
        except (FileNotFoundError, ConnectionError) as error:
            raise KeeperGone(f"no keeper answers at {self.path}: {error.strerror}") from error
        except OSError as error:  # our own trouble (no descriptor, a full backlog) says nothing about the keeper
            raise KeeperError(f"the keeper at {self.path} could not be asked: {error.strerror}") from error
        if not answer:
            raise KeeperGone(f"the keeper at {self.path} went away during {op}")
        reply: dict[str, Any] = json.loads(answer)
        if not reply.pop("ok"):
            raise KeeperRefused(reply["error"])
        return reply


def start_keeper(spec: KeeperSpec, meanwhile: Callable[[], object] = lambda: None) -> Keeper:
    """Starts a keeper, or finds the one that already listens at `spec.socket`. It outlives the caller.

    What it needs is made `meanwhile`: while its interpreter starts, which takes as long as all the rest.
    """
    assert len(os.fsencode(spec.socket)) <= SOCKET_PATH_MAX, spec.socket
    try:
        keeper = Keeper.connect(spec.socket)
    except KeeperGone:
        pass
    else:
        meanwhile()
        return keeper
    config = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(spec).items()}
    python = _base_interpreter(spec.socket.parent)
    argv = [python, "-E", "-s", "-S", "-m", "keeper", f"{spec.job}.{spec.incarnation}.{spec.cell}"]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        argv, stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd=FOLDER, env=CLEAN, start_new_session=True
    ) as starting:
        try:
            meanwhile()
            said, complaint = starting.communicate(json.dumps(config), START_S_MAX)
        except subprocess.TimeoutExpired as error:
            starting.kill()
            raise KeeperError(f"a keeper for {argv[-1]} did not start within {START_S_MAX:g} s") from error
        except BaseException:
            starting.kill()  # it knows nothing yet, and has begun nothing
            raise
    if starting.returncode != 0:
        raise KeeperError(said or f"a keeper for {argv[-1]} did not start: {complaint[-500:]}")
    return Keeper.connect(spec.socket)


def _base_interpreter(folder: Path) -> str:
    """The interpreter behind a virtual environment: the keeper needs nothing of ours, and must not die with it.

    People end us by name: where the path says `ergosphere` the keeper is started through a link in `folder`.
    """
    python: str = getattr(sys, "_base_executable", None) or sys.executable
    if "ergosphere" not in python:
        return python
    folder.mkdir(parents=True, exist_ok=True)
    link = folder / "python3"
    link.unlink(missing_ok=True)
    link.symlink_to(python)
    return str(link)


def _pids(reply: dict[str, Any]) -> dict[int, int]:
    return {int(rank): pid for rank, pid in reply["pids"].items()}
