"""The job's copy of ~/.cache: what is small is its own, what is large is shown."""

from __future__ import annotations

from ergosphere.agent import cache


def test_small_entries_are_copied_and_large_ones_are_shown(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "COPIED_BYTES_MAX", 1000)
    original, copy = tmp_path / "original", tmp_path / "copy"
    (original / "small").mkdir(parents=True)
    (original / "small" / "font").write_bytes(b"x" * 100)
    (original / "large").mkdir()
    (original / "large" / "model").write_bytes(b"x" * 2000)
    (original / "note").write_text("of its own")
    copy.mkdir()
    cache.copy_small(original, copy)
    assert (copy / "small" / "font").read_bytes() == b"x" * 100
    assert (copy / "note").read_text() == "of its own"
    assert cache.shown(original, copy) == (str(original / "large"),)


def test_an_owner_without_a_cache_has_nothing_copied_and_nothing_shown(tmp_path):
    (tmp_path / "copy").mkdir()
    cache.copy_small(tmp_path / "absent", tmp_path / "copy")
    assert cache.shown(tmp_path / "absent", tmp_path / "copy") == ()
    assert list((tmp_path / "copy").iterdir()) == []
