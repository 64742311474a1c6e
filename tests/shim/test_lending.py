"""Sums that DDP's reducer reads where they lie: the same bits as with copies, whatever becomes of the backward pass."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

import pytest
import torch

from ergosphere.agent.cut import CutReached
from ergosphere.shim.ergo_shim.bell import Bell
from ergosphere.shim.ergo_shim.calls import read
from ergosphere.shim.ergo_shim.operation import Operation, Seats
from ergosphere.shim.ergo_shim.slots import Slots
from ergosphere.shim.ergo_shim.sums import GroupSums
from ergosphere.shim.ergo_shim.turn import Alive, nobody

ONE, OWN = ("a/0", "a/0"), ("a/0", "a/1")


class Ground:
    """What one rank holds of its host's folder."""

    def __init__(self, folder: str, me: int) -> None:
        self.stem = folder + "/"
        self.bell, self.turn = Bell(self.stem + "bell", me), nobody()
        self.alive, self.slots = Alive(folder, "", me), Slots(self.stem, me)

    def drop(self) -> None:
        self.slots.drop()
        self.alive.drop()
        self.bell.drop()


@pytest.fixture
def members() -> Iterator[list[GroupSums]]:
    """A group of two ranks on one device."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        grounds = [Ground(folder, me) for me in range(2)]
        found = [GroupSums(grounds[me], "g", Seats(me, [0, 1], ["a", "a"], ["0", "0"]), None) for me in range(2)]
        yield found
        for sums, ground in zip(found, grounds, strict=True):
            sums.drop()
            ground.drop()


def launched(members: list[GroupSums], number: int = 0) -> tuple[list[torch.Tensor], list[Operation]]:
    """A reduction of all ones and all twos, begun by both."""
    tensors = [torch.full((1000,), float(me + 1)) for me in range(2)]
    operations = []
    for me, (sums, tensor) in enumerate(zip(members, tensors, strict=True)):
        asked = read("allreduce", [[tensor]], {}, me, 2)
        assert asked is not None
        operations.append(sums.launch(asked, lambda: 60.0))
    return tensors, operations


def test_a_result_that_was_lent_is_not_copied_and_stays_until_it_is_given_back(members):
    tensors, operations = launched(members)
    assert members[0].lend(operations[0])
    for sums, operation in zip(members, operations, strict=True):
        sums.wait(operation, lambda: 60.0)
    assert tensors[1].eq(3).all(), "who did not borrow has a copy"
    assert tensors[0].eq(1).all(), "who did has none"
    assert operations[0].result.eq(3).all()
    assert members[1].progress_all() and not members[0].progress_all(), "no cut takes away what is being read"
    for _ in range(3):  # nobody writes there meanwhile
        for sums, operation in zip(members, launched(members)[1], strict=True):
            sums.wait(operation, lambda: 60.0)
    assert operations[0].result.eq(3).all()
    members[0].give_back(operations[0])
    assert members[0].progress_all() and operations[0].result is None


def test_who_waits_for_the_handle_itself_finds_the_result_where_he_asked_for_it(members):
    tensors, operations = launched(members)
    assert members[0].lend(operations[0])
    members[0].wait(operations[0], lambda: 60.0)
    members[0].pick_up(operations[0])
    assert tensors[0].eq(3).all()
    members[0].give_back(operations[0])


def test_what_is_given_back_before_it_is_over_ends_as_if_it_had_not_been_lent(members):
    tensors, operations = launched(members)
    assert members[0].lend(operations[0])
    members[0].give_back(operations[0])
    members[0].wait(operations[0], lambda: 60.0)
    assert tensors[0].eq(3).all() and members[0].progress_all()


def test_what_is_over_is_not_lent(members):
    _, operations = launched(members)
    members[0].wait(operations[0], lambda: 60.0)
    assert not members[0].lend(operations[0])


def test_passes_of_every_kind_give_the_bits_of_a_run_without_us(launch):
    plain = launch("lent.py", shimmed=False)
    assert plain.exits() == [0, 0], plain.errors()
    assert "no gradient for this one" in plain.outputs()[0]
    for devices in (ONE, OWN):
        job = launch("lent.py", devices=devices)
        assert job.exits() == [0, 0], job.errors()
        assert job.outputs() == plain.outputs()


def test_a_pass_that_failed_keeps_nothing_that_a_cut_would_wait_for(launch, tmp_path):
    job = launch("lent.py", str(tmp_path), devices=ONE)
    job.until(lambda: all("fails" in said for said in job.outputs()) or not job.runs())
    reached = job.cut()
    assert isinstance(reached, CutReached), (reached, job.errors())
    job.places.seat(OWN)
    job.go(reached)
    (tmp_path / "go").touch()
    assert job.exits() == [0, 0], job.errors()
    assert job.outputs()[0].splitlines()[-1].startswith("after it")


def test_ddp_borrows_every_sum_it_asks_for(launch):
    job = launch("borrows.py", devices=ONE)
    assert job.exits() == [0, 0], job.errors()
    count, every = job.outputs()[0].split()
    assert int(count) >= 6 and every == "True"
