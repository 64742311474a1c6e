"""A move through the store: what an upload has brought is fetched before it ends, and no trail is ever a snapshot."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.e2e.fleet import wait_for
from tests.hand_clock import HandClock
from tests.snapshots.test_vault_faults import Faulty, Killed
from tests.snapshots.vaultkit import OTHER_RING, Cell, forget, fresh, pages, part_of

from ergosphere.snapshots import arrival as arriving
from ergosphere.snapshots import collect, fsck, gather, remote, thawing, trail
from ergosphere.snapshots.arrival import Arrival, lacking
from ergosphere.snapshots.blobs import blob_key
from ergosphere.snapshots.digests import digest_bytes
from ergosphere.snapshots.errors import Damaged
from ergosphere.snapshots.manifest import Manifest
from ergosphere.snapshots.memory_store import MemoryStore
from ergosphere.snapshots.pages import PAGE
from ergosphere.snapshots.recipes import Recipe, StreamPart
from ergosphere.snapshots.records import commit
from ergosphere.snapshots.store import Store
from ergosphere.snapshots.vault import Vault
from ergosphere.snapshots.wrappers import Around, Call

MB = 1 << 20
WAIT_S = 60.0
T = TypeVar("T")


class Gate(Around):
    """Lets so many packs through, and the rest once it is opened."""

    def __init__(self, inner: Store, packs: int) -> None:
        super().__init__(inner)
        self.left, self.opened = packs, threading.Event()

    def _do(self, call: Call, act: Callable[[], T]) -> T:
        if call.verb == "put" and "/packs/" in call.key:
            self.left -= 1
            if self.left < 0:
                self.opened.wait(WAIT_S)
        return act()


class Dying(Around):
    """Takes so many packs, and then whoever writes is dead."""

    def __init__(self, inner: Store, packs: int) -> None:
        super().__init__(inner)
        self.left = packs

    def _do(self, call: Call, act: Callable[[], T]) -> T:
        self.left -= call.verb == "put" and "/packs/" in call.key
        if self.left < 0:
            raise Killed
        return act()


def moving(tmp_path: Path, store: Store, megabytes: int = 72) -> tuple[Cell, Manifest]:
    """A committed snapshot of which nothing has been uploaded."""
    cell = Cell(tmp_path / "cell")
    content = pages(random.Random(3), megabytes * MB // PAGE)
    cell.image(0, [(0x10000, content), (0x7F0000000000, bytes(9 * PAGE))])
    manifest = cell.snapshot("f1")
    assert commit(store, "f1", manifest) == manifest
    return cell, manifest


def send(cell: Cell, manifest: Manifest, vault: Vault) -> None:
    remote.upload_cell(vault, manifest.id, part_of(manifest), cell.images, cell.pool, followed=True)


@contextmanager
def sending(cell: Cell, manifest: Manifest, store: Store) -> Iterator[threading.Thread]:
    thread = threading.Thread(target=send, args=(cell, manifest, fresh(store)))
    thread.start()
    yield thread
    thread.join(WAIT_S)
    assert not thread.is_alive()


def follow(arrival: Arrival) -> bool:
    arrival.advance()
    return arrival.fetched > 0


def trails(store: Store) -> list[str]:
    return [stored.key for stored in fresh(store).list_trails()]


def images(manifest: Manifest) -> set[str]:
    return {file.digest for rank in part_of(manifest).ranks for file in rank.files}


def same_images(manifest: Manifest, cell: Cell, dest: Path, sources: list[Path | Store]) -> None:
    thawing.fetch_images(manifest, 0, dest, sources)
    names = {path.name for path in (cell.images / "rank0").iterdir()}
    assert {path.name for path in dest.iterdir()} == names
    assert all((dest / name).read_bytes() == (cell.images / "rank0" / name).read_bytes() for name in names)


def test_what_has_been_sent_is_fetched_while_the_rest_is_still_on_its_way(tmp_path: Path) -> None:
    store = MemoryStore()
    cell, manifest = moving(tmp_path, store)
    gate = Gate(store, packs=2)
    arrival = Arrival(fresh(store), "f1", 0, tmp_path / "arrival", images(manifest))
    with sending(cell, manifest, gate):
        wait_for(lambda: follow(arrival), "something has come")
        assert gate.left < 1 and not gather.is_remote(store, manifest) and arrival.fetched >= 4 * MB
        assert not [*arrival.store.list()], "nothing is given out that is not whole"
        gate.opened.set()
    assert gather.is_remote(store, manifest) and not trails(store)
    arrival.finish()
    came = {stored.key for stored in arrival.store.list()}
    [image] = [file for file in part_of(manifest).ranks[0].files if file.name == "pages-1.img"]
    assert blob_key(image.digest) in came
    same_images(manifest, cell, tmp_path / "thaw", [arrival.store, remote.cell_blobs(fresh(store), "f1", 0)])


def half_sent(folder: Path, store: MemoryStore) -> Manifest:
    """A snapshot whose source died while it was sent."""
    cell, manifest = moving(folder, store)
    with pytest.raises(Killed):
        send(cell, manifest, fresh(Dying(store, 3)))
    return manifest


def test_a_source_that_dies_in_the_middle_leaves_no_snapshot_and_what_it_left_is_swept(tmp_path: Path) -> None:
    clock = HandClock()
    store = MemoryStore(clock)
    manifest = half_sent(tmp_path, store)
    assert trails(store)
    arrival = Arrival(fresh(store), "f1", 0, tmp_path / "arrival", images(manifest))
    arrival.advance()
    assert not gather.is_remote(store, manifest) and not [*fresh(store).list_recipes()]
    assert not [*arrival.store.list()]
    assert not collect.plan(fresh(store)).trails, "its node may be back"
    forget(store, "f1")
    clock.at_s += 2 * 3600.0
    vault = fresh(store)
    collect.execute(vault, collect.plan(vault))
    assert not trails(store)


def test_a_trail_of_a_node_that_is_lost_goes_after_a_day(tmp_path: Path) -> None:
    clock = HandClock()
    store = MemoryStore(clock)
    half_sent(tmp_path, store)
    clock.at_s += collect.UPLOAD_S_MAX
    assert set(collect.plan(fresh(store)).trails) == set(trails(store)) != set()


def test_an_upload_that_is_begun_again_by_another_process_is_followed_on(tmp_path: Path) -> None:
    store = MemoryStore()
    cell, manifest = moving(tmp_path, store)
    arrival = Arrival(fresh(store), "f1", 0, tmp_path / "arrival", images(manifest))
    with pytest.raises(Killed):
        send(cell, manifest, fresh(Dying(store, 3)))
    arrival.advance()
    gate = Gate(store, packs=1)
    with sending(cell, manifest, gate):
        wait_for(lambda: follow(arrival), "something has come")
        gate.opened.set()
    arrival.finish()
    assert not trails(store)
    same_images(manifest, cell, tmp_path / "thaw", [arrival.store, remote.cell_blobs(fresh(store), "f1", 0)])


def test_killed_at_every_call_a_followed_upload_is_there_or_not_and_can_be_begun_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trail, "PART_BYTES", 64 << 10)
    at, done = 1, False
    while not done:
        store = MemoryStore()
        root = tmp_path / str(at)
        root.mkdir()
        cell, manifest = moving(root, store, megabytes=1)
        fresh(store)
        faulty = Faulty(store, at, Killed, after=True, ever=True)
        try:
            send(cell, manifest, fresh(faulty))
        except Killed:
            pass
        done, at = not faulty.fired, at + 1
        arrival = Arrival(fresh(store), "f1", 0, root / "arrival", images(manifest))
        arrival.advance()
        report = fsck.check(store, [fresh(store)], deep=True)
        assert not report.damaged and not report.affected, report.lines()
        send(cell, manifest, fresh(store))
        assert gather.is_remote(store, manifest)
        arrival.finish()
        same_images(manifest, cell, root / "thaw", [arrival.store, remote.cell_blobs(fresh(store), "f1", 0)])
        vault = fresh(store)
        collect.execute(vault, collect.plan(vault))
        assert not trails(store)
    assert at > 8


def test_what_a_trail_says_wrongly_is_never_given_out(tmp_path: Path) -> None:
    store = MemoryStore()
    cell, manifest = moving(tmp_path, store, megabytes=40)
    vault = fresh(store)
    send(cell, manifest, vault)
    recipe = vault.recipe("f1.0")
    stream = max(recipe.streams, key=lambda stream: stream.size)
    swapped = Recipe(
        "f1", 0, (StreamPart(stream.digest, "8388608", 4 * MB, 0, 0),), recipe.names, recipe.chunk, recipe.length
    )
    first = trail_of(recipe, stream, swapped)
    key = vault.trail_key("f1.0/ab")
    store.put(key, vault.sealer.seal(first.encode(), key))
    forged = vault.trail_key("f1.0/cd")
    store.put(forged, fresh(MemoryStore(), ring=OTHER_RING).sealer.seal(first.encode(), forged))
    arrival = Arrival(fresh(store), "f1", 0, tmp_path / "arrival", images(manifest))
    arrival.advance()
    assert arrival.fetched == 4 * MB, "the forged part was not believed, the other was"
    arrival.finish()
    assert not [*arrival.store.list()], "its bytes are at another place than it said"
    same_images(manifest, cell, tmp_path / "thaw", [arrival.store, remote.cell_blobs(fresh(store), "f1", 0)])


def trail_of(recipe: Recipe, stream: StreamPart, claim: Recipe) -> Recipe:
    """The first 4 MB of a stream, said to lie where `claim` says."""
    length = recipe.spans(stream)[1]
    spans = int(np.searchsorted(np.cumsum(length), 4 * MB)) + 1
    [window] = claim.streams
    part = StreamPart(stream.digest, window.label, int(length[:spans].sum()), stream.first, spans)
    return Recipe("f1", 0, (part,), recipe.names, recipe.chunk, recipe.length)


@given(
    lengths=st.lists(st.integers(1, 50), max_size=20),
    windows=st.lists(st.tuples(st.integers(0, 19), st.integers(1, 6)), max_size=4),
)
def test_what_lacks_is_all_that_is_not_there_and_nothing_else(
    lengths: list[int], windows: list[tuple[int, int]]
) -> None:
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    taken: set[int] = set()
    there: dict[int, int] = {}
    for first, count in windows:
        spans = [i for i in range(first, min(first + count, len(lengths))) if i not in taken]
        run = [i for n, i in enumerate(spans) if i == spans[0] + n]
        taken |= set(run)
        if run:
            there[starts[run[0]]] = sum(lengths[i] for i in run)
    stream = StreamPart(digest_bytes(b""), "file", sum(lengths), 3, len(lengths))
    chunk = np.zeros(len(lengths) + 3, np.uint32)
    recipe = Recipe("f", 0, (stream,), np.zeros((1, 4), "<u8"), chunk, np.array([1, 1, 1, *lengths], np.uint32))
    found = lacking(recipe, stream, there)
    lacked = [i for part in found for i in range(part.first - 3, part.first - 3 + part.spans)]
    assert sorted(lacked) == [i for i in range(len(lengths)) if i not in taken]
    assert [int(part.label) for part in found] == [starts[part.first - 3] for part in found]


def test_a_window_of_which_two_uploads_told_is_not_written_again_behind_its_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first read a bit wrongly and failed; its trail is still there when the second, which is right, has ended."""
    monkeypatch.setattr(trail, "PART_BYTES", 4 * MB)
    monkeypatch.setattr(arriving, "BATCH", 4 * MB)
    store = MemoryStore()
    cell, manifest = moving(tmp_path, store, megabytes=20)
    image = cell.images / "rank0/pages-1.img"
    right = image.read_bytes()
    image.write_bytes(right[: 8 * MB] + bytes([right[8 * MB] ^ 1]) + right[8 * MB + 1 :])
    with pytest.raises(Damaged):
        send(cell, manifest, fresh(store))
    image.write_bytes(right)
    monkeypatch.setattr(trail.Trail, "remove", lambda self: None)  # it is read before it goes
    send(cell, manifest, fresh(store))
    arrival = Arrival(fresh(store), "f1", 0, tmp_path / "arrival", images(manifest))
    while arrival.advance():
        pass
    arrival.finish()
    assert arrival.fetched <= 24 * MB, "what is there is not fetched twice"
    assert all(arrival.store.get(stored.key) == right for stored in arrival.store.list() if stored.size == len(right))
    same_images(manifest, cell, tmp_path / "thaw", [arrival.store, remote.cell_blobs(fresh(store), "f1", 0)])
