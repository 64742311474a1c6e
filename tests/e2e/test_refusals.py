"""What cannot be frozen, kept or brought back: said in plain words, before anything is lost, and the job runs on."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.e2e.fleet import Fleet, Job, counter, running, small, wait_for

IO_URING = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
def ring(): return libc.syscall(425, 8, ctypes.create_string_buffer(120)), ctypes.get_errno()
"""
NAMESPACES = """
import subprocess
child = subprocess.Popen(["unshare", "--mount", "--net", "sleep", "1000"])
while os.readlink(f"/proc/{child.pid}/ns/net") == os.readlink("/proc/self/ns/net"): time.sleep(0.01)
"""
TRACED = """
import ctypes
child = os.fork()
if child == 0:
    while True: time.sleep(1)
assert ctypes.CDLL(None).ptrace(0x4206, child, None, None) == 0
"""


@pytest.mark.parametrize(
    ("first", "then", "words"),
    [
        (NAMESPACES, "child.kill(); child.wait()", "namespace of its own"),
        (TRACED, "os.kill(child, 9); os.waitpid(child, 0)", "is being traced by"),
    ],
    ids=["namespaces", "traced"],
)
def test_what_cannot_be_frozen_is_refused_in_plain_words_and_runs_on(
    fleet: Fleet, folder: Path, first: str, then: str, words: str
) -> None:
    job = fleet.submit(counter(first, then=then), folder)
    job.printed()
    problem = job.verb("pause", status=409)
    assert words in problem["error"] and "runs on" in problem["error"] and problem["remedy"], problem
    job.printed()
    found = job.detail
    assert (found["phase"], found["incarnation"], found["rung"]) == ("running", 1, "restart")
    assert words in found["rung_because"]
    shown = fleet.ergo("show", job.id, folder=folder).stdout
    assert "restart" in shown and words.split()[0] in shown, shown
    job.finished_whole()


def test_a_program_finds_no_io_uring_before_and_after_a_thaw(fleet: Fleet, folder: Path) -> None:
    each = f"assert ring() == (-1, {errno.ENOSYS})"
    job = fleet.submit(counter(IO_URING, each), folder)
    job.printed()
    job.verb("pause")
    job.verb("resume")
    assert job.finished_whole()["rung"] == "transparent"


def test_what_was_in_the_way_can_be_tried_again_once_it_is_gone(fleet: Fleet, folder: Path) -> None:
    each = "if os.path.exists('go'): os.kill(child, 9); os.waitpid(child, 0); os.rename('go', 'gone')"
    job = fleet.submit(counter(TRACED, each), folder)
    job.printed(1)
    job.verb("pause", status=409)
    (job.life() / "work/go").touch()
    wait_for(lambda: (job.life() / "work/gone").exists(), "what was in the way is gone")
    job.verb("pause")
    job.verb("resume")
    assert job.finished_whole()["rung"] == "transparent"


FULL = re.compile("is full|no room is left")


@pytest.mark.parametrize("place", ["images", "pool"])
def test_when_memory_is_full_the_freeze_fails_and_the_job_runs_on(fleet: Fleet, folder: Path, place: str) -> None:
    first = "open('big', 'wb').write(os.urandom(1 << 20) * 30); ballast = os.urandom(1 << 20) * 30"
    job = fleet.submit(counter(first), folder)
    job.printed()
    name = place if place == "images" else f"pool/{job.id}.0/incoming"
    with small(fleet.memory / job.nodes[0] / name):
        problem = job.verb("pause", status=409)
        assert FULL.search(problem["error"]) and "runs on" in problem["error"], problem
        job.printed()
    assert (job.detail["rung"], job.detail["incarnation"]) == ("transparent", 1)
    job.verb("pause")
    job.verb("resume")
    job.finished_whole()


def test_when_the_shared_store_is_full_the_freeze_fails_and_the_job_runs_on(fleet: Fleet, folder: Path) -> None:
    job = fleet.submit(counter(), folder)
    job.printed()
    with small(fleet.home / "store" / ".aside", "4k"):
        (fleet.home / "store" / ".aside" / "fill").write_bytes(b"x" * 4096)
        problem = job.verb("pause", status=409)
        assert FULL.search(problem["error"]) and "runs on" in problem["error"], problem
        job.printed()
    job.verb("pause")
    job.verb("resume")
    job.finished_whole()


@pytest.fixture
def fleet_of_its_own(tmp_path: Path) -> Iterator[Fleet]:
    """What is damaged here must not be found by others."""
    with running(Fleet(tmp_path / "home", nodes=1)) as fleet:
        yield fleet


def test_a_snapshot_that_does_not_get_to_a_full_store_says_why(tmp_path: Path, folder: Path) -> None:
    fleet = Fleet(tmp_path / "home", nodes=1)
    with small(fleet.home / "store", "4m"), running(fleet):
        job = fleet.submit(counter("ballast = os.urandom(8 << 20)"), folder)
        job.printed()
        job.verb("snapshot")
        wait_for(lambda: job.detail["snapshots"][-1]["trouble"], "the upload has failed")
        for told in (("snapshot", "ls", job.id), ("show", job.id), ("snapshot", "show", f"{job.id}@latest")):
            said = fleet.ergo(*told, folder=folder).stdout
            assert "no room is left" in said and "free some space" in said, said
        job.printed()
        job.finished_whole()
        images = fleet.memory / "node-0/images"
        wait_for(lambda: not images.is_dir() or not any(images.iterdir()), "its node has let go of what nobody needs")


def _flip(path: Path) -> None:
    """One bit in every 4 KiB of the file is another, wherever it is linked to."""
    with path.open("r+b") as file:
        for position in range(0, path.stat().st_size, 4096):
            file.seek(position)
            byte = file.read(1)[0]
            file.seek(position)
            file.write(bytes([byte ^ 1]))


def _halve(path: Path) -> None:
    """Its second half was never written."""
    os.truncate(path, path.stat().st_size // 2)


def _packs(fleet: Fleet) -> set[Path]:
    return set(fleet.home.glob("store/vaults/*/packs/*/*"))


def _is_remote(job: Job, snapshot: str) -> bool:
    return any(one["id"] == snapshot and one["durability"] == "remote" for one in job.detail["snapshots"])


@pytest.mark.parametrize("damage", [_flip, _halve], ids=["bits are others", "half is written"])
@pytest.mark.parametrize("what", ["manifest", "content"])
def test_of_a_damaged_snapshot_the_one_before_is_used_and_that_is_said(
    fleet_of_its_own: Fleet, folder: Path, what: str, damage: Callable[[Path], None]
) -> None:
    fleet = fleet_of_its_own
    first = "open('data', 'w').write('first\\n' * 5000); marks = os.urandom(3 << 20)"
    each = "if os.path.exists('go'): open('data', 'w').write('second\\n' * 5000); os.rename('go', 'gone')"
    job = fleet.submit(counter(first, each), folder)
    job.printed()
    before = job.verb("snapshot")["snapshot"]
    wait_for(lambda: _is_remote(job, before), "it is in the shared store")
    whole = _packs(fleet)
    (job.life() / "work/go").touch()
    wait_for(lambda: (job.life() / "work/gone").exists(), "the job has written its second data")
    job.printed()
    job.verb("pause")
    newest = job.detail["snapshots"][-1]["id"]
    assert newest != before
    wait_for(lambda: _is_remote(job, newest), "it is in the shared store, too")
    damaged = [fleet.home / "store" / "freezes" / newest]
    if what == "content":  # everywhere: of a copy that is whole a thaw makes use
        copies = (*fleet.memory.glob(f"*/images/{newest}/**/*"), *fleet.memory.glob("*/pool/**/*"))
        damaged = [path for path in (*(_packs(fleet) - whole), *copies) if path.is_file() and path.stat().st_size]
    for path in damaged:
        damage(path)
    job.verb("resume")
    job.printed()
    told = " ".join(event["text"] for event in job.events())
    assert f"snapshot {newest} cannot be used" in told and before in told
    assert (job.life() / "work/data").read_text().startswith("first")
    job.finished_whole()


@contextmanager
def outside(fleet: Fleet, parent: str = "/var/tmp") -> Iterator[Path]:
    """A folder of the host that is no job's."""
    made = Path(parent) / f"ergo-e2e-{fleet.id}"
    made.mkdir()
    try:
        yield made
    finally:
        shutil.rmtree(made)


@pytest.mark.parametrize("parent", ["/var/tmp", "/tmp"])
def test_a_file_that_was_replaced_by_one_of_the_same_size_keeps_the_job_from_being_brought_back(
    fleet: Fleet, folder: Path, parent: str
) -> None:
    with outside(fleet, parent) as there:
        data, kept, other = (there / name for name in ("data.bin", "kept.bin", "other.bin"))
        data.write_bytes(b"a" * 8192)
        other.write_bytes(b"b" * 8192)
        first = f"import mmap; data = mmap.mmap(os.open({str(data)!r}, os.O_RDONLY), 8192, prot=mmap.PROT_READ)"
        job = fleet.submit(counter(first), folder, mounts=(str(there),))
        job.printed()
        job.verb("pause")
        data.rename(kept)
        other.rename(data)
        job.verb("resume", wait_s=0)
        wait_for(lambda: any(str(data) in event["text"] for event in job.events()), "the file is named")
        assert job.phase == "frozen"
        data.unlink()
        kept.rename(data)
        job.verb("resume")
        job.finished_whole()


WRITER = """
out = open({path!r}, "w")
def write(number):
    out.write("line %d\\n" % number); out.flush()
"""


def test_a_file_that_the_job_writes_outside_its_directory_is_cut_back_when_the_job_goes_back(
    fleet: Fleet, folder: Path
) -> None:
    with outside(fleet) as there:
        path = there / "out.txt"
        first = WRITER.format(path=str(path))
        job = fleet.submit(counter(first, "write(number)"), folder, mounts=(f"{there}:rw",))
        job.printed()
        job.verb("pause")
        job.verb("resume")
        job.printed()
        assert not any("cut off" in note for note in job.detail["notes"]), "nothing had come after the snapshot"
        job.verb("snapshot")
        job.printed()
        os.kill(job.main_pid(), signal.SIGKILL)
        wait_for(lambda: job.detail["recoveries"] == 1, "it is recovered")
        job.printed()
        assert any(str(path) in note and "cut off" in note for note in job.detail["notes"]), job.story()
        job.finished_whole()
        assert path.read_text().splitlines() == job.out()[:-1]


def test_what_others_wrote_into_a_file_while_the_job_was_frozen_is_not_cut_off(fleet: Fleet, folder: Path) -> None:
    with outside(fleet) as there:
        path = there / "out.txt"
        program = counter(WRITER.format(path=str(path)), "write(number)")
        job = fleet.submit(program, folder, mounts=(f"{there}:rw",))
        job.printed()
        job.verb("pause")
        with path.open("a") as other:
            other.write("somebody else's\n")
        job.verb("resume", wait_s=0)
        wait_for(lambda: any("has grown while" in text for text in job.told("thaw-failed")), "it is refused")
        assert path.read_text().endswith("somebody else's\n")
        assert "truncate -s" in job.detail["remedy"] or any("truncate -s" in text for text in job.told("thaw-failed"))
        fleet.post(f"/v1/snapshots/{job.id}@latest/restore", {"wait_s": 60})  # its owner wants it so
        job.printed()
        job.finished_whole()
        assert path.read_text().splitlines() == job.out()[:-1]


def test_a_fork_does_not_cut_off_what_the_job_it_came_from_goes_on_writing(fleet: Fleet, folder: Path) -> None:
    with outside(fleet) as there:
        program = counter(WRITER.format(path=str(there / "out.txt")), "write(number)")
        job = fleet.submit(program, folder, mounts=(f"{there}:rw",))
        job.printed()
        made = job.verb("snapshot")["snapshot"]
        wait_for(lambda: _is_remote(job, made), "it is in the shared store")
        job.printed()
        forked = fleet.post(f"/v1/snapshots/{job.id}@{made}/fork", {"name": "second", "share": True}, status=201)
        second = Job(fleet, forked["job"]["id"])
        wait_for(lambda: any("has grown since" in event["text"] for event in second.events()), "it is refused")
        assert second.phase == "frozen", second.story()
        second.verb("cancel", grace_s=0)
        job.finished_whole()
        assert (there / "out.txt").read_text().splitlines() == job.out()[:-1]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (Path.unlink, "is not there"),
        (lambda path: os.truncate(path, 3), "has 3 bytes"),
        (lambda path: path.with_name("new").rename(path), "was replaced"),
    ],
    ids=["gone", "shorter", "replaced"],
)
def test_a_job_whose_file_outside_cannot_be_cut_back_waits_for_it_and_does_not_fail(
    fleet: Fleet, folder: Path, spoil: Callable[[Path], object], words: str
) -> None:
    with outside(fleet) as there:
        path, kept = there / "out.txt", there / "kept.txt"
        (there / "new").write_text("x" * 100_000)
        program = counter(WRITER.format(path=str(path)), "write(number)")
        job = fleet.submit(program, folder, mounts=(f"{there}:rw",), max_restarts=0)
        job.printed()
        job.verb("pause")
        shutil.copy2(path, kept)
        spoil(path)
        job.verb("resume", wait_s=0)
        wait_for(lambda: any(words in event["text"] for event in job.events()), "what is wrong is said")
        assert job.phase == "frozen", job.story()
        kept.rename(path)
        job.verb("resume")
        job.finished_whole()


def test_a_program_that_writes_where_it_may_not_is_told_which_flag_helps(fleet: Fleet, folder: Path) -> None:
    with outside(fleet) as there:
        command = ("/bin/sh", "-c", f"echo x > {there}/new.txt")
        job = fleet.submit(command, folder)
        job.ended("failed")
        assert any(f"--mount {there}:rw" in note for note in job.detail["notes"]), job.story()
        again = fleet.submit(command, folder, mounts=(f"{there}:rw",))
        again.ended()
        assert (there / "new.txt").read_text() == "x\n"
        assert again.detail["mounts"] == [{"path": str(there), "writable": True}]


def test_a_program_that_asks_for_a_terminal_is_told_that_jobs_have_none(fleet: Fleet, folder: Path) -> None:
    typed = fleet.ergo("run", "--", "/bin/sh", "-c", "read answer </dev/tty", folder=folder)
    assert typed.returncode == 2
    assert "note: it asked for a terminal, and jobs have none" in typed.stderr, typed.stderr


def test_a_periodic_timer_of_the_program_goes_on_ticking(fleet: Fleet, folder: Path) -> None:
    first = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
timer = libc.timerfd_create(1, 0)
libc.timerfd_settime(timer, 0, (ctypes.c_long * 4)(0, 5_000_000, 0, 5_000_000), None)
"""
    job = fleet.submit(counter(first, "os.read(timer, 8)"), folder)
    for _ in range(2):
        job.printed()
        job.verb("pause")
        job.verb("resume")
    job.printed()
    job.finished_whole()


def test_nothing_of_a_failed_freeze_stays_in_memory(fleet: Fleet, folder: Path) -> None:
    job = fleet.submit(counter(TRACED, then="os.kill(child, 9)"), folder)
    job.printed()
    before = set(fleet.memory.glob("*/images/*"))
    job.verb("pause", status=409)
    assert set(fleet.memory.glob("*/images/*")) <= before
    assert os.listdir(fleet.memory / job.nodes[0] / f"pool/{job.id}.0/incoming") == []
    job.finished_whole()
