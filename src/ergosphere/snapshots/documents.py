"""Documents that outlive a process: canonical JSON in a versioned, self-verifying envelope, to and from
dataclasses.

Knows nothing of what the documents mean.
"""

from __future__ import annotations

import json
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
    return cast(T, _read_dataclass(cls, value, cls.__name__))


@cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def _read_dataclass(cls: type, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise BadDocument(f"{where} must be an object")
    known = {field.name: field for field in fields(cls)}
    unknown = value.keys() - known.keys()
    if unknown:
        raise BadDocument(f"{where} has unknown fields {sorted(unknown)}")
    needed = {n for n, f in known.items() if f.default is MISSING and f.default_factory is MISSING}
    if needed - value.keys():
        raise BadDocument(f"{where} lacks {sorted(needed - value.keys())}")
    hints = _hints(cls)
    return cls(**{name: _read(hints[name], item, f"{where}.{name}") for name, item in value.items()})


def _read(hint: Any, value: Any, where: str) -> Any:
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        return _read_optional(hint, value, where)
    if origin is tuple:
        if not isinstance(value, list):
            raise BadDocument(f"{where} must be a list")
        return tuple(_read(get_args(hint)[0], item, f"{where}[]") for item in value)
    if origin is dict or hint is dict:
        return _checked(dict, value, where)
    if is_dataclass(hint):
        return _read_dataclass(cast(type, hint), value, where)
    return _read_scalar(hint, value, where)


def _read_optional(hint: Any, value: Any, where: str) -> Any:
    if value is None and NoneType in get_args(hint):
        return None
    (inner,) = (arg for arg in get_args(hint) if arg is not NoneType)
    return _read(inner, value, where)


def _read_scalar(hint: Any, value: Any, where: str) -> Any:
    if hint is Any:
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return hint(_checked(str, value, where))
    return _checked(hint, value, where)


def _checked(kind: type, value: Any, where: str) -> Any:
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise BadDocument(f"{where} must be {kind.__name__}")
    return value
