"""`make chaos`: the storm for as long as it is told. The seed is printed; the same seed gives the same blows."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from tests.chaos.storm import Force, Storm

from ergosphere import system
from ergosphere.agent import provision
from ergosphere.cli.desk import Desk
from ergosphere.cli.errors import CliError
from ergosphere.cli.verifying.command import ended_in_order
from ergosphere.cli.verifying.fleet import Shape, private_fleet
from ergosphere.cli.verifying.ranks import sitting_on

SHAPE = Shape(nodes=2, devices=5)
LEFT_S_MAX = 30.0  # until what ended jobs leave behind is cleared away


def tools() -> Path:
    """A folder with a CRIU that works: as `make` provisions it, else as `ergo setup` does."""
    places = [Path(sys.prefix) / "criu", system.home() / "criu"]
    found = next((place for place in places if provision.find(place) is not None), None)
    if found is None:
        provision.provision(places[-1])
    return found or places[-1]


def storm(seed: int, force: Force, say=print) -> Storm:
    """One storm in a fleet of its own. On faults the fleet's folder is kept, and said where."""
    environment = system.environment()
    search = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", os.defpath)])
    here = Desk({**environment, "PATH": search}, system.home(), Path.cwd(), system.SystemClock())
    with tempfile.TemporaryDirectory(prefix="ergo-plain-") as folder, private_fleet(here, tools(), SHAPE) as fleet:
        made = Storm(fleet, system.dice(seed), say, Path(folder))
        fleet.keep = True  # unless it ends well
        try:
            made.blow(force)
        except CliError as fault:
            made.faults.append(f"{fault.cause}; {fault.remedy}")
        made.faults += leftovers(fleet)
        fleet.keep = bool(made.faults)
        if fleet.keep:
            made.note(f"the fleet's folder is kept: {fleet.home}")
    return made


def leftovers(fleet) -> list[str]:
    """Cells that are still there although every job has ended."""
    end_s = fleet.clock.monotonic() + LEFT_S_MAX
    while left := [f"{cell} is still on {node}" for node in fleet.nodes for cell in sitting_on(fleet, node)]:
        if fleet.clock.monotonic() > end_s:
            return left
        fleet.clock.sleep(0.2)
    return []


def main() -> int:
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--kills", type=int, default=1_000_000, help="stop after that many")
    parser.add_argument("--apart", type=float, default=1.5, help="seconds between two blows, on average")
    parser.add_argument("--node-loss", type=float, default=0.04, help="how often a blow takes a whole node")
    options = parser.parse_args()
    seed = system.fresh_seed() if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    force = Force(options.kills, options.minutes * 60, options.apart, options.node_loss)
    with ended_in_order():
        made = storm(seed, force, lambda line: print(line, flush=True))
    kinds = ", ".join(f"{count} × {kind}" for kind, count in made.dealt.items())
    print(f"\nseed {seed}: {made.kills} kills ({kinds}); {made.recoveries} recoveries, {made.moves} moves")
    print(f"{made.compared} jobs compared with their plain runs, {len(made.faults)} faults")
    for fault in made.faults:
        print(f"  ✗ {fault}")
    return 1 if made.faults else 0


if __name__ == "__main__":
    sys.exit(main())
