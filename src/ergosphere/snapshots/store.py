"""The port every snapshot goes through, and the plain folder behind it for now.

A store maps keys to immutable bytes. It knows nothing of snapshots. Whoever needs more (chunks, encryption,
retries) wraps a `Store` or implements one; `tests/snapshots/test_store.py` is the conformance suite all of
them pass.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from ergosphere.snapshots.copying import PRIVATE_MODE, copy_content, copy_file, is_no_room, link_or_copy
from ergosphere.snapshots.errors import BadKey, Busy, NotFound, StoreFull, StoreUnreachable
from ergosphere.snapshots.sealing import Bytes
from ergosphere.system import fresh_bytes

KEY_LENGTH_MAX: Final = 512  # characters
KEY_PATTERN: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}(/[A-Za-z0-9_][A-Za-z0-9._-]{0,199})*")
PREFIX_PATTERN: Final = re.compile(r"([A-Za-z0-9_][A-Za-z0-9._-]{0,199}(/[A-Za-z0-9_][A-Za-z0-9._-]{0,199})*/?)?")
MARKER: Final = ".ergosphere-store"  # tells a store from the empty mount point of a share that is not there
ASIDE: Final = ".aside"  # half-written and half-deleted objects
ASIDE_AGE_MAX_S: Final = 24 * 3600.0  # no single put takes a day
FOLDER_MODE: Final = 0o700

Source = Bytes | Path  # what can be put


@dataclass(frozen=True, slots=True)
class Stored:
    """One object: its key, its bytes, and when it was written or last asked for by `has` (seconds since the
    epoch).
    """

    key: str
    size: int
    written_s: float


class Store(Protocol):
    """A small place for bytes that outlive a node.

    Every method may raise StoreUnreachable; puts also StoreFull.
    """

    def put(self, key: str, source: Source, *, if_absent: bool = False, share: bool = False) -> bool:
        """Store all of `source` or nothing.

        False: `if_absent` was asked, the key was taken, and nothing was written.

        Of many that put one key if absent, in any processes, exactly one gets True. With `share` the source
        file is never written again, so a store may keep a link to it instead of a copy.
        """
        ...

    def get(self, key: str) -> bytes:
        """The bytes under `key`. Errors: NotFound."""
        ...

    def get_range(self, key: str, start: int, size: int, room: memoryview | None = None) -> Bytes:
        """`size` bytes from `start` on, fewer where the object ends. Errors: NotFound.

        `room`, at least `size` bytes, is where they may be put: what is returned then lies there. Memory that is used
        over and over spares the kernel clearing pages for every read.
        """
        ...

    def fetch(self, key: str, dest: Path, *, share: bool = False) -> None:
        """Write the bytes under `key` to `dest`, which is absent.

        With `share` nobody will ever write into `dest`.
        """
        ...

    def has(self, key: str) -> bool:
        """Whether `key` is there. True also renews its age, so that a sweep spares it for its grace period."""
        ...

    def list(self, prefix: str = "") -> Iterator[Stored]:
        """Everything whose key begins with `prefix`, in the order of keys."""
        ...

    def delete(self, key: str, *, written_before_s: float | None = None) -> bool:
        """Remove `key`; False if it was absent, or renewed at or after `written_before_s` (seconds since the
        epoch).
        """
        ...

    def forget(self, key: str) -> bool:
        """Drop copies of `key` that lie between the caller and the store; False if there are none."""
        ...


class Verified:
    """What a store of this kind gives was compared with its names on the way: nobody need do so again."""


def check_key(key: str) -> str:
    """`key` itself if it is one. Errors: BadKey."""
    if len(key) > KEY_LENGTH_MAX or not KEY_PATTERN.fullmatch(key):
        raise BadKey(f"{key!r} cannot name anything in a store")
    return key


def check_prefix(prefix: str) -> str:
    """`prefix` itself if keys can begin with it. Errors: BadKey."""
    if len(prefix) > KEY_LENGTH_MAX or not PREFIX_PATTERN.fullmatch(prefix):
        raise BadKey(f"no key begins with {prefix!r}")
    return prefix


def now_s(store: Store, key: str) -> float:
    """The store's own time, seconds since the epoch, told by writing `key`: ages are told by one clock, and no host's
    may jump. In a full store an earlier `key` is renewed instead, which takes no room.

    Errors: Busy (its lists lag behind), StoreError.
    """
    try:
        store.put(check_key(key), b"")
    except StoreFull:
        if not store.has(key):
            raise
    for stored in store.list(key):
        if stored.key == key:
            return stored.written_s
    raise Busy("the store does not list what was just written to it", "try again when its lists are up to date")


class FolderStore:
    """A store in a folder of a local disk, of shared memory or of NFS. Safe for any number of processes.

    `durable`: every put reaches the disk before it returns. Its root is never created on the way: an
    unmounted share must look unreachable, not empty.
    """

    def __init__(self, folder: Path, *, durable: bool = True) -> None:
        self.folder = folder
        self._durable = durable

    @classmethod
    def create(cls, folder: Path, *, durable: bool = True) -> FolderStore:
        """Make the folder a store, if it is not one yet."""
        store = cls(folder, durable=durable)
        with store._guard(""):
            (folder / ASIDE).mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
            folder.chmod(FOLDER_MODE)
            (folder / MARKER).touch(mode=PRIVATE_MODE)
            store._tidy()
        return store

    def put(self, key: str, source: Source, *, if_absent: bool = False, share: bool = False) -> bool:
        path = self._path(key)
        if isinstance(source, Path):
            source.lstat()  # a missing source is the caller's FileNotFoundError, not the store's
        if if_absent and self.has(key):
            return False
        with self._guard(key):
            self._check_marker()
            aside = self._write_aside(source, share)
            try:
                self._make_folder(path.parent)
                return self._publish(aside, path, if_absent)
            finally:
                aside.unlink(missing_ok=True)

    def get(self, key: str) -> bytes:
        with self._guard(key):
            return self._path(key).read_bytes()

    def get_range(self, key: str, start: int, size: int, room: memoryview | None = None) -> Bytes:
        with self._guard(key):
            descriptor = os.open(self._path(key), os.O_RDONLY | os.O_CLOEXEC)
            try:
                if room is None:
                    return os.pread(descriptor, size, start)
                return room[: os.preadv(descriptor, [room[:size]], start)]
            finally:
                os.close(descriptor)

    def fetch(self, key: str, dest: Path, *, share: bool = False) -> None:
        path = self._path(key)
        dest.parent.stat()
        with self._guard(key, dest.parent):
            if share:
                link_or_copy(path, dest)
            else:
                copy_file(path, dest)

    def has(self, key: str) -> bool:
        try:
            with self._guard(key):
                os.utime(self._path(key))
        except NotFound:
            return False
        return True

    def list(self, prefix: str = "") -> Iterator[Stored]:
        check_prefix(prefix)
        folder, _, begin = prefix.rpartition("/")
        with self._guard(""):
            self._check_marker()
            yield from self._walk(folder, begin)

    def delete(self, key: str, *, written_before_s: float | None = None) -> bool:
        path = self._path(key)
        try:
            with self._guard(key):
                self._check_marker()
                return self._remove(path, written_before_s)
        except NotFound:
            return False

    def forget(self, key: str) -> bool:
        return False

    def _tidy(self) -> None:
        """Remove what crashed writers left half done.

        The marker was just touched: it tells the filesystem's time.
        """
        before_s = (self.folder / MARKER).stat().st_mtime - ASIDE_AGE_MAX_S
        for path in (self.folder / ASIDE).iterdir():
            with suppress(FileNotFoundError):
                if path.lstat().st_mtime < before_s:
                    path.unlink()

    def _path(self, key: str) -> Path:
        return self.folder / check_key(key)

    def _check_marker(self) -> None:
        if not (self.folder / MARKER).exists():
            raise StoreUnreachable(
                f"{self.folder} is not a store", "check that its disk is mounted and that `ergo up` made it"
            )

    @contextmanager
    def _guard(self, key: str, dest: Path | None = None) -> Iterator[None]:
        """The named door: what the filesystem says becomes what a store says."""
        try:
            yield
        except (FileNotFoundError, NotADirectoryError) as error:
            self._check_marker()
            raise NotFound(key) from error
        except FileExistsError:
            raise  # `dest` was not absent: the caller's mistake
        except OSError as error:
            if is_no_room(error):
                raise StoreFull(str(dest or self.folder)) from error
            raise StoreUnreachable(
                f"the store at {self.folder} failed: {error.strerror}", "check the disk or share it is on"
            ) from error

    def _write_aside(self, source: Source, share: bool) -> Path:
        descriptor, aside = self._make_aside()
        try:
            if isinstance(source, Path) and share and _link_over(source, aside):
                os.close(descriptor)
                descriptor = os.open(aside, os.O_RDONLY | os.O_CLOEXEC)
            else:
                _fill(descriptor, source)
            if self._durable:
                os.fsync(descriptor)
        except BaseException:
            aside.unlink()
            raise
        finally:
            os.close(descriptor)
        return aside

    def _make_aside(self) -> tuple[int, Path]:
        descriptor, name = tempfile.mkstemp(dir=self.folder / ASIDE)
        return descriptor, Path(name)

    def _publish(self, aside: Path, path: Path, if_absent: bool) -> bool:
        if if_absent:
            try:
                os.link(aside, path)
            except FileExistsError:
                return False
        else:
            aside.replace(path)
        if self._durable:
            _sync_folder(path.parent)
        return True

    def _make_folder(self, folder: Path) -> None:
        if folder.is_dir():
            return
        self._make_folder(folder.parent)
        with suppress(FileExistsError):
            folder.mkdir(mode=FOLDER_MODE)
        if self._durable:
            _sync_folder(folder.parent)

    def _walk(self, folder: str, begin: str = "") -> Iterator[Stored]:
        """All below a folder whose path in it begins so."""
        try:
            found = sorted(os.scandir(self.folder / folder), key=_walking_order)
        except (FileNotFoundError, NotADirectoryError):
            return
        for item in found:
            if item.name.startswith(".") or not item.name.startswith(begin):
                continue
            key = f"{folder}/{item.name}" if folder else item.name
            if item.is_dir(follow_symlinks=False):
                yield from self._walk(key)
                continue
            with suppress(FileNotFoundError):  # deleted meanwhile
                status = item.stat(follow_symlinks=False)
                yield Stored(key, status.st_size, status.st_mtime)

    def _remove(self, path: Path, written_before_s: float | None) -> bool:
        """Move aside first, look at the age then: who renewed it in between gets it back, who comes later
        puts it anew.
        """
        if written_before_s is None:
            path.unlink()
            return True
        if path.stat().st_mtime >= written_before_s:
            return False
        aside = self.folder / ASIDE / fresh_bytes(8).hex()  # not made before: a full disk has no room even for that
        path.replace(aside)
        try:
            if aside.stat().st_mtime < written_before_s:
                return True
            with suppress(FileExistsError):
                os.link(aside, path)
            return False
        finally:
            aside.unlink()


def _walking_order(item: os.DirEntry[str]) -> str:
    return item.name + "/" if item.is_dir(follow_symlinks=False) else item.name


def _link_over(source: Path, aside: Path) -> bool:
    """Replace the file `aside` by a link to `source`; False where that cannot be."""
    link = aside.with_name(f"{aside.name}.link")
    try:
        os.link(source, link, follow_symlinks=False)
    except FileNotFoundError:
        raise
    except OSError:
        return False
    link.replace(aside)
    aside.chmod(PRIVATE_MODE)
    os.utime(aside)
    return True


def _fill(descriptor: int, source: Source) -> None:
    if isinstance(source, Path):
        with source.open("rb", buffering=0) as reader:
            copy_content(reader.fileno(), descriptor)
        return
    view = memoryview(source)
    while view:
        view = view[os.write(descriptor, view) :]


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
