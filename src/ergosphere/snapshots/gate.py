"""The gate before a store: nothing passes until the store is known to be this home's and begun with this key.

With another key, or with one where there was none, every record looks forged: a thaw would give up all snapshots of a
job as damaged, and a sweep would take what they need. A second home's sweep does not know the jobs of the first.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Final, TypeVar

from ergosphere.snapshots.blobs import BLOBS
from ergosphere.snapshots.documents import canonical, from_plain, seal, to_plain, unseal
from ergosphere.snapshots.errors import Damaged, MissingKey, NotFound, Refused, TooNew, WrongKey
from ergosphere.snapshots.keys import PAGE
from ergosphere.snapshots.records import RECORDS
from ergosphere.snapshots.results import RESULTS
from ergosphere.snapshots.sealed_store import SealedStore, fleet_sealer, is_plain_abort
from ergosphere.snapshots.sealing import Sealer, is_sealed
from ergosphere.snapshots.store import Store, Stored
from ergosphere.snapshots.vault_head import SALT_SIZE, read_head, vault_roots
from ergosphere.snapshots.wrappers import Around, Call
from ergosphere.system import fresh_bytes

T = TypeVar("T")

HEAD: Final = "head"
OWNER: Final = "owner"
HEAD_VERSION: Final = 2
OWNER_VERSION: Final = 1
SAMPLES_MAX: Final = 16  # objects of a kind that are looked at where no head says how a store was begun
SAMPLE_SIZE_MAX: Final = 1 << 20  # bytes

GIVE_KEY: Final = f"set ERGO_KEY or ERGO_KEY_FILE to the key it was begun with; {PAGE}"
TAKE_KEY: Final = (
    "go on without it (unset ERGO_KEY and ERGO_KEY_FILE, leave out --store-key and --store-encrypt), "
    f"or begin another home with it; {PAGE}"
)
OWN_STORE: Final = (
    "give each home a store of its own (`ergo up --store URL`); if that home is gone for good, remove the object "
    f"`{OWNER}` from this store and `ergo up` takes it over; docs/operations/store-damaged.md"
)


@dataclass(frozen=True, slots=True)
class StoreHead:
    """How a store was begun. `salt` and `check` in hex."""

    encrypted: bool
    salt: str
    check: str


@dataclass(frozen=True, slots=True, repr=False)
class Claim:
    """Who wants in: the home by its id, where that lies, and the fleet's key, None for a store in the clear."""

    home: str
    place: str
    key: bytes | None


class Gate(Around):
    """Closed until `open` went through; while the store is away each call tries again."""

    def __init__(self, inner: Store, claim: Claim) -> None:
        super().__init__(inner)
        self._claim = claim
        self._is_open = False

    def open(self) -> None:
        """Errors: MissingKey, WrongKey, Refused (another home's), Damaged, TooNew, StoreError."""
        check_key(self.inner, self._claim.key)
        take(self.inner, self._claim)
        self._is_open = True

    def list(self, prefix: str = "") -> Iterator[Stored]:
        """All but what is the gate's own."""
        return (stored for stored in super().list(prefix) if stored.key not in (HEAD, OWNER))

    def _do(self, call: Call, act: Callable[[], T]) -> T:
        if not self._is_open:
            self.open()
        return act()


# ── the key ────────────────────────────────────────────────────────────────────────────────────────────────────────


def check_key(store: Store, key: bytes | None) -> None:
    """Whether a store was begun with this key (None: without any); a new one is begun with it.

    Errors: MissingKey, WrongKey, TooNew, StoreError.
    """
    head = _read_head(store) or _begin(store, key)
    if head.encrypted and key is None:
        raise MissingKey("this store is encrypted, and there is no key", GIVE_KEY)
    if not head.encrypted and key is not None:
        raise WrongKey("this store was begun without a key, and with one nothing in it could be read", TAKE_KEY)
    if Sealer(key, bytes.fromhex(head.salt)).check() != head.check:
        raise WrongKey("this store was begun with another key", GIVE_KEY)


def _read_head(store: Store) -> StoreHead | None:
    """None where there is none, or none that can be read: what is in the store tells as well."""
    try:
        head = from_plain(StoreHead, unseal(store.get(HEAD), "store", HEAD_VERSION, "the head of the store"))
        bytes.fromhex(head.salt)
    except (NotFound, Damaged, ValueError):
        return None
    return head


def _begin(store: Store, key: bytes | None) -> StoreHead:
    """Write the head of a store that has none: a new one, or one from before there were heads."""
    _check_content(store, key)
    sealer = Sealer(key, fresh_bytes(SALT_SIZE))
    head = StoreHead(key is not None, sealer.salt.hex(), sealer.check())
    store.put(HEAD, seal("store", HEAD_VERSION, to_plain(head)), if_absent=not store.has(HEAD))
    return _read_head(store) or head


def _check_content(store: Store, key: bytes | None) -> None:
    """Errors: MissingKey, WrongKey where what lies in a store without a head was not written with this key."""
    strange = False
    for place, content in _samples(store):
        if not is_sealed(content):
            if key is not None:
                raise WrongKey("what is in this store was stored without a key, and one is given", TAKE_KEY)
            return
        if key is None:
            raise MissingKey("this store is encrypted, and there is no key", GIVE_KEY)
        try:
            fleet_sealer(key).unseal(content, place, place)
            return
        except Damaged:  # this one only, or all of them: the next tells
            strange = True
    if strange:
        raise WrongKey("what is in this store was stored with another key", GIVE_KEY)
    if key is not None and any(_is_plain_vault(store, root) for root in vault_roots(store)):
        raise WrongKey("the snapshots in this store are not encrypted, and a key is given", TAKE_KEY)


def _samples(store: Store) -> Iterator[tuple[str, bytes]]:
    """Some of what is written under the fleet's key where there is one: its place and its bytes."""
    for prefix in (RECORDS, RESULTS, BLOBS):
        small = (stored.key for stored in store.list(prefix) if stored.size <= SAMPLE_SIZE_MAX)
        for place in islice(small, SAMPLES_MAX):
            content = store.get(place)
            if not is_plain_abort(content):  # which anybody may write
                yield place, content


def _is_plain_vault(store: Store, root: str) -> bool:
    with suppress(Damaged, TooNew, Refused):
        head = read_head(store, root)
        return head is not None and not head.encrypted
    return False


# ── the owner ──────────────────────────────────────────────────────────────────────────────────────────────────────


def take(store: Store, claim: Claim) -> None:
    """Make the store this home's, or see that it is. Errors: Refused (another's), Damaged, StoreError."""
    book = store if claim.key is None else SealedStore(store, fleet_sealer(claim.key))
    try:
        home, place = _read_owner(book)
    except NotFound:
        said = {"ergosphere": "owner", "version": OWNER_VERSION, "home": claim.home, "place": claim.place}
        book.put(OWNER, canonical(said), if_absent=True)
        home, place = _read_owner(book)
    if home != claim.home:
        raise Refused(f"this store belongs to another home ({place}), whose jobs live by it", OWN_STORE)


def _read_owner(book: Store) -> tuple[str, str]:
    try:
        said = json.loads(book.get(OWNER))
        return str(said["home"]), str(said["place"])
    except (Damaged, ValueError, KeyError, TypeError) as error:
        raise Damaged("what says whose store this is", how="cannot be read", remedy=OWN_STORE) from error
