"""What stays small: memory beside the images, time beside a link's, and a store of a million chunks."""

from __future__ import annotations

import json
import random
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import boto3
import numpy as np

from bench.fleet import wait_until
from bench.report import Row, row
from bench.vaults import DISK, RING, SIZE_GB, get, image, put, streams, timed
from ergosphere import system
from ergosphere.snapshots.chunk_index import unique
from ergosphere.snapshots.documents import canonical
from ergosphere.snapshots.manifest import Manifest, to_json
from ergosphere.snapshots.object_store import ObjectStore
from ergosphere.snapshots.recipes import Recipe, StreamPart
from ergosphere.snapshots.repacking import PackWriter
from ergosphere.snapshots.store import FolderStore
from ergosphere.snapshots.vault import open_vault

MEMORY_CODE = """
import json, sys
from pathlib import Path
from bench.vaults import get, peak_mb, put, streams
from ergosphere.snapshots.store import FolderStore
folder = Path(sys.argv[1])
base_mb = peak_mb()
store = FolderStore.create(folder / "store", durable=False)
put(store, streams(folder / "image"), "one")
get(store, "one", folder / "out")
print(json.dumps(peak_mb() - base_mb))
"""


def memory_rows(quick: bool) -> list[Row]:
    """What a process needs beside the images, put and get together, at two sizes."""
    rows = []
    for size_gb in (0.25,) if quick else (0.5, SIZE_GB):
        with TemporaryDirectory(dir=DISK) as folder:
            image(Path(folder) / "image", size_gb, 7)
            command = [sys.executable, "-c", MEMORY_CODE, folder]
            told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        rows.append(row(f"store/memory/{size_gb:g}GB", [told], "MB", goal=256, bar=256, against="beside the images"))
    return rows


# ── object storage ─────────────────────────────────────────────────────────────────────────────────────────────


def bucket_rows(quick: bool) -> list[Row]:
    """Getting an image out of a bucket, beside reading the same objects one after the other and doing nothing more."""
    shares = []
    with TemporaryDirectory(dir=DISK) as folder, _s3() as store:
        put(store, streams(image(Path(folder) / "image", 0.125 if quick else 0.5, 8)), "one")
        packs = [(stored.key, stored.size) for stored in store.list("vaults/") if "/packs/" in stored.key]
        total = sum(size for _, size in packs)
        for number in range(1 if quick else 5):
            link = total / timed(lambda: [store.get(key) for key, _ in packs])
            dest = Path(folder) / f"out{number}"
            ours = total / timed(lambda dest=dest: get(store, "one", dest))  # type: ignore[misc]
            shutil.rmtree(dest)
            shares.append(link / ours)
    return [
        row("store/get/s3", shares, "× the link's time", goal=1.0, bar=1 / 0.6, against="moto's server, a stand-in")
    ]


@contextmanager
def _s3() -> Iterator[ObjectStore]:
    code = "import sys; from moto.server import main; main(['-H', '127.0.0.1', '-p', sys.argv[1]])"
    port = str(_free_port())
    server = subprocess.Popen([sys.executable, "-c", code, port], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    config = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_REGION": "us-east-1",
    }
    try:
        wait_until(lambda: _make_bucket(config), step_s=0.2)
        yield ObjectStore("s3://bucket/bench", config, system.SystemClock())
    finally:
        server.kill()
        server.wait()


def _make_bucket(config: dict[str, str]) -> bool:
    try:
        boto3.client(
            "s3",
            endpoint_url=config["AWS_ENDPOINT_URL"],
            aws_access_key_id="nobody",
            aws_secret_access_key="nothing",
            region_name="us-east-1",
        ).create_bucket(Bucket="bucket")
    except Exception:
        return False
    return True


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


# ── a million chunks ───────────────────────────────────────────────────────────────────────────────────────────


MILLION_CODE = """
import json, sys
from pathlib import Path
from bench.vaults import RING, peak_mb, timed
from ergosphere.snapshots import collect, records
from ergosphere.snapshots.store import FolderStore
from ergosphere.snapshots.vault import open_vault
store = FolderStore(Path(sys.argv[1]))
held = []
open_s = timed(lambda: held.append(open_vault(store, "bench", RING)) or len(held[0].index))
ids = [stored.key.removeprefix(records.RECORDS) for stored in store.list(records.RECORDS)]
list_s = timed(lambda: [records.load(store, freeze_id) for freeze_id in ids])
plan_s = timed(lambda: collect.plan(held[0], collect.Rules(grace_s=0.0)))
print(json.dumps([open_s, list_s, plan_s, peak_mb(), len(held[0].index)]))
"""


def million_rows(quick: bool) -> list[Row]:
    """A store of a million chunks in 40 snapshots, opened by a fresh process."""
    chunks = 100_000 if quick else 1_000_000
    with TemporaryDirectory(dir=DISK) as folder:
        _write_million(FolderStore.create(Path(folder) / "store", durable=False), chunks)
        command = [sys.executable, "-c", MILLION_CODE, str(Path(folder) / "store")]
        told = [
            json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            for _ in range(1 if quick else 5)
        ]
    assert told[0][4] == chunks
    rows = [
        row(f"store/million/{name}", [each[at] for each in told], "s", goal=1.0, bar=1.0, against=f"{chunks} chunks")
        for at, name in enumerate(("open", "list", "plan_sweep"))
    ]
    peak = [each[3] for each in told]
    return [*rows, row("store/million/memory", peak, "MB", goal=300, bar=300, against="the whole process")]


def _write_million(store: FolderStore, chunks: int) -> None:
    """Real packs with real tables; the chunks are tiny so that this fits, nothing here looks at their size."""

    vault = open_vault(store, "bench", RING)
    dice, snapshots = random.Random(5), 40
    per = chunks // snapshots
    before = np.zeros((0, 4), "<u8")
    for number in range(snapshots):
        names = [dice.randbytes(32) for _ in range(per)]
        writer = PackWriter(vault)
        for name in names:
            writer.add(name, memoryview(name[:16]))
        writer.close()
        mine = np.frombuffer(b"".join(names), "<u8").reshape(-1, 4)
        both, _ = unique(np.concatenate([before, mine]))  # each snapshot shares half of what it has with the last one
        spans = np.arange(len(both), dtype=np.uint32)
        stream = StreamPart("0" * 64, "rank0/pages-1.img", 16 * len(both), 0, len(both))
        recipe = Recipe(f"f{number}", 0, (stream,), both, spans, np.full(len(both), 16, np.uint32))
        vault.put_recipe(recipe)
        manifest = Manifest(f"f{number}", "j", 1, {}, float(number), "bench", 0.1, "4", "6", None, ())
        record = {"ergosphere": "freeze", "version": 1, "verdict": "commit", "manifest": json.loads(to_json(manifest))}
        store.put(f"freezes/f{number}", canonical(record))
        before = mine
