"""How sharing is put in words."""

from __future__ import annotations

from ergosphere.cli import sharing_text
from ergosphere.core.model import Phase, Tier
from ergosphere.wire.jobs import JobDetail, RankSharing


def job(**more: object) -> JobDetail:
    said = {
        "id": "j1",
        "name": "digits",
        "project": "default",
        "tier": Tier.STANDARD,
        "ranks": 4,
        "phase": Phase.RUNNING,
        "command": ("x",),
        "submitted_s": 0.0,
        "workdir": "/w",
        "network": "private",
        "devices": 1,
        "min_devices": 1,
    }
    return JobDetail.model_validate(said | more)


def test_devices_are_told_with_what_is_possible_and_what_was_asked() -> None:
    told = sharing_text.devices(job(devices_asked=2, resizes=1))
    assert told == "1, each shared by 4 ranks; 1 to 4 are possible; its owner asked for 2; 1 resize"
    assert sharing_text.devices(job(min_devices=4, devices=4)) == "4; never fewer; 0 resizes"
    assert sharing_text.devices(job(ranks=1)) == ""


def test_what_ranks_share_is_told_once_and_why_not_with_the_ranks_that_say_so() -> None:
    spliced = RankSharing(
        rank=0, state="spliced", exact=True, shared_bytes=156 << 20, steps_shared=120, steps_alone=5,
        check_interval_steps=1, check_ms=5.9, turn_ms=12.0,
    )  # fmt: skip
    alone = RankSharing(rank=1, state="turns", exact=True, why="its gradients differ")
    told = sharing_text.sharing(job(sharing=(spliced, alone)))
    assert told.startswith("1 spliced, 1 turns; sums in rank order; ")
    assert "held once on a device; 120 optimizer steps shared, 5 not; checked each step for 5.9 ms" in told
    assert list(sharing_text.reasons(job(sharing=(spliced, alone)))) == ["rank 1: its gradients differ"]
    assert sharing_text.sharing(job()) == ""
