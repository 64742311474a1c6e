"""Names that people give snapshots. A named snapshot is kept by every sweep until its name is taken away."""

from __future__ import annotations

import re
from typing import Final

from ergosphere.snapshots.errors import BadName
from ergosphere.snapshots.store import Store

NAMES: Final = "names/"
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def give_name(store: Store, freeze_id: str, name: str) -> None:
    """Errors: BadName, StoreError."""
    if not NAME.fullmatch(name):
        raise BadName(f"{name!r} cannot name a snapshot", "use letters, digits, dots, dashes; 64 at most")
    store.put(f"{NAMES}{freeze_id}", name.encode())


def take_name(store: Store, freeze_id: str) -> bool:
    """False if it had none."""
    return store.delete(f"{NAMES}{freeze_id}")


def names(store: Store) -> dict[str, str]:
    """Snapshot to name."""
    return {s.key.removeprefix(NAMES): store.get(s.key).decode(errors="replace") for s in store.list(NAMES)}
