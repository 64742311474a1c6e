"""Large files, encrypted frame by frame: neither sealing nor opening one holds more than a frame of it in memory.

The STREAM construction (Hoang, Reyhanitabar, Rogaway, Vizár 2015): the nonce is the frame's number, and whether it is
the last one is authenticated with it, so that frames can be neither exchanged nor cut off unnoticed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import IO, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ergosphere.snapshots.errors import Forged, TooNew
from ergosphere.snapshots.keys import derive
from ergosphere.system import fresh_bytes

MAGIC: Final = b"ERGOFILE"
VERSION: Final = 1
HEAD: Final = struct.Struct("<8sB7x16s")  # magic, version, salt
FRAME_SIZE: Final = 16 << 20  # bytes of content in every frame but the last
TAG_SIZE: Final = 16
SALT_SIZE: Final = 16
LAST: Final = {False: b"\0", True: b"\1"}


def sealed_pieces(key: bytes, content: IO[bytes], place: str) -> Iterator[bytes]:
    """What is stored of a file's content, bound to the place it is stored at."""
    head = HEAD.pack(MAGIC, VERSION, fresh_bytes(SALT_SIZE))
    cipher, bound = _cipher(key, head), head + place.encode()
    yield head
    number, frame = 0, content.read(FRAME_SIZE)
    while True:
        following = content.read(FRAME_SIZE)
        yield cipher.encrypt(_nonce(number), frame, bound + LAST[not following])
        if not following:
            return
        number, frame = number + 1, following


def opened_pieces(key: bytes, sealed: IO[bytes], place: str, which: str) -> Iterator[bytes]:
    """The content back. Errors: Forged, TooNew (naming `which`); what came before one must not be used."""
    head = sealed.read(HEAD.size)
    if not is_framed(head) or len(head) < HEAD.size:
        raise Forged(which)
    if (version := HEAD.unpack(head)[1]) > VERSION:
        raise TooNew(which, version, VERSION)
    cipher, bound = _cipher(key, head), head + place.encode()
    number, frame = 0, sealed.read(FRAME_SIZE + TAG_SIZE)
    while True:
        following = sealed.read(FRAME_SIZE + TAG_SIZE)
        try:
            yield cipher.decrypt(_nonce(number), frame, bound + LAST[not following])
        except InvalidTag:
            raise Forged(which) from None
        if not following:
            return
        number, frame = number + 1, following


def is_framed(content: bytes) -> bool:
    """Whether these bytes claim to be such a file, or its beginning."""
    return content.startswith(MAGIC)


def _cipher(key: bytes, head: bytes) -> AESGCM:
    return AESGCM(derive(key, "file", HEAD.unpack(head)[2]))


def _nonce(number: int) -> bytes:
    return number.to_bytes(12, "little")
