"""A real server process over an empty home, a client for it, and nodes of paper."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from tests.fake_agent import World

START_S = 60.0
PATIENCE_S = 60.0  # what a busy machine may take for anything at all
SOURCE = Path(__file__).parents[2] / "src"


class Server:
    """One server process after the other over one home."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> None:
        command = [sys.executable, "-m", "ergosphere.control.server", "--home", str(self.home), "--nodes", "0"]
        command += ["--lease-s", "6", "--margin-s", "0.5", "--min-run-s", "0", *options]
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(SOURCE)}
        self.process = subprocess.Popen(command, env=environment, start_new_session=True)
        end = time.monotonic() + START_S
        while not self._is_up():
            assert self.process.poll() is None, "the server ended at once"
            assert time.monotonic() < end, "the server did not come up"
            time.sleep(0.02)

    def _is_up(self) -> bool:
        try:
            told = json.loads((self.home / "server/server.json").read_text())
            return told["pid"] == self.process.pid and self.client().get("/v1/status").status_code == 200
        except (OSError, ValueError, httpx.HTTPError):
            return False

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(timeout=60)

    @property
    def url(self) -> str:
        return json.loads((self.home / "server/server.json").read_text())["url"]

    @property
    def token(self) -> str:
        return (self.home / "server/token").read_text().strip()

    def client(self) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.token}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=2 * PATIENCE_S, verify=False)


class User:
    """What a person does through the API."""

    def __init__(self, server: Server) -> None:
        self.server = server

    def get(self, path: str, **query: object) -> object:
        response = self.server.client().get(path, params=query)
        assert response.status_code == 200, response.text
        return response.json()

    def post(self, path: str, body: object = None, status: int = 200) -> dict:
        response = self.server.client().post(path, json=body if body is not None else {})
        assert response.status_code == status, (response.status_code, response.text)
        return response.json()

    def submit(self, name: str = "job", lines: int = 0, code: int = 0, **spec: object) -> str:
        whole = {"min_devices": spec.get("ranks", 1)}  # ranks that never share, where a test says nothing
        body = {"name": name, "command": ["count", str(lines), str(code)], "workdir": "/w", **whole, **spec}
        return self.post("/v1/jobs", body, 201)["job"]["id"]

    def job(self, ref: str) -> dict:
        return self.get(f"/v1/jobs/{ref}")

    def until(self, ref: str, phase: str) -> dict:
        """The job, once it is running, frozen or ended."""
        job = self.get(f"/v1/jobs/{ref}", wait_s=PATIENCE_S, until=phase)
        return job

    def events(self, ref: str) -> list[dict]:
        return self.get(f"/v1/jobs/{ref}/events")

    def log(self, ref: str, rank: int = 0) -> bytes:
        import base64

        page = self.get(f"/v1/jobs/{ref}/logs", rank=rank, limit=1 << 20)
        return base64.b64decode(page["data"])


def wait_for(condition: Callable[[], object], what: str, within_s: float = PATIENCE_S) -> object:
    end = time.monotonic() + within_s
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < end, f"never: {what}"
        time.sleep(0.03)


class Service:
    """A server, two nodes of paper with two devices each, and a user."""

    def __init__(self, folder: Path) -> None:
        self.server = Server(folder / "home")
        self.server.start()
        self.user = User(self.server)
        self.world = World(self.server.home, folder / "nodes")
        for name in ("node-0", "node-1"):
            self.world.node(name)
        wait_for(lambda: self.user.get("/v1/status")["nodes_ready"] == 2, "both nodes report")

    def reset(self) -> None:
        """No jobs, no faults, every node ready."""
        self.world.heal()
        for node in ("node-0", "node-1"):
            self.user.post(f"/v1/nodes/{node}/undrain")
        for job in self.user.get("/v1/jobs"):
            self.user.post(f"/v1/jobs/{job['id']}/cancel", {"grace_s": 0})
        wait_for(lambda: not self.user.get("/v1/jobs"), "all jobs are cancelled")
        wait_for(lambda: self.user.get("/v1/status")["nodes_ready"] == 2, "both nodes are back")
        self.world.orders.clear()

    def close(self) -> None:
        self.world.close()
        self.server.stop()


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = Service(tmp_path_factory.mktemp("service"))
    yield service
    service.close()


@pytest.fixture
def service(shared: Service) -> Iterator[Service]:
    """The shared service, empty."""
    yield shared
    shared.reset()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Service]:
    """A service of the test's own, to be killed or shut down."""
    made = Service(tmp_path)
    yield made
    made.close()


@pytest.fixture
def user(service: Service) -> User:
    return service.user


@pytest.fixture
def world(service: Service) -> World:
    return service.world


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """What the service noted, beside a failure."""
    outcome = yield
    report = outcome.get_result()
    user = next((value.user for value in item.funcargs.values() if isinstance(value, Service)), None)
    if report.when != "call" or not report.failed or user is None:
        return
    log = user.server.home / "server/server.log"
    report.sections.append(("server.log", log.read_text()[-5000:]))
    try:
        events = user.get("/v1/events", after=0, limit=1000)[-60:]
    except (OSError, httpx.HTTPError):
        return
    report.sections.append(
        ("events", "\n".join(f"{e['at_s']:.2f} {e['job']} {e['kind']}: {e['text']}" for e in events))
    )
