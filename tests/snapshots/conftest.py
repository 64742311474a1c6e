"""What the snapshot tests share: a store, and a digest-addressed way into it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from ergosphere.snapshots.object_store import ObjectStore
from ergosphere.snapshots.store import FolderStore
from ergosphere.system import SystemClock, short_id


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore.create(tmp_path / "shared", durable=False)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket of moto's S3 server on loopback: a stand-in for the real thing, which speaks the same words."""

    name: str
    config: dict[str, str]

    def store(self, *, renew_after_s: float = 900.0) -> ObjectStore:
        return ObjectStore(f"s3://{self.name}/home", self.config, SystemClock(), renew_after_s=renew_after_s)

    def tag(self, key: str) -> str:
        """Its e-tag, which ends with the number of its parts where it was put in parts."""
        return str(_client(self.config).head_object(Bucket=self.name, Key=key)["ETag"])

    def unfinished(self) -> list[str]:
        """Keys of uploads in parts that were neither ended nor called off: their parts are paid for."""
        found = _client(self.config).list_multipart_uploads(Bucket=self.name)
        return [str(upload["Key"]) for upload in found.get("Uploads", [])]


def _client(config: dict[str, str]) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=config["AWS_ENDPOINT_URL"],
        aws_access_key_id=config["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=config["AWS_SECRET_ACCESS_KEY"],
        region_name=config["AWS_REGION"],
    )


@pytest.fixture(scope="session")
def s3_server() -> Iterator[dict[str, str]]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_REGION": "us-east-1",
    }
    server.stop()


@pytest.fixture
def bucket(s3_server: dict[str, str]) -> Bucket:
    name = f"bucket-{short_id()}"
    _client(s3_server).create_bucket(Bucket=name)
    return Bucket(name, s3_server)
