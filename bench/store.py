"""Group `store`: what snapshots cost in bytes and seconds, beside restic, borg and a bare copy. Issue 3's promises.

restic and borg come from the distribution (`apt-get install restic borgbackup`); where one is missing, its rows are
left out and that is said. S3 is moto's server on loopback, a stand-in: it tells how we use a link, not how fast a
service is.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from bench import moving, store_jobs, store_million, store_scale
from bench.fleet import Fleet, fleet, last_line, wait_until
from bench.report import Row, row
from bench.vaults import DISK, RING, SIZE_GB, change, get, image, put, put_into, settle, stored_bytes, streams, timed
from ergosphere import system
from ergosphere.snapshots.memory_store import MemoryStore
from ergosphere.snapshots.pages import PAGE
from ergosphere.snapshots.recipes import ZEROS, Recipe
from ergosphere.snapshots.store import FolderStore
from ergosphere.snapshots.vault import Vault, open_vault

PROGRAMS = Path(__file__).parent / "programs"


def measure(quick: bool) -> list[Row]:
    rows: list[Row] = []
    scale = (store_scale.memory_rows, store_scale.bucket_rows, store_million.million_rows)
    for part in (rank_rows, rival_rows, random_rows, *scale, moving.measure, store_jobs.measure):
        for each in part(quick):
            print(f"  {each.name}: {each.value:.3g} {each.unit} (goal {each.goal:.3g}, bar {each.bar:.3g})", flush=True)
            rows.append(each)
    return rows


# ── equal memory ───────────────────────────────────────────────────────────────────────────────────────────────


def rank_rows(quick: bool) -> list[Row]:
    """Real images of a real job: four ranks beside one of them, and the same job 20 steps later."""
    return [each for width in ((512,) if quick else (2048, 4096)) for each in _rank_rows(width)]


def _rank_rows(width: int) -> list[Row]:
    with TemporaryDirectory(dir=DISK) as kept:
        first, second = _ddp_images(Path(kept), width)
        alone, whole = (open_vault(MemoryStore(), "bench", RING) for _ in range(2))  # an agent keeps its vault open
        one = _new_bytes(alone, first / "rank0", "one")
        four = _new_bytes(whole, first, "all")
        later = _new_bytes(whole, second, "later")
        _explain(whole, second)
        print(f"  20 steps later: {later / four:.3g} of the first snapshot's bytes are stored anew", flush=True)
        again = stored_again(whole, first, second)
    case = f"{LAYERS * width * (width + 1) / 1e6:.0f}M"
    against = f"stored bytes of one rank, {one / 1e6:.0f} MB; {case} parameters with Adam"
    return [
        row(f"store/bytes/ddp4_over_1/{case}", [four / one], "×", goal=1.15, bar=1.4, against=against),
        row(f"store/bytes/unchanged_20_steps/{case}", [again], "of them stored", goal=0.02, bar=0.1, against=UNCHANGED),
    ]


LAYERS = 4  # of the DDP job
UNCHANGED = "bytes of pages that are as 20 steps before; they should cost nothing"


def stored_again(vault: Vault, first: Path, second: Path) -> float:
    """What was stored anew of the second images' pages that were in the first ones, by the bytes of these pages. Of a
    chunk that is new each page has taken its part of what the chunk takes in the store.
    """
    known = {page for path in _page_images(first) for page in _pages(path)} - {None}
    later = vault.recipe("later.0")
    cost = _cost(vault, later, vault.recipe("all.0"))
    streams = {stream.label: stream for stream in later.streams}
    same = anew = 0.0
    for path in _page_images(second):
        chunk, length = later.spans(streams[f"{path.parent.name}/{path.name}"])
        unchanged = np.array([page in known for page in _pages(path)], bool)
        ends = np.cumsum(length, dtype=np.int64)
        held = _bytes_before(unchanged, ends) - _bytes_before(unchanged, ends - length)
        real = chunk != ZEROS
        anew += float((cost[chunk[real]] * held[real]).sum())
        same += PAGE * int(unchanged.sum())
    return anew / max(1.0, same)


def _bytes_before(pages: NDArray[np.bool_], offset: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many bytes of these pages lie before each offset."""
    page, rest = np.divmod(offset, PAGE)
    whole = np.concatenate(([0], np.cumsum(pages)))
    return whole[page] * PAGE + np.append(pages, False)[page] * rest


def _cost(vault: Vault, later: Recipe, before: Recipe) -> NDArray[np.float64]:
    """Bytes stored for each byte of each chunk of `later`; of those that were there before, none."""
    old = {name.tobytes() for name in before.names}
    rows = vault.index.rows[vault.index.find(later.names)]
    is_old = np.array([name.tobytes() in old for name in later.names], bool)
    return np.where(is_old, 0.0, rows["stored"] / rows["size"])


def _page_images(images: Path) -> list[Path]:
    return sorted(path for path in images.rglob("pages-*.img") if path.is_file())


def _pages(path: Path) -> Iterator[bytes | None]:
    """A digest for each page; None for zeros, which are never stored."""
    with path.open("rb") as file:
        while page := file.read(PAGE):
            yield blake2b(page, digest_size=16).digest() if page.strip(b"\0") else None


def _new_bytes(vault: Vault, images: Path, freeze: str) -> float:
    before = sum(vault.pack_sizes().values())
    put_into(vault, streams(images), freeze)
    return sum(vault.pack_sizes().values()) - before


def _explain(vault: Vault, second: Path) -> None:
    """How much of the second snapshot's memory was there already, by rank."""
    old = {name.tobytes() for name in vault.recipe("all.0").names}
    later = vault.recipe("later.0")
    for stream in later.streams:
        if "/pages-" in stream.label and stream.size > 1 << 20:
            chunk, length = later.spans(stream)
            real = [(int(c), int(n)) for c, n in zip(chunk, length, strict=True) if c != 0xFFFFFFFF]
            same = sum(n for c, n in real if later.names[c].tobytes() in old)
            zeros = stream.size - sum(n for _, n in real)
            said = f"{stream.size >> 20} MB, {zeros >> 20} MB zeros, {same >> 20} MB as 20 steps before"
            print(f"    {stream.label}: {said}", flush=True)


def _ddp_images(kept: Path, width: int) -> tuple[Path, Path]:
    with fleet(1, 4) as place, TemporaryDirectory() as folder:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        command = ["torchrun", "--nproc-per-node", "4", str(PROGRAMS / "adam.py"), str(width), str(LAYERS)]
        environment = {"PATH": path, "OMP_NUM_THREADS": "1"}
        place.ergo("submit", "--name", "adam", "--", *command, cwd=Path(folder), env=environment)
        job = str(place.job("adam")["id"])
        wait_until(lambda: _steps(place, job) >= 3)
        place.verb(job, "pause")
        first = _copy_images(place, kept / "first")
        place.verb(job, "resume")
        wait_until(lambda: _steps(place, job) >= 23)
        place.verb(job, "pause")
        second = _copy_images(place, kept / "second")
        place.verb(job, "cancel", grace_s=0)
        return first, second


def _steps(place: Fleet, job: str) -> int:
    log = place.log_file(job)
    line = last_line(log) if log is not None and log.exists() else ""
    return int(line.split()[0]) if line else 0


def _copy_images(place: Fleet, dest: Path) -> Path:
    """The newest images in the node's memory, before anything lets go of them."""
    found = sorted(system.memory_folder(place.home).glob("*/images/*"), key=lambda path: path.stat().st_mtime)
    shutil.copytree(found[-1], dest)
    return dest


# ── beside restic, borg and cp ─────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Took:
    """Seconds of a first put, a second one after some pages changed, a get; and bytes stored after the first."""

    cold_s: float
    second_s: float
    get_s: float
    bytes: int


Change = Callable[[Path], object]


@dataclass(frozen=True, slots=True)
class Files:
    """An image set as it is at first, and how it is later: `begin(folder)` makes one, `change` makes it the other."""

    begin: Callable[[Path, int], Path]
    change: Change


def rival_rows(quick: bool) -> list[Row]:
    """The images of a real job, four ranks in 2 GB, and those of 20 steps later; sent as those of a paused job are."""
    with TemporaryDirectory(dir=DISK) as kept:
        first, second = _ddp_images(Path(kept), 512 if quick else 2048)
        files = Files(lambda folder, _: _replaced(folder / "image", first), lambda image: _replaced(image, second))
        return _beside_rivals("store", files, 1 if quick else 3)


def random_rows(quick: bool) -> list[Row]:
    """The worst there can be: most of it random, nothing in it twice, a tenth of it changed."""
    size_gb = 0.25 if quick else SIZE_GB
    files = Files(lambda folder, number: image(folder / "image", size_gb, number), change)
    return _beside_rivals("store/random", files, 1 if quick else 3)


def _replaced(image: Path, by: Path) -> Path:
    shutil.rmtree(image, ignore_errors=True)
    shutil.copytree(by, image)
    return image


def _beside_rivals(group: str, files: Files, rounds: int) -> list[Row]:
    rivals = {name: act for name, act in RIVALS.items() if shutil.which(name)}
    for name in RIVALS.keys() - rivals.keys():
        print(f"  {name} is not installed: its rows are missing (apt-get install restic borgbackup)", flush=True)
    runs: dict[str, list[Took]] = {name: [] for name in (*rivals, "ours", "cp")}
    for number in range(rounds):
        for name, act in (*rivals.items(), ("ours", _ours), ("cp", _cp)):
            with TemporaryDirectory(dir=DISK) as folder:
                image = files.begin(Path(folder), number)
                settle()
                runs[name].append(act(Path(folder), image, files.change))
    return [*_rival_rows(group, runs, rivals), *_copy_rows(group, runs)]


def _rival_rows(group: str, runs: dict[str, list[Took]], rivals: Iterable[str]) -> list[Row]:
    rows = []
    for name in rivals:
        for what, goal, bar in (("cold_s", 0.1, 0.25), ("second_s", 0.1, 0.25), ("get_s", 0.1, 0.25)):
            pairs = [getattr(o, what) / getattr(r, what) for o, r in zip(runs["ours"], runs[name], strict=True)]
            said = ", ".join(
                f"{who} {median(getattr(took, what) for took in runs[who]):.3g} s" for who in (name, "ours", "cp")
            )
            rows.append(row(f"{group}/{what[:-2]}/{name}", pairs, "× its time", goal=goal, bar=bar, against=said))
        sizes = [o.bytes / r.bytes for o, r in zip(runs["ours"], runs[name], strict=True)]
        said = f"{name}, same files: {median(r.bytes for r in runs[name]) / 1e6:.0f} MB"
        rows.append(row(f"{group}/bytes/{name}", sizes, "× its bytes", goal=1.0, bar=1.0, against=said))
    return rows


def _copy_rows(group: str, runs: dict[str, list[Took]]) -> list[Row]:
    pairs = [o.second_s / c.second_s for o, c in zip(runs["ours"], runs["cp"], strict=True)]
    said = f"cp of the same files: {median(c.second_s for c in runs['cp']):.3g} s"
    return [row(f"{group}/second/cp", pairs, "× its time", goal=1.0, bar=1.0, against=said)]


def _ours(folder: Path, image: Path, change: Change) -> Took:
    store = FolderStore.create(folder / "store")
    first = streams(image)
    cold_s = timed(lambda: put(store, first, "one"))
    held = stored_bytes(folder / "store")
    change(image)
    second = streams(image)
    settle()
    second_s = timed(lambda: put(store, second, "two"))
    settle()
    get_s = timed(lambda: get(store, "two", folder / "out"))
    for stream in second:
        same = subprocess.run(["cmp", "-s", str(stream.source), folder / "out" / stream.digest])
        assert same.returncode == 0, "we lost bytes"
    return Took(cold_s, second_s, get_s, held)


def _restic(folder: Path, image: Path, change: Change) -> Took:
    environment = {**os.environ, "RESTIC_PASSWORD": "x", "RESTIC_CACHE_DIR": str(folder / "cache")}

    def run(*words: str) -> None:
        command = ["restic", "-q", "-r", folder / "repo", *words]
        subprocess.run(command, env=environment, check=True, capture_output=True)

    run("init")
    cold_s = timed(lambda: run("backup", str(image)))
    held = stored_bytes(folder / "repo")
    change(image)
    settle()
    second_s = timed(lambda: run("backup", str(image)))
    settle()
    return Took(cold_s, second_s, timed(lambda: run("restore", "latest", "--target", str(folder / "out"))), held)


def _borg(folder: Path, image: Path, change: Change) -> Took:
    environment = {**os.environ, "BORG_PASSPHRASE": "x", "BORG_BASE_DIR": str(folder / "base")}
    out = folder / "out"
    out.mkdir()

    def run(*words: str) -> None:
        subprocess.run(["borg", *words], env=environment, check=True, capture_output=True, cwd=out)

    repository = str(folder / "repo")
    run("init", "-e", "repokey-blake2", repository)
    cold_s = timed(lambda: run("create", f"{repository}::one", str(image)))
    held = stored_bytes(folder / "repo")
    change(image)
    settle()
    second_s = timed(lambda: run("create", f"{repository}::two", str(image)))
    settle()
    return Took(cold_s, second_s, timed(lambda: run("extract", f"{repository}::two")), held)


def _cp(folder: Path, image: Path, change: Change) -> Took:
    def copy(name: str) -> float:
        return timed(lambda: subprocess.run(["cp", "-r", image, folder / name], check=True))

    cold_s = copy("one")
    change(image)
    settle()
    second_s = copy("two")
    settle()
    return Took(cold_s, second_s, copy("three"), stored_bytes(folder / "one"))


RIVALS: dict[str, Callable[[Path, Path, Change], Took]] = {"restic": _restic, "borg": _borg}
