"""A store in a bucket: S3 and what speaks like it, Google Cloud Storage, Azure. The only module that knows `obstore`.

No retries here (`wrappers.Retrying`), one request a call. Put-if-absent is the service's own conditional put. A bucket
cannot renew an object's age, so `has` writes an old one again, on condition that nobody has changed it meanwhile: a
large one piece by piece, as S3 copies nothing onto itself and nothing beyond 5 GB.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import obstore
from obstore import exceptions
from obstore.store import from_url

from ergosphere.snapshots.copying import PRIVATE_MODE, is_no_room
from ergosphere.snapshots.errors import NotFound, StoreError, StoreFull, StoreUnreachable
from ergosphere.snapshots.sealing import Bytes
from ergosphere.snapshots.store import Source, Stored, check_key, check_prefix
from ergosphere.system import Clock

if TYPE_CHECKING:
    from obstore import GetOptions, ObjectMeta

SCHEMES: Final = ("s3", "s3a", "gs", "az", "azure", "abfs", "abfss")
CONNECT_S_MAX: Final = 10.0
REQUEST_S_MAX: Final = 120.0  # 16 MiB at 140 kB/s
RENEW_AFTER_S: Final = 900.0  # a quarter of the shortest grace
STEP: Final = 8 << 20  # bytes of one read when a file is fetched, and of one part
PARTS_FROM: Final = 64 << 20  # bytes; beyond any pack
PARTS_AT_ONCE: Final = 4
PARTS_MAX: Final = 9_000  # of one object; S3 takes 10,000
FULL: Final = ("InsufficientStorage", "QuotaExceeded", "XMinioStorageFull", " 507")
TOO_LARGE: Final = "EntityTooLarge"
DENIED: Final = (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError)


class ObjectStore:
    """Passes the same conformance suite as every other store."""

    def __init__(self, url: str, config: dict[str, str], clock: Clock, *, renew_after_s: float = RENEW_AFTER_S) -> None:
        """`config`: credentials and endpoint, as environment variables name them. Errors: StoreError."""
        self._renew_after_s = renew_after_s
        self.url = url
        self._clock = clock
        try:
            self._bucket: Any = from_url(
                url,
                config=cast(Any, config),
                retry_config={"max_retries": 0},
                client_options={
                    "allow_http": any(value.startswith("http://") for value in config.values()),
                    "connect_timeout": timedelta(seconds=CONNECT_S_MAX),
                    "timeout": timedelta(seconds=REQUEST_S_MAX),
                },
            )
        except (exceptions.BaseError, ValueError) as error:
            raise StoreError(
                f"{url} names no store: {error}", "write s3://bucket/prefix, gs://bucket/prefix or az://…"
            ) from error

    def put(self, key: str, source: Source, *, if_absent: bool = False, share: bool = False) -> bool:
        check_key(key)
        if isinstance(source, Path) and source.stat().st_size > PARTS_FROM:
            return self._put_in_parts(key, source, if_absent)
        content = source if isinstance(source, bytes | bytearray | memoryview) else source.read_bytes()
        try:
            with self._guard(key):
                mode: Any = "create" if if_absent else "overwrite"
                obstore.put(self._bucket, key, content or b"", mode=mode, use_multipart=False)
        except _TakenError:
            return False
        return True

    def _put_in_parts(self, key: str, source: Path, if_absent: bool) -> bool:
        """Services have no condition for these: who writes the same key at the same time writes the same content."""
        if if_absent and self.has(key):
            return False
        with self._guard(key):
            obstore.put(self._bucket, key, source, **_in_parts(source.stat().st_size))
        return True

    def get(self, key: str) -> bytes:
        with self._guard(check_key(key)):
            return bytes(obstore.get(self._bucket, key).bytes())

    def get_range(self, key: str, start: int, size: int, room: memoryview | None = None) -> Bytes:
        if size == 0:
            self._size(key)
            return b""
        with self._guard(check_key(key)):
            try:
                return bytes(obstore.get_range(self._bucket, key, start=start, length=size))
            except exceptions.GenericError:
                if start < self._size(key):
                    raise
                return b""

    def fetch(self, key: str, dest: Path, *, share: bool = False) -> None:
        dest.parent.stat()
        with self._guard(check_key(key)):
            found = obstore.get(self._bucket, key)
            with dest.open("xb", buffering=0) as file:
                dest.chmod(PRIVATE_MODE)
                try:
                    for piece in found.stream(min_chunk_size=STEP):
                        file.write(piece)
                except BaseException:
                    dest.unlink()
                    raise

    def has(self, key: str) -> bool:
        try:
            with self._guard(check_key(key)):
                status = obstore.head(self._bucket, key)
        except NotFound:
            return False
        if self._clock.now() - status["last_modified"].timestamp() > self._renew_after_s:
            self._renew(key, status)
        return True

    def list(self, prefix: str = "") -> Iterator[Stored]:
        check_prefix(prefix)
        with self._guard(prefix):
            pages = obstore.list(self._bucket, prefix=prefix.rpartition("/")[0] or None)
            found = [
                Stored(item["path"], item["size"], item["last_modified"].timestamp()) for page in pages for item in page
            ]
        return iter(sorted((stored for stored in found if stored.key.startswith(prefix)), key=lambda each: each.key))

    def delete(self, key: str, *, written_before_s: float | None = None) -> bool:
        try:
            with self._guard(check_key(key)):
                status = obstore.head(self._bucket, key)
                if written_before_s is not None and status["last_modified"].timestamp() >= written_before_s:
                    return False
                obstore.delete(self._bucket, key)
        except NotFound:
            return False
        return True

    def forget(self, key: str) -> bool:
        return False

    def _size(self, key: str) -> int:
        with self._guard(key):
            return int(obstore.head(self._bucket, key)["size"])

    def _renew(self, key: str, status: ObjectMeta) -> None:
        """Who else writes it meanwhile has renewed it."""
        with suppress(_TakenError, NotFound), self._guard(key):
            if status["size"] > PARTS_FROM:
                asyncio.run(self._renew_in_parts(key, status))
                return
            known = {"e_tag": status["e_tag"], "version": status["version"]}
            version: Any = {name: value for name, value in known.items() if value is not None}
            content = obstore.get(self._bucket, key).bytes()
            obstore.put(self._bucket, key, bytes(content), mode=version, use_multipart=False)

    async def _renew_in_parts(self, key: str, status: ObjectMeta) -> None:
        """Nothing is seen of it before its end: where reading fails, the parts are called off and the old one stays.

        As a coroutine: `obstore` cannot be called from an iterator that it goes through itself. Its writer
        (`open_writer`), which could be used without, leaves its parts behind when it is dropped.
        """
        options = _in_parts(status["size"])
        await obstore.put_async(self._bucket, key, self._pieces(key, status), **options)

    async def _pieces(self, key: str, status: ObjectMeta) -> AsyncIterator[Any]:
        """All of an object as it was when `status` was asked for."""
        for start in range(0, status["size"], STEP):
            asked: GetOptions = {"range": (start, min(start + STEP, status["size"]))}
            if status["e_tag"] is not None:
                asked["if_match"] = status["e_tag"]
            found = await obstore.get_async(self._bucket, key, options=asked)
            yield await found.bytes_async()

    @contextmanager
    def _guard(self, key: str) -> Iterator[None]:
        """The named door: what the service says becomes what a store says."""
        try:
            yield
        except (exceptions.AlreadyExistsError, exceptions.PreconditionError) as error:
            raise _TakenError from error
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error):
                raise StoreUnreachable(f"{self.url} is not there", "make the bucket, or check its name") from error
            raise NotFound(key) from error
        except FileExistsError:
            raise  # `dest` was not absent: the caller's mistake
        except DENIED as error:
            raise StoreUnreachable(
                f"{self.url} refused these credentials", "check them and what they allow: get, put, list, delete"
            ) from error
        except exceptions.BaseError as error:
            if TOO_LARGE in str(error):
                raise StoreError(f"{key} is larger than {self.url} takes", "store less in one file") from error
            if any(word in str(error) for word in FULL):
                raise StoreFull(self.url) from error
            raise StoreUnreachable(
                f"{self.url} failed: {_first_line(error)}", "check the network, the endpoint and the service"
            ) from error
        except OSError as error:
            if is_no_room(error):
                raise StoreFull(str(error.filename)) from error
            raise


def _in_parts(size: int) -> dict[str, Any]:
    """How `obstore` puts an object of so many bytes; it calls the parts off itself when reading or joining fails,
    and not always when a part does."""
    return {"use_multipart": True, "chunk_size": part_size(size), "max_concurrency": PARTS_AT_ONCE}


def part_size(size: int) -> int:
    """Bytes of each part of an object of `size` bytes: small, while there are not too many of them."""
    return max(STEP, -(-size // PARTS_MAX))


class _TakenError(Exception):
    """A condition of a put did not hold."""


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:300]
