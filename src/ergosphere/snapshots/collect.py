"""Which packs go: plan first, execute then. Safe beside writers, without their help and whatever clocks say.

A recipe needs the chunks it names and, of those that are kept as deltas, their bases: recipes do not know of these, the
index does (`ChunkIndex.with_bases`).

A pack that no recipe needs is first *doomed*: a marker that writers see. A later sweep deletes it, a grace period
after, if still no recipe needs it. A sweep dooms (1), and later reads all recipes (2) and deletes (3). A writer stores
its recipe (4) and then looks for doomed packs (5), storing again what it needs of them (`remote.put_cell`). If 4 comes
before 2 the sweep sees the recipe; else 1 < 2 < 4 < 5 and the writer sees the marker. The grace is for lists that are
stale and for readers under way. Packs with little left in them are copied together and then doomed, too.

What can go without anything being written goes first, and copying comes last: a store that is full is swept, too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ergosphere.snapshots.chunk_index import NOWHERE, ChunkIndex, Names
from ergosphere.snapshots.errors import Damaged, NotFound, StoreFull, TooNew
from ergosphere.snapshots.gather import REMOTE, is_remote
from ergosphere.snapshots.manifest import Manifest
from ergosphere.snapshots.recipes import names_in, recipe_name
from ergosphere.snapshots.records import RECORDS, is_committed, load, parse, record_key
from ergosphere.snapshots.repacking import copy_chunks
from ergosphere.snapshots.sweep import Freed
from ergosphere.snapshots.sweep_lock import alone
from ergosphere.snapshots.vault import Vault, id_of

INDEX_PARTS_MAX: Final = 16  # more are written again as few
UPLOAD_S_MAX: Final = 24 * 3600.0  # a snapshot that is not remote by then has lost its node
FULL: Final = "the store is full: what needed nothing written went first, the rest goes with the next sweeps"


@dataclass(frozen=True, slots=True)
class Rules:
    """`grace_s`: how long a pack stays doomed, and how old it is before that. `sparse`: a pack of which less is needed
    is copied.
    """

    grace_s: float = 3600.0
    sparse: float = 0.5


DEFAULT_RULES: Final = Rules()
NO_PACKS: Final[list[bytes]] = []
LOST: Final = "{} chunk(s) that snapshots need are nowhere: nothing is deleted until ergo snapshot fsck finds all whole"


@dataclass(frozen=True, slots=True)
class CollectPlan:
    """What would be done. Packs by id."""

    recipes: tuple[str, ...]
    doom: tuple[bytes, ...]
    delete: tuple[bytes, ...]
    spare: tuple[bytes, ...]
    repack: tuple[bytes, ...]
    bytes: int  # of `delete`
    bytes_later: int  # of packs that nobody needs and that go with later sweeps, young ones among them
    bytes_repacked: int  # that nobody needs, in packs that are copied for it
    rewrite_index: bool
    marked: frozenset[str]  # recipes that were looked at
    notes: tuple[str, ...] = ()
    trails: tuple[str, ...] = ()  # keys: of uploads that ended, or will not

    def lines(self) -> list[str]:
        """The plan in words."""
        return [
            f"{len(self.recipes)} recipe(s) of forgotten snapshots go",
            f"{len(self.delete)} pack(s) that were doomed before go now: {self.bytes} bytes",
            f"{len(self.doom)} pack(s) nobody needs go with a later sweep: {self.bytes_later} bytes with those since",
            f"{len(self.repack)} pack(s) with little left in them are copied together: {self.bytes_repacked} bytes",
            f"{len(self.spare)} doomed pack(s) are needed again and stay",
            *self.notes,
        ]


@dataclass(frozen=True, slots=True)
class _Marks:
    """What live recipes need: rows of the index, and names of what is not in it."""

    live: NDArray[np.bool_]
    absent: Names


@dataclass(frozen=True, slots=True)
class _Aged:
    """Packs that nobody needs, `young` ones apart, and packs that hold little that anybody needs."""

    doom: list[bytes]
    young: list[bytes]
    repack: list[bytes]
    bytes_repacked: int


def plan(vault: Vault, rules: Rules = DEFAULT_RULES, gone: frozenset[str] = frozenset()) -> CollectPlan:
    """Decide what goes. `gone`: snapshots that count as forgotten, for a dry run. Errors: StoreError, TooNew."""
    vault.refresh()
    now_s = vault.now_s()
    notes: list[str] = []
    dead, alive = _sorted_recipes(vault, now_s, rules, gone)
    if dead and _is_pending(vault, now_s, gone):
        dead, alive = [], dead + alive
    trails = tuple(_old_trails(vault, now_s, rules, gone))
    ages = {id_of(stored.key): (now_s - stored.written_s, stored.size) for stored in vault.list_packs()}
    doomed = {id_of(stored.key): now_s - stored.written_s for stored in vault.list_doomed()}
    marks = _mark(vault, alive, notes)
    needed, missing = _needed(vault, marks.absent, ages.keys())
    spared = tuple(sorted(needed & doomed.keys()))
    due = [pack for pack, age_s in doomed.items() if pack not in needed and age_s >= rules.grace_s and not missing]
    due = _sure(vault, due, marks.live, {pack: size for pack, (_, size) in ages.items()})
    if notes:  # something that is needed cannot be read: nothing is taken away from under it
        return CollectPlan(
            tuple(dead), (), (), spared, (), 0, 0, 0,
            vault.index_parts() > INDEX_PARTS_MAX, frozenset(alive), tuple(notes), trails,
        )  # fmt: skip
    aged = _aged(vault.index, marks, ages, rules, needed)
    doom = aged.doom + (_unreadable(vault, ages, doomed, rules) if not missing else NO_PACKS)
    later = doomed.keys() - needed - set(due) | set(doom) | set(aged.young)
    told = (LOST.format(missing),) if missing else ()
    return CollectPlan(
        tuple(dead), tuple(sorted(doom)), tuple(sorted(due)), spared, tuple(sorted(aged.repack)),
        _sum(ages, due), _sum(ages, later), aged.bytes_repacked,
        vault.index_parts() > INDEX_PARTS_MAX or bool(due), frozenset(alive), told, trails,
    )  # fmt: skip


def execute(vault: Vault, planned: CollectPlan, home: str = "", kept: frozenset[str] = frozenset()) -> Freed:
    """Do what the plan says. Interrupted anywhere, the next sweep finishes; a full store loses what it can.

    `home`: whose sweep this is; it may take over from an earlier one of the same home. `kept`: snapshots of which
    somebody else knows than the store's lists. Errors: StoreError, Busy.
    """
    with alone(vault, home) as locked:
        for key in (*map(vault.recipe_key, planned.recipes), *planned.trails):
            vault.store.delete(key)
        freed = _delete(vault, planned, kept)
        done = locked and _arrange(vault, planned)
    return Freed(freed, () if done else (FULL,))


def _arrange(vault: Vault, planned: CollectPlan) -> bool:
    """What must not meet another sweep, and what is written: spare, doom, merge the index, copy. False: no room."""
    for pack in planned.spare:
        vault.store.delete(vault.doomed_key(pack))
    try:
        _doom(vault, planned.doom)
        if planned.rewrite_index:
            vault.refresh()
            vault.rewrite_index(set(vault.packs_here()))
        done = _repack(vault, planned.repack)
    except StoreFull:
        done = False
    vault.refresh()
    return done


def _doom(vault: Vault, packs: Iterable[bytes]) -> None:
    for pack in packs:
        vault.store.put(vault.doomed_key(pack), b"", if_absent=True)


def _delete(vault: Vault, planned: CollectPlan, kept: frozenset[str]) -> int:
    """Recipes that came since the plan, or that no list has, are read before anything goes."""
    if not planned.delete:
        return 0
    vault.refresh()
    names = {*vault.recipe_names(), *_recipes_of(vault, kept)}
    fresh = sorted(names - planned.marked)
    notes: list[str] = []
    sizes, doomed = vault.pack_sizes(), vault.doomed()
    marks = _mark(vault, fresh, notes)
    needed, missing = _needed(vault, marks.absent, sizes.keys())
    if notes or missing:
        return 0
    freed = 0
    for pack in _sure(vault, [p for p in planned.delete if p in doomed and p not in needed], marks.live, sizes):
        if vault.store.delete(vault.pack_key(pack)):
            freed += sizes.get(pack, 0)
        vault.store.delete(vault.doomed_key(pack))
    return freed


def _recipes_of(vault: Vault, kept: frozenset[str]) -> Iterator[str]:
    """Names of the recipes that these snapshots have in this vault, or will have."""
    for freeze_id in kept:
        with suppress(NotFound, Damaged, TooNew):
            manifest = load(vault.store, freeze_id)
            if manifest.spec.get("project") == vault.project:
                yield from (recipe_name(freeze_id, cell.index) for cell in manifest.cells)


def _sure(vault: Vault, due: list[bytes], live: NDArray[np.bool_], sizes: Mapping[bytes, int]) -> list[bytes]:
    """Of packs that lists call doomed and that seem to be needed by nobody, those of which single objects, which never
    lag behind, say so too. `live`: rows of the index that are needed.
    """
    index, held, known = vault.index, _only(vault, due), vault.known_packs()
    found = index.find(held.rows["name"])
    twice = np.flatnonzero(found != NOWHERE)
    twice = twice[live[found[twice]]]  # what is needed of them lies in others as well, as far as is known
    rows, bases = found[twice], index.bases(found[twice])
    others = np.unique(index.owner[index.with_bases(rows)])
    gone = [number for number in others if not _stays(vault, index.packs[number])]
    is_gone = np.isin(index.owner, gone)
    lost = is_gone[rows] | ((bases != NOWHERE) & is_gone[bases])
    doubtful = {held.packs[owner] for owner in held.owner[twice[lost]]}
    return [p for p in due if p not in doubtful and _is_doomed(vault, p) and _is_told(vault, p, sizes, known)]


def _stays(vault: Vault, pack: bytes) -> bool:
    return vault.store.has(vault.pack_key(pack)) and not _is_doomed(vault, pack)


def _is_doomed(vault: Vault, pack: bytes) -> bool:
    try:
        vault.store.get(vault.doomed_key(pack))
    except NotFound:
        return False
    return True


def _is_told(vault: Vault, pack: bytes, sizes: Mapping[bytes, int], known: Collection[bytes]) -> bool:
    """Whether it is known what is in a pack, or nobody can know, or it is gone."""
    if pack not in sizes:
        return not vault.store.has(vault.pack_key(pack))
    if pack in known:
        return True
    try:
        vault.read_rows(pack, sizes[pack])
    except (Damaged, NotFound):
        return True
    return False


def _repack(vault: Vault, packs: tuple[bytes, ...]) -> bool:
    """Copy what is needed of these packs to new ones; doom those of which everything needed has another place now.

    False: there was not room for all.
    """
    if not packs:
        return True
    vault.refresh()
    notes: list[str] = []
    marks = _mark(vault, list(vault.recipe_names()), notes)
    if notes:
        return True
    index = vault.index
    chosen = np.isin(index.owner, [i for i, pack in enumerate(index.packs) if pack in packs])
    rows = np.flatnonzero(chosen & marks.live)
    room = True
    try:
        copy_chunks(vault, index, rows)
    except StoreFull:
        room = False
    vault.refresh()
    others = _only(vault, vault.pack_sizes().keys() - vault.doomed() - set(packs))
    lost = rows[others.find(index.rows["name"][rows]) == NOWHERE]
    kept = {index.packs[owner] for owner in index.owner[lost]}
    _doom(vault, [pack for pack in packs if pack not in kept])
    return room


def _sorted_recipes(vault: Vault, now_s: float, rules: Rules, gone: frozenset[str]) -> tuple[list[str], list[str]]:
    """Recipes of snapshots that are forgotten, and all others."""
    dead: list[str] = []
    alive: list[str] = []
    for stored in vault.list_recipes():
        name = stored.key.rpartition("/")[2]
        freeze_id, young = name.rpartition(".")[0], now_s - stored.written_s < rules.grace_s
        (alive if freeze_id not in gone and _is_alive(vault, freeze_id, young) else dead).append(name)
    return dead, alive


def _old_trails(vault: Vault, now_s: float, rules: Rules, gone: frozenset[str]) -> Iterator[str]:
    """Of uploads that nobody can be waiting for: those that ended, of snapshots that are forgotten, of nodes lost."""
    ended: dict[str, bool] = {}  # by recipe
    for stored in vault.list_trails():
        name, age_s = stored.key.split("/")[-2], now_s - stored.written_s
        freeze_id, _, cell = name.rpartition(".")
        if not freeze_id:
            continue
        if name not in ended:
            ended[name] = freeze_id in gone or vault.store.has(f"{REMOTE}{freeze_id}/{cell}")
        if ended[name] or age_s >= UPLOAD_S_MAX or not _is_alive(vault, freeze_id, age_s < rules.grace_s):
            yield stored.key


def _is_pending(vault: Vault, now_s: float, gone: frozenset[str]) -> bool:
    """Whether a snapshot is on its way here: its unchanged files may be in recipes of forgotten ones only."""
    for stored in vault.store.list(RECORDS):
        freeze_id = stored.key.removeprefix(RECORDS)
        if now_s - stored.written_s < UPLOAD_S_MAX and freeze_id not in gone:
            with suppress(NotFound, Damaged):
                try:
                    record = parse(freeze_id, vault.store.get(stored.key))
                except TooNew:
                    return True
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


def _only(vault: Vault, packs: Collection[bytes]) -> ChunkIndex:
    """Chunks of these packs alone: one that is also in a pack that is gone must not be taken to be there."""
    return ChunkIndex(vault.all_parts(), without=vault.known_packs() - set(packs))


def _needed(vault: Vault, absent: Names, here: Collection[bytes]) -> tuple[set[bytes], int]:
    """Packs, doomed or not, without which names that are not in the index are nowhere; and how many of these are
    nowhere all the same. A delta may lie in a pack that stays and its base in one that is doomed.
    """
    if not len(absent):
        return set(), 0
    index = _only(vault, {*here, *vault.index.packs})
    rows = index.find(absent)
    found = index.with_bases(rows[rows != NOWHERE])
    return {index.packs[owner] for owner in np.unique(index.owner[found])}, int((rows == NOWHERE).sum())


def _mark(vault: Vault, names: list[str], notes: list[str]) -> _Marks:
    index = vault.index
    live = np.zeros(len(index), bool)
    absent = [np.zeros((0, 4), np.uint64)]
    for name in names:
        try:
            needed = names_in(vault.recipe_bytes(name), f"the recipe {name}")
        except NotFound:
            continue
        except Damaged as error:
            notes.append(f"{error.cause}: nothing is swept until snapshot {name.rpartition('.')[0]} is removed")
            continue
        rows = index.find(needed)
        live[index.with_bases(rows[rows != NOWHERE])] = True
        absent.append(needed[rows == NOWHERE])
    return _Marks(live, np.concatenate(absent))


def _aged(
    index: ChunkIndex, marks: _Marks, ages: dict[bytes, tuple[float, int]], rules: Rules, needed: Collection[bytes]
) -> _Aged:
    """Young packs are left alone; what nobody needs of them is counted all the same: it goes later. `needed`: packs
    that stay as they are, for what lies in them is not in the index as long as a base of it is doomed.
    """
    stored = index.rows["stored"].astype(np.float64)
    held = np.bincount(index.owner, weights=stored, minlength=len(index.packs))
    used = np.bincount(index.owner, weights=stored * marks.live, minlength=len(index.packs))
    doom: list[bytes] = []
    young: list[bytes] = []
    repack: list[bytes] = []
    repacked = 0.0
    for number, pack in enumerate(index.packs):
        is_young = ages.get(pack, (0.0, 0))[0] < rules.grace_s
        if pack in needed:
            continue
        if used[number] == 0:
            (young if is_young else doom).append(pack)
        elif used[number] < rules.sparse * held[number]:
            repacked += held[number] - used[number]
            if not is_young:
                repack.append(pack)
    return _Aged(doom, young, repack, int(repacked))


def _unreadable(
    vault: Vault, ages: dict[bytes, tuple[float, int]], doomed: dict[bytes, float], rules: Rules
) -> list[bytes]:
    """Packs whose tables cannot be read, while nothing that anybody needs is missing."""
    known = vault.known_packs()
    return [p for p, (age_s, _) in ages.items() if p not in known and p not in doomed and age_s >= rules.grace_s]


def _sum(ages: dict[bytes, tuple[float, int]], packs: Iterable[bytes]) -> int:
    return sum(ages[pack][1] for pack in packs if pack in ages)
