"""Which packs go: plan first, execute then. Safe beside writers, without their help and whatever clocks say.

A pack that no recipe needs is first *doomed*: a marker that writers see. A later sweep deletes it, a grace period
after, if still no recipe needs it. A sweep dooms (1), and later reads all recipes (2) and deletes (3). A writer stores
its recipe (4) and then looks for doomed packs (5), storing again what it needs of them (`remote.put_cell`). If 4 comes
before 2 the sweep sees the recipe; else 1 < 2 < 4 < 5 and the writer sees the marker. The grace is for lists that are
stale and for readers under way. Packs with little left in them are copied together and then doomed, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ergosphere.snapshots.chunk_index import NOWHERE, ChunkIndex
from ergosphere.snapshots.errors import Busy, Damaged, NotFound
from ergosphere.snapshots.gather import is_remote
from ergosphere.snapshots.manifest import Manifest
from ergosphere.snapshots.recipes import names_in
from ergosphere.snapshots.records import RECORDS, is_committed, parse, record_key
from ergosphere.snapshots.repacking import copy_chunks
from ergosphere.snapshots.vault import Vault, id_of

INDEX_PARTS_MAX: Final = 16  # more are written again as few
UPLOAD_S_MAX: Final = 24 * 3600.0  # a snapshot that is not remote by then has lost its node
SWEEP_S_MAX: Final = 6 * 3600.0  # a sweep that has not ended by then has died


@dataclass(frozen=True, slots=True)
class Rules:
    """`grace_s`: how long a pack stays doomed, and how old it is before that. `sparse`: a pack of which less is needed
    is copied.
    """

    grace_s: float = 3600.0
    sparse: float = 0.5


DEFAULT_RULES: Final = Rules()
NO_PACKS: Final[list[bytes]] = []


@dataclass(frozen=True, slots=True)
class CollectPlan:
    """What would be done. Packs by id."""

    recipes: tuple[str, ...]
    doom: tuple[bytes, ...]
    delete: tuple[bytes, ...]
    spare: tuple[bytes, ...]
    repack: tuple[bytes, ...]
    bytes: int  # of `delete`
    bytes_later: int  # of `doom`
    rewrite_index: bool
    marked: frozenset[str]  # recipes that were looked at
    notes: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """The plan in words."""
        return [
            f"{len(self.recipes)} recipe(s) of forgotten snapshots go",
            f"{len(self.delete)} pack(s) that were doomed before go now: {self.bytes} bytes",
            f"{len(self.doom)} pack(s) nobody needs go with a later sweep: {self.bytes_later} bytes",
            f"{len(self.repack)} pack(s) with little left in them are copied together",
            f"{len(self.spare)} doomed pack(s) are needed again and stay",
            *self.notes,
        ]


@dataclass(frozen=True, slots=True)
class _Marks:
    """What live recipes need: rows of the index and of the doubtful index."""

    live: NDArray[np.bool_]
    doubtful: NDArray[np.bool_]
    missing: int


def plan(vault: Vault, rules: Rules = DEFAULT_RULES) -> CollectPlan:
    """Decide what goes. Errors: StoreError, TooNew."""
    vault.refresh()
    now_s = vault.now_s()
    notes: list[str] = []
    dead, alive = _sorted_recipes(vault, now_s, rules)
    if dead and _is_pending(vault, now_s):
        dead, alive = [], dead + alive
    marks = _mark(vault, alive, notes)
    index = vault.index
    ages = {id_of(stored.key): (now_s - stored.written_s, stored.size) for stored in vault.list_packs()}
    doomed = {id_of(stored.key): now_s - stored.written_s for stored in vault.list_doomed()}
    needed_again = _owners(vault.doubtful, marks.doubtful)
    gone = [pack for pack, age_s in doomed.items() if pack not in needed_again and age_s >= rules.grace_s]
    if notes:  # something that is needed cannot be read: nothing is taken away from under it
        doom, repack, gone = NO_PACKS, NO_PACKS, NO_PACKS
    else:
        doom, repack = _aged(index, marks, ages, rules)
        doom = doom + (_unreadable(vault, ages, doomed, rules) if not marks.missing else NO_PACKS)
    return CollectPlan(
        tuple(dead), tuple(sorted(doom)), tuple(sorted(gone)), tuple(sorted(needed_again & doomed.keys())),
        tuple(sorted(repack)), _sum(ages, gone), _sum(ages, doom),
        vault.index_parts() > INDEX_PARTS_MAX or bool(gone), frozenset(alive), tuple(notes),
    )  # fmt: skip


def execute(vault: Vault, planned: CollectPlan) -> int:
    """Do what the plan says; bytes freed. Interrupted anywhere, the next sweep finishes. Errors: StoreError, Busy."""
    with _alone(vault):
        for name in planned.recipes:
            vault.store.delete(vault.recipe_key(name))
        for pack in planned.spare:
            vault.store.delete(vault.doomed_key(pack))
        copied = _repack(vault, planned.repack)
        for pack in (*planned.doom, *copied):
            vault.store.put(vault.doomed_key(pack), b"", if_absent=True)
        freed = _delete(vault, planned)
        if planned.rewrite_index:
            vault.refresh()
            vault.rewrite_index(set(vault.pack_sizes()))
        vault.refresh()
    return freed


def _delete(vault: Vault, planned: CollectPlan) -> int:
    """Recipes that came since the plan are read before anything goes."""
    if not planned.delete:
        return 0
    vault.refresh()
    fresh = [name for name in vault.recipe_names() if name not in planned.marked]
    notes: list[str] = []
    needed = _owners(vault.doubtful, _mark(vault, fresh, notes).doubtful)
    if notes:
        return 0
    sizes, doomed = vault.pack_sizes(), vault.doomed()
    freed = 0
    for pack in planned.delete:
        if pack in needed or pack not in doomed:
            continue
        if vault.store.delete(vault.pack_key(pack)):
            freed += sizes.get(pack, 0)
        vault.store.delete(vault.doomed_key(pack))
    return freed


def _repack(vault: Vault, packs: tuple[bytes, ...]) -> list[bytes]:
    """Copy what is needed of these packs to new ones; those of which everything needed has another place now."""
    if not packs:
        return []
    vault.refresh()
    notes: list[str] = []
    marks = _mark(vault, list(vault.recipe_names()), notes)
    if notes:
        return []
    index = vault.index
    chosen = np.isin(index.owner, [i for i, pack in enumerate(index.packs) if pack in packs])
    rows = np.flatnonzero(chosen & marks.live)
    copy_chunks(vault, index, rows)
    vault.refresh()
    others = ChunkIndex(vault.all_parts(), without=set(packs) | vault.doomed())
    lost = rows[others.find(index.rows["name"][rows]) == NOWHERE]
    kept = {index.packs[owner] for owner in index.owner[lost]}
    return [pack for pack in packs if pack not in kept]


def _sorted_recipes(vault: Vault, now_s: float, rules: Rules) -> tuple[list[str], list[str]]:
    """Recipes of snapshots that are forgotten, and all others."""
    dead: list[str] = []
    alive: list[str] = []
    for stored in vault.list_recipes():
        name = stored.key.rpartition("/")[2]
        young = now_s - stored.written_s < rules.grace_s
        (alive if _is_alive(vault, name.rpartition(".")[0], young) else dead).append(name)
    return dead, alive


def _is_pending(vault: Vault, now_s: float) -> bool:
    """Whether a snapshot is on its way here: its unchanged files may be in recipes of forgotten ones only."""
    for stored in vault.store.list(RECORDS):
        if now_s - stored.written_s < UPLOAD_S_MAX:
            freeze_id = stored.key.removeprefix(RECORDS)
            with suppress(NotFound, Damaged):
                record = parse(freeze_id, vault.store.get(stored.key))
                if isinstance(record, Manifest) and not is_remote(vault.store, record):
                    return True
    return False


def _is_alive(vault: Vault, freeze_id: str, young: bool) -> bool:
    """A record that cannot be read may yet be mended: what it needs stays."""
    try:
        return is_committed(vault.store.get(record_key(freeze_id)), freeze_id)
    except NotFound:
        return young
    except Damaged:
        return True


def _mark(vault: Vault, names: list[str], notes: list[str]) -> _Marks:
    index, doubtful = vault.index, vault.doubtful
    live, older = np.zeros(len(index), bool), np.zeros(len(doubtful), bool)
    missing = 0
    for name in names:
        try:
            needed = names_in(vault.recipe_bytes(name), f"the recipe {name}")
        except NotFound:
            continue
        except Damaged as error:
            notes.append(f"{error.cause}: nothing is swept until snapshot {name.rpartition('.')[0]} is removed")
            continue
        rows = index.find(needed)
        live[rows[rows != NOWHERE]] = True
        absent = needed[rows == NOWHERE]
        rows = doubtful.find(absent)
        older[rows[rows != NOWHERE]] = True
        missing += int((rows == NOWHERE).sum())
    return _Marks(live, older, missing)


def _aged(
    index: ChunkIndex, marks: _Marks, ages: dict[bytes, tuple[float, int]], rules: Rules
) -> tuple[list[bytes], list[bytes]]:
    """Packs that nobody needs, and packs that hold little that anybody needs; young ones are not looked at."""
    stored = index.rows["stored"].astype(np.float64)
    held = np.bincount(index.owner, weights=stored, minlength=len(index.packs))
    used = np.bincount(index.owner, weights=stored * marks.live, minlength=len(index.packs))
    doom, repack = [], []
    for number, pack in enumerate(index.packs):
        if ages.get(pack, (0.0, 0))[0] < rules.grace_s:
            continue
        if used[number] == 0:
            doom.append(pack)
        elif used[number] < rules.sparse * held[number]:
            repack.append(pack)
    return doom, repack


def _unreadable(
    vault: Vault, ages: dict[bytes, tuple[float, int]], doomed: dict[bytes, float], rules: Rules
) -> list[bytes]:
    """Packs whose tables cannot be read, while nothing that anybody needs is missing."""
    known = vault.known_packs()
    return [p for p, (age_s, _) in ages.items() if p not in known and p not in doomed and age_s >= rules.grace_s]


def _owners(index: ChunkIndex, marked: NDArray[np.bool_]) -> set[bytes]:
    return {index.packs[number] for number in np.unique(index.owner[marked])}


def _sum(ages: dict[bytes, tuple[float, int]], packs: list[bytes]) -> int:
    return sum(ages[pack][1] for pack in packs if pack in ages)


@contextmanager
def _alone(vault: Vault) -> Iterator[None]:
    """One sweep at a time; one that died is not waited for for ever."""
    key = f"{vault.root}/sweeping"
    if not vault.store.put(key, b"", if_absent=True):
        age_s = vault.now_s() - next((s.written_s for s in vault.store.list(key) if s.key == key), 0.0)
        if age_s < SWEEP_S_MAX:
            raise Busy("another sweep of this store is under way", f"try again later (it began {age_s:.0f} s ago)")
        vault.store.put(key, b"")
    try:
        yield
    finally:
        vault.store.delete(key)
