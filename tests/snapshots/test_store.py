"""The conformance suite of every store, and what only a folder can get wrong."""

from __future__ import annotations

import multiprocessing
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.snapshots.conftest import Bucket

from ergosphere.snapshots.caching import Cached
from ergosphere.snapshots.errors import BadKey, NotFound, StoreError, StoreFull, StoreUnreachable
from ergosphere.snapshots.gate import Claim, Gate
from ergosphere.snapshots.memory_store import MemoryStore
from ergosphere.snapshots.object_store import ObjectStore
from ergosphere.snapshots.opening import open_store
from ergosphere.snapshots.sealed_store import SealedStore
from ergosphere.snapshots.sealing import Sealer
from ergosphere.snapshots.store import FolderStore, Store, check_key
from ergosphere.snapshots.wrappers import Limit, Limited, Metered, Retrying
from ergosphere.system import SystemClock

CLOCK = SystemClock()
SEALER = Sealer(bytes(range(32)), b"salt" * 4)
MAKERS: dict[str, Callable[[Path], Store]] = {
    "folder": lambda path: FolderStore.create(path / "store"),
    "folder in memory": lambda path: FolderStore.create(path / "store", durable=False),
    "memory": lambda path: MemoryStore(),
    "retried": lambda path: Retrying(MemoryStore(), CLOCK),
    "limited": lambda path: Limited(MemoryStore(), Limit(1e9), CLOCK),
    "metered": lambda path: Metered(MemoryStore(), CLOCK),
    "cached": lambda path: Cached(MemoryStore(), path / "cache"),
    "sealed": lambda path: SealedStore(MemoryStore(), SEALER),
    "gated": lambda path: Gate(MemoryStore(), Claim("home", str(path), None)),
}


@pytest.fixture(params=[*MAKERS, "s3 (moto's server, a stand-in)"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param not in MAKERS:
        bucket: Bucket = request.getfixturevalue("bucket")
        return bucket.store(renew_after_s=0.0)
    return MAKERS[request.param](tmp_path)


@pytest.fixture
def grain_s(store: Store) -> float:
    """Buckets tell the time in whole seconds."""
    return 1.1 if isinstance(store, ObjectStore) else 0.01


def test_what_was_put_is_what_is_got(store: Store) -> None:
    assert store.put("blobs/ab/abcd", b"one")
    assert store.get("blobs/ab/abcd") == b"one"
    assert store.has("blobs/ab/abcd")


def test_a_put_without_if_absent_replaces(store: Store) -> None:
    store.put("a", b"one")
    assert store.put("a", b"two")
    assert store.get("a") == b"two"


def test_put_if_absent_keeps_what_is_there_and_says_so(store: Store) -> None:
    assert store.put("a", b"one", if_absent=True)
    assert not store.put("a", b"two", if_absent=True)
    assert store.get("a") == b"one"


@pytest.mark.parametrize("share", [False, True])
def test_a_file_goes_in_and_out(store: Store, tmp_path: Path, share: bool) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(300_000))
    assert store.put("a/b", source, share=share)
    store.fetch("a/b", tmp_path / "dest", share=share)
    assert (tmp_path / "dest").read_bytes() == source.read_bytes() == store.get("a/b")


def test_a_source_that_is_not_shared_may_be_rewritten(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"before")
    store.put("a", source)
    with source.open("r+b") as file:
        file.write(b"behind")
    assert store.get("a") == b"before"


def test_a_destination_that_is_not_shared_may_be_rewritten(store: Store, tmp_path: Path) -> None:
    store.put("a", b"before")
    store.fetch("a", tmp_path / "dest")
    with (tmp_path / "dest").open("r+b") as file:
        file.write(b"behind")
    assert store.get("a") == b"before"


@pytest.mark.parametrize(("start", "size", "wanted"), [(0, 3, b"012"), (4, 100, b"456789"), (10, 5, b""), (3, 0, b"")])
def test_a_range_is_as_much_as_there_is(store: Store, start: int, size: int, wanted: bytes) -> None:
    store.put("a", b"0123456789")
    assert store.get_range("a", start, size) == wanted
    with pytest.raises(NotFound):
        store.get_range("b", start, size)


def test_any_bytes_can_be_put_even_none(store: Store) -> None:
    for number, content in enumerate((b"", bytearray(b"two"), memoryview(b"three"))):
        store.put(f"a/{number}", content)
        assert store.get(f"a/{number}") == bytes(content)


def test_a_missing_source_is_the_callers_error(store: Store, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        store.put("a", tmp_path / "absent")
    assert not store.has("a")


def test_a_destination_that_exists_is_refused_and_kept(store: Store, tmp_path: Path) -> None:
    store.put("a", b"one")
    (tmp_path / "dest").write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        store.fetch("a", tmp_path / "dest")
    assert (tmp_path / "dest").read_bytes() == b"mine"


def test_what_is_absent_is_not_found(store: Store, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        store.get("a/b/c")
    with pytest.raises(NotFound):
        store.fetch("a", tmp_path / "dest")
    assert not (tmp_path / "dest").exists()
    assert not store.has("a")
    assert not store.delete("a")


def test_list_gives_every_key_under_a_prefix_in_order(store: Store) -> None:
    keys = ["a/b", "a.b/c", "ab", "a/b.c", "a/bc/d", "b"]
    for key in keys:
        store.put(key, key.encode())
    assert [s.key for s in store.list()] == sorted(keys)
    assert [(s.key, s.size) for s in store.list("a/b")] == [("a/b", 3), ("a/b.c", 5), ("a/bc/d", 6)]
    assert [s.key for s in store.list("a/")] == ["a/b", "a/b.c", "a/bc/d"]
    assert list(store.list("nothing/here")) == []


def test_deleted_is_gone_and_may_come_back(store: Store) -> None:
    store.put("a/b", b"one")
    assert store.delete("a/b")
    assert not store.has("a/b")
    assert store.put("a/b", b"two", if_absent=True)
    assert store.get("a/b") == b"two"


def test_a_delete_by_age_spares_what_is_younger(store: Store) -> None:
    store.put("a", b"one")
    (stored,) = store.list("a")
    assert not store.delete("a", written_before_s=stored.written_s)
    assert store.get("a") == b"one"
    assert store.delete("a", written_before_s=stored.written_s + 1)
    assert not store.has("a")


def test_asking_for_a_key_renews_its_age(store: Store, grain_s: float) -> None:
    store.put("a", b"one")
    (before,) = store.list("a")
    time.sleep(2 * grain_s)
    assert store.has("a")
    assert not store.delete("a", written_before_s=before.written_s + grain_s / 2)
    assert not store.put("a", b"two", if_absent=True)


@pytest.mark.parametrize("key", ["", "/a", "a/", "../a", "a/../b", "a//b", ".a", "a/.b", "a\nb", "a\0", "ä", "a" * 600])
def test_a_key_that_could_climb_out_is_refused(store: Store, key: str, tmp_path: Path) -> None:
    for use in (store.get, store.has, store.delete, lambda k: store.put(k, b"")):
        with pytest.raises(BadKey):
            use(key)
    with pytest.raises(BadKey):
        store.fetch(key, tmp_path / "dest")


@given(st.text())
def test_a_key_stays_below_the_root(key: str) -> None:
    try:
        check_key(key)
    except BadKey:
        return
    assert os.path.normpath(f"/base/{key}") == f"/base/{key}"


def _put_own_name(folder: Path, gate: object, results: object, name: int) -> None:
    store = FolderStore(folder)
    gate.wait()  # type: ignore[attr-defined]
    for key in range(20):
        if store.put(f"race/{key}", str(name).encode(), if_absent=True):
            results.put((key, name))  # type: ignore[attr-defined]


def test_of_many_processes_that_put_if_absent_exactly_one_wins(tmp_path: Path) -> None:
    store = FolderStore.create(tmp_path / "store")
    context = multiprocessing.get_context("fork")
    gate, results = context.Barrier(6), context.Queue()
    racers = [context.Process(target=_put_own_name, args=(store.folder, gate, results, n)) for n in range(6)]
    for racer in racers:
        racer.start()
    winners = dict(results.get(timeout=60) for _ in range(20))
    for racer in racers:
        racer.join(60)
    assert results.empty()
    assert {key: str(name).encode() for key, name in winners.items()} == {
        key: store.get(f"race/{key}") for key in range(20)
    }


def test_files_and_folders_are_for_their_owner_alone(tmp_path: Path) -> None:
    store = FolderStore.create(tmp_path / "store")
    (tmp_path / "source").write_bytes(b"x")
    store.put("a/bytes", b"x")
    store.put("a/copied", tmp_path / "source")
    store.put("a/shared", tmp_path / "source", share=True)
    store.fetch("a/bytes", tmp_path / "fetched")
    modes = {stat.S_IMODE(path.stat().st_mode) for path in store.folder.rglob("*") if path.is_file()}
    folders = {stat.S_IMODE(path.stat().st_mode) for path in [store.folder, *store.folder.rglob("*")] if path.is_dir()}
    assert modes == {0o600} and folders == {0o700}
    assert stat.S_IMODE((tmp_path / "fetched").stat().st_mode) == 0o600


def test_a_shared_source_is_linked_not_copied(tmp_path: Path) -> None:
    store = FolderStore.create(tmp_path / "store")
    (tmp_path / "source").write_bytes(b"x" * 5000)
    store.put("a", tmp_path / "source", share=True)
    store.fetch("a", tmp_path / "dest", share=True)
    assert (tmp_path / "dest").stat().st_ino == (tmp_path / "source").stat().st_ino


def test_a_folder_that_is_no_store_is_unreachable_not_empty(tmp_path: Path) -> None:
    for folder in (tmp_path / "absent", tmp_path):
        store = FolderStore(folder)
        for use in (store.get, store.has, store.delete, lambda k: store.put(k, b"", if_absent=True), store.list):  # noqa: B023
            with pytest.raises(StoreUnreachable):
                list(use("a") or [])
    assert not (tmp_path / "absent").exists()


def test_holes_survive_a_store(tmp_path: Path) -> None:
    store = FolderStore.create(tmp_path / "store")
    with (tmp_path / "source").open("wb") as file:
        file.truncate(1 << 30)
        file.seek(700 << 20)
        file.write(b"island")
    store.put("a", tmp_path / "source")
    store.fetch("a", tmp_path / "dest")
    status = (tmp_path / "dest").stat()
    assert status.st_size == 1 << 30 and status.st_blocks * 512 < 1 << 20
    with (tmp_path / "dest").open("rb") as file:
        file.seek(700 << 20)
        assert file.read(7) == b"island\0"


def test_a_url_opens_its_store_and_other_words_are_refused(tmp_path: Path) -> None:
    FolderStore.create(tmp_path / "store").put("a", b"one")
    assert open_store(f"file://{tmp_path}/store").get("a") == b"one"
    assert open_store(f"{tmp_path}/store").get("a") == b"one"
    with pytest.raises(StoreError):
        open_store("gopher://a/b")


def test_a_full_store_says_so_and_keeps_what_it_had(small_disk: Path, tmp_path: Path) -> None:
    store = FolderStore.create(small_disk / "store")
    store.put("a", b"one")
    (tmp_path / "big").write_bytes(os.urandom(3 << 20))
    for source in (tmp_path / "big", (tmp_path / "big").read_bytes()):
        with pytest.raises(StoreFull, match="no room"):
            store.put("a", source)
    assert store.get("a") == b"one"
    assert list((store.folder / ".aside").iterdir()) == []
    assert store.put("b", os.urandom(1 << 20))


WRITER = """
import sys, itertools
from pathlib import Path
from ergosphere.snapshots.store import FolderStore
store = FolderStore(Path(sys.argv[1]))
print("ready", flush=True)
for n in itertools.count():
    store.put(f"objects/{n % 50}", bytes([n % 256]) * 100_000)
"""


def test_killing_a_writer_leaves_whole_objects_only(tmp_path: Path) -> None:
    store = FolderStore.create(tmp_path / "store")
    for delay_s in (0.02, 0.05, 0.09):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(store.folder)], stdout=subprocess.PIPE)
        assert writer.stdout is not None and writer.stdout.readline()
        time.sleep(delay_s)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        for stored in store.list("objects/"):
            content = store.get(stored.key)
            assert len(content) == 100_000 and len(set(content)) == 1
