"""The ledger's tables. Rows only: `core.lifecycle` says what may follow what, `lives` how rows change."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, ClassVar

from sqlalchemy import JSON, BigInteger, Enum, ForeignKey, Index, MetaData, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from ergosphere.core.model import Phase, Rung, Tier, Why

Json = Any  # a column that holds JSON; its shape is named in the comment beside it


class OrderState(StrEnum):
    """An order is redelivered while issued; dropped means that the life it was for is over."""

    ISSUED = "issued"
    ANSWERED = "answered"
    DROPPED = "dropped"


def _words(enum: type[StrEnum]) -> Enum:
    return Enum(enum, native_enum=False, create_constraint=False, length=16, values_callable=list)


class Base(DeclarativeBase):
    metadata = MetaData(naming_convention={"ix": "ix_%(table_name)s_%(column_0_name)s"})
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        Json: JSON,
        str: String,
        Phase: _words(Phase),
        Rung: _words(Rung),
        Tier: _words(Tier),
        Why: _words(Why),
        OrderState: _words(OrderState),
    }


class WorldRow(Base):
    """One row: the counter of cell addresses."""

    __tablename__ = "world"
    id: Mapped[int] = mapped_column(primary_key=True)
    addresses: Mapped[int] = mapped_column(default=0)


class JobRow(Base):
    __tablename__ = "jobs"
    __table_args__ = (Index("ix_jobs_phase", "phase"), Index("ix_jobs_name", "name"))

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    project: Mapped[str]
    tier: Mapped[Tier]
    ranks: Mapped[int]
    spec: Mapped[Json]  # JobSpec with an empty env
    submitted_s: Mapped[float]
    started_s: Mapped[float | None]
    ended_s: Mapped[float | None]

    phase: Mapped[Phase] = mapped_column(default=Phase.WAITING)
    incarnation: Mapped[int] = mapped_column(default=0)
    cells: Mapped[Json] = mapped_column(default=list)  # [[rank, …] per cell]
    addresses: Mapped[Json] = mapped_column(default=list)  # [address per cell]
    seats: Mapped[Json] = mapped_column(default=list)  # [[node, device] per rank], held or last held
    home: Mapped[Json] = mapped_column(default=list)  # [node per cell] where the newest images lie
    known_as: Mapped[Json] = mapped_column(default=list)  # of a fork: [address per cell] as its processes know them
    known_name: Mapped[str] = mapped_column(default="")  # of a fork: the name its processes know
    forked_from: Mapped[str] = mapped_column(default="")  # "JOB@SNAPSHOT"
    fork_names: Mapped[Json] = mapped_column(default=list)  # [variable] that the fork was given
    threads: Mapped[int | None]

    paused: Mapped[bool] = mapped_column(default=False)  # by its owner
    held: Mapped[bool] = mapped_column(default=False)  # by a shutdown; goes with the next start
    cancel: Mapped[bool] = mapped_column(default=False)
    grace_s: Mapped[float] = mapped_column(default=0.0)
    move_asked: Mapped[bool] = mapped_column(default=False)
    destination: Mapped[Json] = mapped_column(default=list)  # [node]
    snapshot_asked: Mapped[bool] = mapped_column(default=False)
    snapshot_name: Mapped[str] = mapped_column(default="")  # of the one that is asked for
    rolling_back: Mapped[bool] = mapped_column(default=False)  # its owner asked: what it drops was not lost
    next_snapshot_s: Mapped[float | None]
    freeze_why: Mapped[Why | None]  # while freezing or frozen
    freezing_for: Mapped[str | None]  # who gets the room
    room: Mapped[Json] = mapped_column(default=list)  # [[node, device]] held for it by the last turn

    not_before_s: Mapped[float] = mapped_column(default=0.0)
    freeze_failed: Mapped[str] = mapped_column(default="")  # why the last one failed
    freeze_failed_remedy: Mapped[str] = mapped_column(default="")
    try_failed: Mapped[str] = mapped_column(default="")  # why its last start or thaw failed; "" once one succeeded
    ran_on: Mapped[bool] = mapped_column(default=False)  # a life has run since its newest snapshot
    shunned: Mapped[Json] = mapped_column(default=dict)  # {node where it did not come up: until when it is left alone}
    freeze_failures: Mapped[int] = mapped_column(default=0)
    freezable: Mapped[bool] = mapped_column(default=True)
    rung: Mapped[Rung] = mapped_column(default=Rung.TRANSPARENT)
    rung_because: Mapped[str] = mapped_column(default="")
    freeze_cost_s: Mapped[float] = mapped_column(default=1.0)
    thaw_cost_s: Mapped[float] = mapped_column(default=1.0)
    upload_cost_s: Mapped[float] = mapped_column(default=1.0)
    measured: Mapped[int] = mapped_column(default=0)  # its own freezes from which these are foretold

    running_since_s: Mapped[float | None]
    stopped_since_s: Mapped[float | None]
    paused_total_s: Mapped[float] = mapped_column(default=0.0)
    moves: Mapped[int] = mapped_column(default=0)
    recoveries: Mapped[int] = mapped_column(default=0)
    pauses: Mapped[int] = mapped_column(default=0)
    restarts: Mapped[int] = mapped_column(default=0)  # of max_restarts
    failures: Mapped[int] = mapped_column(default=0)  # starts and thaws that failed in a row
    lost_s: Mapped[float] = mapped_column(default=0.0)
    progress_s: Mapped[float] = mapped_column(default=0.0)  # seconds of work in it when it last stopped running
    recovering: Mapped[bool] = mapped_column(default=False)  # a life was lost and none is running again yet

    account: Mapped[Json] = mapped_column(nullable=True)  # core.model.Account of its GPU fraction, or null
    borrowed: Mapped[bool] = mapped_column(default=False)  # beyond its project's guarantee: nothing is promised to it
    borrowed_turn_s: Mapped[float] = mapped_column(default=0.0)  # when that changed last
    after: Mapped[Json] = mapped_column(default=list)  # [job id] whose success it still waits for
    service: Mapped[str] = mapped_column(default="")  # it is a replica of this service
    wanted: Mapped[bool] = mapped_column(default=True)  # False: a replica that the load does not ask for
    deadline_s: Mapped[float | None]
    policy_pauses: Mapped[Json] = mapped_column(default=list)  # [when] the policy froze it, last hour
    min_devices: Mapped[int] = mapped_column(default=0)  # the fewest it may be given
    devices_asked: Mapped[int] = mapped_column(default=0)  # the most its owner wants; 0: one for each rank
    resize_asked: Mapped[bool] = mapped_column(default=False)  # its owner's wish was not reached yet
    going_to: Mapped[Json] = mapped_column(default=list)  # [[node, device] per rank] while resizing
    arrangement: Mapped[int] = mapped_column(default=0)  # how often it was given devices
    resized_s: Mapped[float] = mapped_column(default=0.0)
    resizes: Mapped[int] = mapped_column(default=0)  # while it ran
    resize_failures: Mapped[int] = mapped_column(default=0)
    resize_failed: Mapped[str] = mapped_column(default="")  # how and why the last one failed
    resize_failed_remedy: Mapped[str] = mapped_column(default="")
    shareable: Mapped[bool] = mapped_column(default=True)
    not_shareable_because: Mapped[str] = mapped_column(default="")

    outcome: Mapped[Phase | None]  # the end that is being collected, or the end
    exit_code: Mapped[int | None]
    first_rank: Mapped[int | None]  # whose end was the first cause of the end of its last judged life
    reason_code: Mapped[str] = mapped_column(default="")
    reason: Mapped[str] = mapped_column(default="")
    remedy: Mapped[str] = mapped_column(default="")
    results: Mapped[str | None]
    notes: Mapped[Json] = mapped_column(default=list)  # [text]


class EnvironmentRow(Base):
    """The submitter's environment, apart from everything that is listed, shown or logged."""

    __tablename__ = "environments"
    job: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    env: Mapped[Json]  # {name: value}


class OrderRow(Base):
    __tablename__ = "orders"
    __table_args__ = (Index("ix_orders_state", "state", "node"), Index("ix_orders_job", "job"))

    id: Mapped[str] = mapped_column(primary_key=True)
    job: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    incarnation: Mapped[int]
    node: Mapped[str]  # the coordinator
    kind: Mapped[str]
    why: Mapped[Why | None]
    body: Mapped[Json]  # the wire order; its spec without the environment
    state: Mapped[OrderState] = mapped_column(default=OrderState.ISSUED)
    issued_s: Mapped[float]
    answered_s: Mapped[float | None]


class SnapshotRow(Base):
    __tablename__ = "snapshots"
    __table_args__ = (Index("ix_snapshots_job", "job", "number"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    job: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    number: Mapped[int]
    incarnation: Mapped[int]
    taken_s: Mapped[float]
    why: Mapped[str]
    bytes: Mapped[int]
    stopped_s: Mapped[float]
    progress_s: Mapped[float]  # seconds of work in it
    durability: Mapped[str] = mapped_column(default="node")
    damaged: Mapped[bool] = mapped_column(default=False)
    store_fault: Mapped[str] = mapped_column(default="")  # what the last check found wrong with it in the store
    dropped: Mapped[bool] = mapped_column(default=False)  # no thaw will ask for it any more
    log_lengths: Mapped[Json]  # {"rank0.out": bytes}
    name: Mapped[str] = mapped_column(default="")  # kept until its owner removes it
    nodes: Mapped[Json] = mapped_column(default=list)  # [node per cell] where it was taken
    machines: Mapped[Json] = mapped_column(default=list)  # [machine] of those nodes at that time
    stranded: Mapped[bool] = mapped_column(default=False)  # not remote, and a node that holds a part of it is gone
    origin: Mapped[str] = mapped_column(default="")  # "JOB@SNAPSHOT" that it is a copy of


class EventRow(Base):
    __tablename__ = "events"
    __table_args__ = (Index("ix_events_job", "job", "seq"), {"sqlite_autoincrement": True})

    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    at_s: Mapped[float]
    job: Mapped[str | None]
    actor: Mapped[str]
    kind: Mapped[str]
    text: Mapped[str]


class NodeRow(Base):
    __tablename__ = "nodes"
    __table_args__ = (Index("ix_nodes_devices", "devices"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    devices: Mapped[int]
    cores: Mapped[int] = mapped_column(default=0)
    memory_bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    boot: Mapped[str] = mapped_column(default="")
    machine: Mapped[str] = mapped_column(default="")
    draining: Mapped[bool] = mapped_column(default=False)
    lost: Mapped[bool] = mapped_column(default=False)  # its lease ran out and its jobs were told so
    region: Mapped[str] = mapped_column(default="")  # this and the next five: as an administrator said
    cluster: Mapped[str] = mapped_column(default="")
    domain: Mapped[str] = mapped_column(default="")
    type: Mapped[str] = mapped_column(default="")  # of its devices
    device_bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    spot: Mapped[bool] = mapped_column(default=False)
    leaves_s: Mapped[float | None]  # it will be gone then
    failures: Mapped[Json] = mapped_column(default=list)  # [when] it was lost without notice, last day
    heard_s: Mapped[float] = mapped_column(default=0.0)  # of its last report, kept to within a few seconds


class ProjectRow(Base):
    """A project of the quota tree; numbers are devices."""

    __tablename__ = "projects"
    id: Mapped[str] = mapped_column(primary_key=True)
    parent: Mapped[str] = mapped_column(default="")
    weight: Mapped[float] = mapped_column(default=1.0)
    guarantee: Mapped[int | None]
    limit: Mapped[int | None]
    borrow: Mapped[bool] = mapped_column(default=True)


class WindowRow(Base):
    """A closed window of a job's GPU fraction, or `hours` equal ones; device-seconds."""

    __tablename__ = "windows"
    __table_args__ = (Index("ix_windows_job", "job", "seq"),)

    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    job: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    began_s: Mapped[float]
    delivered: Mapped[float]
    entitled: Mapped[float]
    devices: Mapped[int]
    hours: Mapped[int]
    lost: Mapped[Json]  # [[cause, device-seconds]]
    borrowed: Mapped[bool] = mapped_column(default=False)  # promised nothing meanwhile


class CellRow(Base):
    """One cell of one life as its node last reported it."""

    __tablename__ = "cells"
    __table_args__ = (Index("ix_cells_node", "node"),)

    job: Mapped[str] = mapped_column(primary_key=True)
    incarnation: Mapped[int] = mapped_column(primary_key=True)
    cell: Mapped[int] = mapped_column(primary_key=True)
    node: Mapped[str] = mapped_column(primary_key=True)
    phase: Mapped[str]
    ranks: Mapped[Json]  # [RankState]
    keeper_alive: Mapped[bool]
    notes: Mapped[Json]  # [text]
    changed_s: Mapped[float]


class CostRow(Base):
    """One measured freeze, thaw or upload: what it moved on one node, and how long that took."""

    __tablename__ = "costs"
    __table_args__ = (Index("ix_costs_job", "job", "kind"), Index("ix_costs_node", "node", "kind"))

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    job: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    node: Mapped[str]
    kind: Mapped[str]  # freeze, saving, thaw, upload
    bytes: Mapped[int]
    seconds: Mapped[float]
    at_s: Mapped[float]


class FitnessRow(Base):
    """Whether a node can thaw a snapshot, as it said last."""

    __tablename__ = "fitness"
    snapshot: Mapped[str] = mapped_column(primary_key=True)
    node: Mapped[str] = mapped_column(primary_key=True)
    cause: Mapped[str] = mapped_column(default="")  # why it cannot; "" where it can


class LogRow(Base):
    """A life's share in one log: made when that life first writes it or rolls it back."""

    __tablename__ = "logs"
    job: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    incarnation: Mapped[int] = mapped_column(primary_key=True)
    lines_dropped: Mapped[int] = mapped_column(default=0)
