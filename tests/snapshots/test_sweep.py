"""Forgetting: what retention says goes, nothing that anything refers to, and no writer is ever hurt."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from dataclasses import replace

import pytest
from tests.hand_clock import HandClock

from ergosphere.snapshots.blobs import blob_key, get_blob, put_blob
from ergosphere.snapshots.digests import digest_bytes
from ergosphere.snapshots.documents import seal, to_plain
from ergosphere.snapshots.errors import Damaged, StoreFull, TooNew
from ergosphere.snapshots.manifest import CellPart, ImageFile, Log, LogPiece, Manifest, RankPart
from ergosphere.snapshots.memory_store import MemoryStore
from ergosphere.snapshots.records import Swept, abort, commit, load, record_key, sweep_record, verdict
from ergosphere.snapshots.results import CellResult
from ergosphere.snapshots.sealed_store import SealedStore
from ergosphere.snapshots.sealing import Sealer
from ergosphere.snapshots.store import FolderStore, Source, Store, now_s
from ergosphere.snapshots.sweep import Needs, Retention, execute, plan
from ergosphere.snapshots.tree import Entry, Kind, Tree, TreeSum, save_tree
from ergosphere.snapshots.wrappers import Around

LATER = 10_000.0  # seconds after the clock's beginning: everything is past its grace by then


@pytest.fixture
def clock() -> HandClock:
    return HandClock(0.0)


@pytest.fixture
def store(clock: HandClock) -> MemoryStore:
    return MemoryStore(clock)


def put_files(store: Store, *contents: bytes) -> TreeSum:
    files = [Entry(f"f{n}", Kind.FILE, 0o644, size=len(c), digest=put_blob(store, c)) for n, c in enumerate(contents)]
    return save_tree(store, Tree((Entry(".", Kind.DIR, 0o755), *files)))


def snapshot(
    store: Store, name: str, job: str = "j1", *, at_s: float, remote: bool = True, shared: bytes = b""
) -> Manifest:
    """A committed snapshot with blobs of its own and maybe one that others have too."""
    image = put_blob(store, f"image of {name}".encode())
    log = put_blob(store, f"log of {name}".encode())
    contents = [f"file of {name}".encode(), *([shared] if shared else [])]
    work = put_files(store, *contents) if remote else TreeSum("f" * 64, 1, 1)
    cell = CellPart(
        0, "n", "a", "k", (0,), (RankPart(0, (ImageFile("pages-1.img", 1, image),)),), work, None,
        (Log("rank0.out", (LogPiece(log, 1),)),),
    )  # fmt: skip
    manifest = Manifest(name, job, 1, {}, at_s, "pause", 0.1, "4.2.1", "6.18", None, (cell,))
    assert commit(store, name, manifest) == manifest
    if remote:
        store.put(f"remote/{name}/0", b"")
    return manifest


def whole(store: Store, name: str) -> bool:
    digests = [digest_bytes(f"{what} of {name}".encode()) for what in ("image", "log", "file")]
    return all(blob_key(digest) in {stored.key for stored in store.list("blobs/")} for digest in digests)


def test_the_last_k_snapshots_of_each_job_stay(store: MemoryStore) -> None:
    for number in range(4):
        snapshot(store, f"a{number}", at_s=number)
        snapshot(store, f"b{number}", "j2", at_s=number)
    swept = plan(store, LATER, Retention(keep_last=2))
    assert swept.snapshots == ("a0", "a1", "b0", "b1")
    assert execute(store, swept).bytes == swept.bytes > 0
    assert [whole(store, f"a{n}") for n in range(4)] == [False, False, True, True]
    assert verdict(store, "a0") == Swept("a0") and load(store, "a3").id == "a3"
    assert {stored.key for stored in store.list("remote/")} == {f"remote/{x}{n}/0" for x in "ab" for n in (2, 3)}


def test_a_second_sweep_finds_nothing(store: MemoryStore) -> None:
    for number in range(4):
        snapshot(store, f"a{number}", at_s=number)
    execute(store, plan(store, LATER))
    again = plan(store, LATER)
    assert (again.snapshots, again.keys, again.blobs) == ((), (), ())


def test_what_any_snapshot_shares_with_one_that_goes_stays(store: MemoryStore) -> None:
    for number in range(3):
        snapshot(store, f"a{number}", at_s=number, shared=b"libtorch")
    execute(store, plan(store, LATER, Retention(keep_last=1)))
    assert store.get(blob_key(digest_bytes(b"libtorch"))) == b"libtorch"


def test_snapshots_still_on_their_way_do_not_push_out_those_that_arrived(store: MemoryStore) -> None:
    snapshot(store, "old", at_s=1)
    snapshot(store, "arrived", at_s=2)
    snapshot(store, "on-its-way", at_s=3, remote=False)
    swept = plan(store, LATER, Retention(keep_last=1))
    assert swept.snapshots == ("old",)
    execute(store, swept)
    assert whole(store, "arrived") and load(store, "on-its-way")


def test_of_ended_jobs_nothing_stays_but_what_is_asked_for(store: MemoryStore) -> None:
    snapshot(store, "kept", at_s=1)
    snapshot(store, "gone", at_s=2)
    swept = plan(store, LATER, needs=Needs(ended=frozenset({"j1"}), snapshots=frozenset({"kept"})))
    assert swept.snapshots == ("gone",)
    execute(store, swept)
    assert whole(store, "kept") and not whole(store, "gone")


def test_submissions_and_results_keep_their_files(store: MemoryStore) -> None:
    submission, result = put_files(store, b"train.py"), put_files(store, b"model.pt")
    orphan = put_files(store, b"nobody's")
    store.put("results/j1.1/0", seal("result", 1, to_plain(CellResult("j1", 1, 0, result))))
    execute(store, plan(store, LATER, needs=Needs(trees=frozenset({submission.digest}))))
    left = {stored.key for stored in store.list("blobs/")}
    assert blob_key(digest_bytes(b"train.py")) in left and blob_key(digest_bytes(b"model.pt")) in left
    assert blob_key(orphan.digest) not in left and blob_key(digest_bytes(b"nobody's")) not in left
    execute(store, plan(store, LATER, needs=Needs(forgotten=frozenset({"j1"}))))
    assert list(store.list()) == []


def test_what_is_young_or_was_asked_for_lately_is_spared(store: MemoryStore, clock: HandClock) -> None:
    young, asked, old = (put_blob(store, content) for content in (b"young", b"asked", b"old"))
    clock.at_s = LATER
    store.put(blob_key(young), b"young")
    assert store.has(blob_key(asked))
    execute(store, plan(store, LATER + 1))
    assert [stored.key for stored in store.list("blobs/")] == sorted([blob_key(young), blob_key(asked)])
    assert old


def test_a_writer_between_plan_and_execution_keeps_its_blob(store: MemoryStore, clock: HandClock) -> None:
    digest = put_blob(store, b"content")
    clock.at_s = LATER
    swept = plan(store, LATER)
    assert [key for key, _ in swept.blobs] == [blob_key(digest)]
    assert put_blob(store, b"content") == digest  # a writer finds it there and relies on it
    assert execute(store, swept).bytes == 0
    assert get_blob([store], digest, "it") == b"content"


def test_old_verdicts_go_and_young_ones_stay(store: MemoryStore) -> None:
    abort(store, "f1", "no room")
    assert plan(store, LATER).keys == ()
    swept = plan(store, 40 * 24 * 3600.0)
    assert swept.keys == (record_key("f1"),)


def spoil(store: Store, key: str) -> None:
    store.put(key, store.get(key)[:-20] + b"?" * 20)


def test_while_a_record_a_result_or_a_list_of_files_cannot_be_read_nothing_goes(clock: HandClock) -> None:
    """What it refers to is not known: any blob might be one of those."""
    spoils = {
        "the record": lambda store, result: spoil(store, record_key("a3")),
        "results/": lambda store, result: spoil(store, "results/j9.1/0"),
        "the list of files": lambda store, result: spoil(store, blob_key(result.digest)),
    }
    for said, act in spoils.items():
        clock.at_s = 0.0
        store = MemoryStore(clock)
        for number in range(4):
            snapshot(store, f"a{number}", at_s=number)
        result = put_files(store, b"model.pt")
        store.put("results/j9.1/0", seal("result", 1, to_plain(CellResult("j9", 1, 0, result))))
        put_files(store, b"nobody's")
        assert plan(store, LATER).snapshots == ("a0", "a1") and plan(store, LATER).blobs
        act(store, result)
        swept = plan(store, LATER)
        assert (swept.snapshots, swept.keys, swept.blobs) == ((), (), ()), said
        assert said in swept.notes[0] and "nothing is swept" in swept.notes[1]


def test_under_another_key_nothing_at_all_goes(clock: HandClock) -> None:
    far = MemoryStore(clock)
    for number in range(4):
        snapshot(SealedStore(far, Sealer(b"1" * 32, b"salt" * 4)), f"a{number}", at_s=number)
    before = {stored.key for stored in far.list()}
    wrong = SealedStore(far, Sealer(b"2" * 32, b"salt" * 4))
    execute(wrong, plan(wrong, LATER, needs=Needs(ended=frozenset({"j1"}), trees=frozenset({"f" * 64}))))
    assert {stored.key for stored in far.list()} == before


def test_a_damaged_record_stops_sweeps_only_as_long_as_somebody_wants_it(store: MemoryStore) -> None:
    snapshot(store, "a", at_s=1)
    spoil(store, record_key("a"))
    orphan = put_files(store, b"nobody's")
    wanted = Needs(jobs=frozenset({"j1"}), snapshots=frozenset({"a"}))
    assert plan(store, LATER, needs=wanted).blobs == ()
    execute(store, plan(store, LATER, needs=Needs(jobs=frozenset({"j1"}), retired=frozenset({"a"}))))
    assert verdict(store, "a") == Swept("a") and blob_key(orphan.digest) not in {s.key for s in store.list()}


def test_an_old_record_that_is_damaged_and_that_no_ledger_knows_stops_no_sweep(store: MemoryStore) -> None:
    abort(store, "f1", "no room")
    spoil(store, record_key("f1"))
    put_files(store, b"nobody's")
    known = Needs(jobs=frozenset())
    assert plan(store, 100.0, needs=known).notes, "it is young: the ledger may not know it yet"
    swept = plan(store, LATER, needs=known)
    assert swept.blobs and not swept.notes and swept.snapshots == ()
    assert plan(store, 40 * 24 * 3600.0, needs=known).keys == (record_key("f1"),)


def test_what_the_ledger_has_dropped_goes_however_few_there_are(store: MemoryStore) -> None:
    for number in range(2):
        snapshot(store, f"a{number}", at_s=number)
    needs = Needs(jobs=frozenset({"j1"}), retired=frozenset({"a0"}), snapshots=frozenset({"a1"}))
    execute(store, plan(store, LATER, needs=needs))
    assert not whole(store, "a0") and whole(store, "a1") and verdict(store, "a0") == Swept("a0")


def test_a_copy_whose_job_was_never_written_down_goes_after_a_grace(store: MemoryStore, clock: HandClock) -> None:
    origin = snapshot(store, "a", at_s=1)
    needs = Needs(jobs=frozenset({"j1"}), snapshots=frozenset({"a"}))
    clock.at_s = LATER
    for name, job in (("copy", "never-begun"), ("begun", "j2")):
        commit(store, name, replace(origin, id=name, job=job, incarnation=0))
        store.put(f"remote/{name}/0", b"")
    known = replace(needs, jobs=frozenset({"j1", "j2"}), snapshots=frozenset({"a", "begun"}))
    assert plan(store, LATER + 10, needs=known).snapshots == ()
    swept = plan(store, 2 * LATER, needs=known)
    assert swept.snapshots == ("copy",) and "remote/copy/0" in swept.markers
    assert plan(store, 2 * LATER).snapshots == (), "where no ledger is asked nothing is an orphan"


def test_a_mark_whose_snapshot_was_never_committed_goes_after_a_grace(store: MemoryStore, clock: HandClock) -> None:
    store.put("remote/never/0", b"")
    assert plan(store, 10.0).markers == ()
    assert plan(store, LATER).markers == ("remote/never/0",)


def test_a_sweep_stops_at_what_it_does_not_understand(store: MemoryStore) -> None:
    manifest = snapshot(store, "a", at_s=1)
    store.put(record_key("a"), store.get(record_key("a")).replace(b'"version":1', b'"version":2'))
    with pytest.raises(TooNew):
        plan(store, LATER)
    assert manifest


def test_writers_beside_a_sweeping_folder_lose_nothing(
    store: MemoryStore, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = FolderStore.create(tmp_path_factory.mktemp("race") / "store", durable=False)
    contents = [bytes([n]) * 100 for n in range(20)]
    far = 4e9  # everything is past its grace, unless it was renewed after the plan
    lost: list[int] = []
    stop = threading.Event()

    def sweep() -> None:
        while not stop.is_set():
            swept = plan(folder, far)
            newest_s = max((stored.written_s for stored in folder.list("blobs/")), default=0.0)
            execute(folder, replace(swept, written_before_s=newest_s))

    sweeper = threading.Thread(target=sweep)
    sweeper.start()
    try:
        for turn in range(300):
            content = contents[turn % len(contents)]
            digest = put_blob(folder, content)
            if get_blob_or_none(folder, digest) != content:
                lost.append(turn)
    finally:
        stop.set()
        sweeper.join()
    assert lost == []


def get_blob_or_none(folder: FolderStore, digest: str) -> bytes | None:
    """A sweep that moved a blob aside and finds it renewed puts it back: for that instant it is not there."""
    for _ in range(2000):  # the sweeper may lose the processor in that instant
        with suppress(Damaged):
            return get_blob([folder], digest, "it")
        time.sleep(0.001)
    return None


class Full(Around):
    """Whatever is written finds no room."""

    def put(self, key: str, source: Source, *, if_absent: bool = False, share: bool = False) -> bool:
        raise StoreFull("there")


def test_a_full_store_loses_what_nothing_names_and_keeps_what_a_record_names(store: MemoryStore) -> None:
    for number in range(4):
        snapshot(store, f"a{number}", at_s=number)
    orphan = put_blob(store, b"of nobody")
    full = Full(store)
    done = execute(full, plan(full, LATER, Retention(keep_last=2)))
    assert done.bytes == len(b"of nobody") and not store.has(blob_key(orphan))
    assert "once there is room" in done.notes[0]
    assert all(whole(store, f"a{n}") and load(store, f"a{n}") for n in range(4))
    assert now_s(store, "clock") == now_s(full, "clock"), "the time can be told without room"
    assert execute(store, plan(store, LATER, Retention(keep_last=2))).bytes > 0


def test_a_sweep_that_dies_after_a_record_leaves_no_marker_behind(store: MemoryStore) -> None:
    for number in range(4):
        snapshot(store, f"a{number}", at_s=number)
    sweep_record(store, "a0")
    execute(store, plan(store, LATER, Retention(keep_last=3)))
    assert "remote/a0/0" not in {stored.key for stored in store.list("remote/")}
