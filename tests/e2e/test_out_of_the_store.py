"""A thaw for which the node has no images, only the store near by: CRIU reads memory as it comes out of the chunks."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.e2e.fleet import Fleet, Job, counter, running, wait_for

STREAMED = "images as they came out of the store"
# All that CRIU keeps bytes of beside private memory, and several processes with memory of their own.
KINDS = """
import hashlib, mmap, signal, socket, tempfile
def digest(content): return hashlib.blake2b(content).digest()
ballast = os.urandom(40 << 20) + bytes(8 << 20) + os.urandom(1234)
both = mmap.mmap(-1, 24 << 20)
both[:] = os.urandom(24 << 20)
reading, writing = os.pipe()
os.write(writing, b"in the pipe" * 1000)
here, there = socket.socketpair()
here.sendall(b"in the socket" * 100)
ghost = tempfile.TemporaryFile()
ghost.write(ballast[: 20 << 20])
ghost.flush()
memory = os.memfd_create("kept")
os.write(memory, ballast[: 1 << 20])
with open("/dev/shm/kept", "wb") as file: file.write(ballast[: 18 << 20])
known = digest(ballast), digest(both[:])
def check():
    assert (digest(ballast), digest(both[:])) == known
    ghost.seek(0)
    assert ghost.read() == ballast[: 20 << 20]
    assert os.pread(memory, 2 << 20, 0) == ballast[: 1 << 20]
    with open("/dev/shm/kept", "rb") as file: assert file.read() == ballast[: 18 << 20]
child = os.fork()
if not child:
    own = os.urandom(32 << 20)
    ours = digest(own)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    signal.sigwait({signal.SIGUSR1})
    check()
    assert digest(own) == ours
    both[:4] = b"seen"
    os._exit(7)
"""
END = """
check()
os.kill(child, signal.SIGUSR1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
assert both[:4] == b"seen"
assert os.read(reading, 1 << 20) == b"in the pipe" * 1000
assert there.recv(1 << 20) == b"in the socket" * 100
"""


def frozen_without_images(job: Job) -> None:
    """Paused; all that is left of its memory is in the store."""
    job.verb("pause")
    wait_for(lambda: job.detail["snapshots"][-1]["durability"] == "remote", "it is in the store", 120)
    for images in job.fleet.holds_images():
        shutil.rmtree(images)


def streams(fleet: Fleet) -> int:
    return sum(path.read_text().count(STREAMED) for path in fleet.home.glob("nodes/*/agent.log"))


def packs(fleet: Fleet) -> list[Path]:
    return list(fleet.home.glob("store/vaults/*/packs/*/*"))


def test_everything_is_as_it_was_when_memory_comes_out_of_the_store(fleet: Fleet, folder: Path) -> None:
    before = streams(fleet)
    job = fleet.submit(counter(KINDS, then=END), folder)
    job.printed()
    for times in (1, 2):
        frozen_without_images(job)
        job.verb("resume")
        job.printed()
        assert streams(fleet) == before + times, job.story()
    ended = job.finished_whole()
    assert (ended["recoveries"], ended["lost_s"]) == (0, 0.0)
    assert not list(fleet.memory.glob("*/thaw/*")), "nothing is left of a thaw"


def test_memory_that_was_damaged_in_the_store_is_refused_while_criu_reads_it(tmp_path: Path, folder: Path) -> None:
    with running(Fleet(tmp_path / "home")) as fleet:  # others would find what is damaged here
        refused(fleet, folder)


def refused(fleet: Fleet, folder: Path) -> None:
    job = fleet.submit(counter("ballast = os.urandom(64 << 20)"), folder)
    job.printed()
    frozen_without_images(job)
    first = job.detail["snapshots"][-1]["id"]
    job.verb("resume")
    job.printed(40)
    known = set(packs(fleet))
    before = streams(fleet)
    frozen_without_images(job)
    second = job.detail["snapshots"][-1]["id"]
    new = sorted(set(packs(fleet)) - known, key=lambda path: path.stat().st_size)
    assert new and first != second
    flipped(new[-1])
    job.verb("resume", wait_s=60)
    job.printed()
    assert any(second in text for text in job.told("snapshot-damaged")), job.story()
    assert streams(fleet) == before + 1, "the one before was whole"
    job.finished_whole()


def flipped(pack: Path) -> None:
    """A bit in its middle."""
    content = bytearray(pack.read_bytes())
    content[len(content) // 3] ^= 4
    pack.write_bytes(content)
