"""The seam to whatever supplies nodes: `local` here, Ray later."""

from __future__ import annotations

from typing import Protocol


class Engine(Protocol):
    """Supplies agents. The server never talks to them through this; they call the server."""

    def nodes(self) -> dict[str, int]:
        """The nodes it supplies and how many devices each has."""
        ...

    def ensure(self) -> None:
        """Start what is not running. Quick, and called twice a second."""
        ...

    def stop(self) -> None:
        """Stop every agent, also those that an earlier server started; `ensure` does nothing from now on."""
        ...
