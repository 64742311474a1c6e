"""Tiers for traces that have none: a seeded hash of the job's id, the same in any process and for any order."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from ergosphere.core.model import Tier
from ergosphere.sim.works import Work

MIX: Final[Mapping[Tier, float]] = {Tier.PREMIUM: 0.2, Tier.STANDARD: 0.3, Tier.BASIC: 0.5}  # shares of the jobs


def drawn(key: str, seed: int) -> float:
    """A number in [0, 1) that `key` and `seed` alone decide."""
    digest = hashlib.blake2b(f"{seed}:{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def tier_of(key: str, seed: int, mix: Mapping[Tier, float] = MIX) -> Tier:
    """The tier that `key` falls into; the shares of `mix` add up to 1."""
    left = drawn(key, seed)
    for tier, share in mix.items():
        if left < share:
            return tier
        left -= share
    return list(mix)[-1]


def assign(works: Sequence[Work], seed: int, mix: Mapping[Tier, float] = MIX) -> tuple[Work, ...]:
    """Every work with a tier by the hash of its id."""
    return tuple(replace(one, tier=tier_of(one.id, seed, mix)) for one in works)
