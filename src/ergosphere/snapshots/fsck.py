"""Looks for what is missing, damaged or orphaned, and says which snapshots it touches. Mends what can be mended.

Others write meanwhile. What a writer stores first is read last: marks, then records, recipes, index and packs; and what
seems lost is looked for once more before anybody is told. Submissions and results are `plain_check`'s.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from ergosphere.snapshots import pack_check, plain_check, vault_head
from ergosphere.snapshots.bases import read_chunks
from ergosphere.snapshots.chunk_index import NOWHERE, ChunkIndex, names_of, unique
from ergosphere.snapshots.errors import Damaged, NotFound, SnapshotError, TooNew
from ergosphere.snapshots.gather import REMOTE, file_blobs
from ergosphere.snapshots.manifest import CellPart, Manifest
from ergosphere.snapshots.recipes import Recipe
from ergosphere.snapshots.records import RECORDS, Aborted, Swept, verdict
from ergosphere.snapshots.remote import CellBlobs, marker
from ergosphere.snapshots.repacking import copy_chunks
from ergosphere.snapshots.store import Store
from ergosphere.snapshots.vault import Vault
from ergosphere.snapshots.vault_head import PAGE, VaultHead, vault_root

NAMED_MAX: Final = 20  # of one kind in the report
STRANGE: Final = f"the head is back that its packs were written under; {PAGE}"


@dataclass(slots=True)
class Report:
    """`affected`: snapshot → why it cannot be thawed as it is. All else harms no snapshot. `whole`: snapshots of which
    all is there, and with a deep check is what was written.
    """

    affected: dict[str, str] = field(default_factory=dict)
    whole: set[str] = field(default_factory=set)
    damaged: list[str] = field(default_factory=list)
    orphan_bytes: int = 0
    orphan_recipes: list[str] = field(default_factory=list)
    mended: list[str] = field(default_factory=list)
    chunks: int = 0
    packs: int = 0
    snapshots: int = 0

    @property
    def is_clean(self) -> bool:
        return not self.affected and not self.damaged

    def lines(self) -> list[str]:
        """The report in words, the worst first."""
        said = [f"snapshot {snapshot} cannot be thawed: {why}" for snapshot, why in sorted(self.affected.items())]
        said += [f"damaged: {what}" for what in self.damaged[:NAMED_MAX]]
        said += [f"… and {len(self.damaged) - NAMED_MAX} more"] if len(self.damaged) > NAMED_MAX else []
        said += [f"mended: {what}" for what in self.mended]
        said += [f"recipe {name} belongs to no snapshot" for name in self.orphan_recipes]
        said.append(f"{self.orphan_bytes} bytes belong to no snapshot; a sweep frees them")
        said.append(f"{self.snapshots} snapshot(s), {self.packs} pack(s), {self.chunks} chunk(s) looked at")
        return said


@dataclass(frozen=True, slots=True)
class Wanted:
    """What ought to be there, as the ledger and the depot know it. `submitted`: trees of jobs that may still start;
    `snapshots`: those that are kept, `remote`: of those, all that were called remote; `closed`: vaults that cannot be
    opened, by their place, and why.
    """

    submitted: frozenset[str] = frozenset()
    snapshots: frozenset[str] = frozenset()
    remote: frozenset[str] = frozenset()
    closed: Mapping[str, SnapshotError] = field(default_factory=dict)


NOTHING_WANTED: Final = Wanted()


def check(
    store: Store,
    vaults: Sequence[Vault],
    *,
    deep: bool = False,
    repair: bool = False,
    wanted: Wanted = NOTHING_WANTED,
) -> Report:
    """Compare marks, records, recipes, index, packs, results and what is `wanted`; with `deep` read and verify every
    byte.

    Damaged packs are doomed once what is good in them was copied, so that the next snapshot stores anew what was lost.
    `repair` writes the heads of vaults and makes the index again as well, and removes plain content that is damaged.
    Errors: StoreError.
    """
    report = Report()
    marked = {stored.key.removeprefix(REMOTE).replace("/", ".") for stored in store.list(REMOTE)}
    manifests = _records(store, report)
    _check_kept(store, wanted.snapshots - manifests.keys() - report.affected.keys(), report)
    _check_closed(wanted.closed, manifests, report)
    held: set[str] = set()
    for vault in vaults:
        held |= _check_vault(vault, manifests, report, deep, repair)
    called = {cell for name in wanted.remote & manifests.keys() for cell in _cells_of(manifests[name])}
    _check_marks(vaults, manifests, (marked | called) - held, report)
    _check_unmarked(store, called & held - marked, report, repair)
    plain = plain_check.check(store, wanted.submitted, deep=deep, repair=repair)
    report.damaged += plain.damaged
    report.mended += plain.mended
    for freeze_id in [one for one in report.affected if one in manifests and not _is_kept(store, one)]:
        del report.affected[freeze_id]  # a sweep took it meanwhile
    report.whole = {one.id for one in manifests.values() if _cells_of(one) <= marked & held} - report.affected.keys()
    return report


def _cells_of(manifest: Manifest) -> set[str]:
    return {f"{manifest.id}.{cell.index}" for cell in manifest.cells}


def _is_kept(store: Store, freeze_id: str) -> bool:
    return isinstance(verdict(store, freeze_id), Manifest)


def _records(store: Store, report: Report) -> dict[str, Manifest]:
    """Snapshots that are committed; those whose record is damaged are named."""
    found = {}
    for stored in store.list(RECORDS):
        freeze_id = stored.key.removeprefix(RECORDS)
        try:
            record = verdict(store, freeze_id)
            if isinstance(record, Manifest):
                found[freeze_id] = record
        except (Damaged, TooNew) as error:
            report.affected[freeze_id] = error.cause
    report.snapshots = len(found)
    return found


def _check_marks(vaults: Sequence[Vault], manifests: Mapping[str, Manifest], lost: set[str], report: Report) -> None:
    """Cells that are said to be remote and whose recipe was not found."""
    for name in sorted(lost):
        freeze_id, _, cell = name.rpartition(".")
        if freeze_id in manifests and not any(vault.store.has(vault.recipe_key(name)) for vault in vaults):
            report.affected.setdefault(freeze_id, f"the recipe of its cell {cell} is missing")


def _check_unmarked(store: Store, names: Iterable[str], report: Report, repair: bool) -> None:
    """Cells that were remote, whose recipe is there and whose mark is not: a sweep counts their snapshots as young."""
    for name in sorted(names):
        freeze_id, _, cell = name.rpartition(".")
        key = marker(freeze_id, int(cell))
        if store.has(key):  # it was listed late
            continue
        report.damaged.append(f"{key} is missing, which says that this cell is in the store")
        if repair and freeze_id not in report.affected:
            store.put(key, b"")
            report.mended.append(f"{key} was written again")


def _check_kept(store: Store, lost: Iterable[str], report: Report) -> None:
    """Snapshots that somebody relies on and of which no record was found."""
    for freeze_id in sorted(lost):
        match verdict(store, freeze_id):
            case None:
                report.affected[freeze_id] = "its record is missing, and nothing else tells what it is made of"
            case Aborted():
                report.affected[freeze_id] = "its record says that it was called off"
            case Swept():
                report.affected[freeze_id] = "its record says that it was forgotten"
            case Manifest():  # it came since
                continue


def _check_closed(closed: Mapping[str, SnapshotError], manifests: Mapping[str, Manifest], report: Report) -> None:
    """Vaults that cannot be opened, and the snapshots in them; all others are looked at."""
    report.damaged += [f"the vault {root} cannot be opened: {error}" for root, error in closed.items()]
    for freeze_id, manifest in manifests.items():
        root = vault_root(str(manifest.spec.get("project", "")))
        if root in closed:
            report.affected[freeze_id] = closed[root].cause


def _check_head(vault: Vault, report: Report) -> list[str]:
    """Both places of the head; those at which it is lost, while what this vault was opened with is still known. One of
    another version is not lost: whoever wrote it reads it.
    """
    lost = []
    for place, found in vault_head.look(vault.store, vault.root, vault.project).items():
        if found != vault.head:
            report.damaged.append(_wrong_head(place, found))
            if found is None or isinstance(found, Damaged):
                lost.append(place)
    return lost


def _wrong_head(place: str, found: vault_head.Found) -> str:
    if found is None:
        return f"{place} is missing; what it says is still known"
    if isinstance(found, VaultHead):
        return f"{place} is not the head that this vault was opened with"
    return found.cause


def _check_vault(vault: Vault, manifests: Mapping[str, Manifest], report: Report, deep: bool, repair: bool) -> set[str]:
    lost = _check_head(vault, report)
    recipes = _recipes(vault, report)
    vault.reload()  # behind the recipes: what they need was stored before them
    report.damaged += vault.troubles.values()
    index = vault.index
    packs = pack_check.check(vault, index, deep=deep)
    report.damaged += packs.damaged
    used = np.zeros(len(index), bool)
    for recipe in recipes.values():
        rows = index.find(recipe.names)
        used[index.with_bases(rows[rows != NOWHERE])] = True
    bad = {name.tobytes() for name in index.rows["name"][~packs.good]}
    bad |= _bad_elsewhere(vault, recipes.values()) if deep else set()
    _check_recipes(vault, recipes, bad, manifests, report, deep)
    report.orphan_bytes += int(index.rows["stored"][~used].sum(dtype=np.int64))
    report.chunks += len(index)
    report.packs += len(index.packs)
    if packs.strange:
        report.damaged.append(f"nothing of the vault {vault.root} is mended before {STRANGE}")
    else:
        _set_aside(vault, index, packs, report)
        if repair:
            _make_index(vault, report)
            _write_head(vault, lost, report)
    return set(recipes)


def _bad_elsewhere(vault: Vault, recipes: Iterable[Recipe]) -> set[bytes]:
    """Names of chunks that only packs have which are doomed, and that are not good there: as after a repair, until a
    snapshot stores them anew.
    """
    names, _ = unique(names_of(b"".join(recipe.names.tobytes() for recipe in recipes)))
    bad = set()
    for place in vault.places(names)[0]:
        if place.index is not vault.index:
            reads = read_chunks(vault, place.index, place.rows, place.which)
            bad |= {read.piece.name for read in reads if isinstance(read.content, Damaged)}
    return bad


def _recipes(vault: Vault, report: Report) -> dict[str, Recipe]:
    found = {}
    for name in vault.recipe_names():
        try:
            found[name] = vault.recipe(name)
        except NotFound:  # a sweep took it meanwhile
            continue
        except (Damaged, TooNew) as error:
            report.damaged.append(error.cause)
            report.affected.setdefault(name.rpartition(".")[0], error.cause)
    return found


def _check_recipes(
    vault: Vault,
    recipes: Mapping[str, Recipe],
    bad: set[bytes],
    manifests: Mapping[str, Manifest],
    report: Report,
    deep: bool,
) -> None:
    """`bad`: names of chunks that were found damaged or gone. What is lost now may only have been moved since."""
    if any((vault.index.find(recipe.names) == NOWHERE).any() for recipe in recipes.values()):
        vault.refresh()
    here = vault.packs_here().keys()
    for name, recipe in recipes.items():
        manifest = manifests.get(recipe.freeze)
        lost = _lost(vault, recipe, bad, here)
        if manifest is None:
            report.orphan_recipes.append(name)
        elif lost:
            why = f"{lost} of its {len(recipe.names)} chunks are missing or damaged"
            report.affected.setdefault(recipe.freeze, why)
        elif why := _lacking(vault, recipe, manifest.cell(recipe.cell), deep):
            report.affected.setdefault(recipe.freeze, why)


def _lost(vault: Vault, recipe: Recipe, bad: set[bytes], packs: Collection[bytes]) -> int:
    """How many of its chunks lie nowhere, or only where they were found to be bad.

    `packs`: all that are here, doomed ones too.
    """
    found, lost = vault.places(recipe.names)
    for place in found:
        index, bases = place.index, place.index.bases(place.rows)
        is_here = np.array([pack in packs for pack in index.packs])[index.owner]
        here = is_here[place.rows] & ((bases == NOWHERE) | is_here[bases])
        names = recipe.names[place.which[here]]
        lost += int((~here).sum()) + (sum(name.tobytes() in bad for name in names) if bad else 0)
    return lost


def _lacking(vault: Vault, recipe: Recipe, part: CellPart, deep: bool) -> str:
    """What the manifest names and the recipe does not have; files are compared only where all is read anyway."""
    needed = {file.digest for rank in part.ranks for file in rank.files}
    needed |= {piece.digest for log in part.logs for piece in log.pieces}
    needed |= {tree.digest for tree in (part.work, part.cache) if tree is not None}
    held = {stream.digest for stream in recipe.streams}
    try:
        if deep and needed <= held:
            needed |= file_blobs(part, [CellBlobs(vault, recipe)])
    except (Damaged, TooNew) as error:
        return error.cause
    count = len(needed - held)
    return f"its recipe lacks {count} image(s), files or logs that its manifest names" if count else ""


def _set_aside(vault: Vault, index: ChunkIndex, packs: pack_check.PackReport, report: Report) -> None:
    """No snapshot relies on damaged packs any more, or it would be lost as well. To the pack of a delta whose base is
    lost nothing need be done: without the base it is no chunk.
    """
    bad = {index.packs[number] for number in np.unique(index.owner[~packs.good & ~packs.bereft])} | packs.worn
    if bad:
        numbers = [i for i, pack in enumerate(index.packs) if pack in bad]
        copy_chunks(vault, index, np.flatnonzero(np.isin(index.owner, numbers) & packs.good))
        for pack in bad:
            vault.store.put(vault.doomed_key(pack), b"", if_absent=True)
        report.mended.append(f"{len(bad)} damaged pack(s): the good was copied, the next snapshot stores the rest anew")
    if packs.bereft.any():
        count = int(packs.bereft.sum())
        report.mended.append(f"{count} delta(s) of lost chunks are not counted on: the next snapshot stores them anew")


def _make_index(vault: Vault, report: Report) -> None:
    vault.reload()
    removed = vault.rewrite_index(set(vault.packs_here()))
    vault.reload()
    report.mended.append(f"the index was made again ({removed} old part(s) removed)")


def _write_head(vault: Vault, places: Sequence[str], report: Report) -> None:
    for place in places:
        vault.store.put(place, vault.head.encode())
        report.mended.append(f"{place} was written again")
