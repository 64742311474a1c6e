"""`ergo up --store`: what is settled before a service begins."""

from __future__ import annotations

from pathlib import Path

import pytest

from ergosphere.cli.errors import CliError
from ergosphere.cli.store_choice import StoreSaid, choose
from ergosphere.cli.words import bytes_count
from ergosphere.snapshots import settings


@pytest.fixture
def home(tmp_path: Path) -> Path:
    made = tmp_path / "home"
    made.mkdir()
    return made


def test_a_shared_store_gets_a_key_of_its_own_that_its_owner_is_told_to_keep(home: Path, tmp_path: Path) -> None:
    chosen = choose(home, StoreSaid(url="share", upload_limit="50MB/s", image_memory="2GB"), {}, tmp_path)
    key = home / "store.key"
    assert key.stat().st_mode & 0o077 == 0 and str(key) in chosen.notes[0] and "copy" in chosen.notes[0]
    kept = settings.load(home)
    assert kept == chosen.settings
    assert (kept.url, kept.upload_bytes_per_s, kept.image_bytes_max) == (str(tmp_path / "share"), 50e6, 2_000_000_000)
    before = key.read_bytes()
    assert choose(home, StoreSaid(image_memory="none"), {}, tmp_path).settings.image_bytes_max is None
    assert key.read_bytes() == before


def test_a_key_that_is_given_is_used_and_none_is_made(home: Path, tmp_path: Path) -> None:
    chosen = choose(home, StoreSaid(url=str(tmp_path / "share"), plain=True), {}, tmp_path)
    assert chosen.notes == () and not (home / "store.key").exists()


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (StoreSaid(url="ftp://somewhere/x"), "names no store"),
        (StoreSaid(upload_limit="fast"), "--upload-limit"),
        (StoreSaid(image_memory="0"), "--image-memory"),
        (StoreSaid(url="share", key_file="nothing.key"), "put it back"),
        (StoreSaid(url=""), "names no store"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_kept(home: Path, tmp_path: Path, said: StoreSaid, words: str) -> None:
    with pytest.raises(CliError) as no:
        choose(home, said, {}, tmp_path)
    assert words in f"{no.value.cause} {no.value.remedy}"
    assert not (home / settings.SETTINGS).exists()


def test_a_home_that_has_jobs_keeps_its_store(home: Path, tmp_path: Path) -> None:
    (home / "server").mkdir()
    (home / "server/ledger.db").touch()
    with pytest.raises(CliError) as no:
        choose(home, StoreSaid(url="elsewhere"), {}, tmp_path)
    assert "keeps its snapshots in" in no.value.cause and "ERGO_HOME" in no.value.remedy


SIZES = [("4096", 4096), ("50MB", 50_000_000), ("1.5 GB", 1_500_000_000), ("2k", 2000)]


@pytest.mark.parametrize(("text", "count"), SIZES)
def test_bytes_are_read_as_they_are_written(text: str, count: int) -> None:
    assert bytes_count(text) == count
