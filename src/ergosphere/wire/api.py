"""Bodies of the public API beyond `wire.jobs`: verbs and their results, pages, blobs, status, shutdown."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field

from ergosphere.core.model import Phase, Tier
from ergosphere.wire.jobs import JobInfo, Label, Told, Wire

WAIT_S_MAX: Final = 600.0  # the longest one request may block; clients ask again
PAGE_BYTES_MAX: Final = 1 << 20  # of a log, in one page
EVENTS_MAX: Final = 1000  # in one page
DIGESTS_MAX: Final = 20_000  # in one question about missing blobs
BLOB_BYTES_MAX: Final = 256 << 20  # one uploaded blob
BODY_BYTES_MAX: Final = 8 << 20  # any other body

WaitS = Annotated[float, Field(ge=0, le=WAIT_S_MAX)]


class Submitted(Wire):
    """The accepted job and what its owner should know about it (a name in use, copies per node)."""

    job: JobInfo
    notes: tuple[str, ...] = ()
    others: tuple[str, ...] = ()  # ids of the array's or the service's further jobs
    promised: bool | None = None  # whether the promise of its tier can be given now; None: nothing is promised


class VerbRequest(Wire):
    """`wait_s`: how long the request may block until what was asked has happened (0: only note the wish)."""

    wait_s: WaitS = 0.0


class DrainRequest(VerbRequest):
    """`within_s`: the node will be gone then (a spot notice, a maintenance); None: it stays."""

    within_s: float | None = Field(default=None, gt=0, le=30 * 86_400)


class NodeLabels(Wire):
    """What a node is; None leaves a label as it is, "" takes it away."""

    region: Label | Literal[""] | None = None
    cluster: Label | Literal[""] | None = None
    domain: Label | Literal[""] | None = None
    type: Label | Literal[""] | None = None
    device_gib: float | None = Field(default=None, ge=0, le=1e6)
    spot: bool | None = None


class MigrateRequest(VerbRequest):
    to: tuple[str, ...] = ()  # nodes to choose from; () = anywhere but here


class ResizeRequest(VerbRequest):
    devices: int = Field(ge=1, le=100_000)


class CancelRequest(VerbRequest):
    grace_s: float = Field(default=5.0, ge=0, le=3600)  # between SIGTERM and SIGKILL


class VerbResult(Wire):
    """State after a verb. `done` False: still under way when `wait_s` was over."""

    job: JobInfo
    done: bool
    text: str
    snapshot: str | None = None  # of the verb `snapshot`


class NodeVerbResult(Wire):
    """After drain or undrain: `jobs` still sit on the node."""

    node: str
    done: bool
    jobs: tuple[str, ...] = ()
    text: str = ""


class ResultFile(Wire):
    """One file of a job's working copy as collected at its end; `link` is the target of a symbolic link.

    Both are written by `wire.paths`, so that a name of any bytes has its place here.
    """

    path: str
    bytes: int
    mode: int
    kind: Literal["file", "link", "folder"] = "file"
    link: str = ""


class ResultCopy(Wire):
    """The working copy of one cell: ranks that started on one node shared it."""

    cell: int
    ranks: tuple[int, ...]
    digest: str
    files: tuple[ResultFile, ...]


class ResultList(Wire):
    """`submitted` is the digest of the tree that was submitted, so that a client can tell what the job changed."""

    job: str
    copies: tuple[ResultCopy, ...]
    submitted: str | None = None


class PlanPause(Wire):
    """A job that would be frozen; `cost_s` is its freeze and thaw, as measured or guessed."""

    job: str
    name: str
    tier: Tier
    cost_s: float


class PlanShrink(Wire):
    """A job that would go on with fewer devices."""

    job: str
    name: str
    tier: Tier
    devices: int
    instead_of: int


class PlanInfo(Wire):
    """What would be decided now with one more job. `places`: node per rank, () when it would wait."""

    starts: bool
    places: tuple[str, ...] = ()
    pauses: tuple[PlanPause, ...] = ()
    shrinks: tuple[PlanShrink, ...] = ()
    reason: str = ""
    remedy: str = ""
    notes: tuple[str, ...] = ()


class BlobQuestion(Wire):
    digests: tuple[str, ...] = Field(max_length=DIGESTS_MAX)


class BlobsMissing(Wire):
    missing: tuple[str, ...]


class LogReply(Told):
    """What the server has of a log now. The agent goes on from `length`; `stale`: a newer life writes this log."""

    length: int
    stale: bool = False


class StatusInfo(Wire):
    """The service at a glance. `prefix` is the fleet's /16, e.g. "10.87"."""

    version: str
    fleet: str
    prefix: str
    home: str
    pid: int
    up_s: float
    nodes: int
    nodes_ready: int
    devices: int
    devices_used: int
    jobs_sharing: int = 0  # jobs that run on fewer devices than they have ranks
    jobs: dict[Phase, int]
    closing: bool = False  # a shutdown is under way
    fault: str = ""  # why the last turn of the loop failed; the service then only listens


class ShutdownRequest(Wire):
    """Jobs are paused first and go on at the next `up`; with `kill` their lives end at once and they go on from
    their last snapshot instead. `wait_s` bounds the pausing; when it is over, nothing is stopped."""

    kill: bool = False
    wait_s: WaitS = 120.0


class ShutdownResult(Wire):
    paused: tuple[str, ...] = ()
    killed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
