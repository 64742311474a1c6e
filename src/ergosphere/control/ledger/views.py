"""Rows as the policy's nouns. Which of them are read anew, and when, `sight` says."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

from sqlalchemy import select

from ergosphere.control.ledger import accounts, results, shunning, sizes
from ergosphere.control.ledger.change import Change, chunks
from ergosphere.control.ledger.fitness import Fitness
from ergosphere.control.ledger.tables import CellRow, JobRow, NodeRow, ProjectRow
from ergosphere.core.model import (
    HOLDS_SEATS,
    Cell,
    JobId,
    JobView,
    NodeId,
    NodeView,
    Phase,
    Placement,
    ProjectView,
    Seat,
)
from ergosphere.core.policy.flaky import flaky_until_s

GIB: Final = 2**30


def node_view(node: NodeRow, *, ready: bool, now_s: float) -> NodeView:
    return NodeView(
        id=NodeId(node.id),
        devices=node.devices,
        ready=ready,
        draining=node.draining,
        memory_bytes=node.memory_bytes,
        type=node.type,
        device_bytes=node.device_bytes,
        region=node.region,
        cluster=node.cluster,
        domain=node.domain,
        leaves_s=node.leaves_s,
        flaky_until_s=flaky_until_s(node.failures, now_s),
        machine=node.machine,
    )


def wishes(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What a job wants of its devices, as fields of its view; specs of before may lack it."""
    return {
        "speeds": tuple(sorted(spec.get("types", {}).items())),
        "device_bytes": int(spec.get("device_gib", 0) * GIB),
        "regions": tuple(spec.get("regions", ())),
        "data_region": spec.get("data", ""),
    }


def job_views(look: Change, rows: Collection[JobRow], machines: dict[str, str], lost: frozenset[str]) -> list[JobView]:
    """These jobs, with as many queries for many as for one. `machines`: of every node."""
    sizes_of = rank_bytes(look, rows)
    seeking = Fitness(look, machines, [job.id for job in rows if wants_place(job)])
    return [
        replace(
            job_view(job, lost, _unfit(job, seeking)),
            rank_bytes=sizes_of.get(job.id, ()),
        )
        for job in rows
    ]


def rank_bytes(look: Change, jobs: Iterable[JobRow]) -> dict[str, tuple[int, ...]]:
    """Host memory of each rank as its node measured it last, over all lives; only of jobs whose every rank was."""
    ranks = {job.id: job.ranks for job in jobs}
    told: dict[str, dict[int, int]] = {}
    for some in chunks(ranks):
        cells = select(CellRow.job, CellRow.ranks).where(CellRow.job.in_(some)).order_by(CellRow.incarnation)
        for job, measured in look.session.execute(cells):
            told.setdefault(job, {}).update((rank["rank"], rank.get("bytes", 0)) for rank in measured)
    found = {job: tuple(sizes.get(rank, 0) for rank in range(ranks[job])) for job, sizes in told.items()}
    return {job: measured for job, measured in found.items() if all(measured)}


def _unfit(job: JobRow, seeking: Fitness) -> tuple[tuple[str, str], ...]:
    found = dict(shunning.unfit(job))
    return tuple((found | dict(seeking.unfit(job.id) if wants_place(job) else ())).items())


def wants_place(job: JobRow) -> bool:
    """Only of who is frozen or may be moved soon it matters which nodes could thaw it."""
    shrunk = job.phase is Phase.RUNNING and sizes.devices_of(job) < job.ranks  # the policy may move it to grow
    moves = job.move_asked or job.resize_asked or shrunk or job.phase is Phase.FREEZING
    return job.phase is Phase.FROZEN or moves


def project_view(row: ProjectRow) -> ProjectView:
    return ProjectView(row.id, row.parent, row.weight, row.guarantee, row.limit, row.borrow)


def job_view(job: JobRow, lost: frozenset[str] = frozenset(), unfit: tuple[tuple[str, str], ...] = ()) -> JobView:
    """One job; `lost` nodes hold no images any more; `unfit` ones cannot thaw it, and why."""
    return JobView(
        id=JobId(job.id),
        name=job.name,
        tier=job.tier,
        project=job.project,
        ranks=job.ranks,
        phase=job.phase,
        submitted_s=job.submitted_s,
        cells=tuple(Cell(index, tuple(ranks)) for index, ranks in enumerate(job.cells)),
        seats=seats(job.seats) if results.holds_seats(job) else (),
        destination=tuple(NodeId(node) for node in job.destination),
        paused=job.paused or job.held,
        by_shutdown=job.held and not job.paused,
        cancel=job.cancel,
        move_asked=job.move_asked,
        not_before_s=job.not_before_s,
        freeze_cost_s=job.freeze_cost_s,
        thaw_cost_s=job.thaw_cost_s,
        upload_cost_s=job.upload_cost_s,
        running_since_s=job.running_since_s,
        try_failed=job.try_failed,
        freezable=job.freezable,
        not_freezable_because=job.rung_because,
        freezing_why=job.freeze_why if job.phase is Phase.FREEZING else None,
        freezing_for=JobId(job.freezing_for) if job.freezing_for else None,
        room=seats(job.room),
        home=tuple(NodeId("" if node in lost else node) for node in job.home),
        after=tuple(JobId(name) for name in job.after),
        deadline_s=job.deadline_s,
        service=job.service,
        wanted=job.wanted,
        account=accounts.load(job.account),
        pauses=tuple(job.policy_pauses),
        min_devices=job.min_devices,
        devices_asked=job.devices_asked,
        resize_asked=job.resize_asked,
        going_to=seats(job.going_to) if job.phase in HOLDS_SEATS else (),
        resized_s=job.resized_s,
        shareable=job.shareable,
        not_shareable_because=job.not_shareable_because,
        unfit=tuple((NodeId(node), cause) for node, cause in unfit),
        **wishes(job.spec),
    )


def seats(listed: list[list[object]]) -> Placement:
    """Seats as the ledger keeps them."""
    return tuple(Seat(NodeId(str(node)), int(str(device))) for node, device in listed)
