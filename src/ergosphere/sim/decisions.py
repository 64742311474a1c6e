"""What only rivals order: schedulers without snapshots end a job and start it again."""

from __future__ import annotations

from dataclasses import dataclass

from ergosphere.core.model import JobId


@dataclass(frozen=True, slots=True)
class Evict:
    """End it and let it wait again. `saved`: its program was asked to save first, so that no work is lost."""

    job: JobId
    saved: bool = False
