"""What owners asked for with `ergo resize`: other devices of the same nodes, or a snapshot and other nodes.

Growing without having been asked is `elastic`'s.
"""

from __future__ import annotations

from ergosphere.core.model import Reason, Why
from ergosphere.core.policy import reasons
from ergosphere.core.policy.elastic import spread
from ergosphere.core.policy.elsewhere import go_elsewhere, seats_elsewhere
from ergosphere.core.policy.entry import Entry
from ergosphere.core.policy.seats import reshape
from ergosphere.core.policy.shape import largest
from ergosphere.core.policy.turn import Turn


def shrink_as_asked(turn: Turn, entry: Entry) -> None:
    """On the nodes where it is, if it can be; else `resize` looks for other ones."""
    found = reshape(entry.view, frozenset(), largest(entry.shape))
    if found is not None and turn.resize_refused(entry) is None:
        turn.resize(entry, found, reasons.resize_for_owner(entry.view, found))


def resize(turn: Turn, entry: Entry) -> None:
    """On its own nodes if that can be, else by way of a snapshot; as large as there is room for."""
    job = entry.view
    refusal = turn.resize_refused(entry)
    if refusal is not None:
        turn.reasons[job.id] = refusal
        return
    if entry.devices == largest(entry.shape):
        return
    found = spread(turn, entry)
    if found is not None:
        turn.resize(entry, found, reasons.resize_for_owner(job, found))
        return
    elsewhere = turn.freeze_refused(entry, Why.RESIZE) or seats_elsewhere(turn, entry)
    if isinstance(elsewhere, Reason):
        turn.reasons[job.id] = elsewhere
        return
    go_elsewhere(turn, entry, elsewhere, reasons.freeze_for_resize(job, elsewhere))
