"""The bytes of a pack: many chunks in one object, then a table of them, then where the table begins.

    head   8 magic, 2 version, 2 mode, 4 zero, 16 pack id, 16 salt of the vault's head
    chunks one after the other, each encrypted by itself
    table  one row a chunk (`ROW`), encrypted or with a keyed hash
    foot   4 bytes of the table, 4 rows, 8 magic

A pack can be read without any index, so every index can be made again from the packs. A chunk that resembles another
one, its *base*, may be kept as a delta: what zstd makes of it with the base as its dictionary. A base is a whole chunk.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import zstandard
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from numpy.typing import NDArray

from ergosphere.snapshots.errors import Damaged, TooNew
from ergosphere.snapshots.sealing import ENCRYPTED, MAC_SIZE, PLAIN, TAG_SIZE, Bytes, Sealer
from ergosphere.system import fresh_bytes

MAGIC: Final = b"ERGOPACK"
END: Final = b"PACKEND1"
VERSION: Final = 3
HEAD: Final = struct.Struct("<8sHH4x16s16s")
FOOT: Final = struct.Struct("<II8s")
ID_SIZE: Final = 16
PACK_SIZE: Final = 16 << 20  # bytes; what one worker gathers before it writes
CHUNK_SIZE_MAX: Final = 256 << 10  # bytes; longer ones are not written and not believed
TABLE_ROOM: Final = 2 << 20  # bytes kept free for rows and foot
RAW, ZSTD, DELTA = 0, 1, 2
BASE_SIZE: Final = 16  # bytes of a base's name in a row; the base itself is compared with all of its name
NO_BASE: Final = bytes(BASE_SIZE)
UNREADABLE: Final = "was damaged or was not written with this key"
SAMPLE: Final = 2048  # bytes of a chunk that tell whether compressing it pays
SAMPLE_LEVEL: Final = -3  # tells it as well as LEVEL does, in less than half the time
PAYS: Final = 0.9  # of its size at most, or the chunk stays as it is
LEVEL: Final = 1
DELTA_PAYS: Final = 0.8  # of what the chunk takes by itself at most, or it stays whole and may be a base
DELTA_LEVEL: Final = 1  # 3 would make deltas a fifth smaller, for twice the time

ROW: Final = np.dtype(
    [
        ("name", "<u8", (4,)),
        ("at", "<u4"),
        ("stored", "<u4"),
        ("size", "<u4"),
        ("kind", "u1"),
        ("pad", "V3"),
        ("base", "<u8", (2,)),
    ]
)
ROWS_MAX: Final = (TABLE_ROOM - 64) // ROW.itemsize

Rows = NDArray[Any]  # of ROW
RowParts = tuple[bytes, int, int, int, int, bytes]  # name, at, stored, size, kind, base


def name_of(content: Bytes, naming: bytes) -> bytes:
    """The keyed name of a chunk."""
    return blake3(content, key=naming).digest()


@dataclass(frozen=True, slots=True)
class Base:
    """A whole chunk that others may be kept as deltas of."""

    name: bytes
    content: Bytes


@dataclass(frozen=True, slots=True)
class Sealed:
    """A finished pack: `content` is only good until its builder begins the next one."""

    id: bytes
    content: memoryview
    rows: Rows


BaseOf = Callable[[memoryview], Base | None]


def no_base(content: memoryview) -> None:
    """Whatever it is, it is kept by itself."""


class PackBuilder:
    """Gathers chunks in one buffer of its own, over and over. One thread's."""

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer
        self._buffer = memoryview(bytearray(PACK_SIZE + CHUNK_SIZE_MAX + TABLE_ROOM))
        self._compressor = zstandard.ZstdCompressor(level=LEVEL)
        self._sampler = zstandard.ZstdCompressor(level=SAMPLE_LEVEL)
        self._rows: list[RowParts] = []
        self._end = 0
        self._begin()

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def is_full(self) -> bool:
        return bool(self._rows) and (self._end >= PACK_SIZE or len(self._rows) >= ROWS_MAX)

    @property
    def is_empty(self) -> bool:
        return not self._rows

    def add(self, name: bytes, content: memoryview, base_of: BaseOf = no_base) -> int:
        """Take one chunk in; the kind it is kept as. The pack must not be full.

        `base_of` is asked for a base of what can be compressed at all.
        """
        assert len(content) <= CHUNK_SIZE_MAX, "chunking cuts smaller"
        kind, packed = self._packed(content)
        base = base_of(content) if kind == ZSTD else None
        if base is not None:
            delta = _delta(content, base)
            if len(delta) <= DELTA_PAYS * len(packed):
                self.add_packed(name, delta, len(content), DELTA, base.name[:BASE_SIZE])
                return DELTA
        self.add_packed(name, packed, len(content), kind)
        return kind

    def add_packed(self, name: bytes, packed: Bytes, size: int, kind: int, base: bytes = NO_BASE) -> None:
        """Take in a chunk of `size` bytes as another pack has it. The pack must not be full."""
        if not self._rows:
            self._begin()
        stored = len(packed) + self._cipher.overhead
        at = self._end
        self._cipher.write(at, packed, self._buffer[at : at + stored])
        self._rows.append((name, at, stored, size, kind, base))
        self._end = at + stored

    def finish(self) -> Sealed:
        """The pack as it is stored, and its rows; the builder begins anew with the next `add`."""
        rows = make_rows(self._rows)
        table = self._cipher.seal_table(rows.tobytes())
        foot = FOOT.pack(len(table), len(rows), END)
        end = self._end + len(table) + len(foot)
        self._buffer[self._end : end] = table + foot
        sealed = Sealed(self._id, self._buffer[:end], rows)
        self._rows = []
        return sealed

    def _begin(self) -> None:
        self._id = fresh_bytes(ID_SIZE)
        self._cipher = self._sealer.pack(self._id)
        mode = ENCRYPTED if self._sealer.encrypted else PLAIN
        self._buffer[: HEAD.size] = HEAD.pack(MAGIC, VERSION, mode, self._id, self._sealer.salt)
        self._end = HEAD.size

    def _packed(self, content: memoryview) -> tuple[int, Bytes]:
        middle = max(0, len(content) // 2 - SAMPLE // 2)
        sample = content[middle : middle + SAMPLE]
        if len(self._sampler.compress(sample)) > PAYS * len(sample):
            return RAW, content
        packed = self._compressor.compress(content)
        return (ZSTD, packed) if len(packed) <= PAYS * len(content) else (RAW, content)


def make_rows(chunks: list[RowParts]) -> Rows:
    """Rows of a pack's table."""
    rows = np.zeros(len(chunks), ROW)
    if chunks:
        names, at, stored, size, kind, bases = zip(*chunks, strict=True)
        rows["name"] = np.frombuffer(b"".join(names), "<u8").reshape(-1, 4)
        rows["base"] = np.frombuffer(b"".join(bases), "<u8").reshape(-1, 2)
        rows["at"], rows["stored"], rows["size"], rows["kind"] = at, stored, size, kind
    return rows


def whole_size(rows: Rows, sealer: Sealer) -> int:
    """Bytes of a pack that holds these rows and nothing else."""
    end = int((rows["at"].astype(np.int64) + rows["stored"]).max(initial=HEAD.size))
    return end + len(rows) * ROW.itemsize + (TAG_SIZE if sealer.encrypted else MAC_SIZE) + FOOT.size


def table_span(foot: Bytes, size: int, which: str) -> tuple[int, int]:
    """[start, end) of the table in a pack of `size` bytes whose last bytes are `foot`. Errors: Damaged."""
    try:
        length, count, magic = FOOT.unpack(foot)
    except struct.error:
        raise Damaged(which, how="is cut short") from None
    start = size - FOOT.size - length
    if magic != END or start < HEAD.size or length < count * ROW.itemsize:
        raise Damaged(which, how="is cut short or damaged")
    return start, start + length


def read_table(sealed: Bytes, pack_id: bytes, sealer: Sealer, which: str) -> Rows:
    """Rows of a pack from its sealed table. Errors: Damaged, Forged."""
    table = sealer.pack(pack_id).open_table(sealed, which)
    if len(table) % ROW.itemsize:
        raise Damaged(which, how="has a table of odd length")
    return np.frombuffer(table, ROW)


def salt_in(head: Bytes, pack_id: bytes, which: str) -> bytes:
    """The salt of the vault's head that a pack was written under. Errors: Damaged, TooNew."""
    try:
        magic, version, _, found, salt = HEAD.unpack(head)
    except struct.error:
        raise Damaged(which, how="is cut short") from None
    if magic != MAGIC or found != pack_id:
        raise Damaged(which, how="is not the pack it is named after")
    if version > VERSION:
        raise TooNew("pack", version, VERSION)
    return bytes(salt)


class ChunkReader:
    """Opens chunks of one pack. One thread's."""

    def __init__(self, sealer: Sealer, naming: bytes, pack_id: bytes) -> None:
        self._cipher = sealer.pack(pack_id)
        self._naming = naming
        self._decompressor = zstandard.ZstdDecompressor()

    @property
    def is_sealed(self) -> bool:
        """Whether chunks are encrypted: then the tag proves a whole one, and its name need not."""
        return self._cipher.encrypted

    @contextmanager
    def opening(self) -> Iterator[Callable[[int, memoryview, memoryview], None]]:
        """Opens any number of chunks that are encrypted and no more: place in the pack, bytes there, where they go.

        Errors: Damaged.
        """
        assert self.is_sealed, "their tags are all that is looked at"
        try:
            yield self._cipher.read_into
        except (InvalidTag, ValueError):
            raise Damaged("a chunk", how=UNREADABLE) from None

    def open(self, at: int, stored: memoryview) -> Bytes:
        """What lies `at` bytes into the pack, as it was packed. Errors: Damaged."""
        try:
            return self._cipher.read(at, stored)
        except (InvalidTag, ValueError):
            raise Damaged("a chunk", how=UNREADABLE) from None

    def unpack(self, name: bytes, packed: Bytes, size: int, kind: int, base: Bytes | Damaged | None = None) -> Bytes:
        """The chunk, verified against its name; `base`: the content of its base if it is a delta. Errors: Damaged."""
        content = self._content(packed, size, kind, base)
        if name_of(content, self._naming) != name:
            raise Damaged("a chunk")
        return content

    def read(
        self, name: bytes, at: int, size: int, kind: int, stored: memoryview, base: Bytes | Damaged | None = None
    ) -> Bytes:
        """`open` and `unpack`. Errors: Damaged."""
        return self.unpack(name, self.open(at, stored), size, kind, base)

    def read_into(
        self, out: memoryview, name: bytes, at: int, kind: int, stored: memoryview, base: Bytes | Damaged | None = None
    ) -> None:
        """As `read`, to where there is as much room as the chunk has bytes; of a whole chunk that is encrypted the tag
        is all that is looked at: nobody without the key can have put other bytes there. Errors: Damaged.
        """
        if kind != RAW or len(stored) != len(out) + self._cipher.overhead:
            packed, size = self.open(at, stored), len(out)
            is_proven = self._cipher.encrypted and kind != DELTA
            out[:] = self._content(packed, size, kind) if is_proven else self.unpack(name, packed, size, kind, base)
            return
        try:
            self._cipher.read_into(at, stored, out)
        except InvalidTag:
            raise Damaged("a chunk", how=UNREADABLE) from None
        if not self._cipher.encrypted and name_of(out, self._naming) != name:
            raise Damaged("a chunk")

    def _content(self, packed: Bytes, size: int, kind: int, base: Bytes | Damaged | None = None) -> Bytes:
        """Errors: Damaged."""
        try:
            content = self._whole(packed, min(size, CHUNK_SIZE_MAX), kind, base)
        except (zstandard.ZstdError, ValueError):
            raise Damaged("a chunk", how=UNREADABLE) from None
        if len(content) != size:
            raise Damaged("a chunk")
        return content

    def _whole(self, packed: Bytes, limit: int, kind: int, base: Bytes | Damaged | None) -> Bytes:
        if kind == RAW:
            return packed
        if zstandard.frame_content_size(packed) > limit:  # it would be believed, whatever the limit
            raise Damaged("a chunk", how="claims to be larger than it may be")
        if kind == ZSTD:
            return self._decompressor.decompress(packed, max_output_size=limit)
        if isinstance(base, Damaged):
            raise Damaged("the base of a chunk", how=base.how)
        if base is None:
            raise Damaged("the base of a chunk", how="is missing")
        return zstandard.ZstdDecompressor(dict_data=_dictionary(base)).decompress(packed, max_output_size=limit)


def _delta(content: memoryview, base: Base) -> bytes:
    return zstandard.ZstdCompressor(level=DELTA_LEVEL, dict_data=_dictionary(base.content)).compress(content)


def _dictionary(content: Bytes) -> zstandard.ZstdCompressionDict:
    return zstandard.ZstdCompressionDict(content, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
