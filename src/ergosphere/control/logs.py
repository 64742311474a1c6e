"""The logs as the server has them: one file per rank and stream, cut back where a life was rolled back."""

from __future__ import annotations

import os
import re
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

NAME: Final = re.compile(r"^rank(\d{1,6})\.(out|err)$")
READ_BYTES: Final = 1 << 20  # at a time, when lines are counted


@dataclass(slots=True)
class LogFiles:
    """Bytes only, stored as they came; which life may write is the inbox's to judge."""

    folder: Path
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def length(self, job: str, name: str) -> int:
        try:
            return self._path(job, name).stat().st_size
        except FileNotFoundError:
            return 0

    def names(self, job: str) -> list[str]:
        """The logs that a job has."""
        folder = self.folder / job
        return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []

    def write(self, job: str, name: str, offset: int, data: bytes) -> int:
        """Put `data` at `offset` if that leaves no gap; gives the length there is now."""
        with self._lock:
            length = self.length(job, name)
            if offset > length:
                return length
            path = self._path(job, name)
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
            try:
                os.pwrite(file, data, offset)
            finally:
                os.close(file)
            return max(length, offset + len(data))

    def cut(self, job: str, name: str, length: int) -> int:
        """Roll back to `length` bytes; gives how many lines went (a last one without an end counts)."""
        with self._lock:
            if self.length(job, name) <= length:
                return 0
            path = self._path(job, name)
            lines = _lines_after(path, length)
            os.truncate(path, length)
            return lines

    def read(self, job: str, name: str, offset: int, limit: int) -> tuple[int, bytes]:
        """Up to `limit` bytes from `offset` (negative: so many from the end), and where they begin."""
        length = self.length(job, name)
        begin = max(0, length + offset) if offset < 0 else offset
        if begin >= length:
            return begin, b""
        with self._path(job, name).open("rb") as file:
            file.seek(begin)
            return begin, file.read(limit)

    def _path(self, job: str, name: str) -> Path:
        assert NAME.match(name), name
        return self.folder / job / name


def _lines_after(path: Path, offset: int) -> int:
    lines, last = 0, b"\n"
    with path.open("rb") as file:
        file.seek(offset)
        while piece := file.read(READ_BYTES):
            lines += piece.count(b"\n")
            last = piece[-1:]
    return lines if last == b"\n" else lines + 1
