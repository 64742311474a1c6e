"""`python -m bench [GROUP]`: measure one group or all; a table on the terminal, JSON under build/bench/."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from bench import elastic, mechanism, policy, simulator, store
from bench.report import Row, show, write


def judgement(quick: bool) -> list[Row]:
    """The policy and the simulator that runs it."""
    return [*policy.measure(quick), *simulator.measure(quick)]


GROUPS: dict[str, Callable[[bool], list[Row]]] = {
    "mechanism": mechanism.measure,
    "store": store.measure,
    "elastic": elastic.measure,
    "policy": judgement,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("group", nargs="?", default="all", choices=["all", *GROUPS])
    parser.add_argument("--quick", action="store_true", help="fewer and shorter runs: to see that it works")
    options = parser.parse_args()
    for name, measure in GROUPS.items():
        if options.group in ("all", name):
            rows = measure(options.quick)
            show(rows)
            write(name, rows, Path("build/bench"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
