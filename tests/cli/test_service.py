"""Starting and stopping the service: a real server, no nodes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from ergosphere import system
from ergosphere.cli import asking, service
from ergosphere.cli.desk import Desk

NO_NODES = service.Wanted(nodes=0, devices=1, port=0)


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Desk]:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    desk = Desk(environment, tmp_path / "home", tmp_path, system.SystemClock())
    yield desk
    stop(desk)


def servers_of(here: Desk) -> list[int]:
    """Processes, zombies aside, that were started for this home."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if str(here.home).encode() in (process / "cmdline").read_bytes().split(b"\0"):
                found.append(int(process.name))
    return found


def stop(here: Desk) -> None:
    if service._answering(here) is not None:
        with here.client() as client:
            asking.shutdown(client, kill=True, wait_s=0)
        assert service.await_gone(here)


def test_two_at_once_start_one_server_that_outlives_us_and_is_started_again_when_it_died(here: Desk) -> None:
    with ThreadPoolExecutor(2) as both:
        one, other = both.map(lambda _: service.bring_up(here, NO_NODES), range(2))
    assert (one.url, one.token, one.status.pid) == (other.url, other.token, other.status.pid)
    assert os.getsid(one.status.pid) == one.status.pid, "it has a session of its own"
    assert servers_of(here) == [one.status.pid], "whoever was slower has given way"
    assert (here.home / "server" / "token").stat().st_mode & 0o777 == 0o600

    again = service.bring_up(here, NO_NODES)
    assert not again.started and again.status.pid == one.status.pid

    os.kill(one.status.pid, signal.SIGKILL)
    os.waitpid(one.status.pid, 0)
    anew = service.bring_up(here, NO_NODES)
    assert anew.started and anew.url == one.url and anew.status.pid != one.status.pid
