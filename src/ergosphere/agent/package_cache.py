"""The packages of the last CRIU that passed its test, kept below the user's cache folder for other homes on it.

What lies there becomes programs that run as root. So only files of the same user that nobody else may write are read,
and only where their digests are those that were noted when apt had verified them. Standard library only.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import pwd
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

RECORD: Final = "packages.json"  # {"format": 1, "suite": "sid", "packages": {file: sha256}}
FORMAT: Final = 1
RECORD_BYTES_MAX: Final = 1 << 20
PACKAGES_MAX: Final = 500
PIECE_BYTES: Final = 1 << 20
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+~_%:-]*\.deb")
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH


class Distrusted(Exception):
    """What lies there is not used; the text says why."""


@dataclass(frozen=True, slots=True)
class Kept:
    """Verified copies of the packages, and the Debian suite they are of."""

    suite: str
    packages: list[Path]


def folder() -> Path:
    """Of whoever runs this, by the user database: with sudo `$HOME` may be another user's."""
    return Path(pwd.getpwuid(os.geteuid()).pw_dir) / ".cache" / "ergosphere" / "criu"


def recall(cache: Path, into: Path) -> Kept | None:
    """Copy what is kept into the new folder `into`; None where nothing is. Raises Distrusted, OSError."""
    if not cache.exists():
        return None
    _check_folders(cache)
    try:
        record = _record(cache)
    except FileNotFoundError:
        return None
    into.mkdir()
    for name, digest in record["packages"].items():
        if _copied(cache / name, into / name) != digest:
            raise Distrusted(f"{cache / name} is not what was put there")
    return Kept(record["suite"], [into / name for name in sorted(record["packages"])])


def keep(cache: Path, suite: str, packages: Sequence[Path]) -> None:
    """Put packages that apt has verified there, in place of what was. Raises Distrusted, OSError."""
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    _check_folders(cache)
    with _locked(cache):
        digests = {}
        for package in packages:
            aside = cache / f"{package.name}.new"
            aside.unlink(missing_ok=True)
            digests[package.name] = _copied(package, aside)
            aside.replace(cache / package.name)
        aside = cache / f"{RECORD}.new"
        aside.unlink(missing_ok=True)
        with _created(aside) as file:
            file.write(json.dumps({"format": FORMAT, "suite": suite, "packages": digests}, indent=1).encode())
        aside.replace(cache / RECORD)
        for path in cache.glob("*.deb*"):
            if path.name not in digests:
                path.unlink()


def _check_folders(cache: Path) -> None:
    """Nobody else may put another folder in the place of any on the way."""
    if cache.resolve() != cache:
        raise Distrusted(f"{cache} leads elsewhere")
    for path in (cache, *cache.parents):
        found = path.stat()
        shared = found.st_mode & _OTHERS_WRITE and not (path != cache and found.st_mode & stat.S_ISVTX)
        if found.st_uid not in (0, os.geteuid()) or shared:
            raise Distrusted(f"others may write to {path}")


def _record(cache: Path) -> dict[str, Any]:
    with _opened(cache / RECORD) as file:
        told = file.read(RECORD_BYTES_MAX)
    try:
        record = json.loads(told)
        packages = record["packages"]
        known = record["format"] == FORMAT and isinstance(record["suite"], str) and isinstance(packages, dict)
        if known and 0 < len(packages) <= PACKAGES_MAX and all(map(_NAME.fullmatch, packages)):
            return dict(record)
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise Distrusted(f"{cache / RECORD} cannot be read")


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """A plain file of ours that nobody else may write."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & _OTHERS_WRITE:
            raise Distrusted(f"{path} is not this user's alone")
        yield file


def _created(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


def _copied(source: Path, target: Path) -> str:
    """Copy it; the digest is of the bytes that were written, whatever becomes of the source."""
    digest = hashlib.sha256()
    with _opened(source) as file, _created(target) as copy:
        while piece := file.read(PIECE_BYTES):
            digest.update(piece)
            copy.write(piece)
    return digest.hexdigest()


@contextmanager
def _locked(cache: Path) -> Iterator[None]:
    with (cache / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
