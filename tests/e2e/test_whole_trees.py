"""What a program finds after a thaw besides its memory: files in memory, users, connections that led outside."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.fleet import Fleet, counter

IN_MEMORY = """
paths = ("/dev/shm/kept", "/tmp/kept", "/tmp/folder/kept", "/run/kept")
os.mkdir("/tmp/folder", 0o750)
bytes_of = {path: os.urandom(100_000) for path in paths}
for path in paths:
    with open(path, "wb") as file: file.write(bytes_of[path])
    os.chmod(path, 0o640)
def check():
    for path in paths:
        with open(path, "rb") as file: assert file.read() == bytes_of[path], path
        assert os.stat(path).st_mode & 0o777 == 0o640 and os.stat("/tmp/folder").st_mode & 0o777 == 0o750
"""
OTHER_USER = "os.setgroups([]); os.setgid(1000); os.setuid(1000)"
TALK = """
import socket
outside = socket.create_connection({address!r})
def talk():
    global outside
    try:
        outside.sendall(b"x")
    except OSError:
        if outside: os.write(2, b"lost\\n")
        outside = socket.create_connection({address!r})
"""
OUTSIDE = "192.0.2.77"  # of a network that is for examples: no route leads there, but to this machine
SYS_RESOURCE = 24  # its bit in a set of capabilities


def test_files_in_memory_are_what_they_were_after_a_pause_and_a_move(fleet: Fleet, folder: Path) -> None:
    job = fleet.submit(counter(IN_MEMORY, each="check()"), folder)
    job.printed()
    job.verb("pause")
    job.verb("resume")
    job.printed()
    job.verb("migrate")
    job.printed()
    job.finished_whole()


def _may_save_other_users() -> bool:
    told = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return bool(int(told["CapEff"], 16) >> SYS_RESOURCE & 1)


def test_a_program_that_is_another_user_is_paused_or_says_what_it_takes_and_runs_on(fleet: Fleet, folder: Path) -> None:
    job = fleet.submit(counter(OTHER_USER, then="assert os.getresuid() == (1000,) * 3"), folder)
    job.printed()
    if _may_save_other_users():
        job.verb("pause")
        job.verb("resume")
    else:
        problem = job.verb("pause", status=409)
        assert "CAP_SYS_RESOURCE" in problem["error"] and "runs on" in problem["error"], problem
        assert "as root" in problem["remedy"]
    job.printed()
    job.finished_whole()


@contextmanager
def a_server_outside() -> Iterator[socket.socket]:
    """At an address that is neither the job's network nor loopback."""
    subprocess.run(["ip", "address", "add", f"{OUTSIDE}/32", "dev", "lo"], check=True)
    try:
        with socket.create_server((OUTSIDE, 0)) as server:
            server.settimeout(60)
            yield server
    finally:
        subprocess.run(["ip", "address", "del", f"{OUTSIDE}/32", "dev", "lo"], check=True)


def test_a_connection_to_the_outside_ends_at_a_thaw_and_that_is_said(fleet: Fleet, folder: Path) -> None:
    with a_server_outside() as server:
        job = fleet.submit(counter(TALK.format(address=server.getsockname()), "talk()"), folder)
        first, _ = server.accept()
        job.printed()
        job.verb("pause")
        job.verb("resume")
        second, _ = server.accept()
        with first, second:
            job.printed()
            assert second.recv(1) == b"x"
            job.finished_whole()
        shown = fleet.ergo("show", job.id, folder=folder).stdout
        assert "1 connection to the outside ended by the thaw" in shown, shown
        assert job.err() == "lost\n"
