"""Where a command stands: clock, environment, folders and the way to the server. Made once per command."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ergosphere import system
from ergosphere.cli.api import Client, Door, find_door
from ergosphere.cli.errors import CliError, ExitCode


@dataclass(frozen=True, slots=True)
class Desk:
    """What every command is handed instead of reaching for it."""

    environment: Mapping[str, str]
    home: Path
    folder: Path
    clock: system.Clock

    def door(self) -> Door:
        """Address and token, read anew: a restarted server may listen elsewhere."""
        return find_door(self.home, self.environment)

    def client(self) -> Client:
        """A connection to the server, made when first used."""
        return Client(self.door())


def desk() -> Desk:
    """This process's desk. Raises CliError where it stands nowhere."""
    try:
        folder = Path.cwd()
    except FileNotFoundError:
        raise CliError("the folder you are in is not there any more", "go to another one", ExitCode.USAGE) from None
    return Desk(system.environment(), system.home(), folder, system.SystemClock())
