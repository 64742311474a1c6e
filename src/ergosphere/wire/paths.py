"""Paths of files as text: names of files are bytes, and messages are UTF-8.

A path is written as it is, but for `%` and what is not UTF-8, which become `%25` and, say, `%FF`.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote

_NO_TEXT: Final = re.compile("[\ud800-\udfff]")  # of these os.fsdecode makes bytes that are not UTF-8
_WRITTEN: Final = re.compile("[%\ud800-\udfff]")


def to_text(path: str) -> str:
    """A path as the file system's functions give it, so that it can travel."""
    return _WRITTEN.sub(lambda match: f"%{ord(match[0]) & 0xFF:02X}", path)


def from_text(text: str) -> str:
    """The path that `to_text` wrote."""
    return unquote(text, errors="surrogateescape")


def is_text(path: str) -> bool:
    """It is UTF-8, and can travel as it is."""
    return _NO_TEXT.search(path) is None
