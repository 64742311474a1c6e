"""The head of a vault: kept twice, never made anew over what is there, and damage is told from a wrong key."""

from __future__ import annotations

import random
import threading
from pathlib import Path

import pytest
from tests.snapshots.test_vault_faults import NOW, memory_of
from tests.snapshots.vaultkit import OTHER_RING, RING, Cell, fresh, pages, put

from ergosphere.snapshots import collect, fsck
from ergosphere.snapshots.documents import canonical, seal
from ergosphere.snapshots.errors import Damaged, MissingKey, Refused, TooNew, WrongKey
from ergosphere.snapshots.memory_store import MemoryStore
from ergosphere.snapshots.store import FolderStore, Store
from ergosphere.snapshots.vault import open_vault
from ergosphere.snapshots.vault_head import vault_root

ROOT = vault_root("p")
HEAD, COPY = f"{ROOT}/head", f"{ROOT}/head.copy"
RINGS = pytest.mark.parametrize("ring", [RING, None], ids=["encrypted", "plain"])
KEPT = pages(random.Random(2), 40)  # of the image that a `Cell` begins with


def keys(store: Store) -> dict[str, bytes]:
    return {stored.key: store.get(stored.key) for stored in store.list("vaults/")}


@pytest.mark.parametrize("lost", [HEAD, COPY])
def test_a_lost_head_is_read_from_its_copy_and_a_repair_writes_it_again(
    store: FolderStore, tmp_path: Path, lost: str
) -> None:
    cell = Cell(tmp_path / "a")
    cell.keep(fresh(store), "f1")
    head = store.get(HEAD)
    store.delete(lost)
    assert memory_of(store, "f1").startswith(KEPT)
    cell.keep(fresh(store), "f2")
    assert not store.has(lost), "who only reads or uploads leaves it to a repair"
    report = fsck.check(store, [fresh(store)])
    assert report.damaged == [f"{lost} is missing; what it says is still known"] and not report.affected
    assert f"{lost} was written again" in fsck.check(store, [fresh(store)], repair=True).mended
    assert store.get(HEAD) == store.get(COPY) == head
    assert fsck.check(store, [fresh(store)], deep=True).is_clean


@RINGS
def test_a_vault_without_any_head_is_refused_and_never_begun_anew(store: FolderStore, ring: object) -> None:
    put(fresh(store, ring=ring), "f1", {"a": b"x" * 9000})  # type: ignore[arg-type]
    for place in (HEAD, COPY):
        store.delete(place)
    before = keys(store)
    for given in (RING, OTHER_RING, None):
        with pytest.raises(Damaged) as no:
            fresh(store, ring=given)
        assert no.value.cause == (
            "the head of project p's vault and its copy are missing, and without them nothing else that lies there "
            "can be read"
        )
        assert no.value.remedy.startswith(f"put `{HEAD}` back from a backup of the store")
    assert keys(store) == before


def test_a_process_that_has_the_vault_open_can_write_a_head_that_was_lost(store: FolderStore, tmp_path: Path) -> None:
    vault = fresh(store)
    Cell(tmp_path / "a").keep(vault, "f1")
    for place in (HEAD, COPY):
        store.delete(place)
    fsck.check(store, [vault], repair=True)
    assert memory_of(store, "f1").startswith(KEPT)


@RINGS
@pytest.mark.parametrize("damaged", [HEAD, COPY])
def test_a_flipped_bit_in_one_of_the_two_places_harms_nobody_and_is_mended(
    store: FolderStore, ring: object, damaged: str
) -> None:
    put(fresh(store, ring=ring), "f1", {"a": b"x" * 9000})  # type: ignore[arg-type]
    whole = store.get(damaged)
    for at in range(len(whole)):
        store.put(damaged, whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        assert fresh(store, ring=ring).recipe("f1.0").freeze == "f1"  # type: ignore[arg-type]
    assert len(fsck.check(store, [fresh(store, ring=ring)], repair=True).damaged) == 1  # type: ignore[arg-type]
    assert store.get(damaged) == whole


@pytest.mark.parametrize("version", [1, 9])
@pytest.mark.parametrize("place", [HEAD, COPY])
def test_a_head_of_another_version_is_told_and_never_written_over(store: FolderStore, place: str, version: int) -> None:
    vault = fresh(store)
    put(vault, "f1", {"a": b"x" * 9000})
    other = seal("vault", version, {"salt": "of another version"})
    store.put(place, other)
    report = fsck.check(store, [vault], repair=True)
    assert f"version {version}" in report.damaged[0] and not any(place in said for said in report.mended)
    assert store.get(place) == other


@RINGS
def test_damage_is_never_taken_for_a_wrong_key(store: FolderStore, ring: object) -> None:
    put(fresh(store, ring=ring), "f1", {"a": b"x" * 9000})  # type: ignore[arg-type]
    store.delete(COPY)
    whole = store.get(HEAD)
    for at in range(len(whole)):
        for bit in range(8):
            store.put(HEAD, whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
            with pytest.raises((Damaged, Refused, TooNew)) as no:
                fresh(store, ring=ring)  # type: ignore[arg-type]
            if isinstance(no.value, Damaged):
                assert no.value.cause == (
                    "the head of project p's vault and its copy cannot be read, "
                    "and without them nothing else that lies there can"
                )
                assert "earlier snapshot" not in no.value.remedy and "backup" in no.value.remedy
            else:
                assert whole[at : at + 1] == b"3", "only its version"


def test_a_wrong_key_and_none_are_told_from_damage(store: FolderStore) -> None:
    put(fresh(store), "f1", {"a": b"x"})
    with pytest.raises(WrongKey, match="project p are encrypted with another key; give the key they were stored with"):
        fresh(store, ring=OTHER_RING)
    with pytest.raises(MissingKey, match="project p are encrypted; give their key"):
        fresh(store, ring=None)


def test_a_head_that_says_plain_never_makes_who_has_a_key_store_in_the_clear(store: FolderStore) -> None:
    fresh(store, ring=None)
    with pytest.raises(WrongKey, match="project p are not encrypted, and a key for them is given; go on without"):
        fresh(store, ring=RING)


def test_a_head_that_differs_from_its_copy_is_refused(store: FolderStore) -> None:
    put(fresh(store), "f1", {"a": b"x" * 9000})
    other = MemoryStore()
    fresh(other)
    store.put(HEAD, other.get(HEAD))
    with pytest.raises(Damaged, match="the head of project p's vault is another one than its copy; remove the one of"):
        fresh(store)


def test_the_head_of_another_project_is_no_head_of_this_one(store: FolderStore) -> None:
    put(fresh(store), "f1", {"a": b"x" * 9000})
    fresh(store, "q")
    store.put(HEAD, store.get(f"{vault_root('q')}/head"))
    assert fresh(store).recipe("f1.0").freeze == "f1"
    (said,) = fsck.check(store, [fresh(store)]).damaged
    assert said == "the head of project p's vault is that of project q"


def test_a_head_from_before_there_were_copies_is_refused(store: FolderStore) -> None:
    first = {"ergosphere": "vault", "version": 1, "project": "p", "encrypted": False, "salt": "00", "check": "00"}
    store.put(HEAD, canonical(first))
    with pytest.raises(Refused, match="has version 1, which this program does not read any more; begin a new store"):
        fresh(store)


def test_of_many_that_begin_a_vault_at_once_all_have_the_same(store: FolderStore) -> None:
    salts: list[bytes] = []
    threads = [threading.Thread(target=lambda: salts.append(fresh(store).sealer.salt)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(salts) == 8 and len(set(salts)) == 1
    assert store.get(HEAD) == store.get(COPY)


@RINGS
@pytest.mark.parametrize("deep", [False, True])
def test_intact_packs_of_a_vault_whose_head_was_exchanged_are_never_doomed(
    store: FolderStore, tmp_path: Path, ring: object, deep: bool
) -> None:
    cell = Cell(tmp_path / "a")
    cell.keep(fresh(store, ring=ring), "f1")  # type: ignore[arg-type]
    before, other = keys(store), MemoryStore()
    fresh(other, ring=ring)  # type: ignore[arg-type]
    for place in (HEAD, COPY):
        store.put(place, other.get(place))
    vault = open_vault(store, "p", ring)  # type: ignore[arg-type]
    report = fsck.check(store, [vault], deep=deep, repair=True)
    if deep or ring is None:  # without reading a chunk an encrypted vault looks the same
        assert any("written under another head of this vault" in line for line in report.damaged)
        assert {key: content for key, content in keys(store).items() if key in before} == before | {
            place: other.get(place) for place in (HEAD, COPY)
        }
    for _ in range(3):
        collect.execute(vault, collect.plan(vault, NOW))
    for place in (HEAD, COPY):
        store.put(place, before[place])
    again = open_vault(store, "p", ring)  # type: ignore[arg-type]
    assert not again.doomed() and fsck.check(store, [again], deep=True).is_clean
