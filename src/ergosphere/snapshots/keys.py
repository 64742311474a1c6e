"""Where keys come from and what is derived from them. No key is ever written anywhere by this module.

A ring has one key per project, or a default one from which each project's is derived (blake3 in its key derivation
mode). Who has one project's key cannot find another's.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from blake3 import blake3

from ergosphere.snapshots.errors import BadKeyFile

KEY_SIZE: Final = 32  # bytes; AES-256
DEFAULT: Final = "default"
HEX_KEY: Final = re.compile(r"[0-9a-fA-F]{64}")
PAGE: Final = "docs/operations/lost-key.md"
REMEDY: Final = "write lines like `default = 64 hex digits` (openssl rand -hex 32 makes one) and chmod 600"
PUT_BACK: Final = (
    f"put it back: with another key nothing that was stored under it can be read ({PAGE}); "
    f"for a store that is new, {REMEDY}"
)


@dataclass(frozen=True, slots=True, repr=False)
class KeyRing:
    """Keys by project name. Never printed, logged or sent."""

    keys: Mapping[str, bytes]

    def project(self, name: str) -> bytes | None:
        """The 32 bytes of a project's key; None when neither it nor a default is there."""
        if name in self.keys:
            return self.keys[name]
        default = self.keys.get(DEFAULT)
        return None if default is None else derive(default, "project", name.encode())

    def fleet(self) -> bytes | None:
        """The key of what belongs to no project: records, submissions, results."""
        default = self.keys.get(DEFAULT)
        return None if default is None else derive(default, "fleet")


def derive(key: bytes, purpose: str, label: bytes = b"") -> bytes:
    """32 bytes that only who has `key` can find, different for every purpose and label."""
    return blake3(key + label, derive_key_context=f"ergosphere snapshots v1 {purpose}").digest()


def load_keys(text: str | None, path: Path | None) -> KeyRing | None:
    """A ring from a key given as 64 hex digits, or from a key file; None without either. Errors: BadKeyFile."""
    if path is not None:
        return _read_file(path)
    if not text:
        return None
    return KeyRing({DEFAULT: _parse_key(text, "ERGO_KEY", "openssl rand -hex 32 makes one for a store that is new")})


def _read_file(path: Path) -> KeyRing:
    try:
        mode = path.stat().st_mode
        lines = path.read_text().splitlines()
    except FileNotFoundError as error:
        raise BadKeyFile(f"the key file {path} is missing", PUT_BACK) from error
    except (OSError, UnicodeDecodeError) as error:
        raise BadKeyFile(f"the key file {path} cannot be read: {error}", REMEDY) from error
    if stat.S_IMODE(mode) & 0o077:
        raise BadKeyFile(f"the key file {path} can be read by others", f"chmod 600 {path}")
    keys = dict(_parse_line(line, path) for line in lines if line.strip() and not line.startswith("#"))
    if not keys:
        raise BadKeyFile(f"the key file {path} holds no key", REMEDY)
    return KeyRing(keys)


def _parse_line(line: str, path: Path) -> tuple[str, bytes]:
    name, equals, value = (part.strip() for part in line.partition("="))
    if not equals:
        name, value = DEFAULT, name
    return name, _parse_key(value, f"the key of {name} in {path}")


def _parse_key(text: str, which: str, remedy: str = REMEDY) -> bytes:
    if not HEX_KEY.fullmatch(text.strip()):
        raise BadKeyFile(f"{which} is not 64 hex digits", remedy)
    return bytes.fromhex(text.strip())
