"""Manifests keep what they were given, notice every damaged byte and refuse what they do not know."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ergosphere.snapshots.documents import BadDocument, seal, to_plain
from ergosphere.snapshots.errors import Damaged, TooNew
from ergosphere.snapshots.manifest import (
    MANIFEST_VERSION,
    CellPart,
    ImageFile,
    Log,
    LogPiece,
    Manifest,
    MappedFile,
    RankPart,
    decode_cell,
    encode_cell,
    from_json,
    to_json,
)
from ergosphere.snapshots.tree import TreeSum

digests = st.text("0123456789abcdef", min_size=64, max_size=64)
sizes = st.integers(0, 2**50)
words = st.text(max_size=12)
facts = st.dictionaries(words, st.one_of(st.integers(), words, st.lists(words, max_size=2), st.none()), max_size=3)
sums = st.builds(TreeSum, digests, sizes, sizes)
ranks = st.builds(RankPart, sizes, st.lists(st.builds(ImageFile, words, sizes, digests), max_size=3).map(tuple), facts)
logs = st.builds(Log, words, st.lists(st.builds(LogPiece, digests, sizes), max_size=3).map(tuple))
cells = st.builds(
    CellPart, st.integers(0, 9), words, words, words, st.lists(st.integers(0, 9), max_size=3).map(tuple),
    st.lists(ranks, max_size=2).map(tuple), sums, st.none() | sums, st.lists(logs, max_size=2).map(tuple),
    st.lists(st.builds(MappedFile, words, sizes, sizes), max_size=2).map(tuple), facts,
)  # fmt: skip
manifests = st.builds(
    Manifest, words, words, sizes, facts, st.floats(0, 2e9), words, st.floats(0, 100), words, words,
    st.none() | digests, st.lists(cells, max_size=2).map(tuple), facts,
)  # fmt: skip

CELL = CellPart(
    0, "node-0", "10.0.0.2", "jobnet", (0, 1), (RankPart(0, (ImageFile("a", 7, "0" * 64),)), RankPart(1, ())),
    TreeSum("1" * 64, 3, 30), None, (Log("rank0.out", (LogPiece("2" * 64, 5), LogPiece("3" * 64, 6))),),
)  # fmt: skip
MANIFEST = Manifest("s1", "j1", 1, {"command": ["x"]}, 1.5, "pause", 0.1, "4.2.1", "6.18", None, (CELL,))


@settings(deadline=None)
@given(manifests)
def test_a_manifest_survives_its_document(manifest: Manifest) -> None:
    document = to_json(manifest)
    assert from_json(document) == manifest
    assert to_json(from_json(document)) == document


@settings(deadline=None)
@given(cells)
def test_a_cells_part_survives_the_mail(part: CellPart) -> None:
    assert decode_cell(json.loads(json.dumps(encode_cell(part)))) == part


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_damaged_byte_anywhere_is_noticed(data: st.DataObject) -> None:
    document = bytearray(to_json(MANIFEST))
    document[data.draw(st.integers(0, len(document) - 1))] ^= data.draw(st.integers(1, 127))
    with pytest.raises((Damaged, TooNew)):
        assert from_json(bytes(document), "s1") == "nothing"


@settings(deadline=None)
@given(st.integers(0, len(to_json(MANIFEST)) - 1))
def test_half_a_manifest_is_damage(length: int) -> None:
    with pytest.raises(Damaged, match="the manifest of snapshot s1"):
        from_json(to_json(MANIFEST)[:length], "s1")


def test_a_manifest_from_a_newer_version_is_refused_with_a_sentence() -> None:
    with pytest.raises(
        TooNew, match=f"snapshot has version {MANIFEST_VERSION + 1}.*; update ergosphere on this machine"
    ):
        from_json(seal("snapshot", MANIFEST_VERSION + 1, {"anything": 1}))


@pytest.mark.parametrize("change", [{"surprise": 1}, {"job": 7}, {"incarnation": True}, {"cells": {}}, {"cells": [{}]}])
def test_a_sealed_document_of_the_wrong_shape_is_damage(change: dict[str, Any]) -> None:
    with pytest.raises(Damaged, match="has the wrong shape"):
        from_json(seal("snapshot", MANIFEST_VERSION, {**to_plain(MANIFEST), **change}))
    with pytest.raises(Damaged, match="is not a snapshot"):
        from_json(seal("result", 1, {}))
    with pytest.raises(BadDocument):
        decode_cell({"index": 0})


def test_a_manifest_finds_its_parts() -> None:
    assert MANIFEST.rank(1).rank == 1 and MANIFEST.cell_of(1) is CELL is MANIFEST.cell(0)
    assert MANIFEST.log_lengths() == {"rank0.out": 11}
    assert MANIFEST.bytes == 7 + 30 + 11
    for lookup in (MANIFEST.rank, MANIFEST.cell_of, MANIFEST.cell):
        with pytest.raises(KeyError):
            lookup(9)
    with pytest.raises(KeyError):
        replace(MANIFEST, cells=(CELL, CELL)).cell(0)
