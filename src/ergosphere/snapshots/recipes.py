"""The recipe of a cell: of what chunks each of its streams is made. Pure; its bytes: docs/formats/vault.md.

A stream is what a manifest names by digest: an image, a file, a tree document, a piece of a log. A recipe names chunks,
never packs: chunks may be moved to other packs under it.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ergosphere.snapshots.chunk_index import Names, unique
from ergosphere.snapshots.documents import BadDocument, canonical, from_plain, to_plain
from ergosphere.snapshots.errors import Damaged, TooNew

RECIPE_VERSION: Final = 1
ZEROS: Final = 0xFFFFFFFF  # a span of zeros instead of a chunk's number
HEAD: Final = struct.Struct("<III")  # bytes of JSON, names, spans
DIGEST: Final = re.compile(r"[0-9a-f]{64}")
FREEZE: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,99}")


@dataclass(frozen=True, slots=True)
class StreamPart:
    """One stream: its digest, what it is ("rank0/pages-1.img", "file", "tree", "log"), its bytes and its spans."""

    digest: str
    label: str
    size: int
    first: int
    spans: int


@dataclass(frozen=True, slots=True, eq=False)
class Recipe:
    """`chunk[i]` and `length[i]` are the spans of all streams; `names` has each chunk once."""

    freeze: str
    cell: int
    streams: tuple[StreamPart, ...]
    names: Names
    chunk: NDArray[np.uint32]
    length: NDArray[np.uint32]

    @property
    def key(self) -> str:
        return recipe_name(self.freeze, self.cell)

    @property
    def size(self) -> int:
        return sum(stream.size for stream in self.streams)

    def spans(self, stream: StreamPart) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
        """Chunk numbers and lengths of one stream."""
        held = slice(stream.first, stream.first + stream.spans)
        return self.chunk[held], self.length[held]

    def encode(self) -> bytes:
        head = canonical(
            {
                "version": RECIPE_VERSION,
                "freeze": self.freeze,
                "cell": self.cell,
                "streams": [to_plain(stream) for stream in self.streams],
            }
        )
        sizes = HEAD.pack(len(head), len(self.names), len(self.chunk))
        arrays = (self.names.tobytes(), self.chunk.astype("<u4").tobytes(), self.length.astype("<u4").tobytes())
        return b"".join((sizes, head, *arrays))


def recipe_name(freeze: str, cell: int) -> str:
    """What a recipe is stored under."""
    return f"{freeze}.{cell}"


def decode(content: bytes, which: str) -> Recipe:
    """Errors: Damaged (naming `which`), TooNew. Nothing in it points outside of it afterwards."""
    try:
        head, names, spans = _head(content)
        if head["version"] > RECIPE_VERSION:
            raise TooNew("recipe", head["version"], RECIPE_VERSION)
        streams = tuple(from_plain(StreamPart, stream) for stream in head["streams"])
        recipe = Recipe(str(head["freeze"]), int(head["cell"]), streams, *_arrays(content, names, spans))
    except (struct.error, ValueError, KeyError, TypeError, BadDocument) as error:
        raise Damaged(which, how=f"has the wrong shape ({error})") from error
    _check(recipe, which)
    return recipe


def extended(recipe: Recipe, borrowed: Sequence[tuple[Recipe, StreamPart]]) -> Recipe:
    """The recipe with streams of other recipes added: their chunks are in the vault already."""
    names, chunks, lengths, streams = [recipe.names], [recipe.chunk], [recipe.length], list(recipe.streams)
    name_count, span_count = len(recipe.names), len(recipe.chunk)
    for other, stream in borrowed:
        chunk, length = other.spans(stream)
        real = chunk != ZEROS
        moved = np.full(len(chunk), ZEROS, np.uint32)
        moved[real] = np.arange(name_count, name_count + int(real.sum()), dtype=np.uint32)
        names.append(other.names[chunk[real]])
        chunks.append(moved)
        lengths.append(length)
        streams.append(replace(stream, first=span_count))
        name_count, span_count = name_count + len(names[-1]), span_count + len(chunk)
    once, place = unique(np.concatenate(names))
    chunk = np.concatenate(chunks)
    real = chunk != ZEROS
    chunk[real] = place[chunk[real]]
    once = np.ascontiguousarray(once, "<u8")
    return Recipe(recipe.freeze, recipe.cell, tuple(streams), once, chunk, np.concatenate(lengths))


def names_in(content: bytes, which: str) -> Names:
    """Only the names of the chunks: all that a sweep needs. Errors: Damaged, TooNew."""
    try:
        size, names, _ = HEAD.unpack_from(content)
        version = json.loads(content[HEAD.size : HEAD.size + size])["version"]
        if version > RECIPE_VERSION:
            raise TooNew("recipe", version, RECIPE_VERSION)
        return np.frombuffer(content, "<u8", names * 4, HEAD.size + size).reshape(-1, 4)
    except (struct.error, ValueError, KeyError, TypeError) as error:
        raise Damaged(which, how="has the wrong shape") from error


def _head(content: bytes) -> tuple[dict[str, Any], int, int]:
    size, names, spans = HEAD.unpack_from(content)
    head = json.loads(content[HEAD.size : HEAD.size + size])
    if len(content) != HEAD.size + size + names * 32 + spans * 8:
        raise ValueError("its length is not what it says")
    return head, names, spans


def _arrays(content: bytes, names: int, spans: int) -> tuple[Names, NDArray[np.uint32], NDArray[np.uint32]]:
    at = len(content) - names * 32 - spans * 8
    found = np.frombuffer(content, "<u8", names * 4, at).reshape(-1, 4)
    chunk = np.frombuffer(content, "<u4", spans, at + names * 32)
    length = np.frombuffer(content, "<u4", spans, at + names * 32 + spans * 4)
    return found, chunk, length


def _check(recipe: Recipe, which: str) -> None:
    if not FREEZE.fullmatch(recipe.freeze):
        raise Damaged(which, how=f"belongs to {recipe.freeze!r}, which names no snapshot")
    real = recipe.chunk != ZEROS
    if real.any() and int(recipe.chunk[real].max()) >= len(recipe.names):
        raise Damaged(which, how="refers to chunks it does not have")
    for stream in recipe.streams:
        _check_stream(recipe, stream, which)


def _check_stream(recipe: Recipe, stream: StreamPart, which: str) -> None:
    if not DIGEST.fullmatch(stream.digest):
        raise Damaged(which, how=f"has a stream named {stream.digest[:80]!r}")
    if stream.first < 0 or stream.spans < 0 or stream.first + stream.spans > len(recipe.chunk):
        raise Damaged(which, how="has a stream beyond its end")
    if int(recipe.spans(stream)[1].sum(dtype=np.uint64)) != stream.size:
        raise Damaged(which, how="has a stream whose spans are not as long as it")
