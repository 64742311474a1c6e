"""`ergo up --store …`: where a home keeps its snapshots, under which key, how fast and in how much memory."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ergosphere.cli.errors import CliError, ExitCode

if TYPE_CHECKING:
    from ergosphere.snapshots.settings import StoreSettings

LEDGER: Final = "server/ledger.db"
DEFAULT_STORE: Final = "home"  # what is typed to go back to the home's own folder


@dataclass(frozen=True, slots=True)
class StoreSaid:
    """What was typed; None: as before."""

    url: str | None = None
    key_file: str | None = None
    plain: bool | None = None
    upload_limit: str | None = None
    image_memory: str | None = None

    @property
    def anything(self) -> bool:
        return any(value is not None for value in (self.url, self.key_file, self.plain)) or bool(
            self.upload_limit or self.image_memory
        )


@dataclass(frozen=True, slots=True)
class StoreChosen:
    """The settings as they are now, and what their owner must know."""

    settings: StoreSettings
    notes: tuple[str, ...] = ()


def choose(home: Path, said: StoreSaid, environment: Mapping[str, str], folder: Path) -> StoreChosen:
    """Settle where snapshots go, make a key where one is needed, open the store once to see that it answers.

    Nothing is kept when that fails. Raises CliError.
    """
    from ergosphere.snapshots import settings as kept
    from ergosphere.snapshots.errors import SnapshotError

    try:
        before = kept.load(home)
        now = _overlaid(before, said, folder)
        _refuse_another(home, before, now)
        now, notes = _with_key(home, now, environment)
        if now.url:
            _try(home, now)
        kept.save(home, now)
    except SnapshotError as fault:
        raise CliError(fault.cause, fault.remedy, ExitCode.FAILED) from None
    return StoreChosen(now, notes)


def _overlaid(before: StoreSettings, said: StoreSaid, folder: Path) -> StoreSettings:
    now = before
    if said.url is not None:
        now = replace(now, url=_url(said.url, folder))
    if said.key_file is not None:
        now = replace(now, key_file=str((folder / said.key_file).absolute()))
    if said.plain is not None:
        now = replace(now, plain=said.plain)
    if said.upload_limit is not None:
        now = replace(now, upload_bytes_per_s=_bytes("--upload-limit", said.upload_limit.removesuffix("/s")))
    if said.image_memory is not None:
        now = replace(now, image_bytes_max=_bytes("--image-memory", said.image_memory))
    return now


def _url(text: str, folder: Path) -> str:
    if not text:
        remedy = f"write a folder or a URL; `--store {DEFAULT_STORE}` means the home's own folder"
        raise CliError("--store '' names no store", remedy, ExitCode.USAGE)
    if text == DEFAULT_STORE:
        return ""
    return text if "://" in text else str((folder / text).absolute())


def _bytes(flag: str, text: str) -> int | None:
    from ergosphere.cli.words import bytes_count

    if text == "none":
        return None
    try:
        return bytes_count(text)
    except ValueError as fault:
        raise CliError(f"{flag}: {fault}", "", ExitCode.USAGE) from None


def _refuse_another(home: Path, before: StoreSettings, now: StoreSettings) -> None:
    """The jobs of a home lie in its store: another one would have none of them."""
    if before.url == now.url or not (home / LEDGER).exists():
        return
    where = before.url or f"{home}/store"
    remedy = "use another home (ERGO_HOME) for another store, and bring snapshots over with `ergo snapshot export`"
    raise CliError(f"this home keeps its snapshots in {where}, and its jobs live by them", remedy, ExitCode.REFUSED)


def _with_key(home: Path, now: StoreSettings, environment: Mapping[str, str]) -> tuple[StoreSettings, tuple[str, ...]]:
    """A shared store is encrypted: under the key that is there, else under one that is made now."""
    from ergosphere.snapshots.settings import KEY_FILE

    if not now.shared or now.plain or environment.get("ERGO_KEY") or environment.get("ERGO_KEY_FILE"):
        return now, ()
    if now.key_file:
        return now, ()
    path = home / KEY_FILE
    if not path.exists():
        make_key(path, "the key of this home's snapshots; whoever has it can read them all")
    note = f"the store is encrypted with the key in {path}: keep a copy elsewhere, without it nothing can be read again"
    return replace(now, key_file=str(path)), (note,)


def make_key(path: Path, remark: str) -> None:
    """A fresh key in a file of its own (absent), for its owner's eyes. Errors: OSError."""
    from ergosphere import system

    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(f"# {remark}\n")
        file.write(f"default = {system.fresh_bytes(32).hex()}\n")


def _try(home: Path, now: StoreSettings) -> None:
    """The store answers, and the key opens it. Errors: SnapshotError."""
    from ergosphere.snapshots.depot import open_with
    from ergosphere.snapshots.opening import create_store

    create_store(now.url)
    depot = open_with(home, now)
    depot.vault("default")
