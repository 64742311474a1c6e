"""What stays small: memory beside the images, and time beside a link's."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import boto3

from bench.fleet import wait_until
from bench.report import Row, row
from bench.vaults import DISK, SIZE_GB, get, image, put, streams, timed
from ergosphere import system
from ergosphere.snapshots.object_store import ObjectStore

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
