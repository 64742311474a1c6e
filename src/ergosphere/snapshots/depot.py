"""A home's store with the vaults in it: opened once per process, by server and agents alike."""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ergosphere import system
from ergosphere.snapshots import settings as all_settings
from ergosphere.snapshots.errors import (
    Damaged,
    MissingKey,
    Refused,
    SnapshotError,
    StoreFull,
    StoreUnreachable,
    TooNew,
    WrongKey,
)
from ergosphere.snapshots.gate import Claim, Gate
from ergosphere.snapshots.keys import KeyRing, load_keys
from ergosphere.snapshots.opening import StoreOptions, create_store, open_store
from ergosphere.snapshots.sealed_store import SealedStore, fleet_sealer
from ergosphere.snapshots.settings import StoreSettings
from ergosphere.snapshots.store import Store
from ergosphere.snapshots.vault import Vault, open_vault
from ergosphere.snapshots.vault_head import require_head, vault_roots
from ergosphere.snapshots.wrappers import Limit

NO_KEY: Final = "set ERGO_KEY or ERGO_KEY_FILE to the key it was made with; docs/operations/lost-key.md"
NO_DEFAULT: Final = (
    "add the line `default = 64 hex digits` (openssl rand -hex 32 makes them for a new store; one that is in use needs "
    "its own); docs/operations/lost-key.md"
)


@dataclass(slots=True)
class Depot:
    """`vault(project)` is one object per project: its index is in memory."""

    store: Store
    url: str
    ring: KeyRing | None = None
    settings: StoreSettings = field(default_factory=StoreSettings)
    _vaults: dict[str, Vault] = field(default_factory=dict)
    _opening: threading.Lock = field(default_factory=threading.Lock)

    def vault(self, project: str) -> Vault:
        """The chunks of a project. Errors: MissingKey, WrongKey, Damaged, TooNew, StoreError."""
        with self._opening:
            if project not in self._vaults:
                self._vaults[project] = open_vault(self.store, project, self.ring)
            return self._vaults[project]

    def vaults(self) -> tuple[list[Vault], dict[str, SnapshotError]]:
        """Every vault of the store; of those that cannot be opened, by place, why not. Errors: StoreError."""
        opened: list[Vault] = []
        closed: dict[str, SnapshotError] = {}
        known = {vault.root: vault for vault in list(self._vaults.values())}
        for root in vault_roots(self.store):
            try:
                opened.append(known.get(root) or self.vault(require_head(self.store, root).project))
            except (Damaged, MissingKey, Refused, TooNew, WrongKey) as error:
                closed[root] = error
        return opened, closed


def open_depot(home: Path, cache: Path | None = None, scratch: Path | None = None) -> Depot:
    """The store of a home as `store.json` says, its folder made where it is the home's own.

    `cache`: a folder for what was read from a store that is far away. `scratch`: one on a disk, for large files while
    they are encrypted; None for the system's own. Errors: SnapshotError.
    """
    return open_with(home, all_settings.load(home), cache, scratch)


def open_with(home: Path, settings: StoreSettings, cache: Path | None = None, scratch: Path | None = None) -> Depot:
    """The store that these settings name. One that is away or full is let in later: see `gate`.

    Errors: MissingKey, WrongKey, Refused (another home's), SnapshotError.
    """
    url = all_settings.url_of(home, settings)
    if not settings.url:
        create_store(url)
    ring = _keys(settings)
    key = ring.fleet() if ring is not None else None
    if key is None and settings.shared and not settings.plain:
        raise _missing(url, ring)
    options = StoreOptions(cache=cache if settings.url else None, limit=Limit(settings.upload_bytes_per_s))
    gate = Gate(open_store(url, options), Claim(all_settings.home_id(home), str(home), key))
    with suppress(StoreUnreachable, StoreFull):
        gate.open()
    store = gate if key is None else SealedStore(gate, fleet_sealer(key), scratch)
    return Depot(store, url, ring, settings)


def _missing(url: str, ring: KeyRing | None) -> MissingKey:
    if ring is None:
        return MissingKey(f"the shared store {url} wants a key, and there is none", NO_KEY)
    given = ", ".join(sorted(ring.keys))
    return MissingKey(
        f"the shared store {url} wants a key for what belongs to no project, and for projects without one of their "
        f"own: the key file has no `default`, only {given}",
        NO_DEFAULT,
    )


def _keys(settings: StoreSettings) -> KeyRing | None:
    """The environment's first, then the key file that `ergo up` was told of or made."""
    text, path = system.store_key()
    named = path or (Path(settings.key_file) if settings.key_file and not text else None)
    return load_keys(text, named)
