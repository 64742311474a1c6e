"""The command line in front of a real server with nodes of paper (tests.fake_agent)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.control.conftest import SOURCE, Service, own, service, shared, user, world

from ergosphere import system
from ergosphere.cli.main import main

__all__ = ["own", "service", "shared", "user", "world"]


@dataclass
class Said:
    """What a command returned and printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Ergo = Callable[..., Said]


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A submitter's folder with the program of paper in it."""
    folder = tmp_path / "work"
    folder.mkdir()
    count = folder / "count"
    count.write_text("#!/bin/sh\n")
    count.chmod(0o755)
    return folder


main(["--version"])  # what typer imports late changes os.environ for a moment, under the feet of the nodes' threads


@pytest.fixture
def environment(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What the command line sees of the environment; os.environ itself is left to the nodes' threads."""
    found = {"PATH": f"{work}:{os.environ['PATH']}", "HOME": str(tmp_path), "ERGO_HOME": str(tmp_path / "nothing")}
    monkeypatch.setattr(system, "environment", lambda: dict(found))
    monkeypatch.setattr(system, "home", lambda: Path(found["ERGO_HOME"]))
    return found


@pytest.fixture
def typed(
    work: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Ergo:
    """`ergo` as typed in the submitter's folder."""
    monkeypatch.chdir(work)

    def run(*words: str) -> Said:
        capfd.readouterr()
        code = main(words)
        out, err = capfd.readouterr()
        return Said(code, out, err)

    return run


@pytest.fixture
def ergo(service: Service, typed: Ergo, environment: dict[str, str]) -> Ergo:
    """`ergo` beside the shared service."""
    environment["ERGO_HOME"] = str(service.server.home)
    return typed


def in_background(home: Path, folder: Path, *words: str) -> subprocess.Popen[bytes]:
    """`ergo` as a process of its own."""
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", "PYTHONPATH": str(SOURCE), "ERGO_HOME": str(home)}
    return subprocess.Popen(
        [sys.executable, "-m", "ergosphere.cli.main", *words],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a test run in the background
        bufsize=0,  # what is read line by line is not hoarded before communicate()
    )
