"""Putting images into vaults and getting them out again as an agent does: what the store's benchmarks share."""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ergosphere.snapshots.digests import digest_image
from ergosphere.snapshots.getting import fetch_streams
from ergosphere.snapshots.keys import KeyRing
from ergosphere.snapshots.putting import NO_WATCH, Stream, Watch
from ergosphere.snapshots.recipes import Recipe
from ergosphere.snapshots.remote import CellSources, put_cell
from ergosphere.snapshots.store import Store
from ergosphere.snapshots.vault import Vault, open_vault

RING = KeyRing({"default": bytes(range(32))})
DISK = "/var/tmp"
SIZE_GB = 2.0
CHANGED = 0.1  # of the image between two snapshots


def put(store: Store, sources: Sequence[Stream], freeze: str) -> Recipe:
    """What the agent's upload of a job that was paused does, by another process: the index is read first."""
    return put_into(open_vault(store, "bench", RING), sources, freeze, Watch(waits=True))


def put_into(vault: Vault, sources: Sequence[Stream], freeze: str, watch: Watch = NO_WATCH) -> Recipe:
    """What the agent's upload does with a vault that it has open; of a periodic snapshot, if `watch` says nothing."""
    put_cell(vault, (freeze, 0), CellSources(tuple(sources), (), ()), watch)
    return vault.recipe(f"{freeze}.0")


def streams(images: Path) -> list[Stream]:
    """Images with their digests, which a freeze has found before an upload begins."""
    paths = sorted(p for p in images.rglob("*") if p.is_file() and p.suffix != ".log")
    return [Stream(digest_image(path), f"{path.parent.name}/{path.name}", path) for path in paths]


def get(store: Store, freeze: str, dest: Path) -> None:
    vault = open_vault(store, "bench", RING)
    recipe = vault.recipe(f"{freeze}.0")
    dest.mkdir()
    fetch_streams(vault, recipe, {stream.digest: dest / stream.digest for stream in recipe.streams})


def stored_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def timed(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def image(folder: Path, size_gb: float, seed: int) -> Path:
    """What training holds: floats that do not compress, zeros, text and code; with the pagemap CRIU would write."""
    folder.mkdir()
    dice = random.Random(seed)
    code = Path(sys.executable).resolve().read_bytes()
    with (folder / "pages-1.img").open("wb") as file:
        for _ in range(int(size_gb * 16)):
            file.write(dice.randbytes(52 << 20))
            file.write(bytes(6 << 20))
            file.write((code * (1 + (6 << 20) // len(code)))[: 6 << 20])
    (folder / "core-1.img").write_bytes(dice.randbytes(20_000))
    return folder


def change(folder: Path) -> None:
    """A tenth of the pages, in runs, as 20 steps of a job would leave them."""
    dice = random.Random(99)
    size = (folder / "pages-1.img").stat().st_size
    with (folder / "pages-1.img").open("r+b") as file:
        for _ in range(int(CHANGED * size) >> 20):
            file.seek(dice.randrange(size >> 12) << 12)
            file.write(dice.randbytes(1 << 20))
        file.truncate(size)


def settle() -> None:
    """What earlier runs left to be written is written: everyone begins with a quiet disk."""
    os.sync()


def peak_mb() -> float:
    """The most memory this process has had (ru_maxrss would count its parent's as well)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024
