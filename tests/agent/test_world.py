"""The variables by which ranks find each other, in a network of their own and in the host's."""

from __future__ import annotations

from ergosphere.agent import world
from ergosphere.core.launcher import MASTER_PORT
from ergosphere.wire.agents import CellPlan, LifePlan
from ergosphere.wire.jobs import JobSpec


def plan(network: str, address: str) -> LifePlan:
    """Two ranks in two cells; the second cell's address is the next one."""
    prefix, _, last = address.rpartition(".")
    addresses = (address, f"{prefix}.{int(last) + 1}")
    cells = (
        CellPlan(index=index, ranks=(index,), node="n", devices=(index,), address=at)
        for index, at in enumerate(addresses)
    )
    spec = JobSpec(name="j", command=("x",), workdir="/", ranks=2, network=network)
    return LifePlan(job="j", incarnation=1, spec=spec, cells=tuple(cells), threads=1)


def meeting(life: LifePlan, rank: int) -> tuple[str, str, int]:
    told = world.variables(life, rank)
    return told["ERGO_ADDRESS"], told["MASTER_ADDR"], int(told["MASTER_PORT"])


def test_ranks_in_a_network_of_their_own_meet_at_the_first_cells_address_and_torchruns_port() -> None:
    life = plan("private", "10.9.0.2")
    assert [meeting(life, rank) for rank in range(2)] == [
        ("10.9.0.2", "10.9.0.2", MASTER_PORT),
        ("10.9.0.3", "10.9.0.2", MASTER_PORT),
    ]


def test_ranks_on_the_hosts_network_meet_on_loopback_at_a_port_that_other_jobs_do_not_have() -> None:
    lives = [plan("host", f"10.9.{third}.{last}") for third in range(4) for last in range(2, 250, 2)]
    for life in lives:
        assert meeting(life, 0) == meeting(life, 1) and meeting(life, 0)[:2] == ("127.0.0.1", "127.0.0.1")
    ports = {meeting(life, 0)[2] for life in lives}
    assert len(ports) == len(lives) and ports <= set(world.HOST_PORTS)
    launched = lives[0].model_copy(update={"spec": lives[0].spec.model_copy(update={"rank_env": {"MASTER_PORT": "1"}})})
    assert meeting(launched, 0)[2] == 1, "one that torchrun was given"
