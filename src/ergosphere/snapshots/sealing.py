"""Encryption and authentication of what a vault or a store holds: AES-256-GCM, or a keyed hash where there is no key.

Every sealed object and every pack has an encryption key of its own, derived from the vault's and 16 fresh random bytes,
so a nonce can never meet the same key twice. The place an object is stored at is authenticated with it: moved or
exchanged objects are refused as forged.
"""

from __future__ import annotations

import hmac
import struct
from dataclasses import dataclass
from typing import Final

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ergosphere.snapshots.errors import Damaged, Forged, MissingKey, TooNew
from ergosphere.snapshots.keys import derive
from ergosphere.system import fresh_bytes

MAGIC: Final = b"ERGOSEAL"
VERSION: Final = 1
PLAIN, ENCRYPTED = 0, 1
HEAD: Final = struct.Struct("<8sBB6x16s")  # magic, version, mode, salt
SALT_SIZE: Final = 16
TAG_SIZE: Final = 16  # bytes that encryption adds
MAC_SIZE: Final = 32
NONCE_ONCE: Final = bytes(12)  # the only message under its key
TABLE_NONCE: Final = b"\xff" * 12  # of a pack; its chunks use their offsets

Bytes = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True, repr=False)
class Sealer:
    """Seals and opens for one vault. `key` None: nothing is encrypted, damage is noticed, forgery is not."""

    key: bytes | None
    salt: bytes  # of the vault; public

    @property
    def encrypted(self) -> bool:
        return self.key is not None

    @property
    def naming(self) -> bytes:
        """The key under which chunks are named: equal bytes have equal names within a vault only."""
        return derive(self._material(), "names", self.salt)

    def check(self) -> str:
        """What tells a right key from a wrong one, without telling the key."""
        return derive(self._material(), "check", self.salt).hex()

    def seal(self, content: Bytes, place: str) -> bytes:
        """Content for the store, bound to the key it is stored under."""
        salt = fresh_bytes(SALT_SIZE)
        if self.key is None:
            head = HEAD.pack(MAGIC, VERSION, PLAIN, salt)
            return b"".join((head, self._mac(head, content, place), content))
        head = HEAD.pack(MAGIC, VERSION, ENCRYPTED, salt)
        return head + AESGCM(self._object_key(salt)).encrypt(NONCE_ONCE, content, head + place.encode())

    def unseal(self, sealed: bytes, place: str, which: str) -> bytes:
        """What `seal` was given. Errors: Forged, Damaged, MissingKey, TooNew (naming `which`)."""
        head, mode, salt = _read_head(sealed, which)
        if mode == PLAIN and self.key is not None:
            raise Forged(which)
        if mode == PLAIN:
            mac, content = sealed[HEAD.size : HEAD.size + MAC_SIZE], sealed[HEAD.size + MAC_SIZE :]
            if not hmac.compare_digest(mac, self._mac(head, content, place)):
                raise Damaged(which)
            return content
        if self.key is None:
            raise MissingKey(f"{which} is encrypted", "give its key: ERGO_KEY_FILE names the file")
        try:
            return AESGCM(self._object_key(salt)).decrypt(
                NONCE_ONCE, memoryview(sealed)[HEAD.size :], head + place.encode()
            )
        except InvalidTag:
            raise Forged(which) from None

    def pack(self, pack_id: bytes) -> PackCipher:
        """What encrypts the chunks of one pack."""
        if self.key is None:
            return PackCipher(None, derive(self._material(), "table", pack_id))
        return PackCipher(AESGCM(derive(self.key, "pack", pack_id)), b"")

    def _material(self) -> bytes:
        return self.key if self.key is not None else self.salt

    def _object_key(self, salt: bytes) -> bytes:
        assert self.key is not None
        return derive(self.key, "object", salt)

    def _mac(self, head: bytes, content: Bytes, place: str) -> bytes:
        key = derive(self._material(), "mac", head + place.encode())
        return blake3(content, key=key).digest()


@dataclass(frozen=True, slots=True, repr=False)
class PackCipher:
    """The key of one pack, used for each chunk at its own offset and for the table at its end."""

    cipher: AESGCM | None
    mac_key: bytes

    @property
    def encrypted(self) -> bool:
        return self.cipher is not None

    @property
    def overhead(self) -> int:
        """Bytes a chunk grows by."""
        return 0 if self.cipher is None else TAG_SIZE

    def write(self, at: int, content: Bytes, out: memoryview) -> None:
        """Write a chunk that lies `at` bytes into its pack to `out`, `overhead` longer than it."""
        if self.cipher is None:
            out[:] = content
        else:
            self.cipher.encrypt_into(_nonce(at), content, None, out)

    def read(self, at: int, stored: memoryview) -> Bytes:
        """A chunk back. Errors: InvalidTag."""
        return stored if self.cipher is None else self.cipher.decrypt(_nonce(at), stored, None)

    def read_into(self, at: int, stored: memoryview, out: memoryview) -> None:
        """A chunk back, to `out`, which is `overhead` shorter. Errors: InvalidTag."""
        if self.cipher is None:
            out[:] = stored
        else:
            self.cipher.decrypt_into(_nonce(at), stored, None, out)

    def seal_table(self, table: bytes) -> bytes:
        if self.cipher is None:
            return table + blake3(table, key=self.mac_key).digest()
        return self.cipher.encrypt(TABLE_NONCE, table, None)

    def open_table(self, sealed: Bytes, which: str) -> bytes:
        """Errors: Forged, Damaged."""
        if self.cipher is None:
            table = bytes(sealed[:-MAC_SIZE])
            if not hmac.compare_digest(sealed[-MAC_SIZE:], blake3(table, key=self.mac_key).digest()):
                raise Damaged(which)
            return table
        try:
            return self.cipher.decrypt(TABLE_NONCE, sealed, None)
        except InvalidTag:
            raise Forged(which) from None


def is_sealed(content: bytes) -> bool:
    """Whether these bytes claim to be a sealed object."""
    return content.startswith(MAGIC)


def _nonce(at: int) -> bytes:
    return at.to_bytes(12, "little")


def _read_head(sealed: bytes, which: str) -> tuple[bytes, int, bytes]:
    if len(sealed) < HEAD.size or not is_sealed(sealed):
        raise Forged(which)
    _, version, mode, salt = HEAD.unpack_from(sealed)
    if version > VERSION:
        raise TooNew(which, version, VERSION)
    if mode not in (PLAIN, ENCRYPTED):
        raise Damaged(which)
    return sealed[: HEAD.size], mode, salt
