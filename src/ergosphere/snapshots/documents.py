"""Documents that outlive a process: canonical JSON in a versioned, self-verifying envelope, to and from
dataclasses.

Knows nothing of what the documents mean.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable
from dataclasses import MISSING, fields, is_dataclass
from enum import StrEnum
from functools import cache
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from ergosphere.snapshots.digests import digest_bytes
from ergosphere.snapshots.errors import Damaged, TooNew

T = TypeVar("T")


class BadDocument(ValueError):
    """A value does not have the shape its dataclass promises."""


def canonical(value: object) -> bytes:
    """The one JSON text of a plain value: sorted keys, no spaces, ASCII (odd bytes in paths stay as lone
    surrogates).
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return text.encode("ascii")


def seal(kind: str, version: int, body: object) -> bytes:
    """Wrap `body` as a document that carries its kind, its version and the digest of all three."""
    head = {"ergosphere": kind, "version": version, "digest": _digest(kind, version, body)}
    return canonical({**head, "body": body})


def _digest(kind: str, version: int, body: object) -> str:
    return digest_bytes(canonical([kind, version, body]))


def unseal(text: bytes, kind: str, version: int, which: str) -> Any:
    """The body of a sealed document. Errors: TooNew, Damaged (naming `which`)."""
    try:
        document = json.loads(text)
        found, body = document["version"], document["body"]
        right_kind = document["ergosphere"] == kind
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged(which, how="is not readable") from error
    if not right_kind:
        raise Damaged(which, how=f"is not a {kind}")
    if not isinstance(found, int) or found > version:
        raise TooNew(kind, found, version)
    if document.get("digest") != _digest(kind, found, body):
        raise Damaged(which)
    return body


def to_plain(value: Any) -> Any:
    """Dataclasses, tuples and enums as what JSON knows."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, StrEnum):
        return str(value)
    if isinstance(value, (tuple, list)):
        return [to_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): to_plain(item) for key, item in value.items()}
    return value


def from_plain(cls: type[T], value: Any) -> T:
    """The dataclass `cls` back from plain JSON.

    Errors: BadDocument for an unknown, missing or ill-typed field.
    """
    return cast(T, _reader(cast(Hashable, cls))(value, cls.__name__))


Reader = Callable[[Any, str], Any]  # what was read, and where it stands, to what it is


@cache
def _reader(hint: Any) -> Reader:
    """Made once for a type: a manifest has thousands of values, and looking into types takes longer than reading."""
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        return _optional(hint)
    if origin is tuple:
        return _tuple(_reader(get_args(hint)[0]))
    if origin is dict or hint is dict:
        return lambda value, where: _checked(dict, value, where)
    if hint is Any:
        return lambda value, where: value
    if is_dataclass(hint):
        return _dataclass(cast(type, hint))
    return _scalar(hint)


def _dataclass(cls: type) -> Reader:
    hints = get_type_hints(cls)
    readers = {field.name: _reader(hints[field.name]) for field in fields(cls)}
    needed = {f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING}

    def read(value: Any, where: str) -> Any:
        if not isinstance(value, dict):
            raise BadDocument(f"{where} must be an object")
        if unknown := value.keys() - readers.keys():
            raise BadDocument(f"{where} has unknown fields {sorted(unknown)}")
        if lacking := needed - value.keys():
            raise BadDocument(f"{where} lacks {sorted(lacking)}")
        return cls(**{name: readers[name](item, f"{where}.{name}") for name, item in value.items()})

    return read


def _tuple(inner: Reader) -> Reader:
    def read(value: Any, where: str) -> Any:
        if not isinstance(value, list):
            raise BadDocument(f"{where} must be a list")
        place = f"{where}[]"
        return tuple([inner(item, place) for item in value])

    return read


def _optional(hint: Any) -> Reader:
    (inner,) = (_reader(arg) for arg in get_args(hint) if arg is not NoneType)
    if NoneType not in get_args(hint):
        return inner
    return lambda value, where: None if value is None else inner(value, where)


def _scalar(hint: Any) -> Reader:
    if hint is float:
        return _read_float
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return lambda value, where: hint(_checked(str, value, where))
    return lambda value, where: _checked(hint, value, where)


def _read_float(value: Any, where: str) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return _checked(float, value, where)


def _checked(kind: type, value: Any, where: str) -> Any:
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise BadDocument(f"{where} must be {kind.__name__}")
    return value
