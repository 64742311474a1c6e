"""What an administrator says of a node: what it is, and until when it will be there."""

from __future__ import annotations

from ergosphere.control.ledger.change import OWNER
from ergosphere.control.ledger.ledger import Ledger
from ergosphere.control.ledger.views import GIB
from ergosphere.control.verbs import find_node
from ergosphere.wire.api import NodeLabels


def label(ledger: Ledger, node: str, labels: NodeLabels) -> None:
    """Write the labels down that were given. Raises NotFound."""
    said = labels.model_dump(exclude_none=True)
    with ledger.change() as change:
        row = find_node(change, node)
        for name, value in said.items():
            if name == "device_gib":
                row.device_bytes = int(value * GIB)
            else:
                setattr(row, name, value)
        words = ", ".join(f"{name} {value}" for name, value in said.items())
        change.note(None, OWNER, "labels", f"{node}: {words or 'nothing'}")


def leaves(ledger: Ledger, node: str, within_s: float) -> None:
    """It is to be emptied now and will be gone then: its jobs go first that can be moved in time. Raises NotFound."""
    with ledger.change() as change:
        row = find_node(change, node)
        row.leaves_s, row.draining = change.now_s + within_s, True
        change.note(None, OWNER, "leaves", f"{node} will be gone in {within_s:.0f} s and is being emptied")


def stays(ledger: Ledger, node: str) -> None:
    """It will be there, after all. Raises NotFound."""
    with ledger.change() as change:
        row = find_node(change, node)
        if row.leaves_s is not None:
            row.leaves_s = None
            change.note(None, OWNER, "stays", f"{node} stays")
