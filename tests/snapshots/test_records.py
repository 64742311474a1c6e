"""A freeze ends in exactly one verdict, whoever races, dies or cannot reach the store."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ergosphere.snapshots.errors import Damaged, NotFound, StoreUnreachable
from ergosphere.snapshots.manifest import Manifest
from ergosphere.snapshots.memory_store import MemoryStore
from ergosphere.snapshots.records import Aborted, Swept, abort, commit, load, record_key, sweep_record, verdict
from ergosphere.snapshots.store import FolderStore

MANIFEST = Manifest("f1", "j1", 1, {}, 1.0, "pause", 0.1, "4.2.1", "6.18", None, ())


def resolve(store: Path, freeze_id: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ergosphere.snapshots.resolve", str(store), freeze_id]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_who_comes_first_decides_and_everyone_learns_it() -> None:
    store = MemoryStore()
    assert verdict(store, "f1") is None
    assert commit(store, "f1", MANIFEST) == MANIFEST
    assert abort(store, "f1", "too late") == MANIFEST == verdict(store, "f1") == load(store, "f1")
    assert commit(store, "f1", MANIFEST) == MANIFEST

    other = replace(MANIFEST, id="f2")
    assert abort(store, "f2", "no room") == Aborted("f2", "no room")
    assert commit(store, "f2", other) == Aborted("f2", "no room") == verdict(store, "f2")
    with pytest.raises(NotFound):
        load(store, "f2")
    with pytest.raises(NotFound):
        load(store, "f3")


def _decide(folder: Path, gate: object, results: object, number: int) -> None:
    store = FolderStore(folder)
    for freeze in range(10):
        manifest = replace(MANIFEST, id=f"f{freeze}")
        gate.wait()  # type: ignore[attr-defined]
        committing = (number + freeze) % 2
        record = commit(store, manifest.id, manifest) if committing else abort(store, manifest.id, f"by {number}")
        results.put((freeze, isinstance(record, Manifest), repr(record)))  # type: ignore[attr-defined]


def test_commit_and_abort_racing_in_many_processes_agree_on_one_verdict(tmp_path: Path) -> None:
    store = FolderStore.create(tmp_path / "store")
    context = multiprocessing.get_context("fork")
    gate, results = context.Barrier(4), context.Queue()
    racers = [context.Process(target=_decide, args=(store.folder, gate, results, n)) for n in range(4)]
    for racer in racers:
        racer.start()
    seen = {results.get(timeout=60) for _ in range(40)}
    for racer in racers:
        racer.join(60)
    assert len(seen) == 10  # one verdict for each freeze, the same words for all


def test_a_keeper_asks_by_command(tmp_path: Path) -> None:
    store = FolderStore.create(tmp_path / "store")
    commit(store, "f1", MANIFEST)
    assert resolve(store.folder, "f1").stdout == "commit\n"
    assert resolve(store.folder, "f2").stdout == "abort\n"
    assert resolve(store.folder, "f2").stdout == "abort\n"
    assert isinstance(commit(store, "f2", replace(MANIFEST, id="f2")), Aborted)


def test_a_store_that_cannot_be_reached_decides_nothing(tmp_path: Path) -> None:
    done = resolve(tmp_path / "unmounted", "f1")
    assert done.returncode == 75 and done.stdout == "" and "is not a store" in done.stderr
    with pytest.raises(StoreUnreachable):
        commit(FolderStore(tmp_path / "unmounted"), "f1", MANIFEST)


def test_a_damaged_manifest_was_committed_all_the_same(tmp_path: Path) -> None:
    store = FolderStore.create(tmp_path / "store")
    commit(store, "f1", MANIFEST)
    store.put(record_key("f1"), store.get(record_key("f1")).replace(b'"j1"', b'"j2"'))
    with pytest.raises(Damaged, match="the manifest of snapshot f1"):
        load(store, "f1")
    assert resolve(store.folder, "f1").stdout == "commit\n"
    store.put(record_key("f1"), b"{")
    assert resolve(store.folder, "f1").returncode == 75


def test_another_snapshots_manifest_under_this_name_is_damage() -> None:
    store = MemoryStore()
    commit(store, "f1", MANIFEST)
    store.put(record_key("f2"), store.get(record_key("f1")))
    with pytest.raises(Damaged, match="is that of snapshot f1"):
        verdict(store, "f2")


def test_a_swept_snapshot_still_counts_as_committed(tmp_path: Path) -> None:
    store = FolderStore.create(tmp_path / "store")
    commit(store, "f1", MANIFEST)
    sweep_record(store, "f1")
    assert abort(store, "f1", "late") == Swept("f1")
    assert resolve(store.folder, "f1").stdout == "commit\n"
    with pytest.raises(NotFound):
        load(store, "f1")


def test_wrong_arguments_decide_nothing() -> None:
    command = [sys.executable, "-m", "ergosphere.snapshots.resolve", "x"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 64 and "usage" in done.stderr
