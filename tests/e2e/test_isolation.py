"""What a job sees and what others see of it: networks, ports, secrets; and both kinds of cgroup."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

from tests.e2e.fleet import PYTHON, Fleet, Job, counter, python, wait_for

ECHO = """
import socket, threading
server = socket.create_server(("", 29500))
def serve(client):
    while line := client.recv(4096): client.sendall(name + b" " + line)
def accept():
    while True: threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
threading.Thread(target=accept, daemon=True).start()
"""


def _ask(connection: socket.socket, word: bytes) -> bytes:
    connection.sendall(word)
    return connection.recv(4096)


def _connect(job: Job) -> socket.socket:
    def reach() -> socket.socket | None:
        try:
            return socket.create_connection((job.detail["addresses"][0], 29500), timeout=20)
        except (OSError, IndexError):
            return None

    return wait_for(reach, f"{job.id} listens")


def test_two_jobs_use_port_29500_and_a_connection_lives_through_a_move(fleet: Fleet, folder: Path) -> None:
    jobs = [fleet.submit(counter(f"name = b'{name}'" + ECHO), folder, name=name) for name in ("one", "two")]
    with _connect(jobs[0]) as first, _connect(jobs[1]) as second:
        assert _ask(first, b"hello") == b"one hello" and _ask(second, b"hello") == b"two hello"
        there = "node-1" if jobs[0].nodes == ["node-0"] else "node-0"
        jobs[0].verb("migrate", to=[there])
        assert _ask(first, b"again") == b"one again"
        jobs[0].verb("pause")
        jobs[0].verb("resume")
        assert _ask(first, b"and again") == b"one and again" and _ask(second, b"still") == b"two still"
    for job in jobs:
        job.finished_whole()


def test_a_job_without_a_network_has_loopback_alone_and_is_moved(fleet: Fleet, folder: Path) -> None:
    each = "if number == 0: import socket; os.write(2, repr([name for _, name in socket.if_nameindex()]).encode())"
    job = fleet.submit(counter(each=each), folder, network="none")
    job.printed()
    job.verb("migrate")
    job.printed()
    job.finished_whole()
    assert job.err() == "['lo']"


def test_a_job_in_the_network_of_the_host_is_paused_and_goes_on(fleet: Fleet, folder: Path) -> None:
    first = "import socket; server = socket.create_server(('127.0.0.1', 0)); port = server.getsockname()[1]"
    job = fleet.submit(counter(first, then="os.write(2, b'%d' % port)"), folder, network="host")
    job.printed()
    job.verb("pause")
    job.verb("resume")
    job.printed()
    job.finished_whole()
    assert int(job.err()) > 0


MEETING = """
import os, sys, time
import torch, torch.distributed as dist
torch.set_num_threads(1)
dist.init_process_group("gloo")
step, over = 0, torch.zeros(1)
while not over.item():
    over.fill_(float(dist.get_rank() == 0 and os.path.exists("stop")))
    dist.all_reduce(over)
    part = torch.full((4,), float(step + dist.get_rank()))
    dist.all_reduce(part)
    print(step, int(part[0]), flush=True)
    step += 1
    time.sleep(0.02)
"""


def test_jobs_of_two_ranks_meet_in_the_network_of_the_host_and_again_after_thaws(fleet: Fleet, folder: Path) -> None:
    (folder / "meeting.py").write_text(MEETING)
    command = (sys.executable, "meeting.py")
    jobs = [
        fleet.submit(command, folder, name=name, ranks=2, network="host", mounts=(sys.prefix,)) for name in ("a", "b")
    ]
    for job in jobs:
        job.printed()
    for _ in range(3):
        jobs[0].verb("pause")
        jobs[0].verb("resume")
        jobs[0].printed()
    jobs[0].verb("snapshot")
    jobs[0].printed()
    os.kill(jobs[0].main_pid(rank=1), signal.SIGKILL)
    wait_for(lambda: jobs[0].detail["recoveries"] == 1, "it is recovered")
    jobs[0].printed()
    assert jobs[0].told("thaw-failed") == []
    for job in jobs:
        job.finish()
        out = job.out()
        assert out == job.out(1) == [f"{step} {2 * step + 1}" for step in range(len(out))], job.story()


def test_the_root_is_read_only_but_for_what_belongs_to_the_job(fleet: Fleet, folder: Path) -> None:
    code = f"""
import os, pathlib
for path in ("/etc/ergo-e2e", "/usr/ergo-e2e", "/sys/ergo-e2e", {str(fleet.home / "x")!r}):
    try: open(path, "w"); print("written", path)
    except OSError as error: print("refused", path)
for path in ("here", "/tmp/ergo-e2e", "/dev/shm/ergo-e2e", os.environ["HOME"] + "/.cache/ergo-e2e"):
    pathlib.Path(path).write_text("x"); print("written", path)
print(os.path.exists({str(fleet.home / "server")!r}), os.getpid() < 10, os.path.exists("/proc/self/status"))
"""
    job = fleet.submit(python(code), folder)
    job.ended()
    words = [line.split()[0] for line in job.out()]
    assert words == ["refused"] * 4 + ["written"] * 4 + ["False"], job.out()
    assert job.out()[-1] == "False True True"
    assert not Path(os.environ["HOME"], ".cache/ergo-e2e").exists()


SECRET = "hush-3c1f9a-do-not-tell"


def test_secrets_of_the_environment_appear_nowhere(fleet: Fleet, folder: Path) -> None:
    then = f"assert os.environ['API_KEY'] == {SECRET[::-1]!r}[::-1]"
    job = fleet.submit(counter(then=then), folder, {"API_KEY": SECRET})
    job.printed()
    job.verb("pause")
    job.verb("resume")
    job.printed()
    os.kill(job.main_pid(), signal.SIGKILL)
    wait_for(lambda: job.detail["recoveries"] == 1, "it is recovered")
    job.printed()
    paths = (f"/v1/jobs/{job.id}", f"/v1/jobs/{job.id}/events", "/v1/jobs", "/v1/events")
    told = [json.dumps(fleet.get(path)) for path in paths]
    told += [fleet.ergo(*words, folder=folder).stdout for words in (("show", job.id), ("ps",), ("events", job.id))]
    told += list(_command_lines())
    assert "API_KEY" in told[0] and not any(SECRET in text for text in told)
    leaks = [path for path in _readable_files(fleet.home) if SECRET.encode() in path.read_bytes()]
    assert leaks == []
    for path in fleet.memory.rglob("*"):
        assert path.is_symlink() or path.stat().st_mode & 0o077 == 0 or _is_shut(path, fleet.memory), path
    job.finished_whole()


def _command_lines() -> Iterator[str]:
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile
            yield (folder / "cmdline").read_bytes().decode(errors="replace")


def _readable_files(home: Path) -> Iterator[Path]:
    """Logs, and whatever anybody but the owner could read. Images and the record of the job itself may know secrets."""
    for path in home.rglob("*"):
        if path.is_file() and not path.is_symlink() and "criu" not in path.parts:
            if path.suffix in (".log", ".out", ".json") and path.name != "life.json":
                yield path
            elif path.stat().st_mode & 0o077 and not _is_shut(path, home):
                yield path


def _is_shut(path: Path, top: Path) -> bool:
    """No one but its owner gets through the folders above."""
    return any(folder.stat().st_mode & 0o077 == 0 for folder in path.parents if folder.is_relative_to(top.parent))


def test_a_program_with_its_own_sitecustomize_and_pythonpath_sees_them(fleet: Fleet, folder: Path) -> None:
    (folder / "own").mkdir()
    (folder / "own/sitecustomize.py").write_text("import sys; sys.own = 'own'")
    (folder / "main.py").write_text("import sys; print(sys.own)")
    env = {"PYTHONPATH": str(folder / "own")}
    job = fleet.submit((PYTHON, "main.py"), folder, env)
    job.ended()
    assert job.out() == ["own"]


def test_a_job_is_thawed_although_a_mount_of_the_host_that_it_never_asked_for_is_gone(
    fleet: Fleet, folder: Path
) -> None:
    stick = Path(tempfile.mkdtemp(prefix="ergo-test-stick-", dir="/var/tmp"))
    with ExitStack() as undo:
        undo.callback(lambda: stick.exists() and stick.rmdir())
        subprocess.run(["mount", "-t", "tmpfs", "stick", stick], check=True)
        undo.callback(lambda: stick.exists() and subprocess.run(["umount", stick], check=False))
        job = fleet.submit(counter(f"os.write(2, str(os.path.ismount('{stick}')).encode())"), folder)
        job.printed()
        job.verb("pause")
        subprocess.run(["umount", stick], check=True)
        stick.rmdir()
        job.verb("resume")
        job.printed()
        assert any(str(stick) in note for note in job.detail["notes"])
        job.verb("migrate")
        job.finished_whole()
        assert job.err() == "True"
