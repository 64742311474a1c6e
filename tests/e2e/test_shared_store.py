"""Whole fleets whose store is not theirs alone: a shared folder under a key, and a bucket."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer
from tests.e2e.fleet import Fleet, counter, is_whole, running, wait_for
from tests.e2e.test_snapshots import forked, listed, taken

from ergosphere.snapshots import settings
from ergosphere.snapshots.depot import open_depot
from ergosphere.snapshots.opening import create_store
from ergosphere.snapshots.settings import StoreSettings

KEY = "ab" * 32
SECRET = b"correct-horse-battery-staple"
SHORT = ("--lease-s", "4", "--margin-s", "2")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("share") / "store"
    create_store(str(folder))
    return folder


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Iterator[Fleet]:
    """A fleet whose snapshots go to a shared folder, under a key of its own."""
    fleet = Fleet(tmp_path_factory.mktemp("keyed") / "home", nodes=1, devices=2, options=SHORT)
    key = fleet.home / "store.key"
    key.write_text(f"default = {KEY}\n")
    key.chmod(0o600)
    settings.save(fleet.home, StoreSettings(url=str(shared), key_file=str(key)))
    with running(fleet):
        yield fleet


def test_a_job_lives_by_an_encrypted_store_in_which_nothing_of_it_can_be_read(
    keyed: Fleet, shared: Path, folder: Path
) -> None:
    (folder / "password").write_bytes(SECRET * 10)
    job = keyed.submit(counter(first="secret = open('password').read(); print(secret, flush=True)"), folder)
    job.printed()
    taken(job)
    agent = keyed.start_agent("node-9", devices=1)
    job.verb("migrate", to=["node-9"])
    wait_for(lambda: listed(job)[-1]["durability"] == "remote", "it is in the store")
    job.printed()
    agent.kill()
    agent.wait()
    keyed.kill_node("node-9")
    wait_for(lambda: job.detail["recoveries"] == 1, "it goes on from the store")
    job.printed()
    assert not [path for path in shared.rglob("*") if path.is_file() and SECRET in path.read_bytes()]
    assert all(path.stat().st_mode & 0o077 == 0 for path in shared.rglob("*"))
    assert not (keyed.home / "store").exists()
    job.finish()
    assert is_whole(job.out()[1:]), job.story()


@pytest.mark.parametrize(("key", "said"), [(None, "wants a key"), ("cd" * 32, "key")])
def test_without_its_key_or_with_another_a_service_does_not_begin_and_says_what_to_do(
    tmp_path: Path, keyed: Fleet, shared: Path, key: str | None, said: str
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    settings.save(home, StoreSettings(url=str(shared)))
    assert said in refused(home, keyed.environment, key)


def refused(home: Path, environment: dict[str, str], key: str | None) -> str:
    """What a server of this home says when it does not begin."""
    command = [sys.executable, "-P", "-m", "ergosphere.control.server", "--home", str(home), "--nodes", "0"]
    given = {**environment, **({"ERGO_KEY": key} if key else {})}
    ended = subprocess.run(command, env=given, capture_output=True, text=True, timeout=60)
    assert ended.returncode != 0 and "remedy" in ended.stderr and "Traceback" not in ended.stderr, ended.stderr
    return ended.stderr


def test_a_key_does_not_destroy_what_was_begun_without_one(tmp_path: Path, keyed: Fleet) -> None:
    open_depot(tmp_path / "home")
    (tmp_path / "home/server").mkdir()
    said = refused(tmp_path / "home", keyed.environment, KEY)
    assert "begun without a key" in said and "unset ERGO_KEY" in said


def test_a_second_home_does_not_begin_on_a_store_that_has_one(tmp_path: Path, keyed: Fleet, shared: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    settings.save(home, StoreSettings(url=str(shared)))
    said = refused(home, keyed.environment, KEY)
    assert str(keyed.home) in said and "--store URL" in said


@pytest.fixture
def bucketed(tmp_path: Path) -> Iterator[Fleet]:
    """A fleet that keeps its snapshots in a bucket of moto's S3 server, a stand-in for the real thing."""
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    given = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_REGION": "us-east-1",
    }
    named = dict(zip(("endpoint_url", "aws_access_key_id", "aws_secret_access_key", "region_name"), given.values()))
    boto3.client("s3", **named).create_bucket(Bucket="snapshots")
    fleet = Fleet(tmp_path / "home", nodes=2, devices=1)
    fleet.environment |= {**given, "ERGO_KEY": KEY}
    settings.save(fleet.home, StoreSettings(url="s3://snapshots/home"))
    with running(fleet):
        yield fleet
    moto.stop()


def test_a_job_is_frozen_moved_and_forked_out_of_a_bucket(bucketed: Fleet, folder: Path) -> None:
    job = bucketed.submit(counter(), folder)
    job.printed()
    taken(job, "good")
    job.verb("migrate")
    job.printed()
    job.verb("pause")
    wait_for(lambda: listed(job)[-1]["durability"] == "remote", "it is in the bucket")
    fork = forked(job, "good", {"name": "twin"})
    fork.until("running")
    fork.printed()
    fork.finish()
    assert is_whole(fork.out()), fork.story()
    job.verb("resume")
    job.printed()
    job.finished_whole()
    assert bucketed.post("/v1/store/fsck", {"read": True})["ok"]
