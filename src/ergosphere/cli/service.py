"""Starting and stopping the service on this machine. The one place of the command line that starts a process."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ergosphere.cli import asking, screen
from ergosphere.cli.api import Client, Unreachable, find_door
from ergosphere.cli.desk import Desk
from ergosphere.cli.errors import CliError, ExitCode
from ergosphere.system import STORE_VARIABLES

if TYPE_CHECKING:
    from ergosphere.wire.api import StatusInfo

START_S_MAX: Final = 60.0  # until the server answers, on a slow machine
NODES_S_MAX: Final = 60.0  # until every node is ready
STOP_S_MAX: Final = 30.0  # until a server that said yes is gone
STEP_S: Final = 0.1
LOG_LINES_SHOWN: Final = 12
HELD_STATUS: Final = 3  # the server's exit status when another one holds the home
_FLEET: Final = "server/fleet.json"  # in the home: how many nodes and devices it was brought up with
_LOGIN: Final = ("PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "TMPDIR")
_PASSED_ON: Final = (*_LOGIN, "PYTHONPATH", "VIRTUAL_ENV", "ERGO_CGROUP")


@dataclass(frozen=True, slots=True)
class Wanted:
    """The service as asked for. `port` 0: the one it had, else any."""

    nodes: int
    devices: int
    port: int


@dataclass(frozen=True, slots=True)
class Up:
    """A service that answers. `started` False: it was up already."""

    url: str
    token: str
    status: StatusInfo
    started: bool


def bring_up(here: Desk, wanted: Wanted) -> Up:
    """The running service of this home, started when there is none; returns when its nodes are ready."""
    found = _answering(here)
    if found is not None:
        return Up(*found, started=False)
    url, token, status = _await_server(here, wanted)
    (here.home / _FLEET).write_text(json.dumps({"nodes": wanted.nodes, "devices": wanted.devices}))
    return Up(url, token, _await_nodes(here, status, wanted.nodes), started=True)


def wanted_before(home: Path) -> Wanted | None:
    """What the last `ergo up` of this home asked for: jobs that `ergo down` froze need the same room again."""
    try:
        numbers = json.loads((home / _FLEET).read_text())
        return Wanted(int(numbers["nodes"]), int(numbers["devices"]), 0)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _answering(here: Desk) -> tuple[str, str, StatusInfo] | None:
    """(url, token, status) of a server that answers here; only what this home's server wrote counts."""
    try:
        door = find_door(here.home, {})
        with Client(door) as client:
            return door.url, door.token, asking.status(client)
    except CliError:
        return None


def is_answering(here: Desk) -> bool:
    """Whether a server of this home is up."""
    return _answering(here) is not None


def _spawn(here: Desk, wanted: Wanted) -> subprocess.Popen[bytes]:
    """The server in a session of its own, with an environment of its own, without our terminal."""
    folder = here.home / "server"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    flags = ["--nodes", str(wanted.nodes), "--devices", str(wanted.devices), "--port", str(wanted.port)]
    command = [sys.executable, "-P", "-m", "ergosphere.control.server", "--home", str(here.home), *flags]
    environment = {name: here.environment[name] for name in _PASSED_ON if name in here.environment}
    environment |= {n: v for n, v in here.environment.items() if n.startswith(STORE_VARIABLES)}
    with _log(here).open("ab") as log:
        return subprocess.Popen(
            command,
            cwd="/",
            env={**environment, "ERGO_HOME": str(here.home)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _await_server(here: Desk, wanted: Wanted) -> tuple[str, str, StatusInfo]:
    """Start a server and wait until one answers: ours, or another that was quicker (two `ergo up` at once).

    While an old one still holds the home (on its way down), ours is started again and again.
    """
    deadline_s = here.clock.monotonic() + START_S_MAX
    log_size = _log_size(here)
    server = _spawn(here, wanted)
    while here.clock.monotonic() < deadline_s:
        found = _answering(here)
        if found is not None:
            _give_way(server, found[2].pid)
            return found
        status = server.poll()
        if status not in (None, HELD_STATUS):
            raise _failed(here, f"the server stopped at once (exit status {status})", log_size)
        if status == HELD_STATUS and _lock_is_free(here.home):
            server = _spawn(here, wanted)
        here.clock.sleep(STEP_S)
    if server.poll() == HELD_STATUS:
        remedy = f"end that server, then `ergo up` again; {_log(here)} is its log"
        raise CliError(f"another server holds {here.home} and does not answer", remedy, ExitCode.REFUSED)
    raise _failed(here, f"the server did not answer within {START_S_MAX:.0f} s", log_size)


def _give_way(server: subprocess.Popen[bytes], answering: int) -> None:
    """Another one was quicker than ours, which must not wait to take its place when that one is brought down."""
    if server.pid != answering:
        server.kill()
        server.wait()


def _lock_is_free(home: Path) -> bool:
    """No server holds this home."""
    try:
        with (home / "server" / "server.lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _await_nodes(here: Desk, status: StatusInfo, nodes: int) -> StatusInfo:
    deadline_s = here.clock.monotonic() + NODES_S_MAX
    with screen.progress("nodes", here.clock) as advance:
        while status.nodes_ready < nodes:
            if here.clock.monotonic() > deadline_s:
                ready = f"{status.nodes_ready} of {nodes} nodes are ready"
                raise CliError(
                    f"{ready} after {NODES_S_MAX:.0f} s", f"{here.home}/nodes/*/agent.log says why; `ergo check`"
                )
            here.clock.sleep(STEP_S)
            with here.client() as client:
                status = asking.status(client)
            advance(status.nodes_ready, nodes, f"{status.nodes_ready} of {nodes} ready")
    return status


def _log(here: Desk) -> Path:
    """What the server writes beside its answers, of all its starts."""
    return here.home / "server" / "server.log"


def _log_size(here: Desk) -> int:
    path = _log(here)
    return path.stat().st_size if path.exists() else 0


def _failed(here: Desk, cause: str, log_size: int) -> CliError:
    """What happened, with the end of what the server has said since its log had `log_size` bytes."""
    path = _log(here)
    said_now = path.read_bytes()[log_size:].decode(errors="replace") if path.exists() else ""
    lines = said_now.splitlines()[-LOG_LINES_SHOWN:]
    said = "".join(f"\n    {line}" for line in lines)
    return CliError(f"{cause}{':' if said else ''}{said}", f"the whole log is {path}; `ergo check` tests this machine")


def await_gone(here: Desk) -> bool:
    """The server has ended; False when it still answers or holds its home after STOP_S_MAX."""
    deadline_s = here.clock.monotonic() + STOP_S_MAX
    while here.clock.monotonic() < deadline_s:
        if not _answers(here) and _lock_is_free(here.home):
            return True
        here.clock.sleep(STEP_S)
    return False


def _answers(here: Desk) -> bool:
    try:
        with here.client() as client:
            asking.status(client)
    except Unreachable:
        return False
    return True


def is_root() -> bool:
    """The service needs root: namespaces, the freezer, CRIU."""
    return os.geteuid() == 0


def home_is_usable(home: Path) -> None:
    """Raises CliError when the service could not keep its files there."""
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as fault:
        raise CliError(f"{home} cannot be made: {fault.strerror}", "name another folder with ERGO_HOME") from None
    if not os.access(home, os.W_OK | os.X_OK):
        raise CliError(f"{home} is not ours to write to", "name another folder with ERGO_HOME")
