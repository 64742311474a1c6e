"""Where bytes are cut: laws of `chunking`, and what `pages` reads from CRIU's images."""

from __future__ import annotations

import random
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.snapshots.vaultkit import message, pages, write_images

from ergosphere.snapshots.chunking import CHUNK_MAX, LINE, cut
from ergosphere.snapshots.pages import PAGE, region_starts

PAGE_KINDS = st.sampled_from(["zero", "one", "random", "sparse"])


def page(kind: str, dice: random.Random) -> bytes:
    match kind:
        case "zero":
            return bytes(PAGE)
        case "one":
            return b"\1" * PAGE
        case "sparse":  # zero wherever the sampler looks
            return bytes(16) + dice.randbytes(4) + bytes(PAGE - 20)
        case _:
            return dice.randbytes(PAGE)


def chunks(content: bytes, starts: tuple[int, ...] = ()) -> list[bytes]:
    cuts = cut(memoryview(content), starts)
    return [content[a:b] for a, b, zero in zip(cuts.edges, cuts.edges[1:], cuts.zero, strict=False) if not zero]


@settings(max_examples=60, deadline=None)
@given(st.lists(PAGE_KINDS, max_size=90), st.integers(0, PAGE - 1), st.integers(0, 999), st.data())
def test_pieces_cover_everything_once_and_zeros_are_no_chunks(
    kinds: list[str], tail: int, seed: int, data: st.DataObject
) -> None:
    dice = random.Random(seed)
    content = b"".join(page(kind, dice) for kind in kinds) + dice.randbytes(tail)
    starts = [PAGE * start for start in data.draw(st.lists(st.integers(0, 95), max_size=5))]
    cuts = cut(memoryview(content), starts)
    assert cuts.edges[0] == 0 and cuts.edges[-1] == len(content)
    assert len(cuts.zero) == len(cuts.edges) - 1
    for a, b, zero in zip(cuts.edges, cuts.edges[1:], cuts.zero, strict=False):
        assert a < b and a % LINE == 0
        assert not zero or (a % PAGE == 0 and b % PAGE == 0 and not any(content[a:b]))
        assert zero or b - a <= CHUNK_MAX + PAGE
        whole_pages = range(-(-a // PAGE) * PAGE, b - PAGE + 1, PAGE)
        assert zero or all(any(content[at : at + PAGE]) for at in whole_pages)


def test_an_inserted_page_changes_the_chunks_around_it_only() -> None:
    dice = random.Random(3)
    before = pages(dice, 1000)
    after = before[: 400 * PAGE] + pages(dice, 1) + before[400 * PAGE :]
    fresh = set(chunks(after)) - set(chunks(before))
    assert sum(map(len, fresh)) <= 3 * CHUNK_MAX


def test_equal_memory_at_another_place_in_the_image_is_cut_alike() -> None:
    dice = random.Random(4)
    shared, mine, yours = pages(dice, 300), pages(dice, 77), pages(dice, 5)
    ours = set(chunks(mine + shared, (0, len(mine)))) & set(chunks(yours + shared, (0, len(yours))))
    assert sum(map(len, ours)) == len(shared)


def test_equal_memory_that_an_allocator_moved_by_some_lines_is_mostly_the_same_chunks() -> None:
    shared = pages(random.Random(8), 1000)
    moved = chunks(bytes(range(1, 193)) + shared)
    both = set(chunks(shared)) & set(moved)
    assert sum(map(len, both)) > 0.9 * len(shared)


def test_regions_begin_where_the_pagemap_says(tmp_path: Path) -> None:
    dice = random.Random(5)
    write_images(tmp_path, [(0x1000, pages(dice, 3)), (0x4000, pages(dice, 2)), (0x9000, pages(dice, 1))])
    assert region_starts(tmp_path / "pages-1.img") == [0, 5 * PAGE]  # the second follows the first without a gap


def test_a_pagemap_that_cannot_be_understood_means_no_regions(tmp_path: Path) -> None:
    write_images(tmp_path, [(0x1000, pages(random.Random(6), 3))])
    whole = (tmp_path / "pagemap-7.img").read_bytes()
    for broken in (b"", whole[:-1], whole[:9], whole + message(vaddr=1 << 40, nr=9, flags=4), b"\xff" * 60):
        (tmp_path / "pagemap-7.img").write_bytes(broken)
        assert region_starts(tmp_path / "pages-1.img") == []


def test_pages_that_lie_with_a_parent_are_not_in_this_image(tmp_path: Path) -> None:
    write_images(tmp_path, [(0x1000, pages(random.Random(7), 2))])
    entries = message(vaddr=0x1000, nr=2, flags=4) + message(vaddr=0x8000, nr=5, flags=1)
    (tmp_path / "pagemap-7.img").write_bytes(bytes(8) + message(pages_id=1) + entries)
    assert region_starts(tmp_path / "pages-1.img") == [0]
