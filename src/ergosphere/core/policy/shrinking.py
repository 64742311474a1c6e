"""What a running job leaves when it goes on with fewer of its own devices. Reckoned once for each entry; pure."""

from __future__ import annotations

from ergosphere.core.policy.entry import Entry, Masks, Smaller, masks_of
from ergosphere.core.policy.seats import reshape


def on_fewer(entry: Entry, devices: int) -> Smaller | None:
    """On so many of its own devices, and those that it leaves; None where its parts cannot share them so."""
    if devices not in entry.smaller:
        placement = reshape(entry.view, frozenset(), devices)
        kept = {} if placement is None else masks_of(placement)
        left = {name: mask & ~kept.get(name, 0) for name, mask in entry.masks.items()}
        entry.smaller[devices] = None if placement is None else (placement, left)
    return entry.smaller[devices]


def spared(entry: Entry) -> Masks:
    """All devices that it would leave in one way or another."""
    if entry.spared is None:
        entry.spared = {}
        for share in entry.shape.shares:
            devices = entry.shape.ranks // share
            found = on_fewer(entry, devices) if devices < entry.devices else None
            for name, mask in found[1].items() if found is not None else ():
                entry.spared[name] = entry.spared.get(name, 0) | mask
    return entry.spared
