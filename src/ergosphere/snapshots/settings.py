"""Where a home keeps its snapshots and how they get there: `store.json` in the home, written by `ergo up`.

It holds no secret: keys stay in their own file or in the environment, and so do an object store's credentials.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Final

from ergosphere.snapshots.errors import SnapshotError
from ergosphere.system import fresh_bytes

SETTINGS: Final = "store.json"
FOLDER: Final = "store"  # in the home, where nothing else was said
KEY_FILE: Final = "store.key"
HOME_ID: Final = "home.id"  # in the home
ID_SIZE: Final = 16  # bytes


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """`url` "": the folder `store` of the home. `key_file` "": none but what the environment names."""

    url: str = ""
    key_file: str = ""
    plain: bool = False  # a shared store without encryption, as somebody has asked for
    upload_bytes_per_s: float | None = None  # of each node; None: as fast as it goes
    image_bytes_max: int | None = None  # memory for images on each node; None: what the machine can spare

    @property
    def shared(self) -> bool:
        """Whether others than this home's account may come to its bytes: then they are encrypted."""
        return bool(self.url)


def load(home: Path) -> StoreSettings:
    """What was said last; the defaults where nothing was. Errors: SnapshotError for a file that cannot be read."""
    path = home / SETTINGS
    try:
        told = json.loads(path.read_text())
        known = {field.name for field in fields(StoreSettings)}
        return StoreSettings(**{name: value for name, value in told.items() if name in known})
    except FileNotFoundError:
        return StoreSettings()
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise SnapshotError(f"{path} cannot be read: {error}", "write it anew with `ergo up --store URL`") from error


def save(home: Path, settings: StoreSettings) -> None:
    """Keep them; the next server and agents read them."""
    aside = home / f"{SETTINGS}.new"
    aside.unlink(missing_ok=True)
    with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(asdict(settings), file, indent=1)
    aside.replace(home / SETTINGS)


def url_of(home: Path, settings: StoreSettings) -> str:
    """The URL or path to open."""
    return settings.url or str(home / FOLDER)


def home_id(home: Path) -> str:
    """What tells a home from every other, on any machine and at whatever path: made once. Errors: SnapshotError."""
    path = home / HOME_ID
    try:
        if not path.exists():
            _make_id(path)
        return path.read_text().strip()
    except OSError as error:
        raise SnapshotError(f"{path} cannot be read or made: {error.strerror}", "check the folder's owner") from error


def _make_id(path: Path) -> None:
    """Of several that make it at once one wins, and nobody reads half of it."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.{fresh_bytes(4).hex()}")
    with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(f"{fresh_bytes(ID_SIZE).hex()}\n")
    try:
        with suppress(FileExistsError):
            os.link(aside, path)
    finally:
        aside.unlink()
