"""Real processes and real Gloo: programs that are held, cut and let go on end as if nothing had happened."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from ergosphere.agent import cut
from ergosphere.agent.cut import CutFailed, CutReached
from ergosphere.agent.cut_port import LocalRank, collectives_launched
from ergosphere.agent.cut_view import RankState, RankView
from ergosphere.system import SystemClock

ROUNDS = "3"
CUTS_MAX = 20
GLOO_THREADS = {"gloo_tcp_loop", "pt_gloo_runloop"}


def threads(pid: int) -> list[str]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):  # it has just ended
            found.append((task / "comm").read_text().strip())
    return found


def sockets(pid: int) -> set[str]:
    links = [fd.readlink().name for fd in Path(f"/proc/{pid}/fd").iterdir() if fd.is_symlink()]
    return {link for link in links if link.startswith("socket:")}


def group_sockets(pid: int) -> set[str]:
    """TCP sockets that are not the store's: its server in rank 0 may be talking to anyone at any time."""
    tables = [Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
    ends = {line.split()[9]: line.split()[1:3] for line in [*tables[0], *tables[1]]}
    environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    store = f":{int(next(word for word in environment if word.startswith(b'MASTER_PORT=')).split(b'=')[1]):04X}"
    inodes = {link[len("socket:[") : -1] for link in sockets(pid)}
    return {inode for inode in inodes if not any(end.endswith(store) for end in ends.get(inode, (store,)))}


def maps(pid: int) -> str:
    return Path(f"/proc/{pid}/maps").read_text()


def assert_nothing_is_left(job, reached):
    for rank in reached.parked:
        pid = job.pid(rank)
        until_s = time.monotonic() + 2.0  # one that has been joined is listed until the kernel is done with it
        while GLOO_THREADS & set(threads(pid)) and time.monotonic() < until_s:
            time.sleep(0.001)
        assert not GLOO_THREADS & set(threads(pid))
        assert str(job.folder / "control") not in maps(pid)


def test_every_collective_survives_cuts_at_random_moments_bit_for_bit(launch):
    plain = launch("everything.py", ROUNDS, ranks=3, shimmed=False)
    assert plain.exits() == [0, 0, 0], plain.errors()
    job, dice, cuts = launch("everything.py", ROUNDS, ranks=3), random.Random(5), 0
    job.until(lambda: job.ports[0].view().takes_part)
    while job.runs() and cuts < CUTS_MAX:
        time.sleep(dice.random() * 0.15)
        reached = job.cut()
        if not job.runs():
            if isinstance(reached, CutReached):
                job.go(reached)  # some had ended already; the others wait for a word to end too
            break
        assert isinstance(reached, CutReached), (reached, job.errors())
        assert_nothing_is_left(job, reached)
        job.go(reached)
        cuts += len(reached.parked) == 3
    assert job.exits() == [0, 0, 0], job.errors()
    assert job.outputs() == plain.outputs()
    assert cuts >= 5
    assert job.errors() == plain.errors()


class Died(BaseException):
    """The coordinator's end: it does nothing more, not even in its `finally`."""


@dataclass
class Orders:
    """How many orders a coordinator still posts before it dies, but for those that hold."""

    left: int

    def post(self, order: Callable[..., None], *terms: object) -> None:
        if self.left == 0:
            raise Died
        self.left -= 1
        order(*terms)


@dataclass
class Line(Orders):
    """One that breaks instead: the coordinator lives, and what it posts from then on does not get there."""

    def post(self, order: Callable[..., None], *terms: object) -> None:
        if self.left == 0:
            raise OSError("its node is away")
        super().post(order, *terms)


@dataclass
class MortalPort:
    """A rank as a coordinator reaches it that dies in the middle of its orders."""

    port: LocalRank
    orders: Orders

    def view(self) -> RankView:
        return self.port.view()

    def hold(self, limits: Mapping[str, int]) -> None:
        self.port.hold(limits)

    def settle(self) -> None:
        self.orders.post(self.port.settle)

    def quiesce(self, orphans: Sequence[str]) -> None:
        self.orders.post(self.port.quiesce, orphans)

    def go(self, generation: int) -> None:
        self.orders.post(self.port.go, generation)

    def release(self, token: str) -> None:
        self.orders.post(self.port.release, token)


def cut_and_die(job, posts: int, breaks: bool) -> None:
    """The coordinator dies behind so many orders; or, where it `breaks`, its line to the ranks does."""
    orders = Line(posts) if breaks else Orders(posts)
    ports = {rank: MortalPort(port, orders) for rank, port in job.ports.items()}
    with suppress(Died, cut.LeftWaiting):
        reached = cut.reach_cut(ports, 60.0, SystemClock())
        if isinstance(reached, CutReached):
            job.generation += 1
            cut.go(ports, reached.parked, job.generation, 60.0, SystemClock())


@pytest.mark.parametrize("breaks", [False, True], ids=["dies", "line breaks"])
def test_a_coordinator_may_die_behind_any_of_its_orders(launch, breaks):
    plain = launch("everything.py", ROUNDS, ranks=3, shimmed=False)
    assert plain.exits() == [0, 0, 0], plain.errors()
    job = launch("everything.py", ROUNDS, ranks=3)
    job.until(lambda: job.ports[0].view().takes_part)
    for posts in (2, 4, 5, 6, 7, 8, 9, 4):  # three times settle, three times quiesce, and three times go
        cut_and_die(job, posts, breaks)
        waiting = cut.take_up(job.ports, SystemClock())
        assert waiting == ((0, 1, 2) if 4 <= posts <= 6 else ()), posts
        again = CutReached(waiting) if waiting else job.cut()
        assert isinstance(again, CutReached), (posts, again, job.errors())
        job.go(again)
    assert job.exits() == [0, 0, 0], job.errors()
    assert job.outputs() == plain.outputs()


def test_a_rank_that_does_not_come_is_named_and_the_job_runs_on(launch, tmp_path):
    job = launch("corners.py", "late", str(tmp_path))
    job.until(lambda: collectives_launched(job.controls[0]).get("0#1") == 4)  # the making, and three
    refused = job.cut(deadline_s=1.0)
    assert refused == CutFailed(
        1, "rank 1 has not reached collective 3 of the default group within 1 s; its peers have begun it"
    )
    assert all(port.view().state is not RankState.READY for port in job.ports.values())
    (tmp_path / "come").touch()
    assert job.exits() == [0, 0], job.errors()
    assert job.outputs() == ["0 [1.0, 1.0, 1.0]\n1 [3.0, 3.0, 3.0]\n2 [5.0, 5.0, 5.0]\n"] * 2


def test_time_spent_held_does_not_count_against_a_programs_timeouts(launch, tmp_path):
    job = launch("corners.py", "held_long", str(tmp_path))
    job.until(lambda: all(len(port.view().sequences) == 2 for port in job.ports.values()))
    reached = job.cut()
    assert reached == CutReached(parked=(0, 1))
    assert_nothing_is_left(job, reached)
    time.sleep(2.5)
    job.go(reached)
    (tmp_path / "enough").touch()
    assert job.exits() == [0, 0], job.errors()


def test_a_caller_whose_peer_has_died_is_kept_inside_until_judged(launch, tmp_path):
    for where in ("plain", "ddp"):
        (tmp_path / where).mkdir()
        job = launch("corners.py", "lost", str(tmp_path / where))
        job.until(lambda: job.ports[0].view().fault is not None)
        assert "peer" in job.ports[0].view().fault
        assert job.processes[0].poll() is None
        job.ports[0].verdict("raise")
        assert job.exits() == [3, 9], job.errors()
        assert job.outputs()[0] == "raised True\n"


def test_a_forked_child_does_not_act_as_the_rank(launch, tmp_path):
    job = launch("corners.py", "forked", str(tmp_path))
    job.until(lambda: all("child" in out for out in job.outputs()))
    child = int(job.outputs()[0].split()[1])
    reached = job.cut()
    assert reached == CutReached(parked=(0, 1))
    assert_nothing_is_left(job, reached)
    assert str(job.folder / "control") not in maps(child)
    assert not group_sockets(child)
    job.go(reached)
    (tmp_path / "enough").touch()
    assert job.exits() == [0, 0], job.errors()
    assert all(out.endswith("child ended 0\n") for out in job.outputs())


def test_memory_that_a_program_has_freed_is_given_back_before_it_is_frozen(launch, tmp_path):
    job = launch("corners.py", "freed", str(tmp_path))
    job.until(lambda: all("freed" in out for out in job.outputs()))
    before = [anonymous_mb(job.pid(rank)) for rank in (0, 1)]
    reached = job.cut()
    assert reached == CutReached(parked=(0, 1))
    assert all(mb - anonymous_mb(job.pid(rank)) > 40 for rank, mb in enumerate(before))
    job.go(reached)
    (tmp_path / "enough").touch()
    assert job.exits() == [0, 0], job.errors()


def anonymous_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Anonymous:")) / 1024


def test_compiled_programs_go_through_the_shim_too(launch, tmp_path):
    job = launch("corners.py", "compiled", str(tmp_path))
    assert job.exits() == [0, 0], job.errors()
    said = "[7.0, 7.0] [6.0, 6.0]\n[[1.0, 1.0, 1.0]]\nTrue\n[0.0, 0.0, 1.0, 1.0]\n"
    assert job.outputs() == [said, said]
