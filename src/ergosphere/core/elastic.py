"""On how many devices a job of so many ranks can run. Arithmetic only; where there is room is `policy`'s business."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

SHARE_DEFAULT: Final = 4  # ranks on one device, at most, where the owner said nothing


@lru_cache(maxsize=1024)
def sizes(ranks: int, least: int = 1, most: int | None = None) -> tuple[int, ...]:
    """The numbers of devices that `ranks` can share evenly, from `most` (default: one each) down to `least`."""
    top = ranks if most is None else min(most, ranks)
    return tuple(devices for devices in range(top, max(1, least) - 1, -1) if ranks % devices == 0)


def fewest(ranks: int, asked: int | None = None) -> int:
    """The fewest devices a job may be given: as its owner asked (`--min-devices`), else a quarter of its ranks."""
    return max(1, ranks // SHARE_DEFAULT) if asked is None else asked


def refusal(ranks: int, least: int, devices: int) -> str | None:
    """Why a job cannot run on that many devices, and on how many it can; None when it can."""
    valid = sizes(ranks, least)
    if devices in valid:
        return None
    can = f"it can run on {', '.join(map(str, reversed(valid)))}"
    those = "1 device is" if devices == 1 else f"{devices} devices are"
    if devices > ranks:
        return f"{those} more than its {ranks} ranks could use; {can}"
    if devices < least and ranks % max(1, devices) == 0:
        return f"{those} fewer than its least, {least} (--min-devices); {can}"
    return f"{ranks} ranks cannot share {devices} devices evenly; {can}"
