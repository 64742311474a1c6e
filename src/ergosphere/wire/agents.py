"""What the server and the agents say to each other. Agents call the server, never the reverse.

They may be of different versions (docs/decisions/0052-two-versions.md). So what differs from its default is sent and
nothing else, and the default of a field never changes: one that nobody uses is as if it were not there.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from ergosphere.core.model import Why
from ergosphere.wire.jobs import JobSpec, Sharing, Told, Wire


class CellPlan(Wire):
    """Where one cell of a life sits. `address` is the cell's job-private IPv4 address, its own for life."""

    index: int
    ranks: tuple[int, ...]
    node: str
    devices: tuple[int, ...]  # per rank of the cell; ranks that share a device repeat it
    address: str
    known_as: str = ""  # of a fork: the address its processes know, which another job has as well


class LifePlan(Wire):
    """A whole life of a job: what to run, under which incarnation, where."""

    job: str
    incarnation: int
    spec: JobSpec
    cells: tuple[CellPlan, ...]
    threads: int  # cores each rank may use; fixed at the first start
    arrangement: int = 0  # which giving of devices this is: one more with each, over all lives of the job
    rank_env: dict[str, str] = {}
    known_name: str = ""  # of a fork: the job's name as its processes know it
    forked_from: str = ""  # "JOB@SNAPSHOT" of a fork
    fork_names: tuple[str, ...] = ()  # variables of `spec.env` that a fork was given: told to ranks that run already


class _Order(Wire):
    """An order is understood whole or refused."""

    kind: Any

    @model_serializer(mode="wrap")
    def _with_kind(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Its kind tells how to read it, so it is said though it is the default."""
        return {"kind": self.kind, **serialize(self)}


class StartOrder(_Order):
    kind: Literal["start"] = "start"
    order_id: str
    life: LifePlan


class ThawOrder(_Order):
    """Bring a snapshot back under `life.incarnation`; `snapshots` are tried in order, newest first."""

    kind: Literal["thaw"] = "thaw"
    order_id: str
    life: LifePlan
    snapshots: tuple[str, ...]
    goes_back: bool = False  # the job ran on after its snapshot, so what it did since is done again


class FreezeOrder(_Order):
    """Take a snapshot; with `release` the originals are killed at the commit, without it they go on (periodic)."""

    kind: Literal["freeze"] = "freeze"
    order_id: str  # is also the snapshot's id
    life: LifePlan
    why: Why | None  # None: periodic or asked-for snapshot
    release: bool
    cooperative: bool = False  # it cannot be frozen: it is asked to save itself, and its files are the snapshot
    newcomer_bytes: int = 0  # memory that whoever gets the room will want there, as far as anybody knows


class EndOrder(_Order):
    """Stop what is left of a life. With `grace_s` > 0 SIGTERM comes first. `collect` brings results and logs home."""

    kind: Literal["end"] = "end"
    order_id: str
    life: LifePlan
    grace_s: float = 0.0
    collect: bool = True


class ResizeOrder(_Order):
    """Every rank stays on its node and computes on the device that `life` gives it. `before`: where they compute."""

    kind: Literal["resize"] = "resize"
    order_id: str
    life: LifePlan
    before: LifePlan


Order = Annotated[StartOrder | ThawOrder | FreezeOrder | ResizeOrder | EndOrder, Field(discriminator="kind")]


class Cost(Told):
    """What one part of a freeze, a thaw or an upload took on one node."""

    kind: Literal["freeze", "saving", "thaw", "upload"]
    node: str
    bytes: int
    seconds: float


class Answer(Wire):
    """The reply to one order. `ok` False: nothing was changed, the job is as it was before the order."""

    order_id: str
    job: str
    incarnation: int
    ok: bool
    error: str = ""
    remedy: str = ""
    lasting: bool = False  # the same order would fail again (an obstacle in the program)
    transient: bool = False  # nothing is wrong with the job: the store could not be reached
    gone: bool = False  # ranks have ended, so the job does not run on as it was: of a freeze, asked to (freeze, resize)
    parting: str = ""  # how its ranks left, in words, where they saved themselves (freeze)
    exit_code: int | None = None  # of a command that can never run (start)
    damaged: tuple[str, ...] = ()  # snapshots found damaged on the way (thaw)
    snapshot: str | None = None  # taken (freeze) or thawed (thaw)
    results: str | None = None  # key of the collected results (end)
    bytes: int = 0
    taken_s: float = 0.0  # when the cut stood, seconds since the epoch (freeze); 0: not said
    stopped_s: float = 0.0  # how long the job stood still
    took_s: float = 0.0
    log_lengths: dict[str, int] = {}  # "rank0.out": bytes, as of the snapshot (freeze, thaw)
    costs: tuple[Cost, ...] = ()
    notes: tuple[str, ...] = ()


class RankState(Told):
    """One rank as its keeper sees it. `wait_status` is raw (see core.model.RankExit)."""

    rank: int
    state: Literal["building", "running", "suspended", "exited", "gone"]
    wait_status: int | None = None
    exited_at_s: float | None = None
    asked: bool = False
    exec_errno: int = 0  # the command could not be executed at all (see core.model.RankExit)
    fault: str = ""  # a failed collective its shim is holding
    bytes: int = 0  # of host memory it holds, rounded; 0 = not measured yet
    sharing: Sharing | None = None  # None: its shim has told nothing
    pid: int = 0  # of its main process as its node counts; 0 = none


class CellState(Told):
    """One cell of a life on this node, reported until the server says forget."""

    job: str
    incarnation: int
    cell: int
    phase: Literal["building", "live", "ended"]
    ranks: tuple[RankState, ...]
    keeper_alive: bool
    notes: tuple[str, ...] = ()  # e.g. which rung, read-only path hints


class SnapshotState(Told):
    """A snapshot that a node holds images of: on its way to the shared store, or there."""

    snapshot: str
    job: str
    durability: Literal["node", "remote"]
    done_bytes: int = 0  # of this node's share, as far as the upload has come
    total_bytes: int = 0
    trouble: str = ""  # why the last try that has ended did not get there; another one follows
    cost: Cost | None = None  # of an upload that this node has finished


class Weighed(Told):
    """Whether a node can thaw a snapshot: `cause` says why not, "" that it can."""

    snapshot: str
    cause: str = ""


class AgentReport(Told):
    """Level-triggered: the whole truth of one node, as often as it changes and at least every second."""

    node: str
    boot: str  # new for every agent process
    devices: int
    cores: int
    memory_bytes: int = 0  # of the node; 0 = not known
    cells: tuple[CellState, ...] = ()
    snapshots: tuple[SnapshotState, ...] = ()
    machine: str = ""  # which machine, since which boot: nodes on one have its CPU, kernel and files in common
    weighed: tuple[Weighed, ...] = ()


class CellName(Told):
    job: str
    incarnation: int
    cell: int


class ReportReply(Told):
    """`lease_s`: how long the agent may act from now; `forget`: cells whose end is on record, or stale ones."""

    lease_s: float
    forget: tuple[CellName, ...] = ()
    incarnations: dict[str, int] = {}  # newest life of each job this node mentioned
    drop_snapshots: tuple[str, ...] = ()  # reported here, and no thaw will ask for them any more: their images may go
    weigh: tuple[str, ...] = ()  # snapshots of which the server wants to know whether this node could thaw them


class Mail(Wire):
    """One call or reply between agents, relayed by the server and kept in its memory only."""

    to: str
    sender: str
    call_id: str
    method: str  # "" for a reply
    body: dict[str, Any] = {}


class InboxPage(Wire):
    """Answer of the long poll. `seq` goes into the next call's `after` (mail only; orders come until answered)."""

    seq: int
    orders: tuple[Order, ...] = ()
    mail: tuple[Mail, ...] = ()


class LogChunk(Wire):
    """Bytes of a rank's log. The server truncates to `offset` first when `incarnation` is newer (a roll-back)."""

    job: str
    incarnation: int
    name: str  # "rank0.out"
    birth: str = ""  # which making of this life: one that an agent's death left half done is made anew
    offset: int
    data: str  # base64
