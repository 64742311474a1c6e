"""Retries, limits, meters, caches, keys and sealed records: each does its one thing."""

from __future__ import annotations

import os
import random
import shutil
import socket
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path, PosixPath
from typing import TypeVar

import pytest
from tests.hand_clock import HandClock
from tests.snapshots.conftest import Bucket
from tests.snapshots.test_vault_faults import Faulty
from tests.snapshots.vaultkit import OTHER_RING, RING, Cell, fresh, put

from ergosphere.snapshots import records, remote, thawing
from ergosphere.snapshots.blobs import blob_key, get_blob, put_blob
from ergosphere.snapshots.caching import Cached
from ergosphere.snapshots.digests import digest_bytes
from ergosphere.snapshots.errors import (
    BadKeyFile,
    Damaged,
    Forged,
    NotFound,
    Stopped,
    StoreError,
    StoreFull,
    StoreUnreachable,
)
from ergosphere.snapshots.framing import FRAME_SIZE, TAG_SIZE
from ergosphere.snapshots.keys import load_keys
from ergosphere.snapshots.memory_store import MemoryStore
from ergosphere.snapshots.object_store import PARTS_FROM, STEP, ObjectStore, part_size
from ergosphere.snapshots.opening import StoreOptions, is_object_store, open_metered, open_store
from ergosphere.snapshots.putting import Stream, Watch, put_streams
from ergosphere.snapshots.resolve import resolve
from ergosphere.snapshots.sealed_store import SealedStore, fleet_sealer
from ergosphere.snapshots.sealing import Bytes
from ergosphere.snapshots.store import FolderStore, Store
from ergosphere.snapshots.wrappers import Around, Call, Figures, Limit, Limited, Metered, Retrying
from ergosphere.system import SystemClock

T = TypeVar("T")


class Flaky(Around):
    """Fails so many times, then works."""

    def __init__(self, times: int) -> None:
        super().__init__(MemoryStore())
        self.times = times

    def _do(self, call: Call, act: object) -> object:
        if self.times:
            self.times -= 1
            raise StoreUnreachable("gone")
        return act()  # type: ignore[operator]


def test_a_retry_waits_longer_each_time_and_gives_up_at_last() -> None:
    clock = HandClock()
    assert Retrying(Flaky(4), clock).put("a", b"x")
    assert clock.at_s == pytest.approx(1003.0)
    with pytest.raises(StoreUnreachable):
        Retrying(Flaky(5), clock).put("a", b"x")


def test_what_is_absent_is_not_asked_for_twice() -> None:
    clock = HandClock()
    with pytest.raises(NotFound):
        Retrying(MemoryStore(), clock).get("a")
    assert clock.at_s == 1000.0


def test_a_commit_whose_answer_was_lost_is_still_ours(tmp_path: Path) -> None:
    manifest = Cell(tmp_path / "a").snapshot("f1")
    lost = Faulty(MemoryStore(), 1, lambda: StoreUnreachable("gone"), after=True, ever=False)
    assert records.commit(Retrying(lost, HandClock()), "f1", manifest) == manifest


def test_a_limit_is_kept_over_many_puts_and_can_be_changed() -> None:
    clock, limit = HandClock(), Limit(1000.0)
    store = Limited(MemoryStore(), limit, clock)
    for number in range(5):
        store.put(f"a/{number}", bytes(500))
    assert clock.at_s == pytest.approx(1002.5)
    store.get("a/1")
    limit.bytes_per_s = None
    store.put("a", bytes(10_000))
    assert clock.at_s == pytest.approx(1002.5)


def test_an_upload_that_waits_for_its_limit_hears_that_it_was_called_off() -> None:
    """And what it had taken of the limit is free for the next."""
    clock, far, stop = Interrupting(), MemoryStore(), threading.Event()
    clock.stop = stop
    vault = fresh(far)
    limit = Limit(1000.0)
    vault.store = Limited(far, limit, clock)
    content = random.Random(1).randbytes(20_000_000)  # five hours of it
    with pytest.raises(Stopped):
        put_streams(vault, ("f1", 0), [Stream("0" * 64, "a", content)], Watch(stop=stop))
    assert clock.at_s < 1030.0 and vault.pack_sizes() == {}
    assert limit.wait_s(1000, clock.at_s) < 2.0


class Interrupting(HandClock):
    """Somebody calls the upload off after ten seconds."""

    stop: threading.Event

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        if self.at_s > 1010:
            self.stop.set()


def test_a_meter_counts_calls_bytes_and_failures() -> None:
    store = Metered(MemoryStore(), HandClock())
    store.put("a", bytes(100))
    store.get("a")
    store.get_range("a", 10, 20)
    store.has("a")
    store.delete("a")
    assert store.figures() == Figures(puts=1, put_bytes=100, gets=2, get_bytes=120, others=2)


def test_a_cache_serves_packs_again_without_the_store_and_forgets_damage(tmp_path: Path) -> None:
    far = MemoryStore()
    content = random.Random(1).randbytes(900_000)
    put(fresh(far), "f1", {"a": content})
    meter = Metered(far, HandClock())
    cached = Cached(meter, tmp_path / "cache")
    digest = blob_key(digest_bytes(content))
    wanted = remote.cell_blobs(fresh(cached), "f1", 0).get(digest)
    before = meter.figures().get_bytes
    assert remote.cell_blobs(fresh(cached), "f1", 0).get(digest) == wanted
    assert meter.figures().get_bytes - before < 20_000 and cached.hits > 0
    for path in (tmp_path / "cache/vaults").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:5000])
    assert remote.cell_blobs(fresh(cached), "f1", 0).get(digest) == wanted


def test_a_cache_stays_within_its_size(tmp_path: Path) -> None:
    cached = Cached(MemoryStore(), tmp_path / "cache", bytes_max=100_000)
    for number in range(12):
        cached.put(f"vaults/v/packs/00/{number:032x}", bytes(30_000))
        cached.get_range(f"vaults/v/packs/00/{number:032x}", 0, 10)
    held = sum(p.stat().st_size for p in (tmp_path / "cache").rglob("*") if p.is_file())
    assert 30_000 <= held <= 100_000


def test_a_cache_leaves_half_of_what_is_free_on_its_disk(tmp_path: Path) -> None:
    room = 200_000

    def free() -> int:
        return room - sum(p.stat().st_size for p in (tmp_path / "cache").rglob("*") if p.is_file())

    cached = Cached(MemoryStore(), tmp_path / "cache", free=free)
    for number in range(12):
        cached.put(f"vaults/v/packs/00/{number:032x}", bytes(30_000))
    assert 60_000 <= room - free() <= 100_000
    room = 10_000  # others have filled the disk
    cached.put(f"vaults/v/packs/00/{12:032x}", bytes(30_000))
    assert cached.get_range(f"vaults/v/packs/00/{12:032x}", 0, 9) == bytes(9)


def test_a_cache_whose_folder_is_taken_away_or_cannot_be_made_costs_time_only(tmp_path: Path) -> None:
    folder, key, content = tmp_path / "cache", f"vaults/v/packs/00/{1:032x}", random.Random(1).randbytes(900_000)
    cached = Cached(MemoryStore(), folder)
    cached.put(key, content)
    shutil.rmtree(folder)
    for _ in range(3):
        assert cached.get_range(key, 5, 600_000) == content[5:600_005]
    assert (folder / key).read_bytes() == content, "it is made again"
    shutil.rmtree(folder)
    folder.write_text("a file where the folder was")
    meter = Metered(cached.inner, HandClock())
    for broken in (cached, Cached(meter, folder)):
        for start in (0, 7, 9, 11):
            assert broken.get_range(key, start, 600_000) == content[start : start + 600_000]
        assert broken.put(f"{key[:-1]}2", b"x") and not broken.forget(f"{key[:-1]}2") and broken.delete(f"{key[:-1]}2")
    assert meter.figures().get_bytes < len(content) + 3 * 600_001


def test_a_node_with_a_cache_does_not_download_what_others_are_uploading(tmp_path: Path) -> None:
    """Packs are stored during an upload, their index at its end: until then their tables are read, and only these."""
    far = MemoryStore()
    put(fresh(far), "f1", {"a": random.Random(1).randbytes(40_000_000)})
    for stored in list(far.list(f"{fresh(far).root}/index/")):
        far.delete(stored.key)
    meter = Metered(far, HandClock())
    vault = fresh(Cached(meter, tmp_path / "cache"))
    vault.refresh()
    assert len(vault.index) > 300 and len(vault.pack_sizes()) > 2
    assert meter.figures().get_bytes < 200_000


def test_a_url_opens_every_kind_of_store_with_its_wrappers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FolderStore.create(tmp_path / "s")
    opened = open_metered(f"file://{tmp_path}/s", StoreOptions(cache=tmp_path / "c"))
    opened.store.put("a", b"xyz")
    assert opened.meter.figures().put_bytes == 3
    open_store("memory://one").put("a", b"x")
    assert open_store("memory://one").get("a") == b"x"
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    for url in ("s3://bucket/prefix", "gs://bucket/prefix"):
        assert is_object_store(url)
    assert not is_object_store(f"file://{tmp_path}")
    with pytest.raises(StoreError, match="s3://bucket"):
        open_store("ftp://somewhere")


def test_a_bucket_that_is_not_there_or_does_not_answer_says_what_to_look_at(bucket: Bucket) -> None:
    absent = ObjectStore("s3://no-such-bucket/x", bucket.config, SystemClock())
    with pytest.raises(StoreUnreachable, match="make the bucket"):
        absent.get("a")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    silent = {**bucket.config, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
    with pytest.raises(StoreUnreachable, match="check the network"):
        ObjectStore("s3://bucket/x", silent, SystemClock()).get("a")


def test_of_many_who_put_if_absent_into_a_bucket_one_wins(bucket: Bucket) -> None:
    stores = [bucket.store() for _ in range(5)]
    assert sum(store.put("freezes/f1", bytes([n]), if_absent=True) for n, store in enumerate(stores)) == 1
    assert stores[3].get("freezes/f1") == b"\0"


def test_a_large_object_is_renewed_in_parts_and_stays_what_it_was(bucket: Bucket) -> None:
    content = random.Random(1).randbytes(PARTS_FROM + 5)
    bucket.store().put("blobs/a", content)
    (before,) = bucket.store().list("blobs/")
    time.sleep(1.1)  # buckets tell the time in whole seconds
    assert bucket.store().has("blobs/a")
    assert list(bucket.store().list("blobs/")) == [before], "it is young"
    assert bucket.store(renew_after_s=0.0).has("blobs/a")
    (after,) = bucket.store().list("blobs/")
    assert after.written_s > before.written_s and bucket.store().get("blobs/a") == content
    assert bucket.tag("home/blobs/a").endswith(f'-{-(-len(content) // STEP)}"'), "put in parts, never as a whole"


def test_parts_are_never_more_than_a_bucket_takes() -> None:
    for size in (0, STEP, 78 << 30, 79 << 30, 5 << 40):
        assert part_size(size) >= STEP and -(-size // part_size(size)) <= 10_000


class Refusing(BaseHTTPRequestHandler):
    """Answers as S3 does to what is larger than it takes."""

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        said = b"<Error><Code>EntityTooLarge</Code><Message>exceeds the maximum allowed size</Message></Error>"
        self.send_response(400)
        self.send_header("content-length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_: object) -> None:
        return


def test_an_object_that_is_too_large_is_not_taken_for_a_full_store(bucket: Bucket) -> None:
    with HTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        config = {**bucket.config, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}"}
        with pytest.raises(StoreError, match=r"blobs/a is larger than s3://bucket/x takes") as no:
            ObjectStore("s3://bucket/x", config, SystemClock()).put("blobs/a", b"x")
        server.shutdown()
    assert type(no.value) is StoreError, "neither full nor worth another attempt"


def test_a_key_comes_from_a_file_for_its_owner_alone_or_the_environment(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("# ours\ndefault = " + "ab" * 32 + "\nvision = " + "cd" * 32 + "\n")
    path.chmod(0o600)
    ring = load_keys(None, path)
    assert ring is not None and ring.project("vision") == b"\xcd" * 32
    assert len({ring.project("vision"), ring.project("text"), ring.project("audio"), ring.fleet()}) == 4
    assert load_keys("ab" * 32, None).project("text") == ring.project("text")  # type: ignore[union-attr]
    assert load_keys(None, None) is None
    assert "cd" * 32 not in repr(ring) and "\\xcd" not in repr(ring)
    path.chmod(0o644)
    with pytest.raises(BadKeyFile, match="chmod 600"):
        load_keys(None, path)


@pytest.mark.parametrize("text", ["", "default = short", "nothing here", "default = " + "g" * 64])
def test_a_key_file_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys"
    path.touch(0o600)
    path.write_text(text)
    with pytest.raises(BadKeyFile, match="64 hex digits|openssl"):
        load_keys(None, path)
    with pytest.raises(BadKeyFile):
        load_keys(None, tmp_path / "absent")


def sealed(store: FolderStore, ring: object = RING, scratch: Path | None = None) -> SealedStore:
    return SealedStore(store, fleet_sealer(ring.fleet()), scratch)  # type: ignore[attr-defined]


def test_records_are_sealed_and_a_keeper_without_a_key_still_decides(store: FolderStore, tmp_path: Path) -> None:
    secret = Cell(tmp_path / "a").snapshot("f1", job="secret-name")
    assert records.commit(sealed(store), "f1", secret) == secret
    assert b"secret-name" not in store.get("freezes/f1")
    assert resolve(str(store.folder), "f1") == "commit"
    assert resolve(str(store.folder), "f2") == "abort"
    assert isinstance(records.verdict(sealed(store), "f2"), records.Aborted)
    records.abort(sealed(store), "f3", "late")
    assert resolve(str(store.folder), "f3") == "abort"
    records.sweep_record(sealed(store), "f1")
    assert resolve(str(store.folder), "f1") == "commit"


@pytest.mark.parametrize("size", [FRAME_SIZE, FRAME_SIZE + 1, 2 * FRAME_SIZE, 2 * FRAME_SIZE + 5])
def test_large_files_are_sealed_frame_by_frame(store: FolderStore, tmp_path: Path, size: int) -> None:
    file = tmp_path / "result"
    file.write_bytes(random.Random(size).randbytes(size))
    assert sealed(store).put("blobs/a", file, if_absent=True)
    assert not sealed(store).put("blobs/a", file, if_absent=True)
    sealed(store).fetch("blobs/a", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == file.read_bytes() == sealed(store).get("blobs/a")
    assert [one.size for one in sealed(store).list("blobs/")] == [size]
    assert file.read_bytes()[:100] not in store.get("blobs/a")


def test_large_files_are_sealed_in_the_scratch_folder_and_opened_beside_their_place(
    store: FolderStore, tmp_path: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, roomy, full = tmp_path / "result", tmp_path / "scratch", small_disk
    file.write_bytes(random.Random(1).randbytes(FRAME_SIZE + 5))
    roomy.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(full))  # the system's own folder has no room
    with pytest.raises(StoreFull, match=f"no room is left in {full};"):
        sealed(store).put("blobs/a", file)
    assert sealed(store, scratch=roomy).put("blobs/a", file)
    sealed(store).fetch("blobs/a", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == file.read_bytes()
    with pytest.raises(StoreFull, match=f"no room is left in {full}/?[^;]*;"):
        sealed(store).fetch("blobs/a", full / "back")
    left = {path.name for folder in (tmp_path, roomy, full) for path in folder.iterdir()}
    assert not any("sealed" in name for name in left) and not list(roomy.iterdir()) and not list(full.iterdir())


def test_a_large_file_is_sealed_on_its_way_to_a_bucket(bucket: Bucket, tmp_path: Path) -> None:
    file = tmp_path / "result"
    file.write_bytes(random.Random(1).randbytes(PARTS_FROM + 5))
    store = SealedStore(bucket.store(), fleet_sealer(RING.fleet()), tmp_path)  # type: ignore[arg-type]
    assert store.put("blobs/a", file, if_absent=True)
    store.fetch("blobs/a", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == file.read_bytes()
    assert bucket.tag("home/blobs/a").endswith('-9"'), "in parts"


def test_a_disk_that_is_full_once_a_file_is_opened_is_named_and_nothing_is_left(small_disk: Path) -> None:
    far = MemoryStore()
    store = SealedStore(far, fleet_sealer(RING.fleet()))  # type: ignore[arg-type]
    store.put("blobs/a", bytes(1_500_000))  # fits once, not twice
    with pytest.raises(StoreFull, match=f"no room is left in {small_disk};"):
        store.fetch("blobs/a", small_disk / "back")
    assert not list(small_disk.iterdir())


def test_a_source_that_cannot_be_read_is_not_taken_for_a_full_store(store: FolderStore, tmp_path: Path) -> None:
    """Reading the memory of a process where nothing is mapped fails as a bad disk does."""
    with pytest.raises(OSError, match="Input/output error") as no:
        sealed(store, scratch=tmp_path).put("blobs/a", Unreadable("/proc/self/mem"))
    assert not isinstance(no.value, StoreError)


class Unreadable(PosixPath):
    """A file of some size, of which not a byte can be read."""

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        found = list(super().stat(follow_symlinks=follow_symlinks))
        found[6] = FRAME_SIZE + 1
        return os.stat_result(found)


@pytest.mark.parametrize("spoilt", ["cut", "exchanged", "elsewhere", "flipped"])
def test_frames_are_neither_cut_off_nor_exchanged_unnoticed(store: FolderStore, tmp_path: Path, spoilt: str) -> None:
    file = tmp_path / "result"
    file.write_bytes(random.Random(1).randbytes(2 * FRAME_SIZE + 5))
    sealed(store).put("blobs/a", file)
    content, step = store.get("blobs/a"), FRAME_SIZE + TAG_SIZE
    head, first, second, rest = content[:32], content[32 : 32 + step], content[32 + step : 32 + 2 * step], content[-21:]
    changed = {
        "cut": head + first + second,
        "exchanged": head + second + first + rest,
        "elsewhere": content,
        "flipped": content[:-1] + bytes([content[-1] ^ 1]),
    }
    store.put("blobs/b" if spoilt == "elsewhere" else "blobs/a", changed[spoilt])
    key = "blobs/b" if spoilt == "elsewhere" else "blobs/a"
    with pytest.raises(Forged):
        sealed(store).fetch(key, tmp_path / "back")
    assert not (tmp_path / "back").exists()
    with pytest.raises(Forged):
        sealed(store).get(key)


def test_a_forged_or_foreign_record_is_refused(store: FolderStore, tmp_path: Path) -> None:
    cell = Cell(tmp_path / "a")
    records.commit(store, "f1", cell.snapshot("f1"))  # by someone without the key
    with pytest.raises(Forged):
        records.verdict(sealed(store), "f1")
    records.commit(sealed(store), "f2", cell.snapshot("f2"))
    with pytest.raises(Forged):
        records.verdict(sealed(store, OTHER_RING), "f2")
    store.put("freezes/f3", store.get("freezes/f2"))
    with pytest.raises(Forged):
        records.verdict(sealed(store), "f3")
    with pytest.raises(Damaged):
        records.verdict(store, "f2")  # no key at all


class FlippedOnce(Around):
    """The first read of each key comes back with a bit flipped, as from bad memory or a bad wire."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self.seen: set[str] = set()

    def _flipped(self, key: str, content: bytes) -> bytes:
        first, middle = key not in self.seen, len(content) // 2
        self.seen.add(key)
        return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :] if first and content else content

    def get(self, key: str) -> bytes:
        return self._flipped(key, super().get(key))

    def get_range(self, key: str, start: int, size: int, room: memoryview | None = None) -> Bytes:
        return self._flipped(key, bytes(super().get_range(key, start, size, room)))


def test_one_bad_read_of_a_snapshot_does_not_make_it_a_damaged_one(tmp_path: Path) -> None:
    far, cell = MemoryStore(), Cell(tmp_path / "a")
    manifest = cell.keep(fresh(far), "f1")
    digest = put_blob(far, b"train.py")
    vault = fresh(far)
    assert len(vault.index) > 0
    vault.store = FlippedOnce(far)
    assert records.load(vault.store, "f1") == manifest
    thawing.fetch_images(manifest, 0, tmp_path / "out", [remote.cell_blobs(vault, "f1", 0)])
    assert (tmp_path / "out/pages-1.img").read_bytes() == (cell.images / "rank0/pages-1.img").read_bytes()
    assert get_blob([FlippedOnce(far)], digest, "it") == b"train.py"
