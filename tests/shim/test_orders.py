"""No order of collectives, messages and store calls that plain Gloo ends makes ranks on one device wait for ever."""

from __future__ import annotations

import time

import pytest

ORDERS = "many_under_way,many_before_a_message,reduction_in_a_backward_hook,waits_in_the_store"
SHARED, OWN = ("a/0", "a/0"), ("a/0", "a/1")
LONG_S = 100.0  # twice 8 turns that nobody hands over take half a minute; a busy machine takes its time beside that


def test_orders_that_gloo_ends_are_ended_on_a_shared_device(launch):
    plain = launch("orders.py", ORDERS, shimmed=False)
    assert plain.exits() == [0, 0], plain.errors()
    began_s = time.monotonic()
    job = launch("orders.py", ORDERS, devices=SHARED)
    assert job.exits() == [0, 0], job.errors()
    assert job.outputs() == plain.outputs()
    assert time.monotonic() - began_s < LONG_S, "the wait for a turn does not grow"


@pytest.mark.parametrize("devices", [SHARED, OWN], ids=["shared", "own"])
def test_the_timeout_of_a_group_holds_for_our_own_sums(launch, devices):
    job = launch("orders.py", "a_peer_that_never_comes", devices=devices)
    assert job.exits() == [0, 0], job.errors()
    assert job.outputs()[0] == "True True\n"
