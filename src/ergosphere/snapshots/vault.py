"""One project's chunks in a store: opened with its key, and the index of what lies where.

Writing is in `putting`, reading in `getting`, forgetting in `collect`, checking in `fsck`. The index in the store is
only a copy: it is made again from the packs wherever it is missing or damaged.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ergosphere.snapshots.chunk_index import NOWHERE, ChunkIndex, Names, Part, decode, part_of
from ergosphere.snapshots.errors import Damaged, MissingKey, NotFound, WrongKey, read_again
from ergosphere.snapshots.keys import KeyRing
from ergosphere.snapshots.likeness import Likeness
from ergosphere.snapshots.packs import FOOT, Rows, read_table, table_span, whole_size
from ergosphere.snapshots.recipes import Recipe
from ergosphere.snapshots.recipes import decode as decode_recipe
from ergosphere.snapshots.sealing import Sealer
from ergosphere.snapshots.store import Store, Stored, now_s
from ergosphere.snapshots.vault_head import VaultHead, open_head
from ergosphere.system import fresh_bytes

INDEX_NAME_SIZE: Final = 16  # bytes

log = logging.getLogger(__name__)


def open_vault(store: Store, project: str, ring: KeyRing | None) -> Vault:
    """A project's vault, made if it is not there yet. Without a key it is made unencrypted.

    Errors: MissingKey, WrongKey, TooNew, Refused, Damaged, StoreError.
    """
    key = ring.project(project) if ring else None
    head = open_head(store, project, key)
    if head.encrypted and key is None:
        raise MissingKey(
            f"the snapshots of project {project} are encrypted", "give their key: ERGO_KEY_FILE names its file"
        )
    if not head.encrypted and key is not None:
        raise WrongKey(
            f"the snapshots of project {project} are not encrypted, and a key for them is given",
            "go on without that key, or begin another home with it; docs/operations/lost-key.md",
        )
    sealer = head.sealer(key)
    if sealer.check() != head.check:
        raise WrongKey(
            f"the snapshots of project {project} are encrypted with another key", "give the key they were stored with"
        )
    return Vault(store, head, sealer)


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """Chunks that lie in packs of one index: its rows, and which of the names asked for each of them is."""

    index: ChunkIndex
    rows: NDArray[np.int64]
    which: NDArray[np.int64]


class Vault:
    """An open vault. Any thread may use it; keep one for a project in a process."""

    def __init__(self, store: Store, head: VaultHead, sealer: Sealer) -> None:
        self.store = store
        self.head = head
        self.project = head.project
        self.sealer = sealer
        self.naming = sealer.naming
        self.root = head.root
        self._lock = threading.Lock()
        self._parts: dict[str, Part] = {}  # by index key, or pack key where no index has it
        self._known: ChunkIndex | None = None
        self._built: tuple[frozenset[str], frozenset[bytes]] = (frozenset(), frozenset())  # what `_known` is made of
        self._doubtful: ChunkIndex | None = ChunkIndex()
        self._mine: dict[bytes, int] = {}  # packs that were stored through this object, with their bytes
        self.likeness = Likeness()
        self.troubles: dict[str, str] = {}  # what could not be read of index and packs, by key

    # ── where things are ────────────────────────────────────────────────────────────────────────────────────────

    def pack_key(self, pack_id: bytes) -> str:
        name = pack_id.hex()
        return f"{self.root}/packs/{name[:2]}/{name}"

    def doomed_key(self, pack_id: bytes) -> str:
        return f"{self.root}/doomed/{pack_id.hex()}"

    def recipe_key(self, name: str) -> str:
        return f"{self.root}/recipes/{name}"

    def trail_key(self, name: str) -> str:
        """Where an upload under way says how far it has come; `name`: `<freeze>.<cell>/` and a part's own."""
        return f"{self.root}/trails/{name}"

    def list_packs(self) -> Iterator[Stored]:
        return self.store.list(f"{self.root}/packs/")

    def list_doomed(self) -> Iterator[Stored]:
        return self.store.list(f"{self.root}/doomed/")

    def list_recipes(self) -> Iterator[Stored]:
        return self.store.list(f"{self.root}/recipes/")

    def list_trails(self, name: str = "") -> Iterator[Stored]:
        return self.store.list(self.trail_key(name))

    # ── the index ───────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def index(self) -> ChunkIndex:
        """What a writer may rely on: chunks in packs that are listed and not doomed."""
        if self._known is None:
            self.refresh()
        assert self._known is not None
        return self._known

    @property
    def doubtful(self) -> ChunkIndex:
        """Chunks in every pack that is known, where some are doomed or not listed: a reader may still find them there,
        and the base of a delta may lie there while the delta itself does not. Else nothing. Made when it is asked for.
        """
        with self._lock:
            if self._doubtful is None:
                self._doubtful = ChunkIndex(self._parts.values())
            return self._doubtful

    def refresh(self) -> None:
        """Read what others wrote since. Errors: StoreError."""
        with self._lock:
            self.troubles = {}
            doomed = self.doomed()
            listed = self.pack_sizes()
            unlisted = self._find_unlisted(listed)
            self._load_parts(listed | unlisted, unlisted)
            self._rebuild((listed.keys() | unlisted.keys()) - doomed, set(listed) | self._all_packs())

    def reload(self) -> None:
        """Forget what is in memory and read everything again. Errors: StoreError."""
        with self._lock:
            self._parts, self._known = {}, None
        self.refresh()

    def doomed(self) -> set[bytes]:
        """Packs that a sweep is about to delete."""
        return {id_of(stored.key) for stored in self.list_doomed()}

    def pack_sizes(self) -> dict[bytes, int]:
        """Every pack that the store lists, with its bytes."""
        return {id_of(stored.key): stored.size for stored in self.list_packs()}

    def packs_here(self) -> dict[bytes, int]:
        """Every pack that is in the store, with its bytes: those that are listed, and those that are known and that a
        list which lags behind does not have; these are looked up one by one. Errors: StoreError.
        """
        here = self.pack_sizes()
        absent: set[bytes] = set()
        for part in self.all_parts():
            for number, pack in enumerate(part.packs):
                if pack in here or pack in absent:
                    continue
                size = self._size(pack, part.rows[part.pack == number])
                if size is None:
                    absent.add(pack)
                else:
                    here[pack] = size
        return here

    def now_s(self) -> float:
        """The store's own time. Errors: Busy, StoreError."""
        return now_s(self.store, f"{self.root}/clock")

    def publish(self, packs: list[tuple[bytes, Rows]]) -> None:
        """Store index rows of packs that are in the store already, and know them."""
        if not packs:
            return
        part = part_of(packs)
        key = self._put_part(part)
        with self._lock:
            self._parts[key] = part
            self._mine |= {pack: whole_size(rows, self.sealer) for pack, rows in packs}
            good = set(self._known.packs if self._known else ()) | set(part.packs)
            self._rebuild(good, self._all_packs())

    def rewrite_index(self, keep: set[bytes]) -> int:
        """Store all rows of the packs in `keep` as few objects, then remove the others; how many were removed.

        An index that was written meanwhile stays.
        """
        with self._lock:
            known = self._parts.keys() | self.troubles.keys()
            old = [stored.key for stored in self.store.list(f"{self.root}/index/") if stored.key in known]
            merged = ChunkIndex(self._parts.values(), without=self._all_packs() - keep)
            self._parts = {self._put_part(part): part for part in merged.parts()}
            for key in old:
                self.store.delete(key)
            self._rebuild(keep, self._all_packs())
            return len(old)

    def index_parts(self) -> int:
        """How many objects the index takes in the store, as of the last `refresh`."""
        return sum("/index/" in key for key in self._parts)

    def all_parts(self) -> list[Part]:
        with self._lock:
            return list(self._parts.values())

    def known_packs(self) -> set[bytes]:
        """Packs whose rows are known, doomed ones and vanished ones among them."""
        with self._lock:
            return self._all_packs()

    def read_rows(self, pack_id: bytes, size: int) -> Rows:
        """What a pack says it holds, without any index. Errors: Damaged, StoreError."""
        which = f"pack {pack_id.hex()}"
        key = self.pack_key(pack_id)
        foot = self.store.get_range(key, max(0, size - FOOT.size), FOOT.size)
        start, end = table_span(foot, size, which)
        return read_table(self.store.get_range(key, start, end - start), pack_id, self.sealer, which)

    def places(self, names: Names) -> tuple[list[Place], int]:
        """Where chunks lie, for a reader, in packs that will stay first; and how many are nowhere.

        What others wrote is read first where one is not known. Errors: StoreError.
        """
        if (self.index.find(names) == NOWHERE).any():
            self.refresh()
        found: list[Place] = []
        wanted = _take(self.index, names, np.arange(len(names)), found)
        if len(wanted):
            wanted = _take(self.doubtful, names, wanted, found)
        return found, len(wanted)

    # ── recipes ─────────────────────────────────────────────────────────────────────────────────────────────────

    def put_recipe(self, recipe: Recipe) -> None:
        key = self.recipe_key(recipe.key)
        self.store.put(key, self.sealer.seal(recipe.encode(), key))

    def recipe_bytes(self, name: str) -> bytes:
        """A recipe as `recipes.decode` reads it. Errors: NotFound, Forged, Damaged, StoreError."""
        key = self.recipe_key(name)
        return read_again(lambda: self.sealer.unseal(self.store.get(key), key, f"the recipe {name}"))

    def recipe(self, name: str) -> Recipe:
        """Errors: NotFound, Forged, Damaged, TooNew, StoreError."""
        return decode_recipe(self.recipe_bytes(name), f"the recipe {name}")

    def recipe_names(self) -> Iterator[str]:
        """`<freeze>.<cell>` of every recipe."""
        for stored in self.list_recipes():
            yield stored.key.rpartition("/")[2]

    def recipes_by_age(self) -> list[str]:
        """Recipe names, the newest first."""
        found = sorted(self.list_recipes(), key=lambda stored: -stored.written_s)
        return [stored.key.rpartition("/")[2] for stored in found]

    # ── inside ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _size(self, pack_id: bytes, rows: Rows) -> int | None:
        """Bytes of a pack that is not listed, None where it is not there; only one cut short or grown is read whole."""
        key = self.pack_key(pack_id)
        if not self.store.has(key):
            return None
        expected = whole_size(rows, self.sealer)
        try:
            foot = self.store.get_range(key, expected - FOOT.size, FOOT.size + 1)
            return expected if len(foot) == FOOT.size else len(self.store.get(key))
        except NotFound:  # a sweep took it meanwhile
            return None

    def _find_unlisted(self, listed: dict[bytes, int]) -> dict[bytes, int]:
        """Packs stored from here that are there and not listed: lists may lag behind, single objects never do."""
        hidden = {pack: size for pack, size in self._mine.items() if pack not in listed}
        absent = {pack for pack in hidden if not self.store.has(self.pack_key(pack))}
        self._mine = {pack: size for pack, size in self._mine.items() if pack not in absent}
        return {pack: size for pack, size in hidden.items() if pack not in absent}

    def _load_parts(self, here: dict[bytes, int], unlisted: Collection[bytes]) -> None:
        keys = [stored.key for stored in self.store.list(f"{self.root}/index/")]
        gone = [
            key
            for key, part in self._parts.items()
            if "/index/" in key and key not in keys and not any(pack in unlisted for pack in part.packs)
        ]
        for key in keys:
            if key not in self._parts:
                self._load_part(key)
        covered = self._all_packs(but=gone)
        for pack_id in here.keys() - covered:
            self._load_pack(pack_id, here[pack_id])
        for key in gone:
            del self._parts[key]

    def _load_part(self, key: str) -> None:
        """A damaged part of the index is left out: its packs are then read themselves."""
        try:
            content = self.sealer.unseal(self.store.get(key), key, f"the index {key}")
            self._parts[key] = decode(content, f"the index {key}")
        except NotFound:
            return
        except Damaged as error:
            self.troubles[key] = error.cause
            log.warning("%s: it is made again from the packs", error.cause)

    def _load_pack(self, pack_id: bytes, size: int) -> None:
        try:
            self._parts[self.pack_key(pack_id)] = part_of([(pack_id, self.read_rows(pack_id, size))])
        except (Damaged, NotFound) as error:
            self.troubles[self.pack_key(pack_id)] = error.cause
            log.warning("%s: its chunks count as missing", error.cause)

    def _all_packs(self, but: list[str] | None = None) -> set[bytes]:
        return {pack for key, part in self._parts.items() if key not in (but or ()) for pack in part.packs}

    def _rebuild(self, good: set[bytes], every: set[bytes]) -> None:
        built = (frozenset(self._parts), frozenset(good))
        if self._known is not None and built == self._built:
            return
        self._built = built
        self._known = ChunkIndex(self._parts.values(), without=every - good)
        self._doubtful = None if (every - good) & self._all_packs() else ChunkIndex()

    def _put_part(self, part: Part) -> str:
        key = f"{self.root}/index/{fresh_bytes(INDEX_NAME_SIZE).hex()}"
        self.store.put(key, self.sealer.seal(part.encode(), key))
        return key


def _take(index: ChunkIndex, names: Names, wanted: NDArray[np.int64], found: list[Place]) -> NDArray[np.int64]:
    """Which of the names wanted this index does not have; of those it has, it says where they lie."""
    rows = index.find(names[wanted])
    there = rows != NOWHERE
    if there.any():
        found.append(Place(index, rows[there], wanted[there]))
    left: NDArray[np.int64] = wanted[~there]
    return left


def id_of(key: str) -> bytes:
    """The pack a key names."""
    try:
        return bytes.fromhex(key.rpartition("/")[2])
    except ValueError:
        return b""  # a stranger's file: no pack has this id
