"""Images over pipes, as CRIU asks for them; and streams out of a vault in order."""

from __future__ import annotations

import os
import random
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.snapshots.vaultkit import fresh, put

from ergosphere.agent import images, streaming
from ergosphere.agent.streaming import SOCKET, STREAMED_FROM, Serving
from ergosphere.snapshots.caching import Cached
from ergosphere.snapshots.digests import digest_bytes
from ergosphere.snapshots.errors import Damaged
from ergosphere.snapshots.flow import FLOW_WINDOW, Flow
from ergosphere.snapshots.manifest import ImageFile
from ergosphere.snapshots.memory_store import MemoryStore
from ergosphere.snapshots.remote import CellBlobs
from ergosphere.snapshots.store import FolderStore, Store

PAGE = 4096


def flow_of(store: Store, content: bytes, freeze: str = "f1") -> Flow:
    vault = fresh(store)
    recipe = put(vault, freeze, {"rank0/pages-1.img": content})
    return Flow(vault, recipe, recipe.streams[0])


@given(
    pieces=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 3)), max_size=12),
    tail=st.integers(0, PAGE - 1),
    window=st.sampled_from([64 << 10, 300 << 10, FLOW_WINDOW]),
)
@settings(max_examples=30, deadline=None)
def test_a_flow_gives_all_bytes_in_order_and_leaves_what_it_gave_alone(
    pieces: list[tuple[int, int]], tail: int, window: int
) -> None:
    """Runs of zeros, of noise, of what was there before, of text; each of `count` pages."""
    dice = random.Random(5)
    kinds = (lambda n: bytes(n), dice.randbytes, lambda n: (b"words " * (n // 6 + 1))[:n], lambda n: bytes([7]) * n)
    content = b"".join(kinds[kind](count * PAGE) for count, kind in pieces) + dice.randbytes(tail)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ergosphere.snapshots.flow.FLOW_WINDOW", window)
        flow = flow_of(MemoryStore(), content)
        came, last = bytearray(), (memoryview(b""), b"")
        for given_now in flow.windows():
            assert bytes(last[0]) == last[1], "the one before is still good"
            last = (given_now, bytes(given_now))
            came += last[1]
    assert bytes(came) == content


def test_of_a_damaged_chunk_no_byte_is_given_out(tmp_path: Path) -> None:
    store = FolderStore.create(tmp_path / "s", durable=False)
    content = random.Random(1).randbytes(3 * FLOW_WINDOW)
    flow = flow_of(store, content)
    (pack,) = (store.folder / f"{flow.vault.root}/packs").rglob("????????????????????????????????")
    damaged = bytearray(pack.read_bytes())
    damaged[len(damaged) * 2 // 3] ^= 1
    pack.write_bytes(damaged)
    came = bytearray()
    with pytest.raises(Damaged, match="f1"):
        for window in flow.windows():
            came += window
    assert len(came) < len(content) and content.startswith(bytes(came))


def test_only_what_lies_near_is_read_while_criu_waits(tmp_path: Path) -> None:
    content = random.Random(1).randbytes(STREAMED_FROM)
    far = MemoryStore()
    flow_of(far, content)
    cached = Cached(far, tmp_path / "cache")
    file = ImageFile("pages-1.img", len(content), digest_bytes(content))
    small = ImageFile("pages-1.img", 100, digest_bytes(content))
    vault = fresh(cached)
    blobs = CellBlobs(vault, vault.recipe("f1.0"))
    assert not streaming.is_streamed(file, blobs, tmp_path), "nothing is in the cache"
    assert b"".join(map(bytes, blobs.flow(file.digest).windows())) == content
    assert streaming.is_streamed(file, blobs, tmp_path)
    assert not streaming.is_streamed(small, blobs, tmp_path)
    assert not streaming.is_streamed(file, far, tmp_path), "a plain store has no chunks"
    assert not streaming.is_streamed(file, blobs, tmp_path / ("x" * 90)), "no socket has so long a name"


class Reader:
    """What CRIU does: asks for an image by name, hands over a pipe, reads it to its end."""

    def __init__(self, folder: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.connect(str(folder / SOCKET))

    def open(self, name: str) -> int | None:
        request = images.bytes_field(1, name.encode()).raw
        self.socket.sendall(struct.pack("<I", len(request)) + request)
        (size,) = struct.unpack("<I", self.socket.recv(4))
        (field,) = images.parse(self.socket.recv(size))
        if not field.value:
            return None
        reading, writing = os.pipe()
        socket.send_fds(self.socket, [b"\0"], [writing])
        os.close(writing)
        return reading

    def read(self, name: str) -> bytes | None:
        pipe = self.open(name)
        if pipe is None:
            return None
        with open(pipe, "rb", buffering=0) as file:
            return file.readall()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    made = tmp_path / "rank0"
    made.mkdir()
    (made / "core-1.img").write_bytes(b"core" * 100_000)
    (made / "empty.img").touch()
    yield made
    assert not (made / SOCKET).exists()


def test_criu_is_given_files_and_streams_by_name(folder: Path) -> None:
    content = random.Random(3).randbytes(3 * FLOW_WINDOW + 5 * PAGE) + bytes(9 * PAGE)
    with Serving(folder, {"pages-1.img": flow_of(MemoryStore(), content)}):
        reader = Reader(folder)
        assert reader.read("core-1.img") == b"core" * 100_000
        assert reader.read("empty.img") == b""
        assert reader.read("memfd.img") is None
        assert reader.read("../rank0/core-1.img") is None
        assert reader.read("pages-1.img") == content
        assert reader.read("pages-1.img") == content, "as often as it asks"


def test_several_images_are_read_at_the_same_time_in_any_order(folder: Path) -> None:
    contents = {f"pages-{number}.img": random.Random(number).randbytes(2 * FLOW_WINDOW) for number in (1, 2, 3)}
    store = MemoryStore()
    flows = {name: flow_of(store, content, name.replace(".", "_")) for name, content in contents.items()}
    with Serving(folder, flows):
        reader = Reader(folder)
        opened = {name: reader.open(name) for name in contents}
        for name, pipe in reversed(opened.items()):
            assert pipe is not None
            with open(pipe, "rb", buffering=0) as file:
                assert file.readall() == contents[name]


def test_of_a_damaged_image_criu_gets_what_comes_before_and_then_the_end(folder: Path, tmp_path: Path) -> None:
    store = FolderStore.create(tmp_path / "s", durable=False)
    content = random.Random(1).randbytes(3 * FLOW_WINDOW)
    flow = flow_of(store, content)
    (pack,) = (store.folder / f"{flow.vault.root}/packs").rglob("????????????????????????????????")
    pack.write_bytes(pack.read_bytes()[: 2 * FLOW_WINDOW])
    with Serving(folder, {"pages-1.img": flow}):
        came = Reader(folder).read("pages-1.img")
        assert came is not None and len(came) < len(content) and content.startswith(came)


def test_a_reader_that_goes_away_ends_the_serving_at_once(folder: Path) -> None:
    with Serving(folder, {"pages-1.img": flow_of(MemoryStore(), random.Random(1).randbytes(4 * FLOW_WINDOW))}):
        reader = Reader(folder)
        pipe = reader.open("pages-1.img")
        assert pipe is not None and os.read(pipe, 10)
        os.close(pipe)
        reader.socket.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("stream", "flow"))]


def test_serving_ends_when_nobody_came(folder: Path) -> None:
    with Serving(folder, {}):
        pass
