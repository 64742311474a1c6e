"""The demo from beginning to end: a fleet of its own, both acts, the table; nothing is left behind."""

from __future__ import annotations

import os
import shlex
import socket
import sys
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from demo import ending, play
from demo.board import PLAIN_WIDTH, board
from demo.caller import BrokenPromise
from demo.cast import Role, cast
from demo.premium import Urgent
from ergosphere import system
from ergosphere.cli.desk import Desk
from ergosphere.cli.errors import CliError, ExitCode, print_error
from ergosphere.cli.verifying.command import ended_in_order
from ergosphere.cli.verifying.fleet import Shape, private_fleet

EXAMPLES: Final = Path(__file__).parents[1] / "examples"
TOOLS: Final = Path(sys.prefix) / "criu"  # as scripts/setup.sh provisions it
FLEET: Final = Shape(nodes=2, devices=6)


def main() -> int:
    """0 when everything that is claimed was shown: see `claims.missing`."""
    here = _desk()
    began_s = here.clock.monotonic()
    try:
        with ended_in_order():
            verdicts, urgent = _verdicts(here)
    except CliError as fault:
        print_error(fault.cause, fault.remedy)
        return fault.code
    except (BrokenPromise, RuntimeError) as fault:
        print_error(str(fault))
        return ExitCode.FAILED
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; nothing is left behind\n")
        return ExitCode.INTERRUPTED
    console = Console(highlight=False)
    console = console if console.is_terminal else Console(highlight=False, width=PLAIN_WIDTH)
    unshown = ending.unshown(verdicts, urgent)
    ending.show(console, verdicts, unshown, here.clock.monotonic() - began_s)
    return ExitCode.FAILED if unshown else ExitCode.OK


def _verdicts(here: Desk) -> tuple[list[ending.Verdict], Urgent]:
    with board(here.clock) as stage, tempfile.TemporaryDirectory(prefix="ergo-demo-") as folder:
        roles = cast(_free_port())
        stage.says(opening(roles))
        stage.act("starting two nodes with six devices each, to be gone afterwards", ())
        with private_fleet(here, TOOLS, FLEET) as fleet:
            parts = play.parts_of(fleet, here, roles)
            played = play.play(fleet, parts, Path(folder), stage)
            stage.act("comparing every byte", ())
            return [ending.judge(one) for one in played.played], played.urgent


def opening(roles: Sequence[Role]) -> RenderableType:
    """Who plays, as one would type it."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 2))
    for role in roles:
        table.add_row(Text(role.name, "bold"), Text(shlex.join(role.command), "cyan"), Text(role.what, "dim"))
    title = Text("Ergosphere: four programs of examples/ that know nothing of it", "bold")
    return Group(Text(), title, Text(), table, Text())


def _desk() -> Desk:
    """As somebody's who has activated the environment of this checkout and stands in the examples' folder."""
    environment = system.environment()
    search = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", os.defpath)])
    return Desk({**environment, "PATH": search}, system.home(), EXAMPLES, system.SystemClock())


def _free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    if not TOOLS.exists():
        sys.stdout.write("run `make demo`: it sets everything up first\n")
        sys.exit(ExitCode.USAGE)
    sys.exit(main())
