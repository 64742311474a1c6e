"""Directories go into trees and come back exact; roll-backs undo anything; damage and climbing out are refused."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ergosphere.snapshots.blobs import blob_key, fetch_blob
from ergosphere.snapshots.errors import Changing, Damaged, TooBig, TooNew, Unreadable
from ergosphere.snapshots.layout import materialise, restore
from ergosphere.snapshots.scan import Known, Limits, changed, scan, upload
from ergosphere.snapshots.store import FolderStore
from ergosphere.snapshots.tree import Kind, Tree, compare, load_tree, parse_tree, save_tree, subtree, without

NAMES = ["a", "b", "c.py", "ü", "with space", "line\nbreak", os.fsdecode(b"odd\xff")]


def put_tree(root: Path, store: FolderStore) -> Tree:
    """Scan a directory and store all of it."""
    tree = scan(root).tree
    upload(tree, root, lambda d: store.has(blob_key(d)), lambda d, source: store.put(blob_key(d), source) and None)
    save_tree(store, tree)
    return tree


def fetcher(store: FolderStore):  # type: ignore[no-untyped-def]
    return lambda digest, dest: fetch_blob([store], digest, dest, "a file") and None


@contextmanager
def workshop() -> Iterator[tuple[Path, FolderStore]]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder), FolderStore.create(Path(folder) / "store", durable=False)


# A directory is what a list of small deeds makes of an empty one; deeds that cannot be done are passed over.
paths = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map("/".join)
deeds = st.one_of(
    st.tuples(st.just("write"), paths, st.binary(max_size=40)),
    st.tuples(st.just("sparse"), paths, st.integers(1, 3)),
    st.tuples(st.just("mkdir"), paths, st.none()),
    st.tuples(st.just("symlink"), paths, st.sampled_from(["a", "../x", "/etc/passwd", "nowhere"])),
    st.tuples(st.just("link"), paths, paths),
    st.tuples(st.just("fifo"), paths, st.none()),
    st.tuples(st.just("chmod"), paths, st.sampled_from([0o400, 0o640, 0o755, 0o4711, 0o1777, 0o000])),
    st.tuples(st.just("chown"), paths, st.sampled_from([0, 1234])),
    st.tuples(st.just("utime"), paths, st.integers(0, 2**60)),
    st.tuples(st.just("remove"), paths, st.none()),
    st.tuples(st.just("swap"), paths, st.binary(min_size=5, max_size=5)),
    st.tuples(st.just("rename"), paths, paths),
    st.tuples(st.just("socket"), paths, st.none()),
)


def do(root: Path, deed: tuple[str, str, object]) -> None:
    verb, name, argument = deed
    path = root / name
    try:
        _do(root, verb, path, argument)
    except (OSError, shutil.Error):
        pass


def _do(root: Path, verb: str, path: Path, argument: object) -> None:
    if verb != "chmod" and verb != "utime":
        path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink() and verb in ("write", "swap", "chmod", "chown", "sparse"):
        return  # never through a link that leads out
    if path.is_fifo() and verb in ("write", "swap", "sparse"):
        return  # would wait for a reader
    match verb:
        case "write":
            path.write_bytes(argument)  # type: ignore[arg-type]
        case "sparse":
            with path.open("wb") as file:
                file.truncate(argument * 65536)  # type: ignore[operator]
                file.seek(65536 * (argument - 1))  # type: ignore[operator]
                file.write(b"x" * 4096)
        case "mkdir":
            path.mkdir()
        case "symlink":
            path.symlink_to(str(argument))
        case "link":
            os.link(root / str(argument), path, follow_symlinks=False)
        case "fifo":
            os.mkfifo(path)
        case "chmod":
            path.chmod(argument)  # type: ignore[arg-type]
        case "chown":
            os.chown(path, argument, argument)  # type: ignore[arg-type]
        case "utime":
            os.utime(path, ns=(argument, argument), follow_symlinks=False)  # type: ignore[arg-type]
        case "remove":
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        case "swap":  # same size, same time stamp, other bytes
            status = path.stat()
            path.write_bytes((argument * status.st_size)[: status.st_size])  # type: ignore[operator]
            os.utime(path, ns=(status.st_mtime_ns, status.st_mtime_ns))
        case "rename":
            path.rename(root / str(argument))
        case "socket":
            with socket.socket(socket.AF_UNIX) as end:
                end.bind(str(path))


def make(root: Path, what: list[tuple[str, str, object]]) -> None:
    root.mkdir(exist_ok=True)
    for deed in what:
        do(root, deed)


@settings(max_examples=120, deadline=None)
@given(st.lists(deeds, max_size=14))
def test_a_tree_laid_out_elsewhere_scans_as_the_same_tree(what: list[tuple[str, str, object]]) -> None:
    with workshop() as (folder, store):
        make(folder / "x", what)
        tree = put_tree(folder / "x", store)
        known = materialise(tree, folder / "y", fetcher(store))
        assert scan(folder / "y").tree == tree
        assert scan(folder / "y", known=known).tree == tree
        assert changed(tree, folder / "y") == () == compare(tree, scan(folder / "y").tree)
        assert parse_tree(tree.document) == tree == load_tree([store], tree.summary().digest)


@settings(max_examples=150, deadline=None)
@given(st.lists(deeds, max_size=10), st.lists(deeds, max_size=10), st.booleans())
def test_a_roll_back_undoes_any_mutation(
    what: list[tuple[str, str, object]], then: list[tuple[str, str, object]], warm: bool
) -> None:
    with workshop() as (folder, store):
        make(folder / "x", what)
        tree = put_tree(folder / "x", store)
        known = materialise(tree, folder / "y", fetcher(store))
        make(folder / "y", then)
        restore(tree, folder / "y", fetcher(store), known if warm else None)
        assert scan(folder / "y").tree == tree


@settings(max_examples=80, deadline=None)
@given(st.lists(deeds, max_size=10), st.lists(deeds, max_size=6))
def test_compare_sees_exactly_what_a_reader_would(
    what: list[tuple[str, str, object]], then: list[tuple[str, str, object]]
) -> None:
    with workshop() as (folder, _):
        make(folder / "x", what)
        before = scan(folder / "x").tree
        make(folder / "x", then)
        after = scan(folder / "x").tree
        named = {difference.path for difference in compare(before, after)}
        assert before.by_path.keys() ^ after.by_path.keys() <= named
        for path in before.by_path.keys() & after.by_path.keys():
            old, new = before.by_path[path], after.by_path[path]
            if old.kind is new.kind is Kind.FILE:
                assert (path in named) == ((old.digest, old.mode) != (new.digest, new.mode))


@settings(max_examples=60, deadline=None)
@given(st.lists(deeds, max_size=12), paths, paths)
def test_a_part_of_a_tree_is_a_tree(what: list[tuple[str, str, object]], path: str, other: str) -> None:
    with workshop() as (folder, store):
        make(folder / "x", what)
        tree = put_tree(folder / "x", store)
        for number, part in enumerate((subtree(tree, path), without(tree, [path, other]))):
            assert parse_tree(part.document) == part
            materialise(part, folder / str(number), fetcher(store))
            assert compare(part, scan(folder / str(number)).tree) == ()


def test_unchanged_files_are_left_alone_by_a_roll_back(tmp_path: Path, store: FolderStore) -> None:
    make(tmp_path / "x", [("write", "kept", b"one"), ("write", "changed", b"two")])
    tree = put_tree(tmp_path / "x", store)
    before = (tmp_path / "x/kept").stat()
    (tmp_path / "x/changed").write_bytes(b"new")
    restore(tree, tmp_path / "x", fetcher(store))
    after = (tmp_path / "x/kept").stat()
    assert (before.st_ino, before.st_ctime_ns) == (after.st_ino, after.st_ctime_ns)


def test_unchanged_files_are_not_read_again(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x/file").write_bytes(b"one")
    os.utime(tmp_path / "x/file", ns=(0, 0))
    tree = scan(tmp_path / "x").tree
    known = Known()
    status = (tmp_path / "x/file").stat()
    key = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
    known.remember("file", key, "f" * 64)
    assert scan(tmp_path / "x", known=known).tree.by_path["file"].digest == "f" * 64
    (tmp_path / "x/file").write_bytes(b"two")
    os.utime(tmp_path / "x/file", ns=(0, 0))
    assert scan(tmp_path / "x", known=known).tree.by_path["file"].digest not in ("f" * 64, tree.by_path["file"].digest)


def test_a_stat_cache_survives_a_file_and_forgives_damage(tmp_path: Path) -> None:
    known = Known()
    known.remember(os.fsdecode(b"odd\xff"), (1, 2, 3, 4), "d")
    known.save(tmp_path / "known")
    assert Known.load(tmp_path / "known") == known
    (tmp_path / "known").write_text('{"a": 1}')
    assert Known.load(tmp_path / "known") == Known() == Known.load(tmp_path / "absent")


def test_files_just_written_are_not_trusted_by_their_stat(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x/file").write_bytes(b"one")
    assert scan(tmp_path / "x").known.digests == {}


def test_sockets_are_left_out_with_a_note(tmp_path: Path) -> None:
    make(tmp_path / "x", [("socket", "s", None), ("fifo", "f", None)])
    found = scan(tmp_path / "x")
    assert [entry.path for entry in found.tree.entries] == [".", "f"]
    assert len(found.notes) == 1 and "s is a socket" in found.notes[0]


def test_too_many_bytes_name_the_biggest_offenders_and_the_way_out(tmp_path: Path) -> None:
    make(tmp_path / "x", [("write", "data/big", b"x" * 9_000_000), ("write", "small", b"x" * 2_000_000)])
    with pytest.raises(TooBig, match=r"11 MB, the limit is 10 MB \(biggest: data/ 9 MB, small 2 MB\).*\.ergoignore"):
        scan(tmp_path / "x", limits=Limits(bytes_max=10_000_000))


def test_too_many_files_name_the_fullest_directory(tmp_path: Path) -> None:
    make(tmp_path / "x", [("write", f"many/{n}", b"") for n in range(8)] + [("write", "one", b"")])
    with pytest.raises(TooBig, match=r"9 files, the limit is 5 \(biggest: many/ 8 files, one 1 files\)"):
        scan(tmp_path / "x", limits=Limits(files_max=5))


def test_one_file_that_is_too_big_is_named_before_it_is_read_holes_included(tmp_path: Path) -> None:
    make(tmp_path / "x", [("write", "small", b"x")])
    with (tmp_path / "x/sparse").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(TooBig, match=r"sparse has 1099512 MB, the limit for one file is 10 MB.*\.ergoignore"):
        scan(tmp_path / "x", limits=Limits(file_bytes_max=10_000_000))


def test_holes_do_not_count_against_the_limit(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    with (tmp_path / "x/sparse").open("wb") as file:
        file.truncate(50_000_000)
    assert scan(tmp_path / "x", limits=Limits(bytes_max=1_000_000)).tree.by_path["sparse"].sparse


UNREADABLE = """
import os, sys
from pathlib import Path
from ergosphere.snapshots.errors import Unreadable
from ergosphere.snapshots.scan import scan
import ergosphere.snapshots.digests
os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    scan(Path(sys.argv[1]))
except Unreadable as error:
    print(error)
"""


@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_cannot_be_read_is_named(what: str) -> None:
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    try:
        folder.chmod(0o755)
        (folder / "folder").mkdir(mode=0o755)
        (folder / "file").write_bytes(b"secret")
        (folder / what).chmod(0)
        done = subprocess.run([sys.executable, "-c", UNREADABLE, folder], capture_output=True, text=True, timeout=60)
        assert f"{folder}/{what} cannot be read: Permission denied; make it readable, or exclude" in done.stdout
    finally:
        shutil.rmtree(folder)


def test_a_file_that_keeps_changing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    path = tmp_path / "x/busy"
    path.write_bytes(b"x" * 30_000_000)
    writer = subprocess.Popen(["sh", "-c", 'echo ready; while :; do printf y >> "$1"; done', "sh", path], stdout=-1)
    assert writer.stdout is not None
    try:
        writer.stdout.readline()
        with pytest.raises(Changing, match="busy changes faster"):
            scan(tmp_path / "x")
    finally:
        writer.kill()
        writer.wait()
        writer.stdout.close()


@pytest.mark.parametrize("size", [10, 20_000_000])
def test_a_file_that_changed_after_the_scan_is_not_uploaded(tmp_path: Path, store: FolderStore, size: int) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x/file").write_bytes(b"a" * size)
    tree = scan(tmp_path / "x").tree
    (tmp_path / "x/file").write_bytes(b"b" * size)
    with pytest.raises(Changing):
        upload(tree, tmp_path / "x", lambda d: False, lambda d, s: store.put(blob_key(d), s) and None)
    (tmp_path / "x/file").unlink()
    with pytest.raises(Changing):
        upload(tree, tmp_path / "x", lambda d: False, lambda d, s: store.put(blob_key(d), s) and None)
    assert list(store.list("blobs/")) == []


def test_only_what_the_store_lacks_is_uploaded_and_equal_files_once(tmp_path: Path, store: FolderStore) -> None:
    make(tmp_path / "x", [("write", "a", b"same"), ("write", "b", b"same"), ("write", "c", b"other")])
    tree = scan(tmp_path / "x").tree
    sent: list[str] = []
    upload(tree, tmp_path / "x", lambda d: d == tree.by_path["c"].digest, lambda d, s: sent.append(d))
    assert sent == [tree.by_path["a"].digest]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2), st.integers(0, 10_000), st.integers(1, 255), st.booleans())
def test_a_damaged_byte_in_any_blob_is_noticed(which: int, where: int, flip: int, cut: bool) -> None:
    with workshop() as (folder, store):
        make(folder / "x", [("write", "a", b"content of a"), ("write", "d/b", b"content of b" * 3)])
        digest = put_tree(folder / "x", store).summary().digest
        victim = sorted(store.folder.glob("blobs/*/*"))[which]
        content = bytearray(victim.read_bytes())
        content[where % len(content)] ^= flip
        victim.write_bytes(content[:-1] if cut else content)
        with pytest.raises(Damaged):
            materialise(load_tree([store], digest), folder / "y", fetcher(store))


def test_a_missing_blob_is_damage(tmp_path: Path, store: FolderStore) -> None:
    make(tmp_path / "x", [("write", "a", b"content")])
    tree = put_tree(tmp_path / "x", store)
    store.delete(blob_key(tree.by_path["a"].digest))
    with pytest.raises(Damaged, match="is missing"):
        materialise(tree, tmp_path / "y", fetcher(store))


@pytest.mark.parametrize(
    "rows",
    [
        [{"path": "../x"}],
        [{"path": "/etc/x"}],
        [{"path": "a/../../x"}],
        [{"path": "./x"}],
        [{"path": "x"}, {"path": "x"}],
        [{"path": "lost/x"}],
        [{"path": "link", "kind": "symlink", "target": "/etc"}, {"path": "link/x"}],
        [{"path": "x", "kind": "hardlink", "target": "/etc/shadow"}],
        [{"path": "x", "kind": "device"}],
        [{"path": "x", "mode": "4755"}],
        [{"path": "x", "mode": 0o100644}],
        [{"path": "x", "digest": "short"}],
        [{"path": "x", "surprise": 1}],
    ],
)
def test_a_document_that_would_climb_out_or_makes_no_sense_is_refused(rows: list[dict[str, object]]) -> None:
    full = {"kind": "file", "mode": 0o644, "uid": 0, "gid": 0, "mtime_ns": 0, "size": 1, "digest": "0" * 64}
    root = {**full, "path": ".", "kind": "dir"}
    parse_tree(json.dumps({"ergosphere": "tree", "version": 1, "entries": [root, {**full, "path": "x"}]}).encode())
    document = {"ergosphere": "tree", "version": 1, "entries": [root, *({**full, **row} for row in rows)]}
    with pytest.raises(Damaged):
        parse_tree(json.dumps(document).encode())


def test_a_tree_from_a_newer_version_is_refused_with_a_sentence() -> None:
    with pytest.raises(TooNew, match="has version 9, this program knows versions up to 1; update ergosphere"):
        parse_tree(b'{"ergosphere": "tree", "version": 9, "entries": []}')


def test_a_hard_link_whose_file_is_cut_away_becomes_the_file(tmp_path: Path) -> None:
    make(tmp_path / "x", [("write", "a", b"one"), ("link", "b", "a"), ("link", "c", "a")])
    tree = scan(tmp_path / "x").tree
    part = without(tree, ["a"])
    assert part.by_path["b"] == replace(tree.by_path["a"], path="b")
    assert part.by_path["c"].target == "b"


def test_a_destination_in_use_is_not_laid_over(tmp_path: Path, store: FolderStore) -> None:
    make(tmp_path / "x", [("write", "a", b"one")])
    tree = put_tree(tmp_path / "x", store)
    with pytest.raises(FileExistsError):
        materialise(tree, tmp_path / "x", fetcher(store))


def test_unreadable_root_is_named(tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match="absent cannot be read"):
        scan(tmp_path / "absent")
