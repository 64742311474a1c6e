"""What is simulated: works (jobs as a trace tells them) and traces. Values only; `reading` reads files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from ergosphere.core.model import Tier

WEEK_S: Final = 7 * 86_400.0


@dataclass(frozen=True, slots=True)
class Work:
    """One job of a trace. `duration_s` is what it takes on all the devices it asks for, undisturbed.

    `devices_min`: the fewest it can run on (spliced), a divisor of `devices`; equal to `devices` when it is rigid.
    `speeds`: device types it can use, each with its speed beside the one that `duration_s` was measured on; () is any
    type at 1. `after`: ids that must have ended first. `regions`: where it may run, () is anywhere; where its data lies
    is tried first; `memory_gib`: of each device. `line`: where it was read.
    """

    id: str
    submit_s: float
    duration_s: float
    devices: int
    devices_min: int
    tier: Tier = Tier.BASIC
    project: str = "default"
    speeds: tuple[tuple[str, float], ...] = ()
    after: tuple[str, ...] = ()
    model: str = ""
    deadline_s: float | None = None
    service: str = ""  # it is a replica of this service, and never ends
    regions: tuple[str, ...] = ()
    data_region: str = ""
    memory_gib: float = 0.0
    tier_named: bool = False  # the trace says its tier: another seed does not deal another
    line: int = 0

    @property
    def device_seconds(self) -> float:
        return self.devices * self.duration_s


@dataclass(frozen=True, slots=True)
class Trace:
    """Works in the order of their submission, the first at or after second 0."""

    name: str
    works: tuple[Work, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def span_s(self) -> float:
        """From second 0 to the last submission."""
        return max((one.submit_s for one in self.works), default=0.0)

    @property
    def device_seconds(self) -> float:
        return sum(one.device_seconds for one in self.works)

    @property
    def demand(self) -> float:
        """Mean devices asked for: all the work over the time in which it was submitted."""
        return self.device_seconds / self.span_s if self.span_s else float(max(self.widest, 1))

    @property
    def widest(self) -> int:
        return max((one.devices for one in self.works), default=0)


def smallest_part(devices: int, share_max: int = 4) -> int:
    """The fewest devices a job of `devices` ranks runs on when up to `share_max` of them share one."""
    return min(part for part in range(1, devices + 1) if devices % part == 0 and devices // part <= share_max)


def rigid(works: Sequence[Work]) -> tuple[Work, ...]:
    """The same works, none of which can be shrunk."""
    return tuple(replace(one, devices_min=one.devices) for one in works)
