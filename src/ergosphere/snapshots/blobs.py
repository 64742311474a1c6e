"""Bytes named by their own digest, in any store: everything a manifest refers to is one of these."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ergosphere.snapshots.digests import digest_bytes, digest_image
from ergosphere.snapshots.errors import Damaged, NotFound, read_again
from ergosphere.snapshots.store import Store, Verified

BLOBS: Final = "blobs/"


def blob_key(digest: str) -> str:
    """Where a store keeps the bytes with this digest."""
    return f"{BLOBS}{digest[:2]}/{digest}"


def put_blob(store: Store, content: bytes) -> str:
    """Store small content; its digest."""
    digest = digest_bytes(content)
    store.put(blob_key(digest), content, if_absent=True)
    return digest


def get_blob(sources: Sequence[Store], digest: str, which: str) -> bytes:
    """Verified content from the first source that has it whole. Errors: Damaged (naming `which`), StoreError."""
    how = "is missing"
    for source in sources:
        try:
            return _get(source, digest, which)
        except NotFound:
            continue
        except Damaged as error:
            how = error.how
    raise Damaged(which, how=how)


def _get(source: Store, digest: str, which: str) -> bytes:
    def get() -> bytes:
        content = source.get(blob_key(digest))
        if digest_bytes(content) != digest:
            raise Damaged(which)
        return content

    return source.get(blob_key(digest)) if isinstance(source, Verified) else read_again(get)


def fetch_blob(sources: Sequence[Store], digest: str, dest: Path, which: str, *, share: bool = False) -> Store:
    """Write verified content to `dest` (absent); the source it came from.

    Errors: Damaged (naming `which`), StoreError.
    """
    how = "is missing"
    for source in sources:
        try:
            _fetch(source, digest, dest, share)
        except NotFound:
            continue
        except Damaged as error:
            how = error.how
        else:
            return source
    raise Damaged(which, how=how)


def _fetch(source: Store, digest: str, dest: Path, share: bool) -> None:
    def fetch() -> None:
        source.fetch(blob_key(digest), dest, share=share)
        if not isinstance(source, Verified) and digest_image(dest) != digest:
            dest.unlink()
            raise Damaged(f"content {digest[:12]}")

    return fetch() if isinstance(source, Verified) else read_again(fetch)
