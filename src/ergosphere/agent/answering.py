"""What a coordinator answers: what an order took, that it was carried out, or why not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal

from ergosphere.agent.ports import CellPort
from ergosphere.snapshots.manifest import Manifest
from ergosphere.wire.agents import Answer, Cost, EndOrder, Order

AWAY: Final = "StoreUnreachable"
# Neither the job's fault nor its snapshot's.
PASSING: Final = frozenset({AWAY, "NotFound", "NotRemote", "NotUnderstood"})
NEVER_HOME: Final = frozenset({"Unreadable", "Changing", "TooBig", "TreeError"})  # results that no later try could keep
TOO_NEW: Final = "TooNew"  # one that lasts until this machine is updated


def costs_of(
    kind: Literal["freeze", "thaw"], manifest: Manifest, cells: Sequence[CellPort], seconds: float
) -> tuple[Cost, ...]:
    """Each node's share in bytes; its cells worked at the same time, so the time is the whole's."""
    shares: dict[str, int] = {}
    for cell in cells:
        shares[cell.seat.node] = shares.get(cell.seat.node, 0) + manifest.cell(cell.seat.index).bytes
    return tuple(Cost(kind=kind, node=node, bytes=share, seconds=seconds) for node, share in shares.items())


def done(order: Order, **fields: Any) -> Answer:
    """The order was carried out."""
    return Answer(order_id=order.order_id, job=order.life.job, incarnation=order.life.incarnation, ok=True, **fields)


def kind_of(error: Exception) -> str:
    """The name of its class; by mail nothing else has come. "" where a call was not answered at all."""
    told: str | None = getattr(error.__cause__, "kind", None)
    return type(error).__name__ if told is None else told


def failed(order: Order, error: Exception) -> Answer:
    """It was not, and the job is as it was before: whose fault that is, and for how long."""
    kind = kind_of(error)
    return Answer(
        order_id=order.order_id,
        job=order.life.job,
        incarnation=order.life.incarnation,
        ok=False,
        error=getattr(error, "cause", "") or str(error) or type(error).__name__,
        remedy=getattr(error, "remedy", ""),
        lasting=getattr(error, "lasting", False) or kind == TOO_NEW,
        transient=kind not in NEVER_HOME if isinstance(order, EndOrder) else kind in PASSING,
        damaged=getattr(error, "damaged", ()),
        gone=getattr(error, "gone", False),
        exit_code=getattr(error, "exit_code", None),
    )
