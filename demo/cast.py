"""Who plays: the four programs of `examples/`, how long each is, and what befalls it. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ergosphere.cli.verifying.blows import Blow, Kind

REQUESTS: Final = 400  # of the client outside
PREEMPTED: Final = "chargpt"  # the one of the lowest tier, who makes room for the premium job
PREEMPTED_AT: Final = 0.20  # of its output: then the premium job arrives
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
            ("torchrun", "--nproc-per-node", "4", "digits_ddp.py", "--steps", "115"),
            "standard",
            (
                Blow(Kind.SNAPSHOT, 0.10, 0),
                Blow(Kind.RESIZE, 0.17, ONE_DEVICE),
                Blow(Kind.KILL_RANK, 0.28, 0.6),
                Blow(Kind.RESIZE, 0.42, ALL_DEVICES),  # four ranks on one device take four times as long
                Blow(Kind.MOVE, 0.65, 0),
            ),
            exact=True,
        ),
        Role(
            PREEMPTED,
            "character-level GPT, DataLoader workers",
            ("python", "chargpt.py", "--steps", "100", "--save-every", "30", "--sample", "120"),
            "basic",
            (Blow(Kind.PAUSE, 0.45, 0.9), Blow(Kind.MOVE, 0.70, 0)),
        ),
        Role(
            "serve",
            "HTTP inference server, a client outside",
            ("python", "serve.py", "--port", str(port), "--steps", "200"),
            "standard",
            (Blow(Kind.MOVE, 0.20, 0), Blow(Kind.KILL_AGENT, 0.40, 0.6), Blow(Kind.MOVE, 0.60, 0)),
            port,
        ),
        Role(
            "primes",
            "a shell script: sh, awk, tee, sort",
            ("sh", "primes.sh", "--steps", "140"),
            "standard",
            (
                Blow(Kind.SNAPSHOT, 0.10, 0),
                Blow(Kind.KILL_RANK, 0.25, 0),
                Blow(Kind.KILL_SERVER, 0.45, 0.5),
                Blow(Kind.MOVE, 0.65, 0),
            ),
        ),
    )
