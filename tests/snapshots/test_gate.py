"""Before anything of a store is touched: was it begun with this key, and is it this home's?"""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.snapshots.vaultkit import Cell

from ergosphere.snapshots import gate, records
from ergosphere.snapshots.depot import Depot, open_depot, open_with
from ergosphere.snapshots.errors import MissingKey, Refused, SnapshotError, StoreUnreachable, TooNew, WrongKey
from ergosphere.snapshots.opening import create_store
from ergosphere.snapshots.settings import StoreSettings, home_id
from ergosphere.snapshots.store import FolderStore

KEY, OTHER = "ab" * 32, "cd" * 32


def opened(home: Path, monkeypatch: pytest.MonkeyPatch, key: str = "", settings: StoreSettings | None = None) -> Depot:
    monkeypatch.setenv("ERGO_KEY", key)
    return open_depot(home) if settings is None else open_with(home, settings)


def kept(home: Path, depot: Depot, name: str = "f1") -> None:
    """A snapshot in the store, and its bytes."""
    Cell(home.parent / f"cell-{name}").keep(depot.vault("p"), name)


def content(home: Path) -> dict[str, bytes]:
    store = home / "store"
    return {str(path.relative_to(store)): path.read_bytes() for path in store.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("first", "then", "error", "remedy"),
    [
        ("", KEY, WrongKey, "unset ERGO_KEY"),
        (KEY, "", MissingKey, "set ERGO_KEY"),
        (KEY, OTHER, WrongKey, "set ERGO_KEY"),
    ],
)
@pytest.mark.parametrize("with_head", [True, False], ids=["with a head", "from before there were heads"])
def test_a_key_other_than_the_one_a_store_was_begun_with_is_refused_and_nothing_is_touched(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    first: str,
    then: str,
    error: type[SnapshotError],
    remedy: str,
    with_head: bool,
) -> None:
    home = tmp_path / "home"
    kept(home, opened(home, monkeypatch, first))
    if not with_head:
        (home / "store/head").unlink()
        (home / "store/owner").unlink()
    before = content(home)
    with pytest.raises(error) as no:
        opened(home, monkeypatch, then)
    assert remedy in no.value.remedy and "lost-key.md" in no.value.remedy
    assert content(home) == before
    assert records.load(opened(home, monkeypatch, first).store, "f1").id == "f1"
    assert (home / "store/head").exists()


def test_a_shared_store_does_not_go_from_plain_to_encrypted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = str(tmp_path / "share")
    create_store(url)
    kept(tmp_path / "home", opened(tmp_path / "home", monkeypatch, "", StoreSettings(url=url, plain=True)))
    with pytest.raises(WrongKey, match="without a key"):
        opened(tmp_path / "home", monkeypatch, KEY, StoreSettings(url=url))


def test_a_shared_store_is_never_begun_with_keys_of_single_projects_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, keys = str(tmp_path / "share"), tmp_path / "keys"
    create_store(url)
    keys.touch(0o600)
    keys.write_text(f"vision = {KEY}\n")
    settings = StoreSettings(url=url, key_file=str(keys))
    with pytest.raises(MissingKey, match="the key file has no `default`, only vision") as no:
        opened(tmp_path / "home", monkeypatch, "", settings)
    assert "add the line `default = 64 hex digits`" in no.value.remedy and "lost-key.md" in no.value.remedy
    assert list(FolderStore(Path(url)).list()) == [], "nothing was written"
    keys.write_text(f"vision = {KEY}\ndefault = {OTHER}\n")
    depot = opened(tmp_path / "home", monkeypatch, "", settings)
    records.abort(depot.store, "f1", "asked")
    assert all(depot.vault(project).sealer.encrypted for project in ("vision", "speech"))
    keys.write_text(f"vision = {KEY}\n")
    own = opened(tmp_path / "own", monkeypatch, "", StoreSettings(key_file=str(keys)))
    assert own.vault("vision").sealer.encrypted, "a home's own store is private to its account"


def test_a_store_in_which_only_its_vault_was_made_is_known_as_plain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(tmp_path, monkeypatch).vault("default")
    (tmp_path / "store/head").unlink()
    with pytest.raises(WrongKey, match="not encrypted"):
        opened(tmp_path, monkeypatch, KEY)


@pytest.mark.parametrize("key", ["", KEY])
def test_a_damaged_head_is_made_again_from_what_is_in_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    kept(tmp_path / "home", opened(tmp_path / "home", monkeypatch, key))
    (tmp_path / "home/store/head").write_bytes(b"{]")
    with pytest.raises((WrongKey, MissingKey)):
        opened(tmp_path / "home", monkeypatch, OTHER)
    opened(tmp_path / "home", monkeypatch, key)
    with pytest.raises(WrongKey):
        opened(tmp_path / "home", monkeypatch, OTHER)


def test_one_damaged_record_does_not_make_the_right_key_a_wrong_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    first = opened(home, monkeypatch, KEY)
    kept(home, first, "f1")
    kept(home, first, "f2")
    (home / "store/head").unlink()
    record = home / "store/freezes/f1"
    record.write_bytes(record.read_bytes()[:-1] + b"?")
    opened(home, monkeypatch, KEY)


def test_a_head_from_a_newer_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(tmp_path, monkeypatch)
    head = tmp_path / "store/head"
    head.write_bytes(head.read_bytes().replace(b'"version":2', b'"version":3'))
    with pytest.raises(TooNew):
        opened(tmp_path, monkeypatch)


@pytest.mark.parametrize("key", ["", KEY])
def test_a_second_home_on_one_store_is_refused_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    url = str(tmp_path / "share")
    create_store(url)
    settings = StoreSettings(url=url, plain=not key)
    first, second = tmp_path / "first", tmp_path / "second"
    opened(first, monkeypatch, key, settings)
    with pytest.raises(Refused, match=str(first)) as no:
        opened(second, monkeypatch, key, settings)
    assert "--store URL" in no.value.remedy and "`owner`" in no.value.remedy
    opened(first, monkeypatch, key, settings)
    (tmp_path / "share/owner").unlink()
    opened(second, monkeypatch, key, settings)


def test_a_home_keeps_its_store_when_it_is_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(tmp_path / "here", monkeypatch)
    assert home_id(tmp_path / "here") != home_id(tmp_path / "other")
    (tmp_path / "here").rename(tmp_path / "there")
    opened(tmp_path / "there", monkeypatch)


def test_a_store_that_is_away_is_let_in_when_it_is_back_and_checked_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    share = tmp_path / "share"
    settings = StoreSettings(url=str(share), plain=True)
    away, other = (opened(tmp_path / name, monkeypatch, "", settings) for name in ("home", "other"))
    with pytest.raises(StoreUnreachable):
        away.store.get("freezes/f1")
    FolderStore.create(share)
    away.store.put("freezes/f1", b"x")
    assert away.store.get("freezes/f1") == b"x"
    with pytest.raises(Refused):
        other.store.put("freezes/f2", b"x")
    assert (share / gate.HEAD).exists() and (share / gate.OWNER).exists()
    assert [stored.key for stored in away.store.list()] == ["freezes/f1"]
