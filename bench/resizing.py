"""Part of group `elastic`: how long a resize of a training job takes on one node, from the order to the first step."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from bench.fleet import Fleet, fleet, last_line, wait_until
from bench.report import Row, row

EXAMPLES = Path(__file__).parent.parent / "examples"
SETTLE_S = 3.0  # between two resizes: until the ranks share what they can
SINGULARITY = "Singularity, 16 → 8 devices: 31–69 s"


def rows(quick: bool) -> list[Row]:
    """4 → 1 and 1 → 4 of the digits example, in alternation."""
    with fleet(1, 4) as place:
        job = _submit(place)
        pairs = list(_resizes(place, job, 2 if quick else 5))
    down, up = ([pair[at] for pair in pairs] for at in (0, 1))
    return [
        row("elastic/resize/4to1", down, "s", goal=1.0, bar=3.0, against=SINGULARITY),
        row("elastic/resize/1to4", up, "s", goal=1.0, bar=3.0, against=SINGULARITY),
    ]


def _submit(place: Fleet) -> str:
    train = ("torchrun", "--nproc-per-node", "4", "digits_ddp.py", "--steps", "100000")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    place.ergo("submit", "--name", "digits", "--", *train, cwd=EXAMPLES, env={"PATH": path})
    job = str(place.job("digits", until="running", wait_s=120)["id"])
    wait_until(lambda: "step 10 " in _text(place, job))
    return job


def _resizes(place: Fleet, job: str, count: int) -> Iterator[tuple[float, float]]:
    for _ in range(count):
        yield _resize(place, job, 1), _resize(place, job, 4)


def _resize(place: Fleet, job: str, devices: int) -> float:
    """Seconds from the order to the first step that was ended after it had been carried out."""
    log = place.log_file(job)
    assert log is not None, "it runs"
    time.sleep(SETTLE_S)
    began_s = time.monotonic()
    place.verb(job, "resize", devices=devices)
    seen = last_line(log)
    wait_until(lambda: last_line(log) != seen)
    return time.monotonic() - began_s


def _text(place: Fleet, job: str) -> str:
    log = place.log_file(job)
    return log.read_text() if log else ""


if __name__ == "__main__":
    from bench.report import show

    show(rows("--quick" in sys.argv))
