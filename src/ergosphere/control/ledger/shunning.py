"""Nodes on which a job did not come up: for a while it is tried on others, where there are any."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import select

from ergosphere.control.ledger import fitness
from ergosphere.control.ledger.change import Change, cells_on
from ergosphere.control.ledger.tables import JobRow, NodeRow

SHUNNED_S: Final = 60.0  # after which such a node is as good as any again: what stood in the way may have passed


def shun(change: Change, job: JobRow) -> list[str]:
    """Look elsewhere for a while. Gives the nodes to be left alone: none where no others could take its cells."""
    tried = {node for _, _, node, _ in cells_on(job)}
    shunned = {**_standing(job, change.now_s), **dict.fromkeys(tried, change.now_s + SHUNNED_S)}
    others = [node for node in _in_reach(change, job) if node not in shunned]
    job.shunned = shunned if len(others) >= len(tried) else {}
    return sorted(tried) if job.shunned else []


def relent(job: JobRow, now_s: float) -> None:
    """What was long enough ago is forgotten."""
    standing = _standing(job, now_s)
    if standing != job.shunned:
        job.shunned = standing


def unfit(job: JobRow) -> tuple[tuple[str, str], ...]:
    """These nodes, and why, in words for its owner."""
    return tuple((node, f"its last try there failed: {job.try_failed}") for node in sorted(job.shunned))


def _standing(job: JobRow, now_s: float) -> dict[str, float]:
    return {node: until_s for node, until_s in job.shunned.items() if until_s > now_s}


def _in_reach(change: Change, job: JobRow) -> list[str]:
    """Nodes that could take one of its cells and its snapshot, busy or not."""
    devices = max(len(ranks) for ranks in job.cells)
    newest = next(iter(change.snapshots(job)), None)
    rows = change.session.scalars(select(NodeRow).where(NodeRow.devices >= devices, NodeRow.lost.is_(False)))
    there = [row for row in rows if not row.draining and _suits(row, job.spec)]
    return [row.id for row in there if not (newest and fitness.cause(change, newest, row))]


def _suits(node: NodeRow, spec: Mapping[str, Any]) -> bool:
    """As the policy judges it (`core.policy.packing.groups_for`)."""
    regions, types, wanted = spec.get("regions", ()), spec.get("types", {}), spec.get("device_gib", 0) * 2**30
    enough = not wanted or not node.device_bytes or node.device_bytes >= wanted
    return enough and (not regions or node.region in regions) and (not types or node.type in types)
