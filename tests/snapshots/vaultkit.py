"""Cells with images as CRIU writes them, put into vaults. Everything here goes through the room's own functions."""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ergosphere.snapshots import remote, sweep
from ergosphere.snapshots.digests import digest_bytes
from ergosphere.snapshots.gather import CellFacts, CellFiles, build, stage_cell
from ergosphere.snapshots.keys import KeyRing
from ergosphere.snapshots.manifest import CellPart, Manifest
from ergosphere.snapshots.pages import PAGE
from ergosphere.snapshots.pool import Pool
from ergosphere.snapshots.putting import Stream
from ergosphere.snapshots.records import commit
from ergosphere.snapshots.remote import CellSources, Uploaded
from ergosphere.snapshots.store import Store
from ergosphere.snapshots.vault import Vault, open_vault

RING = KeyRing({"default": bytes(range(32))})
OTHER_RING = KeyRing({"default": bytes(32)})


def pages(dice: random.Random, count: int) -> bytes:
    return dice.randbytes(PAGE * count)


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def message(**numbers: int) -> bytes:
    fields = {"pages_id": 1, "vaddr": 1, "nr": 5, "old_nr": 2, "flags": 4}
    body = b"".join(varint(fields[name] << 3) + varint(value) for name, value in numbers.items())
    return struct.pack("<I", len(body)) + body


def write_images(folder: Path, regions: Sequence[tuple[int, bytes]], pages_id: int = 1) -> None:
    """A page image and its pagemap: (address, content) of each region."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"pages-{pages_id}.img").write_bytes(b"".join(content for _, content in regions))
    entries = [message(vaddr=address, nr=len(content) // PAGE, flags=4) for address, content in regions]
    (folder / "pagemap-7.img").write_bytes(bytes(8) + message(pages_id=pages_id) + b"".join(entries))
    (folder / "core-7.img").write_bytes(b"core" * 300)


@dataclass
class Cell:
    """One cell of a job on a node: a working copy, a log, images of its ranks."""

    root: Path
    ranks: int = 1

    def __post_init__(self) -> None:
        (self.root / "work").mkdir(parents=True)
        (self.root / "work/model.bin").write_bytes(random.Random(1).randbytes(40_000))
        (self.root / "rank0.out").write_text("step 1\n")
        self.pool = Pool.create(self.root / "pool")
        for rank in range(self.ranks):
            self.image(rank, [(0x7F0000000000, pages(random.Random(2), 40)), (0x7F1000000000, bytes(PAGE * 9))])

    def image(self, rank: int, regions: Sequence[tuple[int, bytes]]) -> None:
        write_images(self.images / f"rank{rank}", regions)

    @property
    def images(self) -> Path:
        return self.root / "images"

    @property
    def files(self) -> CellFiles:
        return CellFiles(self.root / "work", None, {"rank0.out": self.root / "rank0.out"})

    def snapshot(self, freeze_id: str, *, taken_s: float = 1.0, job: str = "j1") -> Manifest:
        staged = stage_cell(self.files, self.pool)
        facts = CellFacts(0, "n1", "10.0.0.1", "key", (0,))
        part = build(staged, facts, self.images, {rank: {} for rank in range(self.ranks)}, self.pool)
        return Manifest(freeze_id, job, 1, {}, taken_s, "test", 0.1, "4.2", "6.1", None, (part,))

    def upload(self, vault: Vault, manifest: Manifest) -> Uploaded:
        return remote.upload_cell(vault, manifest.id, manifest.cells[0], self.images, self.pool)

    def keep(self, vault: Vault, freeze_id: str, *, taken_s: float = 1.0, job: str = "j1") -> Manifest:
        """Snapshot, commit, upload."""
        manifest = self.snapshot(freeze_id, taken_s=taken_s, job=job)
        assert commit(vault.store, freeze_id, manifest) == manifest
        self.upload(vault, manifest)
        return manifest


def put(vault: Vault, freeze_id: str, contents: dict[str, bytes]) -> remote.Recipe:
    """Plain bytes as streams of a recipe; labels to contents."""
    streams = [Stream(digest_bytes(content), label, content) for label, content in contents.items()]
    remote.put_cell(vault, (freeze_id, 0), CellSources(tuple(streams), (), ()))
    return vault.recipe(f"{freeze_id}.0")


def fresh(store: Store, project: str = "p", ring: KeyRing | None = RING) -> Vault:
    """A vault as another process would open it."""
    return open_vault(store, project, ring)


def forget(store: Store, freeze_id: str) -> None:
    """What a sweep does with a snapshot that its owner removed; its bytes go with later ones."""
    markers = tuple(stored.key for stored in store.list(f"remote/{freeze_id}/"))
    sweep.execute(store, sweep.SweepPlan((freeze_id,), (), (), 0.0, markers=markers))


def part_of(manifest: Manifest) -> CellPart:
    return manifest.cells[0]
