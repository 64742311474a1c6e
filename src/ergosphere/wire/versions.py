"""Server and agents may be of different versions: which one speaks, and what is said where it is not understood."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

HEADER: Final = "Ergosphere-Version"  # of requests and answers: to be read whatever the body says
FAULTS_MAX: Final = 3  # that are named
UNKNOWN_FIELD: Final = "extra_forbidden"


def _version() -> str:
    try:
        return version("ergosphere")
    except PackageNotFoundError:
        return "0 (not installed)"


VERSION: Final = _version()  # of what this process runs, whatever is installed over it later


def named(theirs: str) -> str:
    """Another's version, as far as it has said."""
    return f"version {theirs}" if theirs else "of a version not told"


def faults(errors: Iterable[Any]) -> str:
    """What is not understood, of pydantic's `errors()`: places and causes, never values."""
    words = [f"{'.'.join(str(part) for part in one['loc']) or 'all of it'}: {_cause(one)}" for one in errors]
    more = f"; and {len(words) - FAULTS_MAX} more" if len(words) > FAULTS_MAX else ""
    return "; ".join(words[:FAULTS_MAX]) + more


def _cause(one: Any) -> str:
    return "a field that is not known here" if one["type"] == UNKNOWN_FIELD else str(one["msg"])


def remedy(node: str) -> str:
    """What helps on either side: agents are started by the server, from its own version."""
    which = f"nodes/{node}/engine.json" if node else "nodes/NODE/engine.json"
    return (
        f"kill that agent (its number is in {which} of the home): the server starts one of its own version, "
        "and what runs there runs on"
    )
