"""Who plays: the four programs of `examples/`, how long each is, and what befalls it. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ergosphere.cli.verifying.blows import Blow, Kind

REQUESTS: Final = 400  # of the client outside
PREEMPTED_AT: Final = 0.20  # of chargpt's output: then the premium job arrives
ONE_DEVICE: Final = 0.99  # of the sizes it does not have, largest first, the last
ALL_DEVICES: Final = 0.0
URGENT: Final = (
    "sh",
    "-c",
    'echo "rank $RANK of $WORLD_SIZE: urgent work begins"; sleep 2; echo "rank $RANK: done"',
)


@dataclass(frozen=True, slots=True)
class Role:
    """One job. `port`: it is a server, and a client outside asks it `REQUESTS` times over one connection.

    `exact`: more than two ranks whose sums are folded in rank order, so that its undisturbed run is one under ergo.
    """

    name: str
    what: str
    command: tuple[str, ...]
    tier: str
    blows: tuple[Blow, ...]
    port: int = 0
    exact: bool = False


def cast(port: int) -> tuple[Role, ...]:
    """The four programs; `port` is free on this machine."""
    return (
        Role(
            "digits",
            "DDP on handwritten digits, 4 ranks",
            ("torchrun", "--nproc-per-node", "4", "digits_ddp.py", "--steps", "140"),
            "standard",
            (
                Blow(Kind.SNAPSHOT, 0.10, 0),
                Blow(Kind.RESIZE, 0.18, ONE_DEVICE),
                Blow(Kind.KILL_RANK, 0.35, 0.6),
                Blow(Kind.RESIZE, 0.55, ALL_DEVICES),
                Blow(Kind.MOVE, 0.75, 0),
            ),
            exact=True,
        ),
        Role(
            "chargpt",
            "character-level GPT, DataLoader workers",
            ("python", "chargpt.py", "--steps", "115", "--save-every", "30", "--sample", "120"),
            "basic",
            (Blow(Kind.PAUSE, 0.50, 0.9), Blow(Kind.MOVE, 0.80, 0)),
        ),
        Role(
            "serve",
            "HTTP inference server, a client outside",
            ("python", "serve.py", "--port", str(port), "--steps", "200"),
            "standard",
            (Blow(Kind.MOVE, 0.20, 0), Blow(Kind.KILL_AGENT, 0.45, 0.6), Blow(Kind.MOVE, 0.70, 0)),
            port,
        ),
        Role(
            "primes",
            "a shell script: sh, awk, tee, sort",
            ("sh", "primes.sh", "--steps", "160"),
            "standard",
            (
                Blow(Kind.SNAPSHOT, 0.10, 0),
                Blow(Kind.KILL_RANK, 0.25, 0),
                Blow(Kind.KILL_SERVER, 0.45, 0.5),
                Blow(Kind.MOVE, 0.70, 0),
            ),
        ),
    )
