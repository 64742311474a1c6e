"""A private fleet for measuring: its own home in memory-backed tmp, taken down to the last process afterwards."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from ergosphere import system

ERGO = [sys.executable, "-c", "import sys; from ergosphere.cli.main import main; sys.exit(main())"]
TOOLS = Path(sys.prefix) / "criu"


@dataclass(frozen=True, slots=True)
class Fleet:
    home: Path
    api: httpx.Client

    def ergo(self, *words: str, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
        """One command; its standard output. Raises CalledProcessError."""
        environment = {**os.environ, **(env or {}), "ERGO_HOME": str(self.home)}
        done = subprocess.run([*ERGO, *words], cwd=cwd, env=environment, capture_output=True, text=True, timeout=600)
        if done.returncode != 0:
            raise RuntimeError(f"ergo {' '.join(words)}: {done.stderr[-2000:]}")
        return done.stdout

    def verb(self, job: str, name: str, **body: Any) -> dict[str, Any]:
        answer = self.api.post(f"/v1/jobs/{job}/{name}", json={"wait_s": 300, **body}, timeout=320)
        if answer.status_code >= 400:
            raise RuntimeError(f"{name} {job}: {answer.text}")
        return dict(answer.json())

    def job(self, ref: str, **query: Any) -> dict[str, Any]:
        return dict(self.api.get(f"/v1/jobs/{ref}", params=query, timeout=620).json())

    def log_file(self, job: str, rank: int = 0) -> Path | None:
        """Where the newest life of a job writes its standard output."""
        lives = sorted(self.home.glob(f"nodes/*/lives/{job}.*/ranks/{rank}/out.log"), key=_incarnation)
        return lives[-1] if lives else None


def _incarnation(path: Path) -> int:
    return int(path.parents[2].name.split(".")[-2])


@contextmanager
def fleet(nodes: int, devices: int, *options: str) -> Iterator[Fleet]:
    """`options`: more of what `ergo up` takes."""
    home = Path(tempfile.mkdtemp(prefix="ergo-bench-"))
    (home / "criu").symlink_to(TOOLS)
    bare = Fleet(home, httpx.Client())
    try:
        bare.ergo("up", "--nodes", str(nodes), "--devices", str(devices), *options)
        server = json.loads((home / "server/server.json").read_text())
        token = (home / "server/token").read_text().strip()
        with httpx.Client(base_url=server["url"], headers={"Authorization": f"Bearer {token}"}, trust_env=False) as api:
            yield Fleet(home, api)
    finally:
        subprocess.run(
            [*ERGO, "down", "--kill"], env={**os.environ, "ERGO_HOME": str(home)}, capture_output=True, timeout=120
        )
        for folder in (system.memory_folder(home), home):  # images that only this fleet had are wanted by nobody
            shutil.rmtree(folder, ignore_errors=True)


def last_line(path: Path) -> str:
    """The last whole line of a growing file."""
    with path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - 400))
        lines = file.read().split(b"\n")
    return lines[-2].decode() if len(lines) > 1 else ""


def wait_until(ready: Any, limit_s: float = 120.0, step_s: float = 0.002) -> Any:
    """The first true value of `ready()`."""
    end_s = time.monotonic() + limit_s
    while time.monotonic() < end_s:
        value = ready()
        if value:
            return value
        time.sleep(step_s)
    raise TimeoutError(f"nothing came within {limit_s} s")
