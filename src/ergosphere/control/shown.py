"""What people are shown of the ledger: rows as the public API's nouns. The environment's values never pass here."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from sqlalchemy import func, select

from ergosphere.control.accents import Accents
from ergosphere.control.leases import Leases
from ergosphere.control.ledger import results, sizes
from ergosphere.control.ledger.change import Change
from ergosphere.control.ledger.tables import CellRow, EnvironmentRow, EventRow, JobRow, LogRow, NodeRow, SnapshotRow
from ergosphere.control.ledger.views import GIB
from ergosphere.control.uploads import Uploads
from ergosphere.core.model import ENDED, HOLDS_SEATS, Phase
from ergosphere.core.policy.flaky import flaky_until_s
from ergosphere.wire.jobs import (
    AccountInfo,
    EventInfo,
    JobDetail,
    JobInfo,
    Mount,
    NodeInfo,
    RankProcess,
    RankSharing,
    SnapshotInfo,
)

REASON_OF: dict[Phase, str] = {
    Phase.STARTING: "is being started",
    Phase.THAWING: "is being thawed",
    Phase.FREEZING: "is being frozen",
    Phase.RESIZING: "is being resized",
}


def job_info(look: Change, job: JobRow) -> JobInfo:
    return JobInfo(
        id=job.id,
        name=job.name,
        project=job.project,
        tier=job.tier,
        ranks=job.ranks,
        phase=job.phase,
        command=tuple(job.spec["command"]),
        submitted_s=job.submitted_s,
        started_s=job.started_s,
        ended_s=job.ended_s,
        exit_code=job.exit_code if job.phase in ENDED else None,
        incarnation=job.incarnation,
        nodes=tuple(seat[0] for seat in job.seats) if job.phase in HOLDS_SEATS | ENDED else (),
        addresses=tuple(job.addresses),
        moves=job.moves,
        recoveries=job.recoveries,
        pauses=job.pauses,
        paused_total_s=_paused_total_s(job, look.now_s),
        lost_lines=_lost_lines(look, job),
        lost_s=job.lost_s,
        rung=job.rung,
        rung_because=job.rung_because,
        reason=job.reason or REASON_OF.get(job.phase, ""),
        remedy=job.remedy,
        paused=job.paused,
        devices=sizes.devices_of(job) if results.holds_seats(job) else 0,
        min_devices=job.min_devices,
        devices_asked=job.devices_asked,
        resizes=job.resizes,
        after=tuple(job.after),
        service=job.service,
        wanted=job.wanted,
        deadline_s=job.deadline_s,
        running_since_s=job.running_since_s if job.phase is Phase.RUNNING else None,
        account=_account(job),
        freeze_cost_s=job.freeze_cost_s,
        thaw_cost_s=job.thaw_cost_s,
        upload_cost_s=job.upload_cost_s,
        measured=job.measured,
    )


def _account(job: JobRow) -> AccountInfo | None:
    known = job.account or {}
    return AccountInfo(**{name: known[name] for name in AccountInfo.model_fields if name in known}) if known else None


def job_detail(look: Change, job: JobRow, uploads: Uploads) -> JobDetail:
    environment = look.session.get(EnvironmentRow, job.id)
    return JobDetail(
        **dict(job_info(look, job)),
        workdir=job.spec["workdir"],
        network=job.spec["network"],
        mounts=tuple(Mount.model_validate(mount) for mount in job.spec["mounts"]),
        threads=job.threads,
        snapshot_every_s=job.spec["snapshot_every_s"],
        max_restarts=job.spec["max_restarts"],
        grace_s=job.spec.get("grace_s"),
        signal=job.spec.get("signal", "TERM"),
        env_names=tuple(sorted(environment.env)) if environment else (),
        snapshots=tuple(snapshot(row, uploads) for row in snapshots(look, job)),
        forked_from=job.forked_from,
        notes=tuple(_notes(look, job)),
        exact=job.spec.get("exact", "auto"),
        sharing=tuple(_sharing(look, job)),
        fork_names=tuple(job.fork_names),
        processes=tuple(_processes(look, job)),
    )


def event(row: EventRow) -> EventInfo:
    return EventInfo(seq=row.seq, at_s=row.at_s, job=row.job, actor=row.actor, kind=row.kind, text=row.text)


def events(look: Change, job: str | None, after: int, limit: int) -> list[EventInfo]:
    """History after `after`, of one job or of all."""
    query = select(EventRow).where(EventRow.seq > after).order_by(EventRow.seq).limit(limit)
    if job is not None:
        query = query.where(EventRow.job == job)
    return [event(row) for row in look.session.scalars(query)]


def nodes(look: Change, leases: Leases, accents: Accents) -> list[NodeInfo]:
    used: dict[tuple[str, int], str] = {}
    for job in look.live_jobs():
        if job.phase in HOLDS_SEATS:
            used |= {(str(node), int(device)): job.id for node, device in [*job.seats, *job.going_to]}
    rows = look.session.scalars(select(NodeRow).order_by(NodeRow.id))
    return [_node(row, used, leases, accents.detail(row.id), look.now_s) for row in rows]


def _node(row: NodeRow, used: dict[tuple[str, int], str], leases: Leases, accent: str, now_s: float) -> NodeInfo:
    trouble = "its lease ran out" if row.lost else "" if leases.ready(row.id) else "has not reported yet"
    state = trouble or f"{row.cores} cores"
    return NodeInfo(
        id=row.id,
        devices=row.devices,
        used=tuple(used.get((row.id, device)) for device in range(row.devices)),
        ready=leases.ready(row.id),
        draining=row.draining,
        lease_left_s=leases.left_s(row.id),
        detail=f"{state}; {accent}" if accent else state,
        region=row.region,
        cluster=row.cluster,
        domain=row.domain,
        type=row.type,
        device_gib=row.device_bytes / GIB,
        spot=row.spot,
        leaves_s=row.leaves_s,
        flaky_until_s=flaky_until_s(row.failures, now_s),
        machine=row.machine,
    )


def _paused_total_s(job: JobRow, now_s: float) -> float:
    if job.stopped_since_s is None or job.phase in ENDED:
        return job.paused_total_s
    return job.paused_total_s + max(0.0, now_s - job.stopped_since_s)


def _lost_lines(look: Change, job: JobRow) -> int:
    """Of each roll-back, the lines of the rank that lost most."""
    query = select(LogRow.incarnation, LogRow.name, LogRow.lines_dropped).where(LogRow.job == job.id)
    by_rank: dict[int, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for incarnation, name, lines in look.session.execute(query.where(LogRow.lines_dropped > 0)):
        by_rank[incarnation][name.partition(".")[0]] += lines
    return sum(max(ranks.values()) for ranks in by_rank.values())


def snapshots(look: Change, job: JobRow) -> Iterable[SnapshotRow]:
    """Those that are kept, oldest first."""
    query = select(SnapshotRow).where(SnapshotRow.job == job.id, SnapshotRow.dropped.is_(False))
    return look.session.scalars(query.order_by(SnapshotRow.taken_s, SnapshotRow.number))


def listed(look: Change, job: JobRow | None, uploads: Uploads) -> list[SnapshotInfo]:
    """What `ergo snapshot ls` shows: of one job or of all (None), by job, oldest first."""
    query = select(SnapshotRow).where(SnapshotRow.dropped.is_(False))
    query = query.where(SnapshotRow.job == job.id) if job is not None else query
    return [snapshot(row, uploads) for row in look.session.scalars(query.order_by(SnapshotRow.job, SnapshotRow.number))]


def snapshot(row: SnapshotRow, uploads: Uploads) -> SnapshotInfo:
    return SnapshotInfo(
        id=row.id,
        taken_s=row.taken_s,
        why=f"{row.why} (damaged)" if row.damaged else row.why,
        bytes=row.bytes,
        stopped_s=row.stopped_s,
        durability="remote" if row.durability == "remote" else "node",
        job=row.job,
        number=row.number,
        name=row.name,
        damaged=row.damaged,
        out_of_reach=row.stranded,
        uploaded=uploads.share(row.id) if row.durability == "node" else None,
        trouble=uploads.trouble(row.id) if row.durability == "node" and not row.stranded else row.store_fault,
        nodes=tuple(dict.fromkeys(row.nodes)),
        origin=row.origin,
    )


def _notes(look: Change, job: JobRow) -> list[str]:
    cells = select(CellRow).where(CellRow.job == job.id, CellRow.incarnation == job.incarnation)
    told = [note for row in look.session.scalars(cells) for note in row.notes]
    return list(dict.fromkeys([*job.notes, *told]))


def _sharing(look: Change, job: JobRow) -> list[RankSharing]:
    cells = select(CellRow).where(CellRow.job == job.id, CellRow.incarnation == job.incarnation)
    ranks = [rank for row in look.session.scalars(cells) for rank in row.ranks if rank.get("sharing")]
    told = [RankSharing(rank=rank["rank"], **rank["sharing"]) for rank in ranks]
    return sorted(told, key=lambda one: one.rank)


def _processes(look: Change, job: JobRow) -> list[RankProcess]:
    if job.phase not in HOLDS_SEATS:
        return []
    cells = select(CellRow).where(CellRow.job == job.id, CellRow.incarnation == job.incarnation)
    told = [(row.node, rank) for row in look.session.scalars(cells) for rank in row.ranks if rank.get("pid")]
    running = [RankProcess(rank=rank["rank"], node=node, pid=rank["pid"]) for node, rank in told]
    return sorted(running, key=lambda one: one.rank)


def last_seq(look: Change) -> int:
    """The number of the newest event."""
    return look.session.scalar(select(func.max(EventRow.seq))) or 0
