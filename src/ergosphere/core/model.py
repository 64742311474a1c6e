"""The nouns every room shares: jobs, ranks, nodes, seats and what was decided about them.

Values only: frozen, comparable, without I/O. What crosses a process boundary lives in `wire`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NewType

JobId = NewType("JobId", str)
NodeId = NewType("NodeId", str)
OrderId = NewType("OrderId", str)
SnapshotId = NewType("SnapshotId", str)


class Tier(StrEnum):
    """The GPU-fraction guarantee a job is owed, strongest first."""

    PREMIUM = "premium"
    STANDARD = "standard"
    BASIC = "basic"


TIER_ORDER: tuple[Tier, ...] = (Tier.PREMIUM, Tier.STANDARD, Tier.BASIC)


class Together(StrEnum):
    """How close the ranks of a fresh gang must sit. Cells are always whole on one node."""

    ANY = "any"  # as close as there is room
    DOMAIN = "domain"
    NODE = "node"


class Cause(StrEnum):
    """Why a job that is owed device time gets none, or less."""

    QUEUE = "queue"  # it has not started yet
    PREEMPT = "preempt"  # frozen for another job
    RESTORE = "restore"  # being started or thawed
    MOVE = "move"
    SHRINK = "shrink"  # computes on fewer devices than it asks for
    FAULT = "fault"  # of the platform: a lost node, a failed thaw
    FRAGMENTATION = "fragmentation"  # enough devices are free, but not together


class Phase(StrEnum):
    """Where a job stands; `core.lifecycle` holds the table of what may follow what."""

    WAITING = "waiting"  # never started, or to be started again from its beginning
    STARTING = "starting"
    RUNNING = "running"
    RESIZING = "resizing"  # its ranks stay where they are and share other devices
    FREEZING = "freezing"
    FROZEN = "frozen"  # a snapshot is the job
    THAWING = "thawing"
    CLEARING = "clearing"  # a life is lost: what is left of it is being removed
    ENDING = "ending"  # the outcome is known: stopping what is left, collecting results
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


ENDED: frozenset[Phase] = frozenset({Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED})
HOLDS_SEATS: frozenset[Phase] = frozenset(
    {
        Phase.STARTING,
        Phase.RUNNING,
        Phase.RESIZING,
        Phase.FREEZING,
        Phase.THAWING,
        Phase.CLEARING,
        Phase.ENDING,
    }
)


class Why(StrEnum):
    """Why a running job is frozen."""

    PAUSE = "pause"  # its owner asked
    PREEMPT = "preempt"  # to make room for a stronger tier
    MOVE = "move"  # to go on at another place
    DRAIN = "drain"  # its node is being emptied
    RESIZE = "resize"  # to go on with more or fewer devices, some of them on other nodes


class Rung(StrEnum):
    """The ladder of design §3.7."""

    TRANSPARENT = "transparent"
    COOPERATIVE = "cooperative"
    RESTART = "restart"


@dataclass(frozen=True, slots=True, order=True)
class Seat:
    """One device of one node."""

    node: NodeId
    device: int


@dataclass(frozen=True, slots=True)
class Cell:
    """Ranks that started on one node and stay together for life: one copy of the files, one loopback, one address."""

    index: int
    ranks: tuple[int, ...]


Placement = tuple[Seat, ...]  # one seat per rank, indexed by rank; ranks that share a device repeat its seat


@dataclass(frozen=True, slots=True)
class Reason:
    """Why something was decided, in words its owner reads."""

    code: str
    text: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class NodeView:
    """One node as the policy sees it. `ready` is False once its lease is out; `devices` counts its seats."""

    id: NodeId
    devices: int
    ready: bool = True
    draining: bool = False
    memory_bytes: int = 0  # of the node, shared by its CPU devices; 0 = not known
    type: str = ""  # of its devices; a node has one type
    device_bytes: int = 0  # memory of one device; 0 = not known
    region: str = ""
    cluster: str = ""  # nodes under one engine: a gang does not leave it
    domain: str = ""  # locality domain within its cluster: nodes that are close to each other
    leaves_s: float | None = None  # a spot notice: it is gone then, and gets nobody any more
    flaky_until_s: float = 0.0  # it failed lately: taken until then only where nothing else is left
    machine: str = ""  # nodes of one machine read each other's images, all others get them by the store; "" = not known


@dataclass(frozen=True, slots=True)
class Account:
    """A job's GPU-fraction account as of `at_s`, in device-seconds; `core.fraction` keeps it and says what it means."""

    devices: int  # it asks for: its ranks
    opened_s: float  # entitlement runs from here on: submission and the admission grace
    at_s: float
    rate: float = 0.0  # devices held and computing, work-weighted; at most `devices` count
    counts: bool = True  # False while its owner paused it, or it waits for other jobs
    cause: Cause = Cause.QUEUE  # of what is missing now
    window_s: float = 0.0  # when the present window began
    delivered: float = 0.0  # in the present window
    entitled: float = 0.0
    life_delivered: float = 0.0  # the present window included
    life_entitled: float = 0.0
    lost: tuple[tuple[Cause, float], ...] = ()  # in the present window, by cause


@dataclass(frozen=True, slots=True)
class JobView:
    """One live job as the policy sees it."""

    id: JobId
    name: str
    tier: Tier
    project: str
    ranks: int
    phase: Phase
    submitted_s: float
    cells: tuple[Cell, ...] = ()  # empty before the first start
    seats: Placement = ()  # held while the phase is in HOLDS_SEATS
    destination: tuple[NodeId, ...] = ()  # nodes its owner (migrate) or a drain wants it on; () = anywhere
    paused: bool = False  # its owner paused it
    by_shutdown: bool = False  # or rather: the service did, because it is being shut down
    cancel: bool = False  # its owner cancelled it
    move_asked: bool = False  # migrate asked and not done yet
    not_before_s: float = 0.0  # earliest next start, thaw or freeze (back-off after failures)
    freeze_cost_s: float = 1.0  # measured, or a guess: seconds from order to devices free
    thaw_cost_s: float = 1.0
    upload_cost_s: float = 0.0  # from then on until the snapshot is in the store
    running_since_s: float | None = None
    try_failed: str = ""  # why its last start or thaw failed; "" once one succeeded
    freezable: bool = True  # False once a freeze failed for a lasting cause (rung below transparent)
    not_freezable_because: str = ""
    freezing_why: Why | None = None  # while FREEZING: what the order said
    freezing_for: JobId | None = None  # while FREEZING to make room: for whom
    room: Placement = ()  # `Plan.rooms` of the last turn, given back as it was
    home: tuple[NodeId, ...] = ()  # per cell, where its newest images lie ("" = nowhere): a thaw there is cheapest
    min_devices: int = 0  # the fewest it may be given; 0: as many as it has ranks, so that they never share
    devices_asked: int = 0  # the most its owner wants (`ergo resize`); 0: as many as it has ranks
    resize_asked: bool = False  # its owner asked for that and it was not reached yet
    going_to: Placement = ()  # while RESIZING: where its ranks will compute. `seats` is where they did
    resized_s: float = 0.0  # when it last got other devices
    shareable: bool = True  # False once its ranks turned out not to be able to share a device
    not_shareable_because: str = ""
    rank_bytes: tuple[int, ...] = ()  # host memory of each rank, as measured; () = not yet
    resize_cost_s: float = 1.0  # measured, or a guess
    speeds: tuple[tuple[str, float], ...] = ()  # device types it can use, each with its measured speed; () = any, at 1
    device_bytes: int = 0  # memory it needs of each device
    regions: tuple[str, ...] = ()  # where it may run; () = anywhere
    data_region: str = ""  # where its data lies: taken first
    together: Together = Together.ANY  # of its first start
    after: tuple[JobId, ...] = ()  # jobs whose success it still waits for
    deadline_s: float | None = None  # a wish: earlier ones go first among equals
    service: str = ""  # it is a replica of this service
    wanted: bool = True  # False: a replica beyond what the load asks for
    account: Account | None = None  # of its GPU fraction; None: no promise is watched
    pauses: tuple[float, ...] = ()  # when the policy froze or moved it during the last hour
    unfit: tuple[tuple[NodeId, str], ...] = ()  # nodes that cannot thaw its snapshot, and why, in words for its owner


@dataclass(frozen=True, slots=True)
class ProjectView:
    """A project of the quota tree. Numbers are devices and cover everything below it."""

    id: str
    parent: str = ""  # "" = the root
    weight: float = 1.0  # of its fair share among the children of its parent
    guarantee: int | None = None  # work beyond it is borrowed and yields first; None: its parent's
    limit: int | None = None  # never more than that
    borrow: bool = True  # False: nothing beyond the guarantee


@dataclass(frozen=True, slots=True)
class View:
    """All that a decision may look at, as one picture; `core.policy.board.Board` is the same, kept and indexed."""

    now_s: float
    jobs: tuple[JobView, ...]
    nodes: tuple[NodeView, ...]
    projects: tuple[ProjectView, ...] = ()


@dataclass(frozen=True, slots=True)
class Start:
    job: JobId
    placement: Placement
    reason: Reason


@dataclass(frozen=True, slots=True)
class Thaw:
    job: JobId
    placement: Placement
    reason: Reason


@dataclass(frozen=True, slots=True)
class Freeze:
    job: JobId
    why: Why
    reason: Reason
    for_job: JobId | None = None  # who gets the room


@dataclass(frozen=True, slots=True)
class Resize:
    """Every rank stays on its node and computes on the device that `placement` gives it. Nothing is frozen for it."""

    job: JobId
    placement: Placement
    reason: Reason
    for_job: JobId | None = None  # who gets what it leaves


@dataclass(frozen=True, slots=True)
class Stop:
    job: JobId
    reason: Reason


Decision = Start | Thaw | Freeze | Resize | Stop


@dataclass(frozen=True, slots=True)
class Plan:
    """What the policy decided: at most one decision a job, and a reason for every job that has to wait.

    `rooms` replaces the last turn's whole and comes back as `JobView.room`: room made for a job stays promised to it.
    """

    decisions: tuple[Decision, ...] = ()
    reasons: Mapping[JobId, Reason] = field(default_factory=dict)
    rooms: Mapping[JobId, Placement] = field(default_factory=dict)  # seats held for jobs while they come free


@dataclass(frozen=True, slots=True)
class RankExit:
    """How the main process of one rank ended.

    `wait_status` is the raw status of waitpid(2), written by the rank's init, so that a shell's 128 + n hides nothing;
    `at_s` is when its keeper reaped it; `asked` says that we had asked for it (cancel, end of the job).
    `exec_errno` is the errno with which its command could not be executed at all, else 0.
    """

    rank: int
    wait_status: int
    at_s: float
    asked: bool = False
    exec_errno: int = 0


class Outcome(StrEnum):
    """How a life ended, judged by its first cause."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"  # the program ended by itself with a non-zero status
    LOST = "lost"  # a signal nobody asked for, or a machine that vanished
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The judged end of a life: outcome, the rank that was first, its exit code or signal, and a sentence."""

    outcome: Outcome
    rank: int | None
    exit_code: int
    text: str
