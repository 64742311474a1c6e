"""Where the time of a freeze or thaw went, lap by lap."""

from __future__ import annotations

from dataclasses import dataclass, field

from ergosphere.system import Clock


@dataclass(slots=True)
class Laps:
    """Where the time of a freeze or thaw went, for the agent's log."""

    clock: Clock
    _began_s: float = field(init=False)
    _laps: list[tuple[str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._began_s = self.clock.monotonic()

    @property
    def total_s(self) -> float:
        """Seconds since the first lap began."""
        return self.clock.monotonic() - self._began_s

    @property
    def last_s(self) -> float:
        """Seconds of the last lap that has ended."""
        return self._laps[-1][1]

    def end(self, name: str) -> None:
        """A lap of that name ends now, and the next begins."""
        self._laps.append((name, self.total_s - sum(took_s for _, took_s in self._laps)))

    def __str__(self) -> str:
        return ", ".join(f"{name} {took_s:.3f} s" for name, took_s in self._laps)
