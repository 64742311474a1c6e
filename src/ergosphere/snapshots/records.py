"""The commit-or-abort record of a freeze: the one place that decides, written once by whoever comes first.

The ledger and the agents learn the verdict from here. Whoever wants to let an original go on must first win
`abort`; whoever wants to kill one must first see `commit`. After a StoreError the verdict is unknown: ask
again, never guess.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final, Literal

from ergosphere.snapshots.documents import canonical
from ergosphere.snapshots.errors import Damaged, NotFound, TooNew, read_again
from ergosphere.snapshots.manifest import Manifest, from_json, to_json
from ergosphere.snapshots.sealing import is_sealed
from ergosphere.snapshots.store import Store

RECORDS: Final = "freezes/"
RECORD_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Aborted:
    """The freeze ended without a snapshot: the original goes on."""

    freeze_id: str
    why: str


@dataclass(frozen=True, slots=True)
class Swept:
    """The freeze was committed; its snapshot was deleted since.

    The record stays, so that no late abort can win.
    """

    freeze_id: str


Record = Manifest | Aborted | Swept


def record_key(freeze_id: str) -> str:
    """Where a store keeps the verdict."""
    return f"{RECORDS}{freeze_id}"


def commit(store: Store, freeze_id: str, manifest: Manifest) -> Record:
    """Try to make the snapshot real; whatever won. Errors: StoreError (the verdict is then unknown)."""
    assert manifest.id == freeze_id, "a freeze commits its own snapshot"
    content = _document("commit", manifest=json.loads(to_json(manifest)))
    if store.put(record_key(freeze_id), content, if_absent=True):
        return manifest
    return _winner(store, freeze_id)


def abort(store: Store, freeze_id: str, why: str) -> Record:
    """Try to call it off; whatever won. Errors: StoreError (the verdict is then unknown)."""
    if store.put(record_key(freeze_id), _document("abort", why=why), if_absent=True):
        return Aborted(freeze_id, why)
    return _winner(store, freeze_id)


def verdict(store: Store, freeze_id: str) -> Record | None:
    """What was decided, None while nothing is. Errors: StoreError, Damaged, TooNew."""
    try:
        return read_again(lambda: parse(freeze_id, store.get(record_key(freeze_id))))
    except NotFound:
        return None


def load(store: Store, freeze_id: str) -> Manifest:
    """The manifest of a committed snapshot.

    Errors: NotFound (undecided, aborted, swept), Damaged, TooNew, StoreError.
    """
    record = verdict(store, freeze_id)
    if isinstance(record, Manifest):
        return record
    raise NotFound(f"snapshot {freeze_id}")


def outcome(content: bytes, freeze_id: str) -> Literal["commit", "abort"]:
    """The bare verdict of a record, readable even when its manifest is damaged or too new. Errors: Damaged."""
    if is_sealed(content):  # an abort never is: see `sealed_store`
        return "commit"
    return "abort" if _head(content, freeze_id)["verdict"] == "abort" else "commit"


def is_committed(content: bytes, freeze_id: str) -> bool:
    """Whether a record's snapshot is there (committed and not swept), its manifest unread. Errors: Damaged."""
    return bool(_head(content, freeze_id)["verdict"] == "commit")


def sweep_record(store: Store, freeze_id: str) -> None:
    """Replace a committed manifest by the bare fact that it was committed."""
    store.put(record_key(freeze_id), _document("swept"))


def parse(freeze_id: str, content: bytes) -> Record:
    """A record from its bytes. Errors: Damaged, TooNew."""
    head = _head(content, freeze_id)
    if head["version"] > RECORD_VERSION:
        raise TooNew("record of a freeze", head["version"], RECORD_VERSION)
    if head["verdict"] == "abort":
        return Aborted(freeze_id, str(head.get("why", "")))
    if head["verdict"] == "swept":
        return Swept(freeze_id)
    manifest = from_json(canonical(head.get("manifest")), freeze_id)
    if manifest.id != freeze_id:
        raise Damaged("the manifest", freeze_id, f"is that of snapshot {manifest.id}")
    return manifest


def _winner(store: Store, freeze_id: str) -> Record:
    won = verdict(store, freeze_id)
    assert won is not None, "records are never deleted while their freeze can be decided"
    return won


def _document(decided: str, **rest: Any) -> bytes:
    return canonical({"ergosphere": "freeze", "version": RECORD_VERSION, "verdict": decided, **rest})


def _head(content: bytes, freeze_id: str) -> dict[str, Any]:
    try:
        head = json.loads(content)
        known = head["ergosphere"] == "freeze" and head["verdict"] in ("commit", "abort", "swept")
        if known and isinstance(head["version"], int):
            return dict(head)
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged("the record", freeze_id, "is not readable") from error
    raise Damaged("the record", freeze_id, "is not one of a freeze")
