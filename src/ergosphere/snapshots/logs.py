"""Logs in snapshots: append-only files cut into pieces, so that a snapshot adds only what was written since
the last.

The pieces stay few: a new one swallows those before it that are not longer, so n bytes end in about log n
pieces and each byte is stored about log n times at most.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from blake3 import blake3

from ergosphere.snapshots.blobs import blob_key
from ergosphere.snapshots.digests import digest_image
from ergosphere.snapshots.manifest import Log, LogPiece
from ergosphere.snapshots.store import FolderStore

STEP: Final = 1024 * 1024  # bytes


def extend(name: str, path: Path, length: int, before: Log | None, store: FolderStore) -> Log:
    """The log's first `length` bytes in pieces; what `before` (a state of this same file) lacks is put in
    `store`.
    """
    pieces = before.pieces if before is not None and before.length <= length else ()
    start = sum(piece.size for piece in pieces)
    if start == length:
        return Log(name, pieces)
    while pieces and pieces[-1].size <= length - start:
        start -= pieces[-1].size
        pieces = pieces[:-1]
    return Log(name, (*pieces, _put_piece(path, start, length, store)))


def rebuild(log: Log, path: Path, fetch: Callable[[str, Path], None]) -> None:
    """Make the file exactly what the log says: truncated where its beginning is right, else written anew."""
    if _begins_with(path, log):
        os.truncate(path, log.length)
        return
    path.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".log-") as folder, path.open("xb") as target:
        path.chmod(0o600)
        for index, piece in enumerate(log.pieces):
            copy = Path(folder) / str(index)
            fetch(piece.digest, copy)
            target.write(copy.read_bytes())
            copy.unlink()


def _put_piece(path: Path, start: int, end: int, store: FolderStore) -> LogPiece:
    with tempfile.TemporaryDirectory(dir=store.folder.parent, prefix="piece-") as folder:
        copy = Path(folder) / "piece"
        with path.open("rb") as source, copy.open("xb") as target:
            source.seek(start)
            left = end - start
            while left and (content := source.read(min(left, STEP))):
                target.write(content)
                left -= len(content)
        digest = digest_image(copy)
        store.put(blob_key(digest), copy, if_absent=True, share=True)
        return LogPiece(digest, end - start - left)


def _begins_with(path: Path, log: Log) -> bool:
    try:
        with path.open("rb") as file:
            for piece in log.pieces:
                hasher, left = blake3(), piece.size
                while left and (content := file.read(min(left, STEP))):
                    hasher.update(content)
                    left -= len(content)
                if left or hasher.hexdigest() != piece.digest:
                    return False
    except FileNotFoundError:
        return False
    return True
