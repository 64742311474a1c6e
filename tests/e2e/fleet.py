"""A real fleet for process tests: server, agents, keepers, CRIU; and a person who uses it. No test in here."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import httpx

from ergosphere import system
from ergosphere.agent import provision
from ergosphere.cli import asking, workcopy
from ergosphere.cli.api import Client, Door
from ergosphere.cli.draft import Draft
from ergosphere.cli.submission import Submitter, prepare

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src"
START_S = 60.0
PATIENCE_S = 60.0  # what a busy machine may take for anything at all
PYTHON = os.path.realpath(sys.executable)  # the interpreter itself: a checkout may lie where jobs do not see it
SHELL_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

T = TypeVar("T")


def wait_for(look: Callable[[], T], what: str, within_s: float = PATIENCE_S) -> T:
    """What `look` returns once it is true."""
    end_s = time.monotonic() + within_s
    while not (found := look()):
        assert time.monotonic() < end_s, f"never: {what}"
        time.sleep(0.02)
    return found


def is_whole(printed: list[str]) -> bool:
    """Whether this is what an undisturbed counter prints: no gap, no repeated line, and its end."""
    return len(printed) > 1 and printed == [*(f"line {number}" for number in range(len(printed) - 1)), "done"]


def counter(first: str = "", each: str = "", then: str = "") -> tuple[str, ...]:
    """A program that prints numbered lines until it finds a file `stop` (see `Job.finish`).

    `first`, `each` and `then` are Python statements, done before, with every `number`, and at the end.
    """
    code = f"""
import os, sys, time
{first}
number = 0
while not os.path.exists("stop"):
    os.write(1, b"line %d\\n" % number)
    {each}
    number += 1
    time.sleep(0.005)
{then}
os.write(1, b"done\\n")
"""
    return python(code)


def python(code: str) -> tuple[str, ...]:
    """A small Python program as a command; it starts quickly, and without the shim."""
    return (PYTHON, "-I", "-S", "-u", "-c", code)


class Fleet:
    """One home with a server and its agents, which may be killed and started again."""

    def __init__(
        self, home: Path, nodes: int = 2, devices: int = 4, options: tuple[str, ...] = (), cgroup: int | None = None
    ) -> None:
        self.home = home
        self.nodes, self.devices = nodes, devices
        self.options = ["--min-run-s", "0", *options]
        self.environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(SOURCE), "HOME": os.environ["HOME"]}
        if cgroup is not None:
            self.environment["ERGO_CGROUP"] = str(cgroup)
        self.server: subprocess.Popen[bytes] | None = None
        home.mkdir(parents=True, mode=0o700)
        (home / "criu").symlink_to(_tools())

    @property
    def id(self) -> str:
        return system.fleet_id(self.home)

    @property
    def memory(self) -> Path:
        return system.memory_folder(self.home)

    # ── the processes ────────────────────────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        """The server, in a session of its own; back when every node is ready."""
        command = [sys.executable, "-P", "-m", "ergosphere.control.server", "--home", str(self.home)]
        command += ["--nodes", str(self.nodes), "--devices", str(self.devices), *self.options]
        with (self.home / "server.out").open("ab") as out:
            self.server = subprocess.Popen(
                command, env=self.environment, stdout=out, stderr=out, stdin=subprocess.DEVNULL, start_new_session=True
            )
        wait_for(lambda: self._status().get("nodes_ready", 0) >= self.nodes, "every node is ready", START_S)

    def _status(self) -> dict[str, Any]:
        assert self.server is not None and self.server.poll() is None, (self.home / "server.out").read_text()
        try:
            if json.loads((self.home / "server/server.json").read_text())["pid"] != self.server.pid:
                return {}
            return dict(self.api("GET", "/v1/status").json())
        except (OSError, ValueError, httpx.HTTPError):
            return {}

    def kill_server(self) -> None:
        assert self.server is not None
        self.server.kill()
        self.server.wait()

    def agent_pid(self, node: str) -> int | None:
        """The process that holds the node's lock now; None while there is none."""
        try:
            pid = int((self.home / "nodes" / node / "agent.lock").read_text() or 0)
        except (OSError, ValueError):
            return None
        return pid if pid and _is_alive(pid) else None

    def kill_agent(self, node: str) -> int:
        pid = wait_for(lambda: self.agent_pid(node), f"{node} has an agent")
        os.kill(pid, signal.SIGKILL)
        return pid

    def kill_everyone(self) -> None:
        """Server and agents: only keepers and ranks are left."""
        self.kill_server()
        for number in range(self.nodes):
            node = f"node-{number}"
            if (pid := self.agent_pid(node)) is not None:
                os.kill(pid, signal.SIGKILL)
                wait_for(lambda: self.agent_pid(node) is None, f"the agent of {node} is dead")  # noqa: B023

    def start_agent(self, node: str, devices: int = 1) -> subprocess.Popen[bytes]:
        """An agent that no engine looks after: what becomes of it is the test's business."""
        folder = self.home / "nodes" / node
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        command = [sys.executable, "-P", "-m", "ergosphere.agent.main", "--home", str(self.home), "--node", node]
        with (folder / "agent.log").open("ab") as log:
            started = subprocess.Popen(
                [*command, "--devices", str(devices)],
                env=self.environment,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        wait_for(lambda: self.node(node).get("ready"), f"{node} is ready", START_S)
        return started

    def group(self, node: str) -> list[Path]:
        """The cgroup of a whole node, in every hierarchy where it exists."""
        return [path for root in _hierarchies() if (path := root / f"ergo-{self.id}" / node).is_dir()]

    def kill_node(self, node: str) -> None:
        """The machine is gone: every process in its group, and its memory."""
        for _ in range(100):
            pids = {pid for group in self.group(node) for pid in _pids_below(group)}
            if not pids:
                break
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            for group in self.group(node):
                _thaw(group)
            time.sleep(0.05)
        for group in self.group(node):
            _remove(group)
        for netns in (self.memory / node / "net").glob("*"):
            subprocess.run(["umount", "-q", netns], check=False)
        subprocess.run(["rm", "-rf", str(self.memory / node)], check=False)

    def agent_logs(self) -> dict[Path, int]:
        """How long the agents' logs are now."""
        return {log: log.stat().st_size for log in self.home.glob("nodes/*/agent.log")}

    def at_work(self, before: Mapping[Path, int], words: str) -> str:
        """The node whose agent has taken up an order of which its log says `words`."""

        def look() -> str | None:
            return next((log.parent.name for log, size in before.items() if words in log.read_text()[size:]), None)

        return wait_for(look, f"an agent has taken up {words}") or ""

    def holds_images(self) -> list[Path]:
        """Images in memory: none once every job has ended."""
        return list(self.memory.glob("*/images/*"))

    def shutdown(self) -> None:
        """Ends everything at once."""
        if self.server is None:
            return
        if self.server.poll() is None:
            with suppress(httpx.HTTPError):
                self.api("POST", "/v1/shutdown", {"kill": True, "wait_s": 60})
        try:
            self.server.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.kill_server()

    def left_over(self) -> list[str]:
        """Everything of this fleet that is still on the machine outside its home."""
        return list(_left_over(self.id, self.home))

    # ── the API ──────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def url(self) -> str:
        return str(json.loads((self.home / "server/server.json").read_text())["url"])

    @property
    def token(self) -> str:
        return (self.home / "server/token").read_text().strip()

    def api(self, method: str, path: str, body: object = None, token: str | None = None) -> httpx.Response:
        """`verify=False`: there is no certificate, and reading a list of authorities would take 25 ms each time."""
        headers = {"Authorization": f"Bearer {token or self.token}"}
        return httpx.request(
            method, self.url + path, json=body, headers=headers, timeout=120, trust_env=False, verify=False
        )

    def get(self, path: str) -> Any:
        response = self.api("GET", path)
        assert response.status_code == 200, response.text
        return response.json()

    def post(self, path: str, body: object = None, status: int = 200) -> Any:
        response = self.api("POST", path, body if body is not None else {})
        assert response.status_code == status, f"{response.status_code}: {response.text}"
        return response.json()

    def node(self, node: str) -> dict[str, Any]:
        try:
            found = [one for one in self.get("/v1/nodes") if one["id"] == node]
        except (OSError, ValueError, httpx.HTTPError):
            return {}
        return found[0] if found else {}

    def submit(self, command: tuple[str, ...], folder: Path, env: Mapping[str, str] | None = None, **said: Any) -> Job:
        """A job as `ergo submit` hands it in from `folder`."""
        environment = {"PATH": SHELL_PATH, "HOME": os.environ["HOME"], **(env or {})}
        whole = {"min_devices": said["ranks"]} if "ranks" in said else {}  # never shared, where a test says nothing
        draft = Draft(command=command, **{**whole, **said})
        with Client(Door(self.url, self.token, "test")) as client:
            prepared = prepare(draft, Submitter(environment, folder, self.home, True))
            copy = workcopy.scan_directory(Path(prepared.spec.workdir), self.home)
            workcopy.send(client, copy, system.SystemClock())
            spec = prepared.spec.model_copy(update={"tree": copy.ref, "bound": copy.bound})
            submitted = asking.submit(client, spec)
        return Job(self, submitted.job.id, submitted.notes)

    def ergo(self, *words: str, folder: Path, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """The command line, as a process of its own."""
        environment = {**self.environment, "ERGO_HOME": str(self.home), **(env or {})}
        command = [sys.executable, "-P", "-m", "ergosphere.cli.main", *words]
        return subprocess.run(
            command, env=environment, cwd=folder, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )


class Job:
    """One job, seen through the API, and what lies below it on this machine."""

    def __init__(self, fleet: Fleet, ref: str, notes: tuple[str, ...] = ()) -> None:
        self.fleet, self.id, self.notes = fleet, ref, notes

    @property
    def detail(self) -> dict[str, Any]:
        return dict(self.fleet.get(f"/v1/jobs/{self.id}"))

    @property
    def phase(self) -> str:
        return str(self.detail["phase"])

    def until(self, state: str, wait_s: float = PATIENCE_S) -> dict[str, Any]:
        """The job once it is running, frozen or ended."""
        found = self.fleet.get(f"/v1/jobs/{self.id}?until={state}&wait_s={wait_s}")
        ended = ("succeeded", "failed", "cancelled")
        assert found["phase"] == state or (state == "ended" and found["phase"] in ended), self.story(found)
        return dict(found)

    def ended(self, phase: str = "succeeded", wait_s: float = PATIENCE_S) -> dict[str, Any]:
        found = self.until("ended", wait_s)
        assert found["phase"] == phase, self.story(found)
        return found

    def story(self, found: object = None) -> str:
        """For a failure's message."""
        events = "\n".join(f"{event['kind']}: {event['text']}" for event in self.events())
        return f"{found or self.detail}\n{events}\nout: {self.out()[-8:]}\nerr: {self.err()[-1500:]!r}"

    def events(self) -> list[dict[str, Any]]:
        return list(self.fleet.get(f"/v1/jobs/{self.id}/events"))

    def told(self, kind: str) -> list[str]:
        """The texts of all events of a kind."""
        return [event["text"] for event in self.events() if event["kind"] == kind]

    def log(self, rank: int = 0, stream: str = "out") -> bytes:
        found = b""
        while True:
            query = f"rank={rank}&stream={stream}&offset={len(found)}"
            page = base64.b64decode(self.fleet.get(f"/v1/jobs/{self.id}/logs?{query}")["data"])
            if not page:
                return found
            found += page

    def out(self, rank: int = 0) -> list[str]:
        return self.log(rank).decode().splitlines()

    def err(self, rank: int = 0) -> str:
        return self.log(rank, "err").decode(errors="replace")

    def printed(self, more: int = 10, rank: int = 0) -> None:
        """Waits until the rank has printed that many lines more; looked up where it runs, which is quick."""
        before = self._lines_here(rank)
        wait_for(lambda: self._lines_here(rank) >= before + more, f"rank {rank} of {self.id} prints {more} more lines")

    def _lines_here(self, rank: int) -> int:
        logs = self.fleet.home.glob(f"nodes/*/lives/{self.id}.*/ranks/{rank}/out.log")
        counts = [0]
        for log in logs:
            with suppress(FileNotFoundError):  # a life that was just taken away
                counts.append(log.read_bytes().count(b"\n"))
        return max(counts)

    def finish(self, phase: str = "succeeded") -> dict[str, Any]:
        """Tells every counter of the job to end, and waits for the job's end."""
        self.until("running")
        for work in self.fleet.home.glob(f"nodes/*/lives/{self.id}.*/work"):
            (work / "stop").touch()
        return self.ended(phase)

    def finished_whole(self, rank: int = 0) -> dict[str, Any]:
        """Ends the job and checks that the rank's log reads as if nothing had happened."""
        ended = self.finish() if self.phase != "succeeded" else self.detail
        assert is_whole(self.out(rank)), self.story(ended)
        return ended

    def verb(self, name: str, status: int = 200, **wish: Any) -> dict[str, Any]:
        if name == "snapshot" and status == 200:
            self.until("running")  # its first lines can be here before the server has heard that it runs
        return dict(self.fleet.post(f"/v1/jobs/{self.id}/{name}", {"wait_s": 60, **wish}, status))

    @property
    def nodes(self) -> list[str]:
        return list(self.detail["nodes"])

    def order_and_kill(self, kind: str, delay_s: float) -> None:
        """Gives an order (freeze, thaw, snapshot, resize to 1) and kills the agent a moment after it took it up."""
        before = self.fleet.agent_logs()
        verbs = {"freeze": "pause", "thaw": "resume", "snapshot": "snapshot", "resize": "resize"}
        self.verb(verbs[kind], wait_s=0, **({"devices": 1} if kind == "resize" else {}))
        node = self.fleet.at_work(before, f" {kind.replace('snapshot', 'freeze')} {self.id}")
        time.sleep(delay_s)
        self.fleet.kill_agent(node)

    def settle(self) -> None:
        """Whatever became of an order, the job runs again."""

        def runs() -> bool:
            found = self.detail
            if found["phase"] == "frozen" and found["paused"]:
                self.verb("resume", wait_s=0)
            return bool(found["phase"] == "running" and not found["paused"] and not self.keeper()["holds"])

        wait_for(runs, f"the order is finished or undone, and {self.id} runs")
        self.printed()

    # ── below ────────────────────────────────────────────────────────────────────────────────────────────────

    def life(self, cell: int = 0) -> Path:
        """Where the cell's newest life lies, on whatever node."""
        found = self.fleet.home.glob(f"nodes/*/lives/{self.id}.*.{cell}")
        return max(found, key=lambda path: int(path.name.split(".")[-2]))

    def keeper(self, cell: int = 0) -> dict[str, Any]:
        """The keeper's own state file."""
        return dict(json.loads((self.life(cell) / "keeper.json").read_text()))

    def first_pid(self, rank: int = 0, cell: int = 0) -> int:
        """PID 1 of a rank, as the host numbers it."""
        kept = wait_for(lambda: self._kept(rank, cell), f"rank {rank} of {self.id} is kept")
        return int(kept["pid"])

    def _kept(self, rank: int, cell: int) -> dict[str, Any] | None:
        with suppress(OSError, ValueError):
            return next((kept for kept in self.keeper(cell)["ranks"] if kept["rank"] == rank), None)
        return None

    def main_pid(self, rank: int = 0, cell: int = 0) -> int:
        """The user's own process."""
        first = self.first_pid(rank, cell)
        children = wait_for(lambda: children_of(first), f"rank {rank} has a main process")
        return children[0]

    def file(self, name: str, cell: int = 0) -> bytes:
        """A result of the ended job."""
        response = self.fleet.api("GET", f"/v1/jobs/{self.id}/results/file?path={name}&cell={cell}")
        assert response.status_code == 200, response.text
        return response.content


def children_of(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


@contextmanager
def running(fleet: Fleet) -> Iterator[Fleet]:
    """The fleet while it is needed; nothing of it is left afterwards."""
    try:
        fleet.start()
        yield fleet
    finally:
        fleet.shutdown()
        with suppress(AssertionError):
            wait_for(lambda: not fleet.left_over(), "nothing is left")
    left_over = fleet.left_over()
    assert not left_over, "\n".join(left_over)


@contextmanager
def small(folder: Path, size: str = "1m") -> Iterator[None]:
    """A folder in memory with next to no space."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "small", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def _tools() -> Path:
    """CRIU as the checkout has it, else provided once for all of the machine's test runs."""
    made = ROOT / ".venv" / "criu"
    shared = made if made.exists() else Path("/var/tmp/ergosphere-test-criu")
    if provision.find(shared) is None:
        provision.provision(shared)
    return shared


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def _hierarchies() -> list[Path]:
    from ergosphere.agent.cgroups import hierarchies

    return [hierarchy.mount for hierarchy in hierarchies()]


def _pids_below(group: Path) -> set[int]:
    found: set[int] = set()
    for file in group.rglob("cgroup.procs"):
        with suppress(OSError):
            found |= {int(word) for word in file.read_text().split()}
    return found


def _remove(group: Path) -> None:
    for folder in sorted((path for path in group.rglob("*") if path.is_dir()), key=lambda path: -len(path.parts)):
        with suppress(OSError):
            folder.rmdir()
    with suppress(OSError):
        group.rmdir()


def _thaw(group: Path) -> None:
    for name, word in (("cgroup.freeze", "0"), ("freezer.state", "THAWED")):
        for file in group.rglob(name):
            with suppress(OSError):
                file.write_text(word)


def _left_over(fleet: str, home: Path) -> Iterator[str]:
    for group in (root / f"ergo-{fleet}" for root in _hierarchies()):
        if group.exists():
            yield f"cgroup {group} with {sorted(_pids_below(group))}"
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (folder / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
            if str(home) in words and int(folder.name) != os.getpid():
                yield f"process {folder.name}: {words}"
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    yield from (f"mount {line}" for line in mounts if f"ergo-{fleet}" in line)
    if (memory := Path(f"/dev/shm/ergo-{fleet}")).exists():
        yield f"{memory}: {sorted(str(path.relative_to(memory)) for path in memory.rglob('*'))[:8]}"
    yield from (f"link {link.name}" for link in Path("/sys/class/net").iterdir() if f"ergo{fleet}"[:15] in link.name)
