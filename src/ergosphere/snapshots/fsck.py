"""Looks for what is missing, damaged or orphaned, and says which snapshots it touches. Mends what can be mended.

Others write meanwhile. What a writer stores first is read last: marks, then records, recipes, index and packs; and what
seems lost is looked for once more before anybody is told. Submissions and results are `plain_check`'s.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ergosphere.snapshots import plain_check
from ergosphere.snapshots.chunk_index import NOWHERE, ChunkIndex
from ergosphere.snapshots.errors import Damaged, NotFound, TooNew
from ergosphere.snapshots.gather import REMOTE, file_blobs
from ergosphere.snapshots.manifest import CellPart, Manifest
from ergosphere.snapshots.packs import FOOT, HEAD, ROW, ChunkReader, check_head
from ergosphere.snapshots.recipes import Recipe
from ergosphere.snapshots.records import RECORDS, verdict
from ergosphere.snapshots.remote import CellBlobs
from ergosphere.snapshots.repacking import copy_chunks
from ergosphere.snapshots.sealing import MAC_SIZE, TAG_SIZE
from ergosphere.snapshots.store import Store
from ergosphere.snapshots.vault import Vault

NAMED_MAX: Final = 20  # of one kind in the report


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


def check(
    store: Store,
    vaults: Sequence[Vault],
    *,
    deep: bool = False,
    repair: bool = False,
    submitted: frozenset[str] = frozenset(),
) -> Report:
    """Compare marks, records, recipes, index, packs, results and submissions (digests of their trees); with `deep` read
    and verify every byte.

    `repair` makes the index again, dooms damaged packs once what is good in them was copied, so that the next snapshot
    stores anew what was lost, and removes plain content that is damaged. Errors: StoreError.
    """
    report = Report()
    marked = {stored.key.removeprefix(REMOTE).replace("/", ".") for stored in store.list(REMOTE)}
    manifests = _records(store, report)
    held: set[str] = set()
    for vault in vaults:
        held |= _check_vault(vault, manifests, report, deep, repair)
    if vaults:
        _check_marks(vaults, manifests, marked - held, report)
    plain = plain_check.check(store, submitted, deep=deep, repair=repair)
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


def _check_vault(vault: Vault, manifests: Mapping[str, Manifest], report: Report, deep: bool, repair: bool) -> set[str]:
    recipes = _recipes(vault, report)
    vault.reload()  # behind the recipes: what they need was stored before them
    report.damaged += vault.troubles.values()
    index = vault.index
    good = _check_packs(vault, index, report, deep)
    used = np.zeros(len(index), bool)
    for recipe in recipes.values():
        rows = index.find(recipe.names)
        used[rows[rows != NOWHERE]] = True
    bad = {name.tobytes() for name in index.rows["name"][~good]}
    _check_recipes(vault, recipes, bad, manifests, report, deep)
    report.orphan_bytes += int(index.rows["stored"][~used].sum(dtype=np.int64))
    report.chunks += len(index)
    report.packs += len(index.packs)
    if repair:
        _repair(vault, index, good, report)
    return set(recipes)


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


def _check_packs(vault: Vault, index: ChunkIndex, report: Report, deep: bool) -> NDArray[np.bool_]:
    """Which chunks are good."""
    good = np.ones(len(index), bool)
    sizes = vault.pack_sizes()
    order = np.argsort(index.owner, kind="stable")
    firsts = np.searchsorted(index.owner[order], np.arange(len(index.packs) + 1))
    for number, pack in enumerate(index.packs):
        rows = order[firsts[number] : firsts[number + 1]]
        wrong = _wrong_size(vault, index, rows, sizes.get(pack, 0))
        if wrong and not deep:
            good[rows] = index.rows["at"][rows].astype(np.int64) + index.rows["stored"][rows] <= sizes.get(pack, 0)
        if deep:
            good[rows] = _verify(vault, index, pack, rows)
        bad = int((~good[rows]).sum())
        if wrong or bad:
            how = wrong or "was damaged"
            report.damaged.append(f"pack {pack.hex()} {how}: {bad} of its {len(rows)} chunks are lost")
    return good


def _wrong_size(vault: Vault, index: ChunkIndex, rows: NDArray[np.int64], size: int) -> str:
    table = index.rows[rows]
    end = int((table["at"].astype(np.int64) + table["stored"]).max(initial=HEAD.size))
    whole = end + len(rows) * ROW.itemsize + (TAG_SIZE if vault.sealer.encrypted else MAC_SIZE) + FOOT.size
    return "" if size == whole else f"has {size} bytes instead of {whole}"


def _verify(vault: Vault, index: ChunkIndex, pack: bytes, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    good = np.zeros(len(rows), bool)
    try:
        content = memoryview(vault.store.get(vault.pack_key(pack)))
        check_head(bytes(content[: HEAD.size]), pack, "a pack")
    except (NotFound, Damaged):
        return good
    reader = ChunkReader(vault.sealer, vault.naming, pack)
    for i, row in enumerate(index.rows[rows]):
        at, stored = int(row["at"]), int(row["stored"])
        try:
            reader.read(row["name"].tobytes(), at, int(row["size"]), int(row["kind"]), content[at : at + stored])
            good[i] = True
        except Damaged:
            continue
    return good


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
    listed = vault.pack_sizes().keys()
    for name, recipe in recipes.items():
        manifest = manifests.get(recipe.freeze)
        lost = _lost(vault, recipe, bad, listed)
        if manifest is None:
            report.orphan_recipes.append(name)
        elif lost:
            why = f"{lost} of its {len(recipe.names)} chunks are missing or damaged"
            report.affected.setdefault(recipe.freeze, why)
        elif why := _lacking(vault, recipe, manifest.cell(recipe.cell), deep):
            report.affected.setdefault(recipe.freeze, why)


def _lost(vault: Vault, recipe: Recipe, bad: set[bytes], listed: Collection[bytes]) -> int:
    """How many of its chunks lie nowhere, or only where they were found to be bad. Doomed packs are still there."""
    found, lost = vault.places(recipe.names)
    for place in found:
        here = np.array([pack in listed for pack in place.index.packs])[place.index.owner[place.rows]]
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


def _repair(vault: Vault, index: ChunkIndex, good: NDArray[np.bool_], report: Report) -> None:
    bad = [index.packs[number] for number in np.unique(index.owner[~good])]
    if bad:
        numbers = [i for i, pack in enumerate(index.packs) if pack in bad]
        copy_chunks(vault, index, np.flatnonzero(np.isin(index.owner, numbers) & good))
        for pack in bad:
            vault.store.put(vault.doomed_key(pack), b"", if_absent=True)
        report.mended.append(f"{len(bad)} damaged pack(s): the good was copied, the next snapshot stores the rest anew")
    vault.reload()
    removed = vault.rewrite_index(set(vault.pack_sizes()))
    vault.reload()
    report.mended.append(f"the index was made again ({removed} old part(s) removed)")
