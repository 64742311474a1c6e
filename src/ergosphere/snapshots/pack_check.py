"""`fsck` of packs: is every chunk what its name says, and could each pack be read without an index?

A delta whose base is lost is lost, too; one whose base is nowhere is no chunk at all (`chunk_index`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ergosphere.snapshots.bases import with_bases
from ergosphere.snapshots.chunk_index import NOWHERE, ChunkIndex
from ergosphere.snapshots.errors import Damaged, NotFound, TooNew
from ergosphere.snapshots.packs import DELTA, FOOT, HEAD, ChunkReader, Rows, read_table, salt_in, table_span, whole_size
from ergosphere.snapshots.runs import Run
from ergosphere.snapshots.vault import Vault, id_of


@dataclass(slots=True, eq=False)
class PackReport:
    """`good`: by row of the index; `bereft`: deltas that are not good only because their base is lost. `worn`: packs of
    which only the index tells what lies where. `strange`: packs, by id, which another head or a newer version would
    read: nothing may be done to them.
    """

    good: NDArray[np.bool_]
    bereft: NDArray[np.bool_]
    worn: set[bytes] = field(default_factory=set)
    strange: dict[bytes, str] = field(default_factory=dict)
    damaged: list[str] = field(default_factory=list)


def check(vault: Vault, index: ChunkIndex, *, deep: bool) -> PackReport:
    """All packs of `index`, by their sizes or with `deep` by every byte, and those that could not be read for it.

    Errors: StoreError.
    """
    report = PackReport(np.ones(len(index), bool), np.zeros(len(index), bool))
    sizes = vault.packs_here()
    order = np.argsort(index.owner, kind="stable")
    firsts = np.searchsorted(index.owner[order], np.arange(len(index.packs) + 1))
    for number, pack in enumerate(index.packs):
        rows = order[firsts[number] : firsts[number + 1]]
        _check_pack(vault, index, pack, rows, sizes.get(pack, 0), report, deep)
    _check_bases(index, report)
    for pack in sizes.keys() & {id_of(key) for key in vault.troubles}:
        _look_strange(vault, pack, _head_of(vault, pack), report)
    report.damaged += [f"pack {pack.hex()} {why}" for pack, why in report.strange.items()]
    return report


def _check_pack(
    vault: Vault, index: ChunkIndex, pack: bytes, rows: NDArray[np.int64], size: int, report: PackReport, deep: bool
) -> None:
    wrong = _wrong_size(vault, index.rows[rows], size)
    if wrong and not deep:
        report.good[rows] = index.rows["at"][rows].astype(np.int64) + index.rows["stored"][rows] <= size
    if deep:
        content = _content(vault, pack)
        report.good[rows] = _verify(vault, Run(index, rows, rows.tolist()), content)
        if not report.good[rows].any() and _look_strange(vault, pack, bytes(content[: HEAD.size]), report):
            return
        wrong = wrong or _wrong_ends(vault, pack, index.rows[rows], content)
    bad = int((~report.good[rows]).sum())
    if wrong:
        report.worn.add(pack)
    if wrong or bad:
        report.damaged.append(f"pack {pack.hex()} {wrong or 'was damaged'}: {bad} of its {len(rows)} chunks are lost")


def _check_bases(index: ChunkIndex, report: PackReport) -> None:
    every = np.arange(len(index))
    bases = index.bases(every)
    lost = report.good & (bases != NOWHERE) & ~report.good[bases]
    if lost.any():
        report.good[lost], report.bereft[lost] = False, True
        report.damaged.append(f"{int(lost.sum())} chunk(s) are lost because they are kept as deltas of lost ones")


def _wrong_size(vault: Vault, table: Rows, size: int) -> str:
    whole = whole_size(table, vault.sealer)
    return "" if size == whole else f"has {size} bytes instead of {whole}"


def _content(vault: Vault, pack: bytes) -> memoryview:
    try:
        return memoryview(vault.store.get(vault.pack_key(pack)))
    except NotFound:
        return memoryview(b"")


def _verify(vault: Vault, run: Run, content: memoryview) -> NDArray[np.bool_]:
    """Which chunks of a whole pack are good. Of a delta without its base no more can be told than that it opens."""
    good = np.zeros(len(run.rows), bool)
    if not len(good):
        return good
    reader = ChunkReader(vault.sealer, vault.naming, run.pack_id)
    for i, (piece, base) in enumerate(with_bases(vault, run)):
        try:
            packed = reader.open(piece.at, content[piece.at : piece.at + piece.held.stop - piece.held.start])
            if piece.kind != DELTA or not (base is None or isinstance(base, Damaged)):
                reader.unpack(piece.name, packed, piece.size, piece.kind, base)
            good[i] = True
        except Damaged:
            continue
    return good


def _wrong_ends(vault: Vault, pack: bytes, table: Rows, content: memoryview) -> str:
    """What is wrong with a pack around its chunks, for which they are lost once no index is there; "" if right."""
    if _salt(bytes(content[: HEAD.size]), pack) != vault.sealer.salt:
        return "has a damaged head"
    try:
        start, end = table_span(bytes(content[-FOOT.size :]), len(content), "its end")
        own = read_table(bytes(content[start:end]), pack, vault.sealer, "its table")
    except Damaged as error:
        return f"can be read with the index only ({error.cause})"
    same = np.sort(own, order="at").tobytes() == np.sort(table, order="at").tobytes()
    return "" if same else "can be read with the index only (its table is another one)"


def _salt(head: bytes, pack: bytes) -> bytes:
    try:
        return salt_in(head, pack, "it")
    except (Damaged, TooNew):
        return b""


def _head_of(vault: Vault, pack: bytes) -> bytes:
    try:
        return bytes(vault.store.get_range(vault.pack_key(pack), 0, HEAD.size))
    except NotFound:
        return b""


def _look_strange(vault: Vault, pack: bytes, head: bytes, report: PackReport) -> bool:
    """Whether a pack of which nothing can be read is one that this program, or this head of the vault, cannot read."""
    try:
        if salt_in(head, pack, "it") == vault.sealer.salt:
            return False
        report.strange[pack] = "was written under another head of this vault: with that one it may be whole"
    except TooNew as error:
        report.strange[pack] = f"cannot be judged: {error.cause}"
    except Damaged:
        return False
    return True
