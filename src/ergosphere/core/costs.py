"""What a freeze, thaw or upload will take, told from those that were measured. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

FIXED_S: Final = 0.3  # of a freeze or thaw that does not grow with its bytes: cut, CRIU's start, network, groups
UNKNOWN_S: Final = 1.0  # where nothing was ever measured
FEW: Final = 5  # the newest measurements that count


@dataclass(frozen=True, slots=True)
class Sample:
    """One measured freeze, thaw or upload: what it moved and how long it took."""

    bytes: int
    seconds: float


def predict(own: Sequence[Sample], node: Sequence[Sample], bytes_now: int | None = None) -> float:
    """Seconds that the next one will take. `own`: of the job; `node`: of any job on that node; the newest few of each.

    Each measurement is scaled to `bytes_now`, but for its fixed part; their median is taken, so that
    one slow day does not count for long. What the job itself has shown goes before what its node has shown of others.
    """
    samples = own or node
    if not samples:
        return UNKNOWN_S
    return median(_scaled(sample, bytes_now) for sample in samples)


def thaw_there_s(thaw_s: float, upload_s: float, *, away: bool) -> float:
    """Seconds from the end of a freeze to the end of the thaw behind it. `away`: on a machine that shares no memory
    with the one where it was frozen, so that the images come through the store.
    """
    return thaw_s + (upload_s if away else 0.0)


def remote_in_s(freeze_s: float, uploads_s: Iterable[float]) -> float:
    """Seconds until all that is frozen on a node now is in the store: its uploads go one after the other."""
    return freeze_s + sum(uploads_s)


def _scaled(sample: Sample, bytes_now: int | None) -> float:
    if bytes_now is None or sample.bytes <= 0:
        return sample.seconds
    fixed_s = min(FIXED_S, sample.seconds)
    return fixed_s + (sample.seconds - fixed_s) * bytes_now / sample.bytes
