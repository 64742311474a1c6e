"""One sweep of a vault at a time: of two, one would spare what the other deletes. Writers neither take nor heed it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from ergosphere.snapshots.errors import Busy, NotFound, StoreFull
from ergosphere.snapshots.vault import Vault
from ergosphere.system import fresh_bytes

SWEEP_S_MAX: Final = 6 * 3600.0  # a sweep that has not ended by then has died
TOKEN_SIZE: Final = 8  # bytes


@contextmanager
def alone(vault: Vault, home: str) -> Iterator[bool]:
    """Hold the lock. False: the store has no room for it, and nobody else holds it; then only delete.

    `home`: whose sweep this is, "" for nobody's. A home sweeps once at a time, so a lock of its own that it finds is
    one of an earlier life, and is taken over. Errors: Busy, StoreError.
    """
    token = f"{home} {fresh_bytes(TOKEN_SIZE).hex()}".encode()
    held = _take(vault, token, home)
    try:
        yield held
    finally:
        if held and _holder(vault) == token:  # another has taken it over, if this sweep took too long
            vault.store.delete(_key(vault))


def _take(vault: Vault, token: bytes, home: str) -> bool:
    try:
        if vault.store.put(_key(vault), token, if_absent=True):
            return True
        found = _holder(vault)
        if found == token:  # a put whose answer was lost, made again
            return True
        if found is None:
            raise Busy("another sweep of this store has ended this moment", "try again")
        _check_abandoned(vault, found, home)
        return vault.store.put(_key(vault), token)
    except StoreFull:
        found = _holder(vault)
        if found is not None:
            _check_abandoned(vault, found, home)
        return False


def _check_abandoned(vault: Vault, found: bytes, home: str) -> None:
    """Errors: Busy (the lock is another home's, and not old enough to be that of a dead sweep)."""
    if home and found.startswith(f"{home} ".encode()):
        return
    key = _key(vault)
    age_s = vault.now_s() - next((s.written_s for s in vault.store.list(key) if s.key == key), 0.0)
    if age_s < SWEEP_S_MAX:
        raise Busy("another sweep of this store is under way", f"try again later (it began {age_s:.0f} s ago)")


def _holder(vault: Vault) -> bytes | None:
    try:
        return vault.store.get(_key(vault))
    except NotFound:
        return None


def _key(vault: Vault) -> str:
    return f"{vault.root}/sweeping"
