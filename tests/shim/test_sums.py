"""Exact sums: the same bits for every placement, type, size and form, whoever folds; and they survive cuts."""

from __future__ import annotations

import pytest
from tests.shim.sharing import (
    CROSSED,
    FOUR_HOSTS,
    ONE_DEVICE,
    OWN_DEVICES,
    TWO_DEVICES,
    TWO_HOSTS,
    UNEVEN_HOSTS,
)

PARTS = "types,forms,order,groups,disorder,blocked"
PLACEMENTS = (ONE_DEVICE, TWO_DEVICES, CROSSED, TWO_HOSTS, FOUR_HOSTS, UNEVEN_HOSTS)


@pytest.fixture(scope="module")
def alone():
    """What the program says when every rank has a device of its own."""
    return {}


@pytest.mark.parametrize("devices", PLACEMENTS, ids=lambda devices: "+".join(devices))
def test_reductions_have_the_same_bits_wherever_ranks_sit(launch, alone, devices):
    if not alone:
        undisturbed = launch("sums.py", PARTS, devices=OWN_DEVICES)
        assert undisturbed.exits() == [0] * 4, undisturbed.errors()
        alone["said"] = undisturbed.outputs()
    job = launch("sums.py", PARTS, devices=devices)
    assert job.exits() == [0] * 4, job.errors()
    assert job.outputs() == alone["said"]
