"""Optimizers that do more in a step than compute: ranks of one device end as on their own, to the last bit."""

from __future__ import annotations

from tests.shim.test_splice import elastic

OWN = ("a/0", "a/1")
ONE = ("a/0", "a/0")
SHARED_LEAST = 180  # steps of those cases that can be shared


def test_whatever_a_step_does_the_ranks_of_a_device_end_as_on_their_own(launch):
    alone = launch("steps.py", devices=OWN)
    assert alone.exits() == [0] * 2, alone.errors()
    job = launch("steps.py", devices=ONE)
    assert job.exits() == [0] * 2, job.errors()
    for said, expected in zip(job.outputs(), alone.outputs()):
        wrong = [pair for pair in zip(said.splitlines(), expected.splitlines()) if pair[0] != pair[1]]
        assert not wrong and said == expected, wrong
        assert "other weights" not in said
    assert elastic(job)["steps_shared"] >= SHARED_LEAST, elastic(job)


def test_an_optimizer_with_more_or_other_tensors_is_shared_again(launch):
    job = launch("steps.py", "add_group,load_state", devices=ONE)
    assert job.exits() == [0] * 2, job.errors()
    assert elastic(job)["steps_shared"] >= 2 * (5 + 9), elastic(job)
