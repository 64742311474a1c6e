"""blake3 names of bytes and files, as fast as memory allows, and of page images while CRIU still writes them."""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from blake3 import blake3

READ_SIZE: Final = 256 * 1024  # bytes; fits the second-level cache, measured best for read(2)
WINDOW_SIZE: Final = 64 * 1024 * 1024  # bytes mapped at once; larger windows gain nothing
FOLLOW_POLL_S: Final = 0.004  # a dump writes about 6 MB meanwhile
FOLLOW_STEP: Final = 4 * 1024 * 1024  # bytes; a multiple of the page size, as mmap wants
PAGES_PATTERN: Final = "pages-*.img"


def digest_bytes(content: bytes | memoryview) -> str:
    """64 hex digits of blake3-256."""
    return blake3(content).hexdigest()


def digest_file(path: Path) -> str:
    """Digest of a file that others may be changing: read, not mapped, since a mapped file that shrinks kills
    the reader.
    """
    hasher = blake3()
    buffer = bytearray(READ_SIZE)
    view = memoryview(buffer)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            hasher.update(view[:count])
    return hasher.hexdigest()


def digest_image(path: Path) -> str:
    """Digest of a file that nobody changes any more: mapped, with all cores for a big one."""
    hasher = blake3(max_threads=blake3.AUTO)
    with path.open("rb", buffering=0) as file:
        _update(hasher, file.fileno(), 0, os.fstat(file.fileno()).st_size)
    return hasher.hexdigest()


def digest_images(paths: Iterable[Path]) -> dict[Path, str]:
    """Digests of many finished files. One after the other: each big one takes all cores already."""
    return {path: digest_image(path) for path in paths}


def _windows(start: int, end: int) -> Iterator[tuple[int, int]]:
    """(offset, length) pieces of [start, end), each beginning where mmap allows if `start` does."""
    while start < end:
        length = min(WINDOW_SIZE, end - start)
        yield start, length
        start += length


def _update(hasher: blake3, descriptor: int, start: int, end: int) -> None:
    for offset, length in _windows(start, end):
        with mmap.mmap(descriptor, length, prot=mmap.PROT_READ, offset=offset) as window:
            hasher.update(window)


class _Followed:
    """One page image: how far it has been hashed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.hasher = blake3()  # one thread outruns a dump, and the dump needs the other cores
        self.done = 0
        self._file = path.open("rb", buffering=0)

    def advance(self, step: int) -> bool:
        """Hash what is new in whole steps of `step` bytes; True if there was any."""
        end = self.size() // step * step
        if end <= self.done:
            return False
        _update(self.hasher, self._file.fileno(), self.done, end)
        self.done = end
        return True

    def finish(self) -> str:
        """The digest of the file as it is now.

        A file that shrank meanwhile is hashed again from its beginning.
        """
        size = self.size()
        if size < self.done:
            return digest_image(self.path)
        _update(self.hasher, self._file.fileno(), self.done, size)
        self.done = size
        return self.hasher.hexdigest()

    def size(self) -> int:
        return os.fstat(self._file.fileno()).st_size

    def close(self) -> None:
        self._file.close()


class Follower:
    """Hashes the page images of one rank while CRIU writes them, so that their digests are ready as the dump
    ends.

    Only `pages-*.img` are followed: CRIU fills each by splice(2) at its end and never seeks in it, truncates
    it or opens it again (watched with strace), while it rewrites other images. The folder must be new for
    this dump.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._followed: dict[str, _Followed] = {}
        self._stopping = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._follow, name="follower", daemon=True)
        self._thread.start()

    def finish(self) -> dict[str, str]:
        """After CRIU has exited: file name to digest, for every page image.

        Errors: OSError of the reading thread.
        """
        self._join()
        try:
            if self._failure is not None:
                raise self._failure
            self._discover()
            return {name: followed.finish() for name, followed in sorted(self._followed.items())}
        finally:
            self._close()

    def stop(self) -> None:
        """Give up: the dump failed."""
        self._join()
        self._close()

    def _follow(self) -> None:
        try:
            while not self._stopping.is_set():
                self._discover()
                moved = [followed.advance(FOLLOW_STEP) for followed in self._followed.values()]
                if not any(moved):
                    self._stopping.wait(FOLLOW_POLL_S)
        except (OSError, ValueError) as error:
            self._failure = error

    def _discover(self) -> None:
        for path in self._folder.glob(PAGES_PATTERN):
            if path.name not in self._followed:
                self._followed[path.name] = _Followed(path)

    def _join(self) -> None:
        self._stopping.set()
        self._thread.join()

    def _close(self) -> None:
        for followed in self._followed.values():
            followed.close()
        self._followed.clear()
