"""The share table: who of a job's ranks shares which device and which memory. The agent writes it, the ranks read it.

A JSON file beside the control file, replaced whole by a rename. Ranks look at it when they begin and at each `go`, not
in between, so that all members of a group act by the same one. What follows from it is not said here."""

from __future__ import annotations

import json
import os
from typing import Any, Final, NamedTuple, Optional

SUFFIX: Final = ".table"
EXACT: Final = ("auto", "on", "off")


class Table(NamedTuple):
    """One rank's table. Entries of `hosts` and `devices` are per rank of the job; equal names mean the same thing."""

    number: int  # rises with every change in the life of a job
    exact: str
    folder: str  # where this rank sees the folder in memory that its host's ranks share; "" where there is none
    me: int
    hosts: "list[str]"
    devices: "list[str]"

    def mates(self) -> "list[int]":
        """The ranks on this rank's device, itself among them, in order."""
        return [rank for rank, device in enumerate(self.devices) if device == self.devices[self.me]]


def path_of(control: str) -> str:
    """Where the table of the rank with that control file is."""
    return control + SUFFIX


def write(control: str, table: Table) -> None:
    """Replaces the table beside a control file. Raises ValueError for one that cannot be, OSError where disks fail."""
    _check(table)
    path = path_of(control)
    with open(path + ".new", "w") as opened:
        json.dump(table._asdict(), opened)
    os.chmod(path + ".new", 0o644)
    os.replace(path + ".new", path)


def read(control: str) -> Optional[Table]:
    """The table beside a control file; None where there is none that can be read."""
    try:
        with open(path_of(control)) as opened:
            told: "dict[str, Any]" = json.load(opened)
        table = Table(**{name: told[name] for name in Table._fields})
        _check(table)
        return table
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _check(table: Table) -> None:
    if len(table.hosts) != len(table.devices) or not 0 <= table.me < len(table.hosts):
        raise ValueError("the table names %d hosts and %d devices" % (len(table.hosts), len(table.devices)))
    if table.exact not in EXACT:
        raise ValueError("exact is one of %s, not %r" % (", ".join(EXACT), table.exact))
    places: "dict[str, str]" = {}
    for host, device in zip(table.hosts, table.devices):
        if places.setdefault(device, host) != host:
            raise ValueError("device %s lies on two hosts, %s and %s" % (device, places[device], host))
