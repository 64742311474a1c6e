"""What an owner said about a job, before anything is filled in: by flags, by a file, or by both. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace

from ergosphere.cli.errors import CliError, ExitCode


@dataclass(frozen=True, slots=True)
class Draft:
    """None or empty means: nothing was said. Times in seconds; `mounts` as typed, `PATH[:rw]`."""

    command: tuple[str, ...] = ()
    name: str | None = None
    project: str | None = None
    tier: str | None = None
    ranks: int | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    export: str | None = None
    workdir: str | None = None
    mounts: tuple[str, ...] = ()
    network: str | None = None
    threads: int | None = None
    snapshot_every_s: float | None = None
    max_restarts: int | None = None
    hold_s: float | None = None
    grace_s: float | None = None
    signal: str | None = None  # without its SIG
    after: tuple[str, ...] = ()
    array: tuple[int, ...] = ()
    replicas: tuple[int, int] | None = None
    deadline_s: float | None = None  # seconds since the epoch
    min_devices: int | None = None
    exact: str | None = None
    keep_snapshots: int | None = None
    types: Mapping[str, float] = field(default_factory=dict)  # device types and their speeds
    regions: tuple[str, ...] = ()
    data: str | None = None
    gpus: str | None = None  # as typed, `TYPE:N`


def overlay(below: Draft, above: Draft) -> Draft:
    """`below` with everything that `above` says; environments and mounts add up."""
    said = {f.name: value for f in fields(above) if (value := getattr(above, f.name)) not in (None, (), {})}
    said["env"] = {**below.env, **above.env}
    said["mounts"] = (*below.mounts, *above.mounts)
    return replace(below, **said)


def parse_pairs(pairs: tuple[str, ...], environment: Mapping[str, str]) -> dict[str, str]:
    """`-e K=V` as given; `-e K` takes the submitter's own value. Raises CliError (USAGE)."""
    found = {}
    for pair in pairs:
        name, is_set, value = pair.partition("=")
        if not name.isidentifier():
            raise CliError(f"-e {pair}: {name!r} is no variable name", "write -e NAME=VALUE", ExitCode.USAGE)
        if not is_set and name not in environment:
            raise CliError(f"-e {name}: it is not set here", f"write -e {name}=VALUE", ExitCode.USAGE)
        found[name] = value if is_set else environment[name]
    return found
