"""A store whose records, results, submissions and logs are encrypted and authenticated under the fleet's key.

Vaults seal what is theirs themselves and pass through. An `abort` record may be plain: a keeper at its deadline has no
key, must be able to win one, and can tell a commit by its being sealed.
"""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Final

from ergosphere.snapshots import framing
from ergosphere.snapshots.copying import PRIVATE_MODE, is_no_room
from ergosphere.snapshots.errors import StoreFull
from ergosphere.snapshots.framing import FRAME_SIZE
from ergosphere.snapshots.sealing import HEAD, TAG_SIZE, Bytes, Sealer, is_sealed
from ergosphere.snapshots.store import Source, Store, Stored
from ergosphere.snapshots.wrappers import Around
from ergosphere.system import fresh_bytes

PASSED: Final = ("vaults/", "remote/")  # sealed by themselves, or empty
RECORDS: Final = "freezes/"
FLEET_SALT: Final = b"ergosphere fleet"


def fleet_sealer(key: bytes) -> Sealer:
    """What seals what belongs to no project."""
    return Sealer(key, FLEET_SALT)


class SealedStore(Around):
    """Every object is bound to its key, so that none can be put in another's place."""

    def __init__(self, inner: Store, sealer: Sealer, scratch: Path | None = None) -> None:
        """`scratch`: a folder, on a disk, with room for the largest file that is put; None for the system's own."""
        super().__init__(inner)
        self._scratch = scratch or Path(tempfile.gettempdir())
        self._sealer = sealer

    def put(self, key: str, source: Source, *, if_absent: bool = False, share: bool = False) -> bool:
        if key.startswith(PASSED):
            return super().put(key, source, if_absent=if_absent, share=share)
        if isinstance(source, Path) and source.stat().st_size > FRAME_SIZE:
            return self._put_framed(key, source, if_absent)
        content = source.read_bytes() if isinstance(source, Path) else source
        if key.startswith(RECORDS) and is_plain_abort(bytes(content)):
            return super().put(key, content, if_absent=if_absent)
        return super().put(key, self._sealer.seal(content, key), if_absent=if_absent)

    def _put_framed(self, key: str, source: Path, if_absent: bool) -> bool:
        if if_absent and super().has(key):
            return False
        with _room(self._scratch), tempfile.TemporaryFile(dir=self._scratch) as aside:  # nameless: gone in any case
            with source.open("rb") as content:
                aside.writelines(framing.sealed_pieces(self._key, content, key))
            aside.flush()
            return super().put(key, Path(f"/proc/self/fd/{aside.fileno()}"), if_absent=if_absent)

    def get(self, key: str) -> bytes:
        """Errors: Forged, Damaged, NotFound, StoreError."""
        content = super().get(key)
        if key.startswith(PASSED) or (key.startswith(RECORDS) and is_plain_abort(content)):
            return content
        if framing.is_framed(content):
            return b"".join(framing.opened_pieces(self._key, io.BytesIO(content), key, key))
        return self._sealer.unseal(content, key, key)

    def get_range(self, key: str, start: int, size: int, room: memoryview | None = None) -> Bytes:
        if key.startswith(PASSED):
            return super().get_range(key, start, size, room)
        return self.get(key)[start : start + size]

    def list(self, prefix: str = "") -> Iterator[Stored]:
        """Sizes are those of the contents."""
        for stored in super().list(prefix):
            passed = stored.key.startswith(PASSED)
            yield stored if passed else replace(stored, size=_content_size(stored.size))

    def fetch(self, key: str, dest: Path, *, share: bool = False) -> None:
        if key.startswith(PASSED):
            return super().fetch(key, dest, share=share)
        sealed = dest.with_name(f".ergo-sealed-{fresh_bytes(8).hex()}")
        try:
            super().fetch(key, sealed, share=True)  # a link will do: it is only read
            with _room(dest.parent):
                self._unseal(key, sealed, dest)
        finally:
            sealed.unlink(missing_ok=True)
        return None

    def _unseal(self, key: str, sealed: Path, dest: Path) -> None:
        with dest.open("xb") as file:
            try:
                dest.chmod(PRIVATE_MODE)
                self._open(key, sealed, file)
                file.flush()
            except BaseException:
                dest.unlink()
                raise

    def _open(self, key: str, sealed: Path, out: IO[bytes]) -> None:
        with sealed.open("rb") as content:
            if framing.is_framed(content.read(len(framing.MAGIC))):
                content.seek(0)
                out.writelines(framing.opened_pieces(self._key, content, key, key))
                return
        out.write(self._sealer.unseal(sealed.read_bytes(), key, key))

    @property
    def _key(self) -> bytes:
        assert self._sealer.key is not None, "a fleet's sealer has a key"
        return self._sealer.key


@contextmanager
def _room(folder: Path) -> Iterator[None]:
    """A full disk below `folder` is a store without room; whatever else goes wrong is no such thing."""
    try:
        yield
    except OSError as error:
        if is_no_room(error):
            raise StoreFull(str(folder)) from error
        raise


def _content_size(sealed_size: int) -> int:
    """Bytes of content: heads are as long, and so are tags."""
    frames = max(1, -(-(sealed_size - HEAD.size) // (FRAME_SIZE + TAG_SIZE)))
    return max(0, sealed_size - HEAD.size - frames * TAG_SIZE)


def is_plain_abort(content: bytes) -> bool:
    """Whether this is an abort record as someone without the key writes it."""
    if is_sealed(content):
        return False
    try:
        return bool(json.loads(content)["verdict"] == "abort")
    except (ValueError, KeyError, TypeError):
        return False
