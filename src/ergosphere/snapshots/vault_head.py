"""The head of a vault: whose it is, whether it is encrypted, and the salt without which nothing in it can be read.

Kept twice, and carrying its digest: a lost or damaged one is read from the other, and damage is told from a wrong key.
A new one is written only where nothing else lies.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Final

from blake3 import blake3

from ergosphere.snapshots.documents import BadDocument, from_plain, seal, to_plain, unseal
from ergosphere.snapshots.errors import Damaged, NotFound, Refused, TooNew, read_again
from ergosphere.snapshots.sealing import Sealer
from ergosphere.snapshots.store import Store
from ergosphere.system import fresh_bytes

VAULTS: Final = "vaults/"
VAULT_VERSION: Final = 3
EARLIER: Final = (1, 2)  # had no digest and no copy; had packs without bases
SALT_SIZE: Final = 16  # bytes
COPIES: Final = ("head.copy", "head")  # in the order they are written
SALT: Final = re.compile(r"[0-9a-f]{32}")
PAGE: Final = "docs/operations/store-damaged.md"


@dataclass(frozen=True, slots=True)
class VaultHead:
    """`salt` and `check` in hex; `check` tells a right key from a wrong one."""

    project: str
    encrypted: bool
    salt: str
    check: str

    @property
    def root(self) -> str:
        return vault_root(self.project)

    def sealer(self, key: bytes | None) -> Sealer:
        """What opens the vault, if `key` is the right one."""
        return Sealer(key if self.encrypted else None, bytes.fromhex(self.salt))

    def encode(self) -> bytes:
        return seal("vault", VAULT_VERSION, to_plain(self))


Found = VaultHead | Damaged | TooNew | Refused | None


def vault_root(project: str) -> str:
    """Below this a store keeps a project's vault. The name itself is in the vault's head."""
    return f"{VAULTS}{blake3(project.encode()).hexdigest()[:16]}"


def vault_roots(store: Store) -> list[str]:
    """Every vault that is here, even one whose head is lost. Errors: StoreError."""
    return sorted({f"{VAULTS}{stored.key.split('/')[1]}" for stored in store.list(VAULTS)})


def open_head(store: Store, project: str, key: bytes | None) -> VaultHead:
    """The head of a project's vault, made if there is no vault yet. Errors: as read_head."""
    root = vault_root(project)
    head = read_head(store, root, project)
    if head is None and any(store.list(f"{root}/")):
        head = require_head(store, root, project)  # somebody may have made it meanwhile
    return head or _make(store, project, key)


def require_head(store: Store, root: str, project: str = "") -> VaultHead:
    """The head of a vault in which something lies. Errors: as read_head; Damaged where it is lost."""
    head = read_head(store, root, project)
    if head is None:
        raise Damaged(
            f"{_name(root, project)} and its copy",
            how="are missing, and without them nothing else that lies there can be read",
            remedy=_restore(root),
        )
    return head


def read_head(store: Store, root: str, project: str = "") -> VaultHead | None:
    """The head from whichever of its two places has it; None where neither has anything. `project` "": nobody knows.

    Errors: Damaged (neither can be read, or they differ), TooNew, Refused (of an earlier version), StoreError.
    """
    found = [one for one in look(store, root, project).values() if one is not None]
    heads = [one for one in found if isinstance(one, VaultHead)]
    if len(set(heads)) > 1:
        raise Damaged(
            _name(root, project),
            how="is another one than its copy",
            remedy=f"remove the one of `{root}/head` and `{root}/head.copy` that is not of this vault; {PAGE}",
        )
    if heads or not found:
        return heads[0] if heads else None
    for one in found:
        if isinstance(one, (TooNew, Refused)):
            raise one
    raise Damaged(
        f"{_name(root, project)} and its copy",
        how="cannot be read, and without them nothing else that lies there can",
        remedy=_restore(root),
    )


def look(store: Store, root: str, project: str = "") -> dict[str, Found]:
    """By key, what lies at each of the two places: the head, what is wrong with it, or None. Errors: StoreError."""
    return {f"{root}/{name}": _look(store, f"{root}/{name}", project) for name in COPIES}


def _look(store: Store, place: str, project: str) -> Found:
    try:
        return read_again(lambda: _parse(store.get(place), place, project))
    except NotFound:
        return None
    except (Damaged, TooNew, Refused) as error:
        return error


def _make(store: Store, project: str, key: bytes | None) -> VaultHead:
    """Of several that make it at once one wins, at the first place; all others follow it at the second."""
    sealer = Sealer(key, fresh_bytes(SALT_SIZE))
    head = VaultHead(project, key is not None, sealer.salt.hex(), sealer.check())
    first, second = (f"{head.root}/{name}" for name in COPIES)
    store.put(first, head.encode(), if_absent=True)
    store.put(second, store.get(first), if_absent=True)
    return require_head(store, head.root, project)


def _parse(content: bytes, place: str, project: str) -> VaultHead:
    root = place.rpartition("/")[0]
    which = _name(root, project) if place.endswith("/head") else f"the copy of {_name(root, project)}"
    version = _version(content)
    if version in EARLIER:
        raise Refused(f"{which} has version {version}, which this program does not read any more", "begin a new store")
    try:
        head = from_plain(VaultHead, unseal(content, "vault", VAULT_VERSION, which))
    except BadDocument as error:
        raise Damaged(which, how=f"has the wrong shape ({error})") from error
    except Damaged as error:
        raise Damaged(which, how="was damaged") from error
    if not SALT.fullmatch(head.salt) or not (head.encrypted or head.sealer(None).check() == head.check):
        raise Damaged(which, how="does not hang together")
    if head.root != root:
        raise Damaged(which, how=f"is that of project {head.project}")
    return head


def _version(content: bytes) -> object:
    try:
        return json.loads(content)["version"]
    except (ValueError, KeyError, TypeError):
        return None


def _restore(root: str) -> str:
    return f"put `{root}/head` back from a backup of the store; {PAGE}"


def _name(root: str, project: str) -> str:
    return f"the head of project {project}'s vault" if project else f"the head of the vault {root}"
