"""What people do with snapshots: list, show, compare, fork, remove; and take one along as a file."""

from __future__ import annotations

import io
import random
import stat
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from tests.snapshots.test_vault_faults import memory_of
from tests.snapshots.vaultkit import OTHER_RING, Cell, forget, fresh, pages

from ergosphere.snapshots import archive, fsck, gather, remote, shelf
from ergosphere.snapshots.errors import Damaged, Forged, MissingKey, NotRemote, Refused, SnapshotError, WrongKey
from ergosphere.snapshots.manifest import Manifest
from ergosphere.snapshots.memory_store import MemoryStore
from ergosphere.snapshots.records import load
from ergosphere.snapshots.store import FolderStore

KEY = b"k" * 32


def renamed(manifest: Manifest) -> Manifest:
    return replace(manifest, id="imported", job="j9")


def test_show_tells_kinds_apart_and_what_is_its_alone(store: FolderStore, tmp_path: Path) -> None:
    cell = Cell(tmp_path / "a")
    shared = pages(random.Random(1), 100)
    cell.image(0, [(0x10000, shared), (0x7F0000000000, bytes(40960))])
    first = cell.keep(fresh(store), "f1")
    cell.image(0, [(0x10000, shared + pages(random.Random(2), 50))])
    second = cell.keep(fresh(store), "f2")
    shown = shelf.describe(fresh(store), second)
    assert shown.kinds["memory"].bytes == 150 * 4096
    assert shown.kinds["logs"].bytes == 7 and shown.kinds["files"].streams == 2
    assert 50 * 4096 <= shown.alone < 90 * 4096 < 150 * 4096 < shown.stored
    first_shown = shelf.describe(fresh(store), first)
    assert first_shown.kinds["memory"].bytes - first_shown.kinds["memory"].filled == 40960
    with pytest.raises(NotRemote, match="its node only"):
        shelf.describe(fresh(store), cell.snapshot("f9"))


def test_a_comparison_names_what_changed(store: FolderStore, tmp_path: Path) -> None:
    cell = Cell(tmp_path / "a")
    shared = pages(random.Random(1), 100)
    cell.image(0, [(0x10000, shared)])
    first = cell.keep(fresh(store), "f1")
    cell.image(0, [(0x10000, shared + pages(random.Random(2), 50))])
    (cell.root / "work/new").write_text("x")
    with (cell.root / "rank0.out").open("a") as log:
        log.write("step 2\n")
    compared = shelf.diff(fresh(store), first, cell.keep(fresh(store), "f2"))
    (memory,) = [each for each in compared.images if "pages-" in each.label]
    assert memory.before == 100 * 4096 and 50 * 4096 <= memory.fresh <= 90 * 4096
    assert [(each.path, each.how) for each in compared.files[0]] == [("new", "added")]
    assert compared.logs == {"rank0.out": (7, 14)}


def test_a_fork_lives_on_when_its_origin_is_gone_and_costs_no_bytes(store: FolderStore, tmp_path: Path) -> None:
    cell = Cell(tmp_path / "a")
    origin = cell.keep(fresh(store), "f1")
    before = sum(fresh(store).pack_sizes().values())
    forked = shelf.fork(fresh(store), origin, replace(origin, id="g1", job="j2"))
    assert load(store, "g1") == forked and gather.is_remote(store, forked)
    assert sum(fresh(store).pack_sizes().values()) == before
    forget(store, "f1")
    store.delete(fresh(store).recipe_key("f1.0"))
    assert memory_of(store, "g1")[: 4096 * 40] == pages(random.Random(2), 40)
    with pytest.raises(Refused, match="exists already"):
        shelf.fork(fresh(store), forked, replace(forked, id="f1", job="j3"))


def test_a_snapshot_is_exported_by_a_process_that_opened_the_vault_before_it_was_uploaded(
    store: FolderStore, tmp_path: Path
) -> None:
    cell, server = Cell(tmp_path / "a"), fresh(store)
    cell.keep(fresh(store), "f0")
    assert len(server.index) > 0
    cell.image(0, [(0x10000, pages(random.Random(3), 80))])
    manifest = cell.keep(fresh(store), "f1")
    archive.export(server, manifest, tmp_path / "x", None)
    archive.import_archive(tmp_path / "x", None, fresh(there := MemoryStore()), renamed)
    assert memory_of(there, "imported") == pages(random.Random(3), 80)


def test_a_snapshot_whose_packs_are_doomed_is_exported_while_they_are_there(store: FolderStore, tmp_path: Path) -> None:
    manifest = Cell(tmp_path / "a").keep(fresh(store), "f1")
    for pack in fresh(store).pack_sizes():
        store.put(fresh(store).doomed_key(pack), b"")
    archive.export(fresh(store), manifest, tmp_path / "x", None)
    archive.import_archive(tmp_path / "x", None, fresh(there := MemoryStore()), renamed)
    assert memory_of(there, "imported") == memory_of(store, "f1")


@pytest.mark.parametrize("key", [KEY, None], ids=["encrypted", "plain"])
def test_an_exported_snapshot_is_imported_elsewhere_under_another_key(tmp_path: Path, key: bytes | None) -> None:
    here, there = MemoryStore(), MemoryStore()
    cell = Cell(tmp_path / "a", ranks=2)
    manifest = cell.keep(fresh(here), "f1")
    path = tmp_path / "f1.ergo"
    exported = archive.export(fresh(here), manifest, path, key)
    assert "every password" in exported.warnings[0] and ("NOT encrypted" in exported.warnings[1]) == (key is None)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and exported.bytes == path.stat().st_size
    assert archive.read_manifest(path, key) == manifest
    target = fresh(there, "elsewhere", OTHER_RING)
    imported = archive.import_archive(path, key, target, renamed)
    assert imported.job == "j9" and gather.is_remote(there, imported)
    blobs = remote.cell_blobs(fresh(there, "elsewhere", OTHER_RING), "imported", 0)
    for stream in blobs.recipe.streams:
        assert blobs.get(f"blobs/00/{stream.digest}") == remote.cell_blobs(fresh(here), "f1", 0).get(
            f"blobs/00/{stream.digest}"
        )
    assert fsck.check(there, [fresh(there, "elsewhere", OTHER_RING)], deep=True).is_clean


def test_an_archive_keeps_its_secrets_and_wants_its_key(store: FolderStore, tmp_path: Path) -> None:
    cell = Cell(tmp_path / "a")
    (cell.root / "work/secret").write_text("correct horse " * 500)
    path = tmp_path / "x"
    archive.export(fresh(store), cell.keep(fresh(store), "f1"), path, KEY)
    assert b"correct horse" not in path.read_bytes()
    with pytest.raises(MissingKey, match="leave out --plain"):
        archive.read_manifest(path, None)
    with pytest.raises(WrongKey, match="name its own key with --key"):
        archive.read_manifest(path, b"x" * 32)
    archive.export(fresh(store), load(store, "f1"), tmp_path / "plain", None)
    with pytest.raises(WrongKey, match="import it with --plain"):
        archive.read_manifest(tmp_path / "plain", KEY)
    with pytest.raises(FileExistsError):
        archive.export(fresh(store), load(store, "f1"), path, KEY)


def members(path: Path) -> list[tuple[tarfile.TarInfo, bytes]]:
    with tarfile.open(path) as reader:
        return [(member, reader.extractfile(member).read()) for member in reader]  # type: ignore[union-attr]


def rewrite(path: Path, held: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    with tarfile.open(path, "w") as writer:
        for member, content in held:
            member.size = len(content)
            writer.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "vaults/../../x", "a/./b"])
def test_a_member_that_climbs_out_is_refused_and_nothing_is_written(
    store: FolderStore, tmp_path: Path, name: str
) -> None:
    path = tmp_path / "x"
    archive.export(fresh(store), Cell(tmp_path / "a").keep(fresh(store), "f1"), path, KEY)
    rewrite(path, [*members(path), (tarfile.TarInfo(name), b"evil")])
    there = MemoryStore()
    with pytest.raises(Refused, match="leads out"):
        archive.import_archive(path, KEY, fresh(there), renamed)
    assert list(there.list("freezes/")) == []


def test_a_link_in_an_archive_is_refused(store: FolderStore, tmp_path: Path) -> None:
    path = tmp_path / "x"
    archive.export(fresh(store), Cell(tmp_path / "a").keep(fresh(store), "f1"), path, KEY)
    link = tarfile.TarInfo("freezes/f2")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with tarfile.open(path, "a") as writer:
        writer.addfile(link)
    with pytest.raises(Refused, match="no plain file"):
        archive.read_manifest(path, KEY)


@pytest.mark.parametrize("bad", ["../core.img", "/etc/cron.d/x", "a/b", "", ".hidden"])
def test_an_image_whose_name_climbs_out_is_refused(store: FolderStore, tmp_path: Path, bad: str) -> None:
    manifest = Cell(tmp_path / "a").keep(fresh(store), "f1")
    rank = manifest.cells[0].ranks[0]
    files = (replace(rank.files[0], name=bad), *rank.files[1:])
    evil = replace(manifest, cells=(replace(manifest.cells[0], ranks=(replace(rank, files=files),)),))
    archive.export(fresh(store), evil, tmp_path / "x", None)
    there = MemoryStore()
    with pytest.raises(Refused, match="outside its folder"):
        archive.import_archive(tmp_path / "x", None, fresh(there), renamed)
    assert list(there.list("freezes/")) == []


def test_whoever_imports_may_refuse_and_then_nothing_was_stored(store: FolderStore, tmp_path: Path) -> None:
    archive.export(fresh(store), Cell(tmp_path / "a").keep(fresh(store), "f1"), tmp_path / "x", KEY)

    def refuse(manifest: Manifest) -> Manifest:
        raise Refused("it was taken from root", "ask an administrator")

    there = MemoryStore()
    vault = fresh(there)
    with pytest.raises(Refused, match="administrator"):
        archive.import_archive(tmp_path / "x", KEY, vault, refuse)
    assert vault.pack_sizes() == {}


@pytest.mark.parametrize("key", [KEY, None], ids=["encrypted", "plain"])
def test_a_damaged_archive_is_refused_and_never_imported_wrong(tmp_path: Path, key: bytes | None) -> None:
    here = MemoryStore()
    archive.export(fresh(here), Cell(tmp_path / "a").keep(fresh(here), "f1"), tmp_path / "x", key)
    whole, dice = (tmp_path / "x").read_bytes(), random.Random(3)
    for at in [100, 600, len(whole) // 2, *(dice.randrange(len(whole)) for _ in range(40))]:
        for content in (whole[:at], whole[:at] + bytes([whole[at] ^ 8]) + whole[at + 1 :]):
            (tmp_path / "x").write_bytes(content)
            there = MemoryStore()
            try:
                archive.import_archive(tmp_path / "x", key, fresh(there), renamed)
            except (Damaged, Forged, Refused, SnapshotError):
                assert list(there.list("freezes/")) == []
                continue
            assert memory_of(there, "imported") == memory_of(here, "f1")
